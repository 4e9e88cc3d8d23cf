"""Checks a notebook from the command line: runs its definitions in a process of their own and grades its exercises.

Which cells run is read from the tags: `setup`, `export` and `exercise`, and besides them any cell that only defines
things (a helper that the learner added). Nothing else runs, so nothing trains. The worker process reports each step
before it takes it; when it dies or stops answering, the step is to blame, and a new worker goes on without it.
"""

import ast
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from groundup import catalogue

DEFINING_SECONDS = 10.0  # a cell of definitions takes milliseconds
IMPORTING_SECONDS = 120.0  # the first import of PyTorch from a cold disk takes tens of seconds
GRADING_SECONDS = (
    120.0  # the engine has its own, much shorter limit: this one is for C calls that never return
)

_RUN_TAGS = {"setup", "export", "exercise"}
_SKIP_TAGS = {"check", "example", "parameters", "interactive"}


class NotebookError(Exception):
    """The file cannot be checked; the message is one line that says why."""


@dataclass(frozen=True)
class Cell:
    """A code cell that is to be run: its place in the notebook (from 1), its Python, the names it defines."""

    number: int
    id: str
    source: str
    defines: tuple[str, ...]
    is_exercise: bool
    is_solution: bool  # still carries the course's solution markers

    @property
    def seconds(self) -> float:
        return IMPORTING_SECONDS if re.search(r"^\s*(import|from)\s", self.source, re.M) else DEFINING_SECONDS


def check(path: Path) -> Iterator[tuple[dict, bool]]:
    """Grade every exercise of the notebook at `path`, in the order of the lesson.

    Yields, for each exercise, `{"id", "status", "message"}` and whether the answer is the learner's own work
    (not the course's solution, as in solutions/).

    Raises:
        NotebookError: this is no notebook of a lesson of this course.
    """
    lesson, cells = read(path)
    exercises = lesson["exercises"]
    blamed_cells: dict[int, str] = {}
    verdicts: dict[str, tuple[str, str]] = {}
    yielded = 0
    while yielded < len(exercises):
        known = len(blamed_cells) + len(verdicts)
        plan = {
            "lesson": lesson["id"],
            "folder": str(path.resolve().parent),
            "cells": [
                {
                    "number": cell.number,
                    "source": cell.source,
                    "defines": cell.defines,
                    "seconds": cell.seconds,
                }
                for cell in cells
                if cell.number not in blamed_cells
            ],
            "exercises": [
                {"id": exercise["id"], "name": exercise["name"]}
                for exercise in exercises
                if exercise["id"] not in verdicts
            ],
            "grading_seconds": GRADING_SECONDS,
        }
        failures = dict(blamed_cells)
        for event in _events(plan):
            if event["event"] == "failed":
                failures[event["number"]] = event["message"]
            elif event["event"] == "result":
                verdicts[event["id"]] = (event["status"], event["message"])
            elif event["event"] == "absent":
                verdicts[event["id"]] = _absent(event["name"], cells, failures)
            elif event["event"] == "died":
                step = event["step"]
                if step.get("event") == "cell":
                    blamed_cells[step["number"]] = event["message"]
                elif step.get("event") == "grade":
                    verdicts[step["id"]] = (event["status"], f"Your {step['name']} {event['message']}.")
                else:
                    raise NotebookError(
                        f"the checks could not be started: the Python process {event['message']}"
                    )
            while yielded < len(exercises) and exercises[yielded]["id"] in verdicts:
                exercise = exercises[yielded]
                status, message = verdicts[exercise["id"]]
                if status != "passed":
                    message += _earlier(cells, failures, exercise["name"])
                answer = _cell_of(exercise["name"], cells)
                yield (
                    {"id": exercise["id"], "status": status, "message": message},
                    answer is not None and not answer.is_solution,
                )
                yielded += 1
        if len(blamed_cells) + len(verdicts) == known:
            raise NotebookError(
                "the checks ended without an answer: something in the notebook stops the process"
            )


