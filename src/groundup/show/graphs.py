"""Computation graphs, drawn left to right in layers.

Sugiyama, Tagawa and Toda, "Methods for Visual Understanding of Hierarchical System Structures" (1981): layers by
longest path, an edge over several layers gets a bend in each, order within layers by barycentres.
"""

import html
import itertools
from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from groundup.show import style
from groundup.show.charts import new_figure, title_of, wrapped

WIDE = 690  # pixels inside a figure on a page
GAP = 30  # least pixels between two layers
LOOSE = 110  # most pixels between two layers on a wide page
RING = 6  # pixels around a box that is highlighted
APART = 16  # least pixels between two boxes of a layer
KINDS = {"input": "node", "op": "node_op", "output": "node_output"}


@dataclass
class Spec:
    """What is drawn; kept on the figure, so that `interactive` can lay out all its frames alike."""

    nodes: dict
    edges: list
    title: str
    highlight: set
    notes: dict
    kinds: dict


@dataclass(frozen=True)
class Bend:
    """The place of the edge source → target in a layer between them."""

    source: Hashable
    target: Hashable
    layer: int


@dataclass
class Layout:
    """Positions in pixels of the narrowest page: centre of each node, bends of each edge, sizes of boxes."""

    centre: dict
    size: dict
    bends: dict  # edge -> [((x, y), width of the layer), …]
    column: dict  # node -> width of its layer
    width: float
    height: float


def graph(
    nodes: dict[Hashable, str],
    edges: list[tuple[Hashable, Hashable]],
    *,
    title: str = "",
    highlight: Iterable[Hashable] = (),
    notes: dict[Hashable, str] | None = None,
    kinds: dict[Hashable, str] | None = None,
):
    """Draw a computation graph from left to right; each node stands right of everything it is computed from.

    `nodes` is id → label; `notes` is id → small text under the label (a newline starts another line); `highlight`
    marks nodes, and the edges between them. `kinds` is id → "input", "op" or "output"; without it a node with
    nothing before it is an input, one with nothing after it an output. Returns a plotly Figure.

    Raises:
        ValueError: an edge, note, highlight or kind that names no node, an unknown kind, or a cycle.
    """
    spec = Spec(
        dict(nodes),
        list(dict.fromkeys(map(tuple, edges))),
        title,
        set(highlight),
        dict(notes or {}),
        dict(kinds or {}),
    )
    _check(spec)
    return draw(spec, lay_out([spec]))


def _check(spec: Spec) -> None:
    named = {
        "an edge": [node for edge in spec.edges for node in edge],
        "highlight": spec.highlight,
        "notes": spec.notes,
        "kinds": spec.kinds,
    }
    for what, ids in named.items():
        for node in ids:
            if node not in spec.nodes:
                raise ValueError(f"{what} names {node!r}, which is no node")
    for node, kind in spec.kinds.items():
        if kind not in KINDS:
            raise ValueError(f"the kind of {node!r} is {kind!r}: choose one of {', '.join(KINDS)}")


def lay_out(specs: list[Spec]) -> Layout:
    """One layout for all `specs`: every node any of them has, in the largest box that it needs anywhere."""
    size: dict = {}
    for spec in specs:
        for node, label in spec.nodes.items():
            w, h = _box(str(label), spec.notes.get(node, ""), spec.kinds.get(node))
            size[node] = (max(w, size.get(node, (0, 0))[0]), max(h, size.get(node, (0, 0))[1]))
    edges = list(dict.fromkeys(edge for spec in specs for edge in spec.edges))
    layer = _layers(list(size), edges)
    chains, columns, links = _with_bends(list(size), edges, layer)
    columns = _ordered(columns, links)
    heights = {slot: size[slot][1] if slot in size else 10 for column in columns for slot in column}
    y = _vertical(columns, links, heights)
    widths = [max((size[slot][0] for slot in column if slot in size), default=0) for column in columns]
    x, left = {}, 0.0
    for column, width in zip(columns, widths, strict=True):
        for slot in column:
            x[slot] = left + width / 2
        left += width + GAP
    total = max(left - GAP, 1)
    low = min((y[slot] - heights[slot] / 2 for slot in y), default=0)
    high = max((y[slot] + heights[slot] / 2 for slot in y), default=40)
    centre = {node: (x[node], y[node] - low) for node in size}
    column = {slot: width for slots, width in zip(columns, widths, strict=True) for slot in slots}
    bends = {
        edge: [((x[slot], y[slot] - low), column[slot]) for slot in chain[1:-1]]
        for edge, chain in chains.items()
    }
    return Layout(centre, size, bends, column, total, high - low)


