"""The lesson autograd.pytorch: its functions against nudging, torch.autograd.functional and whole batches."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.autograd import pytorch
from groundup.autograd.pytorch import (
    accumulate_slopes,
    descend_near_average,
    hessian_vector_product,
    slopes_at,
    standardise,
)
from groundup.check import grade
from tests.lessons.edits import edited

seeds = st.integers(0, 2**31 - 1)


def curved(x):
    return (x * x.roll(1)).sin().sum() + x.tanh().prod()


def nudged(f, x, h=1e-6):
    """The gradient of f at x by central differences."""
    slopes = torch.zeros_like(x)
    for index in np.ndindex(*x.shape):
        step = torch.zeros_like(x)
        step[index] = h
        slopes[index] = (f(x + step) - f(x - step)) / (2 * h)
    return slopes


@settings(max_examples=50, deadline=None)
@given(seeds, st.integers(1, 6))
def test_slopes_equal_nudging(seed, size):
    torch.manual_seed(seed)
    x, y = torch.randn(2, size, dtype=torch.float64)
    slope_x, slope_y = slopes_at(lambda x, y: curved(x * y) + curved(y), [x, y])
    torch.testing.assert_close(slope_x, nudged(lambda x: curved(x * y), x), atol=1e-7, rtol=1e-6)
    torch.testing.assert_close(slope_y, nudged(lambda y: curved(x * y) + curved(y), y), atol=1e-7, rtol=1e-6)
    assert x.grad is None and not x.requires_grad


@settings(max_examples=50, deadline=None)
@given(seeds, st.integers(1, 6))
def test_hessian_vector_product_equals_the_whole_table_and_nudging(seed, size):
    torch.manual_seed(seed)
    x, v = torch.randn(2, size, dtype=torch.float64)
    product = hessian_vector_product(curved, x, v)
    torch.testing.assert_close(product, torch.autograd.functional.hessian(curved, x) @ v)
    torch.testing.assert_close(product, torch.autograd.functional.hvp(curved, x, v)[1])
    [up], [down] = slopes_at(curved, [x + 1e-5 * v]), slopes_at(curved, [x - 1e-5 * v])
    torch.testing.assert_close(product, (up - down) / 2e-5, atol=1e-6, rtol=1e-5)


@settings(max_examples=50, deadline=None)
@given(seeds, st.integers(1, 20), st.integers(1, 25))
def test_parts_of_any_size_equal_the_whole_batch(seed, rows, size):
    torch.manual_seed(seed)
    w = torch.randn(3, dtype=torch.float64, requires_grad=True)
    inputs, targets = torch.randn(rows, 3, dtype=torch.float64), torch.randn(rows, dtype=torch.float64)

    def loss_of(x, y):
        return (torch.tanh(x @ w) - y).abs().mean()

    whole = loss_of(inputs, targets)
    [slope] = torch.autograd.grad(whole, w)
    assert accumulate_slopes(loss_of, [w], inputs, targets, size) == pytest.approx(whole.item(), rel=1e-12)
    torch.testing.assert_close(w.grad, slope)


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4)])
def test_standardise_passes_gradcheck_and_equals_layer_norm(shape):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(standardise, x)
    assert torch.autograd.gradgradcheck(standardise, x)
    torch.testing.assert_close(standardise(x), torch.nn.functional.layer_norm(x, shape[-1:]))


def test_each_step_on_the_leash_follows_its_own_slope():
    """The slope of a step, measured by nudging, while the average stands still."""
    torch.manual_seed(0)
    w = torch.randn(4, dtype=torch.float64, requires_grad=True)
    before, average = w.detach().clone(), w.detach().clone()
    for steps in range(1, 6):
        here = before.clone().requires_grad_()
        descend_near_average(here, curved, 0.05, 0.7, steps)
        at = before.clone().requires_grad_()
        descend_near_average(at, curved, 0.05, 0.7, steps - 1)
        at = at.detach()
        if steps > 1:
            average = 0.7 * average + 0.3 * at
        fixed = average.clone()
        slope = nudged(lambda x, fixed=fixed: curved(x) + ((x - fixed) ** 2).sum() / 2, at)
        torch.testing.assert_close(here.detach(), at - 0.05 * slope, atol=1e-8, rtol=1e-7)


# A learner's slip, as an edit of the course's version, and what the reply must say.
SLIPS = {
    "slopes_at": [
        ("return torch", "torch", "You returned None. Is a return missing?"),
        ("materialize_grads=True)", "materialize_grads=True)[:1]", "You must return a tuple"),
        ("f(*leaves), leaves", "2 * f(*leaves), leaves", "The gradient in x: "),
    ],
    "accumulate_slopes": [
        ("return total", "return None", "You returned None. Is a return missing?"),
        ("return total", "return loss", "Return a plain number"),
        ("total += loss.item()", "total = loss.item()", "The loss that you return: "),
        ("start : start + size]", "start : start + size + 1]", "The gradient in the weights: "),
    ],
    "standardise": [
        ("return difference / (spread", "difference / (spread", "You returned None. Is a return missing?"),
        ("return difference / (spread + eps).sqrt()", "return spread", "of the same shape as x"),
        ("spread + eps", "spread - eps", "The result: "),
    ],
    "hessian_vector_product": [
        ("return product", "return None", "You returned None. Is a return missing?"),
        ("return product", "return product.tolist()", "You must return a tensor."),
        ("gradient * v", "gradient * v * 2", "H v: "),
    ],
    "descend_near_average": [
        ("return losses", "return None", "You returned None. Is a return missing?"),
        ("return losses", "return losses[-1:]", "The losses: "),
        ("-= learning_rate", "-= 2 * learning_rate", "Afterwards, w: "),
    ],
}


@pytest.mark.parametrize(("name", "slip"), [(name, slip) for name in SLIPS for slip in SLIPS[name]])
def test_reply_can_be_read(name, slip):
    old, new, said = slip
    result = grade(f"autograd.pytorch.{name}", edited(pytorch, name, (old, new)), seed=0)
    assert result.status == "failed"
    assert said in result.message


# Wrong answers that an attack has found.


def nudged_slopes_at(f, inputs, h=1e-5):
    """The slopes measured, in float64 whatever the inputs are."""
    wide = [x.detach().double() for x in inputs]
    slopes = []
    for k, x in enumerate(wide):
        with torch.no_grad():
            slope = nudged(lambda x, k=k: f(*wide[:k], x, *wide[k + 1 :]), x, h)
        slopes.append(slope.to(inputs[k].dtype))
    return tuple(slopes)


def zeros_of_one_dtype(f, inputs):
    leaves = [x.detach().requires_grad_() for x in inputs]
    slopes = torch.autograd.grad(f(*leaves), leaves, allow_unused=True)
    zeros = [torch.zeros(x.shape, dtype=torch.float64) for x in inputs]
    return tuple(zero if slope is None else slope for zero, slope in zip(zeros, slopes, strict=True))


def wanting_for_a_while(f, inputs):
    before = [x.requires_grad for x in inputs]
    slopes = torch.autograd.grad(f(*[x.requires_grad_() for x in inputs]), inputs, materialize_grads=True)
    for x, wanted in zip(inputs, before, strict=True):
        x.requires_grad_(wanted)
    return slopes


def also_takes_a_step(loss_of, parameters, inputs, targets, size):
    loss = accumulate_slopes(loss_of, parameters, inputs, targets, size)
    with torch.no_grad():
        for parameter in parameters:
            parameter -= 0.1 * parameter.grad
    return loss


def wants_a_gradient_of_x(x, eps=1e-5):
    return standardise(x.requires_grad_(), eps)


def whole_table(f, x, v):
    table = torch.autograd.functional.hessian(f, x.detach())
    return torch.tensordot(table, v.detach(), dims=v.dim())


def table_at_once(f, x, v):
    return torch.tensordot(torch.func.hessian(f)(x.detach()).detach(), v.detach(), dims=v.dim())


def row_by_row(f, x, v):
    leaf = x.detach().requires_grad_()
    [gradient] = torch.autograd.grad(f(leaf), leaf, create_graph=True)
    rows = [torch.autograd.grad(entry, leaf, retain_graph=True)[0] for entry in gradient.reshape(-1)]
    return torch.stack([(row * v.detach()).sum() for row in rows]).reshape(x.shape)


def nudges_the_gradient(f, x, v, h=1e-5):
    x, v, dtype = x.detach().double(), v.detach().double(), x.dtype
    [up], [down] = slopes_at(f, [x + h * v]), slopes_at(f, [x - h * v])
    return ((up - down) / (2 * h)).to(dtype)


def w_stops_wanting(w, loss_of, learning_rate, decay, steps):
    losses = descend_near_average(w, loss_of, learning_rate, decay, steps)
    w.requires_grad_(False)
    return losses


DETACHED_IN_THE_LOSS = [
    ("w - average", "w - average.detach()"),
    ("            average = ", "        average = "),
]
WRONG = [
    ("slopes_at", nudged_slopes_at),
    ("slopes_at", zeros_of_one_dtype),
    ("slopes_at", wanting_for_a_while),
    ("accumulate_slopes", also_takes_a_step),
    ("standardise", wants_a_gradient_of_x),
    ("hessian_vector_product", whole_table),
    ("hessian_vector_product", table_at_once),
    ("hessian_vector_product", row_by_row),
    ("hessian_vector_product", nudges_the_gradient),
    ("descend_near_average", w_stops_wanting),
    ("descend_near_average", edited(pytorch, "descend_near_average", *DETACHED_IN_THE_LOSS)),
    ("descend_near_average", edited(pytorch, "descend_near_average", ("losses = []", "losses, held = [], []"),
                                    ("loss.backward()", "loss.backward(); held.append(loss)"))),
    ("descend_near_average", edited(pytorch, "descend_near_average", ("w -= ", "w[:] = w - "))),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_wrong_answer_fails(number):
    name, wrong = WRONG[number]
    for seed in range(2):
        assert not grade(f"autograd.pytorch.{name}", wrong, seed=seed).passed


def test_graphs_that_pile_up_are_told():
    wrong = edited(pytorch, "descend_near_average", *DETACHED_IN_THE_LOSS)
    assert "graphs pile up" in grade("autograd.pytorch.descend_near_average", wrong, seed=0).message


# Right answers that are written quite differently.


def by_jacobian(f, inputs):
    return torch.autograd.functional.jacobian(f, tuple(inputs))


def by_func_grad(f, inputs):
    slopes = torch.func.grad(f, argnums=tuple(range(len(inputs))))(*[x.detach() for x in inputs])
    return [slope.detach() for slope in slopes]


def divides_at_the_end(loss_of, parameters, inputs, targets, size):
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    total = 0.0
    for x, y in zip(inputs.split(size), targets.split(size), strict=True):
        loss = loss_of(x, y) * len(x)
        loss.backward()
        total += loss.item()
    for parameter in parameters:
        parameter.grad /= len(inputs)
    return total / len(inputs)


def adds_up_by_itself(loss_of, parameters, inputs, targets, size):
    sums, total = [torch.zeros_like(parameter) for parameter in parameters], 0.0
    for start in range(0, len(inputs), size):
        x = inputs[start : start + size]
        loss, share = loss_of(x, targets[start : start + size]), len(x) / len(inputs)
        for so_far, slope in zip(sums, torch.autograd.grad(loss, parameters), strict=True):
            so_far += share * slope
        total += float(loss) * share
    for parameter, slope in zip(parameters, sums, strict=True):
        parameter.grad = slope
    return total


def by_variance(x, eps=1e-5):
    return (x - x.mean(-1, True)) / (x.var(-1, correction=0, keepdim=True) + eps) ** 0.5


def on_a_copy(x, eps=1e-5):
    y = x.clone()
    y -= y.mean(dim=-1, keepdim=True)
    return y * torch.rsqrt((y * y).mean(dim=-1, keepdim=True) + eps)


def by_hvp(f, x, v):
    return torch.autograd.functional.hvp(f, x, v)[1]


def forward_over_reverse(f, x, v):
    return torch.func.jvp(torch.func.grad(f), (x.detach(),), (v.detach(),))[1].detach()


def with_an_optimizer(w, loss_of, learning_rate, decay, steps):
    optimizer, average, losses = torch.optim.SGD([w], lr=learning_rate), w.detach().clone(), []
    for _ in range(steps):
        pull = ((w - average) ** 2).sum() / 2
        optimizer.zero_grad()
        loss = loss_of(w) + pull
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
        average = torch.lerp(w.detach(), average, decay)
    return losses


def detaches_in_the_next_step(w, loss_of, learning_rate, decay, steps):
    average, losses = w, []
    for _ in range(steps):
        average = average.detach().clone()
        loss = loss_of(w) + torch.nn.functional.mse_loss(w, average, reduction="sum") / 2
        [slope] = torch.autograd.grad(loss, [w])
        losses.append(loss.item())
        w.data.sub_(slope, alpha=learning_rate)
        average = decay * average + (1 - decay) * w
    return losses


RIGHT = {
    "slopes_at": [by_jacobian, by_func_grad],
    "accumulate_slopes": [divides_at_the_end, adds_up_by_itself],
    "standardise": [by_variance, on_a_copy],
    "hessian_vector_product": [by_hvp, forward_over_reverse],
    "descend_near_average": [with_an_optimizer, detaches_in_the_next_step],
}


@pytest.mark.parametrize(("name", "right"), [(name, right) for name in RIGHT for right in RIGHT[name]])
def test_right_answer_passes(name, right):
    for seed in range(3):
        result = grade(f"autograd.pytorch.{name}", right, seed=seed)
        assert result.passed, result.message
