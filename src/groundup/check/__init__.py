"""The autograder: declare an exercise with `Exercise` and `Case`, grade an answer with `grade`."""

from __future__ import annotations

from .audit import problems
from .checker import Checker, lesson
from .compare import compare
from .distribution import agree_in_distribution, chi_square_survival, histogram
from .exercise import Case, CheckError, Exercise, exercises_of, load
from .grade import Result, engine_is_loaded, grade

__all__ = [
    "Case",
    "CheckError",
    "Checker",
    "Exercise",
    "Result",
    "agree_in_distribution",
    "chi_square_survival",
    "compare",
    "exercises_of",
    "grade",
    "histogram",
    "lesson",
    "load",
    "problems",
]

engine_is_loaded()
