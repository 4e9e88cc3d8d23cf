"""Checks for the lesson autograd.graph.

A graph is described by a *program*: one assignment a line, such as ``"v2 = v0 * v1"``, over the leaves v0, v1, ….
The same text runs on the learner's Value, on `Scalar` below and on torch's float64 tensors, so the oracle is torch
and a failing case can be read. `Scalar` is a second engine, built differently from the lesson's (it stores slopes,
not functions); the named mistakes of `Value` are edits of it.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import torch

from groundup.check import Case, Exercise


class Scalar:
    """A scalar with the interface of the lesson's Value; each node stores d(itself)/d(parent) for every parent."""

    def __init__(self, data, parents=(), op="", slopes=()):
        self.data, self.grad, self.parents = float(data), 0.0, parents
        self.op, self._slopes = op, slopes

    def __repr__(self):
        return f"Value(data={self.data}, grad={self.grad})"

    def _backward(self, grad):
        for parent, slope in zip(self.parents, self._slopes, strict=True):
            parent.grad += slope * grad

    def backward(self):
        order = parents_first(self)
        for node in order:
            if node.parents:
                node.grad = 0.0
        self.grad = 1.0
        for node in reversed(order):
            node._backward(node.grad)

    def _wrap(self, other):
        return other if isinstance(other, Scalar) else type(self)(other)

    def __add__(self, other):
        other = self._wrap(other)
        return type(self)(self.data + other.data, (self, other), "+", (1.0, 1.0))

    def __mul__(self, other):
        other = self._wrap(other)
        return type(self)(self.data * other.data, (self, other), "*", (other.data, self.data))

    def __pow__(self, exponent):
        if isinstance(exponent, Scalar):
            raise TypeError("the exponent must be a number")
        return type(self)(self.data**exponent, (self,), "**", (self._power_slope(exponent),))

    def _power_slope(self, exponent):
        return exponent * self.data ** (exponent - 1)

    def exp(self):
        return type(self)(math.exp(self.data), (self,), "exp", (math.exp(self.data),))

    def log(self):
        return type(self)(math.log(self.data), (self,), "log", (1 / self.data,))

    def tanh(self):
        return type(self)(math.tanh(self.data), (self,), "tanh", (1 / math.cosh(self.data) ** 2,))

    def __neg__(self):
        return self * -1

    def __sub__(self, other):
        return self + (-other)

    def __rsub__(self, other):
        return (-self) + other

    def __truediv__(self, other):
        return self * self._wrap(other) ** -1

    def __rtruediv__(self, other):
        return self**-1 * other

    def __radd__(self, other):
        return self + other

    def __rmul__(self, other):
        return self * other


def parents_first(root) -> list:
    """Order by removing leaves again and again (Kahn, 1962): not the way that the lesson goes."""
    nodes, children, waiting_for = [root], {}, {}
    found = {id(root)}
    for node in nodes:  # grows while we walk
        waiting_for[id(node)] = len(node.parents)
        for parent in node.parents:
            children.setdefault(id(parent), []).append(node)
            if id(parent) not in found:
                found.add(id(parent))
                nodes.append(parent)
    ready = [node for node in nodes if not node.parents]
    for node in ready:  # grows while we walk
        for child in children.get(id(node), []):
            waiting_for[id(child)] -= 1
            if waiting_for[id(child)] == 0:
                ready.append(child)
    return ready


def run(program: list[str], leaves: list) -> dict:
    """Every variable of the program, by name. `leaves` become v0, v1, …"""
    variables = {f"v{i}": leaf for i, leaf in enumerate(leaves)}
    for line in program:
        exec(line, {}, variables)
    return {name: value for name, value in variables.items() if name.startswith("v")}


def slopes_by_torch(program: list[str], leaves: list[float], root: str) -> dict[str, float | None]:
    """d(root)/d(variable) of every variable; None where root does not depend on it."""
    tensors = [torch.tensor(leaf, dtype=torch.float64, requires_grad=True) for leaf in leaves]
    variables = run(program, tensors)
    grads = torch.autograd.grad(variables[root], list(variables.values()), allow_unused=True)
    return {name: None if grad is None else grad.item() for name, grad in zip(variables, grads, strict=True)}


