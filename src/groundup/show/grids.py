"""Arrays drawn as grids of numbered cells."""

import html
import math
import re

from groundup.show import style
from groundup.show._data import to_numpy
from groundup.show.charts import new_figure, title_of, wrapped

MOST = 12  # rows or columns of one grid; a longer axis is cut in its middle
# Pixels. Widths are those of a page as wide as the figure needs; a wider page stretches them.
LINE, LEAST = 540, 380  # most in one line of grids; least width of a figure
ROW, GAP, SLICE = 30, 22, 8  # height of a row, distance of two grids, distance of two slices
FONT, LETTER = 12, 7.3  # size of a cell's text, width of one of its letters
NAME = 18  # height of a line of a grid's name


def arrays(named: dict, *, title="", highlight=None):
    """Draw arrays side by side, each as a grid of cells with its values; `named` is title → array.

    A 1-D array is one row, a 2-D array a grid, a 3-D array its slices one under the other. Axes longer than 12 are
    cut in the middle. `highlight` is title → cells to mark: a bool array of the array's shape, or a list of indices
    (ints for 1-D, tuples else). Returns a plotly Figure; hovering shows a cell's index and value.

    Raises:
        ValueError: more than 3 axes, or a highlight that fits no array.
    """
    highlight = dict(highlight or {})
    for name in highlight:
        if name not in named:
            raise ValueError(f"highlight names {name!r}, but the arrays are {', '.join(map(repr, named))}")
    return _draw(
        [_Grid(str(name), to_numpy(array), highlight.get(name)) for name, array in named.items()], title
    )


class _Grid:
    """One array's cells, measured from the top left corner of its first row."""

    def __init__(self, name: str, array, highlight):
        if array.ndim > 3:
            raise ValueError(f"{name!r} has {array.ndim} axes; arrays can draw at most 3")
        marked = _marked(name, array.shape, highlight)
        depth, rows, columns = (_shown(size) for size in (1,) * (3 - array.ndim) + array.shape)
        self.cells: list[tuple[int, float, str, str, bool]] = []  # column, top, text, hover text, marked
        top = 0.0
        for d in depth if array.size else []:
            for r in rows if d is not None else [None]:
                for x, c in enumerate(columns):
                    index = (d, r, c)[3 - array.ndim :]
                    if None in (d, r, c):
                        self.cells.append((x, top, "…", "", False))
                        continue
                    where = f"{name}[{', '.join(map(str, index))}]" if index else name
                    hover = f"{where} = {_number(array[index], 5)}"
                    self.cells.append(
                        (x, top, _number(array[index]), html.escape(hover, quote=False), index in marked)
                    )
                top += ROW
            top += SLICE
        longest = max((len(text) for _, _, text, _, _ in self.cells), default=0)
        self.cell = max(30.0, longest * LETTER + 10)
        wide = max(self.cell * len(columns) if self.cells else 0, 96)
        # A shape or a tuple of strides stays in one piece.
        whole = re.sub(r"\([^()]*\)", lambda part: part[0].replace(" ", "\u00a0"), name)
        self.name = wrapped(whole, max(12, int(wide / 7.6)))
        self.width = max(wide, 7.6 * max(map(len, self.name), default=0))
        self.height = max(ROW, top - SLICE)


def _shown(size: int) -> list[int | None]:
    """The indices drawn along an axis; None stands for those left out."""
    if size <= MOST:
        return list(range(size))
    return [*range(MOST - 3), None, size - 2, size - 1]


def _marked(name: str, shape: tuple[int, ...], highlight) -> set[tuple[int, ...]]:
    import numpy as np

    if highlight is None:
        return set()
    # A list of indices is not an array of cells; only a bool array is.
    mask = to_numpy(highlight) if hasattr(highlight, "dtype") else None
    if mask is not None and mask.dtype == bool:
        if mask.shape != shape:
            raise ValueError(f"the highlight of {name!r} has shape {mask.shape}, the array {shape}")
        return {tuple(map(int, index)) for index in np.argwhere(mask)}
    marked = set()
    for given in highlight:
        index = tuple(int(i) for i in (given if hasattr(given, "__iter__") else (given,)))
        if len(index) != len(shape) or not all(-n <= i < n for i, n in zip(index, shape, strict=True)):
            raise ValueError(f"the highlight {given!r} is no cell of {name!r}, whose shape is {shape}")
        marked.add(tuple(i % n for i, n in zip(index, shape, strict=True)))
    return marked


