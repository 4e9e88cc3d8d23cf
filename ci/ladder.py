"""The running table of Part 2 as the solved notebooks hold it: each rung where a lesson's run left it."""

import json
from pathlib import Path

from ci.lesson import Lesson, read_notebook
from groundup.ladder import MIME

FILE = Path("src", "groundup", "ladder.json")
EMPTY = "[]\n"


def rungs_of(course: list[Lesson]) -> list[tuple[Lesson, dict]]:
    """Each rung in the stored outputs with the lesson that recorded it, in the order of the course."""
    found = {}
    for lesson in course:
        path = lesson.root / lesson.solution_path
        cells = read_notebook(path).cells if path.exists() else []
        for output in [output for cell in cells for output in cell.get("outputs", [])]:
            if rung := output.get("data", {}).get(MIME):
                found[rung["name"]] = (lesson, dict(rung))
    return list(found.values())


def text_of(course: list[Lesson]) -> str:
    """What ladder.json should hold."""
    return json.dumps([rung for _, rung in rungs_of(course)], indent=1) + "\n"


def stored(root: Path) -> str:
    """What ladder.json holds."""
    return (root / FILE).read_text(encoding="utf-8") if (root / FILE).exists() else EMPTY


def store(root: Path, course: list[Lesson]) -> None:
    """Writes ladder.json if it differs."""
    if (text := text_of(course)) != stored(root):
        (root / FILE).parent.mkdir(parents=True, exist_ok=True)
        (root / FILE).write_text(text, encoding="utf-8", newline="\n")
