"""Checks for the lesson autograd.pytorch.

Functions to differentiate are given as texts, such as ``"(x * y).sum()"``, so that a failing case can be read.
The oracles use torch.func, or PyTorch's own layers, never the lesson's way.

An observation that is a text is a sentence for the learner: there was nothing to compare.
"""

import weakref
from collections.abc import Callable

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from groundup.check import Case, Exercise, compare

NAMES = "xyz"


def function(text: str, inputs: int, own: torch.Tensor | None = None) -> Callable:
    """The function of x, y, z that the text describes; `own` is a leaf of the function's own."""
    return eval(f"lambda {', '.join(NAMES[:inputs])}: {text}", {"torch": torch, "own": own})


def own_leaf() -> torch.Tensor:
    return torch.tensor(1.25, dtype=torch.float64, requires_grad=True)


def tensor(rng: np.random.Generator, *shape: int, dtype=torch.float64) -> torch.Tensor:
    """Numbers of both signs between 0.4 and 1.6 in size: no zeros, nothing that saturates."""
    return torch.tensor(rng.uniform(0.4, 1.6, shape) * rng.choice([-1.0, 1.0], shape), dtype=dtype)


def wanting(x: torch.Tensor, held: float | None = None) -> torch.Tensor:
    """A leaf that wants a gradient and may already hold one."""
    leaf = x.clone().requires_grad_()
    leaf.grad = None if held is None else torch.full_like(x, held)
    return leaf


def by_name(got, expected) -> str | None:
    """Compares two observations: dicts entry by entry, in the order of the expected one."""
    if got is None:
        return None if expected is None else "you returned None. Is a return missing?"
    if isinstance(got, str) or not isinstance(expected, dict):
        return None if type(got) is type(expected) and got == expected else str(got)
    for name in expected:
        if difference := compare(got[name], expected[name]):
            return f"{name}: {difference.replace('you returned', 'got')}"
    return None


def traces(**tensors: torch.Tensor) -> dict:
    """What the caller sees of his own tensors afterwards (their numbers are the engine's business)."""
    seen = {f"Afterwards, {name}.requires_grad": x.requires_grad for name, x in tensors.items()}
    return seen | {f"Afterwards, {name}.grad": x.grad for name, x in tensors.items()}


class Mark:
    """Stays alive as long as what holds it: a node of a graph, or what an operation keeps for its backward pass."""

    def __init__(self, step: int, tensor: torch.Tensor | None = None):
        self.step, self.tensor = step, tensor


class Work(TorchDispatchMode):
    """Counts the numbers that all operations make, forward and backward."""

    made = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, list | tuple) else [result]:
            self.made += one.numel() if isinstance(one, torch.Tensor) else 0
        return result


class Nodes(TorchFunctionMode):
    """Puts a mark with the number of the step into each node that is made."""

    def __init__(self):
        super().__init__()
        self.step, self.marks = 0, weakref.WeakSet()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        node = result.grad_fn if isinstance(result, torch.Tensor) else None
        if node is not None and "mark" not in node.metadata:
            node.metadata["mark"] = mark = Mark(self.step)
            self.marks.add(mark)
        return result

    def alive(self) -> int:
        """Of how many steps there are still nodes."""
        return len({mark.step for mark in self.marks})


# ---------------------------------------------------------------------------------------------------------------------
slopes_at = Exercise("autograd.pytorch.slopes_at")


@slopes_at.cases
def _(rng):
    def some(*shape):
        return tensor(rng, *shape)

    yield Case("two inputs", f="(x * y).sum()", inputs=[some(2), some(2)])
    yield Case("one input, a matrix", f="(x ** 3).sum()", inputs=[some(2, 3)])
    yield Case("two inputs, used twice", f="(x * y).sum() + (y ** 2).sum()", inputs=[some(3), some(3)])
    yield Case("single numbers", f="x * y + y.exp()", inputs=[some(), some()])
    stretched = [some(3, 1), some(4), some(3, 4)]
    yield Case("three inputs that broadcast", f="((x + y) * z).tanh().sum()", inputs=stretched)
    both = [wanting(some(2)), wanting(some(2))]
    yield Case("inputs that want a gradient", f="(x * y.exp()).sum()", inputs=both)
    held = [wanting(some(2), held=5.0), some(2)]
    yield Case("x holds a gradient already", f="(x * y.exp()).sum()", inputs=held)
    yield Case("y has no influence", f="(x * z).sum()", inputs=[some(3), some(2, 2), some(3)])
    same = some(3)
    yield Case("the same tensor in both places", f="(x * x * y).sum()", inputs=[same, same])
    yield Case("a straight line", f="(3 * x).sum() - (2 * y).sum()", inputs=[some(2), some(3)])
    single = [tensor(rng, 4, dtype=torch.float32), tensor(rng, 2, 4, dtype=torch.float32)]
    yield Case("float32", f="(x * y).sin().sum()", inputs=single)
    unused = [tensor(rng, 3, dtype=torch.float32), tensor(rng, 2, dtype=torch.float32)]
    yield Case("float32, y has no influence", f="(x ** 2).sum()", inputs=unused)
    yield Case("f has a leaf of its own", f="(own * x * y).sum()", inputs=[some(2), some(2)])
    wave = "(10000 * x).sin().sum() / 10000 + y.sum()"
    yield Case("a wave too fast for nudging", f=wave, inputs=[some(3), some(2)])


