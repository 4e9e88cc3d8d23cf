"""Every builder on the inputs that learners give it: lists, arrays, tensors, nothing, one point, nan, far too much."""

import json

import numpy as np
import pytest
import torch

from groundup import show
from groundup.show._data import LIMIT, plain, thin, to_numpy
from groundup.show._emit import figure_json


def stored(fig) -> dict:
    figure = figure_json(fig, "what it shows")
    json.dumps(figure, allow_nan=False)  # a browser reads no NaN
    return figure


@pytest.mark.parametrize("build", [show.lines, show.points])
@pytest.mark.parametrize(
    ("values", "x", "y"),
    [
        ([1, 2.5, 3], [0, 1, 2], [1, 2.5, 3]),
        (np.array([1.0, 4.0]), [0, 1], [1, 4]),
        (torch.tensor([1.0, 4.0], requires_grad=True), [0, 1], [1, 4]),
        (torch.tensor([1.0, 4.0], dtype=torch.bfloat16), [0, 1], [1, 4]),
        ([torch.tensor(1.0, requires_grad=True), torch.tensor(2.0)], [0, 1], [1, 2]),
        ((torch.tensor(1.0), torch.tensor(2.0)), [0, 1], [1, 2]),
        (([10, 20], (3, 4)), [10, 20], [3, 4]),
        ((range(3), range(3)), [0, 1, 2], [0, 1, 2]),
        ((["a", "b"], [1, 2]), ["a", "b"], [1, 2]),
        ([], [], []),
        ([7], [0], [7]),
        ([1, float("nan"), float("inf"), None, 2], [0, 1, 2, 3, 4], [1, None, None, None, 2]),
        ([True, False], [0, 1], [1, 0]),
        ({"a": 3, "b": 4}.values(), [0, 1], [3, 4]),
        ([1e-300, 0.123456789], [0, 1], [1e-300, 0.12346]),
    ],
)
def test_series(build, values, x, y):
    (trace,) = stored(build({"name": values}))["data"]
    assert (trace["x"], trace["y"], trace["name"]) == (x, y, "name")


def test_series_that_are_none():
    with pytest.raises(ValueError, match=r"'a' must have 1 axis, its shape is \(2, 2\)"):
        show.lines({"a": np.zeros((2, 2))})
    with pytest.raises(ValueError, match=r"x values of 'a' have shape \(3,\), its y values \(2,\)"):
        show.lines({"a": ([1, 2, 3], [1, 2])})
    with pytest.raises(ValueError, match="real numbers"):
        show.points({"a": ["x", "y"]})
    with pytest.raises(ValueError, match="different lengths"):
        show.points({"a": [[1], [1, 2]]})
    with pytest.raises(ValueError, match="real numbers, not complex128"):
        show.lines({"a": [1j]})


@pytest.mark.parametrize("build", [show.lines, show.points])
def test_no_series_is_an_empty_figure(build):
    assert stored(build({}))["data"] == []


def test_axes_titles_and_legend():
    figure = stored(
        show.lines({"a": [1, 1000], "b": [2, 3]}, x="step", y="loss", title="A title", log_x=True, log_y=True)
    )
    layout = figure["layout"]
    assert layout["title"]["text"] == "A title" and layout["showlegend"] is True
    assert (layout["xaxis"]["title"]["text"], layout["yaxis"]["title"]["text"]) == ("step", "loss")
    assert (layout["xaxis"]["type"], layout["yaxis"]["type"]) == ("log", "log")
    assert stored(show.lines({"a": [1]}))["layout"]["showlegend"] is False
    long = stored(
        show.lines({"a": [1]}, title="A title that is much too long for one line of a telephone, so it wraps")
    )
    assert max(map(len, long["layout"]["title"]["text"].split("<br>"))) <= 50


def test_a_legend_that_a_phone_breaks_stands_below():
    short = stored(show.lines({"a": [1], "b": [2]}))["layout"]
    long = stored(show.lines({f"a long name {i}": [1] for i in range(4)}, title="t"))["layout"]
    assert "legend" not in short
    assert (long["legend"]["yref"], long["legend"]["y"]) == ("container", 0) and long["height"] > short[
        "height"
    ]


