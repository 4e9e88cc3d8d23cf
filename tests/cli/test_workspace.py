"""Working copies: nothing that the learner wrote is ever lost, and a new version always reaches them."""

import itertools
import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup import workspace

LESSON = "exercises/01_demo/01_small.ipynb"


def make(root: Path, content: bytes = b"version 0") -> Path:
    source = root / LESSON
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_bytes(content)
    return root / "work" / "01_demo" / "01_small.ipynb"


def contents(root: Path) -> dict[str, bytes]:
    folder = root / "work" / "01_demo"
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_copy_is_handed_out_and_then_left_alone(tmp_path):
    copy = make(tmp_path)
    assert workspace.refresh(tmp_path) == []
    assert copy.read_bytes() == b"version 0"
    copy.write_bytes(b"mine")
    assert workspace.refresh(tmp_path) == []
    assert contents(tmp_path) == {"01_small.ipynb": b"mine"}


def test_the_word_to_assistants_is_handed_out_like_a_notebook(tmp_path):
    make(tmp_path)
    told = tmp_path / "exercises" / "AGENTS.md"
    told.write_text("be a teacher")
    workspace.refresh(tmp_path)
    copy = tmp_path / "work" / "AGENTS.md"
    assert copy.read_text() == "be a teacher"
    copy.write_text("mine")
    told.write_text("be a good teacher")
    assert workspace.refresh(tmp_path)
    assert copy.read_text() == "mine"
    assert (tmp_path / "work" / "AGENTS.new.md").read_text() == "be a good teacher"


def test_an_unedited_copy_is_replaced(tmp_path):
    copy = make(tmp_path)
    workspace.refresh(tmp_path)
    make(tmp_path, b"version 1")
    (line,) = workspace.refresh(tmp_path)
    assert "up to date" in line
    assert contents(tmp_path) == {copy.name: b"version 1"}
    assert workspace.refresh(tmp_path) == []


def test_beside_an_edited_copy_the_new_version_lands_once_and_says_so(tmp_path):
    copy = make(tmp_path)
    workspace.refresh(tmp_path)
    copy.write_bytes(b"mine")
    make(tmp_path, b"version 1")
    (line,) = workspace.refresh(tmp_path)
    assert "01_small.new.ipynb" in line and "\n" not in line
    assert contents(tmp_path) == {"01_small.ipynb": b"mine", "01_small.new.ipynb": b"version 1"}
    assert workspace.refresh(tmp_path) == []
    (copy.parent / "01_small.new.ipynb").unlink()
    assert workspace.refresh(tmp_path) == [], "what was thrown away is not pressed on the learner again"


def test_an_edited_new_version_is_kept_too_and_an_unedited_one_is_replaced(tmp_path):
    copy = make(tmp_path)
    workspace.refresh(tmp_path)
    copy.write_bytes(b"mine")
    make(tmp_path, b"version 1")
    workspace.refresh(tmp_path)
    make(tmp_path, b"version 2")
    workspace.refresh(tmp_path)
    assert contents(tmp_path) == {"01_small.ipynb": b"mine", "01_small.new.ipynb": b"version 2"}
    (copy.parent / "01_small.new.ipynb").write_bytes(b"mine as well")
    make(tmp_path, b"version 3")
    (line,) = workspace.refresh(tmp_path)
    assert "01_small.new-2.ipynb" in line
    assert contents(tmp_path) == {
        "01_small.ipynb": b"mine",
        "01_small.new.ipynb": b"mine as well",
        "01_small.new-2.ipynb": b"version 3",
    }


def test_the_new_version_moved_over_the_old_counts_as_unedited(tmp_path):
    copy = make(tmp_path)
    workspace.refresh(tmp_path)
    copy.write_bytes(b"mine")
    make(tmp_path, b"version 1")
    workspace.refresh(tmp_path)
    os.replace(copy.parent / "01_small.new.ipynb", copy)
    make(tmp_path, b"version 2")
    workspace.refresh(tmp_path)
    assert contents(tmp_path) == {"01_small.ipynb": b"version 2"}


@pytest.mark.parametrize("manifest", [b"", b"{", b"[]", b'{"01_demo/01_small.ipynb": 3}', None])
def test_without_a_readable_manifest_every_copy_is_the_learners(tmp_path, manifest):
    make(tmp_path)
    workspace.refresh(tmp_path)
    path = tmp_path / "work" / workspace.MANIFEST
    path.unlink() if manifest is None else path.write_bytes(manifest)
    make(tmp_path, b"version 1")
    workspace.refresh(tmp_path)
    assert contents(tmp_path) == {"01_small.ipynb": b"version 0", "01_small.new.ipynb": b"version 1"}


