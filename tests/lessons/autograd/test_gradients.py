"""The lesson autograd.gradients: its functions against closed forms and torch, and its checks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.autograd import gradients
from groundup.autograd.gradients import central_difference, gradcheck, jacobian, slopes_through, step_for
from groundup.check import grade
from tests.lessons.edits import edited

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


@pytest.mark.parametrize(("name", "slip"), [(name, slip) for name in SLIPS for slip in SLIPS[name]])
def test_reply_can_be_read(name, slip):
    old, new, said = slip
    result = grade(f"autograd.gradients.{name}", edited(gradients, name, (old, new)), seed=0)
    if said is None:
        assert result.status == "passed", result.message
    else:
        assert result.status == "failed"
        assert any(words in result.message for words in said.split("|")), result.message


def root(x):
    return np.cbrt(np.finfo(x.dtype).eps) * np.maximum(1, np.abs(x))


def whole_number_of_gaps(x):  # of the gaps at x; the gaps at x + h may be wider
    gap = np.spacing(np.maximum(np.abs(x), 1))
    return (np.round(root(x) / gap) * gap).astype(x.dtype)


def jacobian_with(steps):
    def learners(f, x):
        nudges = zip(np.diag(steps(x)), steps(x), strict=True)
        return np.stack([(f(x + nudge) - f(x - nudge)) / (2 * h) for nudge, h in nudges], axis=1)

    return learners


def entry_by_entry(f, x):
    steps, J = step_for(x), np.zeros((len(f(x)), len(x)), x.dtype)
    for i, j in np.ndindex(*J.shape):
        nudge = np.zeros_like(x)
        nudge[j] = steps[j]
        J[i, j] = (f(x + nudge)[i] - f(x - nudge)[i]) / (2 * steps[j])
    return J


def nudged_and_put_back(f, x):
    columns = []
    for j, h in enumerate(step_for(x)):
        kept = x[j]
        x[j] = kept + h
        up = f(x)
        x[j] = kept - h
        down = f(x)
        x[j] = kept
        columns.append((up - down) / (2 * h))
    return np.stack(columns, axis=1)


def by_columns(f, x):
    one, steps = np.eye(len(x), dtype=x.dtype), step_for(x)
    return np.column_stack(
        [
            central_difference(lambda t, j=j: f(x + t * one[j]), x.dtype.type(0), h)
            for j, h in enumerate(steps)
        ]
    )


def into_an_array(f, x):
    J = None
    for j, h in enumerate(step_for(x)):
        up, down = x.copy(), x.copy()
        up[j] += h
        down[j] -= h
        column = (f(up) - f(down)) / (2 * h)
        J = np.empty((len(column), len(x)), x.dtype) if J is None else J
        J[:, j] = column
    return J


def slopes_by_differences(x, y, h=1e-5):
    def slope(f, a):
        return (f(a + h) - f(a - h)) / (2 * h)

    def f(u, v):
        return u**3 + v**2 + 4 * u * v

    u, v = x * y, x - y
    return (
        slope(lambda u: f(u, v), u),
        slope(lambda v: f(u, v), v),
        slope(lambda x: f(x * y, x - y), x),
        slope(lambda y: f(x * y, x - y), y),
    )


def slopes_in_x_and_y_alone(x, y):
    u, v = x * y, x - y
    grad_x = 3 * x**2 * y**3 + 2 * v + 8 * u - 4 * y**2
    grad_y = 3 * x**3 * y**2 - 2 * v + 4 * x**2 - 8 * u
    return [3 * u**2 + 4 * v, 2 * v + 4 * u, grad_x, grad_y]


EPS = np.finfo(np.float64).eps


def referee(allowed, within=lambda error, got, allowed: error <= allowed, worst=False, arguments=9):
    """A gradcheck that allows `allowed(expected, got, value, x, all the expected)`."""

    def learners(f, grad, *inputs):
        value, everything = f(*inputs), []
        for argument, x in enumerate(inputs):

            def along(row, argument=argument, shape=x.shape):
                return np.array([f(*inputs[:argument], row.reshape(shape), *inputs[argument + 1 :])])

            everything.append(jacobian(along, x.ravel()).reshape(x.shape))
        claims = grad(*inputs)[:arguments]
        for argument, (x, got) in enumerate(zip(inputs, claims, strict=False)):
            expected = everything[argument]
            room = np.broadcast_to(allowed(expected, got, value, x, everything), x.shape)
            error = np.abs(got - expected)
            bad = [i for i in np.ndindex(*x.shape) if not within(error[i], got[i], room[i])]
            if bad:
                i = max(bad, key=lambda i: error[i]) if worst else bad[0]
                words = f"{f.__name__}, argument {argument}, index {i}"
                raise AssertionError(f"{words}: got {got[i]}, expected {expected[i]}")

    return learners


def largest(expected):
    return np.abs(expected).max()


def rounding(value, x, times=10):
    return times * EPS * abs(value) / step_for(x)


def usual(expected, got, value, x, everything):
    return 1e-6 * largest(expected) + rounding(value, x)


WRONG = {
    "central_difference": {
        "own step": lambda f, x, h: (f(x + 1e-5) - f(x - 1e-5)) / 2e-5,
        "one step for all": lambda f, x, h: (f(x + np.mean(h)) - f(x - np.mean(h))) / (2 * np.mean(h)),
        "half the step": lambda f, x, h: (f(x + h / 2) - f(x - h / 2)) / h,
        "in float64": lambda f, x, h: central_difference(f, np.asarray(x, float), np.asarray(h, float)),
    },
    "step_for": {
        "constant": lambda x: np.full_like(x, 6e-6),
        "2^17 gaps": lambda x: np.spacing(x) * 2.0**17,
        "no size": lambda x: np.cbrt(np.finfo(x.dtype).eps) * x / x,
        "whole number of gaps": whole_number_of_gaps,
        "arrives on the other side": lambda x: x - (x - root(x)),
        "power of two": lambda x: (2.0 ** np.round(np.log2(root(x).astype(float)))).astype(x.dtype),
        "smooth maximum": lambda x: (x + np.cbrt(np.finfo(x.dtype).eps) * np.sqrt(1 + x * x)) - x,
        "arrives in float64": lambda x: ((x + root(x).astype(float)) - x).astype(x.dtype),
    },
    "slopes_through": {"differences": slopes_by_differences},
    "jacobian": {
        "all at once": lambda f, x: (f(x + 1e-6) - f(x - 1e-6))[:, None] / 2e-6 * np.ones_like(x),
        "diagonal": lambda f, x: np.diag((f(x + 1e-6) - f(x - 1e-6)) / 2e-6),
        "entry by entry": entry_by_entry,
        "put back": nudged_and_put_back,
        "longest step": jacobian_with(lambda x: np.full_like(x, step_for(x).max())),
        "step without 1": jacobian_with(
            lambda x: np.cbrt(np.finfo(x.dtype).eps) * np.where(x == 0, 1, np.abs(x))
        ),
    },
    "gradcheck": {
        "loose": referee(lambda e, g, v, x, all_: 1.9e-3 * largest(e) + rounding(v, x)),
        "largest of all arguments": referee(
            lambda e, g, v, x, all_: 1e-6 * max(map(largest, all_)) + rounding(v, x)
        ),
        "median": referee(lambda e, g, v, x, all_: 1e-6 * np.median(np.abs(e)) + rounding(v, x)),
        "largest of the row": referee(
            lambda e, g, v, x, all_: 1e-6 * np.abs(e).max(axis=-1, keepdims=True) + rounding(v, x)
        ),
        "size of the maximum": referee(lambda e, g, v, x, all_: 1e-6 * abs(e.max()) + rounding(v, x)),
        "size of the sum": referee(lambda e, g, v, x, all_: 1e-6 * abs(e.sum()) + rounding(v, x)),
        "largest claim": referee(
            lambda e, g, v, x, all_: 1e-6 * max(largest(e), np.nanmax(np.append(0, abs(g)))) + rounding(v, x)
        ),
        "step of 1": referee(lambda e, g, v, x, all_: 1e-6 * largest(e) + 3.7e-10 * abs(v)),
        "longest step": referee(lambda e, g, v, x, all_: 1e-6 * largest(e) + rounding(v, x).min()),
        "shortest step": referee(lambda e, g, v, x, all_: 1e-6 * largest(e) + rounding(v, x).max()),
        "a thousand roundings": referee(lambda e, g, v, x, all_: 1e-6 * largest(e) + rounding(v, x, 1000)),
        "rounding of 1": referee(lambda e, g, v, x, all_: 1e-6 * largest(e) + rounding(1, x)),
        "tiny floor": referee(lambda *case: usual(*case) + 1e-12),
        "infinity": referee(usual, lambda error, got, room: error <= room or np.isinf(got)),
        "strictly": referee(usual, lambda error, got, room: error < room),
        "worst instead of first": referee(usual, worst=True),
        "two arguments": referee(usual, arguments=2),
    },
}
RIGHT = {
    "central_difference": {
        "mean of both sides": lambda f, x, h: 0.5 * ((f(x + h) - f(x)) / h + (f(x) - f(x - h)) / h),
        "measured distance": lambda f, x, h: (f(x + h) - f(x - h)) / ((x + h) - (x - h)),
    },
    "step_for": {
        "clip": lambda x: np.subtract(x + np.finfo(x.dtype).eps ** (1 / 3) * np.clip(np.abs(x), 1, None), x),
        "where": lambda x: (x + np.where(abs(x) < 1, 1, abs(x)) * np.cbrt(np.spacing(x.dtype.type(1)))) - x,
    },
    "slopes_through": {"in x and y": slopes_in_x_and_y_alone},
    "jacobian": {"columns": by_columns, "array": into_an_array, "diagonal nudges": jacobian_with(step_for)},
    "gradcheck": {
        "length": referee(lambda e, g, v, x, all_: 1e-6 * np.linalg.norm(e) + rounding(v, x, 4)),
        "larger of both": referee(lambda e, g, v, x, all_: np.maximum(1e-5 * largest(e), rounding(v, x, 20))),
        "half a thousandth": referee(lambda e, g, v, x, all_: 5e-4 * largest(e) + rounding(v, x, 2)),
        "mean": referee(lambda e, g, v, x, all_: 1e-6 * np.abs(e).mean() + rounding(v, x)),
    },
}


def columns_of(column, steps=step_for):
    """A Jacobian from `column(f, x, j, h)`, with h all the steps."""
    return lambda f, x: np.stack([column(f, x, j, steps(x)) for j in range(len(x))], axis=1)


def unit(x, j):
    return (np.arange(len(x)) == j).astype(x.dtype)


def central_at(f, x, nudge, divisor):
    return (f(x + nudge) - f(x - nudge)) / divisor


def aliased(f, x, j, h):
    plus = x
    plus[j] += h[j]
    minus = x
    minus[j] -= h[j]
    return (f(plus) - f(minus)) / (2 * h[j])


def aliased_with_a_run_between(f, x, j, h):
    plus = x
    plus[j] += h[j]
    up = f(plus)
    minus = x
    minus[j] -= h[j]
    return (up - f(minus)) / (2 * h[j])


def chain(x, y, grad_u, grad_v):
    return grad_u, grad_v, grad_u * y + grad_v, grad_u * x - grad_v


def larger(x):
    return np.maximum(1, np.abs(x))


def over(error, got, allowed):
    return not error > allowed


def part_of(factor, rounds=0, of=lambda e, g: largest(e)):
    return lambda e, g, v, x, all_: factor * of(e, g) + rounding(v, x, rounds)


# What newcomers wrote, and the name of the mistake that the reply must recognise.
NAMED = {
    "central_difference": [
        ("only_the_second_value_divided", lambda f, x, h: f(x + h) - f(x - h) / (2 * h)),
        ("half_the_step", lambda f, x, h: (f(x + h / 2) - f(x - h / 2)) / h),
    ],
    "step_for": [
        ("a_third_of_eps", lambda x: (x + np.finfo(x.dtype).eps ** 1 / 3 * larger(x)) - x),
        ("a_third_of_eps_and_not_what_arrives", lambda x: np.finfo(x.dtype).eps ** 1 / 3 * larger(x)),
        ("pythons_max", lambda x: (x + np.cbrt(np.finfo(x.dtype).eps) * max(1, abs(x))) - x),
        ("pythons_max_and_not_what_arrives", lambda x: np.cbrt(np.finfo(x.dtype).eps) * max(1, abs(x))),
        ("everything_in_float64", lambda x: (x + np.finfo(float).eps ** (1 / 3) * larger(x)) - x),
        (
            "everything_in_float64_and_not_what_arrives",
            lambda x: np.finfo(float).eps ** (1 / 3) * larger(x),
        ),
    ],
    "slopes_through": [
        ("x_and_y_for_u_and_v", lambda x, y: chain(x, y, 3 * x**2 + 4 * y, 2 * y + 4 * x)),
        (
            "cross_term_kept_whole",
            lambda x, y: chain(
                x, y, 3 * (x * y) ** 2 + 4 * x * y * (x - y), 2 * (x - y) + 4 * x * y * (x - y)
            ),
        ),
    ],
    "jacobian": [
        (
            "all_the_steps_for_one_column",
            columns_of(lambda f, x, j, h: central_at(f, x, h * unit(x, j), 2 * h)),
        ),
        (
            "divided_by_the_nudge",
            columns_of(lambda f, x, j, h: central_difference(f, x, h * unit(x, j))),
        ),
        ("two_names_for_the_input", columns_of(aliased)),
        ("second_name_for_the_input", columns_of(aliased_with_a_run_between)),
        ("one_nudge_for_everything", lambda f, x: central_difference(f, x, step_for(x))),
    ],
    "gradcheck": [
        (name, referee(part_of(factor, rounds), *within))
        for factor in (1e-8, 1e-7, 3e-6, 1e-5, 1e-4, 1e-3)
        for name, rounds, within in (
            ("no_room_for_rounding", 0, ()),
            ("nan_is_accepted", 10, (over,)),
            ("nan_is_accepted", 100, (over,)),
            ("nan_is_accepted_and_no_room_for_rounding", 0, (over,)),
        )
    ]
    + [
        ("no_room_for_rounding", referee(lambda e, g, v, x, all_: 1e-4 * largest(e) + EPS * abs(v))),
        ("each_slope_for_itself", referee(part_of(1e-3, 10, lambda e, g: np.abs(e)))),
        ("each_slope_for_itself_without_rounding", referee(part_of(1e-4, 0, lambda e, g: np.abs(e)))),
        ("largest_slope_of_the_formula", referee(part_of(1e-4, 10, lambda e, g: largest(g)))),
        ("largest_slope_of_the_formula_without_rounding", referee(part_of(1e-3, 0, lambda e, g: largest(g)))),
    ],
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("name", "mistake", "answer"), [(name, *case) for name in NAMED for case in NAMED[name]]
)
def test_what_newcomers_write_is_recognised(name, mistake, answer):
    for seed in range(3):
        result = grade(f"autograd.gradients.{name}", answer, seed=seed)
        assert result.mistake == mistake, result.message


TOLERANCES = {  # not recognised by name; what the reply must say all the same
    "a fixed number besides": (lambda e, g, v, x, all_: usual(e, g, v, x, all_) + 1e-9, "a fixed number?"),
    "1 + largest": (lambda e, g, v, x, all_: 1e-4 * (1 + largest(e)), "a fixed number?"),
    "a fixed number, and rounding": (lambda e, g, v, x, all_: 1e-5 + rounding(v, x), "a fixed number?"),
}


@pytest.mark.parametrize("name", TOLERANCES)
def test_a_wrong_tolerance_is_explained(name):
    allowed, said = TOLERANCES[name]
    for seed in range(3):
        message = grade("autograd.gradients.gradcheck", referee(allowed), seed=seed).message
        assert said in message, message


def each(answers):
    return [
        pytest.param(name, answer, id=f"{name}-{label}")
        for name, labelled in answers.items()
        for label, answer in labelled.items()
    ]


@pytest.mark.parametrize(("name", "answer"), each(WRONG))
def test_wrong_answers_are_refused(name, answer):
    for seed in range(3):
        assert grade(f"autograd.gradients.{name}", answer, seed=seed).status in ("failed", "error")


@pytest.mark.parametrize(("name", "answer"), each(RIGHT))
def test_right_answers_written_differently_pass(name, answer):
    for seed in range(10):
        result = grade(f"autograd.gradients.{name}", answer, seed=seed)
        assert result.status == "passed", result.message
