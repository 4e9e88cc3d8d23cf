"""The training loop.

Generated from chapters/02_gpt2/08_training.md by `make sync`: edit that file, not this one.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

__all__ = [
    "TokenBatches",
    "accumulate_gradients",
    "batch_loss",
    "estimate_loss",
    "parameter_groups",
    "training_step",
]


class TokenBatches:
    """Batches of windows of a text, each window once in an epoch.

    tokens: (N,), int64 tensor or NumPy array. With a seed, each epoch has an order
    of its own. Process `rank` of `world_size` takes its own share of the windows.
    position: how many batches were taken so far. ValueError if N is too small.
    """

    def __init__(
        self,
        tokens,
        batch_size: int,
        block_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        position: int = 0,
        seed: int | None = None,
    ):
        self.tokens = tokens
        self.batch_size, self.block_size = batch_size, block_size
        self.rank, self.world_size = rank, world_size
        self.position, self.seed = position, seed
        self.n_windows = (len(tokens) - 1) // block_size
        self.per_epoch = self.n_windows // (batch_size * world_size)
        self.epoch, self.windows = None, None  # the epoch whose order is at hand
        if self.per_epoch == 0:
            raise ValueError(f"{len(tokens)} tokens are too few for one batch")

    def order(self, epoch: int) -> np.ndarray:
        """The numbers of all windows, in the order of this epoch."""
        if self.seed is None:
            return np.arange(self.n_windows)
        return np.random.default_rng((self.seed, epoch)).permutation(self.n_windows)

    def next_batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets, int64, (batch_size, block_size)."""
        epoch, number = divmod(self.position, self.per_epoch)
        if epoch != self.epoch:
            self.epoch, self.windows = epoch, self.order(epoch)
        first = (number * self.world_size + self.rank) * self.batch_size
        starts = self.windows[first : first + self.batch_size] * self.block_size
        places = starts[:, None] + np.arange(self.block_size + 1)
        cut = torch.as_tensor(self.tokens[places]).long()
        self.position += 1
        return cut[:, :-1], cut[:, 1:]

    def state_dict(self) -> dict:
        return {"position": self.position}

    def load_state_dict(self, state: dict) -> None:
        self.position = state["position"]


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups for AdamW: parameters with two axes or more decay, others do not.

    Frozen parameters are in neither; a tied one is there once.
    """
    learnt = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in learnt if p.dim() >= 2]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": [p for p in learnt if p.dim() < 2], "weight_decay": 0.0},
    ]


def batch_loss(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    autocast: torch.dtype | None = None,
) -> torch.Tensor:
    """Mean cross-entropy (nats per token) of the logits at x against y: (B, T).

    The batch moves to the model's device. autocast: a dtype for matrix products.
    """
    where = next(model.parameters()).device
    x, y = x.to(where), y.to(where)
    with torch.autocast(where.type, dtype=autocast, enabled=autocast is not None):
        return F.cross_entropy(model(x).flatten(0, 1), y.flatten())


def training_step(
    model: nn.Module,
    batches,
    optimizer: torch.optim.Optimizer,
    *,
    accumulation: int = 1,
    max_norm: float = 1.0,
    autocast: torch.dtype | None = None,
    scaler=None,
) -> tuple[float, float]:
    """One step of the optimizer on `accumulation` batches, as if they were one.

    Returns the mean loss, and the gradient's norm before it is clipped to max_norm.
    """
    if scaler is None:  # one that does nothing
        scaler = torch.amp.GradScaler(enabled=False)
    model.train()
    optimizer.zero_grad()
    total = 0.0
    for _ in range(accumulation):
        x, y = batches.next_batch()
        loss = batch_loss(model, x, y, autocast) / accumulation
        scaler.scale(loss).backward()
        total += loss.detach()
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    scaler.step(optimizer)
    scaler.update()
    return total.item(), norm.item()


@torch.no_grad()
def estimate_loss(
    model: nn.Module,
    tokens,
    block_size: int,
    *,
    batch_size: int,
    n_batches: int,
    autocast: torch.dtype | None = None,
) -> float:
    """Nats per token on batch_size * n_batches windows, spread over the text.

    The same windows at every call; in eval mode, and the mode is restored.
    """
    was_training = model.training
    model.eval()
    n = batch_size * n_batches
    starts = np.arange(n) * (len(tokens) - block_size) // n
    total = 0.0
    for rows in starts.reshape(n_batches, batch_size):
        places = rows[:, None] + np.arange(block_size + 1)
        cut = torch.as_tensor(tokens[places]).long()
        total += batch_loss(model, cut[:, :-1], cut[:, 1:], autocast).item()
    model.train(was_training)
    return total / n_batches


def accumulate_gradients(model: nn.Module, micro_batches: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Adds to the gradients those of the mean loss over all targets that count.

    micro_batches: pairs x, y of shape (B, T); a target of -100 does not count.
    Returns that mean loss.
    """
    count = sum((y != -100).sum() for _, y in micro_batches)
    total = 0.0
    for x, y in micro_batches:
        logits = model(x).flatten(0, 1)
        loss = F.cross_entropy(logits, y.flatten(), reduction="sum") / count
        loss.backward()
        total += loss.item()
    return total
