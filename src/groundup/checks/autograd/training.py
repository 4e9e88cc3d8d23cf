"""Checks for the lesson autograd.training.

MLP is judged against torch; its named mistakes are built on autograd.tensors' `Node`, whose steps are torch's. `train`
runs on a model, a loss and an optimizer of ours, which write down how they are used. Random answers are judged by what
must hold of every draw, and by chi-square tests. An observation that is a text is a sentence for the learner.
"""

import copy
import itertools
import math
import re
from collections.abc import Iterator

import numpy as np
import torch

from groundup.check import Case, Exercise, agree_in_distribution, compare
from groundup.checks.autograd.graph import parents_first
from groundup.checks.autograd.tensors import Node, away_from_zero


def by_name(got, expected) -> str | None:
    """Compares two observations: dicts entry by entry, in the order of the expected one."""
    if got is None:
        return None if expected is None else "You returned None. Is a return missing?"
    if isinstance(got, str) or not isinstance(expected, dict):
        return None if type(got) is type(expected) and got == expected else str(got)
    for name in expected:
        if difference := compare(got.get(name), expected[name]):
            return _of(name, difference)
    return None


def _of(name, difference) -> str:
    """A difference of one entry, in words that fit its name."""
    has = re.search(r"you returned \d+ item", difference)
    return f"{name}: {difference.replace('you returned', 'yours has' if has else 'yours is')}"


def _words_drawn(generator, start, most) -> int:
    """How many random words of 64 bits a generator has used since it was as `start`; `most` if more, or unknown."""
    end, start = generator.bit_generator.state["state"], copy.deepcopy(start)
    for words in range(most):
        if start.bit_generator.state["state"] == end:
            return words
        start.bit_generator.random_raw()
    return most


# ---------------------------------------------------------------------------------------------------------------------
init_weights = Exercise("autograd.training.init_weights")


@init_weights.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, n_in, n_out):
        return Case(label, seed=int(rng.integers(1, 1000)), n_in=n_in, n_out=n_out)

    yield case("three numbers in, two out", 3, 2)
    yield case("two in, three out", 2, 3)
    yield case("as many in as out", 5, 5)
    yield case("one in", 1, 4)
    yield case("one out", 9, 1)
    yield case("a large layer", 200, 30)


@init_weights.observe
def _(obj, seed, n_in, n_out):
    rng = np.random.default_rng(seed)
    start = copy.deepcopy(rng)
    first = obj(rng, n_in, n_out)
    if first is None:
        return None
    second = obj(rng, n_in, n_out)
    if not _words_drawn(rng, start, 1) and compare(first, second):
        return "Random numbers came, but `rng` drew none of them."
    return {"The weights": first, "The weights of a second call": second}


@init_weights.oracle
def _(seed, n_in, n_out):
    rng = np.random.default_rng(seed)
    layers = [torch.tensor(rng.standard_normal(n_in * n_out)).reshape(n_in, n_out) for _ in range(2)]
    gain = torch.nn.init.calculate_gain("relu")
    first, second = ((layer * gain / math.sqrt(n_in)).numpy() for layer in layers)
    return {"The weights": first, "The weights of a second call": second}


init_weights.agree(by_name)


def _he(rng, n_in, n_out, size=None):
    return rng.normal(size=size or (n_in, n_out)) * math.sqrt(2 / n_in)


@init_weights.mistake
def scaled_by_the_outputs(rng, n_in, n_out):
    """You divided by the number of outputs. Each unit sums over its inputs, so it is n_in that makes the sum grow."""
    return rng.normal(size=(n_in, n_out)) * math.sqrt(2 / n_out)


@init_weights.mistake
def forgot_the_root(rng, n_in, n_out):
    """You multiplied by 2 / n_in. That is the variance; the standard deviation, by which drawn numbers are scaled, is its square root."""
    return rng.normal(size=(n_in, n_out)) * (2 / n_in)


@init_weights.mistake(shape=True)  # a factor off everywhere, so it is right on no case
def forgot_that_relu_halves(rng, n_in, n_out):
    """You scaled by the root of 1 / n_in. That keeps the sum as large as its inputs, but then relu throws away half of its square: after twenty layers little is left."""
    return rng.normal(size=(n_in, n_out)) / math.sqrt(n_in)


@init_weights.mistake
def averaged_inputs_and_outputs(rng, n_in, n_out):
    """You scaled by the root of 2 / (n_in + n_out), as Glorot and Bengio do, or by the mean of both sizes. Here only the n_in inputs of the sum count."""
    return rng.normal(size=(n_in, n_out)) * math.sqrt(4 / (n_in + n_out))


@init_weights.mistake(shape=True)
def glorots_scale(rng, n_in, n_out):
    """You scaled by the root of 2 / (n_in + n_out). That is Glorot's and Bengio's choice, for layers without relu; here only the n_in inputs of the sum count."""
    return rng.normal(size=(n_in, n_out)) * math.sqrt(2 / (n_in + n_out))


@init_weights.mistake
def scaled_the_wrong_way(rng, n_in, n_out):
    """You divided by the standard deviation instead of multiplying with it: now layers with more inputs get larger weights."""
    return rng.normal(size=(n_in, n_out)) / math.sqrt(2 / n_in)


@init_weights.mistake
def drawn_transposed(rng, n_in, n_out):
    """You drew an array of shape (n_out, n_in) and turned it round. The numbers are as random, but they are not those that the same seed gives everybody else: draw size=(n_in, n_out)."""
    return _he(rng, n_in, n_out, size=(n_out, n_in)).T


@init_weights.mistake(shape=True)
def wrong_way_round(rng, n_in, n_out):
    """Your array has the shape (n_out, n_in). In x @ weights the rows of the weights meet the inputs: its shape is (n_in, n_out)."""
    return _he(rng, n_in, n_out, size=(n_out, n_in))


@init_weights.mistake(shape=True)
def drawn_uniformly(rng, n_in, n_out):
    """You drew with rng.random, evenly between 0 and 1: no weight is negative, so all units do nearly the same. Draw from the normal distribution, around 0."""
    return rng.random(size=(n_in, n_out)) * math.sqrt(2 / n_in)


@init_weights.mistake(shape=True)
def drawn_around_zero_but_evenly(rng, n_in, n_out):
    """You drew evenly between −1 and 1. The mean square of such numbers is 1/3, not 1, so the signal dies away. Draw from the normal distribution."""
    return rng.uniform(-1, 1, size=(n_in, n_out)) * math.sqrt(2 / n_in)


@init_weights.mistake(shape=True)
def moved_by_the_deviation(rng, n_in, n_out):
    """You added the standard deviation instead of multiplying with it. (The first argument of rng.normal is the mean, the second the standard deviation.) The mean must be 0."""
    return rng.normal(math.sqrt(2 / n_in), size=(n_in, n_out))


@init_weights.mistake(shape=True)
def drawn_from_elsewhere(rng, n_in, n_out):
    """You did not draw from `rng`: np.random.normal, for example, uses a generator of its own. Then the seed does not fix the network, and no run can be repeated. Call rng.normal."""
    return np.random.normal(0, math.sqrt(2 / n_in), size=(n_in, n_out))


