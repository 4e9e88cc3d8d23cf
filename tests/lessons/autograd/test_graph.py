"""The lesson autograd.graph: its engine against torch on graphs that hypothesis makes up, and its checks."""

import inspect
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.autograd import graph
from groundup.autograd.graph import Value, backpropagate, descend, topological_order
from groundup.check import grade
from tests.lessons.edits import edited

# Every operation of Value, written so that it is defined and small for every input: (name, step).
STEPS = {
    "u + v": lambda u, v: u + v,
    "u - v": lambda u, v: u - v,
    "u * v": lambda u, v: u * v,
    "u * u": lambda u, v: u * u,
    "u + u": lambda u, v: u + u,
    "u ** 2": lambda u, v: u**2,
    "u ** 3": lambda u, v: u**3,
    "-u": lambda u, v: -u,
    "2 * u": lambda u, v: 2 * u,
    "u * 0.5": lambda u, v: u * 0.5,
    "3 + u": lambda u, v: 3 + u,
    "1 - u": lambda u, v: 1 - u,
    "u - 1": lambda u, v: u - 1,
    "u / 4": lambda u, v: u / 4,
    "tanh": lambda u, v: u.tanh(),
    "exp(-u²)": lambda u, v: (-(u**2)).exp(),
    "log(u² + 1)": lambda u, v: (u * u + 1).log(),
    "sqrt(u² + 1)": lambda u, v: (u * u + 1) ** 0.5,
    "u / (v² + 1)": lambda u, v: u / (v**2 + 1),
    "2 / (v² + 2)": lambda u, v: 2 / (v * v + 2),
}

numbers = st.lists(st.floats(-2, 2, allow_subnormal=False), min_size=1, max_size=4)
steps = st.lists(
    st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=25
)


def run(program, leaves):
    """The sum of every result; each step takes any two earlier ones and is squeezed when it grows."""
    values = list(leaves)
    for name, i, j in program:
        value = STEPS[name](values[i % len(values)], values[j % len(values)])
        values.append(value if abs(float(value.data)) < 10 else value.tanh())
    return sum(values)


@settings(max_examples=200, deadline=None)
@given(numbers, steps)
def test_values_and_gradients_equal_torch(numbers, program):
    ours = [Value(x) for x in numbers]
    result = run(program, ours)
    result.backward()
    theirs = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in numbers]
    expected = run(program, theirs)
    expected.backward()
    assert result.data == pytest.approx(expected.item(), rel=1e-12, abs=1e-12)
    size = max(1.0, *(abs(t.grad.item()) for t in theirs))
    for u, t in zip(ours, theirs, strict=True):
        assert abs(u.grad - t.grad.item()) <= 1e-10 * size


@settings(max_examples=100, deadline=None)
@given(numbers, steps, st.integers(2, 4))
def test_leaves_add_up_over_calls_and_inner_nodes_do_not(numbers, program, calls):
    ours = [Value(x) for x in numbers]
    result = run(program, ours)
    result.backward()
    once = [u.grad for u in ours]
    inner = [node.grad for node in topological_order(result) if node.parents]
    for _ in range(calls - 1):
        result.backward()
    assert [u.grad for u in ours] == pytest.approx([calls * g for g in once], rel=1e-12)
    assert [node.grad for node in topological_order(result) if node.parents] == inner


@settings(max_examples=100, deadline=None)
@given(numbers, steps)
def test_order_has_every_node_once_after_its_parents(numbers, program):
    order = topological_order(run(program, [Value(x) for x in numbers]))
    place = {node: i for i, node in enumerate(order)}
    assert len(place) == len(order)
    assert all(place[parent] < place[node] for node in order for parent in node.parents)


def test_deep_graphs_need_no_recursion():
    x = Value(1.0)
    y = x
    for _ in range(10_000):
        y = y + x
    y.backward()
    assert x.grad == 10_001.0
    del y  # freeing a long chain must not recurse either


def test_work_follows_nodes_not_roads():
    x = Value(1.0)
    y = x
    for _ in range(500):
        y = (y + y) * 0.5  # 2 to the power of 500 roads
    y.backward()
    assert x.grad == 1.0
    assert len(topological_order(y)) == 1501


