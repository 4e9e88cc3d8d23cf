"""Which class the answer to an exercise makes its nodes of: its checks must give it nodes of the same class."""

import contextlib
import functools
import sys
import types
from collections.abc import Iterator

import numpy as np

PARTS = ("data", "grad", "parents", "_backward", "shape")


def is_engine(found) -> bool:
    """Whether it is a class like the lesson's Tensor: called so (or a child of one that is), and with its parts."""
    if not isinstance(found, type) or not any(base.__name__ == "Tensor" for base in found.__mro__):
        return False
    try:
        made = found(np.zeros(1))
        return all(hasattr(made, part) for part in PARTS) and isinstance(made.data, np.ndarray)
    except Exception:
        return False  # the Tensor of another library


def engine_of(obj, otherwise: type) -> type:
    """The Tensor that `obj` uses; if it names none, the one that its module has; else `otherwise`.

    `obj` is a function, or what holds one: a method, a partial, a decorated function, an object that can be called.
    Counted as used: what it names, also as `module.Tensor` or under another name, imports inside or closes over; then
    the same for the functions that it calls.
    """
    functions = list(_functions(obj))
    for function in functions:
        for found in _uses(function):
            if is_engine(found):
                return found
    for function in functions:
        for found in _beside(function):
            if is_engine(found):
                return found
    return otherwise


def _functions(obj) -> Iterator[types.FunctionType]:
    """Functions in obj, nearest first, then those that they use."""
    queue, met = [obj], set()
    for thing in queue:  # grows while we walk
        if id(thing) in met or len(met) > 500:
            continue
        met.add(id(thing))
        if isinstance(thing, types.FunctionType):
            yield thing
            queue += _uses(thing)
        elif isinstance(thing, types.MethodType):
            queue += [thing.__func__, thing.__self__]
        elif isinstance(thing, functools.partial):
            queue += [thing.func, *thing.args, *thing.keywords.values()]
        elif callable(thing) and not isinstance(thing, type):
            held = list(getattr(thing, "__dict__", {}).values())  # also __wrapped__
            queue += [type(thing).__call__, *(x for x in held if callable(x))]


def _names(code: types.CodeType) -> set[str]:
    """Names that code reads from outside or as attributes, also in the functions that are written inside it."""
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _uses(function: types.FunctionType) -> list:
    """What a function closes over, holds as a default or names; of a module that it names, what it names in there."""
    used = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # not filled yet
            used.append(cell.cell_contents)
    names = sorted(_names(function.__code__))
    used += [function.__globals__[name] for name in names if name in function.__globals__]
    used += [sys.modules[name] for name in names if name in sys.modules]  # imported inside
    for value in used:  # grows while we walk
        if isinstance(value, types.ModuleType):
            inside = [vars(value)[name] for name in names if name in vars(value)]
            if "Tensor" in names:
                inside.append(getattr(value, "Tensor", None))  # of a package that loads its names late
            used += [x for x in inside if not any(x is known for known in used)]
    return used


def _beside(function: types.FunctionType) -> list:
    """What stands in a function's module, and each Tensor of the modules that it imports; none of the checks' own."""
    values = list(function.__globals__.values())
    roots = tuple(f"{value.__name__}." for value in values if isinstance(value, types.ModuleType))
    modules = [module for name, module in list(sys.modules.items()) if f"{name}.".startswith(roots)]
    found = {id(x): x for x in (*values, *(getattr(m, "__dict__", {}).get("Tensor") for m in modules))}
    return [x for x in found.values() if not str(getattr(x, "__module__", "")).startswith("groundup.checks.")]
