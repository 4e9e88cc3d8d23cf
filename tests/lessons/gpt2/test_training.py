"""The lesson gpt2.training: the loader's promises, the step against one large batch, and its checks."""

import copy
import math
import random

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
    return (
        {"weight_decay": weight_decay, "params": split[True]},
        {"weight_decay": 0, "params": split[False]},
    )


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


def passes_over_batches_without_targets(model, micro_batches):
    pairs = [(x, y) for x, y in micro_batches if (y != -100).any()]
    count, total = sum(int((y >= 0).sum()) for _, y in pairs), 0.0
    for x, y in pairs:
        log_probs = model(x).log_softmax(-1).gather(-1, y.clamp(min=0)[..., None])[..., 0]
        loss = -(log_probs * (y != -100)).sum() / count
        loss.backward()
        total += float(loss)
    return total


class OneByOne(TokenBatches):
    """Inputs and targets cut apart, token by token."""

    def next_batch(self):
        epoch, number = divmod(self.position, self.per_epoch)
        self.position = self.position + 1
        first = (number * self.world_size + self.rank) * self.batch_size
        starts = [int(k) * self.block_size for k in self.order(epoch)[first : first + self.batch_size]]

        def cut(moved):
            rows = [[int(self.tokens[s + t + moved]) for t in range(self.block_size)] for s in starts]
            return torch.tensor(rows)

        return cut(0), cut(1)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("TokenBatches", Stacked),
        ("TokenBatches", OneByOne),
        ("accumulate_gradients", passes_over_batches_without_targets),
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


class StaleOrder(TokenBatches):
    """A new order only at an epoch's first batch: a state loaded from another epoch meets the old one."""

    def next_batch(self):
        self.epoch, number = divmod(self.position, self.per_epoch)
        if number == 0 or self.windows is None:
            self.windows = self.order(self.epoch)
        return super().next_batch()


class WholeFile(TokenBatches):
    """Converts the whole file before the first batch."""

    def next_batch(self):
        self.tokens = torch.as_tensor(np.asarray(self.tokens)).long()
        return super().next_batch()


class OrderOfThePosition(TokenBatches):
    """Ignores the epoch it is asked for."""

    def order(self, epoch):
        return super().order(self.position // self.per_epoch)


class OnlyTheUsedWindows(TokenBatches):
    """An order without the windows that are dropped."""

    def order(self, epoch):
        return super().order(epoch)[: self.per_epoch * self.batch_size * self.world_size]


class SeedsEverybody(TokenBatches):
    """Seeds the global generators."""

    def next_batch(self):
        np.random.seed(0)
        torch.manual_seed(0)
        return super().next_batch()


@pytest.mark.parametrize(
    "answer",
    [
        OrderRemembered,
        GlobalOrder,
        LastBatchToo,
        StaleOrder,
        WholeFile,
        OrderOfThePosition,
        OnlyTheUsedWindows,
        SeedsEverybody,
    ],
)
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


def all_graphs_at_once(
    model, batches, optimizer, *, accumulation=1, max_norm=1.0, autocast=None, scaler=None
):
    scaler = scaler or torch.amp.GradScaler(enabled=False)
    model.train()
    optimizer.zero_grad()
    pairs = (batches.next_batch() for _ in range(accumulation))
    loss = sum(training.batch_loss(model, *pair, autocast) for pair in pairs) / accumulation
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    scaler.step(optimizer)
    scaler.update()
    return loss.item(), norm.item()


def always_bfloat16(model, batches, optimizer, *, autocast=None, **options):
    return training_step(model, batches, optimizer, autocast=autocast and torch.bfloat16, **options)


def clips_the_first_group(model, batches, optimizer, **options):
    first = nn.ParameterList(optimizer.param_groups[0]["params"])
    clip = nn.utils.clip_grad_norm_
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.utils, "clip_grad_norm_", lambda _, max_norm: clip(first, max_norm))
        return training_step(model, batches, optimizer, **options)


