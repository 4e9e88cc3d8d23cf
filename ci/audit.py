"""Runs every gate on every lesson and prints a table; exits 1 with one line per problem.

    python -m ci.audit                          everything, all mutants (`make audit`)
    python -m ci.audit --sample 24 --seed 7     a seeded sample of the mutants per lesson (`make test`)
    python -m ci.audit autograd.graph           one lesson
    python -m ci.audit --files                  only the gates that run nothing

What is random is seeded; the seed is printed, and the same seed gives the same run.
"""

import argparse
import os
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ci.gates import Course, Problem, files, graded, load, prose
from ci.lesson import ROOT, LessonError

FILE_GATES = (*files.GATES, *prose.GATES)
# Gates of ci/gates/graded.py, with what each one makes sure of.
GRADED_GATES = {
    "checks": "at least three named mistakes; the engine finds nothing wrong with the exercise itself",
    "stubs": "in an untouched notebook every check answers `todo`",
    "solved": "the solved notebook passes every check, with several seeds",
    "mistakes": "every named mistake is rejected and recognised by its own name, with several seeds",
    "hostile": "empty, constant, zero, NaN and noise answers of the right shape are rejected",
    "mutants": "at least 95 % of the mutants are rejected; each survivor has its reason",
}


def audit(
    root: Path = ROOT,
    settings: graded.Settings | None = None,
    only: tuple[str, ...] = (),
    progress=None,
) -> tuple[list[Problem], list[graded.Tally]]:
    """All problems and each lesson's counts; `settings` None runs only the gates that read files."""
    course = load(root, only)
    problems = [problem for gate in FILE_GATES for problem in gate(course)]
    tallies: list[graded.Tally] = []
    if settings is not None:
        found, tallies = graded.run(course, settings, progress)
        problems += found
    # One slip stops several gates with the same words.
    return list(dict.fromkeys(problems)), tallies


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(prog="python -m ci.audit", description=__doc__.splitlines()[0])
    parser.add_argument("lessons", nargs="*", help="lesson ids; without any, all")
    parser.add_argument(
        "--sample", type=int, nargs="?", const=24, help="so many mutants per lesson, drawn by the seed"
    )
    parser.add_argument("--seed", type=int, help="repeat an earlier run")
    parser.add_argument("--jobs", type=int, default=min(os.cpu_count() or 1, 8))
    parser.add_argument("--files", action="store_true", help="only the gates that run nothing")
    options = parser.parse_args(arguments)
    try:
        course = load(root)
        course.plan  # noqa: B018 — read now, so that a slip in it is one line
    except LessonError as error:
        print(error, file=sys.stderr)
        return 2
    known = [lesson.id for lesson in course.lessons]
    if unknown := [name for name in options.lessons if name not in known]:
        if course.form:  # very likely it is the lesson that was asked for
            for problem in course.form:
                print(problem, file=sys.stderr)
            return 1
        print(f"no lesson is called {', '.join(unknown)}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    seed = int.from_bytes(os.urandom(4), "big") if options.seed is None else options.seed
    settings = None if options.files else graded.Settings(seed, sample=options.sample, count=options.jobs)
    # A pipe has no width of its own, and 80 columns would cut the names of exercises.
    console = Console(width=None if sys.stdout.isatty() else 120)
    started = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("grading", total=None)
        problems, tallies = audit(
            root,
            settings,
            tuple(options.lessons),
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    for table in _tables(problems, tallies, settings is not None):
        console.print(table)
    for problem in problems:
        console.print(str(problem), markup=False, highlight=False, soft_wrap=True)
    seconds = time.monotonic() - started
    how = f"seed {seed}, {seconds:.0f} s" if settings else f"{seconds:.0f} s"
    console.print(f"{len(problems) or 'no'} problem{'s' * (len(problems) != 1)} ({how})", highlight=False)
    return 1 if problems else 0


def _tables(problems: list[Problem], tallies: list[graded.Tally], graded_too: bool) -> list[Table]:
    tables = []
    if graded_too:
        lessons = Table(title="Lessons", title_justify="left")
        lessons.add_column("lesson", no_wrap=True)
        for heading in (
            "exercises",
            "mistakes recognised",
            "hostile rejected",
            "mutants rejected",
            "how",
            "survivors",
        ):
            lessons.add_column(heading, justify="right")
        for tally in tallies:
            share = f" ({tally.rejected / tally.mutants:.1%})" if tally.mutants else ""
            how = ", ".join(
                f"{n} {status}" for status, n in sorted(tally.statuses.items()) if status != "passed"
            )
            lessons.add_row(
                tally.lesson,
                str(tally.exercises),
                f"{tally.recognised}/{tally.mistakes}",
                f"{tally.hostile_rejected}/{tally.hostile}",
                f"{tally.rejected}/{tally.mutants}{share}",
                how,
                str(len(tally.survivors)),
            )
        tables.append(lessons)
        survivors = [survivor for tally in tallies for survivor in tally.survivors]
        if survivors:
            table = Table(
                "exercise", "mutant that passes", "why it is right", title="Survivors", title_justify="left"
            )
            for survivor in survivors:
                table.add_row(
                    survivor.exercise, survivor.change, survivor.why or "[red]no reason given[/red]"
                )
            tables.append(table)
    gates = Table("gate", "what it makes sure of", "problems", title="Gates", title_justify="left")
    named = {gate.__name__: (gate.__doc__ or "").strip().splitlines()[0] for gate in FILE_GATES}
    for name, meaning in {**named, **(GRADED_GATES if graded_too else {})}.items():
        count = sum(problem.gate == name for problem in problems)
        gates.add_row(name, meaning, f"[red]{count}[/red]" if count else "none")
    tables.append(gates)
    return tables


__all__ = ["Course", "audit", "main"]

if __name__ == "__main__":
    sys.exit(main())
