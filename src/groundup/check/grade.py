"""`grade`: run a submission on an exercise's cases and say what is right or wrong with it."""

from __future__ import annotations

import contextlib
import functools
import secrets
import time
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from . import guard
from .exercise import Case, CheckError, Exercise, Property, changed_since_loaded, load
from .explain import not_written, said
from .limit import Contained, Stopwatch, TimeLimit, can_limit, within
from .processes import HungWorkers, start
from .values import Opaque, clone, describe, is_array, plain, same_bits, short, type_name

MAX_MESSAGE = 1_500


@dataclass(frozen=True)
class Result:
    """The outcome of one check.

    status: passed, failed, todo (not written yet), error (it raised, or broke a rule) or timeout.
    message: at most 1,500 characters of plain text for the learner.
    mistake: name of the recognised mistake; case: label of the case shown; seconds: time taken; seed: of the inputs.
    """

    status: str
    message: str
    mistake: str | None = None
    case: str | None = None
    seconds: float = 0.0
    seed: int | None = None

    @property
    def passed(self) -> bool:
        """True when every case agreed."""
        return self.status == "passed"


@dataclass
class Observation:
    """What one object did on one case."""

    value: Any = None
    error: type | None = None
    story: str = ""
    todo: str | None = None
    changed: tuple[str, ...] = ()
    broken: dict[str, str] = field(default_factory=dict)  # property → what it raised, if it did

    def agrees_with(self, other: Observation, exercise: Exercise) -> bool:
        """True if another object did the same: the same kind of exception, or an equal value and side effects."""
        if self.error is not None or other.error is not None:
            return self.error is other.error
        if self.changed != other.changed or self.broken.keys() != other.broken.keys():
            return False
        return exercise.differs(self.value, other.value) is None


@dataclass
class _Run:
    """The submission's observations, as far as it got."""

    seen: list[Observation] = field(default_factory=list)
    timeout: bool = False
    printed: str = ""
    dropped: int = 0
    replaced: list[str] = field(default_factory=list)


def grade(exercise: str | Exercise, obj: Any, *, seed: int | None = None) -> Result:
    """Check `obj` against an exercise.

    Args:
        exercise: an id such as "autograd.arrays.softmax", or an `Exercise`.
        seed: of the random inputs; a fresh one by default. A failure's message prints it.

    Raises:
        CheckError: the exercise is unknown or its declaration is wrong.
        KeyboardInterrupt: the user interrupted. Nothing that `obj` does raises.
    """
    started = time.perf_counter()
    if not isinstance(exercise, Exercise):
        exercise = load(exercise)
    if seed is None:
        seed = secrets.randbelow(2**31)
    _load_libraries("torch" in getattr(exercise.oracle_function, "__globals__", ()))
    try:
        result = _grade(exercise, obj, int(seed))
    except _BrokenReference as broken:
        result = Result("error", str(broken))
    message = result.message
    if not can_limit() and result.status != "todo":
        message += "\n(No time limit here: checks can be stopped only on the main thread of Linux or macOS.)"
    if len(message) > MAX_MESSAGE:
        message = message[: MAX_MESSAGE - 1] + "…"
    seconds = time.perf_counter() - started
    return Result(result.status, message, result.mistake, result.case, seconds, seed)


@functools.cache
def _load_libraries(torch_in_use: bool) -> None:
    """Import before the clock starts what would otherwise be imported while it runs.

    Torch itself, and, for exercises about torch, `torch._dynamo`: an optimizer's first step imports it, which takes a
    second, and many on a busy machine.
    """
    with contextlib.suppress(ImportError):
        import torch.autograd.functional
        import torch.nn.functional

        if torch_in_use:
            import torch._dynamo  # noqa: F401


