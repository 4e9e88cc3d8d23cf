"""The lesson autograd.tensors: its engine against torch on programs that hypothesis makes up, and its checks."""

import inspect
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.autograd import tensors
from groundup.autograd.tensors import Tensor, index_gradient, matmul_gradients, spread, unbroadcast
from groundup.check import exercises_of, grade

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


EXERCISES = {exercise.id: exercise for exercise in exercises_of("autograd.tensors")}
MISTAKES = {f"{e.name}-{m.name}": (e, m) for e in EXERCISES.values() for m in e.mistakes}


@pytest.mark.parametrize("id", EXERCISES)
def test_solution_passes_on_many_seeds(id):
    for seed in range(10):
        result = grade(id, getattr(tensors, id.split(".")[-1]), seed=seed)
        assert result.status == "passed", result.message


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_named(name):
    exercise, mistake = MISTAKES[name]
    for seed in range(2):
        result = grade(exercise, mistake.obj, seed=seed)
        assert result.status in ("failed", "error")  # an error, where the mistake is an exception
        assert result.mistake == mistake.name, result.message


@pytest.mark.parametrize("id", EXERCISES)
@pytest.mark.parametrize("wrong", [None, 3, lambda *inputs: None, lambda *inputs: [], type("Empty", (), {})])
def test_nonsense_is_refused(id, wrong):
    assert grade(id, wrong, seed=0).status in ("failed", "error", "todo")


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
    ("Tensor", "np.argsort(axes)", "axes", "transpose_back_by_the_same_order"),
    ("Tensor", "spread(grad, self.shape, axis)\n", "spread(grad, self.shape)\n", "x.sum"),
    ("Tensor", "grad.reshape(self.shape)", "grad", "reshape_not_undone"),
    ("index_gradient", "np.add.at(out, index, grad)", "out[index] += grad", "repeated_places_keep_one_share"),
    ("index_gradient", "return out", "return None", "Is a return missing?"),
]


@pytest.mark.parametrize("slip", SLIPS)
def test_reply_can_be_read(slip):
    name, old, new, said = slip
    source = inspect.getsource(getattr(tensors, name))
    assert old in source
    learners = dict(vars(tensors))
    exec(source.replace(old, new), learners)
    result = grade(f"autograd.tensors.{name}", learners[name], seed=0)
    assert result.status in ("failed", "error")
    assert said in result.message or said == result.mistake, (result.mistake, result.message)
