"""Which exercises the learner has passed, kept in one small JSON file.

The file is `progress.json` in `home()`: `{"passed": {exercise id: ISO time of the first pass}}`. Writes are whole and
under a lock, so two notebooks that pass at the same moment lose nothing. Grading must never fail because of this
file: what cannot be read or written becomes one line on stderr.
"""

import contextlib
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from groundup import _files

_told: set[str] = set()


def home() -> Path:
    """Folder of the learner's records: `GROUNDUP_HOME`, or `~/.groundup`. It need not exist yet."""
    chosen = os.environ.get("GROUNDUP_HOME") or os.path.join("~", ".groundup")
    return Path(os.path.expanduser(chosen))


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
        with _files.locked(path.with_name("progress.lock")):
            known = _read_or_move_aside(path)
            if exercise_id in known:
                return False
            known[exercise_id] = datetime.now(UTC).isoformat(timespec="seconds")
            _files.write_whole(path, json.dumps({"passed": known}, indent=1).encode())
    except OSError as error:
        why = error.strerror or error
        todo = "free space there, or set GROUNDUP_HOME to a folder that you can write"
        _tell(f"progress is not recorded: {path.parent} cannot be written ({why}); {todo}.")
        return False
    return True


def passed() -> dict[str, str]:
    """The exercises passed so far: exercise id → ISO time (UTC) of the first pass, oldest first."""
    path = _path()
    try:
        known = _read(path)
        if known is None:  # look again under the lock: a writer may just have mended it
            with _files.locked(path.with_name("progress.lock")):
                known = _read_or_move_aside(path)
    except OSError as error:
        _tell(f"progress cannot be read: {path} ({error.strerror or error}).")
        return {}
    return dict(sorted(known.items(), key=lambda item: (item[1], item[0])))


def _path() -> Path:
    return home() / "progress.json"


def _read(path: Path) -> dict[str, str] | None:
    """What the file records; None if it makes no sense."""
    try:
        known = json.loads(path.read_bytes())["passed"]
        return known if all(isinstance(when, str) for when in known.values()) else None
    except FileNotFoundError:
        return {}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _read_or_move_aside(path: Path) -> dict[str, str]:
    known = _read(path)
    if known is not None:
        return known
    aside = _files.move_aside(path)
    _tell(f"{path} could not be read; it is kept as {aside.name}, and progress starts anew.", once=False)
    return {}


def _tell(line: str, *, once: bool = True) -> None:
    if once and line in _told:
        return
    _told.add(line)
    with contextlib.suppress(OSError, ValueError, AttributeError):  # stderr may be closed or None
        print(f"groundup: {line}", file=sys.stderr)
