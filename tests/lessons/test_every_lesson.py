"""What holds of every exercise of every lesson, beside the gates of `make audit`: none is listed by hand.

The gates try three seeds and the answers that a machine makes up; here a right answer meets more seeds, since one
false refusal in a hundred would meet a learner every day, and things that are no answer at all are handed in.
"""

import importlib

import pytest

from groundup import catalogue
from groundup.check import grade

EXERCISES = [exercise["id"] for lesson in catalogue.lessons() for exercise in lesson["exercises"]]
NO_ANSWER = {
    "None": None,
    "a number": 3,
    "returns None": lambda *inputs: None,
    "returns a list": lambda *inputs: [],
    "an empty class": type("Empty", (), {}),
}


@pytest.mark.parametrize("id", EXERCISES)
def test_the_solution_passes_on_many_seeds(id):
    module, name = id.rsplit(".", 1)
    solution = getattr(importlib.import_module(f"groundup.{module}"), name)
    for seed in range(6):
        for _ in range(3):  # each call's shapes are checked here, which is slow on a busy machine
            result = grade(id, solution, seed=seed)
            if result.status != "timeout":
                break
        assert result.status == "passed", (seed, result.message)


@pytest.mark.parametrize("id", EXERCISES)
@pytest.mark.parametrize("what", NO_ANSWER)
def test_what_is_no_answer_is_refused(id, what):
    assert grade(id, NO_ANSWER[what], seed=0).status in ("failed", "error", "todo")