def random_program(rng: np.random.Generator, leaves: list[float], lines: int) -> list[str]:
    """Lines that reuse earlier variables, stay inside every function's domain, and whose last line uses all of them."""
    values = [Scalar(leaf) for leaf in leaves]
    program, used = [], set()
    while len(program) < lines:
        i, j = (int(k) for k in rng.integers(len(values), size=2))
        templates = ["v{i} + v{j}", "v{i} * v{j}", "v{i} - v{j}", "v{i} * v{i}", "v{i} ** 2", "v{i} ** 3"]
        templates += ["v{i}.tanh()", "v{i}.tanh()", "-v{i}", "2 * v{i}", "1 - v{i}", "v{i} - 0.5", "v{i} / 3"]
        if abs(values[j].data) > 0.4:
            templates += ["v{i} / v{j}", "2 / v{j}", "v{j} ** -2"]
        if values[i].data > 0.4:
            templates += ["v{i}.log()", "v{i} ** 0.5"]
        if values[i].data < 2:
            templates += ["v{i}.exp()"]
        right = str(rng.choice(templates)).format(i=i, j=j)
        value = eval(right, {f"v{k}": value for k, value in enumerate(values)})
        if abs(value.data) < 8:
            used |= {k for k in (i, j) if f"v{k}" in right.replace(".", " ").split()}
            program.append(f"v{len(values)} = {right}")
            values.append(value)
    loose = [f"v{k}" for k in range(len(values)) if k not in used]
    return [*program, f"v{len(values)} = sum([{', '.join(loose)}])"]


def away_from_zero(rng: np.random.Generator, size: int) -> list[float]:
    """Numbers of both signs between 0.5 and 2 in size, so that no slope hides behind a zero."""
    return [float(x) for x in rng.uniform(0.5, 2.0, size) * rng.choice([-1.0, 1.0], size)]


# ---------------------------------------------------------------------------------------------------------------------
gradients_by_hand = Exercise("autograd.graph.gradients_by_hand")


@gradients_by_hand.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    a, b, c = away_from_zero(rng, 3)
    yield Case("three numbers", a=a, b=b, c=c)
    yield Case("b is 0: nothing comes back through a * b", a=a, b=0.0, c=c)
    yield Case("e is 0: the last product sends nothing straight to a", a=a, b=b, c=-a * b)
    yield Case("a is 1", a=1.0, b=b, c=c)
    yield Case("a, b and e are equal", a=a, b=a, c=a - a * a)
    for _ in range(3):
        a, b, c = (float(x) for x in rng.normal(size=3) * 3)
        yield Case("three random numbers", a=a, b=b, c=c)


@gradients_by_hand.oracle
def _(a, b, c):
    leaves = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (a, b, c)]
    result = (leaves[0] * leaves[1] + leaves[2]) * leaves[0]
    return (result.item(), *(grad.item() for grad in torch.autograd.grad(result, leaves)))


@gradients_by_hand.mistake
def only_the_direct_road(a, b, c):
    """You counted only one road from a to L, the last product. But a also makes d, which makes e, which makes L: when a moves, both roads carry the change, and their contributions add."""
    e = a * b + c
    return e * a, e, a * a, a


@gradients_by_hand.mistake
def only_the_long_road(a, b, c):
    """You followed a through d and e, and forgot that a is also a factor of the last product. When a moves, both roads carry the change, and their contributions add."""
    e = a * b + c
    return e * a, a * b, a * a, a


@gradients_by_hand.mistake
def forgets_the_outer_gradient(a, b, c):
    """At d = a * b you used only the slope of that one step. The chain rule multiplies it by the gradient that arrives at d: how strongly d moves L. It came out right only where that gradient is 1."""
    e = a * b + c
    return e * a, b + e, a, a


@gradients_by_hand.mistake
def sum_sends_back_one(a, b, c):
    """You gave c the gradient 1, the slope of e = d + c alone. A sum hands on what arrives at it: c moves e one for one, and e moves L by grad_e, so that is c's gradient too."""
    e = a * b + c
    return e * a, a * b + e, a * a, 1.0


@gradients_by_hand.mistake
def product_slopes_swapped(a, b, c):
    """At each product you multiplied by the number itself. The slope of a product in one factor is the *other* factor: if b is 10, moving a by 1 moves a * b by 10."""
    e = a * b + c
    return e * a, e * a + a, e * b, e


# ---------------------------------------------------------------------------------------------------------------------
Value = Exercise("autograd.graph.Value", kind="class")

