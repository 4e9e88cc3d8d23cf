"""Arrays, broadcasting and floating point.

Generated from chapters/01_autograd/01_arrays.md by `make sync`: edit that file, not this one.
"""

import math
from itertools import zip_longest

import numpy as np
from jaxtyping import Float, Int

__all__ = [
    "broadcast_shape",
    "einsum_by_loops",
    "negative_log_likelihood",
    "softmax",
    "strides_of",
    "sum_accurately",
]


def strides_of(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """The strides, in bytes, of a fresh row-by-row array of this shape.

    One number takes `itemsize` bytes; with 1 the strides are counted in numbers.
    """
    return tuple(itemsize * math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def broadcast_shape(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    """The shape to which arrays of shapes `a` and `b` broadcast.

    Raises:
        ValueError: an axis has two different sizes and neither is 1.
    """
    sizes = []
    for n, m in zip_longest(reversed(a), reversed(b), fillvalue=1):
        if n != m and n != 1 and m != 1:
            raise ValueError(f"cannot broadcast {a} with {b}: {n} against {m}")
        sizes.append(m if n == 1 else n)
    return tuple(reversed(sizes))


def einsum_by_loops(
    spec: str, a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
    """np.einsum for two arrays, slowly: one loop per letter.

    Letters missing after the arrow are summed.

    Raises:
        ValueError: `spec` has more or fewer letters than the arrays have axes,
            or one letter stands for two different sizes.
    """
    letters, kept = spec.split("->")
    names_a, names_b = letters.split(",")
    size = {}
    for name, n in zip(names_a + names_b, a.shape + b.shape, strict=True):
        if size.setdefault(name, n) != n:
            raise ValueError(f"{name} is {size[name]} and {n}")
    out = np.zeros([size[name] for name in kept])
    for steps in np.ndindex(*size.values()):
        at = {name: steps[axis] for axis, name in enumerate(size)}
        place_a = tuple(at[name] for name in names_a)
        place_b = tuple(at[name] for name in names_b)
        out[tuple(at[name] for name in kept)] += a[place_a] * b[place_b]
    return out


def sum_accurately(values: Float[np.ndarray, " n"]) -> np.floating | float:
    """The sum of `values`, in their dtype, nearly as accurate as with twice the digits.

    "Sum2" of Ogita, Rump and Oishi (2005), on Knuth's TwoSum (their algorithm 3.1).
    """
    total = lost = 0.0
    for value in values:
        new = total + value
        arrived = new - total
        lost += (total - (new - arrived)) + (value - arrived)
        total = new
    return total + lost


def softmax(x: Float[np.ndarray, "..."], axis: int = -1) -> Float[np.ndarray, "..."]:
    """Probabilities from scores: not negative, adding up to 1 along `axis`.

    Same shape and dtype as `x`.
    """
    weights = np.exp(x - x.max(axis=axis, keepdims=True))
    return weights / weights.sum(axis=axis, keepdims=True)


def negative_log_likelihood(
    logits: Float[np.ndarray, "batch classes"], targets: Int[np.ndarray, " batch"]
) -> np.floating:
    """Mean over the batch of −ln softmax(logits)[target], in the dtype of the logits.

    Computed without the logarithm of a number that can underflow: the shifted
    log-sum-exp, analysed by Blanchard, Higham and Higham (2021).
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_prob = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    rows = np.arange(len(targets))
    return -log_prob[rows, targets].mean()
