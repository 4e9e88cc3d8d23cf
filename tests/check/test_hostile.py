"""Whatever a learner hands in: no crash, no hang, no wrong pass, no long trace, and nothing left behind."""

import builtins
import contextlib
import functools
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings

import kinds
import numpy as np
import pytest
import torch
from kinds import right_softmax

import groundup.check
from groundup.check import Case, Exercise, grade, limit
from groundup.check.limit import Refused

REAL_KILL = signal.pthread_kill  # a check replaces the one in the module while it runs

quick = Exercise("hostile.cases.softmax", seconds=0.4)
quick.cases(kinds.softmax.case_makers[0])
quick.oracle(kinds.softmax.oracle_function)
for wrong in kinds.softmax.mistakes:
    quick.mistake(wrong.obj, shape=wrong.shape)

number = Exercise("hostile.cases.double", seconds=0.4)


@number.cases
def _(rng):
    yield Case("a number", x=float(rng.uniform(1, 2)))


@number.oracle
def _(x):
    return 2 * x


def fails(answer, *words, exercise=quick, status=None):
    started = time.perf_counter()
    result = grade(exercise, answer)
    assert time.perf_counter() - started < 15
    assert result.status != "passed", result
    assert 0 < len(result.message) <= 1500 and result.message.count("\n") < 20
    assert "Traceback" not in result.message and "groundup/check" not in result.message
    for word in words:
        assert word in result.message, result.message
    if status is not None:
        assert result.status == status, result
    return result


# -- the wrong thing -----------------------------------------------------------------------------------


class AClass:
    def __call__(self, x):
        return right_softmax(x)


@pytest.mark.parametrize(
    "thing",
    [None, 3, "softmax", [], {}, np.ones(3), torch.ones(2), AClass, Ellipsis, object()],
    ids=lambda t: type(t).__name__,
)
def test_things_that_are_no_function(thing):
    fails(thing, "softmax", status="failed")


def test_a_function_is_no_class():
    result = grade(kinds.Mean, lambda: None)
    assert result.status == "failed" and "class" in result.message
    result = grade(kinds.Mean, kinds.RightMean())
    assert result.status == "failed" and "without parentheses" in result.message


def test_callables_of_other_kinds_may_pass():
    for answer in (
        lambda x: right_softmax(x),
        functools.partial(right_softmax),
        AClass(),
        functools.lru_cache(right_softmax).__wrapped__,
    ):
        assert grade(quick, answer).status == "passed"


def test_wrong_signatures():
    fails(lambda: 1, "TypeError", status="error")
    fails(lambda x, y: 1, "TypeError", status="error")


# -- what it returns -----------------------------------------------------------------------------------


class EqualsAll:
    """Says yes to every comparison and looks like an array."""

    def __init__(self, x=None):
        self.x = x

    def __eq__(self, other):
        return True

    def __ne__(self, other):
        return False

    __hash__ = None
    __lt__ = __gt__ = __le__ = __ge__ = lambda self, other: True
    __sub__ = __rsub__ = __abs__ = lambda self, *other: 0
    __array_priority__ = 1e9
    shape = property(lambda self: self.x.shape)
    dtype = property(lambda self: self.x.dtype)
    __class__ = np.ndarray

    def __array__(self, *args, **kwargs):
        return right_softmax(self.x)

    def __float__(self):
        return 0.0


class AlwaysNear(np.ndarray):
    def __sub__(self, other):
        return np.zeros(self.shape)

    def __eq__(self, other):
        return np.ones(self.shape, bool)


