"""How a checks file declares an exercise: its cases, oracle, properties and named mistakes."""

from __future__ import annotations

import importlib
import inspect
import os
import runpy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .explain import DECLARED


class CheckError(Exception):
    """A checks file, not the learner, is wrong: a missing oracle, an unknown id, two exercises with one id."""


class Case:
    """One set of inputs, by name, in the order of the exercise's signature; `label` is shown on failure."""

    __slots__ = ("inputs", "label")

    def __init__(self, label: str, /, **inputs: Any):
        self.label = label
        self.inputs = inputs

    def __repr__(self) -> str:
        return f"Case({self.label!r}, {', '.join(self.inputs)})"


@dataclass(frozen=True)
class Mistake:
    """A wrong version that people really write, and the sentence that says what went wrong."""

    name: str
    sentence: str
    obj: Any
    shape: bool = False


@dataclass(frozen=True)
class Property:
    """Something that holds of every right answer; `sentence` is told when it does not."""

    name: str
    sentence: str
    function: Callable


def _sentence(thing: Any) -> str:
    return " ".join(
        (
            inspect.cleandoc(thing.__dict__.get("__doc__") or "")
            if isinstance(thing, type)
            else inspect.cleandoc(thing.__doc__ or "")
        ).split()
    )


def _declared_code(function: Callable) -> Callable:
    """Its lines are not shown to the learner."""
    if hasattr(function, "__code__"):
        DECLARED.add(function.__code__)
    return function


class Exercise:
    """The declaration of one exercise.

    Args:
        id: `<part>.<lesson>.<name of the function or class>`.
        tolerance: largest accepted difference relative to the largest |expected| of each array; None
            chooses by dtype (see `compare`).
        seconds: time that the submission may take for all cases together.
        slow: what to say when that time is over and a case before was done in time; without it, that a loop may be endless.
        kind: "function" (anything that can be called, a kernel too) or "class".
        strict_scalars: a Python number, a NumPy scalar and a 0-d array are then three different things.
        may_change: names of inputs that the submission is meant to change in place; True means all.
        workers: `observe` uses `processes.run_workers`; its server then starts before the clock does.
    """

    def __init__(
        self,
        id: str,
        *,
        tolerance: float | None = None,
        seconds: float = 5.0,
        slow: str = "",
        kind: str = "function",
        strict_scalars: bool = False,
        may_change: tuple[str, ...] | bool = (),
        workers: bool = False,
    ):
        if len(id.split(".")) != 3:
            raise CheckError(f"an exercise's id is part.lesson.name, not {id!r}")
        if kind not in ("function", "class"):
            raise CheckError(f"{id}: kind is 'function' or 'class', not {kind!r}")
        self.id = id
        self.lesson, self.name = id.rsplit(".", 1)
        self.tolerance = tolerance
        self.seconds = seconds
        self.slow = slow
        self.kind = kind
        self.strict_scalars = strict_scalars
        self.may_change = may_change
        self.workers = workers
        self.mistakes: tuple[Mistake, ...] = ()
        self.properties: tuple[Property, ...] = ()
        self.case_makers: tuple[Callable, ...] = ()
        self.oracle_function: Callable | None = None
        self.observe_function: Callable | None = None
        self.agree_function: Callable | None = None

    def __repr__(self) -> str:
        return f"Exercise({self.id!r})"

    # -- declaring -----------------------------------------------------------------------------------

    def cases(self, function: Callable) -> Callable:
        """`function(rng: numpy.random.Generator)` yields `Case`s; a second one adds to the first."""
        self.case_makers += (function,)
        return function

    def oracle(self, function: Callable) -> Callable:
        """`function(**inputs)` gives what a right answer is observed to do; it may raise, as that must."""
        self.oracle_function = _declared_code(function)
        return function

    def observe(self, function: Callable) -> Callable:
        """`function(obj, **inputs)` turns the object and the inputs into comparable values."""
        self.observe_function = _declared_code(function)
        return function

    def agree(self, function: Callable) -> Callable:
        """`function(got, expected)` gives None when they agree, else a sentence.

        It also compares a learner's observation with a mistake's, so both arguments may come from `observe`.
        """
        self.agree_function = function
        return function

    def property(self, function: Callable) -> Callable:
        """`function(obj, **inputs) -> bool`; its docstring is told when it is False."""
        if not _sentence(function):
            raise CheckError(f"{self.id}: the property {function.__name__} has no docstring")
        self.properties += (Property(function.__name__, _sentence(function), _declared_code(function)),)
        return function

    def mistake(self, obj: Any = None, *, shape: bool = False) -> Any:
        """A function or class with the exercise's own signature; `shape=True` if it is wrong whatever the numbers: its shape, type or way."""
        if obj is None:
            return lambda obj: self.mistake(obj, shape=shape)
        name = getattr(obj, "__name__", None) or getattr(getattr(obj, "fn", None), "__name__", "mistake")
        if any(m.name == name for m in self.mistakes):
            raise CheckError(f"{self.id}: two mistakes are called {name}")
        self.mistakes += (Mistake(name, _sentence(obj), obj, shape),)
        return obj

    # -- using ---------------------------------------------------------------------------------------

    def make_cases(self, seed: int) -> list[Case]:
        """The cases of one seed: equal at every call."""
        import numpy as np

        if not self.case_makers:
            raise CheckError(f"{self.id} declares no cases")
        cases = []
        for number, maker in enumerate(self.case_makers):
            cases += list(maker(np.random.default_rng([seed, number])))
        if not cases:
            raise CheckError(f"{self.id}: no case was made")
        self._refuse_misfits(cases)
        return cases

    def _refuse_misfits(self, cases: list[Case]) -> None:
        """Inputs that a function cannot take would make oracle and submission fail alike, and so agree."""
        asked = [(self.oracle_function, ()), (self.observe_function, (None,))]
        asked += [(prop.function, (None,)) for prop in self.properties]
        for function, first in asked:
            if function is None:
                continue
            signature = inspect.signature(function)
            for case in cases:
                try:
                    signature.bind(*first, **case.inputs)
                except TypeError as error:
                    name = function.__name__
                    raise CheckError(
                        f"{self.id}: the case “{case.label}” does not fit {name}: {error}"
                    ) from None

    def look(self, obj: Any, inputs: dict[str, Any]) -> Any:
        """What `obj` does with `inputs`: the declared observation, or the result of a plain call."""
        if self.observe_function is not None:
            return self.observe_function(obj, **inputs)
        return obj(*inputs.values())

    def expected(self, inputs: dict[str, Any]) -> Any:
        """The oracle's answer."""
        if self.oracle_function is None:
            raise CheckError(f"{self.id} declares no oracle")
        return self.oracle_function(**inputs)

    def differs(self, got: Any, expected: Any) -> str | None:
        """None when the two observations agree, else a sentence."""
        from .compare import compare

        if self.agree_function is not None:
            return self.agree_function(got, expected)
        return compare(got, expected, tolerance=self.tolerance, strict_scalars=self.strict_scalars)

    def fingerprint(self) -> tuple:
        """Everything that decides a grade; a notebook that changes it is noticed."""
        return (
            self.id,
            self.tolerance,
            self.seconds,
            self.kind,
            self.strict_scalars,
            self.may_change,
            self.mistakes,
            self.properties,
            self.case_makers,
            self.oracle_function,
            self.observe_function,
            self.agree_function,
        )


