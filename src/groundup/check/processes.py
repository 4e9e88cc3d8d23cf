"""Running a learner's function in several processes, as exercises on torch.distributed need.

The function may come from a notebook cell: cloudpickle carries it by value. The processes meet over gloo through a
file, have a hard time limit, and never outlive the call. A server process imports torch once and forks a worker per
rank, so that a second run takes milliseconds; where there is no fork, each rank is a fresh Python.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import io
import linecache
import os
import pickle
import select
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .explain import NotWritten, is_learners, learners_frames, not_written

STARTING_SECONDS = 60.0  # importing torch from a cold disk
GRACE_SECONDS = 5.0
REPORT_SECONDS = 2.0  # for a rank's word on what it was doing when its time was over
READY = ("ready", None)


class WorkerError(RuntimeError):
    """A rank raised, died or did not finish in time; the message says which and why."""


class HungWorkers(TimeoutError):
    """Some rank did not finish in time; a check then answers `timeout`."""


def run_workers(
    function: Callable[..., Any], world_size: int, *args: Any, seconds: float = 20.0
) -> list[Any]:
    """Call `function(rank, world_size, *args)` in `world_size` processes; the results in the order of the ranks.

    torch.distributed is initialised with gloo in each process. Results are pickled: return tensors on the CPU,
    arrays, numbers, containers of them.

    Args:
        seconds: time limit from the moment the processes run.

    Raises:
        NotWritten: a rank raised NotImplementedError, so the function is not written yet.
        HungWorkers: the processes did not finish; the message tells a loop that never ends from a message that
            nobody sends.
        WorkerError: a rank raised another exception, ended early, or the function cannot be sent to a process.
    """
    try:
        job = pack((function, args), function, *args)
    except Exception as error:
        raise WorkerError(f"the function cannot be sent to another process: {error}") from None
    if not hasattr(os, "fork"):
        outcomes = _fresh_processes(job, world_size, seconds)
    else:
        outcomes = _server().run(job, world_size, seconds)
    return _unpack(outcomes, seconds)


def pack(value: Any, *quoted: Any) -> bytes:
    """`value` as bytes for `unpack`, with the cells in which `quoted` were written (by default `value`).

    A worker's messages quote these cells' lines.
    """
    import cloudpickle

    class Pickler(cloudpickle.Pickler):
        def reducer_override(self, obj: Any) -> Any:
            # PyTorch's `config` modules are of classes of their own. cloudpickle takes one along for a function that
            # merely uses a variable named config, and cannot pickle it.
            if isinstance(obj, types.ModuleType) and sys.modules.get(obj.__name__) is obj:
                return importlib.import_module, (obj.__name__,)
            return super().reducer_override(obj)

    file = io.BytesIO()
    Pickler(file).dump((value, _cells(quoted or (value,))))
    return file.getvalue()


def unpack(data: bytes) -> Any:
    """What `pack` was given."""
    value, cells = pickle.loads(data)
    for name, lines in cells.items():
        linecache.cache.setdefault(name, (0, None, lines, name))
    return value


def _cells(values: tuple[Any, ...]) -> dict[str, list[str]]:
    """Names and lines of the notebook cells that hold these functions and classes."""
    parts = [
        part
        for value in values
        for part in (value, *(vars(value).values() if isinstance(value, type) else ()))
    ]
    names = {part.__code__.co_filename for part in parts if type(part) is types.FunctionType}
    return {name: linecache.getlines(name) for name in names if not os.path.exists(name)}


def _unpack(outcomes: list[tuple[str, Any]], seconds: float) -> list[Any]:
    """The results, or the exception that says most: a rank that failed makes the others wait."""
    kinds = [kind for kind, _ in outcomes]
    for rank, (kind, value) in enumerate(outcomes):
        if kind == "todo":
            raise NotWritten(value)
        if kind == "raised":
            raise WorkerError(f"rank {rank} raised {value}")
        if kind == "died":
            raise WorkerError(f"rank {rank} ended without a result ({value})")
    if "timeout" in kinds:
        raise HungWorkers(
            _hung([value if kind == "timeout" else None for kind, value in outcomes], kinds, seconds)
        )
    return [pickle.loads(value) for _, value in outcomes]


def _hung(reports: list[tuple[bool, str] | None], kinds: list[str], seconds: float) -> str:
    """A sentence about the ranks that did not finish; no full stop at its end."""
    hung = [rank for rank, kind in enumerate(kinds) if kind == "timeout"]
    busy = [rank for rank in hung if reports[rank] is not None and reports[rank][0]]
    shown = busy or hung  # who waits for one that computes is not to blame
    ranks = ("ranks " if len(shown) > 1 else "rank ") + ", ".join(map(str, shown))
    ranks += " were" if len(shown) > 1 else " was"
    places: dict[str, int] = {}  # each with the first rank that is there
    for rank in shown:
        if reports[rank] is not None and reports[rank][1]:
            places.setdefault(reports[rank][1], rank)
    named = [place if len(places) == 1 else f"rank {rank}: {place}" for place, rank in places.items()]
    place = f" ({'; '.join(named[:2])})" if named else ""
    if busy:
        what = f"computing{place}: in a loop that never ends, or on a very busy machine"
    elif any(reports[rank] is None for rank in hung):
        what = f"running{place}: in a loop that never ends, or waiting for a message that nobody sends"
    else:
        what = (
            f"waiting{place}, it seems for a message that nobody sends. Every process must make the same calls, in "
            "the same order"
        )
    return f"after {seconds:g} s {ranks} still {what}"


# -- in a worker ---------------------------------------------------------------------------------------


def _work(
    job: bytes, rank: int, world_size: int, meeting: str, seconds: float, ready: Callable[[], None]
) -> tuple[str, Any]:
    """One rank: kind and value of the outcome. Calls `ready` when all ranks have met: the clock starts there."""
    from datetime import timedelta

    import cloudpickle
    import torch.distributed as dist

    try:
        function, args = unpack(job)
        limit = timedelta(seconds=seconds + STARTING_SECONDS)
        dist.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=rank, world_size=world_size, timeout=limit
        )
        dist.barrier()  # gloo fails if a rank is done and gone while another still connects
        ready()
        value = function(rank, world_size, *args)
        return "result", cloudpickle.dumps(value)
    except NotImplementedError as error:
        if not_written(error) is not None:
            return "todo", str(error)
        return "raised", f"NotImplementedError: {error}"
    except BaseException as error:
        text = " ".join(str(error).split())[:300]
        frames = [f"; {frame}" for frame in learners_frames(error)]
        return "raised", "".join([f"{type(error).__name__}: {text}", *frames])


def _quiet() -> None:
    """A worker's output goes nowhere: four ranks printing at once help nobody."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)


