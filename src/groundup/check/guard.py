"""What a submission must not leave behind: replaced library functions, changed global state.

`take_snapshot` remembers which object each public name of a library stands for. `restore` puts back what has
been replaced since and names it; a check that finds anything refuses to grade. This stops accidents and obvious
tricks; a notebook runs in the learner's own process, so it cannot stop everything.
"""

from __future__ import annotations

import builtins
import contextlib
import os
import random
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np

from .explain import is_learners

_LIBRARIES = (
    "builtins", "math", "cmath", "operator", "itertools", "functools", "collections", "copy", "random", "statistics", "time",
    "numpy", "numpy.linalg", "numpy.random", "numpy.fft", "numpy.testing",
    "torch", "torch.nn", "torch.nn.functional", "torch.nn.init", "torch.linalg", "torch.fft", "torch.special",
    "torch.autograd", "torch.autograd.functional", "torch.optim", "torch.distributed", "torch.testing",
    "jax", "jax.numpy", "jax.numpy.linalg", "jax.nn", "jax.lax", "jax.random", "jax.scipy.special",
    "einops",
)  # fmt: skip
_CLASSES = (
    ("torch", "Tensor"), ("torch.nn", "Module"), ("torch.nn", "Parameter"), ("torch.autograd", "Function"),
    ("torch.optim", "Optimizer"), ("torch", "Generator"),
)  # fmt: skip
# Names that a notebook, a debugger or the library itself rebinds.
_FREE = {
    "torch": {"Storage"},  # follows the default dtype
    "time": {
        "tzname",
        "timezone",
        "altzone",
        "daylight",
    },  # time.tzset() sets them, as pandas does when it is imported
    "builtins": set(
        ["input", "open", "print", "exit", "quit", "breakpoint", "help", "copyright", "credits", "license"]
    ),
}

_Saved = tuple[Any, Any]
_snapshots: dict[str, tuple[Any, dict[str, _Saved]]] = {}


def _body(value: Any) -> Any:
    """What an identity does not show: a function's code and defaults can be exchanged."""
    if type(value) is types.FunctionType:
        return value.__code__, value.__defaults__, value.__kwdefaults__
    return None


def _worth_keeping(name: str, value: Any) -> bool:
    dunder = name.startswith("__") and name.endswith("__")
    if name.startswith("_") and not dunder:
        return False
    if dunder and name in (
        "__doc__",
        "__dict__",
        "__weakref__",
        "__module__",
        "__annotations__",
        "__builtins__",
        "__spec__",
        "__loader__",
        "__file__",
        "__path__",
        "__cached__",
        "__name__",
        "__package__",
        "__getattr__",
        "__dir__",
        "__warningregistry__",
    ):
        return False
    return not issubclass(type(value), types.ModuleType)


def _remember(key: str, owner: Any) -> None:
    free = _FREE.get(key, ())
    saved = {n: (v, _body(v)) for n, v in list(vars(owner).items()) if _worth_keeping(n, v) and n not in free}
    _snapshots[key] = (owner, saved)


def take_snapshot() -> None:
    """Remember the libraries that are loaded and not yet remembered."""
    for name in _LIBRARIES:
        module = sys.modules.get(name)
        if module is not None and name not in _snapshots:
            _remember(name, module)
    for module_name, class_name in _CLASSES:
        module = sys.modules.get(module_name)
        key = f"{module_name}.{class_name}"
        if module is not None and key not in _snapshots and hasattr(module, class_name):
            _remember(key, getattr(module, class_name))


def snapshot_engine() -> None:
    """Remember the engine's own functions, private ones too."""
    for name, module in list(sys.modules.items()):
        if not name.startswith("groundup.check.") or module is None:
            continue
        for key, owner in [
            (name, module),
            *(
                (f"{name}.{c.__name__}", c)
                for c in vars(module).values()
                if isinstance(c, type) and c.__module__ == name
            ),
        ]:
            functions = {
                n: (v, _body(v))
                for n, v in vars(owner).items()
                if type(v) in (types.FunctionType, type, staticmethod, property)
            }
            _snapshots[key] = (owner, functions)


