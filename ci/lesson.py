"""Reads one lesson from its source in chapters/: the only place that knows how a chapter file is written.

A chapter is a MyST-Markdown notebook (jupytext). `read` turns it into a `Lesson`, and refuses a chapter
that breaks the agreed form with one line that names the file and the line.
"""

import ast
import copy
import hashlib
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

import nbformat
import yaml
from jupytext.myst import MystMetadataParsingError, myst_to_notebook, notebook_to_myst

ROOT = Path(__file__).resolve().parent.parent

FRONT_MATTER = ("covers", "lesson", "minutes", "needs", "title")
# The notebook half's kernel, to the letter what JupyterLab writes there once a kernel has started. The chapter has none:
# JupyterLab writes its keys in another order than the notebook's, so a save would change it.
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
TAGS = frozenset(
    ["setup", "parameters", "exercise", "example", "check", "export", "hide-input", "interactive"]
)
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"

# These lines are the contract between a chapter's author, sync, the website and the gates.
HEADING = re.compile(r"^### Exercise: (?P<title>.+)$", re.M)
EFFORT = re.compile(
    r"^Difficulty (?P<difficulty>[1-5])/5 · (?P<minutes>\d+) minutes · (?P<points>\d+) points?$", re.M
)
HINT = re.compile(r"<details><summary>Hint (?P<number>[123]) · [^<]*</summary>")
RECALL = re.compile(
    r"^<details><summary>(?P<question>.+?)</summary>\n\n(?P<answer>.+?)\n\n</details>$", re.M | re.S
)
FENCE = re.compile(r"^ {0,3}(?P<marks>`{3,}|~{3,})(?P<rest>.*)$")
EXPECTED = re.compile(r"^Expected output:\n\n(?P<fence>```+)text\n(?P<text>.*?)\n(?P=fence)$", re.M | re.S)


class LessonError(Exception):
    """A chapter that breaks the agreed form; the message is `file:line: what is wrong`."""


@dataclass(frozen=True)
class Cell:
    """One cell: `kind` is markdown or code; `line` is where it starts in the chapter (from 1)."""

    kind: str
    source: str
    tags: frozenset[str]
    id: str
    line: int


@dataclass(frozen=True)
class Exercise:
    """One exercise: what its heading, hints and four cells say. `source` is the solution with its markers."""

    id: str
    name: str
    title: str
    difficulty: int
    minutes: int
    points: int
    hints: tuple[str, str, str]
    expected: str
    source: str
    markdown: Cell
    code: Cell
    example: Cell
    check: Cell


@dataclass(frozen=True)
class Card:
    """One recall question: `question` as in the page's summary (HTML), `answer` in Markdown."""

    question: str
    answer: str


@dataclass(frozen=True)
class Lesson:
    """One chapter. `notebook` is its solved notebook without outputs; paths are relative to `root`."""

    id: str
    title: str
    minutes: int
    needs: tuple[str, ...]
    covers: tuple[int, ...]
    path: Path
    root: Path
    cells: tuple[Cell, ...]
    exercises: tuple[Exercise, ...]
    source_hash: str
    notebook: nbformat.NotebookNode = field(repr=False, compare=False)

    @property
    def part(self) -> str:
        return self.id.split(".")[0]

    @property
    def name(self) -> str:
        return self.id.split(".")[1]

    @property
    def exercise_path(self) -> Path:
        return Path("exercises", *self.path.with_suffix(".ipynb").parts[1:])

    @property
    def solution_path(self) -> Path:
        return Path("solutions", *self.path.with_suffix(".ipynb").parts[1:])

    @property
    def module_path(self) -> Path:
        return Path("src", "groundup", self.part, f"{self.name}.py")

    def code(self, *tags: str) -> Iterable[Cell]:
        """The code cells that carry all of `tags`, in order."""
        return (cell for cell in self.cells if cell.kind == "code" and cell.tags.issuperset(tags))

    def sections(self) -> Iterable[tuple[str, str, list[Cell]]]:
        """Each `## heading` with its prose (joined) and its code cells; what stands before the first has none."""
        heading, prose, code = "", [], []
        for cell in self.cells:
            if cell.kind == "code":
                code.append(cell)
                continue
            first, *rest = re.split(r"^## (.+)$", cell.source, flags=re.M)
            prose.append(first)
            for title, text in zip(rest[::2], rest[1::2], strict=True):
                yield heading, "\n\n".join(prose), code
                heading, prose, code = title.strip(), [text], []
        yield heading, "\n\n".join(prose), code

    @property
    def recall(self) -> tuple[Card, ...]:
        """The questions under `## Recall`, in order."""
        texts = [prose for heading, prose, _ in self.sections() if heading == "Recall"]
        return tuple(
            Card(m["question"], m["answer"].strip()) for text in texts for m in RECALL.finditer(text)
        )


