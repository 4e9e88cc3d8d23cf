"""Training a network on your engine.

Generated from chapters/01_autograd/08_training.md by `make sync`: edit that file, not this one.
"""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int

from groundup.autograd.tensors import Tensor

__all__ = ["MLP", "dead_units", "find_learning_rate", "init_weights", "minibatches", "train"]


def init_weights(rng: np.random.Generator, n_in: int, n_out: int) -> Float[np.ndarray, "n_in n_out"]:
    """Random first weights for a layer followed by relu (He and others, 2015).

    Normal, mean 0, standard deviation sqrt(2 / n_in), all drawn from `rng`.
    """
    return rng.normal(size=(n_in, n_out)) * math.sqrt(2 / n_in)


class MLP:
    """A multi-layer perceptron: layers with relu between them, none after the last.

    sizes: how many numbers go in, the size of each hidden layer, how many come out.
    """

    def __init__(self, sizes: list[int], rng: np.random.Generator):
        self.layers = []
        for n_in, n_out in pairwise(sizes):
            weights, bias = init_weights(rng, n_in, n_out), np.zeros(n_out)
            self.layers.append((Tensor(weights), Tensor(bias)))

    def parameters(self) -> list[Tensor]:
        return [parameter for layer in self.layers for parameter in layer]

    def hidden(self, x: Float[np.ndarray, "n n_in"]) -> list[Tensor]:
        """What each hidden layer gives, after its relu: shapes (n, size)."""
        outputs = []
        for weights, bias in self.layers[:-1]:
            x = (x @ weights + bias).relu()
            outputs.append(x)
        return outputs

    def __call__(self, x: Float[np.ndarray, "n n_in"]) -> Tensor:
        """The logits, shape (n, n_out)."""
        weights, bias = self.layers[-1]
        return [x, *self.hidden(x)][-1] @ weights + bias


def dead_units(hidden: Float[np.ndarray, "n units"]) -> float:
    """The share of the units of a relu layer that no example switches on.

    hidden: what the layer gave, after relu.
    """
    return (hidden == 0).all(axis=0).mean()


def minibatches(rng: np.random.Generator, n: int, batch_size: int) -> Iterator[Int[np.ndarray, "rows"]]:
    """One epoch: the numbers 0 … n − 1 in random order, `batch_size` at a time.

    The last batch holds what is left, and may be shorter.
    """
    order = rng.permutation(n)
    for start in range(0, n, batch_size):
        yield order[start : start + batch_size]


def find_learning_rate(
    step: Callable[[float], float],
    low: float,
    high: float,
    steps: int,
    blow_up: float = 4.0,
) -> tuple[list[float], list[float]]:
    """A range test (after Smith, 2017): train while the learning rate grows.

    step(rate): makes one step with this learning rate, returns the loss before it.
    Returns the rates, spaced by equal factors, and their losses; both end before the
    first loss that is not finite or above `blow_up` times the smallest.
    """
    rates, losses = [], []
    smallest = math.inf
    for rate in np.geomspace(low, high, steps):
        loss = step(rate)
        if not math.isfinite(loss) or loss > blow_up * smallest:
            break
        smallest = min(smallest, loss)
        rates.append(float(rate))
        losses.append(loss)
    return rates, losses


def train(
    model: Callable,
    optimizer,
    loss_of: Callable,
    images: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator,
    epochs: int,
    batch_size: int,
) -> list[float]:
    """Train `model` in mini-batches; returns the loss that each step started from.

    loss_of(outputs, labels): the loss of a batch, a Tensor with one number.
    images, labels: one row an example; optimizer: has zero_grad() and step().
    """
    losses = []
    for _ in range(epochs):
        for rows in minibatches(rng, len(images), batch_size):
            loss = loss_of(model(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.data.item())
    return losses
