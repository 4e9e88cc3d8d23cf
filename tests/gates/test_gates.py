"""Each gate names the defect that it is there for, and no other gate does."""

import json

import pytest

from ci import audit
from ci.gates import graded
from ci.lesson import read_notebook, write_notebook

CHAPTER = "chapters/01_sample/01_first.md"
CHECKS = "src/groundup/checks/sample/first.py"
EXERCISES = "exercises/01_sample/01_first.ipynb"
SOLUTIONS = "solutions/01_sample/01_first.ipynb"
QUICK = graded.Settings(seed=5, rounds=2, sample=0, count=1)
FULL = graded.Settings(seed=5, rounds=1, count=1)


def found(root, settings=None) -> dict[str, list[str]]:
    """Gate → the lines that it prints."""
    problems, _ = audit.audit(root, settings)
    gates: dict[str, list[str]] = {}
    for problem in problems:
        gates.setdefault(problem.gate, []).append(str(problem))
    return gates


def only(gates: dict[str, list[str]], gate: str, *words: str) -> None:
    assert list(gates) == [gate], gates
    for word in words:
        assert any(word in line for line in gates[gate]), gates


def test_a_good_course_has_no_problem(course, capsys):
    assert audit.main(["--jobs", "2", "--seed", "3"], course) == 0
    out = capsys.readouterr().out
    assert "no problems (seed 3" in out and "sample.first" in out
    assert "9/9" in out, "nine named mistakes, all recognised"


def test_form(course, edit):
    edit(CHAPTER, "Difficulty 1/5 · 2 minutes · 1 point\n\nEach row", "Difficulty 9/5\n\nEach row")
    only(found(course), "form", CHAPTER, "centred lacks its line")


def test_drift(course, edit):
    edit("src/groundup/sample/first.py", "return x - mean", "return x - mean  # by hand")
    only(found(course), "drift", "src/groundup/sample/first.py")


def test_drift_of_a_file_without_chapter(course):
    old = course / SOLUTIONS
    (course / "solutions/01_sample/02_gone.ipynb").write_bytes(old.read_bytes())
    only(found(course), "drift", "02_gone.ipynb", "no chapter")


def test_fresh(course):
    notebook = read_notebook(course / SOLUTIONS)
    notebook.metadata.groundup.source = "another"
    (course / SOLUTIONS).write_text(write_notebook(notebook), encoding="utf-8")
    only(found(course), "fresh", SOLUTIONS, "make execute")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("covers: [1, 2]", "covers: [1]", "covers [1]"),
        ("needs: []", "needs: [sample.second]", "comes later"),
        ("needs: []", "needs: [sample.nowhere]", "in no plan"),
    ],
)
def test_coverage(course, edit, old, new, says):
    edit(CHAPTER, old, new, again=True)
    only(found(course), "coverage", CHAPTER, says)


def test_coverage_of_a_lesson_in_the_wrong_place(course, edit):
    (course / CHAPTER).rename(course / "chapters/01_sample/02_first.md")
    edit("chapters/01_sample/02_first.md", "Nothing.", "No more.", again=True)
    only(found(course), "coverage", "is lesson 1 of its part")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("from groundup.sample.second import something", "sample.second, a later lesson"),
        ("from groundup.sample.first import centred as c", "itself"),
        ("from groundup.sample import centred as c", "name the lesson's module"),
        ("from groundup import sample", "name the lesson's module"),
    ],
)
def test_imports(course, edit, line, says):
    # In a branch that never runs: the gate reads, it does not execute.
    edit(CHAPTER, 'print("a figure', f'if SCALE == "never":\n    {line}\n\nprint("a figure', again=True)
    only(found(course), "imports", f"{CHAPTER}:", says)


@pytest.mark.parametrize(
    "line",
    [
        "from groundup.sample.first import centred as theirs",
        "from groundup import sample",
        "import groundup.sample.first",
        "from ...sample import first",
        'import importlib\n\nfirst = importlib.import_module("groundup.sample.first")',
    ],
)
def test_independence(course, edit, line):
    edit(CHECKS, "import numpy as np\n", f"import numpy as np\n\n{line}\n")
    only(found(course), "independence", f"{CHECKS}:", "the oracle must not be the solution")