def test_a_notebook_saved_while_it_is_being_replaced_is_kept(tmp_path, monkeypatch):
    copy = make(tmp_path)
    workspace.refresh(tmp_path)
    make(tmp_path, b"version 1")
    move = workspace._files.move_aside

    def saved_just_before(path):
        path.write_bytes(b"saved this instant")
        return move(path)

    monkeypatch.setattr(workspace._files, "move_aside", saved_just_before)
    workspace.refresh(tmp_path)
    assert copy.read_bytes() == b"saved this instant"
    assert b"version 1" in contents(tmp_path).values()


def test_a_folder_or_dangling_link_in_the_place_of_a_copy(tmp_path):
    copy = make(tmp_path)
    copy.mkdir(parents=True)
    (copy / "note").write_text("mine")
    workspace.refresh(tmp_path)
    assert (copy / "note").read_text() == "mine"
    assert (copy.parent / "01_small.new.ipynb").read_bytes() == b"version 0"
    with pytest.raises(workspace.WorkspaceError, match="is a folder"):
        workspace.reset(tmp_path, LESSON)
    assert (copy / "note").read_text() == "mine"
    copy.rename(tmp_path / "away")
    copy.symlink_to("nowhere")
    workspace.refresh(tmp_path)
    assert copy.is_symlink()


def test_reset_keeps_every_old_copy_even_within_one_second(tmp_path):
    copy = make(tmp_path)
    workspace.refresh(tmp_path)
    kept = set()
    for number in range(5):
        copy.write_bytes(b"mine %d" % number)
        target, old = workspace.reset(tmp_path, LESSON)
        assert target == copy and copy.read_bytes() == b"version 0"
        kept.add(old)
    assert sorted(path.read_bytes() for path in kept) == [b"mine %d" % number for number in range(5)]
    copy.unlink()
    assert workspace.reset(tmp_path, LESSON) == (copy, None)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    make(tmp_path)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(workspace.WorkspaceError, match="cannot be written"):
            workspace.refresh(tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_a_file_in_the_place_of_the_folder_is_one_line(tmp_path):
    make(tmp_path)
    (tmp_path / "work").write_text("mine")
    with pytest.raises(workspace.WorkspaceError, match="cannot be written"):
        workspace.refresh(tmp_path)
    with pytest.raises(workspace.WorkspaceError, match="cannot be written"):
        workspace.reset(tmp_path, LESSON)
    assert (tmp_path / "work").read_text() == "mine"


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "edit",
                "edit new",
                "update",
                "refresh",
                "reset",
                "rename",
                "delete",
                "revert",
                "adopt",
                "forget",
            ]
        ),
        st.integers(0, 5),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_no_sequence_of_steps_loses_what_the_learner_wrote(steps):
    with tempfile.TemporaryDirectory() as name:
        root, number = Path(name), itertools.count(1)
        copy = make(root)
        folder = copy.parent
        versions = [b"version 0"]
        mine: dict[bytes, None] = {}  # what the learner wrote and did not themselves overwrite or delete
        workspace.refresh(root)
        for step, which in steps:
            files = sorted(folder.iterdir())
            chosen = files[which % len(files)] if files else None
            if step == "edit" or (step == "edit new" and chosen is None):
                mine.pop(copy.read_bytes() if copy.exists() else b"", None)
                copy.write_bytes(b"mine %d" % next(number))
                mine[copy.read_bytes()] = None
            elif step == "edit new":
                mine.pop(chosen.read_bytes(), None)
                chosen.write_bytes(b"mine %d" % next(number))
                mine[chosen.read_bytes()] = None
            elif step == "update":
                versions.append(b"version %d" % next(number))
                make(root, versions[-1])
            elif step == "revert":
                make(root, versions[which % len(versions)])
            elif step == "refresh":
                workspace.refresh(root)
            elif step == "reset":
                workspace.reset(root, LESSON)
                assert copy.read_bytes() == (root / LESSON).read_bytes()
            elif step == "rename" and chosen is not None:
                chosen.rename(folder / f"renamed {next(number)}.ipynb")
            elif step == "adopt" and chosen is not None and chosen != copy:
                mine.pop(copy.read_bytes() if copy.exists() else b"", None)
                os.replace(chosen, copy)
            elif step == "delete" and chosen is not None:
                mine.pop(chosen.read_bytes(), None)
                chosen.unlink()
            elif step == "forget":
                (root / "work" / workspace.MANIFEST).unlink(missing_ok=True)
            there = set(contents(root).values())
            assert there >= set(mine), step
        workspace.refresh(root)
        assert copy.exists(), "after a refresh there is always a copy to work on"
        assert not list(folder.glob(".*")), "no temporary file stays behind"


def test_the_manifest_is_json_of_hashes(tmp_path):
    make(tmp_path)
    workspace.refresh(tmp_path)
    manifest = json.loads((tmp_path / "work" / workspace.MANIFEST).read_text())
    assert list(manifest) == ["01_demo/01_small.ipynb"] and len(manifest["01_demo/01_small.ipynb"][0]) == 64