def chapters(root: Path = ROOT) -> list[Path]:
    """All chapter files below `root`, in the order of the course."""
    return sorted((root / "chapters").glob("[0-9][0-9]_*/[0-9][0-9]_*.md"))


def lessons(root: Path = ROOT) -> list[Lesson]:
    """All lessons below `root`, in the order of the course."""
    return [read(path, root) for path in chapters(root)]


def plan(root: Path = ROOT) -> dict:
    """ci/curriculum.toml, the plan of the course.

    Raises:
        LessonError: it is not TOML (`file:line: what is wrong`).
    """
    try:
        return tomllib.loads((root / "ci" / "curriculum.toml").read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"at line (\d+)", str(error))
        raise LessonError(f"ci/curriculum.toml:{line[1] if line else 1}: not TOML: {error}") from error


def read(path: Path, root: Path = ROOT) -> Lesson:
    """Reads the chapter at `path`.

    Raises:
        LessonError: the chapter breaks the agreed form (`file:line: what is wrong`).
    """
    path = Path(path).resolve()
    relative = path.relative_to(root.resolve())
    text = path.read_text(encoding="utf-8")

    def wrong(line: int, message: str) -> LessonError:
        return LessonError(f"{relative}:{line}: {message}")

    lines = text.splitlines()
    _fences_close(lines, wrong)
    try:
        notebook = myst_to_notebook(text, add_source_map=True)
    except (MystMetadataParsingError, yaml.YAMLError) as error:
        raise wrong(1, f"the front matter is not YAML: {' '.join(str(error).split())}") from error
    starts = notebook.metadata.pop("source_map")
    notebook.metadata.pop("jupyter", None)  # jupytext's own note about the fences
    meta = notebook.metadata

    def line_of(key: str) -> int:
        return front_matter_line(text, key)

    missing = [key for key in FRONT_MATTER if key not in meta]
    unknown = [key for key in meta if key not in FRONT_MATTER]
    if missing or unknown:
        what = [f"lacks {', '.join(missing)}"] * bool(missing)
        what += [f"has unknown {', '.join(unknown)}"] * bool(unknown)
        raise wrong(line_of(unknown[0]) if unknown else 1, f"the front matter {' and '.join(what)}")
    part_folder, file_name = relative.parts[1], relative.stem
    expected_id = f"{part_folder[3:]}.{file_name[3:]}"
    if meta.lesson != expected_id:
        where = line_of("lesson")
        raise wrong(
            where, f"the front matter says lesson: {meta.lesson}, the file's place says {expected_id}"
        )
    if not isinstance(meta.minutes, int) or meta.minutes <= 0:
        raise wrong(line_of("minutes"), "minutes must be a whole number above zero")
    for key, kind, like in (("needs", str, "[autograd.arrays]"), ("covers", int, "[60, 61]")):
        if not isinstance(meta[key], list) or not all(isinstance(one, kind) for one in meta[key]):
            raise wrong(line_of(key), f"{key} must be a list, such as {like} or []")

    cells = []
    for index, (node, start) in enumerate(zip(notebook.cells, starts, strict=True)):
        tags = frozenset(node.metadata.get("tags", []))
        # jupytext counts from the fence or the block break; an error should point at the source itself.
        first = node.source.split("\n")[0]
        line = 1 + next(
            number for number in range(start, len(lines)) if lines[number].strip() == first.strip()
        )
        if unknown_tags := tags - TAGS:
            raise wrong(line, f"unknown tag {', '.join(sorted(unknown_tags))}")
        if set(node.metadata) - {"tags"}:
            raise wrong(line, "a cell may carry tags and no other metadata")
        if node.cell_type == "code" and "exercise" not in tags:
            _parsed(node.source, line, "cell", wrong)
        cells.append(Cell(node.cell_type, node.source, tags, f"cell-{index:02d}", line))

    cells, exercises = _exercises(cells, meta.lesson, wrong)
    # JupyterLab would write the chapter in this form; in any other, saving it there would change bytes. This comes last:
    # whoever leaves out a cell is told so, and not what the blank lines around its place should be.
    for number, (is_line, tidy_line) in enumerate(zip_longest(lines, tidy(notebook).splitlines()), 1):
        if is_line != tidy_line:
            raise wrong(number, f"JupyterLab would save {tidy_line!r} here (`make tidy` does)")
    notebook.metadata["kernelspec"] = nbformat.from_dict(KERNEL)
    for node, cell in zip(notebook.cells, cells, strict=True):
        node.id = cell.id
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return Lesson(
        id=meta.lesson,
        title=meta.title,
        minutes=meta.minutes,
        needs=tuple(meta.needs),
        covers=tuple(meta.covers),
        path=relative,
        root=root.resolve(),
        cells=tuple(cells),
        exercises=tuple(exercises),
        source_hash=hashlib.sha256(text.encode()).hexdigest()[:16],
        notebook=notebook,
    )