def test_hints_repeated_as_another_hint(course, edit):
    edit(CHAPTER, "Who remembers the count?", "Where does a sum start?", again=True)
    only(found(course), "hints", "hint 1 of Counter is also a hint of add_up")


def test_hints_repeated_in_prose(course, edit):
    edit(CHAPTER, "What follows is short.", "Keep the axis that you average over.", again=True)
    only(found(course), "hints", "hint 2 of centred also stands elsewhere")


def test_expected(course, edit):
    edit(CHAPTER, "```text\n6.0\n```", "```text\n7.0\n```", again=True)
    only(found(course), "expected", "add_up promises '7.0'", "prints '6.0")


def test_stub_that_shows_the_solution(course, edit):
    """Nothing drifts here: the author pasted the solution into the prose."""
    edit(
        CHAPTER,
        "What follows is short.",
        "```python\nmean = x.mean(axis=1, keepdims=True)\nreturn x - mean\n```",
        again=True,
    )
    only(found(course), "stub", "holds the solution of centred")


def test_stub_that_differs_or_carries_an_output(course):
    notebook = json.loads((course / EXERCISES).read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["id"] == "centred":
            cell["source"] = "".join(cell["source"]).replace("Each row of", "Every row of")
        if cell["id"] == "add-up":
            cell["source"] = "### BEGIN SOLUTION\n" + "".join(cell["source"])
        if cell["id"] == "centred-example":
            cell["outputs"] = [{"name": "stdout", "output_type": "stream", "text": "[[-1. 1.]]"}]
    (course / EXERCISES).write_text(json.dumps(notebook), encoding="utf-8")
    gates = found(course)
    assert set(gates) == {"drift", "stub"}, "what was edited by hand also drifts"
    lines = "\n".join(gates["stub"])
    for words in (
        "centred differs from its solution",
        "add-up holds a solution's marker",
        "carries an output",
    ):
        assert words in lines


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (":tags: [interactive]\n", ":tags: [hide-input]\n", "no interactive figure"),
        ("## Break it", "## Mend it", "`## Break it`"),
        ("## Read next", "## More", "`## Read next`"),
        ("<!-- measured -->", "<!-- table -->", "<!-- measured -->"),
        ("<details><summary>Five?</summary>\n\nYes.\n\n</details>\n", "", "4 recall questions"),
        (":tags: [parameters]\n", ":tags: [hide-input]\n", "no cell tagged parameters"),
    ],
)
def test_anatomy(course, edit, old, new, says):
    edit(CHAPTER, old, new, again=True)
    only(found(course), "anatomy", CHAPTER, says)


def test_sizes_of_an_output(course):
    notebook = read_notebook(course / SOLUTIONS)
    cell = next(cell for cell in notebook.cells if cell.get("outputs") and not cell.id.startswith("centred"))
    cell.outputs[0] = {"output_type": "display_data", "metadata": {}, "data": {"text/html": "x" * 160_000}}
    (course / SOLUTIONS).write_text(json.dumps(notebook), encoding="utf-8")
    gates = found(course)
    assert "has an output of 160 KB" in gates["sizes"][0]


def test_sizes_of_a_notebook(course, edit):
    edit(CHAPTER, "What follows is short.", "Long and longer. " * 65_000, again=True)
    gates = found(course)
    only(
        gates, "sizes", "exercises/01_sample/01_first.ipynb: is 1", "solutions/01_sample/01_first.ipynb: is 1"
    )


def test_prose(course, edit):
    edit(CHAPTER, "What follows is short.", "It reaches 97.5 % in 3 seconds.", again=True)
    only(found(course), "prose", "'97.5 %'")


def test_the_line_of_a_problem_is_the_line_in_the_chapter(course, edit):
    edit(CHAPTER, "Nothing.", "One line.\nThis takes 40 ms.", again=True)
    (line,) = found(course)["prose"]
    number = int(line.split(":")[1])
    assert (course / CHAPTER).read_text(encoding="utf-8").splitlines()[number - 1] == "This takes 40 ms."


