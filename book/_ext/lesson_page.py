"""Turns a lesson into the notebook that its page shows: source from chapters/, outputs from solutions/.

An exercise becomes: text, stub, hints, an example with its expected output, the solution (folded), the check.
Pure functions on notebooks; groundup_book.py ties them to Sphinx.
"""

import html
import json
from dataclasses import dataclass
from pathlib import Path

import nbformat

from ci.lesson import BEGIN, EFFORT, END, EXPECTED, HINT, Cell, Exercise, Lesson, read, read_notebook
from groundup.ladder import MIME as RUNG

PLOTLY = "application/vnd.plotly.v1+json"
MEASURED = "<!-- measured -->"
# The page says it itself; a reader copying the cell gets working code without it.
NBVAL_MARK = "# NBVAL_CHECK_OUTPUT\n"


@dataclass(frozen=True)
class Links:
    """Where a page's buttons lead. `titles` and `pages`: lesson id to title and to its page, relative to chapters/."""

    colab: str
    download: str
    titles: dict[str, str]
    pages: dict[str, str]


def notebook(path: str, root: str, links: Links, warn) -> nbformat.NotebookNode:
    """The page's notebook. `warn(message)` is called when outputs are missing or belong to another source."""
    lesson = read(Path(path), Path(root))
    record, outputs = _solved(lesson, warn)
    stubs = _stubs(lesson, warn)
    of_exercise = {
        cell.id: exercise
        for exercise in lesson.exercises
        for cell in (exercise.markdown, exercise.code, exercise.example, exercise.check)
    }
    cells = []
    before, rest = _preamble(lesson)
    for cell in rest:
        exercise = of_exercise.get(cell.id)
        if exercise is None and cell.kind == "markdown":
            cells.append(_markdown(cell.source.replace(MEASURED, _facts(lesson, record, links))))
        elif exercise is None:
            cells.append(_code(cell.source, outputs.get(cell.id, []), cell.tags))
        elif cell.id == exercise.markdown.id:
            cells += _exercise(exercise, stubs.get(exercise.code.id, exercise.source), outputs)
        if cell is rest[0] and before:
            cells.append(_code("\n\n".join(entry.source for entry in before), prompt="Setup and imports"))
    page = nbformat.v4.new_notebook(cells=cells, metadata=dict(lesson.notebook.metadata))
    # The front matter is the course's own; Sphinx would show unknown keys as fields of the page.
    page.metadata = nbformat.from_dict({"kernelspec": dict(lesson.notebook.metadata.kernelspec)})
    page.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    return page


def _preamble(lesson: Lesson) -> tuple[list[Cell], list[Cell]]:
    """The code cells between the title and the first paragraph (setup, imports, scale), and all other cells."""
    ends = 1
    while ends < len(lesson.cells) and lesson.cells[ends].kind == "code":
        ends += 1
    return list(lesson.cells[1:ends]), [lesson.cells[0], *lesson.cells[ends:]]


def _solved(lesson: Lesson, warn) -> tuple[dict, dict[str, list]]:
    """What `make execute` recorded, and the outputs of each code cell whose source is still the same."""
    path = lesson.root / lesson.solution_path
    if not path.exists():
        warn(f"{lesson.path}: no outputs yet, run `make execute`")
        return {}, {}
    solved = read_notebook(path)
    record = dict(solved.metadata.get("groundup", {}))
    sources = {cell.id: cell.source for cell in lesson.cells}
    cells = [
        cell for cell in solved.cells if cell.cell_type == "code" and sources.get(cell.id) == cell.source
    ]
    if not record:
        warn(f"{lesson.path}: no outputs yet, run `make execute`")
    elif len(cells) < sum(1 for _ in lesson.code()):
        warn(f"{lesson.path}: its outputs come from another source, run `make sync` and `make execute`")
    return record, {cell.id: [_shown(output) for output in cell.outputs] for cell in cells}


def _stubs(lesson: Lesson, warn) -> dict[str, str]:
    path = lesson.root / lesson.exercise_path
    if not path.exists():
        warn(f"{lesson.path}: no exercise notebook yet, run `make sync`")
        return {}
    return {cell.id: cell.source for cell in read_notebook(path).cells if cell.cell_type == "code"}