def test_descend_reaches_the_bottom_of_a_bowl():
    w = Value(0.0)
    losses = descend([w], lambda parameters: (parameters[0] - 3) ** 2, learning_rate=0.1, steps=100)
    assert w.data == pytest.approx(3.0, abs=1e-8)
    assert losses == sorted(losses, reverse=True)


def test_backward_is_backpropagate():
    x, y = Value(2.0), Value(2.0)
    (x * x * 3).backward()
    backpropagate(y * y * 3)
    assert x.grad == y.grad == 12.0


# A learner's slip, as an edit of the course's version, and what the reply must say.
SLIPS = {
    "Value": [
        ('return Value(result, (self,), "tanh"', 'Value(result, (self,), "tanh"', "`x.tanh()` returned None"),
        (
            '(self, other), "*", backward',
            '(self.data, 2), "*", backward',
            "The parents of `x * y` must be a tuple",
        ),
        ('(self, other), "*", backward', '(self, other), "*", None', "`x * y` stored no function"),
        ('(self,), "log"', '(self), "log"', "with a comma: (self,)"),
        ("return self * Value.wrap(other) ** -1", "return self.data / 2", "`x / y` returned a plain number"),
        ("Value(math.log(self.data), (self,)", "Value(math.log(self.data), ()", "`x.log()` has no parents"),
        ("return self**-1 * other", "return 'half'", "`2 / x` returned a str"),
    ],
    "topological_order": [
        ("return order", "return None", "You returned None. Is a return missing?"),
        ("return order", "return set(order)", "You returned a set, expected a list"),
        ("order.append(node)", "order.append(1)", "no node of the graph"),
        ("while pile:", "while False:", "misses node 0"),
    ],
    "backpropagate": [("node._backward(node.grad)", "node.backward()", "it would never end")],
    "descend": [
        ("return losses", "return None", "You returned None. Is a return missing?"),
        ("return losses", "return losses[-1:]", "has length 1, expected 2"),
        ("-= learning_rate", "-= 2 * learning_rate", "After the last step, parameters[0].data is"),
    ],
    "gradients_by_hand": [
        ("return L, grad_a, grad_b, grad_c", "return None", "You returned None. Is a return missing?"),
        ("return L, grad_a, grad_b, grad_c", "return L", "four numbers"),
        ("grad_d * b + e", "grad_d * b + 2 * e", "For grad_a, you returned"),
    ],
}


@pytest.mark.parametrize(("name", "slip"), [(name, slip) for name in SLIPS for slip in SLIPS[name]])
def test_reply_can_be_read(name, slip):
    old, new, said = slip
    result = grade(f"autograd.graph.{name}", edited(graph, name, (old, new)), seed=0)
    assert result.status == "failed"
    assert said in result.message


def test_overwriting_in_multiplication_alone_is_named():
    source = inspect.getsource(Value)
    for right in ("other.data * grad", "self.data * grad"):
        assert f"+= {right}" in source
        source = source.replace(f"+= {right}", f"= {right}")
    learners = dict(vars(graph))
    exec(source, learners)
    assert grade("autograd.graph.Value", learners["Value"], seed=0).mistake == "assigns_in_mul"


