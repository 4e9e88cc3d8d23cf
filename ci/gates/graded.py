"""Gates that run submissions: stubs, solutions, named mistakes, hostile answers, mutants."""

import ast
import random
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import nbformat

from ci.gates import Course, Problem
from ci.lesson import Exercise, Lesson
from ci.mutants import Mutant, emptied, mutants
from ci.workers import Job, Outcome, Workers

KILLED_SHARE = 0.95


@dataclass
class Tally:
    """What the gates counted in one lesson."""

    lesson: str
    exercises: int = 0
    mistakes: int = 0
    recognised: int = 0
    hostile: int = 0
    hostile_rejected: int = 0
    mutants: int = 0
    rejected: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    survivors: list["Survivor"] = field(default_factory=list)


@dataclass(frozen=True)
class Survivor:
    """A mutant that the grader passed; `why` is the reason in ci/equivalents/, if any."""

    exercise: str
    change: str
    why: str | None


@dataclass(frozen=True)
class Settings:
    """How much to run: `seeds` for everything but mutants; `sample` mutants per lesson, or all."""

    seed: int = 0
    rounds: int = 3
    sample: int | None = None
    count: int = 2

    def seeds(self) -> tuple[int, ...]:
        generator = random.Random(self.seed)
        return tuple(generator.randrange(2**31) for _ in range(self.rounds))


def run(
    course: Course, settings: Settings, progress: Callable[[int, int], None] | None = None
) -> tuple[list[Problem], list[Tally]]:
    """Runs all gates of this module in one set of workers; returns their problems and counts."""
    equivalents, problems = _equivalents(course)
    spaces: dict[str, list[str]] = {}
    for lesson in course.lessons:
        spaces[f"chapters {lesson.id}"] = [cell.source for cell in lesson.code("export")]
        for folder, path in (("exercises", lesson.exercise_path), ("solutions", lesson.solution_path)):
            if (notebook := course.notebook(path)) is not None:
                spaces[f"{folder} {lesson.id}"] = exported(notebook)
    work = []
    tallies = []
    for lesson in course.lessons:
        tally = Tally(lesson.id, len(lesson.exercises))
        tallies.append(tally)
        for exercise in lesson.exercises:
            work += _jobs_of(lesson, exercise, tally, settings, spaces)
        work += _mutant_jobs(lesson, tally, settings, equivalents)
    total = len(work)
    finished = 0

    def done(*_) -> None:
        nonlocal finished
        finished += 1
        if progress is not None:
            progress(finished, total)

    with Workers(spaces, course.root, settings.count) as workers:
        results = workers.run([job for job, _ in work], done)
        for (_, judge), outcomes in zip(work, results, strict=True):
            problems += judge(outcomes)
    for lesson, tally in zip(course.lessons, tallies, strict=True):
        problems += _share_killed(lesson, tally, settings)
    problems += _stale_equivalents(course, equivalents, settings, tallies)
    return problems, tallies


def exported(notebook: nbformat.NotebookNode) -> list[str]:
    """The sources that `groundup check` runs in a notebook: the cells that define what the lesson exports."""
    return [cell.source for cell in notebook.cells if "export" in cell.metadata.get("tags", [])]


