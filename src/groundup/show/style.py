"""The one look of every figure: colours, fonts, sizes and the plotly template.

A figure is stored once and read on white pages and on near-black ones, so what is stored uses COLOURS, chosen to be
legible on both. A page that knows its theme replaces every string that equals COLOURS[key] by LIGHT[key] or
DARK[key]; the three dicts have the same keys, and no two values of COLOURS are equal.

The first three series colours are those of Okabe and Ito, "Color Universal Design" (2008); the other three were
searched for so that all six stay apart with and without red-green colour-blindness, at a lightness that both
backgrounds allow. tests/show/test_style.py measures it.
"""

COLOURS = {
    "text": "#757575",
    "muted": "#767676",
    "grid": "rgba(117,117,117,0.22)",
    "axis": "rgba(117,117,117,0.55)",
    "cell": "rgba(117,117,117,0.13)",
    "marked": "rgba(213,94,0,0.24)",
    "blue": "#0072b2",
    "orange": "#d55e00",
    "green": "#009e73",
    "purple": "#8c54fa",
    "teal": "#329fae",
    "red": "#c41235",
    "node": "#0072b3",
    "node_op": "#6b6b6b",
    "node_output": "#00795a",
    "node_marked": "#b84f00",
    "node_text": "#ffffff",
    "hover": "#2b2b2b",
    "hover_text": "#fefefe",
}

LIGHT = COLOURS | {
    "text": "#333333",
    "muted": "#666666",
    "grid": "rgba(0,0,0,0.10)",
    "axis": "rgba(0,0,0,0.45)",
    "cell": "rgba(0,0,0,0.055)",
    "marked": "rgba(213,94,0,0.22)",
}

DARK = COLOURS | {
    "text": "#d8d8d8",
    "muted": "#a0a0a0",
    "grid": "rgba(255,255,255,0.13)",
    "axis": "rgba(255,255,255,0.5)",
    "cell": "rgba(255,255,255,0.09)",
    "marked": "rgba(240,130,40,0.42)",
    "blue": "#4aa3df",
    "orange": "#f0812f",
    "green": "#2fbf93",
    "purple": "#8a7dff",
    "teal": "#c6ecf2",
    "red": "#cf4a45",
}

SERIES = ("blue", "orange", "green", "purple", "teal", "red")
# A series is told apart without its colour by its dash, and by its marker where there are few points.
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "cross")

# Viridis: lightness grows with the value, so it also reads in grey and with any colour-blindness.
SEQUENTIAL = [
    [0.0, "#440154"], [0.125, "#472d7b"], [0.25, "#3b528b"], [0.375, "#2c728e"], [0.5, "#21918c"],
    [0.625, "#28ae80"], [0.75, "#5ec962"], [0.875, "#addc30"], [1.0, "#fde725"],
]  # fmt: skip
# Blue below zero, orange above: the pair that red-green colour-blindness keeps apart.
DIVERGING = [
    [0.0, "#00456b"], [0.25, "#5aa7d6"], [0.5, "#f4f2ee"], [0.75, "#ee9a5c"], [1.0, "#8f3b00"],
]  # fmt: skip

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
SIZE = {"text": 13, "title": 15, "small": 12}
HEIGHT = 340
NARROW = 344  # pixels of a phone: a figure that needs more says so in layout.meta.min_width, and the page scrolls it
CLEAR = "rgba(0,0,0,0)"

CONFIG = {"displayModeBar": False, "responsive": True, "scrollZoom": False, "doubleClick": False}


def layout() -> dict:
    """The layout that every figure starts from."""
    axis = {
        "gridcolor": COLOURS["grid"],
        "linecolor": COLOURS["axis"],
        "tickcolor": COLOURS["axis"],
        "tickfont": {"size": SIZE["small"]},
        "title": {"standoff": 8},
        "zeroline": False,
        "showline": True,
        "ticks": "outside",
        "ticklen": 4,
        "automargin": True,
        "fixedrange": True,
    }
    return {
        "font": {"family": FONT, "size": SIZE["text"], "color": COLOURS["text"]},
        "title": {
            "font": {"size": SIZE["title"]},
            "x": 0, "xanchor": "left", "xref": "container", "pad": {"l": 8, "t": 8},
            "y": 1, "yanchor": "top", "yref": "container",
        },
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "colorway": [COLOURS[name] for name in SERIES],
        "margin": {"l": 48, "r": 16, "t": 16, "b": 40},
        "hoverlabel": {
            "bgcolor": COLOURS["hover"],
            "bordercolor": COLOURS["hover"],
            "font": {"family": FONT, "size": SIZE["small"], "color": COLOURS["hover_text"]},
        },
        "legend": {
            "orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom",
            "bgcolor": CLEAR, "itemclick": False, "itemdoubleclick": False,
        },
        "xaxis": axis,
        "yaxis": axis,
        "dragmode": False,
        "autosize": True,
    }  # fmt: skip