def test_a_generator_is_read_once():
    (trace,) = stored(show.lines({"a": (value * 2 for value in (1, 2))}))["data"]
    assert trace["y"] == [2, 4]


def test_log_axis_of_nothing_positive():
    stored(show.lines({"a": [0, -1]}, log_y=True))
    stored(show.lines({"a": []}, log_y=True))


def test_thinned_lines_keep_their_peaks_and_gaps():
    y = np.zeros(100_000)
    y[31_337], y[77_777], y[50_000] = 9.0, -9.0, np.nan
    figure = stored(show.lines({"loss": y}))
    (trace,) = figure["data"]
    assert len(trace["y"]) <= 1000
    at = dict(zip(trace["x"], trace["y"], strict=True))
    assert at[31_337] == 9 and at[77_777] == -9 and at[50_000] is None
    assert trace["x"][0] == 0 and trace["x"][-1] == 99_999
    _, ys = thin(range(5), [1, 2, 3, 4, 5])
    assert list(ys) == [1, 2, 3, 4, 5]


def test_bars():
    (trace,) = stored(show.bars({"a": 1, "b": torch.tensor(2.5), "c": float("nan"), 4: np.float32(0.1)}))[
        "data"
    ]
    assert trace["x"] == ["a", "b", "c", "4"] and trace["y"] == [1, 2.5, None, 0.1]
    stored(show.bars({}))
    stored(show.bars({"one": -3}))
    with pytest.raises(ValueError, match="bars must have 1 axis"):
        show.bars({"a": [1, 2]})


@pytest.mark.parametrize(
    ("numbers", "labels"),
    [
        ([10163, 3620.4, 14125.0], ["10,163", "3,620", "14,125"]),
        ([6.3923, 3.0008, 2.8387], ["6.39", "3.00", "2.84"]),
        ([0.40814, 0.0066932, 0.000453, 0], ["0.408", "0.007", "<0.001", "0"]),
        ([-0.79601, 0.0642, -0.0004], ["−0.796", "0.064", ">−0.001"]),
        ([0.0123, 0.000453, 2e-9], ["0.0123", "0.000453", "2e−9"]),
        ([15.147, 3.8373, 99.96, 0.9999], ["15.1", "3.84", "100", "1.00"]),
        ([5, 11, 16], ["5", "11", "16"]),
        ([float("nan"), 2.5, 1e20], ["", "2.50", "1e20"]),
    ],
)
def test_bars_say_their_numbers_in_short(numbers, labels):
    (trace,) = stored(show.bars({str(i): number for i, number in enumerate(numbers)}))["data"]
    assert trace["text"] == labels and "texttemplate" not in trace


def test_bars_lie_where_their_names_are_long():
    short = stored(show.bars({"mat": 1, "sofa": 2}, x="word", y="p"))
    long = stored(show.bars({f"one attention layer {i}": i for i in range(8)}, x="word", y="p", title="t"))
    assert short["data"][0]["orientation"] == "v" and short["data"][0]["y"] == [1, 2]
    assert long["data"][0]["orientation"] == "h" and long["data"][0]["x"] == list(range(8))
    for figure, axis in ((short, "yaxis"), (long, "xaxis")):
        assert figure["layout"][axis]["title"]["text"] == "p"
    assert long["layout"]["yaxis"]["autorange"] == "reversed", "the first is on top"
    assert long["layout"]["height"] > 28 * 8
    below = stored(show.bars({f"one attention layer {i}": -i for i in range(8)}))
    assert below["data"][0]["orientation"] == "v"


def test_numbers_on_narrow_bars_are_turned_not_shrunk():
    (wide,) = stored(show.bars({"a": 0.52, "b": 0.12}))["data"]
    (narrow,) = stored(show.bars({str(i): 1 / (i + 1.5) for i in range(14)}))["data"]
    assert (wide["textangle"], narrow["textangle"]) == (0, -90)
    assert wide["constraintext"] == narrow["constraintext"] == "none"


def ticks(fig, axis: str = "xaxis") -> dict:
    axis = stored(fig)["layout"][axis]
    return dict(zip(axis["tickvals"], axis["ticktext"], strict=True)) if "tickvals" in axis else {}