def read(path: Path) -> tuple[dict, list[Cell]]:
    """The lesson (its entry in the catalogue) of the notebook at `path`, and the cells to run.

    Raises:
        NotebookError: this is no notebook of a lesson of this course.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise NotebookError(f"there is no file {path}") from None
    except IsADirectoryError:
        raise NotebookError(f"{path} is a folder; name one notebook (.ipynb)") from None
    except OSError as error:
        raise NotebookError(f"{path} cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError):
        raise NotebookError(f"{path} is not a notebook: it holds no valid JSON") from None
    if not isinstance(content, dict) or not isinstance(content.get("cells"), list):
        raise NotebookError(f"{path} is not a notebook: it has no list of cells")
    raw = [_plain(cell) for cell in content["cells"]]
    lesson_id = _lesson_id(content.get("metadata"), raw)
    if lesson_id is None:
        raise NotebookError(f"{path} is not a notebook of this course: its metadata names no lesson")
    try:
        lesson = catalogue.lesson(lesson_id)
    except KeyError:
        raise NotebookError(
            f"{path} is of the lesson {lesson_id!r}, which this version of the course lacks"
        ) from None
    cells = []
    names = {exercise["name"] for exercise in lesson["exercises"]}
    for number, (kind, source, tags, cell_id) in enumerate(raw, start=1):
        if kind != "code" or tags & _SKIP_TAGS:
            continue
        python = _python(source)
        defines = _defines(python)
        only_defines = _only_defines(python)
        is_exercise = "exercise" in tags or (only_defines and bool(names & set(defines)))
        if tags & _RUN_TAGS or only_defines:
            cells.append(Cell(number, cell_id, python, defines, is_exercise, "### BEGIN SOLUTION" in source))
    return lesson, cells


def _plain(cell: object) -> tuple[str, str, set[str], str]:
    """Kind, source, tags and id of a cell, whatever stands in the file."""
    if not isinstance(cell, dict):
        return "", "", set(), ""
    source = cell.get("source", "")
    if isinstance(source, list):
        source = "".join(line for line in source if isinstance(line, str))
    metadata = cell.get("metadata")
    tags = metadata.get("tags") if isinstance(metadata, dict) else None
    return (
        str(cell.get("cell_type", "")),
        source if isinstance(source, str) else "",
        {tag for tag in tags if isinstance(tag, str)} if isinstance(tags, list) else set(),
        str(cell.get("id", "")),
    )


def _lesson_id(metadata: object, cells: list[tuple[str, str, set[str], str]]) -> str | None:
    """From the metadata or, where an editor dropped what it did not know, from the call in the setup cell."""
    if isinstance(metadata, dict) and isinstance(metadata.get("lesson"), str):
        return metadata["lesson"]
    for kind, source, _, _ in cells:
        found = re.search(r"""^check\s*=\s*lesson\(\s*["']([\w.]+)["']""", source, re.M)
        if kind == "code" and found:
            return found.group(1)
    return None


def _python(source: str) -> str:
    """`source` with the lines that only IPython understands replaced by `pass`."""
    if _tree(source) is not None:
        return source
    magic = r"^(\s*)(?:[%!?].*|[^#'\"]*=\s*[%!].*|[\w.]+\?+\s*)$"
    return re.sub(magic, r"\1pass", source, flags=re.M)


def _tree(source: str) -> ast.Module | None:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _defines(source: str) -> tuple[str, ...]:
    """Names of the top-level functions and classes, found by text: a cell with a syntax error has no tree."""
    return tuple(re.findall(r"^(?:async\s+def|def|class)\s+(\w+)", source, re.M))


def _only_defines(source: str) -> bool:
    tree = _tree(source)
    if tree is None:
        return False
    imports = (ast.Import, ast.ImportFrom)
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return bool(tree.body) and all(
        isinstance(node, imports + definitions)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        or (isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant))
        for node in tree.body
    )


def _cell_of(name: str, cells: list[Cell]) -> Cell | None:
    """The cell that gives `name` its last meaning."""
    return next((cell for cell in reversed(cells) if name in cell.defines), None)


def _absent(name: str, cells: list[Cell], failures: dict[int, str]) -> tuple[str, str]:
    """Status and message for an exercise of which the notebook left nothing to grade."""
    cell = _cell_of(name, cells)
    if cell is not None:
        why = failures.get(cell.number, "removed it again")
        return "error", f"The cell that defines {name} (cell {cell.number}) {why}."
    expected = name.replace("_", "-")
    blank = next((cell for cell in cells if cell.is_exercise and cell.id == expected), None)
    if blank is None:
        return (
            "todo",
            f"{name} is not in this notebook; `groundup reset` gives a fresh copy and keeps this one.",
        )
    if blank.defines:
        return (
            "error",
            f"Cell {blank.number} should define {name}, but it defines {blank.defines[-1]}: rename it.",
        )
    return "todo", f"Cell {blank.number} should define {name}, but it defines nothing."


def _earlier(cells: list[Cell], failures: dict[int, str], name: str) -> str:
    """What an answer may have stumbled over: a cell of imports or helpers that failed before it."""
    for cell in cells:
        if cell.number in failures and not cell.is_exercise and name not in cell.defines:
            return f"\nBefore that, cell {cell.number} {failures[cell.number]}."
    return ""


def _events(plan: dict) -> Iterator[dict]:
    """What a worker reports about `plan`; at its end, if it does not finish, one event `died` with the step it was at."""
    worker = subprocess.Popen(
        [sys.executable, "-P", "-m", "groundup._notebook_worker"],  # -P: no module of the current folder
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def listen() -> None:
        for line in worker.stdout:
            lines.put(line)
        lines.put(None)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    step: dict = {}
    try:
        with suppress(BrokenPipeError):  # it died at once: the missing answer tells
            worker.stdin.write(json.dumps(plan).encode())
            worker.stdin.close()
        while True:
            try:
                line = lines.get(timeout=step.get("seconds", IMPORTING_SECONDS))
            except queue.Empty:
                limit = step.get("seconds", IMPORTING_SECONDS)
                yield {
                    "event": "died",
                    "step": step,
                    "status": "timeout",
                    "message": f"did not end in {limit:g} s",
                }
                return
            if line is None:
                yield {"event": "died", "step": step, "status": "error", "message": _how_it_ended(worker)}
                return
            event = _event(line)
            if event.get("event") == "end":
                return
            if event.get("event") in ("cell", "grade"):
                step = event
            elif event:
                yield event
    finally:
        _stop(worker)


def _event(line: bytes) -> dict:
    with suppress(ValueError, RecursionError):
        event = json.loads(line)
        if isinstance(event, dict):
            return event
    return {}


def _how_it_ended(worker: subprocess.Popen) -> str:
    with suppress(subprocess.TimeoutExpired):
        code = worker.wait(timeout=5)
        if code < 0:
            return f"ended the Python process ({signal.Signals(-code).name})"
    return "ended the Python process"


def _stop(worker: subprocess.Popen) -> None:
    """End the worker and whatever the notebook started."""
    with suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(worker.pid, signal.SIGKILL)
        else:
            worker.kill()
    with suppress(subprocess.TimeoutExpired):
        worker.wait(timeout=5)
