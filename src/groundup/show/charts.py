"""Lines, points, bars and heatmaps."""

import math
import textwrap
from collections.abc import Sequence

from groundup.show import style
from groundup.show._data import thin, to_numbers, to_numpy

IMAGE = 16  # rows and columns from which a heatmap is an image
PHONE = 290  # pixels that a phone has for the plot beside its y axis
FEW = 8  # so many different values on a log axis get a tick each


def new_figure(data: list[dict], **layout):
    """A plotly Figure in the course's style."""
    import plotly.graph_objects as go

    return go.Figure(
        data=data, layout={"template": {"layout": style.layout()}, "height": style.HEIGHT} | layout
    )


def lines(series: dict, *, x="", y="", title="", log_x=False, log_y=False):
    """Curves, one for each entry of `series`: name → y values, or name → (x values, y values).

    Values are 1-D: lists, NumPy, torch or JAX. nan and inf leave a gap. A line of more than 800 points is thinned
    to the extremes of each stretch. Returns a plotly Figure.

    Raises:
        ValueError: values that are not 1-D numbers, or x and y of different lengths.
    """
    traces = []
    for index, (name, values) in enumerate(series.items()):
        xs, ys = _curve(name, values)
        xs, ys = thin(xs, ys)
        trace = _trace(index, name, xs, ys, x, y)
        trace["mode"] = "lines+markers" if len(ys) <= 24 else "lines"
        trace["line"] = {
            "color": _colour(index),
            "width": 2.25,
            "dash": _cycled(style.DASHES, index),
        }
        traces.append(trace)
    return _xy(traces, x, y, title, log_x, log_y)


def points(series: dict, *, x="", y="", title="", log_x=False, log_y=False):
    """Scatter plot; arguments as for `lines`. Each series has its own marker."""
    traces = []
    for index, (name, values) in enumerate(series.items()):
        trace = _trace(index, name, *_curve(name, values), x, y)
        trace["mode"] = "markers"
        traces.append(trace)
    return _xy(traces, x, y, title, log_x, log_y)


def bars(values: dict, *, x="", y="", title=""):
    """One bar for each entry of `values`: name → number; the number stands at the bar's end. nan leaves a gap.

    Bars stand up. Where the names are long and would not fit side by side on a phone, and no number is negative, they
    lie, the first on top; `x` is the names' title and `y` the numbers' title either way.
    """
    numbers = to_numbers(list(values.values()), "bars", 1).astype(float) if values else []
    numbers = [None if number != number else number for number in map(float, numbers)]
    names, labels = [str(name) for name in values], bar_labels(numbers)
    longest = max(map(len, labels), default=0)
    widest = max(map(len, names), default=0)
    lie = widest > 8 and len(names) * (7 * widest + 10) > PHONE
    lie = lie and all(number is None or number >= 0 for number in numbers)
    turned = not lie and len(names) * (7 * longest + 4) > PHONE
    trace = {
        "type": "bar",
        "orientation": "h" if lie else "v",
        "x": numbers if lie else names,
        "y": names if lie else numbers,
        "marker": {"color": style.COLOURS["blue"]},
        "text": labels,
        "textposition": "outside",
        "textangle": -90 if turned else 0,
        "textfont": {"size": style.SIZE["small"]},
        "constraintext": "none",  # plotly would write a number that is wider than its bar in tiny type
        "cliponaxis": False,
        "hovertemplate": "%{y}: %{x:,.5~r}<extra></extra>" if lie else "%{x}: %{y:,.5~r}<extra></extra>",
    }
    fig = new_figure([trace], bargap=0.35, showlegend=False)
    if lie:
        fig.update_xaxes(title={"text": y}, rangemode="tozero")
        fig.update_yaxes(title={"text": x}, type="category", autorange="reversed", ticks="")
        fig.update_layout(height=70 + 28 * len(names))
    else:
        fig.update_xaxes(title={"text": x}, type="category")
        fig.update_yaxes(title={"text": y})
    fig = _titled(fig, title)
    if lie:
        fig.update_layout(height=fig.layout.height + fig.layout.margin.t, margin={"r": 12 + 7 * longest})
    elif turned:
        fig.update_layout(margin={"t": fig.layout.margin.t + 7 * longest})
    return fig


def bar_labels(numbers: Sequence[float | None]) -> list[str]:
    """Short texts of numbers that stand beside one another: 10,163; 123; 3.00; 0.045; <0.001.

    Whole numbers stay whole. Where all are small, three digits of each are kept.
    """
    finite = [abs(number) for number in numbers if number is not None and math.isfinite(number)]
    whole = all(number.is_integer() for number in finite)
    small = max(finite, default=0) < 0.1

    def label(number: float | None) -> str:
        if number is None:
            return ""
        size = abs(number)
        if number == 0 or not math.isfinite(size):
            return f"{number:g}".replace("-", "−").replace("inf", "∞")
        if (whole or size >= 999.5) and size < 1e15:
            text = f"{size:,.0f}"
        elif small or size >= 1e15:
            text = f"{size:.3g}".replace("e-0", "e-").replace("e+", "e").replace("-", "−")
        elif size < 0.001:
            return "<0.001" if number > 0 else ">−0.001"
        else:
            text = f"{size:.{3 if size < 0.9995 else 2 if size < 9.995 else 1 if size < 99.95 else 0}f}"
        return text if number > 0 else f"−{text}"

    return [label(number) for number in numbers]


