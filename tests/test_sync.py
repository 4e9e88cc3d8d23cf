"""From one chapter to everything that is derived from it."""

import ast
import json
import subprocess
import sys

import nbformat
import pytest

from ci import sync
from ci.lesson import ROOT, LessonError, read
from tests.sample_course import CHAPTER, make


@pytest.fixture
def course(tmp_path):
    make(tmp_path)
    assert sync.main([], tmp_path) == 0
    return tmp_path


def tree(root):
    return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_two_syncs_in_a_row_change_nothing(course):
    before = tree(course)
    assert sync.main([], course) == 0
    assert tree(course) == before
    assert sync.main(["--check"], course) == 0


def test_check_names_a_derived_file_that_was_edited_and_writes_nothing(course, capsys):
    module = course / "src/groundup/autograd/sample.py"
    module.write_text(module.read_text() + "\n# by hand\n")
    before = tree(course)
    assert sync.main(["--check"], course) == 1
    assert "src/groundup/autograd/sample.py: differs from chapters/" in capsys.readouterr().out
    assert tree(course) == before


def test_what_a_removed_chapter_left_is_removed(course, capsys):
    (course / "chapters/01_autograd/01_sample.md").unlink()
    assert sync.main(["--check"], course) == 1
    assert sync.main([], course) == 0
    assert "exercises/01_autograd/01_sample.ipynb: removed" in capsys.readouterr().out
    assert not list(course.glob("exercises/*/*")) and not list(course.glob("src/groundup/autograd/*"))


def test_exercises_are_blank_locked_and_graded(course):
    notebook = nbformat.read(course / "exercises/01_autograd/01_sample.ipynb", as_version=4)
    nbformat.validate(notebook)
    cells = {cell.id: cell for cell in notebook.cells}
    stub = cells["add-up"]
    assert 'raise NotImplementedError("write add_up")' in stub.source
    assert "SOLUTION" not in str(notebook) and "total +=" not in stub.source
    assert "return total" in stub.source, "what stands outside the region stays"
    assert stub.metadata.nbgrader.solution and not stub.metadata.nbgrader.locked
    locked = cells["add-up-check"]
    assert locked.metadata.nbgrader.grade and locked.metadata.nbgrader.points == 1
    assert locked.metadata.editable is False and locked.metadata.deletable is False
    assert all(not cell.get("outputs") for cell in notebook.cells)
    assert {"exercise", "export"} == set(stub.metadata.tags)


def test_the_setup_cell_runs_twice_and_installs_only_where_it_must(course, monkeypatch):
    notebook = nbformat.read(course / "exercises/01_autograd/01_sample.ipynb", as_version=4)
    setup = next(cell.source for cell in notebook.cells if "setup" in cell.metadata.get("tags", []))
    ast.parse(setup)  # plain Python: it also runs where there is no IPython
    calls = []
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: calls.append(args[0]))
    made = []
    monkeypatch.setattr("groundup.lesson", lambda *args, **kwargs: made.append((args, kwargs)), raising=False)
    namespace = {}
    exec(setup, namespace)
    exec(setup, namespace)
    assert calls == [], "the course is installed here: nothing is installed again"
    assert [args for args, _ in made] == [("autograd.sample",)] * 2

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    exec(setup, {})
    assert calls[0][:5] == [sys.executable, "-m", "pip", "install", "-q"]
    assert calls[0][5].startswith("groundup @ git+https://") and calls[0][5].endswith("@main")


def test_the_library_module_is_the_solution(course):
    path = course / "src/groundup/autograd/sample.py"
    text = path.read_text()
    assert "Generated from chapters/01_autograd/01_sample.md" in text and "SOLUTION" not in text
    namespace = {}
    exec(compile(text, str(path), "exec"), namespace)
    assert namespace["add_up"]([1.5, 2.5]) == 4.0
    assert namespace["__all__"] == ["add_up"]


def test_a_part_imports_its_lessons_only_when_asked(course):
    (course / "src/groundup/autograd/sample.py").write_text("raise SystemExit('imported too early')\n")
    text = (course / "src/groundup/autograd/__init__.py").read_text()
    namespace = {"__name__": "groundup.somewhere"}
    exec(text, namespace)  # imports no lesson
    assert namespace["__dir__"]() == ["add_up"]
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        namespace["__getattr__"]("other")


def test_the_catalogue_says_what_the_chapter_says(course):
    (lesson,) = json.loads((course / "src/groundup/catalogue.json").read_text())["lessons"]
    (exercise,) = lesson["exercises"]
    assert lesson["path"] == "exercises/01_autograd/01_sample.ipynb"
    assert exercise == {
        "id": "autograd.sample.add_up",
        "lesson": "autograd.sample",
        "name": "add_up",
        "title": "Add up",
        "difficulty": 1,
        "minutes": 2,
        "points": 1,
        "hints": ["Start from zero.", "Walk through the numbers.", "```python\ntotal += number\n```"],
    }


