"""The built site, served on a port of this machine, and a browser. Both are made once."""

import functools
import http.server
import os
import shutil
import threading
from pathlib import Path

import pytest

from ci.lesson import ROOT

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture(scope="session")
def site() -> Path:
    """The folder of the built site; built if it is not there."""
    folder = ROOT / "_build" / "html"
    if not (ROOT / "_build" / ".clean").exists():
        from ci.book import build

        assert build() == 0
    return folder


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


@pytest.fixture
def visit(browser, address):
    """visit(page, theme, width) opens a page of the site and waits for its formulas and figures.

    The page's `.trouble` lists what went wrong while it loaded, and `.asked` the addresses that it asked for.
    """
    contexts = []

    def go(page: str, theme: str = "light", width: int = 1280, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        context.add_init_script(
            f"if (!localStorage.getItem('mode')) {{ localStorage.setItem('mode', '{theme}');"
            f" localStorage.setItem('theme', '{theme}'); }}"
        )
        tab = context.new_page()
        tab.trouble, tab.asked = [], []
        tab.on("console", lambda said: said.type == "error" and tab.trouble.append(said.text))
        tab.on("pageerror", lambda error: tab.trouble.append(str(error)))
        tab.on("requestfailed", lambda request: tab.trouble.append(f"failed: {request.url}"))
        tab.on("request", lambda request: tab.asked.append(request.url))
        tab.on("response", lambda got: got.status >= 400 and tab.trouble.append(f"{got.status} {got.url}"))
        tab.goto(address + page, wait_until="load")
        tab.wait_for_function("!window.MathJax || (MathJax.startup && MathJax.startup.promise)")
        tab.evaluate("window.MathJax && MathJax.startup.promise")
        tab.wait_for_function(
            "[...document.querySelectorAll('.figure-plot')].every((plot) => plot.querySelector('svg.main-svg'))"
        )
        return tab

    yield go
    for context in contexts:
        context.close()
