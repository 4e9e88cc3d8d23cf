"""`groundup check NOTEBOOK`: runs definitions only, goes on after errors, answers plainly about every exercise."""

import json

import pytest

from .conftest import BLANK, answers, cell


def verdicts(course, content: dict, code: int = 1) -> dict[str, tuple[str, str]]:
    """name → (status, message) as `--json` tells; the exit code is checked, and that stdout is JSON alone."""
    answer = course.groundup("check", course.write(content), "--json")
    assert answer.returncode == code, answer.stderr
    found = json.loads(answer.stdout)
    assert [set(entry) for entry in found] == [{"id", "status", "message"}] * 2
    assert [entry["id"] for entry in found] == ["demo.small.double", "demo.small.negate"]
    assert "Traceback" not in answer.stdout + answer.stderr
    return {entry["id"].rpartition(".")[2]: (entry["status"], entry["message"]) for entry in found}


def statuses(course, content: dict, code: int = 1) -> list[str]:
    return [status for status, _ in verdicts(course, content, code).values()]


def test_right_answers_pass_and_are_recorded(course):
    assert statuses(course, answers(), code=0) == ["passed", "passed"]
    rows = json.loads(course.groundup("progress", "--json").stdout)
    assert (
        rows[0]["passed"] == 2
        and rows[0]["points"] == 3
        and set(rows[0]["passed_at"])
        == {
            "demo.small.double",
            "demo.small.negate",
        }
    )


def test_the_courses_own_solutions_pass_but_are_not_the_learners(course):
    marked = "### BEGIN SOLUTION\n    return x + x\n    ### END SOLUTION"
    assert statuses(course, answers(double=marked), code=0) == ["passed", "passed"]
    assert json.loads(course.groundup("progress", "--json").stdout)[0]["passed"] == 1


def test_the_blank_notebook_is_todo(course):
    assert statuses(course, BLANK) == ["todo", "todo"]


def test_a_wrong_answer_is_told_its_mistake(course):
    found = verdicts(course, answers(double="return x * x"))
    assert found["double"][0] == "failed" and "squared" in found["double"][1]
    assert found["negate"][0] == "passed"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("return x +", "error", "SyntaxError"), ("raise KeyboardInterrupt", "error", "")),
        (("return nonsense", "error", "nonsense"), ("return input()", "error", "")),
        (("while True: pass", "timeout", ""), ("print('x' * 10**6); return -x", "passed", "")),
        (
            ("import ctypes; ctypes.string_at(0)", "error", "ended the Python process"),
            ("return -x", "passed", ""),
        ),
        (("raise SystemExit", "error", ""), ("return -x\nraise SystemExit(3)", "passed", "")),
    ],
)
def test_one_bad_answer_does_not_touch_the_other(course, first, second):
    found = verdicts(course, answers(first[0], second[0]))
    for (_, status, words), (got, message) in zip((first, second), found.values(), strict=True):
        assert (got, words in message) == (status, True), message


def test_a_cell_that_ends_the_process_is_named_and_the_rest_goes_on(course):
    content = answers("return x + x\nimport os; os._exit(7)")
    found = verdicts(course, content)
    assert found["double"][0] == "error"
    assert "cell 3" in found["double"][1] and "ended the Python process" in found["double"][1]
    assert found["negate"][0] == "passed"


def test_a_cell_that_never_ends_is_given_up(course):
    module = course.root / "src" / "groundup" / "notebook.py"
    text = module.read_text(encoding="utf-8")
    assert "DEFINING_SECONDS = 10.0" in text
    module.write_text(text.replace("DEFINING_SECONDS = 10.0", "DEFINING_SECONDS = 1.0"), encoding="utf-8")
    found = verdicts(course, answers("return x + x\nwhile True: pass"))
    assert found["double"][0] == "error" and "did not end in 1 s" in found["double"][1]
    assert found["negate"][0] == "passed"


def test_nothing_but_definitions_runs(course):
    trace = course.root / "ran"
    write = f"open({str(trace)!r}, 'a').write('x')"
    content = answers(
        "return x + x", "return -x", cell(write), cell(write, "parameters"), cell(write, "check")
    )
    assert statuses(course, content, code=0) == ["passed", "passed"]
    assert not trace.exists()


def test_a_failing_import_is_told_to_those_who_need_it(course):
    broken = cell("import a_package_that_is_not_there as there", "export")
    found = verdicts(course, answers("return there.double(x)", "return -x", broken))
    assert found["double"][0] == "error" and "a_package_that_is_not_there" in found["double"][1]
    assert found["negate"][0] == "passed"