def _text_width(text: str, size: float) -> float:
    """Pixels that a line of text takes, on the generous side."""
    units = sum(
        0.32 if c in "iljtf.,:;'|!()[] " else 0.92 if c in "mwMW@%" else 0.7 if c.isupper() else 0.6
        for c in text
    )
    return units * size


def _box(label: str, note: str, kind: str | None) -> tuple[float, float]:
    labels, notes = label.split("\n"), [line for line in note.split("\n") if line]
    width = max([_text_width(line, 14) for line in labels] + [_text_width(line, 11.5) for line in notes])
    height = 14 + 18 * len(labels) + 15 * len(notes)
    return max(round(width) + 20, 34), height


def _layers(nodes: list, edges: list) -> dict:
    """Longest path from the inputs, by Kahn's algorithm."""
    before, after = defaultdict(list), defaultdict(list)
    for a, b in edges:
        before[b].append(a)
        after[a].append(b)
    waiting = {node: len(before[node]) for node in nodes}
    ready = [node for node in nodes if not waiting[node]]
    layer = dict.fromkeys(ready, 0)
    for node in ready:
        for following in after[node]:
            layer[following] = max(layer.get(following, 0), layer[node] + 1)
            waiting[following] -= 1
            if not waiting[following]:
                ready.append(following)
    if len(ready) < len(nodes):
        stuck = next(node for node in nodes if waiting[node])
        raise ValueError(
            f"the graph has a cycle through or before {stuck!r}: a computation cannot depend on itself"
        )
    return layer


def _with_bends(nodes: list, edges: list, layer: dict) -> tuple[dict, list[list], list]:
    """Chain of slots of each edge (its nodes and a bend in each layer between), the slots of each layer, and links."""
    columns: list[list] = [[] for _ in range(max(layer.values(), default=-1) + 1)]
    for node in nodes:
        columns[layer[node]].append(node)
    chains, links = {}, []
    for a, b in edges:
        chain = [a, *(Bend(a, b, i) for i in range(layer[a] + 1, layer[b])), b]
        for slot in chain[1:-1]:
            columns[slot.layer].append(slot)
        chains[a, b] = chain
        links += itertools.pairwise(chain)
    return chains, columns, links


def _ordered(columns: list[list], links: list) -> list[list]:
    """Sweep over the layers, sorting each by the mean place of its neighbours; keep the order with fewest crossings."""
    before, after = defaultdict(list), defaultdict(list)
    for a, b in links:
        after[a].append(b)
        before[b].append(a)
    columns = [list(column) for column in columns]
    best, fewest = [list(column) for column in columns], _crossings(columns, links)
    for sweep in range(12):
        forward = sweep % 2 == 0
        neighbours = before if forward else after
        order = range(1, len(columns)) if forward else range(len(columns) - 2, -1, -1)
        for i in order:
            place = {slot: j for column in columns for j, slot in enumerate(column)}
            here = {slot: j for j, slot in enumerate(columns[i])}
            columns[i].sort(
                key=lambda slot, place=place, here=here: (
                    sum(place[n] for n in neighbours[slot]) / len(neighbours[slot])
                    if neighbours[slot]
                    else here[slot],
                    here[slot],
                )
            )
        crossings = _crossings(columns, links)
        if crossings < fewest:
            best, fewest = [list(column) for column in columns], crossings
    return best


def _crossings(columns: list[list], links: list) -> int:
    place = {slot: (i, j) for i, column in enumerate(columns) for j, slot in enumerate(column)}
    between = defaultdict(list)
    for a, b in links:
        between[place[a][0]].append((place[a][1], place[b][1]))
    return sum(
        (p[0] - q[0]) * (p[1] - q[1]) < 0
        for pairs in between.values()
        for i, p in enumerate(pairs)
        for q in pairs[i + 1 :]
    )


