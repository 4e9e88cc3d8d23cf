"""Checks for the lesson autograd.arrays."""

import math
from itertools import zip_longest

import numpy as np

from groundup.check import Case, Exercise, compare


def _close(got, expected):
    """For properties: whatever is handed in, an answer and no exception (a wrong type is the oracle's business)."""
    got, expected = np.asarray(got), np.asarray(expected)
    return got.dtype.kind == "f" and got.shape == expected.shape and np.allclose(got, expected, 1e-4, 1e-4)


# ---------------------------------------------------------------------------------------------- strides_of

strides_of = Exercise("autograd.arrays.strides_of")


@strides_of.cases
def _(rng):
    yield Case("a grid of float64", shape=(3, 4), itemsize=8)
    yield Case("three axes of float32", shape=(2, 3, 5), itemsize=4)
    yield Case("four axes, random sizes", shape=tuple(int(n) for n in rng.integers(2, 7, size=4)), itemsize=2)
    yield Case("one byte per number", shape=(4, 2, 3), itemsize=1)
    yield Case("one axis", shape=(7,), itemsize=8)
    yield Case("axes of size 1", shape=(1, 5, 1), itemsize=4)
    yield Case("no axis at all: a single number", shape=(), itemsize=8)


@strides_of.oracle
def _(shape, itemsize):
    return np.empty(shape, dtype=f"V{itemsize}").strides  # NumPy's own answer, for an item of that many bytes


@strides_of.property
def a_new_first_axis_moves_nothing(obj, shape, itemsize):
    """A stride depends only on the axes behind it, so one more axis in front must leave the other strides as they were."""
    strides = obj(shape, itemsize)
    return not isinstance(strides, tuple) or obj((3, *shape), itemsize)[1:] == strides


@strides_of.mistake
def counted_in_numbers(shape, itemsize):
    """You counted how many numbers to jump, as PyTorch's stride() does. NumPy's strides are in bytes, and one number takes itemsize bytes."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


@strides_of.mistake
def first_axis_fastest(shape, itemsize):
    """You laid the array out column by column, as Fortran does: your first axis has neighbours side by side. Row by row it is the last axis that moves by one number."""
    return tuple(itemsize * math.prod(shape[:axis]) for axis in range(len(shape)))


@strides_of.mistake
def counted_the_own_axis(shape, itemsize):
    """Your stride of an axis includes the axis's own size. One step along an axis jumps over what lies behind it, not over the axis itself: the last stride is a single number."""
    return tuple(itemsize * math.prod(shape[axis:]) for axis in range(len(shape)))


@strides_of.mistake
def left_in_reverse_order(shape, itemsize):
    """Your strides are right but stand back to front. You walked from the last axis to the first; the answer starts with the first axis."""
    return tuple(itemsize * math.prod(shape[axis + 1 :]) for axis in reversed(range(len(shape))))


# ----------------------------------------------------------------------------------------- broadcast_shape

broadcast_shape = Exercise("autograd.arrays.broadcast_shape")


@broadcast_shape.cases
def _(rng):
    n, m, k = (int(size) for size in rng.permutation(np.arange(2, 9))[:3])
    yield Case("a column and a row", a=(n, 1), b=(m,))
    yield Case("the same shape twice", a=(n, m), b=(n, m))
    yield Case("ones on both sides", a=(n, 1, k), b=(1, m, 1))
    yield Case("the second has more axes", a=(k,), b=(n, m, k))
    yield Case("the first has more axes", a=(n, m, k), b=(m, 1))
    yield Case("a single number", a=(), b=(n, m))
    yield Case("two different sizes", a=(n, m), b=(n, k))
    yield Case("two different sizes, equal ones behind them", a=(n, m), b=(k, m))
    yield Case("two different sizes between equal ones", a=(n, m, k), b=(n, m + 1, k))
    yield Case("two different sizes under an extra axis", a=(k, n, m), b=(n + 1, 1))
    yield Case("equal at the left, not at the right", a=(n, m), b=(n,))
    yield Case("an axis of size 0 against size 1", a=(n, 0), b=(1,))
    yield Case("size 1 against an axis of size 0", a=(1, n), b=(0, n))
    yield Case("an axis of size 0 against another size", a=(0,), b=(n,))


