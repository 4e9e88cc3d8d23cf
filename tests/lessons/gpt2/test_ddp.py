"""The lesson gpt2.ddp: buckets against brute force, one process against several, and its checks."""

import contextlib
import functools

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from groundup.check import grade
from groundup.check.processes import run_workers
from groundup.checks.gpt2 import ddp as checks
from groundup.gpt2 import ddp
from groundup.gpt2.ddp import DataParallel, bucket_gradients, flat_gradients, set_gradients
from groundup.gpt2.model import GPTConfig
from groundup.gpt2.training import training_step


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 30), st.sampled_from(["float32", "float64"]), st.booleans())),
    st.integers(1, 400),
)
def test_buckets_hold_each_trained_parameter_once(specified, bucket_bytes):
    parameters = [
        nn.Parameter(torch.zeros(n, dtype=getattr(torch, dtype)), requires_grad=trained)
        for n, dtype, trained in specified
    ]
    buckets = bucket_gradients(parameters, bucket_bytes)
    flat = [id(p) for bucket in buckets for p in bucket]
    assert flat == [id(p) for p in reversed(parameters) if p.requires_grad]
    sizes = [[p.numel() * p.element_size() for p in bucket] for bucket in buckets]
    assert all(len(size) == 1 or sum(size) <= bucket_bytes for size in sizes)
    assert all(len({p.dtype for p in bucket}) == 1 for bucket in buckets)
    for k in range(1, len(buckets)):  # no two neighbours would fit together
        same = buckets[k][0].dtype == buckets[k - 1][0].dtype
        assert not same or sum(sizes[k - 1]) + sizes[k][0] > bucket_bytes


def test_flat_gradients_and_back():
    bucket = [nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(1, 2))]
    bucket[0].grad, bucket[2].grad = torch.randn(2, 3), torch.randn(1, 2)
    before = bucket[0].grad.clone()
    flat = flat_gradients(bucket)
    assert torch.equal(flat[6:10], torch.zeros(4))
    set_gradients(bucket, 2 * flat)
    assert torch.equal(bucket[0].grad, 2 * before) and bucket[1].grad.shape == (4,)


def _nested(rank, world_size):
    model = DataParallel(nn.Linear(3, 2))
    with model.no_sync():
        with model.no_sync():
            pass
        model(torch.ones(1, 3)).sum().backward()
    silent = len(model.message_bytes)
    model(torch.ones(1, 3) * rank).sum().backward()
    return silent, len(model.message_bytes), model.module.weight.grad


def test_no_sync_may_be_nested():
    for silent, messages, gradient in run_workers(_nested, 2, seconds=60):
        assert (silent, messages) == (0, 1)
        assert torch.equal(gradient, torch.full((2, 3), 1.5))


class _Fails(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise KeyError


def _after_a_failure(rank, world_size):
    model = DataParallel(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)), bucket_bytes=1)
    with contextlib.suppress(KeyError):
        model.module[1](_Fails.apply(model.module[0](torch.ones(1, 3)))).sum().backward()
    model.zero_grad()
    before = len(model.message_bytes)
    model(torch.ones(1, 3) * rank).sum().backward()
    return before, len(model.message_bytes) - before, model.module[0].weight.grad


def test_a_backward_that_failed_leaves_nothing_behind():
    (before, messages, one), (_, _, other) = run_workers(_after_a_failure, 2, seconds=60)
    assert 0 < before < 4 and messages == 4
    assert torch.equal(one, other)


def _itself(model):
    return model


def _with_ddp(rank, world_size, tokens, config):
    from torch.nn.parallel import DistributedDataParallel

    step = functools.partial(ddp.distributed_step, accumulation=2, max_norm=0.5)
    adamw = functools.partial(torch.optim.AdamW, lr=1e-2)
    return ddp.train_rank(rank, world_size, tokens, config, DistributedDataParallel, step, 2, 2, adamw)


