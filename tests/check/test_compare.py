"""`compare`: what counts as equal, and what a learner reads when it is not."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from groundup.check import compare
from groundup.check.values import clone, describe, plain, same_bits, short

floats = st.floats(allow_nan=True, allow_infinity=True, width=64)
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), floats, st.text(max_size=5), st.binary(max_size=4)
)
shapes = npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
arrays = st.one_of(
    npst.arrays(np.float64, shapes),
    npst.arrays(np.float32, shapes),
    npst.arrays(np.int64, shapes),
    npst.arrays(np.bool_, shapes),
    npst.arrays(np.complex128, shapes),
    npst.arrays(np.float64, shapes).map(torch.tensor),
)
values = st.recursive(
    st.one_of(leaves, arrays),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.text(max_size=3), inner, max_size=3),
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(values)
def test_a_value_agrees_with_its_copy(value):
    copied = clone(value)
    assert same_bits(value, copied)
    assert compare(plain(value), copied) is None
    assert len(short(value, 80)) <= 80 and isinstance(describe(value), str)


@settings(max_examples=150, deadline=None)
@given(values, values)
def test_any_two_values_give_none_or_a_sentence(one, other):
    said = compare(one, other)
    assert said is None or (said.endswith((".", "?")) and len(said) < 900)
    assert (compare(one, other) is None) == (said is None)


@settings(max_examples=100, deadline=None)
@given(
    npst.arrays(np.float64, npst.array_shapes(max_dims=3, max_side=4), elements=st.floats(-100, 100)),
    st.data(),
)
def test_one_changed_entry_is_found(array, data):
    index = data.draw(st.tuples(*(st.integers(0, n - 1) for n in array.shape)))
    changed = array.copy()
    changed[index] += max(1.0, np.abs(array).max()) * data.draw(
        st.sampled_from([1e-6, -1e-3, 0.01, 1, math.inf, math.nan])
    )
    said = compare(changed, array)
    assert said is not None and f"at {list(index)}" in said


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["float64", "float32", "float16"]), st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_rounding_passes_and_one_percent_does_not(dtype, size, seed):
    """The same sum in another order agrees; a bias of 1 % never does."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(size, 300)).astype(dtype)
    wide = (matrix.astype(np.float64).sum(1) / 300 + 1).astype(dtype)
    ours = (matrix[:, ::-1].sum(1, dtype=dtype if dtype != "float16" else np.float32) / 300 + 1).astype(dtype)
    assert compare(ours, wide) is None
    bias = 1.01 if dtype != "float16" else 1.03
    assert compare((wide.astype(np.float64) * bias).astype(dtype), wide) is not None


EQUAL = [
    (1, 1.0),
    (np.float64(2.0), 2.0),
    (2.0, np.array(2.0)),
    (np.array(2), 2),
    (np.bool_(True), True),
    (jnp.asarray(2.0), 2.0),
    ((1, 2), [1, 2]),
    (float("nan"), float("nan")),
    (float("inf"), float("inf")),
    (np.array([np.nan, 1, -np.inf]), np.array([np.nan, 1, -np.inf])),
    (1e-17, 0.0),
    (np.array([1e-17, 1.0]), np.array([0.0, 1.0])),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ({1, 2}, {2, 1}),
    (torch.nn.Parameter(torch.ones(2)), torch.ones(2)),
    (torch.ones(3, dtype=torch.bfloat16), torch.ones(3, dtype=torch.bfloat16) * 1.01),
    (np.array(["a", "bc"]), np.array(["a", "bc"], dtype="<U9")),
    (torch.Size([2, 3]), (2, 3)),
    (torch.empty(2, device="meta"), torch.empty(2, device="meta")),
    (np.zeros((0, 3)), np.zeros((0, 3))),
    (torch.tensor([1 + 2j]), torch.tensor([1 + 2j])),
]


@pytest.mark.parametrize(("got", "expected"), EQUAL, ids=repr)
def test_equal(got, expected):
    assert compare(got, expected) is None


