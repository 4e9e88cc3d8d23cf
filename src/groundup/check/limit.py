"""Running a submission: under a time limit, with its printing kept, unable to end or signal the process.

The time limit is SIGALRM on the main thread. Its handler raises only while the submission's frame is on the
stack, and again at shrinking intervals, so that `except BaseException` around a loop does not help. A single
C call that never returns cannot be stopped from inside Python: a thread then says so.

What counts is the shorter of the time on the clock and the processor time of this process. On a machine that is busy
with other things a right answer gets little of the processor, and is not late for that, up to `PATIENCE` times the limit
on the clock. An answer that gets none, because it sleeps or waits for what never comes, is stopped by the clock alone.
"""

from __future__ import annotations

import _signal as _c_signal
import io
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

try:
    import resource
except ImportError:  # Windows
    resource = None

KEPT_CHARACTERS = 2_000
MEMORY = 6 * 2**30
PATIENCE = 3


class TimeLimit(BaseException):
    """Raised inside a submission whose time is over."""


class Refused(RuntimeError):
    """Raised when a submission calls something that would end or signal the whole notebook."""


def can_limit() -> bool:
    """True where a time limit works: on the main thread of a system with SIGALRM."""
    return hasattr(signal, "SIGALRM") and threading.current_thread() is threading.main_thread()


class Kept(io.TextIOBase):
    """A stream that keeps the first characters written to it and counts the rest; it cannot be closed."""

    def __init__(self) -> None:
        self.text = ""
        self.dropped = 0

    def write(self, text: str) -> int:
        room = KEPT_CHARACTERS - len(self.text)
        if room > 0:
            self.text += str(text)[:room]
        self.dropped += max(0, len(text) - room)
        return len(text)

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    @property
    def encoding(self) -> str:
        return "utf-8"

    def fileno(self) -> int:
        raise OSError("output is captured during a check")

    def close(self) -> None:
        """Stays open: a submission that closes sys.stdout must not silence the notebook."""


def _enter(function: Callable[[], Any]) -> Any:
    """The frame by which the alarm recognises that the submission is running."""
    return function()


class _WhenCaught:
    """Hangs on a `TimeLimit`. When a submission has caught that and goes on, this dies with it, and strikes again."""

    def __init__(self, watch: Stopwatch):
        self.watch = watch

    def __del__(self) -> None:
        self.watch.raise_on_next_line()


