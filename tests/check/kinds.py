"""Small exercises, one of each kind that the course has, each with a right answer."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import torch
from ranks import all_reduce, right_all_reduce

from groundup.check import Case, Exercise, agree_in_distribution, histogram
from groundup.run import tl, triton

# -- a pure function -----------------------------------------------------------------------------------
softmax = Exercise("kinds.small.softmax")


@softmax.cases
def _(rng):
    yield Case("one row", x=rng.normal(size=(1, 5)))
    yield Case("large values", x=rng.normal(size=(3, 7)) * 50 + 800)
    yield Case("not contiguous", x=rng.normal(size=(8, 6))[::2].T)
    yield Case("float32", x=rng.normal(size=(4, 3)).astype(np.float32))


@softmax.oracle
def _(x):
    return torch.softmax(torch.tensor(x.copy()), -1).numpy()


@softmax.property
def rows_sum_to_one(obj, x):
    """Every row of a softmax adds up to 1; yours does not."""
    return np.allclose(obj(x).sum(-1), 1, atol=1e-5)


@softmax.mistake
def forgot_the_maximum(x):
    """exp of a large number overflows: subtract the row's maximum first."""
    e = np.exp(x)
    return e / e.sum(-1, keepdims=True)


@softmax.mistake
def over_the_rows(x):
    """You normalise each column instead of each row."""
    e = np.exp(x - x.max(0, keepdims=True))
    return e / e.sum(0, keepdims=True)


@softmax.mistake
def in_place(x):
    """You changed the input: x -= … works on the caller's array."""
    x -= x.max(-1, keepdims=True)
    e = np.exp(x)
    return e / e.sum(-1, keepdims=True)


@softmax.mistake(shape=True)
def log_of_it(x):
    """You dropped an axis."""
    return right_softmax(x)[0]


def right_softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


# -- a class with state --------------------------------------------------------------------------------
Mean = Exercise("kinds.small.Mean", kind="class")


@Mean.cases
def _(rng):
    yield Case("one value", values=[float(rng.normal())])
    yield Case("several values", values=rng.normal(size=6).tolist())
    yield Case("large values", values=(rng.normal(size=5) + 1e3).tolist())


@Mean.observe
def _(obj, values):
    first, second = obj(), obj()
    second.add(100.0)
    seen = []
    for value in values:
        first.add(value)
        seen.append(first.value())
    return {"values": seen, "second": second.value()}


@Mean.oracle
def _(values):
    return {"values": [math.fsum(values[: n + 1]) / (n + 1) for n in range(len(values))], "second": 100.0}


class RightMean:
    def __init__(self):
        self.n, self.total = 0, 0.0

    def add(self, x):
        self.n += 1
        self.total += x

    def value(self):
        return self.total / self.n


@Mean.mistake
class divides_by_n_minus_one(RightMean):
    """You divide by n - 1."""

    def value(self):
        return self.total / max(self.n - 1, 1)


@Mean.mistake
class sum_only(RightMean):
    """You return the sum."""

    def value(self):
        return self.total


@Mean.mistake
class shared_between_objects:
    """Your numbers belong to the class, so all objects share them."""

    seen = []  # noqa: RUF012

    def __init__(self):
        type(self).seen = [] if len(type(self).seen) > 1 else type(self).seen

    def add(self, x):
        type(self).seen.append(x)

    def value(self):
        return sum(type(self).seen) / len(type(self).seen)


# -- a generator ---------------------------------------------------------------------------------------
batches = Exercise("kinds.small.batches")


@batches.cases
def _(rng):
    yield Case("divides evenly", items=rng.integers(100, size=6).tolist(), size=3)
    yield Case("a remainder", items=rng.integers(100, size=7).tolist(), size=3)
    yield Case("no items", items=[], size=2)
    yield Case("one batch", items=rng.integers(100, size=2).tolist(), size=5)


@batches.observe
def _(obj, items, size):
    return list(itertools.islice(obj(items, size), 50))


@batches.oracle
def _(items, size):
    return [items[i : i + size] for i in range(0, len(items), size)]


def right_batches(items, size):
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


