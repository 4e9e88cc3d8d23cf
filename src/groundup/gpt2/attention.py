"""Attention.

Generated from chapters/02_gpt2/04_attention.md by `make sync`: edit that file, not this one.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "CausalSelfAttention",
    "CrossAttention",
    "attend",
    "causal_mask",
    "mask_for_newest",
    "merge_heads",
    "split_heads",
]


def attend(
    q: Float[Tensor, "... t d"],
    k: Float[Tensor, "... s d"],
    v: Float[Tensor, "... s e"],
    mask: Bool[Tensor, "..."] | None = None,
) -> tuple[Float[Tensor, "... t e"], Float[Tensor, "... t s"]]:
    """Scaled dot-product attention (Vaswani and others, 2017, equation 1).

    mask: True where attending is allowed; broadcasts to the weights, (..., t, s).
    Returns the weighted means of the values, and the weights.
    """
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    weights = scores.softmax(dim=-1)
    return weights @ v, weights


def causal_mask(T: int, device=None) -> Bool[Tensor, "T T"]:
    """True where attending is allowed: in row t, the columns 0, 1, … t."""
    return torch.ones(T, T, dtype=torch.bool, device=device).tril()


def split_heads(
    x: Float[Tensor, "batch time channels"], n_head: int
) -> Float[Tensor, "batch n_head time head_dim"]:
    """Head h gets the h-th run of channels / n_head numbers of every position."""
    B, T, C = x.shape
    return x.reshape(B, T, n_head, C // n_head).transpose(1, 2)


def merge_heads(
    x: Float[Tensor, "batch n_head time head_dim"],
) -> Float[Tensor, "batch time channels"]:
    """Puts the heads' numbers side by side again: what undoes split_heads."""
    return x.transpose(1, 2).flatten(2)


class CausalSelfAttention(nn.Module):
    """Multi-head causal self-attention, with GPT-2's names: (B, T, C) → (B, T, C).

    dropout: of the attention weights, and of the output. bias: of both linear layers.
    fused: by F.scaled_dot_product_attention instead of `attend`; the same numbers.
    Raises ValueError if n_head does not divide n_embd.
    """

    def __init__(
        self,
        n_embd: int,
        n_head: int,
        *,
        dropout: float = 0.0,
        bias: bool = True,
        fused: bool = True,
    ):
        super().__init__()
        if n_embd % n_head:
            raise ValueError(f"{n_head} heads cannot share {n_embd} channels evenly")
        self.n_head, self.dropout, self.fused = n_head, dropout, fused
        self.c_attn = nn.Linear(n_embd, 3 * n_embd, bias=bias)
        self.c_proj = nn.Linear(n_embd, n_embd, bias=bias)

    def forward(self, x: Float[Tensor, "batch time channels"]) -> Float[Tensor, "batch time channels"]:
        parts = self.c_attn(x).chunk(3, dim=-1)
        q, k, v = (split_heads(part, self.n_head) for part in parts)
        p = self.dropout if self.training else 0.0
        if self.fused:
            heads = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)
        else:
            _, weights = attend(q, k, v, causal_mask(x.shape[1], x.device))
            heads = F.dropout(weights, p) @ v
        return F.dropout(self.c_proj(merge_heads(heads)), p)


class CrossAttention(nn.Module):
    """Multi-head attention from x to a memory: (B, T, C), (B, S, C) → (B, T, C).

    mask: True where attending is allowed; broadcasts to (B, n_head, T, S).
    Raises ValueError if n_head does not divide n_embd.
    """

    def __init__(self, n_embd: int, n_head: int):
        super().__init__()
        if n_embd % n_head:
            raise ValueError(f"{n_head} heads cannot share {n_embd} channels evenly")
        self.n_head = n_head
        self.c_q = nn.Linear(n_embd, n_embd)
        self.c_kv = nn.Linear(n_embd, 2 * n_embd)
        self.c_proj = nn.Linear(n_embd, n_embd)

    def forward(
        self,
        x: Float[Tensor, "batch time channels"],
        memory: Float[Tensor, "batch source channels"],
        mask: Bool[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "batch time channels"]:
        parts = self.c_q(x), *self.c_kv(memory).chunk(2, dim=-1)
        q, k, v = (split_heads(part, self.n_head) for part in parts)
        heads, _ = attend(q, k, v, mask)
        return self.c_proj(merge_heads(heads))


def mask_for_newest(n_new: int, n_total: int, device=None) -> Bool[Tensor, "n_new n_total"]:
    """The causal mask of the last n_new of n_total positions: True is allowed."""
    ones = torch.ones(n_new, n_total, dtype=torch.bool, device=device)
    return ones.tril(diagonal=n_total - n_new)
