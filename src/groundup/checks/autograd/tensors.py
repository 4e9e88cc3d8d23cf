"""Checks for the lesson autograd.tensors.

The oracles are torch's gradients. Tensor is checked with *programs*, one assignment a line, as in autograd.graph. The
same text runs on the learner's Tensor and on `Node` below, whose steps are torch's; its named mistakes are edits of it.
An observation that is a text is a sentence for the learner: there was nothing to compare.
"""

import math
import re
from collections.abc import Iterator

import numpy as np
import torch

from groundup.check import Case, Exercise, compare
from groundup.checks.autograd.graph import Told, parents_first, run


def away_from_zero(rng: np.random.Generator, shape: tuple[int, ...], dtype=np.float64) -> np.ndarray:
    """Numbers of both signs between 0.5 and 2 in size, so that nothing hides behind a zero."""
    numbers = rng.uniform(0.5, 2.0, shape) * rng.choice([-1.0, 1.0], shape)
    return np.asarray(numbers, dtype=dtype)


def is_float_array(got, shape) -> bool:
    return isinstance(got, np.ndarray | np.floating) and got.dtype.kind == "f" and got.shape == shape


def same_total(grad, out) -> bool:
    room = 10 * np.finfo(grad.dtype).eps * np.abs(grad).sum(dtype=float)
    return abs(grad.sum(dtype=float) - out.sum(dtype=float)) <= room


# ---------------------------------------------------------------------------------------------------------------------
unbroadcast = Exercise("autograd.tensors.unbroadcast")


@unbroadcast.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, large, shape, dtype=np.float64):
        return Case(label, grad=away_from_zero(rng, large, dtype), shape=shape)

    yield case("a row was stretched down", (2, 3), (3,))
    yield case("a column was stretched across", (2, 3), (2, 1))
    yield case("nothing was stretched", (2, 3), (2, 3))
    yield case("a row with both axes", (2, 3), (1, 3))
    yield case("a single number", (2, 3), ())
    yield case("one number with two axes", (4, 3), (1, 1))
    yield case("the same column in four layers", (4, 2, 3), (2, 1))
    yield case("the same matrix in four layers", (4, 2, 3), (2, 3))
    yield case("the middle axis", (4, 2, 3), (4, 1, 3))
    yield case("first and last axis", (4, 2, 3), (1, 2, 1))
    yield case("square, a row", (3, 3), (3,))
    yield case("square, a column", (3, 3), (3, 1))
    yield case("two axes more", (5, 4, 2, 3), (2, 1))
    yield case("axes of size 1 that stayed 1", (1, 4, 1), (4, 1))
    yield case("two axes more, and two stretched", (5, 4, 2, 3, 2), (2, 1, 1))
    yield case("one number, not stretched", (), ())
    yield case("an axis of size 0", (0, 3), (1, 3))
    yield case("an axis of size 0 that stayed 0", (2, 0, 3), (0, 1))
    yield case("float32", (4, 2, 3), (2, 1), np.float32)
    yield case("float16", (4, 2, 3), (2, 1), np.float16)
    yield Case("a transposed view", grad=away_from_zero(rng, (4, 2)).T, shape=(2, 1))


@unbroadcast.oracle
def _(grad, shape):
    grad = torch.tensor(grad)
    small = torch.zeros(shape, dtype=grad.dtype, requires_grad=True)
    return torch.autograd.grad(small.expand(grad.shape), small, grad)[0].numpy()


@unbroadcast.property
def the_total_stays(obj, grad, shape):
    """Every number of grad belongs to exactly one entry of the answer, so both add up to the same total; yours do not."""
    small = obj(grad, shape)
    return not is_float_array(small, shape) or same_total(grad, small)


@unbroadcast.mistake
def summed_only_the_missing_axes(grad, shape):
    """You summed the axes that `shape` does not have, and left those of size 1 as large as they are in grad. Both kinds were stretched."""
    return grad.sum(axis=tuple(range(grad.ndim - len(shape))))


@unbroadcast.mistake
def summed_only_axes_of_size_one(grad, shape):
    """You summed the axes where `shape` has a 1. The axes that `shape` does not have at all, at the left, were stretched too."""
    extra = grad.ndim - len(shape)
    return grad.sum(axis=tuple(extra + k for k, n in enumerate(shape) if n == 1), keepdims=True)


@unbroadcast.mistake
def dropped_axes_of_size_one(grad, shape):
    """Your sums are right, but the axes of size 1 are gone: a column came back as a row. The gradient must have exactly the shape `shape`."""
    extra = grad.ndim - len(shape)
    stretched = tuple(extra + k for k, n in enumerate(shape) if n == 1)
    return np.asarray(grad.sum(axis=tuple(range(extra)) + stretched))


@unbroadcast.mistake
def lost_each_axis_while_summing(grad, shape):
    """You lost the axes of size 1: each sum drops its axis, and the axes after it move up by one place. They must stay with size 1: NumPy's sum keeps an axis when you ask for it."""
    while grad.ndim > len(shape):
        grad = grad.sum(axis=0)
    for k, n in enumerate(shape):
        if n == 1:
            grad = grad.sum(axis=k)
    return grad


@unbroadcast.mistake
def kept_the_missing_axes(grad, shape):
    """Your sums are right, but the axes that `shape` does not have are still there, with size 1. The gradient must have exactly the shape `shape`."""
    extra = grad.ndim - len(shape)
    stretched = tuple(extra + k for k, n in enumerate(shape) if n == 1)
    return grad.sum(axis=tuple(range(extra)) + stretched, keepdims=True)


def _with(grad, shape, reduce):
    """The exercise with another way to bring a stretched axis down to one number."""
    extra = grad.ndim - len(shape)
    stretched = tuple(extra + k for k, n in enumerate(shape) if n == 1)
    with np.errstate(all="ignore"):
        return reduce(grad, tuple(range(extra)) + stretched).reshape(shape)