def _send(descriptor: int, value: Any) -> None:
    data = pickle.dumps(value)
    data = struct.pack("!Q", len(data)) + data
    while data:
        data = data[os.write(descriptor, data) :]


def _receive(descriptor: int, deadline: float | None = None) -> Any:
    """The next message.

    Raises:
        EOFError: the other side is gone.
        TimeoutError: nothing came before `deadline` (of time.monotonic).
    """
    (size,) = struct.unpack("!Q", _read(descriptor, 8, deadline))
    return pickle.loads(_read(descriptor, size, deadline))


def _read(descriptor: int, size: int, deadline: float | None) -> bytes:
    data = b""
    while len(data) < size:
        wait = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not select.select([descriptor], [], [], wait)[0]:
            raise TimeoutError
        piece = os.read(descriptor, min(size - len(data), 1 << 20))
        if not piece:
            raise EOFError
        data += piece
    return data


# -- the server ----------------------------------------------------------------------------------------


def _serve(descriptor: int) -> None:
    """Fork the workers of one job after another, until the other side hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch
    import torch.distributed

    torch.set_num_threads(1)
    _send(descriptor, "ready")
    while True:
        try:
            job, world_size, seconds = _receive(descriptor)
        except EOFError:
            return
        _send(descriptor, _fork_all(job, world_size, seconds, descriptor))


def _fork_all(job: bytes, world_size: int, seconds: float, parent: int) -> list[tuple[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        meeting = str(Path(folder) / "meeting")
        pipes, children = [], []
        for rank in range(world_size):
            reading, writing = os.pipe()
            child = os.fork()
            if child == 0:
                _be_worker(job, rank, world_size, meeting, seconds, reading, writing)
            os.close(writing)
            pipes.append(reading)
            children.append(child)
        try:
            return _collect(pipes, children, seconds, parent)
        finally:
            for child in children:
                with contextlib.suppress(OSError):
                    os.killpg(child, signal.SIGKILL)
                with contextlib.suppress(OSError):
                    os.kill(child, signal.SIGKILL)
                with contextlib.suppress(OSError):
                    os.waitpid(child, 0)
            for pipe in pipes:
                os.close(pipe)


def _be_worker(
    job: bytes, rank: int, world_size: int, meeting: str, seconds: float, reading: int, writing: int
) -> None:
    """The child's life after the fork; does not return."""
    last_word = threading.Lock()

    def ready() -> None:
        _send(writing, READY)
        watch = threading.Thread(target=_watch, args=(seconds, writing, last_word), daemon=True)
        watch.start()

    try:
        os.setsid()  # so that its own children die with it
        os.close(reading)
        _quiet()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        outcome = _work(job, rank, world_size, meeting, seconds, ready)
        with last_word:
            _send(writing, outcome)
        time.sleep(
            seconds + GRACE_SECONDS
        )  # stay until all ranks are done: others may still read what we sent
    finally:
        os._exit(0)


