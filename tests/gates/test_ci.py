"""The workflows can run, what they call exists and can be run by hand, and `make test` sums up rightly."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib

import pytest
import yaml

from ci import colab, gpu
from ci import test as ci_test
from ci.lesson import ROOT, read_notebook, write_notebook

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PYTHONS = ["3.11", "3.12", "3.13"]


def read(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_all_four_are_there():
    assert [path.stem for path in WORKFLOWS] == ["ci", "colab", "gpu", "site"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_is_whole(path):
    workflow = read(path)
    assert workflow["name"] and workflow[True], "YAML reads the key `on` as True"
    assert "permissions" in workflow, "no job gets more rights than it needs"
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 240 and job["runs-on"]
        assert all(("uses" in step) != ("run" in step) for step in job["steps"])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_by_major_version(path):
    for step in steps(read(path)):
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"]), step["uses"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_command_is_a_script_that_exists(path):
    for step in steps(read(path)):
        if "run" not in step:
            continue
        words = shlex.split(step["run"])
        if words[0].endswith(("python", "python3")):
            script = words[2].replace(".", "/") + ".py" if words[1] == "-m" else words[1]
            assert (ROOT / script).is_file(), step["run"]
        else:
            assert os.access(ROOT / words[0], os.X_OK), f"{words[0]} cannot be run"


def test_every_supported_python_is_tested():
    matrix = read(ROOT / ".github/workflows/ci.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert matrix == PYTHONS
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["requires-python"] == f">={PYTHONS[0]}"


@pytest.mark.parametrize("name", [".ci/run", *sorted(path.name for path in (ROOT / "ci").glob("*.sh"))])
def test_shell_scripts_parse(name):
    path = ROOT / name if name.startswith(".") else ROOT / "ci" / name
    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert "make test" in path.read_text() or name != ".ci/run"


def git(*arguments, cwd):
    done = subprocess.run(["git", *arguments], cwd=cwd, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def clone(tmp_path):
    """A repository with the course's scripts and an origin of its own."""
    origin, clone = tmp_path / "origin.git", tmp_path / "clone"
    git("init", "-q", "--bare", str(origin), cwd=tmp_path)
    git("clone", "-q", str(origin), str(clone), cwd=tmp_path)
    (clone / "ci").mkdir()
    for name in ("publish.sh", "pull_request.sh"):
        (clone / "ci" / name).write_bytes((ROOT / "ci" / name).read_bytes())
        (clone / "ci" / name).chmod(0o755)
    (clone / ".gitignore").write_text("_build/\n")
    git("add", "-A", cwd=clone)
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "first", cwd=clone)
    git("push", "-q", "origin", "HEAD", cwd=clone)
    return clone


def test_publish_pushes_the_site_and_touches_nothing_else(clone):
    (clone / "_build/html/_static").mkdir(parents=True)
    (clone / "_build/html/index.html").write_text("<h1>hello</h1>")
    (clone / "_build/html/_static/a.css").write_text("a {}")
    before = git("rev-parse", "HEAD", cwd=clone), git("status", "--porcelain", cwd=clone)
    for _ in range(2):  # the second one replaces the first
        subprocess.run(["ci/publish.sh"], cwd=clone, check=True, capture_output=True)
    assert (git("rev-parse", "HEAD", cwd=clone), git("status", "--porcelain", cwd=clone)) == before
    origin = clone.parent / "origin.git"
    names = git("ls-tree", "-r", "--name-only", "gh-pages", cwd=origin).splitlines()
    assert names == [".nojekyll", "_static/a.css", "index.html"]
    assert git("rev-list", "--count", "gh-pages", cwd=origin) == "1"


def test_publish_refuses_without_a_site(clone):
    done = subprocess.run(["ci/publish.sh"], cwd=clone, capture_output=True, text=True)
    assert done.returncode == 1 and "make book" in done.stderr


def test_pull_request_pushes_a_branch_only_when_something_changed(clone, tmp_path):
    fake = tmp_path / "bin"
    fake.mkdir()
    (fake / "gh").write_text('#!/bin/sh\necho "$@" >> "$GH_LOG"\n[ "$2" = create ]\n')
    (fake / "gh").chmod(0o755)
    environment = {**os.environ, "PATH": f"{fake}:{os.environ['PATH']}", "GH_LOG": str(tmp_path / "log")}
    command = ["ci/pull_request.sh", "results", "New results", "results"]
    (clone / "results").mkdir()
    (clone / "results/.keep").write_text("")
    git("add", "-A", cwd=clone)
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "second", cwd=clone)
    done = subprocess.run(command, cwd=clone, env=environment, check=True, capture_output=True, text=True)
    assert "nothing changed" in done.stdout and not (tmp_path / "log").exists()
    (clone / "results/new.json").write_text("{}")
    subprocess.run(command, cwd=clone, env=environment, check=True, capture_output=True)
    assert "results/new.json" in git(
        "ls-tree", "-r", "--name-only", "results", cwd=clone.parent / "origin.git"
    )
    assert "pr create --head results --title New results" in (tmp_path / "log").read_text()


