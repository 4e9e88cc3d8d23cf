"""groundup.progress: nothing recorded is lost, and grading never fails because of it."""

import json
import multiprocessing
import os

import pytest

from groundup import progress


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GROUNDUP_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GROUNDUP_NO_RECORD", raising=False)
    progress._told.clear()
    return tmp_path / "home"


def test_a_pass_is_new_once(home):
    assert progress.passed() == {}
    assert progress.record("a.b.c") is True
    before = progress.passed()
    assert progress.record("a.b.c") is False
    assert progress.passed() == before and list(before) == ["a.b.c"] and before["a.b.c"].endswith("+00:00")


def test_no_record(home, monkeypatch):
    monkeypatch.setenv("GROUNDUP_NO_RECORD", "1")
    assert progress.record("a.b.c") is False
    assert not home.exists()


def _record_many(start: int) -> None:
    for number in range(25):
        progress.record(f"a.b.c{start + number}")


def test_four_processes_at_once_lose_nothing():
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        pool.map_async(_record_many, [0, 25, 50, 75]).get(timeout=60)
    assert len(progress.passed()) == 100


@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff", b"{", b"[]", b'{"passed": 3}', b'{"passed": {"a": 3}}', b"[" * 10**5]
)
@pytest.mark.parametrize("call", [progress.passed, lambda: progress.record("x.y.z")])
def test_an_unreadable_file_is_kept_and_told_on_one_line(home, capsys, content, call):
    home.mkdir()
    (home / "progress.json").write_bytes(content)
    call()
    kept = [path for path in home.iterdir() if path.name not in ("progress.json", "progress.lock")]
    assert [path.read_bytes() for path in kept] == [content]
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1 and kept[0].name in told.err
    assert progress.record("a.b.c") is True


def test_two_unreadable_files_within_a_second_are_both_kept(home):
    home.mkdir()
    for content in (b"one", b"two", b"three"):
        (home / "progress.json").write_bytes(content)
        progress.passed()
    kept = {path.read_bytes() for path in home.iterdir() if path.name != "progress.lock"}
    assert kept == {b"one", b"two", b"three"}


def test_a_home_that_cannot_be_written_is_told_once(home, monkeypatch, capsys):
    home.write_text("a file stands where the folder should be")
    assert [progress.record("a.b.c"), progress.record("a.b.d")] == [False, False]
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and str(home) in told
    assert progress.passed() == {}


def test_a_full_disk_leaves_the_old_file_whole(home, monkeypatch, capsys):
    progress.record("a.b.c")
    before = (home / "progress.json").read_bytes()

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert progress.record("a.b.d") is False
    assert (home / "progress.json").read_bytes() == before
    assert sorted(path.name for path in home.iterdir()) == ["progress.json", "progress.lock"]
    assert "No space left" in capsys.readouterr().err


def test_what_is_on_disk_is_what_the_contract_says(home):
    progress.record("b.b.b")
    progress.record("a.a.a")
    content = json.loads((home / "progress.json").read_text())
    assert set(content) == {"passed"} and set(content["passed"]) == {"a.a.a", "b.b.b"}
