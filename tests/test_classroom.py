"""A teacher's week with nbgrader: release, collect, autograde, feedback. The scores are those of `groundup check`."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from nbgrader.api import Gradebook
from nbgrader.apps import NbGraderAPI
from traitlets.config import Config

from ci.lesson import ROOT, lessons, read_notebook, write_notebook

LESSON = next(lesson for lesson in lessons() if lesson.id == "autograd.gradients")
PATH = ROOT / LESSON.exercise_path
# What this learner hands in: the first right, the second wrong, the third right, the rest blank.
WRONG = "def step_for(x):\n    return x\n"


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A classroom with one assignment, handed in by one learner and graded."""
    root = tmp_path_factory.mktemp("classroom")
    with pytest.MonkeyPatch.context() as patch:
        # nbgrader calls alembic by its bare name, as in an activated environment.
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        return graded(root)


def graded(root: Path) -> Path:
    name = PATH.name
    (root / "source" / "week1").mkdir(parents=True)
    shutil.copy(PATH, root / "source" / "week1" / name)
    config = Config()
    config.CourseDirectory.root = str(root)
    config.CourseDirectory.db_url = f"sqlite:///{root}/gradebook.db"
    config.ExecutePreprocessor.timeout = 120
    api = NbGraderAPI(config=config)
    done = api.generate_assignment("week1")
    assert done["success"], done["log"]
    released = root / "release" / "week1" / name
    handed_in = root / "submitted" / "ada" / "week1" / name
    handed_in.parent.mkdir(parents=True)
    notebook = read_notebook(released)
    answers = {LESSON.exercises[0].code.id: LESSON.exercises[0].source, LESSON.exercises[1].code.id: WRONG}
    answers[LESSON.exercises[2].code.id] = LESSON.exercises[2].source
    for cell in notebook.cells:
        cell.source = answers.get(cell.metadata.get("nbgrader", {}).get("grade_id"), cell.source)
    handed_in.write_text(write_notebook(notebook), encoding="utf-8")
    for step in (api.autograde, api.generate_feedback):
        done = step("week1", "ada")
        assert done["success"], done["log"]
    return root


def test_every_exercise_is_released_blank_with_its_points(course):
    released = read_notebook(course / "release" / "week1" / PATH.name)
    graded = [cell for cell in released.cells if cell.metadata.get("nbgrader", {}).get("grade")]
    assert [cell.metadata.nbgrader.points for cell in graded] == [e.points for e in LESSON.exercises]
    assert all(not cell.get("outputs") for cell in released.cells)
    assert "BEGIN SOLUTION" not in json.dumps(released)


def test_scores_are_those_of_groundup_check(course):
    handed_in = course / "submitted" / "ada" / "week1" / PATH.name
    done = subprocess.run(
        [sys.executable, "-m", "groundup.cli", "check", str(handed_in), "--json"],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    ours = {result["id"]: result["status"] == "passed" for result in json.loads(done.stdout)}
    assert [ours[exercise.id] for exercise in LESSON.exercises] == [True, False, True, False, False]
    with Gradebook(f"sqlite:///{course}/gradebook.db") as book:
        notebook = book.find_submission_notebook(PATH.stem, "week1", "ada")
        theirs = {grade.name: grade.score for grade in notebook.grades}
    assert theirs == {e.check.id: float(e.points * ours[e.id]) for e in LESSON.exercises}


def test_the_feedback_holds_the_sentence_that_names_the_mistake(course):
    page = (course / "feedback" / "ada" / "week1" / PATH.with_suffix(".html").name).read_text(
        encoding="utf-8"
    )
    assert "agrees with the reference" in page
    assert "step_for" in page and "AssertionError" in page
