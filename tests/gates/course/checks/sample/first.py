"""Checks for the lesson sample.first."""

import numpy as np

from groundup.check import Case, Exercise

centred = Exercise("sample.first.centred")


@centred.cases
def _(rng):
    yield Case("two rows", x=rng.normal(size=(2, 3)))
    yield Case("a square", x=rng.normal(size=(4, 4)) + 3)
    # Every mean is zero here: each of the mistakes below happens to be right.
    yield Case("already centred", x=np.array([[1.0, -1.0], [-1.0, 1.0]]) * rng.uniform(1, 2))


@centred.oracle
def _(x):
    return np.array([[value - sum(row) / len(row) for value in row] for row in x.tolist()])


@centred.mistake
def mean_of_everything(x):
    """You took the mean of all numbers; each row has its own."""
    return x - x.mean()


@centred.mistake
def mean_of_the_columns(x):
    """You took each column's mean; the mean of a row runs along the columns."""
    return x - x.mean(axis=0, keepdims=True)


@centred.mistake
def mean_added(x):
    """You added the mean; to centre a row, take it away."""
    return x + x.mean(axis=1, keepdims=True)


add_up = Exercise("sample.first.add_up")


@add_up.cases
def _(rng):
    yield Case("both signs", numbers=rng.uniform(1, 2, size=5) * [1, -1, 1, 1, -1])
    yield Case("one number", numbers=rng.uniform(1, 2, size=1))
    yield Case("none", numbers=np.zeros(0))


@add_up.oracle
def _(numbers):
    return float(np.sum(numbers))


@add_up.mistake
def forgot_the_last(numbers):
    """You left out the last number: a range that ends at n - 1 already stops before it."""
    return float(sum(numbers[:-1]))


@add_up.mistake
def kept_only_the_last(numbers):
    """You replaced the total in each round; add to it."""
    total = 0.0
    for number in numbers:
        total = float(number)
    return total


@add_up.mistake
def dropped_the_sign(numbers):
    """You added the sizes of the numbers; a negative one takes away."""
    return float(sum(abs(numbers)))


counter = Exercise("sample.first.Counter", kind="class")


@counter.cases
def _(rng):
    yield Case("three steps", steps=[int(step) for step in rng.integers(2, 9, size=3)])
    yield Case("one step", steps=[4])
    yield Case("no step", steps=[])


@counter.observe
def _(obj, steps):
    made = obj()
    return [made.add(step) for step in steps], made.count


@counter.oracle
def _(steps):
    counts = [sum(steps[: n + 1]) for n in range(len(steps))]
    return counts, sum(steps)


@counter.mistake
class ForgetsTheLastStep:
    """You returned the count from before this step; add first."""

    def __init__(self):
        self.count = 0

    def add(self, by):
        before = self.count
        self.count += by
        return before


@counter.mistake
class Overwrites:
    """You replaced the count by the step, so it never grows."""

    def __init__(self):
        self.count = 0

    def add(self, by):
        self.count = by
        return self.count


@counter.mistake
class CountsCalls:
    """You added one at each call, whatever the step was."""

    def __init__(self):
        self.count = 0

    def add(self, by):
        self.count += 1
        return self.count
