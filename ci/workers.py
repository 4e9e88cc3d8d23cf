"""Grades submissions in processes of their own, several at a time.

A mutant may hang, eat memory or kill its process, so nothing is graded where it could take the audit along.
Each worker executes a lesson's exported cells once per namespace, registers every source in `linecache` (Triton
and `inspect` read it there), and answers one job at a time. A worker that dies is replaced; its job's outcome is
`crash`. Nothing here imports NumPy or a framework in the parent.
"""

import itertools
import os
import subprocess
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path

from ci.lesson import ROOT

ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",
    "GROUNDUP_NO_RECORD": "1",
    "JAX_PLATFORMS": "cpu",
    "MPLBACKEND": "agg",
    "OMP_NUM_THREADS": "1",
    "TRITON_INTERPRET": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
}
# The engine stops a slow submission itself; this is for the C call that never returns. All mistakes of an exercise are one
# job, and some of them hang until the engine stops them.
HARD_SECONDS = {"own": 90, "source": 90, "contract": 90, "mistakes": 360, "hostile": 360, "problems": 360}
MEMORY_BYTES = 8 << 30


@dataclass(frozen=True)
class Job:
    """Something to grade for one exercise.

    kind:
        own       the name as the namespace defines it, once per seed
        source    `source` executed in the namespace in the name's place, once per seed
        mistakes  each named mistake of the exercise, once per seed
        hostile   answers made from the namespace's own (ci/hostile.py), once per seed
        problems  what `groundup.check.problems` says of the exercise itself
        contract  its named mistakes, with their sentences
    """

    kind: str
    namespace: str
    exercise: str
    source: str = ""
    seeds: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Outcome:
    """What came of it: a status of `groundup.check.grade`, or one of the audit's own.

    `crash`: the process died. `unloaded`: the exercise has no checks that load. `broken`: the exported cells do not
    run, or the grader raised.
    """

    label: str
    status: str
    message: str = ""
    mistake: str | None = None
    seconds: float = 0.0
    seed: int | None = None
    line: int | None = None  # where in the checks file an exception came from


