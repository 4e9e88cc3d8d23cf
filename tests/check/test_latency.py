"""`check()` must feel instant. The budget here is looser than the target, because test machines are busy."""

import statistics
import subprocess
import sys

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


def test_the_first_optimizer_step_finds_its_imports_done():
    """torch._dynamo takes a second or more: before the clock, and only for exercises about torch."""
    script = """
import sys
from groundup.check import grade
for name in ("autograd.arrays.softmax", "gpt2.rnn.clip_gradients"):
    grade(name, lambda *inputs: None, seed=0)
    print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
