"""How a result looks: HTML in a notebook, text elsewhere. Neither holds a time, so outputs stay stable."""

from __future__ import annotations

import contextlib
import html
import re
import sys
from typing import Any

# A sign and a word carry the meaning; the colour of the border only repeats it. Mid-tones read on white and on black.
_LOOKS = {
    "passed": ("✓", "passed", "#2e9e5b"),
    "failed": ("✗", "not yet", "#d9822b"),
    "todo": ("…", "to do", "#888888"),
    "error": ("!", "error", "#d1495b"),
    "timeout": ("⏱", "time is over", "#d1495b"),
    "reference": ("=", "reference", "#888888"),
}


def text_of(name: str, result: Any) -> str:
    """The result as plain text."""
    sign, word, _ = _LOOKS[result.status]
    head = f"{sign} {name}: {word}" if name else f"{sign} {word}"
    return f"{head}. {result.message}" if "\n" not in result.message else f"{head}\n{result.message}"


def html_of(name: str, result: Any) -> str:
    """The result as HTML with inline styles only; it takes the page's text colour."""
    sign, word, colour = _LOOKS[result.status]
    label = f"<b>{html.escape(name)}</b>: {word}" if name else word
    first, *rest = result.message.split("\n")
    body = f'<div style="margin-top:.25em">{_emphasised(html.escape(first))}</div>'
    if rest:
        body += (
            '<pre style="margin:.4em 0 0;padding:0;background:none;color:inherit;border:0;white-space:pre-wrap;'
            f'font-size:.9em;opacity:.85">{html.escape(chr(10).join(rest))}</pre>'
        )
    return (
        f'<div role="status" style="border:1px solid currentColor;border-left:.4em solid {colour};border-radius:.3em;'
        f'padding:.5em .8em;margin:.3em 0;max-width:48em;color:inherit"><span aria-hidden="true">{sign}</span> {label}{body}</div>'
    )


def _emphasised(text: str) -> str:
    """`*word*`, with which a sentence stresses a word, as emphasis; a product such as a * b stays as it is."""
    return re.sub(r"(?<![\w*.])\*(\w(?:[^*\n]*\w)?)\*(?![\w*.(\[])", r"<em>\1</em>", text)


def show(name: str, result: Any) -> None:
    """Display in a kernel, print elsewhere."""
    text = text_of(name, result)
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is not None and getattr(shell, "kernel", None) is not None:
        from IPython.display import display

        display({"text/html": html_of(name, result), "text/plain": text}, raw=True)
        return
    with contextlib.suppress(ValueError, OSError, AttributeError):  # sys.stdout was closed by the learner
        print(text)