def _wrapped_by_a_library(new: Any, old: Any) -> bool:
    """True if a library wrapped its own function: torch._dynamo does so with torch.manual_seed when it is imported.

    torch.compile puts a function around nn.Module.__init__ that holds the old one in its closure alone.
    """
    for _ in range(5):
        if type(new) is not types.FunctionType or is_learners(new.__code__):
            return False
        inside = [cell.cell_contents for cell in new.__closure__ or ()]
        if new.__module__ == "torch._dynamo.mutation_guard" and any(held is old for held in inside):
            return True
        new = new.__dict__.get("__wrapped__")
        if new is old:
            return True
    return False


def restore() -> list[str]:
    """Put back every replaced name; returns the names, such as `torch.softmax`."""
    changed = []
    for key, (owner, saved) in _snapshots.items():
        now = owner.__dict__
        for name, (value, body) in list(saved.items()):
            if now.get(name) is value and (body is None or body == _body(value)):
                continue
            if key.partition(".")[0] != "groundup" and _wrapped_by_a_library(now.get(name), value):
                saved[name] = now[name], _body(now[name])
                continue
            changed.append(f"{key}.{name}")
            with contextlib.suppress(AttributeError, TypeError):
                setattr(owner, name, value)
            if body is not None:
                value.__code__, value.__defaults__, value.__kwdefaults__ = body
        if isinstance(owner, type):
            changed += _remove_overrides(key, owner, saved)
    return changed


def _remove_overrides(key: str, owner: type, saved: dict[str, _Saved]) -> list[str]:
    """Methods that the learner put over inherited ones, such as torch.Tensor.__sub__."""
    found = []
    for name, value in list(vars(owner).items()):
        if name in saved or type(value) is not types.FunctionType or not is_learners(value.__code__):
            continue
        if any(name in vars(base) for base in owner.__mro__[1:]):
            found.append(f"{key}.{name}")
            with contextlib.suppress(AttributeError, TypeError):
                delattr(owner, name)
    return found


# -- global state --------------------------------------------------------------------------------------


@contextlib.contextmanager
def kept_state() -> Iterator[None]:
    """Random states, dtypes, gradient mode, print options, working folder: as before on the way out."""
    torch, jax = sys.modules.get("torch"), sys.modules.get("jax")
    python_random, numpy_random = random.getstate(), np.random.get_state()
    options, errors = np.get_printoptions(), np.geterr()
    folder, environment = _cwd(), dict(os.environ)
    keyboard = builtins.print
    if torch is not None:
        torch_random, dtype, grad = torch.get_rng_state(), torch.get_default_dtype(), torch.is_grad_enabled()
        profile = dict(vars(torch._tensor_str.PRINT_OPTS))
        deterministic, device = torch.are_deterministic_algorithms_enabled(), torch.get_default_device()
        anomaly, threads = torch.is_anomaly_enabled(), torch.get_num_threads()
    x64 = jax.config.jax_enable_x64 if jax is not None else None
    try:
        yield
    finally:
        builtins.print = keyboard
        random.setstate(python_random)
        np.random.set_state(numpy_random)
        np.set_printoptions(**options)
        np.seterr(**errors)
        if _cwd() != folder and folder is not None:
            os.chdir(folder)
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
        if torch is not None:
            torch.set_rng_state(torch_random)
            torch.set_default_dtype(dtype)
            torch.set_grad_enabled(grad)
            vars(torch._tensor_str.PRINT_OPTS).update(profile)
            if torch.are_deterministic_algorithms_enabled() != deterministic:
                torch.use_deterministic_algorithms(deterministic)
            if torch.get_default_device() != device:
                torch.set_default_device(device)
            if torch.is_anomaly_enabled() != anomaly:
                torch.autograd.set_detect_anomaly(anomaly)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
        if jax is not None and jax.config.jax_enable_x64 != x64:
            jax.config.update("jax_enable_x64", x64)


def _cwd() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None


def usual_state(seed: int) -> None:
    """The state in which submission, oracle and mistakes all start."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    np.seterr(divide="warn", over="warn", under="ignore", invalid="warn")
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.random.default_generator.manual_seed(seed)
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)
        if torch.get_default_device() != torch.device("cpu"):
            torch.set_default_device("cpu")