# Wrong answers that a reviewer wrote and an earlier check accepted, as edits (old, new) of the course's version.
COPY = "(Value(self.data),)"
MUL = 'return Value(self.data * other.data, (self, other), "*", backward)'
DIVIDE = "return self * Value.wrap(other) ** -1"
POW = "exponent * self.data ** (exponent - 1) * grad"
TANH_SLOPE = "(1 - result**2) * grad"
CLEAR = "    for node in order:\n        if node.parents:\n            node.grad = 0.0\n"
WALK = "    for node in reversed(order):\n        node._backward(node.grad)\n"
ROADS = """    for node in order:
        if node.parents:
            node.grad = 0.0

    def hand_down(node, more):
        node.grad += more
        before = [(p, p.grad) for p in dict.fromkeys(node.parents)]
        node._backward(more)
        shares = [(p, p.grad - old) for p, old in before]
        for p, old in before:
            p.grad = old
        for p, share in shares:
            hand_down(p, share)

    hand_down(root, 1.0)
"""
STEP = "parameter.data -= learning_rate * parameter.grad"
WRONG = [
    (
        "Value",
        [(MUL, MUL.replace("(self, other)", "(self,)")), (DIVIDE, "return Value.wrap(other) ** -1 * self")],
    ),
    ("Value", [('(self,), "tanh"', f'{COPY}, "tanh"'), ('(self,), "log"', f'{COPY}, "log"')]),
    ("Value", [(MUL, MUL.replace("(self, other)", "(self, self)"))]),
    ("Value", [("grad / self.data", "grad / max(self.data, 1)")]),
    ("Value", [("grad / self.data", "grad / max(self.data, 0.4)")]),
    ("Value", [(POW, f"{POW} if exponent else grad")]),
    ("Value", [(POW, f"{POW} if exponent in (-2, -1, 0, 0.5, 1, 2, 3) else 0.0")]),
    ("Value", [(POW, POW.replace("self.data", "abs(self.data)"))]),
    ("Value", [("math.tanh(self.data)", "math.tanh(max(-3, min(3, self.data)))")]),
    ("Value", [(TANH_SLOPE, "(math.tanh(self.data + 1e-5) - math.tanh(self.data - 1e-5)) / 2e-5 * grad")]),
    ("Value", [("(-self) + other", "(-self) + 1")]),
    ("Value", [("self**-1 * other", "self**-1 * 2")]),
    ("Value", [(DIVIDE, f"other = other if isinstance(other, Value) else int(other)\n        {DIVIDE}")]),
    (
        "Value",
        [
            ("self.grad += (1 - result**2) * grad", "self.grad += (1 - result**2) * out.grad"),
            (
                'return Value(result, (self,), "tanh", backward)',
                'out = Value(result, (self,), "tanh", backward)\n        return out',
            ),
        ],
    ),
    (
        "Value",
        [
            (
                "self.grad += grad / self.data",
                "self.grad += 0.0 if done else grad / self.data\n            done.append(1)",
            ),
            ("def log(self):\n", "def log(self):\n        done = []\n"),
        ],
    ),
    (
        "topological_order",
        [("(root)", "(root, placed=set())"), ("placed, pile = [], set(), ", "pile = [], ")],
    ),
    ("topological_order", [("placed.add(node)", "placed.add(node)\n                node.done = True")]),
    ("topological_order", [("return order", "return order[-5000:]")]),
    ("topological_order", [("not in placed]", "not in order]"), ("node not in placed", "node not in order")]),
    ("backpropagate", [("root.grad += 1.0", "root.grad = 1.0")]),
    ("backpropagate", [("order = ", "root.parents[0]\n    order = ")]),
    (
        "backpropagate",
        [(f"{CLEAR}    root.grad += 1.0\n{WALK}", ROADS)],
    ),
    ("backpropagate", [(CLEAR, "    for node in order:\n        node.grad = 0.0\n")]),
    (
        "backpropagate",
        [(WALK, WALK + "        for p in node.parents:\n            p.data += 1.0 if p.data == 2 else 0\n")],
    ),
    ("descend", [("in parameters:", "in parameters[:2]:")]),
    ("descend", [(STEP, STEP + " * 2 / len(parameters)")]),
    ("descend", [("in range(steps)", "in range(min(steps, 7))")]),
    ("descend", [(STEP, "parameter.data -= learning_rate * max(-30, min(30, parameter.grad))")]),
]


@pytest.mark.parametrize(("name", "edits"), WRONG)
def test_wrong_answers_are_not_accepted(name, edits):
    for seed in range(2):
        assert not grade(f"autograd.graph.{name}", edited(graph, name, *edits), seed=seed).passed


def test_recursion_with_a_raised_limit_is_told_truly():
    def topological_order(root, order=None, placed=None):
        sys.setrecursionlimit(20_000)
        order, placed = ([], set()) if order is None else (order, placed)
        if root not in placed:
            placed.add(root)
            for parent in root.parents:
                topological_order(parent, order, placed)
            order.append(root)
        return order

    limit = sys.getrecursionlimit()
    try:
        result = grade("autograd.graph.topological_order", topological_order, seed=0)
    finally:
        sys.setrecursionlimit(limit)
    assert not result.passed
    assert "longer than Python allows" in result.message


def test_slopes_by_nudging_are_refused():
    def descend(parameters, loss_of, learning_rate, steps):
        losses = []
        for _ in range(steps):
            losses.append(loss_of(parameters).data)
            slopes = []
            for p in parameters:
                x, seen = p.data, []
                for h in (0.1, -0.1, 0.2, -0.2):  # exact for polynomials up to degree four
                    p.data = x + h
                    seen.append(loss_of(parameters).data)
                p.data = x
                slopes.append((8 * (seen[0] - seen[1]) - (seen[2] - seen[3])) / 1.2)
            for p, slope in zip(parameters, slopes, strict=True):
                p.data -= learning_rate * slope
        return losses

    result = grade("autograd.graph.descend", descend, seed=0)
    assert not result.passed
    assert "more than twice a step" in result.message


