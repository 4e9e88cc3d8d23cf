"""The file of flashcards: what Anki reads in it is what the lessons ask."""

import csv
import re
from html.parser import HTMLParser

import pytest

from ci import sync
from ci.lesson import ROOT, lessons

FILE = ROOT / "book" / "flashcards.csv"
COURSE = lessons()


def rows() -> tuple[dict[str, str], list[dict[str, str]]]:
    """Anki's headers, and each card as a dictionary."""
    with FILE.open(encoding="utf-8", newline="") as file:
        lines = file.read()
    heads = dict(re.findall(r"^#([^:\n]+):(.+)$", lines, re.M))
    cards = csv.DictReader(
        (line for line in lines.splitlines(keepends=True) if not re.match(r"#[a-z ]+:", line)),
        fieldnames=heads["columns"].split(","),
    )
    return heads, list(cards)


def test_every_question_of_every_lesson_is_a_card():
    _, cards = rows()
    assert [(card["tags"], card["Front"]) for card in cards] == [
        (lesson.id, question.question) for lesson in COURSE for question in lesson.recall
    ]
    assert len(cards) == 5 * len(COURSE)
    assert len({card["guid"] for card in cards}) == len(cards)
    assert all(card["deck"].startswith("Deep Learning from the Ground Up::") for card in cards)


def test_the_headers_name_the_columns_that_they_mean():
    heads, _ = rows()
    assert heads["separator"] == "Comma" and heads["html"] == "true"
    columns = heads["columns"].split(",")
    assert columns[:2] == ["Front", "Back"]
    for column in ("deck", "tags", "guid"):
        assert columns[int(heads[f"{column} column"]) - 1] == column


def test_answers_are_whole_html_without_markdown():
    class Balance(HTMLParser):
        open: list[str]

        def handle_starttag(self, tag, attributes):
            if tag != "br":
                self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    for card in rows()[1]:
        for side in (card["Front"], card["Back"]):
            parser = Balance()
            parser.open = []
            parser.feed(side)
            assert parser.open == [] and side
        text = re.sub(r"<code>.*?</code>", "", card["Back"], flags=re.S)
        assert "$" not in text and "`" not in text and "**" not in text


def test_formulas_stand_in_ankis_brackets():
    from ci.flashcards import _markdown

    assert _markdown().render("$a < b$ and `$x$`") == "<p>\\(a &lt; b\\) and <code>$x$</code></p>\n"
    assert _markdown().render("$$\nx^2\n$$").strip() == r"\[x^2\]"


@pytest.mark.parametrize("change", ["answer", "question"])
def test_a_card_keeps_its_identity_while_its_question_stands(change, monkeypatch):
    from dataclasses import replace

    from ci.flashcards import anki

    lesson, first = COURSE[0], COURSE[0].recall[0]
    mended = replace(first, **{change: getattr(first, change) + " More."})
    before = anki([lesson], sync._parts(ROOT))
    monkeypatch.setattr(type(lesson), "recall", property(lambda self: (mended,)))
    after = anki([lesson], sync._parts(ROOT))
    same = after.rstrip().rsplit(",", 1)[1] in before
    assert same == (change == "answer")
