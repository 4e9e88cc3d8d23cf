"""`make setup` and `make start`: real environments and servers, in a small checkout, with no package index to reach."""

import ast
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from .conftest import ROOT

BOOTSTRAP = ROOT / "ci" / "bootstrap.py"

# The small checkout builds itself: no tool to build with has to be fetched.
BACKEND = """
import pathlib, zipfile


def build_editable(folder, config_settings=None, metadata_directory=None):
    name = "groundup-0.1-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(folder, name), "w") as wheel:
        wheel.writestr("groundup.pth", str(pathlib.Path("src").resolve()))
        info = "groundup-0.1.dist-info"
        extras = "".join(f"Provides-Extra: {extra}\\n" for extra in ("learn", "book", "test", "jax", "triton"))
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\\nName: groundup\\nVersion: 0.1\\n{extras}")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", "")
    return name
"""
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""

# Builds a site of one page; FAIL in the environment makes it fail.
BOOK = """
import os, pathlib, sys

print("stub site built")
if os.environ.get("FAIL"):
    sys.exit("no")
page = pathlib.Path(__file__).parent.parent / "_build" / "html" / "index.html"
page.parent.mkdir(parents=True, exist_ok=True)
page.write_text("<h1>The site</h1>")
"""


def wheel(folder: Path, name: str, version: str) -> None:
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", "")
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


