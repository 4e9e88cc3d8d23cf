"""Running a lesson: what is out of date, what is stored, what is refused."""

import json

import nbformat
import pytest

from ci import execute, sync
from ci.lesson import lessons, read_notebook
from tests.sample_course import CHAPTER, make

# The sample without its checks: those of a sample lesson are no part of the installed package.
PLAIN = CHAPTER.replace('from groundup import lesson\n\ncheck = lesson("autograd.sample")', "check = print")


def run(root, scale="smoke"):
    course = lessons(root)
    return execute.run(course[0], course, scale)


def test_a_run_is_stored_with_its_record_and_is_then_up_to_date(tmp_path):
    make(tmp_path, PLAIN)
    course = lessons(tmp_path)
    assert execute.out_of_date(course[0], course)
    record = run(tmp_path)
    assert not execute.out_of_date(course[0], course)
    notebook = read_notebook(tmp_path / course[0].solution_path)
    nbformat.validate(notebook)
    assert notebook.metadata.groundup == record
    assert 0 < record["seconds"] < 20 and 10 < record["peak_mb"] < 4096 and record["scale"] == "smoke"
    outputs = {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    assert outputs["add-up-example"][0].text == "6.0\n"
    text = (tmp_path / course[0].solution_path).read_text()
    assert "papermill" not in text and "injected-parameters" not in text and str(tmp_path) not in text


def test_a_run_changes_no_source_so_sync_stays_quiet(tmp_path):
    make(tmp_path, PLAIN)
    run(tmp_path)
    assert sync.main([], tmp_path) == 0
    before = (tmp_path / "solutions/01_autograd/01_sample.ipynb").read_bytes()
    assert sync.main(["--check"], tmp_path) == 0
    assert (tmp_path / "solutions/01_autograd/01_sample.ipynb").read_bytes() == before


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ("Something to read.", "Something else.", (False, False)),
        ("print(add_up([1.0, 2.0, 3.0]))", "print(add_up([1.0, 2.0]))", (True, False)),
        ("return total\n", "return 0.0 + total\n", (True, True)),
    ],
)
def test_changed_code_or_a_changed_export_that_it_imports_is_out_of_date(tmp_path, old, new, changes):
    path = make(tmp_path, PLAIN)
    later = path.with_name("02_later.md")
    text = (
        PLAIN.replace("autograd.sample", "autograd.later")
        .replace("add_up", "add_more")
        .replace("add-up", "add-more")
    )
    later.write_text(
        text.replace("check = print", "check = print\nfrom groundup.autograd.sample import add_up")
    )
    before = [execute.fingerprint(lesson, lessons(tmp_path)) for lesson in lessons(tmp_path)]
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    after = [execute.fingerprint(lesson, lessons(tmp_path)) for lesson in lessons(tmp_path)]
    assert tuple(a != b for a, b in zip(before, after, strict=True)) == changes


def test_a_cell_that_was_changed_and_changed_back_has_lost_its_outputs_and_is_out_of_date(tmp_path):
    path = make(tmp_path, PLAIN)
    run(tmp_path)
    text, cell = path.read_text(), "print(add_up([1.0, 2.0, 3.0]))"
    for source in (text.replace(cell, "print(add_up([1.0, 2.0]))"), text):
        path.write_text(source)
        assert sync.main([], tmp_path) == 0
    course = lessons(tmp_path)
    record = read_notebook(tmp_path / course[0].solution_path).metadata.groundup
    assert record["source"] == execute.fingerprint(course[0], course), "the record alone does not tell"
    assert execute.out_of_date(course[0], course)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("assert 1 == 2", "AssertionError: (no message)"),
        ("import sys; print('oh', file=sys.stderr)", "the cell writes to stderr: oh"),
        ("import sys; print(file=sys.stderr)", "the cell writes to stderr: (blank lines)"),
        ("from IPython.display import HTML, display; display(HTML('x' * 200_000))", "an output of 200 KB"),
    ],
)
def test_a_lesson_that_does_not_run_as_it_should_is_named_by_line(tmp_path, source, message):
    path = make(tmp_path, PLAIN.replace("print(add_up([1.0, 2.0, 3.0]))", source))
    with pytest.raises(execute.ExecutionError) as caught:
        run(tmp_path)
    assert message in str(caught.value)
    line = int(str(caught.value).split(":")[1])
    assert path.read_text().splitlines()[line - 1] == source
    assert not (tmp_path / "solutions").exists(), "a failed run leaves what was there"