def test_a_log_axis_of_few_values_has_a_tick_for_each():
    sizes = [40_960, 81_920, 163_840, 327_680]
    assert list(ticks(show.points({"a": (sizes, sizes)}, log_x=True)).values()) == [
        "41 k",
        "82 k",
        "164 k",
        "328 k",
    ]
    table = [256, 512, 1024, 2048, 4096]
    expected = ["256", "512", "1,024", "2,048", "4,096"]
    assert list(ticks(show.lines({"a": (table, table)}, log_x=True)).values()) == expected
    close = ticks(show.lines({"a": ([1000, 1010, 9000], [1, 2, 3])}, log_x=True))
    assert list(close) == [1010, 9000], "texts that would touch are left out"


def test_a_short_log_axis_of_many_values_counts_in_one_two_five():
    many = np.geomspace(27_307, 491_520, 40)
    found = ticks(show.lines({"a": (many, many)}, log_x=True, log_y=True))
    assert [found[value] for value in (50_000, 100_000, 200_000)] == ["50 k", "100 k", "200 k"]
    assert ticks(show.lines({"a": [1.5, 0.04, 3]}, log_y=True), "yaxis")[0.05] == "0.05"
    assert ticks(show.lines({"a": (np.geomspace(1, 1e6, 40), many)}, log_x=True)) == {}, "powers of ten"


def test_heatmap():
    (trace,) = stored(show.heatmap([[1, 2], [3, np.nan]]))["data"]
    assert trace["z"] == [[1, 2], [3, None]] and "zmin" not in trace
    (signed,) = stored(show.heatmap(torch.tensor([[-1.0, 4.0]]), text=True))["data"]
    assert (signed["zmin"], signed["zmax"]) == (-4, 4), "zero is in the middle"
    assert "%{z" in signed["texttemplate"]
    labelled = stored(show.heatmap([[1, 2]], x=["the", "the"], y=["cat"], text=[["p", "q"]]))
    assert labelled["layout"]["xaxis"]["ticktext"] == ["the", "the"], "two equal tokens are two columns"
    assert labelled["data"][0]["text"] == [["p", "q"]]
    assert labelled["layout"]["yaxis"]["autorange"] == "reversed", "row 0 is on top"
    for matrix in ([[5]], np.zeros((0, 3)), np.full((2, 2), np.nan), np.eye(40)):
        stored(show.heatmap(matrix))
    with pytest.raises(ValueError, match="2 axes"):
        show.heatmap([1, 2])
    with pytest.raises(ValueError, match="1 cells along y but 2 labels"):
        show.heatmap([[1, 2]], y=["a", "b"])
    with pytest.raises(ValueError, match="its shape"):
        show.heatmap([[1, 2]], text=[["a"]])


def cells(figure: dict) -> list[str]:
    return [text.replace("<b>", "").replace("</b>", "") for text in figure["data"][0]["text"]]


def test_arrays():
    figure = stored(
        show.arrays(
            {"a (3,)": [1, 2, 3], "b": torch.ones(2, 2, requires_grad=True)},
            highlight={"b": [(0, -1)], "a (3,)": [2]},
        )
    )
    assert cells(figure) == ["1", "2", "3", "1", "1", "1", "1"]
    assert [text for text in figure["data"][0]["text"] if "<b>" in text] == ["<b>3</b>", "<b>1</b>"]
    hovers = figure["data"][0]["hovertext"]
    assert hovers[2] == "a (3,)[2] = 3" and hovers[4] == "b[0, 1] = 1"
    mask = np.array([[True, False], [False, False]])
    masked = stored(show.arrays({"b": np.zeros((2, 2))}, highlight={"b": mask}))
    assert sum("<b>" in text for text in masked["data"][0]["text"]) == 1


def test_a_cube_is_its_slices_one_under_the_other():
    figure = stored(show.arrays({"cube": np.arange(12).reshape(2, 2, 3)}))
    assert cells(figure) == [str(i) for i in range(12)]
    ys = figure["data"][0]["y"]
    assert ys[3] - ys[6] > ys[0] - ys[3], "more room between slices than between rows"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-1.5, "−1.5"),
        (float("nan"), "nan"),
        (float("-inf"), "−∞"),
        (1e-12, "1e−12"),
        (123456789, "1.23e8"),
        (True, "True"),
    ],
)
def test_cell_texts_are_short(value, text):
    assert cells(stored(show.arrays({"a": [value]}))) == [text]


