"""The pages in a real browser: quiet, self-contained, legible, and everything on them works."""

import gzip
import json
import os
import random
import urllib.parse
from pathlib import Path

import pytest

from ci.lesson import ROOT, chapters

HAND_WRITTEN = sorted(path.relative_to(ROOT) for path in (ROOT / "book").glob("**/*.md"))
LESSONS = [str(path.relative_to(ROOT).with_suffix(".html")) for path in chapters()]
if CHOSEN := os.environ.get(
    "GROUNDUP_PAGES"
):  # "number:seed", set by ci/test.py: so many of them, drawn by the seed
    number, seed = map(int, CHOSEN.split(":"))
    LESSONS = sorted(random.Random(seed).sample(LESSONS, min(number, len(LESSONS))))
PAGES = ["index.html", *(str(path.with_suffix(".html")) for path in HAND_WRITTEN), *LESSONS, "search.html"]
GRAPH = "chapters/01_autograd/03_graph.html"
BUDGET = 500_000  # bytes of a page with all that it loads, compressed, without plotly.js

DRAWN = """() => [...document.querySelectorAll('.figure-plot')].map((plot) => ({
    alt: plot.getAttribute('aria-label'), role: plot.getAttribute('role'),
    marks: plot.querySelectorAll('svg.main-svg path, svg.main-svg text').length, svg: plot.innerHTML,
    picture: plot.querySelectorAll('svg.main-svg image').length }))"""


@pytest.mark.parametrize("page", PAGES)
def test_a_page_loads_quietly_from_its_own_host_and_fits_a_phone(visit, address, site, page):
    tab = visit(page, "light", 360)
    assert tab.trouble == []
    assert [url for url in tab.asked if not url.startswith((address, "data:", "blob:"))] == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    assert tab.locator("h1:visible").count() == 1
    sizes = weight(tab.asked, address, site)
    assert sum(sizes.values()) <= BUDGET, json.dumps(sizes, indent=1)
    print(f"{page}: {sum(sizes.values()) // 1000} KB")


def weight(asked: list[str], address: str, site: Path) -> dict[str, int]:
    """Bytes of everything that a page loaded but plotly.js, as a server sends it: text compressed, fonts as they are."""
    sizes = {}
    for url in set(asked):
        if url.startswith(address) and "plotly.min.js" not in url:
            name = urllib.parse.unquote(urllib.parse.urlsplit(url).path).lstrip("/")
            content = Path(site, name or "index.html").read_bytes()
            packed = name.endswith((".woff", ".woff2", ".png"))
            sizes[name] = len(content) if packed else len(gzip.compress(content, 6))
    return sizes


@pytest.mark.parametrize("page", LESSONS)
def test_no_code_scrolls_sideways_on_a_laptop(visit, page):
    """As wide as the audit's gate `width` lets a line of code be."""
    tab = visit(page, "light", 1280)
    tab.evaluate(
        "document.querySelectorAll('article details').forEach((details) => { details.open = true; })"
    )
    wide = """[...document.querySelectorAll('article pre')].filter((pre) => pre.scrollWidth > pre.clientWidth)
        .map((pre) => pre.textContent.split('\\n').sort((a, b) => b.length - a.length)[0])"""
    assert tab.evaluate(wide) == []


@pytest.mark.parametrize("page", LESSONS)
def test_figures_are_drawn_and_take_the_colours_of_the_theme(visit, page):
    tab = visit(page, "light")
    light = tab.evaluate(DRAWN)
    assert len(light) == tab.locator(".figure-box").count()
    assert light, "the lesson has no figure"
    for figure in light:
        assert figure["role"] == "img" and len(figure["alt"]) > 20
        assert figure["marks"] > 5 or figure["picture"]  # a heatmap is one picture
    # The theme's own button: from light to dark, with automatic between them for some settings.
    for _ in range(3):
        tab.locator(".theme-switch-button:visible").first.click()
        if tab.evaluate("document.documentElement.dataset.theme") == "dark":
            break
    tab.wait_for_timeout(600)
    dark = tab.evaluate(DRAWN)
    assert tab.trouble == []
    assert len(dark) == len(light)
    assert [a["alt"] for a, b in zip(light, dark, strict=True) if a["svg"] == b["svg"]] == []
    reloaded = visit(page, "dark").evaluate(DRAWN)
    assert all(figure["marks"] > 5 or figure["picture"] for figure in reloaded)