@unbroadcast.mistake
def took_the_mean(grad, shape):
    """You took the mean over the stretched places. When b grows, all its copies grow, and each moves the loss: their shares add up."""
    return _with(grad, shape, lambda grad, axes: grad.sum(axis=axes) / math.prod(grad.shape[k] for k in axes))


@unbroadcast.mistake
def took_one_of_the_places(grad, shape):
    """You kept the gradient of one of the stretched places and dropped the others. Every place is a road to the loss, and roads add."""
    return grad[tuple(slice(0, 1) for _ in range(grad.ndim - len(shape)))][
        (Ellipsis, *(slice(0, 1) if n == 1 else slice(None) for n in shape))
    ].reshape(shape)


@unbroadcast.mistake
def lined_up_at_the_left(grad, shape):
    """You compared the first axis of `shape` with the first of grad. Shapes line up at the right: what is missing, is missing at the left."""
    ones = tuple(k for k, n in enumerate(shape) if n == 1)
    return grad.sum(axis=ones + tuple(range(len(shape), grad.ndim))).reshape(shape)


@unbroadcast.mistake
def offset_forgotten(grad, shape):
    """You took the axis k of `shape` for the axis k of grad. If grad has more axes, the missing ones stand at the left, and all others moved up by as many places."""
    ones = tuple(k for k, n in enumerate(shape) if n == 1)
    return grad.sum(axis=tuple(range(grad.ndim - len(shape))) + ones).reshape(shape)


@unbroadcast.mistake
def folded_by_reshape(grad, shape):
    """You cut the numbers of grad into pieces of the right size and added the pieces. That follows the order in memory, which fits only if all stretched axes are at the left; a column mixes with its neighbours."""
    return grad.reshape(-1, *shape).sum(axis=0)


@unbroadcast.mistake
def compared_sizes_without_lining_up(grad, shape):
    """You summed only as long as there were too many axes, and then only the first axis of size 1. Look at every axis of `shape`."""
    while grad.ndim > len(shape):
        grad = grad.sum(axis=0)
    for k, n in enumerate(shape):
        if n == 1:
            return np.asarray(grad.sum(axis=k, keepdims=True))
    return np.asarray(grad)


# ---------------------------------------------------------------------------------------------------------------------
spread = Exercise("autograd.tensors.spread")


@spread.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, values, shape, dtype=np.float64, **axis):
        return Case(label, values=away_from_zero(rng, values, dtype), shape=shape, **axis)

    yield case("rows were summed", (2,), (2, 3), axis=1)
    yield case("columns were summed", (3,), (2, 3), axis=0)
    yield case("rows were summed and the axis kept", (2, 1), (2, 3), axis=1)
    yield case("a square array, rows", (3,), (3, 3), axis=1)
    yield case("a square array, columns", (3,), (3, 3), axis=0)
    yield case("the last axis, counted from the end", (2, 4), (2, 4, 3), axis=-1)
    yield case("the middle axis of three", (2, 3), (2, 4, 3), axis=1)
    yield case("the middle axis, kept", (2, 1, 3), (2, 4, 3), axis=1)
    yield case("two axes", (4,), (2, 4, 3), axis=(0, 2))
    yield case("two axes, one counted from the end, kept", (1, 4, 1), (2, 4, 3), axis=(0, -1))
    yield case("two axes, the last one named first", (4,), (2, 4, 3), axis=(-1, 0))
    yield case("another axis has size 1", (4, 1), (4, 1, 3), axis=2)
    yield case("all axes", (), (2, 3), axis=None)
    yield case("all axes, kept", (1, 1), (2, 3), axis=None)
    yield case("the axis left to its default", (), (2, 4, 3))
    yield case("a single number, which has no axes", (), (), axis=None)
    yield case("float32", (2, 3), (2, 4, 3), np.float32, axis=1)
    yield case("float16", (2, 3), (2, 4, 3), np.float16, axis=1)


@spread.oracle
def _(values, shape, axis=None):
    values = torch.tensor(values)
    full = torch.zeros(shape, dtype=values.dtype, requires_grad=True)
    total = full.sum() if axis is None else full.sum(dim=axis)
    return torch.autograd.grad(total, full, values.reshape(total.shape))[0].numpy().copy()


def _axes(shape, axis) -> list[int]:
    every = range(len(shape))
    return list(every) if axis is None else [every[k] for k in np.atleast_1d(axis)]


def _kept(shape, axis) -> list[int]:
    return [1 if k in _axes(shape, axis) else n for k, n in enumerate(shape)]


@spread.mistake
def left_to_broadcasting(values, shape, axis=None):
    """You stretched `values` as it came. Without its dropped axis it lines up at the right: an error for most shapes, and for square ones each row gets the numbers of all rows. Put the axis back first."""
    return np.broadcast_to(values, shape)


@spread.mistake
def added_an_axis_that_was_there(values, shape, axis=None):
    """You put the summed axes back even where `values` had kept them, so that there is one too many. Both forms must work: make the shape, whatever it was before."""
    return np.broadcast_to(np.expand_dims(values, tuple(_axes(shape, axis))), shape)


def _put_back_one_by_one(values, shape, axis):
    for k in _axes(shape, axis):
        values = np.expand_dims(values, k)
    return np.broadcast_to(values, shape)


@spread.mistake
def axes_put_back_in_the_given_order(values, shape, axis=None):
    """You put the axes back one by one, in the order in which they were named. Each counts its place in the array as it is just then, so for (-1, 0) the last axis finds no place yet. Start with the smallest, or put all back at once."""
    return (
        np.broadcast_to(values, shape)
        if values.ndim == len(shape)
        else _put_back_one_by_one(values, shape, axis)
    )


@spread.mistake
def added_axes_one_by_one_even_if_there(values, shape, axis=None):
    """You put every summed axis back, even where `values` had kept it with size 1: then there is one too many. (And for several axes the order counts: the smallest first.) Both forms must work: make the shape, whatever it was before."""
    return _put_back_one_by_one(values, shape, axis)


