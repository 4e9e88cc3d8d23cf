"""Takes the pictures of the README from the real site and the real JupyterLab: `make pictures`, after changes that show.

Each is a PNG of at most 80 KB in book/_static/, with fewer colours where Pillow is installed.
"""

import io
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Locator, Page, sync_playwright

from ci import book, start
from ci.lesson import ROOT
from groundup import workspace
from groundup.lab import Lab
from tests.site import test_jupyterlab as learner
from tests.site.conftest import CHROMIUM, FLAGS

FOLDER = ROOT / "book" / "_static"
LIMIT = 80_000  # bytes
GRAPH = "chapters/01_autograd/03_graph.html"
STEPS = 10  # of the slider: forward done, backward half-way


def save(name: str, picture: bytes) -> None:
    """Writes one picture, made small.

    Raises:
        SystemExit: it is too large all the same.
    """
    try:
        from PIL import Image
    except ImportError:
        pass
    else:
        small = io.BytesIO()
        Image.open(io.BytesIO(picture)).convert("RGB").quantize(128).save(small, "PNG", optimize=True)
        picture = min(picture, small.getvalue(), key=len)
    if len(picture) > LIMIT:
        raise SystemExit(f"{name} has {len(picture):,} bytes; {LIMIT:,} are allowed (is Pillow installed?)")
    (FOLDER / name).write_bytes(picture)
    print(f"{name}: {len(picture) / 1000:.0f} KB")


def of_the_site(browser: Browser, address: str) -> None:
    """The home page, and the part of a lesson whose figure has a slider."""
    tab = browser.new_page(viewport={"width": 1280, "height": 760})
    tab.goto(address)
    save("readme_home.png", tab.screenshot())
    tab.goto(address + GRAPH)
    slider = tab.locator(".figure-control input").first
    tab.evaluate("dispatchEvent(new Event('scroll'))")  # a reader begins: now every figure is drawn
    tab.evaluate("MathJax.startup.promise")
    tab.wait_for_function(
        "[...document.querySelectorAll('.figure-plot')].every((plot) => plot.querySelector('svg.main-svg'))"
    )
    slider.focus()
    for _ in range(STEPS):
        tab.keyboard.press("ArrowRight")
    tab.add_style_tag(content="#pst-back-to-top { display: none !important }")  # it would lie on the figure
    tab.wait_for_timeout(1000)  # the page has followed the focus
    slider.evaluate("(input) => input.closest('section').scrollIntoView({ behavior: 'instant' })")
    tab.wait_for_timeout(1000)
    save("readme_lesson.png", tab.screenshot())


def of_an_exercise(browser: Browser) -> None:
    """One exercise in JupyterLab, answered wrongly and then rightly, by typing and running as a learner does."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        shutil.copytree(ROOT / "exercises", root / "exercises")
        workspace.refresh(root)
        os.environ["GROUNDUP_HOME"] = str(root / "home")
        os.environ.pop("GROUNDUP_NO_RECORD", None)
        with Lab(root / "work", log=root / "lab.log") as lab:
            tab = browser.new_page(viewport={"width": 1120, "height": 1100})
            notebook = "/".join(learner.LESSON.exercise_path.parts[1:])
            learner.open_notebook(tab, lab.url, notebook)
            learner.go_to_the_stub(tab)
            stub = learner.active(tab)
            for file, text, said in (
                ("readme_wrong.png", learner.WRONG, learner.MISTAKE.sentence[:40]),
                ("readme_right.png", learner.RIGHT, "agrees with the reference"),
            ):
                reply = " ".join(learner.answer(tab, text).split())
                if said not in reply:
                    raise SystemExit(f"the autograder should have said {said!r}, and said {reply!r}")
                save(file, exercise(tab, stub))
            record = json.loads((root / "home" / "progress.json").read_text(encoding="utf-8"))
            assert list(record["passed"]) == [learner.EXERCISE.id]


def exercise(tab: Page, stub: Locator) -> bytes:
    """The window from the active cell, the answer, to the end of what the check said."""
    tab.wait_for_timeout(500)
    check = tab.locator(".jp-Notebook .jp-Cell").filter(has_text=f"check({learner.EXERCISE.name})").last
    top, bottom = stub.bounding_box(), check.bounding_box()
    box = {"x": top["x"], "y": top["y"] - 8, "width": top["width"]}
    return tab.screenshot(clip={**box, "height": bottom["y"] + bottom["height"] - box["y"] + 8})


def main() -> int:
    if book.build():
        return 1
    if CHROMIUM is None:
        raise SystemExit("the pictures need Chromium: install it, or name it in the environment as CHROMIUM")
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        with start.website(8300, start.Pages) as address:
            of_the_site(browser, address)
        of_an_exercise(browser)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
