"""Arrays drawn as grids of numbered cells."""

import math

from groundup.show import style
from groundup.show._data import to_numpy
from groundup.show.charts import new_figure

MOST = 12  # rows or columns of one grid; a longer axis is cut in its middle
ACROSS = 14  # cells side by side before the next array starts a new line
GAP = 1  # cells between two arrays
ROW = 30  # pixels
TITLE = 26  # pixels above a grid


def arrays(named: dict, *, title="", highlight=None):
    """Draw arrays side by side, each as a grid of cells with its values; `named` is title → array.

    A 1-D array is one row, a 2-D array a grid, a 3-D array its slices one under the other. Axes longer than 12 are
    cut in the middle. `highlight` is title → cells to mark: a bool array of the array's shape, or a list of indices
    (ints for 1-D, tuples else). Returns a plotly Figure; hovering shows a cell's index and value.

    Raises:
        ValueError: more than 3 axes, or a highlight that fits no array.
    """
    highlight = dict(highlight or {})
    unknown = [name for name in highlight if name not in named]
    if unknown:
        raise ValueError(f"highlight names {unknown[0]!r}, but the arrays are {', '.join(map(repr, named))}")
    grids = [_Grid(str(name), to_numpy(array), highlight.get(name)) for name, array in named.items()]
    return _draw(grids, title)


class _Grid:
    """One array's cells with positions inside its own box: `columns` cells wide, `height` pixels high."""

    def __init__(self, name: str, array, highlight):
        if array.ndim > 3:
            raise ValueError(f"{name!r} has {array.ndim} axes; arrays can draw at most 3")
        self.name = name
        marked = _marked(name, array.shape, highlight)
        slices = array.reshape((1,) * (3 - array.ndim) + array.shape)
        depth, rows, columns = (_shown(size) for size in slices.shape)
        self.columns = max(1, len(columns))
        self.cells: list[tuple[float, float, str, str, bool]] = []  # x (cells), y (pixels), text, hover, marked
        top = 0.0
        for d in depth:
            for r in rows if d is not None else [None]:
                for x, c in enumerate(columns):
                    index = (d, r, c)[3 - array.ndim :]
                    if None in index:
                        self.cells.append((x, top, "…", "", False))
                        continue
                    text = _number(array[index])
                    where = f"{name}[{', '.join(map(str, index))}]" if index else name
                    self.cells.append((x, top, text, f"{where} = {_number(array[index], 5)}", index in marked))
                top += ROW
            top += 8
        self.height = TITLE + max(ROW, top - 8)
        self.empty = array.size == 0


def _shown(size: int) -> list[int | None]:
    """The indices drawn along an axis; None stands for those left out."""
    if size <= MOST:
        return list(range(size))
    return [*range(MOST - 3), None, size - 2, size - 1]


def _marked(name: str, shape: tuple[int, ...], highlight) -> set[tuple[int, ...]]:
    import numpy as np

    if highlight is None:
        return set()
    mask = to_numpy(highlight) if not isinstance(highlight, (set, frozenset)) else None
    if mask is not None and mask.dtype == bool:
        if mask.shape != shape:
            raise ValueError(f"the highlight of {name!r} has shape {mask.shape}, the array {shape}")
        return {tuple(map(int, index)) for index in np.argwhere(mask)}
    marked = set()
    for given in highlight:
        index = tuple(given) if isinstance(given, (tuple, list)) else (given,)
        if len(index) != len(shape) or not all(-n <= i < n for i, n in zip(index, shape, strict=True)):
            raise ValueError(f"the highlight {given!r} is no cell of {name!r}, whose shape is {shape}")
        marked.add(tuple(int(i) % n for i, n in zip(index, shape, strict=True)))
    return marked


def _number(value, digits: int = 3) -> str:
    """A cell's text: short, with a real minus sign."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float):
        if math.isnan(value):
            return "nan"
        text = f"{value:.{digits}g}" if math.isfinite(value) else ("∞" if value > 0 else "-∞")
        return text.replace("e+0", "e").replace("e-0", "e-").replace("e+", "e").replace("-", "−")
    return str(value).replace("-", "−") if isinstance(value, int) else str(value)


def _draw(grids: list[_Grid], title: str):
    placed, across, down = _flow(grids)
    xs, ys, texts, hovers, marks, annotations, shapes = [], [], [], [], [], [], []
    for grid, left, top in placed:
        annotations.append(
            {
                "x": left, "y": -top, "text": f"<b>{grid.name}</b>", "showarrow": False,
                "xanchor": "left", "yanchor": "top", "align": "left",
            }
        )  # fmt: skip
        if grid.empty:
            annotations.append(
                {
                    "x": left, "y": -top - TITLE, "text": "no cells", "showarrow": False,
                    "xanchor": "left", "yanchor": "top", "font": {"color": style.COLOURS["muted"]},
                }
            )  # fmt: skip
        for x, y, text, hover, marked in grid.cells:
            xs.append(left + x + 0.5)
            ys.append(-(top + TITLE + y + ROW / 2))
            texts.append(f"<b>{text}</b>" if marked else text)
            hovers.append(hover)
            marks.append(marked)
    for marked, colour in ((False, "cell"), (True, "marked")):
        boxes = [
            f"M{x - 0.47:g},{y - 13:g}H{x + 0.47:g}V{y + 13:g}H{x - 0.47:g}Z"
            for x, y, text, mark in zip(xs, ys, texts, marks, strict=True)
            if mark == marked and text != "…"
        ]
        if boxes:
            line = {"color": style.COLOURS["orange"], "width": 1.5} if marked else {"width": 0}
            shapes.append(
                {"type": "path", "path": "".join(boxes), "fillcolor": style.COLOURS[colour], "line": line, "layer": "below"}
            )
    longest = max((len(text.replace("<b>", "").replace("</b>", "")) for text in texts), default=1)
    trace = {
        "type": "scatter", "mode": "text", "x": xs, "y": ys, "text": texts, "hovertext": hovers,
        "hovertemplate": "%{hovertext}<extra></extra>",
        "textfont": {"family": style.MONO, "size": 13 if longest <= 4 else 12 if longest <= 6 else 10},
    }  # fmt: skip
    top = 40 if title else 10
    fig = new_figure(
        [trace], annotations=annotations, shapes=shapes, showlegend=False, height=down + top + 10,
        margin={"l": 8, "r": 8, "t": top, "b": 10},
    )  # fmt: skip
    hidden = {"visible": False, "fixedrange": True}
    fig.update_layout(
        xaxis=hidden | {"range": [0, max(across, ACROSS)]}, yaxis=hidden | {"range": [-down, 0]}, title={"text": title}
    )
    return fig


def _flow(grids: list[_Grid]) -> tuple[list[tuple[_Grid, float, float]], float, float]:
    """Place grids from left to right in lines of at most ACROSS cells: (grid, left, top)s, width, height."""
    placed, left, top, tallest, widest = [], 0.0, 0.0, 0.0, 0.0
    for grid in grids:
        # A title needs room too: about 2.2 letters a cell when the page is wide.
        width = max(grid.columns, math.ceil(len(grid.name) / 5.5))
        if left and left + width > ACROSS:
            left, top, tallest = 0.0, top + tallest + 14, 0.0
        placed.append((grid, left, top))
        tallest = max(tallest, grid.height)
        widest = max(widest, left + width)
        left += width + GAP
    return placed, widest, max(top + tallest, ROW)
