"""The skeleton of a new lesson."""

from ci import new_lesson, sync
from ci.lesson import read
from tests.sample_course import make


def test_a_skeleton_syncs_at_once_and_says_what_is_missing(tmp_path, capsys):
    make(tmp_path)
    assert new_lesson.main(["autograd", "losses"], tmp_path) == 0
    assert "places marked MISSING" in capsys.readouterr().out
    lesson = read(tmp_path / "chapters/01_autograd/06_losses.md", tmp_path)
    assert lesson.covers == (72, 129, 130) and len(lesson.exercises) == 1
    # What a beginner would not guess the form of is in the skeleton, in the form that the gates accept.
    assert len(lesson.recall) == 5 and any(lesson.code("interactive"))
    assert max(len(line) for cell in lesson.code() for line in cell.source.splitlines()) <= 88
    assert sync.main([], tmp_path) == 0
    compile((tmp_path / "src/groundup/checks/autograd/losses.py").read_text(), "losses.py", "exec")


def test_nothing_is_overwritten(tmp_path, capsys):
    make(tmp_path)
    assert new_lesson.main(["autograd", "losses"], tmp_path) == 0
    chapter = tmp_path / "chapters/01_autograd/06_losses.md"
    chapter.write_text("mine")
    assert new_lesson.main(["autograd", "losses"], tmp_path) == 2
    assert chapter.read_text() == "mine"
    assert "already there" in capsys.readouterr().err


def test_unknown_names_are_one_line(tmp_path, capsys):
    make(tmp_path)
    assert new_lesson.main(["cooking", "losses"], tmp_path) == 2
    assert new_lesson.main(["autograd", "soup"], tmp_path) == 2
    errors = capsys.readouterr().err
    assert "add yours to ci/curriculum.toml" in errors
    assert (
        errors.count("\n") == 2 and "no part is called 'cooking'" in errors and "no lesson 'soup'" in errors
    )