@broadcast_shape.oracle
def _(a, b):
    return np.broadcast_shapes(a, b)


@broadcast_shape.property
def order_does_not_matter(obj, a, b):
    """Broadcasting a with b gives the same shape as b with a; yours does not."""
    try:
        shape = obj(a, b)
        return not isinstance(shape, tuple) or shape == obj(b, a)
    except ValueError:
        return True  # whether these shapes clash is the oracle's business


@broadcast_shape.mistake
def lined_up_at_the_left(a, b):
    """You compared the first axes with each other. Shapes line up at the right: the last axis with the last, and the shorter shape gets its 1s in front."""
    sizes = []
    for n, m in zip_longest(a, b, fillvalue=1):
        if n != m and 1 not in (n, m):
            raise ValueError(f"{n} against {m}")
        sizes.append(m if n == 1 else n)
    return tuple(sizes)


@broadcast_shape.mistake
def took_the_larger_size(a, b):
    """You took the larger of the two sizes. It is the size 1 that stretches, and it may also stretch to 0: an empty axis against 1 stays empty."""
    sizes = []
    for n, m in zip_longest(reversed(a), reversed(b), fillvalue=1):
        if n != m and 1 not in (n, m):
            raise ValueError(f"{n} against {m}")
        sizes.append(max(n, m))
    return tuple(reversed(sizes))


@broadcast_shape.mistake
def never_refused(a, b):
    """You stretched sizes that clash. Only an axis of size 1 may be stretched; two different sizes, neither of them 1, are a ValueError."""
    sizes = [m if n == 1 else n for n, m in zip_longest(reversed(a), reversed(b), fillvalue=1)]
    return tuple(reversed(sizes))


@broadcast_shape.mistake
def dropped_the_extra_axes(a, b):
    """Your result has only as many axes as the shorter shape: zip stops at the end of the shorter one. The extra axes in front belong to the result too."""
    sizes = []
    for n, m in zip(reversed(a), reversed(b), strict=False):
        if n != m and 1 not in (n, m):
            raise ValueError(f"{n} against {m}")
        sizes.append(m if n == 1 else n)
    return tuple(reversed(sizes))


@broadcast_shape.mistake
def left_from_the_right(a, b):
    """Your sizes are right but stand back to front. You collected them from the right; the answer starts with the first axis."""
    return np.broadcast_shapes(a, b)[::-1]


@broadcast_shape.mistake
def refused_different_lengths(a, b):
    """You refused shapes with different numbers of axes. They may differ: the shorter one is filled with 1s in front, and a 1 always stretches."""
    if len(a) != len(b):
        raise ValueError(f"{len(a)} axes against {len(b)}")
    return np.broadcast_shapes(a, b)


# ---------------------------------------------------------------------------------------- einsum_by_loops

einsum_by_loops = Exercise("autograd.arrays.einsum_by_loops")


@einsum_by_loops.cases
def _(rng):
    def array(*shape):
        return rng.normal(size=shape)

    yield Case("a row times a matrix", spec="ij,jk->ik", a=array(1, 2), b=array(2, 3))
    yield Case("product of two matrices", spec="ij,jk->ik", a=array(2, 3), b=array(3, 4))
    yield Case("the same product, transposed", spec="ij,jk->ki", a=array(2, 3), b=array(3, 4))
    yield Case("dot product", spec="i,i->", a=array(5), b=array(5))
    yield Case("number by number", spec="ij,ij->ij", a=array(3, 2), b=array(3, 2))
    yield Case("all pairs", spec="i,j->ij", a=array(3), b=array(4))
    yield Case("a batch of dot products", spec="bid,bjd->bij", a=array(2, 3, 2), b=array(2, 4, 2))
    yield Case("a letter that only one array has is summed", spec="ij,k->ik", a=array(2, 3), b=array(4))
    yield Case("the diagonal", spec="ii,ij->j", a=array(3, 3), b=array(3, 2))
    yield Case("axes of size 1", spec="ij,jk->ik", a=array(1, 1), b=array(1, 1))
    yield Case("a transposed view", spec="ji,jk->ik", a=array(2, 4).T, b=array(4, 3))
    yield Case("an axis that the text does not name", spec="ij,jk->ik", a=array(2, 3), b=array(3, 4, 1))