@spread.mistake
def axis_put_back_at_the_end(values, shape, axis=None):
    """You put the summed axis back at the end. It must stand where it was: for axis=0 at the front."""
    if values.ndim < len(shape):
        values = values.reshape(values.shape + (1,) * (len(shape) - values.ndim))
    return np.broadcast_to(values, shape)


@spread.mistake
def shared_out_as_a_mean(values, shape, axis=None):
    """You divided by how many numbers were summed. That is the gradient of a mean: in a sum each number moves the total one for one."""
    kept = _kept(shape, axis)
    return np.broadcast_to(values.reshape(kept) * (math.prod(kept) / math.prod(shape)), shape).astype(
        values.dtype
    )


@spread.mistake
def put_back_but_not_stretched(values, shape, axis=None):
    """You put the axis back with size 1, but did not stretch it to its old size. Each number of the array receives its own copy."""
    return values.reshape(_kept(shape, axis))


@spread.mistake
def filled_in_memory_order(values, shape, axis=None):
    """You repeated the numbers until the shape was full. That follows the order in memory, which is right only if the summed axes came first."""
    return np.resize(values, shape)


@spread.mistake
def repeated_each_number(values, shape, axis=None):
    """You repeated each number as often as needed, next to itself. That follows the order in memory, which is right only if the summed axes came last."""
    return np.repeat(values, math.prod(shape) // values.size).reshape(shape)


@spread.mistake
def the_other_axes(values, shape, axis=None):
    """You gave size 1 to the axes that were *not* summed. It is the summed ones that have only one number left."""
    return np.broadcast_to(
        values.reshape([n if k in _axes(shape, axis) else 1 for k, n in enumerate(shape)]), shape
    )


# ---------------------------------------------------------------------------------------------------------------------
matmul_gradients = Exercise("autograd.tensors.matmul_gradients")


@matmul_gradients.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, a, b, dtype=np.float64):
        a, b = away_from_zero(rng, a, dtype), away_from_zero(rng, b, dtype)
        return Case(label, a=a, b=b, grad=away_from_zero(rng, (a @ b).shape, dtype))

    yield case("a row times a column", (1, 2), (2, 1))
    yield case("one number times one number", (1, 1), (1, 1))
    yield case("a column times a row", (2, 1), (1, 3))
    number = away_from_zero(rng, (1, 1))
    yield Case("one number times itself", a=number, b=number.copy(), grad=away_from_zero(rng, (1, 1)))
    a, b = away_from_zero(rng, (2, 3)), away_from_zero(rng, (3, 4))
    yield Case("two matrices, every entry of grad is 1", a=a, b=b, grad=np.ones((2, 4)))
    yield case("two matrices", (2, 3), (3, 4))
    yield case("two square matrices", (3, 3), (3, 3))
    yield case("a batch of both", (5, 2, 3), (5, 3, 4))
    yield case("a batch of square matrices, as many as rows", (3, 3, 3), (3, 3, 3))
    yield case("a batch times one matrix", (5, 2, 3), (3, 4))
    yield case("one matrix times a batch", (2, 3), (5, 3, 4))
    yield case("two batch axes, both stretched", (6, 1, 2, 3), (5, 3, 4))
    yield case("a batch axis of size 1", (1, 2, 3), (5, 3, 4))
    yield case("a batch axis of size 1 on the right", (5, 2, 3), (1, 3, 4))
    yield case("float32", (5, 2, 3), (3, 4), np.float32)
    yield case("float16", (5, 2, 3), (3, 4), np.float16)
    a = away_from_zero(rng, (3, 2)).T
    yield Case("a transposed view", a=a, b=away_from_zero(rng, (3, 4)), grad=away_from_zero(rng, (2, 4)))


@matmul_gradients.observe
def _(obj, a, b, grad):
    pair = obj(a, b, grad)
    if pair is None:
        return None
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        return "You must return two arrays: the gradient of a, and the gradient of b."
    return dict(zip(("a", "b"), pair, strict=True))


@matmul_gradients.oracle
def _(a, b, grad):
    leaves = [torch.tensor(array, requires_grad=True) for array in (a, b)]
    shares = torch.autograd.grad(torch.matmul(*leaves), leaves, torch.tensor(grad))
    return {"a": shares[0].numpy(), "b": shares[1].numpy()}


@matmul_gradients.agree
def _(got, expected):
    if got is None:
        return "You returned None. Is a return missing?"
    if not isinstance(got, dict) or not isinstance(expected, dict):
        return got if isinstance(got, str) and got != expected else compare(got, expected)
    for name in ("a", "b"):
        if difference := compare(got[name], expected[name]):
            return f"For the gradient of {name}, {difference}"
    return None


def _swapped(x):
    return np.swapaxes(x, -1, -2)


def _summed_back(a, b, grad_a, grad_b):
    return _fit(grad_a, a.shape), _fit(grad_b, b.shape)


def _fit(grad, shape):
    """Sums over what was stretched, axis by axis from the left."""
    while grad.ndim > len(shape):
        grad = grad.sum(axis=0)
    for k, n in enumerate(shape):
        if n == 1 and grad.shape[k] != 1:
            grad = grad.sum(axis=k, keepdims=True)
    return grad


@matmul_gradients.mistake
def never_transposed(a, b, grad):
    """You multiplied with the factors as they are. The other factor must be transposed: for ragged shapes NumPy complains, for square ones nothing does."""
    return _summed_back(a, b, grad @ b, a @ grad)


@matmul_gradients.mistake
def order_of_the_factors(a, b, grad):
    """You transposed the right factors but multiplied from the wrong side. A matrix product has an order: b stood on the right of a, so its transpose stands on the right of grad."""
    return _summed_back(a, b, _swapped(b) @ grad, grad @ _swapped(a))


@matmul_gradients.mistake
def gradients_exchanged(a, b, grad):
    """You returned the gradient of b first. The gradient of a must come first, then that of b."""
    return _summed_back(a, b, grad @ _swapped(b), _swapped(a) @ grad)[::-1]