DIFFERENT = [
    (2.0, 3, "a float"),
    (3.0, 3, "a whole number"),
    (1, True, "True or False"),
    (True, 1, "True or False"),
    (1, None, "None"),
    ("1", 1, "str"),
    (float("inf"), 1.0, "inf"),
    (-float("inf"), float("inf"), "-inf"),
    (float("nan"), 1.0, "nan"),
    (1.0, float("nan"), "nan"),
    (np.float32(1), np.float64(1), "dtype float32"),
    (np.ones(2, np.float32), np.ones(2), "The values are right"),
    (np.ones((2, 3)), np.ones((3, 2)), "transposed"),
    (np.ones(3), np.ones((3, 1)), "shape (3,), expected (3, 1)"),
    (np.ones(3), torch.ones(3), "NumPy array of shape (3,), expected a torch tensor"),
    (torch.ones(3), np.ones(3), "torch tensor"),
    (jnp.ones(3), np.ones(3, np.float32), "JAX array"),
    (torch.tensor(2.0), 2.0, "torch tensor"),
    ([1.0, 2.0], np.ones(2), "list of 2"),
    ([1, 2], [1, 2, 3], "2 items, expected 3: got [1, 2], expected [1, 2, 3]."),
    (list(range(30)), list(range(40)), "yours are right and end too early, before 30."),
    (list(range(40)), list(range(30)), "the first 30 are right, but then yours go on with 30."),
    ([*range(30), 0, 1], [*range(30), 7], "the first 30 are right, then you have 0, expected 7."),
    (np.array([2**40 + 1]), np.array([2**40]), "you returned 1099511627777, expected 1099511627776"),
    ([1, 2], [1, 3], "At result[1]"),
    ({"a": 1}, {"b": 1}, "'b' is missing"),
    ({"a": 1, "b": 1}, {"a": 1}, "one too many"),
    ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}, "At result['a'][1]['b']"),
    ({1, 2}, {1, 3}, "3 is missing"),
    ("hello world", "hello there", "from position 6"),
    (np.arange(4.0) * 2 + 2, np.arange(4.0) + 1, "2 times the expected"),
    (np.arange(4.0) + 2, np.arange(4.0) + 1, "plus 1"),
    (-np.arange(1, 4.0), np.arange(1, 4.0), "-1 times"),
    (np.zeros(3), np.arange(1, 4.0), "all 0"),
    (np.array([np.nan, 2.0]), np.array([1.0, 2.0]), "1 of your values is nan"),
    (np.array([1, 2, 4]), np.array([1, 2, 3]), "at [2]: you returned 4, expected 3"),
    (np.array([1.0, 1.0 + 1e-6]), np.array([1.0, 1.0]), "1.000001, expected 1"),
    (lambda: 1, 1, "a function"),
    (iter([1]), [1], "list_iterator object"),
    (int, 1, "the class int"),
    (np.array([{"a"}], dtype=object), np.array([{"b"}], dtype=object), "set"),
    (2**70, 2**70 + 1, "expected"),
    (10**9000, 1.0, "3,000 digits"),
]


@pytest.mark.parametrize(
    ("got", "expected", "words"), DIFFERENT, ids=lambda x: short(x, 20) if not callable(x) else "callable"
)
def test_different(got, expected, words):
    said = compare(got, expected)
    assert said is not None and words in said, said


def test_strict_scalars():
    assert compare(1.0, np.float64(1.0), strict_scalars=True) is not None
    assert compare(np.array(1.0), np.float64(1.0), strict_scalars=True) is not None
    assert compare(1, 1.0, strict_scalars=True) is not None
    assert compare(1.0, 1.0, strict_scalars=True) is None
    assert compare(1.0, 2.0, strict_scalars=True) is not None
    assert compare(np.float64(1), np.float64(1), strict_scalars=True) is None


def test_tolerance():
    assert compare(np.array([1.0, 2.001]), np.array([1.0, 2.0]), tolerance=1e-3) is None
    assert compare(np.array([1.0, 2.01]), np.array([1.0, 2.0]), tolerance=1e-3) is not None
    assert compare(1.0005, 1.0, tolerance=1e-3) is None


@pytest.mark.parametrize(
    "make",
    [lambda x: x[::2].T, lambda x: x[:, ::-1], lambda x: np.broadcast_to(x[0], x.shape), lambda x: x.T],
)
def test_copies_of_inputs_keep_their_strides(make):
    x = make(np.random.default_rng(0).normal(size=(4, 6)))
    copied = clone(x)
    assert copied.strides == x.strides and np.array_equal(copied, x)
    assert copied.flags.writeable == x.flags.writeable
    assert not np.shares_memory(copied, x)
    t = torch.arange(12.0).view(3, 4).t().requires_grad_()
    copied = clone({"a": [t, t]})["a"]
    assert (
        copied[0] is copied[1]
        and copied[0].stride() == t.stride()
        and copied[0].requires_grad == t.requires_grad
    )


def test_bits_tell_minus_zero_and_nan():
    assert not same_bits(np.array([0.0]), np.array([-0.0]))
    assert same_bits(np.array([np.nan]), np.array([np.nan]))
    assert not same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert not same_bits([1, [np.ones(2)]], [1, [np.zeros(2)]])
    assert not same_bits({"a": 1}, {"a": 2})
