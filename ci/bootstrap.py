"""Prepares a machine for the course with nothing but Python: `setup` makes .venv, `start` runs the course in it.

    python3 ci/bootstrap.py setup [--test]
    python3 ci/bootstrap.py start [--port PORT] [--no-lab]

Only the standard library is used, and no syntax newer than Python 3.6: an older `python3` must be able to read this
file as far as the line that says what to install (or to hand over to a newer Python that is on PATH).
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "groundup-setup.json"
LOG = VENV / "setup.log"
LOCK = VENV / "setup.lock"
PYTHONS = [(3, 11), (3, 12), (3, 13)]

# Read from the end of a failed step's output; the first that fits gives the line of advice.
CAUSES = [
    (
        r"No space left on device|Errno 28|ENOSPC",
        "the disk is full: free about 5 GB, then run this again (it resumes)",
    ),
    (
        r"ensurepip is not available|No module named '?ensurepip|No module named '?venv",
        "this Python cannot make environments: install its venv package (Debian, Ubuntu: sudo apt install python3-venv), "
        "then run this again",
    ),
    (
        r"NewConnectionError|NameResolutionError|name resolution|Name or service not known|nodename nor servname|"
        r"Network is unreachable|Connection refused|ConnectTimeout|Read timed out|Connection reset|ProxyError|"
        r"SSLError|CERTIFICATE_VERIFY|getaddrinfo|RemoteDisconnected",
        "the package index cannot be reached: connect to the network, then run this again (it resumes)",
    ),
    (
        r"Read-only file system|Errno 30",
        "the course lies where nothing can be written: copy its folder to a disk that you may write to, "
        "then run this again there",
    ),
    (
        r"Permission denied|Errno 13",
        "a folder cannot be written: check the permissions of " + str(VENV),
    ),
    (
        r"ResolutionImpossible",
        "pip finds no packages that fit ci/constraints.txt here: see which index it uses, or report this with the log",
    ),
    (r"No matching distribution found for (\S+)", "no build of {0} for this Python and machine was found"),
    (r"THESE PACKAGES DO NOT MATCH THE HASHES", "a download was damaged: run this again"),
]


class Failure(Exception):
    """Setup cannot go on; the message is the one line to show."""


def main():
    """Parse the command line, find a Python that is new enough, and do what was asked."""
    parser = argparse.ArgumentParser(prog="bootstrap", description="Set the course up, and start it.")
    commands = parser.add_subparsers(dest="command", metavar="setup|start")
    setup_parser = commands.add_parser("setup", help="make or mend .venv")
    setup_parser.add_argument("--test", action="store_true", help="also install what the tests need")
    start_parser = commands.add_parser("start", help="set up, build the site, serve it and JupyterLab")
    start_parser.add_argument("--port", type=int, default=8000, help="first port to try for the site")
    start_parser.add_argument("--no-lab", action="store_true", help="serve the site only")
    arguments = parser.parse_args()
    if arguments.command is None:
        parser.error("say what to do: setup or start")
    if arguments.command == "start" and not 1 <= arguments.port <= 65535:
        parser.error("a port is a number from 1 to 65535")
    try:
        use_a_supported_python()
        setup(test=getattr(arguments, "test", False))
        if arguments.command == "start":
            start(arguments.port, arguments.no_lab)
    except Failure as failure:
        print("bootstrap: " + str(failure), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. Run the same command again: it goes on where it was.", file=sys.stderr)
        return 130
    except OSError as error:
        print("bootstrap: " + (advice(str(error)) or str(error)), file=sys.stderr)
        return 1
    return 0


def use_a_supported_python():
    """Go on if this Python will do; else run the same command under one that is on PATH and does.

    Raises:
        Failure: there is none.
    """
    if sys.version_info[:2] in PYTHONS:
        return
    for version in PYTHONS:
        name = f"python{version[0]}.{version[1]}"
        for folder in os.get_exec_path():
            candidate = shutil.which(name, path=folder)
            # A shim may be on PATH for a Python that is not installed: only running it tells.
            if candidate and runs(candidate, version):
                if os.name == "nt":
                    sys.exit(subprocess.call([candidate, *sys.argv]))
                os.execv(candidate, [candidate, *sys.argv])
    if sys.version_info[:2] > PYTHONS[-1]:
        return  # newer than what was tested, but all there is
    raise Failure(
        "the course needs Python 3.11, 3.12 or 3.13, and this is {}.{}.{}: "
        "install one, then run this again".format(*sys.version_info)
    )


def runs(python, version):
    """Whether the program `python` starts and is of `version`."""
    question = "import sys; print(*sys.version_info[:2])"
    try:
        answer = subprocess.run(
            [python, "-I", "-S", "-c", question],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return answer.returncode == 0 and answer.stdout.split() == [str(number).encode() for number in version]


def setup(test):
    """Make .venv, or mend it, or see at once that there is nothing to do.

    A stamp, written last, says what is installed; without it .venv counts as half made. What is already installed in a
    half-made .venv is kept, if its Python still runs.
    """
    if up_to_date(test):
        return
    if VENV.is_symlink() or (VENV.exists() and not VENV.is_dir()):
        raise Failure(f"{VENV} is not a folder of its own: remove it, then run this again")
    VENV.mkdir(exist_ok=True)
    with only_one():
        if up_to_date(test):  # another setup has just finished
            return
        test = test or stamp().get("test", False)
        with contextlib.suppress(FileNotFoundError):
            STAMP.unlink()
        extras = "learn,book" + (",test,jax,triton" if test else "")
        constraints = ["-c", str(ROOT / "ci" / "constraints.txt")]
        alone = ROOT / "ci" / "no-deps.txt"
        print(f"Setting up {VENV} (its log: {LOG})", flush=True)
        steps = [
            ("the environment", make_venv),
            # First and pinned: torch asked for by a range, by itself or by another package, may bring gigabytes more.
            ("PyTorch", lambda step: pip(step, [*constraints, "torch"])),
            (
                "the course and its tools",
                lambda step: pip(step, [*constraints, "-e", f"{ROOT}[{extras}]"]),
            ),
        ]
        if alone.exists() and has_requirements(alone):
            steps.append(
                (
                    "files for the site and data sets",
                    lambda step: pip(step, [*constraints, "--no-deps", "-r", str(alone)]),
                )
            )
        for number, (what, do) in enumerate(steps, start=1):
            with Step(f"{number}/{len(steps)} {what}") as step:
                do(step)
        content = {"inputs": inputs(), "python": venv_version(), "root": str(ROOT), "test": test}
        temporary = STAMP.with_suffix(".tmp")
        temporary.write_text(json.dumps(content), encoding="utf-8")
        os.replace(str(temporary), str(STAMP))


def up_to_date(test):
    """Whether .venv holds what is asked for, by its stamp: the same inputs, in the same place, a Python that is there."""
    known = stamp()
    return (
        bool(known)
        and known.get("inputs") == inputs()
        and known.get("root") == str(ROOT)
        and known.get("python") == venv_version()
        and (known.get("test", False) or not test)
        and venv_python().exists()  # follows the link: an upgraded system removes the Python behind it
    )


def stamp():
    """The stamp's content; empty if there is none."""
    try:
        content = json.loads(STAMP.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}
    except (OSError, ValueError):
        return {}