class AlwaysNearTensor(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return True


class AnyFloat(float):
    def __eq__(self, other):
        return True

    def __sub__(self, other):
        return 0.0

    __rsub__ = __sub__
    __hash__ = float.__hash__


class Forever:
    """Every way of looking at it runs for ever."""

    def _loop(self, *args, **kwargs):
        while True:
            try:
                while True:
                    pass
            except BaseException:
                pass

    __repr__ = __str__ = __eq__ = __iter__ = __array__ = __len__ = __float__ = __getattr__ = __bool__ = (
        __index__
    ) = __reduce__ = _loop
    __hash__ = None


class Meta(type):
    def __getattribute__(cls, name):
        while True:
            pass


def forever_class():
    """Not made at module level: pytest looks at every class it finds there."""
    return Meta("ForeverClass", (), {})


def nested():
    found = []
    found.append(found)
    return found


@pytest.mark.parametrize(
    "returned",
    [
        lambda x: None,
        lambda x: "text",
        lambda x: x,
        lambda x: np.nan * x,
        lambda x: np.full_like(x, np.inf),
        lambda x: np.zeros_like(x),
        lambda x: right_softmax(x).tolist(),
        lambda x: torch.tensor(right_softmax(x)),
        lambda x: right_softmax(x)[..., None],
        lambda x: right_softmax(x).astype(np.float16),
        lambda x: right_softmax(x).astype(complex),
        lambda x: right_softmax(x).astype(object),
        lambda x: right_softmax(x) * 1.01,
        lambda x: right_softmax(x).T.copy().T[::-1],
        lambda x: EqualsAll(x),
        lambda x: [EqualsAll(x)],
        lambda x: right_softmax(x).view(AlwaysNear),
        lambda x: np.zeros_like(x).view(AlwaysNear),
        lambda x: torch.zeros(x.shape, dtype=torch.float64).as_subclass(AlwaysNearTensor),
        lambda x: np.ma.masked_array(np.zeros_like(x), mask=True),
        lambda x: Forever(),
        lambda x: [Forever(), {"a": Forever()}],
        lambda x: forever_class(),
        lambda x: nested(),
        lambda x: (value for value in right_softmax(x)),
        lambda x: right_softmax,
        lambda x: np.broadcast_to(0.0, (10**6, 10**6)),
        lambda x: range(10**12),
        lambda x: [0] * 10**6,
        lambda x: np.random,
        lambda x: x.dtype,
        lambda x: np.empty(x.shape, dtype=[("a", "O")]),
    ],
)
def test_wrong_results(returned):
    fails(returned, status="failed")


@pytest.mark.parametrize(
    "returned",  # each made in the test: pytest itself would compare the objects
    [
        lambda: AnyFloat(0),
        lambda: EqualsAll(np.float64(0)),
        Forever,
        lambda: None,
        lambda: "2",
        lambda: float("nan"),
        lambda: 1 + 0j,
        lambda: True,
        lambda: 10**400,
        lambda: np.array([2.0]),
        lambda: torch.tensor(2.0),
    ],
)
def test_wrong_numbers(returned):
    fails(lambda x: returned(), exercise=number, status="failed")


@pytest.mark.parametrize("convert", [float, np.float64, np.array, np.float32], ids=lambda c: c.__name__)
def test_numbers_of_several_types_are_right(convert):
    result = grade(number, lambda x: convert(2 * x))
    assert (result.status == "passed") == (convert is not np.float32) or result.status == "passed"


def test_an_endless_generator_is_stopped():
    exercise = Exercise("hostile.cases.stream", seconds=0.4)
    exercise.cases(number.case_makers[0])
    exercise.oracle(lambda x: [x])
    exercise.observe(lambda obj, x: list(obj(x)))

    def stream(x):
        while True:
            with contextlib.suppress(BaseException):
                yield x

    fails(stream, exercise=exercise, status="timeout")


# -- never ending --------------------------------------------------------------------------------------


def loop(x):
    while True:
        pass


def loop_that_catches(x):
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass


def loop_that_catches_twice(x):
    while True:
        try:
            while True:
                try:
                    time.sleep(10)
                except BaseException:
                    continue
        except BaseException:
            pass


def loop_that_keeps_what_it_catches(x):
    kept = []
    while True:
        try:
            while True:
                pass
        except BaseException as error:
            kept.append(error)


def recursion_that_catches(x):
    try:
        return recursion_that_catches(x)
    except BaseException:
        return recursion_that_catches(x)


def sleeps(x):
    time.sleep(1000)


def waits_for_a_lock(x):
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def catches_and_answers(x):
    try:
        while True:
            pass
    except BaseException:
        return right_softmax(x)


def loops_in_finally(x):
    try:
        while True:
            pass
    finally:
        while True:
            pass


def loops_in_del(x):
    class Last:
        def __del__(self):
            while True:
                pass

    last = Last()
    del last
    return right_softmax(x)


def waits_for_a_thread(x):
    thread = threading.Thread(target=time.sleep, args=(1.5,), daemon=True)
    thread.start()
    thread.join()


def changes_the_alarm(x):
    with pytest.raises(Refused):
        signal.setitimer(signal.ITIMER_REAL, 0)
    with pytest.raises(Refused):
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
    while True:
        pass


@pytest.mark.parametrize(
    "answer",
    [
        loop,
        loop_that_catches,
        loop_that_catches_twice,
        loop_that_keeps_what_it_catches,
        recursion_that_catches,
        sleeps,
        waits_for_a_lock,
        catches_and_answers,
        loops_in_finally,
        waits_for_a_thread,
        changes_the_alarm,
    ],
    ids=lambda a: a.__name__,
)
def test_endless_answers_time_out(answer):
    fails(answer, "did not finish within 0.4 s", status="timeout")


def test_a_slow_answer_is_told_why_and_an_endless_one_is_not():
    slow = Exercise("hostile.cases.total", seconds=0.4, slow="Add each number once.")
    slow.cases(lambda rng: (Case(label, n=n) for label, n in (("small", 3), ("large", 10_000_000))))
    slow.oracle(lambda n: n)
    fails(
        lambda n: sum(sum(1 for _ in range(k + 1)) - k for k in range(n)),
        "0.4 s. Add each number once.",
        exercise=slow,
    )
    fails(loop, "0.4 s. Is there a loop that never ends?", exercise=slow)


@pytest.mark.parametrize(("busy", "status"), [(0.1, "passed"), (0.8, "passed"), (2.0, "timeout")])
def test_a_busy_machine_makes_no_answer_late_unless_it_is_very_late(monkeypatch, busy, status):
    """As if this process got a quarter of the processor; 0.4 s of that are allowed, and 1.2 s on the clock."""
    monkeypatch.setattr(limit, "_processor", lambda: time.perf_counter() / 4)

    def double(x):
        end = time.perf_counter() + busy
        while time.perf_counter() < end:
            pass
        return 2 * x

    assert grade(number, double).status == status


def test_an_endless_destructor_times_out(recwarn):
    fails(loops_in_del)


def test_an_outer_alarm_survives():
    """A test runner's own alarm goes on counting."""
    rung = []
    old = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    old_timer = signal.setitimer(signal.ITIMER_REAL, 0.6)
    try:
        grade(quick, loop)
        time.sleep(0.4)
        assert rung == [1]
    finally:
        signal.signal(signal.SIGALRM, old)
        signal.setitimer(signal.ITIMER_REAL, *old_timer)


def test_off_the_main_thread_it_says_that_there_is_no_limit():
    results = []
    thread = threading.Thread(
        target=lambda: results.extend([grade(quick, right_softmax), grade(quick, lambda x: x)])
    )
    thread.start()
    thread.join()
    assert results[0].status == "passed" and "No time limit" in results[0].message
    assert results[1].status == "failed" and "No time limit" in results[1].message


# -- ending the process --------------------------------------------------------------------------------


def own_interrupt(x):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (lambda x: sys.exit(), "sys.exit"),
        (lambda x: sys.exit(0), "sys.exit"),
        (lambda x: exec("raise SystemExit(3)"), "sys.exit"),
        (lambda x: os._exit(0), "os._exit"),
        (lambda x: os.abort(), "os.abort"),
        (lambda x: os.kill(os.getpid(), signal.SIGKILL), "os.kill"),
        (lambda x: os.kill(os.getpid(), signal.SIGINT), "os.kill"),
        (lambda x: os.killpg(0, signal.SIGTERM), "os.killpg"),
        (lambda x: signal.raise_signal(signal.SIGINT), "raise_signal"),
        (lambda x: os.execv("/bin/true", ["true"]), "os.execv"),
        (lambda x: input("?"), "input"),
        (own_interrupt, "KeyboardInterrupt"),
        (lambda x: (_ for _ in ()).throw(GeneratorExit), "GeneratorExit"),
        (lambda x: (_ for _ in ()).throw(BaseExceptionGroup("several", [KeyboardInterrupt()])), "Group"),
    ],
)
def test_nothing_ends_the_process(answer, word):
    fails(answer, word, status="error")


