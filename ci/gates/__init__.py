"""The gates: what must hold of every lesson before it may be published. `python -m ci.audit` runs them all."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import nbformat

from ci.lesson import ROOT, Lesson, LessonError, chapters, plan, read, read_notebook


@dataclass(frozen=True)
class Problem:
    """One thing to mend: which gate says so, where (a file), what."""

    gate: str
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message} [{self.gate}]"


@dataclass(frozen=True)
class Course:
    """Everything that the gates look at, read once.

    lessons: those to judge. every: all that can be read, since a lesson's freshness hangs on what it imports.
    form: the chapters that cannot be read at all.
    """

    root: Path
    lessons: tuple[Lesson, ...]
    form: tuple[Problem, ...] = field(default=())
    every: tuple[Lesson, ...] = field(default=())

    @cached_property
    def plan(self) -> dict:
        """ci/curriculum.toml."""
        return plan(self.root)

    @cached_property
    def planned(self) -> dict[str, dict]:
        """Lesson id → its entry in the plan, in the order of the course."""
        return {lesson["id"]: lesson for part in self.plan["part"] for lesson in part.get("lesson", [])}

    @cached_property
    def parts(self) -> frozenset[str]:
        return frozenset(part["id"] for part in self.plan["part"]) | {lesson.part for lesson in self.lessons}

    @cached_property
    def _notebooks(self) -> dict[Path, nbformat.NotebookNode]:
        paths = [path for lesson in self.lessons for path in (lesson.exercise_path, lesson.solution_path)]
        return {path: read_notebook(self.root / path) for path in paths if (self.root / path).exists()}

    def notebook(self, path: Path) -> nbformat.NotebookNode | None:
        """A derived notebook, or None where there is none (which the gate `drift` reports)."""
        return self._notebooks.get(path)

    def checks_path(self, lesson: Lesson) -> Path:
        return Path("src", "groundup", "checks", lesson.part, f"{lesson.name}.py")


def load(root: Path = ROOT, only: tuple[str, ...] = ()) -> Course:
    """Reads the course below `root`; `only` keeps the lessons with these ids."""
    every, problems = [], []
    for path in chapters(root):
        try:
            every.append(read(path, root))
        except LessonError as error:
            where, _, message = str(error).partition(": ")
            problems.append(Problem("form", where, message))
    chosen = tuple(lesson for lesson in every if not only or lesson.id in only)
    return Course(Path(root), chosen, tuple(problems), tuple(every))
