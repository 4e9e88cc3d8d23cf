"""Gate 7: prose states no measured time, memory, share, accuracy, loss or ratio; it points to the output.

A number that is true by definition or cited stands in a paragraph that says so in a comment that readers do not
see: `<!-- constant: a float32 has 24 bits of mantissa -->` or `<!-- citation: Vaswani et al. 2017, table 3 -->`,
in the paragraph or just above it.
"""

import re
from collections.abc import Iterator

from ci.gates import Course, Problem
from ci.lesson import EFFORT

EXEMPT = re.compile(r"<!--\s*(?:constant|citation):\s*\S.*?-->", re.S)
NUMBER = r"(?<![\w.])\d[\d,.]*(?:e[+-]?\d+)?"
UNIT = (
    r"(?:ns|[µμu]s|ms|secs?|seconds?|minutes?|hours?|[kKMGT]i?B|%|per ?cent|"
    r"tokens/s|tokens per second|samples/s|it/s|[KMGTP]?FLOP/?s)"
)
MEASURED = (
    re.compile(rf"{NUMBER}(?:[\s-]?{UNIT}|\ss)(?!\w)"),  # `3 s`, but the 90s are no measurement
    re.compile(
        rf"(?:{NUMBER}\s?(?:×|x|times|-fold)|twice|half|orders? of magnitude)\s(?:as\s)?"
        r"(?:(?:fast|slow|quick)(?:er)?|smaller|larger|bigger|cheaper|better|worse|(?:less|more|fewer|as much|as many)\s"
        r"(?:memory|time|tokens|steps|parameters|bytes|samples))\b"
    ),
    re.compile(
        r"\b(?:accuracy|loss|perplexity|error rate|reward|speed-?up|FID)\s"
        r"(?:(?:of|is|was|reaches|falls|drops|rises|goes|stays|ends|to|at|about|around|near|below|above|≈|=|by)\s)+"
        r"(?:\d+\.\d+|\d{2,})",
        re.I,
    ),
)
# What is code, mathematics or a link is not prose; each is blanked, so that lines keep their numbers.
NOT_PROSE = (
    re.compile(r"^(```+|~~~+).*?^\1\s*$", re.M | re.S),
    re.compile(r"\$\$.*?\$\$", re.S),
    re.compile(r"``.+?``|`[^`\n]+`"),
    re.compile(r"\$[^$\n]+\$"),
    re.compile(r"<!--.*?-->", re.S),
    re.compile(r"\]\([^)]*\)|<https?://[^>]*>"),
    EFFORT,
)


def prose(course: Course) -> Iterator[Problem]:
    """Prose carries no measured number."""
    for lesson in course.lessons:
        for cell in lesson.cells:
            if cell.kind == "markdown":
                for line, found in measured(cell.source):
                    yield Problem(
                        "prose",
                        f"{lesson.path}:{cell.line + line}",
                        f"'{found}' reads like a measurement: point to the output, or say in the paragraph why it is constant",
                    )


def measured(text: str) -> Iterator[tuple[int, str]]:
    """Each measured-looking number in Markdown `text`: (line from 0, the words)."""
    exempt = _exempt_lines(text)
    for pattern in NOT_PROSE:
        text = pattern.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    for number, line in enumerate(text.splitlines()):
        if number in exempt:
            continue
        for pattern in MEASURED:
            if match := pattern.search(line):
                yield number, match[0].strip()
                break


def _exempt_lines(text: str) -> set[int]:
    """The lines of the paragraphs that say why their numbers are no measurements."""
    exempt: set[int] = set()
    paragraph: list[int] = []
    carried = False  # a paragraph that is nothing but the comment speaks for the next one
    lines = text.splitlines()
    for number, line in enumerate([*lines, ""]):
        if line.strip():
            paragraph.append(number)
            continue
        if not paragraph:
            continue
        whole = "\n".join(lines[i] for i in paragraph)
        says = bool(EXEMPT.search(whole))
        if says or carried:
            exempt.update(paragraph)
        carried = says and not EXEMPT.sub("", whole).strip()
        paragraph = []
    return exempt


GATES = (prose,)
