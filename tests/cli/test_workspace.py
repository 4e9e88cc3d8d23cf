"""Working copies: nothing that the learner wrote is ever lost, and a new version always reaches them."""

import contextlib
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


class Killed(BaseException):
    """The process has ended: nothing is tidied up after it."""


@contextlib.contextmanager
def killed_at_call(which: int):
    """The program is killed at its `which`-th change to the disk; that one is half done or not done at all."""
    left = itertools.count(which, -1)

    def until_killed(real, half_done=None):
        def call(*arguments):
            left_now = next(left)
            if left_now < 0:
                raise Killed  # the dead change nothing
            if left_now == 0:
                if half_done:
                    half_done(*arguments)
                raise Killed
            return real(*arguments)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("replace", "link", "unlink"):
            patch.setattr(os, name, until_killed(getattr(os, name)))
        # A write that is cut off: the file is there, with the first bytes.
        patch.setattr(os, "fsync", until_killed(os.fsync, lambda descriptor: os.ftruncate(descriptor, 3)))
        with contextlib.suppress(Killed):
            yield


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
                "lesson renamed",
                "reorder",
                "cut",
                "killed",
            ]
        ),
        st.integers(0, 9),
    ),
    max_size=25,
)


# GROUNDUP_EXAMPLES=2000 looks further than every run of the tests can.
@settings(max_examples=int(os.environ.get("GROUNDUP_EXAMPLES", "150")), deadline=None)
@given(STEPS)
def test_no_sequence_of_steps_loses_what_the_learner_wrote(steps):
    with tempfile.TemporaryDirectory() as name:
        root, number = Path(name), itertools.count(1)
        copy = make(root)
        folder, lesson = copy.parent, LESSON
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
                (root / lesson).write_bytes(versions[-1])
            elif step == "revert":
                (root / lesson).write_bytes(versions[which % len(versions)])
            elif step == "lesson renamed":  # by an update: under the old name nothing is handed out any more
                renamed = f"exercises/01_demo/0{which}_other.ipynb"
                os.replace(root / lesson, root / renamed)
                lesson, copy = renamed, folder / Path(renamed).name
            elif (
                step in ("reorder", "cut") and chosen is not None
            ):  # what is handed out is edited, not written anew
                old = chosen.read_bytes()
                mine.pop(old, None)
                chosen.write_bytes(
                    old[::-1] if step == "reorder" else old[which + 1 :] + b"~%d" % next(number)
                )
                if chosen.read_bytes() not in versions:
                    mine[chosen.read_bytes()] = None
            elif step == "killed":
                with killed_at_call(which):
                    workspace.refresh(root) if which % 2 else workspace.reset(root, lesson)
            elif step == "refresh":
                workspace.refresh(root)
            elif step == "reset":
                workspace.reset(root, lesson)
                assert copy.read_bytes() == (root / lesson).read_bytes()
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
        if "killed" not in dict(steps):
            assert not list(folder.glob(".*")), "no temporary file stays behind"


def test_the_manifest_is_json_of_hashes(tmp_path):
    make(tmp_path)
    workspace.refresh(tmp_path)
    manifest = json.loads((tmp_path / "work" / workspace.MANIFEST).read_text())
    assert list(manifest) == ["01_demo/01_small.ipynb"] and len(manifest["01_demo/01_small.ipynb"][0]) == 64
