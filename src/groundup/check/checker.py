"""`lesson(id)`: the `check` of a notebook."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import types
from typing import Any

from .exercise import Exercise, add_cases, exercises_of
from .grade import Result, grade
from .limit import within
from .show import show
from .values import type_name


class Checker:
    """`check(softmax)` grades one exercise of a lesson, shows the outcome and records a pass."""

    def __init__(self, lesson_id: str, exercises: list[Exercise]):
        self.lesson = lesson_id
        self.last: Result | None = None
        self._exercises = {exercise.name: exercise for exercise in exercises}

    def __repr__(self) -> str:
        return f"check for {self.lesson}: {', '.join(self._exercises)}"

    def __call__(self, obj: Any, *, seed: int | None = None) -> None:
        """Grade `obj`, which is found by its name, and show the outcome.

        Raises:
            AssertionError: it does not pass, and nbgrader is grading.
        """
        exercise = self._exercises.get(_name_of(obj) or "")
        if exercise is None:
            self._finish("", Result("failed", self._help(obj)))
            return
        if self._is_the_courses(exercise, obj):
            text = "This is the course's own version, so nothing is recorded. Use it to go on, and come back."
            self._finish(exercise.name, Result("reference", text))
            return
        result = grade(exercise, obj, seed=seed)
        if result.passed:
            _record(exercise.id)
        self._finish(exercise.name, result)

    def reference(self, exercise: Any) -> Any:
        """The course's version of an exercise, so that it never blocks the next one; it is not recorded.

        exercise: its name, or the learner's own function or class of that name, as for a check.

        Raises:
            LookupError: the lesson has no such exercise.
        """
        name = exercise if type(exercise) is str else _name_of(exercise)
        if name not in self._exercises:
            asked = repr(name) if name else f"for an object of type {type_name(exercise)}"
            raise LookupError(f"{self.lesson} has no exercise {asked}; it has {', '.join(self._exercises)}")
        return getattr(importlib.import_module(f"groundup.{self.lesson}"), name)

    def _is_the_courses(self, exercise: Exercise, obj: Any) -> bool:
        module = sys.modules.get(f"groundup.{self.lesson}")
        return module is not None and vars(module).get(exercise.name) is obj

    def _help(self, obj: Any) -> str:
        names = ", ".join(self._exercises)
        first = next(iter(self._exercises), "name")
        if obj is None:
            got = "None"
        elif type(obj) is str:
            got = "a string"
        else:
            name = _name_of(obj)
            got = (
                f"{name}, which is no exercise of this lesson"
                if name
                else f"an object of type {type_name(obj)}"
            )
        return f"check needs the function or class itself, as in check({first}); you passed {got}. Exercises here: {names}."

    def _finish(self, name: str, result: Result) -> None:
        self.last = result
        show(name, result)
        if os.environ.get("NBGRADER_EXECUTION") and not result.passed:
            raise AssertionError(result.message)


def _name_of(obj: Any) -> str | None:
    """An object's `__name__` if it is a plain string; asking a hostile object takes no time and raises nothing."""
    if type(obj) is types.FunctionType:
        return obj.__name__
    if issubclass(type(obj), type):
        return type.__dict__["__name__"].__get__(obj)
    name = within(
        0.5,
        lambda: getattr(obj, "__name__", None) or getattr(getattr(obj, "fn", None), "__name__", None),
        None,
    )
    return name if type(name) is str else None


def _record(exercise_id: str) -> None:
    """Record a pass; a full disk or a read-only home must not spoil it."""
    from groundup.progress import record

    with contextlib.suppress(OSError):
        record(exercise_id)


def lesson(id: str, source: str | None = None, *, extra: str | os.PathLike | None = None) -> Checker:
    """The checker of one lesson, such as `check = lesson("autograd.arrays")`.

    Args:
        source: hash of the lesson's source that the notebook was made from; a warning is printed when the
            installed course has another one.
        extra: an instructor's file with more cases (see `exercise.add_cases`); GROUNDUP_EXTRA_CASES also names one.

    Raises:
        CheckError: there is no such lesson.
    """
    exercises = exercises_of(id)
    if extra is not None:
        add_cases(extra, id)
    if source is not None:
        _compare_source(id, source)
    return Checker(id, exercises)


def _compare_source(id: str, source: str) -> None:
    try:
        from groundup.catalogue import lessons
    except ImportError:
        return
    installed = next((item.get("source") for item in lessons() if item.get("id") == id), None)
    if installed is not None and installed != source:
        print(
            f"This notebook and the installed course hold different versions of {id}: update the one that is older."
        )