# -- finding -------------------------------------------------------------------------------------------

_loaded: dict[str, tuple[Exercise, tuple]] = {}


def _declared(module_vars: dict[str, Any]) -> Iterator[Exercise]:
    return (value for value in module_vars.values() if type(value) is Exercise)


def exercises_of(lesson_id: str) -> list[Exercise]:
    """The lesson's exercises in the order of its checks file.

    Raises:
        CheckError: there is no checks file for this lesson, or one that declares another lesson's exercise.
    """
    name = f"groundup.checks.{lesson_id}"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise CheckError(f"there is no lesson {lesson_id!r} with checks") from None
        raise
    found = []
    for exercise in _declared(vars(module)):
        if exercise.lesson != lesson_id:
            raise CheckError(f"{name} declares {exercise.id}, an exercise of another lesson")
        if any(other.id == exercise.id for other in found):
            raise CheckError(f"{name} declares {exercise.id} twice")
        found.append(exercise)
        _loaded.setdefault(exercise.id, (exercise, exercise.fingerprint()))
    if path := os.environ.get("GROUNDUP_EXTRA_CASES"):
        add_cases(path, lesson_id)
    return found


def load(exercise_id: str) -> Exercise:
    """The exercise with this id.

    Raises:
        CheckError: there is none; the message lists the lesson's ids.
    """
    lesson_id = exercise_id.rpartition(".")[0]
    exercises = exercises_of(lesson_id)
    for exercise in exercises:
        if exercise.id == exercise_id:
            return exercise
    raise CheckError(
        f"there is no exercise {exercise_id!r}; this lesson has {', '.join(e.id for e in exercises)}"
    )


def changed_since_loaded(exercise: Exercise) -> bool:
    """True if somebody altered a declaration after its lesson was loaded."""
    known = _loaded.get(exercise.id)
    return known is not None and known[0] is exercise and known[1] != exercise.fingerprint()


_extra: set[tuple[str, str]] = set()


def add_cases(path: str | os.PathLike, lesson_id: str) -> None:
    """Add an instructor's own cases to a lesson's exercises.

    The file is Python; it says `from groundup.check import load, Case`, then
    `@load("autograd.arrays.softmax").cases` above a function of `rng`. It is run once for each lesson.
    """
    key = (os.path.abspath(path), lesson_id)
    if key in _extra:
        return
    _extra.add(key)
    runpy.run_path(key[0], run_name="groundup_extra_cases")
    for exercise_id, (exercise, _) in list(_loaded.items()):
        _loaded[exercise_id] = (exercise, exercise.fingerprint())
