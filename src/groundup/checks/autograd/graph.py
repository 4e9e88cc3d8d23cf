"""Checks for the lesson autograd.graph.

A graph is described by a *program*: one assignment a line, such as ``"a = x * y"``, over the leaves x, y and z.
The same text runs on the learner's Value, on `Scalar` below and on torch's float64 tensors, so the oracle is torch
and a failing case can be read. `Scalar` is a second engine, built differently from the lesson's (it stores slopes,
not functions); the named mistakes of `Value` are edits of it.

An observation that is a text is a sentence for the learner: there was nothing to compare.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from numbers import Real

import numpy as np
import torch

from groundup.check import Case, Exercise, compare

LEAVES = "xyz"


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
        self.grad += 1.0
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


def parents_first(root, stop: Collection[int] = ()) -> list:
    """Order by removing leaves again and again (Kahn, 1962): not the way that the lesson goes.

    Nodes whose id is in `stop` count as leaves.
    """

    def parents_of(node):
        return () if id(node) in stop else node.parents

    nodes, children, waiting_for = [root], {}, {}
    found = {id(root)}
    for node in nodes:  # grows while we walk
        waiting_for[id(node)] = len(parents_of(node))
        for parent in parents_of(node):
            children.setdefault(id(parent), []).append(node)
            if id(parent) not in found:
                found.add(id(parent))
                nodes.append(parent)
    ready = [node for node in nodes if not parents_of(node)]
    for node in ready:  # grows while we walk
        for child in children.get(id(node), []):
            waiting_for[id(child)] -= 1
            if waiting_for[id(child)] == 0:
                ready.append(child)
    return ready


def run(program: list[str], leaves: list, look: Callable | None = None) -> dict:
    """Every variable of the program, by name; `look(expression, value, variables before)` sees each line's result."""
    variables = dict(zip(LEAVES, leaves, strict=False))
    for line in program:
        before = dict(variables)
        exec(line, {}, variables)
        if look is not None:
            name, expression = line.split(" = ", 1)
            look(expression, variables[name], before)
    return {name: value for name, value in variables.items() if name != "_"}


def slopes_by_torch(program: list[str], leaves: list[float], root: str) -> dict[str, float | None]:
    """d(root)/d(variable) of every variable; None where root does not depend on it."""
    tensors = [torch.tensor(leaf, dtype=torch.float64, requires_grad=True) for leaf in leaves]
    variables = run(program, tensors)
    grads = torch.autograd.grad(variables[root], list(variables.values()), allow_unused=True)
    return {name: None if grad is None else grad.item() for name, grad in zip(variables, grads, strict=True)}


def random_program(rng: np.random.Generator, leaves: list[float], lines: int) -> list[str]:
    """Lines that reuse earlier variables, stay inside every function's domain, and whose last line uses all of them."""
    names = LEAVES[: len(leaves)] + "abcdefghijklm"
    values = [Scalar(leaf) for leaf in leaves]
    program, used = [], set()
    while len(program) < lines:
        i, j = (int(k) for k in rng.integers(len(values), size=2))
        templates = ["{u} + {v}", "{u} * {v}", "{u} - {v}", "{u} * {u}", "{u} ** 2", "{u} ** 3"]
        templates += ["{u}.tanh()", "{u}.tanh()", "-{u}", "2 * {u}", "1 - {u}", "{u} - 0.5", "{u} / 3"]
        if abs(values[j].data) > 0.4:
            templates += ["{u} / {v}", "2 / {v}", "{v} ** -2"]
        if values[i].data > 0.4:
            templates += ["{u}.log()", "{u} ** 0.5"]
        if values[i].data < 2:
            templates += ["{u}.exp()"]
        template = str(rng.choice(templates))
        right = template.format(u=names[i], v=names[j])
        value = eval(right, dict(zip(names, values, strict=False)))
        if abs(value.data) < 8:
            used |= {names[k] for k, letter in ((i, "{u}"), (j, "{v}")) if letter in template}
            program.append(f"{names[len(values)]} = {right}")
            values.append(value)
    loose = [name for name in names[: len(values)] if name not in used]
    return [*program, f"{names[len(values)]} = sum([{', '.join(loose)}])"]


def away_from_zero(rng: np.random.Generator, size: int) -> list[float]:
    """Numbers of both signs between 0.5 and 2 in size, so that no slope hides behind a zero."""
    return [float(x) for x in rng.uniform(0.5, 2.0, size) * rng.choice([-1.0, 1.0], size)]


