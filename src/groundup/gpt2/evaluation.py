"""Evaluating a language model.

Generated from chapters/02_gpt2/15_evaluation.md by `make sync`: edit that file, not this one.
"""

import math
import os
import urllib.request
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from groundup.gpt2.sampling import evaluating

__all__ = [
    "bits_of_pieces",
    "bits_per_byte",
    "ending_log_probs",
    "held_out_log_probs",
    "load_hellaswag",
    "make_questions",
    "paired_difference",
    "score_choices",
    "standard_error",
]


def bits_per_byte(log_probs: np.ndarray, text: str) -> float:
    """What a model needs per byte of the text in UTF-8.

    log_probs: (N,), ln p of each of the tokens that make up the text.
    """
    return float(-np.sum(log_probs) / math.log(2) / len(text.encode("utf-8")))


def held_out_log_probs(
    model: nn.Module, ids: torch.Tensor, block_size: int, batch_size: int = 32
) -> np.ndarray:
    """ln p of every token of a text but the first, in order: (N - 1,), float64.

    ids: (N,), int64. Windows of block_size follow one another; the last may be shorter.
    """
    where, found = next(model.parameters()).device, []
    inputs, targets = ids[:-1], ids[1:]
    whole = len(inputs) // block_size * block_size

    def batches(row):
        windows = row[:whole].reshape(-1, block_size)
        return [*windows.split(batch_size), row[None, whole:]]

    with evaluating(model):
        for x, y in zip(batches(inputs), batches(targets), strict=True):
            if x.numel():
                logits, y = model(x.to(where)).flatten(0, 1), y.flatten().to(where)
                found.append(-F.cross_entropy(logits.float(), y, reduction="none"))
    return torch.cat(found).double().cpu().numpy()


def make_questions(text: str, n: int, seed: int = 0) -> list[dict]:
    """n questions in HellaSwag's form: which of four pieces of the text follows ctx?"""
    rng, questions = np.random.default_rng(seed), []
    for number in range(n):
        starts = rng.integers(60, len(text) - 24, size=4)
        stops, label = starts + rng.integers(4, 25, size=4), int(rng.integers(4))
        pieces = [text[start:stop] for start, stop in zip(starts, stops, strict=True)]
        ctx = text[starts[label] - 60 : starts[label]]
        questions.append({"ind": number, "ctx": ctx, "endings": pieces, "label": label})
    return questions


def ending_log_probs(
    model: nn.Module,
    encode: Callable[[str], list[int]],
    context: str,
    endings: Sequence[str],
) -> torch.Tensor:
    """ln p of each token of each ending after the context.

    (E, L): a row for each ending, filled up with zeros to the longest one's length.
    """
    prefix, tails = encode(context), [encode(ending) for ending in endings]
    most = model.config.block_size + 1  # the last one is not read
    rows = [torch.tensor((prefix + tail)[-most:]) for tail in tails]
    where = next(model.parameters()).device
    idx = pad_sequence(rows, batch_first=True).to(where)
    with evaluating(model):
        log_probs = torch.log_softmax(model(idx[:, :-1]), dim=-1)
    picked = log_probs.gather(-1, idx[:, 1:, None])[:, :, 0]
    found = [
        line[len(row) - 1 - len(tail) : len(row) - 1]
        for line, row, tail in zip(picked, rows, tails, strict=True)
    ]
    return pad_sequence(found, batch_first=True)


def score_choices(
    model: nn.Module,
    encode: Callable[[str], list[int]],
    context: str,
    endings: Sequence[str],
) -> dict[str, torch.Tensor]:
    """ln p of each ending after the context: "sum", per "token", per "byte"; (E,)."""
    sums = ending_log_probs(model, encode, context, endings).sum(dim=1)
    tokens = [len(encode(ending)) for ending in endings]
    n_bytes = [len(ending.encode("utf-8")) for ending in endings]
    return {
        "sum": sums,
        "token": sums / sums.new_tensor(tokens),
        "byte": sums / sums.new_tensor(n_bytes),
    }


def standard_error(values: Sequence[float] | np.ndarray) -> float:
    """The standard error of the mean of independent values; ValueError below two."""
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        raise ValueError(f"{len(values)} values are too few for a standard error")
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def bits_of_pieces(log_probs: np.ndarray, length: int) -> np.ndarray:
    """Mean bits of each piece of `length` tokens; a shorter rest is left out."""
    whole = len(log_probs) // length * length
    return -log_probs[:whole].reshape(-1, length).mean(axis=1) / math.log(2)


def paired_difference(
    first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray
) -> tuple[float, float]:
    """Mean of first - second, value by value, and its standard error.

    ValueError if they are not pairs, or fewer than two.
    """
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values are not pairs")
    differences = first - second
    return float(differences.mean()), standard_error(differences)


def load_hellaswag(n: int) -> list[dict]:
    """The first n validation questions; offline none, and a line that says so."""
    home = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        urllib.request.urlopen(f"{home}/datasets/Rowan/hellaswag", timeout=5).close()
        from datasets import load_dataset

        rows = load_dataset("Rowan/hellaswag", split="validation")
    except OSError:
        print("HellaSwag is left out: it cannot be fetched")
        return []
    questions = []
    for row in rows.select(range(n)):
        endings = [" " + ending for ending in row["endings"]]
        questions.append(row | {"endings": endings, "label": int(row["label"])})
    return questions
