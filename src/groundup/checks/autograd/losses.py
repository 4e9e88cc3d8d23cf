"""Checks for the lesson autograd.losses.

The oracles are torch's. An answer that makes Tensors is given a Tensor of the class that it uses itself (`engine_of`);
the mistakes use the small one below. An observation that is a text is a sentence for the learner: there was nothing to
compare.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch

from groundup.check import Case, Exercise, compare
from groundup.checks.autograd._engine import engine_of
from groundup.checks.autograd.graph import parents_first


def seeds(shape: tuple[int, ...], phase: float = 1.0) -> np.ndarray:
    """A gradient that arrives: every entry another one, of both signs."""
    return np.asarray(3 * np.cos(phase + np.arange(math.prod(shape))).reshape(shape))


# ---------------------------------------------------------------------------------------------------------------------
# Every entry is 0 or a copy, so nothing is rounded; a nudged slope is off by more than this.
matmul_jacobian = Exercise("autograd.losses.matmul_jacobian", tolerance=1e-15)


@matmul_jacobian.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, a, b, dtype=np.float64, scale=1.0):
        def numbers(shape):
            return (scale * rng.uniform(0.5, 2.0, shape) * rng.choice([-1.0, 1.0], shape)).astype(dtype)

        return Case(label, a=numbers(a), b=numbers(b))

    yield case("two rows times a column", (2, 2), (2, 1))
    yield case("a row times a column", (1, 2), (2, 1))
    yield case("one number times one number", (1, 1), (1, 1))
    yield case("a column times one number", (3, 1), (1, 1))
    yield case("a row times a matrix", (1, 2), (2, 3))
    yield case("a column times a row", (3, 1), (1, 2))
    yield case("two matrices", (2, 3), (3, 4))
    yield case("more rows than columns", (4, 3), (3, 2))
    yield case("two square matrices", (3, 3), (3, 3))
    yield case("large numbers", (2, 3), (3, 2), scale=1e5)
    yield case("float32", (2, 3), (3, 2), np.float32)
    yield case("float16", (2, 2), (2, 3), np.float16)
    yield Case("transposed views", a=rng.normal(size=(3, 2)).T, b=rng.normal(size=(4, 3)).T)


@matmul_jacobian.oracle
def _(a, b):
    a, b = torch.tensor(a), torch.tensor(b)
    slopes = torch.autograd.functional.jacobian(lambda line: (line.reshape(a.shape) @ b).ravel(), a.ravel())
    return slopes.numpy()


def _blocks(a, b, block, pattern=np.eye):
    """`block` wherever the pattern of rows against rows has a 1."""
    return np.kron(pattern(len(a)), block).astype(b.dtype)


@matmul_jacobian.mistake
def rows_and_columns_exchanged(a, b):
    """You gave the table a row for each number of a. A Jacobian has a row for each *output*, here each number of a @ b, and a column for each input."""
    return _blocks(a, b, b)


@matmul_jacobian.mistake
def reshaped_instead_of_transposed(a, b):
    """You made the block with reshape, which keeps the numbers in their old order. Rows of b must become columns: that is a transpose."""
    return _blocks(a, b, b.reshape(b.T.shape))


@matmul_jacobian.mistake
def columns_first(a, b):
    """You lined the numbers up column after column. `ravel` goes row after row: all numbers of row 0 first, then those of row 1."""
    return np.kron(b.T, np.eye(len(a))).astype(b.dtype)


@matmul_jacobian.mistake
def rows_feed_each_other(a, b):
    """You filled every block of the table. A row of the product is made from the *same* row of a only; all other rows of a have the slope 0 there."""
    return _blocks(a, b, b.T, lambda m: np.ones((m, m)))


@matmul_jacobian.mistake
def only_one_row(a, b):
    """You returned the table for a single row of a. Every row of a makes its own row of the product: the whole table has one such block for each."""
    return b.T.copy()


@matmul_jacobian.mistake(shape=True)
def in_the_other_factor(a, b):
    """These are the slopes in the numbers of b. The columns of the table must stand for the numbers of a."""
    return np.kron(a, np.eye(b.shape[1])).astype(b.dtype)


@matmul_jacobian.mistake(shape=True)
def left_with_four_axes(a, b):
    """Your slopes still have four axes. Make one axis of the two of the outputs, and one of the two of the inputs."""
    return _blocks(a, b, b.T).reshape(len(a), b.shape[1], *a.shape)


@matmul_jacobian.mistake
def table_in_float64(a, b):
    """Your slopes are right, but np.zeros and np.eye make float64, whatever b is. The table must have the dtype of b: say which dtype you want."""
    return np.kron(np.eye(len(a)), b.T)


# ---------------------------------------------------------------------------------------------------------------------
softmax_jacobian = Exercise("autograd.losses.softmax_jacobian")


@softmax_jacobian.agree
def _(got, expected):
    # In float64 finer than nudging; the large logits below are small enough that each way of writing p fits in.
    return compare(got, expected, tolerance=3e-12 if getattr(expected, "dtype", None) == np.float64 else None)


@softmax_jacobian.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, shape, dtype=np.float64, scale=1.0, plus=0.0):
        return Case(label, x=(scale * rng.normal(size=shape) + plus).astype(dtype))

    yield case("two classes", (2,))
    yield case("one class, which is certain", (1,))
    yield case("four classes", (4,))
    yield case("a batch", (2, 3))
    yield case("a batch of as many rows as classes", (3, 3))
    yield case("a batch of one", (1, 3))
    yield case("a column: each row has a single class", (3, 1))
    yield case("two axes before the classes", (2, 4, 3))
    yield case("three axes before the classes", (2, 1, 3, 2))
    yield case("a cube", (3, 3, 3))
    yield case("large logits", (2, 4), plus=2000.0)
    yield case("large negative logits", (2, 4), plus=-2000.0)
    yield Case("rows that lie far apart", x=rng.normal(size=(3, 4)) + np.array([[-900.0], [0.0], [900.0]]))
    yield case("float32", (2, 3), np.float32)
    yield Case("a transposed view", x=rng.normal(size=(4, 3)).T)


@softmax_jacobian.oracle
def _(x):
    table = [
        torch.autograd.functional.jacobian(lambda row: torch.softmax(row, 0), row)
        for row in torch.tensor(x).reshape(-1, x.shape[-1])
    ]
    return torch.stack(table).reshape(*x.shape, x.shape[-1]).numpy()


def _p(x, axis=-1):
    weights = np.exp(x - x.max(axis=axis, keepdims=True))
    return weights / weights.sum(axis=axis, keepdims=True)


def _eye(x):
    return np.eye(x.shape[-1], dtype=x.dtype)


@softmax_jacobian.mistake
def sign_turned(x):
    """All your signs are turned. Raise one logit and its own probability grows: the diagonal must be positive, the rest negative."""
    p = _p(x)
    return p[..., :, None] * (p[..., None, :] - _eye(x))


@softmax_jacobian.mistake
def only_the_diagonal(x):
    """You filled in only the diagonal, as if every probability depended on its own logit alone. All share one sum, so each logit moves all probabilities."""
    p = _p(x)
    return (p * (1 - p))[..., :, None] * _eye(x)


@softmax_jacobian.mistake
def slopes_of_the_logarithm(x):
    """These are the slopes of ln p. The slope of p itself is p times as large: multiply row i by the probability of class i."""
    return _eye(x) - _p(x)[..., None, :]


@softmax_jacobian.mistake
def subtracted_p_once(x):
    """You subtracted p from diag(p), not the products of p with p: off the diagonal both probabilities must appear as factors."""
    p = _p(x)
    return p[..., :, None] * _eye(x) - p[..., None, :]


@softmax_jacobian.mistake
def row_times_row(x):
    """Both of your factors are p as a *row*, so each column has its own probability twice. In p_i (δ_ij - p_j) the first factor belongs to the output i: it must be a column."""
    p = _p(x)[..., None, :]
    return p * (_eye(x) - p)


@softmax_jacobian.mistake
def one_row_only(x):
    """You took all of x for one distribution. Each row along the last axis is its own, with its own table; the axes before it stay."""
    p = _p(x).ravel()
    return np.diag(p) - np.outer(p, p)


@softmax_jacobian.mistake
def diag_and_outer(x):
    """np.diag and np.outer make the table of a *single* row. With axes before the classes use broadcasting: p as a column, p as a row, for all rows at once."""
    p = _p(x)
    return np.diag(p) - np.outer(p, p)


@softmax_jacobian.mistake
def no_axis_inserted(x):
    """You multiplied p as it stands, so it is a row both times. In p_i (δ_ij - p_j) the first factor must be a column, and each row of logits needs a table of its own: insert axes with None."""
    p = _p(x)
    return p * (_eye(x) - p)


@softmax_jacobian.mistake
def along_the_first_axis(x):
    """Your probabilities add up to 1 along the first axis. The classes stand along the last one."""
    p = _p(x, axis=0)
    return p[..., :, None] * (_eye(x) - p[..., None, :])


@softmax_jacobian.mistake
def exp_overflows(x):
    """exp of a large number is infinite (and of a very negative one 0), so the fraction is no number. Use the softmax of the first lesson, which subtracts each row's maximum."""
    p = np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)
    return p[..., :, None] * (_eye(x) - p[..., None, :])


