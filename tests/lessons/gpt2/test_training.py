"""The lesson gpt2.training: the loader's promises, the step against one large batch, and its checks."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from groundup.check import grade
from groundup.checks.gpt2 import training as checks
from groundup.gpt2 import training
from groundup.gpt2.training import (
    TokenBatches,
    accumulate_gradients,
    estimate_loss,
    parameter_groups,
    training_step,
)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 6), st.integers(1, 4), st.integers(0, 60), st.sampled_from([None, 0, 7])
)
def test_an_epoch_shows_each_window_once_over_all_ranks(B, T, world_size, more, seed):
    n = B * T * world_size + 1 + more
    tokens, seen = torch.arange(n), []
    for rank in range(world_size):
        loader = TokenBatches(tokens, B, T, rank=rank, world_size=world_size, seed=seed)
        for _ in range(loader.per_epoch):
            x, y = loader.next_batch()
            assert x.shape == y.shape == (B, T) and x.dtype == y.dtype == torch.int64
            assert torch.equal(y, x + 1)
            seen += x[:, 0].tolist()
    windows = (n - 1) // T
    assert len(set(seen)) == len(seen) and set(seen) <= {T * k for k in range(windows)}
    assert windows - len(seen) < B * world_size  # only what fills no round is missing


@pytest.mark.parametrize("seed", [None, 0, 3])
def test_a_resumed_loader_goes_on(seed):
    tokens = torch.arange(101)
    loader = TokenBatches(tokens, 3, 4, seed=seed)
    for stop in range(20):
        other = TokenBatches(tokens, 3, 4, seed=seed)
        other.load_state_dict(loader.state_dict())
        assert other.position == loader.position == stop
        assert torch.equal(other.next_batch()[0], loader.next_batch()[0])


def test_a_loader_reads_a_file_and_refuses_one_that_is_too_short(tmp_path):
    path = tmp_path / "tokens.bin"
    np.arange(65_000, 65_040, dtype=np.uint16).tofile(path)
    x, y = TokenBatches(np.memmap(path, dtype=np.uint16, mode="r"), 2, 5).next_batch()
    assert x.tolist() == [list(range(65_000, 65_005)), list(range(65_005, 65_010))]
    assert torch.equal(y, x + 1)
    with pytest.raises(ValueError, match="10 tokens"):
        TokenBatches(torch.arange(10), 2, 5)


def _model(dropout=0.0):
    torch.manual_seed(3)
    layers = nn.Embedding(9, 6), nn.LayerNorm(6), nn.Dropout(dropout), nn.Linear(6, 9)
    return nn.Sequential(*layers).double()


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.floats(0.01, 3))
def test_accumulation_is_one_large_batch(accumulation, B, max_norm):
    tokens = torch.randint(9, (5 * B * accumulation + 1,), generator=torch.Generator().manual_seed(B))
    ours = _model()
    theirs = copy.deepcopy(ours)
    loader = TokenBatches(tokens, B, 5)
    loss, norm = training_step(
        ours, loader, torch.optim.SGD(ours.parameters(), lr=0.3), accumulation=accumulation, max_norm=max_norm
    )
    wanted = F.cross_entropy(theirs(tokens[:-1]), tokens[1:])
    wanted.backward()
    grads = torch.cat([p.grad.flatten() for p in theirs.parameters()])
    assert loss == pytest.approx(wanted.item(), rel=1e-9) and norm == pytest.approx(grads.norm().item())
    scale = min(1.0, max_norm / (grads.norm().item() + 1e-6))
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q - 0.3 * scale * q.grad, rtol=1e-6, atol=1e-9)


def test_looking_does_not_change_the_training():
    tokens, ends = torch.arange(200) % 9, []
    for look in (False, True):
        model = _model(dropout=0.5)
        loader, optimizer = TokenBatches(tokens, 2, 5, seed=0), torch.optim.SGD(model.parameters(), lr=0.3)
        torch.manual_seed(0)
        for _ in range(3):
            training_step(model, loader, optimizer)
            if look:
                estimate_loss(model, tokens, 5, batch_size=3, n_batches=2)
                assert model.training
        ends.append(model[0].weight.detach())
    assert torch.equal(*ends)


def test_groups_work_with_adamw():
    model = nn.Sequential(nn.Embedding(5, 3), nn.LayerNorm(3), nn.Linear(3, 5))
    model[2].weight = model[0].weight
    groups = torch.optim.AdamW(parameter_groups(model, 0.3)).param_groups
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    assert [len(group["params"]) for group in groups] == [1, 3]


def test_uneven_batches_equal_one():
    model, pairs = _model(), []
    for count in (7, 1, 4):
        x, y = torch.randint(9, (2, 2, 4), generator=torch.Generator().manual_seed(count))
        y.view(-1)[count:] = -100
        pairs.append((x, y))
    loss = accumulate_gradients(model, pairs)
    got = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    x, y = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    wanted = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
    wanted.backward()
    assert loss == pytest.approx(wanted.item(), rel=1e-12)
    for grad, p in zip(got, model.parameters(), strict=True):
        torch.testing.assert_close(grad, p.grad)


# -- answers written otherwise -------------------------------------------------------------------------


class Stacked(TokenBatches):
    """Slices instead of an array of places; the order looked up from scratch."""

    def next_batch(self):
        epoch, number = divmod(self.position, self.per_epoch)
        order = list(self.order(epoch))
        everyone = self.batch_size * self.world_size
        mine = order[number * everyone :][:everyone][self.rank * self.batch_size :][: self.batch_size]
        cut = [self.tokens[k * self.block_size :][: self.block_size + 1] for k in mine]
        rows = torch.stack([torch.as_tensor(np.asarray(row).astype(np.int64)) for row in cut])
        self.position = self.position + 1
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def step_by_hand(
    model, batches, optimizer, *, accumulation=1, max_norm=1.0, autocast=None, scaler=None
) -> tuple[float, float]:
    model.zero_grad()
    model.train()
    losses = []
    for _ in range(accumulation):
        loss = training.batch_loss(model, *batches.next_batch(), autocast)
        losses.append(loss.item())
        loss = loss / accumulation
        (scaler.scale(loss) if scaler else loss).backward()
    if scaler:
        scaler.unscale_(optimizer)
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    norm = math.sqrt(sum(float((grad.double() ** 2).sum()) for grad in grads))
    if norm > max_norm:
        for grad in grads:
            grad *= max_norm / norm
    if scaler:
        scaler.step(optimizer)
        scaler.update()
    else:
        optimizer.step()
    return sum(losses) / accumulation, norm


def groups_by_module(model, weight_decay):
    split = {True: [], False: []}
    for parameter in model.parameters():
        if parameter.requires_grad:
            split[parameter.ndim > 1].append(parameter)
    return [
        {"weight_decay": 0.0, "params": split[False]},
        {"weight_decay": weight_decay, "params": split[True]},
    ]


def loss_window_by_window(model, tokens, block_size, *, batch_size, n_batches, autocast=None):
    mode = model.training
    model.eval()
    n, losses = batch_size * n_batches, []
    starts = [k * (len(tokens) - block_size) // n for k in range(n)]
    with torch.no_grad():
        for k in range(0, n, batch_size):
            rows = [tokens[start : start + block_size + 1] for start in starts[k : k + batch_size]]
            cut = torch.tensor([[int(token) for token in row] for row in rows])
            losses.append(training.batch_loss(model, cut[:, :-1], cut[:, 1:], autocast).item())
    model.train(mode)
    return float(np.mean(losses))


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("TokenBatches", Stacked),
        ("training_step", step_by_hand),
        ("parameter_groups", groups_by_module),
        ("estimate_loss", loss_window_by_window),
    ],
)
def test_a_right_answer_written_otherwise_passes(name, answer):
    for seed in range(3):
        result = grade(getattr(checks, name), answer, seed=seed)
        assert result.status == "passed", result.message


# -- wrong answers that an easy check would let through -------------------------------------------------


class OrderRemembered(TokenBatches):
    """Counts on its own, so that a loaded state is ignored."""

    taken = 0

    def next_batch(self):
        kept, self.position = self.position, self.taken
        batch = super().next_batch()
        self.taken, self.position = self.taken + 1, kept + 1
        return batch


class GlobalOrder(TokenBatches):
    """The order comes from NumPy's global generator."""

    def order(self, epoch):
        if self.seed is None:
            return np.arange(self.n_windows)
        np.random.seed(self.seed + epoch)
        return np.random.permutation(self.n_windows)


