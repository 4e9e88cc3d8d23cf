"""`check(...)` in a notebook, the declarations' own checks, samples against distributions."""

import dataclasses
import html.parser
import sys
import types

import kinds
import numpy as np
import pytest
import scipy.stats
from kinds import right_softmax

from groundup.check import (
    Case,
    Checker,
    CheckError,
    Exercise,
    agree_in_distribution,
    chi_square_survival,
    exercises_of,
    grade,
    histogram,
    lesson,
    load,
    problems,
)
from groundup.check import exercise as declarations
from groundup.check.audit import imported
from groundup.check.show import html_of, text_of


def softmax(x):
    return right_softmax(x)


@pytest.fixture
def a_lesson(monkeypatch):
    """A lesson with two exercises, as groundup.checks.kinds.small, and the course's module of it."""
    checks = types.ModuleType("groundup.checks.kinds.small")
    checks.softmax, checks.Mean = kinds.softmax, kinds.Mean
    course = types.ModuleType("groundup.kinds.small")
    course.softmax = lambda x: right_softmax(x)
    course.softmax.__name__ = "softmax"
    for name in ("groundup.checks.kinds", "groundup.kinds"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, checks.__name__, checks)
    monkeypatch.setitem(sys.modules, course.__name__, course)
    recorded = []
    import groundup.progress

    monkeypatch.setattr(groundup.progress, "record", lambda id: recorded.append(id) or True)
    yield recorded
    for exercise in (kinds.softmax, kinds.Mean):
        declarations._loaded.pop(exercise.id, None)


def test_a_right_answer_is_shown_and_recorded(a_lesson, capsys):
    check = lesson("kinds.small")
    assert check(softmax) is None
    assert capsys.readouterr().out == "✓ softmax: passed. softmax agrees with the reference on all 4 cases.\n"
    assert a_lesson == ["kinds.small.softmax"] and check.last.status == "passed"


def test_a_wrong_answer_is_not_recorded(a_lesson, capsys):
    check = lesson("kinds.small")

    def softmax(x):
        return x

    check(softmax)
    out = capsys.readouterr().out
    assert out.startswith("✗ softmax: not yet\n") and a_lesson == []


def test_the_seed_of_a_failure_repeats_it(a_lesson, capsys):
    check = lesson("kinds.small")

    def softmax(x):
        return x

    check(softmax)
    first = capsys.readouterr().out
    check(softmax, seed=check.last.seed)
    assert capsys.readouterr().out == first


@pytest.mark.parametrize(
    ("thing", "words"),
    [
        (None, "you passed None"),
        ("softmax", "you passed a string"),
        (np.ones(2), "object of type ndarray"),
        (lambda x: x, "<lambda>, which is no exercise of this lesson"),
        (print, "print, which is no exercise"),
        (3, "object of type int"),
    ],
    ids=["None", "string", "array", "lambda", "built-in", "number"],
)
def test_the_wrong_thing_gets_one_line_of_help(a_lesson, capsys, thing, words):
    check = lesson("kinds.small")
    check(thing)
    out = capsys.readouterr().out
    assert words in out and "softmax, Mean" in out and out.count("\n") == 1


def test_a_name_that_cannot_be_read(a_lesson, capsys):
    class Nameless:
        def __getattr__(self, name):
            while True:
                pass

    lesson("kinds.small")(Nameless())
    assert "Nameless" in capsys.readouterr().out


def test_the_courses_own_version_is_lent_but_not_recorded(a_lesson, capsys):
    check = lesson("kinds.small")
    borrowed = check.reference("softmax")
    assert check.reference(borrowed) is borrowed, "the function serves as its name does, as for a check"
    assert np.allclose(borrowed(np.zeros((1, 2))), 0.5)
    check(borrowed)
    assert "the course's own version" in capsys.readouterr().out and a_lesson == []
    with pytest.raises(LookupError, match="softmax, Mean"):
        check.reference("softmin")


