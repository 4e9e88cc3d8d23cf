"""Where a graph's boxes stand, and what they say."""

import random
import re

import pytest

from groundup import show
from groundup.show._emit import figure_json
from groundup.show.graphs import _crossings, _ordered, _spread, lay_out

NODES = {"a": "a", "b": "b", "m": "×", "c": "c", "p": "+", "L": "L"}
EDGES = [("a", "m"), ("b", "m"), ("m", "p"), ("c", "p"), ("p", "L"), ("a", "L")]


def layout_of(fig):
    return lay_out([fig._groundup_graph])


def boxes(fig) -> dict:
    """Each node's rectangle in pixels: left, right, top, bottom."""
    layout = layout_of(fig)
    return {
        node: (x - w / 2, x + w / 2, y - h / 2, y + h / 2)
        for node, (x, y) in layout.centre.items()
        for w, h in [layout.size[node]]
    }


def overlap(p, q) -> bool:
    return p[0] < q[1] and q[0] < p[1] and p[2] < q[3] and q[2] < p[3]


def assert_readable(fig):
    around = boxes(fig)
    nodes = list(around)
    assert not any(overlap(around[p], around[q]) for i, p in enumerate(nodes) for q in nodes[:i])
    for a, b in fig._groundup_graph.edges:
        assert around[a][1] + 20 < around[b][0], f"{b} does not stand right of {a}"
    assert min(box[0] for box in around.values()) >= -1e-6 and min(box[2] for box in around.values()) >= -1e-6


def test_every_node_stands_right_of_what_it_needs():
    fig = show.graph(NODES, EDGES, notes={"a": "2.0\ngrad 6.0"})
    assert_readable(fig)
    x = {node: place[0] for node, place in layout_of(fig).centre.items()}
    assert x["a"] == x["b"] == x["c"] < x["m"] < x["p"] < x["L"], "layers by the longest path"


@pytest.mark.parametrize("seed", range(12))
def test_random_graphs_are_readable(seed):
    rng = random.Random(seed)
    n = rng.randint(1, 18)
    nodes = {i: rng.choice(["x", "tanh", "a long label", "w·x + b"]) for i in range(n)}
    edges = [(a, b) for b in range(n) for a in range(b) if rng.random() < 0.25]
    assert_readable(
        show.graph(nodes, edges, notes={i: f"value {rng.random():.3f}" for i in nodes if rng.random() < 0.5})
    )


def test_crossings_are_undone():
    # Two straight lines written down crosswise.
    columns, links = [["a", "b"], ["d", "c"]], [("a", "c"), ("b", "d")]
    assert _crossings(columns, links) == 1
    assert _crossings(_ordered(columns, links), links) == 0


def test_spread_keeps_order_and_distance_and_moves_little():
    assert _spread([0, 100], [20, 20]) == [0, 100]
    pushed = _spread([50, 50, 50], [20, 20, 20])
    assert pushed[1] == pytest.approx(50) and pushed[1] - pushed[0] == pytest.approx(36)
    swapped = _spread([10, 0], [20, 20])
    assert swapped[1] - swapped[0] == pytest.approx(36) and sum(swapped) / 2 == pytest.approx(5)


def test_labels_notes_and_marks():
    fig = show.graph(NODES, EDGES, notes={"a": "2.0\ngrad 6.0"}, highlight={"p", "L"}, title="A title")
    figure = figure_json(fig, "alt")
    text = figure["data"][0]["text"][0]
    assert text.startswith("<b>a</b>") and "2.0" in text and "grad 6.0" in text
    assert figure["layout"]["title"]["text"] == "A title"
    strong = [s for s in figure["layout"]["shapes"] if s["line"]["width"] == 3]
    assert len(strong) == 1 and strong[0]["path"].count("M") == 1, "one edge joins the two marked nodes"
    weak = next(s for s in figure["layout"]["shapes"] if s["line"]["width"] == 1.6)
    assert weak["path"].count("M") == len(EDGES) - 1