@einsum_by_loops.oracle
def _(spec, a, b):
    return np.asarray(np.einsum(spec, a, b))


@einsum_by_loops.mistake
def overwrote_instead_of_adding(spec, a, b):
    """You wrote each product into its place and lost the one before it. Several settings of the loops share a place; their products are added."""
    letters, kept = spec.split("->")
    names_a, names_b = letters.split(",")
    size = dict(zip(names_a + names_b, a.shape + b.shape, strict=True))
    out = np.zeros([size[name] for name in kept])
    for steps in np.ndindex(*size.values()):
        at = dict(zip(size, steps, strict=True))
        place_a, place_b, place = (tuple(at[name] for name in names) for names in (names_a, names_b, kept))
        out[place] = a[place_a] * b[place_b]
    return out


@einsum_by_loops.mistake
def ignored_the_order_after_the_arrow(spec, a, b):
    """Your output has its axes in the order in which the letters first appear. The letters after the arrow say the order: "ij,jk->ki" is the transpose of "ij,jk->ik"."""
    letters, kept = spec.split("->")
    in_order = [name for name in dict.fromkeys(letters.replace(",", "")) if name in kept]
    return np.einsum(f"{letters}->{''.join(in_order)}", a, b)


@einsum_by_loops.mistake
def summed_before_multiplying(spec, a, b):
    """You summed each array first and multiplied the sums. The products come first: the sum of a·b is not the sum of a times the sum of b."""
    letters, kept = spec.split("->")
    names_a, names_b = letters.split(",")
    kept_a, kept_b = ("".join(name for name in kept if name in names) for names in (names_a, names_b))
    sum_a, sum_b = np.einsum(f"{names_a}->{kept_a}", a), np.einsum(f"{names_b}->{kept_b}", b)
    return np.einsum(f"{kept_a},{kept_b}->{kept}", sum_a, sum_b)


@einsum_by_loops.mistake
def summed_every_shared_letter(spec, a, b):
    """You summed every letter that both arrays share. What is summed is decided by the arrow alone: a shared letter that stands after it, such as a batch axis, is kept."""
    letters, kept = spec.split("->")
    names_a, names_b = letters.split(",")
    return np.einsum(f"{letters}->{''.join(n for n in kept if not (n in names_a and n in names_b))}", a, b)


# ----------------------------------------------------------------------------------------- sum_accurately

sum_accurately = Exercise("autograd.arrays.sum_accurately")


@sum_accurately.cases
def _(rng):
    def cancelling(n, size, dtype):
        """n times a, b, −(a + b) with a and b around `size`, and n numbers between 1 and 2, shuffled.

        In threes, because pairs of a and −a would cancel exactly once they are sorted.
        """
        a, b = (rng.normal(size=(2, n)) * size).astype(dtype)
        return rng.permutation(np.concatenate([a, b, -(a + b), rng.uniform(1, 2, size=n).astype(dtype)]))

    small = rng.uniform(0.5, 1, size=60)
    yield Case("a small number between large ones", values=np.array([1e16, small[0], -1e16]))
    yield Case("plain numbers", values=rng.normal(size=20) + 3)
    yield Case("a number far larger than the total", values=np.array([1.0, 1e100, 1.0, -1e100]))
    yield Case("large numbers that cancel", values=cancelling(30, 1e14, np.float64))
    yield Case("large numbers that cancel, float32", values=cancelling(30, 1e6, np.float32))
    yield Case("many small numbers after a large one", values=np.array([1e16, *small, -1e16]))
    yield Case("0.1, a thousand times, float32", values=np.full(1000, 0.1, dtype=np.float32))
    yield Case("every second number of an array", values=np.repeat(cancelling(40, 1e13, np.float64), 2)[::2])
    yield Case("one number", values=rng.normal(size=1))
    yield Case("no numbers", values=np.zeros(0))