def test_nbgrader_gets_an_exception(a_lesson, monkeypatch, capsys):
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    check = lesson("kinds.small")
    check(softmax)
    with pytest.raises(AssertionError, match=r"rows|Case"):
        check(types.FunctionType((lambda x: x).__code__, {}, "softmax"))
    with pytest.raises(AssertionError, match="itself"):
        check(None)


def test_a_full_disk_does_not_spoil_a_pass(a_lesson, monkeypatch, capsys):
    import groundup.progress

    def fail(id):
        raise OSError("no space left")

    monkeypatch.setattr(groundup.progress, "record", fail)
    lesson("kinds.small")(softmax)
    assert "passed" in capsys.readouterr().out


def test_another_version_of_the_notebook_is_told(a_lesson, monkeypatch, capsys):
    import groundup.catalogue

    monkeypatch.setattr(groundup.catalogue, "lessons", lambda: [{"id": "kinds.small", "source": "abc"}])
    lesson("kinds.small", source="abc")
    assert capsys.readouterr().out == ""
    lesson("kinds.small", source="abd")
    out = capsys.readouterr().out
    assert "kinds.small" in out and out.count("\n") == 1


def test_an_instructors_extra_cases(a_lesson, tmp_path, monkeypatch, capsys):
    path = tmp_path / "extra.py"
    path.write_text(
        "from groundup.check import Case, load\nimport numpy as np\n"
        "@load('kinds.small.softmax').cases\ndef _(rng):\n    yield Case('an extra case', x=np.array([[13.0, 0.0]]))\n"
    )
    makers = kinds.softmax.case_makers

    def softmax(x):
        return right_softmax(x) if x[0, 0] != 13 else x

    try:
        for check in (lesson("kinds.small", extra=path), lesson("kinds.small", extra=path)):
            check(softmax)
            assert check.last.status == "failed" and check.last.case == "an extra case", check.last.message
        assert len(kinds.softmax.case_makers) == len(makers) + 1
        kinds.softmax.case_makers = makers
        declarations._extra.clear()
        declarations._loaded.clear()
        monkeypatch.setenv("GROUNDUP_EXTRA_CASES", str(path))
        assert grade("kinds.small.softmax", softmax).case == "an extra case"
    finally:
        kinds.softmax.case_makers = makers
        declarations._extra.clear()


def test_unknown_ids():
    with pytest.raises(CheckError, match="no lesson"):
        exercises_of("nowhere.nothing")
    with pytest.raises(CheckError, match="no lesson"):
        grade("nowhere.nothing.f", softmax)


def test_unknown_exercise_lists_the_known(a_lesson):
    with pytest.raises(CheckError, match=r"kinds\.small\.Mean"):
        load("kinds.small.softmin")


# -- how it looks --------------------------------------------------------------------------------------


