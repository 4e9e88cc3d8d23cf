"""A course of one small lesson in a folder of its own: `groundup` is run from it as a learner would."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

CHECKS = '''
from groundup.check import Case, Exercise

double = Exercise("demo.small.double", seconds=2.0)


@double.cases
def _(rng):
    yield Case("small", x=3.0)
    yield Case("negative", x=-1.5)


@double.oracle
def _(x):
    return x + x


@double.mistake
def squared(x):
    """You squared the number: doubling adds it to itself."""
    return x * x


@double.mistake
def halved(x):
    """You divided by two."""
    return x / 2


@double.mistake
def unchanged(x):
    """You gave the number back as it was."""
    return x


negate = Exercise("demo.small.negate", seconds=2.0)


@negate.cases
def _(rng):
    yield Case("positive", x=3.0)
    yield Case("negative", x=-1.5)


@negate.oracle
def _(x):
    return -x


@negate.mistake
def sign_lost(x):
    """You took the absolute value."""
    return abs(x)
'''


def exercise(name: str, **more: object) -> dict:
    return {
        "id": f"demo.small.{name}",
        "lesson": "demo.small",
        "name": name,
        "title": f"Write {name}",
        "difficulty": 2,
        "minutes": 5,
        "points": 1,
        "hints": ["one", "two", "three [bold]"],
    } | more


CATALOGUE = {
    "lessons": [
        {
            "id": "demo.small",
            "part": "demo",
            "title": "A small [lesson]",
            "minutes": 10,
            "needs": [],
            "covers": [],
            "path": "exercises/01_demo/01_small.ipynb",
            "source": "0" * 16,
            "exercises": [exercise("double"), exercise("negate", points=2)],
        }
    ]
}


def cell(source: str, *tags: str, id: str = "", kind: str = "code") -> dict:
    found = {
        "cell_type": kind,
        "id": id or f"cell-{abs(hash(source)) % 10**8}",
        "metadata": {},
        "source": source,
    }
    if tags:
        found["metadata"]["tags"] = list(tags)
    return found | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def notebook(*cells: dict, lesson: str | None = "demo.small") -> dict:
    metadata = {"lesson": lesson} if lesson is not None else {}
    return {"cells": list(cells), "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


SETUP = cell('from groundup import lesson\n\ncheck = lesson("demo.small")', "setup", id="cell-00")


def answers(double: str = "return x + x", negate: str = "return -x", *extra: dict) -> dict:
    """The lesson's notebook with these bodies as answers, and `extra` cells before them."""
    return notebook(
        cell("# A small lesson", kind="markdown"),
        SETUP,
        *extra,
        cell(f"def double(x):\n    {double}", "exercise", "export", id="double"),
        cell("print(double(3))", "example", id="double-example"),
        cell("check(double)", "check", id="double-check"),
        cell(f"def negate(x):\n    {negate}", "exercise", "export", id="negate"),
    )


BLANK = answers('raise NotImplementedError("write double")', 'raise NotImplementedError("write negate")')


@dataclass
class Course:
    """A copy of the package with the small lesson in place of the real ones, laid out as a checkout."""

    root: Path
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "PYTHONPATH": str(self.root / "src"),
            "GROUNDUP_HOME": str(self.home),
            "GROUNDUP_NO_RECORD": "0",
            "OMP_NUM_THREADS": "1",
        }

    def groundup(
        self, *arguments: object, cwd: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "groundup.cli", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=cwd or self.root,
            env=self.environment | environment,
        )

    def write(self, content: dict, name: str = "answer.ipynb") -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
        return path


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """src/ with the package and the small lesson."""
    source = tmp_path_factory.mktemp("package") / "src"
    shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
    (source / "groundup" / "catalogue.json").write_text(json.dumps(CATALOGUE), encoding="utf-8")
    checks = source / "groundup" / "checks" / "demo"
    checks.mkdir()
    (checks / "__init__.py").touch()
    (checks / "small.py").write_text(CHECKS, encoding="utf-8")
    # A plain `pip install` has no PyTorch; and without it a check starts a second sooner.
    (source / "torch.py").write_text('raise ImportError("not in this test")')
    return source


@pytest.fixture
def course(package: Path, tmp_path: Path) -> Course:
    root = tmp_path / "the course"  # a space in the path, as on many machines
    shutil.copytree(package, root / "src")
    folder = root / "exercises" / "01_demo"
    folder.mkdir(parents=True)
    (folder / "01_small.ipynb").write_text(json.dumps(BLANK), encoding="utf-8")
    return Course(root, tmp_path / "home")


@pytest.fixture
def groundup_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path):
    """Calls the command in this process, on the real course: (arguments) → exit code, stdout, stderr."""
    from groundup import cli

    monkeypatch.setenv("GROUNDUP_HOME", str(tmp_path / "home"))

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["groundup", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        return end.value.code, captured.out, captured.err

    return call