def unlike(
    got: dict[str, float], expected: dict[str, float], what: str, tolerance: float = 1e-9
) -> str | None:
    """The first name whose number is another, in words; the tolerance is relative to the largest expected number."""
    ours, theirs = np.array(list(got.values())), np.array(list(expected.values()))
    if got.keys() == expected.keys() and compare(ours, theirs, tolerance=tolerance) is None:
        return None
    for name in expected:
        if name not in got or compare(got[name], expected[name], tolerance=tolerance) is not None:
            break
    one, other = got.get(name, math.nan), expected[name]
    digits = next((d for d in (6, 9, 12) if f"{one:.{d}g}" != f"{other:.{d}g}"), 17)
    return f"{what.format(name)} is {one:.{digits}g}, expected {other:.{digits}g}."


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
    yield Case("the slopes in a and c are equal", a=a, b=b, c=a - 2 * a * b)
    for _ in range(3):
        a, b, c = (float(x) for x in rng.normal(size=3) * 3)
        yield Case("three random numbers", a=a, b=b, c=c)


SLOPES = ("L", "grad_a", "grad_b", "grad_c")


@gradients_by_hand.observe
def _(obj, a, b, c):
    returned = obj(a, b, c)
    if returned is None:
        return "You returned None. Is a return missing?"
    if isinstance(returned, np.ndarray):
        returned = returned.tolist()
    if not isinstance(returned, list | tuple) or len(returned) != 4:
        return "You must return four numbers: L, grad_a, grad_b, grad_c."
    return dict(zip(SLOPES, returned, strict=True))


@gradients_by_hand.oracle
def _(a, b, c):
    leaves = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (a, b, c)]
    result = (leaves[0] * leaves[1] + leaves[2]) * leaves[0]
    numbers = (result.item(), *(grad.item() for grad in torch.autograd.grad(result, leaves)))
    return dict(zip(SLOPES, numbers, strict=True))


@gradients_by_hand.agree
def _(got, expected):
    if isinstance(got, str) or isinstance(expected, str):
        return None if got == expected else str(got)
    for name in SLOPES:
        if difference := compare(got[name], expected[name]):
            return f"For {name}, {difference}"
    return None


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


@gradients_by_hand.mistake
def inner_product_swapped(a, b, c):
    """At d = a * b you multiplied by the number itself: a for grad_a, b for grad_b. The slope of a product in one factor is the *other* factor."""
    e = a * b + c
    return e * a, a * a + e, a * b, a


@gradients_by_hand.mistake
def own_factor_in_grad_b(a, b, c):
    """For grad_b you multiplied grad_d by b itself. The slope of d = a * b in b is the *other* factor: if a is 10, moving b by 1 moves d by 10."""
    e = a * b + c
    return e * a, a * b + e, a * b, a


@gradients_by_hand.mistake
def own_factor_in_grad_a(a, b, c):
    """For the road through d you multiplied grad_d by a itself. The slope of d = a * b in a is the *other* factor: if b is 10, moving a by 1 moves d by 10."""
    e = a * b + c
    return e * a, a * a + e, a * a, a


@gradients_by_hand.mistake
def in_the_order_of_the_backward_pass(a, b, c):
    """Your slopes are right, but stand in the order in which you found them: c, b, a. Return L, then the slopes in a, b and c."""
    e = a * b + c
    return e * a, a, a * a, a * b + e


# ---------------------------------------------------------------------------------------------------------------------
Value = Exercise("autograd.graph.Value", kind="class")

ONE_STEP = [
    "x * y",
    "x * 3",
    "2 * x",
    "x ** 3",
    "x ** -2",
    "x.exp()",
    "x.tanh()",
    "x - y",
    "x - 2",
    "1 - x",
    "-x",
    "x / y",
    "x / 4",
    "2 / x",
    "x + y",
    "3 + x",
]

EDGES = [  # (expression, x): small and large inputs, and exponents of every kind
    ("x.log()", 0.1),
    ("x.log()", 5.0),
    ("x.tanh()", 5.0),
    ("x.tanh()", -5.0),
    ("x ** 0", 1.7),
    ("x ** 2.5", 1.7),
    ("x ** -0.5", 0.3),
    ("x ** 2", -1.3),
    ("x ** -2", -1.3),
    ("x ** 5", -0.7),
]

SHARED = {  # a value used twice, or a step behind another
    "x * x: the same value twice": ["a = x * x"],
    "x ** 2 + 3 * x: x in two places": ["a = x ** 2", "b = 3 * x", "c = a + b"],
    "x * y + x: x in two places": ["a = x * y", "b = a + x"],
    "2 * (x * y)": ["a = x * y", "b = 2 * a"],
    "2 * x ** 3": ["a = x ** 3", "b = 2 * a"],
    "2 * x.tanh()": ["a = x.tanh()", "b = 2 * a"],
    "x.tanh() * x + y": ["a = x.tanh()", "b = a * x", "c = b + y"],
    "x ** 2 * x": ["a = x ** 2", "b = a * x"],
    "x * y * x": ["a = x * y", "b = a * x"],
    "y * x * x": ["a = y * x", "b = a * x"],
}