def test_outputs_stay_with_cells_that_did_not_change(course):
    solved = course / "solutions/01_autograd/01_sample.ipynb"
    notebook = nbformat.read(solved, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=f"from {cell.id}\n")]
    nbformat.write(notebook, solved)
    chapter = course / "chapters/01_autograd/01_sample.md"
    text = chapter.read_text().replace("Something to read.", "Something else to read.\n\n+++\n\nAnd more.")
    chapter.write_text(text.replace("print(add_up([1.0, 2.0, 3.0]))", "print(add_up([4.0, 2.0, 3.0]))"))
    assert sync.main([], course) == 0
    outputs = {c.id: c.outputs for c in nbformat.read(solved, as_version=4).cells if c.cell_type == "code"}
    assert outputs["add-up"][0].text == "from add-up\n"
    assert outputs["add-up-example"] == [], "an output of another source is no output of this one"


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("lesson: autograd.sample", "lesson: autograd.other", "01_sample.md:3: the front matter says"),
        ("minutes: 5\n", "", "01_sample.md:1: the front matter lacks minutes"),
        ("minutes: 5", "minutes: soon", "01_sample.md:4: minutes must be a whole number"),
        ("covers: []", "covers: [", "01_sample.md:1: the front matter is not YAML"),
        ("[exercise, export]", "[exercise]", "add_up must also carry the tag export"),
        (":tags: [example]", ":tags: [exmaple]", "unknown tag exmaple"),
        ("check(add_up)", "check(add)", "a cell tagged check: check(add_up)"),
        ("Difficulty 1/5", "Difficulty 6/5", "lacks its line 'Difficulty"),
        ("Hint 3 ·", "Hint 4 ·", "needs 'Hint 1"),
        ("Walk through the numbers.", "", "a hint of exercise add_up is empty"),
        ("Expected output:", "Output:", "lacks 'Expected output:'"),
        ("    ### END SOLUTION\n", "", "needs a region"),
        ("    total = 0.0\n", "    total = = 0.0\n", "the exercise does not parse"),
        ("minutes: 5", "minuts: 5", "01_sample.md:4: the front matter lacks minutes and has unknown minuts"),
        ("needs: []", "needs: autograd.graph", "01_sample.md:5: needs must be a list"),
        ("covers: []", "covers:", "01_sample.md:2: covers must be a list"),
        ('SCALE = "auto"', 'SCALE = "auto', "01_sample.md:26: the cell does not parse: unterminated"),
        ("import Sequence\n", "import = Sequence\n", "01_sample.md:32: the cell does not parse"),
        (
            'SCALE = "auto"\n```',
            'SCALE = "auto"',
            "23: ``` is not closed before the next one opens in line 28",
        ),
        ("6.0\n```", "6.0", "``` is not closed before the next one opens"),
        ("check(add_up)\n```", "check(add_up)", "``` is never closed"),
        ("import Sequence\n```", "import Sequence", "29: ``` is not closed before the next one opens"),
        (
            "```{code-cell} ipython3\n:tags: [check]\n\ncheck(add_up)\n```\n",
            "",
            "a cell tagged check: check(add",
        ),
    ],
)
def test_a_broken_chapter_is_one_line_with_file_and_line(tmp_path, capsys, before, after, message):
    assert before in CHAPTER
    path = make(tmp_path, CHAPTER.replace(before, after, 1))
    with pytest.raises(LessonError) as caught:
        read(path, tmp_path)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert sync.main([], tmp_path) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_line_in_an_error_is_the_line_in_the_file(tmp_path):
    path = make(tmp_path, CHAPTER.replace("total = 0.0", "total = = 0.0"))
    with pytest.raises(LessonError) as caught:
        read(path, tmp_path)
    line = int(str(caught.value).split(":")[1])
    assert "total = = 0.0" in path.read_text().splitlines()[line - 1]


def test_a_solved_notebook_that_a_merge_left_unreadable_is_written_anew(tmp_path):
    make(tmp_path)
    assert sync.main([], tmp_path) == 0
    [solved] = (tmp_path / "solutions").glob("*/*.ipynb")
    whole = solved.read_text()
    solved.write_text(whole.replace('"cells": [', '"cells": [\n<<<<<<< HEAD', 1))
    assert sync.main([], tmp_path) == 0
    assert solved.read_text() == whole


def test_a_name_twice_in_a_part_is_refused(tmp_path):
    path = make(tmp_path)
    twin = path.with_name("02_twin.md")
    twin.write_text(path.read_text().replace("autograd.sample", "autograd.twin"))
    line = 1 + twin.read_text().splitlines().index("def add_up(numbers: Sequence[float]) -> float:")
    with pytest.raises(
        LessonError, match=f"02_twin.md:{line}: exports add_up, which part autograd already has"
    ):
        sync.derive(tmp_path)


def test_a_plan_that_is_no_toml_is_one_line(tmp_path, capsys):
    make(tmp_path)
    plan = tmp_path / "ci" / "curriculum.toml"
    plan.write_text(plan.read_text().replace('title = "Autograd"', 'title = "Autograd', 1))
    wrong = 1 + plan.read_text().splitlines().index('title = "Autograd')
    assert sync.main([], tmp_path) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"ci/curriculum.toml:{wrong}: not TOML: ") and error.count("\n") == 1


def test_a_fence_inside_a_longer_one_is_text(tmp_path):
    longer = "````text\n```{code-cell}\n````\n\n"
    make(tmp_path, CHAPTER.replace("Something to read.\n\n", f"Something to read.\n\n{longer}"))
    assert sync.main([], tmp_path) == 0


def test_the_course_itself_is_in_step():
    assert sync.main(["--check"], ROOT) == 0


def test_each_region_of_a_class_says_which_method_is_to_be_written():
    source = """class Box:
    def open(self):
        ### BEGIN SOLUTION
        def lid(): ...
        return lid
        ### END SOLUTION

    def close(self):
        def key(): ...
        ### BEGIN SOLUTION
        return key
        ### END SOLUTION
"""
    assert sync._region_names(source) == ["Box.open", "Box.close"]
    assert sync._region_names("def box():\n    def lid():\n        ### BEGIN SOLUTION\n        pass\n") == [
        "box"
    ]
