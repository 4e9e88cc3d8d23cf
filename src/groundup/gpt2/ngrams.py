"""Counting n-grams.

Generated from chapters/02_gpt2/01_ngrams.md by `make sync`: edit that file, not this one.
"""

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["CharTokenizer", "held_out_bits", "missing_ngrams"]


class CharTokenizer:
    """Numbers for characters: the characters of `text`, sorted, are 0, 1, 2, …"""

    def __init__(self, text: str):
        self.characters = "".join(sorted(set(text)))
        self.vocab_size = len(self.characters)
        self._ids = {character: k for k, character in enumerate(self.characters)}

    def encode(self, text: str) -> list[int]:
        """The number of each character; ValueError names one that is unknown."""
        try:
            return [self._ids[character] for character in text]
        except KeyError as error:
            raise ValueError(f"unknown character {error.args[0]!r}") from None

    def decode(self, ids: Iterable[int]) -> str:
        """The text of these numbers."""
        return "".join(self.characters[k] for k in ids)


@torch.no_grad()
def held_out_bits(model: nn.Module, ids: torch.Tensor, block_size: int, batch_size: int = 32) -> float:
    """Bits per token of a model on a text, each token but the first predicted once.

    ids: (N,) int64. The text is cut into windows of block_size + 1 tokens; the last
    token of one is the first of the next, and the last window may be shorter. Runs in
    eval mode, without gradients, on the model's device; restores the mode.
    """
    device, mode = next(model.parameters()).device, model.training
    model.eval()
    inputs, targets = ids[:-1], ids[1:]
    whole = len(inputs) // block_size * block_size
    step, total = block_size * batch_size, 0.0
    cuts = [*range(0, whole, step), whole, len(inputs)]
    for start, end in zip(cuts, cuts[1:]):
        if start == end:
            continue
        shape = (-1, min(block_size, end - start))
        x, y = inputs[start:end].reshape(shape), targets[start:end]
        logits = model(x.to(device)).flatten(0, 1)
        total += F.cross_entropy(logits, y.to(device), reduction="sum").item()
    model.train(mode)
    return total / len(inputs) / math.log(2)


def missing_ngrams(x: int) -> int:
    """MISSING: what it computes; shapes, errors raised, source."""
    return x + 1
