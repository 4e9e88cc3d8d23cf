"""The lesson autograd.tensors: its engine against torch on programs that hypothesis makes up, and its checks."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.autograd import tensors
from groundup.autograd.tensors import Tensor, index_gradient, matmul_gradients, spread, unbroadcast
from groundup.check import grade
from tests.lessons.edits import edited

# Every operation, on the latest result u of any shape: (ours or torch's, a random generator) → the next result.
# Programs run twice with generators of one seed, so that both engines are asked for the same.


def constant(u, array):
    return torch.tensor(array) if isinstance(u, torch.Tensor) else array


def stretched_shape(rng, shape):
    """A shape that broadcasts with `shape`: shorter, with ones, or with one axis more."""
    sizes = [1 if rng.random() < 0.4 else n for n in shape]
    sizes = sizes[rng.integers(len(sizes) + 1) :]
    return (
        tuple(sizes)
        if rng.random() < 0.7 or len(shape) > 3
        else (2, *([1] * (len(shape) - len(sizes))), *sizes)
    )


def other(u, rng):
    return constant(u, rng.normal(size=stretched_shape(rng, tuple(u.shape))))


def some_axis(u, rng):
    """None, one axis or several, of either sign."""
    n = len(u.shape)
    if n == 0 or rng.random() < 0.2:
        return None
    axes = rng.permutation(n)[: rng.integers(1, n + 1)]
    axes = [int(k) - n * int(rng.integers(2)) for k in axes]
    return axes[0] if len(axes) == 1 else tuple(axes)


def reduce(u, rng, name):
    axis, keepdims = some_axis(u, rng), bool(rng.integers(2))
    if isinstance(u, Tensor):
        return getattr(u, name)(axis=axis, keepdims=keepdims)
    axes = tuple(range(u.ndim)) if axis is None else axis
    function = {"sum": torch.sum, "mean": torch.mean, "max": torch.amax}[name]
    return function(u, dim=axes, keepdim=keepdims)


def reshape(u, rng):
    size = math.prod(u.shape)
    divisors = [d for d in range(1, size + 1) if size % d == 0] or [1]
    first = int(rng.choice(divisors))
    return u.reshape(first, -1) if size else u.reshape(tuple(u.shape))


def transpose(u, rng):
    axes = [int(k) for k in rng.permutation(len(u.shape))]
    return u.transpose(*axes) if isinstance(u, Tensor) else u.permute(axes)


def index(u, rng):
    """Rows that repeat, a slice, or pairs."""
    if not u.shape:
        return u + 1
    kind, n = rng.integers(4), u.shape[0]
    rows = rng.integers(-n, n, size=int(rng.integers(1, 5)))
    if kind == 0:
        return u[rows.tolist()]
    if kind == 1:
        return u[int(rows[0]) :]
    if kind == 2 or len(u.shape) == 1:
        return u[np.stack([rows, rows]) % n] if len(u.shape) < 4 else u[int(rows[0])]
    return u[rows, rng.integers(u.shape[1], size=len(rows))]


def matmul(u, rng):
    if len(u.shape) < 2:
        return u * 2
    batch = (2,) if len(u.shape) == 2 and rng.random() < 0.3 else ()
    if rng.random() < 0.5:
        return u @ constant(u, rng.normal(size=(*batch, u.shape[-1], 2)))
    return constant(u, rng.normal(size=(*batch, 3, u.shape[-2]))) @ u


STEPS = {
    "+": lambda u, rng: u + other(u, rng),
    "reflected +": lambda u, rng: other(u, rng) + u,
    "-": lambda u, rng: u - other(u, rng),
    "reflected -": lambda u, rng: 1 - u,
    "array - u": lambda u, rng: other(u, rng) - u,
    "*": lambda u, rng: u * other(u, rng),
    "reflected *": lambda u, rng: other(u, rng) * u,
    "u * u": lambda u, rng: u * u,
    "neg": lambda u, rng: -u,
    "/": lambda u, rng: u / (other(u, rng) ** 2 + 1),
    "reflected /": lambda u, rng: 2 / (u * u + 1),
    "**": lambda u, rng: (u * u + 1) ** -1.5,
    "exp": lambda u, rng: (-(u**2)).exp(),
    "log": lambda u, rng: (u**2 + 1).log(),
    "tanh": lambda u, rng: u.tanh(),
    "relu": lambda u, rng: u.relu(),
    "matmul": matmul,
    "sum": lambda u, rng: reduce(u, rng, "sum"),
    "mean": lambda u, rng: reduce(u, rng, "mean"),
    "max": lambda u, rng: reduce(u, rng, "max"),
    "reshape": reshape,
    "transpose": transpose,
    "index": index,
}

shapes = st.lists(st.integers(1, 4), max_size=3).map(tuple)
programs = st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=8)


def run(program, u, seed):
    """Every step's result; each enters the final sum, so that nodes are shared."""
    rng, total = np.random.default_rng(seed), 0.0
    for name in program:
        u = STEPS[name](u, rng)
        if float(abs(u.data).max()) > 5:
            u = u.tanh()
        total = total + (u * u).sum() + u.mean()
        if math.prod(u.shape) > 300 or len(u.shape) > 4:
            u = u.sum(0)
    return total


