"""Checks for the lesson gpt2.training."""

from groundup.check import Case, Exercise

missing_training = Exercise("gpt2.training.missing_training")


@missing_training.cases
def _(rng):
    # MISSING: random, ragged, size 1, large values, another dtype, not contiguous.
    yield Case("a small number", x=int(rng.integers(1, 100)))


@missing_training.oracle
def _(x):
    # MISSING: an oracle that is independent of the solution.
    return 1 + x


@missing_training.mistake
def forgot_to_add(x):
    """You returned the input as it came. MISSING: what went wrong and why it matters; two more mistakes."""
    return x