def only_the_outer_module_in_eval(model, tokens, block_size, *, batch_size, n_batches, autocast=None):
    mode = model.training
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model), "eval", lambda self: setattr(self, "training", False))
        patch.setattr(type(model), "train", lambda self, mode: setattr(self, "training", mode))
        options = {"batch_size": batch_size, "n_batches": n_batches, "autocast": autocast}
        loss = estimate_loss(model, tokens, block_size, **options)
    model.training = mode
    return loss


def _then(name, what):
    """The right answer, and then `what` is done to the model."""

    def answer(model, *args, **options):
        result = getattr(training, name)(model, *args, **options)
        what(model)
        return result

    return answer


def _each(change):
    return lambda model: [change(parameter) for parameter in model.parameters()]


def _generators(model, weight_decay):
    groups = parameter_groups(model, weight_decay)
    return [group | {"params": iter(group["params"])} for group in groups]


def _by_id(model, weight_decay):
    groups = parameter_groups(model, weight_decay)
    return [group | {"params": sorted(group["params"], key=id)[::-1]} for group in groups]


def _one_backward(model, micro_batches):
    count = sum((y != -100).sum() for _, y in micro_batches)
    losses = [F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum") for x, y in micro_batches]
    loss = sum(losses) / count
    loss.backward()
    return loss.item()


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("estimate_loss", draws_its_windows),
        ("estimate_loss", only_the_outer_module_in_eval),
        ("estimate_loss", _then("estimate_loss", _each(lambda p: setattr(p, "grad", None)))),
        ("estimate_loss", _then("estimate_loss", _each(lambda p: p.data.mul_(0.5)))),
        ("estimate_loss", _then("estimate_loss", _each(lambda p: p.requires_grad_(False)))),
        ("estimate_loss", _then("estimate_loss", lambda _: torch.set_grad_enabled(False))),
        ("estimate_loss", _then("estimate_loss", lambda _: random.random())),
        ("training_step", only_one_batch),
        ("training_step", no_scaler),
        ("training_step", all_graphs_at_once),
        ("training_step", always_bfloat16),
        ("training_step", clips_the_first_group),
        ("training_step", _then("training_step", lambda model: model.unused.data.zero_())),
        ("parameter_groups", _generators),
        ("parameter_groups", _by_id),
        ("parameter_groups", lambda *given: parameter_groups(*given)[::-1]),
        ("parameter_groups", lambda *given: [g for g in parameter_groups(*given) if g["params"]]),
        ("parameter_groups", _then("parameter_groups", _each(lambda p: p.requires_grad_(True)))),
        ("parameter_groups", _then("parameter_groups", lambda model: model.eval())),
        ("accumulate_gradients", _one_backward),
        ("accumulate_gradients", _then("accumulate_gradients", lambda model: model.head.data.add_(1))),
    ],
)
def test_a_wrong_answer_fails(name, answer):
    for seed in range(2):
        assert grade(getattr(checks, name), answer, seed=seed).status in ("failed", "error")


# -- wrong answers of a first reader, each with the words that it is answered with -----------------------


class _Loader(TokenBatches):
    """A right loader whose rows come from `rows(number)`, the places where a batch's windows start."""

    def rows(self, number):
        first = (number * self.world_size + self.rank) * self.batch_size
        return self.windows[first : first + self.batch_size] * self.block_size

    def next_batch(self):
        epoch, number = divmod(self.position, self.per_epoch)
        self.windows = self.order(epoch)
        places = self.rows(number)[:, None] + np.arange(self.block_size + 1)
        cut = torch.as_tensor(self.tokens[places]).long()
        self.position += 1
        return cut[:, :-1], cut[:, 1:]


class AStretchForEachRank(_Loader):
    def rows(self, number):
        first = (self.rank * self.per_epoch + number) * self.batch_size
        return self.windows[first : first + self.batch_size] * self.block_size


class RankLeftOut(_Loader):
    def rows(self, number):
        return self.windows[number * self.batch_size :][: self.batch_size] * self.block_size


class DealtOut(_Loader):
    def rows(self, number):
        mine = self.windows[self.rank :: self.world_size]
        return mine[number * self.batch_size :][: self.batch_size] * self.block_size