class Workers:
    """`count` worker processes over the namespaces `{key: sources of cells, in order}`.

    Use as a context manager. `root` is the course whose `src/` the workers import.
    """

    def __init__(
        self,
        namespaces: Mapping[str, Sequence[str]],
        root: Path = ROOT,
        count: int = 2,
        memory: int = MEMORY_BYTES,
    ):
        self._namespaces = {key: list(cells) for key, cells in namespaces.items()}
        self._root, self._count, self._memory = Path(root), count, memory
        self._processes: dict[Connection, subprocess.Popen] = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for connection in list(self._processes):
            self._stop(connection)

    def run(self, jobs: Iterable[Job], done: Callable[[Job, list[Outcome]], None] | None = None):
        """Runs `jobs` and returns each one's outcomes, in the order of `jobs`."""
        jobs = list(jobs)
        results: list[list[Outcome]] = [[] for _ in jobs]
        waiting = deque(enumerate(jobs))
        busy: dict[Connection, tuple[int, float]] = {}
        while len(self._processes) < min(self._count, len(jobs)):
            self._start()
        idle = list(self._processes)

        def finish(connection: Connection, outcomes: list[Outcome]) -> None:
            index, _ = busy.pop(connection)
            results[index] = outcomes
            if done is not None:
                done(jobs[index], outcomes)

        while waiting or busy:
            while waiting and idle:
                connection = idle.pop()
                index, job = waiting.popleft()
                busy[connection] = (index, time.monotonic() + HARD_SECONDS[job.kind])
                connection.send(job)
            ready = wait(list(busy), timeout=1)
            for connection in ready:
                try:
                    finish(connection, connection.recv())
                    idle.append(connection)
                except (EOFError, ConnectionResetError):
                    code = self._stop(connection)
                    finish(connection, [Outcome("", "crash", f"its process ended with exit code {code}")])
                    idle.append(self._start())
            for connection in [c for c, (_, limit) in busy.items() if time.monotonic() > limit]:
                self._stop(connection)
                finish(
                    connection,
                    [Outcome("", "timeout", "stopped from outside: the engine's own limit did not")],
                )
                idle.append(self._start())
        return results

    def _start(self) -> Connection:
        ours, theirs = Pipe()
        path = os.pathsep.join(
            [str(self._root / "src"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        process = subprocess.Popen(
            [sys.executable, "-m", "ci.workers", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            cwd=self._root,
            env={**os.environ, **ENVIRONMENT, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        ours.send((self._namespaces, self._memory))
        try:
            ours.recv()
        except EOFError:
            raise RuntimeError("a grading process could not start; its message stands above") from None
        self._processes[ours] = process
        return ours

    def _stop(self, connection: Connection) -> int:
        process = self._processes.pop(connection)
        connection.close()
        try:
            process.wait(0.5)
        except subprocess.TimeoutExpired:
            process.kill()
        return process.wait()


# ------------------------------------------------------------------------------- inside the worker


def _main(descriptor: int) -> None:
    connection = Connection(descriptor)
    namespaces, memory = connection.recv()
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    import groundup.check  # noqa: F401 — its failure belongs to the start, not to a job

    connection.send("ready")
    with open(os.devnull, "w") as silence:  # what submissions print is of no interest here
        os.dup2(silence.fileno(), 1)
        os.dup2(silence.fileno(), 2)
    ready: dict[str, dict | Exception] = {}
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        if job.namespace not in ready:
            ready[job.namespace] = _namespace(job.namespace, namespaces[job.namespace])
        try:
            outcomes = list(_answer(job, ready[job.namespace]))
        except Exception as error:
            outcomes = [Outcome("", "broken", _line(error), line=_checks_line(error, job.exercise))]
        connection.send(outcomes)


def _namespace(key: str, cells: Sequence[str]) -> dict | Exception:
    """The names that the cells define, or the exception that stopped them."""
    namespace = {"__name__": "__main__"}
    for number, cell in enumerate(cells):
        try:
            execute(cell, namespace, f"<{key} cell {number}>")
        except Exception as error:
            return error
    return namespace


def execute(source: str, namespace: dict, filename: str) -> None:
    """`exec` whose source can be read afterwards: Triton's JIT and tracebacks look it up in linecache."""
    import linecache

    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    exec(compile(source, filename, "exec"), namespace)


_numbers = itertools.count()


def _answer(job: Job, namespace: dict | Exception) -> Iterable[Outcome]:
    from groundup import check

    name = job.exercise.rsplit(".", 1)[1]
    try:
        exercise = check.load(job.exercise)
    except Exception as error:
        yield Outcome("", "unloaded", _line(error), line=_checks_line(error, job.exercise))
        return
    if job.kind == "contract":
        yield from (Outcome(mistake.name, "mistake", mistake.sentence) for mistake in exercise.mistakes)
        return
    if job.kind == "problems":
        yield from (Outcome("", "problem", problem) for problem in check.problems(exercise))
        return
    if isinstance(namespace, Exception):
        yield Outcome("", "broken", f"the exported cells do not run: {_line(namespace)}")
        return
    if job.kind == "mistakes":
        for mistake in exercise.mistakes:
            yield from _grades(job, mistake.name, mistake.obj)
        return
    if job.kind == "own":
        yield from _grades(job, name, namespace[name])
        return
    if job.kind == "hostile":
        from ci.hostile import answers

        for answer in answers(namespace[name]):
            yield from (o for o in _grades(job, answer.label, answer.obj) if answer.differs())
        return
    copy = dict(namespace)
    try:
        execute(job.source, copy, f"<{job.exercise} {next(_numbers)}>")
    except BaseException as error:  # it does not even define the name
        yield Outcome(job.kind, "error", _line(error))
        return
    yield from _grades(job, job.kind, copy[name])


def _grades(job: Job, label: str, submission: object) -> Iterable[Outcome]:
    from groundup.check import grade

    for seed in job.seeds:
        try:
            result = grade(job.exercise, submission, seed=seed)
        except Exception as error:  # grade never raises because of a submission: the checks or the engine do
            message, line = f"the grader itself raised {_line(error)}", _checks_line(error, job.exercise)
            yield Outcome(label, "broken", message, seed=seed, line=line)
            continue
        yield Outcome(label, result.status, result.message, result.mistake, result.seconds, seed)


def _checks_line(error: BaseException, exercise: str) -> int | None:
    """The line of the exercise's checks file that `error` came through last, if it did."""
    file = Path("checks", *exercise.split(".")[:2]).with_suffix(".py").parts
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).parts[-3:] == file]
    return lines[-1] if lines else None


def _line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


if __name__ == "__main__":
    from ci import workers  # the module under its own name, so that jobs and outcomes pickle across

    workers._main(int(sys.argv[1]))
