"""The built HTML without a browser: links, the home page's words, what publishing changes."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from ci.lesson import ROOT, lessons, read_notebook
from groundup.check import grade


@pytest.fixture(scope="module")
def soups(site) -> dict[Path, BeautifulSoup]:
    return {
        path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in site.rglob("*.html")
    }


def test_every_internal_link_and_anchor_resolves(site, soups):
    anchors = {path: {tag["id"] for tag in soup.find_all(id=True)} for path, soup in soups.items()}
    broken = []
    for path, soup in soups.items():
        for tag in soup.find_all(["a", "link", "script", "img"]):
            link = tag.get("href") or tag.get("src")
            if not link or urllib.parse.urlsplit(link).scheme:
                continue
            parts = urllib.parse.urlsplit(link)
            target = (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                broken.append(f"{path.relative_to(site)}: {link}")
            elif parts.fragment and target in anchors and parts.fragment not in anchors[target]:
                broken.append(f"{path.relative_to(site)}: no anchor {link}")
    assert broken == []


def test_nothing_on_a_page_names_another_host_to_load_from(site, soups):
    for path, soup in soups.items():
        for tag in soup.find_all(["link", "script", "img", "iframe", "source"]):
            link = tag.get("href") or tag.get("src") or ""
            assert not link.startswith(("http:", "https:", "//")), f"{path.relative_to(site)}: {link}"
    for sheet in (ROOT / "book" / "_static").glob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(https?:|//)", sheet.read_text(encoding="utf-8"))


@pytest.mark.parametrize("lesson", lessons(), ids=lambda lesson: lesson.id)
def test_a_lesson_page_says_what_its_source_and_its_record_say(site, soups, lesson):
    page = lesson.path.with_suffix(".html")
    soup = soups[site / page]
    record = read_notebook(ROOT / lesson.solution_path).metadata["groundup"]
    facts = soup.select_one("dl.facts").get_text(" ")
    assert f"about {lesson.minutes} minutes" in facts
    assert f"{record['seconds']:g} s, {record['peak_mb']:,} MB" in facts
    assert record["torch"] in facts and record["machine"] in facts
    boxes = soup.select("section.exercise")
    assert len(boxes) == len(lesson.exercises)
    for box, exercise in zip(boxes, lesson.exercises, strict=True):
        effort = " ".join(box.select_one(".effort").get_text(" ").split())
        assert f"Difficulty {exercise.difficulty}/5 {exercise.minutes} minutes" in effort
        shown = box.select_one(".tag_exercise-example .cell_output").get_text()
        assert exercise.expected in shown
        # The box ends with the check: prose after it stands outside.
        assert "tag_exercise-check" in [tag for tag in box.find_all(recursive=False)][-1]["class"]
    assert "<!-- measured -->" not in str(soup)
    buttons = soup.select(".lesson-actions a")
    downloaded = (site / page.parent / buttons[1]["href"]).resolve()
    assert downloaded.read_bytes() == (ROOT / lesson.exercise_path).read_bytes()


def test_the_map_of_the_home_page_tells_ready_from_coming(site, soups):
    soup = soups[site / "index.html"]
    ready = {link["href"] for link in soup.select("section.part ul.ready a")}
    assert ready == {str(lesson.path.with_suffix(".html")) for lesson in lessons()}
    assert len(soup.select("section.part")) == len(soup.select(".strata li")) == 8
    assert all(link.name != "a" for link in soup.select("section.part ul.coming *"))


def test_the_home_page_quotes_the_autograder_word_for_word(site, soups):
    """The wrong code that the home page shows, put into the solution and graded, brings the reply that it quotes."""
    home = soups[site / "index.html"]
    wrong = [line.strip() for line in home.select_one(".tell pre").get_text().splitlines()]
    said = " ".join(home.select_one("#sample-reply").get_text().split())
    lesson = next(lesson for lesson in lessons() if lesson.id == "autograd.graph")
    exercise = next(exercise for exercise in lesson.exercises if exercise.name == "Value")
    source = exercise.source
    for line in wrong[1:]:
        right = line.replace(" = ", " += ")
        assert source.count(right) == 1, right
        source = source.replace(right, line)
    names: dict = {}
    for cell in lesson.code("export"):
        exec(source if cell.id == exercise.code.id else cell.source, names)
    result = grade("autograd.graph.Value", names["Value"])
    assert result.status == "failed"
    assert result.message.split("\n")[0] == said


def _copy_of_the_course(folder: Path) -> Path:
    for name in (
        "_config.yml",
        "_toc.yml",
        "index.md",
        "book",
        "chapters",
        "ci",
        "exercises",
        "solutions",
        "src",
    ):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, folder / name)
    return folder


def _build(folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "ci.book", *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), **environment},
        capture_output=True,
        text=True,
    )


def test_building_again_publishing_and_failing(tmp_path):
    """One copy of the course through its life: publish, change only an outcome, lose the outputs."""
    course = _copy_of_the_course(tmp_path)
    done = _build(course, GROUNDUP_PUBLISH_REVISION="0123abc", GITHUB_REPOSITORY="somebody/fork")
    assert done.returncode == 0, done.stdout + done.stderr
    page = course / "_build/html/chapters/01_autograd/03_graph.html"
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    colab = soup.select_one(".lesson-actions a")["href"]
    assert colab == (
        "https://colab.research.google.com/github/somebody/fork/blob/gh-pages/exercises/01_autograd/03_graph.ipynb"
    )
    published = (course / "_build/html/exercises/01_autograd/03_graph.ipynb").read_text(encoding="utf-8")
    setup = next(cell["source"] for cell in json.loads(published)["cells"] if cell["cell_type"] == "code")
    assert 'REVISION = "0123abc"' in "".join(setup) and "github.com/somebody/fork@" in "".join(setup)

    # Built again for this machine: Colab opens what is on main.
    assert _build(course, GITHUB_REPOSITORY="").returncode == 0
    assert "/blob/main/exercises/01_autograd/03_graph.ipynb" in page.read_text(encoding="utf-8")

    # Nor does it copy a style sheet when no page is out of date.
    sheet = course / "book/_static/course.css"
    sheet.write_text(sheet.read_text(encoding="utf-8") + "/* new */\n", encoding="utf-8")
    assert _build(course).returncode == 0
    assert (course / "_build/html/_static/course.css").read_bytes() == sheet.read_bytes()

    # Sphinx sees sources only; a page whose solved notebook alone changed must be made again, others need not.
    solved = course / "solutions/01_autograd/03_graph.ipynb"
    other = course / "_build/html/chapters/01_autograd/01_arrays.html"
    untouched = other.stat().st_mtime_ns
    text = solved.read_text(encoding="utf-8")
    notebook = json.loads(text)
    notebook["metadata"]["groundup"]["seconds"] = 98765.4
    solved.write_text(json.dumps(notebook), encoding="utf-8")
    assert _build(course).returncode == 0
    assert "98765" in page.read_text(encoding="utf-8")
    assert other.stat().st_mtime_ns == untouched

    # Outputs of another source: a warning, hence a failure, and not only the first time; a draft says it on the page.
    chapter = course / "chapters/01_autograd/03_graph.md"
    source = chapter.read_text(encoding="utf-8")
    chapter.write_text(source.replace("runs = 0\n", "runs = 0  # none yet\n", 1), encoding="utf-8")
    for _ in range(2):
        failed = _build(course)
        assert failed.returncode == 1 and "outputs come from another source" in failed.stderr
    solved.unlink()
    assert _build(course, "--draft").returncode == 0
    assert "not measured yet" in page.read_text(encoding="utf-8")