class Stopwatch:
    """One time budget, spent by several `run`s."""

    def __init__(self, seconds: float):
        self.left = seconds
        self.left_on_the_clock = PATIENCE * seconds
        self._started = (0.0, 0.0)
        self.expired = False
        self.interrupted = False
        self._armed = False
        self._alarms = 0

    def run(self, function: Callable[[], Any]) -> Any:
        """Call `function` within what is left of the budget.

        Raises:
            TimeLimit: the budget was spent, even if the submission swallowed the exception.
            KeyboardInterrupt: the user pressed interrupt (`interrupted` is then True), or the submission raised one.
        """
        if min(self.left, self.left_on_the_clock) <= 0:
            self.expired = True
            raise TimeLimit
        self._started = _clock(), _processor()
        if not can_limit():
            try:
                return _enter(function)
            finally:
                self._spend()
        old_alarm = _signal(signal.SIGALRM, self._alarm)
        old_interrupt = _signal(signal.SIGINT, self._interrupt)
        old_timer = _setitimer(signal.ITIMER_REAL, 0)
        old_hooks, old_recursion = (sys.gettrace(), sys.getprofile()), sys.getrecursionlimit()
        try:
            self._armed = True
            _setitimer(signal.ITIMER_REAL, max(self._remaining(), 1e-3), 0.05)
            result = _enter(function)
        except BaseException:
            if self.interrupted:
                raise KeyboardInterrupt from None
            raise
        finally:
            self._armed = False
            _setitimer(signal.ITIMER_REAL, 0)
            if self._alarms:
                sys.settrace(old_hooks[0])
                sys.setprofile(old_hooks[1])
                _setrecursionlimit(old_recursion)
            _signal(signal.SIGALRM, old_alarm)
            _signal(signal.SIGINT, old_interrupt)
            spent = self._spend()
            if old_timer[0]:  # somebody else's alarm, such as a test runner's
                _setitimer(signal.ITIMER_REAL, max(old_timer[0] - spent, 1e-3), old_timer[1])
        if self.interrupted:
            raise KeyboardInterrupt
        if self.expired:
            raise TimeLimit
        return result

    def _alarm(self, signum: int, frame: Any) -> None:
        if not self._armed:
            return
        if frame is not None and frame.f_code.co_filename == __file__ and frame.f_code is not _enter.__code__:
            _setitimer(signal.ITIMER_REAL, 1e-3, 0.05)  # in the middle of this very work
            return
        if (
            not self.expired
            and not self.interrupted
            and self._computes()
            and (more := self._remaining()) > 1e-3
        ):
            _setitimer(signal.ITIMER_REAL, more, 0.05)  # the machine was busy with something else
            return
        # A submission at the end of its recursion must leave room for what follows.
        _setrecursionlimit(min(sys.getrecursionlimit() + 50, 30_000))
        self.expired = not self.interrupted
        self._alarms += 1
        inside = _is_inside(frame)
        if inside and self._alarms > 5:
            self.raise_on_next_line()
        if inside:
            raise self._blow()
        _setitimer(signal.ITIMER_REAL, 1e-3, 0.05)

    def _passed(self) -> tuple[float, float]:
        """Seconds of this `run` so far: those that count, and those on the clock."""
        clock, processor = _clock() - self._started[0], _processor() - self._started[1]
        return min(clock, processor), clock

    def _remaining(self) -> float:
        """The seconds after which, at the earliest, the time can be over."""
        counted, clock = self._passed()
        return min(self.left - counted, self.left_on_the_clock - clock)

    def _computes(self) -> bool:
        """Whether it gets any of the processor, as it does on the busiest machine; who only waits gets next to nothing."""
        counted, clock = self._passed()
        return counted > 0.03 * clock

    def _spend(self) -> float:
        """Take what this `run` took from the budget; returns its seconds on the clock."""
        counted, clock = self._passed()
        self.left -= counted
        self.left_on_the_clock -= clock
        return clock

    def _blow(self) -> TimeLimit:
        """The exception to raise. A submission that keeps catching it meets the next one on its next line."""
        blow = TimeLimit()
        if self._alarms > 5:
            blow.next = _WhenCaught(self)
        _setitimer(signal.ITIMER_REAL, self._next_alarm(), 0.05)  # and every 50 ms, should this one get lost
        return blow

    def raise_on_next_line(self) -> None:
        """Trace the submission's frames, with a function that raises."""
        frame = sys._getframe()
        if not self._armed or not _is_inside(frame):
            return
        while frame.f_code is not _enter.__code__:
            frame.f_trace = self._trace
            frame = frame.f_back
        sys.settrace(self._trace)
        sys.setprofile(self._profile)

    def _profile(self, frame: Any, event: str, arg: Any) -> None:
        """Python drops a trace function that raises; when the frame it left is done, set it again for the caller."""
        if event == "return":
            self.raise_on_next_line()

    def _trace(self, frame: Any, event: str, arg: Any) -> Any:
        if self._armed and event == "line" and _is_inside(frame) and frame.f_code.co_filename != __file__:
            raise self._blow()
        return self._trace

    def _next_alarm(self) -> float:
        """50, 25, 12 … ms, which leaves ordinary clean-up its time; then a few µs that vary.

        Code that catches every exception and keeps it runs outside its `try` for a microsecond or two after each: an
        alarm that follows so closely lands there sooner or later, and that ends the loop.
        """
        if self._alarms < 10:
            return max(0.05 / 2**self._alarms, 1e-3)
        return (1 + time.perf_counter_ns() % 23) * 1e-6

    def _interrupt(self, signum: int, frame: Any) -> None:
        self.interrupted = True
        if self._armed:
            _setitimer(signal.ITIMER_REAL, 0.05)  # in case the submission swallows it
        if _is_inside(frame):
            raise KeyboardInterrupt


