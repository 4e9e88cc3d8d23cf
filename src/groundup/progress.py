"""Which exercises the learner has passed, kept in one small JSON file.

The file is `progress.json` in `home()`: `{"passed": {exercise id: ISO time of the first pass}}`. Writes go to a
temporary file that is renamed over the old one, under a lock, so two notebooks that pass at the same moment lose
nothing. Grading must never fail because of this file: what cannot be read or written becomes one line on stderr.
"""

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no fcntl; msvcrt locks there
    fcntl = None

_LOCK_SECONDS = 5.0  # a writer holds the lock for milliseconds; whoever holds it for longer is stuck
_told: set[str] = set()


def home() -> Path:
    """Folder of the learner's records: `GROUNDUP_HOME`, or `~/.groundup`. It need not exist yet."""
    chosen = os.environ.get("GROUNDUP_HOME")
    return Path(chosen).expanduser() if chosen else Path(os.path.expanduser("~")) / ".groundup"


def record(exercise_id: str) -> bool:
    """Remember that `exercise_id` was passed. True if that is new.

    Nothing is written while `GROUNDUP_NO_RECORD` is set (other than to 0), nor where the folder cannot be written:
    then one line on stderr says so, once, and the answer is False.
    """
    if os.environ.get("GROUNDUP_NO_RECORD", "0") not in ("", "0"):
        return False
    path = _path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_name("progress.lock")):
            content = _read(path)
            if exercise_id in content["passed"]:
                return False
            content["passed"][exercise_id] = datetime.now(UTC).isoformat(timespec="seconds")
            _write(path, content)
    except OSError as error:
        _tell(f"progress is not recorded: {path.parent} cannot be written ({error.strerror or error}).")
        return False
    return True


def passed() -> dict[str, str]:
    """The exercises passed so far: exercise id → ISO time (UTC) of the first pass, oldest first."""
    path = _path()
    try:
        content = _read(path)
    except OSError as error:
        _tell(f"progress cannot be read: {path} ({error.strerror or error}).")
        return {}
    return dict(sorted(content["passed"].items(), key=lambda item: (item[1], item[0])))


def _path() -> Path:
    return home() / "progress.json"


def _read(path: Path) -> dict:
    """The file's content; a file that is not ours to understand is moved aside, never overwritten."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return {"passed": {}}
    try:
        content = json.loads(raw)
        times = content["passed"]
        if all(isinstance(when, str) for when in times.values()):
            return content
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    aside = _move_aside(path)
    _tell(f"{path} could not be read; it is kept as {aside.name}, and progress starts anew.", once=False)
    return {"passed": {}}


def _move_aside(path: Path) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    for number in range(1, 10_000):
        aside = path.with_name(f"progress.unreadable-{stamp}-{number}.json")
        try:
            os.close(
                os.open(aside, os.O_CREAT | os.O_EXCL)
            )  # claims the name, so that no older copy is replaced
        except FileExistsError:
            continue
        with contextlib.suppress(FileNotFoundError):  # another process has just moved it
            os.replace(path, aside)
        return aside
    raise FileExistsError(17, "too many unreadable copies", str(path))


def _write(path: Path, content: dict) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".progress-", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock file. After `_LOCK_SECONDS` go on without it: a stuck process must not stop the learner."""
    with open(path, "a+b") as file:
        deadline = time.monotonic() + _LOCK_SECONDS
        while not _try_lock(file.fileno()) and time.monotonic() < deadline:
            time.sleep(0.01)
        yield  # closing the file frees the lock


def _try_lock(descriptor: int) -> bool:
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            os.lseek(descriptor, 0, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    except OSError:
        return False
    return True


def _tell(line: str, *, once: bool = True) -> None:
    if once and line in _told:
        return
    _told.add(line)
    with contextlib.suppress(OSError, ValueError, AttributeError):  # stderr may be closed or None
        print(f"groundup: {line}", file=sys.stderr)