# ------------------------------------------------------------------------ gates that run submissions


def test_checks_with_too_few_mistakes(course, edit):
    text = (course / CHECKS).read_text(encoding="utf-8")
    start = text.index("@add_up.mistake\ndef dropped_the_sign")
    edit(CHECKS, text[start : text.index("counter = Exercise")], "")
    only(found(course, QUICK), "checks", "add_up: 2 named mistakes, at least 3")


def line_of(file, words):
    """The line (from 1) of a file on which `words` stand."""
    return 1 + next(i for i, line in enumerate(file.read_text().splitlines()) if words in line)


def test_checks_that_do_not_parse_are_one_line(course, edit, capsys):
    edit(CHECKS, "def dropped_the_sign(", "def dropped_the_sign((")
    problems = [problem for gate in found(course, QUICK).values() for problem in gate]
    wrong = line_of(course / CHECKS, "dropped_the_sign((")
    assert len(problems) == 1 and problems[0].startswith(f"{CHECKS}:{wrong}: does not parse: "), problems


def test_checks_that_do_not_load_are_one_line(course, edit):
    edit(CHECKS, "@add_up.mistake\ndef dropped_the_sign", "@ad_up.mistake\ndef dropped_the_sign")
    wrong = line_of(course / CHECKS, "@ad_up.mistake")
    said = f"{CHECKS}:{wrong}: cannot be loaded: NameError: name 'ad_up' is not defined [checks]"
    assert found(course, QUICK) == {"checks": [said]}


def test_a_mistake_without_a_sentence_is_named_by_its_line(course, edit):
    text = (course / CHECKS).read_text()
    start = text.index('"""', text.index("def dropped_the_sign"))
    edit(CHECKS, text[start : text.index('"""', start + 3) + 3], "pass")
    wrong = line_of(course / CHECKS, "def dropped_the_sign")
    said = f"{CHECKS}:{wrong}: add_up: mistake dropped_the_sign: no docstring [checks]"
    assert found(course, QUICK) == {"checks": [said]}


def test_a_chapter_that_cannot_be_read_says_so_when_it_is_asked_for(course, edit, capsys):
    edit(CHAPTER, "minutes:", "minuts:")
    assert audit.main(["--files", "sample.first"], course) == 1
    error = capsys.readouterr().err
    wrong = line_of(course / CHAPTER, "minuts:")
    assert error.startswith(f"{CHAPTER}:{wrong}: the front matter lacks minutes") and error.count("\n") == 1


def test_checks_without_the_exercise(course, edit):
    edit(CHECKS, 'Exercise("sample.first.add_up")', 'Exercise("sample.first.add_down")')
    assert "sample.first.add_up cannot be loaded" in "\n".join(found(course, QUICK)["checks"])


def test_stubs_that_do_not_wait_for_the_learner(course, edit):
    """A default before the region answers for the learner, so the check must not say `todo`."""
    edit(
        CHAPTER,
        "    ### BEGIN SOLUTION\n    total",
        "    if numbers.size:\n        return 0.0\n    ### BEGIN SOLUTION\n    total",
    )
    edit(CHAPTER, "```text\n6.0\n```", "```text\n0.0\n```", again=True)
    assert "add_up answers failed, not todo" in "\n".join(found(course, QUICK)["stubs"])


