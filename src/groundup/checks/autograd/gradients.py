"""Checks for the lesson autograd.gradients.

A function is described by a text such as ``"x[0] * x[1], sin(x[1])"``. The same text runs on NumPy, for the
learner, and on torch's float64 tensors, so that slopes come from torch and a failing case can be read.

An observation that is a text is a sentence for the learner: there was nothing to compare.
"""

import re
from collections.abc import Callable

import numpy as np
import torch

from groundup.check import Case, Exercise, compare

NUMPY = {name: getattr(np, name) for name in ("exp", "sin", "cos", "tanh", "log", "sum")}
TORCH = {name: getattr(torch, name) for name in ("exp", "sin", "cos", "tanh", "log", "sum")}


def away_from_zero(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Numbers of both signs between 0.5 and 2 in size."""
    return rng.uniform(0.5, 2.0, shape) * rng.choice([-1.0, 1.0], shape)


# ------------------------------------------------------------------------------------ central_difference

central_difference = Exercise("autograd.gradients.central_difference")

# What a central difference gives on paper, whatever the size of the step.
ON_PAPER = {
    "x**2": lambda x, h: 2 * x,
    "3 + 0 * x": lambda x, h: 0 * x,
    "x**3": lambda x, h: 3 * x**2 + h**2,
    "1 / x": lambda x, h: -1 / (x**2 - h**2),
    "exp(x)": lambda x, h: np.exp(x) * np.sinh(h) / h,
    "sin(x)": lambda x, h: np.cos(x) * np.sin(h) / h,
}


@central_difference.cases
def _(rng):
    for formula in ("x**3", "x**2", "1 / x", "exp(x)", "sin(x)"):
        x = float(rng.uniform(1.2, 2.5))
        yield Case(f"f(x) = {formula}", f=formula, x=x, h=float(rng.uniform(0.1, 0.4)))
    yield Case("a negative x", f="x**3", x=-float(rng.uniform(1.2, 2.5)), h=0.25)
    yield Case("a constant function", f="3 + 0 * x", x=x, h=0.25)
    yield Case("a small step", f="exp(x)", x=float(rng.uniform(0.3, 1)), h=1e-3)
    yield Case("a step of 1", f="x**3", x=float(rng.uniform(1.2, 2.5)), h=1.0)
    yield Case("a step of 1/2", f="x**3", x=float(rng.uniform(1.2, 2.5)), h=0.5)
    yield Case(
        "three places, each with its step", f="exp(x)", x=rng.uniform(0.3, 1, 3), h=rng.uniform(0.1, 0.4, 3)
    )
    single = rng.uniform(0.5, 1, (2, 2)).astype(np.float32)
    yield Case("float32", f="exp(x)", x=single, h=single / 2)


@central_difference.observe
def _(obj, f, x, h):
    return obj(lambda x: eval(f, NUMPY, {"x": x}), x, h)


@central_difference.oracle
def _(f, x, h):
    return ON_PAPER[f](x, h)


@central_difference.mistake
def forward(f, x, h):
    """This is the forward difference, from x to x + h. Its error falls only as h. Step to both sides of x: then the terms with even powers of h cancel, and the error falls as h²."""
    return (f(x + h) - f(x)) / h


@central_difference.mistake
def backward(f, x, h):
    """You measured from x - h to x: a one-sided difference, whose error falls only as h. Step to both sides of x."""
    return (f(x) - f(x - h)) / h


@central_difference.mistake
def divided_by_h(f, x, h):
    """Your slope is twice too large. The two places are 2h apart, and you divided by h."""
    return (f(x + h) - f(x - h)) / h


@central_difference.mistake
def missing_brackets(f, x, h):
    """You divided by 2 and then multiplied by h: Python reads a / 2 * h as (a / 2) * h. Put 2 * h in brackets."""
    return (f(x + h) - f(x - h)) / 2 * h


@central_difference.mistake
def only_the_second_value_divided(f, x, h):
    """You divided only f(x - h): Python divides before it subtracts. Put brackets round the whole difference of the two values, then divide."""
    return f(x + h) - f(x - h) / (2 * h)


@central_difference.mistake
def half_the_step(f, x, h):
    """You stepped h/2 to each side. That is a central difference too, but h is the step to each side here: from x - h to x + h, and divide by 2h."""
    return (f(x + h / 2) - f(x - h / 2)) / h


@central_difference.mistake
def from_right_to_left(f, x, h):
    """Your slope has the wrong sign. Going from x - h to x + h, the change is the value at the end minus the value at the start."""
    return (f(x - h) - f(x + h)) / (2 * h)


@central_difference.mistake
def half_of_the_forward(f, x, h):
    """You stepped from x to x + h, and divided by 2h. Either step to both sides, or divide by h; the central difference does the first."""
    return (f(x + h) - f(x)) / (2 * h)


@central_difference.mistake
def never_divided(f, x, h):
    """You returned the change of f. A slope is the change divided by the distance, 2h."""
    return f(x + h) - f(x - h)


# ---------------------------------------------------------------------------------------------- step_for

step_for = Exercise("autograd.gradients.step_for")


@step_for.cases
def _(rng):
    yield Case("a number below 1 and one above", x=np.array([0.3, 20.0]) + rng.uniform(0, 0.1, 2))
    yield Case("negative numbers", x=-np.array([0.4, 7.0, 900.0]) - rng.uniform(0, 0.1, 3))
    yield Case("a zero among others", x=np.array([0.0, 0.5, -3.0]) * rng.uniform(0.9, 1.1))
    yield Case("a grid", x=rng.normal(size=(2, 3)) * 10)
    yield Case("very large and very small", x=np.array([1e9, 1e-9, -1e5]) * rng.uniform(1, 2, 3))
    yield Case("float32", x=(rng.normal(size=6) * 5).astype(np.float32))
    yield Case("float32, a grid", x=(rng.normal(size=(3, 2)) * 300).astype(np.float32))
    yield Case("float16", x=np.array([0.3, -2.7, 40.0], np.float16) * np.float16(rng.uniform(1, 2)))
    # At a power of two the gaps double, so a step that arrives on one side of x need not arrive on the other.
    for dtype in (np.float64, np.float32):
        x = 2.0 ** np.arange(12) * (1 + 0.1 * np.cbrt(np.finfo(dtype).eps) * rng.uniform(-1, 1, 12))
        yield Case(f"{dtype.__name__}, close to powers of two", x=x.astype(dtype))
    yield Case("every second number of a row", x=(rng.normal(size=8) * 4)[::2])
    yield Case("a single number", x=rng.normal(size=1) * 3)
    yield Case("zeros only", x=np.zeros(2))
    yield Case("no numbers", x=np.zeros(0))


@step_for.oracle
def _(x):
    eps = float(torch.finfo(getattr(torch, x.dtype.name)).eps)
    steps = np.empty_like(x)
    for index in np.ndindex(*x.shape):
        here = float(x[index])
        there = x.dtype.type(here + eps ** (1 / 3) * max(1.0, abs(here)))  # rounded to a number of this dtype
        steps[index] = float(there) - here
    return steps


@step_for.agree
def _(got, expected):
    if not isinstance(expected, np.ndarray) or not isinstance(got, np.ndarray):
        return compare(got, expected)
    # The last digit of x may fall either way: in the step, that is eps^(2/3) of it.
    allowed = 4 * float(np.finfo(expected.dtype).eps) ** (2 / 3) if expected.dtype.kind == "f" else None
    if difference := compare(got, expected, tolerance=allowed):
        return difference
    for index in np.ndindex(*got.shape):
        if not abs(float(got[index]) - float(expected[index])) <= allowed * abs(float(expected[index])):
            where = ", ".join(map(str, index))
            return f"The step at [{where}] is {got[index]:.6g}, expected {expected[index]:.6g}."
    return None


@step_for.property
def the_step_arrives(obj, x):
    """x + step is rounded, so that a step other than yours is taken (rule 3). Return the step that arrives: what is left of the rounded sum x + h when you subtract x."""
    h = obj(x)
    return not isinstance(h, np.ndarray) or h.shape != x.shape or bool(np.all((x + h) - x == h))


def _arrived(x, h):
    return ((x + h) - x).astype(x.dtype)


def _root(x):
    return np.cbrt(np.finfo(x.dtype).eps)


@step_for.mistake
def not_the_step_that_arrives(x):
    """Your h is not the step that is taken (rule 3): x + h is rounded to a number of this dtype. Return the difference between this rounded sum and x."""
    return _root(x) * np.maximum(1, np.abs(x))


@step_for.mistake
def square_root(x):
    """You took the square root of eps. That is the step for a forward difference; the error of a central one falls as h², so it does best with a longer step, the cube root."""
    return _arrived(x, np.sqrt(np.finfo(x.dtype).eps) * np.maximum(1, np.abs(x)))


@step_for.mistake
def eps_itself(x):
    """You took eps itself as the step, without the cube root. That is the gap to the next number: f changes by a few gaps at most, and the slope is all rounding."""
    return _arrived(x, np.finfo(x.dtype).eps * np.maximum(1, np.abs(x)))


@step_for.mistake
def a_third_of_eps(x):
    """Your step is eps divided by 3: Python reads eps ** 1/3 as (eps ** 1) / 3. The cube root is eps ** (1/3), or np.cbrt(eps)."""
    return _arrived(x, np.finfo(x.dtype).eps / 3 * np.maximum(1, np.abs(x)))


@step_for.mistake
def a_third_of_eps_and_not_what_arrives(x):
    """Your step is eps divided by 3: Python reads eps ** 1/3 as (eps ** 1) / 3. The cube root is eps ** (1/3), or np.cbrt(eps). And it must be the step that arrives (rule 3)."""
    return np.finfo(x.dtype).eps / 3 * np.maximum(1, np.abs(x))


@step_for.mistake
def pythons_max(x):
    """Python's max picks one of two things as a whole, so it cannot compare an array with 1. np.maximum(1, array) does it number by number."""
    return _arrived(x, _root(x) * max(1, np.abs(x)))


@step_for.mistake(shape=True)  # it raises, or is not what arrives
def pythons_max_and_not_what_arrives(x):
    """Python's max picks one of two things as a whole, so it cannot compare an array with 1. np.maximum(1, array) does it number by number. And return the step that arrives (rule 3)."""
    return _root(x) * max(1, np.abs(x))


@step_for.mistake
def same_step_everywhere(x):
    """Your step does not grow with x. The gap between floating-point numbers does, so at a large x your step is only a few gaps long, or less than one (rule 2)."""
    return _arrived(x, _root(x) * np.ones_like(x))


@step_for.mistake
def vanishes_at_zero(x):
    """You multiplied by |x| alone, so the step vanishes near 0, and at 0 you would divide by zero. Multiply by max(1, |x|)."""
    return _arrived(x, _root(x) * np.abs(x))


@step_for.mistake
def sign_kept(x):
    """You forgot the absolute value: for a negative x, max(1, x) is 1 however large the number is. Its size |x| decides."""
    return _arrived(x, _root(x) * np.maximum(1, x))


@step_for.mistake
def one_maximum_for_all(x):
    """You took one maximum over the whole array, so a small number gets the long step of its largest neighbour. Each number has a step of its own: np.maximum compares number by number."""
    return _arrived(x, _root(x) * np.maximum(1, np.abs(x).max()) * np.ones_like(x))


@step_for.mistake
def one_added(x):
    """You multiplied by 1 + |x|. The rule says max(1, |x|): the larger of the two, not their sum."""
    return _arrived(x, _root(x) * (1 + np.abs(x)))


@step_for.mistake
def eps_of_float64(x):
    """You used the eps of float64 for every dtype. float32 and float16 have fewer digits, and such a short step drowns in their rounding: ask np.finfo(x.dtype)."""
    h = np.cbrt(np.finfo(np.float64).eps) * np.maximum(1, np.abs(x.astype(np.float64)))
    return _arrived(x, h.astype(x.dtype))


@step_for.mistake
def everything_in_float64(x):
    """You asked np.finfo(float), the eps of float64, so for float32 the step is far too short, and a float64 too. Do not convert it: ask for the eps of x's own dtype (rule 1)."""
    return (x + np.cbrt(np.finfo(float).eps) * np.maximum(1, np.abs(x))) - x


@step_for.mistake
def everything_in_float64_and_not_what_arrives(x):
    """You asked np.finfo(float), the eps of float64, so for float32 the step is far too short, and a float64 too. Ask for the eps of x's own dtype (rule 1), and return the step that arrives (rule 3)."""
    return np.cbrt(np.finfo(float).eps) * np.maximum(1, np.abs(x))


# ---------------------------------------------------------------------------------------- slopes_through

slopes_through = Exercise("autograd.gradients.slopes_through")


@slopes_through.cases
def _(rng):
    def two():
        return [float(number) for number in away_from_zero(rng, 2)]

    x, y = two()
    yield Case("two numbers", x=x, y=y)
    yield Case("x and y are equal: v is 0", x=x, y=x)
    yield Case("y is 1", x=x, y=1.0)
    yield Case("y is 0: u is 0", x=x, y=0.0)
    yield Case("x is 0: u is 0", x=0.0, y=y)
    yield Case("x and y are 0", x=0.0, y=0.0)
    u = (8 - 52**0.5) / 6
    v = (1 - 4 * u) / 2
    y = ((v**2 + 4 * u) ** 0.5 - v) / 2
    yield Case("grad_u and grad_v are 1", x=y + v, y=y)
    for _ in range(3):
        x, y = two()
        yield Case("two random numbers", x=3 * x, y=2 * y)


SLOPES = ("grad_u", "grad_v", "grad_x", "grad_y")


@slopes_through.observe
def _(obj, x, y):
    returned = obj(x, y)
    if returned is None:
        return "You returned None. Is a return missing?"
    if not isinstance(returned, list | tuple) or len(returned) != 4:
        return "You must return four numbers: grad_u, grad_v, grad_x, grad_y."
    return dict(zip(SLOPES, returned, strict=True))


@slopes_through.oracle
def _(x, y):
    x, y = (torch.tensor(number, dtype=torch.float64, requires_grad=True) for number in (x, y))
    u, v = x * y, x - y
    slopes = torch.autograd.grad(u**3 + v**2 + 4 * u * v, [u, v, x, y])
    return dict(zip(SLOPES, (slope.item() for slope in slopes), strict=True))


@slopes_through.agree
def _(got, expected):
    if isinstance(got, str) or isinstance(expected, str):
        return None if got == expected else str(got)
    for name in SLOPES:
        if difference := compare(got[name], expected[name]):
            return f"For {name}, {difference}"
    return None


def _chain(x, y, outer):
    grad_u, grad_v = outer(x * y, x - y)
    return grad_u, grad_v, grad_u * y + grad_v, grad_u * x - grad_v


def _outer(x, y):
    u, v = x * y, x - y
    return 3 * u**2 + 4 * v, 2 * v + 4 * u


@slopes_through.mistake
def cross_term_forgotten(x, y):
    """You left out the term 4uv. It contains both letters, so it has a slope in each: with v held still it is a number times u, and the other way round."""
    return _chain(x, y, lambda u, v: (3 * u**2, 2 * v))


@slopes_through.mistake
def cross_term_swapped(x, y):
    """In the term 4uv you kept the wrong letter. Its slope in u is what u is multiplied by, 4v; its slope in v is 4u."""
    return _chain(x, y, lambda u, v: (3 * u**2 + 4 * u, 2 * v + 4 * v))


@slopes_through.mistake
def cross_term_kept_whole(x, y):
    """You kept the term 4uv as it is. The letter that moves drops out: with v held still, 4uv is the number 4v times u, so its slope in u is 4v; in v it is 4u."""
    return _chain(x, y, lambda u, v: (3 * u**2 + 4 * u * v, 2 * v + 4 * u * v))


@slopes_through.mistake
def x_and_y_for_u_and_v(x, y):
    """You wrote x and y where u and v belong. f is made of u and v, so its slopes in u and v are formulas in u = x * y and v = x - y."""
    grad_u, grad_v = 3 * x**2 + 4 * y, 2 * y + 4 * x
    return grad_u, grad_v, grad_u * y + grad_v, grad_u * x - grad_v


@slopes_through.mistake
def other_letters_terms_kept(x, y):
    """You kept a term without the letter that moves: v² in grad_u, u³ in grad_v. What does not move has slope 0."""
    return _chain(x, y, lambda u, v: (3 * u**2 + v**2 + 4 * v, u**3 + 2 * v + 4 * u))


@slopes_through.mistake
def minus_lost(x, y):
    """For grad_y you added grad_v. But v = x - y shrinks when y grows: its slope in y is -1."""
    grad_u, grad_v = _outer(x, y)
    return grad_u, grad_v, grad_u * y + grad_v, grad_u * x + grad_v


@slopes_through.mistake
def product_slopes_swapped(x, y):
    """You took x as the slope of u = x * y in x. The slope of a product in one factor is the other factor: if y is 10, moving x by 1 moves u by 10."""
    grad_u, grad_v = _outer(x, y)
    return grad_u, grad_v, grad_u * x + grad_v, grad_u * y - grad_v


@slopes_through.mistake
def only_the_road_through_u(x, y):
    """You followed only the road through u. x and y also make v, and v moves f too: roads add."""
    grad_u, grad_v = _outer(x, y)
    return grad_u, grad_v, grad_u * y, grad_u * x


@slopes_through.mistake
def inner_slopes_alone(x, y):
    """For grad_x and grad_y you added the inner slopes, those of u and v, without the outer ones. Along a road slopes multiply: how strongly u moves f times how strongly x moves u."""
    return *_outer(x, y), y + 1, x - 1


@slopes_through.mistake
def roads_without_the_inner_slopes(x, y):
    """For grad_x and grad_y you added the outer slopes, without the inner ones. Along a road slopes multiply: how strongly u moves f times how strongly x moves u."""
    grad_u, grad_v = _outer(x, y)
    return grad_u, grad_v, grad_u + grad_v, grad_u - grad_v


# ---------------------------------------------------------------------------------------------- jacobian

jacobian = Exercise("autograd.gradients.jacobian")


@jacobian.cases
def _(rng):
    def some(n):
        return away_from_zero(rng, n)

    yield Case("two inputs, two outputs", f="x[0] * x[1], x[0] - x[1]", x=some(2))
    yield Case("two inputs, three outputs", f="sin(x[0]), x[0] * x[1]**2, exp(x[1])", x=some(2))
    yield Case("three inputs, two outputs", f="x[0] * x[1] * x[2], x[0]**3 - 2 * x[2]", x=some(3))
    yield Case("one output", f="x[0]**2 * x[1] + tanh(x[2]),", x=some(3))
    yield Case("one input", f="x[0]**2, exp(x[0]), 3 * x[0]", x=some(1))
    yield Case("one of each", f="exp(x[0]),", x=some(1))
    yield Case("an output that ignores an input", f="x[0]**2, x[1]**3", x=some(2))
    yield Case("two constants", f="3 + 0 * x[0], 5 - 0 * x[1]", x=some(2))
    yield Case("an input of 0", f="x[0] * x[1] + exp(x[0]), x[1]**2", x=some(2) * np.array([0.0, 1.0]))
    yield Case("a large and a small input", f="x[0]**2 / 1e5, exp(x[1])", x=some(2) * [1e5, 1.0])
    yield Case("a small and a large input", f="exp(x[0]), x[1]**2 / 1e5", x=some(2) * [1.0, 1e5])
    single = rng.uniform(1, 2, 3).astype(np.float32)
    yield Case("float32", f="x[0] * x[1], sin(x[0]), x[1]**2 + x[2]**3", x=single)
    yield Case("float32, larger numbers", f="x[0]**2, x[0] * x[1] + x[2], x[1]**2", x=50 * single)
    yield Case("every second number of a row", f="x[0] * x[1]**2, sin(x[1]) * x[2]", x=some(6)[::2])
    # Not drawn: here adding a step and taking it off again does not lead back, so that a changed input shows at any seed.
    near = np.array([1.3e-6, some(1)[0]])
    yield Case("an input near 0", f="exp(x[0]) + x[1], x[0] * x[1]", x=near)
    yield Case("f hands back a part of its input", f="x[1:]", x=some(3))


def _outputs(f):
    def outputs(x):
        values = eval(f, NUMPY, {"x": x})
        return np.stack(values) if isinstance(values, tuple) else values

    return outputs


@jacobian.observe
def _(obj, f, x):
    return obj(_outputs(f), x)


@jacobian.oracle
def _(f, x):
    wide = torch.tensor(x, dtype=torch.float64)

    def outputs(x):
        values = eval(f, TORCH, {"x": x})
        return torch.stack(values) if isinstance(values, tuple) else values.clone()

    return torch.autograd.functional.jacobian(outputs, wide).numpy().astype(x.dtype)


@jacobian.agree
def _(got, expected):
    # Central differences reach eps^(2/3), 4e-11 or 2e-5, times how strongly these functions bend.
    single = any(getattr(value, "dtype", None) == np.float32 for value in (got, expected))
    return compare(got, expected, tolerance=3e-4 if single else 1e-8)


@jacobian.property
def two_runs_for_each_input(obj, f, x):
    """Your matrix is right, but you ran f more often than twice for each input. A nudge changes all outputs at once: one pair of runs gives a whole column, not one entry."""
    runs, outputs = [], _outputs(f)
    obj(lambda x: runs.append(1) or outputs(x), x)
    return len(runs) <= 2 * len(x) + 2  # one or two more, to see how many outputs there are


def _steps(x):
    return (x + np.cbrt(np.finfo(x.dtype).eps) * np.maximum(1, np.abs(x))) - x


def _columns(f, x, column, steps=None):
    """Column j from `column(x + nudge, x - nudge, h)`."""
    columns = []
    for j, h in enumerate(_steps(x) if steps is None else steps):
        nudge = np.zeros_like(x)
        nudge[j] = h
        columns.append(column(x + nudge, x - nudge, h))
    return columns


@jacobian.mistake
def transposed(f, x):
    """Your matrix is transposed. A nudge of one input gives one column: the rows belong to the outputs. np.stack without axis=1 puts what you collected into rows."""
    return np.stack(_columns(f, x, lambda up, down, h: (f(up) - f(down)) / (2 * h)))


@jacobian.mistake
def forward_differences(f, x):
    """You nudged to one side only. A forward difference with this step has an error of the order of h; step to both sides."""
    return np.stack(_columns(f, x, lambda up, down, h: (f(up) - f(x)) / h), axis=1)


@jacobian.mistake
def divided_by_one_step(f, x):
    """Every slope is twice too large: x + nudge and x - nudge are two steps apart, and you divided by one."""
    return np.stack(_columns(f, x, lambda up, down, h: (f(up) - f(down)) / h), axis=1)


@jacobian.mistake
def half_of_the_slopes(f, x):
    """Every slope is half of what it should be. Either you divided a one-sided step by 2h, or both nudges went into one array: up by h and back down again, so that you compared x + h with x itself."""
    return np.stack(_columns(f, x, lambda up, down, h: (f(up) - f(x)) / (2 * h)), axis=1)


@jacobian.mistake
def one_step_for_all(f, x):
    """You nudged every input by the same step. A large number needs a long step and a small one a short step: steps[j] belongs to input j."""
    steps = [_steps(x)[0]] * len(x)
    return np.stack(_columns(f, x, lambda up, down, h: (f(up) - f(down)) / (2 * h), steps), axis=1)


@jacobian.mistake
def down_minus_up(f, x):
    """Your slopes have the wrong sign. The change is the value after the nudge up, minus the value after the nudge down."""
    return np.stack(_columns(f, x, lambda up, down, h: (f(down) - f(up)) / (2 * h)), axis=1)


@jacobian.mistake
def all_inputs_at_once(f, x):
    """You nudged all inputs at once, so each slope is the sum of a whole row. Move one input and hold the others still."""
    h = _steps(x)
    return np.stack([(f(x + h) - f(x - h)) / (2 * step) for step in h], axis=1)


@jacobian.mistake
def two_names_for_one_array(f, x):
    """All your slopes are 0. `up = x` and `down = x` make no copies: both are names for one array, so you compared f with itself. Make new arrays, as x + nudge does."""
    return np.stack(_columns(f, x, lambda up, down, h: f(x) - f(x)), axis=1)


@jacobian.mistake
def two_names_for_the_input(f, x):
    """All your slopes are 0. `plus = x` makes no copy: plus, minus and x are names for one array, so what you added was taken off again. Make new arrays, as x + nudge does."""
    columns = []
    for j, h in enumerate(_steps(x)):
        plus = x
        plus[j] += h
        minus = x
        minus[j] -= h
        columns.append((f(plus) - f(minus)) / (2 * h))
    return np.stack(columns, axis=1)


@jacobian.mistake
def second_name_for_the_input(f, x):
    """Your slopes are half of what they should be. `plus = x` and `minus = x` make no copies: taking h off minus only undoes what plus got, so you compared x + h with x. Make new arrays, as x + nudge does."""
    columns = []
    for j, h in enumerate(_steps(x)):
        plus = x
        plus[j] += h
        up = f(plus)
        minus = x
        minus[j] -= h
        columns.append((up - f(minus)) / (2 * h))
    return np.stack(columns, axis=1)


@jacobian.mistake
def all_the_steps_for_one_column(f, x):
    """You divided a column by 2 * h with all the steps in h, so each output was divided by the step of another input. The whole column of input j is divided by 2 * h[j]."""
    h = _steps(x)
    return np.stack(_columns(f, x, lambda up, down, _: (f(up) - f(down)) / (2 * h)), axis=1)


@jacobian.mistake
def divided_by_the_nudge(f, x):
    """You divided by the whole nudge, an array that is 0 everywhere but at place j, so there is a division by 0. Divide the column by the one number 2 * h[j]."""
    with np.errstate(all="ignore"):
        columns = _columns(f, x, lambda up, down, _: (f(up) - f(down)) / (up - down))
    return np.stack(columns, axis=1)


@jacobian.mistake(shape=True)
def one_nudge_for_everything(f, x):
    """You nudged all inputs at once, by x + h with the whole array h, so there is only one number for each output. Move one input at a time: each gives one column."""
    h = _steps(x)
    return (f(x + h) - f(x - h)) / (2 * h)


@jacobian.mistake
def one_array_nudged_up_and_down(f, x):
    """You nudged one array up and, in place, down again. When f hands back a part of its input, the result of the first run changes along with it. Give each run an array of its own."""
    nudged, columns = x.copy(), []
    for j, h in enumerate(_steps(x)):
        nudged[j] = x[j] + h
        up = f(nudged)
        nudged[j] = x[j] - h
        columns.append((up - f(nudged)) / (2 * h))
        nudged[j] = x[j]
    return np.stack(columns, axis=1)


@jacobian.mistake(shape=True)  # the input is changed in every case
def never_put_back(f, x):
    """You nudged x itself and did not put it back. The caller's array is changed, and each column is measured at a place that the nudges before have moved. x + nudge makes a new array."""
    columns = []
    for j, h in enumerate(_steps(x)):
        x[j] += h
        up = f(x)
        x[j] -= 2 * h
        columns.append((up - f(x)) / (2 * h))
    return np.stack(columns, axis=1)


def _fixed(step):
    def mistake(f, x):
        steps = [x.dtype.type(step)] * len(x)
        with np.errstate(all="ignore"):
            return np.stack(_columns(f, x, lambda up, down, h: (f(up) - f(down)) / (2 * h), steps), axis=1)

    mistake.__name__ = f"a_fixed_step_of_{step:g}".replace("-", "_minus_")
    mistake.__doc__ = (
        f"You used a step of {step:g} for every input. It does not fit every number and dtype: in float32, or where x is "
        "large, the slope drowns in rounding. Ask step_for(x)."
    )
    return mistake


for _step in (1e-5, 1e-6, 1e-8):
    jacobian.mistake(_fixed(_step))


@jacobian.mistake(shape=True)
def row_lost(f, x):
    """For a function with one output you returned a plain row. Its Jacobian is still a matrix, with one row: shape (1, n)."""
    J = np.stack(_columns(f, x, lambda up, down, h: (f(up) - f(down)) / (2 * h)), axis=1)
    return J[0] if len(J) == 1 else J


# --------------------------------------------------------------------------------------------- gradcheck

gradcheck = Exercise("autograd.gradients.gradcheck")

HEAD = re.compile(r"(\w+)\((.*)\) = (.*)")
WORDS = re.compile(r"(\w+), argument (\d+), index \(([\d, ]*)\): got (\S+), expected (\S+)")
NAN = float("nan")


@gradcheck.cases
def _(rng):
    def case(label, f, grad, *inputs, added=None):
        return Case(label, f=f, grad=grad, inputs=inputs, added=added)

    def some(*shape):
        return away_from_zero(rng, *shape)

    square, product = "energy(w) = sum(w**2)", "work(a, b) = sum(a**2 * b)"
    slopes = "2 * a * b, a**2"
    yield case("right", square, "2 * w,", some(2))
    yield case("right, all slopes are negative", square, "2 * w,", -abs(some(3)))
    yield case("wrong: a factor of 2 is missing", square, "w,", some(2))
    yield case("right, two arguments", product, slopes, some(2, 3), some(2, 3))
    yield case("wrong in the second argument", product, "2 * a * b, a", some(2, 3) * 3, some(2, 3))
    yield case("wrong sign", product, "-2 * a * b, a**2", some(4), some(4))
    yield case("the slopes are too small", square, "1.5 * abs(w),", abs(some(3)))
    i, j = int(rng.integers(2)), int(rng.integers(1, 3))
    at = (1, (i, j), 1.1e-3)
    yield case("one slope is too large by 1.1/1000", product, slopes, some(2, 3), some(2, 3), added=at)
    at = (0, (i, j), -1.1e-3)
    yield case("one slope is too small by 1.1/1000", product, slopes, some(2, 3), some(2, 3), added=at)
    yield case("one slope is nan", product, slopes, some(3, 3), some(3, 3), added=(0, (j, i), NAN))
    yield case("all slopes are nan", square, "w * nan,", some(3))
    yield case("one slope is infinite", square, "2 * w,", some(3), added=(0, (j,), np.inf))
    mix = "mix(a, b, c) = sum(a * b) + sum(c**2)"
    yield case("wrong in the third of three arguments", mix, "b, a, c", some(2), some(2), some(1, 3))
    for word, unit in (("small", "1e9"), ("large", "1e-9")):
        yield case(f"{word} units, right", f"energy(w) = {unit} * sum(w**2)", f"{unit} * 2 * w,", some(3))
        yield case(f"{word} units, wrong", f"energy(w) = {unit} * sum(w**2)", f"{unit} * w,", some(3))
    text = f"energy(w) = {unit} * sum(w**2)"
    bent = np.array([0.3, -0.28]) * rng.uniform(0.9, 1.1)
    yield case("small units and a bend, right", "cubes(w) = 1e9 * sum(w**3)", "3e9 * w**2,", bent)
    yield case("tiny units, right", "energy(w) = 1e-30 * sum(w**2)", "1e-30 * 2 * w,", some(3))
    yield case("tiny units, wrong", "energy(w) = 1e-30 * sum(w**2)", "1e-30 * w,", some(3))
    yield case("large units, 2/1000", text, f"{unit} * 2 * w,", some(3), added=(0, (j,), 2e-3))
    flat = np.array([0.0, 0.3, -0.25]) * rng.uniform(0.9, 1.1)
    yield case("right, and one slope is 0", "cubes(w) = sum(w**3)", "3 * w**2,", flat)
    yield case("a slope of 0 is wrong", "cubes(w) = sum(w**3)", "3 * w**2,", flat, added=(0, (0,), 2e-3))
    sparse = np.array([[0.0, 0.0, 0.0], [0.3, -0.28, 0.0]]) * rng.uniform(0.9, 1.1)
    yield case("right, and most slopes are 0", "cubes(w) = -sum(w**3)", "-3 * w**2,", sparse)
    even = rng.uniform(0.25, 0.3) * np.array([1.0, -1.0])
    yield case("right, and the slopes add up to 0", "fourth(w) = sum(w**4)", "4 * w**3,", even)
    hill = "hill(w) = 1000 + 1e-9 * sum(w)"
    yield case("right, the value hides the slopes", hill, "1e-9 + 0 * w,", some(3))
    pit = "pit(w) = -1000 + 1e-9 * sum(w)"
    yield case("right, a negative value hides the slopes", pit, "1e-9 + 0 * w,", some(3))
    hill = "hill(w) = 100 + 1e-5 * sum(w**2)"
    yield case("wrong, small slopes under a large value", hill, "1e-5 * w,", some(3))
    flat = "hill(w) = 1000 + 1e-9 * sum(w)"
    # Without room for rounding, any tolerance from 1e-8 to 1e-3 gives the same verdict in every case.
    far, mixed = some(3) * 1e10, some(2) * [1e10, 1.0]
    yield case("long steps: little rounding, right", flat, "1e-9 + 0 * w,", far)
    yield case(
        "long steps: little rounding, wrong by 1/100", flat, "1e-9 + 0 * w,", far, added=(0, (j,), 1e-2)
    )
    yield case("a long and a short step, right", flat, "1e-9 + 0 * w,", mixed)
    yield case("wrong where the step is long", flat, "1e-9 + 0 * w,", mixed, added=(0, (0,), 0.2))
    yield case("wrong by 300 times the rounding", flat, "1e-9 + 0 * w,", some(3), added=(0, (0,), 1.3e4))
    uneven = "uneven(a, b) = 1e7 * sum(sin(a)) + sum(b**2)"
    a = 0.4 * some(1) * [1.0, -1.0]  # the large slopes of a, and a small value of f
    yield case("right, arguments of different size", uneven, "1e7 * cos(a), 2 * b", a, some(3))
    yield case("wrong in the smaller argument", uneven, "1e7 * cos(a), b", a, some(3))
    yield case("no dependence at all, right", "constant(w) = 3 + 0 * sum(w)", "0 * w,", some(2))
    yield case("zero everywhere, right", "nothing(w) = 0 * sum(w)", "0 * w,", some(2))
    yield case("a large argument, right", square, "2 * w,", some(3) * 1e4)


def _both(f, grad, inputs, added) -> tuple[Callable, Callable]:
    """The function and the formula, as the learner gets them."""
    name, letters, body = HEAD.fullmatch(f).groups()
    letters = letters.split(", ")

    def function(*inputs):
        return eval(body, NUMPY, dict(zip(letters, inputs, strict=True)))

    def formula(*inputs):
        named = dict(zip(letters, inputs, strict=True)) | {"nan": NAN}
        slopes = [np.array(slope, dtype=float) for slope in eval(grad, NUMPY, named)]
        if added is not None:
            argument, index, part = added
            slopes[argument][index] += part * np.abs(slopes[argument]).max()
        return slopes

    function.__name__ = name
    return function, formula


@gradcheck.observe
def _(obj, f, grad, inputs, added):
    function, formula = _both(f, grad, inputs, added)
    try:
        obj(function, formula, *inputs)
    except AssertionError as error:
        words = WORDS.fullmatch(str(error).strip())
        if words is None:
            return (
                "The message should read like “energy, argument 0, index (1,): got -1.2, expected -2.4”; "
                f"yours reads “{str(error)[:120]}”."
            )
        name, argument, index, got, expected = words.groups()
        try:
            numbers = float(got), float(expected)
        except ValueError:
            return f"After got and expected your message must have numbers; it reads “{str(error)[:120]}”."
        place = tuple(int(i) for i in index.split(",") if i.strip())
        seen = dict(zip(PARTS, ("refused", name, int(argument), place, *numbers), strict=True))
        return seen | {"rounding": _rounding_at(function, inputs, int(argument), place)}
    return {"verdict": "accepted"}


def _rounding_at(function, inputs, argument, place) -> float:
    """eps |f| / h at a place, or 0 where there is no such place."""
    if argument >= len(inputs) or len(place) != inputs[argument].ndim:
        return 0.0
    if any(i >= n for i, n in zip(place, inputs[argument].shape, strict=True)):
        return 0.0
    return float(np.finfo(np.float64).eps * abs(function(*inputs)) / _steps(inputs[argument])[place])


PARTS = ("verdict", "function", "argument", "index", "got", "expected")


@gradcheck.oracle
def _(f, grad, inputs, added):
    _, formula = _both(f, grad, inputs, added)
    name, letters, body = HEAD.fullmatch(f).groups()
    leaves = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in inputs]
    result = eval(body, TORCH, dict(zip(letters.split(", "), leaves, strict=True)))
    right = [slopes.numpy() for slopes in torch.autograd.grad(result, leaves)]
    for argument, (got, expected) in enumerate(zip(formula(*inputs), right, strict=True)):
        for index in np.ndindex(*expected.shape):
            if not abs(got[index] - expected[index]) <= 1e-4 * np.abs(expected).max():
                parts = ("refused", name, argument, index, float(got[index]), float(expected[index]))
                largest = float(np.abs(expected).max())
                units = {"largest": largest, "value": abs(result.item())}
                return dict(zip(PARTS, parts, strict=True)) | units
    return {"verdict": "accepted"}


