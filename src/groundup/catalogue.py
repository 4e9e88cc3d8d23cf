"""What lessons and exercises the installed course has (catalogue.json, generated from chapters/)."""

import json
from functools import cache
from importlib.resources import files


@cache
def lessons() -> list[dict]:
    """Every lesson, in the order of the course: id, part, title, minutes, needs, covers, path, source, exercises."""
    text = files("groundup").joinpath("catalogue.json").read_text(encoding="utf-8")
    return json.loads(text)["lessons"]


def lesson(lesson_id: str) -> dict:
    """The lesson called `lesson_id`, such as `autograd.graph`.

    Raises:
        KeyError: there is none; the message lists those there are.
    """
    for entry in lessons():
        if entry["id"] == lesson_id:
            return entry
    known = ", ".join(entry["id"] for entry in lessons())
    raise KeyError(f"no lesson is called {lesson_id!r}; there are: {known}")


def exercise(exercise_id: str) -> dict:
    """The exercise called `exercise_id`, such as `autograd.graph.topological_order`.

    Raises:
        KeyError: there is none.
    """
    for entry in lessons():
        for found in entry["exercises"]:
            if found["id"] == exercise_id:
                return found
    raise KeyError(f"no exercise is called {exercise_id!r}; `groundup list` shows those there are")