@Value.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    for expression in ONE_STEP:
        yield Case(expression, program=[f"a = {expression}"], leaves=away_from_zero(rng, 2))
    for expression in ("x.log()", "x ** 0.5"):
        yield Case(expression, program=[f"a = {expression}"], leaves=[float(rng.uniform(0.5, 3))])
    for expression in ("{c} - x", "{c} / x", "x / {c}", "x * {c}", "x - {c}", "{c} + x"):
        shown = expression.format(c=round(float(rng.uniform(0.2, 0.9) + rng.integers(4)), 2))
        yield Case(shown, program=[f"a = {shown}"], leaves=away_from_zero(rng, 1))
    for expression, x in EDGES:
        yield Case(f"{expression} at x = {x}", program=[f"a = {expression}"], leaves=[x])
    exponent, x = round(float(rng.uniform(-4, 4)), 2) + 0.003, float(rng.uniform(0.3, 3))
    yield Case("x ** n", program=[f"a = x ** {exponent:.3f}"], leaves=[x])
    yield Case("x.log() * 2", program=["a = x.log()", "b = 2 * a"], leaves=[float(rng.uniform(0.05, 9))])
    yield Case("x ** 1", program=["a = x ** 1"], leaves=away_from_zero(rng, 1))
    yield Case("x ** 2 at x = 0", program=["a = x ** 2"], leaves=[0.0])
    yield Case("x.log() * x", program=["a = x.log()", "b = a * x"], leaves=[float(rng.uniform(0.5, 3))])
    yield Case("x.log() at x = 1, times 3", program=["a = x.log()", "b = 3 * a"], leaves=[1.0])
    for label, program in SHARED.items():
        yield Case(label, program=program, leaves=away_from_zero(rng, 2))
    for _ in range(4):
        leaves = away_from_zero(rng, 3)
        yield Case("a random program", program=random_program(rng, leaves, lines=10), leaves=leaves)


# Right answers stay below 1e-13 of the largest number; a slope by nudging is off by 1e-11.
ROUNDING = 1e-12


class Told(Exception):
    """Carries a sentence out of a program that cannot go on."""


def is_a_node(obj: type, expression: str, value, variables: dict) -> None:
    """Raises Told if an operation's result is no node that the backward pass could use, or cannot reach an operand.

    An operation may make nodes in between, as x / y = x * y**-1 does: an operand need not be a parent, but an ancestor.
    """
    said = None
    if value is None:
        said = f"`{expression}` returned None. Is a return missing?"
    elif isinstance(value, int | float):
        said = f"`{expression}` returned a plain number, expected a Value: compute with Values, not with their .data."
    elif not isinstance(value, obj):
        said = f"`{expression}` returned a {type(value).__name__}, expected a Value."
    elif isinstance(value.parents, obj):
        said = (
            f"The parents of `{expression}` must be a tuple. A tuple of one is written with a comma: (self,)."
        )
    elif not isinstance(value.parents, list | tuple) or not all(isinstance(p, obj) for p in value.parents):
        said = f"The parents of `{expression}` must be a tuple of the Values that it was made from."
    elif not value.parents:
        said = (
            f"The result of `{expression}` has no parents. Give Value(...) the Values that it was made from."
        )
    elif not callable(value._backward):
        said = (
            f"`{expression}` stored no function as its backward: pass `backward` itself, without calling it."
        )
    if said:
        raise Told(said)
    operands = {name: variables[name] for name in re.findall(r"\b[a-z]\b", expression)}
    reached = {id(node) for node in parents_first(value, stop={id(v) for v in variables.values()})}
    for name, operand in operands.items():
        if id(operand) not in reached:
            raise Told(
                f"The parents of `{expression}` do not lead to {name}: it was made from {name}, so {name} itself "
                "(not a copy, not another value) must be among them, or among theirs."
            )


def walk_back(values: list) -> None:
    """Hand gradients on from the last value, line by line: an order that is the same for every engine."""
    values[-1].grad = 1.0
    named = {id(value) for value in values}
    for value in reversed(values):
        for node in reversed(parents_first(value, stop=named - {id(value)})):
            if node is value or id(node) not in named:
                node._backward(node.grad)


@Value.observe
def _(obj, program, leaves):
    """Run the program; then walk back, calling every node's `_backward` ourselves."""
    try:
        variables = run(program, [obj(x) for x in leaves], lambda *result: is_a_node(obj, *result))
    except Told as sentence:
        return str(sentence)
    walk_back(list(variables.values()))
    return {
        "data": {name: float(v.data) for name, v in variables.items()},
        "grad": {name: float(v.grad) for name, v in variables.items()},
    }