def _why_accepted(expected) -> str:
    """What a wrong slope that was accepted points to."""
    if expected["got"] != expected["got"]:
        return " No comparison with nan is true."
    largest, value = expected.get("largest", 1.0), expected.get("value", 1.0)
    if largest < 1e-6 and value < 1e3 * largest:
        return f" The largest slope is only {largest:.2g} here: is a part of your tolerance a fixed number?"
    return ""


@gradcheck.agree
def _(got, expected):
    if isinstance(got, str) or isinstance(expected, str):
        return None if got == expected else str(got)
    if got["verdict"] != expected["verdict"]:
        theirs = got if got["verdict"] == "refused" else expected
        place = ", ".join(map(str, theirs["index"])) + ("," if len(theirs["index"]) == 1 else "")
        where = f"argument {theirs['argument']}, index ({place})"
        if got["verdict"] == "refused":
            numbers = f"got {got['got']:.6g}, nudged {got['expected']:.6g}"
            why = ""
            if abs(got["got"] - got["expected"]) <= 2 * got.get("rounding", 0.0):
                why = f" The rounding eps |f| / h is {got['rounding']:.2g} here: it needs room."
            return f"You refuse a right gradient, at {where}: {numbers}.{why}"
        numbers = f"{expected['got']:.6g} stands for {expected['expected']:.6g}"
        why = _why_accepted(expected)
        return f"You accept a wrong gradient: at {where}, {numbers}.{why}"
    if all(got.get(part) == expected.get(part) for part in ("function", "argument")):
        ours, theirs = expected.get("index", ()), got.get("index", ())
        if len(ours) == len(theirs) and theirs > ours:
            numbers = f"{expected['got']:.6g} stands for {expected['expected']:.6g}"
            why = _why_accepted(expected)
            return f"You pass over the first wrong slope: at index {ours}, {numbers}. Your message names {theirs}.{why}"
        if len(ours) == len(theirs) and theirs < ours:
            numbers = f"got {got['got']:.6g}, nudged {got['expected']:.6g}"
            return (
                f"You refuse a right slope, at index {theirs}: {numbers}. The first wrong one is at {ours}."
            )
    for part in PARTS[1:4]:
        if got.get(part) != expected.get(part):
            return f"In your message the {part} is {got[part]}, expected {expected[part]}."
    numbers = [expected.get(part, 0.0) for part in PARTS[4:]]
    size = max([abs(number) for number in numbers if np.isfinite(number)])
    for part, right in zip(PARTS[4:], numbers, strict=True):
        number = got.get(part, 0.0)
        same = number == right or (number != number and right != right)
        if not same and not abs(number - right) <= 1e-3 * size:
            return f"In your message the number after “{part}” is {number:.6g}, it should be {right:.6g}."
    return None


