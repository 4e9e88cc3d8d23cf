"""Writing files so that nothing of the learner's is lost: whole or not at all, never over another file, one at a time."""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no fcntl; msvcrt locks there
    fcntl = None

LOCK_SECONDS = 5.0  # a writer holds a lock for milliseconds; whoever holds it for longer is stuck


def write_whole(path: Path, content: bytes) -> None:
    """Put `content` at `path`, replacing what is there; a reader sees the old bytes or the new, never a part."""
    with written_beside(path, content) as temporary:
        os.replace(temporary, path)


def write_new(path: Path, content: bytes) -> None:
    """Put `content` at `path`, whole.

    Raises:
        FileExistsError: something is there; it is left as it is.
    """
    with written_beside(path, content) as temporary:
        put_new(temporary, path)


def put_new(file: Path, path: Path) -> None:
    """Give `file`, which lies on the same disk, the name `path` as well; on most disks that takes no room.

    Raises:
        FileExistsError: something is at `path`; it is left as it is.
    """
    try:
        os.link(file, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        content = Path(file).read_bytes()
        with open(path, "xb") as copy:
            try:
                copy.write(content)
                copy.flush()
                os.fsync(copy.fileno())
            except OSError:  # a full disk: half a notebook must not stay under this name
                copy.close()
                os.unlink(path)
                raise


@contextlib.contextmanager
def written_beside(path: Path, content: bytes) -> Iterator[Path]:
    """A file with `content` in the folder of `path`, gone afterwards: on a full disk this fails before anything moves."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's 0600 would lock out whoever shares the folder
        yield Path(temporary)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def move_aside(path: Path) -> Path:
    """Rename `path` to a dated name beside it that no other file has, and return that name.

    Raises:
        FileNotFoundError: nothing is at `path`.
    """
    stamp = datetime.now().strftime("%Y-%m-%d-%H%M%S")
    for number in range(1, 10_000):
        suffix = "" if number == 1 else f"-{number}"
        aside = path.with_name(f"{path.stem}.{stamp}{suffix}{path.suffix}")
        try:
            os.close(
                os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            )  # claims the name: no older copy is lost
        except FileExistsError:
            continue
        try:
            os.replace(path, aside)
        except BaseException:
            os.unlink(aside)
            raise
        return aside
    raise FileExistsError(17, "too many copies were made within a second", str(path))


@contextlib.contextmanager
def locked(path: Path, seconds: float = LOCK_SECONDS) -> Iterator[bool]:
    """Hold the lock file `path`. After `seconds` go on without it (and yield False): a stuck process stops nobody."""
    with open(path, "a+b") as file:
        deadline = time.monotonic() + seconds
        while not (held := _try_lock(file.fileno())) and time.monotonic() < deadline:
            time.sleep(0.01)
        yield held  # closing the file frees the lock


def _try_lock(descriptor: int) -> bool:
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            os.lseek(descriptor, 0, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    except (BlockingIOError, PermissionError):  # another process has it
        return False
    except OSError:  # a file system without locks: nothing to wait for
        return True
    return True
