"""Runs the lessons whose solved notebooks are out of date, and stores their outputs in solutions/.

    python -m ci.execute                      run what changed, at the scale `cpu`
    python -m ci.execute --force autograd.graph
    python -m ci.execute --scale gpu          on a machine with a GPU
    python -m ci.execute --check              run nothing; exit 1 and name what is out of date

A lesson is out of date when its source, or a library module that it imports, is not the one its outputs came from.
Each lesson runs by papermill in a process of its own, so that its time and peak memory are its own.

The rungs that lessons recorded (`groundup.ladder`) are gathered from their outputs into src/groundup/ladder.json. A lesson
that reads them back runs after all others, and again whenever they change.
"""

import argparse
import ast
import copy
import hashlib
import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import nbformat
import papermill
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ci import ladder
from ci.lesson import ROOT, Lesson, LessonError, lessons, read_notebook, write_notebook
from ci.sync import PAIR, exported_names

# Per lesson: seconds by scale, peak memory at any scale (DESIGN: budgets). The seconds are the shorter of the wall's and the
# processors': on a machine that does nothing else the two are alike, and on a busy one the wall's would say nothing.
SECONDS = {"smoke": 20, "cpu": 180, "gpu": 600}
PATIENCE = 10  # so many times its budget a lesson may take on the wall before it is stopped
PEAK_MB = 4096
OUTPUT_BYTES = 150_000
STREAM_CHARACTERS = 8_000


class ExecutionError(Exception):
    """A lesson that does not run as it should; the message is one line for the author."""


def fingerprint(lesson: Lesson, course: list[Lesson]) -> str:
    """Hash of all that a lesson's outputs depend on: its code and the exports of lessons that it imports."""
    digest = hashlib.sha256()
    seen: set[str] = set()
    waiting = [lesson]
    while waiting:
        current = waiting.pop()
        if current.id in seen:
            continue
        seen.add(current.id)
        waiting += _imported(current, course)
    if _reads_ladder(lesson):
        digest.update(ladder.text_of(course).encode())
    by_id = {entry.id: entry for entry in course}
    for identity in sorted(seen):
        # Of a lesson that is imported only what it exports can change these outputs; prose changes none.
        tags = () if identity == lesson.id else ("export",)
        for cell in by_id[identity].code(*tags):
            digest.update(f"{identity}\n{cell.source}\n".encode())
    return digest.hexdigest()[:16]


def _imported(lesson: Lesson, course: list[Lesson]) -> list[Lesson]:
    found = []
    for cell in lesson.code():
        for node in ast.walk(ast.parse(cell.source)):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("groundup."):
                continue
            names = {alias.name for alias in node.names}
            for other in course:
                whole = node.module == f"groundup.{other.id}"
                through_part = node.module == f"groundup.{other.part}"
                if whole or (through_part and names & {other.name, *exported_names(other)}):
                    found.append(other)
    return found


def _reads_ladder(lesson: Lesson) -> bool:
    return any("ladder.rungs(" in cell.source for cell in lesson.code())


def out_of_date(lesson: Lesson, course: list[Lesson]) -> bool:
    """Whether the stored outputs come from another source than today's, or some of them are gone."""
    path = lesson.root / lesson.solution_path
    if not path.exists():
        return True
    notebook = read_notebook(path)
    # Sync takes the outputs of a changed cell away, and its count with them. If the cell is then changed back, as a merge
    # may do, the record is right again, but the outputs do not come back.
    if any(cell.cell_type == "code" and cell.execution_count is None for cell in notebook.cells):
        return True
    record = notebook.metadata.get("groundup", {})
    return record.get("source") != fingerprint(lesson, course)