def tidy(notebook: nbformat.NotebookNode) -> str:
    """The chapter's text as jupytext writes it: front matter in alphabetical order."""
    ordered = copy.deepcopy(notebook)
    ordered.metadata = nbformat.from_dict(dict(sorted(notebook.metadata.items())))
    return notebook_to_myst(ordered, default_lexer="ipython3")


def _exercises(cells: list[Cell], lesson_id: str, wrong) -> tuple[list[Cell], list[Exercise]]:
    """Finds each exercise's four cells, names them after it, and reads what its heading says."""
    cells = list(cells)
    exercises: list[Exercise] = []
    for index, cell in enumerate(cells):
        if "exercise" not in cell.tags:
            continue
        name = _defined_name(cell, wrong)
        if "export" not in cell.tags:
            raise wrong(cell.line, f"exercise {name} must also carry the tag export")
        if any(exercise.name == name for exercise in exercises):
            raise wrong(cell.line, f"a second exercise is called {name}")
        around = [cells[i] if 0 <= i < len(cells) else None for i in (index - 1, index + 1, index + 2)]
        about, example, check = around
        if about is None or about.kind != "markdown" or not HEADING.search(about.source):
            raise wrong(cell.line, f"above exercise {name} must stand its text with '### Exercise: <title>'")
        if example is None or "example" not in example.tags:
            raise wrong(cell.line, f"after exercise {name} must stand a cell tagged example")
        if check is None or "check" not in check.tags or check.source.strip() != f"check({name})":
            raise wrong(
                cell.line, f"after the example of {name} must stand a cell tagged check: check({name})"
            )
        identity = name.strip("_").replace("_", "-")
        places = zip(
            (index - 1, index, index + 1, index + 2), ("-about", "", "-example", "-check"), strict=True
        )
        for place, suffix in places:
            old = cells[place]
            cells[place] = Cell(old.kind, old.source, old.tags, identity + suffix, old.line)
        effort = EFFORT.search(about.source)
        if not effort:
            raise wrong(about.line, f"exercise {name} lacks its line 'Difficulty 2/5 · 10 minutes · 1 point'")
        expected = EXPECTED.search(about.source)
        if not expected:
            raise wrong(about.line, f"exercise {name} lacks 'Expected output:' and its text block")
        exercises.append(
            Exercise(
                id=f"{lesson_id}.{name}",
                name=name,
                title=HEADING.search(about.source)["title"].strip(),
                difficulty=int(effort["difficulty"]),
                minutes=int(effort["minutes"]),
                points=int(effort["points"]),
                hints=_hints(about, name, wrong),
                expected=expected["text"],
                source=cell.source,
                markdown=cells[index - 1],
                code=cells[index],
                example=cells[index + 1],
                check=cells[index + 2],
            )
        )
    loose = [c for c in cells if c.tags & {"example", "check"} and c.id.startswith("cell-")]
    if loose:
        raise wrong(loose[0].line, f"a cell tagged {' '.join(sorted(loose[0].tags))} belongs to no exercise")
    return cells, exercises


