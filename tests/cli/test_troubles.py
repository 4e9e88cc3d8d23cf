"""What can be wrong with a learner's machine: each trouble is one line that says what it is and what to do."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ci import start
from groundup import progress, workspace
from groundup.check.explain import is_learners

from .conftest import answers

LESSON = "exercises/01_demo/01_small.ipynb"


def one_line(text: str) -> str:
    assert text.count("\n") == 1 and text.endswith("\n") and "Traceback" not in text, text
    return text


# a full disk


@pytest.fixture
def full_disk(monkeypatch):
    """Call it: from then on nothing can be written."""

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return lambda: monkeypatch.setattr(os, "fsync", full)


@pytest.fixture
def handed_out(tmp_path) -> Path:
    """A working copy of version 0."""
    source = tmp_path / LESSON
    source.parent.mkdir(parents=True)
    source.write_bytes(b"version 0")
    workspace.refresh(tmp_path)
    return tmp_path / "work" / "01_demo" / "01_small.ipynb"


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("action", ["reset", "refresh"])
@pytest.mark.parametrize("content", [b"mine", b"version 0"])
def test_on_a_full_disk_every_working_copy_stays_where_it_is(
    handed_out, tmp_path, monkeypatch, full_disk, links, action, content
):
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: os.fsync(0))
    handed_out.write_bytes(content)
    (tmp_path / LESSON).write_bytes(b"version 1")
    full_disk()
    with pytest.raises(workspace.WorkspaceError, match=r"No space left on device.*free space"):
        workspace.reset(tmp_path, LESSON) if action == "reset" else workspace.refresh(tmp_path)
    assert {path.name: path.read_bytes() for path in handed_out.parent.iterdir()} == {
        handed_out.name: content
    }


@pytest.mark.parametrize("action", ["reset", "refresh"])
def test_the_last_room_is_lost_half_way_and_the_copy_comes_back(
    handed_out, tmp_path, monkeypatch, full_disk, action
):
    """Where a disk has no hard links, putting the new version in place may fail after the old one has moved."""

    def nothing_more(*_):
        full_disk()
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", nothing_more)
    (tmp_path / LESSON).write_bytes(b"version 1")
    with pytest.raises(workspace.WorkspaceError):
        workspace.reset(tmp_path, LESSON) if action == "reset" else workspace.refresh(tmp_path)
    assert {path.name: path.read_bytes() for path in handed_out.parent.iterdir()} == {
        handed_out.name: b"version 0"
    }


def test_progress_says_what_to_do_when_it_cannot_be_kept(tmp_path, monkeypatch, capsys, full_disk):
    monkeypatch.setenv("GROUNDUP_HOME", str(tmp_path))
    monkeypatch.delenv("GROUNDUP_NO_RECORD", raising=False)
    progress._told.clear()
    assert progress.record("a.b.c")
    full_disk()
    assert not progress.record("d.e.f")
    told = one_line(capsys.readouterr().err)
    assert "No space left on device" in told and "free space there" in told and "GROUNDUP_HOME" in told
    assert list(progress.passed()) == ["a.b.c"]


@pytest.fixture
def no_room(tmp_path, monkeypatch) -> Path:
    """`make start` in a checkout on a disk with 1 MB left; a build would fail the test."""
    for name, place in {"ROOT": "", "SITE": "_build/html", "STATE": "_build/start"}.items():
        monkeypatch.setattr(start, name, tmp_path / place)
    start.STATE.mkdir(parents=True)
    monkeypatch.setattr(start.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10**6}))
    monkeypatch.setattr(start.subprocess, "run", lambda *_, **__: pytest.fail("the build was started"))
    return tmp_path


def test_without_room_for_the_site_start_says_so_and_serves_an_older_one(no_room, capsys):
    with pytest.raises(
        start.StartError, match=r"^the site cannot be built, the disk is full: free 200 MB at "
    ):
        start.build_site()
    start.SITE.mkdir(parents=True)
    (start.SITE / "index.html").write_text("older")
    start.build_site()
    assert "Serving the site as it was last built: the disk is full" in one_line(capsys.readouterr().err)


# a folder that can only be read


@pytest.mark.parametrize(
    ("number", "todo"), [(errno.EROFS, "move the course to"), (errno.ENOSPC, "free space")]
)
def test_start_that_cannot_write_says_where_and_what_to_do(no_room, monkeypatch, capsys, number, todo):
    def refused(path, *_, **__):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(sys, "argv", ["start", "--no-lab"])
    monkeypatch.setattr(start._files, "locked", refused)
    assert start.main() == 1
    told = one_line(capsys.readouterr().err)
    assert told.startswith(f"start: {start.STATE / 'lock'} cannot be written (") and todo in told


def private_mounts() -> str:
    """Why this process may not mount what only it sees; empty if it may."""
    if sys.platform != "linux":
        return "mounts are tried on Linux only"
    answer = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, text=True
    )
    return answer.stderr.strip() or ("" if answer.returncode == 0 else "unshare --mount is not allowed here")


def test_a_course_on_a_read_only_disk(course):
    if why := private_mounts():
        pytest.skip(f"no read-only disk can be made: {why}")
    notebook = course.write(answers())
    here = str(course.root)
    script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && cd "$0" && exec "$@"'

    def groundup(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "groundup.cli", *arguments]
        environment = course.environment | {"GROUNDUP_HOME": f"{here}/home"}
        return subprocess.run(
            ["unshare", "--mount", "sh", "-c", script, here, *command],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment,
        )

    for command in (["lab", "--no-browser"], ["reset", "small"]):
        answer = groundup(*command)
        assert (answer.returncode, answer.stdout) == (2, "")
        assert "Read-only file system" in one_line(answer.stderr)
    answer = groundup("check", str(notebook))
    assert answer.returncode == 0 and "2 of 2 passed" in answer.stdout
    assert "progress is not recorded" in one_line(answer.stderr)
    told = [line for line in groundup("doctor").stdout.splitlines() if "Read-only" in line]
    assert [line.split()[1] for line in told] == ["progress", "work"] and all("→" in line for line in told)


# packages


def test_code_of_packages_is_no_learners_wherever_they_are_installed():
    def code(path: str):
        return compile("x = 1", path, "exec")

    for folder in ("/home/me/.local/lib/python3.12/site-packages", "/usr/lib/python3/dist-packages"):
        assert not is_learners(code(f"{folder}/torch/_tensor.py"))
    for path in ("/home/me/packages/helper.py", "/tmp/ipykernel_12/34.py", "<cell 3>"):
        assert is_learners(code(path))


def test_a_pytorch_that_cannot_be_loaded_leads_to_doctor(course):
    (course.root / "src" / "torch.py").write_text(
        'raise OSError("libc10.so: cannot open shared object file")'
    )
    answer = course.groundup("check", course.write(answers()))
    assert "libc10.so" in answer.stdout and "see `groundup doctor`" in answer.stdout
    assert answer.returncode == 1 and answer.stderr == ""
    answer = course.groundup("doctor")
    (line,) = [line for line in answer.stdout.splitlines() if "libc10.so" in line]
    assert answer.returncode == 1 and "pip install --force-reinstall" in line


def test_the_command_to_install_is_for_this_python_and_any_shell(monkeypatch):
    from groundup import doctor

    monkeypatch.setattr(sys, "executable", "/my course/python")
    assert doctor._pip("install", "torch>=2") == '"/my course/python" -m pip install "torch>=2"'
    monkeypatch.setattr(sys, "executable", r"C:\course\python.exe")
    assert doctor._pip("install", "torch") == r"C:\course\python.exe -m pip install torch"


# Windows

# What Python lacks there; imported by every Python that finds it on its path, so by those that we start as well.
WINDOWS = """
import os, signal, subprocess, sys, types

