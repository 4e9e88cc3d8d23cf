"""`make start`: build the site if it is outdated, serve it, and JupyterLab on the learner's working copies beside it.

    python -m ci.start [--port PORT] [--no-lab]

Runs under the Python of .venv (ci/bootstrap.py sees to that). Everything listens on this machine alone.
"""

import argparse
import contextlib
import errno
import functools
import hashlib
import http.server
import json
import shutil
import signal
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path
from types import FrameType

from groundup import _files, progress, workspace
from groundup.lab import HOST, Lab, LabError, free_port

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "_build" / "html"
STATE = ROOT / "_build" / "start"  # what is running, and the logs
SOURCES = (
    "_config.yml",
    "_toc.yml",
    "book",
    "chapters",
    "exercises",
    "solutions",
    "ci/book.py",
    "src/groundup/show",
)
ROOM = 200 * 2**20  # bytes that a build may need; with less, Sphinx fails half-way, in many lines


class StartError(Exception):
    """The course cannot be started; the message is one line that says why and what to do."""


def main() -> int:
    """Run until Ctrl-C or SIGTERM; exit code 0 then, 1 if the course could not be started."""
    parser = argparse.ArgumentParser(prog="start")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--no-lab", action="store_true")
    arguments = parser.parse_args()
    stopped = threading.Event()

    def stop(*_: int | FrameType | None) -> None:
        stopped.set()
        raise KeyboardInterrupt

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), stop)
    try:
        STATE.mkdir(parents=True, exist_ok=True)
        with _files.locked(STATE / "lock", seconds=0) as first:
            if not first:
                return say_where_it_runs()
            serve(arguments.port, lab=not arguments.no_lab)
    except KeyboardInterrupt:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # a second Ctrl-C must not cut the stopping short
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.SIG_IGN)
        print("\nStopped.")
        return 0
    except (StartError, LabError, workspace.WorkspaceError) as error:
        print(f"start: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        place, why = error.filename or STATE, error.strerror or error
        todo = (
            "free space"
            if error.errno == errno.ENOSPC
            else "move the course to a folder that you may write to"
        )
        print(f"start: {place} cannot be written ({why}): {todo}, then run this again", file=sys.stderr)
        return 1
    return 0


def say_where_it_runs() -> int:
    """The course is being served already: print where. Exit code 0."""
    try:
        running = json.loads((STATE / "running.json").read_text(encoding="utf-8"))
        addresses = {str(name): str(address) for name, address in running.items()}
    except (OSError, ValueError, AttributeError):
        addresses = {}
    if addresses:
        print("Already running:")
        show(addresses)
    else:
        print("Another `make start` is just starting; its terminal prints the addresses.")
    return 0


def serve(port: int, *, lab: bool) -> None:
    """Build, refresh, serve, and wait; leaves by KeyboardInterrupt (or an error), with both servers stopped."""
    build_site()
    for line in workspace.refresh(ROOT):
        print(line)
    with contextlib.ExitStack() as stack:
        pages = type("PagesOfThisRun", (Pages,), {})
        addresses = {"Website": stack.enter_context(website(port, pages))}
        server = None
        if lab:
            print("Starting JupyterLab ...", flush=True)
            try:
                server = stack.enter_context(Lab(ROOT / "work", log=STATE / "jupyter" / "lab.log"))
                addresses["JupyterLab"] = pages.lab = server.url
            except LabError as error:
                print(f"{error}. The website works without it.", file=sys.stderr)
        running = STATE / "running.json"
        _files.write_whole(running, json.dumps(addresses).encode())
        running.chmod(0o600)  # the address holds JupyterLab's token
        stack.callback(running.unlink, missing_ok=True)
        show(addresses)
        print("Ctrl-C stops both." if server else "Ctrl-C stops it.", flush=True)
        while True:
            threading.Event().wait(0.5)
            if server is not None and not server.running():
                print(
                    f"JupyterLab has ended (its log: {STATE / 'jupyter' / 'lab.log'}); the website goes on.",
                    flush=True,
                )
                server = pages.lab = None


def show(addresses: dict[str, str]) -> None:
    """Print the addresses, one a line."""
    print()
    for name, address in addresses.items():
        print(f"  {name:<12}{address}")
    print(flush=True)


def build_site() -> None:
    """Call ci/book.py if anything that it reads has changed since it last succeeded.

    Raises:
        StartError: the build failed, or had no room, and there is no earlier site to serve.
    """
    stamp = STATE / "site.stamp"
    state = sources_state()
    if (SITE / "index.html").is_file() and stamp.is_file() and stamp.read_text(encoding="utf-8") == state:
        return
    if shutil.disk_usage(ROOT).free < ROOM:
        advice = f"the disk is full: free {ROOM >> 20} MB at {ROOT}, then run this again"
        if not (SITE / "index.html").is_file():
            raise StartError(f"the site cannot be built, {advice}")
        print(f"Serving the site as it was last built: {advice}.", file=sys.stderr)
        return
    print("Building the site ...", flush=True)
    # A draft: a lesson whose outputs are out of date says so on its page, which is better than no site.
    command = [sys.executable, "-m", "ci.book", "--draft"]
    failed = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL).returncode
    if not failed:
        stamp.write_text(state, encoding="utf-8")
    elif (SITE / "index.html").is_file():
        print("The site was not built cleanly (see above); serving what there is.", file=sys.stderr)
    else:
        raise StartError("the site could not be built (see above); `make lab` works without it")


def sources_state() -> str:
    """A hash of the names, sizes and times of all that the site is made from: reading them whole would take long."""
    lines = []
    for name in SOURCES:
        top = ROOT / name
        for path in [top, *sorted(top.rglob("*"))] if top.exists() else []:
            if path.is_file() and "__pycache__" not in path.parts:
                facts = path.stat()
                lines.append(f"{path.relative_to(ROOT)} {facts.st_size} {facts.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves the site without a word: a browser that hangs up early is no news."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing."""


class Pages(http.server.SimpleHTTPRequestHandler):
    """Files of the site; always asked for again, so that a rebuilt page is what the reader sees.

    Under /local/ stands what only this machine has: progress.json, the autograder's record, and lab/NOTEBOOK, which leads
    to that notebook in JupyterLab (`lab`, its address; None without it). A cookie tells the pages which of them there are.
    """

    lab: str | None = None

    def do_GET(self) -> None:
        """A file of the site, or something of this machine."""
        path = urllib.parse.urlsplit(self.path).path
        if path == "/local/progress.json":
            content = json.dumps({"passed": progress.passed()}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        elif path.startswith("/local/lab/") and self.lab:
            address, _, token = self.lab.partition("?")
            self.send_response(302)
            self.send_header("Location", f"{address}/tree/{path.removeprefix('/local/lab/')}?{token}")
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def end_headers(self) -> None:
        """Add our headers to the usual ones."""
        self.send_header("Cache-Control", "no-cache")
        here = "lab" if self.lab else "site"
        self.send_header("Set-Cookie", f"groundup_local={here}; Path=/; SameSite=Strict")
        super().end_headers()


@contextlib.contextmanager
def website(port: int, pages: type[Pages]):
    """Serve the site in a thread on the first free port from `port`; yields its address."""
    handler = functools.partial(pages, directory=str(SITE))
    while True:
        port = free_port(port)
        try:
            server = Server((HOST, port), handler)
            break
        except OSError:  # taken since we looked
            port += 1
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{port}/"
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    sys.exit(main())
