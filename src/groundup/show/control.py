"""A figure with a control: a slider in a live kernel, frames that need no kernel anywhere else."""

import math
from collections.abc import Callable, Sequence

from groundup.show import style
from groundup.show._data import as_json, check_size
from groundup.show._emit import bundle_of, figure_json, in_colab, in_kernel, need_alt, on_page, show_bundle
from groundup.show.graphs import alike

SLIDER = 89  # pixels that plotly gives to a slider below a figure
REMEDY = "use fewer values, or plot fewer points in each"


def interactive(make: Callable, values: Sequence, *, label: str, start=None, alt: str) -> None:
    """Display `make(value)` with a slider over `values` (numbers or strings).

    Every figure is made at once and axes and colours are given the same range in all of them, so that moving the
    slider compares like with like. In a live kernel the slider is an ipywidgets SelectionSlider; on the website, in
    Colab and where ipywidgets is absent it is plotly's own, with every figure stored as a frame.

    Raises:
        ValueError: no values, a `start` that is none of them, empty label or alt, or more than 150 kB in all.
    """
    alt = need_alt(alt)
    if not str(label).strip():
        raise ValueError("label is empty: name what the slider changes")
    values = list(values)
    if not values:
        raise ValueError("values is empty: give interactive the values that the slider can take")
    if start is not None and start not in values:
        raise ValueError(f"start is {start!r}, which is none of the values")
    active = 0 if start is None else values.index(start)
    stored = frames_json(make, values, label=str(label), active=active, alt=alt)
    slider = None if on_page() or in_colab() or not in_kernel() else _slider(values, str(label), active)
    if slider is None:
        show_bundle(bundle_of(stored))
    else:
        _live(stored, slider, active)


def frames_json(make: Callable, values: list, *, label: str, active: int, alt: str) -> dict:
    """One stored figure with a frame for each value; each frame alone says everything that it shows."""
    figures = [as_json(fig) for fig in alike([make(value) for value in values])]
    for figure in figures:
        figure.setdefault("layout", {}).pop("template", None)
    hidden = all(figure["layout"].get("xaxis", {}).get("visible") is False for figure in figures)
    height = max(figure["layout"].get("height") or style.HEIGHT for figure in figures)
    for figure in figures:
        layout = figure["layout"]
        # A lower figure gets room under it, not a taller plot.
        margin = {"b": style.layout()["margin"]["b"]} | (layout.get("margin") or {})
        margin["b"] += height - (layout.get("height") or style.HEIGHT)
        layout |= {"height": height + SLIDER, "margin": margin}
    _share_ranges(figures)
    figures = _complete(figures)
    names = [_name(value) for value in values]
    base = figures[active]
    slider = _plotly_slider(names, label, active, under=14 if hidden else 50)
    # A page that puts its own control in the slider's place takes `height` off the figure's.
    meta = (base["layout"].get("meta") or {}) | {
        "control": {"label": label, "values": names, "height": SLIDER}
    }
    stored = {"data": base["data"], "layout": base["layout"] | {"meta": meta, "sliders": [slider]}}
    stored = figure_json(stored, alt, REMEDY)
    stored["frames"] = [
        {
            "name": str(i),
            "data": figure["data"],
            "layout": {key: item for key, item in figure["layout"].items() if key != "meta"},
        }
        for i, figure in enumerate(figures)
    ]
    check_size(stored, REMEDY)
    return stored


def without_slider(stored: dict, i: int) -> dict:
    """Frame `i` of a stored figure as a figure of its own, for a page with a slider of its own."""
    frame = stored["frames"][i]
    layout = stored["layout"] | frame["layout"]
    del layout["sliders"]
    layout["height"] -= SLIDER
    return {"data": frame["data"], "layout": layout, "config": stored["config"]}


