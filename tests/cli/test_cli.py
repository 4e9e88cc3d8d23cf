"""The other commands: list, progress, doctor, lab, reset; bad input; where they work."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request

import pytest

from groundup import catalogue, progress


def test_list_tells_what_the_contract_says(groundup_here):
    code, out, err = groundup_here("list", "--json")
    entries = json.loads(out)
    assert (code, err) == (0, "")
    keys = {"id", "lesson", "title", "difficulty", "minutes", "points", "hints", "mistakes"}
    assert entries and all(set(entry) == keys for entry in entries)
    assert all(
        len(entry["hints"]) == 3 and all(isinstance(hint, str) for hint in entry["hints"])
        for entry in entries
    )


def test_the_mistakes_listed_are_those_that_the_engine_can_recognise(groundup_here):
    from groundup.check import load

    for entry in json.loads(groundup_here("list", "--json")[1]):
        names = [mistake.name for mistake in load(entry["id"]).mistakes]
        assert entry["mistakes"] == names and len(names) >= 3


def test_list_and_progress_for_a_person(course):
    assert "demo.small.double" in course.groundup("list").stdout
    answer = course.groundup("progress")
    assert "A small [lesson]" in answer.stdout and "0 of 2 exercises passed" in answer.stdout


def test_progress_shows_what_passed(groundup_here, monkeypatch):
    monkeypatch.delenv("GROUNDUP_NO_RECORD", raising=False)
    exercise = catalogue.lessons()[0]["exercises"][0]
    progress.record(exercise["id"])
    progress.record("left.the.course")
    row = json.loads(groundup_here("progress", "--json")[1])[0]
    assert (
        row["passed"] == 1
        and row["points"] == exercise["points"]
        and list(row["passed_at"]) == [exercise["id"]]
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["chekc"],
        ["list", "--jsn"],
        ["list", "too", "many"],
        ["check"],
        ["check", "a.ipynb", "b.ipynb"],
        ["reset"],
        ["reset", "no.such.lesson"],
        ["reset", "nowhere/99_nothing.ipynb"],
        ["reset", ""],
        ["lab", "--port", "many"],
        ["lab", "--port", "0"],
        ["lab", "--port", "70000"],
        ["--nonsense"],
    ],
)
def test_bad_input_is_one_line_and_code_2(groundup_here, arguments):
    code, out, err = groundup_here(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("groundup: ") and err.count("\n") == 1 and len(err) < 400


def test_version_and_help(groundup_here):
    code, out, _ = groundup_here("--version")
    assert code == 0 and re.fullmatch(r"groundup \d+\.\d+\.\d+\S*\n", out)
    for arguments in ([], ["--help"]):
        code, out, _ = groundup_here(*arguments)
        assert code == 0 and all(
            name in out for name in ("list", "check", "progress", "doctor", "lab", "reset")
        )


def test_a_reader_that_stops_early_is_no_error(course):
    command = f"{sys.executable} -m groundup.cli list --json | head -c 1"
    answer = subprocess.run(command, shell=True, capture_output=True, env=course.environment, timeout=30)
    assert (answer.stdout, answer.stderr) == (b"[", b"")


def test_a_terminal_without_unicode(course):
    answer = course.groundup("list", PYTHONIOENCODING="ascii")
    assert answer.returncode == 0 and "demo.small.double" in answer.stdout and answer.stderr == ""


def test_a_damaged_catalogue_is_one_line(course):
    (course.root / "src" / "groundup" / "catalogue.json").write_text("{")
    answer = course.groundup("list")
    assert (answer.returncode, answer.stdout, answer.stderr.count("\n")) == (2, "", 1)


def test_reset_by_id_name_and_path_from_any_folder_of_the_course(course):
    copy = course.root / "work" / "01_demo" / "01_small.ipynb"
    for number, asked in enumerate(["demo.small", "small", "work/01_demo/01_small.ipynb"]):
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(f"mine {number}")
        answer = course.groundup("reset", asked)
        assert answer.returncode == 0, answer.stderr
        assert copy.read_bytes() == (course.root / "exercises" / "01_demo" / "01_small.ipynb").read_bytes()
    kept = [path.read_text() for path in copy.parent.iterdir() if path != copy]
    assert sorted(kept) == ["mine 0", "mine 1", "mine 2"]
    assert course.groundup("reset", "demo.small", cwd=copy.parent).returncode == 0


def test_without_a_checkout_lab_and_reset_say_what_to_do(course, tmp_path):
    installed = course.root / "src"
    installed.rename(tmp_path / "site-packages")
    for command in (["lab", "--no-browser"], ["reset", "demo.small"]):
        answer = course.groundup(*command, cwd=tmp_path, PYTHONPATH=str(tmp_path / "site-packages"))
        assert (answer.returncode, answer.stdout) == (2, "")
        assert answer.stderr.count("\n") == 1 and "git clone" in answer.stderr
    answer = course.groundup("list", cwd=tmp_path, PYTHONPATH=str(tmp_path / "site-packages"))
    assert answer.returncode == 0


def test_a_folder_that_was_deleted_is_no_obstacle(course, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    command = f"cd {gone} && rmdir {gone} && {sys.executable} -m groundup.cli list"
    answer = subprocess.run(
        command, shell=True, capture_output=True, text=True, env=course.environment, timeout=30
    )
    assert answer.returncode == 0, answer.stderr


def test_doctor_tells_what_is_here(groundup_here):
    start = time.monotonic()
    _, out, err = groundup_here("doctor")
    assert time.monotonic() - start < 30  # 2 to 3 s on a free machine
    for word in ("Python", "torch", "device", "Triton", "disk", "progress", "course", "work"):
        assert f" {word} " in out, word
    assert err == ""


def test_doctor_finds_what_is_missing(tmp_path, monkeypatch):
    from groundup import doctor

    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda _: REQUIRES)
    monkeypatch.setattr(doctor, "_probe", lambda: {"torch error": "OSError: libc10.so is broken"})
    (tmp_path / "file").touch()
    monkeypatch.setenv("GROUNDUP_HOME", str(tmp_path / "file"))
    monkeypatch.chdir(tmp_path)
    found = {finding.what: finding for finding in doctor.examine()}
    assert {what for what, finding in found.items() if finding.status == "missing"} == {
        "a-package-that-is-nowhere",
        "rich",
        "device",
        "progress",
    }
    assert (
        found["absent-but-optional"].status == "note"
        and "windows-only" not in found
        and "for-authors" not in found
    )
    assert all("\n" not in finding.said + finding.todo for finding in found.values())
    assert all(finding.todo for finding in found.values() if finding.status == "missing")


REQUIRES = [
    "typer>=0.1",
    "rich>=9999",
    "a-package-that-is-nowhere>=1; extra == 'learn'",
    "absent-but-optional>=1; extra == 'jax'",
    "for-authors>=1; extra == 'book'",
    "windows-only; platform_system == 'Nowhere' and extra == 'learn'",
]


def test_doctor_ends_with_code_1_when_something_is_missing(groundup_here, monkeypatch):
    from groundup import doctor

    findings = [doctor.Finding("ok", "a", "b"), doctor.Finding("missing", "c", "d [e]", "f")]
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    code, out, _ = groundup_here("doctor")
    assert code == 1 and "d [e] → f" in out


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_lab_serves_the_working_copies_and_stops_cleanly(course, end):
    process = subprocess.Popen(
        [sys.executable, "-m", "groundup.cli", "lab", "--no-browser", "--port", "8950"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=course.root,
        env=course.environment,
    )
    try:
        line = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/lab\?token=\S+", line)[0]
        base, token = address.split("/lab?token=")
        with urllib.request.urlopen(
            f"{base}/api/contents/01_demo/01_small.ipynb?token={token}", timeout=20
        ) as reply:
            assert json.load(reply)["content"]["metadata"]["lesson"] == "demo.small"
        os.kill(process.pid, end)
        out, err = process.communicate(timeout=20)
        assert (process.returncode, err) == (0, "") and "Stopped." in out
        with pytest.raises(OSError):
            urllib.request.urlopen(base + "/api", timeout=2)
    finally:
        process.kill()


def test_lab_without_jupyterlab_says_what_to_do(groundup_here, monkeypatch, course):
    from groundup import lab

    monkeypatch.chdir(course.root)
    monkeypatch.setattr(lab.importlib.util, "find_spec", lambda _: None)
    code, _, err = groundup_here("lab", "--no-browser")
    assert code == 2 and err.count("\n") == 1 and "pip install jupyterlab" in err
