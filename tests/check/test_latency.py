"""`check()` must feel instant. The budget here is looser than the target, because test machines are busy."""

import statistics

import kinds
import pytest

from groundup.check import grade


@pytest.mark.parametrize("exercise", [kinds.softmax, kinds.Mean, kinds.Square], ids=lambda e: e.name)
def test_a_check_is_quick(exercise):
    right = kinds.RIGHT[exercise]
    grade(exercise, right)
    seconds = [grade(exercise, right).seconds for _ in range(30)]
    wrong = [grade(exercise, mistake.obj).seconds for mistake in exercise.mistakes for _ in range(5)]
    assert statistics.median(seconds) < 0.3 and statistics.median(wrong) < 0.3