def _watch(seconds: float, writing: int, last_word: threading.Lock) -> None:
    """When the time is over: whether the rank computes or waits, and the learner's line where it is."""
    time.sleep(seconds / 2)
    before = time.process_time()
    time.sleep(seconds / 2)
    used = time.process_time() - before
    place, frame = "", sys._current_frames().get(threading.main_thread().ident)
    while frame is not None and not place:
        code = frame.f_code
        if is_learners(code):
            line = linecache.getline(code.co_filename, frame.f_lineno).strip()[:100]
            place = f"line {frame.f_lineno}, in {code.co_name}" + (f": {line}" if line else "")
        frame = frame.f_back
    # A loop has a share of a core even on a busy machine; a rank that waits has next to nothing.
    if last_word.acquire(blocking=False):
        _send(writing, ("timeout", (used > 0.03 * seconds, place)))


def _collect(pipes: list[int], children: list[int], seconds: float, parent: int) -> list[tuple[str, Any]]:
    """Wait for every rank, to the deadline; a rank that fails leaves the others one more second."""
    outcomes: list[tuple[str, Any]] = [("timeout", None)] * len(pipes)
    waiting = dict(enumerate(pipes))
    starting = set(waiting)
    deadline = time.monotonic() + STARTING_SECONDS
    while waiting and (left := deadline - time.monotonic()) > 0:
        ready = select.select([*waiting.values(), parent], [], [], left)[0]
        if parent in ready:  # the notebook is gone or has given up
            break
        for rank in [rank for rank, pipe in waiting.items() if pipe in ready]:
            try:
                outcome = _receive(waiting[rank], deadline)
            except TimeoutError:
                continue
            except EOFError:
                status = os.waitpid(children[rank], 0)[1]
                code = os.waitstatus_to_exitcode(status)
                outcome = "died", f"exit code {code}" if code >= 0 else f"signal {-code}"
            if outcome == READY:
                starting.discard(rank)
                if not starting:
                    deadline = time.monotonic() + seconds + REPORT_SECONDS
                continue
            outcomes[rank] = outcome
            del waiting[rank]
            if outcome[0] != "result":
                deadline = min(deadline, time.monotonic() + 1.0)
    return outcomes


class _Server:
    """The other end of `_serve`."""

    def __init__(self) -> None:
        import socket

        ours, theirs = socket.socketpair()
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        }
        command = [
            sys.executable,
            "-c",
            f"from groundup.check.processes import _serve; _serve({theirs.fileno()})",
        ]
        self.process = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        theirs.close()
        self.socket = ours
        self.owner = os.getpid()
        try:
            _receive(ours.fileno(), time.monotonic() + STARTING_SECONDS)
        except BaseException as error:
            self.stop()
            if isinstance(error, (EOFError, TimeoutError)):
                raise WorkerError("the worker processes could not be started") from None
            raise

    def run(self, job: bytes, world_size: int, seconds: float) -> list[tuple[str, Any]]:
        done = False
        try:
            _send(self.socket.fileno(), (job, world_size, seconds))
            outcomes = _receive(
                self.socket.fileno(), time.monotonic() + STARTING_SECONDS + seconds + GRACE_SECONDS
            )
            done = True
            return outcomes
        except (EOFError, TimeoutError, BrokenPipeError, ConnectionError):
            raise WorkerError("the worker processes were lost") from None
        finally:
            if not done:  # also when the time limit of the check interrupts us
                self.stop()

    def alive(self) -> bool:
        return self.owner == os.getpid() and self.process.poll() is None and self.socket.fileno() >= 0

    def stop(self) -> None:
        """Hang up: the server kills its workers and ends; kill it if it does not."""
        if self.owner != os.getpid():
            return
        self.socket.close()
        try:
            self.process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


_lock = threading.Lock()
_current: _Server | None = None


def _server() -> _Server:
    global _current
    with _lock:
        if _current is None or not _current.alive():
            _current = _Server()
            atexit.register(_current.stop)
        return _current


def start() -> None:
    """Start the server now, so that a check's time limit does not count it."""
    if hasattr(os, "fork"):
        _server()


# -- without fork --------------------------------------------------------------------------------------


def _fresh_processes(job: bytes, world_size: int, seconds: float) -> list[tuple[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "job").write_bytes(job)
        children = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "groundup.check.processes",
                    folder,
                    str(rank),
                    str(world_size),
                    str(seconds),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for rank in range(world_size)
        ]
        deadline = time.monotonic() + seconds + STARTING_SECONDS
        try:
            return [
                _await(child, Path(folder) / f"result{rank}", deadline) for rank, child in enumerate(children)
            ]
        finally:
            for child in children:
                child.kill()
                child.wait()


def _await(child: subprocess.Popen, result: Path, deadline: float) -> tuple[str, Any]:
    try:
        code = child.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return "timeout", None
    return pickle.loads(result.read_bytes()) if result.exists() else ("died", f"exit code {code}")


def _main(folder: str, rank: str, world_size: str, seconds: str) -> None:
    job = (Path(folder) / "job").read_bytes()
    try:
        outcome = _work(
            job, int(rank), int(world_size), str(Path(folder) / "meeting"), float(seconds), lambda: None
        )
    except BaseException:
        outcome = ("raised", traceback.format_exc(limit=1))
    (Path(folder) / f"result{rank}").write_bytes(pickle.dumps(outcome))


if __name__ == "__main__":
    _main(*sys.argv[1:])