@slopes_at.observe
def _(obj, f, inputs):
    own = own_leaf()
    slopes = obj(function(f, len(inputs), own), inputs)
    if slopes is None:
        return None
    if not isinstance(slopes, list | tuple) or len(slopes) != len(inputs):
        return "You must return a tuple with one gradient for each input."
    seen = {}
    for name, slope in zip(NAMES, slopes, strict=False):
        if not isinstance(slope, torch.Tensor | None):
            return "You must return a tuple of tensors."
        seen[f"The gradient in {name}"] = slope
        seen[f"In the gradient in {name}, requires_grad"] = slope is not None and slope.requires_grad
    return seen | traces(own=own, **dict(zip(NAMES, inputs, strict=False)))


@slopes_at.oracle
def _(f, inputs):
    plain = tuple(x.detach().clone() for x in inputs)
    f = function(f, len(inputs), own_leaf().detach())
    slopes = torch.func.grad(f, argnums=tuple(range(len(inputs))))(*plain)
    seen = {}
    for name, slope in zip(NAMES, slopes, strict=False):
        seen |= {f"The gradient in {name}": slope, f"In the gradient in {name}, requires_grad": False}
    return seen | traces(own=own_leaf(), **dict(zip(NAMES, inputs, strict=False)))


slopes_at.agree(by_name)


@slopes_at.mistake(shape=True)  # it always leaves traces, so it is right on no case
def backward_on_the_callers_tensors(f, inputs):
    """You went backward on the caller's own tensors: now their .grad is filled, added to whatever was there, and they want gradients. Use fresh leaves, and torch.autograd.grad, which returns the slopes and writes nothing."""
    for x in inputs:
        x.requires_grad_()
    f(*inputs).backward()
    return tuple(x.grad for x in inputs)


@slopes_at.mistake
def backward_on_fresh_leaves(f, inputs):
    """The slopes are right, but backward() fills .grad of every leaf that it can reach, and f may use leaves of its own. torch.autograd.grad returns the slopes that you ask for, and writes nothing."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    f(*leaves).backward()
    return tuple(torch.zeros_like(x) if x.grad is None else x.grad for x in leaves)


@slopes_at.mistake
def none_for_an_unused_input(f, inputs):
    """You give None for an input without influence. Its slope is a known number: zero, wherever the input is moved. materialize_grads=True makes these zeros."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    return torch.autograd.grad(f(*leaves), leaves, allow_unused=True)


@slopes_at.mistake
def asked_for_slopes_of_constants(f, inputs):
    """You asked for the slopes in the given tensors themselves. Most of them do not want a gradient, so nothing was recorded, and there is nothing to ask for. Make a fresh leaf of each."""
    return torch.autograd.grad(f(*inputs), inputs, materialize_grads=True)


@slopes_at.mistake
def made_the_callers_tensors_want_gradients(f, inputs):
    """The slopes may be right, but you called requires_grad_() on the caller's own tensors, and they keep it: from now on every calculation with them is recorded. And one tensor in two places is then only one leaf."""
    for x in inputs:
        x.requires_grad_()
    return torch.autograd.grad(f(*inputs), inputs, materialize_grads=True)


@slopes_at.mistake
def unused_inputs_refused(f, inputs):
    """An input without influence stops your function with an error. PyTorch suspects that you forgot it; say that it should be counted as zero, with materialize_grads=True."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    return torch.autograd.grad(f(*leaves), leaves)


@slopes_at.mistake
def recorded_for_nobody(f, inputs):
    """Your gradients carry a graph, because you asked for create_graph. Nobody differentiates them here, and as long as they live, so does the whole graph behind them."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    return torch.autograd.grad(f(*leaves), leaves, create_graph=True, materialize_grads=True)


@slopes_at.mistake(shape=True)
def only_the_first(f, inputs):
    """You returned the first gradient only. The caller wants a tuple with one gradient for each input."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    return torch.autograd.grad(f(*leaves), leaves, materialize_grads=True)[0]


# ---------------------------------------------------------------------------------------------------------------------
accumulate_slopes = Exercise("autograd.pytorch.accumulate_slopes", may_change=("weights", "bias"))


def _mean_loss(weights, bias, x, y):
    """The mean squared error of a single neuron."""
    return ((torch.tanh(x @ weights + bias) - y) ** 2).mean()


@accumulate_slopes.cases
def _(rng):
    def case(label, rows, size, held=None, columns=3):
        return Case(
            label,
            weights=wanting(tensor(rng, columns), held),
            bias=wanting(tensor(rng), held),
            inputs=tensor(rng, rows, columns),
            targets=tensor(rng, rows),
            size=size,
        )

    yield case("two rows, one at a time", rows=2, size=1, columns=2)
    yield case("all rows in one part", rows=3, size=3)
    yield case("a size larger than the batch", rows=3, size=5)
    yield case("six rows, two at a time", rows=6, size=2)
    yield case("a short last part", rows=5, size=2)
    yield case("a last part of one row", rows=7, size=3)
    yield case("one part, gradients left over from before", rows=2, size=2, held=3.0)
    yield case("gradients left over from before", rows=9, size=4, held=-2.0)


@accumulate_slopes.observe
def _(obj, weights, bias, inputs, targets, size):
    rows, in_memory, marks = [], [], weakref.WeakSet()

    def keep(kept):
        mark = Mark(len(rows), kept.detach())  # an output with its past would be a circle
        marks.add(mark)
        return mark

    def loss_of(x, y):
        # What an earlier part kept for its backward pass must be gone, and the graphs before the last one too.
        earlier = {m.step for m in marks if m.tensor is not None or m.step < len(rows)}
        in_memory.append(len(earlier))
        rows.append([int(row) for one in x for row in torch.nonzero((inputs == one).all(dim=1))[:1]])
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda mark: mark.tensor):
            loss = _mean_loss(weights, bias, x, y)
        if loss.grad_fn is not None:
            loss.grad_fn.metadata["mark"] = mark = Mark(len(rows))
            marks.add(mark)
        return loss

    returned = obj(loss_of, [weights, bias], inputs, targets, size)
    if returned is None:
        return None
    if isinstance(returned, torch.Tensor):
        return "You returned a tensor. Return a plain number: loss.item()."
    return {
        "The gradient in the weights": weights.grad,
        "The gradient in the bias": bias.grad,
        "The loss that you return": returned,
        "The rows in each call of loss_of": rows,
        "The number of earlier parts still in memory at each call of loss_of": in_memory,
        "Afterwards, the weights": weights.detach(),
        "Afterwards, the bias": bias.detach(),
    }


@accumulate_slopes.oracle
def _(weights, bias, inputs, targets, size):
    plain = weights.detach().clone(), bias.detach().clone(), inputs, targets
    slopes, loss = torch.func.grad_and_value(_mean_loss, argnums=(0, 1))(*plain)
    rows = [part.tolist() for part in torch.arange(len(inputs)).split(size)]
    return {
        "The gradient in the weights": slopes[0],
        "The gradient in the bias": slopes[1],
        "The loss that you return": loss.item(),
        "The rows in each call of loss_of": rows,
        "The number of earlier parts still in memory at each call of loss_of": [0] * len(rows),
        "Afterwards, the weights": plain[0],
        "Afterwards, the bias": plain[1],
    }


accumulate_slopes.agree(by_name)


def _in_parts(loss_of, parameters, inputs, targets, size, share, clear=True) -> float:
    """Accumulation with a `share` of its own for each part."""
    total = 0.0
    for parameter in parameters:
        if clear:
            parameter.grad = None
    for start in range(0, len(inputs), size):
        x, y = inputs[start : start + size], targets[start : start + size]
        loss = loss_of(x, y) * share(len(x))
        loss.backward()
        total += loss.item()
    return total


@accumulate_slopes.mistake
def adds_the_means(loss_of, parameters, inputs, targets, size):
    """You added the parts' mean losses as they are: with four parts the gradient is about four times too large. Each part counts only with its share of the examples."""
    return _in_parts(loss_of, parameters, inputs, targets, size, lambda rows: 1)


