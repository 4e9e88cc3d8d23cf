"""The built site, served on a port of this machine, and a browser. Both are made once."""

import fcntl
import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ci.lesson import ROOT

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture(scope="session")
def site() -> Path:
    """The folder of the built site, brought up to date first; one process at a time."""
    (ROOT / "_build").mkdir(exist_ok=True)
    with open(ROOT / "_build" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run([sys.executable, "-m", "ci.book"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return ROOT / "_build" / "html"


@pytest.fixture(scope="session")
def address(site) -> str:
    """Where the site is served, ending in a slash."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine: the pages were not loaded in a browser")
    with playwright.sync_playwright() as running:
        launched = running.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def contexts(browser):
    """One browser context for each theme and width, so that scripts are fetched once and then cached."""
    made = {}

    def context(theme: str, width: int):
        if (theme, width) not in made:
            made[theme, width] = browser.new_context(viewport={"width": width, "height": 900})
            made[theme, width].add_init_script(
                f"localStorage.setItem('mode', '{theme}'); localStorage.setItem('theme', '{theme}')"
            )
        return made[theme, width]

    yield context
    for one in made.values():
        one.close()


@pytest.fixture
def visit(contexts, address):
    """visit(page, theme, width) opens a page of the site and waits for its formulas and figures.

    The page's `.trouble` lists what went wrong while it loaded, and `.asked` the addresses that it asked for.
    """
    tabs = []

    def go(page: str, theme: str = "light", width: int = 1280):
        tab = contexts(theme, width).new_page()
        tabs.append(tab)
        tab.trouble, tab.asked = [], []
        tab.on("console", lambda said: said.type == "error" and tab.trouble.append(said.text))
        tab.on("pageerror", lambda error: tab.trouble.append(str(error)))
        tab.on("requestfailed", lambda request: tab.trouble.append(f"failed: {request.url}"))
        tab.on("request", lambda request: tab.asked.append(request.url))
        tab.on("response", lambda got: got.status >= 400 and tab.trouble.append(f"{got.status} {got.url}"))
        tab.goto(address + page, wait_until="load")
        tab.wait_for_function("!window.MathJax || (MathJax.startup && MathJax.startup.promise)")
        tab.evaluate("window.MathJax && MathJax.startup.promise")
        tab.evaluate("dispatchEvent(new Event('scroll'))")  # a reader begins: now every figure is drawn
        tab.wait_for_function(
            "[...document.querySelectorAll('.figure-plot')].every((plot) => plot.querySelector('svg.main-svg'))"
        )
        return tab

    yield go
    for tab in tabs:
        tab.close()