@matmul_gradients.mistake
def reversed_every_axis(a, b, grad):
    """You reversed all axes, as .T does. With two axes that is the same; with a batch the batch axes must stay where they are, and only the last two change places."""
    return _summed_back(a, b, grad @ b.T, a.T @ grad)


@matmul_gradients.mistake
def exchanged_the_first_two_axes(a, b, grad):
    """You exchanged the axes 0 and 1. With two axes these are rows and columns; with a batch in front, axis 0 is the batch, and the matrices are in the last two axes. Count from the end."""
    return _summed_back(a, b, grad @ np.swapaxes(b, 0, 1), np.swapaxes(a, 0, 1) @ grad)


@matmul_gradients.mistake
def batch_not_summed_back(a, b, grad):
    """A factor that was used for the whole batch was stretched over it. Its gradient is the sum over all of its uses; yours still has one for each."""
    return grad @ _swapped(b), _swapped(a) @ grad


@matmul_gradients.mistake
def only_b_is_summed_back(a, b, grad):
    """You summed the gradient of b back to its shape, but not that of a. Either factor may have been stretched over the batch axes."""
    return grad @ _swapped(b), _fit(_swapped(a) @ grad, b.shape)


@matmul_gradients.mistake
def only_a_is_summed_back(a, b, grad):
    """You summed the gradient of a back to its shape, but not that of b. Either factor may have been stretched over the batch axes: weights usually are."""
    return _fit(grad @ _swapped(b), a.shape), _swapped(a) @ grad


@matmul_gradients.mistake
def forgets_the_arriving_gradient(a, b, grad):
    """You used only the slopes of the product itself. By the chain rule they must be multiplied by `grad`, which says how strongly each entry of the product moves the loss."""
    ones = np.ones_like(grad)
    return _summed_back(a, b, ones @ _swapped(b), _swapped(a) @ ones)


@matmul_gradients.mistake
def one_for_the_whole_batch(a, b, grad):
    """You always added over the batch. A factor that has its own matrix for each entry of the batch has its own gradient for each."""
    both = grad @ _swapped(b), _swapped(a) @ grad
    return tuple(share.sum(axis=tuple(range(share.ndim - 2))) for share in both)


# ---------------------------------------------------------------------------------------------------------------------
Tensor = Exercise("autograd.tensors.Tensor", kind="class")


class Node:
    """The interface of the lesson's Tensor, as far as the programs use it; each step and its gradients are torch's.

    `tensor` is the same result in one torch graph from the leaves on: the oracle differentiates that.
    """

    def __init__(self, data, parents=(), backward=lambda grad: None, tensor=None):
        self.data = np.asarray(data, dtype=np.float64)
        self.grad = np.zeros_like(self.data)
        self.parents, self._backward = parents, backward
        self.tensor = torch.tensor(self.data, requires_grad=True) if tensor is None else tensor

    @property
    def shape(self):
        return self.data.shape

    def _step(self, op, function, *others):
        parents = (self, *(x if isinstance(x, Node) else type(self)(x) for x in others))
        leaves = [torch.tensor(parent.data, requires_grad=True) for parent in parents]
        result = function(*leaves)

        def backward(grad):
            shares = torch.autograd.grad(result, leaves, torch.tensor(grad), retain_graph=True)
            shares = [share.numpy() for share in shares]
            shares = self.shares(op, shares, grad, [parent.data for parent in parents])
            for parent, share in zip(parents, shares, strict=True):
                self.hand_on(op, parent, share)

        data, tensor = result.detach().numpy(), function(*(parent.tensor for parent in parents))
        return type(self)(data, parents, backward, tensor)

    def shares(self, op, shares, grad, inputs):
        """What the parents receive; a mistake gives something else."""
        return shares

    def hand_on(self, op, parent, share):
        parent.grad += share

    def __add__(self, other):
        return self._step("add", torch.add, other)

    def __mul__(self, other):
        return self._step("mul", torch.mul, other)

    def __matmul__(self, other):
        return self._step("matmul", torch.matmul, other)

    def tanh(self):
        return self._step("tanh", torch.tanh)

    def relu(self):
        return self._step("relu", torch.relu)

    def sum(self, axis=None, keepdims=False):
        axes = tuple(range(self.data.ndim)) if axis is None else axis
        return self._step(("sum", axis), lambda x: torch.sum(x, axes, keepdims))

    def reshape(self, *shape):
        return self._step(("reshape", shape), lambda x: x.reshape(*shape))

    def transpose(self, *axes):
        every = range(self.data.ndim)
        axes = [every[k] for k in axes] if axes else list(reversed(every))
        return self._step(("transpose", tuple(axes)), lambda x: x.permute(*axes))

    __rmul__ = __mul__