def _markdown(source: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_markdown_cell(source)


def _code(source: str, outputs=(), tags=(), prompt: str | None = None) -> nbformat.NotebookNode:
    """A code cell; with `prompt`, its source is folded under these words."""
    cell = nbformat.v4.new_code_cell(source.removeprefix(NBVAL_MARK), outputs=list(outputs))
    tags = set(tags)
    if prompt is None and tags & {"hide-input", "interactive"}:
        prompt = "Code of this figure"
    if prompt is not None:
        tags.add("hide-input")
        cell.metadata["mystnb"] = {
            "code_prompt_show": prompt,
            "code_prompt_hide": prompt.replace("Show", "Hide"),
        }
    cell.metadata["tags"] = sorted(tags)
    return cell


def _exercise(exercise: Exercise, stub: str, outputs: dict[str, list]) -> list[nbformat.NotebookNode]:
    about = exercise.markdown.source
    effort, hint, expected = EFFORT.search(about), HINT.search(about), EXPECTED.search(about)
    heading = about[: effort.start()]
    text = about[effort.end() : hint.start()].strip()
    hints = about[hint.start() : expected.start()].strip()
    after = about[expected.end() :].strip()
    # A gate holds the solved cell's output and the text in the source together; the text is there before any run.
    shown = [nbformat.v4.new_output("stream", name="stdout", text=exercise.expected + "\n")]
    shown += [output for output in outputs.get(exercise.example.id, []) if output.output_type != "stream"]
    solution = "\n".join(line for line in exercise.source.split("\n") if line.strip() not in (BEGIN, END))
    cells = [
        _markdown(heading + _effort(exercise) + "\n\n" + text),
        _code(stub, tags=["exercise-stub"]),
        _markdown(f'<div class="hints">\n\n{hints}\n\n</div>'),
        _code(exercise.example.source, shown, ["exercise-example"]),
    ]
    if after:
        cells.append(_markdown(after))
    cells += [
        _code(solution, tags=["exercise-solution"], prompt="Show the solution"),
        _code(exercise.check.source, outputs.get(exercise.check.id, []), ["exercise-check"]),
    ]
    return cells


def _effort(exercise: Exercise) -> str:
    full, points = exercise.difficulty, exercise.points
    dots = "".join(f'<i class="{"on" if number < full else "off"}"></i>' for number in range(5))
    return (
        f'<p class="effort" data-exercise="{exercise.id}"><span class="level"><span class="dots" aria-hidden="true">{dots}</span> '
        f"Difficulty {full}/5</span> <span>{exercise.minutes} minutes</span> "
        f"<span>{points} point{'s' * (points != 1)}</span></p>"
    )


def _facts(lesson: Lesson, record: dict, links: Links) -> str:
    """The buttons and the measured table under a lesson's title; no blank line, so that it is one HTML block."""
    needs = (
        ", ".join(_lesson_link(identity, links) for identity in lesson.needs)
        or "nothing but Python and school calculus"
    )
    rows = [("Time", f"about {lesson.minutes} minutes"), ("First", needs)]
    if record:
        device = html.escape(str(record["device"]))
        machine = html.escape(str(record.get("machine", "")))
        seconds = f"{record['seconds']:g} s"
        where = machine if device == "cpu" else f"{device} ({machine})"
        versions = ", ".join(
            f"{name} {html.escape(str(record[key]))}"
            for key, name in (("python", "Python"), ("torch", "PyTorch"))
            if record.get(key)
        )
        rows += [
            ("Whole notebook", f"{seconds}, {record['peak_mb']:,} MB of memory"),
            ("Measured on", f"{where}; {versions}"),
        ]
    else:
        rows.append(("Whole notebook", "not measured yet"))
    facts = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in rows)
    return (
        '<div class="lesson-head"><p class="lesson-actions">'
        f'<a class="button primary" href="{html.escape(links.colab)}">Open the exercises in Colab</a> '
        f'<a class="button" href="{html.escape(links.download)}" download>Download the notebook</a></p>'
        f'<p class="lesson-local">On your own machine: <code>make start</code>, then open '
        f"<code>{'/'.join(lesson.exercise_path.parts[1:])}</code> in the JupyterLab beside this site.</p>"
        f'<dl class="facts">{facts}</dl></div>'
    )


def _lesson_link(identity: str, links: Links) -> str:
    title = html.escape(links.titles.get(identity, identity))
    if identity in links.pages:
        return f'<a href="../{links.pages[identity]}">{title}</a>'
    return f"{title} (coming)"


def _shown(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """An output as the page shows it: a figure becomes HTML, a rung of the ladder its sentence."""
    if RUNG in output.get("data", {}):
        # For ci/ladder.py; readers see its text.
        return nbformat.v4.new_output("display_data", {"text/plain": output.data["text/plain"]})
    if PLOTLY not in output.get("data", {}):
        return output
    return nbformat.v4.new_output("display_data", {"text/html": figure_html(output.data[PLOTLY])})


def figure_html(figure: dict) -> str:
    """A stored figure as HTML that book/_static/figures.js draws."""
    layout = figure.get("layout", {})
    alt = html.escape(layout.get("meta", {}).get("alt", "Figure"), quote=True)
    height = int(layout.get("height") or layout.get("template", {}).get("layout", {}).get("height") or 340)
    # What plotly's own slider would take; the page draws its own below the figure.
    height -= layout.get("meta", {}).get("control", {}).get("height", 0)
    # "</" would end the script element early.
    body = json.dumps(figure, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
    return (
        f'<div class="figure-box"><div class="figure-plot" role="img" aria-label="{alt}" '
        f'style="min-height:{height}px"></div><script type="application/json">{body}</script>'
        f"<noscript><p>Figure: {alt}</p></noscript></div>"
    )