@softmax_jacobian.mistake
def eye_in_float64(x):
    """Your slopes are right, but np.eye makes float64, whatever x is. The table must have the dtype of x: tell np.eye which dtype you want."""
    p = _p(x)
    return p[..., :, None] * (np.eye(x.shape[-1]) - p[..., None, :])


# ---------------------------------------------------------------------------------------------------------------------
# Functions that make Tensors


class Tensor:
    """As much of the lesson's Tensor as a node with its own backward needs; what the mistakes return."""

    def __init__(self, data, parents=(), backward=lambda grad: None):
        self.data = np.asarray(data, dtype=np.float64)
        self.grad = np.zeros_like(self.data)
        self.parents, self._backward = parents, backward

    @property
    def shape(self):
        return self.data.shape


def _not_a_node(name: str, node, logits, one: bool) -> str | None:
    """A sentence if `node` is no Tensor that leads back to `logits`."""
    if not hasattr(node, "_backward") or not hasattr(node, "data"):
        return f"{name} returned a {type(node).__name__}, expected a Tensor: wrap the result in Tensor(...)."
    if hasattr(node.parents, "_backward"):
        return "The parents must be a tuple. A tuple of one is written with a comma: (logits,)."
    if not isinstance(node.parents, list | tuple) or not all(hasattr(p, "_backward") for p in node.parents):
        return "The parents must be a tuple of Tensors: (logits,)."
    if not callable(node._backward):
        return "The node stored no function as its backward: pass `backward` itself, without calling it."
    if one and [id(parent) for parent in node.parents] != [id(logits)]:
        return "The loss must be one node, whose only parent is logits itself: (logits,). Compute with arrays (logits.data, log_prob) and give the node its own backward."
    if not any(found is logits for found in parents_first(node)):
        return "The parents of the result do not lead to logits itself, so no gradient can get back. Give Tensor(...) logits as its parent: (logits,)."
    return None


