"""groundup.ladder: rungs that are kept, shown, ordered and refused."""

import json

import pytest

from groundup import ladder


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GROUNDUP_HOME", str(tmp_path))
    monkeypatch.delenv("GROUNDUP_NO_RECORD", raising=False)
    monkeypatch.delenv("GROUNDUP_SCALE", raising=False)
    return tmp_path


def rung(name="a sample", bits=3.25, scale="cpu"):
    return ladder.record(name, bits_per_byte=bits, parameters=7, scale=scale)


def own():
    return [one for one in ladder.rungs() if one.name in ("a sample", "another")]


def test_a_rung_is_kept_and_a_new_run_replaces_it():
    rung(bits=3.25), rung("another", 9.5), rung(bits=3.125)
    assert [(one.name, one.bits_per_byte) for one in own()] == [("another", 9.5), ("a sample", 3.125)]


def test_the_learner_s_own_rung_takes_the_place_of_the_course_s(monkeypatch):
    monkeypatch.setattr(ladder, "_published", lambda: [ladder.Rung("a sample", 1.5, 1, "cpu")])
    assert own()[0].bits_per_byte == 1.5
    rung(bits=2.5)
    assert [one.bits_per_byte for one in own()] == [2.5]


@pytest.mark.parametrize("reason", ["smoke", "no record"])
def test_a_run_that_says_nothing_is_shown_but_not_kept(reason, monkeypatch, home):
    if reason == "no record":
        monkeypatch.setenv("GROUNDUP_NO_RECORD", "1")
    shown = rung(scale="smoke" if reason == "smoke" else "cpu")._repr_mimebundle_()
    assert shown["text/plain"] == "on the ladder: a sample, 3.250 bits per byte, 7 parameters"
    assert json.loads(json.dumps(shown[ladder.MIME]))["bits_per_byte"] == 3.25
    assert not (home / "ladder.json").exists() and own() == []


@pytest.mark.parametrize(
    ("bits", "parameters"), [(0, 1), (-1, 1), (float("nan"), 1), (float("inf"), 1), (1, -1)]
)
def test_numbers_that_cannot_be_are_refused(bits, parameters):
    with pytest.raises(ValueError, match="is a"):
        ladder.record("a sample", bits_per_byte=bits, parameters=parameters, scale="cpu")


def test_a_broken_file_and_a_folder_that_cannot_be_written_stop_no_lesson(home, monkeypatch, capsys):
    (home / "ladder.json").write_text("{")
    assert own() == []
    rung()
    assert len(own()) == 1
    (home / "file").write_text("")
    monkeypatch.setenv("GROUNDUP_HOME", str(home / "file"))
    assert rung().bits_per_byte == 3.25
    assert "the rung is not kept" in capsys.readouterr().out
