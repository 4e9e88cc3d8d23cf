"""Data parallelism.

Generated from chapters/02_gpt2/14_ddp.md by `make sync`: edit that file, not this one.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from torch import nn

from groundup.gpt2.model import GPT, GPTConfig
from groundup.gpt2.training import TokenBatches, batch_loss, parameter_groups

__all__ = [
    "DataParallel",
    "all_reduce_gradients",
    "bucket_gradients",
    "distributed_step",
    "flat_gradients",
    "set_gradients",
    "train_rank",
]


def bucket_gradients(parameters: Iterable[nn.Parameter], bucket_bytes: int) -> list[list[nn.Parameter]]:
    """Parameters in buckets of at most bucket_bytes of gradients, last ones first.

    A larger parameter has its own bucket. A bucket has one dtype. No frozen ones.
    """
    buckets, room, dtype = [], 0, None
    for p in reversed(list(parameters)):
        if not p.requires_grad:
            continue
        size = p.numel() * p.element_size()
        if size > room or p.dtype != dtype:
            buckets.append([])
            room, dtype = bucket_bytes, p.dtype
        buckets[-1].append(p)
        room -= size
    return buckets


def flat_gradients(bucket: list[nn.Parameter]) -> torch.Tensor:
    """All gradients of a bucket in one new vector; zeros where there is none."""
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
    return torch.cat([part.flatten() for part in parts])


def set_gradients(bucket: list[nn.Parameter], flat: torch.Tensor) -> None:
    """The reverse: pieces of flat, not copies, become the bucket's gradients."""
    pieces = flat.split([p.numel() for p in bucket])
    for p, piece in zip(bucket, pieces, strict=True):
        p.grad = piece.view_as(p)


def all_reduce_gradients(model: nn.Module, bucket_bytes: int = 25 * 2**20) -> None:
    """Each gradient becomes its mean over all processes: one message per bucket."""
    for bucket in bucket_gradients(model.parameters(), bucket_bytes):
        flat = flat_gradients(bucket)
        dist.all_reduce(flat)
        set_gradients(bucket, flat / dist.get_world_size())


class DataParallel(nn.Module):
    """A model in each process, rank 0's parameters; backward averages gradients.

    message_bytes: the size of each message of gradients so far.
    """

    def __init__(self, module: nn.Module, bucket_bytes: int = 25 * 2**20):
        super().__init__()
        self.module, self.synchronise = module, True
        self.buckets = bucket_gradients(module.parameters(), bucket_bytes)
        self.missing = None  # gradients that each bucket waits for, during backward
        self.started = []  # a pair (flat, work) for each message of this backward
        self.message_bytes = []
        for number, bucket in enumerate(self.buckets):
            hook = functools.partial(self.gradient_ready, number)
            for parameter in bucket:
                parameter.register_post_accumulate_grad_hook(hook)
        for parameter in module.parameters():
            dist.broadcast(parameter.detach(), src=0)

    def forward(self, *inputs):
        self.missing = None  # counts that a failed backward may have left
        return self.module(*inputs)

    @contextlib.contextmanager
    def no_sync(self):
        """Within this context gradients only add up in each process."""
        before, self.synchronise = self.synchronise, False
        try:
            yield
        finally:  # also after an error
            self.synchronise = before

    def start_message(self) -> None:
        """Start to add up the next bucket over all processes; do not wait."""
        flat = flat_gradients(self.buckets[len(self.started)])
        self.message_bytes.append(flat.numel() * flat.element_size())
        self.started.append((flat, dist.all_reduce(flat, async_op=True)))

    def gradient_ready(self, number: int, parameter: nn.Parameter) -> None:
        """The hook: backward has added to a gradient of bucket `number`."""
        if not self.synchronise:
            return
        if self.missing is None:  # the first gradient of this backward
            self.missing = [len(bucket) for bucket in self.buckets]
            self.started = []
            torch.autograd.Variable._execution_engine.queue_callback(self.finish)
        self.missing[number] -= 1
        buckets = len(self.buckets)
        while len(self.started) < buckets and self.missing[len(self.started)] == 0:
            self.start_message()

    def finish(self) -> None:
        """Backward is complete: start what is left, wait for all, set gradients."""
        while len(self.started) < len(self.buckets):
            self.start_message()
        for number, (flat, work) in enumerate(self.started):
            work.wait()
            set_gradients(self.buckets[number], flat / dist.get_world_size())
        self.missing = None


def train_rank(
    rank: int,
    world_size: int,
    tokens: torch.Tensor,
    config: GPTConfig,
    wrap: Callable[[nn.Module], nn.Module],
    step: Callable,
    n_steps: int,
    batch_size: int,
    optimizer: Callable,
) -> tuple[torch.Tensor, list[float]]:
    """One process of a training: its own model, wrapped, and its share of windows.

    step: called as step(model, batches, optimizer), returns (loss, norm).
    optimizer: makes one from groups of parameters.
    Returns all N parameters after 0, 1, … steps, (n_steps + 1, N); the losses.
    """
    torch.manual_seed(rank)
    model = wrap(GPT(config).double())
    share = {"rank": rank, "world_size": world_size, "seed": 0}
    batches = TokenBatches(tokens, batch_size, config.block_size, **share)
    made = optimizer(parameter_groups(model, 0.1))
    history, losses = [], []
    for k in range(n_steps + 1):
        history.append(nn.utils.parameters_to_vector(model.parameters()).detach())
        if k < n_steps:
            losses.append(step(model, batches, made)[0])
    return torch.stack(history), losses


def distributed_step(
    model: nn.Module,
    batches: TokenBatches,
    optimizer: torch.optim.Optimizer,
    *,
    accumulation: int = 1,
    max_norm: float = 1.0,
) -> tuple[float, float]:
    """One step of all processes together, with one exchange of gradients.

    model: wrapped, with no_sync(). Returns loss and norm, the same in each process.
    """
    model.train()
    optimizer.zero_grad()
    total = 0.0
    for k in range(accumulation):
        last = k == accumulation - 1
        with contextlib.nullcontext() if last else model.no_sync():
            loss = batch_loss(model, *batches.next_batch()) / accumulation
            loss.backward()
        total += loss.detach()
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    dist.all_reduce(total)
    return total.item() / dist.get_world_size(), norm.item()