@Value.oracle
def _(program, leaves):
    data = run(program, [torch.tensor(leaf, dtype=torch.float64) for leaf in leaves])
    grads = slopes_by_torch(program, leaves, list(data)[-1])
    return {
        "data": {name: v.item() for name, v in data.items()},
        "grad": {name: grads[name] or 0.0 for name in data},
    }


@Value.agree
def _(got, expected):
    if isinstance(got, str) or isinstance(expected, str):
        return None if got == expected else str(got)
    return unlike(got["data"], expected["data"], "`{}.data`", ROUNDING) or unlike(
        got["grad"], expected["grad"], "`{}.grad`", ROUNDING
    )


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
def backward_uses_what_it_is_given(obj, program, leaves):
    """`v._backward(10.0)` must hand on 10 times v's slopes whatever v.grad holds, and again at a second call: use the argument `grad`, keep nothing from one call to the next."""
    if len(program) > 1:
        return True
    variables = run(program, [obj(leaf) for leaf in leaves])
    values = list(variables.values())
    for _ in (1, 2):
        values[-1]._backward(10.0)
    named = {id(value) for value in values}
    for node in reversed(parents_first(values[-1], stop=named - {id(values[-1])})):
        if id(node) not in named:  # made on the way, as y ** -1 for x / y
            node._backward(node.grad)
    slopes = slopes_by_torch(program, leaves, "a")
    given = {name: float(variables[name].grad) for name in slopes if name in LEAVES}
    return unlike(given, {name: 20 * (slopes[name] or 0.0) for name in given}, "{}", ROUNDING) is None


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


WRITTEN_BY_THE_LEARNER = {"*": "x * y", "**": "x ** n", "log": "x.log()", "tanh": "x.tanh()"}


class _Assigns(Scalar):
    """Overwrites the gradients of the parents, in the operations `where`."""

    where: tuple = ()

    def _backward(self, grad):
        if self.op in self.where:
            for parent, slope in zip(self.parents, self._slopes, strict=True):
                parent.grad = slope * grad
        else:
            super()._backward(grad)


class _LosesGrad(Scalar):
    """Hands on its own slope only, in the operations `where`."""

    where: tuple = ()

    def _backward(self, grad):
        super()._backward(1.0 if self.op in self.where else grad)


@Value.mistake
class assigns_instead_of_adding(_Assigns):
    """You set a parent's gradient with = instead of adding to it with +=. A value that is used twice, as in x * x, then keeps only the last contribution; the others are overwritten."""

    where = tuple(WRITTEN_BY_THE_LEARNER)


@Value.mistake
class forgets_the_incoming_gradient(_LosesGrad):
    """Your operations add only their own slope. By the chain rule it must be multiplied by `grad`, which says how strongly this result moves the end of the graph. A single step looks right, because there grad is 1."""

    where = tuple(WRITTEN_BY_THE_LEARNER)


for _op, _shown in WRITTEN_BY_THE_LEARNER.items():  # the same two, in one operation alone
    _name = {"*": "mul", "**": "pow"}.get(_op, _op)
    _told = f"In {_shown} you set a parent's gradient with = instead of adding to it with +=. A value that is used in two places then keeps only the last contribution; the others are overwritten."
    Value.mistake(type(f"assigns_in_{_name}", (_Assigns,), {"where": (_op,), "__doc__": _told}))
    _told = f"In {_shown} you add only the operation's own slope. By the chain rule it must be multiplied by `grad`, which says how strongly this result moves the end of the graph. Alone it looks right, because there grad is 1."
    Value.mistake(type(f"forgets_grad_in_{_name}", (_LosesGrad,), {"where": (_op,), "__doc__": _told}))


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

    __slots__ = (
        "__weakref__",
        "_budget",
        "_parents",
    )  # a mark such as node.done = True would stay for the next call

    def __init__(self, parents: tuple, budget: list[int]):
        self._parents, self._budget = parents, budget

    @property
    def parents(self) -> tuple:
        self._budget[0] -= 1
        if self._budget[0] < 0:
            raise TooMuchWork
        return self._parents


def _budget(parents: list[list[int]]) -> int:
    return 100 + 10 * (len(parents) + sum(map(len, parents)))


def dots(parents: list[list[int]]) -> list[Dot]:
    """parents[k] lists the parents of node k, all of them smaller than k."""
    nodes: list[Dot] = []
    budget = [_budget(parents)]
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
    diamonds = [mine for k in range(0, 120, 3) for mine in ([k], [k], [k + 1, k + 2])]
    yield Case("forty diamonds in a row: 121 nodes, 2 ** 40 roads", parents=[[], *diamonds])
    yield Case("a chain of 5,000 nodes", parents=[[]] + [[k] for k in range(4_999)])
    size = int(rng.integers(22_000, 26_000))
    yield Case(f"a chain of {size:,} nodes", parents=[[]] + [[k] for k in range(size - 1)])