def _is_inside(frame: Any) -> bool:
    while frame is not None:
        if frame.f_code is _enter.__code__:
            return True
        frame = frame.f_back
    return False


# The real functions: `Contained` replaces those in the modules while a submission runs.
_signal = _c_signal.signal
_setrecursionlimit = sys.setrecursionlimit
_clock, _processor = time.perf_counter, time.process_time
_setitimer = getattr(signal, "setitimer", lambda *_: (0.0, 0.0))


_setrlimit = getattr(resource, "setrlimit", None)


def within(seconds: float, function: Callable[[], Any], otherwise: Any) -> Any:
    """`function()`, or `otherwise` if it raises or takes longer."""
    try:
        return Stopwatch(seconds).run(function)
    except (Exception, TimeLimit):
        return otherwise
    except (SystemExit, GeneratorExit, KeyboardInterrupt):
        return otherwise


# -- containing ----------------------------------------------------------------------------------------


def _refuse(what: str, why: str) -> Callable:
    def refused(*args: Any, **kwargs: Any) -> None:
        raise Refused(f"{what} {why}, so it does nothing during a check")

    return refused


def _guarded_kill(name: str, real: Callable) -> Callable:
    def kill(pid: int, sig: int) -> None:
        """Children may be killed; this process, its parent and its group may not."""
        ours = {0, -1, os.getpid(), os.getppid()}
        if hasattr(os, "getpgid"):  # Windows has no process groups
            ours |= {os.getpgid(0), -os.getpgid(0)}
        if pid in ours:
            raise Refused(f"os.{name} would signal the whole notebook, so it does nothing during a check")
        real(pid, sig)

    return kill


def _guarded_signal(real: Callable) -> Callable:
    def guarded(signum: int, handler: Any) -> Any:
        if signum in (signal.SIGINT, getattr(signal, "SIGALRM", None)):
            raise Refused("signal.signal: these handlers belong to the check while it runs")
        return real(signum, handler)

    return guarded


def _guarded_recursion(real: Callable) -> Callable:
    def setrecursionlimit(limit: int) -> None:
        real(min(limit, 20_000))

    return setrecursionlimit


_ENDS = "would end the whole notebook"
_REFUSED = {
    "os": {
        name: _ENDS
        for name in (
            "_exit",
            "abort",
            "execv",
            "execve",
            "execl",
            "execle",
            "execlp",
            "execlpe",
            "execvp",
            "execvpe",
        )
    },
    "posix": {name: _ENDS for name in ("_exit", "abort", "execv", "execve")},
    "signal": {
        name: "would signal the whole notebook"
        for name in ("raise_signal", "pthread_kill", "setitimer", "alarm", "pthread_sigmask")
    },
    "_signal": {
        name: "would signal the whole notebook"
        for name in ("raise_signal", "pthread_kill", "setitimer", "alarm", "pthread_sigmask")
    },
    "builtins": {"input": "would wait for the keyboard", "breakpoint": "would wait for the keyboard"},
    "faulthandler": {
        name: _ENDS
        for name in (
            "_sigsegv",
            "_sigabrt",
            "_sigfpe",
            "_read_null",
            "_stack_overflow",
            "_fatal_error_c_thread",
        )
    },
}


