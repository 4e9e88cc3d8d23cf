"""How calls to the library are checked against their annotations in tests: as type checkers read them, numbers and shapes.

Models, optimizers and the course's own classes are not: the checks hand in stand-ins that quack alike, as learners do.
"""

import inspect
import typing
from collections.abc import Callable

from beartype import BeartypeConf, beartype

# An int is welcome where a float is asked for (PEP 484's numeric tower); beartype alone would refuse it.
_strict = beartype(conf=BeartypeConf(is_pep484_tower=True))


def checked(function: Callable) -> Callable:
    """`function`, whose arguments and result are compared with its annotations at each call."""
    if hasattr(function, "__annotations__") and not inspect.isclass(function):
        function.__annotations__ = {
            name: object if _has_stand_ins(hint) else hint for name, hint in function.__annotations__.items()
        }
    return _strict(function)


def _has_stand_ins(hint: object) -> bool:
    if inspect.isclass(hint):
        module = hint.__module__
        return (
            module.startswith("groundup.")
            or _is_a(hint, "torch.nn", "Module")
            or _is_a(hint, "torch.optim", "Optimizer")
        )
    return any(_has_stand_ins(part) for part in typing.get_args(hint))


def _is_a(hint: type, package: str, name: str) -> bool:
    """Whether it is the class of this name or one derived from it; PyTorch is not imported for the question."""
    return any(base.__name__ == name and base.__module__.startswith(package) for base in hint.__mro__)