def _go_back(node, grad: np.ndarray) -> None:
    node.grad = grad
    for below in reversed(parents_first(node)):
        below._backward(below.grad)


SECOND = "logits.grad in a second backward pass"


def _second(grad) -> np.ndarray:
    """The gradient that arrives in the second backward pass; the rows of it have the sums that those of `grad` have."""
    return np.roll(grad, 1, axis=-1) if np.ndim(grad) else np.asarray(1.5 - 0.5 * grad)


def _look(obj: Callable, name: str, logits, grad, earlier: dict, rest: tuple, one: bool = False):
    """Forward; then, after another forward pass, backward with `grad`, and perhaps again with another one."""
    engine = engine_of(obj, Tensor)
    x = engine(logits)
    x.grad = np.array(earlier.get("logits_grad_before", np.zeros_like(logits)))
    node = obj(x, *rest)
    if node is None:
        return None
    if said := _not_a_node(name, node, x, one):
        return said
    obj(engine(0.5 * logits + 1.5 * np.cos(logits)), *rest)  # a second node must not disturb the first
    seen = {"the result": np.array(node.data)}
    if np.shape(node.data) != np.shape(grad):
        return seen  # the wrong shape: no such gradient can arrive
    arriving = np.array(grad, dtype=np.float64)
    _go_back(node, arriving)
    seen["logits.grad"] = np.array(x.grad)
    if not np.array_equal(node.data, seen["the result"], equal_nan=True):
        return "Your backward changes the data of the result, which others still need. It may only add to logits.grad."
    if not np.array_equal(arriving, grad):
        return "Your backward changes `grad`, which belongs to the result. It may only add to logits.grad."
    if earlier.get("backward_passes") == 2:
        for below in parents_first(node):
            below.grad = np.zeros_like(below.data)
        _go_back(node, _second(grad))
        seen[SECOND] = np.array(x.grad)
    return seen


def _expected(function: Callable, logits, grad, earlier: dict) -> dict:
    x = torch.tensor(logits, requires_grad=True)
    result = function(x)

    def share(grad):
        return torch.autograd.grad(result, x, torch.tensor(grad), retain_graph=True)[0].numpy()

    expected = {
        "the result": result.detach().numpy(),
        "logits.grad": share(np.asarray(grad)) + earlier.get("logits_grad_before", 0.0),
    }
    if earlier.get("backward_passes") == 2:
        expected[SECOND] = share(_second(grad).copy())
    return expected


def _agree(got, expected):
    if got is None:
        return "You returned None. Is a return missing?"
    if not isinstance(got, dict) or not isinstance(expected, dict):
        return str(got) if isinstance(got, str) and got != expected else compare(got, expected)
    for name, array in expected.items():
        if difference := compare(got.get(name), array):
            told = difference.replace("you returned", "yours is").replace(
                "your result has shape", "your shape is"
            )
            return f"For {name}, {told}"
    return None