PROGRAMS = {  # label → program, shapes of its leaves
    "x * y": ("a = x * y", (2, 2), (2, 2)),
    "x * y, one number each": ("a = x * y", (), ()),
    "x * y, y a row": ("a = x * y", (2, 3), (3,)),
    "x * y, x a row": ("a = x * y", (3,), (2, 3)),
    "x * y, a column and a row": ("a = x * y", (3, 1), (1, 4)),
    "x * y, x a number": ("a = x * y", (), (2, 3)),
    "x * y, four layers and a column": ("a = x * y", (4, 2, 3), (2, 1)),
    "x * 3": ("a = x * 3", (2, 3)),
    "2 * x": ("a = 2 * x", (2, 3)),
    "x * x: the same tensor twice": ("a = x * x", (2, 3)),
    "x * y * x": ("a = x * y; b = a * x", (2, 3), (3,)),
    "x.relu()": ("a = x.relu()", (3, 4)),
    "x.relu() * y": ("a = x.relu(); b = a * y", (3, 4), (3, 4)),
    "x.relu() * x: x in two places": ("a = x.relu(); b = a * x", (3, 4)),
    "x @ y": ("a = x @ y", (2, 3), (3, 4)),
    "x @ y, square": ("a = x @ y", (3, 3), (3, 3)),
    "x @ y, a batch and a matrix": ("a = x @ y", (5, 2, 3), (3, 4)),
    "x @ y, a matrix and a batch": ("a = x @ y", (2, 3), (5, 3, 4)),
    "x @ y, two batches": ("a = x @ y", (5, 2, 3), (5, 3, 4)),
    "x @ y, a batch of one": ("a = x @ y", (1, 2, 3), (5, 3, 4)),
    "x @ x: the same tensor twice": ("a = x @ x", (3, 3)),
    "x @ y @ x: x in two places": ("a = x @ y; b = a @ x", (2, 3), (3, 2)),
    "y @ x @ x: x in two places": ("a = y @ x; b = a @ x", (3, 3), (2, 3)),
    "x.sum()": ("a = x.sum()", (2, 3)),
    "x.sum(axis=0)": ("a = x.sum(axis=0)", (2, 3)),
    "x.sum(axis=1)": ("a = x.sum(axis=1)", (2, 3)),
    "x.sum(axis=1), square": ("a = x.sum(axis=1)", (3, 3)),
    "x.sum(axis=1, keepdims=True)": ("a = x.sum(axis=1, keepdims=True)", (2, 3)),
    "x.sum(axis=(0, -1))": ("a = x.sum(axis=(0, -1))", (2, 4, 3)),
    "x.sum((-1, 0), True)": ("a = x.sum((-1, 0), True)", (2, 4, 3)),
    "x.sum(keepdims=True)": ("a = x.sum(keepdims=True)", (2, 3)),
    "x times its row sums": ("a = x.sum(axis=1, keepdims=True); b = a * x", (3, 3)),
    "x.reshape(3, 2)": ("a = x.reshape(3, 2)", (2, 3)),
    "x.reshape((4, 3, 2))": ("a = x.reshape((4, 3, 2))", (2, 3, 4)),
    "x.reshape(-1) times y, and back": ("a = x.reshape(-1); b = a * y; c = b.reshape(2, 3)", (2, 3), (6,)),
    "x.reshape(3, 2) @ x: x in two places": ("a = x.reshape(3, 2); b = a @ x", (2, 3)),
    "x.transpose()": ("a = x.transpose()", (2, 3)),
    "x.transpose(), three axes": ("a = x.transpose()", (2, 3, 4)),
    "x.transpose(1, 0, 2)": ("a = x.transpose(1, 0, 2)", (2, 3, 4)),
    "x.transpose(2, 0, 1)": ("a = x.transpose(2, 0, 1)", (2, 3, 4)),
    "x.transpose(2, 0, 1), a cube": ("a = x.transpose(2, 0, 1)", (3, 3, 3)),
    "x.transpose(-1, 0, 1)": ("a = x.transpose(-1, 0, 1)", (2, 3, 4)),
    "x.transpose(1, 3, 0, 2)": ("a = x.transpose(1, 3, 0, 2)", (2, 3, 4, 2)),
    "x.transpose() @ x: x in two places": ("a = x.transpose(); b = a @ x", (2, 3)),
    "z * (x + y)": ("a = x + y; b = z * a", (2, 3), (3,), (2, 3)),
    "y @ x.tanh()": ("a = x.tanh(); b = y @ a", (2, 3), (4, 2)),
    "a layer: (x @ y + z).tanh()": ("a = x @ y; b = a + z; c = b.tanh(); d = c.sum()", (4, 2), (2, 3), (3,)),
}


@Tensor.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    for label, (program, *shapes) in PROGRAMS.items():
        yield Case(label, program=program.split("; "), leaves=[away_from_zero(rng, s) for s in shapes])
    yield Case("x.relu() where a number is 0", program=["a = x.relu()"], leaves=[np.array([-1.5, 0.0, 0.7])])
    sizes = rng.uniform(0.5, 2.0, (2, 3)) * [0.001, 1.0, 1000.0] * [[1.0], [-1.0]]
    yield Case("x.relu() of tiny and large numbers", program=["a = x.relu()"], leaves=[sizes])


def _is_a_node(obj: type, expression: str, value, variables: dict) -> None:
    """Raises Told if the backward pass could not use an operation's result, or not get from it to an operand."""
    said = None
    if value is None:
        said = f"`{expression}` returned None. Is a return missing?"
    elif not isinstance(value, obj):
        said = f"`{expression}` returned a {type(value).__name__}, expected a Tensor: wrap the result in Tensor(...)."
    elif isinstance(value.parents, obj):
        said = (
            f"The parents of `{expression}` must be a tuple. A tuple of one is written with a comma: (self,)."
        )
    elif not isinstance(value.parents, list | tuple) or not all(isinstance(p, obj) for p in value.parents):
        said = f"The parents of `{expression}` must be a tuple of the Tensors that it was made from."
    elif not value.parents:
        said = f"The result of `{expression}` has no parents. Give Tensor(...) the Tensors that it was made from."
    elif not callable(value._backward):
        said = (
            f"`{expression}` stored no function as its backward: pass `backward` itself, without calling it."
        )
    if said:
        raise Told(said)
    reached = {id(node) for node in parents_first(value, stop={id(v) for v in variables.values()})}
    for name in re.findall(r"\b[a-z]\b", expression):
        if id(variables[name]) not in reached:
            raise Told(
                f"The parents of `{expression}` do not lead to {name}: it was made from {name}, so {name} itself (no "
                "copy) must be among them. backward() would never go on to what is below it."
            )


def _hand_back(variables: dict, gradients: list[np.ndarray]) -> None:
    """Give every gradient to the last result's `_backward`; then the nodes in between, if the operation made any."""
    *_, root = variables.values()
    for grad in gradients:
        root._backward(grad)
    named = {id(value) for value in variables.values()}
    for node in reversed(parents_first(root, stop=named - {id(root)})):
        if id(node) not in named:
            node._backward(node.grad)


def _seed(shape: tuple[int, ...]) -> np.ndarray:
    """The gradient that arrives at the end: every entry another one, of both signs."""
    return np.asarray(3 * np.cos(1.0 + np.arange(math.prod(shape))).reshape(shape))


