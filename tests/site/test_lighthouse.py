"""Lighthouse's accessibility and best practices, where node and an installed lighthouse are; nothing is fetched for it.

Install it with `npm install --global lighthouse`, or name its program in the environment as LIGHTHOUSE. How fast a page
is depends on the machine too: that is not asserted here (test_budget.py holds what it follows from).
"""

import json
import os
import shutil
import subprocess

import pytest

from tests.site.conftest import CHROMIUM

LIGHTHOUSE = os.environ.get("LIGHTHOUSE") or shutil.which("lighthouse")
CATEGORIES = ("accessibility", "best-practices")
LEAST = 95
PAGES = [
    "index.html",
    "chapters/01_autograd/05_tensors.html",
    "book/progress.html",
    "book/flashcards.html",
    "book/parts/autograd.html",
]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: Lighthouse did not run")
@pytest.mark.skipif(
    LIGHTHOUSE is None or shutil.which("node") is None,
    reason="no node or no lighthouse on this machine: its audits of accessibility and best practices did not run",
)
@pytest.mark.parametrize("preset", ["desktop", "phone"])
@pytest.mark.parametrize("page", PAGES)
def test_lighthouse_gives_at_least_95(address, tmp_path, page, preset):
    report = tmp_path / "report.json"
    command = [
        LIGHTHOUSE,
        address + page,
        *(["--preset=desktop"] if preset == "desktop" else []),
        "--quiet",
        "--output=json",
        f"--output-path={report}",
        f"--only-categories={','.join(CATEGORIES)}",
        "--chrome-flags=--headless=new --no-sandbox --disable-gpu",
    ]
    done = subprocess.run(
        command, env={**os.environ, "CHROME_PATH": CHROMIUM}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(report.read_text(encoding="utf-8"))
    scores = {name: round(100 * found["categories"][name]["score"]) for name in CATEGORIES}
    failed = [
        (name, audit["title"])
        for name, audit in found["audits"].items()
        if audit["score"] == 0 and audit["scoreDisplayMode"] == "binary"
    ]
    assert min(scores.values()) >= LEAST, (scores, failed)
    assert "label-content-name-mismatch" not in [
        name for name, _ in failed
    ]  # counted for nothing by Lighthouse
