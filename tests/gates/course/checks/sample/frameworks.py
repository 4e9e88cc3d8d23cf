"""Checks of one exercise per framework: what the mutants of NumPy, PyTorch, JAX and Triton code are graded with."""

import numpy as np
import torch

from groundup.check import Case, Exercise
from groundup.run import tl, triton  # noqa: F401 — the kernel's namespace has them too

weighted = Exercise("sample.frameworks.weighted")


@weighted.cases
def _(rng):
    yield Case("rows", x=rng.normal(size=(3, 4)), w=rng.uniform(1, 2, size=4))
    yield Case("one row", x=rng.normal(size=(1, 5)), w=rng.uniform(1, 2, size=5))


@weighted.oracle
def _(x, w):
    return np.array([sum(a * b for a, b in zip(row, w, strict=True)) / sum(w) for row in x.tolist()])


normalised = Exercise("sample.frameworks.normalised", tolerance=1e-6)


@normalised.cases
def _(rng):
    yield Case("rows", x=torch.tensor(rng.normal(size=(3, 5)) * 2 + 1, requires_grad=True))
    yield Case("small values", x=torch.tensor(rng.normal(size=(2, 4)) * 1e-3, requires_grad=True))


@normalised.observe
def _(obj, x):
    out = obj(x)
    return out.detach().numpy(), out.requires_grad


@normalised.oracle
def _(x):
    rows = x.detach().numpy()
    return (rows - rows.mean(1, keepdims=True)) / np.sqrt(rows.var(1, keepdims=True) + 1e-5), True


squared = Exercise("sample.frameworks.squared", tolerance=1e-5)


@squared.cases
def _(rng):
    yield Case("a vector", x=rng.normal(size=5).astype(np.float32))
    yield Case("another", x=rng.normal(size=3).astype(np.float32))


@squared.observe
def _(obj, x):
    import jax.numpy as jnp

    value, gradient = obj(jnp.asarray(x))
    return float(value), np.asarray(gradient)


@squared.oracle
def _(x):
    return float((x.astype(np.float64) ** 2).sum() / 2), x


scaled = Exercise("sample.frameworks.scaled", tolerance=1e-6, seconds=20)


@scaled.cases
def _(rng):
    yield Case("two blocks, the last one short", x=rng.normal(size=21).astype(np.float32), factor=1.5)
    yield Case("one block", x=rng.normal(size=16).astype(np.float32), factor=-2.0)


ROOM = (
    64  # around both buffers: a mutant that reads or writes beside its part shows there, and kills no process
)


@scaled.observe
def _(obj, x, factor):
    n = len(x)
    given, out = torch.full((n + 2 * ROOM,), 3.0), torch.full((n + 2 * ROOM,), 7.0)
    given[ROOM : ROOM + n] = torch.tensor(x)
    obj[(-(-n // 16),)](given[ROOM:], out[ROOM:], factor, n, 16)
    return out.numpy()


@scaled.oracle
def _(x, factor):
    out = np.full(len(x) + 2 * ROOM, 7.0, dtype=np.float32)
    out[ROOM : ROOM + len(x)] = x * np.float32(factor)
    return out
