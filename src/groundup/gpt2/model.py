"""The GPT-2 model.

Generated from chapters/02_gpt2/05_model.md by `make sync`: edit that file, not this one.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

from groundup.gpt2.attention import CausalSelfAttention

__all__ = ["GPT", "Block", "FeedForward", "GPTConfig", "gelu", "init_gpt2"]


@dataclass
class GPTConfig:
    """The sizes of a GPT; the defaults are GPT-2 small's, the "124M" one.

    Raises ValueError if the heads do not divide the width.
    """

    block_size: int = 1024  # the longest text that it reads, in tokens
    vocab_size: int = 50257
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768  # C, the width
    dropout: float = 0.0
    bias: bool = True  # in the Linear layers and the LayerNorms
    fused: bool = True  # for CausalSelfAttention

    def __post_init__(self):  # runs after the dataclass has stored the values
        if self.n_embd % self.n_head:
            sizes = f"n_embd={self.n_embd}, n_head={self.n_head}"
            raise ValueError(f"n_head must divide n_embd: {sizes}")


def gelu(x: torch.Tensor) -> torch.Tensor:
    """x · Φ(x) in the tanh form (Hendrycks and Gimpel, 2016); any shape."""
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return 0.5 * x * (1 + torch.tanh(inner))


class FeedForward(nn.Module):
    """C → 4C → gelu → C on every token alone; x: (B, T, C), as is the result."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        C = config.n_embd
        self.c_fc = nn.Linear(C, 4 * C, bias=config.bias)
        self.c_proj = nn.Linear(4 * C, C, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.c_proj(gelu(self.c_fc(x))))


class Block(nn.Module):
    """One layer of GPT-2: attention, then feed-forward, each added to x (B, T, C)."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        C = config.n_embd
        options = {"dropout": config.dropout, "bias": config.bias}
        self.ln_1 = nn.LayerNorm(C, bias=config.bias)
        self.attn = CausalSelfAttention(C, config.n_head, fused=config.fused, **options)
        self.ln_2 = nn.LayerNorm(C, bias=config.bias)
        self.mlp = FeedForward(config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


@torch.no_grad()
def init_gpt2(model: nn.Module, n_layer: int) -> None:
    """Fill the model's parameters, in place, as GPT-2 starts (Radford et al., 2019)."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif parameter.dim() == 1:  # the scale of a LayerNorm
            parameter.fill_(1)
        elif name.endswith("c_proj.weight"):
            parameter.normal_(std=0.02 / math.sqrt(2 * n_layer))
        else:
            parameter.normal_(std=0.02)


class GPT(nn.Module):
    """GPT-2 (Radford et al., 2019): idx (B, T) of int64 → logits (B, T, V).

    Raises ValueError if T is larger than config.block_size.
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        C = config.n_embd
        parts = {
            "wte": nn.Embedding(config.vocab_size, C),
            "wpe": nn.Embedding(config.block_size, C),
            "drop": nn.Dropout(config.dropout),
            "h": nn.ModuleList(Block(config) for _ in range(config.n_layer)),
            "ln_f": nn.LayerNorm(C, bias=config.bias),
        }
        self.transformer = nn.ModuleDict(parts)
        self.lm_head = nn.Linear(C, config.vocab_size, bias=False)
        self.lm_head.weight = self.transformer.wte.weight
        init_gpt2(self, config.n_layer)

    def num_parameters(self) -> int:
        """How many numbers the model learns; the tied matrix counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, idx: torch.Tensor) -> torch.Tensor:
        T = idx.shape[1]
        if self.config.block_size < T:
            limit = self.config.block_size
            raise ValueError(f"{T} tokens, but the model reads at most {limit}")
        parts = self.transformer
        positions = torch.arange(T, device=idx.device)
        x = parts.drop(parts.wte(idx) + parts.wpe(positions))
        for block in parts.h:
            x = block(x)
        return self.lm_head(parts.ln_f(x))