class LastBatchToo(TokenBatches):
    """One round more in each epoch, filled up with windows from the front."""

    def next_batch(self):
        self.per_epoch = math.ceil(self.n_windows / (self.batch_size * self.world_size))
        self.windows = np.resize(self.order(self.position // self.per_epoch), 10 * self.n_windows)
        self.epoch = self.position // self.per_epoch
        return super().next_batch()


@pytest.mark.parametrize("answer", [OrderRemembered, GlobalOrder, LastBatchToo])
def test_a_wrong_loader_fails(answer):
    for seed in range(3):
        assert grade(checks.TokenBatches, answer, seed=seed).status in ("failed", "error")


def draws_its_windows(model, tokens, block_size, *, batch_size, n_batches, autocast=None):
    mode = model.training
    model.eval()
    with torch.no_grad():
        losses = []
        for _ in range(n_batches):
            starts = torch.randint(len(tokens) - block_size, (batch_size, 1))
            cut = torch.as_tensor(tokens[(starts + torch.arange(block_size + 1)).numpy()]).long()
            losses.append(training.batch_loss(model, cut[:, :-1], cut[:, 1:], autocast).item())
    model.train(mode)
    return sum(losses) / n_batches


def only_one_batch(model, batches, optimizer, *, accumulation=1, max_norm=1.0, autocast=None, scaler=None):
    return training_step(model, batches, optimizer, max_norm=max_norm, autocast=autocast, scaler=scaler)


def no_scaler(model, batches, optimizer, *, accumulation=1, max_norm=1.0, autocast=None, scaler=None):
    options = {"accumulation": accumulation, "max_norm": max_norm, "autocast": autocast}
    return training_step(model, batches, optimizer, **options)


@pytest.mark.parametrize(
    ("name", "answer"),
    [("estimate_loss", draws_its_windows), ("training_step", only_one_batch), ("training_step", no_scaler)],
)
def test_a_wrong_answer_fails(name, answer):
    for seed in range(3):
        assert grade(getattr(checks, name), answer, seed=seed).status in ("failed", "error")
