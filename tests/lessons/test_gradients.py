"""The lesson autograd.gradients: its functions against closed forms and torch, and its checks."""

import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.autograd import gradients
from groundup.autograd.gradients import central_difference, gradcheck, jacobian, slopes_through, step_for
from groundup.check import exercises_of, grade

numbers = st.floats(-3, 3, allow_subnormal=False)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**31))
def test_jacobian_equals_torch(outputs, inputs, seed):
    rng = np.random.default_rng(seed)
    A, B, x = rng.normal(size=(outputs, inputs)), rng.normal(size=(outputs, inputs)), rng.normal(size=inputs)
    ours = jacobian(lambda x: np.tanh(A @ x) * np.sin(B @ x), x)
    A, B = torch.from_numpy(A), torch.from_numpy(B)
    theirs = torch.autograd.functional.jacobian(
        lambda x: torch.tanh(A @ x) * torch.sin(B @ x), torch.from_numpy(x)
    )
    assert ours.shape == (outputs, inputs)
    assert np.abs(ours - theirs.numpy()).max() < 1e-7


@settings(max_examples=50, deadline=None)
@given(numbers, numbers)
def test_chain_rule_is_the_product_of_jacobians(x, y):
    grad_u, grad_v, grad_x, grad_y = slopes_through(x, y)
    inner = jacobian(lambda p: np.array([p[0] * p[1], p[0] - p[1]]), np.array([x, y]))
    expected = np.array([grad_u, grad_v]) @ inner
    size = max(1.0, abs(grad_u), abs(grad_v))
    assert np.abs(expected - [grad_x, grad_y]).max() < 1e-7 * size


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_step_is_near_the_best_of_all_steps(dtype):
    """The error of the slope of exp is within a factor of 30 of the best that any step reaches."""
    x, eps = dtype(1), float(np.finfo(dtype).eps)
    step = step_for(np.array([x]))[0]
    error = abs(float(central_difference(np.exp, x, step)) / np.e - 1)
    assert step.dtype == dtype
    assert error < 10 * eps ** (2 / 3)