def test_recursion():
    def deeper(x):
        return deeper(x)

    def deepest(x):
        sys.setrecursionlimit(10**8)
        return deeper(x)

    before = sys.getrecursionlimit()
    fails(deeper, "calls itself without end", status="error")
    fails(deepest, status="error")
    assert sys.getrecursionlimit() == before


@pytest.mark.skipif(
    not os.path.exists("/proc/self/statm") or os.path.exists("/dev/nvidiactl"), reason="no limit"
)
def test_too_much_memory():
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    fails(lambda x: [0] * 10**11, "MemoryError", status="error")
    fails(lambda x: np.ones(10**11), "memory", status="error")
    fails(lambda x: torch.ones(10**11), "memory", status="error")
    fails(lambda x: "a" * 10**12, "MemoryError", status="error")
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_a_real_interrupt_interrupts():
    """Ctrl-C reaches the user, also when the answer swallows it."""
    for answer in (loop, loop_that_catches):
        exercise = Exercise("hostile.cases.slow", seconds=5)
        exercise.cases(number.case_makers[0])
        exercise.oracle(number.oracle_function)
        alarm = threading.Timer(0.3, lambda: REAL_KILL(threading.main_thread().ident, signal.SIGINT))
        alarm.start()
        with pytest.raises(KeyboardInterrupt):
            grade(exercise, answer)
        alarm.join()
    assert grade(quick, right_softmax).status == "passed"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# -- exceptions ----------------------------------------------------------------------------------------