def test_rings_are_not_cut_off():
    """Boxes are in pixels; on the narrowest page that the figure asks for, a pixel is a unit of the axes."""
    nodes = {i: "a wide label" for i in range(6)}
    fig = show.graph(nodes, [(i, i + 1) for i in range(5)], highlight=nodes)
    (left, right), (bottom, top) = fig.layout.xaxis.range, fig.layout.yaxis.range
    for x0, x1, y0, y1 in boxes(fig).values():
        assert left <= x0 - 5 and x1 + 5 <= right and bottom <= -y1 - 5 and -y0 + 5 <= top
    margin, height = fig.layout.margin, fig.layout.height
    assert fig.layout.meta["min_width"] - margin.l - margin.r >= right - left - 1
    assert height - margin.t - margin.b == pytest.approx(top - bottom, abs=1)


def test_labels_are_text_not_markup():
    figure = figure_json(show.graph({0: "<a> & b"}, []), "alt")
    assert "&lt;a&gt; &amp; b" in figure["data"][0]["text"][0]


def test_kinds_look_different():
    def fills(**kinds):
        fig = show.graph({"a": "a", "b": "b", "c": "c"}, [("a", "b"), ("b", "c")], kinds=kinds)
        return [
            s["fillcolor"]
            for s in figure_json(fig, "alt")["layout"]["shapes"]
            if "Q" in s["path"]  # round corners: a box
        ]

    guessed = fills()
    assert len(set(guessed)) == 3
    assert fills(a="input", b="op", c="output") == guessed
    assert fills(b="output")[1] == guessed[2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: show.graph({"a": "a"}, [("a", "b")]), "an edge names 'b'"),
        (lambda: show.graph({"a": "a"}, [], highlight={"b"}), "highlight names 'b'"),
        (lambda: show.graph({"a": "a"}, [], notes={"b": ""}), "notes names 'b'"),
        (lambda: show.graph({"a": "a"}, [], kinds={"a": "leaf"}), "choose one of input, op, output"),
        (lambda: show.graph({"a": "a", "b": "b"}, [("a", "b"), ("b", "a")]), "cycle"),
        (lambda: show.graph({"a": "a"}, [("a", "a")]), "cycle"),
    ],
)
def test_graphs_that_are_none(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_small_and_large_graphs():
    figure_json(show.graph({}, []), "alt")
    figure_json(show.graph({"a": "a"}, []), "alt")
    assert (
        figure_json(show.graph({"a": "a", "b": "b"}, [("a", "b"), ("a", "b")]), "alt")["layout"]["shapes"][0][
            "path"
        ].count("M")
        == 1
    ), "an edge given twice is drawn once"
    chain = show.graph({i: f"node {i}" for i in range(60)}, [(i, i + 1) for i in range(59)])
    figure = figure_json(chain, "alt")
    assert figure["layout"]["meta"]["min_width"] > 3000, "wider than a page: it says so"
    assert "min_width" not in figure_json(show.graph({"a": "a"}, []), "alt")["layout"]["meta"]


def test_objects_can_be_nodes():
    class Value:
        pass

    a, b = Value(), Value()
    assert_readable(show.graph({a: "a", b: "b"}, [(a, b)], highlight={a}, notes={b: "1"}))


def test_frames_keep_every_node_in_its_place():
    from groundup.show.control import frames_json

    order = list(NODES)

    def at(step):
        known = order[: step + 1]
        edges = [edge for edge in EDGES if set(edge) <= set(known)]
        return show.graph(
            {n: NODES[n] for n in known}, edges, notes={n: "value 3.25\ngrad 1.5" for n in known[:-1]}
        )

    stored = frames_json(at, list(range(len(order))), label="step", active=0, alt="alt")
    places = {}
    for frame in stored["frames"]:
        for x, y, text in zip(*(frame["data"][0][key] for key in ("x", "y", "text")), strict=True):
            places.setdefault(re.match(r"<b>(.*?)</b>", text)[1], set()).add((x, y))
    assert len(places) == len(NODES) and all(len(where) == 1 for where in places.values())
    assert len({str(frame["layout"]["xaxis"]["range"]) for frame in stored["frames"]}) == 1
