"""Comparing random samples with what they should look like: chi-square tests with a stated risk.

With `risk=1e-7` a right sampler is rejected once in ten million comparisons. The survival function is the
regularised incomplete gamma function (Numerical Recipes, 3rd ed., section 6.2): series below a + 1, continued fraction above.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

RISK = 1e-7
FEWEST_EXPECTED = 5.0


def chi_square_survival(statistic: float, degrees: int) -> float:
    """P(chi² with `degrees` degrees of freedom > `statistic`)."""
    if statistic <= 0 or degrees <= 0:
        return 1.0
    half, x = degrees / 2, statistic / 2
    if not math.isfinite(x):
        return 0.0
    front = math.exp(half * math.log(x) - x - math.lgamma(half))
    if x < half + 1:
        term = total = 1 / half
        n = half
        while term > total * 1e-16:
            n += 1
            term *= x / n
            total += term
        return max(0.0, 1 - total * front)
    tiny = 1e-300
    b = x + 1 - half
    c, d = 1 / tiny, 1 / b
    h = d
    for i in range(1, 100_000):
        step = -i * (i - half)
        b += 2
        d = step * d + b
        d = 1 / (d if abs(d) > tiny else tiny)
        c = b + step / c
        c = c if abs(c) > tiny else tiny
        h *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return front * h


def agree_in_distribution(got: Any, expected: Any, *, risk: float = RISK) -> str | None:
    """None when counts fit a distribution, else a sentence; made for `Exercise.agree`.

    Args:
        got: how often each outcome came up, whole numbers, any shape. With more than one axis, the last one holds
            the outcomes and each row is a distribution of its own.
        expected: probabilities (floats, each row adding up to 1), or counts of another sampler (whole numbers).
        risk: probability of rejecting a right sampler, over all rows together.
    """
    got, expected = np.asarray(got), np.asarray(expected)
    if got.shape != expected.shape or got.ndim == 0:
        return f"you returned counts of shape {got.shape}, expected {expected.shape}."
    if got.dtype.kind not in "iu":
        return f"you returned {got.dtype} values where whole numbers of draws are expected."
    rows = got.reshape(-1, got.shape[-1]), expected.reshape(-1, got.shape[-1])
    for number, (counts, wanted) in enumerate(zip(*rows, strict=True)):
        where = f" in row {number}" if got.ndim > 1 else ""
        if said := _row(counts.astype(np.float64), wanted, risk / len(rows[0])):
            return said.replace("@", where)
    return None


def _row(counts: np.ndarray, wanted: np.ndarray, risk: float) -> str | None:
    total = counts.sum()
    if total == 0:
        return "there is no draw at all@." if wanted.any() else None
    if wanted.dtype.kind in "iu":
        return _two_samples(counts, wanted.astype(np.float64), risk)
    impossible = np.flatnonzero((wanted <= 0) & (counts > 0))
    if impossible.size:
        return f"outcome {impossible[0]} came up {int(counts[impossible[0]])} times@, but it is impossible."
    mean = wanted / wanted.sum() * total
    kept = mean > 0
    observed, mean_kept = _merge(counts[kept], mean[kept])
    statistic = float(((observed - mean_kept) ** 2 / mean_kept).sum())
    if chi_square_survival(statistic, len(observed) - 1) >= risk:
        return None
    return _worst(counts, mean, total)


def _two_samples(ours: np.ndarray, theirs: np.ndarray, risk: float) -> str | None:
    if theirs.sum() == 0:
        return "there should be no draw@."
    both = ours + theirs
    share = ours.sum() / both.sum()
    first, pooled = _merge(ours, both)
    second = pooled - first
    with np.errstate(all="ignore"):
        terms = (first - pooled * share) ** 2 / (pooled * share) + (second - pooled * (1 - share)) ** 2 / (
            pooled * (1 - share)
        )
    if chi_square_survival(float(terms[pooled > 0].sum()), int((pooled > 0).sum()) - 1) >= risk:
        return None
    return _worst(ours, theirs / theirs.sum() * ours.sum(), ours.sum())


def _merge(counts: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Put rare outcomes together, so that each cell expects at least five draws and chi-square holds."""
    rare = mean < FEWEST_EXPECTED
    if not rare.any() or rare.all():
        return counts, mean
    merged_counts, merged_mean = counts[~rare], mean[~rare]
    lump_counts, lump_mean = counts[rare].sum(), mean[rare].sum()
    if lump_mean >= FEWEST_EXPECTED:
        return np.append(merged_counts, lump_counts), np.append(merged_mean, lump_mean)
    least = int(np.argmin(merged_mean))
    merged_counts, merged_mean = merged_counts.copy(), merged_mean.copy()
    merged_counts[least] += lump_counts
    merged_mean[least] += lump_mean
    return merged_counts, merged_mean


def _worst(counts: np.ndarray, mean: np.ndarray, total: float) -> str:
    with np.errstate(all="ignore"):
        index = int(np.nanargmax((counts - mean) ** 2 / np.maximum(mean, 1e-12)))
    return (
        f"the draws do not follow the distribution@: outcome {index} came up {int(counts[index])} times in "
        f"{int(total)}, expected about {mean[index]:.0f}."
    )


def histogram(draws: Sequence[int] | np.ndarray, outcomes: int) -> np.ndarray:
    """Counts of the draws 0 … outcomes − 1.

    Raises:
        ValueError: a draw is no whole number or lies outside.
    """
    array = np.asarray(draws).reshape(-1)
    if array.dtype.kind not in "iub":
        raise ValueError(f"a draw should be a whole number, not {array.dtype}")
    if array.size and (array.min() < 0 or array.max() >= outcomes):
        raise ValueError(
            f"a draw is {array.min() if array.min() < 0 else array.max()}, outside 0 … {outcomes - 1}"
        )
    return np.bincount(array, minlength=outcomes)