def heatmap(matrix, *, x="", y="", title="", text=None):
    """A matrix (rows, columns) as coloured cells, row 0 on top.

    Colours run from the smallest to the largest value; when there are values on both sides of zero, from blue
    (negative) to orange (positive) with zero in the middle. `x` and `y` are the axes' titles, or a list with a
    label for each column or row. Cells stretch with the page; those of a matrix of 16 × 16 or more are square, as in
    an image. `text=True` writes each value in its cell; a list of rows of strings writes those.

    Raises:
        ValueError: the matrix is not 2-D, or labels or texts do not fit it.
    """
    import numpy as np

    array = to_numbers(matrix, "heatmap", 2)
    rows, columns = array.shape
    finite = array[np.isfinite(array)]
    signed = finite.size > 0 and finite.min() < 0 < finite.max()
    trace = {
        "type": "heatmap",
        "z": array.tolist(),
        "colorscale": style.DIVERGING if signed else style.SEQUENTIAL,
        "xgap": 1 if columns < IMAGE or rows < IMAGE else 0,
        "ygap": 1 if columns < IMAGE or rows < IMAGE else 0,
        "hoverongaps": False,
        "colorbar": {"thickness": 10, "outlinewidth": 0, "len": 1, "tickfont": {"size": 11}},
    }
    if signed:
        most = float(np.abs(finite).max())
        trace |= {"zmin": -most, "zmax": most}
    if text is True:
        trace["texttemplate"] = "%{z:.3~g}"
    elif text is not None and text is not False:
        trace["text"], trace["texttemplate"] = _texts(text, array.shape), "%{text}"
    across_title = x if isinstance(x, str) else ""
    down_title = y if isinstance(y, str) else ""
    row, column = (
        ("row %{y}" if isinstance(y, str) else "%{y}"),
        ("column %{x}" if isinstance(x, str) else "%{x}"),
    )
    trace["hovertemplate"] = f"{row}, {column}: %{{z:.5~g}}<extra></extra>"
    fig = new_figure([trace])
    shared = {"showgrid": False, "showline": False, "ticks": ""}
    fig.update_xaxes(**shared, title={"text": across_title}, **_ticks(x, columns, "x"))
    fig.update_yaxes(**shared, title={"text": down_title}, autorange="reversed", **_ticks(y, rows, "y"))
    if rows >= IMAGE and columns >= IMAGE and 1 / 3 <= rows / columns <= 3:
        fig.update_xaxes(constrain="domain")
        fig.update_yaxes(scaleanchor="x", constrain="domain")
        fig.update_layout(height=400)
    else:
        fig.update_layout(height=min(480, max(200, 110 + 30 * rows)))
    return _titled(fig, title)


def _curve(name, values):
    """(x, y) of one series as 1-D arrays."""
    import numpy as np

    # A tuple of two numbers (or one-number tensors) is two y values.
    if isinstance(values, tuple) and len(values) == 2 and all(to_numpy(part).ndim for part in values):
        xs, ys = to_numpy(values[0]), to_numbers(values[1], f"the y values of {name!r}", 1)
        if xs.ndim != 1 or len(xs) != len(ys):
            raise ValueError(f"the x values of {name!r} have shape {xs.shape}, its y values {ys.shape}")
        return xs, ys
    ys = to_numbers(values, f"the values of {name!r}", 1)
    return np.arange(len(ys)), ys


def _trace(index: int, name, xs, ys, x: str, y: str) -> dict:
    return {
        "type": "scatter",
        "name": str(name),
        "x": xs.tolist(),
        "y": [value if abs(value) < float("inf") else None for value in ys.tolist()],
        "marker": {"color": _colour(index), "symbol": _cycled(style.MARKERS, index), "size": 7},
        "hovertemplate": f"{x or 'x'} %{{x}}<br>{y or 'y'} %{{y:.5~g}}<extra>{name}</extra>",
    }


def _xy(traces: list[dict], x: str, y: str, title: str, log_x: bool, log_y: bool):
    fig = new_figure(traces, showlegend=len(traces) > 1)
    fig.update_xaxes(title={"text": x}, **(_log([trace["x"] for trace in traces], few=True) if log_x else {}))
    fig.update_yaxes(title={"text": y}, **(_log([trace["y"] for trace in traces]) if log_y else {}))
    return _titled(fig, title)


