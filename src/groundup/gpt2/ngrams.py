"""Counting n-grams.

Generated from chapters/02_gpt2/01_ngrams.md by `make sync`: edit that file, not this one.
"""

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

__all__ = [
    "BigramModel",
    "CharTokenizer",
    "bits_per_token",
    "count_ngrams",
    "held_out_bits",
    "ngram_log_probs",
    "perplexity",
    "smoothed",
]


class CharTokenizer:
    """Turns characters into tokens: those of `text`, sorted, are 0, 1, 2, …

    characters: the vocabulary, a string; vocab_size: its length.
    """

    def __init__(self, text: str):
        self.characters = "".join(sorted(set(text)))
        self.vocab_size = len(self.characters)
        self._ids = {character: k for k, character in enumerate(self.characters)}

    def encode(self, text: str) -> list[int]:
        """The tokens of a text; ValueError names a character that is unknown."""
        if unknown := set(text) - set(self.characters):
            raise ValueError(f"unknown character {min(unknown)!r}")
        return [self._ids[character] for character in text]

    def decode(self, ids: Iterable) -> str:
        """The text of these tokens."""
        return "".join(self.characters[k] for k in ids)


def count_ngrams(ids: list[int] | np.ndarray, n: int, vocab_size: int) -> np.ndarray:
    """How often each n-gram occurs in a text: int64, shape (vocab_size,) * n.

    ids: the tokens, one axis.
    """
    places = max(len(ids) - n + 1, 0)
    rows = tuple(ids[k : k + places] for k in range(n))
    counts = np.zeros((vocab_size,) * n, dtype=np.int64)
    np.add.at(counts, rows, 1)
    return counts


def smoothed(counts: np.ndarray, alpha: float) -> np.ndarray:
    """Probabilities of the next token (last axis) after each context, shape as counts.

    Additive smoothing: every n-gram counts `alpha` > 0 times more than it was seen.
    """
    raised = counts + alpha
    return raised / raised.sum(axis=-1, keepdims=True)


def bits_per_token(log_probs: np.ndarray) -> float:
    """Mean surprise in bits.

    log_probs: ln of the probability that the model gave to each token that came.
    """
    return float(-np.mean(log_probs) / math.log(2))


def perplexity(log_probs: np.ndarray) -> float:
    """Among how many equally likely tokens the model would be as unsure."""
    return 2.0 ** bits_per_token(log_probs)


def ngram_log_probs(probabilities: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """ln of the probability of each token of a text that has a whole context before it.

    probabilities: what `smoothed` gave, n axes; ids: (N,). Returns (N - n + 1,).
    """
    n, places = probabilities.ndim, len(ids) - probabilities.ndim + 1
    return np.log(probabilities[tuple(ids[k : k + places] for k in range(n))])


class BigramModel(nn.Module):
    """The next token from the last one alone: a table of logits, one layer.

    logits: (vocab_size, vocab_size), starts at 0; row a is for what follows token a.
    """

    def __init__(self, vocab_size: int):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(vocab_size, vocab_size))

    def forward(self, idx: torch.Tensor) -> torch.Tensor:
        """(B, T) tokens to (B, T, vocab_size) logits."""
        return self.logits[idx]


def held_out_bits(model: nn.Module, ids: torch.Tensor, block_size: int, batch_size: int = 32) -> float:
    """Bits per token of a model on a text, each token but the first predicted once.

    model(idx): (B, T) tokens to (B, T, V) logits; ids: (N,), int64, N at least 2.
    Windows of block_size inputs follow one another, batch_size of them at a time; the
    last may be shorter. In eval mode, without gradients, on the model's device.
    """
    where, was_training = next(model.parameters()).device, model.training
    inputs, targets, total = ids[:-1], ids[1:], 0.0
    whole = len(inputs) // block_size * block_size

    def batches(row):
        windows = row[:whole].reshape(-1, block_size)
        return [*windows.split(batch_size), row[None, whole:]]

    model.eval()
    with torch.no_grad():
        for x, y in zip(batches(inputs), batches(targets), strict=True):
            if x.numel():
                logits, y = model(x.to(where)).flatten(0, 1), y.flatten().to(where)
                total += F.cross_entropy(logits, y, reduction="sum").item()
    model.train(was_training)
    return total / len(inputs) / math.log(2)
