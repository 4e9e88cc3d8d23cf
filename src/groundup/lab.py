"""JupyterLab on the learner's working copies: started quietly, on a free port, for this machine alone."""

import contextlib
import importlib.util
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

HOST = "127.0.0.1"
START_SECONDS = 90.0  # the first start on a cold disk compiles hundreds of modules

# What the course's own tools add to Jupyter, and a news pop-up: a learner has no use for them.
_SERVER_OFF = [
    "jupytext",
    "jupyterlab_jupytext",
    *(f"nbgrader.server_extensions.{name}" for name in ("assignment_list", "course_list")),
]
_SERVER_OFF += [f"nbgrader.server_extensions.{name}" for name in ("formgrader", "validate_assignment")]
_LAB_OFF = ["@jupyterlab/apputils-extension:announcements", "jupyterlab-jupytext", "@jupyter/nbgrader"]


class LabError(Exception):
    """JupyterLab did not start; the message is one line that says why and what to do."""


class Lab:
    """A running JupyterLab; `url` opens it. Use as a context manager: leaving it stops the server and its kernels."""

    def __init__(self, folder: Path, *, port: int = 8888, log: Path):
        """Start JupyterLab on `folder` at the first free port from `port`, and wait until it answers.

        Raises:
            LabError: JupyterLab is not installed, or did not start.
        """
        if importlib.util.find_spec("jupyterlab") is None:
            raise LabError("JupyterLab is not installed here: run `pip install jupyterlab ipywidgets`")
        token = secrets.token_urlsafe(24)
        for _ in range(5):  # another program may take the port between our look and Jupyter's start
            self.port = free_port(port)
            self.url = f"http://{HOST}:{self.port}/lab?token={token}"
            self.process = _start(folder, self.port, token, log)
            if self._answers():
                return
            self.stop()
            port = self.port + 1
        raise LabError(f"JupyterLab did not start; {log} says why")

    def _answers(self) -> bool:
        deadline = time.monotonic() + START_SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError, urllib.error.URLError):
                urllib.request.urlopen(f"http://{HOST}:{self.port}/api", timeout=2).close()
                return self.process.poll() is None  # else another server answered
            time.sleep(0.1)
        return False

    def running(self) -> bool:
        """Whether the server process is alive."""
        return self.process.poll() is None

    def stop(self) -> None:
        """Ask the server to shut its kernels and itself down; insist after ten seconds."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=10)
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        else:
            self.process.kill()
        self.process.wait()

    def __enter__(self) -> "Lab":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def free_port(first: int) -> int:
    """The first port from `first` on which nothing listens on this machine.

    Raises:
        LabError: a hundred ports in a row are busy.
    """
    for port in range(first, min(first + 100, 65536)):
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=0.5):
            continue  # something answers there, perhaps on all addresses: binding to ours alone would hide it
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return port
    raise LabError(f"no port from {first} to {min(first + 99, 65535)} is free: choose another with --port")


def _start(folder: Path, port: int, token: str, log: Path) -> subprocess.Popen:
    log.parent.mkdir(parents=True, exist_ok=True)
    settings = log.with_name("jupyter-settings")
    _write_settings(settings)
    paths = [str(settings), *filter(None, [os.environ.get("JUPYTER_CONFIG_PATH")])]
    environment = os.environ | {"JUPYTER_TOKEN": token, "JUPYTER_CONFIG_PATH": os.pathsep.join(paths)}
    with open(log, "wb") as output:
        return subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "jupyterlab", "--no-browser", f"--ServerApp.ip={HOST}"),
                *(f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--ServerApp.open_browser=False"),
                f"--ServerApp.root_dir={folder}",
                *(["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=folder,
            start_new_session=True,  # Ctrl-C in the terminal reaches only us, and we stop it in order
        )


def _write_settings(folder: Path) -> None:
    (folder / "labconfig").mkdir(parents=True, exist_ok=True)
    server = {"ServerApp": {"jpserver_extensions": dict.fromkeys(_SERVER_OFF, False)}}
    (folder / "jupyter_server_config.json").write_text(json.dumps(server), encoding="utf-8")
    page = {"disabledExtensions": dict.fromkeys(_LAB_OFF, True)}
    (folder / "labconfig" / "page_config.json").write_text(json.dumps(page), encoding="utf-8")