class InTheOrderOfTheText(_Loader):
    def next_batch(self):
        number = self.position % self.per_epoch
        first = (number * self.world_size + self.rank) * self.batch_size * self.block_size
        rows = self.tokens[first : first + self.batch_size * self.block_size + 1]
        rows = torch.as_tensor(rows).long()
        self.position += 1
        return rows[:-1].view(self.batch_size, -1), rows[1:].view(self.batch_size, -1)


class SeedPlusEpoch(TokenBatches):
    def order(self, epoch):
        if self.seed is None:
            return np.arange(self.n_windows)
        return np.random.default_rng(self.seed + epoch).permutation(self.n_windows)


class TurnedRound(TokenBatches):
    def next_batch(self):
        x, _ = super().next_batch()
        return x, x.roll(-1, 1)


class Drifting(_Loader):
    def rows(self, number):
        return super().rows(number) // self.block_size * (self.block_size + 1)


class ReversedRows(_Loader):
    """Nothing that a named mistake knows."""

    def rows(self, number):
        return super().rows(number)[::-1]


def _of_a_set(model, weight_decay):
    groups = parameter_groups(model, weight_decay)
    return [groups[0] | {"params": list(set(groups[0]["params"]))}, groups[1]]


def _stepping(where):
    """A step with one line in a wrong place."""

    def answer(model, batches, optimizer, *, accumulation=1, max_norm=1.0, autocast=None, scaler=None):
        scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
        model.train()
        if where != "cleared at the end":
            optimizer.zero_grad()
        total = 0.0
        for _ in range(accumulation):
            loss = training.batch_loss(model, *batches.next_batch(), autocast) / accumulation
            scaled = scaler.scale(loss)
            scaled.backward()
            total += (scaled if where == "scaled loss" else loss).item()
            if where in ("unscaled inside", "all inside"):
                scaler.unscale_(optimizer)
            if where in ("clipped inside", "unscaled inside", "all inside"):
                norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
            if where == "all inside":
                scaler.step(optimizer)
                scaler.update()
        if where == "all inside":
            return total, norm.item()
        if where != "unscaled inside":
            scaler.unscale_(optimizer)
        if where not in ("clipped inside", "unscaled inside"):
            norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        if where == "no scaler at the end":
            optimizer.step()
        else:
            scaler.step(optimizer)
        if where not in ("no scaler at the end", "no update"):
            scaler.update()
        if where == "cleared at the end":
            optimizer.zero_grad()
        return total, norm.item()

    return answer


def _measuring(starts_of):
    @torch.no_grad()
    def answer(model, tokens, block_size, *, batch_size, n_batches, autocast=None):
        mode, total = model.training, 0.0
        model.eval()
        starts = np.asarray(starts_of(len(tokens), block_size, batch_size * n_batches))
        for rows in starts.reshape(n_batches, batch_size):
            cut = torch.as_tensor(tokens[rows[:, None] + np.arange(block_size + 1)]).long()
            total += training.batch_loss(model, cut[:, :-1], cut[:, 1:], autocast).item()
        model.train(mode)
        return total / n_batches

    return answer


@torch.no_grad()
def measures_on_the_loader(model, tokens, block_size, *, batch_size, n_batches, autocast=None):
    mode = model.training
    model.eval()
    batches = TokenBatches(tokens, batch_size, block_size)
    losses = [training.batch_loss(model, *batches.next_batch(), autocast).item() for _ in range(n_batches)]
    model.train(mode)
    return sum(losses) / n_batches


def _adding(how):
    """The accumulation, wrong in one place."""

    def answer(model, micro_batches):
        if how == "cleared first":
            model.zero_grad()
        if how == "train mode":
            model.train()
        targets = [y > 0 if how == "y > 0" else y != -100 for _, y in micro_batches]
        n, total = sum(counts.sum() for counts in targets), 0.0
        for x, y in micro_batches:
            logits = model(x).flatten(0, 1)
            if how == "mean times count":
                loss = F.cross_entropy(logits, y.flatten()) * (y != -100).sum() / n
            else:
                loss = F.cross_entropy(logits, y.flatten(), reduction="sum")
                loss = loss if how == "only the return" else loss / n
            loss.backward()
            total += loss.item()
        return total / n.item() if how == "only the return" else total

    return answer