VERY_FAR = np.array([[3e12, 0.0, 1.0], [-1.0, 1e5, -2e12]])


def _numbers(rng: np.random.Generator, shape, scale=1.0) -> np.ndarray:
    return scale * rng.normal(size=shape)


# ---------------------------------------------------------------------------------------------------------------------
log_softmax = Exercise("autograd.losses.log_softmax")


@log_softmax.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, logits, grad=None, **earlier):
        grad = seeds(logits.shape) if grad is None else np.asarray(grad)
        return Case(label, logits=logits, grad=grad, **earlier)

    yield case("two classes, and grad is 1 for the first", _numbers(rng, 2), [1.0, 0.0])
    yield case("three classes, and grad adds up to 0", _numbers(rng, 3), [2.0, -3.0, 1.0])
    yield case("four classes", _numbers(rng, 4))
    yield case("one class, which is certain", _numbers(rng, 1))
    yield case("a batch, and grad is 1 for one class of each row", _numbers(rng, (2, 3)), np.eye(3)[[2, 0]])
    yield case("a batch of one", _numbers(rng, (1, 4)))
    yield case("a batch", _numbers(rng, (2, 3)))
    yield case("a batch of as many rows as classes", _numbers(rng, (3, 3)))
    yield case("more rows than classes", _numbers(rng, (5, 2)))
    yield case("two axes before the classes", _numbers(rng, (2, 4, 3)))
    yield case("three axes before the classes", _numbers(rng, (2, 1, 3, 2)))
    yield case("a cube", _numbers(rng, (3, 3, 3)))
    yield case(
        "logits that have a gradient already", _numbers(rng, (2, 3)), logits_grad_before=seeds((2, 3), 2.0)
    )
    yield case("two backward passes", _numbers(rng, (2, 3)), backward_passes=2)
    yield case("logits 800 apart", np.array([[800.0, 0.0, 1.0], [-1.0, 0.5, 800.0]]))
    yield case("logits that lie very far apart", VERY_FAR)
    yield case("the largest logit of each row is 0", np.array([[0.0, -1.5, -0.25], [-2.0, 0.0, -0.5]]))
    yield case("large logits", _numbers(rng, (2, 4)) + 1e6)
    yield case("large negative logits", _numbers(rng, (2, 4)) - 1e6)
    far = np.array([[-2000.0], [0.0], [2000.0]])
    yield case("rows that lie far apart", _numbers(rng, (3, 4)) + far)
    yield case("equal logits", np.full((2, 3), 1.25))
    yield case("a transposed view", _numbers(rng, (4, 3)).T)


@log_softmax.observe
def _(obj, logits, grad, **earlier):
    return _look(obj, "log_softmax", logits, grad, earlier, ())


@log_softmax.oracle
def _(logits, grad, **earlier):
    return _expected(lambda x: torch.log_softmax(x, -1), logits, grad, earlier)


log_softmax.agree(_agree)


def _log_p(x, axis=-1):
    shifted = x - x.max(axis=axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


def _node(logits, result, slope, p=None):
    """A node whose share is slope(grad, p)."""
    p = np.exp(result) if p is None else p

    def backward(grad):
        logits.grad += slope(grad, p)

    return Tensor(result, (logits,), backward)


def _row_sum(grad):
    return grad.sum(axis=-1, keepdims=True)


def _right_slope(grad, p):
    return grad - p * _row_sum(grad)


@log_softmax.mistake
def logarithm_after_softmax(logits):
    """You take the logarithm of the probabilities. One that underflows to 0 has the logarithm -inf. Take the logarithm of the whole fraction on paper first, then compute that."""
    return _node(logits, np.log(_p(logits.data)), _right_slope)


@log_softmax.mistake
def a_tiny_number_added(logits):
    """You added a tiny number before the logarithm. That hides the -inf and keeps a wrong value: a log-probability may be -800. Take the logarithm of the whole fraction on paper first."""
    p = _p(logits.data)
    return _node(logits, np.log(p + 1e-12), _right_slope, p)


def _chained(grad, p):
    """Through the logarithm, then through softmax: 0 times infinity where a probability is 0."""
    through = grad / p
    return p * (through - _row_sum(through * p))


@log_softmax.mistake
def softmax_and_log_chained(logits):
    """You made it of a softmax and a logarithm. Where a probability underflows to 0 the value is -inf and the gradient nan: 0 times infinity. Take the logarithm of the whole fraction on paper first."""
    p = _p(logits.data)
    return _node(logits, np.log(p), _chained, p)


@log_softmax.mistake
def softmax_and_log_chained_without_the_maximum(logits):
    """You made it of exp, a division and a logarithm. Large logits overflow in exp, and far ones underflow to the logarithm of 0. Take the logarithm of the whole fraction on paper, with each row's maximum subtracted."""
    p = np.exp(logits.data) / _row_sum(np.exp(logits.data))
    return _node(logits, np.log(p), _chained, p)


@log_softmax.mistake
def maximum_not_subtracted(logits):
    """exp of a large logit is infinite, and of very negative ones all are 0. Subtract each row's maximum first."""
    x = logits.data
    return _node(logits, x - np.log(np.exp(x).sum(axis=-1, keepdims=True)), _right_slope)


@log_softmax.mistake
def maximum_subtracted_only_once(logits):
    """You subtract the maximum from the logits, but not inside the sum of exponentials (or the other way round). Both must be shifted alike: use the shifted logits in both places."""
    x = logits.data
    shifted = x - x.max(axis=-1, keepdims=True)
    return _node(logits, shifted - np.log(np.exp(x).sum(axis=-1, keepdims=True)), _right_slope)


@log_softmax.mistake
def one_maximum_for_all_rows(logits):
    """You subtract the maximum of the whole array. A row that lies far below it underflows in every class. Each row needs its own maximum."""
    shifted = logits.data - logits.data.max()
    return _node(logits, shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), _right_slope)