# Right answers, written in another way.
def kahn(root):
    nodes, met = [root], {id(root)}
    children, missing = {}, {}
    for node in nodes:
        missing[id(node)] = len(node.parents)
        for parent in node.parents:
            children.setdefault(id(parent), []).append(node)
            if id(parent) not in met:
                met.add(id(parent))
                nodes.append(parent)
    order = [node for node in nodes if not missing[id(node)]]
    for node in order:
        for child in children.get(id(node), ()):
            missing[id(child)] -= 1
            if not missing[id(child)]:
                order.append(child)
    return order


def ids_and_iterators(root):
    order, met, pile = [], {id(root)}, [(root, iter(root.parents))]
    while pile:
        node, rest = pile[-1]
        parent = next((p for p in rest if id(p) not in met), None)
        if parent is None:
            order.append(node)
            pile.pop()
        else:
            met.add(id(parent))
            pile.append((parent, iter(parent.parents)))
    return order


def backpropagate_by_kahn(root):
    order = kahn(root)
    for node in order:
        node.grad *= not node.parents
    root.grad = root.grad + 1
    while order:
        node = order.pop()
        node._backward(node.grad)


def backpropagate_with_an_iterator(root):
    order = ids_and_iterators(root)[::-1]
    for node in filter(lambda node: len(node.parents) > 0, order):
        node.grad = 0
    root.grad += 1
    for node in order:
        node._backward(node.grad)


def descend_into_an_array(parameters, loss_of, learning_rate, steps):
    losses = np.zeros(steps)
    for k in range(steps):
        for p in parameters:
            p.grad = 0
        loss = loss_of(parameters)
        backpropagate(loss)
        losses[k] = loss.data
        for p in parameters:
            p.data = p.data - p.grad * learning_rate
    return losses


def descend_twice_run(parameters, loss_of, learning_rate, steps):
    def one():
        for p in parameters:
            p.grad = 0.0
        loss_of(parameters).backward()
        before = loss_of(parameters).data
        for p in parameters:
            p.data += -learning_rate * p.grad
        return before

    return [one() for _ in range(steps)]


def an_array_of_four(a, b, c):
    return np.array([(a * b + c) * a, 2 * a * b + c, a * a, a])


def a_list_of_four(a, b, c):
    return [a * a * b + a * c, c + b * a * 2, a**2, a]


OWN_DIVISION = """other = Value.wrap(other)

        def backward(grad):
            self.grad += grad / other.data
            other.grad -= grad * self.data / other.data**2

        return Value(self.data / other.data, (self, other), "/", backward)"""
OWN_REFLECTED = """other = Value.wrap(other)
        return Value.__truediv__(other, self)"""
NUMPY = [
    ("math.tanh(self.data)", "np.tanh(self.data)"),
    ("math.log(self.data)", "np.log(self.data)"),
    (TANH_SLOPE, "grad / np.cosh(self.data) ** 2"),
    ("(-self) + other", "Value.wrap(other) + self * -1"),
    (POW, "grad * exponent * self.data**exponent / self.data if self.data else " + POW),
]


def right_answers():
    yield "gradients_by_hand", an_array_of_four
    yield "gradients_by_hand", a_list_of_four
    yield "Value", edited(graph, "Value", (DIVIDE, OWN_DIVISION), ("return self**-1 * other", OWN_REFLECTED))
    yield "Value", edited(graph, "Value", *NUMPY)
    yield "topological_order", kahn
    yield "topological_order", ids_and_iterators
    yield "backpropagate", backpropagate_by_kahn
    yield "backpropagate", backpropagate_with_an_iterator
    yield "descend", descend_into_an_array
    yield "descend", descend_twice_run


@pytest.mark.parametrize("number", range(len(list(right_answers()))))
def test_right_answers_written_differently_pass(number):
    name, answer = list(right_answers())[number]
    for seed in range(3):
        result = grade(f"autograd.graph.{name}", answer, seed=seed)
        assert result.passed, result.message