def _grade(exercise: Exercise, obj: Any, seed: int) -> Result:
    if Contained.running:
        return Result("error", "A check cannot run inside another check.")
    if replaced := guard.restore():
        return Result("error", _replaced(replaced, before=True))
    guard.take_snapshot()
    if changed_since_loaded(exercise):
        return Result(
            "error", f"The declaration of {exercise.id} was changed after it was loaded; restart the kernel."
        )
    if wrong := _wrong_thing(exercise, obj):
        return Result("failed", wrong)
    with guard.kept_state():
        guard.usual_state(seed)
        cases = exercise.make_cases(seed)
        if exercise.workers:
            start()
        run = _run_submission(exercise, obj, cases, seed)
        return _judge(exercise, cases, run, seed)


def _replaced(names: list[str], before: bool) -> str:
    shown = ", ".join(names[:4]) + (" and others" if len(names) > 4 else "")
    verb = "were" if len(names) > 1 else "was"
    if before:
        return (
            f"{shown} {verb} replaced after the course was loaded, so a check would prove nothing. "
            "The original is back: run the check again."
        )
    return f"Your code replaces {shown} while it runs, so a check would prove nothing. The original is back."


def _wrong_thing(exercise: Exercise, obj: Any) -> str | None:
    """A sentence if `obj` cannot be an answer at all."""
    name = exercise.name
    if obj is None:
        return f"There is None instead of {name}: pass the {exercise.kind} itself."
    is_class = issubclass(type(obj), type)
    if exercise.kind == "class" and not is_class:
        if type(obj) is types.FunctionType:
            return f"{name} should be a class; you passed a function."
        return f"{name} should be a class; you passed {_passed(obj)}. Pass the class itself, without parentheses."
    if exercise.kind == "function":
        if is_class:
            return f"{name} should be a function; you passed a class."
        if not any(
            "__call__" in vars(base) for base in type.__dict__["__mro__"].__get__(type(obj))
        ) and not hasattr(type(obj), "__getitem__"):
            return f"{name} should be a function; you passed {_passed(obj)}. Write check({name}), without calling it."
        if is_array(obj) or type(obj) in (str, list, tuple, dict):
            return f"{name} should be a function; you passed {_passed(obj)}. Write check({name}), without calling it."
    return None


def _passed(obj: Any) -> str:
    value = plain(obj)
    if is_array(value):
        return f"a {describe(value)}"[:120]
    return value.what if type(value) is Opaque else f"the {type_name(obj)} {short(value, 40)}"


# -- running -------------------------------------------------------------------------------------------


def _run_submission(exercise: Exercise, obj: Any, cases: list[Case], seed: int) -> _Run:
    """Observe the submission on all cases, before the oracle has computed anything."""
    run = _Run()
    watch = Stopwatch(exercise.seconds)
    copies = [clone(case.inputs) for case in cases]
    with Contained(exercise.seconds) as contained:
        try:
            for case, inputs in zip(cases, copies, strict=True):
                guard.usual_state(seed)
                try:
                    observation = _observe(exercise, obj, case.inputs, inputs, watch)
                except TimeLimit:
                    run.timeout = True
                    break
                run.seen.append(observation)
                if observation.todo is not None or observation.error is HungWorkers:
                    break  # the next case would wait as long
        finally:
            run.replaced = guard.restore()
    run.printed, run.dropped = contained.printed.text, contained.printed.dropped
    return run


def _observe(exercise: Exercise, obj: Any, inputs: dict, given: dict, watch: Stopwatch) -> Observation:
    """What `obj` does with the inputs `given`, a copy of `inputs`.

    Raises:
        TimeLimit: the time is over.
        KeyboardInterrupt: the user interrupted.
    """
    made = Observation()
    try:
        made.value = watch.run(lambda: plain(exercise.look(obj, given)))
        made.changed = _changed(exercise, inputs, given)
    except TimeLimit:
        raise
    except BaseException as error:
        if watch.interrupted:
            raise KeyboardInterrupt from None
        made.error = type(error)
        made.todo, made.story = _read(exercise, error)
        return made
    for prop in exercise.properties:
        fresh = clone(inputs)
        try:
            if not watch.run(lambda prop=prop, fresh=fresh: bool(prop.function(obj, **fresh))):
                made.broken[prop.name] = ""
        except TimeLimit:
            raise
        except BaseException as error:
            if watch.interrupted:
                raise KeyboardInterrupt from None
            made.todo, made.broken[prop.name] = _read(exercise, error)
    return made