@sum_accurately.oracle
def _(values):
    return values.dtype.type(math.fsum(values))  # exact, then rounded once


@sum_accurately.agree
def _(got, expected):
    # In these cases methods that collect their losses end within 4 eps of the exact sum, a running sum 80 or more.
    single = np.float32 in (type(got), type(expected))
    return compare(got, expected, tolerance=16 * float(np.finfo(np.float32 if single else np.float64).eps))


@sum_accurately.mistake
def plain_running_sum(values):
    """This is the plain running sum, digits lost and all. Either the losses are not collected (lost += …, not lost = …) or they are never added back to the total at the end."""
    total = 0.0
    for value in values:
        total = total + value
    return total


@sum_accurately.mistake
def relied_on_numpy(values):
    """This is what np.sum gives. It adds in small groups, which makes the losses smaller, but what is lost stays lost: large numbers that cancel leave noise behind."""
    return values.sum()


def _with_losses(values, loss):
    """The exercise with another formula for one step's loss."""
    total = lost = 0.0
    for value in values:
        new = total + value
        lost += loss(total, value, new)
        total = new
    return total + lost


@sum_accurately.mistake
def collected_only_what_the_value_lost(values):
    """You collected only what the value lost. When a value is larger than the total, as 1e100 after 1, it is the total that loses its digits: both losses belong on the side."""
    return _with_losses(values, lambda total, value, new: value - (new - total))


@sum_accurately.mistake
def collected_only_what_the_total_lost(values):
    """You collected only what the total lost. When the total is the larger one, as 1e16 before 0.7, it is the value that loses its digits: both losses belong on the side."""
    return _with_losses(values, lambda total, value, new: total - (new - (new - total)))


@sum_accurately.mistake
def believed_the_value_arrived(values):
    """You took for granted that the whole value arrived. What arrived is the difference that it made to the total, after rounding, and that may be less than the value."""
    return _with_losses(values, lambda total, value, new: total - (new - value))


@sum_accurately.mistake
def kahan(values):
    """This is Kahan's sum. It saves what a small value loses, but when the value is larger than the total it is the total that loses, and Kahan does not see it."""
    total = lost = 0.0
    for value in values:
        mended = value - lost
        new = total + mended
        lost = (new - total) - mended
        total = new
    return total


@sum_accurately.mistake
def sorted_first(values):
    """You added from small to large. That helps when all numbers have one sign; when large numbers cancel, the small ones were absorbed long before."""
    total = 0.0
    for value in sorted(values, key=abs):
        total = total + value
    return total


@sum_accurately.mistake
def sorted_from_large_to_small(values):
    """You added from large to small. Large numbers that cancel in pairs then cost nothing, but others still round at every step, and what they lose is never paid back."""
    total = 0.0
    for value in sorted(values, key=abs, reverse=True):
        total = total + value
    return total


@sum_accurately.mistake
def asked_for_more_digits(values):
    """You added in float64 and rounded at the end. That saves float32, but float64 has nothing wider to flee to, and its own losses remain. Collect them instead."""
    total = np.float64(0)
    for value in values:
        total = total + np.float64(value)
    return values.dtype.type(total)


# ------------------------------------------------------------------------------------------------ softmax

softmax = Exercise("autograd.arrays.softmax")