ONE_STEP = {  # each expression alone, so that a failure names the operation
    "x * y": ["v2 = v0 * v1"],
    "x * 3": ["v2 = v0 * 3"],
    "2 * x": ["v2 = 2 * v0"],
    "x ** 3": ["v2 = v0 ** 3"],
    "x ** -2": ["v2 = v0 ** -2"],
    "x.exp()": ["v2 = v0.exp()"],
    "x.tanh()": ["v2 = v0.tanh()"],
    "x - y": ["v2 = v0 - v1"],
    "x - 2": ["v2 = v0 - 2"],
    "1 - x": ["v2 = 1 - v0"],
    "-x": ["v2 = -v0"],
    "x / y": ["v2 = v0 / v1"],
    "x / 4": ["v2 = v0 / 4"],
    "2 / x": ["v2 = 2 / v0"],
    "x + y": ["v2 = v0 + v1"],
    "3 + x": ["v2 = 3 + v0"],
}

SHARED = {  # a value used twice, or a step behind another
    "x * x: the same value twice": ["v2 = v0 * v0"],
    "x ** 2 + 3 * x: x in two places": ["v2 = v0 ** 2", "v3 = 3 * v0", "v4 = v2 + v3"],
    "x * y + x: x in two places": ["v2 = v0 * v1", "v3 = v2 + v0"],
    "2 * (x * y)": ["v2 = v0 * v1", "v3 = 2 * v2"],
    "2 * x ** 3": ["v2 = v0 ** 3", "v3 = 2 * v2"],
    "2 * x.tanh()": ["v2 = v0.tanh()", "v3 = 2 * v2"],
    "x.tanh() * x + y": ["v2 = v0.tanh()", "v3 = v2 * v0 + v1"],
    "x ** 2 * x": ["v2 = v0 ** 2", "v3 = v2 * v0"],
    "x * y * x": ["v2 = v0 * v1", "v3 = v2 * v0"],
    "y * x * x": ["v2 = v1 * v0", "v3 = v2 * v0"],
}


@Value.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    for label, program in ONE_STEP.items():
        yield Case(label, program=program, leaves=away_from_zero(rng, 2))
    for label, program in {"x.log()": ["v1 = v0.log()"], "x ** 0.5": ["v1 = v0 ** 0.5"]}.items():
        yield Case(label, program=program, leaves=[float(rng.uniform(0.5, 3))])
    yield Case("x ** 1", program=["v1 = v0 ** 1"], leaves=away_from_zero(rng, 1))
    yield Case("x ** 2 at x = 0", program=["v1 = v0 ** 2"], leaves=[0.0])
    yield Case("x.log() * x", program=["v1 = v0.log()", "v2 = v1 * v0"], leaves=[float(rng.uniform(0.5, 3))])
    yield Case("x.log() at x = 1, times 3", program=["v1 = v0.log()", "v2 = 3 * v1"], leaves=[1.0])
    for label, program in SHARED.items():
        yield Case(label, program=program, leaves=away_from_zero(rng, 2))
    for _ in range(4):
        leaves = away_from_zero(rng, 3)
        program = random_program(rng, leaves, lines=10)
        yield Case("a random program: " + "; ".join(program), program=program, leaves=leaves)


@Value.observe
def _(obj, program, leaves):
    """Run the program; then walk back, calling every node's `_backward` ourselves, in an order of our own."""
    variables = run(program, [obj(leaf) for leaf in leaves])
    root = list(variables.values())[-1]
    order = parents_first(root)
    root.grad = 1.0
    for node in reversed(order):
        node._backward(node.grad)
    return {
        "data": np.array([float(v.data) for v in variables.values()]),
        "grad": np.array([float(v.grad) for v in variables.values()]),
    }


@Value.oracle
def _(program, leaves):
    data = run(program, [torch.tensor(leaf, dtype=torch.float64) for leaf in leaves])
    grads = slopes_by_torch(program, leaves, list(data)[-1])
    return {
        "data": np.array([v.item() for v in data.values()]),
        "grad": np.array([grads[name] or 0.0 for name in data]),
    }


@Value.property
def a_new_value_is_a_float_with_no_gradient(obj, program, leaves):
    """Value(3) must hold the float 3.0, the gradient 0.0 and no parents, and must show both numbers when it is printed."""
    value = obj(3)
    right = type(value.data) is float and type(value.grad) is float and tuple(value.parents) == ()
    return right and repr(value) == "Value(data=3.0, grad=0.0)"