def test_a_step_with_pytorchs_class_is_that_of_one_process():
    tokens = torch.arange(2000) * 37 % 11
    config = GPTConfig(8, 11, n_layer=1, n_head=2, n_embd=8)
    adamw = functools.partial(torch.optim.AdamW, lr=1e-2)
    step = functools.partial(training_step, max_norm=0.5)
    wanted, losses = ddp.train_rank(0, 1, tokens, config, _itself, step, 2, 8, adamw)
    for parameters, told in run_workers(_with_ddp, 2, tokens, config, seconds=60):
        assert torch.allclose(parameters, wanted, rtol=0, atol=1e-10)
        assert told == pytest.approx(losses)


# -- answers written otherwise -------------------------------------------------------------------------


def buckets_by_groups(parameters, bucket_bytes):
    buckets, dtypes = [], []
    for p in list(parameters)[::-1]:
        if p.requires_grad:
            newest = buckets[-1] if buckets else ()
            total = sum(q.nbytes for q in newest) + p.nbytes
            if not newest or total > bucket_bytes or dtypes[-1] != p.dtype:
                buckets.append(())
                dtypes.append(p.dtype)
            buckets[-1] += (p,)
    return tuple(buckets)


def divides_first_in_place(model, bucket_bytes=25 * 2**20):
    from torch.distributed import all_reduce

    for bucket in bucket_gradients(model.parameters(), bucket_bytes):
        for p in bucket:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
            p.grad.div_(dist.get_world_size())
        flat = torch.nn.utils.parameters_to_vector([p.grad for p in bucket])
        all_reduce(flat)
        torch.nn.utils.vector_to_parameters(flat, [p.grad for p in bucket])


def all_under_way_at_once(model, bucket_bytes=25 * 2**20):
    buckets = bucket_gradients(model.parameters(), bucket_bytes)
    vectors = [flat_gradients(bucket) for bucket in buckets]
    works = [dist.all_reduce(flat, async_op=True) for flat in vectors]
    for bucket, flat, work in zip(buckets, vectors, works, strict=True):
        work.wait()
        set_gradients(bucket, flat / dist.get_world_size())


class DividesFirst(DataParallel):
    """Each process sends its part of the mean, and asks until the message is done."""

    def start_message(self):
        flat = flat_gradients(self.buckets[len(self.started)]) / dist.get_world_size()
        self.message_bytes.append(flat.nbytes)
        self.started.append((flat, dist.all_reduce(flat, async_op=True)))

    def finish(self):
        for _ in range(len(self.started), len(self.buckets)):
            self.start_message()
        for bucket, (flat, work) in zip(self.buckets, self.started, strict=True):
            while not work.is_completed():
                pass
            set_gradients(bucket, flat)
        self.missing = None


class WithFutures(DataParallel):
    """Waits for the futures, the last message first."""

    def finish(self):
        for _ in range(len(self.started), len(self.buckets)):
            self.start_message()
        for bucket, (flat, work) in reversed(list(zip(self.buckets, self.started, strict=True))):
            work.get_future().wait()
            flat /= dist.get_world_size()
            set_gradients(bucket, flat)
        self.missing = None


def step_with_a_stack(model, batches, optimizer, *, accumulation=1, max_norm=1.0):
    model.train()
    optimizer.zero_grad()
    losses = []
    with model.no_sync():
        for _ in range(accumulation - 1):
            losses.append(ddp.batch_loss(model, *batches.next_batch()))
            (losses[-1] / accumulation).backward()
    losses.append(ddp.batch_loss(model, *batches.next_batch()))
    (losses[-1] / accumulation).backward()
    norm = float(nn.utils.clip_grad_norm_(list(model.parameters()), max_norm))
    optimizer.step()
    mine = torch.stack(losses).mean().detach()
    every = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(every, mine)
    return float(sum(every) / len(every)), norm


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("bucket_gradients", buckets_by_groups),
        ("all_reduce_gradients", divides_first_in_place),
        ("all_reduce_gradients", all_under_way_at_once),
        ("DataParallel", DividesFirst),
        ("DataParallel", WithFutures),
        ("distributed_step", step_with_a_stack),
    ],
)
def test_a_right_answer_written_otherwise_passes(name, answer):
    result = grade(getattr(checks, name), answer, seed=1)
    assert result.status == "passed", result.message


# -- wrong answers that an easy check would let through -------------------------------------------------