@init_weights.mistake(shape=True)
def own_generator(rng, n_in, n_out):
    """You made a generator of your own. Then every call gives the same numbers, for each layer and each seed; use the rng that you are given, and let it go on."""
    return _he(np.random.default_rng(0), n_in, n_out)


# ---------------------------------------------------------------------------------------------------------------------
MLP = Exercise("autograd.training.MLP", kind="class")


@MLP.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, sizes, n, scale=1.0):
        x = scale * away_from_zero(rng, (n, sizes[0]))
        return Case(label, sizes=sizes, seed=int(rng.integers(1, 1000)), x=x)

    yield case("one hidden layer", [1, 2, 1], 1)
    yield case("ragged sizes", [3, 5, 2], 4)
    yield case("no hidden layer", [3, 2], 4)
    yield case("two hidden layers", [4, 6, 5, 3], 7)
    yield case("layers of one size", [3, 3, 3, 3, 3], 6)
    yield case("one example", [2, 4, 3], 1)
    yield case("large inputs", [3, 4, 2], 5, scale=1000.0)
    yield case("24 layers", [2] + [3] * 23 + [2], 2)  # too deep for work that doubles with each layer


def _moves(shapes) -> list[np.ndarray]:
    """By how much the check moves the parameters, so that no bias is 0: the same numbers for everybody."""
    return [
        np.asarray(0.4 * np.cos(1.7 + k + np.arange(math.prod(s)))).reshape(s) for k, s in enumerate(shapes)
    ]


def _seed(shape) -> np.ndarray:
    return 3 * np.cos(1.0 + np.arange(math.prod(shape))).reshape(shape)


def _named(sizes, what) -> list[str]:
    return [f"{what}the {kind} of layer {k}" for k in range(1, len(sizes)) for kind in ("weights", "bias")]


def _problem(kind, made) -> str | None:
    """What is wrong with something that should be a Tensor."""
    if made is None:
        return f"{kind} is None. Is a return missing?"
    if not all(hasattr(made, name) for name in ("data", "grad", "parents", "_backward")):
        return f"{kind} must be a Tensor, but it is a {type(made).__name__}."
    return None


@MLP.observe
def _(obj, sizes, seed, x):
    try:
        return _look_at(obj, sizes, seed, x)
    except TypeError as error:
        if "__array_ufunc__" not in str(error):
            raise
        raise TypeError(
            "a function of NumPy, such as np.maximum, cannot work on a Tensor: the chain of parents would end there. "
            "Use the Tensor's own method, .relu()"
        ) from error