@softmax.cases
def _(rng):
    yield Case("one row", x=rng.normal(size=3), axis=-1)
    yield Case("a batch, scores along the last axis", x=rng.normal(size=(3, 4)), axis=-1)
    yield Case("a square batch", x=rng.normal(size=(4, 4)), axis=1)
    yield Case("scores along the first axis", x=rng.normal(size=(3, 4)), axis=0)
    yield Case("the middle axis of three", x=rng.normal(size=(2, 3, 4)), axis=1)
    yield Case("the axis left to its default", x=rng.normal(size=(2, 3, 4)))
    yield Case("large scores", x=1000 + rng.normal(size=(3, 5)), axis=-1)
    far = np.array([-800.0, 0.0, 900.0]) + rng.normal(size=3)
    yield Case("scores far apart, rising", x=far, axis=-1)
    yield Case("scores far apart, falling", x=np.flip(far).copy(), axis=-1)
    yield Case("one score far above the others", x=np.array([0.0, 1000.0, 0.0, 0.0]), axis=-1)
    yield Case("very negative scores", x=-1000 + rng.normal(size=(3, 5)), axis=-1)
    yield Case("rows far apart", x=rng.normal(size=(3, 4)) + np.array([[-2000.0], [0.0], [2000.0]]), axis=-1)
    yield Case("float32", x=rng.normal(size=(2, 6)).astype(np.float32), axis=-1)
    yield Case("a forbidden candidate: −inf", x=np.array([[0.3, -np.inf, 1.2], [-0.5, 2.0, 0.1]]), axis=-1)
    yield Case("a transposed view", x=rng.normal(size=(4, 3)).T, axis=-1)
    yield Case("a single candidate", x=rng.normal(size=(3, 1)), axis=-1)


@softmax.oracle
def _(x, axis=-1):
    import torch

    return torch.softmax(torch.tensor(x, dtype=torch.float64), dim=axis).numpy().astype(x.dtype)


@softmax.property
def adds_up_to_one(obj, x, axis=-1):
    """Probabilities add up to 1 along the axis; yours do not."""
    probability = np.asarray(obj(x, axis))
    return probability.shape == x.shape and _close(
        probability.sum(axis=axis), np.ones_like(x).mean(axis=axis)
    )


@softmax.property
def a_shift_changes_nothing(obj, x, axis=-1):
    """Adding the same number to all scores leaves the probabilities as they were; yours change."""
    return _close(obj(x + 3, axis), obj(x, axis))


@softmax.mistake
def never_subtracted_the_maximum(x, axis=-1):
    """You did not subtract the largest score first. exp of a large score is inf, and inf / inf is nan; exp of very negative scores is 0, and 0 / 0 is nan too."""
    with np.errstate(all="ignore"):
        weights = np.exp(x)
        return weights / weights.sum(axis=axis, keepdims=True)


@softmax.mistake
def one_maximum_for_all(x, axis=-1):
    """You subtracted the largest score of the whole array. A row that lies far below it underflows to 0 everywhere, and 0 / 0 is nan. Each row needs its own maximum."""
    with np.errstate(all="ignore"):
        weights = np.exp(x - x.max())
        return weights / weights.sum(axis=axis, keepdims=True)