def run(lesson: Lesson, course: list[Lesson], scale: str) -> dict:
    """Runs one lesson in this process's child kernel, writes its solved notebook, returns the record.

    Raises:
        ExecutionError: a cell failed, wrote to stderr, wrote too much, or the lesson broke its budget.
    """
    os.environ.update(
        GROUNDUP_PAGE="1",
        GROUNDUP_NO_RECORD="1",
        GROUNDUP_SCALE=scale,
        OMP_NUM_THREADS="1",
        PYTHONHASHSEED="0",
    )
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "source.ipynb"), Path(folder, "target.ipynb")
        source.write_text(write_notebook(lesson.notebook), encoding="utf-8")
        started = time.perf_counter()
        try:
            papermill.execute_notebook(
                str(source),
                str(target),
                parameters={"SCALE": scale},
                kernel_name="python3",
                progress_bar=False,
                cwd=folder,
                execution_timeout=PATIENCE * SECONDS[scale],
            )
        except papermill.PapermillExecutionError as error:
            where = _chapter_line(lesson, error.source, _line_in_cell(error.traceback))
            said = (error.evalue.strip().splitlines() or ["(no message)"])[0]
            raise ExecutionError(f"{where}: {error.ename}: {said}") from None
        wall = time.perf_counter() - started
        executed = read_notebook(target)
    # The kernel is the only child that has ended by now, so what the children used is what it used.
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds, peak_mb = min(wall, used.ru_utime + used.ru_stime), used.ru_maxrss // 1024
    if seconds > SECONDS[scale] or peak_mb > PEAK_MB:
        raise ExecutionError(
            f"{lesson.path}: took {seconds:.0f} s and {peak_mb} MB; the budget is {SECONDS[scale]} s and {PEAK_MB} MB"
        )
    record = {
        "source": fingerprint(lesson, course),
        "scale": scale,
        "seconds": round(seconds, 1),
        "peak_mb": peak_mb,
        "machine": _machine(),
        "python": platform.python_version(),
        **_torch_facts(),
    }
    notebook = stored(lesson, executed)
    notebook.metadata["groundup"] = record
    path = lesson.root / lesson.solution_path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(write_notebook(notebook), encoding="utf-8", newline="\n")
    return record


def stored(lesson: Lesson, executed: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The solved notebook as it is stored: papermill's traces gone, outputs trimmed and checked."""
    notebook = copy.deepcopy(lesson.notebook)
    notebook.metadata["language_info"] = executed.metadata["language_info"]
    notebook.metadata["jupytext"] = PAIR
    outputs = {cell.id: cell.outputs for cell in executed.cells if cell.cell_type == "code"}
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for count, cell in enumerate(cells, start=1):
        # nbval takes a cell without a count for one that never ran; the kernel's own count has papermill's cell in it.
        cell.execution_count = count
        cell.outputs = [_trimmed(output, lesson, cell) for output in _joined(outputs[cell.id])]
    return notebook


def _joined(outputs: list) -> list:
    """Streams that follow one another as one, since the kernel cuts them at random moments."""
    joined: list = []
    for output in outputs:
        last = joined[-1] if joined else None
        if last is not None and output.output_type == "stream" and last.get("name") == output.name:
            last.text += output.text
        else:
            joined.append(output)
    return joined


def _trimmed(output, lesson: Lesson, cell):
    where = _chapter_line(lesson, cell.source)
    if output.output_type == "stream":
        if output.name == "stderr":
            said = (output.text.strip().splitlines() or ["(blank lines)"])[-1]
            raise ExecutionError(f"{where}: the cell writes to stderr: {said}")
        if len(output.text) > STREAM_CHARACTERS:
            output.text = output.text[:STREAM_CHARACTERS] + "\n… (cut)\n"
    if output.output_type == "execute_result":
        output.execution_count = cell.execution_count
    size = len(json.dumps(output))
    if size > OUTPUT_BYTES:
        raise ExecutionError(
            f"{where}: an output of {size // 1000} KB; {OUTPUT_BYTES // 1000} KB are allowed"
        )
    return output


def _chapter_line(lesson: Lesson, source: str, line: int = 1) -> str:
    """`file:line` of a cell's line (from 1) in the chapter."""
    for cell in lesson.cells:
        if cell.source.strip() == source.strip():
            return f"{lesson.path}:{cell.line + line - 1}"
    return str(lesson.path)


def _line_in_cell(trace: list[str]) -> int:
    """The line of the failing cell in IPython's traceback, whose first frame is that cell; 1 if it names none."""
    text = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(trace or []))
    found = re.search(r"Cell In\[\d+\], line (\d+)", text)
    return int(found[1]) if found else 1


