"""Proofs about the lesson autograd.arrays that go beyond its checks: any shape, any number, any text."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from beartype import beartype
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jaxtyping import TypeCheckError, jaxtyped
from torch.nn import functional as F

from groundup.autograd.arrays import (
    broadcast_shape,
    einsum_by_loops,
    negative_log_likelihood,
    softmax,
    strides_of,
    sum_accurately,
)

sizes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
filled = st.lists(st.integers(1, 5), max_size=5).map(tuple)
modest = settings(max_examples=200, deadline=None)


def typed(function):
    """`function` with its jaxtyping annotations enforced."""
    return jaxtyped(function, typechecker=beartype)


# --------------------------------------------------------------------------------------- strides, broadcasting


@modest
@given(filled, st.sampled_from([np.float64, np.float32, np.int16, np.uint8]))
def test_strides_are_those_of_numpy_and_of_torch(shape, dtype):
    array = np.zeros(shape, dtype=dtype)
    assert strides_of(shape, array.itemsize) == array.strides
    assert strides_of(shape, 1) == torch.zeros(shape).stride()


@modest
@given(filled, st.randoms(use_true_random=False))
def test_strides_lead_every_index_to_its_byte(shape, random):
    array = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
    index = tuple(random.randrange(n) for n in shape)
    offset = sum(i * s for i, s in zip(index, strides_of(shape, 4), strict=True))
    assert np.frombuffer(array.tobytes(), dtype=np.int32, count=1, offset=offset)[0] == array[index]


@modest
@given(sizes, sizes)
def test_broadcasting_is_numpys_also_where_it_refuses(a, b):
    try:
        expected = np.broadcast_shapes(a, b)
    except ValueError:
        with pytest.raises(ValueError, match="cannot broadcast"):
            broadcast_shape(a, b)
    else:
        assert broadcast_shape(a, b) == expected
        assert (np.zeros(a) + np.zeros(b)).shape == expected


@given(sizes, sizes, sizes)
def test_broadcasting_three_shapes_does_not_depend_on_the_order(a, b, c):
    def all_three(first, second, third):
        try:
            return broadcast_shape(broadcast_shape(first, second), third)
        except ValueError:
            return "refused"

    assert all_three(a, b, c) == all_three(b, c, a)


# -------------------------------------------------------------------------------------------------------- einsum


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_einsum_agrees_with_numpy_on_any_text(data):
    names_a = data.draw(st.text("ijkl", max_size=3), label="a")
    names_b = data.draw(st.text("ijkl", max_size=3), label="b")
    present = sorted(set(names_a + names_b))
    kept = "".join(data.draw(st.permutations(present)))[: data.draw(st.integers(0, len(present)))]
    size = {name: data.draw(st.integers(1, 3), label=name) for name in present}
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=[size[name] for name in names]) for names in (names_a, names_b))
    spec = f"{names_a},{names_b}->{kept}"
    np.testing.assert_allclose(einsum_by_loops(spec, a, b), np.einsum(spec, a, b), rtol=1e-12, atol=1e-12)


def test_einsum_refuses_a_text_that_does_not_fit():
    with pytest.raises(ValueError):
        einsum_by_loops("ij,jk->ik", np.zeros((2, 3)), np.zeros(3))


@pytest.mark.parametrize(
    ("spec", "a", "b"),
    [("ij,jk->ik", (2, 4), (3, 5)), ("ij,jk->ik", (2, 1), (3, 5)), ("ii,i->i", (2, 3), (3,))],
)
def test_einsum_refuses_one_letter_with_two_sizes(spec, a, b):
    with pytest.raises(ValueError, match=r"[ij] is \d and \d"):
        einsum_by_loops(spec, np.ones(a), np.ones(b))


# ----------------------------------------------------------------------------------------------------------- sum


def exact_sum(values: np.ndarray) -> Fraction:
    return sum(map(Fraction, values.tolist()), Fraction(0))


def bound(values: np.ndarray) -> Fraction:
    """What Ogita, Rump and Oishi prove of Sum2: |error| ≤ u·|sum| + γ²·Σ|x|, with γ = n·u/(1 − n·u)."""
    u = Fraction(float(np.finfo(values.dtype).eps)) / 2
    gamma = len(values) * u / (1 - len(values) * u)
    return u * abs(exact_sum(values)) + gamma**2 * exact_sum(np.abs(values))


@modest
@given(st.sampled_from([(np.float64, 2.0**500, 2.0**-300), (np.float32, 2.0**50, 2.0**-30)]), st.data())
def test_the_sum_keeps_its_proven_bound(kind, data):
    dtype, largest, smallest = kind
    width = np.finfo(dtype).bits
    number = st.floats(-largest, largest, width=width).filter(lambda x: x == 0 or abs(x) > smallest)
    values = np.array(data.draw(st.lists(number, max_size=50)), dtype=dtype)
    assert abs(Fraction(float(sum_accurately(values))) - exact_sum(values)) <= bound(values)


def test_a_running_sum_loses_what_ours_keeps():
    values = np.array([1.0, 1e100, 1.0, -1e100])
    running, ours = float(np.cumsum(values)[-1]), float(sum_accurately(values))
    assert abs(ours - 2) <= 1e-15 and abs(running - 2) > 1


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_the_sum_keeps_its_dtype(dtype):
    assert sum_accurately(np.ones(3, dtype=dtype)).dtype == dtype


def test_the_sum_of_no_numbers_is_zero():
    assert sum_accurately(np.zeros(0)) == 0


# -------------------------------------------------------------------------------------------------- probabilities

scores = hnp.arrays(np.float64, hnp.array_shapes(max_dims=4, max_side=4), elements=st.floats(-1e4, 1e4))


@modest
@given(scores, st.data())
def test_softmax_agrees_with_torch_on_any_axis(x, data):
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    expected = torch.softmax(torch.from_numpy(x), dim=axis).numpy()
    np.testing.assert_allclose(softmax(x, axis), expected, rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_softmax_keeps_dtype_and_input(dtype):
    x = np.random.default_rng(0).normal(size=(3, 5)).astype(dtype)
    before = x.copy()
    assert softmax(x, 0).dtype == dtype
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_the_loss_keeps_its_dtype(dtype):
    loss = negative_log_likelihood(np.array([[200, 0, 100]], dtype=dtype), np.array([1]))
    assert loss.dtype == dtype and loss == 200


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_two_classes_have_a_closed_form(x, y):
    """−ln(e^x / (e^x + e^y)) = ln(1 + e^(y − x))."""
    loss = negative_log_likelihood(np.array([[x, y]]), np.array([0]))
    assert loss == pytest.approx(np.logaddexp(0, y - x), rel=1e-9, abs=1e-12)


@modest
@given(st.integers(1, 6), st.integers(1, 6), st.floats(0.1, 1e4), st.integers(0, 10**6))
def test_the_loss_agrees_with_torch(batch, classes, scale, seed):
    rng = np.random.default_rng(seed)
    logits, targets = rng.normal(size=(batch, classes)) * scale, rng.integers(classes, size=batch)
    expected = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(targets)).item()
    assert negative_log_likelihood(logits, targets) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(st.integers(1, 50))
def test_who_knows_nothing_is_ln_of_the_classes_surprised(classes):
    assert negative_log_likelihood(np.zeros((1, classes)), np.array([0])) == pytest.approx(math.log(classes))


@modest
@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 5)), elements=st.floats(-5, 5)))
def test_the_loss_is_the_mean_logarithm_of_the_softmax_where_that_is_safe(logits):
    targets = np.arange(len(logits)) % logits.shape[1]
    by_definition = -np.mean([math.log(softmax(row)[t]) for row, t in zip(logits, targets, strict=True)])
    assert negative_log_likelihood(logits, targets) == pytest.approx(by_definition, rel=1e-9, abs=1e-12)


# -------------------------------------------------------------------------------------------------------- shapes


def test_the_signatures_are_true():
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(4, 3)), np.array([0, 1, 2, 0])
    assert typed(strides_of)((2, 3), 8) == (24, 8)
    assert typed(broadcast_shape)((2, 1), (3,)) == (2, 3)
    assert typed(einsum_by_loops)("ij,jk->ik", logits.T, logits).shape == (3, 3)
    assert typed(sum_accurately)(np.ones(3)) == 3
    assert typed(softmax)(logits).shape == (4, 3)
    assert typed(negative_log_likelihood)(logits, targets) > 0


@pytest.mark.parametrize("targets", [np.zeros((4, 1), dtype=int), np.zeros(3, dtype=int), np.zeros(4)])
def test_the_signatures_catch_a_column_of_targets(targets):
    with pytest.raises(TypeCheckError):
        typed(negative_log_likelihood)(np.zeros((4, 3)), targets)