@log_softmax.mistake
def one_sum_for_all_rows(logits):
    """Your rows share one distribution: the probabilities of the whole array add up to 1. Each row along the last axis is its own."""
    shifted = logits.data - logits.data.max()
    return _node(logits, shifted - np.log(np.exp(shifted).sum()), lambda grad, p: grad - p * grad.sum())


@log_softmax.mistake
def along_axis_zero(logits):
    """You normalise along the first axis. The classes stand along the last one."""
    result = _log_p(logits.data, 0)
    return _node(logits, result, lambda grad, p: grad - p * grad.sum(axis=0))


@log_softmax.mistake
def sum_of_the_gradient_forgotten(logits):
    """Your backward subtracts p itself. Every log-probability sends a share to every logit: p must be multiplied by the sum of its row of `grad`, which is 1 only if one class is looked at."""
    return _node(logits, _log_p(logits.data), lambda grad, p: grad - p)


@log_softmax.mistake
def only_its_own_slope(logits):
    """Your backward uses only the slope of each log-probability in its own logit, 1 - p. All of them contain the common sum, so each sends a share to every logit."""
    return _node(logits, _log_p(logits.data), lambda grad, p: grad * (1 - p))


@log_softmax.mistake
def sum_over_the_whole_batch(logits):
    """Your backward multiplies p by the sum of all of `grad`. Rows know nothing of each other: sum each row of `grad` on its own, and keep the axis."""
    return _node(logits, _log_p(logits.data), lambda grad, p: grad - p * grad.sum())


@log_softmax.mistake
def rule_of_softmax(logits):
    """Your backward is that of softmax itself: it has the factor p in front. The slopes of ln p are δ - p, without it."""
    slope = lambda grad, p: p * (grad - _row_sum(p * grad))  # noqa: E731
    return _node(logits, _log_p(logits.data), slope)


@log_softmax.mistake
def nothing_arrives(logits):
    """Your backward adds nothing to logits.grad. Did you give it to Tensor(...) as the last argument, and does it add with += rather than return?"""
    return _node(logits, _log_p(logits.data), lambda grad, p: 0.0)


@log_softmax.mistake
def logarithm_taken_for_p(logits):
    """Your backward multiplies the sum by ln p. The rule has p itself there: its exponential."""
    return _node(logits, _log_p(logits.data), lambda grad, p: grad - np.log(p) * _row_sum(grad))


@log_softmax.mistake
def share_with_a_plus(logits):
    """Your backward *adds* p times the sum of the row. Raising a logit makes the common sum larger, and that lowers all log-probabilities: the sign is minus."""
    return _node(logits, _log_p(logits.data), lambda grad, p: grad + p * _row_sum(grad))


@log_softmax.mistake
def gradient_passed_through(logits):
    """Your backward hands `grad` on as it is, as if only the logit itself counted. The logarithm of the sum depends on all logits, too."""
    return _node(logits, _log_p(logits.data), lambda grad, p: grad)


def _assigning(logits, result, slope):
    def backward(grad):
        logits.grad = slope(grad)

    return Tensor(result, (logits,), backward)


@log_softmax.mistake
def assigns_the_gradient(logits):
    """You set logits.grad with = instead of adding with +=. What other uses of the logits had sent there is lost."""
    result = _log_p(logits.data)
    return _assigning(logits, result, lambda grad: _right_slope(grad, np.exp(result)))


# ---------------------------------------------------------------------------------------------------------------------
smoothed_targets = Exercise("autograd.losses.smoothed_targets")


