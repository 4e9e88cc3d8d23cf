"""The GPT-2 model.

Generated from chapters/02_gpt2/05_model.md by `make sync`: edit that file, not this one.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

from groundup.gpt2.attention import CausalSelfAttention

__all__ = ["GPT", "Block", "FeedForward", "GPTConfig", "LayerNorm", "gelu", "init_gpt2"]


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
    """C → 4C → gelu → C on each token alone: (B, T, C) → (B, T, C)."""

    def __init__(self, config):
        super().__init__()
        C = config.n_embd
        self.c_fc = nn.Linear(C, 4 * C, bias=config.bias)
        self.c_proj = nn.Linear(4 * C, C, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.c_proj(gelu(self.c_fc(x))))


class Block(nn.Module):
    """One layer of GPT-2: attention, then feed-forward, each added to x: (B, T, C)."""

    def __init__(self, config):
        super().__init__()
        C, bias = config.n_embd, config.bias
        options = {"dropout": config.dropout, "bias": bias, "fused": config.fused}
        self.ln_1 = nn.LayerNorm(C, bias=bias)
        self.attn = CausalSelfAttention(C, config.n_head, **options)
        self.ln_2 = nn.LayerNorm(C, bias=bias)
        self.mlp = FeedForward(config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


@torch.no_grad()
def init_gpt2(model: nn.Module, n_layer: int) -> None:
    """Fill all parameters of the model, in place, as GPT-2 starts.

    Radford and others (2019), section 2.3; the 0.02 is in their published code.
    """
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif parameter.dim() == 1:  # the scale of a LayerNorm
            parameter.fill_(1)
        elif name.endswith("c_proj.weight"):  # writes to the stream
            parameter.normal_(std=0.02 / math.sqrt(2 * n_layer))
        else:
            parameter.normal_(std=0.02)


class GPT(nn.Module):
    """GPT-2 (Radford and others, 2019): idx (B, T), int64 → logits (B, T, V).

    Raises ValueError if T is larger than config.block_size.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        C, V = config.n_embd, config.vocab_size
        parts = {
            "wte": nn.Embedding(V, C),
            "wpe": nn.Embedding(config.block_size, C),
            "drop": nn.Dropout(config.dropout),
            "h": nn.ModuleList(Block(config) for _ in range(config.n_layer)),
            "ln_f": nn.LayerNorm(C, bias=config.bias),
        }
        self.transformer = nn.ModuleDict(parts)
        self.lm_head = nn.Linear(C, V, bias=False)
        self.lm_head.weight = self.transformer.wte.weight
        init_gpt2(self, config.n_layer)

    def num_parameters(self) -> int:
        """How many numbers the model learns; the tied matrix counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, idx: torch.Tensor) -> torch.Tensor:
        T, limit = idx.shape[1], self.config.block_size
        if limit < T:
            raise ValueError(f"{T} tokens, but this model reads at most {limit}")
        parts = self.transformer
        positions = torch.arange(T, device=idx.device)
        x = parts.drop(parts.wte(idx) + parts.wpe(positions))
        for block in parts.h:
            x = block(x)
        return self.lm_head(parts.ln_f(x))


class LayerNorm(nn.Module):
    """Standardises each token's n numbers, then scales and shifts them; x: (..., n).

    Ba, Kiros and Hinton (2016), equation 4. nn.LayerNorm does the same, faster.
    """

    def __init__(self, n: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(n))
        self.bias = nn.Parameter(torch.zeros(n))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(dim=-1, keepdim=True)
        variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True)
        return (x - mean) / torch.sqrt(variance + self.eps) * self.weight + self.bias
