"""A course of one small lesson in a folder of its own, for the tests of the machine."""

import shutil
from pathlib import Path

from ci.lesson import ROOT

CHAPTER = '''\
---
covers: []
lesson: autograd.sample
minutes: 5
needs: []
title: A sample
---

# A sample

You will have written one function.

<!-- measured -->

```{code-cell} ipython3
:tags: [setup]

from groundup import lesson

check = lesson("autograd.sample")
```

```{code-cell} ipython3
:tags: [parameters]

SCALE = "auto"
```

```{code-cell} ipython3
:tags: [export]

from collections.abc import Sequence
```

## Build it

Something to read.

+++

### Exercise: Add up

Difficulty 1/5 · 2 minutes · 1 point

The sum of $x_i$.

<details><summary>Hint 1 · a nudge</summary>

Start from zero.

<details><summary>Hint 2 · the idea</summary>

Walk through the numbers.

<details><summary>Hint 3 · nearly the code</summary>

```python
total += number
```

</details>
</details>
</details>

Expected output:

```text
6.0
```

```{code-cell} ipython3
:tags: [exercise, export]

def add_up(numbers: Sequence[float]) -> float:
    """The sum of `numbers`."""
    ### BEGIN SOLUTION
    total = 0.0
    for number in numbers:
        total += number
    ### END SOLUTION
    return total
```

```{code-cell} ipython3
:tags: [example]

print(add_up([1.0, 2.0, 3.0]))
```

```{code-cell} ipython3
:tags: [check]

check(add_up)
```
'''


def make(root: Path, chapter: str = CHAPTER) -> Path:
    """Writes the course below `root` and returns the chapter's path."""
    path = root / "chapters" / "01_autograd" / "01_sample.md"
    path.parent.mkdir(parents=True)
    path.write_text(chapter, encoding="utf-8")
    (root / "ci").mkdir()
    for name in ("ci/curriculum.toml", "jupytext.toml", "pyproject.toml"):
        shutil.copy(ROOT / name, root / name)
    (root / "_config.yml").write_text("repository: {url: https://github.com/somebody/course}\n")
    return path
