"""An exercise on several processes; workers import this file, so it is light."""

import torch

from groundup.check import Case, Exercise
from groundup.check.processes import run_workers

all_reduce = Exercise("kinds.small.all_reduce", seconds=20.0, workers=True)


@all_reduce.cases
def _(rng):
    yield Case("two processes", parts=[torch.tensor(rng.normal(size=3)) for _ in range(2)])
    yield Case("three processes", parts=[torch.tensor(rng.normal(size=2)) for _ in range(3)])


def _one_rank(rank, world_size, function, parts):
    mine = parts[rank].clone()
    return function(mine, rank, world_size)


@all_reduce.observe
def _(obj, parts):
    return run_workers(_one_rank, len(parts), obj, parts, seconds=2.0)


@all_reduce.oracle
def _(parts):
    return [torch.stack(parts).sum(0)] * len(parts)


def right_all_reduce(x, rank, world_size):
    import torch.distributed as dist

    if rank:
        dist.send(x, 0)
    else:
        for source in range(1, world_size):
            part = torch.empty_like(x)
            dist.recv(part, source)
            x = x + part
    dist.broadcast(x, 0)
    return x


@all_reduce.mistake
def mean_instead(x, rank, world_size):
    """You return the mean."""
    return right_all_reduce(x, rank, world_size) / world_size


@all_reduce.mistake
def first_rank_only(x, rank, world_size):
    """Only rank 0 gets the sum."""
    own = x.clone()
    total = right_all_reduce(x, rank, world_size)
    return total if rank == 0 else own


@all_reduce.mistake
def nobody_talks(x, rank, world_size):
    """Nobody sends anything."""
    return x * 2 if world_size == 2 else x