def _looks(obj: type, leaves: list[np.ndarray]):
    """What `run` shows every result to: is it a node, and has the operation left its operands' numbers alone?"""
    kept = {name: x.copy() for name, x in zip("xyz", leaves, strict=False)}

    def look(expression: str, value, variables: dict) -> None:
        for name, numbers in kept.items():
            if not np.array_equal(variables[name].data, numbers):
                raise Told(
                    f"`{expression}` changed the numbers in {name}.data. Make a new array for the result: others still "
                    f"need {name} as it was."
                )
        _is_a_node(obj, expression, value, variables)
        kept["abcd"[len(kept) - len(leaves)]] = np.array(value.data)

    return look


@Tensor.observe
def _(obj, program, leaves):
    """Run the program; then go backward, calling every node's `_backward` ourselves."""
    try:
        variables = run(program, [obj(x) for x in leaves], _looks(obj, leaves))
    except Told as sentence:
        return str(sentence)
    *_, root = variables.values()
    root.grad = _seed(root.data.shape)
    for node in reversed(parents_first(root)):
        node._backward(node.grad)
    return {
        "data": {name: v.data for name, v in variables.items()},
        "grad": {name: v.grad for name, v in variables.items()},
    }


@Tensor.oracle
def _(program, leaves):
    variables = run(program, [Node(x) for x in leaves])
    tensors = [v.tensor for v in variables.values()]
    seed = torch.tensor(_seed(tuple(tensors[-1].shape)))
    grads = torch.autograd.grad(tensors[-1], tensors, seed)
    return {
        "data": {name: t.detach().numpy() for name, t in zip(variables, tensors, strict=True)},
        "grad": {name: g.numpy() for name, g in zip(variables, grads, strict=True)},
    }


@Tensor.agree
def _(got, expected):
    if isinstance(got, str) or isinstance(expected, str):
        return None if got == expected else str(got)
    for kind in ("data", "grad"):
        for name, array in expected[kind].items():
            if difference := compare(got[kind].get(name), array):
                return f"For {name}.{kind}, {difference.replace('you returned', 'yours is')}"
    return None


@Tensor.property
def forward_leaves_gradients_alone(obj, program, leaves):
    """The forward pass changed a gradient. It only computes data; gradients move when `_backward` is called."""
    return not any(v.grad.any() for v in run(program, [obj(x) for x in leaves]).values())


@Tensor.property
def backward_uses_its_argument(obj, program, leaves):
    """`v._backward(g)` must make the shares from its argument, the g that it is given. Yours come from somewhere else: do you read `result.grad`? It need not hold g."""
    one, four, six = (_handed_on(obj, program, leaves, k)[0] for k in (1.0, 4.0, 6.0))
    return _close(four, [4 * share for share in one]) and _close(six, [6 * share for share in one])


@Tensor.property
def backward_leaves_its_argument_alone(obj, program, leaves):
    """`v._backward(g)` changed its argument g, an array that others still need. Compute a new array from it, without *= and the like."""
    return _handed_on(obj, program, leaves, 4.0)[1]


@Tensor.property
def backward_adds_again(obj, program, leaves):
    """A second call of `v._backward` must add to the parents' gradients once more, just as the first did."""
    first, second, both = (_handed_on(obj, program, leaves, *times)[0] for times in ((4,), (6,), (4, 6)))
    return _close(both, [u + v for u, v in zip(first, second, strict=True)])


def _handed_on(obj, program, leaves, *times) -> tuple[list[np.ndarray], bool]:
    """The leaves' gradients after one `_backward` for each of `times`, and whether its argument stayed as it was.

    v.grad holds the same every time. Of programs with one line: in longer ones backward() does the calling.
    """
    if len(program) > 1:
        return [], True
    variables = run(program, [obj(x) for x in leaves])
    *_, root = variables.values()
    root.grad = _seed(root.data.shape)
    given = [np.asarray(k * _seed(root.data.shape)) for k in times]  # NumPy makes 0-d arrays into scalars
    _hand_back(variables, given)
    stayed = all((g == k * _seed(root.data.shape)).all() for g, k in zip(given, times, strict=True))
    return [variables[name].grad for name in "xyz"[: len(leaves)]], stayed


def _close(shares: list[np.ndarray], others: list[np.ndarray]) -> bool:
    return all(np.allclose(*pair, rtol=1e-9, atol=1e-9) for pair in zip(shares, others, strict=True))


@Tensor.mistake
class assigns_instead_of_adding(Node):
    """You set a parent's gradient with = instead of adding to it with +=. A tensor that is used twice, as in x * x, then keeps only the last share; the others are overwritten."""

    def hand_on(self, op, parent, share):
        if op in ("add", "tanh"):
            super().hand_on(op, parent, share)
        else:
            parent.grad = np.array(share)


def _name(op):
    return op if isinstance(op, str) else op[0]


SHOWN = {
    "mul": "x * y",
    "relu": "x.relu()",
    "matmul": "x @ y",
    "sum": "x.sum()",
    "reshape": "x.reshape(…)",
    "transpose": "x.transpose(…)",
}


def _assigns_in(where: str) -> type:
    def hand_on(self, op, parent, share):
        if _name(op) == where:
            parent.grad = np.array(share)
        else:
            Node.hand_on(self, op, parent, share)

    told = f"In {SHOWN[where]} you set a parent's gradient with = instead of adding to it with +=. A tensor that is used in two places then keeps only the last share; the others are overwritten."
    return type(f"assigns_in_{where}", (Node,), {"hand_on": hand_on, "__doc__": told})


for _where in SHOWN:
    Tensor.mistake(_assigns_in(_where))


class _Shares(Node):
    """Gives the parents other shares, in the operation `where`."""

    where = ""

    def shares(self, op, shares, grad, inputs):
        if _name(op) != self.where:
            return shares
        return self.wrong(shares, grad, inputs, None if isinstance(op, str) else op[1])