def _refuse(f, argument, index, got, expected):
    raise AssertionError(f"{f.__name__}, argument {argument}, index {index}: got {got}, expected {expected}")


def _referee(f, grad, inputs, wrong, refuse=_refuse):
    """The exercise with another comparison, `wrong(got, expected, largest, rounding, value, claim)`."""
    value = f(*inputs)
    for argument, (x, got) in enumerate(zip(inputs, grad(*inputs), strict=True)):
        steps, expected = _steps(x), np.empty(x.shape)
        for index in np.ndindex(*x.shape):
            nudge = np.zeros(x.shape)
            nudge[index] = np.asarray(steps)[index]
            up, down = (f(*inputs[:argument], y, *inputs[argument + 1 :]) for y in (x + nudge, x - nudge))
            expected[index] = (up - down) / (2 * nudge[index])
        largest = np.abs(expected).max()
        for index in np.ndindex(*x.shape):
            rounding = 10 * np.finfo(np.float64).eps * abs(value) / np.asarray(steps)[index]
            if wrong(got[index], expected[index], largest, rounding, abs(value), np.abs(got).max()):
                refuse(f, argument, index, got[index], expected[index])


def _is_wrong(got, expected, largest, rounding, *_):
    return not abs(got - expected) <= 1e-6 * largest + rounding