@settings(max_examples=120, deadline=None)
@given(shapes, programs, st.integers(0, 2**32 - 1))
def test_values_and_gradients_equal_torch(shape, program, seed):
    start = np.random.default_rng(seed + 1).normal(size=shape)
    ours, theirs = Tensor(start.copy()), torch.tensor(start, requires_grad=True)
    result, expected = run(program, ours, seed), run(program, theirs, seed)
    result.backward()
    expected.backward()
    assert result.data == pytest.approx(expected.item(), rel=1e-10, abs=1e-10)
    wanted = theirs.grad.numpy()
    np.testing.assert_allclose(
        ours.grad, wanted, rtol=1e-8, atol=1e-9 * max(1.0, np.abs(wanted).max(initial=0))
    )
    assert (ours.data == start).all()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=4), st.integers(0, 2**32 - 1))
def test_unbroadcast_is_the_adjoint_of_broadcasting(large, seed):
    rng = np.random.default_rng(seed)
    shape = tuple(1 if rng.random() < 0.5 else n for n in large)[rng.integers(len(large) + 1) :]
    b, g = rng.normal(size=shape), rng.normal(size=np.broadcast_shapes(shape, tuple(large)))
    back = unbroadcast(g, shape)
    assert back.shape == shape
    assert (b * back).sum() == pytest.approx((b * g).sum(), abs=1e-10)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.booleans(), st.integers(0, 2**32 - 1))
def test_spread_is_the_adjoint_of_sum(shape, keepdims, seed):
    rng = np.random.default_rng(seed)
    axis = tuple(int(k) for k in rng.permutation(len(shape))[: rng.integers(len(shape) + 1)])
    x = rng.normal(size=shape)
    total = x.sum(axis=axis, keepdims=keepdims)
    g = rng.normal(size=total.shape)
    assert (x * spread(g, tuple(shape), axis)).sum() == pytest.approx((total * g).sum(), abs=1e-10)


def test_gradients_of_the_matrix_product_in_float32_stay_float32():
    a, b = np.ones((2, 3), np.float32), np.ones((5, 3, 4), np.float32)
    assert [g.dtype for g in matmul_gradients(a, b, a @ b)] == [np.float32] * 2


def test_index_gradient_keeps_every_share():
    ids = np.random.default_rng(0).integers(7, size=500)
    assert (index_gradient(np.ones(500), ids, (7,)) == np.bincount(ids, minlength=7)).all()