@smoothed_targets.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, targets, classes, **share):
        return Case(label, targets=np.array(targets), classes=classes, **share)

    yield case("two examples", [1, 0], 3, label_smoothing=0.3)
    yield case("one example", [2], 4, label_smoothing=0.2)
    yield case("two examples without smoothing", [1, 0], 3, label_smoothing=0.0)
    yield case("label_smoothing left to its default", [0, 2, 1, 2], 3)
    yield case("the same sizes, other targets", [0, 2], 3, label_smoothing=0.3)
    yield case("a class that is right twice", [2, 0, 2], 4, label_smoothing=0.2)
    yield case("all examples of one class", [1, 1, 1], 2, label_smoothing=0.5)
    yield case("as many examples as classes", [2, 0, 1], 3, label_smoothing=0.1)
    yield case("a single class", [0, 0], 1, label_smoothing=0.4)
    yield case("everything is spread", [3, 1], 5, label_smoothing=1.0)
    targets = rng.integers(7, size=12)
    yield Case("many examples", targets=targets, classes=7, label_smoothing=float(rng.uniform(0.05, 0.3)))
    yield Case("int32", targets=targets.astype(np.int32), classes=9, label_smoothing=0.1)


@smoothed_targets.oracle
def _(targets, classes, label_smoothing=0.0):
    hot = torch.nn.functional.one_hot(torch.tensor(targets).long(), classes).double()
    return torch.lerp(hot, torch.full_like(hot, 1 / classes), label_smoothing).numpy()


@smoothed_targets.property
def rows_add_up_to_one(obj, targets, classes, label_smoothing=0.0):
    """Every row is a set of probabilities and must add up to 1; yours do not."""
    q = obj(targets, classes, label_smoothing)
    return not isinstance(q, np.ndarray) or q.ndim != 2 or bool(np.allclose(q.sum(axis=1), 1))


def _hot(targets, classes):
    return (np.arange(classes) == targets[:, None]).astype(np.float64)


@smoothed_targets.mistake
def every_row_gets_every_target(targets, classes, label_smoothing=0.0):
    """A colon in the brackets means every row, so each example got the right classes of *all* examples. Pair row 0 with the first target, row 1 with the second, and so on."""
    q = np.full((len(targets), classes), label_smoothing / classes)
    q[:, targets] += 1 - label_smoothing
    return q


@smoothed_targets.mistake
def spread_over_the_others_only(targets, classes, label_smoothing=0.0):
    """You spread the share over the wrong classes only. Some books do; the page, and PyTorch, spread it over all classes, the right one among them."""
    others = label_smoothing / (classes - 1) if classes > 1 else np.inf
    hot = _hot(targets, classes)
    return np.where(hot == 1, 1 - label_smoothing, others)


@smoothed_targets.mistake
def right_class_replaced(targets, classes, label_smoothing=0.0):
    """You set the right class to 1 - ε with =, and so its own part of the share, ε/C, is lost. It must be added: the row adds up to less than 1."""
    return np.where(_hot(targets, classes) == 1, 1 - label_smoothing, label_smoothing / classes)


@smoothed_targets.mistake
def nothing_taken_away(targets, classes, label_smoothing=0.0):
    """You gave every class its part of the share, but did not take the share away from the right class: it keeps 1, and the row adds up to more than 1."""
    return _hot(targets, classes) + label_smoothing / classes


@smoothed_targets.mistake
def share_not_divided(targets, classes, label_smoothing=0.0):
    """You gave the whole share ε to every class. It is one share for all of them: each gets ε divided by the number of classes."""
    return _hot(targets, classes) * (1 - label_smoothing) + label_smoothing


@smoothed_targets.mistake
def never_smoothed(targets, classes, label_smoothing=0.0):
    """Your targets are one-hot whatever label_smoothing is. Its share must be taken from the right class and spread over all classes."""
    return _hot(targets, classes)


@smoothed_targets.mistake
def the_right_class_never_raised(targets, classes, label_smoothing=0.0):
    """Every class has got its part of the share, but the right class nothing more. It must be raised by 1 - ε."""
    return np.full((len(targets), classes), label_smoothing / classes)


@smoothed_targets.mistake(shape=True)
def examples_as_columns(targets, classes, label_smoothing=0.0):
    """Your examples stand in the columns. The result has a *row* for each example and a column for each class."""
    return (_hot(targets, classes) * (1 - label_smoothing) + label_smoothing / classes).T


# ---------------------------------------------------------------------------------------------------------------------
cross_entropy = Exercise("autograd.losses.cross_entropy")