def _read(exercise: Exercise, error: BaseException) -> tuple[str | None, str]:
    """Whether an exception says "not written yet", and its story; its own methods may be hostile."""
    todo = within(0.5, lambda: not_written(error), None)
    fallback = f"{exercise.name} raised {type(error).__name__}, whose message could not be read."
    story = within(0.5, lambda: said(error, exercise.name), fallback)
    within(0.5, lambda: traceback.clear_frames(error.__traceback__), None)
    return todo, story


def _changed(exercise: Exercise, inputs: dict, given: dict) -> tuple[str, ...]:
    if exercise.may_change is True:
        return ()
    return tuple(n for n in inputs if n not in exercise.may_change and not same_bits(inputs[n], given[n]))


def observe_trusted(
    exercise: Exercise, function: Callable[[dict], Any], inputs: dict, seed: int, obj: Any = None
) -> Observation:
    """What the oracle (or, with `obj`, a mistake) does; printing and warnings are dropped."""
    guard.usual_state(seed)
    made = Observation()
    given = clone(inputs)
    try:
        made.value = plain(function(given))
        if obj is not None:
            made.changed = _changed(exercise, inputs, given)
            made.broken = {p.name: "" for p in exercise.properties if not _holds(p, obj, clone(inputs))}
    except CheckError:
        raise
    except Exception as error:
        if obj is None and _is_slip(error):
            # Else a submission that meets the same fault, of a broken installation say, would agree with the oracle.
            raise _BrokenReference(
                f"The reference of {exercise.id} cannot be computed here ({type(error).__name__}: {error}); "
                "restart the kernel, and run `groundup doctor` if this stays"
            ) from None
        made.error = type(error)
    return made


class _BrokenReference(CheckError):
    """The oracle cannot answer, through no fault of the submission."""


def _is_slip(error: Exception) -> bool:
    """Whether an exception tells of code that is broken, not of inputs that are refused."""
    if isinstance(error, AttributeError):
        return error.name is not None  # Python's own, not one raised with a message
    return isinstance(error, ImportError | NameError | SyntaxError)


def _holds(prop: Property, obj: Any, inputs: dict) -> bool:
    """Whether a mistake has the property; one that raises has not."""
    try:
        return bool(prop.function(obj, **inputs))
    except Exception:
        return False


# -- judging -------------------------------------------------------------------------------------------


def _judge(exercise: Exercise, cases: list[Case], run: _Run, seed: int) -> Result:
    if run.replaced:
        return Result("error", _replaced(run.replaced, before=False))
    for number, (case, seen) in enumerate(zip(cases, run.seen, strict=False)):
        if seen.todo is not None:
            what = (
                seen.todo if seen.todo and seen.todo != f"write {exercise.name}" else f"write {exercise.name}"
            )
            return Result("todo", f"Not written yet: {what}.", case=case.label)
        wrong = _wrong(exercise, case, seen, seed)
        if wrong is None:
            continue
        mistake = None if run.timeout else _recognise(exercise, cases, run, seed, number)
        status = "failed" if seen.error is None else "timeout" if seen.error is HungWorkers else "error"
        return Result(
            status, _tell(exercise, case, wrong, mistake, run, seed), mistake and mistake.name, case.label
        )
    if run.timeout:
        case = cases[len(run.seen)]
        why = exercise.slow if run.seen and exercise.slow else "Is there a loop that never ends?"
        text = f"{exercise.name} did not finish within {exercise.seconds:g} s. {why}"
        return Result("timeout", _tell(exercise, case, text, None, run, seed), None, case.label)
    number = f"all {len(cases)} cases" if len(cases) > 1 else "the case"
    return Result("passed", f"{exercise.name} agrees with the reference on {number}.")