def _jobs_of(
    lesson: Lesson, exercise: Exercise, tally: Tally, settings: Settings, spaces: dict
) -> Iterator[tuple]:
    """Each job of one exercise with the function that turns its outcomes into problems."""
    checks = Checks(lesson)
    where = f"{lesson.path}:{exercise.code.line}"
    seeds = settings.seeds()
    name = exercise.name

    def contract(outcomes: list[Outcome]) -> Iterator[Problem]:
        if not _unloaded(outcomes) or outcomes[0].message.startswith("SyntaxError"):
            return  # the gate `independence` says where the file does not parse
        message = outcomes[0].message
        if outcomes[0].line is not None:  # the file stops there: the same for all of its exercises
            yield Problem("checks", f"{checks.path}:{outcomes[0].line}", f"cannot be loaded: {message}")
        else:
            yield Problem("checks", checks.path, f"{exercise.id} cannot be loaded: {message}")

    def engine(outcomes: list[Outcome]) -> Iterator[Problem]:
        for outcome in outcomes:
            if outcome.status == "broken":
                yield broken(outcome)
            elif outcome.status != "unloaded":
                mistake = re.match(r"mistakes? (\w+)", outcome.message)
                at = checks.where(exercise, mistake[1] if mistake else None)
                yield Problem("checks", at, f"{name}: {outcome.message}")

    def broken(outcome: Outcome, label: str = "", gate: str = "solved") -> Problem:
        return _broken(lesson, exercise, checks, outcome, label, gate)

    def status(gate: str, wanted: str) -> Callable:
        def judge(outcomes: list[Outcome]) -> Iterator[Problem]:
            for outcome in outcomes:
                if outcome.status == "broken":
                    yield broken(outcome, gate=gate)
                    return
                if outcome.status not in (wanted, "unloaded"):
                    at = "" if outcome.seed is None else f" (seed {outcome.seed})"
                    yield Problem(
                        gate,
                        where,
                        f"{name} answers {outcome.status}, not {wanted}{at}: {_first(outcome.message)}",
                    )
                    return

        return judge

    def mistakes(outcomes: list[Outcome]) -> Iterator[Problem]:
        if _unloaded(outcomes):
            return
        if stopped := [outcome for outcome in outcomes if outcome.status == "broken"]:
            yield broken(stopped[0])
            return
        wrong = {o.label: o for o in reversed(outcomes) if o.status == "passed" or o.mistake != o.label}
        labels = list(dict.fromkeys(o.label for o in outcomes))
        tally.mistakes += len(labels)
        tally.recognised += len(labels) - len(wrong)
        for label, outcome in wrong.items():
            called = f"is called {outcome.mistake}" if outcome.mistake else "is not recognised"
            what = "passes" if outcome.status == "passed" else f"is {outcome.status} and {called}"
            at = checks.where(exercise, label)
            yield Problem("mistakes", at, f"{name}: the mistake {label} {what} (seed {outcome.seed})")

    def hostile(outcomes: list[Outcome]) -> Iterator[Problem]:
        if _unloaded(outcomes):
            return
        for outcome in [outcome for outcome in outcomes if outcome.status == "broken"][:1]:
            yield broken(outcome, f"an answer that {outcome.label}")
        passed = {o.label: o for o in outcomes if o.status == "passed"}
        labels = {o.label for o in outcomes}
        tally.hostile += len(labels)
        tally.hostile_rejected += len(labels) - len(passed)
        for label, outcome in passed.items():
            at = checks.where(exercise)
            yield Problem("hostile", at, f"{name}: an answer that {label} passes (seed {outcome.seed})")

    def job(kind: str, namespace: str = "chapters", source: str = "") -> Job:
        return Job(kind, f"{namespace} {lesson.id}", exercise.id, source, seeds)

    yield job("contract"), contract
    yield job("problems"), engine
    if f"exercises {lesson.id}" in spaces:
        yield job("own", "exercises"), status("stubs", "todo")
    if f"solutions {lesson.id}" in spaces:
        yield job("own", "solutions"), status("solved", "passed")
    yield job("mistakes"), mistakes
    yield job("hostile"), hostile
    for mutant in emptied(exercise.source):

        def empty(outcomes: list[Outcome], label: str = mutant.change) -> Iterator[Problem]:
            yield from hostile(
                [Outcome(label, o.status, o.message, o.mistake, o.seconds, o.seed, o.line) for o in outcomes]
            )

        yield job("source", source=mutant.source), empty


class Checks:
    """A lesson's checks file: its path, and on which lines it declares exercises and mistakes."""

    def __init__(self, lesson: Lesson):
        self.path = f"src/groundup/checks/{lesson.part}/{lesson.name}.py"
        self._exercises: dict[str, int] = {}
        self._mistakes: dict[tuple[str, str], int] = {}
        try:
            body = ast.parse((lesson.root / self.path).read_text(encoding="utf-8")).body
        except (OSError, SyntaxError):  # other gates say so
            body = []
        ids: dict[str, str] = {}  # the variable → the exercise that it holds
        for node in body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and node.value.args:
                first, target = node.value.args[0], node.targets[0]
                if isinstance(first, ast.Constant) and isinstance(target, ast.Name):
                    ids[target.id] = str(first.value)
                    self._exercises[str(first.value)] = node.lineno
            for decorator in getattr(node, "decorator_list", []):
                call = decorator.func if isinstance(decorator, ast.Call) else decorator
                if isinstance(call, ast.Attribute) and isinstance(call.value, ast.Name):
                    self._mistakes[ids.get(call.value.id, ""), node.name] = node.lineno

    def where(self, exercise: Exercise, mistake: str | None = None) -> str:
        """`file:line` of a mistake, else of its exercise; the file alone where it declares neither in the usual form."""
        line = self._mistakes.get((exercise.id, mistake or ""), self._exercises.get(exercise.id))
        return self.path if line is None else f"{self.path}:{line}"


def _broken(
    lesson: Lesson, exercise: Exercise, checks: Checks, outcome: Outcome, label: str, gate: str = "solved"
) -> Problem:
    """An answer could not be graded. What has one cause says so in the same words, so that it is told once."""
    if outcome.message.startswith("the exported cells"):
        return Problem(gate, str(lesson.path), outcome.message)
    if outcome.line is not None:
        return Problem("checks", f"{checks.path}:{outcome.line}", f"{exercise.name}: {outcome.message}")
    said = f"{label}: {outcome.message}" if label else outcome.message
    return Problem("checks", checks.where(exercise), f"{exercise.name}: {said}")


