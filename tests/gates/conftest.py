"""A course of one good lesson, in a folder of its own, in which the tests plant one defect at a time."""

import contextlib
import io
import shutil
from pathlib import Path

import nbformat
import pytest

from ci import execute, sync
from ci.lesson import ROOT, lessons, read_notebook, write_notebook

HERE = Path(__file__).parent / "course"


def build(root: Path) -> Path:
    """Writes the sample course below `root`: its own chapters and checks, the real engine, everything derived."""
    shutil.copytree(HERE / "chapters", root / "chapters")
    shutil.copytree(HERE / "ci", root / "ci")
    hidden = shutil.ignore_patterns("__pycache__", "checks", "autograd", "catalogue.json")
    shutil.copytree(ROOT / "src" / "groundup", root / "src" / "groundup", ignore=hidden)
    shutil.copytree(HERE / "checks", root / "src" / "groundup" / "checks")
    (root / "src" / "groundup" / "checks" / "__init__.py").write_text('"""Checks."""\n')
    for name in ("jupytext.toml", "pyproject.toml"):
        shutil.copy(ROOT / name, root / name)
    (root / "_config.yml").write_text("repository: {url: https://github.com/somebody/course}\n")
    derive(root)
    return root


def derive(root: Path) -> None:
    """Syncs, and stores what the examples print as papermill would (in this process: it is a tenth of the time)."""
    assert sync.main(["--tidy"], root) == 0
    course = lessons(root)
    for lesson in course:
        path = root / lesson.solution_path
        notebook = read_notebook(path)
        namespace: dict = {"check": lambda obj: None}
        for number, cell in enumerate(notebook.cells):
            if cell.cell_type == "code":
                cell.execution_count = number
            if cell.cell_type != "code" or "setup" in cell.metadata.get("tags", []):
                continue
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(cell.source, namespace)
            cell.outputs = []
            if printed.getvalue():
                cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=printed.getvalue())]
        notebook.metadata["groundup"] = {"source": execute.fingerprint(lesson, course), "scale": "cpu"}
        path.write_text(write_notebook(notebook), encoding="utf-8")


@pytest.fixture(scope="session")
def template(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("template") / "course")


@pytest.fixture
def course(template, tmp_path) -> Path:
    """A fresh copy of the good course."""
    return Path(shutil.copytree(template, tmp_path / "course"))


@pytest.fixture
def edit(course):
    """`edit(file, old, new)` replaces one place; `again=True` then derives everything from the edited chapters."""

    def edit(path: str, old: str, new: str, *, again: bool = False) -> None:
        file = course / path
        text = file.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {path}"
        file.write_text(text.replace(old, new), encoding="utf-8")
        if again:
            derive(course)

    return edit