@softmax.mistake
def always_the_last_axis(x, axis=-1):
    """You always worked along the last axis. The scores compete along the axis that the caller names."""
    weights = np.exp(x - x.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


@softmax.mistake
def divided_by_the_sum_of_everything(x, axis=-1):
    """You divided by the sum over the whole array, so only all rows together add up to 1. Each row is its own set of probabilities."""
    weights = np.exp(x - x.max(axis=axis, keepdims=True))
    return weights / weights.sum()


@softmax.mistake
def lost_the_axis_of_the_sum(x, axis=-1):
    """Your sum dropped its axis, so it no longer lines up with the array: an error for most shapes, and for square ones wrong without a word. keepdims=True keeps the axis, with size 1."""
    weights = np.exp(x - x.max(axis=axis, keepdims=True))
    return weights / weights.sum(axis=axis)


@softmax.mistake
def lost_the_axis_of_the_maximum(x, axis=-1):
    """Your maximum dropped its axis, so it no longer lines up with the array: an error for most shapes, and for square ones each row gets other rows' maxima. keepdims=True keeps the axis."""
    with np.errstate(all="ignore"):
        weights = np.exp(x - x.max(axis=axis))
        return weights / weights.sum(axis=axis, keepdims=True)


@softmax.mistake
def lost_both_axes(x, axis=-1):
    """Your maximum and your sum both dropped their axis, so neither lines up with the array: right for one row, an error or wrong for a batch. keepdims=True keeps the axis, in both places."""
    with np.errstate(all="ignore"):
        weights = np.exp(x - x.max(axis=axis))
        return weights / weights.sum(axis=axis)


def _first(x, axis, keepdims):
    return np.take(x, [0], axis=axis)


def _last(x, axis, keepdims):
    return np.take(x, [-1], axis=axis)


OTHER_SCORES = {"first": _first, "last": _last, "smallest": np.min, "mean": np.mean, "median": np.median}


def _shifted_by(name, statistic):
    def mistake(x, axis=-1):
        with np.errstate(all="ignore"):
            weights = np.exp(x - statistic(x, axis=axis, keepdims=True))
            return weights / weights.sum(axis=axis, keepdims=True)

    mistake.__name__ = f"subtracted_the_{name}_not_the_largest"
    mistake.__doc__ = (
        f"You subtracted each row's {name} score. A score far above it still overflows to inf, and inf / inf is nan. "
        "Only the largest score makes every exponent 0 or less."
    )
    return mistake


for _name, _statistic in OTHER_SCORES.items():
    softmax.mistake(_shifted_by(_name, _statistic))


# -------------------------------------------------------------------------------- negative_log_likelihood

negative_log_likelihood = Exercise("autograd.arrays.negative_log_likelihood")


@negative_log_likelihood.cases
def _(rng):
    def some(batch, classes):
        return rng.normal(size=(batch, classes)) * 2, rng.integers(classes, size=batch)

    logits, targets = some(1, 3)
    yield Case("one example", logits=logits, targets=targets)
    logits, targets = some(5, 7)
    yield Case("five examples, seven classes", logits=logits, targets=targets)
    logits, targets = some(4, 4)
    yield Case("as many examples as classes", logits=logits, targets=targets)
    yield Case("no idea: all scores equal", logits=np.full((3, 3), 0.7), targets=rng.integers(3, size=3))
    logits, targets = some(6, 4)
    highest = logits.max(axis=1, keepdims=True)
    yield Case("the largest score of each example is 0", logits=logits - highest, targets=targets)
    yield Case("all scores near 1000", logits=logits + 1000, targets=targets)
    yield Case("all scores near −1000", logits=logits - 1000, targets=targets)
    apart = np.linspace(-2000, 2000, 6)[:, None]
    yield Case("examples far apart", logits=logits + apart, targets=targets)
    for label, row, target in (
        ("scores far apart, rising", [-800.0, 0.0, 900.0], 2),
        ("scores far apart, falling", [900.0, 0.0, -800.0], 0),
        ("scores far apart, most of them low", [-800.0, 0.0, 500.0], 2),
    ):
        yield Case(label, logits=np.array([row]) + rng.normal(size=(1, 3)), targets=np.array([target]))
    wrong = (targets + 1) % 4
    for label, class_, distance in (
        ("sure and right: 3000 apart", targets, 3000),
        ("sure and wrong: 3000 apart", wrong, 3000),
        ("sure and wrong: 720 apart", wrong, 720),  # e^720 overflows, e^−720 does not vanish
        ("sure and wrong: 25 apart", wrong, 25),
    ):
        sure = logits.copy()
        sure[np.arange(6), class_] = distance + logits.max(axis=1)
        yield Case(label, logits=sure, targets=targets)
    logits, targets = some(4, 3)
    yield Case("float32", logits=(logits / 4).astype(np.float32), targets=targets)
    logits, targets = some(3, 6)
    logits[np.arange(3), (targets + 2) % 6] += 150
    yield Case("sure and wrong, float32", logits=logits.astype(np.float32), targets=targets)
    logits, targets = some(8, 3)
    yield Case("every second example of a larger batch", logits=logits[::2], targets=targets[::2])
    yield Case("a single class", logits=rng.normal(size=(3, 1)), targets=np.zeros(3, dtype=np.int64))


@negative_log_likelihood.oracle
def _(logits, targets):
    import torch
    from torch.nn import functional

    wide = torch.tensor(logits, dtype=torch.float64), torch.tensor(targets, dtype=torch.int64)
    return logits.dtype.type(functional.cross_entropy(*wide).item())


@negative_log_likelihood.property
def the_order_of_the_batch_does_not_matter(obj, logits, targets):
    """The loss is a mean over examples: listing them in another order must not change it; yours changes."""
    return _close(obj(np.roll(logits, 1, axis=0), np.roll(targets, 1)), obj(logits, targets))


def _mean_of_picked(log_prob, targets):
    """What the exercise does with log_prob after the learner's part."""
    return -log_prob[np.arange(len(targets)), targets].mean()


def _probabilities(logits):
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


@negative_log_likelihood.mistake
def logarithm_of_the_softmax(logits, targets):
    """You take the logarithm of a probability that has already underflowed to 0, and log(0) is −inf. Take the logarithm on paper, so that no logarithm is taken of a number that can underflow."""
    with np.errstate(divide="ignore"):
        return _mean_of_picked(np.log(_probabilities(logits)), targets)


def _capped(name, cap, tiny):
    def mistake(logits, targets):
        return _mean_of_picked(np.log(cap(_probabilities(logits), logits.dtype.type(tiny))), targets)

    mistake.__name__ = f"{name}_{tiny:g}".replace("-", "_minus_")
    mistake.__doc__ = (
        "You kept the probability away from 0 with a tiny number. That hides the inf, but it caps the loss: however wrong "
        "the model is, it looks the same, and learns nothing from its worst mistakes."
    )
    return mistake


for _tiny in (1e-7, 1e-8, 1e-9, 1e-10, 1e-12, 1e-15):
    negative_log_likelihood.mistake(_capped("added", np.add, _tiny))
    negative_log_likelihood.mistake(_capped("clipped_at", np.maximum, _tiny))


def _loss_shifted_by(name, score):
    def mistake(logits, targets):
        with np.errstate(all="ignore"):
            shifted = logits - score(logits, targets)
            return _mean_of_picked(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), targets)

    mistake.__name__ = f"shifted_by_the_{name}_not_the_largest"
    mistake.__doc__ = (
        f"You shifted each row by its {name} score. A score far above it still overflows inside the logarithm, and the loss "
        "becomes inf or nan. Only the largest score makes every exponent 0 or less."
    )
    return mistake