@cross_entropy.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, logits, targets=None, grad=1.0, **more):
        if targets is None:
            targets = rng.integers(logits.shape[1], size=len(logits))
        return Case(label, logits=logits, targets=np.array(targets), grad=grad, **more)

    yield case("one example", _numbers(rng, (1, 2)), [0])
    yield case("two examples", _numbers(rng, (2, 3)), [2, 0])
    yield case("one example, smoothed", _numbers(rng, (1, 3)), [1], label_smoothing=0.3)
    yield case("two examples, smoothed", _numbers(rng, (2, 3)), [2, 0], label_smoothing=0.3)
    yield case("a gradient other than 1 arrives", _numbers(rng, (2, 3)), [1, 2], grad=-0.3)
    yield case("a gradient other than 1 arrives at one example", _numbers(rng, (1, 3)), [1], grad=2.5)
    yield case(
        "logits that have a gradient already",
        _numbers(rng, (2, 3)),
        [1, 2],
        logits_grad_before=seeds((2, 3), 2.0),
    )
    yield case(
        "one example that has a gradient already",
        _numbers(rng, (1, 3)),
        [1],
        logits_grad_before=seeds((1, 3), 2.0),
    )
    yield case("two backward passes", _numbers(rng, (2, 3)), [1, 2], backward_passes=2)
    yield case("a single class", _numbers(rng, (3, 1)))
    yield case("more examples than classes", _numbers(rng, (7, 2)))
    yield case("as many examples as classes", _numbers(rng, (4, 4)), [2, 0, 3, 1])
    yield case(
        "all at once",
        _numbers(rng, (5, 4)),
        grad=-0.7,
        label_smoothing=0.15,
        logits_grad_before=seeds((5, 4), 2.0),
        backward_passes=2,
    )
    yield case("everything smoothed", _numbers(rng, (3, 4)), label_smoothing=1.0)
    yield case("logits 800 apart", np.array([[800.0, 0.0, 1.0], [-1.0, 0.5, 800.0]]), [1, 0])
    yield case(
        "logits 800 apart, smoothed",
        np.array([[800.0, 0.0, 1.0], [-1.0, 0.5, 800.0]]),
        [0, 1],
        label_smoothing=0.1,
    )
    yield case("logits that lie very far apart", VERY_FAR, [1, 2])
    yield case("large logits", _numbers(rng, (3, 4)) + 1e6)
    far = np.array([[-2000.0], [0.0], [2000.0]])
    yield case("rows that lie far apart", _numbers(rng, (3, 4)) + far, label_smoothing=0.1)
    yield case("a transposed view", _numbers(rng, (5, 3)).T)
    yield case("int32 targets", _numbers(rng, (3, 5)), rng.integers(5, size=3).astype(np.int32))


@cross_entropy.observe
def _(obj, logits, targets, grad, label_smoothing=None, **earlier):
    rest = (targets,) if label_smoothing is None else (targets, label_smoothing)
    return _look(obj, "cross_entropy", logits, grad, earlier, rest, one=True)


@cross_entropy.oracle
def _(logits, targets, grad, label_smoothing=0.0, **earlier):
    right = torch.tensor(targets).long()

    def loss(x):
        return torch.nn.functional.cross_entropy(x, right, label_smoothing=label_smoothing)

    return _expected(loss, logits, grad, earlier)


cross_entropy.agree(_agree)


def _q(targets, classes, share):
    return _hot(targets, classes) * (1 - share) + share / classes


def _loss(logits, targets, share, value=None, slope=None, q=None, log_p=None):
    """The right node, with parts of it exchanged: value(q, log_p) and slope(grad, p, q)."""
    count, q = len(targets), _q(targets, logits.data.shape[1], share) if q is None else q
    log_p = _log_p(logits.data) if log_p is None else log_p
    result = -(q * log_p).sum() / count if value is None else value(q, log_p)
    p = _p(logits.data)
    slope = slope or (lambda grad, p, q: grad * (p - q) / count)
    return _node(logits, result, lambda grad, _: slope(grad, p, q), 0)


@cross_entropy.mistake
def added_up_over_the_batch(logits, targets, label_smoothing=0.0):
    """You added the losses of the examples up. Their *mean* is the loss: otherwise a batch twice as large takes steps twice as large."""
    return _loss(
        logits,
        targets,
        label_smoothing,
        lambda q, log_p: -(q * log_p).sum(),
        lambda grad, p, q: grad * (p - q),
    )


@cross_entropy.mistake
def gradient_not_averaged(logits, targets, label_smoothing=0.0):
    """Your loss is a mean over the batch, but your gradient is that of a sum: divide it by the number of examples as well."""
    return _loss(logits, targets, label_smoothing, slope=lambda grad, p, q: grad * (p - q))


@cross_entropy.mistake
def mean_over_all_entries(logits, targets, label_smoothing=0.0):
    """Your loss is the mean over all entries of the table, N times C of them. It must be the mean over the N examples only; the classes are added up."""
    return _loss(logits, targets, label_smoothing, lambda q, log_p: -(q * log_p).mean())


