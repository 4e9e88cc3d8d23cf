"""Colours that everybody can tell apart, on white and on near-black pages."""

import itertools
import json

import numpy as np
import pytest

from groundup import show
from groundup.show import style
from groundup.show._emit import figure_json

WHITE, BLACK = "#ffffff", "#121212"

# How colours look with no red or no green cones, in linear RGB: Machado, Oliveira and Fernandes, "A
# Physiologically-based Model for Simulation of Color Vision Deficiency", IEEE TVCG 15(6), 2009, severity 1.0.
VISION = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}


def linear(colour: str) -> np.ndarray:
    c = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(a: str, b: str) -> float:
    """WCAG 2 contrast ratio."""
    low, high = sorted(linear(c) @ [0.2126, 0.7152, 0.0722] for c in (a, b))
    return (high + 0.05) / (low + 0.05)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (D65) of linear RGB; Euclidean distance is ΔE*ab, where about 2 is just noticeable."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    t = to_xyz @ np.clip(rgb, 0, 1) / [0.9505, 1.0, 1.089]
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_the_measures_know_published_values():
    assert contrast("#000000", WHITE) == pytest.approx(21)
    assert contrast("#767676", WHITE) == pytest.approx(
        4.54, abs=0.01
    )  # the darkest grey famous for passing AA
    np.testing.assert_allclose(lab(linear("#ff0000")), [53.24, 80.09, 67.20], atol=0.1)
    # Red and green of the same lightness fall together without green cones.
    confused = [lab(VISION["deuteranopia"] @ linear(c)) for c in ("#d06060", "#8c8c44")]
    assert (
        np.linalg.norm(confused[0] - confused[1])
        < np.linalg.norm(lab(linear("#d06060")) - lab(linear("#8c8c44"))) / 2
    )


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("palette", ["COLOURS", "LIGHT", "DARK"])
def test_series_colours_stay_apart(palette, vision):
    colours = getattr(style, palette)
    for a, b in itertools.combinations(style.SERIES, 2):
        distance = np.linalg.norm(
            lab(VISION[vision] @ linear(colours[a])) - lab(VISION[vision] @ linear(colours[b]))
        )
        assert distance > 20, (a, b, distance)


@pytest.mark.parametrize(
    ("palette", "pages"), [("COLOURS", (WHITE, BLACK)), ("LIGHT", (WHITE,)), ("DARK", (BLACK,))]
)
def test_colours_stand_out_from_the_page(palette, pages):
    colours = getattr(style, palette)
    for page in pages:
        for name in style.SERIES:
            assert contrast(colours[name], page) >= 3, (name, page)  # WCAG 1.4.11: graphics
        for name in ("text", "muted"):
            # One grey for both pages cannot reach 4.5 on both: white gets it, a page that knows its theme too.
            least = 3.5 if palette == "COLOURS" and page == BLACK else 4.5
            assert contrast(colours[name], page) >= least, (name, page)


@pytest.mark.parametrize("palette", ["COLOURS", "LIGHT", "DARK"])
def test_text_on_boxes_is_legible(palette):
    colours = getattr(style, palette)
    for box in ("node", "node_op", "node_output", "node_marked"):
        assert contrast(colours["node_text"], colours[box]) >= 4.5, box
    assert contrast(colours["hover_text"], colours["hover"]) >= 7


def test_a_page_can_swap_each_colour_by_its_value():
    assert style.COLOURS.keys() == style.LIGHT.keys() == style.DARK.keys()
    assert len(set(style.COLOURS.values())) == len(style.COLOURS)


def test_stored_figures_use_only_colours_of_the_palette():
    figures = [
        show.lines({str(i): [1, 2] for i in range(7)}, title="t"),
        show.bars({"a": 1}),
        show.points({"a": [1]}),
        show.arrays({"a": [1, 2]}, highlight={"a": [0]}),
        show.graph({"a": "a", "b": "b"}, [("a", "b")], highlight={"a", "b"}),
    ]
    known = {*style.COLOURS.values(), style.CLEAR}

    def colours(value):
        if isinstance(value, dict):
            return [c for item in value.values() for c in colours(item)]
        if isinstance(value, list):
            return [c for item in value for c in colours(item)]
        return [value] if isinstance(value, str) and value.startswith(("#", "rgb")) else []

    for figure in figures:
        used = set(colours(figure_json(figure, "alt")))
        assert used and used <= known, used - known


def test_lines_differ_without_colour():
    figure = show.lines({str(i): np.arange(50) for i in range(12)})
    looks = [(trace.line.color, trace.line.dash) for trace in figure.data]
    assert len(set(looks)) == 12
    assert len({dash for _, dash in looks[:6]}) == 6
    marks = [trace.marker.symbol for trace in show.points({str(i): [1] for i in range(6)}).data]
    assert len(set(marks)) == 6


def test_figures_grow_with_the_page_and_stay_quiet():
    stored = figure_json(show.lines({"a": [1, 2]}), "alt")
    assert "width" not in stored["layout"] and 200 <= stored["layout"]["height"] <= 480
    assert stored["config"]["displayModeBar"] is False and stored["config"]["responsive"] is True
    assert stored["layout"]["template"]["layout"]["paper_bgcolor"] == style.CLEAR
    assert len(json.dumps(stored)) < 4_000
