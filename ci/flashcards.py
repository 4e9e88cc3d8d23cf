"""Every lesson's recall questions as one file that Anki imports: a deck for each part, a tag for each lesson.

The lines that begin with `#` are Anki's own file headers (manual, "Importing text files", since version 2.1.54): fields
are HTML, formulas stand in the brackets of its built-in MathJax, and each card has a fixed identity, so that importing a
newer file updates the cards that a learner already studies and adds no second copy.
"""

import csv
import hashlib
import io

from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin

from ci.lesson import Lesson

# Anki fills a note's fields by these names. Where its fields are called otherwise it guesses only the first, so that is the question.
COLUMNS = ("Front", "Back", "deck", "tags", "guid")
COURSE = "Deep Learning from the Ground Up"


def anki(lessons: list[Lesson], parts: list[dict]) -> str:
    """The text of the file. `parts`: the plan (ci/curriculum.toml), for the names of the decks."""
    names = {part["id"]: f"{COURSE}::{part['number']} {part['title']}" for part in parts}
    written = io.StringIO()
    written.write("#separator:Comma\n#html:true\n")
    for column in ("deck", "tags", "guid"):
        written.write(f"#{column} column:{COLUMNS.index(column) + 1}\n")
    written.write(f"#columns:{','.join(COLUMNS)}\n")
    markdown = _markdown()
    rows = csv.writer(written, lineterminator="\n")
    for lesson in lessons:
        deck = names.get(lesson.part, f"{COURSE}::{lesson.part}")
        for card in lesson.recall:
            identity = hashlib.sha256(f"{lesson.id}\n{card.question}".encode()).hexdigest()[:12]
            answer = markdown.render(card.answer).strip()
            rows.writerow([card.question, answer, deck, lesson.id, identity])
    return written.getvalue()


def _markdown() -> MarkdownIt:
    """CommonMark with `$…$` and `$$…$$` written as Anki wants formulas."""
    made = MarkdownIt("commonmark").enable("table")
    dollarmath_plugin(made)
    made.add_render_rule("math_inline", lambda self, tokens, at, *_: rf"\({_escaped(tokens[at].content)}\)")
    made.add_render_rule("math_block", lambda self, tokens, at, *_: rf"\[{_escaped(tokens[at].content)}\]")
    return made


def _escaped(formula: str) -> str:
    return formula.strip().replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