def _log(values: list[list], few: bool = False) -> dict:
    """A log axis with a tick for each power of ten, or for 1, 2 and 5 times it where that gives too few.

    `few`: if there are only a few different values, as the sizes that were tried, each has its tick instead.
    """
    positive = sorted({v for part in values for v in part if isinstance(v, (int, float)) and v > 0})
    axis = {"type": "log", "tickangle": 0}  # level, as in every other frame of a slider
    if not positive:
        return axis | {"dtick": 1, "exponentformat": "power"}
    decades = math.log10(positive[-1] / positive[0])
    if few and 1 < len(positive) <= FEW and decades < 4:
        return axis | _ticks_at(_apart(positive, decades))
    if decades < 2:
        low, high = (math.floor(math.log10(value)) for value in (positive[0], positive[-1]))
        # One power more on each side: room beside the outermost values may show it.
        return axis | _ticks_at([c * 10.0**power for power in range(low - 1, high + 2) for c in (1, 2, 5)])
    # Powers of ten as such: plotly would mix 0.01 with 100μ and 10B.
    return axis | {"dtick": math.ceil(decades / 6), "exponentformat": "power"}


def _ticks_at(values: list[float]) -> dict:
    return {"tickmode": "array", "tickvals": values, "ticktext": [_short(value) for value in values]}


def _apart(values: list[float], decades: float) -> list[float]:
    """Of ascending values those whose texts do not touch on a phone, the last of them first of all."""
    kept = [values[-1]]
    for value in reversed(values[:-1]):
        room = math.log10(kept[-1] / value) / decades * (PHONE - 30)
        if room >= 3.5 * (len(_short(kept[-1])) + len(_short(value))) + 4:
            kept.append(value)
    return kept[::-1]


def _short(value: float) -> str:
    """A tick's text: 0.05, 4,096, 41 k, 1.5 M."""
    if not 1e-4 <= value < 1e15:
        return f"{value:.3g}".replace("e-0", "e-").replace("e+", "e").replace("-", "−")
    if value < 9999.5:
        return f"{value:,.0f}" if value >= 999.5 else f"{value:.3g}"
    power = min(4, int(math.log10(value * 1.0005) // 3))
    value /= 1000**power
    # Exact where three digits are; otherwise the whole number is enough.
    text = f"{value:.3g}"
    return f"{text if float(text) == value or value < 10 else f'{value:.0f}'} {' kMGT'[power]}"


def _titled(fig, title: str):
    lines_of_title = wrapped(title)
    if lines_of_title:
        fig.update_layout(title=title_of(lines_of_title))
    names = [trace.name for trace in fig.data] if fig.layout.showlegend else []
    rows = _legend_rows(names)
    fig.update_layout(margin={"t": 16 + 20 * len(lines_of_title) + 21 * (rows == 1)})
    if rows > 1:
        # What a phone breaks into several rows stands below: above, it would grow into the title.
        fig.update_layout(
            legend={"yref": "container", "y": 0, "yanchor": "bottom"},
            height=fig.layout.height + 21 * (rows - 1),
        )
    return fig


def _legend_rows(names: list[str]) -> int:
    """Rows that the legend needs on a phone."""
    if not names:
        return 0
    columns = max(1, 276 // (50 + 7 * max(map(len, names))))
    return 1 if sum(50 + 7 * len(name) for name in names) <= 276 else math.ceil(len(names) / columns)


def title_of(lines_of_title: list[str]) -> dict:
    """plotly lifts a title of several lines by half of what they add: push it down again."""
    return {"text": "<br>".join(lines_of_title), "pad": {"l": 8, "t": 8 + 10 * (len(lines_of_title) - 1)}}


def wrapped(title: str, most: int = 46) -> list[str]:
    """A title in lines of about equal length that fit on a phone; plotly does not wrap."""
    if not title:
        return []
    each = math.ceil(len(title) / math.ceil(len(title) / most)) + 4
    return textwrap.wrap(title, each, break_long_words=False, break_on_hyphens=False)


def _cycled(choices: tuple, index: int) -> str:
    """The seventh series has the first one's colour: shift, so that it has not the first one's dash too."""
    return choices[(index + index // len(style.SERIES)) % len(choices)]


def _colour(index: int) -> str:
    return style.COLOURS[style.SERIES[index % len(style.SERIES)]]


def _ticks(given, count: int, axis: str) -> dict:
    """Ticks at every cell of a small heatmap, or the labels given."""
    if isinstance(given, str):
        return {"dtick": 1} if count <= 12 else {}
    labels = [str(label) for label in given]
    if len(labels) != count:
        raise ValueError(f"heatmap has {count} cells along {axis} but {len(labels)} labels")
    # Positions with texts, not categories: two equal tokens are two columns.
    return {"tickmode": "array", "tickvals": list(range(count)), "ticktext": labels}


def _texts(text: Sequence, shape: tuple[int, int]) -> list[list[str]]:
    texts = [[str(cell) for cell in row] for row in text]
    if len(texts) != shape[0] or any(len(row) != shape[1] for row in texts):
        raise ValueError(f"heatmap's text must have its shape, {shape}")
    return texts
