"""`run_workers`: what travels to a worker, and what is said of ranks that do not finish."""

import linecache
import time

import pytest
import torch
import torch.distributed as dist

from groundup.check.processes import HungWorkers, WorkerError, pack, run_workers, unpack


def _written_in_a_cell(source, cell, **names):
    """The function that a notebook's cell defines."""
    namespace = {"__name__": "__main__", "dist": dist, "torch": torch, **names}
    linecache.cache[cell] = (len(source), None, source.splitlines(keepends=True), cell)
    exec(compile(source, cell, "exec"), namespace)
    return namespace["f"]


def test_a_function_may_use_a_name_that_is_also_one_of_torchs_modules():
    """`config` is also torch.distributed.config, which cloudpickle cannot send."""
    source = "def f(rank, n):\n    return dist.get_rank(), config['block_size']\n"
    f = _written_in_a_cell(source, "<cell config>", config={"block_size": 16})
    assert run_workers(f, 2) == [(0, 16), (1, 16)]


def test_torchs_config_module_itself_travels_by_its_name():
    import torch.distributed.config

    f = _written_in_a_cell("def f():\n    return module.__name__\n", "<m>", module=torch.distributed.config)
    assert unpack(pack(f))() == "torch.distributed.config"


def test_what_cannot_be_sent_is_told():
    with pytest.raises(WorkerError, match="cannot be sent"):
        run_workers(_written_in_a_cell("def f(rank, n):\n    return held\n", "<g>", held=iter_forever()), 2)


def iter_forever():
    while True:
        yield 1


def test_an_error_quotes_the_line_of_a_cell_also_of_an_answer_that_was_packed():
    source = "class f:\n    def go(self):\n        return [][7]\n"
    packed = pack(_written_in_a_cell(source, "<cell packed>"))
    with pytest.raises(WorkerError, match=r"line 3, in go: return \[\]\[7\]"):
        run_workers(lambda rank, n: unpack(packed)().go(), 2)


def test_a_loop_that_never_ends_is_told_from_a_message_that_nobody_sends():
    loop = "def f(rank, n):\n    x = 0\n    while rank == 1:\n        x += 1\n    dist.barrier()\n"
    silent = "def f(rank, n):\n    if rank == 0:\n        dist.all_reduce(torch.ones(3))\n"
    started = time.monotonic()
    with pytest.raises(HungWorkers) as told:
        run_workers(_written_in_a_cell(loop, "<cell loop>"), 3, seconds=3)
    assert "after 3 s rank 1 was still computing (line " in str(told.value)
    assert "x += 1" in str(told.value) or "while rank == 1" in str(told.value)
    assert "message" not in str(told.value)
    with pytest.raises(HungWorkers) as told:
        run_workers(_written_in_a_cell(silent, "<cell silent>"), 2, seconds=2)
    assert "after 2 s rank 0 was still waiting (line 3, in f: dist.all_reduce(torch.ones(3)))" in str(
        told.value
    )
    assert "message that nobody sends" in str(told.value)
    assert time.monotonic() - started < 25  # a busy machine's server takes some seconds to start


def test_who_computes_longer_than_half_the_time_and_finishes_is_not_hung():
    source = "def f(rank, n):\n    import time\n    time.sleep(1.5)\n    return rank\n"
    assert run_workers(_written_in_a_cell(source, "<cell slow>"), 2, seconds=4) == [0, 1]
