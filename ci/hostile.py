"""Answers that no grader may pass, made from a right one: nothing, the input, zeros, a constant, NaN, noise.

They have the right types and shapes wherever the right answer's parts are arrays or numbers, which is what lets
them slip past a grader that only looks at shapes. Works on NumPy, PyTorch and JAX alike.
"""

import functools
import inspect
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Answer:
    """`obj` is to be graded; `differs()` says, after that, whether it ever answered anything but the right thing."""

    label: str
    obj: Any
    changed: list[bool] = field(default_factory=list)

    def differs(self) -> bool:
        return any(self.changed)


def answers(solution: Any) -> Iterator[Answer]:
    """Hostile versions of a function, or of each method of a class; other objects (a Triton kernel) have none here."""
    if isinstance(solution, type):
        for name, method in list(vars(solution).items()):
            if isinstance(method, types.FunctionType) and name not in (
                "__init__",
                "__repr__",
                "__post_init__",
            ):
                for answer in _of_function(method, is_method=True):
                    body = {
                        name: answer.obj,
                        "__qualname__": solution.__qualname__,
                        "__doc__": solution.__doc__,
                    }
                    answer.obj = type(solution)(solution.__name__, (solution,), body)
                    answer.obj.__module__ = solution.__module__
                    answer.label = f"{name} {answer.label}"
                    yield answer
    elif isinstance(solution, types.FunctionType) or _is_jitted(solution):
        yield from _of_function(solution, is_method=False)


def _is_jitted(solution: Any) -> bool:
    """A function wrapped by jax.jit, torch.no_grad or the like; a Triton kernel is started by [grid], not called."""
    return callable(solution) and hasattr(solution, "__wrapped__") and not hasattr(solution, "run")


def _of_function(function: Callable, is_method: bool) -> Iterator[Answer]:
    first = 1 if is_method else 0
    yield _replaced(function, "returns None", lambda out, args: None)
    # What works in place has no result to falsify: whatever it returns beside its effect does no harm.
    yield _replaced(
        function,
        "returns its input",
        lambda out, args: args[first] if out is not None and len(args) > first else out,
    )
    fills = {"returns zeros": 0, "returns ones": 1, "returns NaN": float("nan"), "returns noise": None}
    for label, fill in fills.items():
        yield _replaced(function, label, functools.partial(_filled, fill=fill))


def _replaced(function: Callable, label: str, change: Callable) -> Answer:
    """`function`, called as always (its effects stay), whose result `change(result, arguments)` replaces."""
    answer = Answer(label, None)

    def record(out: Any, args: tuple) -> Any:
        new = change(out, args)
        answer.changed.append(new is not out)
        return new

    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            for out in function(*args, **kwargs):
                yield record(out, args)

    else:

        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return record(function(*args, **kwargs), args)

    answer.obj = wrapper
    return answer


def _filled(out: Any, args: tuple = (), *, fill: float | None) -> Any:
    """`out` with every number replaced; `out` itself where there is none (nan has no integer)."""
    if isinstance(out, tuple | list):
        new = [_filled(part, fill=fill) for part in out]
        if all(a is b for a, b in zip(new, out, strict=True)):
            return out
        return type(out)(*new) if hasattr(out, "_fields") else type(out)(new)
    if isinstance(out, dict):
        new = {key: _filled(part, fill=fill) for key, part in out.items()}
        return out if all(new[key] is out[key] for key in out) else new
    if isinstance(out, bool | int | float):
        value = 0.437 if fill is None else fill
        if isinstance(out, float):
            return value
        return out if value != value or fill is None else type(out)(value)
    if hasattr(out, "shape") and hasattr(out, "dtype"):
        return _filled_array(out, fill)
    return out


def _filled_array(out: Any, fill: float | None) -> Any:
    floating = "float" in str(out.dtype)
    if not floating and (fill is None or fill != fill):
        return out
    module = type(out).__module__.split(".")[0]
    if module == "torch":
        import torch

        detached = out.detach()
        return torch.rand_like(detached) if fill is None else torch.full_like(detached, fill)
    import numpy

    like = numpy.asarray(out)
    values = numpy.random.default_rng(0).random(like.shape) if fill is None else numpy.full(like.shape, fill)
    values = values.astype(like.dtype)
    if module in ("jax", "jaxlib"):
        import jax.numpy

        return jax.numpy.asarray(values)
    return values if isinstance(out, numpy.ndarray) else values[()]
