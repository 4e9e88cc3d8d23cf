"""A figure with a control: every frame is whole, so the order in which they are shown does not matter."""

import json

import numpy as np
import pytest

from groundup import show
from groundup.show import _emit
from groundup.show.control import SLIDER, _complete, frames_json, without_slider


def frames(make, values, active=0):
    stored = frames_json(make, values, label="n", active=active, alt="alt")
    json.dumps(stored, allow_nan=False)
    return stored


def structure(value):
    """Keys and lengths of dicts and lists of dicts: what a frame speaks about."""
    if isinstance(value, dict):
        return {key: structure(item) for key, item in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [structure(item) for item in value]
    return None


def uneven(n: int):
    """Frames that differ in everything: traces, titles, annotations, shapes, axes."""
    fig = show.lines(
        {f"series {i}": [i, i + n] for i in range(n)}, title=f"n = {n}" if n > 1 else "", x="x" * n
    )
    for i in range(n - 1):
        fig.add_annotation(x=i, y=i, text=f"note {i}", bgcolor="#0072b2" if n == 3 else None)
    if n == 2:
        fig.add_hline(y=1)
        fig.update_yaxes(title="only here")
    return fig


def test_every_frame_says_everything():
    stored = frames(uneven, [1, 2, 3])
    first, *others = (structure({"data": f["data"], "layout": f["layout"]}) for f in stored["frames"])
    assert all(other == first for other in others)
    layouts = [frame["layout"] for frame in stored["frames"]]
    assert [layout["title"]["text"] for layout in layouts] == [None, "n = 2", "n = 3"]
    assert [sum(a["visible"] is not False for a in layout["annotations"]) for layout in layouts] == [0, 1, 2]
    assert [sum(s["visible"] is not False for s in layout["shapes"]) for layout in layouts] == [0, 1, 0]
    assert [sum(t.get("visible") is not False for t in frame["data"]) for frame in stored["frames"]] == [
        1,
        2,
        3,
    ]
    assert layouts[0]["annotations"][1]["bgcolor"] is None, "what frame 3 sets is unset in the others"


def test_the_first_picture_is_the_one_asked_for():
    stored = frames(uneven, [1, 2, 3], active=1)
    assert stored["data"] == stored["frames"][1]["data"]
    (slider,) = stored["layout"]["sliders"]
    assert slider["active"] == 1 and [step["label"] for step in slider["steps"]] == ["1", "2", "3"]
    assert [step["args"][0] for step in slider["steps"]] == [[frame["name"]] for frame in stored["frames"]]
    assert stored["layout"]["meta"] == {
        "alt": "alt",
        "control": {"label": "n", "values": ["1", "2", "3"], "height": SLIDER},
    }


def test_values_may_be_text_and_numbers_of_any_kind():
    def make(value):
        return show.bars({"a": 1 if isinstance(value, str) else float(value)})

    stored = frames(make, ["relu", 0.1, np.float32(0.25), np.int64(3)])
    assert stored["layout"]["meta"]["control"]["values"] == ["relu", "0.1", "0.25", "3"]


def test_axes_and_colours_are_the_same_in_all_frames():
    bars = frames(lambda n: show.bars({"a": n, "b": 1}), [1, 10])
    assert {str(frame["layout"]["yaxis"]["range"]) for frame in bars["frames"]} == {"[0, 11.2]"}
    heat = frames(lambda n: show.heatmap([[-n, n / 2]]), [1, 4])
    assert {(frame["data"][0]["zmin"], frame["data"][0]["zmax"]) for frame in heat["frames"]} == {(-4, 4)}
    log = frames(lambda n: show.lines({"a": [1, n]}, log_y=True), [10, 1000])
    low, high = log["frames"][0]["layout"]["yaxis"]["range"]
    assert low < 0 and 3 < high < 3.5, "exponents, with some room"
    own = frames(lambda n: show.bars({"a": n}).update_yaxes(range=[0, n]), [1, 2])
    assert [frame["layout"]["yaxis"]["range"] for frame in own["frames"]] == [[0, 1], [0, 2]]
    frames(lambda n: show.lines({}), [1, 2])
    frames(lambda n: show.bars({"a": 0}), [1, 2])


def test_a_page_with_its_own_slider_gets_the_figure_alone():
    fig = uneven(3)  # the highest
    alone = without_slider(frames(uneven, [1, 2, 3]), 1)
    assert "sliders" not in alone["layout"] and alone["layout"]["height"] == fig.layout.height
    assert alone["layout"]["title"]["text"] == "n = 2" and alone["layout"]["meta"]["alt"] == "alt"


def test_a_lower_figure_gets_room_and_not_taller_cells():
    sizes = [1, 5]
    stored = frames(lambda n: show.arrays({"a": np.ones((n, 2))}), sizes)
    heights = [show.arrays({"a": np.ones((n, 2))}).layout.height for n in sizes]
    layouts = [frame["layout"] for frame in stored["frames"]]
    assert layouts[0]["height"] == layouts[1]["height"] == heights[1] + SLIDER
    assert layouts[0]["margin"]["b"] - layouts[1]["margin"]["b"] == heights[1] - heights[0]


def test_complete_leaves_data_alone():
    assert _complete([{"y": [1, 2]}, {"y": [3], "x": [4]}]) == [
        {"y": [1, 2], "x": None},
        {"y": [3], "x": [4]},
    ]
    assert _complete([{"a": [{"b": 1}]}, {}]) == [
        {"a": [{"b": 1, "visible": None}]},
        {"a": [{"b": None, "visible": False}]},
    ]


def test_values_that_are_none():
    make = uneven
    with pytest.raises(ValueError, match="values is empty"):
        show.interactive(make, [], label="n", alt="alt")
    with pytest.raises(ValueError, match="start is 5"):
        show.interactive(make, [1, 2], label="n", start=5, alt="alt")
    with pytest.raises(ValueError, match="label is empty"):
        show.interactive(make, [1, 2], label=" ", alt="alt")


def test_too_much_in_all():
    def make(n):
        return show.points({"a": np.random.default_rng(n).normal(size=2_000)})

    frames(make, [1])
    with pytest.raises(ValueError, match=r"limit is 150 kB: use fewer values"):
        frames(make, list(range(20)))


def test_a_script_prints_the_alt_text(capsys):
    show.interactive(uneven, [1, 2], label="n", alt="Lines that rise")
    assert capsys.readouterr().out == "Figure: Lines that rise\n"


def test_colab_gets_html_with_a_slider_for_the_keyboard(monkeypatch):
    stored = frames(uneven, [1, 2, 3], active=2)
    assert "text/html" not in _emit.bundle_of(stored)
    monkeypatch.setitem(__import__("sys").modules, "google.colab", object())
    bundle = _emit.bundle_of(stored)
    assert bundle["application/vnd.plotly.v1+json"] is stored and bundle["text/plain"] == "Figure: alt"
    html = bundle["text/html"]
    assert 'type="range" min="0" max="2" step="1" value="2"' in html and 'aria-valuetext="3"' in html
    assert 'role="img" aria-label="alt"' in html and "Plotly.addFrames" in html and "cdn.plot.ly" in html
    assert '"sliders"' not in html, "plotly's slider cannot be reached by the keyboard"
    plain = _emit.bundle_of(_emit.figure_json(uneven(1), 'say "<b>"'))["text/html"]
    assert 'aria-label="say &quot;&lt;b&gt;&quot;"' in plain and "range" not in plain.split("<script")[0]


def test_bars_that_lie_share_one_range():
    def make(scale):
        return show.bars({f"a part of the network {i}": scale * i for i in range(4)})

    stored = frames_json(make, [1, 10], label="scale", active=0, alt="bars")
    ranges = [frame["layout"]["xaxis"]["range"] for frame in stored["frames"]]
    assert ranges[0] == ranges[1] and ranges[0][0] == 0 and ranges[0][1] > 30
