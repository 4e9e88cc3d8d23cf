"""What this machine has of what the course needs, as one line per finding, and what to do about what is missing."""

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from groundup import progress, workspace

ROOM_GIB = 2  # working copies, data sets and outputs; PyTorch itself is there already or reported as missing
PROBE_SECONDS = 60.0

# Asked in a process of its own: importing PyTorch takes a second or two, and a broken one may not return.
_PROBE = """
import json, os, sys
found = {}
try:
    import torch
    found["torch"] = torch.__version__
    if torch.cuda.is_available():
        found["cuda"] = torch.cuda.get_device_name(0)
    elif torch.backends.mps.is_available():
        found["mps"] = True
except BaseException as error:
    found["torch error"] = f"{type(error).__name__}: {error}"
try:
    import groundup, triton
    found["triton"] = triton.__version__
    found["interpreter"] = os.environ.get("TRITON_INTERPRET") == "1"
except ImportError:
    pass
except BaseException as error:
    found["triton error"] = f"{type(error).__name__}: {error}"
print("FOUND" + json.dumps(found))
"""


def _pip(*arguments: str) -> str:
    """The command line for the Python that is running, which the `pip` on PATH may not belong to; for any shell."""
    words = [sys.executable, "-m", "pip", *arguments]
    return " ".join(f'"{word}"' if re.search(r"[^\w./:\\+=-]", word) else word for word in words)


# Without its requirements, which pip would download anew as well.
_REINSTALL = _pip("install", "--force-reinstall", "--no-deps", "torch")


@dataclass(frozen=True)
class Finding:
    """One line of the report. `missing` means that something needed is not there; `note` is optional or advice."""

    status: Literal["ok", "note", "missing"]
    what: str
    said: str
    todo: str = ""


def examine() -> Iterator[Finding]:
    """Look at everything; findings come as they are made."""
    yield _python()
    yield from _packages()
    yield from _devices()
    root = workspace.course_root()
    yield _disk(root)
    yield _writable("progress", progress.home(), "set GROUNDUP_HOME to a folder that you can write")
    if root is None:
        todo = "to have notebooks, lab and reset: git clone the course, then `make start` in its folder"
        yield Finding("note", "course", "not in the course's folder", todo)
    else:
        yield Finding("ok", "course", str(root))
        yield _writable("work", root / "work", "mend the permissions of this folder")


def _python() -> Finding:
    said = f"{platform.python_version()} ({sys.executable})"
    if sys.version_info >= (3, 14):
        return Finding("note", "Python", said, "the course is tested on 3.11 to 3.13")
    return Finding("ok", "Python", said)


def _packages() -> Iterator[Finding]:
    """The package's own requirements and those of its extras; only jax, triton, book and test may be absent."""
    try:
        lines = importlib.metadata.requires("groundup") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding(
            "missing",
            "groundup",
            "not installed",
            _pip("install", "-e", ".[learn]") + " in the course's folder",
        )
        return
    for requirement in map(Requirement, lines):
        extra = _extra(requirement)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue  # not for this platform
        if extra in ("book", "test"):
            continue  # tools of the course's authors
        finding = _package(requirement, extra)
        if finding is not None:
            yield finding


def _extra(requirement: Requirement) -> str:
    found = re.search(r"""extra\s*==\s*["']([\w-]+)["']""", str(requirement.marker or ""))
    return found.group(1) if found else ""


def _package(requirement: Requirement, extra: str) -> Finding | None:
    needed = f"{requirement.name}{requirement.specifier}"
    todo = _pip("install", needed)
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        if extra in ("", "learn"):
            return Finding("missing", requirement.name, f"not installed (needs {needed})", todo)
        return Finding("note", requirement.name, f"not installed; only the {extra} lessons need it", todo)
    if not requirement.specifier.contains(version, prereleases=True):
        status = "missing" if extra in ("", "learn") else "note"
        return Finding(status, requirement.name, f"{version}, too old (needs {requirement.specifier})", todo)
    return Finding("ok", requirement.name, version)


def _devices() -> Iterator[Finding]:
    try:
        found = _probe()
    except (OSError, ValueError, subprocess.SubprocessError):
        yield Finding("missing", "device", "importing PyTorch ended its process or took a minute", _REINSTALL)
        return
    error = found.get("torch error", "")
    if "cuda" in found:
        yield Finding("ok", "device", f"CUDA: {found['cuda']}")
    elif "mps" in found:
        yield Finding("ok", "device", "MPS (Apple GPU); every lesson runs, Triton kernels in the interpreter")
    elif "torch" in found:
        yield Finding("ok", "device", f"CPU, {os.cpu_count()} cores; every lesson runs on it")
    elif not error.startswith(
        "ModuleNotFoundError: No module named 'torch'"
    ):  # that one is among the packages
        yield Finding("missing", "device", f"PyTorch does not import ({_short(error)})", _REINSTALL)
    if "triton error" in found:
        yield Finding(
            "note",
            "Triton",
            f"does not import ({_short(found['triton error'])})",
            _pip("install", "--force-reinstall", "--no-deps", "triton"),
        )
    elif "triton" in found:
        runs = "its interpreter, on the CPU" if found["interpreter"] else "the GPU"
        yield Finding("ok", "Triton", f"kernels run on {runs}")
    else:
        yield Finding("note", "Triton", "absent here: kernels of the GPU lessons can be read, not run")


def _probe() -> dict:
    with (
        tempfile.TemporaryDirectory() as nowhere
    ):  # a torch.py or triton.py beside the learner must not answer
        answer = subprocess.run(
            [sys.executable, "-c", _PROBE],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=PROBE_SECONDS,
            cwd=nowhere,
        )
    return json.loads(answer.stdout.decode(errors="replace").rpartition("FOUND")[2])


def _disk(root: Path | None) -> Finding:
    place = root or progress.home()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 2**30
    said = f"{free:.1f} GiB free at {place}"
    if free < ROOM_GIB:
        return Finding("missing", "disk", said, f"free at least {ROOM_GIB} GiB")
    return Finding("ok", "disk", said)


def _writable(what: str, folder: Path, todo: str) -> Finding:
    """Try it, in the nearest folder that exists: permission bits alone do not tell of read-only file systems."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            return Finding("ok", what, f"{folder} can be written")
    except OSError as error:
        return Finding("missing", what, f"{folder} cannot be written ({error.strerror or error})", todo)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 120 else line[:119] + "…"