@Value.property
def forward_leaves_gradients_alone(obj, program, leaves):
    """The forward pass changed a gradient. It only computes data; gradients move when `_backward` is called."""
    return all(v.grad == 0.0 for v in run(program, [obj(leaf) for leaf in leaves]).values())


@Value.property
def every_operation_has_a_name(obj, program, leaves):
    """A result must carry its operation's name, the third argument of Value(...): the drawings of the graph show it."""
    made = list(run(program, [obj(leaf) for leaf in leaves]).values())[len(leaves) :]
    return all(isinstance(result.op, str) and result.op for result in made)


@Value.property
def an_exponent_that_is_a_value_is_refused(obj, program, leaves):
    """x ** y with a Value y must raise TypeError: this engine has no slope for the exponent, and a silent zero is worse."""
    try:
        obj(2.0) ** obj(3.0)
    except TypeError:
        return True
    return False


WRITTEN_BY_THE_LEARNER = ("*", "**", "log", "tanh")


@Value.mistake
class assigns_instead_of_adding(Scalar):
    """You set a parent's gradient with = instead of adding to it. A value that is used twice, as in x * x, then keeps only the last contribution; the others are overwritten."""

    def _backward(self, grad):
        if self.op not in WRITTEN_BY_THE_LEARNER:
            return super()._backward(grad)
        for parent, slope in zip(self.parents, self._slopes, strict=True):
            parent.grad = slope * grad


@Value.mistake
class forgets_the_incoming_gradient(Scalar):
    """Your operations add only their own slope. By the chain rule it must be multiplied by `grad`, which says how strongly this result moves the end of the graph. A single step looks right, because there grad is 1."""

    def _backward(self, grad):
        super()._backward(1.0 if self.op in WRITTEN_BY_THE_LEARNER else grad)


@Value.mistake
class multiplies_by_itself(Scalar):
    """In x * y you gave x the slope x and y the slope y. The slope of a product in one factor is the *other* factor. Test it on x * x and you would never notice."""

    def __mul__(self, other):
        out = super().__mul__(other)
        out._slopes = out._slopes[::-1]
        return out


@Value.mistake
class first_factor_only(Scalar):
    """In x * y only x receives a gradient. Both factors move the product, so both must get their share."""

    def __mul__(self, other):
        out = super().__mul__(other)
        out._slopes = (out._slopes[0], 0.0)
        return out


@Value.mistake
class power_keeps_its_exponent(Scalar):
    """Your power rule does not lower the exponent: the slope of x ** n is n * x ** (n - 1). Mind the brackets: x ** n - 1 is (x ** n) - 1."""

    def _power_slope(self, exponent):
        return exponent * self.data**exponent


@Value.mistake
class power_loses_its_factor(Scalar):
    """Your power rule lowers the exponent but forgets the factor in front: the slope of x ** n is n * x ** (n - 1). It looks right only for n = 1."""

    def _power_slope(self, exponent):
        return self.data ** (exponent - 1)


@Value.mistake
class tanh_slope_from_the_input(Scalar):
    """You wrote tanh's slope as 1 - x², with x the number that went in. It is 1 - t² with t = tanh(x), the number that came out."""

    def tanh(self):
        return type(self)(math.tanh(self.data), (self,), "tanh", (1 - self.data**2,))


@Value.mistake
class log_slope_from_the_output(Scalar):
    """You divided the gradient by log(x), the number that came out. The slope of log is 1 / x, with x the number that went in. (exp and tanh use their output; log does not.)"""

    def log(self):
        out = super().log()
        out._backward = lambda grad: setattr(self, "grad", self.grad + grad / out.data)
        return out


@Value.mistake
class reflected_subtraction_turned_round(Scalar):
    """For 1 - x you returned x - 1. Python calls x.__rsub__(1): self is what stands on the *right* of the minus sign."""

    def __rsub__(self, other):
        return self - other


@Value.mistake
class reflected_division_turned_round(Scalar):
    """For 2 / x you returned x / 2. Python calls x.__rtruediv__(2): self is what stands *under* the line."""

    def __rtruediv__(self, other):
        return self / other


