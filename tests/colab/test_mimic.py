"""An environment as near to Colab's as this machine allows: the course installs into it, replaces nothing, and works.

The versions are those of Colab's runtime that differ most from ours; what is not named here is left to pip. The real
runtime image is tried by ci/colab.sh, once a week (.github/workflows/colab.yml); both run ci/colab.py.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ci.lesson import ROOT, lessons, read_notebook

# No jupytext, no nbgrader, no triton: Colab has none of them.
COLAB = (
    "ipython==7.34.0", "ipywidgets==7.7.1", "ipykernel==6.17.1", "jupyter-client==7.4.9", "numpy==2.1.3",
    "plotly==5.24.1", "networkx>=3.4", "nbformat>=5.10", "nbclient>=0.10", "scikit-learn", "rich>=13.7", "typer>=0.15", "transformers>=4.56", "tiktoken", "datasets>=4.0",
)  # fmt: skip
TORCH = "torch==2.13.0"
SETUPTOOLS = "setuptools<81"  # IPython 7.34 imports what later versions dropped


def python_of(version: str) -> str:
    """The interpreter of this version on this machine; skips the test where there is none."""
    found = [
        shutil.which(f"python{version}"),
        *map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python")),
    ]
    for name in [sys.executable, *filter(None, found)]:
        asked = [name, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        done = subprocess.run(asked, capture_output=True, text=True)
        if done.stdout.strip() == version:
            return name
    pytest.skip(f"no Python {version} on this machine: the mimic of Colab was not built with it")


def environment(folder: Path, version: str, packages: tuple[str, ...]) -> Path:
    """The Python of a fresh virtual environment with `packages`."""
    made = folder / version
    python = made / "bin" / "python"
    subprocess.run([python_of(version), "-m", "venv", "--clear", str(made)], check=True, timeout=120)
    pip(python, "install", "-q", *packages)
    return python


def pip(python: Path, *arguments: str) -> str:
    command = [str(python), "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def clean_environment(home: Path) -> dict[str, str]:
    """This process's, without what would lead the mimic to the packages here."""
    hidden = ("PYTHONPATH", "VIRTUAL_ENV", "NBGRADER_EXECUTION")
    kept = {key: value for key, value in os.environ.items() if key not in hidden}
    return {
        **kept,
        "GROUNDUP_HOME": str(home),
        "PYTHONWARNINGS": "ignore",
        "JUPYTER_PATH": "",
        "HOME": str(home),
    }


@pytest.fixture(scope="module")
def mimic(tmp_path_factory) -> Path:
    """The Python of an environment like Colab's, on 3.11, with torch."""
    return environment(tmp_path_factory.mktemp("colab"), "3.11", (*COLAB, SETUPTOOLS, TORCH))


def test_installing_the_course_would_replace_nothing(mimic):
    before = {entry["name"].lower() for entry in json.loads(pip(mimic, "list", "--format=json"))}
    report = json.loads(pip(mimic, "install", "-q", "--dry-run", "--report", "-", str(ROOT)))
    wanted = {entry["metadata"]["name"].lower() for entry in report["install"]}
    assert "groundup" in wanted
    assert wanted & before == set()


SAMPLE = 2  # lessons of each part, drawn anew in each run; all of them run in the real image once a week


@pytest.mark.timeout(1600)
def test_exercises_wait_and_solutions_pass_and_run(mimic, tmp_path):
    """ci/colab.py itself, on a copy of the course: it installs the package as the notebooks' first cell does."""
    course = tmp_path / "course"
    parts = ("src", "exercises", "solutions", "ci", "pyproject.toml", "README.md", "LICENSE", "LICENSE-PROSE")
    for name in parts:
        target = course / name
        target.parent.mkdir(exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy2)(ROOT / name, target)
    done = subprocess.run(
        [str(mimic), str(course / "ci" / "colab.py"), "--sample", str(SAMPLE)],
        capture_output=True, text=True, cwd=tmp_path, env=clean_environment(tmp_path), timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    parts: dict[str, int] = {}
    for lesson in lessons():
        parts[lesson.part] = parts.get(lesson.part, 0) + 1
    count = sum(min(SAMPLE, number) for number in parts.values())
    assert f"{count} exercise notebooks, {count} solved ones, 0 problems" in done.stdout


@pytest.mark.timeout(900)
def test_the_wheel_alone_trains_and_samples(mimic, tmp_path):
    """The package as `pip install git+…` builds it, used far from the repository: names of Part 2, and the recipes."""
    pip(mimic, "wheel", "-q", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT))
    (wheel,) = tmp_path.glob("groundup-*.whl")
    pip(mimic, "install", "-q", "--force-reinstall", "--no-deps", str(wheel))
    (tmp_path / "text.txt").write_text("the cat sat on the mat and ran\n" * 200, encoding="utf-8")
    run = "--n-layer 1 --n-head 2 --n-embd 16 --block_size 8 --batch_size 2 --max-iters 4 --eval-interval 2 --eval-iters 1"

    def python(*arguments: str) -> str:
        done = subprocess.run(
            [str(mimic), *arguments],
            capture_output=True, text=True, cwd=tmp_path, env=clean_environment(tmp_path), timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    names = "import groundup.gpt2 as part; print(part.__file__, len([getattr(part, name) for name in part.__all__]))"
    assert str(mimic.parent.parent) in python("-c", names)
    assert "step 4: loss" in python(
        "-m", "groundup", "train", "gpt2", "--data", "text.txt", "--device", "cpu", *run.split()
    )
    said = python("-m", "groundup", "sample", "--prompt", "the ", "--max_new_tokens", "5", "--num_beams", "2")
    assert "the " in said


def setup_cell(lesson) -> str:
    """The first cell of an exercise notebook, installing from this folder: no other host is reached in a test."""
    notebook = read_notebook(ROOT / lesson.exercise_path)
    source = next(cell.source for cell in notebook.cells if cell.cell_type == "code")
    here, changed = re.subn(r'f"groundup @ git\+[^"]+"', repr(str(ROOT)), source)
    assert changed == 1
    return here


def test_the_setup_cell_works_twice_on_a_newer_python_without_torch(tmp_path):
    python = environment(tmp_path, "3.13", (*COLAB, SETUPTOOLS))
    cell = setup_cell(lessons()[0])
    script = tmp_path / "notebook.py"
    script.write_text(
        f"code = compile({cell!r}, 'first cell', 'exec')\nexec(code)\nexec(code)\nprint(check)\n"
        + IMPORT_ALL,
        encoding="utf-8",
    )
    done = subprocess.run(
        [str(python), str(script)],
        capture_output=True, text=True, cwd=tmp_path, env=clean_environment(tmp_path), timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert "groundup.show" in said["works"] and "groundup.autograd.tensors" in said["works"]
    # What does not work lacks torch (or what needs it), and nothing else.
    assert set(said["lacks"].values()) <= {"torch", "jax", "triton"}, said["lacks"]


IMPORT_ALL = """
import importlib, json, pkgutil
import groundup
works, lacks = [], {}
for found in pkgutil.walk_packages(groundup.__path__, "groundup."):
    if found.name.rpartition(".")[2].startswith("_"):
        continue
    try:
        importlib.import_module(found.name)
        works.append(found.name)
    except ModuleNotFoundError as error:
        lacks[found.name] = error.name
print(json.dumps({"works": works, "lacks": lacks}))
"""