@batches.mistake
def drops_the_rest(items, size):
    """You drop the last, smaller batch."""
    for i in range(len(items) // size):
        yield items[i * size : (i + 1) * size]


@batches.mistake
def yields_an_empty_batch(items, size):
    """You yield an empty batch at the end."""
    for i in range(len(items) // size + 1):
        yield items[i * size : (i + 1) * size]


@batches.mistake
def overlapping(items, size):
    """Your batches overlap."""
    for i in range(0, len(items), max(size - 1, 1)):
        yield items[i : i + size]


# -- a random sampler ----------------------------------------------------------------------------------
sample = Exercise("kinds.small.sample")
DRAWS = 3000


@sample.cases
def _(rng):
    yield Case("three outcomes", p=np.array([0.2, 0.5, 0.3]), rng=np.random.default_rng(rng.integers(2**32)))
    yield Case(
        "an impossible outcome",
        p=np.array([0.0, 0.35, 0.65, 0.0]),
        rng=np.random.default_rng(rng.integers(2**32)),
    )


@sample.observe
def _(obj, p, rng):
    return histogram([obj(p, rng) for _ in range(DRAWS)], len(p))


@sample.oracle
def _(p, rng):
    return p


sample.agree(agree_in_distribution)


def right_sample(p, rng):
    return int(np.searchsorted(np.cumsum(p), rng.random(), side="right"))


@sample.mistake
def uniform(p, rng):
    """You ignore p."""
    return int(rng.integers(len(p)))


@sample.mistake
def always_the_likeliest(p, rng):
    """You return the likeliest outcome every time."""
    return int(np.argmax(p))


@sample.mistake
def squared(p, rng):
    """You use p²."""
    return right_sample(p**2 / (p**2).sum(), rng)


# -- torch.autograd.Function ---------------------------------------------------------------------------
Square = Exercise("kinds.small.Square", kind="class")


@Square.cases
def _(rng):
    yield Case("a vector", x=torch.tensor(rng.normal(size=5), requires_grad=True), scale=1.0)
    yield Case(
        "a matrix, scaled",
        x=torch.tensor(rng.normal(size=(2, 3)), requires_grad=True),
        scale=float(rng.uniform(2, 3)),
    )


@Square.observe
def _(obj, x, scale):
    y = obj.apply(x)
    (grad,) = torch.autograd.grad((y * scale).sum(), x)
    return y, grad


@Square.oracle
def _(x, scale):
    return x.detach() ** 2, 2 * x.detach() * scale


class RightSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 2 * x * grad


@Square.mistake
class forgot_the_incoming_gradient(RightSquare):
    """You forgot the incoming gradient."""

    @staticmethod
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0]


@Square.mistake
class forgot_the_two(RightSquare):
    """The slope of x² is 2x."""

    @staticmethod
    def backward(ctx, grad):
        return ctx.saved_tensors[0] * grad


@Square.mistake
class gradient_only(RightSquare):
    """You pass the gradient on as it is."""

    @staticmethod
    def backward(ctx, grad):
        return grad


# -- JAX -----------------------------------------------------------------------------------------------
smooth = Exercise("kinds.small.smooth")


@smooth.cases
def _(rng):
    yield Case("a vector", x=jnp.asarray(rng.normal(size=6), dtype=jnp.float32))
    yield Case("one value", x=jnp.asarray(rng.normal(size=1), dtype=jnp.float32))


@smooth.observe
def _(obj, x):
    return jax.jit(obj)(x), jax.grad(lambda v: (obj(v) * jnp.arange(1.0, 1 + v.size)).sum())(x)


@smooth.oracle
def _(x):
    value = np.asarray(x, np.float64)
    slope = (1 - np.tanh(value) ** 2) * np.arange(1, 1 + x.size)
    return jnp.asarray(np.tanh(value), jnp.float32), jnp.asarray(slope, jnp.float32)


def right_smooth(x):
    return jnp.tanh(x)


@smooth.mistake
def stops_the_gradient(x):
    """You stop the gradient."""
    return jax.lax.stop_gradient(jnp.tanh(x))


@smooth.mistake
def a_sigmoid(x):
    """That is the sigmoid."""
    return jax.nn.sigmoid(x)


@smooth.mistake
def only_the_line(x):
    """tanh is not a straight line."""
    return x


# -- Triton, in the interpreter ------------------------------------------------------------------------
add = Exercise("kinds.small.add", seconds=20.0)


@add.cases
def _(rng):
    for label, n in (("one block", 32), ("a ragged end", 45), ("one value", 1)):
        yield Case(
            label,
            x=torch.tensor(rng.normal(size=n), dtype=torch.float32),
            y=torch.tensor(rng.normal(size=n), dtype=torch.float32),
        )


@add.observe
def _(obj, x, y):
    out = torch.full((x.numel() + 32,), -7.0)
    obj[(triton.cdiv(x.numel(), 32),)](x, y, out, x.numel(), BLOCK=32)
    return out


@add.oracle
def _(x, y):
    return torch.cat([x + y, torch.full((32,), -7.0)])


@triton.jit
def right_add(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    tl.store(out_ptr + at, tl.load(x_ptr + at, mask=inside) + tl.load(y_ptr + at, mask=inside), mask=inside)


@add.mistake
@triton.jit
def first_block_only(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    """Every program works on the first block."""
    at = tl.arange(0, BLOCK)
    inside = at < n
    tl.store(out_ptr + at, tl.load(x_ptr + at, mask=inside) + tl.load(y_ptr + at, mask=inside), mask=inside)


@add.mistake
@triton.jit
def store_without_mask(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    """You store behind the end of the output."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    tl.store(
        out_ptr + at,
        tl.load(x_ptr + at, mask=inside, other=0.0) + tl.load(y_ptr + at, mask=inside, other=0.0),
    )


@add.mistake
@triton.jit
def last_left_out(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    """You leave the last value out."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n - 1
    tl.store(out_ptr + at, tl.load(x_ptr + at, mask=inside) + tl.load(y_ptr + at, mask=inside), mask=inside)


@triton.jit
def stub_add(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    raise NotImplementedError("write add")


RIGHT = {
    softmax: right_softmax,
    Mean: RightMean,
    batches: right_batches,
    sample: right_sample,
    Square: RightSquare,
    smooth: right_smooth,
    add: right_add,
    all_reduce: right_all_reduce,
}
