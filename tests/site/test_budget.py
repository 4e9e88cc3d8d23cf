"""What keeps pages fast on a phone, as numbers that do not depend on the machine: bytes, files, shifts, long scripts.

Lighthouse's own score of performance follows from these and from the machine's mood, so it is measured by hand.
"""

import pytest
from bs4 import BeautifulSoup

from ci.lesson import ROOT, chapters
from tests.site.test_browser import LESSONS, PAGES, weight

FIRST_VIEW = 450_000  # bytes of what a page with formulas asks for before anybody moves, MathJax with it
PLAIN = 180_000  # of any other
INDEX = 3_000  # of the index of words, which only the page of the search asks for, per lesson of the course
STYLES = 8
SHIFT = 0.1  # what Google calls good; web.dev/cls
SIZES = {"desktop": (1350, 940), "phone": (412, 823)}
SHIFTS = """() => new Promise((done) => {
  let sum = 0;
  const said = [];
  new PerformanceObserver((list) => list.getEntries().filter((entry) => !entry.hadRecentInput).forEach((entry) => {
    sum += entry.value;
    said.push([entry.value, entry.sources.map(({ node }) => node?.id || node?.className || node?.nodeName)]);
  })).observe({ type: "layout-shift", buffered: true });
  setTimeout(() => done([sum, said]), 300);
})"""


def load(browser, address: str, page: str, size: str):
    """The page as a first-time reader has it before moving, its formulas set; and what it asked for."""
    width, height = SIZES[size]
    phone = {"is_mobile": True, "has_touch": True} if size == "phone" else {}
    tab = browser.new_context(viewport={"width": width, "height": height}, **phone).new_page()
    tab.asked = []
    tab.on("request", lambda request: tab.asked.append(request.url))
    tab.goto(address + page, wait_until="load")
    tab.evaluate("window.MathJax && MathJax.startup.promise")
    tab.wait_for_timeout(300)
    return tab


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("page", PAGES)
def test_the_first_view_is_light_and_nothing_jumps(browser, address, site, page, size):
    tab = load(browser, address, page, size)
    try:
        sizes = weight(tab.asked, address, site)
        index = sizes.pop("searchindex.js", 0)
        assert index <= (INDEX * len(chapters()) if page == "search.html" else 0)
        assert sum(sizes.values()) <= (FIRST_VIEW if "mathjax" in " ".join(tab.asked) else PLAIN), sizes
        # plotly.js is larger than all the rest: it is asked for only where a figure is in the first view.
        in_view = tab.evaluate(
            "[...document.querySelectorAll('.figure-plot')].some((p) => p.getBoundingClientRect().top < innerHeight + 60)"
        )
        assert in_view or not any("plotly" in url for url in tab.asked)
        total, said = tab.evaluate(SHIFTS)
    finally:
        tab.context.close()
    # In how many steps the formulas come, and so what they move, hangs on the machine's load too: a page that jumps does
    # so every time.
    for _ in range(2):
        if total < SHIFT:
            break
        tab = load(browser, address, page, size)
        total, said = tab.evaluate(SHIFTS)
        tab.context.close()
    assert total < SHIFT, said


@pytest.mark.parametrize("page", LESSONS)
def test_formulas_are_set_in_pauses_and_none_is_left(browser, address, page):
    """MathJax would set all formulas of a page in one go, and a phone would stand still."""
    tab = browser.new_page()
    tab.add_init_script("""window.seen = new Set();
      setInterval(() => seen.add(document.getElementsByTagName("mjx-container").length), 0);""")
    tab.goto(address + page, wait_until="load")
    tab.wait_for_function("window.MathJax && MathJax.startup && MathJax.startup.promise")
    tab.evaluate("MathJax.startup.promise")
    formulas = tab.locator("span.math, div.math").count()
    assert tab.locator("mjx-container").count() == formulas > 0
    assert tab.locator("mjx-container mjx-assistive-mml").count() == formulas
    assert tab.locator("mjx-merror, merror").count() == 0
    # A timer ran in between, and saw some of them set: all at once would be none, and then all. Of two, it can see one.
    between = [count for count in tab.evaluate("[...seen]") if 0 < count < formulas]
    assert len(between) >= min(2, formulas - 1)
    tab.close()


@pytest.mark.parametrize("page", [page for page in PAGES if page not in LESSONS])
def test_no_formula_of_another_page_is_an_error(visit, page):
    tab = visit(page)
    assert tab.locator("mjx-container").count() == tab.locator("span.math, div.math").count()
    assert tab.locator("mjx-merror, merror").count() == 0


@pytest.mark.parametrize("page", PAGES)
def test_a_page_waits_for_few_files_and_names_its_icon_and_its_preview(site, page):
    soup = BeautifulSoup((site / page).read_text(encoding="utf-8"), "html.parser")
    assert len(soup.select("link[rel=stylesheet]")) <= STYLES
    if page != "search.html":  # its scripts are used by words in the page itself
        waited = [tag["src"] for tag in soup.select("script[src]") if not tag.has_attr("defer")]
        assert waited == []
    icon = soup.select_one("link[rel=icon]")["href"]
    assert (site / page).parent.joinpath(icon).resolve().is_file()
    for name in ("og:title", "og:type", "og:site_name"):
        assert soup.select_one(f'meta[property="{name}"]')["content"].strip(), name
    assert soup.select_one('meta[name="twitter:card"]')
    if page != "search.html":
        assert len(soup.select_one('meta[property="og:description"]')["content"]) > 20
    assert "readme_lesson.png" in (ROOT / "book/_templates/layout.html").read_text(encoding="utf-8")
    assert (site / "_static" / "readme_lesson.png").is_file()


def test_the_readmes_pictures_are_small_and_described():
    soup = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in (ROOT / "book" / "_static").glob("*.png"):
        assert path.stat().st_size <= 80_000, path.name
        assert f"](book/_static/{path.name})" in soup, f"{path.name} is shown nowhere"


@pytest.mark.parametrize("page", LESSONS)
def test_tab_alone_reaches_a_hint_and_a_slider(visit, page):
    """No mouse, and no focus() either: from the top of an exercise to its hint, and from a figure to its slider."""
    tab = visit(page)
    place = "(element) => { element.tabIndex = -1; element.focus(); }"
    tab.locator("section.exercise").first.evaluate(place)
    _tab_until(tab, "document.activeElement.matches('.hints summary')")
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.parentElement.open")
    tab.locator(".figure-box:has(+ .figure-control), .figure-box:has(.figure-control)").first.evaluate(place)
    _tab_until(tab, "document.activeElement.matches('.figure-control input')")
    before = tab.evaluate("document.activeElement.value")
    tab.keyboard.press("ArrowRight" if before == "0" else "ArrowLeft")
    assert tab.evaluate("document.activeElement.value") != before
    assert tab.trouble == []


def _tab_until(tab, there: str) -> None:
    for _ in range(15):
        tab.keyboard.press("Tab")
        if tab.evaluate(there):
            return
    raise AssertionError(f"15 presses of Tab did not lead to: {there}")