def _vertical(columns: list[list], links: list, heights: dict) -> dict:
    """Height of each slot: near the mean of its neighbours, in order, boxes apart."""
    neighbours = defaultdict(list)
    for a, b in links:
        neighbours[a].append(b)
        neighbours[b].append(a)
    y = {}
    for column in columns:
        top = 0.0
        for slot in column:
            y[slot] = top + heights[slot] / 2
            top += heights[slot] + APART
        for slot in column:
            y[slot] -= (top - APART) / 2
    for sweep in range(30):
        for column in columns if sweep % 2 == 0 else reversed(columns):
            wished = [_wish(slot, neighbours[slot], y) for slot in column]
            y |= zip(column, _spread(wished, [heights[slot] for slot in column]), strict=True)
    return y


def _wish(slot, neighbours: list, y: dict) -> float:
    """Mean place of the neighbours; two bends pull strongly, so that a long edge is straight."""
    if not neighbours:
        return y[slot]
    weights = [6 if isinstance(slot, Bend) and isinstance(n, Bend) else 1 for n in neighbours]
    return sum(w * y[n] for w, n in zip(weights, neighbours, strict=True)) / sum(weights)


def _spread(wished: list[float], heights: list[float]) -> list[float]:
    """The places nearest to `wished` (least squares) that keep the order and the distance: pool adjacent violators."""
    offsets, total = [], 0.0
    for i, height in enumerate(heights):
        total += (heights[i - 1] + height) / 2 + APART if i else 0.0
        offsets.append(total)
    blocks: list[list[float]] = []  # [sum, count]
    for wish, offset in zip(wished, offsets, strict=True):
        blocks.append([wish - offset, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] >= blocks[-1][0] / blocks[-1][1]:
            last = blocks.pop()
            blocks[-1] = [blocks[-1][0] + last[0], blocks[-1][1] + last[1]]
    level = [total / count for total, count in blocks for _ in range(int(count))]
    return [base + offset for base, offset in zip(level, offsets, strict=True)]


def draw(spec: Spec, layout: Layout):
    """The plotly Figure of `spec` at the places of `layout`."""
    colours = style.COLOURS
    sources, targets = {a for a, _ in spec.edges}, {b for _, b in spec.edges}
    shapes = [
        {
            "type": "path",
            "path": "".join(_edge(layout, edge) for edge in chosen),
            "line": {"color": colours["orange" if strong else "axis"], "width": 3 if strong else 1.6},
            "layer": "below",
        }
        for strong in (False, True)
        if (chosen := [edge for edge in spec.edges if (set(edge) <= spec.highlight) == strong])
    ]
    for node in spec.nodes:
        shapes += _node_shapes(spec, layout, node, sources, targets)
    xs, ys = zip(*(layout.centre[node] for node in spec.nodes), strict=True) if spec.nodes else ((), ())
    trace = {
        "type": "scatter",
        "mode": "text",
        "x": list(xs),
        "y": [-y for y in ys],
        "text": [_label(str(label), spec.notes.get(node, "")) for node, label in spec.nodes.items()],
        "hovertemplate": "%{text}<extra></extra>",
        "textfont": {"color": colours["node_text"], "size": 14},
    }
    title = wrapped(spec.title)
    top = 14 + 20 * len(title) + (10 if title else 0)
    fig = new_figure(
        [trace], shapes=shapes, showlegend=False, height=max(round(layout.height), 40) + 2 * RING + top + 10,
        margin={"l": 8, "r": 8, "t": top, "b": 10}, title=title_of(title),
    )  # fmt: skip
    # Boxes are in pixels and their places stretch with the page; a small graph is not torn apart on a wide one.
    layers = max(len({x for x, _ in layout.centre.values()}), 1)
    mean = (layout.width - GAP * (layers - 1)) / layers
    span = max(layout.width + 2 * RING, WIDE * (mean + GAP) / (mean + LOOSE))
    middle = layout.width / 2
    hidden = {"visible": False, "fixedrange": True}
    fig.update_layout(
        xaxis=hidden | {"range": [middle - span / 2, middle + span / 2]},
        yaxis=hidden | {"range": [-max(layout.height, 40) - RING, RING]},
    )
    if layout.width > style.NARROW:
        fig.update_layout(meta={"min_width": round(layout.width) + 2 * RING + 16})
    fig._groundup_graph = spec
    return fig


def _edge(layout: Layout, edge: tuple) -> str:
    """Path in data coordinates: from the source's middle, under its box, to the target's middle, with curves between.

    On a wide page a box covers less of its layer's width, so the curve starts and ends a little inside that width.
    """
    a, b = edge
    stops = [(layout.centre[a], layout.column[a]), *layout.bends[edge], (layout.centre[b], layout.column[b])]
    (x, y), width = stops[0]
    here, level = x + 0.42 * width, y
    path = f"M{x:.0f},{-y:.0f}H{here:.0f}"
    for (x, y), width in stops[1:]:
        arrive = x - 0.35 * width - 10
        middle = (here + arrive) / 2
        path += f"C{middle:.0f},{-level:.0f} {middle:.0f},{-y:.0f} {arrive:.0f},{-y:.0f}"
        here, level = x + 0.42 * width, y
        path += f"H{here if (x, y) != layout.centre[b] else x:.0f}"
    return path


def _node_shapes(spec: Spec, layout: Layout, node, sources: set, targets: set) -> list[dict]:
    (x, y), (w, h) = layout.centre[node], layout.size[node]
    marked = node in spec.highlight
    kind = spec.kinds.get(node) or ("input" if node not in targets else "op" if node in sources else "output")
    colour = style.COLOURS["node_marked" if marked else KINDS[kind]]
    at = {
        "type": "path",
        "xsizemode": "pixel",
        "ysizemode": "pixel",
        "xanchor": x,
        "yanchor": -y,
        "layer": "below",
    }
    radius = min(h / 2, 18) if kind == "op" else 7
    shapes = [at | {"path": _rounded(w, h, radius), "fillcolor": colour, "line": {"width": 0}}]
    if marked:
        ring = _rounded(w + 8, h + 8, radius + 4)
        shapes.append(
            at
            | {"path": ring, "fillcolor": style.CLEAR, "line": {"color": style.COLOURS["orange"], "width": 2}}
        )
    if node in targets:
        strong = marked and any(b == node and a in spec.highlight for a, b in spec.edges)
        tip = -w / 2 - (5 if marked else 0)
        head = f"M{tip - 9:g},5L{tip:g},0L{tip - 9:g},-5Z"
        grey = style.COLOURS["orange" if strong else "muted"]
        shapes.append(at | {"path": head, "fillcolor": grey, "line": {"width": 0}})
    return shapes


def _rounded(width: float, height: float, radius: float) -> str:
    """A rectangle with round corners, centred at (0, 0), in pixels."""
    w, h = width / 2, height / 2
    r = min(radius, w, h)
    return (
        f"M{-w:g},{r - h:g}Q{-w:g},{-h:g} {r - w:g},{-h:g}H{w - r:g}Q{w:g},{-h:g} {w:g},{r - h:g}"
        f"V{h - r:g}Q{w:g},{h:g} {w - r:g},{h:g}H{r - w:g}Q{-w:g},{h:g} {-w:g},{h - r:g}Z"
    )


def _label(label: str, note: str) -> str:
    first = "<br>".join(f"<b>{html.escape(line, quote=False)}</b>" for line in label.split("\n"))
    small = "".join(
        f'<br><span style="font-size:11px">{html.escape(line, quote=False)}</span>'
        for line in note.split("\n")
        if line
    )
    return first + small


def alike(figures: list) -> list:
    """Graph figures redrawn with one common layout; other figures as they are."""
    specs = [getattr(fig, "_groundup_graph", None) for fig in figures]
    if not specs or any(spec is None for spec in specs):
        return figures
    layout = lay_out(specs)
    return [draw(spec, layout) for spec in specs]