def helper_that_fails(x):
    return x["key"]


def calls_a_helper(x):
    return helper_that_fails({"other": 1})


def test_only_the_learners_lines_are_shown():
    result = fails(
        calls_a_helper,
        "KeyError: 'key'",
        "in calls_a_helper: return helper_that_fails",
        'in helper_that_fails: return x["key"]',
        status="error",
    )
    assert "grade.py" not in result.message and "observe" not in result.message


def test_lines_of_an_executed_cell_are_shown():
    import linecache

    source = "def softmax(x):\n    y = x + 1\n    return y / undefined_name\n"
    linecache.cache["<cell 7>"] = (len(source), None, source.splitlines(keepends=True), "<cell 7>")
    namespace = {}
    exec(compile(source, "<cell 7>", "exec"), namespace)
    fails(namespace["softmax"], "line 3, in softmax: return y / undefined_name", "NameError")


def test_hostile_exceptions():
    class Silent(Exception):
        def __str__(self):
            while True:
                pass

    class Broken(Exception):
        def __str__(self):
            raise ValueError

    class Long(Exception):
        def __str__(self):
            return "a line\n" * 10**5

    def throw(kind):
        def softmax(x):
            raise kind

        return softmax

    fails(throw(Silent), "Silent", status="error")
    fails(throw(Broken), "Broken", status="error")
    fails(throw(Long), "Long", status="error")

    def cycle(x):
        error = ValueError("a")
        error.__cause__ = other = KeyError("b")
        other.__cause__ = error
        raise error

    fails(cycle, "ValueError", status="error")


def test_signature_checks_are_told_in_short():
    from beartype import beartype
    from jaxtyping import Float, jaxtyped

    @jaxtyped(typechecker=beartype)
    def softmax(x: Float[np.ndarray, "n 5"]) -> Float[np.ndarray, "n 5"]:
        return right_softmax(x)

    result = fails(softmax, "x", status="error")
    assert len(result.message) < 900

    @beartype
    def softmax(x: list) -> list:
        return x

    result = fails(softmax, "violates type hint", status="error")
    assert len(result.message) < 900


def test_a_librarys_not_implemented_is_an_error_not_to_do():
    def softmax(x):
        return torch.nn.Module()(torch.tensor(x))

    fails(softmax, "NotImplementedError", status="error")


# -- side effects --------------------------------------------------------------------------------------


def test_changed_inputs_are_noticed():
    def softmax(x):
        y = right_softmax(x)
        x[..., 0] = 0
        return y

    result = fails(softmax, "changes its input x", status="failed")
    assert result.mistake == "in_place"  # it does the same: right values, and the input is changed

    def copies(x):
        x = x.copy()
        x[..., 0] -= 1
        return right_softmax(x)

    assert fails(copies).mistake is None
    assert grade(quick, kinds.in_place).mistake == "in_place"


def test_a_property_that_raises_is_told_after_the_value():
    fails(
        lambda x: [1, 2],
        "ou returned a list of 2, expected a NumPy array",
        exercise=kinds.softmax,
        status="failed",
    )

    class Moody:
        calls = 0

        def __call__(self, x):
            Moody.calls += 1
            if Moody.calls % 2 == 0:
                raise ValueError("only once")
            return right_softmax(x)

    fails(Moody(), "adds up to 1", "only once", exercise=kinds.softmax, status="failed")