def _unloaded(outcomes: list[Outcome]) -> bool:
    """Whether the exercise's checks do not load; the job `contract` reports that once."""
    return any(outcome.status == "unloaded" for outcome in outcomes)


def _first(message: str) -> str:
    lines = message.strip().splitlines()
    return lines[0][:300] if lines else "no message"


# -------------------------------------------------------------------------------------------- mutants


def chosen_mutants(lesson: Lesson, settings: Settings) -> list[tuple[Exercise, Mutant]]:
    """All mutants of a lesson, or the sample that the seed draws."""
    everything = [(exercise, mutant) for exercise in lesson.exercises for mutant in mutants(exercise.source)]
    if settings.sample is None or settings.sample >= len(everything):
        return everything
    generator = random.Random(f"{settings.seed} {lesson.id}")
    return generator.sample(everything, settings.sample)


def _mutant_jobs(lesson: Lesson, tally: Tally, settings: Settings, equivalents: dict) -> Iterator[tuple]:
    checks = Checks(lesson)
    seeds = settings.seeds()[:1]
    for exercise, mutant in chosen_mutants(lesson, settings):

        def judge(outcomes: list[Outcome], exercise=exercise, mutant=mutant) -> Iterator[Problem]:
            tally.mutants += 1
            status = outcomes[0].status
            tally.statuses[status] = tally.statuses.get(status, 0) + 1
            if status == "broken":
                yield _broken(lesson, exercise, checks, outcomes[0], f"with `{mutant.change}`")
            elif status != "passed":
                tally.rejected += 1
            else:
                why = equivalents.get((exercise.id, mutant.change))
                tally.survivors.append(Survivor(exercise.id, mutant.change, why))
                if why is None:
                    yield Problem(
                        "mutants",
                        checks.where(exercise),
                        f"{exercise.name} passes with `{mutant.change}` (seed {outcomes[0].seed}): "
                        f"reject it, or say in {_file_of(lesson.id)} why it is right",
                    )

        yield Job("source", f"chapters {lesson.id}", exercise.id, mutant.source, seeds), judge


def _share_killed(lesson: Lesson, tally: Tally, settings: Settings) -> Iterator[Problem]:
    if settings.sample is None and tally.mutants and tally.rejected < KILLED_SHARE * tally.mutants:
        yield Problem(
            "mutants",
            str(lesson.path),
            f"{tally.rejected} of {tally.mutants} mutants rejected; at least {KILLED_SHARE:.0%} are asked for",
        )


def _file_of(lesson_id: str) -> str:
    return f"ci/equivalents/{lesson_id}.toml"


def _equivalents(course: Course) -> tuple[dict[tuple[str, str], str], list[Problem]]:
    """(exercise id, change) → why that mutant is right, from ci/equivalents/, a file for each lesson."""
    reasons, problems = {}, []
    for path in sorted((course.root / "ci" / "equivalents").glob("*.toml")):
        where = str(path.relative_to(course.root))
        for entry in tomllib.loads(path.read_text(encoding="utf-8")).get("equivalent", []):
            key = (entry["exercise"], entry["change"])
            if len(entry.get("why", "").split()) < 3:
                problems.append(Problem("mutants", where, f"{key[0]} `{key[1]}` gives no reason"))
            if key[0].rpartition(".")[0] != path.stem:
                problems.append(Problem("mutants", where, f"{key[0]} belongs to another lesson's file"))
            reasons[key] = entry.get("why", "")
    return reasons, problems


def _stale_equivalents(
    course: Course, equivalents: dict, settings: Settings, tallies: list[Tally]
) -> Iterator[Problem]:
    """An entry whose mutant is gone, or is rejected, says nothing true any more."""
    survived = {(survivor.exercise, survivor.change) for tally in tallies for survivor in tally.survivors}
    existing: dict[str, set[str]] = {}
    for lesson in course.lessons:
        for exercise in lesson.exercises:
            existing[exercise.id] = {mutant.change for mutant in mutants(exercise.source)}
    for identity, change in equivalents:
        where = _file_of(identity.rpartition(".")[0])
        if identity not in existing:
            if identity.rpartition(".")[0] in {lesson.id for lesson in course.lessons}:
                yield Problem("mutants", where, f"{identity} is no exercise any more")
        elif change not in existing[identity]:
            yield Problem("mutants", where, f"stale: {identity} has no mutant `{change}`")
        elif settings.sample is None and (identity, change) not in survived:
            yield Problem("mutants", where, f"stale: {identity} rejects `{change}`")