def _defects(order: list[int], parents: list[list[int]]) -> dict[str, str]:
    """What is wrong with an order of the nodes 0, 1, …: a sentence for each kind of defect."""
    found = {}
    if -1 in order:
        found["foreign"] = "The order holds something that is no node of the graph."
    if missing := sorted(set(range(len(parents))) - set(order)):
        found["missing"] = f"The order misses node {missing[0]}."
    place: dict[int, int] = {}
    for i, k in enumerate(order):
        if k in place:
            found.setdefault("twice", f"Node {k} comes twice.")
        place.setdefault(k, i)
    for k in place:
        for p in parents[k] if k >= 0 else ():
            if place.get(p, -1) > place[k]:
                found.setdefault("early", f"Node {k} stands before its parent {p}.")
    return found


@topological_order.observe
def _(obj, parents):
    """Any order that is right is right: look at its defects. Gives their kinds, and a sentence about the first."""
    nodes = dots(parents)
    index = {id(node): k for k, node in enumerate(nodes)}
    try:
        given = obj(nodes[-1])
    except TooMuchWork:
        return ["endless"], "It asks the same nodes for their parents again and again. Does your pile shrink?"
    if given is None:
        return ["None"], "You returned None. Is a return missing?"
    if not isinstance(given, list | tuple):
        return ["no list"], f"You returned a {type(given).__name__}, expected a list of nodes."
    order = [index.get(id(node), -1) for node in given]
    defects = _defects(order, parents)
    if not defects and len(parents) < 1_000:
        nodes[-1]._budget[0] += _budget(parents)
        again = obj(nodes[-1])
        if [index.get(id(node), -1) for node in again] != order:
            return ["second call"], (
                "Called a second time on the same graph, it gives another list. Does something stay from the "
                "first call: a default argument such as placed=set(), or a global?"
            )
    shown = (
        f" Your order: {', '.join(map(str, order)) or 'empty'}."
        if -1 not in order and len(order) < 20
        else ""
    )
    return list(defects), next(iter(defects.values()), "") + shown


@topological_order.oracle
def _(parents):
    return [], ""


@topological_order.agree
def _(got, expected):
    return None if got[0] == expected[0] else got[1]


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
    """Your order is right, but you walk down every road to a node: each time you reach it again, you go on to its parents again. Forty doublings, x = x + x, are 41 nodes and 2 to the power of 40 roads. Go down from each node only once."""
    return _every_road(root, lambda node: node.parents)


def _every_road(root, parents_of: Callable) -> list:
    order, placed, pile = [], set(), [(root, False)]
    while pile:
        node, ready = pile.pop()
        if not ready:
            pile.append((node, True))
            pile.extend((parent, False) for parent in parents_of(node))
        elif node not in placed:
            placed.add(node)
            order.append(node)
    return order


@topological_order.mistake
def walks_every_road_of_a_diamond(root):
    """Your order is right, and you see that both parents of x + x are one node; but where two *different* nodes share a parent, you go down from it once for each. Forty diamonds in a row are 2 to the power of 40 roads. Go down from each node only once."""
    return _every_road(root, lambda node: dict.fromkeys(node.parents))


@topological_order.mistake
def never_remembers(root):
    """You never note what is placed, so its children wait for it for ever and put it on the pile again and again. When you place a node, do two things: append it to the order and add it to `placed`."""
    while root.parents:
        pass
    return [root]


def _met(root, take: int, turn: int) -> list:
    met, pile = {}, [root]
    while pile:
        node = pile.pop(take)
        if node not in met:
            met[node] = True
            pile.extend(node.parents[::turn])
    return list(met)[::-1]


@topological_order.mistake
def placed_as_soon_as_met(root):
    """You list nodes as you meet them on the way down and turn the list round. Where a short road and a long road lead to the same node, one of its children then comes before it. Place a node only once all its parents are placed."""
    return _met(root, take=-1, turn=1)


@topological_order.mistake
def placed_as_soon_as_met_first_parent_first(root):
    """You list a node before you have visited its parents, and turn the list round. Where a short road and a long road lead to the same node, one of its children then comes before it. Place a node only once all its parents are placed."""
    return _met(root, take=-1, turn=-1)


@topological_order.mistake
def calls_itself_and_lists_first(root):
    """You list a node before you have visited its parents, and turn the list round: where a short and a long road meet, a child then comes before its parent. Place a node after its parents; and instead of calling yourself, keep a pile."""
    order = {}

    def visit(node):
        if node not in order:
            order[node] = True
            for parent in node.parents:
                visit(parent)

    visit(root)
    return list(order)[::-1]