def inputs():
    """A hash of the files that decide what is installed."""
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "ci/constraints.txt", "ci/no-deps.txt"):
        path = ROOT / name
        digest.update(name.encode() + b"\0" + (path.read_bytes() if path.exists() else b"") + b"\0")
    return digest.hexdigest()


def has_requirements(path):
    """Whether a requirements file asks for anything."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return any(line.strip() and not line.lstrip().startswith("#") for line in lines)


def venv_python():
    """The Python of .venv, whether it exists or not."""
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def venv_version():
    """Version of the Python of .venv, as it noted when it was made; None if it did not."""
    try:
        found = re.search(r"^version\s*=\s*(\S+)", (VENV / "pyvenv.cfg").read_text(encoding="utf-8"), re.M)
    except (OSError, UnicodeDecodeError):
        return None
    return found.group(1) if found else None


@contextlib.contextmanager
def only_one():
    """Wait for another setup of the same .venv: two pips in one environment break it."""
    with open(str(LOCK), "a+b") as file:
        try:
            import fcntl
        except ImportError:  # Windows: nothing to wait with
            yield
            return
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another setup is running; waiting for it.", flush=True)
            fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks
        yield


def make_venv(step):
    """Make .venv unless it has a Python and a pip that run; a broken one is emptied first."""
    if usable() and not made_elsewhere():
        return
    for child in VENV.iterdir():
        if child != LOCK:
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(str(child))
            else:
                child.unlink()
    run(step, [sys.executable, "-m", "venv", str(VENV)])


def made_elsewhere():
    """Whether .venv was made in another place: its scripts name the Python of that place."""
    try:
        head = (VENV / "bin" / "pip").read_bytes()[:2000]  # the path may stand in the second line
    except OSError:
        return False  # no pip: usable() decides
    return head.startswith(b"#!/") and str(VENV).encode() not in head


def usable():
    """Whether the Python of .venv runs, is supported and has pip."""
    if not any(runs(str(venv_python()), version) for version in [*PYTHONS, sys.version_info[:2]]):
        return False
    answer = subprocess.run(
        [str(venv_python()), "-m", "pip", "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return answer.returncode == 0


def pip(step, arguments):
    """Install into .venv."""
    run(step, [str(venv_python()), "-m", "pip", "install", "--no-input", "--progress-bar", "off", *arguments])


def run(step, command):
    """Run one command: its output goes to the log, what it is doing to the step's line.

    Raises:
        Failure: it failed; the message names the cause if its output tells.
    """
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONHOME", "PYTHONPATH")}
    environment.update(PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_USER="0", PYTHONUNBUFFERED="1")
    output = ["$ " + " ".join(command) + "\n"]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        cwd=str(ROOT),
        universal_newlines=True,
        errors="replace",
    )
    try:
        with open(str(LOG), "a", encoding="utf-8") as log:
            log.write(output[0])
            for line in process.stdout:
                log.write(line)
                log.flush()
                output.append(line)
                step.now(line)
        code = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if code != 0:
        errors = [line for line in output if line.startswith("ERROR")] or output
        last = " ".join(errors[-1].split())
        why = advice("".join(output)) or f"this step failed ({last[:200]})."
        raise Failure(f"{why} Log: {LOG}")


def advice(output):
    """One line on what to do, if the output tells the cause."""
    for pattern, line in CAUSES:
        found = re.search(pattern, output)
        if found:
            return line.format(*found.groups()) + "."
    return None


class Step:
    """One step of the setup on one line of the terminal: its name, what it is doing, the seconds it took."""

    def __init__(self, name):
        self.name = name
        self.doing = ""
        self.started = time.monotonic()
        self.live = sys.stdout.isatty()
        self.over = threading.Event()
        self.ticker = threading.Thread(target=self._tick)
        self.ticker.daemon = True

    def __enter__(self):
        if not self.live:
            print(self.name, flush=True)
        self.ticker.start()
        return self

    def __exit__(self, kind, error, trace):
        self.over.set()
        self.ticker.join()
        result = "done" if kind is None else "failed"
        line = f"{self.name}: {result}, {self._seconds()} s"
        print(("\r\033[K" if self.live else "") + line, flush=True)

    def now(self, line):
        """Note what a line of pip's output says it is doing."""
        found = re.match(r"\s*(Collecting|Downloading|Installing|Building|Preparing|Using cached)\b.*", line)
        if found:
            self.doing = re.sub(r"\s+", " ", found.group().strip())
            if self.doing.startswith("Installing collected packages"):
                self.doing = "Installing {} packages".format(self.doing.count(",") + 1)

    def _seconds(self):
        return int(time.monotonic() - self.started)

    def _tick(self):
        if not self.live:
            while not self.over.wait(15):
                print(f"  {self.doing or 'working'} ({self._seconds()} s)", flush=True)
            return
        width = shutil.get_terminal_size().columns - 1
        while not self.over.wait(0.2):
            line = f"{self.name}: {self._seconds()} s  {self.doing}"
            print("\r\033[K" + line[:width], end="", flush=True)


def start(port, no_lab):
    """Hand over to ci/start.py under the Python of .venv."""
    command = [str(venv_python()), "-m", "ci.start", "--port", str(port)] + (["--no-lab"] if no_lab else [])
    os.chdir(str(ROOT))
    for name in ("PYTHONHOME", "PYTHONPATH"):
        os.environ.pop(name, None)
    sys.stdout.flush()
    if os.name == "nt":
        sys.exit(subprocess.call(command))
    os.execv(command[0], command)


if __name__ == "__main__":
    sys.exit(main())