@pytest.mark.parametrize(
    ("name", "answer", "words"),
    [
        ("TokenBatches", AStretchForEachRank, "a stretch of the order"),
        ("TokenBatches", RankLeftOut, "leave out rank and world_size"),
        ("TokenBatches", DealtOut, "like cards"),
        ("TokenBatches", InTheOrderOfTheText, "in its own order"),
        ("TokenBatches", SeedPlusEpoch, "You add seed and epoch"),
        ("TokenBatches", GlobalOrder, "the generator that everybody shares"),
        ("TokenBatches", TurnedRound, "the row's own first token"),
        ("TokenBatches", Drifting, "block_size + 1 tokens apart"),
        ("TokenBatches", ReversedRows, "start at the places [3, 0] of the text, expected [0, 3]"),
        ("parameter_groups", _of_a_set, "in this order"),
        ("training_step", _stepping("clipped inside"), "You clip after each batch"),
        ("training_step", _stepping("unscaled inside"), "You unscale and clip after each batch"),
        ("training_step", _stepping("all inside"), "another number of steps"),
        ("training_step", _stepping("cleared at the end"), "only after the step"),
        ("training_step", _stepping("no scaler at the end"), "scaler.update()"),
        ("training_step", _stepping("no update"), "scaler.update()"),
        ("training_step", _stepping("scaled loss"), "times the scaler's scale"),
        ("estimate_loss", measures_on_the_loader, "only its beginning is measured"),
        ("estimate_loss", draws_its_windows, "draws random numbers"),
        ("estimate_loss", _measuring(lambda N, T, n: np.arange(n) * ((N - T) // n)), "windows start at"),
        ("estimate_loss", _measuring(lambda N, T, n: np.arange(n) * (N - T - 1) // n), "windows start at"),
        ("estimate_loss", _measuring(lambda N, T, n: np.linspace(0, N - T - 1, n).astype(int)), "start at"),
        (
            "estimate_loss",
            _measuring(lambda N, T, n: np.random.default_rng(3).integers(N - T, size=n)),
            "windows start at",
        ),
        ("accumulate_gradients", _adding("mean times count"), "0/0"),
        ("accumulate_gradients", _adding("cleared first"), "You clear the gradients first"),
        ("accumulate_gradients", _adding("train mode"), "the model's mode"),
        ("accumulate_gradients", _adding("only the return"), "backward was called on sums"),
        ("accumulate_gradients", _adding("y > 0"), "Token 0 is a token like any other"),
    ],
)
def test_a_first_readers_wrong_answer_is_answered_in_words(name, answer, words):
    for seed in range(3):
        result = grade(getattr(checks, name), answer, seed=seed)
        assert result.status in ("failed", "error")
        assert words in result.message, result.message


def test_the_helpers_of_these_wrong_answers_are_right_themselves():
    for name, answer in [
        ("TokenBatches", _Loader),
        ("training_step", _stepping("")),
        ("estimate_loss", _measuring(lambda N, T, n: np.arange(n) * (N - T) // n)),
        ("accumulate_gradients", _adding("")),
    ]:
        assert grade(getattr(checks, name), answer, seed=0).passed


def test_tokens_that_tell_their_places_are_not_guessed():
    """Nearly all texts of the cases count on by one: x + 1 for the targets must not pass all the same."""

    def adds_one(model, tokens, block_size, **options):
        text = torch.as_tensor(np.asarray(tokens[:1]).astype(np.int64)) + torch.arange(len(tokens))
        return estimate_loss(model, text, block_size, **options)

    class AddsOne(TokenBatches):
        def next_batch(self):
            x, _ = super().next_batch()
            return x, x + 1

    assert not grade(checks.estimate_loss, adds_one, seed=1).passed
    assert not grade(checks.TokenBatches, AddsOne, seed=1).passed