@topological_order.mistake
def layer_by_layer(root):
    """You go layer by layer, away from the root, and turn the list round. A node that a short road and a long road reach is then listed with the short one, so a child on the long road comes before it. Place a node only once all its parents are placed."""
    return _met(root, take=0, turn=1)


@topological_order.mistake
def leaves_left_out(root):
    """You left the leaves out. They have no parents to wait for, so they can be placed at once; and they are the very nodes whose gradients we want."""
    order = parents_first(root)
    return [node for node in order if node.parents] if root.parents else order


# ---------------------------------------------------------------------------------------------------------------------
backpropagate = Exercise("autograd.graph.backpropagate")

LATE_BRANCH = ["a = x * y", "b = a.tanh()", "c = a * b", "d = c + a"]


class Node(Scalar):
    """A Scalar whose own `backward` would be the function that is checked."""

    handed_on = 0

    def _backward(self, grad):
        self.handed_on += 1
        if self.handed_on > 1_000:
            raise Told(
                "One node was told to hand on its gradient more than a thousand times in a graph of some hundred nodes: "
                "you walk down every road. Visit each node once, in the reversed topological order."
            )
        super()._backward(grad)

    def backward(self):
        raise Told(
            "You called node.backward(), which is this very function again: it would never end. "
            "A node's own step is node._backward(node.grad)."
        )


@backpropagate.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, program, roots, leaves=2, old=True):
        return Case(label, program=program, leaves=away_from_zero(rng, leaves), backward_from=roots, old=old)

    yield case("one product", ["a = x * y"], ["a"], old=False)
    flat = {"program": ["a = x ** 2"], "leaves": [0.0], "backward_from": ["a"], "old": False}
    yield Case("a flat place: x ** 2 at x = 0", **flat)
    yield case("a chain of steps", ["a = x * y", "b = a + x", "c = b.tanh()"], ["c"], old=False)
    yield case("one product; the leaves hold gradients from before", ["a = x * y"], ["a"])
    yield case("x * x", ["a = x * x", "b = a * y"], ["b"])
    yield case("a node with three children", LATE_BRANCH, ["d"])
    doublings = ["a = x * y", "for _ in range(40): a = (a + a) * 0.5"]
    yield case("forty times a = (a + a) * 0.5: 2 ** 40 roads", doublings, ["a"])
    yield case("the same, the branches in another order", [*LATE_BRANCH[:3], "d = a + c"], ["d"])
    yield case("backward from a leaf, twice", ["a = x * y"], ["x", "x"])
    yield case("from a result, then from its leaf", ["a = x * y"], ["a", "x"])
    yield case("one product, backward twice", ["a = x * y"], ["a", "a"])
    yield case("a node with three children, backward twice", LATE_BRANCH, ["d", "d"])
    yield case("two results that share nodes, one after the other", LATE_BRANCH, ["d", "b"])
    yield case("the same two, the other way round", LATE_BRANCH, ["c", "d"])
    for _ in range(3):
        leaves = away_from_zero(rng, 3)
        program = random_program(rng, leaves, lines=10)
        end = program[-1].split(" = ")[0]
        yield Case("a random program", program=program, leaves=leaves, backward_from=[end, end], old=True)
    deep = ["a = x * 2", "for _ in range(2_500): a = a * 0.9999 + 0.0001"]
    yield case("a chain of 5,000 nodes", deep, ["a"], leaves=1)


OLD = {
    name: 0.25 * k for k, name in enumerate(LEAVES, 1)
}  # what leaves hold before: somebody else's gradients


def _nodes(program: list[str], leaves: list[float], old: bool) -> dict[str, Node]:
    variables = run(program, [Node(leaf) for leaf in leaves])
    for name in LEAVES[: len(leaves)]:
        variables[name].grad = OLD[name] * old
    return variables


def _looked_at(program: list[str], grads: dict[str, float]) -> dict[str, float]:
    """Every gradient; of a single step only what it gives its leaves."""
    return {name: grad for name, grad in grads.items() if len(program) > 1 or name in LEAVES}


@backpropagate.observe
def _(obj, program, leaves, backward_from, old):
    variables = _nodes(program, leaves, old)
    try:
        for root in backward_from:
            obj(variables[root])
    except Told as sentence:
        return str(sentence)
    return _looked_at(program, {name: float(v.grad) for name, v in variables.items()})


@backpropagate.oracle
def _(program, leaves, backward_from, old):
    """Leaves add up over the calls; a node in between holds what the last call that reached it gave it."""
    total: dict[str, float] = {name: OLD[name] * old for name in LEAVES[: len(leaves)]}
    for root in backward_from:
        for name, slope in slopes_by_torch(program, leaves, root).items():
            if slope is not None:
                total[name] = slope + (total.get(name, 0.0) if name in LEAVES else 0.0)
            else:
                total.setdefault(name, 0.0)
    return _looked_at(program, total)