def _machine() -> str:
    """Processor and cores, in words."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    cores = os.cpu_count()
    return f"{model}, {cores} core{'s' * (cores != 1)}"


def _torch_facts() -> dict:
    # In a child, so that importing torch here costs no lesson its memory figure.
    code = (
        "import torch, json; from groundup.run import device; d = device(); "
        "n = torch.cuda.get_device_name() if d.type == 'cuda' else d.type; "
        "print(json.dumps({'torch': torch.__version__, 'device': n}))"
    )
    return json.loads(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    )


def _run_in_child(lesson: Lesson, scale: str) -> dict:
    """`run` in a process of its own: its children's peak memory is then that of this lesson alone."""
    command = [sys.executable, "-m", "ci.execute", "--one", lesson.id, "--scale", scale]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=lesson.root, timeout=PATIENCE * SECONDS[scale] + 120
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["the run ended without a word"]
        raise ExecutionError(lines[-1])
    return json.loads(done.stdout.strip().splitlines()[-1])


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(prog="python -m ci.execute", description=__doc__.splitlines()[0])
    parser.add_argument("lessons", nargs="*", help="lesson ids; without any, all")
    parser.add_argument("--scale", choices=sorted(SECONDS), default="cpu")
    parser.add_argument("--force", action="store_true", help="also run lessons that are up to date")
    parser.add_argument(
        "--check", action="store_true", help="run nothing, name the lessons that are out of date"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        course = lessons(root)
    except LessonError as error:
        print(error, file=sys.stderr)
        return 2
    by_id = {lesson.id: lesson for lesson in course}
    if options.one:
        try:
            print(json.dumps(run(by_id[options.one], course, options.scale)))
        except ExecutionError as error:
            print(error, file=sys.stderr)
            return 1
        return 0
    if unknown := [name for name in options.lessons if name not in by_id]:
        print(f"no lesson is called {', '.join(unknown)}; there are: {', '.join(by_id)}", file=sys.stderr)
        return 2
    chosen = [by_id[name] for name in options.lessons] or course
    due = [lesson for lesson in chosen if options.force or out_of_date(lesson, course)]
    if options.check:
        for lesson in due:
            print(
                f"{lesson.solution_path}: its outputs come from another source; run `make execute`",
                file=sys.stderr,
            )
        if stale_ladder := ladder.stored(root) != ladder.text_of(course):
            print(f"{ladder.FILE}: not the rungs of the stored outputs; run `make execute`", file=sys.stderr)
        return 1 if due or stale_ladder else 0
    failed = _run_all([lesson for lesson in due if not _reads_ladder(lesson)], options.scale, options.jobs)
    ladder.store(root, course)
    readers = [lesson for lesson in chosen if _reads_ladder(lesson)]
    due = [lesson for lesson in readers if options.force or out_of_date(lesson, course)]
    return max(failed, _run_all(due, options.scale, options.jobs) if due else 0)


def _run_all(due: list[Lesson], scale: str, jobs: int) -> int:
    console = Console(stderr=True)
    if not due:
        console.print("every lesson's outputs are up to date")
        return 0
    failed = 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress, ThreadPoolExecutor(jobs) as pool:
        bar = progress.add_task(f"lessons at scale {scale}", total=len(due))
        running = {pool.submit(_run_in_child, lesson, scale): lesson for lesson in due}
        for done in as_completed(running):
            lesson = running[done]
            try:
                record = done.result()
                progress.print(
                    f"{lesson.id}: {record['seconds']} s, {record['peak_mb']} MB, {record['device']}"
                )
            except (ExecutionError, subprocess.TimeoutExpired) as error:
                failed += 1
                # One line, whatever the width of the terminal, and `list[int]` is no markup.
                progress.print(f"[red]failed[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
            progress.advance(bar)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