def _name(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plotly_slider(names: list[str], label: str, active: int, under: int) -> dict:
    how = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    steps = [{"label": name, "method": "animate", "args": [[str(i)], how]} for i, name in enumerate(names)]
    return {
        "active": active,
        "currentvalue": {"prefix": f"{label}: ", "xanchor": "left", "font": {"size": 14}},
        "pad": {"t": under, "b": 4},
        "bgcolor": style.COLOURS["grid"],
        "activebgcolor": style.COLOURS["blue"],
        "bordercolor": style.COLOURS["axis"],
        "tickcolor": style.COLOURS["axis"],
        "steps": steps,
    }


def _share_ranges(figures: list[dict]) -> None:
    """Give an axis without a range, and heatmap colours without limits, one that holds every frame's values."""
    for axis in ("x", "y"):
        layouts = [figure["layout"].setdefault(f"{axis}axis", {}) for figure in figures]
        kinds = {layout.get("type") for layout in layouts}
        if any(layout.get("range") or layout.get("autorange") for layout in layouts) or kinds not in (
            {None},
            {"log"},
        ):
            continue
        span = _span([trace for figure in figures for trace in figure["data"]], axis, log=kinds == {"log"})
        for layout in layouts if span else []:
            layout["range"] = span
    for i in range(max(len(figure["data"]) for figure in figures)):
        traces = [figure["data"][i] for figure in figures if i < len(figure["data"])]
        if not all(trace.get("type") == "heatmap" for trace in traces):
            continue
        numbers = [z for trace in traces for row in trace.get("z") or [] for z in row if z is not None]
        low = [trace["zmin"] for trace in traces if trace.get("zmin") is not None]
        high = [trace["zmax"] for trace in traces if trace.get("zmax") is not None]
        for trace in traces if numbers else []:
            trace["zmin"], trace["zmax"] = min([*numbers, *low]), max([*numbers, *high])


def _span(traces: list[dict], axis: str, log: bool) -> list[float] | None:
    """Range of an axis (of exponents, if `log`) with some room, for scatter and bar traces; None if it has no numbers."""
    if any(trace.get("type") not in ("scatter", "bar") or trace.get(f"{axis}axis") for trace in traces):
        return None
    values = [value for trace in traces for value in trace.get(axis) or [] if value is not None]
    if any(isinstance(value, str) for value in values):
        return None
    if log:
        values = [math.log10(value) for value in values if value > 0]
    bars = [trace for trace in traces if trace["type"] == "bar" and not log]
    # Bars that lie have their numbers on x.
    if not values or any((trace.get("orientation") == "h") != (axis == "x") for trace in bars):
        return None
    low, high = (min([*values, 0]), max([*values, 0])) if bars else (min(values), max(values))
    room = (high - low) * (0.12 if bars else 0.06) or abs(high) * 0.1 or 1
    # Bars stand on zero.
    return [0 if bars and low == 0 else low - room, 0 if bars and high == 0 < -low else high + room]


def _complete(items: list):
    """Give dicts the same keys and lists of dicts the same length in every frame.

    plotly merges a frame into what is on the screen, so what one frame leaves out would stay there from another:
    a missing key becomes None (plotly's default), a missing trace, shape or annotation an invisible one.
    """
    if any(isinstance(item, dict) for item in items):
        items = [item if isinstance(item, dict) else {} for item in items]
        keys = list(dict.fromkeys(key for item in items for key in item))
        columns = {key: _complete([item.get(key) for item in items]) for key in keys}
        return [{key: columns[key][i] for key in keys} for i in range(len(items))]
    if any(isinstance(item, list) and item and isinstance(item[0], dict) for item in items):
        lists = [item if isinstance(item, list) else [] for item in items]
        longest = max(map(len, lists))
        lists = [item + [{"visible": False}] * (longest - len(item)) for item in lists]
        columns = [_complete([item[i] for item in lists]) for i in range(longest)]
        return [[column[j] for column in columns] for j in range(len(lists))]
    return items


def _slider(values: list, label: str, active: int):
    """The widget, or None where ipywidgets is absent."""
    try:
        import ipywidgets
    except ImportError:
        return None
    return ipywidgets.SelectionSlider(
        options=[(_name(value), i) for i, value in enumerate(values)],
        index=active,
        description=label,
        style={"description_width": "initial"},
        layout=ipywidgets.Layout(width="100%"),
    )


def _live(stored: dict, slider, active: int) -> None:
    import ipywidgets
    from IPython.display import display

    # An Output that is cleared and filled again: JupyterLab's plotly renderer ignores an update of a figure it has drawn.
    height = stored["layout"]["height"] - SLIDER
    screen = ipywidgets.Output(layout=ipywidgets.Layout(min_height=f"{height}px"))

    def draw(i: int) -> None:
        with screen:
            screen.clear_output(wait=True)
            display(bundle_of(without_slider(stored, i)), raw=True)

    display(slider, screen)
    draw(active)
    slider.observe(lambda change: draw(slider.value), names="value")