# name: (f, its gradient, a wrong gradient, inputs)
rng = np.random.default_rng(0)
FORMULAS = {
    "product": (
        lambda a, b: (a * b).sum(),
        lambda a, b: [b, a],
        lambda a, b: [a, b],
        rng.normal(size=(2, 2, 3)),
    ),
    "norm": (
        lambda a: np.sqrt((a**2).sum()),
        lambda a: [a / np.sqrt((a**2).sum())],
        lambda a: [a],
        rng.normal(size=(1, 4)),
    ),
    "exp": (
        lambda a: np.exp(a).sum(),
        lambda a: [np.exp(a)],
        lambda a: [1.001 * np.exp(a)],
        rng.normal(size=(1, 3)),
    ),
    "softplus": (
        lambda a: np.log1p(np.exp(a)).sum(),
        lambda a: [1 / (1 + np.exp(-a))],
        lambda a: [1 / (1 + np.exp(a))],
        rng.normal(size=(1, 2, 2)),
    ),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_gradcheck_equals_torchs(name):
    f, right, wrong, inputs = FORMULAS[name]

    def verdicts(grad):
        class ByHand(torch.autograd.Function):
            @staticmethod
            def forward(ctx, *inputs):
                ctx.save_for_backward(*inputs)
                return torch.tensor(f(*(x.numpy() for x in inputs)), dtype=torch.float64)

            @staticmethod
            def backward(ctx, arriving):
                slopes = grad(*(x.numpy() for x in ctx.saved_tensors))
                return tuple(arriving * torch.tensor(slope) for slope in slopes)

        try:
            gradcheck(f, grad, *inputs)
            ours = True
        except AssertionError:
            ours = False
        leaves = tuple(torch.tensor(x, requires_grad=True) for x in inputs)
        strict = torch.autograd.gradcheck(ByHand.apply, leaves, atol=1e-7, rtol=1e-5, raise_exception=False)
        return ours, strict

    assert verdicts(right) == (True, True)
    assert verdicts(wrong) == (False, False)


@settings(max_examples=50, deadline=None)
@given(st.integers(-12, 12), st.sampled_from([1.0, 1.01, -1.0]))
def test_units_do_not_change_the_verdict(power, factor):
    unit, w = 10.0**power, np.array([0.3, -1.2, 2.5])
    try:
        gradcheck(lambda w: unit * (w**2).sum(), lambda w: [factor * unit * 2 * w], w)
        accepted = True
    except AssertionError:
        accepted = False
    assert accepted == (factor == 1.0)


def test_a_wrong_shape_is_refused():
    with pytest.raises(AssertionError, match="shape"):
        gradcheck(lambda w: (w**2).sum(), lambda w: [2 * w[:, None]], np.array([1.0, 2.0]))


EXERCISES = {exercise.id: exercise for exercise in exercises_of("autograd.gradients")}
MISTAKES = {f"{e.name}-{m.name}": (e, m) for e in EXERCISES.values() for m in e.mistakes}


@pytest.mark.parametrize("id", EXERCISES)
def test_solution_passes_on_many_seeds(id):
    for seed in range(20):
        result = grade(id, getattr(gradients, id.split(".")[-1]), seed=seed)
        assert result.status == "passed", result.message


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_named(name):
    exercise, mistake = MISTAKES[name]
    for seed in range(3):
        result = grade(exercise, mistake.obj, seed=seed)
        assert result.status in ("failed", "error")
        assert result.mistake == mistake.name, result.message


@pytest.mark.parametrize("id", EXERCISES)
@pytest.mark.parametrize("wrong", [None, 3, lambda *inputs: None, lambda *inputs: [], type("Empty", (), {})])
def test_nonsense_is_refused(id, wrong):
    assert grade(id, wrong, seed=0).status in ("failed", "error", "todo")


# A learner's slip, as an edit of the course's version, and what the reply must say.
SLIPS = {
    "central_difference": [("return (f(x", "(f(x", "You returned None")],
    "step_for": [
        ("return (x + h) - x", "return (x - h) - x", "The step at [0]|expected"),
        ("np.maximum(1, np.abs(x))", "np.maximum(0.5, np.abs(x))", "expected"),
    ],
    "slopes_through": [
        ("return grad_u, grad_v, grad_x, grad_y", "return grad_x, grad_y", "You must return four numbers"),
        ("return grad_u, grad_v, grad_x, grad_y", "return None", "You returned None. Is a return missing?"),
        ("grad_x = grad_u * y", "grad_x = 2 * grad_u * y", "For grad_x, you returned"),
    ],
    "jacobian": [
        ("return np.stack(columns, axis=1)", "return columns", "You returned a list"),
        ("return np.stack", "np.stack", "You returned None"),
    ],
    "gradcheck": [
        ('f"got {got[index]}', 'f"have {got[index]}', "The message should read like"),
        (
            'argument {argument}, index {index}: "',
            'argument {argument + 1}, index {index}: "',
            "the argument is 1",
        ),
        ("1e-6 * np.abs", "0.1 * np.abs", "You accept a wrong gradient: at argument"),
        ("+ 10 * rounding", "+ 0 * rounding", "You refuse a right|rounding"),
        ("{f.__name__}", "it", "the function is it"),
        ("1e-6 * np.abs(expected).max()", "1e-6 * np.abs(expected).sum()", None),  # as good
    ],
}


def slipped(name, old, new):
    source = inspect.getsource(getattr(gradients, name))
    assert old in source
    learners = dict(vars(gradients))
    exec(source.replace(old, new), learners)
    return learners[name]


@pytest.mark.parametrize(("name", "slip"), [(name, slip) for name in SLIPS for slip in SLIPS[name]])
def test_reply_can_be_read(name, slip):
    old, new, said = slip
    result = grade(f"autograd.gradients.{name}", slipped(name, old, new), seed=0)
    if said is None:
        assert result.status == "passed", result.message
    else:
        assert result.status == "failed"
        assert any(words in result.message for words in said.split("|")), result.message


WRONG_FOR_HARD_INPUTS = {
    "central_difference": [lambda f, x, h: (f(x + 1e-5) - f(x - 1e-5)) / 2e-5],
    "step_for": [
        lambda x: np.full_like(x, 6e-6),
        lambda x: np.spacing(x) * 2.0**17,
        lambda x: np.cbrt(np.finfo(x.dtype).eps) * x / x,
    ],
    "jacobian": [
        lambda f, x: (f(x + 1e-6)[:, None] - f(x - 1e-6)[:, None]) / 2e-6 * np.ones_like(x),
        lambda f, x: np.diag((f(x + 1e-6) - f(x - 1e-6)) / 2e-6),
    ],
}


@pytest.mark.parametrize(
    ("name", "wrong"), [(name, wrong) for name, list_ in WRONG_FOR_HARD_INPUTS.items() for wrong in list_]
)
def test_shortcuts_are_refused(name, wrong):
    assert grade(f"autograd.gradients.{name}", wrong, seed=0).status in ("failed", "error")
