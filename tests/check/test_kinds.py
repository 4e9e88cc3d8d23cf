"""Each kind of exercise: the right answer passes at any seed, each mistake is rejected and called by its name."""

import kinds
import numpy as np
import pytest
import torch

from groundup.check import grade, problems

EXERCISES = list(kinds.RIGHT)
SLOW = {kinds.add, kinds.all_reduce}


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.name)
def test_the_right_answer_passes(exercise):
    for seed in range(2 if exercise in SLOW else 15):
        result = grade(exercise, kinds.RIGHT[exercise], seed=seed)
        assert result.status == "passed", result.message
        assert result.mistake is None and result.case is None


@pytest.mark.parametrize(
    ("exercise", "mistake"),
    [(e, m) for e in EXERCISES for m in e.mistakes],
    ids=lambda x: x.name,
)
def test_each_mistake_is_called_by_its_name(exercise, mistake):
    for seed in range(1 if exercise in SLOW else 5):
        result = grade(exercise, mistake.obj, seed=seed)
        assert result.status == "failed"
        assert result.mistake == mistake.name, result.message
        assert mistake.sentence in result.message
        assert f"seed {seed}" in result.message and result.case in result.message


def _function_stub(*args):
    raise NotImplementedError("write it")


def _generator_stub(*args):
    raise NotImplementedError("write it")
    yield


class _MeanStub:
    def __init__(self):
        raise NotImplementedError("write Mean")


class _SquareStub(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * x

    @staticmethod
    def backward(ctx, grad):
        raise NotImplementedError("write Square")


@pytest.mark.parametrize(
    ("exercise", "stub"),
    [
        (kinds.softmax, _function_stub),
        (kinds.Mean, _MeanStub),
        (kinds.batches, _generator_stub),
        (kinds.sample, _function_stub),
        (kinds.Square, _SquareStub),
        (kinds.smooth, _function_stub),
        (kinds.add, kinds.stub_add),
        (kinds.all_reduce, _function_stub),
    ],
    ids=lambda x: getattr(x, "name", "stub"),
)
def test_a_stub_is_still_to_do(exercise, stub):
    result = grade(exercise, stub)
    assert result.status == "todo", result
    assert "write" in result.message.lower() and len(result.message) < 100


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.name)
def test_trivial_answers_do_not_pass(exercise):
    def nothing(*args):
        return None

    def first(*args):
        return args[0]

    def zeros(*args):
        return np.zeros_like(args[0]) if isinstance(args[0], np.ndarray) else 0

    class Empty:
        pass

    class Failing:
        def __init__(self, *args):
            raise ValueError("no")

    for answer in (nothing, first, zeros, Empty, Failing, None, 0, "text", [], nothing()):
        result = grade(exercise, answer)
        assert result.status in ("failed", "error"), (answer, result)
        assert 0 < len(result.message) <= 1500


@pytest.mark.parametrize("exercise", [e for e in EXERCISES if e not in SLOW], ids=lambda e: e.name)
def test_the_declarations_are_sound(exercise):
    told = [p for p in problems(exercise) if "passes no case" not in p]
    assert told == []


def test_a_notebooks_own_function_works_in_processes():
    """A function of a cell is no importable name: it must travel by value."""
    namespace = {"__name__": "__main__"}
    source = "def all_reduce(x, rank, world_size):\n    import torch.distributed as dist\n    dist.all_reduce(x)\n    return x + SHIFT\nSHIFT = 0\n"
    exec(compile(source, "<cell>", "exec"), namespace)
    assert grade(kinds.all_reduce, namespace["all_reduce"]).status == "passed"


def test_processes_that_hang_or_die_are_told():
    def hang(x, rank, world_size):
        import torch.distributed as dist

        if rank == 0:
            dist.recv(torch.empty_like(x), 1)
        return x

    def die(x, rank, world_size):
        import os

        os._exit(3)

    def fail(x, rank, world_size):
        return x[100 + rank]

    result = grade(kinds.all_reduce, hang)
    assert result.status == "timeout" and "rank 0 was still waiting" in result.message
    assert "message that nobody sends" in result.message and result.seconds < 8  # not once more for each case
    result = grade(kinds.all_reduce, die)
    assert result.status == "error" and "exit code 3" in result.message
    result = grade(kinds.all_reduce, fail)
    assert (
        result.status == "error"
        and "IndexError" in result.message
        and "return x[100 + rank]" in result.message
    )
    assert grade(kinds.all_reduce, kinds.right_all_reduce).status == "passed"