def reverses_the_list_given(parameters, bucket_bytes):
    given = parameters if isinstance(parameters, list) else list(parameters)
    given.reverse()
    return bucket_gradients(given[::-1], bucket_bytes)


def one_message_for_all(model, bucket_bytes=25 * 2**20):
    ddp.all_reduce_gradients(model, 2**40)


def averages_parameters_too(model, bucket_bytes=25 * 2**20):
    ddp.all_reduce_gradients(model, bucket_bytes)
    for p in model.parameters():
        p.data.mul_(0.5)


def dtypes_told_apart_by_their_size(parameters, bucket_bytes):
    buckets, room, width = [], 0, None
    for p in reversed([p for p in parameters if p.requires_grad]):
        if p.nbytes > room or p.element_size() != width:
            buckets.append([])
            room, width = bucket_bytes, p.element_size()
        buckets[-1].append(p)
        room -= p.nbytes
    return buckets


def does_not_wait(model, bucket_bytes=25 * 2**20):
    for bucket in bucket_gradients(model.parameters(), bucket_bytes):
        flat = flat_gradients(bucket)
        dist.all_reduce(flat, async_op=True)
        set_gradients(bucket, flat / dist.get_world_size())


def leaves_the_mode_changed(model, bucket_bytes=25 * 2**20):
    ddp.all_reduce_gradients(model, bucket_bytes)
    model.eval()


class WaitsForTheLastOnly(DataParallel):
    def finish(self):
        for _ in range(len(self.started), len(self.buckets)):
            self.start_message()
        self.started[-1][1].wait()
        for bucket, (flat, _) in zip(self.buckets, self.started, strict=True):
            set_gradients(bucket, flat / dist.get_world_size())
        self.missing = None


class AtLeastTwoProcesses(DataParallel):
    def finish(self):
        for _ in range(len(self.started), len(self.buckets)):
            self.start_message()
        for bucket, (flat, work) in zip(self.buckets, self.started, strict=True):
            work.wait()
            set_gradients(bucket, flat / max(2, dist.get_world_size()))
        self.missing = None


class ForgetsWhatIsMissing(DataParallel):
    """Right in the first backward only: later ones send nothing."""

    def finish(self):
        super().finish()
        self.synchronise = False


class ExchangesInsideNoSync(DataParallel):
    @contextlib.contextmanager
    def no_sync(self):
        yield


class StaysSilentAfterAnError(DataParallel):
    @contextlib.contextmanager
    def no_sync(self):
        before, self.synchronise = self.synchronise, False
        yield
        self.synchronise = before


class FromTheLastRank(DataParallel):
    def __init__(self, module, bucket_bytes=25 * 2**20):
        for p in module.parameters():
            dist.broadcast(p.detach(), src=dist.get_world_size() - 1)
        super().__init__(module, bucket_bytes)


def forward_outside(model, batches, optimizer, *, accumulation=1, max_norm=1.0):
    model.train()
    optimizer.zero_grad()
    total = 0.0
    for k in range(accumulation):
        loss = ddp.batch_loss(model, *batches.next_batch()) / accumulation
        with contextlib.nullcontext() if k == accumulation - 1 else model.no_sync():
            loss.backward()
        total += loss.detach()
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    dist.all_reduce(total)
    return total.item() / dist.get_world_size(), norm.item()


def one_backward_for_all(model, batches, optimizer, *, accumulation=1, max_norm=1.0):
    model.train()
    optimizer.zero_grad()
    total = sum(ddp.batch_loss(model, *batches.next_batch()) for _ in range(accumulation)) / accumulation
    total.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    dist.all_reduce(total.detach_())
    return total.item() / dist.get_world_size(), norm.item()


def last_loss_only(model, batches, optimizer, *, accumulation=1, max_norm=1.0):
    loss, norm = step_with_a_stack(model, batches, optimizer, accumulation=accumulation, max_norm=max_norm)
    return loss / accumulation, norm


def usual_norm(model, batches, optimizer, *, accumulation=1, max_norm=1.0):
    return ddp.distributed_step(model, batches, optimizer, accumulation=accumulation)