class Parser(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("answer", [softmax, lambda x: x, lambda x: "<b>&", lambda x: 1 / 0, None])
def test_html_and_text_say_the_same(answer):
    result = grade(kinds.softmax, answer)
    page = html_of("softmax", result)
    parser = Parser()
    parser.feed(page)
    assert parser.open == []
    assert (
        'role="status"' in page
        and "background:#" not in page
        and "color:#" not in page.replace("border-color:#", "")
    )
    for line in result.message.split("\n"):
        assert line.strip() in parser.text and line.strip() in text_of("softmax", result)
    assert page == html_of("softmax", dataclasses.replace(result, seconds=99.0))


def test_a_pass_looks_the_same_each_time():
    assert len({html_of("softmax", grade(kinds.softmax, softmax)) for _ in range(3)}) == 1


def test_in_a_kernel_it_displays_a_bundle(a_lesson, monkeypatch):
    import IPython
    import IPython.display

    shown = []
    monkeypatch.setattr(IPython, "get_ipython", lambda: types.SimpleNamespace(kernel=object()))
    monkeypatch.setattr(IPython.display, "display", lambda bundle, raw: shown.append(bundle))
    lesson("kinds.small")(softmax)
    assert set(shown[0]) == {"text/html", "text/plain"} and shown[0]["text/plain"].startswith("✓ softmax")


# -- declarations --------------------------------------------------------------------------------------


def _exercise(**options):
    exercise = Exercise("a.b.double", **options)
    exercise.cases(lambda rng: [Case("zero", x=0.0), Case("a number", x=float(rng.uniform(1, 2)))])
    exercise.oracle(lambda x: 2 * x)

    def squares(x):
        """You square."""
        return x * x

    def adds(x):
        """You add one."""
        return x + 1 if x else 0.0

    def triples(x):
        """You triple."""
        return 3 * x

    return exercise, [squares, adds, triples]


def test_a_sound_declaration_has_no_problems():
    exercise, mistakes = _exercise()
    for mistake in mistakes:
        exercise.mistake(mistake)
    assert problems(exercise) == []


def test_each_problem_is_found():
    exercise, mistakes = _exercise()
    exercise.mistake(mistakes[0])
    assert "1 named mistakes, at least 3 are wanted" in problems(exercise)

    def raises(x):
        """You raise."""
        raise ValueError

    def text(x):
        """You return text."""
        return "text"

    def undocumented(x):
        return 4 * x

    def long(x):
        return 5 * x

    long.__doc__ = "word " * 70

    def right(x):
        """You are right."""
        return x + x

    def squares_again(x):
        """You square again."""
        return x**2

    def never_right(x):
        """You add seven."""
        return 2 * x + 7

    for mistake in (raises, text, undocumented, long, right, squares_again, never_right):
        exercise.mistake(mistake)
    found = "\n".join(problems(exercise))
    for words in (
        "mistake raises: raises on every case",
        "mistake text: never returns the right type and shape",
        "mistake undocumented: no docstring",
        "mistake long: its docstring has 349 characters",
        "mistake right: no case rejects it",
        "mistakes squares and squares_again: no case tells them apart",
        "mistake never_right: passes no case",
    ):
        assert words in found, found
    assert found.count("\n") == 6


def test_a_shape_mistake_need_not_pass_a_case():
    exercise, mistakes = _exercise()
    for mistake in mistakes:
        exercise.mistake(mistake)

    @exercise.mistake(shape=True)
    def in_a_list(x):
        """You return a list."""
        return [2 * x]

    assert problems(exercise) == []


def test_an_oracle_of_the_learners_own_library_is_found():
    source = "import numpy\nfrom groundup.check import Case\nfrom groundup.autograd.arrays import softmax\n"
    source += (
        "def f():\n    import groundup.autograd\n    importlib.import_module('groundup.autograd.graph')\n"
    )
    from groundup.check.audit import _is_part

    found = [name for name in imported(source) if _is_part(name, "autograd")]
    assert found == [
        "groundup.autograd.arrays",
        "groundup.autograd.arrays.softmax",
        "groundup.autograd",
        "groundup.autograd.graph",
    ]


def test_declarations_that_cannot_be():
    with pytest.raises(CheckError, match="id"):
        Exercise("softmax")
    with pytest.raises(CheckError, match="kind"):
        Exercise("a.b.c", kind="method")
    exercise = Exercise("a.b.c")
    with pytest.raises(CheckError, match="docstring"):
        exercise.property(lambda obj: True)
    with pytest.raises(CheckError, match="no cases"):
        grade(exercise, softmax)
    assert "no oracle" in problems(exercise)


@pytest.mark.parametrize("slip", ["import torch.no_such_module", "no_such_name", "[].no_such_attribute"])
def test_an_oracle_that_is_broken_accepts_nobody_who_is_broken_in_the_same_way(slip):
    """As an import that a time limit cut short left it: the oracle and the submission both raised, and all passed."""
    exercise = Exercise("kinds.small.broken")

    @exercise.cases
    def _(rng):
        yield Case("one", x=1)

    @exercise.oracle
    def _(x):
        exec(slip)

    def broken(x):
        exec(slip)

    result = grade(exercise, broken)
    assert result.status == "error" and "cannot be computed here" in result.message


def test_an_oracle_that_raises_wants_the_same_exception():
    exercise = Exercise("a.b.root")
    exercise.cases(lambda rng: [Case("four", x=4.0), Case("negative", x=-1.0)])

    @exercise.oracle
    def _(x):
        if x < 0:
            raise ValueError
        return x**0.5

    def root(x):
        if x < 0:
            raise ValueError("negative")
        return x**0.5

    def wrong_kind(x):
        if x < 0:
            raise KeyError("negative")
        return x**0.5

    assert grade(exercise, root).status == "passed"
    assert "should raise ValueError here" in grade(exercise, lambda x: abs(x) ** 0.5).message
    result = grade(exercise, wrong_kind)
    assert (
        result.status == "error"
        and "should raise ValueError" in result.message
        and "KeyError" in result.message
    )


# -- distributions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [1, 2, 3, 7, 30, 200, 1000])
def test_the_survival_function_is_scipys(degrees):
    for statistic in [
        0.0,
        1e-3,
        0.5,
        1,
        3,
        degrees * 0.5,
        degrees,
        degrees + 1,
        degrees * 2,
        degrees * 3 + 40,
    ]:
        ours, theirs = chi_square_survival(statistic, degrees), scipy.stats.chi2.sf(statistic, degrees)
        assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-14)