def _wrong(exercise: Exercise, case: Case, seen: Observation, seed: int) -> str | None:
    """What is wrong with the submission's observation, or None."""
    expected = observe_trusted(exercise, exercise.expected, case.inputs, seed)
    if expected.error is not None:
        kind = expected.error.__name__
        if seen.error is None:
            return f"{exercise.name} should raise {kind} here; it returned {describe(seen.value)}."
        if issubclass(seen.error, expected.error):
            return None
        return f"{exercise.name} should raise {kind} here.\n{seen.story}"
    if seen.error is not None:
        return seen.story
    if difference := exercise.differs(seen.value, expected.value):
        return _nothing_returned(exercise, seen, expected) or _sentence(difference)
    if seen.changed:
        names = " and ".join(seen.changed)
        return (
            f"{exercise.name} changes its input {names}: work on a copy, the caller still needs the original."
        )
    for prop in exercise.properties:
        if prop.name in seen.broken:
            return "\n".join(filter(None, [prop.sentence, seen.broken[prop.name]]))
    return None


def _nothing_returned(exercise: Exercise, seen: Observation, expected: Observation) -> str | None:
    if seen.value is None and expected.value is not None and exercise.observe_function is None:
        return f"{exercise.name} returned None. Is a return missing?"
    return None


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _recognise(exercise: Exercise, cases: list[Case], run: _Run, seed: int, first: int) -> Any:
    """The mistake that does the same as the submission on every case, if there is one."""
    # A case whose processes hung takes its whole time again: last.
    order = sorted(range(len(run.seen)), key=lambda n: (run.seen[n].error is HungWorkers, n != first))
    for mistake in exercise.mistakes:
        watch = Stopwatch(exercise.seconds)
        with Contained(exercise.seconds):
            same = all(_same(exercise, mistake, cases[n], run.seen[n], seed, watch) for n in order)
        if same:
            return mistake
    return None


def _same(
    exercise: Exercise, mistake: Any, case: Case, seen: Observation, seed: int, watch: Stopwatch
) -> bool:
    try:
        made = watch.run(
            lambda: observe_trusted(
                exercise, lambda given: exercise.look(mistake.obj, given), case.inputs, seed, mistake.obj
            )
        )
    except TimeLimit:
        return False
    return made.agrees_with(seen, exercise)


# -- telling -------------------------------------------------------------------------------------------


def _tell(exercise: Exercise, case: Case, wrong: str, mistake: Any, run: _Run, seed: int) -> str:
    parts = [mistake.sentence] if mistake and mistake.sentence else []
    parts.append(f"Case “{case.label}”: {wrong}" if "\n" not in wrong else f"Case “{case.label}”:\n{wrong}")
    parts += [f"  {name}: {_line(describe(value))}" for name, value in list(case.inputs.items())[:8]]
    if run.printed.strip():
        lines = [line[:100] for line in run.printed.strip().splitlines()]
        more = " …" if len(lines) > 3 or run.dropped else ""
        parts.append("It printed: " + " ⏎ ".join(lines[:3]) + more)
    again = f"(seed {seed}: check({exercise.name}, seed={seed}) repeats these inputs)"
    room = MAX_MESSAGE - len(again) - 120
    text = "\n".join(parts)
    return (text if len(text) <= room else text[: room - 1] + "…") + f"\n{again}"


def _line(text: str) -> str:
    return text if len(text) <= 200 else text[:199] + "…"


def engine_is_loaded() -> None:
    """Remember the engine as it is; called once, at the end of the import."""
    guard.take_snapshot()
    guard.snapshot_engine()