def test_arrays_are_spread_over_lines_of_about_equal_length():
    figure = stored(show.arrays({str(i): np.ones((1, 4)) for i in range(5)}))
    tops = [note["y"] for note in figure["layout"]["annotations"]]
    assert [tops.count(top) for top in sorted(set(tops), reverse=True)] == [3, 2]
    wide = stored(show.arrays({"a": np.full((2, 12), -1.234)}))
    assert wide["layout"]["meta"]["min_width"] > 344, "does not fit a phone, and says so"


def test_arrays_at_the_edges():
    assert cells(stored(show.arrays({"scalar": 3.14159}))) == ["3.14"]
    assert cells(stored(show.arrays({"empty": np.zeros((0, 3))}))) == []
    assert cells(stored(show.arrays({}))) == []
    long = cells(stored(show.arrays({"long": np.arange(1000)})))
    assert len(long) == 12 and long[-1] == "999" and "…" in long
    huge = stored(show.arrays({"huge": np.broadcast_to(1.5, (10_000, 300, 300))}))
    assert len(json.dumps(huge)) < LIMIT
    assert cells(stored(show.arrays({"words": np.array(["cat", "<b>sat</b>"])})))[0] == "cat"
    with pytest.raises(ValueError, match="4 axes"):
        show.arrays({"a": np.zeros((1, 1, 1, 1))})
    with pytest.raises(ValueError, match="no cell of 'a'"):
        show.arrays({"a": [1, 2]}, highlight={"a": [2]})
    with pytest.raises(ValueError, match="highlight names 'b'"):
        show.arrays({"a": [1, 2]}, highlight={"b": [0]})
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        show.arrays({"a": [1, 2]}, highlight={"a": np.array([True, False, True])})


def test_rounding():
    assert plain(np.float64(1.23456789)) == 1.2346
    assert plain([1234567.0, 0.1 + 0.2, -0.0, np.int64(3), 1e300]) == [1234567, 0.3, 0, 3, 1e300]
    assert plain({"a": (float("inf"), np.array([[1.5]]), "text", True, None)}) == {
        "a": [None, [[1.5]], "text", True, None]
    }
    packed = {"dtype": "f8", "bdata": "AAAAAAAA8D8AAAAAAAAAQA==", "shape": "2, 1"}
    assert plain(packed) == [[1], [2]]


def test_foreign_figures_come_out_plain_and_in_the_style():
    import plotly.graph_objects as go

    figure = stored(go.Figure(go.Scatter(x=np.arange(3), y=np.array([0.1234567, np.nan, 2.0]))))
    assert figure["data"][0]["y"] == [0.12346, None, 2]
    assert figure["layout"]["template"]["layout"]["paper_bgcolor"] == "rgba(0,0,0,0)"


def test_a_figure_that_is_too_large_says_so_in_one_line():
    with pytest.raises(ValueError, match=r"^this figure has \d+ kB and the limit is 150 kB: [^\n]+$"):
        stored(show.points({"a": np.random.default_rng(0).normal(size=20_000)}))


@pytest.mark.parametrize("alt", ["", "   ", None])
def test_alt_text_is_not_optional(alt):
    figure = show.lines({"a": [1]})
    with pytest.raises(ValueError, match="alt is empty"):
        show.figure(figure, alt)
    with pytest.raises(ValueError, match="alt is empty"):
        show.interactive(lambda value: figure, [1], label="n", alt=alt)
    with pytest.raises(ValueError, match="alt is empty"):
        show.training(3, alt=alt)


def test_the_bundle(capsys):
    assert stored(show.lines({"a": [1]}))["layout"]["meta"] == {"alt": "what it shows"}
    show.figure(show.lines({"a": [1]}), "a  line\nof text")
    assert capsys.readouterr().out == "Figure: a line of text\n"


def test_to_numpy_of_jax():
    jnp = pytest.importorskip("jax.numpy")
    assert to_numpy(jnp.ones((2,), dtype=jnp.bfloat16)).dtype == np.float32


def test_importing_is_cheap():
    import subprocess
    import sys

    code = "import sys, groundup.show, groundup.run; print([m for m in ('plotly', 'numpy', 'torch', 'IPython', 'rich') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )
