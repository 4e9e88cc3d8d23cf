"""What the pages about the lessons show of them: flashcards, progress, and what a part's learner owns at its end.

All are made from the lessons and from what their runs printed, never from numbers typed by hand.
"""

import html
import re
import tomllib
from pathlib import Path

from lesson_page import figure_html

from ci.ladder import rungs_of
from ci.lesson import BEGIN, END, Lesson, read, read_notebook
from groundup import show
from groundup.show._emit import figure_json

# What a lesson's proof showed, in a sentence, and which of its lines show it; written by hand, for the part's page.
PROOFS = "book/parts/proofs.toml"
MOST = 3  # lines of one proof on a part's page
# A line that says that something was not done proves nothing.
UNDONE = re.compile(r"\b(?:is left out|cannot be|skipped|not compared|no C compiler|nothing is)\b")


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
    """Markdown: a table of the modules of `part` and, for each lesson, what is the learner's and what its proof printed."""
    lessons = [lesson for lesson in _written(root, pages) if lesson.part == part]
    proofs = tomllib.loads((root / PROOFS).read_text(encoding="utf-8"))
    rows, pieces, totals = [], [], [0, 0, 0]
    for lesson in lessons:
        counts = (len(lesson.exercises), _lines_of_the_learner(lesson), _lines(root / lesson.module_path))
        totals = [total + count for total, count in zip(totals, counts, strict=True)]
        link, module = _link(lesson, pages, numbers), f"`groundup.{lesson.part}.{lesson.name}`"
        rows.append(f"| {' | '.join([link, module, *(f'{count:,}' for count in counts)])} |")
        pieces.append(_evidence(lesson, link, proofs.get(lesson.id, {})))
    table = "\n".join(
        [
            "| Lesson | Module | Exercises | Lines you wrote | Lines in the module |",
            "|---|---|--:|--:|--:|",
            *rows,
            f"| **Together** | | {' | '.join(f'**{total:,}**' for total in totals)} |",
        ]
    )
    return "\n\n".join([table, "## What it matched", *pieces])


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
    pieces = [table, *_nearest(bits), figure_html(figure_json(picture, alt))]
    return "\n\n".join(pieces)


def _nearest(bits: dict[str, float]) -> list[str]:
    """A sentence about the distance of the two best models, in the digits of the table."""
    if len(bits) < 2:
        return []
    second, best = sorted(bits, key=bits.get, reverse=True)[-2:]
    apart = round(bits[second], 3) - round(bits[best], 3)
    return [f"The last two, {second} and {best}, are {apart:.3f} bits per byte apart."]


def _evidence(lesson: Lesson, link: str, proof: dict) -> str:
    """One lesson's exercises by name, and what its proof showed: a sentence, and up to three of the lines it printed."""
    names = ", ".join(f"`{exercise.name}`" for exercise in lesson.exercises)
    pieces = [f"### {link}", f"You own {names}."]
    title, printed = _proof(lesson)
    shown = proof_lines(printed, proof.get("lines", []))
    said = proof.get("said") or (f"Proved: {title}." if shown else "")
    fence = f"\n\n```text\n{chr(10).join(shown)}\n```" if shown else ""
    return "\n\n".join([*pieces, *([said + fence] if said else [])])


def proof_lines(printed: str, wanted: list[str]) -> list[str]:
    """Of a proof's output the first line that holds each of the `wanted` texts; its last lines where none is found."""
    lines = [line.rstrip() for line in printed.splitlines() if line.strip() and not UNDONE.search(line)]
    found = [next((line for line in lines if text in line), None) for text in wanted]
    return (list(dict.fromkeys(line for line in found if line)) or lines[-MOST:])[:MOST]


def _proof(lesson: Lesson) -> tuple[str, str]:
    """The title of a lesson's `## Prove it`, and what it printed in the last run."""
    path = lesson.root / lesson.solution_path
    outputs = (
        {cell.id: cell.get("outputs", []) for cell in read_notebook(path).cells} if path.exists() else {}
    )
    for heading, _, cells in lesson.sections():
        kind, _, title = heading.partition(": ")
        if kind == "Prove it":
            found = (output for cell in cells for output in outputs.get(cell.id, []))
            return title, "".join(output.text for output in found if output.output_type == "stream")
    return "", ""


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