# -------------------------------------------------------------------------------------------- make test


def test_the_summary_is_pytests_own_form():
    assert ci_test.summary({"tests": 9, "failures": 1, "errors": 0, "skipped": 2}, 0, 61.4) == (
        "============= 1 failed, 6 passed, 2 skipped in 61.40s (0:01:01) =============".center(80, "=")
    )
    assert " 9 passed, 1 error in 2.00s " in ci_test.summary(
        {"tests": 9, "failures": 0, "errors": 0, "skipped": 0}, 1, 2.0
    )


def test_a_failing_step_fails_the_whole_and_the_others_still_run(monkeypatch, capfd):
    def bad(counts):
        """Fails."""
        return [[sys.executable, "-c", "raise SystemExit(3)"]]

    def good(counts):
        """Counts."""
        xml = '<testsuites><testsuite tests="4" failures="0" errors="0" skipped="1"/></testsuites>'
        return [[sys.executable, "-c", f"open({str(counts)!r}, 'w').write({xml!r})"]]

    monkeypatch.setattr(ci_test, "STEPS", {"bad": bad, "good": good})
    assert ci_test.main([]) == 1
    lines = capfd.readouterr().out.strip().splitlines()
    assert re.fullmatch(r"=+ 3 passed, 1 skipped, 1 error in [\d.]+s =+", lines[-1])
    assert lines[-2].startswith("good     ok") and lines[-3].startswith("bad      FAILED")
    monkeypatch.setattr(ci_test, "STEPS", {"good": good})
    assert ci_test.main([]) == 0
    assert re.fullmatch(
        r"=+ 3 passed, 1 skipped in [\d.]+s =+", capfd.readouterr().out.strip().splitlines()[-1]
    )


# ------------------------------------------------------------------------------------- gpu, colab


def test_gpu_refuses_where_there_is_none(monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 1))
    assert gpu.main([]) == 2
    assert "no NVIDIA GPU" in capsys.readouterr().err


def test_gpu_runs_every_lesson_and_writes_a_record(course):
    """The whole run, at smoke scale: papermill and nbval in a copy of the course."""
    solved = course / "solutions/01_sample/01_first.ipynb"
    before = solved.read_bytes()
    record, problems = gpu.measure(course, [], scale="smoke")
    assert problems == [] and set(record["lessons"]) == {"sample.first"}
    assert record["lessons"]["sample.first"]["seconds"] > 0 and record["device"]
    assert solved.read_bytes() == before, "its stored outputs are not of that scale"
    path = gpu.write(record, course)
    assert path.parent == course / "book/results" and json.loads(path.read_text()) == record


def test_gpu_measures_a_training_step_rung_by_rung():
    """The real function, on a GPT so small that a CPU makes a step in a moment."""
    sizes = {"block_size": 8, "vocab_size": 50, "n_layer": 1, "n_head": 2, "n_embd": 16}
    rows = gpu.training_speed(sizes, B=2, T=8, device="cpu", repeats=1, compiled=False, profiled=False)
    assert len(rows) >= 3 and all(
        row["tokens_per_second"] > 0 and row["mfu"] > 0 for row in rows if "ms" in row
    )
    json.dumps(rows)


def test_gpu_refreshes_only_outputs_from_a_gpu(course):
    solved, made = course / "solutions/01_sample/01_first.ipynb", course / "made.ipynb"
    made.write_text("new", encoding="utf-8")
    gpu.refresh(made, solved, "gpu")
    assert solved.read_text(encoding="utf-8") != "new", "these came from a CPU"
    notebook = read_notebook(solved)
    notebook.metadata.groundup.scale = "gpu"
    solved.write_text(write_notebook(notebook), encoding="utf-8")
    gpu.refresh(made, solved, "gpu")
    assert solved.read_text(encoding="utf-8") == "new"


def test_gpu_names_an_unknown_lesson(course):
    assert gpu.measure(course, ["sample.none"]) == ({}, ["no lesson is called sample.none"])


def test_colab_names_what_an_installation_replaced(monkeypatch):
    found = iter(
        [
            {"numpy": "2.0", "torch": "2.11", "rich": "13"},
            {"numpy": "2.4", "torch": "2.11", "rich": "13", "groundup": "1"},
        ]
    )
    monkeypatch.setattr(colab, "versions", lambda: next(found))
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 0, "", ""))
    assert colab.install() == ["installing the course replaced numpy 2.0 by 2.4"]


def test_colab_grades_notebooks(monkeypatch, tmp_path):
    answer = [
        {"id": "a.b.c", "status": "passed", "message": ""},
        {"id": "a.b.d", "status": "todo", "message": "x"},
    ]
    monkeypatch.setattr(
        subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 1, json.dumps(answer), "")
    )
    assert colab.graded(tmp_path / "n.ipynb", "passed") == ["n.ipynb: a.b.d answers todo, not passed: x"]
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 0, "[]", ""))
    assert colab.graded(tmp_path / "n.ipynb", "passed") == ["n.ipynb: no exercise was found"]