def returns_tensors(*given, **options):
    return tuple(torch.tensor(n) for n in ddp.distributed_step(*given, **options))


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("bucket_gradients", reverses_the_list_given),
        ("bucket_gradients", dtypes_told_apart_by_their_size),
        ("all_reduce_gradients", does_not_wait),
        ("all_reduce_gradients", leaves_the_mode_changed),
        ("all_reduce_gradients", one_message_for_all),
        ("all_reduce_gradients", averages_parameters_too),
        ("DataParallel", WaitsForTheLastOnly),
        ("DataParallel", AtLeastTwoProcesses),
        ("DataParallel", ForgetsWhatIsMissing),
        ("DataParallel", ExchangesInsideNoSync),
        ("DataParallel", StaysSilentAfterAnError),
        ("DataParallel", FromTheLastRank),
        ("distributed_step", forward_outside),
        ("distributed_step", one_backward_for_all),
        ("distributed_step", last_loss_only),
        ("distributed_step", usual_norm),
        ("distributed_step", returns_tensors),
    ],
)
def test_a_wrong_answer_fails(name, answer):
    assert grade(getattr(checks, name), answer, seed=1).status in ("failed", "error", "timeout")


# -- wrong answers of a newcomer, and what they should be told -------------------------------------------


def begins_with_an_empty_bucket(parameters, bucket_bytes):
    buckets, size = [[]], 0
    for p in reversed(list(parameters)):
        if not p.requires_grad:
            continue
        n = p.numel() * p.element_size()
        if size + n > bucket_bytes or (buckets[-1] and p.dtype != buckets[-1][-1].dtype):
            buckets.append([])
            size = 0
        buckets[-1].append(p)
        size += n
    return buckets


def groups_by_dtype_first(parameters, bucket_bytes):
    by_dtype, buckets = {}, []
    for p in reversed(list(parameters)):
        if p.requires_grad:
            by_dtype.setdefault(p.dtype, []).append(p)
    for group in by_dtype.values():
        size = bucket_bytes + 1
        for p in group:
            n = p.numel() * p.element_size()
            if size + n > bucket_bytes:
                buckets.append([])
                size = 0
            buckets[-1].append(p)
            size += n
    return buckets


def size_not_reset(parameters, bucket_bytes):
    buckets, size = [], 0
    for p in reversed([p for p in parameters if p.requires_grad]):
        n = p.numel() * p.element_size()
        if not buckets or size + n > bucket_bytes or p.dtype != buckets[-1][-1].dtype:
            buckets.append([])
        buckets[-1].append(p)
        size += n
    return buckets


def uses_what_all_reduce_returns(model, bucket_bytes=25 * 2**20):
    for bucket in bucket_gradients(model.parameters(), bucket_bytes):
        flat = dist.all_reduce(flat_gradients(bucket))
        set_gradients(bucket, flat / dist.get_world_size())


def leaves_out_what_has_no_gradient(model, bucket_bytes=25 * 2**20):
    for bucket in bucket_gradients(model.parameters(), bucket_bytes):
        used = [p for p in bucket if p.grad is not None]
        flat = flat_gradients(used)
        dist.all_reduce(flat)
        set_gradients(used, flat / dist.get_world_size())


class _Hook(DataParallel):
    def gradient_ready(self, number, parameter):
        if not self.synchronise:
            return
        if self.missing is None:
            self.missing, self.started = [len(bucket) for bucket in self.buckets], []
            torch.autograd.Variable._execution_engine.queue_callback(self.finish)
        self.missing[number] -= 1
        self.start(number)


class StartsTheNextWhenAnyIsFull(_Hook):
    def start(self, number):
        if self.missing[number] == 0:
            self.start_message()


class StartsOnlyTheOneJustFull(_Hook):
    def start(self, number):
        if self.missing[number] == 0 and number == len(self.started):
            self.start_message()


class BroadcastsIntoCopies(DataParallel):
    def __init__(self, module, bucket_bytes=25 * 2**20):
        before = [p.detach().clone() for p in module.parameters()]
        super().__init__(module, bucket_bytes)
        for p, kept in zip(module.parameters(), before, strict=True):
            p.data.copy_(kept)
            dist.broadcast(p.detach().clone(), src=0)


