"""Makes the skeleton of a lesson of the curriculum: a chapter and its checks, each saying what is still missing.

    python -m ci.new_lesson autograd losses

The skeleton syncs at once, so that it can be filled in step by step; `make audit` lists what is still missing.
"""

import argparse
import sys
from pathlib import Path

from ci.lesson import ROOT, LessonError, plan

CHAPTER = '''\
---
covers: {covers}
lesson: {id}
minutes: 60
needs: []
title: {title}
---

# {title}

MISSING: one sentence: what the learner will have written, and what it will match.

<!-- measured -->

```{{code-cell}} ipython3
:tags: [setup]

from groundup import lesson

check = lesson("{id}")
```

```{{code-cell}} ipython3
:tags: [parameters]

SCALE = "auto"
```

## Why

MISSING: the problem, shown by a cell that runs.

## Build it

MISSING: three to six exercises in the form below.

+++

### Exercise: MISSING title

Difficulty 1/5 · 5 minutes · 1 point

MISSING: idea, equation, a tiny worked example whose numbers a cell prints.

<details><summary>Hint 1 · a nudge</summary>

MISSING nudge for {stub}.

<details><summary>Hint 2 · the idea</summary>

MISSING idea for {stub}.

<details><summary>Hint 3 · nearly the code</summary>

MISSING nearly the code for {stub}.

</details>
</details>
</details>

Expected output:

```text
2
```

```{{code-cell}} ipython3
:tags: [exercise, export]

def {stub}(x: int) -> int:
    """MISSING: what it computes; shapes, errors raised, source."""
    ### BEGIN SOLUTION
    return x + 1
    ### END SOLUTION
```

```{{code-cell}} ipython3
:tags: [example]

print({stub}(1))
```

```{{code-cell}} ipython3
:tags: [check]

check({stub})
```

## Prove it

MISSING: the whole against an independent reference.

## Experiment

MISSING: train or measure it; what was expected, then what came out.

## Break it

MISSING: a plausible wrong version, its symptom, and the exercise that mends it.

## Interact

MISSING: one figure with a control, such as this.

```{{code-cell}} ipython3
:tags: [interactive, hide-input]

from groundup import show

show.interactive(
    lambda power: show.lines({{"x ** power": [x**power for x in range(5)]}}),
    [1, 2, 3],
    label="power",
    alt="MISSING: what the figure shows, and how it changes with the control",
)
```

## Recall

{questions}

## Read next

MISSING: papers with year, and the code to read after this.
'''

CHECKS = '''\
"""Checks for the lesson {id}."""

from groundup.check import Case, Exercise

{stub} = Exercise("{id}.{stub}")


@{stub}.cases
def _(rng):
    # MISSING: random, ragged, size 1, large values, another dtype, not contiguous.
    yield Case("a small number", x=int(rng.integers(1, 100)))


@{stub}.oracle
def _(x):
    # MISSING: an oracle that is independent of the solution.
    return 1 + x


@{stub}.mistake
def forgot_to_add(x):
    """You returned the input as it came. MISSING: what went wrong and why it matters; two more mistakes."""
    return x
'''


QUESTION = """\
<details><summary>MISSING question {number} of five?</summary>

MISSING answer {number}.

</details>"""


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(prog="make new-lesson", description=__doc__.splitlines()[0])
    parser.add_argument("part", help="a part of ci/curriculum.toml, such as autograd")
    parser.add_argument("name", help="one of its lessons, such as losses")
    options = parser.parse_args(arguments)
    try:
        parts = plan(root)["part"]
    except LessonError as error:
        return _refuse(str(error))
    part = next((entry for entry in parts if entry["id"] == options.part), None)
    if part is None:
        return _refuse(f"no part is called {options.part!r}; there are: {', '.join(p['id'] for p in parts)}")
    names = [entry["id"].split(".")[1] for entry in part["lesson"]]
    if options.name not in names:
        return _refuse(
            f"part {options.part} has no lesson {options.name!r}; it has: {', '.join(names)}; add yours to ci/curriculum.toml first"
        )
    entry = part["lesson"][names.index(options.name)]
    number = 1 + names.index(options.name)
    chapter = root / "chapters" / part["folder"] / f"{number:02d}_{options.name}.md"
    checks = root / "src" / "groundup" / "checks" / options.part / f"{options.name}.py"
    for path in (chapter, checks):
        if path.exists():
            return _refuse(f"{path.relative_to(root)} is already there; nothing was written")
    words = {
        "id": entry["id"],
        "title": entry["title"],
        "stub": f"missing_{options.name}",
        "covers": entry["rows"],
        "questions": "\n\n".join(QUESTION.format(number=number) for number in range(1, 6)),
    }
    for path, text in ((chapter, CHAPTER), (checks, CHECKS)):
        path.parent.mkdir(parents=True, exist_ok=True)
        text = text.format(**words)
        path.write_text(text, encoding="utf-8", newline="\n")
        print(f"{path.relative_to(root)}: {text.count('MISSING')} places marked MISSING")
    package = checks.parent / "__init__.py"
    if not package.exists():
        package.write_text(f'"""Checks of the part {options.part}."""\n', encoding="utf-8")
    print(
        f"next: fill them in, then `make sync execute audit LESSON={entry['id']}`; CONTRIBUTING.md walks through a lesson"
    )
    return 0


def _refuse(message: str) -> int:
    print(message, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