@Tensor.mistake
class product_not_summed_back(_Shares):
    """In x * y the share of a stretched factor came out larger than the factor. Multiply first, grad by the other factor, and sum that product back to the factor's own shape. Summed before the product, it is stretched again."""

    where = "mul"

    def wrong(self, shares, grad, inputs, axes):
        return [grad * inputs[1], grad * inputs[0]]


@Tensor.mistake
class multiplies_by_itself(_Shares):
    """In x * y you gave x the slope x and y the slope y. The slope of a product in one factor is the *other* factor. Test it on x * x and you would never notice."""

    where = "mul"

    def wrong(self, shares, grad, inputs, axes):
        return [_fit(grad * x, x.shape) for x in inputs]


@Tensor.mistake
class relu_lets_everything_through(_Shares):
    """Your relu hands the whole gradient on. Where x is below 0 the result is 0 whatever x does: nothing comes back from there."""

    where = "relu"

    def wrong(self, shares, grad, inputs, axes):
        return [grad]


@Tensor.mistake
class relu_looks_at_the_gradient(_Shares):
    """Your relu keeps the gradient where the *gradient* is positive. It must keep it, whatever its sign, where x is positive."""

    where = "relu"

    def wrong(self, shares, grad, inputs, axes):
        return [np.maximum(grad, 0)]


@Tensor.mistake
class relu_forgets_the_gradient(_Shares):
    """Your relu adds its own slope, 1 or 0. By the chain rule that must be multiplied by `grad`, which says how strongly the result moves the loss."""

    where = "relu"

    def wrong(self, shares, grad, inputs, axes):
        return [1.0 * (inputs[0] > 0)]


@Tensor.mistake
class relu_multiplies_by_its_result(_Shares):
    """Your relu multiplies grad by the result. Above 0 the result grows just as fast as x: the slope is 1 there, however large x is."""

    where = "relu"

    def wrong(self, shares, grad, inputs, axes):
        return [np.maximum(inputs[0], 0) * grad]


@Tensor.mistake
class product_by_reversing_every_axis(_Shares):
    """In x @ y you reversed all axes, as .T does. With a batch, only the last two may change places: use the function that you have just written."""

    where = "matmul"

    def wrong(self, shares, grad, inputs, axes):
        x, y = inputs
        return [grad @ y.T, x.T @ grad]


@Tensor.mistake
class relu_has_slope_one_at_zero(_Shares):
    """At exactly 0 your relu has the slope 1. The page, and PyTorch, take 0 there: x must be above 0, not at 0."""

    where = "relu"

    def wrong(self, shares, grad, inputs, axes):
        return [(inputs[0] >= 0) * grad]


@Tensor.mistake
class sum_not_stretched(_Shares):
    """In x.sum(…) you add the gradient as it arrives, without its dropped axis. += then broadcasts it: an error for many shapes, and for square ones each row gets the numbers of all rows. Stretch it first."""

    where = "sum"

    def wrong(self, shares, grad, inputs, axis):
        return [grad]


@Tensor.mistake
class sum_stretches_as_if_over_all(_Shares):
    """In x.sum(axis) you stretch the gradient as if all axes had been summed. Tell the function that stretches which axis it was."""

    where = "sum"

    def wrong(self, shares, grad, inputs, axis):
        return [np.broadcast_to(grad.reshape([1] * inputs[0].ndim), inputs[0].shape)]


@Tensor.mistake
class sum_ignores_keepdims(Node):
    """Your sum always drops the axis. With keepdims=True it must stay, with size 1: hand the argument on to NumPy."""

    def sum(self, axis=None, keepdims=False):
        return super().sum(axis)


@Tensor.mistake
class transpose_back_by_the_same_order(_Shares):
    """You went back with the same order of axes. That undoes an exchange of two axes, but three axes that move round in a ring go on moving: you need the inverse order."""

    where = "transpose"

    def wrong(self, shares, grad, inputs, axes):
        return [grad.transpose(axes)]


@Tensor.mistake
class transpose_back_by_reversing(_Shares):
    """You went back by reversing all axes. That undoes transpose() without arguments; any other order needs its own inverse."""

    where = "transpose"

    def wrong(self, shares, grad, inputs, axes):
        return [grad.transpose()]


@Tensor.mistake
class transpose_back_by_reshape(_Shares):
    """You brought the gradient back with reshape. That gives the right shape but keeps the numbers in the order of the memory, so most land in the wrong places. Move the axes back."""

    where = "transpose"

    def wrong(self, shares, grad, inputs, axes):
        return [grad.reshape(inputs[0].shape)]


@Tensor.mistake
class reshape_not_undone(_Shares):
    """In x.reshape(…) you add the gradient in the shape in which it arrives. It has the same numbers as x, but it must get back into the shape of x first."""

    where = "reshape"

    def wrong(self, shares, grad, inputs, axes):
        return [grad]


@Tensor.mistake
class reshape_given_a_tuple_in_a_tuple(Node):
    """x.reshape(4, 3, 2) works, but for x.reshape((4, 3, 2)) your `shape` is a tuple in a tuple, ((4, 3, 2),). Hand its members on to NumPy with a star, as the page shows."""

    def reshape(self, *shape):
        if isinstance(shape[0], tuple):
            raise TypeError("'tuple' object cannot be interpreted as an integer")
        return super().reshape(*shape)


@Tensor.mistake
class reshape_back_to_the_new_shape(_Shares):
    """Going back, you give the gradient the new shape, which it has already. It must get back into the shape of x."""

    where = "reshape"

    def wrong(self, shares, grad, inputs, shape):
        return [grad.reshape(shape)]


# ---------------------------------------------------------------------------------------------------------------------
index_gradient = Exercise("autograd.tensors.index_gradient")