def only_forward_inside(model, batches, optimizer, *, accumulation=1, max_norm=1.0):
    """With PyTorch's class it exchanges once; ours decides in backward."""
    model.train()
    optimizer.zero_grad()
    total = 0.0
    for k in range(accumulation):
        with contextlib.nullcontext() if k == accumulation - 1 else model.no_sync():
            loss = ddp.batch_loss(model, *batches.next_batch()) / accumulation
        loss.backward()
        total += loss.detach()
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    dist.all_reduce(total)
    return total.item() / dist.get_world_size(), norm.item()


def averages_by_itself(model, batches, optimizer, *, accumulation=1, max_norm=1.0):
    model.train()
    optimizer.zero_grad()
    total = 0.0
    with model.no_sync():
        for _ in range(accumulation):
            loss = ddp.batch_loss(model, *batches.next_batch()) / accumulation
            loss.backward()
            total += loss.detach()
    ddp.all_reduce_gradients(model)
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    dist.all_reduce(total)
    return total.item() / dist.get_world_size(), norm.item()


def sends_the_loss_each_time(model, batches, optimizer, *, accumulation=1, max_norm=1.0):
    model.train()
    optimizer.zero_grad()
    total = 0.0
    for k in range(accumulation):
        with contextlib.nullcontext() if k == accumulation - 1 else model.no_sync():
            loss = ddp.batch_loss(model, *batches.next_batch()) / accumulation
            loss.backward()
        part = loss.detach()
        dist.all_reduce(part)
        total += part.item() / dist.get_world_size()
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    return total, norm.item()


def sends_a_float(model, batches, optimizer, *, accumulation=1, max_norm=1.0):
    dist.all_reduce(1.0)


@pytest.mark.parametrize(
    ("name", "answer", "told"),
    [
        ("bucket_gradients", begins_with_an_empty_bucket, "You begin with an empty bucket"),
        ("bucket_gradients", groups_by_dtype_first, "You gather all parameters of one dtype first"),
        ("bucket_gradients", size_not_reset, "You go on counting when a new bucket begins"),
        ("all_reduce_gradients", uses_what_all_reduce_returns, "works in place and returns None"),
        ("all_reduce_gradients", leaves_out_what_has_no_gradient, "also if it did not use a layer"),
        ("DataParallel", StartsTheNextWhenAnyIsFull, "You start the next bucket in line whenever some"),
        ("DataParallel", StartsOnlyTheOneJustFull, "You start a bucket only at its own last gradient"),
        ("DataParallel", BroadcastsIntoCopies, "not into copies"),
        ("distributed_step", forward_outside, "You put backward inside no_sync, but not forward."),
        ("distributed_step", only_forward_inside, "our class decides in backward"),
        ("distributed_step", averages_by_itself, "all your messages wait until the last backward is over"),
        ("distributed_step", sends_the_loss_each_time, "a step needs one small message only"),
        ("distributed_step", sends_a_float, "type torch.Tensor but got"),
    ],
)
def test_a_newcomers_wrong_answer_is_told_what_is_wrong(name, answer, told):
    result = grade(getattr(checks, name), answer, seed=2)
    assert result.status in ("failed", "error") and told in result.message, result.message


def only_rank_0_sends(model, bucket_bytes=25 * 2**20):
    for bucket in bucket_gradients(model.parameters(), bucket_bytes):
        flat = flat_gradients(bucket)
        if dist.get_rank() == 0:
            dist.all_reduce(flat)
        set_gradients(bucket, flat / dist.get_world_size())


class NeverAppends(DataParallel):
    """An endless loop: no bucket is ever started."""

    def finish(self):
        while self.buckets:
            pass


@pytest.mark.parametrize(
    ("name", "answer", "told"),
    [
        ("all_reduce_gradients", only_rank_0_sends, "rank 0 was still waiting"),
        ("DataParallel", NeverAppends, "ranks 0, 1 were still computing"),
    ],
)
def test_a_hang_is_told_once_its_time_is_over_and_for_what_it_is(monkeypatch, name, answer, told):
    monkeypatch.setattr(checks, "SECONDS", 3.0)
    result = grade(getattr(checks, name), answer, seed=2)
    assert result.status == "timeout" and told in result.message, result.message
    assert "?." not in result.message
    assert result.seconds < 12  # the other cases and the mistakes do not hang once more