def test_right_samplers_pass():
    """False rejection is 1e-7 by design: at a risk of 1e-3, about one in a thousand of 3,000 is rejected."""
    rng = np.random.default_rng(0)
    p = np.array([0.5, 0.3, 0.15, 0.04, 0.009, 0.001])
    counts = rng.multinomial(2000, p, size=3000)
    assert sum(agree_in_distribution(c, p, risk=1e-3) is not None for c in counts) <= 12
    assert all(agree_in_distribution(c, p) is None for c in counts)
    others = rng.multinomial(3000, p, size=300)
    assert all(agree_in_distribution(c, d) is None for c, d in zip(counts, others, strict=False))
    assert agree_in_distribution(counts[:4], np.tile(p, (4, 1))) is None


def test_wrong_samplers_are_told():
    p = np.array([0.5, 0.3, 0.2])
    assert "outcome 0 came up 3000 times" in agree_in_distribution(np.array([3000, 0, 0]), p)
    assert "impossible" in agree_in_distribution(np.array([10, 10, 1]), np.array([0.5, 0.5, 0.0]))
    assert "no draw" in agree_in_distribution(np.array([0, 0, 0]), p)
    assert "shape" in agree_in_distribution(np.array([1, 2]), p)
    assert "whole numbers" in agree_in_distribution(p, p)
    assert "in row 1" in agree_in_distribution(np.array([[500, 300, 200], [200, 300, 500]]), np.stack([p, p]))
    assert agree_in_distribution(np.array([500, 300, 200]), np.array([200, 300, 500])) is not None


def test_histogram():
    assert histogram([0, 2, 2], 4).tolist() == [1, 0, 2, 0]
    for draws in ([-1], [4], [0.5]):
        with pytest.raises(ValueError, match="draw"):
            histogram(draws, 4)


def test_the_checkers_repr_lists_the_exercises():
    assert "softmax" in repr(Checker("kinds.small", [kinds.softmax]))


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("It has a *row* for each.", "It has a <em>row</em> for each."),
        ("*Their mean* is the loss", "<em>Their mean</em> is the loss"),
        ("x * y and 2*h*k", "x * y and 2*h*k"),
        ("f(*args, *more)", "f(*args, *more)"),
        ("Write x**2, not *x", "Write x**2, not *x"),
    ],
)
def test_a_stressed_word_is_emphasis_and_a_product_is_not(said, shown):
    from groundup.check.show import _emphasised

    assert _emphasised(said) == shown