@Value.mistake
class division_cuts_the_graph(Scalar):
    """Your division gives the right number but a Value without parents: you divided the .data. No gradient can pass a node that does not know where it came from. Build division from Values: * and **."""

    def __truediv__(self, other):
        return type(self)(self.data / self._wrap(other).data)

    def __rtruediv__(self, other):
        return type(self)(other / self.data)


# ---------------------------------------------------------------------------------------------------------------------
topological_order = Exercise("autograd.graph.topological_order")


class TooMuchWork(Exception):
    """The nodes were asked for their parents far more often than the graph has nodes and edges."""


class Dot:
    """A node that knows only its parents, and that stops answering when the whole graph has been asked too often."""

    def __init__(self, parents: tuple, budget: list[int]):
        self._parents, self._budget = parents, budget

    @property
    def parents(self) -> tuple:
        self._budget[0] -= 1
        if self._budget[0] < 0:
            raise TooMuchWork
        return self._parents


def dots(parents: list[list[int]]) -> list[Dot]:
    """parents[k] lists the parents of node k, all of them smaller than k."""
    nodes: list[Dot] = []
    budget = [100 + 10 * (len(parents) + sum(map(len, parents)))]
    for mine in parents:
        nodes.append(Dot(tuple(nodes[k] for k in mine), budget))
    return nodes


@topological_order.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    yield Case("a single leaf", parents=[[]])
    yield Case("one sum", parents=[[], [], [0, 1]])
    yield Case("a short chain", parents=[[], [0], [1], [2]])
    yield Case("a tree", parents=[[], [], [0, 1], [], [2, 3]])
    yield Case("x * x: the same parent twice", parents=[[], [0, 0]])
    yield Case("a diamond: two roads from the root to one node", parents=[[], [0], [0], [1, 2]])
    yield Case("a short road and a long one", parents=[[], [0], [1], [2, 0]])
    yield Case("a long road and a short one", parents=[[], [0], [1], [0, 2]])
    yield Case("two roads into the middle", parents=[[], [0], [1], [2], [3, 1], [1, 4], [5, 2]])
    for _ in range(6):
        size = int(rng.integers(6, 14))
        graph = [sorted(int(p) for p in rng.integers(k, size=min(k, 1 + k % 2))) for k in range(size)]
        children = Counter(p for mine in graph for p in mine)
        ends = [k for k in range(size) if not children[k]]
        yield Case("a random graph", parents=[*graph, [int(k) for k in rng.permutation(ends)]])
    yield Case("x = x + x, forty times: 41 nodes, 2 ** 40 roads", parents=[[]] + [[k, k] for k in range(40)])
    yield Case("a chain of 5,000 nodes", parents=[[]] + [[k] for k in range(4_999)])


FACTS = ("it ends, and asks no node again and again", "every node is there", "no node comes twice")
FACTS += ("parents come first", "the root comes last")


@topological_order.observe
def _(obj, parents):
    """Any order that is right is right: look at what makes it so."""
    nodes = dots(parents)
    index = {id(node): k for k, node in enumerate(nodes)}
    try:
        given = obj(nodes[-1])
    except TooMuchWork:
        return dict.fromkeys(FACTS, False)
    if not isinstance(given, list | tuple):
        return given
    order = [index.get(id(node), -1) for node in given]
    place = {k: i for i, k in reversed(list(enumerate(order)))}  # a node counts from its first appearance
    facts = (
        True,
        set(order) == set(range(len(nodes))),
        len(order) == len(set(order)),
        all(place[p] < place[k] for k in place if k >= 0 for p in parents[k] if p in place),
        order[-1:] == [len(nodes) - 1],
    )
    return dict(zip(FACTS, facts, strict=True))


@topological_order.oracle
def _(parents):
    return dict.fromkeys(FACTS, True)


def _recursive(node, order: list, placed: set) -> list:
    if node not in placed:
        placed.add(node)
        for parent in node.parents:
            _recursive(parent, order, placed)
        order.append(node)
    return order


@topological_order.mistake
def calls_itself(root):
    """Your function calls itself once per node on the way down. Python stops at about a thousand calls inside one another, and a chain of 5,000 nodes is an ordinary graph. Keep the pile of waiting nodes in a list of your own."""
    return _recursive(root, [], set())


@topological_order.mistake
def children_first(root):
    """Your list is the wrong way round: it starts at the root. A node may be placed only after all of its parents, so leaves come first and the root comes last."""
    return parents_first(root)[::-1]