@index_gradient.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, index, shape, dtype=np.float64):
        grad = away_from_zero(rng, np.empty(shape)[index].shape, dtype)
        return Case(label, grad=grad, index=index, shape=shape)

    yield case("a row that is read twice", np.array([1, 2, 1]), (4,))
    yield case("every row once, in another order", np.array([2, 0, 1]), (3, 2))
    yield case("a single row", 1, (3, 2))
    yield case("everything", slice(None), (3, 2))
    yield case("a slice", slice(1, 3), (4, 2))
    yield case("one number of a matrix", (1, 0), (3, 2))
    yield case("a list of words, some of them often", np.array([3, 0, 3, 3, 1]), (4, 2))
    yield case("a Python list", [1, 2, 1, 1], (4, 2))
    yield case("two texts at once", np.array([[1, 2, 1], [0, 1, 1]]), (3, 2))
    yield case("the same row from the front and from the end", np.array([2, -1, 0]), (3, 2))
    yield case("one entry of each row", (np.arange(3), np.array([1, 0, 1])), (3, 2))
    yield case(
        "pairs of row and column, one of them twice", (np.array([0, 2, 0]), np.array([1, 0, 1])), (3, 2)
    )
    yield case("all rows, columns that repeat", (slice(None), np.array([1, 1, 0])), (4, 3))
    yield case("lists of rows and columns, a pair twice", ([0, -1, 0], [1, 0, 1]), (3, 2))
    yield case("rows that repeat, in one column", ([2, 0, 2], 1), (3, 2))
    yield case("only the first of three axes", (slice(None), [0, 0, 2]), (2, 3, 2))
    yield case("three axes, a slice in the middle", ([1, 0, 1], slice(1, None), [0, 1, 0]), (2, 3, 2))
    yield case("a slice that goes backwards", slice(None, None, -2), (4, 2))
    yield case("True and False", np.array([True, False, True]), (3, 2))
    yield case("True and False for every number", np.array([[True, False], [False, True]]), (2, 2))
    yield case("nothing is read", np.zeros(0, dtype=np.int64), (3, 2))
    yield case("float32", np.array([1, 1, 0]), (3, 2), np.float32)
    yield case("float16", np.array([1, 1, 0]), (3, 2), np.float16)


@index_gradient.oracle
def _(grad, index, shape):
    read_from = np.arange(math.prod(shape)).reshape(shape)[index]  # the place of each number, counted through
    sums = np.bincount(np.ravel(read_from), weights=np.ravel(grad).astype(float), minlength=math.prod(shape))
    return sums.reshape(shape).astype(grad.dtype)


@index_gradient.property
def every_share_arrives(obj, grad, index, shape):
    """Every number of grad goes to exactly one place, so both add up to the same total; yours do not."""
    out = obj(grad, index, shape)
    return not is_float_array(out, shape) or same_total(grad, out)


@index_gradient.mistake
def repeated_places_keep_one_share(grad, index, shape):
    """A place that is read several times keeps only one of its gradients. In `out[index] += grad` all sums are computed first and written afterwards, so the last one written wins. Shares must add, one after the other."""
    out = np.zeros(shape, dtype=grad.dtype)
    out[index] += grad
    return out


def _loops(pairs, zeros):
    """A loop over the index itself, in two usual forms; `zeros` makes the array to add to."""

    def looped(grad, index, shape):
        out = zeros(shape, grad)
        for place, share in pairs(index, grad):
            out[place] += share
        return out

    looped.__doc__ = "You loop over `index`, as if it were a list of rows. It may also be a number, a slice, a tuple, a table of numbers, or True and False. Leave it whole: look for one line that works for all that may stand in x[index]."
    return looped


for _form, _pairs in (
    ("by_counting", lambda index, grad: ((place, grad[p]) for p, place in enumerate(index))),
    ("in_pairs", zip),
):
    for _kind, _zeros in (
        ("", lambda shape, grad: np.zeros(shape, grad.dtype)),
        ("_in_float64", lambda shape, grad: np.zeros(shape)),
    ):
        _looped = _loops(_pairs, _zeros)
        _looped.__name__ = f"looped_over_the_index_{_form}{_kind}"
        index_gradient.mistake(_looped)


@index_gradient.mistake(shape=True)
def nothing_returned(grad, index, shape):
    """You returned None. A NumPy function that adds in place changes the array that it is given and returns nothing: return that array, in a line of its own."""


@index_gradient.mistake
def reads_again(grad, index, shape):
    """You read from grad with the index. The index says which places of x were read; going back, grad must be *written* to those places."""
    return grad[index]


@index_gradient.mistake
def counts_the_readings(grad, index, shape):
    """You counted how often each place was read. Each reading brings its own gradient: add that, not 1."""
    out = np.zeros(shape, dtype=grad.dtype)
    np.add.at(out, index, 1)
    return out


@index_gradient.mistake
def one_share_times_the_count(grad, index, shape):
    """You wrote one gradient to each place and multiplied it by how often the place was read. The readings have different gradients: each of them must be added."""
    out, count = np.zeros(shape, dtype=grad.dtype), np.zeros(shape, dtype=grad.dtype)
    out[index] = grad
    np.add.at(count, index, 1)
    return out * count


@index_gradient.mistake
def averages_the_readings(grad, index, shape):
    """You took the mean over the readings of a place. When the place moves, every reading moves, and all of them move the loss: the shares add up."""
    out, count = np.zeros(shape, dtype=grad.dtype), np.zeros(shape, dtype=grad.dtype)
    np.add.at(out, index, grad)
    np.add.at(count, index, 1)
    return out / np.maximum(count, 1)


@index_gradient.mistake
def always_float64(grad, index, shape):
    """Your sums are right, but np.zeros makes float64, whatever grad is. The gradient must have the dtype of grad: say which dtype you want."""
    out = np.zeros(shape)
    np.add.at(out, index, grad)
    return out


@index_gradient.mistake
def always_float64_and_one_share(grad, index, shape):
    """A place that is read several times keeps only one of its gradients: `out[index] += grad` computes all sums first and writes them afterwards. (And np.zeros makes float64, whatever the dtype of grad.)"""
    out = np.zeros(shape)
    out[index] += grad
    return out