@backpropagate.agree
def _(got, expected):
    if isinstance(got, str) or isinstance(expected, str):
        return None if got == expected else str(got)
    return unlike(got, expected, "`{}.grad`")


@backpropagate.property
def data_stays(obj, program, leaves, backward_from, old):
    """The backward pass changed some data. It may write gradients only."""
    variables = _nodes(program, leaves, old)
    nodes = [
        node for v in variables.values() for node in parents_first(v)
    ]  # constants such as the 2 in 2 * x too
    before = [node.data for node in nodes]
    obj(variables[backward_from[0]])
    return [node.data for node in nodes] == before


def _clear(order: list) -> None:
    for node in order:
        if node.parents:
            node.grad = 0.0


def _begin(root, add: bool) -> None:
    """Give the root its 1: added to what is there, or in its place, which is wrong for a root that is a leaf."""
    root.grad = root.grad + 1.0 if add else 1.0


@backpropagate.mistake
def sets_the_gradient_of_a_leaf(root):
    """You set the root's gradient to 1. A root that is a leaf itself, as in x.backward(), keeps a running total like every leaf, and you erase it. Clear the nodes that have parents first; then *add* 1 to the root's gradient."""
    order = parents_first(root)
    _clear(order)
    _begin(root, add=False)
    for node in reversed(order):
        node._backward(node.grad)


@backpropagate.mistake
def nothing_to_start_with(root):
    """Nothing reaches the leaves: the root's own gradient was never set, or it was cleared again before the root handed it on. First clear every node that has parents, in a loop of its own; then add 1 to root.grad; then hand on."""
    _clear(parents_first(root))


@backpropagate.mistake
def clears_the_leaves_too(root):
    """You cleared the gradients of the leaves as well. Leaves keep a running total over calls, as in PyTorch: that is how the gradients of several losses add up. Clear only nodes that have parents."""
    order = parents_first(root)
    for node in order:
        node.grad = 0.0
    root.grad = 1.0
    for node in reversed(order):
        node._backward(node.grad)


def _leaves_to_root(root, add: bool) -> None:
    """Only the root's own parents got a gradient. Did you walk from the leaves to the root? There nothing has arrived yet, so zeros are handed on, until the root comes last. Go the other way."""
    order = parents_first(root)
    _clear(order)
    _begin(root, add)
    for node in order:
        node._backward(node.grad)


def _starts_too_early(root, add: bool) -> None:
    """Nothing reaches the leaves: the root's gradient was cleared again before the root handed it on. First clear every node that has parents, in a loop of its own; then add 1 to root.grad; then hand on."""
    _begin(root, add)
    _clear(parents_first(root))


def _clears_in_the_loop(root, add: bool) -> None:
    """You clear each node in the loop that hands on, just before its turn. By then its children have given it their shares, and you throw them away. Clear all nodes first, in a loop of its own."""
    _begin(root, add)
    for node in reversed(parents_first(root)):
        if node.parents and node is not root:
            node.grad = 0.0
        node._backward(node.grad)


def _clears_after_handing_on(root, add: bool) -> None:
    """The leaves are right, but you clear each node in between as soon as it has handed on, so that nobody can read its gradient afterwards. Clear before you start, in a loop of its own."""
    _begin(root, add)
    for node in reversed(parents_first(root)):
        node._backward(node.grad)
        if node.parents:
            node.grad = 0.0


def _old_gradients_in_between(root, add: bool) -> None:
    """The first call is right, the second is not. The nodes in between still hold the first call's gradients, add the new ones to them and hand both on. Clear every node that has parents before you start."""
    _begin(root, add)
    for node in reversed(parents_first(root)):
        node._backward(node.grad)


def _without_an_order(root, add: bool) -> None:
    """You walk from node to parents without an order. A node with two children is then handled before both have sent it their share, and again afterwards: some shares arrive twice. Use topological_order."""
    _clear(parents_first(root))
    _begin(root, add)
    pile = [root]
    while pile:
        node = pile.pop()
        node._backward(node.grad)
        pile.extend(node.parents)


def _both_ways(body: Callable, name: str, add: bool) -> None:
    def mistake(root):
        body(root, add)

    mistake.__name__, mistake.__doc__ = name, body.__doc__
    backpropagate.mistake(mistake)


for _body in (
    _leaves_to_root,
    _starts_too_early,
    _clears_in_the_loop,
    _clears_after_handing_on,
    _old_gradients_in_between,
    _without_an_order,
):  # people write root.grad = 1 or root.grad += 1; they differ where the root is a leaf
    _both_ways(_body, _body.__name__.lstrip("_"), add=True)
    _both_ways(_body, _body.__name__.lstrip("_") + "_and_sets", add=False)


# ---------------------------------------------------------------------------------------------------------------------
descend = Exercise("autograd.graph.descend")