@topological_order.mistake
def shared_nodes_again(root):
    """You place a node every time you reach it. A node with two children is reached twice; it would then hand its gradient on twice. Remember what is placed already."""
    order, pile = [], [(root, False)]
    while pile:
        node, ready = pile.pop()
        if ready or not node.parents:
            order.append(node)
        else:
            pile.append((node, True))
            pile.extend((parent, False) for parent in node.parents)
    return order


@topological_order.mistake
def placed_twice_from_the_pile(root):
    """You put only missing parents on the pile, but do not look again when you take a node off it. In x * x both parents are the same x: it is put on twice, and placed twice. Ask once more before you place it."""
    order, placed, pile = [], set(), [root]
    while pile:
        missing = [parent for parent in pile[-1].parents if parent not in placed]
        pile.extend(missing)
        if not missing:
            order.append(pile.pop())
            placed.add(order[-1])
    return order


@topological_order.mistake
def walks_every_road(root):
    """Your order is right, but you walk down every road to a node: you ask whether it is placed only when you place it. Forty doublings, x = x + x, are 41 nodes and 2 to the power of 40 roads. Ask before you go down, too."""
    order, placed, pile = [], set(), [(root, False)]
    while pile:
        node, ready = pile.pop()
        if not ready:
            pile.append((node, True))
            pile.extend((parent, False) for parent in node.parents)
        elif node not in placed:
            placed.add(node)
            order.append(node)
    return order


@topological_order.mistake
def placed_as_soon_as_met(root):
    """You list nodes as you meet them on the way down and turn the list round. Where a short road and a long road lead to the same node, one of its children then comes before it. Place a node only once all its parents are placed."""
    met, pile = {}, [root]
    while pile:
        node = pile.pop()
        if node not in met:
            met[node] = True
            pile.extend(reversed(node.parents))
    return list(met)[::-1]


@topological_order.mistake
def leaves_left_out(root):
    """You left the leaves out. They have no parents to wait for, so they can be placed at once; and they are the very nodes whose gradients we want."""
    order = parents_first(root)
    return [node for node in order if node.parents] if root.parents else order


# ---------------------------------------------------------------------------------------------------------------------
backpropagate = Exercise("autograd.graph.backpropagate")

LATE_BRANCH = ["v2 = v0 * v1", "v3 = v2.tanh()", "v4 = v2 * v3", "v5 = v4 + v2"]


@backpropagate.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, program, roots, leaves=2):
        return Case(label, program=program, leaves=away_from_zero(rng, leaves), backward_from=roots)

    yield case("one product", ["v2 = v0 * v1"], ["v2"])
    yield Case("a flat place: x ** 2 at x = 0", program=["v1 = v0 ** 2"], leaves=[0.0], backward_from=["v1"])
    yield case("a chain of steps", ["v2 = v0 * v1", "v3 = v2 + v0", "v4 = v3.tanh()"], ["v4"])
    yield case("x * x", ["v2 = v0 * v0", "v3 = v2 * v1"], ["v3"])
    yield case("a node with three children", LATE_BRANCH, ["v5"])
    yield case("the same, the branches in another order", [*LATE_BRANCH[:3], "v5 = v2 + v4"], ["v5"])
    yield case("one product, backward twice", ["v2 = v0 * v1"], ["v2", "v2"])
    yield case("a node with three children, backward twice", LATE_BRANCH, ["v5", "v5"])
    yield case("two results that share nodes, one after the other", LATE_BRANCH, ["v5", "v3"])
    yield case("the same two, the other way round", LATE_BRANCH, ["v4", "v5"])
    for _ in range(3):
        leaves = away_from_zero(rng, 3)
        program = random_program(rng, leaves, lines=10)
        yield Case(
            "a random program: " + "; ".join(program),
            program=program,
            leaves=leaves,
            backward_from=["v13", "v13"],
        )
    deep = ["v1 = v0 * 2", "for _ in range(2_500): v1 = v1 * 0.9999 + 0.0001"]
    yield case("a chain of 5,000 nodes", deep, ["v1"], leaves=1)


def _looked_at(program: list[str], leaves: list[float], grads: list[float]) -> np.ndarray:
    """Every gradient; of a single step only what it gives its leaves."""
    return np.array(grads[: len(leaves)] if len(program) == 1 else grads)