for _name, _statistic in OTHER_SCORES.items():
    negative_log_likelihood.mistake(
        _loss_shifted_by(_name, lambda logits, targets, of=_statistic: of(logits, axis=1, keepdims=True))
    )
negative_log_likelihood.mistake(
    _loss_shifted_by("target", lambda logits, targets: np.take_along_axis(logits, targets[:, None], axis=1))
)


@negative_log_likelihood.mistake
def exponentials_without_the_shift(logits, targets):
    """The exponentials inside your logarithm are those of the raw logits: they overflow near 1000 and vanish near −1000. Exponentiate the shifted scores."""
    with np.errstate(all="ignore"):
        return _mean_of_picked(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)), targets)


@negative_log_likelihood.mistake
def shifted_only_the_sum(logits, targets):
    """You shifted the exponentials inside the logarithm but not the score in front of it. The maximum must leave both, or it does not cancel."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return _mean_of_picked(logits - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), targets)


@negative_log_likelihood.mistake
def one_largest_score_for_the_batch(logits, targets):
    """You subtracted the largest logit of the whole batch. An example whose own logits lie far below it has only zeros inside the logarithm. Each row needs its own maximum."""
    with np.errstate(divide="ignore"):
        shifted = logits - logits.max()
        return _mean_of_picked(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), targets)


@negative_log_likelihood.mistake
def classes_and_batch_swapped(logits, targets):
    """You normalised over the batch, axis 0. The classes of one example compete with each other, along axis 1; examples do not compete."""
    shifted = logits - logits.max(axis=0, keepdims=True)
    return _mean_of_picked(shifted - np.log(np.exp(shifted).sum(axis=0, keepdims=True)), targets)


@negative_log_likelihood.mistake
def lost_the_axis_of_the_log_sum(logits, targets):
    """Your log-sum has shape (batch,) and is read as a row: an error for most shapes, and for a square batch each class gets another example's sum. Keep it a column, (batch, 1)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return _mean_of_picked(shifted - np.log(np.exp(shifted).sum(axis=1)), targets)