@cross_entropy.mistake
def mean_over_all_entries_in_both(logits, targets, label_smoothing=0.0):
    """Your loss and its gradient are means over all entries of the table, N times C of them. Average over the N examples only; the classes are added up."""
    return _loss(
        logits,
        targets,
        label_smoothing,
        lambda q, log_p: -(q * log_p).mean(),
        lambda grad, p, q: grad * (p - q) / p.size,
    )


@cross_entropy.mistake
def target_minus_probability(logits, targets, label_smoothing=0.0):
    """Your gradient has the wrong sign: target minus probability. Raising the right logit must *lower* the loss, so its slope is negative."""
    return _loss(logits, targets, label_smoothing, slope=lambda grad, p, q: grad * (q - p) / len(targets))


@cross_entropy.mistake
def forgets_the_arriving_gradient(logits, targets, label_smoothing=0.0):
    """Your backward ignores `grad`. It is 1 only if the loss is the very last step; if the loss is multiplied by 0.1, every slope must be."""
    return _loss(logits, targets, label_smoothing, slope=lambda grad, p, q: (p - q) / len(targets))


@cross_entropy.mistake
def assigns_instead_of_adding(logits, targets, label_smoothing=0.0):
    """You set logits.grad with = instead of adding with +=. What other uses of the logits had sent there is lost."""
    q, log_p = _q(targets, logits.data.shape[1], label_smoothing), _log_p(logits.data)
    return _assigning(
        logits,
        -(q * log_p).sum() / len(targets),
        lambda grad: grad * (np.exp(log_p) - q) / len(targets),
    )


@cross_entropy.mistake
def nothing_arrives_at_the_logits(logits, targets, label_smoothing=0.0):
    """Your backward adds nothing to logits.grad. Did you give it to Tensor(...) as the last argument, and does it add with += rather than return?"""
    return _loss(logits, targets, label_smoothing, slope=lambda grad, p, q: 0.0)


@cross_entropy.mistake
def ignores_label_smoothing(logits, targets, label_smoothing=0.0):
    """Your loss is the same whatever label_smoothing is. Hand it on to your function for the targets."""
    return _loss(logits, targets, 0.0)


@cross_entropy.mistake
def smooths_only_forward(logits, targets, label_smoothing=0.0):
    """Your loss is smoothed but your gradient is not: it subtracts one-hot targets. Both must use the same q."""
    hot = _hot(targets, logits.data.shape[1])
    return _loss(logits, targets, label_smoothing, slope=lambda grad, p, q: grad * (p - hot) / len(targets))


@cross_entropy.mistake
def smooths_only_backward(logits, targets, label_smoothing=0.0):
    """Your gradient is smoothed but your loss is not: it looks only at the right class. Both must use the same q."""
    hot = _hot(targets, logits.data.shape[1])
    return _loss(logits, targets, label_smoothing, lambda q, log_p: -(hot * log_p).sum() / len(targets))


@cross_entropy.mistake
def targets_leak_between_rows(logits, targets, label_smoothing=0.0):
    """Every example is told the right classes of all examples. Row 0 belongs to the first target, row 1 to the second."""
    classes = logits.data.shape[1]
    q = np.full((len(targets), classes), label_smoothing / classes)
    q[:, targets] += 1 - label_smoothing
    return _loss(logits, targets, label_smoothing, q=q)


@cross_entropy.mistake
def logarithm_of_softmax(logits, targets, label_smoothing=0.0):
    """You take the logarithm of the probabilities, and where one underflows to 0 the loss is infinite (or nan, as 0 times infinity). Use log_softmax."""
    return _loss(logits, targets, label_smoothing, log_p=np.log(_p(logits.data)))


@cross_entropy.mistake
def loss_with_a_plus(logits, targets, label_smoothing=0.0):
    """Your loss has the wrong sign. Logarithms of probabilities are negative, and the loss must be positive: it is *minus* their mean."""
    return _loss(logits, targets, label_smoothing, lambda q, log_p: (q * log_p).sum() / len(targets))


@cross_entropy.mistake
def p_changed_in_backward(logits, targets, label_smoothing=0.0):
    """The first backward pass is right and the second is not: your backward changes the stored probabilities, with -= or an assignment into them. It must leave alone what it needs again."""
    q, log_p = _q(targets, logits.data.shape[1], label_smoothing), _log_p(logits.data)
    p = np.exp(log_p)

    def backward(grad):
        np.subtract(p, q, out=p)
        logits.grad += grad * p / len(targets)

    return Tensor(-(q * log_p).sum() / len(targets), (logits,), backward)