@backpropagate.observe
def _(obj, program, leaves, backward_from):
    variables = run(program, [Scalar(leaf) for leaf in leaves])
    for root in backward_from:
        obj(variables[root])
    return {"grad": _looked_at(program, leaves, [float(v.grad) for v in variables.values()])}


@backpropagate.oracle
def _(program, leaves, backward_from):
    """Leaves add up over the calls; a node in between holds what the last call that reached it gave it."""
    total: dict[str, float] = {}
    for root in backward_from:
        for name, slope in slopes_by_torch(program, leaves, root).items():
            is_leaf = int(name[1:]) < len(leaves)
            if slope is not None:
                total[name] = slope + (total.get(name, 0.0) if is_leaf else 0.0)
            else:
                total.setdefault(name, 0.0)
    return {"grad": _looked_at(program, leaves, list(total.values()))}


@backpropagate.property
def data_stays(obj, program, leaves, backward_from):
    """The backward pass changed some data. It may write gradients only."""
    variables = run(program, [Scalar(leaf) for leaf in leaves])
    before = [v.data for v in variables.values()]
    obj(variables[backward_from[0]])
    return [v.data for v in variables.values()] == before


def _walk(order: list, root, reset: Callable[[Scalar], bool]) -> None:
    for node in order:
        if reset(node):
            node.grad = 0.0
    root.grad = 1.0
    for node in reversed(order):
        node._backward(node.grad)


@backpropagate.mistake
def leaves_to_root(root):
    """Only the root's own parents got a gradient. Did you walk from the leaves to the root? There nothing has arrived yet, so zeros are handed on, until the root comes last. Go the other way."""
    order = parents_first(root)
    for node in order:
        if node.parents:
            node.grad = 0.0
    root.grad = 1.0
    for node in order:
        node._backward(node.grad)


@backpropagate.mistake
def nothing_to_start_with(root):
    """All your gradients are 0: each node hands on its own gradient times a slope, and the root's own was never set. L moves as much as L does, so start with root.grad = 1, after you have cleared the others."""
    for node in parents_first(root):
        if node.parents:
            node.grad = 0.0


@backpropagate.mistake
def old_gradients_in_between(root):
    """The first call is right, the second is not. The nodes in between still hold the first call's gradients, add the new ones to them and hand both on. Clear every node that has parents before you start."""
    _walk(parents_first(root), root, reset=lambda node: False)


@backpropagate.mistake
def clears_the_leaves_too(root):
    """You cleared the gradients of the leaves as well. Leaves keep a running total over calls, as in PyTorch: that is how the gradients of several losses add up. Clear only nodes that have parents."""
    _walk(parents_first(root), root, reset=lambda node: True)


@backpropagate.mistake
def without_an_order(root):
    """You walk from node to parents without an order. A node with two children is then handled before both have sent it their share, and again afterwards: some shares arrive twice. Use topological_order."""
    for node in parents_first(root):
        if node.parents:
            node.grad = 0.0
    root.grad = 1.0
    pile = [root]
    while pile:
        node = pile.pop()
        node._backward(node.grad)
        pile.extend(node.parents)


# ---------------------------------------------------------------------------------------------------------------------
descend = Exercise("autograd.graph.descend")


def _valley(parameters):
    """A curved valley whose slopes depend on both parameters. Works on Scalars and on tensors alike."""
    x, y = parameters
    return (x - 1) ** 2 + 2 * (y - x * x) ** 2


@descend.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def start():
        return [float(x) for x in rng.uniform(-1.0, 0.5, 2)]

    yield Case("no step at all", start=start(), old_grad=0.0, learning_rate=0.05, steps=0)
    yield Case("one step", start=start(), old_grad=0.0, learning_rate=0.05, steps=1)
    yield Case("two steps", start=start(), old_grad=0.0, learning_rate=0.03, steps=2)
    yield Case("seven steps", start=start(), old_grad=0.0, learning_rate=0.02, steps=7)
    yield Case(
        "gradients left over from before, one step", start=start(), old_grad=3.0, learning_rate=0.05, steps=1
    )
    yield Case("gradients left over from before", start=start(), old_grad=-2.0, learning_rate=0.03, steps=5)
    yield Case("a learning rate of 0", start=start(), old_grad=0.0, learning_rate=0.0, steps=3)


