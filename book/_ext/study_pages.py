"""What the pages about the lessons show of them: flashcards, progress, and what a part's learner owns at its end.

All are made from the lessons and from what their runs printed, never from numbers typed by hand.
"""

import html
import re
from pathlib import Path

from lesson_page import figure_html

from ci.ladder import rungs_of
from ci.lesson import BEGIN, END, Lesson, read, read_notebook
from ci.sync import exported_names
from groundup import show
from groundup.show._emit import figure_json


def index(root: Path, pages: dict[str, str]) -> dict[str, dict]:
    """What progress.js knows of each lesson: title, page, notebook in the working copy, ids of its exercises."""
    return {
        lesson.id: {
            "title": lesson.title,
            "page": f"{pages[lesson.id]}.html",
            "notebook": "/".join(lesson.exercise_path.parts[1:]),
            "exercises": [exercise.id for exercise in lesson.exercises],
        }
        for lesson in _written(root, pages)
    }


def progress(root: Path, pages: dict[str, str], up: str) -> str:
    """HTML: the page "Your progress" of a reader who has done nothing yet, `up` being the way to the site's root.

    progress.js fills it in. Written here and not by the script, it has its full height before the script runs.
    """
    lessons = [
        (lesson.title, entry)
        for lesson, entry in zip(_written(root, pages), index(root, pages).items(), strict=True)
    ]
    items = "".join(
        f'<li data-lesson="{identity}"><a href="{up}{entry["page"]}">{html.escape(title)}</a>'
        f'<progress class="pst-js-only" value="0" max="{len(entry["exercises"])}" '
        f'aria-label="exercises of {html.escape(title)}"></progress>'
        f"<span>{len(entry['exercises'])} exercises</span></li>"
        for title, (identity, entry) in lessons
    )
    buttons = " ".join(
        f'<button type="button" class="button" id="progress-{name}">{words}</button>'
        for name, words in (
            ("save", "Save to a file"),
            ("load", "Load from a file"),
            ("forget", "Forget everything"),
        )
    )
    return (
        '<div id="progress-page">'
        "<noscript><p>Your progress is shown here when JavaScript is on. Everything else works without it.</p></noscript>"
        f'<ul id="progress-list">{items}</ul><p class="progress-actions pst-js-only">{buttons}</p>'
        '<input type="file" id="progress-file" accept=".json,application/json" hidden>'
        '<p id="progress-said" role="status"></p></div>'
    )


def flashcards(root: Path, pages: dict[str, str], numbers: dict[str, str]) -> str:
    """Markdown: under each lesson's name its recall questions, answers folded. `pages`: lesson id to page."""
    pieces = []
    for lesson in _written(root, pages):
        pieces.append(f"### {_link(lesson, pages, numbers)}")
        for card in lesson.recall:
            pieces.append(f"<details><summary>{card.question}</summary>\n\n{card.answer}\n\n</details>")
    return "\n\n".join(pieces)


def owned(root: Path, part: str, pages: dict[str, str], numbers: dict[str, str]) -> str:
    """Markdown: a table of the modules of `part` and, under each lesson, what its proof and experiment printed."""
    lessons = [lesson for lesson in _written(root, pages) if lesson.part == part]
    rows, pieces, totals = [], [], [0, 0, 0]
    for lesson in lessons:
        counts = (len(lesson.exercises), _lines_of_the_learner(lesson), _lines(root / lesson.module_path))
        totals = [total + count for total, count in zip(totals, counts, strict=True)]
        cells = [_link(lesson, pages, numbers), f"`groundup.{lesson.part}.{lesson.name}`", *map(str, counts)]
        rows.append(f"| {' | '.join(cells)} |")
        pieces.append(_evidence(lesson, pages, numbers))
    table = "\n".join(
        [
            "| Lesson | Module | Exercises | Lines you wrote | Lines in the module |",
            "|---|---|--:|--:|--:|",
            *rows,
            f"| **Together** | | **{totals[0]}** | **{totals[1]}** | **{totals[2]}** |",
        ]
    )
    return "\n\n".join([table, "## What it matched, and what it trained", *pieces])


def ladder(root: Path, pages: dict[str, str], numbers: dict[str, str]) -> str:
    """Markdown: the running table of Part 2 and its picture, worst model first, from the stored runs."""
    found = sorted(rungs_of(_written(root, pages)), key=lambda pair: -pair[1]["bits_per_byte"])
    rows = [
        f"| {rung['name']} | {rung['bits_per_byte']:.3f} | {rung['parameters']:,} | {_link(lesson, pages, numbers)} |"
        for lesson, rung in found
    ]
    table = "\n".join(["| Model | Bits per byte | Parameters | Measured in |", "|---|--:|--:|---|", *rows])
    if not found:
        return "No model has been measured yet."
    bits = {rung["name"]: rung["bits_per_byte"] for _, rung in found}
    best = min(bits, key=bits.get)
    picture = show.bars(bits, y="bits per byte of the test text")
    alt = f"Bars: bits per byte on the test text for {len(bits)} models, falling from {max(bits.values()):.2f} to {bits[best]:.2f} ({best})."
    return f"{table}\n\n{figure_html(figure_json(picture, alt))}"


def _evidence(lesson: Lesson, pages: dict[str, str], numbers: dict[str, str]) -> str:
    """One lesson's names, and the printed text of its `## Prove it` and `## Experiment`, as its last run left it."""
    path = lesson.root / lesson.solution_path
    outputs = (
        {cell.id: cell.get("outputs", []) for cell in read_notebook(path).cells} if path.exists() else {}
    )
    names = ", ".join(f"`{name}`" for name in exported_names(lesson))
    pieces = [f"### {_link(lesson, pages, numbers)}", f"You own {names}."]
    for heading, _, cells in lesson.sections():
        kind, _, title = heading.partition(": ")
        printed = "".join(
            output.text
            for cell in cells
            for output in outputs.get(cell.id, [])
            if output.output_type == "stream"
        )
        if kind in ("Prove it", "Experiment") and printed.strip():
            fence = "```"
            pieces.append(f"**{kind}**: {title}\n\n{fence}text\n{printed.rstrip()}\n{fence}")
    return "\n\n".join(pieces)


def _written(root: Path, pages: dict[str, str]) -> list[Lesson]:
    return [read(root / f"{page}.md", root) for page in pages.values()]


def _link(lesson: Lesson, pages: dict[str, str], numbers: dict[str, str]) -> str:
    return f"[{numbers.get(lesson.id, '')} {lesson.title}](/{pages[lesson.id]}.md)"


def _lines_of_the_learner(lesson: Lesson) -> int:
    """Lines that stand between the markers of the solutions, blank ones aside."""
    region = re.compile(rf"{re.escape(BEGIN)}\n(.*?){re.escape(END)}", re.S)
    bodies = [body for exercise in lesson.exercises for body in region.findall(exercise.source)]
    return sum(bool(line.strip()) for body in bodies for line in body.splitlines())


def _lines(path: Path) -> int:
    """Lines of a module, blank ones aside."""
    return sum(bool(line.strip()) for line in path.read_text(encoding="utf-8").splitlines())