def test_equal_maxima_share_as_in_torch():
    numbers = [[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]
    ours, theirs = Tensor(numbers), torch.tensor(numbers, dtype=torch.float64, requires_grad=True)
    (ours.max(axis=1) * np.array([1.0, 6.0])).sum().backward()
    (torch.amax(theirs, 1) * torch.tensor([1.0, 6.0])).sum().backward()
    np.testing.assert_allclose(ours.grad, theirs.grad.numpy())


def test_leaves_add_up_over_calls_and_inner_nodes_do_not():
    x = Tensor([1.0, 2.0])
    s = x * 2
    loss = (s * s).sum()
    for call in (1, 2):
        loss.backward()
        assert (s.grad == 2 * s.data).all()
        assert (x.grad == call * 8 * x.data).all()


def test_what_is_refused():
    with pytest.raises(ValueError, match="one number"):
        Tensor([1.0, 2.0]).backward()
    with pytest.raises(TypeError):
        Tensor([1.0]) ** Tensor([2.0])
    with pytest.raises(ValueError, match="two axes"):
        Tensor([1.0]) @ Tensor([[1.0]])


def test_arrays_on_the_left_make_tensors():
    x, array = Tensor(np.ones((2, 2))), np.full((2, 2), 3.0)
    for result in (array + x, array - x, array * x, array / x, array @ x):
        assert type(result) is Tensor
    assert (array - x).data[0, 0] == 2.0


# A learner's slip, as an edit of the course's version, and what the reply must say or the mistake that it must name.
SLIPS = [
    ("unbroadcast", "return grad", "grad", "Is a return missing?"),
    ("unbroadcast", "extra + k for", "k for", "offset_forgotten"),
    ("unbroadcast", ".reshape(shape)", "", "dropped_axes_of_size_one"),
    ("spread", "return np.broadcast_to", "np.broadcast_to", "Is a return missing?"),
    ("spread", "values.reshape(kept)", "values", "left_to_broadcasting"),
    ("matmul_gradients", "return unbroadcast", "unbroadcast", "Is a return missing?"),
    (
        "Tensor",
        "return Tensor(self.data * other.data",
        "Tensor(self.data * other.data",
        "`x * y` returned None",
    ),
    ("Tensor", "np.maximum(self.data, 0), (self,)", "np.maximum(self.data, 0), (self)", "comma: (self,)"),
    ("Tensor", "self.data @ other.data, (self, other)", "self.data @ other.data, ()", "has no parents"),
    ("Tensor", "unbroadcast(grad * other.data, self.shape)", "grad * other.data", "x * y"),
    (
        "Tensor",
        "self.data * other.data, (self, other)",
        "self.data * other.data, (self,)",
        "do not lead to y",
    ),
    (
        "Tensor",
        "self.data @ other.data, (self, other)",
        "self.data @ other.data, (self,)",
        "do not lead to y",
    ),
    ("Tensor", "keepdims=keepdims), (self,)", "keepdims=False), (self,)", "sum_ignores_keepdims"),
    ("Tensor", "np.argsort(axes)", "axes", "transpose_back_by_the_same_order"),
    ("Tensor", "spread(grad, self.shape, axis)\n", "spread(grad, self.shape)\n", "x.sum"),
    ("Tensor", "grad.reshape(self.shape)", "grad", "reshape_not_undone"),
    ("Tensor", "self.data.reshape(*shape)", "self.data.reshape(shape)", "reshape_given_a_tuple_in_a_tuple"),
    ("Tensor", "grad.reshape(self.shape)", "grad.reshape(shape)", "reshape_back_to_the_new_shape"),
    ("Tensor", "(self.data > 0) * grad", "np.maximum(self.data, 0) * grad", "relu_multiplies_by_its_result"),
    (
        "Tensor",
        "return Tensor(np.maximum(self.data, 0), (self,), backward)",
        "self.data[self.data < 0] = 0; return Tensor(self.data, (self,), backward)",
        "`x.relu()` changed the numbers in x.data",
    ),
    (
        "Tensor",
        "matmul_gradients(self.data, other.data, grad)",
        "grad @ other.data.T, self.data.T @ grad",
        "product_by_reversing_every_axis",
    ),
    ("matmul_gradients", ", -1, -2)", ", 0, 1)", "exchanged_the_first_two_axes"),
    ("index_gradient", "np.add.at(out, index, grad)", "out[index] += grad", "repeated_places_keep_one_share"),
    (
        "index_gradient",
        "np.add.at(out, index, grad)",
        "return np.add.at(out, index, grad)",
        "nothing_returned",
    ),
    ("index_gradient", "return out", "return None", "Is a return missing?"),
]


def unbroadcast_without_keepdims(grad, shape):
    grad = grad.sum(axis=tuple(range(grad.ndim - len(shape))))
    for k, n in enumerate(shape):
        if n == 1:
            grad = grad.sum(axis=k)
    return grad


def unbroadcast_by_folding(grad, shape):
    return grad.reshape(-1, *shape).sum(0)


def spread_one_axis_after_another(values, shape, axis=None):
    for k in axes_of(shape, axis):
        values = np.expand_dims(values, k)
    return np.broadcast_to(values, shape)


def index_gradient_in_a_loop(grad, index, shape):
    out = np.zeros(shape, grad.dtype)
    for p in range(len(index)):
        out[index[p]] += grad[p]
    return out


def index_gradient_in_a_loop_over_pairs(grad, index, shape):
    out = np.zeros(shape)
    for place, share in zip(index, grad):  # noqa: B905
        out[place] = out[place] + share
    return out


def test_slips_written_otherwise_are_named():
    for wrong, mistake in (
        (unbroadcast_without_keepdims, "lost_each_axis_while_summing"),
        (unbroadcast_by_folding, "folded_by_reshape"),
        (spread_with_sorted_axes_only, "axes_put_back_in_the_given_order"),
        (spread_one_axis_after_another, "added_axes_one_by_one_even_if_there"),
        (index_gradient_in_a_loop, "looped_over_the_index_by_counting"),
        (index_gradient_in_a_loop_over_pairs, "looped_over_the_index_in_pairs_in_float64"),
    ):
        name = "index_gradient" if wrong.__name__.startswith("index") else wrong.__name__.split("_")[0]
        assert grade(f"autograd.tensors.{name}", wrong, seed=0).mistake == mistake


def test_a_backward_that_reads_the_grad_of_its_result_is_told():
    swap = (
        "return Tensor(np.maximum(self.data, 0), (self,), backward)",
        "out = Tensor(np.maximum(self.data, 0), (self,), backward); return out",
    )
    learners = edited(tensors, "Tensor", swap, ("(self.data > 0) * grad", "(self.data > 0) * out.grad"))
    assert "do you read `result.grad`?" in grade("autograd.tensors.Tensor", learners, seed=0).message


@pytest.mark.parametrize("slip", SLIPS)
def test_reply_can_be_read(slip):
    name, old, new, said = slip
    result = grade(f"autograd.tensors.{name}", edited(tensors, name, (old, new)), seed=0)
    assert result.status in ("failed", "error")
    assert said in result.message or said == result.mistake, (result.mistake, result.message)


# -- wrong answers that are right for easy inputs ------------------------------------------------------------------------


def axes_of(shape, axis):
    every = range(len(shape))
    return list(every) if axis is None else [every[k] for k in np.atleast_1d(axis)]


def unbroadcast_at_most_two_axes(grad, shape):
    extra = grad.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(extra + k for k, n in enumerate(shape) if n == 1)
    return grad.sum(axis=axes[:2]).reshape(shape)


def unbroadcast_without_empty_arrays(grad, shape):
    return grad.reshape(-1, *grad.shape).sum(axis=0) if 0 in shape else unbroadcast(grad, shape)


def unbroadcast_float32_or_float64(grad, shape):
    return unbroadcast(grad if grad.dtype == np.float64 else grad.astype(np.float32), shape)


def spread_with_sorted_axes_only(values, shape, axis=None):
    if values.ndim < len(shape):
        for k in axes_of(shape, axis):
            values = np.expand_dims(values, k)
    return np.broadcast_to(values, shape)


def spread_that_takes_any_1_for_a_kept_axis(values, shape, axis=None):
    if 1 not in values.shape:
        values = np.expand_dims(values, tuple(axes_of(shape, axis)))
    return np.broadcast_to(values, shape)


def matmul_gradients_b_without_its_ones(a, b, grad):
    grad_b = np.swapaxes(a, -1, -2) @ grad
    return matmul_gradients(a, b, grad)[0], grad_b.sum(axis=tuple(range(grad_b.ndim - b.ndim)))


def add_at(grad, index, shape, once):
    out = np.zeros(shape, grad.dtype)
    if once:
        out[index] += grad
    else:
        np.add.at(out, index, grad)
    return out


def index_gradient_lists_keep_one_share(grad, index, shape):
    return add_at(grad, index, shape, isinstance(index, list))


def index_gradient_tuples_of_lists_keep_one_share(grad, index, shape):
    return add_at(grad, index, shape, isinstance(index, tuple) and any(isinstance(k, list) for k in index))


def index_gradient_three_axes_keep_one_share(grad, index, shape):
    return add_at(grad, index, shape, isinstance(index, tuple) and len(index) == 3)


def index_gradient_matrix_of_true_and_false(grad, index, shape):
    return add_at(grad * (np.ndim(index) < 2 or np.asarray(index).dtype != bool), index, shape, False)


WRONG = [
    unbroadcast_at_most_two_axes,
    unbroadcast_without_empty_arrays,
    unbroadcast_float32_or_float64,
    spread_with_sorted_axes_only,
    spread_that_takes_any_1_for_a_kept_axis,
    matmul_gradients_b_without_its_ones,
    index_gradient_lists_keep_one_share,
    index_gradient_tuples_of_lists_keep_one_share,
    index_gradient_three_axes_keep_one_share,
    index_gradient_matrix_of_true_and_false,
]
MUL = "return Tensor(self.data * other.data, (self, other), backward)"
WRONG_TENSORS = {
    "parent is a copy": [(MUL, MUL.replace("other),", "Tensor(other.data)),"))],
    "the same parent twice": [(MUL, MUL.replace("(self, other)", "(self, self)"))],
    "shares from the result's grad, not from the argument": [
        (MUL, MUL.replace("return", "out =") + "\n        return out"),
        ("grad * other.data", "out.grad * other.data"),
        ("grad * self.data", "out.grad * self.data"),
    ],
    "relu changes its argument": [
        ("self.grad += (self.data > 0) * grad", "grad *= self.data > 0; self.grad += grad")
    ],
    "relu stops at 6": [("np.maximum(self.data, 0)", "np.clip(self.data, 0, 6)")],
    "relu's bend is not at 0": [("self.data > 0)", "self.data > 0.01)")],
    "one number times an array": [
        (
            "unbroadcast(grad * other.data, self.shape)",
            "(grad * other.data).mean() if self.shape == () else unbroadcast(grad * other.data, self.shape)",
        )
    ],
    "a batch of one": [
        ("self.grad += grad_a", "g = grad @ np.swapaxes(other.data, -1, -2); self.grad += g"),
    ],
    "keepdims only for one axis": [
        ("axis, keepdims=keepdims), (self", "axis, keepdims=keepdims and not isinstance(axis, tuple)), (self")
    ],
    "transpose back by twice the order": [
        ("np.argsort(axes)", "[axes[k] for k in axes] if len(axes) == 3 and axes[0] == 2 else axes")
    ],
}


@pytest.mark.parametrize("wrong", WRONG)
def test_right_for_easy_inputs_only(wrong):
    name = next(
        n
        for n in ("unbroadcast", "spread", "matmul_gradients", "index_gradient")
        if wrong.__name__.startswith(n)
    )
    for seed in range(3):
        assert grade(f"autograd.tensors.{name}", wrong, seed=seed).status in ("failed", "error")


@pytest.mark.parametrize("name", WRONG_TENSORS)
def test_wrong_tensors_are_refused(name):
    for seed in range(3):
        result = grade("autograd.tensors.Tensor", edited(tensors, "Tensor", *WRONG_TENSORS[name]), seed=seed)
        assert result.status in ("failed", "error")


# -- right answers written differently -----------------------------------------------------------------------------------


def unbroadcast_cell_by_cell(grad, shape):
    out, extra = np.zeros(shape, grad.dtype), grad.ndim - len(shape)
    for place in np.ndindex(grad.shape):
        out[tuple(0 if n == 1 else k for k, n in zip(place[extra:], shape, strict=True))] += grad[place]
    return out


def spread_by_repeating(values, shape, axis=None):
    if values.ndim < len(shape):
        values = np.expand_dims(values, tuple(axes_of(shape, axis)))
    for k in axes_of(shape, axis):
        values = values.repeat(shape[k], axis=k)
    return values


def matmul_gradients_by_einsum(a, b, grad):
    grad_a, grad_b = np.einsum("...ik,...jk->...ij", grad, b), np.einsum("...ij,...ik->...jk", a, grad)
    return [unbroadcast(grad_a, a.shape), unbroadcast(grad_b, b.shape)]


def index_gradient_by_one_hot(grad, index, shape):
    places = np.ravel(np.arange(math.prod(shape)).reshape(shape)[index])
    return (np.eye(math.prod(shape), dtype=grad.dtype)[places].T @ np.ravel(grad)).reshape(shape)


RELU = """def backward(grad):
            self.grad += (self.data > 0) * grad

        return Tensor(np.maximum(self.data, 0), (self,), backward)"""
RIGHT_TENSORS = {
    "rebinds grad": [("self.grad += ", "self.grad = self.grad + ")],
    "relu is a product": [(RELU, "return self * (self.data > 0)")],
    "relu by where": [("(self.data > 0) * grad", "np.where(self.data > 0, grad, 0)")],
    "inverse order by index": [("np.argsort(axes)", "[axes.index(k) for k in range(len(axes))]")],
    "moveaxis": [("grad.transpose(np.argsort(axes))", "np.moveaxis(grad, range(grad.ndim), axes)")],
    "parents in another order, once each": [("(self, other), backward", "tuple({other, self}), backward")],
    "copies": [("self.data.reshape(*shape)", "self.data.reshape(*shape).copy()")],
}


@pytest.mark.parametrize(
    "right",
    [unbroadcast_cell_by_cell, spread_by_repeating, matmul_gradients_by_einsum, index_gradient_by_one_hot],
)
def test_right_answers_written_differently_pass(right):
    name = right.__name__.split("_by_")[0].removesuffix("_cell")
    for seed in range(3):
        result = grade(f"autograd.tensors.{name}", right, seed=seed)
        assert result.passed, result.message


@pytest.mark.parametrize("name", RIGHT_TENSORS)
def test_right_tensors_pass(name):
    for seed in range(3):
        result = grade("autograd.tensors.Tensor", edited(tensors, "Tensor", *RIGHT_TENSORS[name]), seed=seed)
        assert result.passed, result.message
