"""Runs the lessons at gpu scale on a machine with an NVIDIA GPU, and writes down what that took (`make gpu`).

    python -m ci.gpu                       all lessons
    python -m ci.gpu autograd.graph        some

The lessons run in a copy of the course. What comes back into it: a dated record in book/results/ that names the
hardware, and the outputs of those lessons whose stored outputs are from a GPU already.
"""

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ci.lesson import ROOT, lessons, read_notebook

# GPT-2 of 124 million parameters at the batch whose times on an A100 are published, and at batches that fill a large GPU.
FULL_SIZE = {
    "sizes": {},
    "B": 16,
    "T": 1024,
    "device": "cuda",
    "repeats": 20,
    "larger_batches": [32, 64, 128],
}
NEEDED = ("chapters", "ci", "solutions", "src", "jupytext.toml", "pyproject.toml", "_config.yml")


def measure(root: Path, chosen: list[str], scale: str = "gpu") -> tuple[dict, list[str]]:
    """Runs the lessons `chosen` (all, if empty) of the course at `root`; refreshes outputs that come from a GPU.

    Returns:
        the record to keep, and what went wrong, one line each.
    """
    problems = []
    course = [lesson for lesson in lessons(root) if not chosen or lesson.id in chosen]
    if unknown := set(chosen) - {lesson.id for lesson in course}:
        return {}, [f"no lesson is called {', '.join(sorted(unknown))}"]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "course")
        shutil.copytree(ROOT / "ci", copy / "ci")  # so that the copy is the course that `-m ci.execute` means
        for name in NEEDED:
            source = root / name
            if source.is_dir():
                shutil.copytree(source, copy / name, dirs_exist_ok=True)
            elif source.exists():
                shutil.copy(source, copy / name)
        environment = {**os.environ, "PYTHONPATH": str(copy / "src")}
        ids = [lesson.id for lesson in course]
        # One at a time: they share one GPU, and each one's time is to be its own.
        command = [sys.executable, "-m", "ci.execute", "--force", "--jobs", "1", "--scale", scale, *ids]
        if subprocess.run(command, cwd=copy, env=environment).returncode:
            problems.append(f"a lesson does not run at scale {scale}: see above")
        notebooks = [str(lesson.solution_path) for lesson in course if (copy / lesson.solution_path).exists()]
        validate = [sys.executable, "-m", "pytest", "-q", "--nbval-lax", "--nbval-current-env", *notebooks]
        smoke = {**environment, "GROUNDUP_SCALE": "smoke", "GROUNDUP_NO_RECORD": "1"}
        if notebooks and subprocess.run(validate, cwd=copy, env=smoke).returncode:
            problems.append("a solved notebook does not hold on this machine: see above")
        records, measured = {}, {}
        rungs = copy / "src" / "groundup" / "ladder.json"
        if rungs.exists():
            # Of the models that were trained in this run alone.
            climbed = [r for r in json.loads(rungs.read_text(encoding="utf-8")) if r["scale"] == scale]
            measured |= {"ladder": climbed} if climbed else {}
        for lesson in course:
            made = copy / lesson.solution_path
            kept = root / lesson.solution_path
            facts = read_notebook(made).metadata.get("groundup", {}) if made.exists() else {}
            if facts.get("scale") != scale:
                continue  # it did not run; `problems` says so
            records[lesson.id] = dict(facts)
            refresh(made, kept, scale)
    if "gpt2.speed" in records and scale == "gpu":
        try:
            measured["training_speed"] = training_speed(**FULL_SIZE)
        except RuntimeError as error:
            problems.append(f"the ladder of a training step did not run: {error}")
    any_record = next(iter(records.values()), {})
    about = {key: any_record.get(key) for key in ("device", "machine", "python", "torch")}
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"date": date, "scale": scale, **about, "lessons": records, **measured}, problems


def training_speed(sizes: dict, **options) -> list[dict]:
    """The rungs of the lesson gpt2.speed for a GPT of these sizes, as numbers: ms, tokens/s, MFU, shares of the time.

    sizes: of GPTConfig; options: those of `groundup.gpt2.speed.speed_ladder`.

    Raises:
        RuntimeError: a rung failed.
    """
    from groundup.gpt2.model import GPTConfig
    from groundup.gpt2.speed import in_own_process

    return in_own_process("speed_ladder", GPTConfig(**sizes), **options)


def refresh(made: Path, kept: Path, scale: str) -> None:
    """Stores new outputs where the old ones are of the same scale; those of a CPU stay."""
    if kept.exists() and read_notebook(kept).metadata.get("groundup", {}).get("scale") == scale:
        shutil.copy(made, kept)


def write(record: dict, root: Path = ROOT) -> Path:
    """Stores a record under its date and device, and returns where."""
    device = re.sub(r"[^a-z0-9]+", "-", str(record["device"]).lower()).strip("-")
    path = root / "book" / "results" / f"{record['date']}-{device}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(prog="python -m ci.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("lessons", nargs="*", help="lesson ids; without any, all")
    options = parser.parse_args(arguments)
    ask = [sys.executable, "-c", "import torch, sys; sys.exit(not torch.cuda.is_available())"]
    if subprocess.run(ask).returncode:
        print("no NVIDIA GPU that PyTorch can use is here; nothing was run", file=sys.stderr)
        return 2
    record, problems = measure(root, options.lessons)
    if record.get("lessons"):
        print(f"written: {write(record, root)}")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
