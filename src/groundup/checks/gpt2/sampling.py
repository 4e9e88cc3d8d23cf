"""Checks for the lesson gpt2.sampling."""

from groundup.check import Case, Exercise

missing_sampling = Exercise("gpt2.sampling.missing_sampling")


@missing_sampling.cases
def _(rng):
    # MISSING: random, ragged, size 1, large values, another dtype, not contiguous.
    yield Case("a small number", x=int(rng.integers(1, 100)))


@missing_sampling.oracle
def _(x):
    # MISSING: an oracle that is independent of the solution.
    return 1 + x


@missing_sampling.mistake
def forgot_to_add(x):
    """You returned the input as it came. MISSING: what went wrong and why it matters; two more mistakes."""
    return x