def _defined_name(cell: Cell, wrong) -> str:
    """The name of the one function or class that an exercise cell defines, its regions checked."""
    body = _parsed(cell.source, cell.line, "exercise", wrong)
    if len(body) != 1 or not isinstance(body[0], ast.FunctionDef | ast.ClassDef):
        raise wrong(cell.line, "an exercise cell holds exactly one top-level function or class")
    opened = None
    regions = 0
    for number, text in enumerate(cell.source.splitlines()):
        if BEGIN in text:
            if opened is not None or not text.startswith(" "):
                raise wrong(cell.line + number, f"'{BEGIN}' must stand inside a body, once before each end")
            opened = number
        elif END in text:
            if opened is None:
                raise wrong(cell.line + number, f"'{END}' without a begin")
            opened, regions = None, regions + 1
    if opened is not None or not regions:
        raise wrong(cell.line, f"{body[0].name} needs a region from '{BEGIN}' to '{END}'")
    return body[0].name


def _parsed(source: str, line: int, what: str, wrong) -> list[ast.stmt]:
    """The statements of a cell that starts at `line`."""
    try:
        return ast.parse(source).body
    except SyntaxError as error:
        where = line + (error.lineno or 1) - 1
        raise wrong(where, f"the {what} does not parse: {error.msg}") from error


def _fences_close(lines: list[str], wrong) -> None:
    """Refuses a fence that is left open: jupytext would read all that follows it as its text."""
    opened, marks, code = 0, "", False
    for number, line in enumerate(lines, 1):
        fence = FENCE.match(line)
        if not fence:
            continue
        if not marks:
            opened, marks, code = number, fence["marks"], fence["rest"].startswith("{code-cell}")
        elif fence["marks"].startswith(marks) and not fence["rest"].strip():
            marks = ""
        elif fence["marks"].startswith(marks) and (code or fence["rest"].startswith("{code-cell}")):
            raise wrong(opened, f"{marks} is not closed before the next one opens in line {number}")
    if marks:
        raise wrong(opened, f"{marks} is never closed")


def front_matter_line(text: str, key: str) -> int:
    """The line of a chapter's text (from 1) on which its front matter says `key`; 1 where it does not."""
    found = re.search(rf"^{re.escape(key)}\s*:", text, re.M)
    return 1 + text.count("\n", 0, found.start()) if found else 1


def _hints(about: Cell, name: str, wrong) -> tuple[str, str, str]:
    parts = HINT.split(about.source)
    if parts[1::2] != ["1", "2", "3"]:
        raise wrong(about.line, f"exercise {name} needs 'Hint 1 · …', 'Hint 2 · …' and 'Hint 3 · …'")
    texts = [part.split("</details>")[0].strip() for part in parts[2::2]]
    if not all(texts):
        raise wrong(about.line, f"a hint of exercise {name} is empty")
    return tuple(texts)


def tidy_chapter(path: Path) -> bool:
    """Rewrites the chapter at `path` as JupyterLab would save it; says whether that changed anything."""
    text = path.read_text(encoding="utf-8")
    notebook = myst_to_notebook(text)
    notebook.metadata.pop("jupyter", None)
    path.write_text(tidy(notebook), encoding="utf-8", newline="\n")
    return tidy(notebook) != text


def write_notebook(notebook: nbformat.NotebookNode) -> str:
    """The notebook as the one text that every tool of the course writes."""
    return nbformat.writes(notebook, version=4).rstrip("\n") + "\n"


def read_notebook(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


__all__ = [
    "ROOT",
    "Card",
    "Cell",
    "Exercise",
    "Lesson",
    "LessonError",
    "chapters",
    "front_matter_line",
    "lessons",
    "plan",
    "read",
    "read_notebook",
    "tidy_chapter",
    "write_notebook",
]