def _number(value, digits: int = 3) -> str:
    """A cell's text: short, with a real minus sign."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        if not math.isfinite(value):
            return "nan" if math.isnan(value) else "∞" if value > 0 else "−∞"
        text = f"{value:.{digits}g}"
        return text.replace("e+0", "e").replace("e-0", "e-").replace("e+", "e").replace("-", "−")
    if isinstance(value, int) and not isinstance(value, bool):
        return (
            str(value) if abs(value) < 10**6 or digits > 3 else f"{value:.2e}".replace("e+0", "e")
        ).replace("-", "−")
    text = str(value)
    return text if len(text) <= 8 or digits > 3 else text[:7] + "…"


def _draw(grids: list[_Grid], title: str):
    placed, width, height = _flow(grids)
    texts, boxes, annotations = [], {False: [], True: []}, []
    for grid, left, top, names in placed:
        for text, down, colour in [
            ("<br>".join(f"<b>{html.escape(n, quote=False)}</b>" for n in grid.name), 0, "text")
        ] + ([] if grid.cells else [("no cells", names, "muted")]):
            annotations.append(
                {
                    "x": left, "y": -(top + down), "text": text, "font": {"color": style.COLOURS[colour]},
                    "showarrow": False, "xanchor": "left", "yanchor": "top", "align": "left", "borderpad": 0,
                }
            )  # fmt: skip
        for column, down, text, hover, marked in grid.cells:
            x, y = left + column * grid.cell, -(top + names + down)
            texts.append((x + grid.cell / 2, y - ROW / 2, f"<b>{text}</b>" if marked else text, hover))
            if text != "…":
                boxes[marked].append(
                    f"M{x + 1:.0f},{y - 1:.0f}H{x + grid.cell - 1:.0f}V{y - ROW + 1:.0f}H{x + 1:.0f}Z"
                )
    outline = {False: {"width": 0}, True: {"color": style.COLOURS["orange"], "width": 1.5}}
    shapes = [
        {
            "type": "path", "path": "".join(paths), "line": outline[marked], "layer": "below",
            "fillcolor": style.COLOURS["marked" if marked else "cell"],
        }
        for marked, paths in boxes.items() if paths
    ]  # fmt: skip
    xs, ys, words, hovers = (list(part) for part in zip(*texts, strict=True)) if texts else ([], [], [], [])
    trace = {
        "type": "scatter", "mode": "text", "x": xs, "y": ys, "text": words, "hovertext": hovers,
        "hovertemplate": "%{hovertext}<extra></extra>", "textfont": {"family": style.MONO, "size": FONT},
    }  # fmt: skip
    lines = wrapped(title)
    above = 12 + 20 * len(lines) + (8 if lines else 0)
    fig = new_figure(
        [trace], annotations=annotations, shapes=shapes, showlegend=False, height=math.ceil(height) + above + 10,
        margin={"l": 8, "r": 8, "t": above, "b": 10}, title=title_of(lines),
    )  # fmt: skip
    hidden = {"visible": False, "fixedrange": True}
    fig.update_layout(
        xaxis=hidden | {"range": [0, max(round(width), LEAST)]},
        yaxis=hidden | {"range": [-math.ceil(height), 0]},
    )
    # Cells have room to spare: down to nine tenths of their width the numbers still fit.
    narrowest = round(0.9 * width) + 16
    if narrowest > style.NARROW:
        fig.update_layout(meta={"min_width": narrowest})
    return fig


def _flow(grids: list[_Grid]) -> tuple[list[tuple[_Grid, float, float, int]], float, float]:
    """Place grids in lines: (grid, left, top, height of the line's names)s, and the whole width and height."""
    lines = _broken(grids, LINE)
    # Lines of about equal length: the narrowest page that needs no more of them.
    narrow = next(most for most in range(0, LINE + 10, 10) if len(_broken(grids, most)) == len(lines))
    lines = _broken(grids, narrow)
    placed, top, widest = [], 0.0, 0.0
    for line in lines:
        names, left = NAME * max(len(grid.name) for grid in line) + 6, 0.0
        for grid in line:
            placed.append((grid, left, top, names))
            left += grid.width + GAP
        widest = max(widest, left - GAP)
        top += names + max(grid.height for grid in line) + 16
    return placed, widest, max(top - 16, ROW)


def _broken(grids: list[_Grid], most: float) -> list[list[_Grid]]:
    """Lines of grids at most `most` wide (a grid that is wider has a line of its own)."""
    lines: list[list[_Grid]] = []
    for grid in grids:
        if lines and sum(g.width + GAP for g in lines[-1]) + grid.width <= most:
            lines[-1].append(grid)
        else:
            lines.append([grid])
    return lines
