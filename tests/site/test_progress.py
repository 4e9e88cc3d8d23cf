"""The reader's own marks: ticked, shown, kept, saved to a file and loaded from one; and what a local server adds."""

import contextlib
import http.cookiejar
import json
import urllib.request

import pytest

from ci import start
from ci.lesson import ROOT, lessons
from groundup import progress

COURSE = lessons()
FIRST = COURSE[0]
PAGE = str(FIRST.path.with_suffix(".html"))
STORED = "JSON.parse(localStorage.getItem('groundup.progress') ?? '{}')"
MARK = f".bd-sidebar-primary a[href*='{FIRST.path.stem}'] .progress-mark"


@pytest.fixture
def tab(browser, address):
    """A reader who comes for the first time: an empty browser."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page = context.new_page()
    page.trouble = []
    page.on("pageerror", lambda error: page.trouble.append(str(error)))
    page.on("console", lambda said: said.type == "error" and page.trouble.append(said.text))
    yield page
    assert page.trouble == []
    context.close()


def test_a_mark_is_kept_and_shown_in_the_sidebar_and_on_the_map(tab, address):
    tab.goto(address + PAGE)
    boxes = tab.locator(".effort .tick input")
    assert boxes.count() == len(FIRST.exercises)
    assert tab.locator(".progress-mark").count() == 0
    boxes.nth(0).focus()
    tab.keyboard.press("Space")
    assert list(tab.evaluate(STORED)["passed"]) == [FIRST.exercises[0].id]
    assert f"1 of {len(FIRST.exercises)} exercises done" in tab.locator(".tick-lesson").text_content()
    tab.goto(address + str(COURSE[1].path.with_suffix(".html")))
    assert (
        tab.locator(MARK).text_content()
        == f"1/{len(FIRST.exercises)} (1 of {len(FIRST.exercises)} exercises done)"
    )
    tab.goto(address + PAGE)
    assert boxes.nth(0).is_checked() and not boxes.nth(1).is_checked()
    tab.locator(".tick-lesson input").check()
    tab.goto(address)
    assert "finished" in tab.locator(".part .ready .progress-mark").first.text_content()
    tab.goto(address + PAGE)
    tab.locator(".tick-lesson input").uncheck()
    boxes.nth(0).uncheck()
    assert tab.evaluate(STORED) == {"passed": {}, "done": {}}
    assert tab.locator(".progress-mark").count() == 0


def test_marks_are_saved_to_a_file_and_loaded_in_another_browser(tab, address, browser, tmp_path):
    tab.goto(address + PAGE)
    tab.locator(".effort .tick input").nth(1).check()
    tab.goto(address + "book/progress.html")
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Save to a file").click()
    saved = tmp_path / download.value.suggested_filename
    download.value.save_as(saved)
    assert list(json.loads(saved.read_text())["passed"]) == [FIRST.exercises[1].id]

    other = browser.new_context().new_page()
    other.goto(address + PAGE)
    other.locator(".effort .tick input").nth(0).check()
    other.goto(address + "book/progress.html")
    other.set_input_files("#progress-file", saved)
    other.get_by_role("status").get_by_text("New exercises: 1; new lessons: 0").wait_for()
    assert set(other.evaluate(STORED)["passed"]) == {exercise.id for exercise in FIRST.exercises[:2]}
    assert f"2 of {len(FIRST.exercises)}" in other.locator("#progress-list li").first.text_content()
    other.context.close()


@pytest.mark.parametrize("content", ["", "[]", "null", '{"passed": 3}', "\x00\x01", '{"passed": ["a"]}'])
def test_a_file_that_is_no_record_changes_nothing(tab, address, tmp_path, content):
    tab.goto(address + PAGE)
    tab.locator(".effort .tick input").first.check()
    before = tab.evaluate(STORED)
    tab.goto(address + "book/progress.html")
    file = tmp_path / "holiday.json"
    file.write_text(content)
    tab.set_input_files("#progress-file", file)
    tab.get_by_role("status").get_by_text("holiday.json is not a record of progress").wait_for()
    assert tab.evaluate(STORED) == before


def test_the_autograders_own_file_can_be_loaded(tab, address, tmp_path, monkeypatch):
    monkeypatch.setenv("GROUNDUP_HOME", str(tmp_path))
    monkeypatch.delenv("GROUNDUP_NO_RECORD", raising=False)
    progress.record(FIRST.exercises[2].id)
    tab.goto(address + "book/progress.html")
    tab.set_input_files("#progress-file", tmp_path / "progress.json")
    tab.get_by_role("status").get_by_text("New exercises: 1;").wait_for()
    assert list(tab.evaluate(STORED)["passed"]) == [FIRST.exercises[2].id]


def test_everything_is_forgotten_only_after_a_question(tab, address):
    tab.goto(address + PAGE)
    tab.locator(".effort .tick input").first.check()
    tab.goto(address + "book/progress.html")
    for answer, left in (("dismiss", 1), ("accept", 0)):
        tab.once("dialog", lambda asked, answer=answer: getattr(asked, answer)())
        tab.get_by_role("button", name="Forget everything").click()
        assert len(tab.evaluate(STORED)["passed"]) == left


def test_a_damaged_record_does_not_break_the_page(tab, address):
    tab.goto(address)
    tab.evaluate("localStorage.setItem('groundup.progress', '{\"passed\": [')")
    tab.goto(address + PAGE)
    assert tab.locator(".effort .tick input").count() == len(FIRST.exercises)


def test_without_scripts_the_pages_are_plain(browser, address):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address + PAGE)
    assert page.locator(".tick").count() == 0
    assert page.locator("section.exercise").count() == len(FIRST.exercises)
    page.goto(address + "book/progress.html")
    assert page.locator("#progress-page noscript p").is_visible()
    assert page.locator("#progress-list a").count() == len(COURSE)
    assert page.locator("#progress-page button:visible").count() == 0
    context.close()


@contextlib.contextmanager
def served(site, monkeypatch, lab):
    """The site as `make start` serves it."""
    monkeypatch.setattr(start, "SITE", site)
    with start.website(8300, type("Pages", (start.Pages,), {"lab": lab})) as where:
        yield where


def test_the_local_site_knows_what_the_autograder_has_passed(tab, site, monkeypatch, tmp_path):
    monkeypatch.setenv("GROUNDUP_HOME", str(tmp_path))
    monkeypatch.delenv("GROUNDUP_NO_RECORD", raising=False)
    progress.record(FIRST.exercises[0].id)
    with served(site, monkeypatch, None) as where:
        tab.goto(where + PAGE)
        tab.wait_for_function("document.querySelector('.effort .tick input').checked")
        assert tab.get_by_text("Open here").count() == 0  # no JupyterLab runs


def test_the_local_site_opens_the_notebook_in_jupyterlab(tab, site, monkeypatch, tmp_path):
    monkeypatch.setenv("GROUNDUP_HOME", str(tmp_path))
    with served(site, monkeypatch, "http://127.0.0.1:9/lab?token=secret") as where:
        tab.goto(where + PAGE)
        link = tab.get_by_role("link", name="Open here, in JupyterLab").get_attribute("href")
        notebook = "/".join(FIRST.exercise_path.parts[1:])
        assert link == f"{where}local/lab/{notebook}"

        class Stay(urllib.request.HTTPRedirectHandler):
            def redirect_request(self, *arguments):
                return None

        with pytest.raises(urllib.request.HTTPError) as answer:
            urllib.request.build_opener(Stay).open(link, timeout=10)
        assert answer.value.code == 302
        assert answer.value.headers["Location"] == f"http://127.0.0.1:9/lab/tree/{notebook}?token=secret"
        jar = http.cookiejar.CookieJar()
        urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar)).open(where, timeout=10).close()
        assert [(cookie.name, cookie.value) for cookie in jar] == [("groundup_local", "lab")]  # and no token


def test_the_index_of_lessons_is_the_course(site):
    text = (site / "_static" / "lessons.js").read_text(encoding="utf-8")
    index = json.loads(text.removeprefix("window.groundupLessons = ").rstrip().removesuffix(";"))
    assert list(index) == [lesson.id for lesson in COURSE]
    for entry in index.values():
        assert (site / entry["page"]).is_file()
        assert (ROOT / "exercises" / entry["notebook"]).is_file()