def _look_at(obj, sizes, seed, x):
    rng = np.random.default_rng(seed)
    model = obj(sizes, rng)
    parameters = list(model.parameters())
    if len(parameters) != 2 * (len(sizes) - 1):
        return f"With sizes {sizes} there must be {2 * (len(sizes) - 1)} parameters, but parameters() gives {len(parameters)}."
    for name, parameter in zip(_named(sizes, ""), parameters, strict=True):
        if problem := _problem(name, parameter):
            return problem
    seen = {
        f"At the start, {name}": p.data.copy() for name, p in zip(_named(sizes, ""), parameters, strict=True)
    }
    following = obj(sizes, rng).parameters()
    seen["The first weights of a second network from the same rng"] = following[0].data.copy()
    before = model(x)
    if problem := _problem("The result of model(x)", before):
        return problem
    seen["The logits at the start"] = before.data.copy()
    other_way = model(-x)
    seen["The logits of −x at the start"] = None if other_way is None else other_way.data.copy()
    moves = _moves([p.data.shape for p in parameters])
    for k in range(len(moves) // 2, 0, -1):  # the last layer first, so that nothing old may be kept
        parameters[2 * k - 2].data += moves[2 * k - 2]
        parameters[2 * k - 1].data += moves[2 * k - 1]
        if k > 1:
            seen[f"The logits after layer {k} moved"] = model(x).data.copy()
    hidden, logits = model.hidden(x), model(x)
    if not isinstance(hidden, list | tuple):
        return f"hidden(x) must return a list of Tensors, but it returns a {type(hidden).__name__}."
    for k, h in enumerate(hidden, start=1):
        if problem := _problem(f"Entry {k} of hidden(x)", h):
            return problem
    seen["The number of hidden layers"] = len(hidden)
    for k, h in enumerate(hidden, start=1):
        seen[f"After the parameters moved, hidden layer {k}"] = h.data
    seen["After the parameters moved, the logits"] = logits.data
    for node in (order := parents_first(logits)):
        node.grad = np.zeros_like(node.data)
    logits.grad = _seed(logits.data.shape)
    for node in reversed(order):
        node._backward(node.grad)
    return seen | {
        name: p.grad.copy() for name, p in zip(_named(sizes, "The gradient of "), parameters, strict=True)
    }


@MLP.oracle
def _(sizes, seed, x):
    rng, start = np.random.default_rng(seed), []
    for n_in, n_out in itertools.pairwise(sizes):
        start += [rng.standard_normal((n_in, n_out)) * np.sqrt(2.0 / n_in), np.zeros(n_out)]
    following = rng.standard_normal((sizes[0], sizes[1])) * np.sqrt(2.0 / sizes[0])
    moved = [p + move for p, move in zip(start, _moves([p.shape for p in start]), strict=True)]

    def layers(parameters, x=x):
        leaves = [torch.tensor(p, requires_grad=True) for p in parameters]
        h, outputs = torch.tensor(x), []
        for weights, bias in zip(leaves[::2], leaves[1::2], strict=True):
            outputs.append(torch.nn.functional.linear(h, weights.T, bias))
            h = outputs[-1].clamp(min=0)
        return leaves, [out.clamp(min=0) for out in outputs[:-1]], outputs[-1]

    seen = {f"At the start, {name}": p for name, p in zip(_named(sizes, ""), start, strict=True)}
    seen["The logits at the start"] = layers(start)[2].detach().numpy()
    leaves, hidden, logits = layers(moved)
    seen["The number of hidden layers"] = len(hidden)
    for k, h in enumerate(hidden, start=1):
        seen[f"After the parameters moved, hidden layer {k}"] = h.detach().numpy()
    seen["After the parameters moved, the logits"] = logits.detach().numpy()
    seen["The logits of −x at the start"] = layers(start, -x)[2].detach().numpy()
    for k in range(len(sizes) - 1, 1, -1):
        halfway = layers(start[: 2 * k - 2] + moved[2 * k - 2 :])[2]
        seen[f"The logits after layer {k} moved"] = halfway.detach().numpy()
    seen["The first weights of a second network from the same rng"] = following
    grads = torch.autograd.grad(logits, leaves, torch.tensor(_seed(logits.shape)))
    return seen | {n: g.numpy() for n, g in zip(_named(sizes, "The gradient of "), grads, strict=True)}


@MLP.agree
def _(got, expected):
    difference = by_name(got, expected)
    if (
        difference
        and "logits" in difference.partition(":")[0]
        and isinstance(got, dict)
        and isinstance(expected, dict)
    ):
        same = [
            compare(seen.get("The logits at the start"), seen.get("The logits of −x at the start"))
            for seen in (got, expected)
        ]
        if not same[0] and same[1]:
            return "Another x gives the same logits as the one before. Do you keep what the hidden layers gave? Run through them afresh in every call: x changes, and so do the weights."
    if difference and difference.startswith("The gradient of ") and "are all 0" in difference:
        name = difference.partition(":")[0]
        return f"{name} is 0: no slope arrives there. Did you take the numbers out of a Tensor on the way, with .data? Compute with the Tensors."
    return difference


class _Network:
    """A right network on torch's steps, to be spoilt."""

    def __init__(self, sizes, rng):
        self.layers = [
            (Node(self.weights(rng, n_in, n_out)), Node(self.bias(rng, n_out)))
            for n_in, n_out in itertools.pairwise(sizes)
        ]

    def weights(self, rng, n_in, n_out):
        return _he(rng, n_in, n_out)

    def bias(self, rng, n_out):
        return np.zeros(n_out)

    def parameters(self):
        return [parameter for layer in self.layers for parameter in layer]

    def hidden(self, x):
        outputs, h = [], Node(x)
        for weights, bias in self.layers[:-1]:
            h = (h @ weights + bias).relu()
            outputs.append(h)
        return outputs

    def __call__(self, x):
        weights, bias = self.layers[-1]
        return [Node(x), *self.hidden(x)][-1] @ weights + bias


@MLP.mistake
class relu_after_the_last_layer(_Network):
    """You let relu follow the last layer too. Logits may be negative; with relu every score below 0 becomes 0, and its slope too, so such a class could never be learnt."""

    def __call__(self, x):
        return super().__call__(x).relu()


@MLP.mistake
class no_relu_at_all(_Network):
    """There is no relu between your layers. A chain of matrix products is one matrix product: without a bend a deep network can do no more than a single layer."""

    def hidden(self, x):
        outputs, h = [], Node(x)
        for weights, bias in self.layers[:-1]:
            h = h @ weights + bias
            outputs.append(h)
        return outputs


@MLP.mistake
class hidden_before_relu(_Network):
    """Your logits are right, but hidden(x) returns the layers before their relu. Return what the next layer receives, after relu."""

    def hidden(self, x):
        outputs, h = [], Node(x)
        for weights, bias in self.layers[:-1]:
            before = h @ weights + bias
            outputs.append(before)
            h = before.relu()
        return outputs

    def __call__(self, x):
        return _Network.__call__(_with_layers(self), x)


def _with_layers(model) -> _Network:
    right = _Network([1], np.random.default_rng(0))
    right.layers = model.layers
    return right


@MLP.mistake(shape=True)
class hidden_goes_over_all_layers(_Network):
    """Your hidden(x) goes over all layers, the last too, with its relu. Logits may be negative, so no relu follows the last layer, and it is no hidden layer: leave it out of the loop."""

    def hidden(self, x):
        outputs, h = [], Node(x)
        for weights, bias in self.layers:
            h = (h @ weights + bias).relu()
            outputs.append(h)
        return outputs

    def __call__(self, x):
        return self.hidden(x)[-1]


@MLP.mistake(shape=True)
class hidden_counts_the_input(_Network):
    """Your list of hidden layers has one entry too many: it begins with the input. The first hidden layer is what the first relu gives."""

    def hidden(self, x):
        return [Node(x), *super().hidden(x)]


@MLP.mistake
class every_layer_sees_the_input(_Network):
    """Each of your layers starts from x again. The result of a layer must be the input of the next."""

    def hidden(self, x):
        if any(weights.shape[0] != x.shape[1] for weights, _ in self.layers[:-1]):
            raise ValueError("matmul: Input operand 1 has a mismatch in its core dimension 0")
        return [(Node(x) @ weights + bias).relu() for weights, bias in self.layers[:-1]]


@MLP.mistake(shape=True)
class biases_left_out(_Network):
    """You never add the biases. At the start they are 0, so nothing shows; but they then receive no gradient, and every unit that they should move stays where it is."""

    def hidden(self, x):
        outputs, h = [], Node(x)
        for weights, _ in self.layers[:-1]:
            h = (h @ weights).relu()
            outputs.append(h)
        return outputs

    def __call__(self, x):
        return [Node(x), *self.hidden(x)][-1] @ self.layers[-1][0]


@MLP.mistake(shape=True)
class last_bias_left_out(_Network):
    """You add the bias in every layer but the last. There it is 0 at the start, so nothing shows, but it can never learn."""

    def __call__(self, x):
        return [Node(x), *self.hidden(x)][-1] @ self.layers[-1][0]


@MLP.mistake(shape=True)
class biases_drawn_at_random(_Network):
    """Your biases are random. Every bias starts at 0; the weights alone make the units different."""

    def bias(self, rng, n_out):
        return rng.normal(size=n_out)


@MLP.mistake(shape=True)
class biases_start_at_one(_Network):
    """Your biases start at 1. Every bias starts at 0; the weights alone make the units different."""

    def bias(self, rng, n_out):
        return np.ones(n_out)


@MLP.mistake(shape=True)
class weights_all_zero(_Network):
    """Your weights start at 0: then every hidden number is 0, hardly any slope comes back, and the network never learns. Draw them with init_weights."""

    def weights(self, rng, n_in, n_out):
        return np.zeros((n_in, n_out))


@MLP.mistake(shape=True)
class weights_not_scaled(_Network):
    """You drew the weights without their scale. Use init_weights, which fits it to the number of inputs."""

    def weights(self, rng, n_in, n_out):
        return rng.normal(size=(n_in, n_out))


@MLP.mistake
class layers_drawn_from_the_end(_Network):
    """You used rng for the last layer first. The same seed must give everybody the same network: draw the first layer first."""

    def __init__(self, sizes, rng):
        pairs = list(itertools.pairwise(sizes))
        drawn = [(Node(_he(rng, *pair)), Node(np.zeros(pair[1]))) for pair in reversed(pairs)]
        self.layers = drawn[::-1]


# ---------------------------------------------------------------------------------------------------------------------
dead_units = Exercise("autograd.training.dead_units")


@dead_units.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def after_relu(n, units, dead, on=0.5, dtype=np.float64):
        hidden = away_from_zero(rng, (n, units)) ** 2 * (rng.random((n, units)) < on)
        hidden[rng.integers(n, size=units), np.arange(units)] = rng.uniform(0.5, 2, units)  # on at least once
        hidden[:, rng.permutation(units)[:dead]] = 0
        return hidden.astype(dtype)

    yield Case("three units, two examples", hidden=np.array([[0.0, 2.0, 0.0], [0.0, 0.0, 3.0]]))
    yield Case("some dead units", hidden=after_relu(6, 8, 3))
    yield Case("all units alive", hidden=after_relu(6, 5, 0))
    yield Case("all units alive, never off", hidden=after_relu(4, 3, 0, on=1.1))
    yield Case("all units dead", hidden=np.zeros((4, 3)))
    yield Case("as many examples as units", hidden=after_relu(5, 5, 2))
    off = after_relu(7, 4, 1)
    off[[1, 4]] = 0
    yield Case("examples that switch nothing on", hidden=off)
    yield Case("units that are rarely on", hidden=after_relu(300, 12, 5, on=0.004))
    yield Case("one example", hidden=after_relu(1, 7, 3))
    yield Case("one unit", hidden=after_relu(5, 1, 0, on=0.2))
    faint = after_relu(6, 5, 2)
    faint[2, (faint > 0).any(axis=0).argmax()] = 1.0
    faint[:, (faint > 0).any(axis=0).argmax()] *= 1e-100
    yield Case("a unit that is on, but faintly", hidden=faint)
    level = after_relu(6, 4, 1)
    level[:, (level > 0).any(axis=0)] = rng.uniform(0.5, 2, 3)
    yield Case("units that give every example the same", hidden=level)
    yield Case("float32", hidden=after_relu(9, 6, 1, dtype=np.float32))


@dead_units.oracle
def _(hidden):
    return sum(not any(value > 0 for value in column) for column in hidden.T.tolist()) / hidden.shape[1]


@dead_units.mistake
def counted_zeros(hidden):
    """You took the share of zeros among all numbers. A unit may be off for most examples and still be alive: it is dead only if it is off for all of them."""
    return float((hidden == 0).mean())


@dead_units.mistake
def off_for_one_example(hidden):
    """You counted a unit as dead when it is off for a single example. That is what relu is for; it is dead when it is off for all of them."""
    return float((hidden == 0).any(axis=0).mean())


@dead_units.mistake
def looked_along_the_units(hidden):
    """You looked along the wrong axis: yours is the share of examples that switch no unit on. The examples lie along axis 0."""
    return float((hidden == 0).all(axis=1).mean())


@dead_units.mistake(shape=True)
def counted_without_dividing(hidden):
    """You returned the number of dead units. Asked for is their share of all units, between 0 and 1."""
    return int((hidden == 0).all(axis=0).sum())


@dead_units.mistake
def divided_by_the_examples(hidden):
    """You divided the number of dead units by the number of examples. Their share is that of all units."""
    return float((hidden == 0).all(axis=0).sum() / len(hidden))


@dead_units.mistake(shape=True)
def counted_the_living(hidden):
    """You returned the share of the units that are alive. Asked for are the others."""
    return float((hidden > 0).any(axis=0).mean())


@dead_units.mistake
def faint_is_dead(hidden):
    """You took a unit that is only faintly on for dead. However small its output, its slope is not 0, so it can still learn."""
    return float(np.isclose(hidden, 0).all(axis=0).mean())


# ---------------------------------------------------------------------------------------------------------------------
minibatches = Exercise("autograd.training.minibatches", seconds=10.0)

EPOCHS = 4500  # enough to see the bias of a shuffle that swaps each place with any place
FEWER = 200  # for many rows, of which only a few are followed


@minibatches.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, n, batch_size):
        return Case(label, seed=int(rng.integers(1, 1000)), n=n, batch_size=batch_size)

    yield case("five examples in batches of two", 5, 2)
    yield case("one at a time", 4, 1)
    yield case("batches that come out even", 4, 2)
    yield case("all in one batch", 6, 6)
    yield case("fewer examples than a batch holds", 3, 8)
    yield case("a single example", 1, 2)
    yield case("many examples", 100, 32)
    yield case("many examples, batches that come out even", 96, 32)
    yield case("one is left over", 61, 12)
    yield case("more rows than a byte can number", 300, 64)


