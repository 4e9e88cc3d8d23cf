"""The lesson autograd.graph: its engine against torch on graphs that hypothesis makes up, and its checks."""

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.autograd import graph
from groundup.autograd.graph import Value, backpropagate, descend, topological_order
from groundup.check import exercises_of, grade

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


EXERCISES = {exercise.id: exercise for exercise in exercises_of("autograd.graph")}
MISTAKES = {f"{e.name}-{m.name}": (e, m) for e in EXERCISES.values() for m in e.mistakes}


@pytest.mark.parametrize("id", EXERCISES)
def test_solution_passes_on_many_seeds(id):
    for seed in range(10):
        result = grade(id, getattr(graph, id.split(".")[-1]), seed=seed)
        assert result.status == "passed", result.message


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_named(name):
    exercise, mistake = MISTAKES[name]
    for seed in range(3):
        result = grade(exercise, mistake.obj, seed=seed)
        assert result.status in ("failed", "error")  # an error, where the mistake is an exception
        assert result.mistake == mistake.name, result.message


@pytest.mark.parametrize("id", EXERCISES)
@pytest.mark.parametrize("wrong", [None, 3, lambda *inputs: None, lambda *inputs: [], type("Empty", (), {})])
def test_nonsense_is_refused(id, wrong):
    assert grade(id, wrong, seed=0).status in ("failed", "error", "todo")


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


def slipped(name, old, new):
    source = inspect.getsource(getattr(graph, name))
    assert old in source
    learners = dict(vars(graph))
    exec(source.replace(old, new), learners)
    return learners[name]


@pytest.mark.parametrize(("name", "slip"), [(name, slip) for name in SLIPS for slip in SLIPS[name]])
def test_reply_can_be_read(name, slip):
    old, new, said = slip
    result = grade(f"autograd.graph.{name}", slipped(name, old, new), seed=0)
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