def test_inputs_meant_to_change_may():
    exercise = Exercise("hostile.cases.fill", may_change=("out",))

    @exercise.cases
    def _(rng):
        yield Case("a buffer", out=np.zeros(3), value=rng.normal(size=1))

    @exercise.observe
    def _(obj, out, value):
        obj(out, value)
        return out

    @exercise.oracle
    def _(out, value):
        return np.repeat(value, 3)

    def fill(out, value):
        out[:] = value

    def fill_wrongly(out, value):
        out[:] = value
        value[:] = 0

    assert grade(exercise, fill).status == "passed"
    assert "changes its input value" in grade(exercise, fill_wrongly).message


def _state():
    return (
        random.getstate(),
        np.random.get_state()[1].tolist(),
        torch.get_rng_state().tolist(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch._tensor_str.PRINT_OPTS.precision,
        np.get_printoptions(),
        np.geterr(),
        os.getcwd(),
        dict(os.environ),
        sys.getrecursionlimit(),
        signal.getsignal(signal.SIGINT),
        signal.getsignal(signal.SIGALRM),
        signal.getsignal(signal.SIGTERM),
        sys.stdout,
        sys.stderr,
        len(warnings.filters),
        sys.gettrace(),
        os._exit,
        os.kill,
        signal.signal,
        builtins.input,
        torch.get_num_threads(),
    )


def test_global_state_is_as_before():
    def messy(x):
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.set_printoptions(precision=1)
        torch.set_num_threads(torch.get_num_threads() + 1)
        np.set_printoptions(precision=1)
        np.seterr(all="raise")
        os.chdir("/")
        os.environ["HOSTILE"] = "1"
        sys.setrecursionlimit(5000)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.stdout = None
        warnings.simplefilter("error")
        return right_softmax(x)

    before = _state()
    grade(quick, messy)
    grade(quick, lambda x: messy(x) * 2)
    assert _state() == before
    torch.set_default_dtype(torch.float32)


def test_the_learners_own_settings_do_not_matter():
    """A notebook may have set a default dtype or switched gradients off: answers are graded in the usual state."""
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    np.seterr(all="raise")
    try:
        assert grade(kinds.Square, kinds.RightSquare).status == "passed"
        assert grade(quick, right_softmax).status == "passed"
        assert torch.get_default_dtype() == torch.float64 and not torch.is_grad_enabled()
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)
        np.seterr(all="warn", under="ignore")


def test_printing_is_bounded_and_shown_on_failure(capfd):
    def chatty(x):
        print("my x is", x.shape)
        for i in range(10**6):
            print(i)
        return x

    exercise = Exercise("hostile.cases.chatty", seconds=20)
    exercise.cases(number.case_makers[0])
    exercise.oracle(number.oracle_function)
    result = grade(exercise, lambda x: chatty(np.ones(2)))
    assert "my x is (2,)" in result.message and len(result.message) <= 1500
    assert grade(quick, lambda x: print("hello") or right_softmax(x)).status == "passed"
    assert capfd.readouterr() == ("", "")


def test_closing_stdout_does_no_harm(capsys):
    def closes(x):
        sys.stdout.close()
        sys.__stdout__.close()
        sys.stderr.close()
        return right_softmax(x)

    assert grade(quick, closes).status == "passed"
    print("still here")
    assert capsys.readouterr().out == "still here\n"
    assert not sys.__stdout__.closed


# -- tampering -----------------------------------------------------------------------------------------


def test_a_patched_library_is_refused_and_mended():
    original = torch.softmax
    torch.softmax = lambda x, dim: torch.zeros_like(x)
    result = fails(lambda x: np.zeros_like(x), "torch.softmax was replaced", status="error")
    assert torch.softmax is original and "run the check again" in result.message
    assert grade(quick, right_softmax).status == "passed"


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (torch, "softmax"),
        (torch, "allclose"),
        (torch.Tensor, "__sub__"),
        (np, "abs"),
        (np, "allclose"),
        (torch.nn.functional, "softmax"),
        (builtins, "abs"),
        (np.linalg, "norm"),
    ],
    ids=lambda x: x if isinstance(x, str) else x.__name__,
)
def test_a_library_patched_during_the_call_is_refused_and_mended(owner, name):
    original = getattr(owner, name)

    def softmax(x):
        setattr(owner, name, lambda *args, **kwargs: original(*args, **kwargs))
        return right_softmax(x)

    fails(softmax, name, "while it runs", status="error")
    assert getattr(owner, name) is original