def _orders(n, batch_size) -> list[tuple]:
    """Every way to cut 0 … n − 1 into batches; the order within a batch does not count."""
    ways = {_cut(order, batch_size) for order in itertools.permutations(range(n))}
    return sorted(ways)


def _cut(order, batch_size) -> tuple:
    return tuple(tuple(sorted(order[k : k + batch_size])) for k in range(0, len(order), batch_size))


def _is_counted(n, batch_size) -> bool:
    return 1 < n <= 5 and batch_size < n


def _where(batches, rows) -> list[int]:
    """In which batch each of some rows is."""
    home = {int(row): k for k, batch in enumerate(batches) for row in batch}
    return [home.get(row, -1) for row in rows]


@minibatches.observe
def _(obj, seed, n, batch_size):
    def epoch(rng):
        batches = obj(rng, n, batch_size)
        return None if batches is None else list(batches)

    def flat(batches):
        return [int(k) for rows in batches for k in rows]

    rng = np.random.default_rng(seed)
    batches = epoch(rng)
    if batches is None:
        return None
    for rows in batches:
        if isinstance(rows, list | tuple):
            return f"Each batch must be an array of row numbers, but one of yours is a {type(rows).__name__}."
        kind = np.asarray(rows)
        if kind.ndim == 0 and kind.dtype.kind in "iu":
            return "You give single row numbers, where each batch must be an array of them. Does a `return` stand where a `yield` should?"
        if kind.ndim != 1 or kind.dtype.kind not in "iu":
            return f"Each batch must be an array of row numbers with one axis; one of yours has shape {kind.shape} and dtype {kind.dtype}."
    seen = {"The sizes of the batches": (sizes := [len(rows) for rows in batches])}
    if sizes == _sizes(n, batch_size):  # an epoch may hold each row once by luck, but not all of them do
        others = np.random.default_rng(seed + 1)
        seen["twice"] = _twice([batches] + [epoch(others) for _ in range(30)])
    first = flat(batches)
    seen["All row numbers of the epoch, sorted"] = None if seen.get("twice") else sorted(first)
    seen["same"] = first == flat(epoch(np.random.default_rng(seed)))
    following = flat(epoch(rng))
    if n >= 50:
        seen["other"] = first != following and first != sorted(first)
        if sorted(first) == list(range(n)):
            followed = np.array([_where(epoch(rng), (0, 1, n // 2, n - 1)) for _ in range(FEWER)])
            seen["places"] = np.array(
                [[(column == k).sum() for k in range(len(batches))] for column in followed.T]
            )
            shared = [int((followed[:, 0] == followed[:, k]).sum()) for k in (1, 3)]
            seen["shared"] = np.array([[k, FEWER - k] for k in shared])
    if _is_counted(n, batch_size) and sorted(first) == list(range(n)) and not seen.get("twice"):
        numbers = {way: k for k, way in enumerate(_orders(n, batch_size))}
        counts = np.zeros(len(numbers), dtype=np.int64)
        for _ in range(EPOCHS):
            way = _cut(flat(epoch(rng)), batch_size)
            if way not in numbers:
                return "Some epochs hold every row once, but not all of them do."
            counts[numbers[way]] += 1
        seen["counts"] = counts
    return seen


def _sizes(n, batch_size) -> list[int]:
    return [min(batch_size, n - k) for k in range(0, n, batch_size)]


def _twice(epochs) -> str:
    """Where a row comes twice in some epoch: the worst of it, in words."""
    within = across = False
    for batches in epochs:
        rows = [[int(row) for row in batch] for batch in batches]
        within |= any(len(set(batch)) < len(batch) for batch in rows)
        everything = list(itertools.chain(*map(set, rows)))
        across |= len(set(everything)) < len(everything)
    if within:
        return "A batch holds the same row twice."
    return "Two batches of one epoch hold the same row, and so other rows come in none." if across else ""


@minibatches.oracle
def _(seed, n, batch_size):
    seen = {
        "The sizes of the batches": _sizes(n, batch_size),
        "twice": "",
        "All row numbers of the epoch, sorted": list(range(n)),
        "same": True,
    }
    if n >= 50:
        sizes = np.array(seen["The sizes of the batches"])
        together = (sizes * (sizes - 1)).sum() / (n * (n - 1))
        seen |= {"other": True, "places": np.tile(sizes / n, (4, 1))}
        seen["shared"] = np.tile([together, 1 - together], (2, 1))
    if _is_counted(n, batch_size):
        ways = len(_orders(n, batch_size))
        seen["counts"] = np.full(ways, 1 / ways)
    return seen


UNLIKELY = {
    "counts": "Not every order is equally likely: in many epochs, some ways to cut the rows into batches come too often, and others too rarely.",
    "places": "Not every order is equally likely: in many epochs, some rows are in the same batch too often.",
    "shared": "Not every order is equally likely: in many epochs, two rows share a batch too often, or too rarely.",
}


@minibatches.agree
def _(got, expected):
    if not isinstance(got, dict) or not isinstance(expected, dict):
        return by_name(got, expected)
    told = {
        "same": "Two generators with the same seed gave different batches. Draw the order from `rng`, and from nothing else.",
        "other": "The order of the rows is not new and random in every epoch.",
    }
    for name, value in expected.items():
        if name == "twice":
            if got.get(name, "") != value:
                return got.get(name) or "Every row comes once in every epoch."
        elif name in UNLIKELY:
            if got.get(name) is None:
                return "Not every epoch holds every row once."
            if agree_in_distribution(got[name], value):
                return UNLIKELY[name]
        elif name in told:
            if got.get(name) != value:
                return told[name]
        elif difference := compare(got.get(name), value):
            return f"{name}: {difference.replace('you returned', 'yours are')}"
    return None


def _cut_up(order, batch_size):
    return [order[k : k + batch_size] for k in range(0, len(order), batch_size)]


@minibatches.mistake
def dropped_the_last_short_batch(rng, n, batch_size):
    """You dropped the rows that do not fill a batch. They are other rows in every epoch, but each epoch skips some, and a set smaller than one batch gives no batch at all."""
    order = rng.permutation(n)
    return [order[k : k + batch_size] for k in range(0, n - batch_size + 1, batch_size)]


@minibatches.mistake
def never_shuffled(rng, n, batch_size):
    """You went through the rows in their order. If the file is sorted by label, each batch then holds a single label. Shuffle first."""
    return _cut_up(np.arange(n), batch_size)


@minibatches.mistake
def shuffled_only_the_batches(rng, n, batch_size):
    """You cut first and shuffled the batches. Rows that are neighbours in the file then always share a batch. Shuffle the rows, and cut afterwards."""
    batches = _cut_up(np.arange(n), batch_size)
    return [batches[k] for k in rng.permutation(len(batches))]


@minibatches.mistake
def shuffled_within_batches(rng, n, batch_size):
    """You cut first and shuffled each batch in itself. A batch then always holds the same rows. Shuffle all rows, and cut afterwards."""
    return [rng.permutation(rows) for rows in _cut_up(np.arange(n), batch_size)]


@minibatches.mistake
def drawn_with_replacement(rng, n, batch_size):
    """You drew each batch anew, without looking which rows were there already. Then some rows come twice in an epoch and others not at all: shuffle once, and cut."""
    return [rng.integers(n, size=min(batch_size, n - k)) for k in range(0, n, batch_size)]


@minibatches.mistake
def shuffled_anew_for_each_batch(rng, n, batch_size):
    """You drew anew for every batch, from all rows. Then some rows come twice in an epoch and others not at all: shuffle once, before the loop, and cut."""
    return [rng.permutation(n)[k : k + batch_size] for k in range(0, n, batch_size)]


@minibatches.mistake
def cut_into_equal_parts(rng, n, batch_size):
    """You cut into parts of nearly the same size, as np.array_split does. Each batch has batch_size rows, and only the last may be shorter."""
    return np.array_split(rng.permutation(n), math.ceil(n / batch_size))


@minibatches.mistake
def same_order_every_epoch(rng, n, batch_size):
    """You made a generator of your own, so that every epoch has the same order. Draw it from the `rng` that you are given."""
    return _cut_up(np.random.default_rng(0).permutation(n), batch_size)


@minibatches.mistake
def started_at_a_random_place(rng, n, batch_size):
    """You only rotate the rows: neighbours in the file stay neighbours. Every order must be possible."""
    return _cut_up((np.arange(n) + rng.integers(n)) % n, batch_size)


# ---------------------------------------------------------------------------------------------------------------------
find_learning_rate = Exercise("autograd.training.find_learning_rate")


@find_learning_rate.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, curve, low=0.001, high=10.0, **blow_up):
        """curve: the losses that step gives, one after the other."""
        return Case(label, curve=curve, low=low, high=high, steps=len(curve), **blow_up)

    def noise():
        return rng.uniform(0.9, 1.1)

    a = 2 * noise()
    yield case("the page's example", [2.0, 1.0, 5.0, 1.0], low=0.01)
    yield case("nothing blows up", [a, 0.9 * a, 0.8 * a, 0.5 * a, 0.6 * a])
    yield case("two steps", [a, 0.7 * a], low=0.02, high=0.3)
    yield case(
        "far above the smallest, and then small again", [a, 0.5 * a, 0.1 * a, 0.5 * a, 0.1 * a, 0.1 * a]
    )
    yield case("large, but not yet blown up", [a, 0.5 * a, 1.9 * a, 0.4 * a, 1.5 * a, 0.3 * a])
    yield case("just as large as the limit", [2.0, 1.0, 4.0, 0.5, 2.0, 1.0])
    yield case("it grows slowly until it blows up", [a, 0.5 * a, 0.9 * a, 1.4 * a, 1.8 * a, 2.6 * a, 2.9 * a])
    yield case("nan", [a, 0.5 * a, math.nan, 0.5 * a, 0.4 * a])
    yield case("inf", [a, 0.5 * a, math.inf, 0.5 * a])
    yield case("nan at once", [math.nan, a, a])
    yield case("inf at once", [math.inf, a, a])
    yield case("it blows up at the last step", [a, 0.9 * a, 0.8 * a, 5 * a])
    yield case("another limit", [a, 0.6 * a, 1.1 * a, 0.9 * a, 1.3 * a, a], blow_up=2.0)
    yield case("a limit near 1", [a, 0.9 * a, 0.95 * a, 0.8 * a, 0.95 * a, a], blow_up=1.1)
    yield case("a generous limit", [a, 0.2 * a, 1.5 * a, 0.2 * a, 3 * a], blow_up=20.0)
    slow = [0.1, 0.15, 0.2, 0.25, 0.3, 0.33, 0.36, 0.37, 0.38, 0.385, 0.39, 0.395, 0.41, 0.1]
    yield case("the smallest was long ago", [a] + [share * a for share in slow])
    yield case("large losses", [9e6 * a, 8e6 * a, 9e6 * a, a, 2 * a])
    yield case("many steps", [3 / (k + 1) + 0.5 for k in range(60)], low=1e-5, high=3.0)


@find_learning_rate.observe
def _(obj, curve, low, high, steps, blow_up=None):
    tried, left = [], list(curve)

    def step(rate):
        tried.append(float(rate))
        if not left:
            raise RuntimeError(f"step was called more than {steps} times")
        return left.pop(0)

    answer = obj(step, low, high, steps) if blow_up is None else obj(step, low, high, steps, blow_up)
    if answer is None:
        return None
    if not isinstance(answer, list | tuple) or len(answer) != 2:
        return "You must return two lists: the rates, and their losses."
    if any(np.ndim(part) != 1 for part in answer):
        return "You must return two lists: the rates, and their losses. One of yours is no list of numbers."
    rates, losses = (np.array([float(number) for number in part]) for part in answer)
    return {"The rates that you tried": np.array(tried), "The losses": losses, "The rates": rates}


@find_learning_rate.oracle
def _(curve, low, high, steps, blow_up=4.0):
    curve, every = np.array(curve), np.exp(np.linspace(np.log(low), np.log(high), steps))
    with np.errstate(invalid="ignore"):
        before = np.minimum.accumulate(np.append(np.inf, curve[:-1]))
        bad = np.flatnonzero(~np.isfinite(curve) | (curve > blow_up * before))
    end = bad[0] if bad.size else steps
    return {"The rates that you tried": every[: end + 1], "The losses": curve[:end], "The rates": every[:end]}


find_learning_rate.agree(by_name)


def _sweep(
    step, rates, blow_up, *, against="smallest", keep=False, go_on=False, finite=True, at_limit=False
) -> tuple[list, list]:
    """The range test with its ways to go wrong."""
    kept, losses = [], []
    for rate in rates:
        loss = step(rate)
        limit = {
            "smallest": min,
            "first": lambda seen: seen[0],
            "last": lambda seen: seen[-1],
            "none": lambda _: math.inf,
        }
        too_large = bool(losses) and loss > blow_up * limit[against](losses)
        too_large |= at_limit and bool(losses) and loss == blow_up * min(losses)
        if too_large or (finite and not math.isfinite(loss)):
            if keep:
                kept.append(float(rate))
                losses.append(loss)
            if go_on:
                continue
            break
        kept.append(float(rate))
        losses.append(loss)
    return kept, losses


@find_learning_rate.mistake
def equal_differences(step, low, high, steps, blow_up=4.0):
    """You spaced the rates by equal differences. Then nearly all of them lie in the highest power of ten, and the small ones are hardly tried. Use equal factors."""
    return _sweep(step, np.linspace(low, high, steps), blow_up)


@find_learning_rate.mistake
def never_reached_the_end(step, low, high, steps, blow_up=4.0):
    """Your last rate is below `high`: you divided by steps instead of steps − 1. Between n posts there are n − 1 gaps."""
    return _sweep(step, [low * (high / low) ** (k / steps) for k in range(steps)], blow_up)


@find_learning_rate.mistake(shape=True)
def skipped_the_first_rate(step, low, high, steps, blow_up=4.0):
    """Your first rate is not `low`: you multiplied before the first step. The first exponent is 0."""
    return _sweep(step, [low * (high / low) ** ((k + 1) / steps) for k in range(steps)], blow_up)


@find_learning_rate.mistake
def kept_the_loss_that_blew_up(step, low, high, steps, blow_up=4.0):
    """You kept the rate and the loss at which it blew up. In a figure, one such loss squashes the whole curve: leave them out."""
    return _sweep(step, np.geomspace(low, high, steps), blow_up, keep=True)


@find_learning_rate.mistake
def compared_with_the_first(step, low, high, steps, blow_up=4.0):
    """You compared each loss with the first one. The loss falls before it blows up: measure against the smallest so far."""
    return _sweep(step, np.geomspace(low, high, steps), blow_up, against="first")


@find_learning_rate.mistake
def compared_with_the_one_before(step, low, high, steps, blow_up=4.0):
    """You compared each loss with the one before. A loss that doubles at every step blows up as well, and would never be noticed: measure against the smallest so far."""
    return _sweep(step, np.geomspace(low, high, steps), blow_up, against="last")


@find_learning_rate.mistake
def nan_goes_unnoticed(step, low, high, steps, blow_up=4.0):
    """You did not stop at nan or inf. Every comparison with nan is False, so a limit alone does not see it: ask whether the loss is finite."""
    return _sweep(step, np.geomspace(low, high, steps), blow_up, finite=False)


@find_learning_rate.mistake
def notices_only_what_is_not_finite(step, low, high, steps, blow_up=4.0):
    """You stopped only at nan or inf. Long before, the network is ruined: stop when the loss is more than blow_up times the smallest."""
    return _sweep(step, np.geomspace(low, high, steps), blow_up, against="none")


@find_learning_rate.mistake
def went_on_after_it_blew_up(step, low, high, steps, blow_up=4.0):
    """You left the bad losses out but went on. After a loss has blown up the weights are ruined, and later losses say nothing about their rates: stop."""
    return _sweep(step, np.geomspace(low, high, steps), blow_up, go_on=True)


@find_learning_rate.mistake
def always_four_times(step, low, high, steps, blow_up=4.0):
    """You always stop at 4 times the smallest loss. Use the argument blow_up, which the caller may choose."""
    return _sweep(step, np.geomspace(low, high, steps), 4.0)


@find_learning_rate.mistake
def stopped_at_the_limit(step, low, high, steps, blow_up=4.0):
    """You stopped at a loss that is just blow_up times the smallest. It blows up only when it is larger."""
    return _sweep(step, np.geomspace(low, high, steps), blow_up, at_limit=True)


@find_learning_rate.mistake
def tried_every_rate_first(step, low, high, steps, blow_up=4.0):
    """You cut the lists at the right place, but you called `step` for the rates after it as well. Stop there: the network is ruined, and each step costs time."""
    rates = np.geomspace(low, high, steps)
    losses = iter([step(rate) for rate in rates])
    return _sweep(lambda rate: next(losses), rates, blow_up)


# ---------------------------------------------------------------------------------------------------------------------
train = Exercise("autograd.training.train")


class _Bench:
    """A model with one weight a column, its squared loss and plain descent, which write down how they are used."""

    def __init__(self, images, labels):
        self.weights = np.linspace(0.2, 0.4, images.shape[1])
        self.grad = np.full_like(self.weights, 0.7)  # left over from somebody else
        self.images, self.labels = images, labels
        self.batches, self.losses, self.pairs = [], [], True
        self.gone_back = []  # the numbers of the losses that went backward
        self.pending = None  # the slope that the next step should use
        self.used = []  # which slopes each step really used

    def model(self, images):
        if not isinstance(images, np.ndarray) or images.ndim != 2:
            raise TypeError("the model wants some rows of `images`: an array with two axes")
        places = {row.tobytes(): k for k, row in enumerate(self.images)}
        rows = [places.get(row.tobytes()) for row in np.ascontiguousarray(images)]
        if None in rows:
            raise ValueError("the model got rows that are not in `images`: use the arguments of train")
        return OutputOfTheModel(rows, images, images @ self.weights)

    def loss_of(self, output, labels):
        if not isinstance(output, OutputOfTheModel):
            raise TypeError("loss_of got something that the model did not make")
        rows = output._rows
        labels = np.asarray(labels)
        if not np.isin(labels, self.labels).all():
            raise ValueError("loss_of got labels that are not in `labels`: use the arguments of train")
        self.pairs &= labels.shape == (len(rows),) and bool((self.labels[rows] == labels).all())
        if labels.shape != (len(rows),):
            raise ValueError(f"{len(rows)} images came with labels of shape {labels.shape}")
        self.batches.append(rows)
        off = output._scores - labels
        self.losses.append(float((off**2).mean()))
        return _Loss(self, len(self.losses) - 1, 2 * output._images.T @ off / len(off))

    def zero_grad(self):
        self.grad[...] = 0

    def step(self):
        if self.pending is None:
            self.used.append("none of a batch")
        elif np.allclose(self.grad, self.pending, rtol=1e-12, atol=0):
            self.used.append("its own")
        else:
            self.used.append("others too" if self.grad.any() else "only zeros")
        self.weights = self.weights - 0.05 * self.grad
        self.pending = None


class OutputOfTheModel:
    """Only for loss_of; a trace may show its name to the learner."""

    _advice = "hand what the model gives to `loss_of`, the argument of train, and to no other loss"
    __array_ufunc__ = None

    def __init__(self, rows, images, scores):
        self._rows, self._images, self._scores = rows, images, scores

    def __getattr__(self, name):
        raise AttributeError(self._advice)

    def __array__(self, *options, **more):
        raise TypeError(self._advice)


class _Loss:
    def __init__(self, bench, number, slope):
        self.data, self.number, self.bench, self.slope = np.array(bench.losses[number]), number, bench, slope

    def backward(self):
        self.bench.gone_back.append(self.number)
        self.bench.grad += self.slope
        self.bench.pending = self.slope


class _Optimizer:
    """What the learner may use of an optimizer."""

    def __init__(self, bench):
        self.zero_grad, self.step = bench.zero_grad, bench.step


@train.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, n, epochs, batch_size):
        images = np.round(rng.normal(size=(n, 3)), 2) + np.arange(n)[:, None] % 7 / 10
        return Case(
            label,
            images=images,
            labels=rng.permutation(n) / n + 1,
            seed=int(rng.integers(1, 1000)),
            epochs=epochs,
            batch_size=batch_size,
        )

    yield case("four examples in batches of two", 4, 1, 2)
    yield case("a single example", 1, 1, 2)
    yield case("a single example, three epochs", 1, 3, 1)
    yield case("one batch, one epoch", 5, 1, 5)
    yield case("one batch an epoch", 5, 3, 8)
    yield case("a short batch at the end", 23, 3, 5)
    yield case("batches that come out even", 24, 2, 6)
    yield case("one at a time", 12, 2, 1)
    yield case("many examples", 61, 2, 16)
    yield case("no epoch at all", 5, 0, 2)


@train.observe
def _(obj, images, labels, seed, epochs, batch_size):
    def run(rng):
        bench = _Bench(images.copy(), labels.copy())
        told = bench.model, _Optimizer(bench), bench.loss_of, images, labels, rng, epochs, batch_size
        return bench, obj(*told)

    rng = np.random.default_rng(seed)
    start = copy.deepcopy(rng)
    bench, losses = run(rng)
    bits = epochs * math.lgamma(len(images) + 1) / math.log(2)  # to choose one of n! orders in each epoch
    drawn = 64 * _words_drawn(rng, start, math.ceil(bits / 64)) >= bits
    if losses is None:
        return None
    if not isinstance(losses, list | tuple | np.ndarray):
        return f"You must return a list of losses, not a {type(losses).__name__}."
    if any(isinstance(loss, _Loss) for loss in losses):
        return "Your list holds Tensors, and with each of them the graph of its batch. Record plain numbers: loss.data.item()."
    if any(isinstance(loss, np.ndarray) and loss.ndim == 0 for loss in losses):
        return "Your list holds arrays without an axis. Record plain numbers: loss.data.item()."
    made = [float(loss) for loss in losses]
    a_epoch = math.ceil(len(images) / batch_size)
    numbers = bench.gone_back or range(len(bench.batches))
    batches, wanted = [bench.batches[k] for k in numbers], [bench.losses[k] for k in numbers]
    per_epoch = [batches[k : k + a_epoch] for k in range(0, len(batches), a_epoch)]
    seen = {
        "The sizes of the batches": [len(rows) for rows in batches],
        "used": len(batches) == len(bench.batches),
        "The number of optimizer.step()": len(bench.used),
        "each once": all(
            sorted(k for rows in part for k in rows) == list(range(len(images))) for part in per_epoch
        ),
        "pairs": bench.pairs,
        "slopes": bench.used,
        "moved": bool((bench.weights != _Bench(images, labels).weights).any()),
        "The number of losses that you return": len(made),
        "losses": len(made) == len(wanted) and np.allclose(made, wanted, rtol=1e-12, atol=0),
    }
    if len(images) >= 12:
        flat = [[k for rows in part for k in rows] for part in per_epoch]
        seen["shuffled"] = list(range(len(images))) not in flat
        seen["shuffled anew"] = len({tuple(order) for order in flat}) == len(flat)
        seen["goes on"] = run(rng)[0].batches != bench.batches
        seen["from rng"] = run(np.random.default_rng(seed))[0].batches == bench.batches
        seen["drawn"] = drawn
    return seen


@train.oracle
def _(images, labels, seed, epochs, batch_size):
    n = len(images)
    sizes = [min(batch_size, n - k) for k in range(0, n, batch_size)] * epochs
    seen = {"The sizes of the batches": sizes, "The number of optimizer.step()": len(sizes)}
    seen |= dict.fromkeys(("used", "each once", "pairs", "losses"), True) | {
        "slopes": ["its own"] * len(sizes)
    }
    seen |= {"moved": epochs > 0, "The number of losses that you return": len(sizes)}
    orders = ("shuffled", "shuffled anew", "goes on", "from rng", "drawn")
    return seen | (dict.fromkeys(orders, True) if n >= 12 else {})


TOLD = {
    "used": "You compute a loss that goes into no step. The loss of each batch is computed once, before its step.",
    "each once": "Not every example is used once in every epoch.",
    "pairs": "Images and labels do not belong together: the loss compared an image with another image's label.",
    "slopes": "A step of the optimizer did not use the slopes of its own batch, and only those. Think of what the leaves still hold, and of the order of the three calls.",
    "moved": "The parameters did not move.",
    "losses": "Your losses are not those of the batches, each from before its step, in order.",
    "shuffled": "The examples come in the order in which they are given: take the batches from minibatches.",
    "shuffled anew": "The order of the examples is the same in several epochs.",
    "goes on": "A second call with the same rng took the same batches as the first: draw them from `rng`, which goes on.",
    "from rng": "Two generators with the same seed gave different batches: draw them from `rng`, and from nothing else.",
    "drawn": "`rng` itself did not draw the orders of the examples: take the batches from minibatches with `rng`.",
}


@train.agree
def _(got, expected):
    if not isinstance(got, dict) or not isinstance(expected, dict):
        return by_name(got, expected)
    for name, value in expected.items():
        if name in TOLD:
            if got.get(name) != value:
                return TOLD[name]
        elif difference := compare(got.get(name), value):
            return _of(name, difference)
    return None


def _batches(rng, n, batch_size):
    return _cut_up(rng.permutation(n), batch_size)


def _all_rows(rng, n, size):
    return [(np.arange(n), np.arange(n))]


def _train(
    model,
    optimizer,
    loss_of,
    images,
    labels,
    rng,
    epochs,
    batch_size,
    *,
    rows_of=lambda rng, n, size: [(rows, rows) for rows in _batches(rng, n, size)],
    calls=("zero", "backward", "step"),
) -> list[float]:
    """The loop with its ways to go wrong: the rows of images and labels, and the calls of each step."""
    losses = []
    for _ in range(epochs):
        for mine, others in rows_of(rng, len(images), batch_size):
            loss = loss_of(model(images[mine]), labels[others])
            for call in calls:
                {"zero": optimizer.zero_grad, "backward": loss.backward, "step": optimizer.step}[call]()
            losses.append(loss.data.item())
    return losses


@train.mistake
def labels_drawn_apart(model, optimizer, loss_of, images, labels, rng, epochs, batch_size):
    """You shuffled the labels apart from the images. rng goes on between two draws, so each image is compared with another one's label, and there is nothing to learn. Draw the rows once and use them for both."""

    def rows_of(rng, n, size):
        return zip(_batches(rng, n, size), _batches(rng, n, size), strict=True)

    return _train(model, optimizer, loss_of, images, labels, rng, epochs, batch_size, rows_of=rows_of)


@train.mistake
def two_generators_from_one_seed(model, optimizer, loss_of, images, labels, rng, epochs, batch_size):
    """You shuffle with new generators, made from a seed. Images and labels now fit, but the batches no longer come from minibatches with `rng`. Draw the rows once, from `rng`, and use them for both."""

    def rows_of(rng, n, size):
        alike = np.random.default_rng(int(rng.integers(1000)))
        return [(rows, rows) for rows in _batches(alike, n, size)]

    return _train(model, optimizer, loss_of, images, labels, rng, epochs, batch_size, rows_of=rows_of)


@train.mistake
def loss_computed_anew(model, optimizer, loss_of, images, labels, rng, epochs, batch_size):
    """You compute the loss anew after the step and record that one: a second way through the network, and no longer the loss that the step started from. Record the one that you have, loss.data.item()."""
    losses = []
    for _ in range(epochs):
        for rows in _batches(rng, len(images), batch_size):
            _train(
                model, optimizer, loss_of, images[rows], labels[rows], rng, 1, len(rows), rows_of=_all_rows
            )
            losses.append(loss_of(model(images[rows]), labels[rows]).data.item())
    return losses


@train.mistake
def gradients_never_cleared(model, optimizer, loss_of, images, labels, rng, epochs, batch_size):
    """You never clear the gradients. The leaves add up over calls, so every step uses the slopes of all the batches before it as well."""
    return _train(
        model, optimizer, loss_of, images, labels, rng, epochs, batch_size, calls=("backward", "step")
    )


@train.mistake
def cleared_before_the_step(model, optimizer, loss_of, images, labels, rng, epochs, batch_size):
    """You clear the gradients after going backward and before the step, so that every step moves nothing. Clear first, then backward, then step."""
    calls = ("backward", "zero", "step")
    return _train(model, optimizer, loss_of, images, labels, rng, epochs, batch_size, calls=calls)


@train.mistake
def stepped_before_going_backward(model, optimizer, loss_of, images, labels, rng, epochs, batch_size):
    """You step before going backward: then the slopes of this batch are not there yet."""
    calls = ("zero", "step", "backward")
    return _train(model, optimizer, loss_of, images, labels, rng, epochs, batch_size, calls=calls)


@train.mistake
def cleared_after_the_step(model, optimizer, loss_of, images, labels, rng, epochs, batch_size):
    """You clear the gradients after each step. That helps from the second step on, but the first one still uses what somebody left in the leaves before."""
    calls = ("backward", "step", "zero")
    return _train(model, optimizer, loss_of, images, labels, rng, epochs, batch_size, calls=calls)


@train.mistake
def never_stepped(model, optimizer, loss_of, images, labels, rng, epochs, batch_size):
    """You go backward but never let the optimizer make its step, so nothing is learnt."""
    calls = ("zero", "backward")
    return _train(model, optimizer, loss_of, images, labels, rng, epochs, batch_size, calls=calls)


@train.mistake
def all_examples_in_every_step(model, optimizer, loss_of, images, labels, rng, epochs, batch_size):
    """You take the loss of all examples in every step, and so pay for all of them. Use the rows of the batch: images[rows] and labels[rows]."""

    def rows_of(rng, n, size):
        return [(np.arange(n),) * 2 for _ in _batches(rng, n, size)]

    return _train(model, optimizer, loss_of, images, labels, rng, epochs, batch_size, rows_of=rows_of)


@train.mistake
def batches_in_file_order(model, optimizer, loss_of, images, labels, rng, epochs, batch_size):
    """You go through the examples in the order of the file. Take the batches from minibatches, anew in each epoch."""

    def rows_of(rng, n, size):
        return [(rows, rows) for rows in _cut_up(np.arange(n), size)]

    return _train(model, optimizer, loss_of, images, labels, rng, epochs, batch_size, rows_of=rows_of)


@train.mistake
def shuffled_only_once(model, optimizer, loss_of, images, labels, rng, epochs, batch_size):
    """You draw the batches once and use the same ones in every epoch. Call minibatches again for each epoch."""
    once = [(rows, rows) for rows in _batches(rng, len(images), batch_size)]
    return _train(model, optimizer, loss_of, images, labels, rng, epochs, batch_size, rows_of=lambda *_: once)


@train.mistake
def batches_from_an_own_generator(model, optimizer, loss_of, images, labels, rng, epochs, batch_size):
    """You made a generator of your own. Then every call of train goes through the same orders; use the `rng` that you are given, and let it go on."""
    rng = np.random.default_rng(0)
    return _train(model, optimizer, loss_of, images, labels, rng, epochs, batch_size)


@train.mistake
def one_loss_an_epoch(model, optimizer, loss_of, images, labels, rng, epochs, batch_size):
    """You recorded one loss for each epoch. Record one for each step."""
    losses = _train(model, optimizer, loss_of, images, labels, rng, epochs, batch_size)
    steps = math.ceil(len(images) / batch_size)
    return [losses[k + steps - 1] for k in range(0, len(losses), steps)]


@train.mistake
def only_one_epoch(model, optimizer, loss_of, images, labels, rng, epochs, batch_size):
    """You return after the first epoch. Is the return inside the loop?"""
    return _train(model, optimizer, loss_of, images, labels, rng, min(epochs, 1), batch_size)
