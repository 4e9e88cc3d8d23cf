"""Derivatives and finite differences.

Generated from chapters/01_autograd/02_gradients.md by `make sync`: edit that file, not this one.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

__all__ = ["central_difference", "gradcheck", "jacobian", "slopes_through", "step_for"]


def central_difference(f: Callable, x, h):
    """The slope of f at x, measured from x - h to x + h. Its error falls as h².

    x and h are numbers, or arrays of one shape (then each x has its own h); the
    result keeps their dtype.
    """
    return (f(x + h) - f(x - h)) / (2 * h)


def step_for(x: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """A good step for a central difference at each number of x.

    The cube root of eps, times max(1, |x|), as it arrives in x + step.
    Same shape and dtype as x. After Numerical Recipes, section 5.7.
    """
    h = np.cbrt(np.finfo(x.dtype).eps) * np.maximum(1, np.abs(x))
    return (x + h) - x


def slopes_through(x: float, y: float) -> tuple[float, ...]:
    """f = u³ + v² + 4uv where u = x y and v = x - y.

    Returns its slopes (grad_u, grad_v, grad_x, grad_y).
    """
    u = x * y
    v = x - y
    grad_u = 3 * u**2 + 4 * v
    grad_v = 2 * v + 4 * u
    grad_x = grad_u * y + grad_v
    grad_y = grad_u * x - grad_v
    return grad_u, grad_v, grad_x, grad_y


def jacobian(f: Callable, x: Float[np.ndarray, " inputs"]) -> Float[np.ndarray, "outputs inputs"]:
    """J[i, j] = the slope of f(x)[i] in x[j], by central differences.

    Costs two runs of f for each input. In the dtype of x.
    """
    steps, columns = step_for(x), []
    for j in range(len(x)):
        nudge = np.zeros_like(x)
        nudge[j] = steps[j]
        columns.append((f(x + nudge) - f(x - nudge)) / (2 * steps[j]))
    return np.stack(columns, axis=1)


def gradcheck(f: Callable, grad: Callable, *inputs: Float[np.ndarray, "..."]) -> None:
    """Compare a formula for the gradient of f with nudged slopes, in float64.

    f(*inputs) is one number; grad(*inputs) has an array of slopes for each input, in
    the input's shape (one axis or more).

    Raises:
        AssertionError: a slope is wrong; names f, the argument and the index.
    """
    inputs = [np.asarray(x, dtype=np.float64) for x in inputs]
    value = f(*inputs)
    for argument, (x, got) in enumerate(zip(inputs, grad(*inputs), strict=True)):
        assert np.shape(got) == x.shape, f"argument {argument}: shape {np.shape(got)}"

        def along(row, argument=argument, shape=x.shape):  # f of this input only
            others = list(inputs)
            others[argument] = row.reshape(shape)
            return np.array([f(*others)])

        expected = jacobian(along, x.ravel()).reshape(x.shape)
        rounding = np.finfo(np.float64).eps * abs(value) / step_for(x)
        allowed = 1e-6 * np.abs(expected).max() + 10 * rounding
        for index in np.ndindex(*x.shape):
            if not abs(got[index] - expected[index]) <= allowed[index]:
                raise AssertionError(
                    f"{f.__name__}, argument {argument}, index {index}: "
                    f"got {got[index]}, expected {expected[index]}"
                )