def _valley(parameters):
    """A curved valley whose slopes depend on all parameters. Works on Scalars and on tensors alike."""
    loss = (parameters[0] - 1) ** 2
    for k in range(1, len(parameters)):
        x, y = parameters[k - 1], parameters[k]
        loss = loss + 2 * (y - x * x) ** 2
    return loss


@descend.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def start(size=2):
        return [float(x) for x in rng.uniform(-1.0, 0.5, size)]

    yield Case("no step at all", start=start(), old_grad=0.0, learning_rate=0.05, steps=0)
    yield Case("one step", start=start(), old_grad=0.0, learning_rate=0.05, steps=1)
    yield Case("two steps", start=start(), old_grad=0.0, learning_rate=0.03, steps=2)
    yield Case("seven steps", start=start(), old_grad=0.0, learning_rate=0.02, steps=7)
    yield Case(
        "gradients left over from before, one step", start=start(), old_grad=3.0, learning_rate=0.05, steps=1
    )
    yield Case("gradients left over from before", start=start(), old_grad=-2.0, learning_rate=0.03, steps=5)
    yield Case("one parameter", start=start(1), old_grad=0.5, learning_rate=0.1, steps=3)
    yield Case("one parameter, far away", start=[60.0], old_grad=0.0, learning_rate=0.1, steps=2)
    yield Case("three parameters, twelve steps", start=start(3), old_grad=0.5, learning_rate=0.02, steps=12)
    yield Case("a learning rate of 0", start=start(), old_grad=0.0, learning_rate=0.0, steps=3)


@descend.observe
def _(obj, start, old_grad, learning_rate, steps):
    parameters = [Scalar(x) for x in start]
    for parameter in parameters:
        parameter.grad = old_grad
    losses = obj(list(parameters), _valley, learning_rate, steps)
    if losses is None:
        return "You returned None. Is a return missing?"
    if isinstance(losses, np.ndarray):
        losses = losses.tolist()
    if not isinstance(losses, list | tuple) or not all(isinstance(loss, Real) for loss in losses):
        return "You must return a list of plain numbers."
    return {"losses": [float(loss) for loss in losses], "parameters": [float(p.data) for p in parameters]}


@descend.oracle
def _(start, old_grad, learning_rate, steps):
    losses, parameters = [], torch.tensor(start, dtype=torch.float64)
    for _ in range(steps):
        here = parameters.clone().requires_grad_()
        loss = _valley(here)
        losses.append(loss.item())
        parameters = parameters - learning_rate * torch.autograd.grad(loss, here)[0]
    return {"losses": losses, "parameters": parameters.tolist()}


@descend.agree
def _(got, expected):
    if isinstance(got, str) or isinstance(expected, str):
        return None if got == expected else str(got)
    ours, theirs = ({k: dict(enumerate(v)) for k, v in seen.items()} for seen in (got, expected))
    if len(ours["losses"]) != len(theirs["losses"]):
        return f"The list of losses has length {len(ours['losses'])}, expected {len(theirs['losses'])}: one for each step."
    return unlike(ours["losses"], theirs["losses"], "The loss of step {}") or unlike(
        ours["parameters"], theirs["parameters"], "After the last step, parameters[{}].data"
    )


@descend.property
def slopes_come_from_backward(obj, start, old_grad, learning_rate, steps):
    """You run loss_of more than twice a step. Nudging each parameter costs one run for each of them; one `backward()` gives all slopes after a single run."""
    if len(start) < 3:
        return True
    runs = 0

    def counted(parameters):
        nonlocal runs
        runs += 1
        return _valley(parameters)

    obj([Scalar(x) for x in start], counted, learning_rate, steps)
    return runs <= 2 * steps + 2


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


def _renews(parameters, loss_of, learning_rate, steps, clear: bool) -> list[float]:
    losses = []
    for _ in range(steps):
        if clear:
            parameters = [type(p)(p.data) for p in parameters]
        loss = loss_of(parameters)
        loss.backward()
        losses.append(loss.data)
        parameters = [type(p)(p.data - learning_rate * p.grad) for p in parameters]
    return losses


@descend.mistake
def new_leaves_every_step(parameters, loss_of, learning_rate, steps):
    """Your losses are right, but you make new leaves in every step, so the parameters that the caller handed you never move, and the caller holds the untrained ones. Change parameter.data of the given leaves."""
    return _renews(parameters, loss_of, learning_rate, steps, clear=True)


@descend.mistake
def new_leaves_and_an_old_gradient(parameters, loss_of, learning_rate, steps):
    """You make new leaves after every step, so the parameters that the caller handed you never move; and your first step uses a gradient that was there before. Clear the given leaves, and change their parameter.data."""
    return _renews(parameters, loss_of, learning_rate, steps, clear=False)


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