@gradcheck.mistake
def the_bug_itself(f, grad, *inputs):
    """Your tolerance is still a fixed number. It has no units: multiply f by a billion, and every rounding error is larger than it; divide by a billion, and every mistake is smaller."""
    _referee(f, grad, inputs, lambda got, expected, *_: abs(got - expected) > 1e-6)


@gradcheck.mistake
def a_fixed_number_that_sees_nan(f, grad, *inputs):
    """You refuse nan now, but your tolerance is still a fixed number, without units: multiply f by a billion, and every rounding error is larger than it; divide by a billion, and every mistake is smaller."""
    _referee(f, grad, inputs, lambda got, expected, *_: not abs(got - expected) <= 1e-6)


@gradcheck.mistake
def a_fixed_number_beside_the_rounding(f, grad, *inputs):
    """The rounding is in the right units, but the number beside it is still fixed: divide f by a billion, and every mistake is smaller. Take a part of the largest nudged slope instead."""
    _referee(f, grad, inputs, lambda got, expected, *rest: not abs(got - expected) <= 1e-6 + rest[1])


@gradcheck.mistake
def nan_is_accepted(f, grad, *inputs):
    """You accept nan. Every comparison with nan is false, so an error of nan is not > what is allowed. Ask whether the error is within what is allowed, and refuse if it is not."""
    _referee(f, grad, inputs, lambda got, expected, *rest: abs(got - expected) > 1e-6 * rest[0] + rest[1])