def test_stubs_that_cannot_run(course, edit):
    edit(
        CHAPTER,
        "import numpy as np\n```",
        "import numpy as np\n```\n\n```{code-cell} ipython3\n:tags: [export]\n\nNOTHING = 1\n```",
    )
    edit(
        CHAPTER,
        "    ### END SOLUTION\n    return total\n```",
        "    ### END SOLUTION\n    return total\n```",
        again=True,
    )
    notebook = json.loads((course / EXERCISES).read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"]).replace("NOTHING = 1", "NOTHING = undefined")
    (course / EXERCISES).write_text(json.dumps(notebook), encoding="utf-8")
    gates = found(course, QUICK)
    assert set(gates) == {"drift", "stubs"}
    assert "name 'undefined' is not defined" in gates["stubs"][0]


def test_solved_notebook_that_does_not_pass(course):
    notebook = json.loads((course / SOLUTIONS).read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["id"] == "centred":
            cell["source"] = "".join(cell["source"]).replace("x - mean", "x - 2 * mean")
    (course / SOLUTIONS).write_text(json.dumps(notebook), encoding="utf-8")
    gates = found(course, QUICK)
    assert set(gates) == {"drift", "solved"}
    assert "centred answers failed, not passed" in gates["solved"][0]


def test_a_mistake_that_passes(course, edit):
    edit(CHECKS, "return x + x.mean(axis=1, keepdims=True)", "return x - x.mean(axis=1, keepdims=True)")
    gates = found(course, QUICK)
    assert "the mistake mean_added passes" in "\n".join(gates["mistakes"])
    assert set(gates) <= {"mistakes", "checks"}, "the engine may say so of the exercise too"


def test_a_mistake_that_is_called_by_another_name(course, edit):
    edit(CHECKS, "return x - x.mean(axis=0, keepdims=True)", "return x - x.mean()")
    gates = found(course, QUICK)
    assert "mean_of_the_columns is failed and is called mean_of_everything" in "\n".join(gates["mistakes"])
    assert set(gates) <= {"mistakes", "checks"}


def test_hostile_answers_that_a_careless_grader_passes(course, edit):
    """Like a public attention test: only the shape is compared."""
    edit(
        CHECKS,
        "centred = Exercise(",
        "def shapes(got, expected):\n    same = getattr(got, 'shape', 0) == getattr(expected, 'shape', 0)\n    return None if same else 'shape'\n\n\ncentred = Exercise(",
    )
    edit(CHECKS, "@centred.oracle", "centred.agree(shapes)\n\n\n@centred.oracle")
    gates = found(course, QUICK)
    lines = "\n".join(gates["hostile"])
    for label in ("returns zeros", "returns ones", "returns NaN", "returns noise", "returns its input"):
        assert f"centred: an answer that {label} passes" in lines
    assert "returns None" not in lines


def test_mutants_that_survive(course, edit):
    edit(CHECKS, 'yield Case("one number", numbers=rng.uniform(1, 2, size=1))', "pass")
    edit(
        CHECKS,
        'yield Case("both signs", numbers=rng.uniform(1, 2, size=5) * [1, -1, 1, 1, -1])',
        "yield Case('zeros', numbers=np.zeros(3))",
    )
    gates = found(course, FULL)
    lines = "\n".join(gates["mutants"])
    assert "add_up passes with `total += float(number) → total -= float(number)`" in lines
    assert "mutants rejected; at least 95% are asked for" in lines


def test_a_survivor_with_a_reason_is_no_problem_and_a_stale_reason_is_one(course):
    same = "mean = x.mean(axis=1, keepdims=True) → mean = x.mean(axis=-1, keepdims=True)"
    path = course / "ci/equivalents/sample.first.toml"
    listed = path.read_text(encoding="utf-8")
    problems, tallies = audit.audit(course, FULL)
    assert not problems and [survivor.change for survivor in tallies[0].survivors] == [same]
    assert tallies[0].rejected == tallies[0].mutants - 1, "counted before equivalents are removed"
    stale = listed.replace(same, "return x - mean → return x + mean")
    path.write_text(listed + stale, encoding="utf-8")
    only(found(course, FULL), "mutants", "stale: sample.first.centred rejects")
    gone = listed.replace(same, "return x - mean → return y") + listed.replace("centred", "gone")
    path.write_text(listed + gone, encoding="utf-8")
    only(found(course, FULL), "mutants", "has no mutant `return x - mean → return y`", "no exercise any more")
    path.write_text(listed.replace("both name the last axis of two", "because"), encoding="utf-8")
    only(found(course, FULL), "mutants", "gives no reason")
    path.write_text("", encoding="utf-8")
    only(found(course, FULL), "mutants", f"centred passes with `{same}`")


def test_width(course, edit):
    edit(CHAPTER, ":tags: [parameters]\n\n", ":tags: [parameters]\n\n" + f"# {'long ' * 20}\n", again=True)
    only(found(course), "width", CHAPTER, "characters; 88 fit the page")
