"""What an exception says to a learner: its type, its message and the learner's own lines."""

from __future__ import annotations

import linecache
import os
import sysconfig
from pathlib import Path
from types import CodeType, TracebackType
from typing import Any

_PACKAGE = str(Path(__file__).resolve().parent.parent) + os.sep
_PATHS = sysconfig.get_paths()
_LIBRARY = tuple(
    {str(Path(_PATHS[key])) + os.sep for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    | {str(Path(_PATHS[key]).resolve()) + os.sep for key in ("stdlib", "platstdlib", "purelib", "platlib")}
)

# Wherever else packages lie: the user's own (pip install --user), a system's under an environment, a --target.
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


# Code of observe, oracle and property functions: not the learner's, wherever it stands.
DECLARED: set[CodeType] = set()


class NotWritten(NotImplementedError):
    """A worker process raised NotImplementedError: the exercise is still to do."""


def is_learners(code: CodeType) -> bool:
    """True for code that is neither this package's nor a library's."""
    name = code.co_filename
    if code in DECLARED:
        return False
    if name.startswith(("<frozen", "<__array_function__", "<@beartype", "<string>", "<attrs", "<decorator")):
        return False
    if "ipykernel_" in name or name.startswith("<"):
        return True
    path = os.path.abspath(name)
    return not path.startswith((_PACKAGE, *_LIBRARY)) and not any(folder in path for folder in _INSTALLED)


def chain(error: BaseException) -> list[BaseException]:
    """The exception and what it was raised from, outermost first."""
    found = []
    while error is not None and error not in found and len(found) < 10:
        found.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return found


def innermost(trace: TracebackType | None) -> CodeType | None:
    """The code that raised."""
    code = None
    while trace is not None:
        code = trace.tb_frame.f_code
        trace = trace.tb_next
    return code


def not_written(error: BaseException) -> str | None:
    """The message of a `NotImplementedError` that the learner's own code raised, else None.

    Triton's interpreter and JAX wrap it: it may be the cause of the exception.
    """
    for link in chain(error):
        if type(link) is NotWritten:
            return str(link)
        if type(link) is NotImplementedError:
            code = innermost(link.__traceback__)
            if code is not None and is_learners(code):
                return str(link)
    return None


def learners_frames(error: BaseException) -> list[str]:
    """`line 3, in softmax: return x / 0`, the learner's last three frames, innermost last."""
    frames = []
    for link in reversed(chain(error)):
        trace = link.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            if is_learners(code):
                line = linecache.getline(code.co_filename, trace.tb_lineno).strip()
                said = f"line {trace.tb_lineno}, in {code.co_name}" + (f": {line[:100]}" if line else "")
                if said not in frames:
                    frames.append(said)
            trace = trace.tb_next
    return frames[-3:]


def _message(error: BaseException) -> str:
    """One or two lines of the exception's own message."""
    text = str(error)
    name = type(error).__name__
    if (
        name == "TypeCheckError"
    ):  # jaxtyping: the first paragraph names the argument, the others repeat the whole call
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        kept = [
            line
            for line in lines
            if not line.startswith(
                (
                    "----",
                    "Called with",
                    "Parameter annotations",
                    "Return annotation",
                    "Parameters:",
                    "The current values",
                )
            )
        ]
        text = " ".join(kept[:4])
    elif name.startswith("Beartype"):
        text = text.split(", as ")[0] if len(text) > 300 else text
    else:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        lines = [line for line in lines if not line.startswith("----")]
        text = " ".join(lines[:3]).split(" The error occurred while tracing")[0]  # JAX goes on for ten lines
    return text if len(text) <= 300 else text[:299] + "…"


def said(error: BaseException, name: str) -> str:
    """A few lines about the exception, for the learner."""
    root = chain(error)[0]
    for link in chain(error):  # Triton's InterpreterError says nothing itself
        if type(link).__name__ != "InterpreterError":
            root = link
            break
    kind = type(root).__name__
    if isinstance(root, SystemExit):
        text = f"{name} called sys.exit(); a function should return or raise an exception instead."
    elif isinstance(root, RecursionError):
        text = (
            f"{name} makes too many calls inside one another (RecursionError): "
            "either it calls itself without end, or the chain is longer than Python allows."
        )
    elif isinstance(root, KeyboardInterrupt):
        text = f"{name} raised KeyboardInterrupt, which is the user's to raise."
    elif isinstance(root, MemoryError):
        text = f"{name} asks for more memory than there is (MemoryError)."
    elif kind in ("Refused", "HungWorkers", "WorkerError"):  # the engine's own words
        text = f"{name}: {root}."
    else:
        message = _message(root)
        text = f"{name} raised {kind}" + (f": {message}" if message else ".")
    frames = learners_frames(error)
    if not frames and isinstance(root, (TypeError, AttributeError)) and "NoneType" in str(root):
        text += f"\n  Perhaps {name} returned None: is a return missing?"
    return text + "".join(f"\n  {frame}" for frame in frames)


def short_type(error: Any) -> str:
    """The exception's type, with its article."""
    kind = type(error).__name__
    return f"an {kind}" if kind[:1] in "AEIOU" else f"a {kind}"