@gradcheck.mistake
def no_room_for_rounding(f, grad, *inputs):
    """You leave no room for rounding beside the largest slope, or far too little. Where f is large and its slopes are tiny, the nudged slopes are mostly rounding, eps |f| / h, and you refuse a right formula."""
    _referee(f, grad, inputs, lambda got, expected, *rest: not abs(got - expected) <= 1e-6 * rest[0])


@gradcheck.mistake
def nan_is_accepted_and_no_room_for_rounding(f, grad, *inputs):
    """Two things: you accept nan, because no comparison with nan is true, so ask whether the error is within what is allowed. And you leave no room, or far too little, for rounding, eps |f| / h, beside the largest slope."""
    _referee(f, grad, inputs, lambda got, expected, *rest: abs(got - expected) > 1e-6 * rest[0])


@gradcheck.mistake
def largest_slope_of_the_formula(f, grad, *inputs):
    """You took the largest slope of the formula under test. A wrong formula then sets its own tolerance: one nan makes it nan, and right slopes are refused; infinity allows everything. Take the nudged slopes."""
    _referee(
        f, grad, inputs, lambda got, expected, *rest: not abs(got - expected) <= 1e-6 * rest[3] + rest[1]
    )


@gradcheck.mistake
def largest_slope_of_the_formula_without_rounding(f, grad, *inputs):
    """You took the largest slope of the formula under test, so a wrong formula sets its own tolerance, and one nan makes it nan. Take the nudged slopes. And leave room for their rounding, eps |f| / h."""
    _referee(f, grad, inputs, lambda got, expected, *rest: not abs(got - expected) <= 1e-6 * rest[3])