def test_modules_beside_the_notebook_can_be_imported_from_anywhere(course, tmp_path):
    course.write(answers("import beside; return beside.double(x)"), "sub/answer.ipynb")
    (course.root / "sub" / "beside.py").write_text("def double(x):\n    return x + x\n")
    answer = course.groundup("check", course.root / "sub" / "answer.ipynb", cwd=tmp_path)
    assert answer.returncode == 0, answer.stdout


def test_metadata_that_an_editor_dropped_is_made_up_for(course):
    content = answers()
    content["metadata"] = {}
    for one in content["cells"]:
        one["metadata"] = {}
    assert statuses(course, content, code=0) == ["passed", "passed"]


BAD_FILES = [
    b"",
    b"\x00\xff\xfe",
    b"not json",
    b"[]",
    b"null",
    b'{"cells": 3}',
    b'{"cells": [], "metadata": 5}',
    b'{"cells": [], "metadata": {"lesson": ["a"]}}',
    b'{"cells": [], "metadata": {"lesson": "no.such"}}',
    b'{"cells": [3, null, {"cell_type": 4, "source": 5, "metadata": 6}], "metadata": {}}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("content", BAD_FILES)
def test_a_bad_file_is_one_line_and_code_2(tmp_path, groundup_here, content):
    path = tmp_path / "bad.ipynb"
    path.write_bytes(content)
    for arguments in (["check", path], ["check", path, "--json"]):
        code, out, err = groundup_here(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith("groundup: ") and err.count("\n") == 1 and "bad.ipynb" in err


@pytest.mark.parametrize("name", ["missing.ipynb", ".", "", "a\nb.ipynb", "x" * 5000, "nul\0"])
def test_a_path_that_is_no_file_is_one_line_and_code_2(groundup_here, name):
    code, out, err = groundup_here("check", name)
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_odd_cells_and_lists_of_lines_are_understood(course):
    content = answers()
    for one in content["cells"]:
        one["source"] = one["source"].splitlines(keepends=True)
    content["cells"][1:1] = [
        3,
        None,
        {"cell_type": "code"},
        {"cell_type": "raw", "source": "def double(x): 1/0"},
    ]
    assert statuses(course, content, code=0) == ["passed", "passed"]


def test_a_persons_answer_is_readable_and_no_record_records_nothing(course):
    answer = course.groundup("check", course.write(answers(double="return x * x")), "--no-record")
    assert "✗ demo.small.double failed" in answer.stdout
    assert "1 of 2 passed" in answer.stdout and answer.returncode == 1
    assert not course.home.exists()


def test_helpers_magics_and_strings_that_look_like_magics(course):
    extra = [
        cell('"""Mine."""\nimport math\n\nTWO = 2\n\ndef helper(x):\n    return math.prod([TWO, x])'),
        cell(
            "%pip install -q nothing\n!ls\nif True:\n    %time 1\nfiles = !ls\ndouble?\nimport math", "export"
        ),
        cell("%%time\nTHREE = 3", "export"),
        cell('PERCENT = """\n% of\n! all"""\nassert "% of" in PERCENT', "export"),
        cell("class Box:\n    def __init__(self, x):\n        self.x = x", "export"),
    ]
    first = "assert '% of' in PERCENT and THREE == 3; return helper(x)"
    second = "import pickle; return -pickle.loads(pickle.dumps(Box(x))).x"
    assert statuses(course, answers(first, second, *extra), code=0) == ["passed", "passed"]


def test_removed_and_emptied_cells_are_todo(course):
    content = answers()
    content["cells"] = content["cells"][:-1]
    content["cells"][2]["source"] = ""
    found = verdicts(course, content)
    assert [status for status, _ in found.values()] == ["todo", "todo"]
    assert "cell 3" in found["double"][1].lower() and "groundup reset" in found["negate"][1]


def test_a_renamed_function_is_named_and_an_older_answer_does_not_stand_in(course):
    content = answers("return x + x", "return -x", cell("def negate(x):\n    return -x"))
    content["cells"][3]["source"] = "def twice(x):\n    return x + x"
    content["cells"][-1]["source"] = "missing\n\ndef negate(x):\n    return 0"
    found = verdicts(course, content)
    assert found["double"][0] == "error"
    assert "twice" in found["double"][1] and "double" in found["double"][1]
    assert (
        found["negate"][0] == "error" and "NameError" in found["negate"][1] and "line 1" in found["negate"][1]
    )


def test_what_is_not_the_learners_function_is_no_pass(course):
    (course.root / "src" / "groundup" / "lent.py").write_text("def double(x):\n    return x + x\n")
    content = answers()
    content["cells"][2]["source"] = "from groundup.lent import double"
    content["cells"][-1]["source"] = "negate = None"
    found = verdicts(course, content)
    assert found["double"][0] == "todo" and found["negate"][0] in ("error", "failed", "todo")
