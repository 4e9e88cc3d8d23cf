"""Does the course work in Colab? Run inside Colab's runtime image (ci/colab.sh does), with nothing but what it has.

    python3 ci/colab.py

Installs the package as a notebook's first cell does, and makes sure that this replaced nothing that the image came
with; that every check of an untouched exercise notebook waits for the learner and every solved one passes; and that
every solved notebook runs at smoke scale. One line per problem; exits 1 if there is any.
"""

import importlib.metadata
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def versions() -> dict[str, str]:
    """Name → version of all that is installed."""
    return {
        dist.metadata["Name"].lower(): dist.version
        for dist in importlib.metadata.distributions()
        if dist.metadata["Name"]
    }


def carriers() -> list[str]:
    """The packages whose data files the lessons read, pinned, as the first cells of the notebooks install them."""
    parts = tomllib.loads((ROOT / "ci" / "curriculum.toml").read_text(encoding="utf-8"))["part"]
    wanted = {name for part in parts for name in part.get("files", [])}
    pins = (ROOT / "ci" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return sorted(pin for pin in pins if pin.split("==")[0] in wanted)


def install() -> list[str]:
    """Installs the course and its data over the image; names what that replaced."""
    before = versions()
    for asked in ([str(ROOT)], ["--no-deps", *carriers()]):
        command = [sys.executable, "-m", "pip", "install", "-q", *asked]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return [f"{asked[-1]} does not install: {done.stderr.strip().splitlines()[-1]}"]
    importlib.invalidate_caches()
    after = versions()
    return [
        f"installing the course replaced {name} {old} by {after.get(name, 'nothing')}"
        for name, old in before.items()
        if after.get(name) != old and name != "groundup"
    ]


def graded(notebook: Path, wanted: str) -> list[str]:
    """The exercises of a notebook that do not answer `wanted`."""
    command = [sys.executable, "-m", "groundup.cli", "check", str(notebook), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    try:
        results = json.loads(done.stdout)
    except json.JSONDecodeError:
        return [f"{notebook.name}: groundup check says {(done.stderr or done.stdout).strip()[-300:]!r}"]
    return [
        f"{notebook.name}: {result['id']} answers {result['status']}, not {wanted}: {result['message'][:200]}"
        for result in results
        if result["status"] != wanted
    ] or ([] if results else [f"{notebook.name}: no exercise was found"])


def runs(notebook: Path) -> list[str]:
    """Whether all cells of a notebook run at smoke scale."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    os.environ.update(environment())
    client = NotebookClient(nbformat.read(notebook, as_version=4), timeout=300, kernel_name="python3")
    try:
        client.execute(cwd=str(notebook.parent))
    except CellExecutionError as error:
        return [f"{notebook.name}: {error.ename}: {error.evalue[:300]}"]
    return []


def environment() -> dict[str, str]:
    return {**os.environ, "GROUNDUP_NO_RECORD": "1", "GROUNDUP_SCALE": "smoke", "OMP_NUM_THREADS": "1"}


def main() -> int:
    problems = install()
    exercises = sorted(ROOT.glob("exercises/*/*.ipynb"))
    solutions = sorted(ROOT.glob("solutions/*/*.ipynb"))
    for notebook in exercises:
        problems += graded(notebook, "todo")
    for notebook in solutions:
        problems += graded(notebook, "passed") + runs(notebook)
    for problem in problems:
        print(problem)
    print(f"{len(exercises)} exercise notebooks, {len(solutions)} solved ones, {len(problems)} problems")
    return 1 if problems or not exercises else 0


if __name__ == "__main__":
    sys.exit(main())
