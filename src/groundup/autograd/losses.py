"""Jacobians and losses.

Generated from chapters/01_autograd/06_losses.md by `make sync`: edit that file, not this one.
"""

import numpy as np
from jaxtyping import Float, Int

from groundup.autograd.arrays import softmax
from groundup.autograd.tensors import Tensor

__all__ = ["cross_entropy", "log_softmax", "matmul_jacobian", "smoothed_targets", "softmax_jacobian"]


def matmul_jacobian(a: Float[np.ndarray, "m n"], b: Float[np.ndarray, "n r"]) -> Float[np.ndarray, "m*r m*n"]:
    """The slopes of (a @ b).ravel() in a.ravel(): a row for each output.

    In the dtype of `b`.
    """
    (m, n), r = a.shape, b.shape[1]
    slopes = np.zeros((m, r, m, n), dtype=b.dtype)
    for i in range(m):
        slopes[i, :, i, :] = b.T
    return slopes.reshape(m * r, m * n)


def softmax_jacobian(
    x: Float[np.ndarray, "... classes"],
) -> Float[np.ndarray, "... classes classes"]:
    """[..., i, j] is the slope of softmax(x)[..., i] in x[..., j].

    In the dtype of `x`.
    """
    p = softmax(x)
    return p[..., :, None] * (np.eye(x.shape[-1], dtype=x.dtype) - p[..., None, :])


def log_softmax(logits: Tensor) -> Tensor:
    """ln softmax(logits) along the last axis; same shape, and safe for any logits."""
    shifted = logits.data - logits.data.max(axis=-1, keepdims=True)
    result = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))

    def backward(grad):
        logits.grad += grad - np.exp(result) * grad.sum(axis=-1, keepdims=True)

    return Tensor(result, (logits,), backward)


def smoothed_targets(
    targets: Int[np.ndarray, " batch"], classes: int, label_smoothing: float = 0.0
) -> Float[np.ndarray, "batch classes"]:
    """The probabilities that each example should get, in float64.

    label_smoothing: the share of the probability that is spread over all classes
    (Szegedy and others, 2016, section 7).
    """
    q = np.full((len(targets), classes), label_smoothing / classes)
    q[np.arange(len(targets)), targets] += 1 - label_smoothing
    return q


def cross_entropy(logits: Tensor, targets: Int[np.ndarray, " batch"], label_smoothing: float = 0.0) -> Tensor:
    """Mean over the batch of -sum(q * ln softmax(logits)): a Tensor of shape ().

    logits: shape (batch, classes). q: `smoothed_targets`. One node, whose gradient
    is (softmax(logits) - q) / batch.
    """
    q = smoothed_targets(targets, logits.shape[1], label_smoothing)
    log_prob = log_softmax(logits).data

    def backward(grad):
        logits.grad += grad * (np.exp(log_prob) - q) / len(targets)

    return Tensor(-(q * log_prob).sum() / len(targets), (logits,), backward)