def _replacements() -> list[tuple[Any, str, Any]]:
    found = []
    for module_name, names in _REFUSED.items():
        module = sys.modules.get(module_name)
        for name, why in names.items():
            if hasattr(module, name):
                found.append((module, name, _refuse(f"{module_name.lstrip('_')}.{name}", why)))
    for module_name in ("os", "posix"):
        module = sys.modules.get(module_name)
        for name in ("kill", "killpg"):
            if hasattr(module, name):
                found.append((module, name, _guarded_kill(name, getattr(module, name))))
    for module_name in ("signal", "_signal"):
        found.append((sys.modules[module_name], "signal", _guarded_signal(sys.modules[module_name].signal)))
    found.append((sys, "setrecursionlimit", _guarded_recursion(sys.setrecursionlimit)))
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    # What quit() and exit() call in a notebook: the kernel would stop a tenth of a second later.
    if hasattr(shell, "ask_exit"):
        found.append((shell, "ask_exit", _refuse("quit()", _ENDS)))
    return found


class Contained:
    """While it is open, the submission's printing is kept and nothing it calls ends or signals the process."""

    running = False

    def __init__(self, seconds: float):
        self.printed = Kept()
        self._seconds = seconds

    def __enter__(self) -> Contained:
        Contained.running = True
        self._streams = sys.stdin, sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__
        self._hooks = sys.gettrace(), sys.getprofile(), sys.excepthook, sys.unraisablehook, sys.displayhook
        self._handlers = _handlers()
        self._recursion = sys.getrecursionlimit()
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("default")
        warnings.showwarning = self._show_warning
        self._memory = _limit_memory()
        self._patched = [(m, name, getattr(m, name), new) for m, name, new in _replacements()]
        for module, name, _, new in self._patched:
            setattr(module, name, new)
        sys.unraisablehook = lambda _: None  # the time limit may strike in a destructor
        sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = self.printed
        self._watch = threading.Timer(PATIENCE * self._seconds + 5, self._say_stuck)
        self._watch.daemon = True
        self._watch.start()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._watch.cancel()
        if self._memory is not None:
            _setrlimit(*self._memory)
        for module, name, old, _ in self._patched:
            setattr(module, name, old)
        sys.stdin, sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__ = self._streams
        trace, profile, sys.excepthook, sys.unraisablehook, sys.displayhook = self._hooks
        if sys.gettrace() is not trace:
            sys.settrace(trace)
        if sys.getprofile() is not profile:
            sys.setprofile(profile)
        self._warnings.__exit__(None, None, None)
        sys.setrecursionlimit(self._recursion)
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._handlers.items():
                if handler is not None and _c_signal.getsignal(number) is not handler:
                    _signal(number, handler)
        Contained.running = False

    def _show_warning(self, message: Any, category: Any, *args: Any, **kwargs: Any) -> None:
        self.printed.write(f"{category.__name__}: {message}\n")

    def _say_stuck(self) -> None:
        print(
            f"Your code has been running for more than {PATIENCE * self._seconds + 5:g} s inside a call that Python cannot "
            "interrupt. If nothing happens, restart the kernel (Kernel → Restart).",
            file=self._streams[2] or self._streams[1],
            flush=True,
        )


def _limit_memory() -> tuple[int, tuple[int, int]] | None:
    """Let the process grow by `MEMORY` bytes at most: `[0] * 10**11` then raises instead of ending the kernel.

    Returns what `setrlimit` needs to undo it; None where it cannot be done, or with an NVIDIA driver, which reserves
    far more addresses than memory.
    """
    if _setrlimit is None or not os.path.exists("/proc/self/statm") or os.path.exists("/dev/nvidiactl"):
        return None
    old = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    wanted = size + MEMORY
    if any(limit != resource.RLIM_INFINITY and limit < wanted for limit in old):
        return None
    _setrlimit(resource.RLIMIT_AS, (wanted, old[1]))
    return resource.RLIMIT_AS, old


def _handlers() -> dict[int, Any]:
    names = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGALRM", "SIGINT", "SIGPIPE")
    return {
        int(getattr(signal, n)): _c_signal.getsignal(getattr(signal, n)) for n in names if hasattr(signal, n)
    }