def test_exchanged_code_is_noticed():
    function = torch.nn.functional.cross_entropy
    code = function.__code__
    function.__code__ = (lambda *args, **kwargs: 0).__code__
    fails(right_softmax, "cross_entropy", status="error")
    assert function.__code__ is code


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("groundup.check.compare", "compare"),
        ("groundup.check.compare", "_wrong"),
        ("groundup.check.grade", "_judge"),
        ("groundup.check.values", "plain"),
        ("groundup.check.values", "same_bits"),
    ],
)
def test_a_patched_engine_is_refused_and_mended(module, name):
    import importlib

    owner = importlib.import_module(module)
    original = getattr(owner, name)
    setattr(owner, name, lambda *args, **kwargs: None)
    fails(lambda x: x, name, status="error")
    assert getattr(owner, name) is original
    fails(lambda x: x, status="failed")


def test_engine_classes_are_guarded_too():
    original = Exercise.differs
    Exercise.differs = lambda self, got, expected: None
    fails(lambda x: x, "Exercise.differs", status="error")
    assert Exercise.differs is original


def test_a_changed_declaration_is_refused():
    from groundup.check import exercise as declarations

    exercise = Exercise("hostile.cases.changed")
    exercise.cases(number.case_makers[0])
    exercise.oracle(number.oracle_function)
    declarations._loaded[exercise.id] = (exercise, exercise.fingerprint())
    assert grade(exercise, lambda x: 2 * x).status == "passed"
    exercise.oracle_function = lambda x: 0
    assert grade(exercise, lambda x: 0).status == "error"


def test_libraries_may_wrap_their_own_functions():
    """torch._dynamo wraps torch.manual_seed when it is imported: that is no tampering."""
    import torch._dynamo  # noqa: F401

    assert grade(quick, right_softmax).status == "passed"


def test_torch_compile_and_a_change_of_the_time_zone_are_no_tampering():
    program = (
        "import time, torch; from groundup.check import grade; from groundup.gpt2 import gelu\n"
        "assert grade('gpt2.model.gelu', gelu).status == 'passed'\n"
        "init = torch.nn.Module.__init__\n"
        "torch.compile(torch.nn.Linear(2, 2), backend='eager')(torch.ones(1, 2))\n"
        "assert torch.nn.Module.__init__ is not init, 'torch.compile replaces nothing any more: delete this test'\n"
        "time.tzname = ('XYZ', 'XYZ')\n"
        "print(grade('gpt2.model.gelu', gelu).status)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200)
    assert done.stdout.strip() == "passed", done.stdout + done.stderr


def test_a_check_inside_a_check_is_refused():
    inner = []

    def softmax(x):
        inner.append(grade(quick, right_softmax))
        return x

    fails(softmax)
    assert inner[0].status == "error" and "inside another check" in inner[0].message


def test_the_expected_answer_is_nowhere_on_the_stack():
    """The oracle runs after the submission is done with all cases."""
    names = []

    def softmax(x):
        frame = sys._getframe()
        while frame is not None:
            if "check/" in frame.f_code.co_filename and "test" not in frame.f_code.co_filename:
                names.extend(frame.f_locals)
            frame = frame.f_back
        return x

    fails(softmax)
    assert "watch" in names and not {"expected", "answer"} & set(names)


def test_submissions_do_not_reach_the_oracles_inputs():
    kept = []

    def softmax(x):
        for old in kept:
            old[...] = 0
        kept.append(x)
        return right_softmax(x)

    assert grade(quick, softmax).status == "passed"


def test_the_seed_reproduces():
    def wrong(x):
        return right_softmax(x) * (1 + 1e-6 * random.random())

    first = grade(quick, wrong)
    again = grade(quick, wrong, seed=first.seed)
    assert first.message == again.message and f"seed {first.seed}" in first.message
    assert {grade(quick, wrong).seed for _ in range(5)} != {first.seed}


def test_no_public_name_is_missing():
    for name in groundup.check.__all__:
        assert hasattr(groundup.check, name)
