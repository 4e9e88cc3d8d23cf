"""A learner's hour in real JupyterLab: setup, a wrong answer, its mistake named, the right one, progress, widgets."""

import json
import shutil

import nbformat
import pytest

from ci.lesson import KERNEL, ROOT, lessons
from groundup import workspace
from groundup.check import load
from groundup.lab import Lab

LESSON = next(lesson for lesson in lessons() if lesson.id == "autograd.arrays")
EXERCISE = LESSON.exercises[0]
MISTAKE = next(m for m in load(EXERCISE.id).mistakes if m.name == "counted_in_numbers")
HEAD = "import math\n\n\ndef strides_of(shape, itemsize):\n    "
WRONG = HEAD + "return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))"
RIGHT = HEAD + "return tuple(itemsize * math.prod(shape[axis + 1 :]) for axis in range(len(shape)))"
ENDLESS = HEAD + "while True:\n        pass"
WIDGET = """from groundup import show
show.interactive(lambda k: show.bars({"a": k, "b": 2.0}, title=f"k is {k}"), [1.0, 2.0, 3.0], label="k", alt="Two bars, a and b; the slider sets a.")"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab on fresh working copies, as `make lab` starts it; the learner's records go to a folder of their own."""
    root = tmp_path_factory.mktemp("learner")
    shutil.copytree(ROOT / "exercises", root / "exercises")
    workspace.refresh(root)
    widget = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(WIDGET)], metadata={"kernelspec": KERNEL}
    )
    nbformat.write(widget, root / "work" / "widget.ipynb")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GROUNDUP_HOME", str(root / "home"))
        patch.delenv("GROUNDUP_NO_RECORD", raising=False)
        with Lab(root / "work", log=root / "lab.log") as running:
            running.root = root
            yield running


@pytest.fixture
def opened(lab, browser):
    """opened(notebook) opens it in a tab with its kernel idle."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})

    def go(notebook: str):
        tab = context.new_page()
        open_notebook(tab, lab.url, notebook)
        return tab

    yield go
    context.close()


def open_notebook(tab, url: str, notebook: str) -> None:
    """Opens it in JupyterLab at `url`, and waits until its kernel is ready."""
    tab.goto(url.replace("/lab?", f"/lab/tree/{notebook}?reset&"))  # not the tabs of an earlier test
    tab.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=90_000)
    # The status bar knows of the kernel when the notebook does; asked to run before, JupyterLab asks which kernel.
    tab.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=90_000)


def idle(tab) -> None:
    """Waits until the kernel has nothing to do."""
    tab.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for(timeout=60_000)


def active(tab):
    return tab.locator(".jp-Notebook .jp-Cell.jp-mod-active")


def run(tab) -> None:
    """Shift-Enter: runs the active cell and goes to the next."""
    tab.keyboard.press("Shift+Enter")
    tab.wait_for_timeout(150)
    idle(tab)


def go_to_the_stub(tab) -> None:
    """From the top, cell by cell as a reader goes, to the blank cell of the exercise, running what stands before."""
    tab.locator(".jp-Notebook .jp-Cell").first.click()
    tab.keyboard.press("Escape")
    for _ in range(30):
        if "def strides_of" in active(tab).locator(".cm-content").first.inner_text():
            return
        run(tab)
    raise AssertionError("no blank cell was found")


def answer(tab, text: str) -> str:
    """Writes `text` into the active cell, runs it, the example and the check; what the check says. Ends on the stub."""
    tab.keyboard.press("Enter")
    tab.locator(".jp-Notebook.jp-mod-editMode").wait_for()
    tab.keyboard.press("Control+A")
    tab.keyboard.insert_text(text)
    run(tab)  # the answer
    if text != ENDLESS:
        run(tab)  # the example
    else:
        tab.keyboard.press("Escape")
        tab.keyboard.press("ArrowDown")
    said = active(tab)
    assert "check(strides_of)" in said.locator(".cm-content").inner_text()
    handle = said.element_handle()
    tab.keyboard.press("Control+Enter")
    tab.wait_for_timeout(300)
    idle(tab)
    text = handle.query_selector(".jp-OutputArea").inner_text()
    for _ in range(2):
        tab.keyboard.press("ArrowUp")
    return text


@pytest.mark.timeout(240)
def test_a_wrong_answer_is_named_an_endless_one_stopped_and_the_right_one_recorded(lab, opened):
    tab = opened("/".join(LESSON.exercise_path.parts[1:]))
    go_to_the_stub(tab)
    assert MISTAKE.sentence[:60] in " ".join(answer(tab, WRONG).split())
    assert "did not finish within" in answer(tab, ENDLESS)
    assert "agrees with the reference" in answer(tab, RIGHT)
    record = json.loads((lab.root / "home" / "progress.json").read_text())
    assert list(record["passed"]) == [EXERCISE.id]


@pytest.mark.timeout(180)
def test_a_slider_is_live(opened):
    tab = opened("widget.ipynb")
    tab.locator(".jp-Notebook .jp-Cell").first.click()
    run(tab)
    tab.get_by_text("k is 1.0").wait_for(timeout=30_000)
    handle = tab.locator(".widget-slider .noUi-handle")
    handle.focus()
    tab.keyboard.press("ArrowRight")
    tab.get_by_text("k is 2.0").first.wait_for(timeout=15_000)
