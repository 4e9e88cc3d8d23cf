"""Does the course work in Colab? Run inside Colab's runtime image (ci/colab.sh does), with nothing but what it has.

    python3 ci/colab.py
    python3 ci/colab.py --sample 2              two lessons of each part, drawn anew
    python3 ci/colab.py --sample 2 --seed 7     those that this seed draws

Installs the package as a notebook's first cell does, and makes sure that this replaced nothing that the image came
with; that every check of an untouched exercise notebook waits for the learner and every solved one passes; and that
every solved notebook runs at smoke scale. One line per problem; exits 1 if there is any.
"""

import argparse
import importlib.metadata
import json
import os
import random
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
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


def drawn(notebooks: list[Path], sample: int, seed: int) -> list[Path]:
    """`sample` notebooks of each part (all of a smaller part), the same for exercises/ and solutions/."""
    parts = {}
    for notebook in notebooks:
        parts.setdefault(notebook.parent.name, []).append(notebook)
    rng = random.Random(seed)
    return sorted(n for part in sorted(parts) for n in rng.sample(parts[part], min(sample, len(parts[part]))))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, help="so many lessons of each part; without it, all")
    parser.add_argument("--seed", type=int, default=random.randrange(2**31), help="which lessons are drawn")
    options = parser.parse_args()
    problems = install()
    exercises = sorted(ROOT.glob("exercises/*/*.ipynb"))
    solutions = sorted(ROOT.glob("solutions/*/*.ipynb"))
    if options.sample is not None:
        exercises, solutions = (
            drawn(found, options.sample, options.seed) for found in (exercises, solutions)
        )
        print(f"a sample (seed {options.seed}): {', '.join(notebook.stem for notebook in solutions)}")
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # each is graded in a process of its own
        for found in pool.map(graded, exercises, repeat("todo")):
            problems += found
        for found in pool.map(graded, solutions, repeat("passed")):
            problems += found
    for notebook in solutions:
        problems += runs(notebook)
    for problem in problems:
        print(problem)
    print(f"{len(exercises)} exercise notebooks, {len(solutions)} solved ones, {len(problems)} problems")
    return 1 if problems or not exercises else 0


if __name__ == "__main__":
    sys.exit(main())