@pytest.mark.parametrize("page", LESSONS)
def test_a_slider_changes_its_figure_by_keyboard_alone(visit, page):
    tab = visit(page)
    slider = tab.locator(".figure-control input")
    assert slider.count() >= 1
    slider = slider.first
    plot = "document.querySelector('.figure-control').previousElementSibling.innerHTML"
    said = "(input) => [input.value, input.getAttribute('aria-valuetext'), input.parentElement.textContent]"
    before, words = tab.evaluate(plot), slider.evaluate(said)
    slider.focus()
    tab.keyboard.press("ArrowRight" if words[0] == "0" else "ArrowLeft")
    tab.wait_for_function(f"(before) => {plot} !== before", arg=before)
    after = slider.evaluate(said)
    assert all(one != other for one, other in zip(words, after, strict=True))
    assert words[1]
    # Back where it was, the figure is what it was: no frame leaves something of itself behind.
    marks = f"[...new DOMParser().parseFromString({plot}, 'text/html').querySelectorAll('text')].map(t => t.textContent)"
    changed = tab.evaluate(marks)
    tab.keyboard.press("ArrowLeft" if words[0] == "0" else "ArrowRight")
    tab.wait_for_timeout(300)
    tab.keyboard.press("ArrowRight" if words[0] == "0" else "ArrowLeft")
    tab.wait_for_timeout(300)
    assert tab.evaluate(marks) == changed
    assert tab.trouble == []


EXERCISES = """() => [...document.querySelectorAll('section.exercise')].map((box) => {
    const text = (selector) => box.querySelector(selector)?.textContent ?? '';
    const folded = [...box.querySelectorAll('.hints details > :not(summary), .tag_exercise-solution .highlight')];
    return { hints: box.querySelectorAll('.hints details').length, seen: folded.some((part) => part.checkVisibility()),
        stub: text('.tag_exercise-stub'), solution: text('.tag_exercise-solution .highlight'), text: box.textContent,
        check: text('.tag_exercise-check .cell_output') }; })"""


@pytest.mark.parametrize("page", LESSONS)
def test_hints_and_solutions_stay_hidden_until_asked(visit, page):
    tab = visit(page)
    exercises = tab.locator("section.exercise")
    assert exercises.count() >= 3
    assert (
        tab.locator("article summary[aria-label]").count() == 0
    )  # it would be read out instead of the words
    for exercise in tab.evaluate(EXERCISES):
        assert exercise["hints"] == 3 and not exercise["seen"]
        assert "NotImplementedError" in exercise["stub"]
        assert "NotImplementedError" not in exercise["solution"] and len(exercise["solution"]) > 40
        assert "BEGIN SOLUTION" not in exercise["text"]
        assert "passed" in exercise["check"]
    # One of them opened as a reader does it: by keyboard, hint by hint, and the solution last.
    exercise = exercises.nth(1)
    hints = exercise.locator(".hints details")
    solution = exercise.locator(".tag_exercise-solution .highlight")
    for level in range(3):
        text = hints.nth(level).locator(":scope > :not(summary)").first
        assert not text.is_visible()
        hints.nth(level).locator(":scope > summary").focus()
        tab.keyboard.press("Enter")
        assert text.is_visible()
        assert not solution.is_visible()
    exercise.locator(".tag_exercise-solution summary").click()
    assert solution.is_visible()