@gradcheck.mistake
def each_slope_for_itself(f, grad, *inputs):
    """You allow each slope a part of itself. A slope of 0 then has no room for the error of the nudge, although its neighbours show how large errors are here. Take the largest slope of the argument."""
    _referee(
        f,
        grad,
        inputs,
        lambda got, expected, *rest: not abs(got - expected) <= 1e-6 * abs(expected) + rest[1],
    )


@gradcheck.mistake
def each_slope_for_itself_without_rounding(f, grad, *inputs):
    """You allow each slope a part of itself and nothing more. A slope of 0 then has no room at all, and where f is large beside its slopes, their rounding alone is more than that."""
    _referee(f, grad, inputs, lambda got, expected, *_: not abs(got - expected) <= 1e-6 * abs(expected))


@gradcheck.mistake
def numpys_allclose(f, grad, *inputs):
    """Part of your tolerance is a fixed number, as in np.allclose and np.isclose, and that has no units: where all slopes are smaller, every formula passes."""
    _referee(
        f, grad, inputs, lambda got, expected, *_: not abs(got - expected) <= 1e-5 * abs(expected) + 1e-8
    )


@gradcheck.mistake
def measured_against_the_value(f, grad, *inputs):
    """You measure the error against the value of f. That has other units than a slope, and where the value is large and the slopes are small, you accept wrong ones."""
    _referee(f, grad, inputs, lambda got, expected, *rest: not abs(got - expected) <= 1e-6 * rest[2])


@gradcheck.mistake
def no_absolute_value(f, grad, *inputs):
    """You forgot the absolute value of the error: a slope that is far too small has a large negative error, and you accept it."""
    _referee(f, grad, inputs, lambda got, expected, *rest: not got - expected <= 1e-6 * rest[0] + rest[1])


@gradcheck.mistake
def got_and_expected_swapped(f, grad, *inputs):
    """Your verdicts are right, but got and expected are swapped in the message. Got is the number of the formula under test, expected the nudged slope."""
    _referee(
        f, grad, inputs, _is_wrong, lambda f, k, index, got, expected: _refuse(f, k, index, expected, got)
    )


@gradcheck.mistake
def never_refuses(f, grad, *inputs):
    """You accept everything. A wrong slope must `raise` an AssertionError; to make one, or to return something, stops nobody."""
