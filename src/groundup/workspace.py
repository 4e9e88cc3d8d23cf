"""The learner's working copies: `work/NN_part/MM_lesson.ipynb`, copied from `exercises/` and never overwritten.

`work/AGENTS.md`, which asks AI tools to teach and not to solve, is handed out in the same way.

`work/.handed-out.json` lists, for each lesson, the SHA-256 of every version that was handed out. A copy whose bytes
are one of these was not edited, and an update replaces it. Any other copy is the learner's: the new version lands
beside it as `MM_lesson.new.ipynb` (then `.new-2`, …), once, and a line says so.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import groundup
from groundup import _files

MANIFEST = ".handed-out.json"


class WorkspaceError(Exception):
    """What the learner asked for cannot be done; the message is one line that says why and what to do."""


def course_root(start: Path | None = None) -> Path | None:
    """The course's folder: the checkout around `start` (default: the current folder), else the one installed from."""
    try:
        here = (start or Path.cwd()).resolve()
        places = [here, *here.parents]
    except OSError:  # the current folder was deleted
        places = []
    for folder in [*places, Path(groundup.__file__).resolve().parents[2]]:
        if (folder / "exercises").is_dir() and (folder / "src" / "groundup").is_dir():
            return folder
    return None


def refresh(root: Path) -> list[str]:
    """Bring `root/work` up to date with `root/exercises`; return one line for each thing worth telling.

    Raises:
        WorkspaceError: the folder cannot be written.
    """
    try:
        (root / "work").mkdir(exist_ok=True)
        with _files.locked(root / "work" / ".lock"):
            manifest = _read_manifest(root)
            lines = []
            assistants = root / "exercises" / "AGENTS.md"
            notebooks = sorted((root / "exercises").glob("*/*.ipynb"))
            for source in [*notebooks, *([assistants] if assistants.is_file() else [])]:
                lines += _hand_out(source, root, manifest)
            return lines
    except OSError as error:
        raise WorkspaceError(_cannot_write(root, error)) from None


def reset(root: Path, lesson_path: str) -> tuple[Path, Path | None]:
    """Put a fresh copy of `lesson_path` ('exercises/NN_part/MM_lesson.ipynb') into `root/work`.

    Returns the working copy's path and the dated path under which the old copy is kept (None if there was none).

    Raises:
        WorkspaceError: the course's folder lacks this lesson, or cannot be written.
    """
    source = root / lesson_path
    target = _target(source, root)
    try:
        fresh = source.read_bytes()
    except OSError as error:
        raise WorkspaceError(f"{source} cannot be read ({error.strerror}): is the course complete?") from None
    if target.is_dir():
        raise WorkspaceError(f"{target} is a folder: move it away")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _files.locked(root / "work" / ".lock"):
            manifest = _read_manifest(root)
            with _files.written_beside(target, fresh) as ready:
                kept = _files.move_aside(target) if os.path.lexists(target) else None
                try:
                    _files.put_new(ready, target)
                except OSError:
                    if kept is not None and not os.path.lexists(target):
                        os.replace(kept, target)
                    raise
            _remember(root, manifest, target, fresh)
    except OSError as error:
        raise WorkspaceError(_cannot_write(root, error)) from None
    return target, kept


def _hand_out(source: Path, root: Path, manifest: dict[str, list[str]]) -> list[str]:
    fresh = source.read_bytes()
    target = _target(source, root)
    versions = manifest.get(_name(root, target), [])
    target.parent.mkdir(parents=True, exist_ok=True)
    for copy in _names(target):
        current = _bytes(copy)
        if current == fresh:
            _remember(root, manifest, target, fresh)
            return []
        if current is None and not os.path.lexists(copy):
            if copy != target and _digest(fresh) in versions:
                return []  # this version was put beside the copy before, and the learner removed or renamed it
            _files.write_new(copy, fresh)
            _remember(root, manifest, target, fresh)
            if copy == target:
                return []
            return [
                f"{target.name} has a new version: yours is kept, the new one is {copy.relative_to(root)}"
            ]
        if current is not None and _digest(current) in versions and _exchange(copy, current, fresh):
            _remember(root, manifest, target, fresh)
            return [f"{copy.relative_to(root)} is up to date (you had not changed it)"]
    raise AssertionError("_names never ends")


def _exchange(copy: Path, expected: bytes, fresh: bytes) -> bool:
    """Put `fresh` in the place of `copy`, if that still holds `expected`: a notebook saved since it was read stays."""
    with _files.written_beside(copy, fresh) as ready:
        aside = _files.move_aside(copy)
        unedited = aside.read_bytes() == expected
        try:
            _files.put_new(ready if unedited else aside, copy)
        except OSError:
            if not os.path.lexists(copy):
                os.replace(aside, copy)
            raise
        aside.unlink()
        return unedited


def _names(target: Path) -> Iterator[Path]:
    yield target
    yield target.with_suffix(f".new{target.suffix}")
    number = 2
    while True:
        yield target.with_suffix(f".new-{number}{target.suffix}")
        number += 1


def _target(source: Path, root: Path) -> Path:
    return root / "work" / source.relative_to(root / "exercises")


def _name(root: Path, target: Path) -> str:
    return target.relative_to(root / "work").as_posix()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _read_manifest(root: Path) -> dict[str, list[str]]:
    """An unreadable manifest counts as empty: then every copy is taken for the learner's, the safe side."""
    try:
        manifest = json.loads((root / "work" / MANIFEST).read_bytes())
        if all(isinstance(versions, list) for versions in manifest.values()):
            return manifest
    except (OSError, ValueError, AttributeError, RecursionError):
        pass
    return {}


def _remember(root: Path, manifest: dict[str, list[str]], target: Path, content: bytes) -> None:
    """Written after the copy itself: if the process dies in between, the copy counts as the learner's, the safe side."""
    versions = manifest.setdefault(_name(root, target), [])
    if _digest(content) not in versions:
        versions.append(_digest(content))
        text = json.dumps(manifest, indent=1, sort_keys=True)
        _files.write_whole(root / "work" / MANIFEST, text.encode())


def _cannot_write(root: Path, error: OSError) -> str:
    return (
        f"{root / 'work'} cannot be written ({error.strerror or error}): free space or mend its permissions"
    )
