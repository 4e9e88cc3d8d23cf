"""A tensor engine.

Generated from chapters/01_autograd/05_tensors.md by `make sync`: edit that file, not this one.
"""

import numpy as np
from jaxtyping import Float

from groundup.autograd.graph import topological_order

__all__ = ["Tensor", "index_gradient", "matmul_gradients", "spread", "unbroadcast"]


def unbroadcast(
    grad: Float[np.ndarray, "..."] | np.floating, shape: tuple[int, ...]
) -> Float[np.ndarray, "..."] | np.floating:
    """The adjoint of broadcasting: sums `grad` over what was stretched.

    Returns an array of shape `shape`, in the dtype of `grad`.
    """
    extra = grad.ndim - len(shape)
    stretched = tuple(extra + k for k, n in enumerate(shape) if n == 1)
    return grad.sum(axis=tuple(range(extra)) + stretched).reshape(shape)


def spread(values: Float[np.ndarray, "..."], shape: tuple[int, ...], axis=None) -> Float[np.ndarray, "..."]:
    """The adjoint of summing an array of shape `shape` over `axis`: stretches it back.

    values: what the sum made, its axes kept with size 1 or dropped.
    axis: an int, a tuple of ints, or None for all axes.
    """
    every = range(len(shape))
    axes = list(every) if axis is None else [every[k] for k in np.atleast_1d(axis)]
    kept = [1 if k in axes else size for k, size in enumerate(shape)]
    return np.broadcast_to(values.reshape(kept), shape)


def matmul_gradients(
    a: Float[np.ndarray, "..."],
    b: Float[np.ndarray, "..."],
    grad: Float[np.ndarray, "..."],
) -> tuple[np.ndarray, np.ndarray]:
    """The gradients of `a` and of `b`, where `grad` is the gradient of `a @ b`.

    Both have two axes or more; the axes before the last two broadcast.
    """
    grad_a = grad @ np.swapaxes(b, -1, -2)
    grad_b = np.swapaxes(a, -1, -2) @ grad
    return unbroadcast(grad_a, a.shape), unbroadcast(grad_b, b.shape)


class Tensor:
    """An array that remembers how it was computed.

    data, grad: float64 arrays of one shape. data shares memory with a float64 array
    that is passed in. parents: the Tensors that it was made from; a leaf has none.
    """

    __array_ufunc__ = None  # so that `array + tensor` asks our __radd__, not NumPy

    def __init__(self, data, parents=(), backward=lambda grad: None):
        self.data = np.asarray(data, dtype=np.float64)
        self.grad = np.zeros_like(self.data)
        self.parents = parents
        self._backward = backward  # adds each parent's share to that parent's grad

    def __repr__(self):
        return f"Tensor({self.data})"

    @property  # so that we can write x.shape, without brackets
    def shape(self):
        return self.data.shape

    @staticmethod
    def wrap(other):
        """So that `x + 2` works: a number or an array becomes a leaf."""
        return other if isinstance(other, Tensor) else Tensor(other)

    def __add__(self, other):
        other = Tensor.wrap(other)

        def backward(grad):
            self.grad += unbroadcast(grad, self.shape)
            other.grad += unbroadcast(grad, other.shape)

        return Tensor(self.data + other.data, (self, other), backward)

    def __mul__(self, other):
        other = Tensor.wrap(other)

        def backward(grad):
            self.grad += unbroadcast(grad * other.data, self.shape)
            other.grad += unbroadcast(grad * self.data, other.shape)

        return Tensor(self.data * other.data, (self, other), backward)

    def __pow__(self, exponent):
        if isinstance(exponent, Tensor):
            raise TypeError("the exponent must be a plain number: it gets no slope")

        def backward(grad):
            self.grad += exponent * self.data ** (exponent - 1) * grad

        return Tensor(self.data**exponent, (self,), backward)

    def exp(self):
        result = np.exp(self.data)

        def backward(grad):
            self.grad += result * grad

        return Tensor(result, (self,), backward)

    def log(self):
        def backward(grad):
            self.grad += grad / self.data

        return Tensor(np.log(self.data), (self,), backward)

    def tanh(self):
        result = np.tanh(self.data)

        def backward(grad):
            self.grad += (1 - result**2) * grad

        return Tensor(result, (self,), backward)

    def relu(self):
        """The number where it is above 0, else 0."""

        def backward(grad):
            self.grad += (self.data > 0) * grad

        return Tensor(np.maximum(self.data, 0), (self,), backward)

    def __matmul__(self, other):
        other = Tensor.wrap(other)
        if min(self.data.ndim, other.data.ndim) < 2:
            raise ValueError("@ needs two axes or more on both sides")

        def backward(grad):
            grad_a, grad_b = matmul_gradients(self.data, other.data, grad)
            self.grad += grad_a
            other.grad += grad_b

        return Tensor(self.data @ other.data, (self, other), backward)

    def sum(self, axis=None, keepdims=False):
        def backward(grad):
            self.grad += spread(grad, self.shape, axis)

        return Tensor(self.data.sum(axis=axis, keepdims=keepdims), (self,), backward)

    def mean(self, axis=None, keepdims=False):
        total = self.sum(axis, keepdims)
        return total * (total.data.size / self.data.size)

    def max(self, axis=None, keepdims=False):
        result = np.asarray(self.data.max(axis=axis, keepdims=keepdims))

        def backward(grad):  # only the winners move the maximum; equal ones share
            winners = self.data == spread(result, self.shape, axis)
            winners = winners / winners.sum(axis=axis, keepdims=True)
            self.grad += winners * spread(grad, self.shape, axis)

        return Tensor(result, (self,), backward)

    def reshape(self, *shape):
        """The same numbers in another shape, written as 2, 3 or as (2, 3)."""

        def backward(grad):
            self.grad += grad.reshape(self.shape)

        return Tensor(self.data.reshape(*shape), (self,), backward)

    def transpose(self, *axes):
        """The axes in a new order, all of them; without any, they are reversed."""
        every = range(self.data.ndim)
        axes = [every[k] for k in axes] if axes else list(reversed(every))

        def backward(grad):
            self.grad += grad.transpose(np.argsort(axes))

        return Tensor(self.data.transpose(axes), (self,), backward)

    def __getitem__(self, index):
        def backward(grad):
            self.grad += index_gradient(grad, index, self.shape)  # the next exercise

        return Tensor(self.data[index], (self,), backward)

    def backward(self):
        """Add d(this single number)/d(leaf) to the grad of every leaf below it."""
        if self.data.size != 1:
            raise ValueError(f"backward() starts at one number, not {self.shape}")
        order = topological_order(self)
        for node in order:
            if node.parents:
                node.grad = np.zeros_like(node.data)
        self.grad = np.ones_like(self.data)
        for node in reversed(order):
            node._backward(node.grad)

    def __neg__(self):
        return self * -1

    def __sub__(self, other):
        return self + (-Tensor.wrap(other))

    def __rsub__(self, other):
        return (-self) + other

    def __truediv__(self, other):
        return self * Tensor.wrap(other) ** -1

    def __rtruediv__(self, other):
        return self**-1 * other

    def __rmatmul__(self, other):
        return Tensor(other) @ self

    __radd__ = __add__
    __rmul__ = __mul__


def index_gradient(grad: Float[np.ndarray, "..."], index, shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
    """The adjoint of `x[index]` for an x of shape `shape`, in the dtype of `grad`.

    Places that `index` names several times receive the sum of their gradients.
    """
    out = np.zeros(shape, dtype=grad.dtype)
    np.add.at(out, index, grad)
    return out
