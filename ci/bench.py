"""Measures this course's code beside its peers, on the same work in the same run, as ratios.

    python -m ci.bench           a table
    python -m ci.bench --json    the same, as JSON

Timings on a shared machine are noisy, so the two sides take turns and the ratio is that of their medians.
"""

import argparse
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from ci.lesson import lessons

ROUNDS = 15


def in_turns(
    ours: Callable[[], object], theirs: Callable[[], object], rounds: int = ROUNDS
) -> tuple[float, float]:
    """Median seconds of each, the two taking turns so that a slow moment of the machine hits both."""
    times: tuple[list[float], list[float]] = ([], [])
    for function in (ours, theirs):
        function()
    for _ in range(rounds):
        for function, taken in zip((ours, theirs), times, strict=True):
            started = time.perf_counter()
            function()
            taken.append(time.perf_counter() - started)
    return statistics.median(times[0]), statistics.median(times[1])


def scalar_engine() -> dict:
    """`groundup.autograd.Value` beside micrograd's: forward and backward of the same random expression."""
    from micrograd.engine import Value as Theirs

    from groundup.autograd import Value as Ours

    random.seed(0)
    leaves = [random.uniform(0.5, 1.5) for _ in range(20)]
    steps = [(random.choice("+*-"), random.random(), random.random()) for _ in range(400)]

    def expression(value: type) -> list[float]:
        nodes = [value(leaf) for leaf in leaves]
        start = nodes[:]
        for op, left, right in steps:
            # Indices lean on recent nodes, so that the graph is deep; the factor keeps numbers in range.
            a, b = nodes[int(left * len(nodes))], nodes[-1 - int(right * 10)]
            nodes.append({"+": a + b, "*": a * b, "-": a - b}[op] * 0.5)
        nodes[-1].backward()
        return [leaf.grad for leaf in start]

    mine, reference = expression(Ours), expression(Theirs)
    if any(abs(a - b) > 1e-9 * max(1.0, abs(b)) for a, b in zip(mine, reference, strict=True)):
        raise SystemExit("the two engines disagree on the same expression: there is nothing to compare")
    ours, theirs = in_turns(lambda: expression(Ours), lambda: expression(Theirs))
    work = f"an expression of {3 * len(steps)} operations, forward and backward"
    return {
        "what": "scalar autograd",
        "work": work,
        "ours": ours,
        "peer": "micrograd 0.1.0",
        "theirs": theirs,
    }


def autograder(rounds: int = 20) -> dict:
    """Seconds that `check` takes for a right answer, over all exercises, first imports aside."""
    from importlib import import_module

    from groundup.check import grade

    taken = []
    for lesson in lessons():
        module = import_module(f"groundup.{lesson.id}")
        for exercise in lesson.exercises:
            answer = getattr(module, exercise.name)
            grade(exercise.id, answer)
            for _ in range(rounds):
                started = time.perf_counter()
                if grade(exercise.id, answer).status != "passed":
                    raise SystemExit(f"{exercise.id} rejects the course's own solution: run `make audit`")
                taken.append(time.perf_counter() - started)
    taken.sort()
    return {
        "checks": len(taken),
        "median": statistics.median(taken),
        "p95": taken[int(0.95 * len(taken))],
        "slowest": taken[-1],
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    options = parser.parse_args(arguments)
    os.environ["GROUNDUP_NO_RECORD"] = "1"
    peers, latency = [scalar_engine()], autograder()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    if options.json:
        print(json.dumps({"machine": machine, "peers": peers, "check": latency}, indent=1))
        return 0
    console = Console()
    table = Table("what", "work", "ours", "peer", "theirs", "ours / theirs", title=f"on {machine}")
    for row in peers:
        ratio = f"{row['ours'] / row['theirs']:.2f}"
        table.add_row(
            row["what"], row["work"], f"{row['ours']:.4f} s", row["peer"], f"{row['theirs']:.4f} s", ratio
        )
    console.print(table)
    console.print(
        f"check(): median {latency['median']:.3f} s, 95th percentile {latency['p95']:.3f} s, "
        f"slowest {latency['slowest']:.3f} s, over {latency['checks']} checks of right answers"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