def test_search_finds_a_word_of_a_lesson_from_the_one_search_field(visit):
    tab = visit("index.html")
    assert tab.locator(".search-button-field:visible, input[type=search]:visible").count() == 1
    tab.keyboard.press("Control+K")
    field = tab.locator("dialog input[type=search]")
    assert field.is_visible()
    field.fill("topological order")
    tab.keyboard.press("Enter")
    found = tab.locator(f'#search-results a[href*="{GRAPH}"]').first
    found.wait_for(timeout=10_000)
    assert tab.trouble == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_printed_page_is_dark_on_white_and_cuts_nothing_off(visit, theme):
    tab = visit(GRAPH, theme)
    tab.emulate_media(media="print")
    assert tab.evaluate(TEXTS) == []
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert (
        not tab.locator(".bd-sidebar-primary, .lesson-actions, .figure-control").filter(visible=True).count()
    )
    cut = "[...document.querySelectorAll('article pre, article div.math')].filter((box) => box.scrollWidth > box.clientWidth + 1 && getComputedStyle(box).overflowX !== 'visible').length"
    assert tab.evaluate(cut) == 0
    pdf = tab.pdf()
    assert pdf.startswith(b"%PDF") and len(pdf) > 100_000


def test_formulas_are_set_and_read_out(visit):
    tab = visit(GRAPH)
    formulas = tab.locator("span.math, div.math").count()
    assert formulas > 20
    assert tab.locator("mjx-container").count() == formulas
    assert tab.locator("mjx-container mjx-assistive-mml").count() == formulas
    assert tab.locator("mjx-merror").count() == 0


def test_the_keyboard_gets_past_the_menu_and_sees_where_it_is(visit):
    tab = visit(GRAPH)
    tab.keyboard.press("Tab")
    assert "skip" in tab.evaluate("document.activeElement.textContent").lower()
    tab.keyboard.press("Enter")
    assert tab.url.endswith("#main-content")
    tab.locator(".lesson-actions a").first.focus()
    tab.keyboard.press("Shift+Tab")
    tab.keyboard.press("Tab")
    outline = tab.evaluate("getComputedStyle(document.activeElement).outlineWidth")
    assert float(outline.removesuffix("px")) >= 2


TEXTS = """() => {
  const box = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgba = (colour) => { box.clearRect(0, 0, 1, 1); box.fillStyle = colour; box.fillRect(0, 0, 1, 1);
    return [...box.getImageData(0, 0, 1, 1).data]; };
  const luminance = ([r, g, b]) => { const part = (v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b); };
  const over = ([r, g, b, a], under) => [r, g, b].map((v, i) => v * a / 255 + under[i] * (1 - a / 255));
  const behind = (element) => { const layers = [];
    for (let at = element; at; at = at.parentElement) layers.push(rgba(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((under, layer) => over(layer, under), [255, 255, 255]); };
  document.querySelectorAll('article details').forEach((details) => { details.open = true; });
  const bad = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !element.checkVisibility({ visibilityProperty: true, opacityProperty: true })) continue;
    if (element.closest('svg, script, mjx-container, .visually-hidden, [aria-hidden=true], .headerlink, .skip-link, #pst-back-to-top')) continue;
    const ground = behind(element);
    const light = luminance(over(rgba(getComputedStyle(element).color), ground)), dark = luminance(ground);
    const ratio = (Math.max(light, dark) + 0.05) / (Math.min(light, dark) + 0.05);
    if (ratio < 4.5) bad.push([walker.currentNode.textContent.trim().slice(0, 40), element.className, Math.round(ratio * 100) / 100]);
  }
  return bad;
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("page", ["index.html", "book/glossary.html", GRAPH])
def test_all_text_has_contrast(visit, page, theme):
    """WCAG 2.2, 1.4.3: at least 4.5 to 1. (The output of a check was once dark grey on black.)"""
    assert visit(page, theme).evaluate(TEXTS) == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_words_that_a_search_marked_have_contrast(visit, theme):
    tab = visit(f"{GRAPH}?highlight=topological", theme)
    assert tab.locator("span.highlighted").count() > 5
    assert tab.evaluate(TEXTS) == []


def test_pages_without_formulas_or_figures_load_neither_library(visit):
    asked = " ".join(visit("book/licence.html").asked)
    assert "mathjax" not in asked and "plotly" not in asked and "figures.js" not in asked