def environment(**more: str) -> dict[str, str]:
    """No package index, no settings of this machine's pip."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    return clean | {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_NO_CACHE_DIR": "1"} | more


def bootstrap(root: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(root / "ci" / "bootstrap.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        env=environment(**more),
        cwd=root.parent,
    )


@pytest.fixture
def module():
    """ci/bootstrap.py as a module."""
    spec = importlib.util.spec_from_file_location("bootstrap", BOOTSTRAP)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "check out"
    (root / "ci").mkdir(parents=True)
    shutil.copy(BOOTSTRAP, root / "ci")
    (root / "ci" / "constraints.txt").write_text("torch==1.5\n")
    (root / "ci" / "no-deps.txt").write_text("# nothing but these files\nmathfiles==2.0\n")
    (root / "pyproject.toml").write_text(PROJECT + '[project]\nname = "groundup"\nversion = "0.1"\n')
    (root / "backend.py").write_text(BACKEND)
    wheels = tmp_path / "wheels"
    for version in ("1.5", "9.0"):
        wheel(wheels, "torch", version)
    wheel(wheels, "mathfiles", "2.0")
    return root


def test_setup_from_failure_to_success_to_nothing_to_do(checkout, tmp_path):
    links = {"PIP_FIND_LINKS": str(tmp_path / "wheels")}

    # No network: one line, and what is done so far stays.
    answer = bootstrap(
        checkout, "setup", PIP_NO_INDEX="0", PIP_INDEX_URL="http://127.0.0.1:9/", PIP_RETRIES="1"
    )
    assert answer.returncode == 1
    assert answer.stderr.count("\n") == 1 and "connect to the network" in answer.stderr
    assert "Traceback" not in answer.stdout + answer.stderr
    assert not (checkout / ".venv" / "groundup-setup.json").exists()
    made = (checkout / ".venv" / "pyvenv.cfg").stat().st_mtime_ns

    # With it: goes on where it was.
    answer = bootstrap(checkout, "setup", **links)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert re.findall(r"^\d/\d .*: done, \d+ s$", answer.stdout, re.M) and answer.stderr == ""
    assert "4/4" in answer.stdout
    assert (checkout / ".venv" / "pyvenv.cfg").stat().st_mtime_ns == made, "the environment was made once"
    installed = {path.name for path in checkout.glob(".venv/lib/python*/site-packages/*.dist-info")}
    assert {"torch-1.5.dist-info", "groundup-0.1.dist-info", "mathfiles-2.0.dist-info"} <= installed
    assert "Successfully installed" in (checkout / ".venv" / "setup.log").read_text()

    # Again: nothing to do, and pip is not asked.
    start = time.monotonic()
    answer = bootstrap(checkout, "setup")
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")
    assert time.monotonic() - start < 3  # 0.05 s on a free machine

    # A pin changes, and the tests need more than learning: installed anew. Learning needs no less than the tests.
    (checkout / "ci" / "constraints.txt").write_text("torch==9.0\n")
    assert bootstrap(checkout, "setup", "--test", **links).returncode == 0
    assert list(checkout.glob(".venv/lib/python*/site-packages/torch-9.0.dist-info"))
    assert bootstrap(checkout, "setup", **links).stdout == ""

    # The folder is moved: the scripts inside name the old place, so the environment is made afresh.
    moved = checkout.rename(tmp_path / "moved")
    answer = bootstrap(moved, "setup", **links)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert str(moved) in (moved / ".venv" / "bin" / "pip").read_text(), "its scripts run here"


def test_an_environment_whose_python_is_gone_is_neither_complete_nor_usable(ready, module):
    assert module.up_to_date(False)
    python = ready / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/nowhere/python")
    assert not module.up_to_date(False) and not module.usable()


def test_a_file_in_the_place_of_the_environment_is_one_line(checkout):
    (checkout / ".venv").write_text("mine")
    answer = bootstrap(checkout, "setup")
    assert (answer.returncode, answer.stderr.count("\n")) == (1, 1) and "remove it" in answer.stderr
    assert (checkout / ".venv").read_text() == "mine"


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
            "disk is full",
        ),
        ("The virtual environment was not created because ensurepip is not available.", "python3-venv"),
        ("/usr/bin/python3: No module named venv", "python3-venv"),
        ("Failed to establish a new connection: [Errno -3] Temporary failure in name resolution", "network"),
        ("ERROR: No matching distribution found for torch==9.9", "torch==9.9"),
        ("PermissionError: [Errno 13] Permission denied: '/x'", "permissions"),
        ("ERROR: ResolutionImpossible: for help visit", "ci/constraints.txt"),
        ("OSError: [Errno 30] Read-only file system: '/x'", "nothing can be written"),
    ],
)
def test_known_causes_have_advice(module, output, words):
    advice = module.advice(f"something\n{output}\nmore")
    assert words in advice and "\n" not in advice


def test_an_unknown_failure_shows_pips_last_error(module, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LOG", tmp_path / "log")
    command = [sys.executable, "-c", "print('ERROR: something new'); raise SystemExit(1)"]
    with pytest.raises(module.Failure, match=r"this step failed \(ERROR: something new\)\. Log: "):
        module.run(module.Step("1/1 x"), command)
    assert "something new" in (tmp_path / "log").read_text()


def test_old_pythons_can_read_it(module):
    ast.parse(BOOTSTRAP.read_text(encoding="utf-8"), feature_version=(3, 6))


def test_an_old_python_hands_over_to_a_newer_one_and_passes_over_broken_shims(module, tmp_path, monkeypatch):
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    for name, text in (("shim", "#!/bin/sh\necho 'command not found' >&2\nexit 127\n"), ("good", None)):
        (tmp_path / name).mkdir()
        program = tmp_path / name / f"python{version}"
        program.symlink_to(sys.executable) if text is None else program.write_text(text)
        if text is not None:
            program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'shim'}{os.pathsep}{tmp_path / 'good'}")
    monkeypatch.setattr(sys, "argv", ["ci/bootstrap.py", "setup"])
    real = tuple(sys.version_info[:2])
    monkeypatch.setattr(module, "PYTHONS", [real])
    monkeypatch.setattr(module.sys, "version_info", (3, 8, 18, "final", 0))
    called = []
    monkeypatch.setattr(module.os, "execv", lambda *arguments: called.append(arguments))
    with pytest.raises(module.Failure):  # execv does not return in earnest
        module.use_a_supported_python()
    good = str(tmp_path / "good" / f"python{version}")
    assert called == [(good, [good, "ci/bootstrap.py", "setup"])]


def test_without_any_newer_python_it_says_what_to_install(module, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module.sys, "version_info", (3, 8, 18, "final", 0))
    with pytest.raises(module.Failure, match=r"needs Python 3\.11, 3\.12 or 3\.13, and this is 3\.8\.18"):
        module.use_a_supported_python()


OLD = next(iter(sorted(Path.home().glob(".pyenv/versions/3.[6-9].*/bin/python"))), None)


@pytest.mark.skipif(OLD is None, reason="no Python older than 3.10 here")
def test_a_really_old_python_prints_one_line(checkout, tmp_path):
    answer = subprocess.run(
        [str(OLD), str(checkout / "ci" / "bootstrap.py"), "setup"],
        capture_output=True,
        text=True,
        timeout=30,
        env={"PATH": str(tmp_path)},
    )
    assert (answer.returncode, answer.stdout, answer.stderr.count("\n")) == (1, "", 1)
    assert "needs Python 3.11" in answer.stderr


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["start", "--port", "x"], ["start", "--port", "0"]])
def test_bad_arguments_end_with_code_2(checkout, arguments):
    answer = bootstrap(checkout, *arguments)
    assert answer.returncode == 2 and "Traceback" not in answer.stderr


# start


@pytest.fixture
def ready(course, module, monkeypatch) -> Path:
    """The small course as a checkout whose .venv is complete: made by hand, and stamped."""
    root = course.root
    (root / "ci").mkdir()
    for name in ("bootstrap.py", "start.py"):
        shutil.copy(ROOT / "ci" / name, root / "ci" / name)
    (root / "ci" / "book.py").write_text(BOOK)
    (root / "pyproject.toml").write_text(PROJECT)
    venv = root / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True, timeout=60)
    (site,) = venv.glob("lib/python*/site-packages")
    packages = [path for path in sys.path if path.endswith("site-packages")]
    (site / "here.pth").write_text("\n".join([str(root / "src"), *packages]))
    for name, path in {"ROOT": root, "VENV": venv, "STAMP": venv / "groundup-setup.json"}.items():
        monkeypatch.setattr(module, name, path)
    stamp = {"inputs": module.inputs(), "python": module.venv_version(), "root": str(root), "test": False}
    (venv / "groundup-setup.json").write_text(json.dumps(stamp))
    assert module.up_to_date(False)
    return root


class Started:
    """`bootstrap.py start` running; `lines` are read up to the one that says how to stop it."""

    def __init__(self, root: Path, *arguments: str, **more: str):
        self.process = subprocess.Popen(
            [sys.executable, str(root / "ci" / "bootstrap.py"), "start", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(**more),
        )
        self.text = ""
        for line in self.process.stdout:
            self.text += line
            if line.startswith("Ctrl-C"):
                break

    def address(self, name: str) -> str:
        return re.search(rf"^  {name} +(http://127\.0\.0\.1:\S+)$", self.text, re.M)[1]

    def stop(self, how: int) -> None:
        self.process.send_signal(how)
        out, err = self.process.communicate(timeout=30)
        assert (self.process.returncode, err) == (0, "")
        assert out.strip() == "Stopped."

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.communicate(timeout=30)


def get(address: str) -> str:
    with urllib.request.urlopen(address, timeout=10) as reply:
        return reply.read().decode()


@pytest.fixture
def busy_port():
    """A port that another program listens on, on all addresses."""
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        yield other.getsockname()[1]


def test_start_serves_site_and_lab_and_stops_both(ready, busy_port):
    with Started(ready, "--port", str(busy_port)) as running:
        site, lab = running.address("Website"), running.address("JupyterLab")
        assert "stub site built" in running.text
        assert int(site.rstrip("/").rpartition(":")[2]) > busy_port
        assert "The site" in get(site)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(site + "nowhere.html")
        base, token = lab.split("/lab?token=")
        listing = json.loads(get(f"{base}/api/contents?token={token}"))
        assert [entry["name"] for entry in listing["content"]] == ["01_demo"]
        with pytest.raises(urllib.error.HTTPError, match="403"):
            get(f"{base}/api/contents")

        second = bootstrap(ready, "start")
        assert (
            second.returncode == 0 and site in second.stdout and lab in second.stdout and second.stderr == ""
        )
        assert (ready / "_build" / "start" / "running.json").stat().st_mode & 0o077 == 0

        running.stop(signal.SIGINT)
        for address in (site, base):
            with pytest.raises(OSError):
                get(address)


def test_a_second_start_builds_only_what_changed_and_survives_a_build_that_fails(ready):
    with Started(ready, "--no-lab") as running:
        assert "stub site built" in running.text and "JupyterLab" not in running.text
        running.stop(signal.SIGTERM)
    with Started(ready, "--no-lab") as running:
        assert "stub site built" not in running.text
        running.stop(signal.SIGTERM)
    (ready / "book").mkdir()
    (ready / "book" / "new.md").write_text("# New")
    with Started(ready, "--no-lab", FAIL="1") as running:
        assert "The site" in get(running.address("Website"))
        running.process.send_signal(signal.SIGTERM)
        _, err = running.process.communicate(timeout=30)
        assert "serving what there is" in err and running.process.returncode == 0


def test_a_first_build_that_fails_is_one_line(ready):
    answer = bootstrap(ready, "start", FAIL="1")
    assert answer.returncode == 1 and "Traceback" not in answer.stderr
    assert answer.stderr.splitlines()[-1].startswith("start: the site could not be built")


def test_the_learners_copies_are_refreshed_and_told(ready):
    copy = ready / "work" / "01_demo" / "01_small.ipynb"
    copy.parent.mkdir(parents=True)
    copy.write_text("mine")
    with Started(ready, "--no-lab") as running:
        assert "01_small.new.ipynb" in running.text
    assert copy.read_text() == "mine"


# environment.yml


def test_conda_environment_is_in_step_with_pyproject():
    yaml = pytest.importorskip("yaml")
    content = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    python, pip, by_pip = content["dependencies"]
    assert python.startswith("python" + project["requires-python"]) and pip == "pip"
    assert content["name"] == project["name"]
    editable = next(line for line in by_pip["pip"] if line.startswith("--editable"))
    extras = re.fullmatch(r"--editable \.\[([\w,]+)\]", editable)[1].split(",")
    assert set(extras) <= set(project["optional-dependencies"])
    assert f'"{",".join(extras)}"' in BOOTSTRAP.read_text(encoding="utf-8"), "the same extras as `make setup`"
    assert "--constraint ci/constraints.txt" in by_pip["pip"] and (ROOT / "ci" / "constraints.txt").is_file()
    assert by_pip["pip"].index("torch") < by_pip["pip"].index(editable)
    assert "--requirement ci/no-deps.txt" in by_pip["pip"], "the digits and MathJax"


def test_conda_environment_names_the_pythons_of_make_setup(module):
    content = (ROOT / "environment.yml").read_text(encoding="utf-8")
    (bounds,) = re.findall(r"^  - python(\S+)$", content, re.M)
    supported = SpecifierSet(bounds)
    assert [number for number in range(30) if f"3.{number}" in supported] == [
        minor for _, minor in module.PYTHONS
    ]


def test_every_package_that_a_learner_needs_is_pinned_to_a_version_that_fits():
    """The pins are all that `make setup` and conda go by: one that no longer fits makes both of them fail."""
    pins = pinned_versions()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *extras["learn"], *extras["book"], *requirement_lines("no-deps.txt")]
    for requirement in map(Requirement, needed):
        pinned = pins.get(canonicalize_name(requirement.name))
        assert pinned is not None, f"{requirement.name} has no pin"
        assert requirement.specifier.contains(pinned, prereleases=True), f"{requirement}, but {pinned}"


# What torch's builds for CUDA ask for (its page on the package index shows it); its builds for CPU ask for none.
TRITON_OF_TORCH = {"2.13.0": "3.7.1"}


def test_the_pin_of_triton_is_the_one_that_torch_asks_for_on_linux():
    """With any other, pip finds no way to install torch on Linux; on a machine with a CPU build nobody would notice."""
    pins = pinned_versions()
    assert pins["triton"] == TRITON_OF_TORCH[pins["torch"]]


def pinned_versions() -> dict[str, str]:
    return {
        canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
        for pin in map(Requirement, requirement_lines("constraints.txt"))
    }


def requirement_lines(name: str) -> list[str]:
    lines = (ROOT / "ci" / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]