def test_long_streams_are_cut(tmp_path):
    make(tmp_path, PLAIN.replace("print(add_up([1.0, 2.0, 3.0]))", "print('x' * 20_000)"))
    run(tmp_path)
    text = (tmp_path / "solutions/01_autograd/01_sample.ipynb").read_text()
    assert "(cut)" in text and len(text) < 20_000


def test_an_unknown_lesson_is_one_line(tmp_path, capsys):
    make(tmp_path, PLAIN)
    assert execute.main(["autograd.soup"], tmp_path) == 2
    assert capsys.readouterr().err == "no lesson is called autograd.soup; there are: autograd.sample\n"


def test_rungs_are_gathered_and_a_lesson_that_reads_them_runs_after_them(tmp_path, monkeypatch):
    # In this process: the course in the temporary folder has no tools of its own.
    monkeypatch.setattr(
        execute, "_run_in_child", lambda lesson, scale: execute.run(lesson, lessons(tmp_path), scale)
    )
    path = make(
        tmp_path,
        PLAIN.replace(
            "print(add_up([1.0, 2.0, 3.0]))",
            "from groundup import ladder\n"
            'display(ladder.record("sample", bits_per_byte=2.5, parameters=3, scale="cpu"))\n'
            "print(add_up([1.0, 2.0, 3.0]))",
        ).replace("check = print", "check = print\nfrom IPython.display import display"),
    )
    later = path.with_name("02_later.md")
    text = PLAIN.replace("autograd.sample", "autograd.later").replace("add_up", "add_more")
    reads = "from groundup import ladder\n\nrungs = ladder.rungs()\nprint(add_more([1.0, 2.0, 3.0]))"
    later.write_text(text.replace("add-up", "add-more").replace("print(add_more([1.0, 2.0, 3.0]))", reads))
    file = tmp_path / "src/groundup/ladder.json"
    assert execute.main(["--scale", "smoke"], tmp_path) == 0
    assert json.loads(file.read_text()) == [
        {"name": "sample", "bits_per_byte": 2.5, "parameters": 3, "scale": "smoke"}
    ]
    assert execute.main(["--check"], tmp_path) == 0
    file.write_text("[]\n")  # a number typed by hand, or a run that was not gathered
    assert execute.main(["--check"], tmp_path) == 1
    assert execute.main(["--scale", "smoke"], tmp_path) == 0
    before = execute.fingerprint(lessons(tmp_path)[1], lessons(tmp_path))
    path.write_text(path.read_text().replace("bits_per_byte=2.5", "bits_per_byte=2.25"))
    assert execute.main(["--scale", "smoke", "autograd.sample"], tmp_path) == 0
    course = lessons(tmp_path)
    assert execute.fingerprint(course[1], course) != before and execute.out_of_date(course[1], course)


def test_the_line_is_the_one_that_raises_and_a_failure_is_one_line(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    source = "numbers = [1]\n\nprint(numbers, list[int].nothing_that_is_called_by_so_long_a_name)"
    path = make(tmp_path, PLAIN.replace("print(add_up([1.0, 2.0, 3.0]))", source))
    wrong = 1 + path.read_text().splitlines().index(source.splitlines()[-1])
    monkeypatch.setenv("PYTHONPATH", str(execute.ROOT))
    monkeypatch.setattr(execute, "_run_in_child", lambda lesson, scale: execute.run(lesson, [lesson], scale))
    assert execute.main(["--scale", "smoke"], tmp_path) == 1
    [line] = [line for line in capfd.readouterr().err.splitlines() if "failed" in line]
    assert f"01_sample.md:{wrong}: AttributeError: " in line and line.rstrip().endswith("so_long_a_name'")