@accumulate_slopes.mistake
def divides_by_the_number_of_parts(loss_of, parameters, inputs, targets, size):
    """You gave every part the same weight, one over the number of parts. That is right only for equal parts: the examples of a short last part count too much. Use each part's own share of the examples."""
    parts = -(-len(inputs) // size)
    return _in_parts(loss_of, parameters, inputs, targets, size, lambda rows: 1 / parts)


@accumulate_slopes.mistake
def takes_every_part_for_full(loss_of, parameters, inputs, targets, size):
    """You gave every part the weight size / len(inputs), also a last part that holds fewer rows. Count the rows that the part really has."""
    return _in_parts(loss_of, parameters, inputs, targets, size, lambda rows: size / len(inputs))


@accumulate_slopes.mistake
def never_clears(loss_of, parameters, inputs, targets, size):
    """Gradients that the parameters held before are still in your sum. Leaves keep a running total: clear it once, before the first part."""
    return _in_parts(loss_of, parameters, inputs, targets, size, lambda rows: rows / len(inputs), clear=False)


@accumulate_slopes.mistake
def clears_before_every_part(loss_of, parameters, inputs, targets, size):
    """Only the last part's gradient is left: you clear inside the loop, and so throw away what the earlier parts gave. Clear once, before the loop."""
    total = 0.0
    for start in range(0, len(inputs), size):
        x, y = inputs[start : start + size], targets[start : start + size]
        loss = loss_of(x, y) * (len(x) / len(inputs))
        for parameter in parameters:
            parameter.grad = None
        loss.backward()
        total += loss.item()
    return total


@accumulate_slopes.mistake
def drops_the_short_part(loss_of, parameters, inputs, targets, size):
    """You leave out the rows of a last part that is not full. Its examples belong to the batch: let the loop begin a part at every row below len(inputs)."""
    total = 0.0
    for parameter in parameters:
        parameter.grad = None
    for start in range(0, len(inputs) - size + 1, size):
        x, y = inputs[start : start + size], targets[start : start + size]
        loss = loss_of(x, y) * (len(x) / len(inputs))
        loss.backward()
        total += loss.item()
    return total


@accumulate_slopes.mistake
def all_at_once(loss_of, parameters, inputs, targets, size):
    """The numbers are right, but you took the whole batch in one go. Its graph is the one that does not fit into memory: take `size` rows at a time."""
    return _in_parts(loss_of, parameters, inputs, targets, len(inputs), lambda rows: 1)


@accumulate_slopes.mistake
def one_backward_at_the_end(loss_of, parameters, inputs, targets, size):
    """The numbers are right, but you add up the losses and go backward once, at the end. Until then the graphs of all parts stay in memory, so nothing is saved. Go backward on each part at once."""
    for parameter in parameters:
        parameter.grad = None
    total = 0.0
    for start in range(0, len(inputs), size):
        x, y = inputs[start : start + size], targets[start : start + size]
        total = total + loss_of(x, y) * (len(x) / len(inputs))
    total.backward()
    return total.item()


@accumulate_slopes.mistake
def keeps_each_graph(loss_of, parameters, inputs, targets, size):
    """The numbers are right, but with retain_graph each part's graph still keeps its numbers while the next one is built. No part is gone backward on twice: leave it out."""
    total = 0.0
    for parameter in parameters:
        parameter.grad = None
    for start in range(0, len(inputs), size):
        x, y = inputs[start : start + size], targets[start : start + size]
        loss = loss_of(x, y) * (len(x) / len(inputs))
        loss.backward(retain_graph=True)
        total += loss.item()
    return total


@accumulate_slopes.mistake
def adds_up_tensors(loss_of, parameters, inputs, targets, size):
    """The numbers are right, but you added up the losses as tensors, and took the number at the end. Until then the sum holds on to the graphs of all parts. Add loss.item()."""
    total = 0.0
    for parameter in parameters:
        parameter.grad = None
    for start in range(0, len(inputs), size):
        x, y = inputs[start : start + size], targets[start : start + size]
        loss = loss_of(x, y) * (len(x) / len(inputs))
        loss.backward()
        total = total + loss
    return total.item()


@accumulate_slopes.mistake
def strides_through_the_rows(loss_of, parameters, inputs, targets, size):
    """The numbers are right, but you took every n-th row into a part. Take the rows in order: the first `size`, then the next `size`."""
    total, parts = 0.0, -(-len(inputs) // size)
    for parameter in parameters:
        parameter.grad = None
    for start in range(parts):
        x, y = inputs[start::parts], targets[start::parts]
        loss = loss_of(x, y) * (len(x) / len(inputs))
        loss.backward()
        total += loss.item()
    return total


@accumulate_slopes.mistake
def weighs_only_the_loss(loss_of, parameters, inputs, targets, size):
    """The loss is right, the gradient is too large: you went backward on the part's mean loss, and multiplied by its share only afterwards. Multiply first, so that the share is part of what you differentiate."""
    total = 0.0
    for parameter in parameters:
        parameter.grad = None
    for start in range(0, len(inputs), size):
        x, y = inputs[start : start + size], targets[start : start + size]
        loss = loss_of(x, y)
        loss.backward()
        total += loss.item() * len(x) / len(inputs)
    return total


@accumulate_slopes.mistake
def weighs_only_the_gradient(loss_of, parameters, inputs, targets, size):
    """The gradient is right, the loss that you return is not: you added up the parts' mean losses without their shares. Add the numbers on which you went backward."""
    total = 0.0
    for parameter in parameters:
        parameter.grad = None
    for start in range(0, len(inputs), size):
        x, y = inputs[start : start + size], targets[start : start + size]
        loss = loss_of(x, y)
        (loss * (len(x) / len(inputs))).backward()
        total += loss.item()
    return total


@accumulate_slopes.mistake(shape=True)
def returns_a_tensor(loss_of, parameters, inputs, targets, size):
    """You added up the losses themselves, not their numbers. A tensor holds on to its graph, so the graphs of all parts live as long as your total. Add loss.item()."""
    total = 0.0
    for parameter in parameters:
        parameter.grad = None
    for start in range(0, len(inputs), size):
        x, y = inputs[start : start + size], targets[start : start + size]
        loss = loss_of(x, y) * (len(x) / len(inputs))
        loss.backward()
        total = total + loss
    return total


# ---------------------------------------------------------------------------------------------------------------------
standardise = Exercise("autograd.pytorch.standardise")


@standardise.cases
def _(rng):
    def case(label, *shape, eps=1e-5, dtype=torch.float64):
        x, weights = tensor(rng, *shape, dtype=dtype) * 2, tensor(rng, *shape, dtype=dtype)
        return Case(label, x=x, eps=eps, weights=weights)

    yield Case("the result alone", x=tensor(rng, 1, 3) * 2, eps=1e-5, weights=None)
    yield case("one row", 1, 3)
    yield case("four rows", 4, 5)
    yield case("a square", 4, 4)
    yield case("one dim only", 6)
    yield case("three dims", 2, 3, 5)
    yield case("a large eps", 3, 4, eps=0.7)
    yield Case("the default eps", x=tensor(rng, 2, 4) * 0.01, weights=tensor(rng, 2, 4))
    far = tensor(rng, 3, 4) + torch.tensor([[-40.0], [0.0], [60.0]])
    yield Case("rows far apart", x=far, eps=1e-3, weights=tensor(rng, 3, 4))
    yield case("eps is 0", 2, 4, eps=0.0)
    centred = torch.tensor([[1.5, -0.5, -1.0], [0.25, 1.0, -1.25]], dtype=torch.float64)
    yield Case("rows with mean 0", x=centred, eps=1e-3, weights=tensor(rng, 2, 3))
    equal = torch.full((2, 4), 0.75, dtype=torch.float64)
    yield Case("rows of equal numbers", x=equal, eps=1e-2, weights=tensor(rng, 2, 4))
    yield case("rows of one number", 3, 1, eps=1e-2)
    yield case("float32", 3, 5, eps=1e-2, dtype=torch.float32)
    yield Case("rows far from 0", x=tensor(rng, 2, 4) + 30_000, eps=1e-3, weights=tensor(rng, 2, 4))
    yield Case("columns of a larger matrix", x=tensor(rng, 5, 3).T, eps=1e-5, weights=tensor(rng, 3, 5))


@standardise.observe
def _(obj, x, weights, eps=None):
    leaf = x.clone().requires_grad_()
    # A result, because PyTorch lets a submission overwrite it; or a tensor without a past.
    given = x if weights is None else leaf * 1
    result = obj(given) if eps is None else obj(given, eps)
    if result is None:
        return None
    if not isinstance(result, torch.Tensor) or result.shape != x.shape:
        return "You must return a tensor of the same shape as x."
    seen = {"The result": result.detach().clone()}
    if weights is not None:
        if not result.requires_grad:
            return "Your result has no graph behind it: no gradient can flow back to x."
        # The gradient of a weighted sum of the result.
        [slope] = torch.autograd.grad((result * weights).sum(), leaf, materialize_grads=True)
        seen["The gradient in x of (result * weights).sum()"] = slope
    return seen | {
        "Afterwards, the caller's x": given.detach(),
        "Afterwards, x.requires_grad": given.requires_grad,
    }


@standardise.oracle
def _(x, weights, eps=1e-5):
    wide = x.double().clone().requires_grad_()
    result = torch.nn.functional.layer_norm(wide, x.shape[-1:], eps=eps)
    seen = {"The result": result.detach().to(x.dtype)}
    if weights is not None:
        result.backward(weights.double())
        seen["The gradient in x of (result * weights).sum()"] = wide.grad.to(x.dtype)
    return seen | {"Afterwards, the caller's x": x, "Afterwards, x.requires_grad": weights is not None}


standardise.agree(by_name)


def _rows(x):
    return x.mean(dim=-1, keepdim=True)


@standardise.mistake
def divides_in_place(x, eps=1e-5):
    """The result is right, but an in-place operation overwrote numbers that an earlier line had kept for its own backward pass, so PyTorch refuses to go back. Give each step memory of its own: no -= and no /=."""
    y = x.clone()
    y -= _rows(y)
    spread = _rows(y * y)
    y /= (spread + eps).sqrt()
    return y


@standardise.mistake
def divides_in_secret(x, eps=1e-5):
    """The result is right and the gradient wrong: you divided past autograd, through .data or inside no_grad. It has not seen the division, so it differentiates another function than the one you computed."""
    y = x.clone()
    y = y - _rows(y)
    y.data /= (_rows(y.data * y.data) + eps).sqrt()
    return y


@standardise.mistake
def constant_spread(x, eps=1e-5):
    """The result is right and the gradient wrong: the spread was treated as a constant (detach, .data or no_grad). But every x has a hand in it, so part of the gradient flows through the spread."""
    difference = x - _rows(x)
    return difference / (_rows(difference**2).detach() + eps).sqrt()


@standardise.mistake
def constant_mean_and_spread(x, eps=1e-5):
    """The result is right and the gradient wrong: mean and spread were both treated as constants (detach, .data or no_grad). Every x has a hand in both of them; let autograd see all steps."""
    difference = x - _rows(x.detach())
    return difference / (_rows(difference.detach() ** 2) + eps).sqrt()


@standardise.mistake
def constant_mean(x, eps=1e-5):
    """The result is right and the gradient wrong: the mean was treated as a constant (detach, .data or no_grad). When one x moves, the mean moves with it, and with the mean all differences of the row."""
    difference = x - _rows(x.detach())
    return difference / (_rows(difference**2) + eps).sqrt()


@standardise.mistake
def overwrites_the_callers_numbers(x, eps=1e-5):
    """Your result is right, but you subtracted in place from x itself, so the caller's numbers are gone. Make a new tensor: x - mean."""
    x -= _rows(x)
    return x / (_rows(x**2) + eps).sqrt()


@standardise.mistake
def no_graph_at_all(x, eps=1e-5):
    """Your numbers are right, but you cut x off from its past (detach, .data or no_grad), so no gradient can flow back to it."""
    difference = x.detach() - _rows(x.detach())
    return difference / (_rows(difference**2) + eps).sqrt()


@standardise.mistake
def squares_minus_square(x, eps=1e-5):
    """You took the mean of the squares minus the square of the mean. On paper that is the same, but far from 0 two huge numbers cancel and few digits are left. Square the differences."""
    mean = _rows(x)
    return (x - mean) / (_rows(x * x) - mean * mean + eps).sqrt()


@standardise.mistake
def divides_by_one_less(x, eps=1e-5):
    """You divided the sum of squares by n − 1, as var and std do unless told otherwise. The mean square divides by n; and for rows of one number, n − 1 is zero."""
    return (x - _rows(x)) / (x.var(dim=-1, keepdim=True) + eps).sqrt()


@standardise.mistake
def eps_outside_the_root(x, eps=1e-5):
    """You added eps after the root. It belongs inside: the root of 0 has no finite slope, so a row of equal numbers gives a gradient of nan."""
    difference = x - _rows(x)
    return difference / (_rows(difference**2).sqrt() + eps)


@standardise.mistake
def forgot_the_root(x, eps=1e-5):
    """You divided by the mean square itself. Without the root, a row of numbers twice as large comes out half as large, not the same."""
    difference = x - _rows(x)
    return difference / (_rows(difference**2) + eps)


@standardise.mistake
def one_mean_for_all_rows(x, eps=1e-5):
    """You took mean and spread over the whole tensor. Each row (the last dim) has its own."""
    difference = x - x.mean()
    return difference / ((difference**2).mean() + eps).sqrt()


@standardise.mistake
def along_the_first_dim(x, eps=1e-5):
    """You worked along the first dim, down the columns. The numbers of a row lie along the last one, dim=-1."""
    difference = x - x.mean(dim=0, keepdim=True)
    return difference / ((difference**2).mean(dim=0, keepdim=True) + eps).sqrt()


# ---------------------------------------------------------------------------------------------------------------------
hessian_vector_product = Exercise("autograd.pytorch.hessian_vector_product")


@hessian_vector_product.cases
def _(rng):
    def some(*shape):
        return tensor(rng, *shape)

    ones = torch.ones(2, dtype=torch.float64)
    yield Case("two numbers", f="x[0] ** 2 * x[1] + x[1] ** 3", x=some(2), v=some(2))
    yield Case("one number", f="x ** 3", x=some(), v=some())
    yield Case("at the bottom of a bowl", f="((x - 1) ** 2).sum()", x=ones.clone(), v=some(2))
    yield Case("no number acts on another", f="(x ** 2).sum()", x=ones.clone(), v=some(2))
    yield Case("v is all ones", f="x[0] ** 2 * x[1] + x[1] ** 3", x=some(2), v=ones.clone())
    yield Case("a product of two", f="x[0] * x[1]", x=some(2), v=some(2))
    yield Case("a product of four", f="x.prod()", x=some(4), v=some(4))
    yield Case("a vector of five", f="(x.tanh() * x.roll(1).exp()).sum()", x=some(5), v=some(5))
    yield Case("a matrix", f="(x @ x.T).sin().sum()", x=some(2, 3), v=some(2, 3))
    yield Case("x wants a gradient", f="(x[0] * x[1:]).exp().sum()", x=wanting(some(3)), v=some(3))
    held = wanting(some(3), held=5.0)
    yield Case("x holds a gradient already", f="(x[0] * x[1:]).exp().sum()", x=held, v=some(3))
    single = [tensor(rng, 4, dtype=torch.float32) for _ in range(2)]
    yield Case("float32", f="(x * x.roll(1)).sin().sum()", x=single[0], v=single[1])
    yield Case(
        "x and v want gradients", f="(x * x.roll(1)).exp().sum()", x=wanting(some(3)), v=wanting(some(3))
    )
    yield Case("f has a leaf of its own", f="(own * x * x.roll(1)).sin().sum()", x=some(3), v=some(3))
    yield Case("a wave too fast for nudging", f="(10000 * x).sin().sum() / 10000", x=some(3), v=some(3))
    yield Case("150 numbers", f="(x.tanh() * x.roll(1)).sum()", x=some(150), v=some(150))


@hessian_vector_product.property
def makes_no_table(obj, f, x, v):
    """The product is right, but you made the whole table H, at once or row by row: the work grows with its size. Let v weight the gradient first; then one more backward pass is enough."""
    if x.numel() < 150:
        return True
    with Work() as work:
        obj(function(f, 1, own_leaf()), x, v)
    return work.made < x.numel() ** 2  # right answers make some 50 numbers per entry of x, tables a thousand


@hessian_vector_product.observe
def _(obj, f, x, v):
    own = own_leaf()
    product = obj(function(f, 1, own), x, v)
    if product is None:
        return None
    if not isinstance(product, torch.Tensor):
        return "You must return a tensor."
    return {"H v": product, "In H v, requires_grad": product.requires_grad} | traces(x=x, v=v, own=own)


@hessian_vector_product.oracle
def _(f, x, v):
    wide = x.detach().double()
    along = torch.func.jvp(
        torch.func.grad(function(f, 1, own_leaf().detach())), (wide,), (v.detach().double(),)
    )
    product = along[1].to(x.dtype)
    return {"H v": product, "In H v, requires_grad": False} | traces(x=x, v=v, own=own_leaf())


hessian_vector_product.agree(by_name)


@hessian_vector_product.mistake
def stops_at_the_gradient(f, x, v):
    """You multiplied the gradient with v, number by number, and returned that: only first derivatives. Sum it to one number, and differentiate this number once more."""
    leaf = x.detach().requires_grad_()
    [gradient] = torch.autograd.grad(f(leaf), leaf)
    return gradient * v


@hessian_vector_product.mistake(shape=True)
def gradient_not_recorded(f, x, v):
    """Your gradient carries no graph, so it cannot be differentiated again. Ask for one in the first pass, with create_graph=True; retain_graph keeps only the graph of f, not that of the gradient."""
    leaf = x.detach().requires_grad_()
    [gradient] = torch.autograd.grad(f(leaf), leaf)
    return torch.autograd.grad((gradient * v).sum(), leaf)[0]


@hessian_vector_product.mistake
def multiplies_at_the_end(f, x, v):
    """You differentiated the plain sum of the gradient and multiplied by v afterwards. That gives row sums of H times v, number by number. Each entry of the gradient must be weighted by v before they are summed."""
    leaf = x.detach().requires_grad_()
    [gradient] = torch.autograd.grad(f(leaf), leaf, create_graph=True)
    return torch.autograd.grad(gradient.sum(), leaf)[0] * v


@hessian_vector_product.mistake
def forgets_v(f, x, v):
    """You differentiated the plain sum of the gradient: that is H times a vector of ones, and v has no say. Weight each entry of the gradient by v before you sum."""
    leaf = x.detach().requires_grad_()
    [gradient] = torch.autograd.grad(f(leaf), leaf, create_graph=True)
    return torch.autograd.grad(gradient.sum(), leaf)[0]


@hessian_vector_product.mistake
def adds_the_gradient(f, x, v):
    """You went backward twice and read .grad, which adds up: your answer is the gradient plus H v. Use torch.autograd.grad, which returns each pass by itself."""
    leaf = x.detach().requires_grad_()
    f(leaf).backward(create_graph=True)
    gradient = leaf.grad.clone()
    leaf.grad = leaf.grad.detach()
    (gradient * v).sum().backward()
    return leaf.grad


@hessian_vector_product.mistake
def backward_at_the_end(f, x, v):
    """The product is right, but your last pass is a backward(), which fills .grad of every leaf that it can reach: v's, if it wants one, and those of leaves that f uses. Use torch.autograd.grad."""
    leaf = x.detach().requires_grad_()
    [gradient] = torch.autograd.grad(f(leaf), leaf, create_graph=True)
    (gradient * v).sum().backward()
    return leaf.grad


@hessian_vector_product.mistake
def wants_gradients_of_the_callers_x(f, x, v):
    """The product is right, but you called requires_grad_() on the caller's own x, and it keeps that. Work on a fresh leaf, made with detach()."""
    x.requires_grad_()
    [gradient] = torch.autograd.grad(f(x), x, create_graph=True)
    return torch.autograd.grad((gradient * v).sum(), x)[0]


@hessian_vector_product.mistake
def takes_x_as_it_comes(f, x, v):
    """You used the given x itself. If it does not want a gradient, nothing is recorded, and there is nothing to differentiate. Make a fresh leaf of it, with detach() and requires_grad_()."""
    [gradient] = torch.autograd.grad(f(x), x, create_graph=True)
    return torch.autograd.grad((gradient * v).sum(), x)[0]


@hessian_vector_product.mistake
def recorded_once_too_often(f, x, v):
    """The product is right, but it carries a graph, because you asked for create_graph in the second pass too. Only the first gradient is differentiated again."""
    leaf = x.detach().requires_grad_()
    [gradient] = torch.autograd.grad(f(leaf), leaf, create_graph=True)
    return torch.autograd.grad((gradient * v).sum(), leaf, create_graph=True)[0]


@hessian_vector_product.mistake(shape=True)
def returns_the_number(f, x, v):
    """You returned the number that is to be differentiated, gradient times v. Its gradient in x is the answer: one more pass."""
    leaf = x.detach().requires_grad_()
    [gradient] = torch.autograd.grad(f(leaf), leaf)
    return (gradient * v).sum()


# ---------------------------------------------------------------------------------------------------------------------
descend_near_average = Exercise("autograd.pytorch.descend_near_average", may_change=("w",))


@descend_near_average.cases
def _(rng):
    def case(label, steps, loss="((x - 3) ** 2).sum() / 2", numbers=(2,), held=None, rate=0.1, decay=0.8):
        w = wanting(tensor(rng, *numbers), held)
        return Case(label, w=w, loss=loss, learning_rate=rate, decay=decay, steps=steps)

    curved = "(x ** 2).sum() + (x[0] * x[1:]).sin().sum()"
    yield case("one step", steps=1)
    yield case("two steps", steps=2)
    yield case("three steps", steps=3)
    yield case("no step at all", steps=0)
    yield case("a single number", steps=3, loss="(x - 3) ** 2 / 2", numbers=())
    yield case("eight steps on a curved loss", steps=8, loss=curved, numbers=(4,), rate=0.05)
    yield case("a gradient left over from before", steps=1, held=2.0)
    yield case("the same, four steps", steps=4, held=-3.0, rate=0.2, decay=0.6)
    yield case("a matrix", steps=5, loss="(x @ x.T).cos().sum()", numbers=(2, 3), decay=0.9)
    yield case("a decay of 0.5", steps=4, loss=curved, numbers=(3,), decay=0.5)
    yield case("a wave too fast for nudging", steps=1, loss="(10000 * x).sin().sum() / 10000", numbers=(3,))


@descend_near_average.property
def no_graph_outlives_its_step(obj, w, loss, learning_rate, decay, steps):
    """The numbers are right, but graphs pile up: those of early steps are still in memory in late ones. Something that lives on, your average or a list, holds a tensor with a past. Cut its past off where you make it."""
    if steps < 8:
        return True
    f, most = function(loss, 1), 0
    with Nodes() as nodes:

        def loss_of(x):
            nonlocal most
            nodes.step += 1
            most = max(most, nodes.alive())
            return f(x)

        obj(w, loss_of, learning_rate, decay, steps)
    return most <= 4  # the last one or two, and room for answers that call loss_of twice


@descend_near_average.observe
def _(obj, w, loss, learning_rate, decay, steps):
    losses = obj(w, function(loss, 1), learning_rate, decay, steps)
    if losses is None:
        return None
    if not isinstance(losses, list | tuple) or not all(isinstance(x, int | float) for x in losses):
        return "You must return a list of plain numbers."
    seen = {"The losses": list(losses), "Afterwards, w": w.detach()}
    return seen | {"Afterwards, w.requires_grad": w.requires_grad}


@descend_near_average.oracle
def _(w, loss, learning_rate, decay, steps):
    slope_of = torch.func.grad_and_value(function(loss, 1))
    w = w.detach().clone()
    average, losses = w.clone(), []
    for _ in range(steps):
        slope, value = slope_of(w)
        away = w - average
        losses.append(value.item() + away.square().sum().item() / 2)
        w = w - learning_rate * (slope + away)
        average = average + (1 - decay) * (w - average)
    return {"The losses": losses, "Afterwards, w": w, "Afterwards, w.requires_grad": True}


descend_near_average.agree(by_name)


def _leash(
    w, loss_of, learning_rate, decay, steps, *, constant=True, clear=True, half=0.5, update=None, sign=1
) -> list[float]:
    """The loop, with one thing done in another way."""
    average = w.detach().clone()
    losses = []
    for _ in range(steps):
        loss = loss_of(w) + half * ((w - average) ** 2).sum()
        if clear:
            w.grad = None
        loss.backward(retain_graph=not constant)
        losses.append(loss.item())
        with torch.no_grad():
            w -= sign * learning_rate * w.grad
        now = w.detach().clone() if constant else w
        average = update(average, now) if update else decay * average + (1 - decay) * now
    return losses


@descend_near_average.mistake
def keeps_the_graph(w, loss_of, learning_rate, decay, steps):
    """The average is still recorded, and retain_graph only hides that: each graph reaches back through all earlier steps, and the slope takes the average for something that moves along with w. Make the average a constant."""
    return _leash(w, loss_of, learning_rate, decay, steps, constant=False)


@descend_near_average.mistake
def second_time_through_the_graph(w, loss_of, learning_rate, decay, steps):
    """You left out retain_graph, which is right, but the average is still recorded: a later step reaches back into a graph that an earlier one has freed. Make the average a constant."""
    average = w.detach().clone()
    losses = []
    for _ in range(steps):
        loss = loss_of(w) + ((w - average) ** 2).sum() / 2
        w.grad = None
        loss.backward()
        losses.append(loss.item())
        with torch.no_grad():
            w -= learning_rate * w.grad
        average = decay * average + (1 - decay) * w
    return losses


@descend_near_average.mistake
def moves_a_leaf_in_place(w, loss_of, learning_rate, decay, steps):
    """You moved w in place while PyTorch was recording: the first error of this lesson. Move it inside `with torch.no_grad():`, to say that this is no calculation to be differentiated."""
    for _ in range(steps):
        w -= learning_rate
    return []


@descend_near_average.mistake
def never_moves_the_average(w, loss_of, learning_rate, decay, steps):
    """Your average stays where w began. After each step it must move a little towards the new w."""
    return _leash(w, loss_of, learning_rate, decay, steps, update=lambda average, now: average)


@descend_near_average.mistake
def leash_that_never_pulls(w, loss_of, learning_rate, decay, steps):
    """Your leash never pulls: either the distance is missing from the loss, or your average is just the newest w. It must keep the share `decay` of the old average."""
    return _leash(w, loss_of, learning_rate, decay, steps, update=lambda average, now: now)


@descend_near_average.mistake
def decay_on_the_wrong_side(w, loss_of, learning_rate, decay, steps):
    """You exchanged the two shares: with a decay near 1 the old average must keep most of its weight, and the new w comes in with 1 − decay."""
    return _leash(
        w, loss_of, learning_rate, decay, steps, update=lambda a, now: (1 - decay) * a + decay * now
    )


@descend_near_average.mistake
def averages_before_the_move(w, loss_of, learning_rate, decay, steps):
    """You updated the average before w moved, so it is always one step late. First the move, then the average of the new w."""
    average = w.detach().clone()
    losses = []
    for _ in range(steps):
        loss = loss_of(w) + ((w - average) ** 2).sum() / 2
        w.grad = None
        loss.backward()
        losses.append(loss.item())
        with torch.no_grad():
            average = decay * average + (1 - decay) * w
            w -= learning_rate * w.grad
    return losses


@descend_near_average.mistake
def never_clears_the_gradient(w, loss_of, learning_rate, decay, steps):
    """Each step also uses the gradients of all earlier ones, and what w held before: a leaf keeps a running total. Clear w.grad in every step."""
    return _leash(w, loss_of, learning_rate, decay, steps, clear=False)


@descend_near_average.mistake
def clears_after_the_move(w, loss_of, learning_rate, decay, steps):
    """You clear w.grad only after a step. Whatever w held when it was handed to you still goes into your first step. Clear before you go backward."""
    average = w.detach().clone()
    losses = []
    for _ in range(steps):
        loss = loss_of(w) + ((w - average) ** 2).sum() / 2
        loss.backward()
        losses.append(loss.item())
        with torch.no_grad():
            w -= learning_rate * w.grad
            average = decay * average + (1 - decay) * w
        w.grad = None
    return losses


@descend_near_average.mistake
def forgets_the_half(w, loss_of, learning_rate, decay, steps):
    """Your leash pulls twice as hard as it should: the squared distance is divided by 2 in the loss."""
    return _leash(w, loss_of, learning_rate, decay, steps, half=1.0)


@descend_near_average.mistake
def leash_without_a_pull(w, loss_of, learning_rate, decay, steps):
    """You detached too much: w itself is a constant in your distance, so the leash is in the loss but not in its slope. Only the average is a fixed post; w must stay in the graph."""
    average = w.detach().clone()
    losses = []
    for _ in range(steps):
        loss = loss_of(w) + ((w.detach() - average) ** 2).sum() / 2
        w.grad = None
        loss.backward()
        losses.append(loss.item())
        with torch.no_grad():
            w -= learning_rate * w.grad
            average = decay * average + (1 - decay) * w
    return losses


@descend_near_average.mistake
def climbs(w, loss_of, learning_rate, decay, steps):
    """The loss goes up: you added the gradient. It points uphill, so subtract it."""
    return _leash(w, loss_of, learning_rate, decay, steps, sign=-1)


@descend_near_average.mistake
def moves_a_tensor_of_its_own(w, loss_of, learning_rate, decay, steps):
    """Your losses are right, but the caller's w has not moved: `w = w - …` gives the name w to a new tensor. Change the given one, with w -= … in no_grad."""
    return _leash(w.detach().clone().requires_grad_(), loss_of, learning_rate, decay, steps)


@descend_near_average.mistake
def loss_after_the_move(w, loss_of, learning_rate, decay, steps):
    """The moves are right, but you recorded each loss after its move. Record the loss that the step starts from."""
    average = w.detach().clone()
    losses = []
    for _ in range(steps):
        loss = loss_of(w) + ((w - average) ** 2).sum() / 2
        w.grad = None
        loss.backward()
        with torch.no_grad():
            w -= learning_rate * w.grad
            losses.append((loss_of(w) + ((w - average) ** 2).sum() / 2).item())
            average = decay * average + (1 - decay) * w
    return losses


@descend_near_average.mistake
def records_the_loss_without_the_leash(w, loss_of, learning_rate, decay, steps):
    """The moves are right, but you recorded loss_of(w) alone. Record the whole loss, with the leash."""
    start = w.detach().clone()
    _leash(w, loss_of, learning_rate, decay, steps)
    again, losses = start.clone().requires_grad_(), []
    average = start
    for _ in range(steps):
        value = loss_of(again)
        losses.append(value.item())
        [slope] = torch.autograd.grad(value + ((again - average) ** 2).sum() / 2, again)
        with torch.no_grad():
            again -= learning_rate * slope
            average = decay * average + (1 - decay) * again
    return losses


@descend_near_average.mistake(shape=True)
def list_of_tensors(w, loss_of, learning_rate, decay, steps):
    """Your list holds tensors, not numbers, and each of them holds on to its graph. Record loss.item()."""
    return [torch.tensor(loss) for loss in _leash(w, loss_of, learning_rate, decay, steps)]
