"""The lesson autograd.pytorch: its functions against nudging, torch.autograd.functional and whole batches."""

import inspect

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
from groundup.check import exercises_of, grade

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


EXERCISES = {exercise.id: exercise for exercise in exercises_of("autograd.pytorch")}
MISTAKES = {f"{e.name}-{m.name}": (e, m) for e in EXERCISES.values() for m in e.mistakes}


@pytest.mark.parametrize("id", EXERCISES)
def test_solution_passes_on_many_seeds(id):
    for seed in range(10):
        result = grade(id, getattr(pytorch, id.split(".")[-1]), seed=seed)
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
    source = inspect.getsource(getattr(pytorch, name))
    assert old in source
    learners = dict(vars(pytorch))
    exec(source.replace(old, new), learners)
    result = grade(f"autograd.pytorch.{name}", learners[name], seed=0)
    assert result.status == "failed"
    assert said in result.message