for name in ("fcntl", "resource", "pwd", "grp", "termios", "pty", "tty"):
    sys.modules[name] = None
for name in ("fork", "killpg", "setsid", "getpgid", "setpgid", "geteuid", "getuid"):
    delattr(os, name)
for name in ("SIGALRM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGPIPE", "setitimer", "getitimer", "alarm",
             "ITIMER_REAL", "pthread_kill", "pthread_sigmask"):
    delattr(signal, name)
lock = types.ModuleType("msvcrt")
lock.LK_NBLCK, lock.locking = 2, lambda descriptor, mode, count: open(__file__ + ".locked", "a").close()
sys.modules["msvcrt"] = lock
"""


def test_without_what_only_unix_has_everything_that_needs_none_of_it_works(course, tmp_path):
    system = tmp_path / "system"
    system.mkdir()
    (system / "sitecustomize.py").write_text(WINDOWS)
    path = os.pathsep.join([str(system), str(course.root / "src")])

    def groundup(*arguments: object) -> subprocess.CompletedProcess:
        answer = course.groundup(*arguments, PYTHONPATH=path)
        assert answer.stderr == ""
        return answer

    kills = (
        "import os\n    try:\n        os.kill(os.getpid(), 9)\n    except RuntimeError:\n        return x + x"
    )
    answer = groundup("check", course.write(answers(kills, "return abs(x)")))
    assert "double passed" in answer.stdout and "You took the absolute value" in answer.stdout
    assert "No time limit here" in answer.stdout
    assert "1 of 2 exercises passed" in groundup("progress").stdout
    assert (system / "sitecustomize.py.locked").exists(), "progress was written under a lock of Windows"
    assert "is fresh" in groundup("reset", "small").stdout
    assert "demo.small" in groundup("list").stdout and "groundup" in groundup("--version").stdout
    assert "Python" in groundup("doctor").stdout
