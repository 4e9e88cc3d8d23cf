"""Everything that CI checks, step by step (`make test`); the last line sums it up as pytest does.

    python -m ci.test              all steps
    python -m ci.test lint unit    some of them
    python -m ci.test --list       what there is

A step that fails does not stop the others: one run shows everything that is wrong.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

from ci.lesson import ROOT

SAMPLE = 24  # mutants per lesson
PAGES = 12  # lessons' pages that are driven in a browser; all other pages always are
SLOWEST = ("--durations=12", "--durations-min=5")  # the time that all this may take is short
PROSE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "index.md", "book", "chapters")
PYTHON = (sys.executable, "-m")


def lint(counts: Path) -> list[list[str]]:
    """Code and prose read well: ruff, ruff format, codespell."""
    solved = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("solutions/*/*.ipynb"))
    return [
        [*PYTHON, "ruff", "check", "--quiet", "src", "tests", "ci"],
        [*PYTHON, "ruff", "format", "--quiet", "--check", "src", "tests", "ci"],
        *([[*PYTHON, "ruff", "check", "--quiet", *solved]] if solved else []),
        [
            *PYTHON,
            "codespell_lib",
            "--skip=*.svg,*.js,*.css",
            "--ignore-words-list=gage",  # Philip Gage, who invented byte-pair encoding
            *(name for name in PROSE if (ROOT / name).exists()),
        ],
    ]


def sync(counts: Path) -> list[list[str]]:
    """Every derived file is what chapters/ gives, to the byte."""
    return [[*PYTHON, "ci.sync", "--check"]]


def unit(counts: Path) -> list[list[str]]:
    """The unit tests, with the shapes of the library checked."""
    where = ["tests", "--ignore=tests/site"]
    return [
        [*PYTHON, "pytest", "-q", "-n", "2", "--dist", "loadfile", *SLOWEST, f"--junitxml={counts}", *where]
    ]


def audit(counts: Path) -> list[list[str]]:
    """All gates, with a fresh sample of the mutants."""
    return [[*PYTHON, "ci.audit", "--sample", str(SAMPLE)]]


def lessons(counts: Path) -> list[list[str]]:
    """Every solved notebook runs, at smoke scale."""
    nbval = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=120", "--dist", "loadfile"]
    return [[*PYTHON, "pytest", "-q", *nbval, "-n", "2", f"--junitxml={counts}", "solutions"]]


def book(counts: Path) -> list[list[str]]:
    """The site builds with warnings as errors."""
    return [[*PYTHON, "ci.book", "--fresh"]]


def site(counts: Path) -> list[list[str]]:
    """Its links hold; its pages, of the lessons' a fresh sample, work in a browser and ask no other host."""
    drawn = os.environ.get("GROUNDUP_PAGES") or f"{PAGES}:{random.randrange(2**31)}"
    print(f"lessons' pages that are driven, and the seed that draws them: GROUNDUP_PAGES={drawn}", flush=True)
    return [
        [
            "env",
            f"GROUNDUP_PAGES={drawn}",
            *PYTHON,
            "pytest",
            "-q",
            "-n",
            "2",
            *SLOWEST,
            f"--junitxml={counts}",
            "tests/site",
        ]
    ]


STEPS: dict[str, Callable[[Path], list[list[str]]]] = {
    step.__name__: step for step in (lint, sync, unit, audit, lessons, book, site)
}
ENVIRONMENT = {
    "GROUNDUP_NO_RECORD": "1",
    "GROUNDUP_SCALE": "smoke",
    "OMP_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ci.test", description=__doc__.splitlines()[0])
    parser.add_argument("steps", nargs="*", metavar="STEP", help=", ".join(STEPS))
    parser.add_argument("--list", action="store_true", help="say what each step checks")
    options = parser.parse_args(arguments)
    if options.list:
        for name, step in STEPS.items():
            print(f"{name:8} {step.__doc__}")
        return 0
    if unknown := [name for name in options.steps if name not in STEPS]:
        parser.error(f"no step is called {', '.join(unknown)}; there are {', '.join(STEPS)}")
    chosen = options.steps or list(STEPS)
    started = time.monotonic()
    total = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    lines, broken, other = [], [], 0
    for name in chosen:
        print(f"\n--- {name}: {STEPS[name].__doc__}", flush=True)
        begun = time.monotonic()
        code, counts = run(STEPS[name])
        for key in total:
            total[key] += counts.get(key, 0)
        # pytest reports its own failures; any other step, and a pytest that did not get so far, is one error.
        if code and not counts.get("failures") and not counts.get("errors"):
            other += 1
        if code:
            broken.append(name)
        lines.append(f"{name:8} {'FAILED' if code else 'ok':7} {time.monotonic() - begun:6.1f} s")
    print("\n" + "\n".join(lines))
    print(summary(total, other, time.monotonic() - started))
    return 1 if broken else 0


def run(step: Callable[[Path], list[list[str]]]) -> tuple[int, dict[str, int]]:
    """Runs a step's commands, all of them; returns the first exit code that is not 0, and what pytest counted."""
    with tempfile.TemporaryDirectory() as folder:
        counts = Path(folder, "counts.xml")
        code = 0
        for command in step(counts):
            done = subprocess.run(command, cwd=ROOT, env={**os.environ, **ENVIRONMENT})
            code = code or done.returncode
        if not counts.exists():
            return code, {}
        suites = ElementTree.parse(counts).getroot().iter("testsuite")
        found = [
            {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
            for suite in suites
        ]
    return code, {key: sum(counted[key] for counted in found) for key in found[0]} if found else {}


def summary(total: dict[str, int], other: int, seconds: float) -> str:
    """pytest's closing line, over all steps; `other` is how many steps failed outside pytest's own counting."""
    passed = total["tests"] - total["failures"] - total["errors"] - total["skipped"]
    errors = total["errors"] + other
    counted = [
        (total["failures"], "failed"),
        (passed, "passed"),
        (total["skipped"], "skipped"),
        (errors, "error" if errors == 1 else "errors"),
    ]
    words = ", ".join(f"{number} {word}" for number, word in counted if number) or "no tests ran"
    minutes, rest = divmod(round(seconds), 60)
    clock = f" ({minutes // 60}:{minutes % 60:02}:{rest:02})" if seconds >= 60 else ""
    return f" {words} in {seconds:.2f}s{clock} ".center(80, "=")


if __name__ == "__main__":
    sys.exit(main())