@descend.observe
def _(obj, start, old_grad, learning_rate, steps):
    parameters = [Scalar(x) for x in start]
    for parameter in parameters:
        parameter.grad = old_grad
    losses = obj(parameters, _valley, learning_rate, steps)
    if not isinstance(losses, list | tuple):
        return losses
    numbers = all(isinstance(loss, int | float) for loss in losses)
    return {
        "losses": np.array(losses, dtype=float) if numbers else [type(loss).__name__ for loss in losses],
        "parameters": np.array([float(p.data) for p in parameters]),
    }


@descend.oracle
def _(start, old_grad, learning_rate, steps):
    losses, parameters = [], torch.tensor(start, dtype=torch.float64)
    for _ in range(steps):
        here = parameters.clone().requires_grad_()
        loss = _valley(here)
        losses.append(loss.item())
        parameters = parameters - learning_rate * torch.autograd.grad(loss, here)[0]
    return {"losses": np.array(losses, dtype=float), "parameters": parameters.numpy()}


@descend.mistake
def never_clears(parameters, loss_of, learning_rate, steps):
    """The first step is right; after it, every step also takes all earlier gradients once more, because leaves keep a running total. The parameters gather speed and swing past the bottom like a pendulum."""
    losses = []
    for _ in range(steps):
        loss = loss_of(parameters)
        loss.backward()
        losses.append(loss.data)
        for parameter in parameters:
            parameter.data -= learning_rate * parameter.grad
    return losses


@descend.mistake
def clears_only_after_the_step(parameters, loss_of, learning_rate, steps):
    """You clear the gradients only after a step. Whatever the parameters held on entry, from an earlier `backward()`, still goes into your first step. Clear before you go backward."""
    losses = []
    for _ in range(steps):
        loss = loss_of(parameters)
        loss.backward()
        losses.append(loss.data)
        for parameter in parameters:
            parameter.data -= learning_rate * parameter.grad
            parameter.grad = 0.0
    return losses


@descend.mistake
def clears_once(parameters, loss_of, learning_rate, steps):
    """You clear the gradients once, before the loop. From the second step on they hold a running total again. Each step needs its own, so clear inside the loop."""
    for parameter in parameters:
        parameter.grad = 0.0
    return never_clears(parameters, loss_of, learning_rate, steps)


@descend.mistake
def nothing_moves(parameters, loss_of, learning_rate, steps):
    """The parameters do not move. Either you clear the gradients between `backward()` and the step, so that every step is zero; or you assign to the loop's own name, `parameter = …`, which leaves the Value as it was. Change parameter.data."""
    return [loss_of(parameters).data for _ in range(steps)]


@descend.mistake
def climbs(parameters, loss_of, learning_rate, steps):
    """The loss goes up: you added the gradient. It points uphill, to where the loss grows, so you must subtract it."""
    losses = []
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = 0.0
        loss = loss_of(parameters)
        loss.backward()
        losses.append(loss.data)
        for parameter in parameters:
            parameter.data += learning_rate * parameter.grad
    return losses


@descend.mistake
def one_parameter_at_a_time(parameters, loss_of, learning_rate, steps):
    """You moved the first parameter and then computed the slope of the next one at the new place. A gradient step moves all of them at once, by slopes taken at the same point: one `backward()`, then the loop over parameters."""
    losses = []
    for _ in range(steps):
        losses.append(loss_of(parameters).data)
        for parameter in parameters:
            for other in parameters:
                other.grad = 0.0
            loss_of(parameters).backward()
            parameter.data -= learning_rate * parameter.grad
    return losses


@descend.mistake
def loss_after_the_step(parameters, loss_of, learning_rate, steps):
    """The parameters are right, but you recorded each loss after its step. Record the loss that the step starts from: the first entry is the loss at the very beginning."""
    losses = []
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = 0.0
        loss_of(parameters).backward()
        for parameter in parameters:
            parameter.data -= learning_rate * parameter.grad
        losses.append(loss_of(parameters).data)
    return losses


@descend.mistake(shape=True)
def keeps_every_graph(parameters, loss_of, learning_rate, steps):
    """You collected the losses themselves, not their numbers. A loss holds on to its parents, and they to theirs: the whole graph of every step stays in memory. Keep loss.data. (In PyTorch: loss.item().)"""
    losses = []
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = 0.0
        losses.append(loss_of(parameters))
        losses[-1].backward()
        for parameter in parameters:
            parameter.data -= learning_rate * parameter.grad
    return losses
