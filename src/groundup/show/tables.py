"""A small table."""

import html
import math
import re

from groundup.show._emit import show_bundle

# A number written as text: sign, thousands, exponent, unit, uncertainty. What stands where there is none: a dash.
NUMBER = r"[<>≤≥~≈]?\s?[+\-−]?[$€]?(?:\d[\d,.]*(?:e[+\-−]?\d+)?|nan|inf|∞)"
UNIT = r"\s?(?:[%×x°]|[A-Za-zµμ]{1,6}(?:/[A-Za-z]{1,6})?)?"
WRITTEN = re.compile(rf"{NUMBER}{UNIT}(?:\s?±\s?{NUMBER}{UNIT})?|±\s?{NUMBER}{UNIT}")
NONE = re.compile(r"\s*[—–\-−]?\s*")


def table(rows: list[dict], *, caption: str = "") -> None:
    """Display `rows` (one dict for each row; columns in order of first appearance) as a table.

    Floats are shown with 4 significant digits; a missing or None cell is empty. Columns of numbers, also of numbers
    written as text ("1,311 M", "3.0 ± 0.1", "—"), are aligned to the right.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    numeric = [_is_numeric([row.get(column) for row in rows]) for column in columns]
    show_bundle(
        {
            "text/html": _html(columns, cells, numeric, caption),
            "text/plain": _text([str(column) for column in columns], cells, numeric, caption),
        }
    )


def _cell(value) -> str:
    if value is None:
        return ""
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else str(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10_000:
        return f"{value:,}"
    return str(value)


def _is_numeric(values: list) -> bool:
    given = [v for v in values if v is not None and not (isinstance(v, str) and NONE.fullmatch(v))]

    def number(value) -> bool:
        if isinstance(value, str):
            return bool(WRITTEN.fullmatch(value.strip()))
        return hasattr(value, "__float__") and not isinstance(value, bool)

    return bool(given) and all(map(number, given))


def _html(columns: list, cells: list[list[str]], numeric: list[bool], caption: str) -> str:
    def row(kind: str, texts: list[str], extra: str = "") -> str:
        marked = (
            f'<{kind}{extra} style="text-align:{"right" if right else "left"}">{html.escape(text)}</{kind}>'
            for text, right in zip(texts, numeric, strict=True)
        )
        return f"<tr>{''.join(marked)}</tr>"

    head = row("th", [str(column) for column in columns], ' scope="col"')
    body = "".join(row("td", texts) for texts in cells)
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return f'<table class="groundup-table">{title}<thead>{head}</thead><tbody>{body}</tbody></table>'


def _text(columns: list[str], cells: list[list[str]], numeric: list[bool], caption: str) -> str:
    widths = [max(len(text) for text in texts) for texts in zip(columns, *cells, strict=True)]

    def row(texts: list[str]) -> str:
        padded = (
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(texts, widths, numeric, strict=True)
        )
        return "  ".join(padded).rstrip()

    title = [caption] if caption else []
    return "\n".join([*title, row(columns), row(["-" * width for width in widths]), *map(row, cells)])
