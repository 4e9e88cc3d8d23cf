"""`problems`: what is wrong with the declaration of an exercise, for the gates and for whoever writes a lesson."""

from __future__ import annotations

import ast
import inspect
import sys
import types
import warnings
from typing import Any

from . import guard
from .exercise import CheckError, Exercise, Mistake
from .grade import Observation, observe_trusted
from .values import Opaque, is_array

MIN_MISTAKES = 3
LONGEST_SENTENCE = 300


def problems(exercise: Exercise, *, seeds: tuple[int, ...] = (0, 1, 2)) -> list[str]:
    """One line for each defect of the declaration; an empty list when there is none."""
    found = _imports(exercise)
    if len(exercise.mistakes) < MIN_MISTAKES:
        found.append(f"{len(exercise.mistakes)} named mistakes, at least {MIN_MISTAKES} are wanted")
    for mistake in exercise.mistakes:
        if not mistake.sentence:
            found.append(f"mistake {mistake.name}: no docstring")
        if len(mistake.sentence) > LONGEST_SENTENCE:
            found.append(
                f"mistake {mistake.name}: its docstring has {len(mistake.sentence)} characters, at most {LONGEST_SENTENCE} are wanted"
            )
    if exercise.oracle_function is None:
        return [*found, "no oracle"]
    if exercise.kind == "class" and exercise.observe_function is None:
        found.append("a class needs an observe function")
    try:
        with guard.kept_state(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return found + _behaviour(exercise, seeds)
    except CheckError as error:
        return [*found, str(error)]


def _behaviour(exercise: Exercise, seeds: tuple[int, ...]) -> list[str]:
    found: list[str] = []
    cases = [(seed, case) for seed in seeds for case in exercise.make_cases(seed)]
    expected = [observe_trusted(exercise, exercise.expected, case.inputs, seed) for seed, case in cases]
    for (_, case), answer in zip(cases, expected, strict=True):
        if _holds_opaque(answer.value):
            found.append(
                f"case {case.label}: the oracle returns something that cannot be compared; write an observe function"
            )
            break
    seen = {}
    for mistake in exercise.mistakes:
        seen[mistake.name] = [
            observe_trusted(
                exercise, lambda given, m=mistake: exercise.look(m.obj, given), case.inputs, seed, mistake.obj
            )
            for seed, case in cases
        ]
        found += _one_mistake(exercise, mistake, seen[mistake.name], expected)
    per_seed = len(cases) // len(seeds)
    names = list(seen)
    for number, one in enumerate(names):
        for other in names[number + 1 :]:
            apart = [not x.agrees_with(y, exercise) for x, y in zip(seen[one], seen[other], strict=True)]
            blocks = [apart[i : i + per_seed] for i in range(0, len(apart), per_seed)]
            if not all(any(block) for block in blocks):
                found.append(
                    f"mistakes {one} and {other}: no case tells them apart"
                    + (" for some seeds" if any(apart) else "")
                )
    return found


def _one_mistake(
    exercise: Exercise, mistake: Mistake, seen: list[Observation], expected: list[Observation]
) -> list[str]:
    found = []
    right = [one.agrees_with(other, exercise) for one, other in zip(seen, expected, strict=True)]
    if all(right):
        found.append(f"mistake {mistake.name}: no case rejects it")
    if mistake.shape:
        return found
    if all(one.error is not None for one in seen):
        found.append(f"mistake {mistake.name}: raises on every case")
    elif exercise.agree_function is None and not any(
        _same_shape(one, other) for one, other in zip(seen, expected, strict=True)
    ):
        found.append(
            f"mistake {mistake.name}: never returns the right type and shape; if that is the mistake, declare shape=True"
        )
    elif not any(right):
        found.append(
            f"mistake {mistake.name}: passes no case, so it is no plausible mistake; add a case where it happens to be right"
        )
    return found


def _same_shape(one: Observation, other: Observation) -> bool:
    if one.error is not None or other.error is not None:
        return one.error is other.error
    return _outline(one.value) == _outline(other.value)


def _outline(value: Any) -> Any:
    """Type and shape of a value, without its content."""
    if is_array(value):
        return type(value).__name__, tuple(value.shape), str(value.dtype)
    if type(value) in (list, tuple):
        return [_outline(item) for item in value]
    if type(value) is dict:
        return {key: _outline(item) for key, item in value.items()}
    return "number" if type(value) in (int, float) else type(value).__name__


def _holds_opaque(value: Any) -> bool:
    if type(value) in (list, tuple):
        return any(_holds_opaque(item) for item in value)
    if type(value) is dict:
        return any(_holds_opaque(item) for item in value.values())
    return type(value) is Opaque


def _imports(exercise: Exercise) -> list[str]:
    """The oracle must be independent: its file imports nothing of the library that the learner builds."""
    module = sys.modules.get(getattr(exercise.oracle_function, "__module__", ""), None)
    if not isinstance(module, types.ModuleType) or not (module.__name__ or "").startswith("groundup.checks."):
        return []
    part = exercise.id.split(".")[0]
    return [
        f"{module.__name__} imports {name}, which the learner writes"
        for name in imported(inspect.getsource(module))
        if _is_part(name, part)
    ]


def imported(source: str) -> list[str]:
    """Every module that a source imports, also inside functions."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                names.append(node.args[0].value)
    return names


def _is_part(name: str, part: str) -> bool:
    """True for groundup.<part>…, whichever part: a part is a package with checks."""
    pieces = name.split(".")
    if pieces[0] != "groundup" or len(pieces) < 2:
        return False
    from importlib.util import find_spec

    if pieces[1] in ("check", "checks", "show", "run", "data"):
        return False
    return pieces[1] == part or find_spec(f"groundup.checks.{pieces[1]}") is not None
