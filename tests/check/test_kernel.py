"""In a real Jupyter kernel: the time limit works, the kernel survives, lines of a cell are quoted."""

import nbformat
import pytest
from nbclient import NotebookClient

DECLARE = """
import os
os.environ["GROUNDUP_NO_RECORD"] = "1"
import numpy as np
from groundup.check import Case, Checker, Exercise
exercise = Exercise("kernel.small.double", seconds=0.5)
exercise.cases(lambda rng: [Case("an array", x=rng.normal(size=3))])
exercise.oracle(lambda x: 2 * x)
check = Checker("kernel.small", [exercise])
"""

ANSWERS = {
    "right": "def double(x):\n    return x + x",
    "loop": "def double(x):\n    while True:\n        try:\n            while True: pass\n        except BaseException: pass",
    "error": "def double(x):\n    y = x\n    return y / missing_name",
    "exit": "import os\ndef double(x):\n    os._exit(1)",
    "quit": "def double(x):\n    quit()",
    "interrupt": "def double(x):\n    raise KeyboardInterrupt",
    "closes": "import sys\ndef double(x):\n    sys.stdout.close()\n    return x",
    "stub": "def double(x):\n    raise NotImplementedError('write double')",
    # A kernel that was asked to stop does so a moment later.
    "still right": "import time\ntime.sleep(0.5)\ndef double(x):\n    return x + x",
}


@pytest.fixture(scope="module")
def outputs():
    """Kind of answer → the check's output."""
    cells = [nbformat.v4.new_code_cell(DECLARE)]
    for source in ANSWERS.values():
        cells += [nbformat.v4.new_code_cell(source), nbformat.v4.new_code_cell("check(double)")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    found = {}
    for name, cell in zip(ANSWERS, notebook.cells[2::2], strict=True):
        assert len(cell.outputs) == 1, (name, cell.outputs)
        found[name] = cell.outputs[0]["data"]
    return found


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("right", "✓ double: passed"),
        ("loop", "did not finish within 0.5 s"),
        ("error", "line 3, in double: return y / missing_name"),
        ("exit", "os._exit would end the whole notebook"),
        ("quit", "quit() would end the whole notebook"),
        ("interrupt", "KeyboardInterrupt"),
        ("closes", "✗ double: not yet"),
        ("stub", "… double: to do. Not written yet: write double."),
        ("still right", "✓ double: passed"),
    ],
)
def test_each_answer(outputs, name, words):
    assert words in outputs[name]["text/plain"]
    assert 'role="status"' in outputs[name]["text/html"]
    assert "ipykernel" not in outputs[name]["text/plain"] and "Traceback" not in outputs[name]["text/plain"]
