"""The autograder: declare an exercise with `Exercise` and `Case`, grade an answer with `grade`."""

from __future__ import annotations

from .checker import Checker, lesson
from .compare import compare
from .exercise import Case, CheckError, Exercise, exercises_of, load
from .grade import Result, engine_is_loaded, grade

__all__ = [
    "Case",
    "CheckError",
    "Checker",
    "Exercise",
    "Result",
    "compare",
    "exercises_of",
    "grade",
    "lesson",
    "load",
]

engine_is_loaded()
