"""Checks for the lesson gpt2.ddp: real gloo processes, whose messages are counted on the way."""

import contextlib
import sys
from collections.abc import Iterator

import cloudpickle
import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from groundup.check import Case, Exercise, compare
from groundup.check.processes import WorkerError, pack, run_workers, unpack

bucket_gradients = Exercise("gpt2.ddp.bucket_gradients")
all_reduce_gradients = Exercise("gpt2.ddp.all_reduce_gradients", workers=True, seconds=90.0)
DataParallel = Exercise("gpt2.ddp.DataParallel", kind="class", workers=True, seconds=90.0)
distributed_step = Exercise("gpt2.ddp.distributed_step", workers=True, seconds=90.0)

SECONDS = 8.0  # a right answer takes some hundredths; on a busy machine, a second


def _told(sentences):
    """An `agree` for one observation per rank: `sentences[name]` where `name` differs, else compares all."""

    def agree(got, expected):
        if isinstance(got, list) and len(got) == len(expected):
            for rank, (mine, wanted) in enumerate(zip(got, expected, strict=True)):
                for name, value in wanted.items():
                    if difference := compare(mine.get(name), value):
                        told = sentences.get(name)
                        return f"rank {rank}: {told or f'{name}: {difference}'}"
        return compare(got, expected)

    return agree


class _Wire:
    """Stands before dist.all_reduce in a worker: notes every message, and when it is waited for."""

    def __init__(self):
        self.real = dist.distributed_c10d.all_reduce
        self.messages, self.started, self.blocking, self.waits = [], [], [], []
        self.ready = 0  # gradients that this backward has completed
        dist.all_reduce = dist.distributed_c10d.all_reduce = self.all_reduce

    def all_reduce(self, tensor, op=dist.ReduceOp.SUM, group=None, async_op=False):
        if not isinstance(tensor, torch.Tensor):
            return self.real(tensor, op, group, async_op)  # which says what is wrong
        self.messages.append(tensor.numel())
        self.started.append(self.ready)
        self.blocking.append(not async_op)
        if not async_op:
            return self.real(tensor, op, group, False)
        copy = tensor.detach().clone()
        return _Work(self.real(copy, op, group, True), tensor, copy, self)


class _Work:
    """The sum stands in the tensor only after a wait: else a small message is there by luck."""

    def __init__(self, work, tensor, copy, wire):
        self.work, self.tensor, self.copy, self.wire = work, tensor, copy, wire

    def wait(self, *args):
        self.wire.waits.append(self.wire.ready)
        done = self.work.wait(*args)
        if self.copy is not None:
            self.tensor.detach().copy_(self.copy)
            self.copy = None
        return done

    def get_future(self):
        return self

    def is_completed(self):
        return self.work.is_completed() and self.wait()

    def value(self):
        return [self.tensor]

    result = value

    def __getattr__(self, name):
        return getattr(self.work, name)


def _in_processes(worker, ranks, obj, *args):
    # By value: to import this module would take a worker ten times as long as its work.
    this = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(this)
    try:
        # As bytes: it is unpacked in the worker after dist.all_reduce was replaced.
        return run_workers(worker, ranks, pack(obj), *args, seconds=SECONDS)
    except WorkerError as error:
        if "/: 'NoneType'" in str(error):
            raise WorkerError(f"{error}. dist.all_reduce works in place and returns None") from None
        if "gloo" not in str(error):
            raise
        raise WorkerError(
            "the processes' messages do not fit together: one process sends more of them than another, or other "
            "sizes. Every process must send the same messages in the same order, also if it did not use a layer"
        ) from None
    finally:
        cloudpickle.unregister_pickle_by_value(this)


def _cut(parameters, bucket_bytes):
    """The sizes promised on the page, found with a list of sums."""
    buckets = []
    for p in [p for p in parameters if p.requires_grad][::-1]:
        newest = buckets[-1] if buckets else []
        total = sum(q.nelement() * q.element_size() for q in [*newest, p])
        if newest and total <= bucket_bytes and newest[0].dtype is p.dtype:
            newest.append(p)
        else:
            buckets.append([p])
    return buckets


# -- buckets -------------------------------------------------------------------------------------------


def _parameters(shapes, dtypes, frozen):
    return [
        nn.Parameter(torch.zeros(*shape, dtype=getattr(torch, dtype)), requires_grad=k not in frozen)
        for k, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=True))
    ]


@bucket_gradients.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, shapes, bucket_bytes, dtypes=None, frozen=(), generator=False):
        dtypes = dtypes or ["float32"] * len(shapes)
        return Case(
            label,
            shapes=shapes,
            dtypes=dtypes,
            frozen=frozen,
            bucket_bytes=bucket_bytes,
            generator=generator,
        )

    some = [tuple(int(n) for n in rng.integers(1, 7, size=rng.integers(1, 4))) for _ in range(14)]
    yield case("4, 2, 3 and 6 numbers", [(4,), (2,), (3,), (6,)], 24)
    yield case("a bucket exactly full", [(5, 3), (3,), (2, 2), (1,)], 32)
    yield case("one byte too few", [(5, 3), (3,), (2, 2), (1,)], 31)
    yield case("one larger than a bucket", [(2,), (40,), (3,), (1,)], 64)
    yield case("all in one", [(3, 2), (4,), (2, 5)], 25 * 2**20, generator=True)
    yield case("one byte for a bucket", [(3, 2), (4,), (2, 5)], 1)
    yield case("frozen ones between", [(3, 2), (4,), (2, 5), (6,)], 64, frozen=(1, 3), generator=True)
    mixed = ["float32", "float64", "float64", "bfloat16", "float16", "float32"]
    yield case("several dtypes", [(3,), (4,), (2,), (6,), (5,), (2, 2)], 1000, mixed)
    yield case("float64", [(3, 2), (4,), (2, 5), (7,)], 96, ["float64"] * 4)
    yield case("all frozen", [(3,), (2,)], 96, frozen=(0, 1))
    few = tuple(int(k) for k in rng.choice(14, size=3, replace=False))
    yield case("fourteen", some, int(rng.integers(100, 300)), frozen=few)
    kinds = [str(kind) for kind in rng.choice(["float32", "float64"], size=14)]
    yield case("fourteen of two dtypes", some, 400, kinds, frozen=few, generator=True)


@bucket_gradients.observe
def _(obj, shapes, dtypes, frozen, bucket_bytes, generator):
    parameters = _parameters(shapes, dtypes, frozen)
    numbers = {id(p): k for k, p in enumerate(parameters)}
    given = list(parameters)
    buckets = obj((p for p in given) if generator else given, bucket_bytes)
    if not isinstance(buckets, list | tuple):
        return buckets
    left = [id(p) for p in given] == list(numbers) and {k for k in frozen} == {
        k for k, p in enumerate(parameters) if not p.requires_grad
    }
    seen = [[numbers.get(id(p), "not a parameter given") for p in bucket] for bucket in buckets]
    return {"numbers of the parameters": seen, "parameters left as they were": left}


@bucket_gradients.oracle
def _(shapes, dtypes, frozen, bucket_bytes, generator):
    parameters = _parameters(shapes, dtypes, frozen)
    numbers = {id(p): k for k, p in enumerate(parameters)}
    buckets = [[numbers[id(p)] for p in bucket] for bucket in _cut(parameters, bucket_bytes)]
    return {"numbers of the parameters": buckets, "parameters left as they were": True}


def _buckets(
    parameters,
    bucket_bytes,
    *,
    order=reversed,
    size=lambda p: p.numel() * p.element_size(),
    full=lambda size, room: size > room,
    keep=lambda p: p.requires_grad,
    mixed=False,
):
    buckets, room, dtype = [], 0, None
    for p in order(list(parameters)):
        if not keep(p):
            continue
        if not buckets or full(size(p), room) or (p.dtype != dtype and not mixed):
            buckets.append([])
            room, dtype = bucket_bytes, p.dtype
        buckets[-1].append(p)
        room -= size(p)
    return buckets


@bucket_gradients.mistake
def from_the_first_on(parameters, bucket_bytes):
    """You fill the buckets from the first parameter on. Backward finishes the last layers first: their bucket could be sent early, but here it comes last."""
    return _buckets(parameters, bucket_bytes, order=list)


@bucket_gradients.mistake
def numbers_counted_as_bytes(parameters, bucket_bytes):
    """You count numbers, not bytes: a float32 takes 4 bytes and a float64 takes 8, so your buckets are several times too large."""
    return _buckets(parameters, bucket_bytes, size=lambda p: p.numel())


@bucket_gradients.mistake
def every_number_four_bytes(parameters, bucket_bytes):
    """You take 4 bytes for every number. That is right for float32 only: ask the parameter, with element_size()."""
    return _buckets(parameters, bucket_bytes, size=lambda p: p.numel() * 4)


@bucket_gradients.mistake
def closed_only_when_over_full(parameters, bucket_bytes):
    """You put a parameter into a bucket as long as there is any room, so buckets grow beyond bucket_bytes. Ask whether this parameter still fits."""
    return _buckets(parameters, bucket_bytes, full=lambda size, room: room <= 0)


@bucket_gradients.mistake
def never_exactly_full(parameters, bucket_bytes):
    """You begin a new bucket although the parameter would fill the old one exactly. A bucket may have bucket_bytes bytes, just not more."""
    return _buckets(parameters, bucket_bytes, full=lambda size, room: size >= room)


@bucket_gradients.mistake
def frozen_ones_too(parameters, bucket_bytes):
    """You put frozen parameters into buckets. They never get a gradient, so their bucket would wait until the end of backward, and send zeros."""
    return _buckets(parameters, bucket_bytes, keep=lambda p: True)


@bucket_gradients.mistake
def size_never_begun_again(parameters, bucket_bytes):
    """You go on counting when a new bucket begins, so after the first full one each parameter is alone. Begin to count anew with each bucket."""
    buckets, total = [], 0
    for p in reversed([p for p in parameters if p.requires_grad]):
        total += p.numel() * p.element_size()
        if not buckets or total > bucket_bytes or p.dtype != buckets[-1][-1].dtype:
            buckets.append([])
        buckets[-1].append(p)
    return buckets


@bucket_gradients.mistake
def an_empty_one_first(parameters, bucket_bytes):
    """You begin with an empty bucket, which stays empty if the first parameter is too large for it, or if there is none. Begin with no bucket at all."""
    buckets, total = [[]], 0
    for p in reversed([p for p in parameters if p.requires_grad]):
        size = p.numel() * p.element_size()
        if total + size > bucket_bytes or (buckets[-1] and p.dtype != buckets[-1][-1].dtype):
            buckets.append([])
            total = 0
        buckets[-1].append(p)
        total += size
    return buckets


@bucket_gradients.mistake
def sorted_by_dtype(parameters, bucket_bytes):
    """You gather all parameters of one dtype first. Keep to the order of the parameters: a parameter joins the newest bucket or begins another, and older ones stay closed."""
    kinds = {}
    for p in reversed([p for p in parameters if p.requires_grad]):
        kinds.setdefault(p.dtype, []).append(p)
    return [bucket for same in kinds.values() for bucket in _cut(same[::-1], bucket_bytes)]


@bucket_gradients.mistake
def dtypes_mixed(parameters, bucket_bytes):
    """You mix dtypes in one bucket. A vector has one dtype: laid end to end, the gradients would be converted. Begin a new bucket when the dtype changes."""
    return _buckets(parameters, bucket_bytes, mixed=True)


# -- the average ---------------------------------------------------------------------------------------


class _Bag(nn.Module):
    """Parameters and nothing else."""

    def __init__(self, parameters):
        super().__init__()
        self.parts = nn.ParameterList(parameters)


def _bag(rank, shapes, dtypes, frozen, absent, seed):
    """The same parameters on all ranks, and gradients of this rank's own; `absent`: pairs (rank, number)."""
    generator = torch.Generator().manual_seed(seed)
    parameters = _parameters(shapes, dtypes, frozen)
    for p in parameters:
        p.data.copy_(torch.randn(p.shape, generator=generator))
    generator.manual_seed(seed + 1 + rank)
    for k, p in enumerate(parameters):
        value = torch.randn(p.shape, generator=generator)
        if k not in frozen and (rank, k) not in absent:
            p.grad = value.to(p.dtype)
    return _Bag(parameters)


@all_reduce_gradients.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, ranks, shapes, bucket_bytes, dtypes=None, frozen=(), absent=()):
        dtypes = dtypes or ["float64"] * len(shapes)
        return Case(
            label,
            ranks=ranks,
            shapes=shapes,
            dtypes=dtypes,
            frozen=frozen,
            absent=absent,
            bucket_bytes=bucket_bytes,
            seed=int(rng.integers(2**30)),
        )

    three = [(2, 3), (4,), (3, 1)]
    yield case("two processes, one bucket", 2, [(2,), (1, 3)], 1000)
    yield case("three processes, two buckets", 3, three, 60)
    yield case("a parameter that rank 1 did not use", 2, three, 60, absent=((1, 1),))
    mixed = ["float32", "float64", "float64", "float32"]
    yield case("frozen ones and two dtypes", 2, [*three, (5,)], None, mixed, frozen=(1,))
    yield case("one process alone", 1, [(2,), (1, 3)], 1000)


def _average(rank, world_size, packed, bucket_bytes, *made):
    wire, model = _Wire(), _bag(rank, *made)
    before = list(model.parameters())
    options = () if bucket_bytes is None else (bucket_bytes,)
    unpack(packed)(model, *options)
    after = list(model.parameters())
    return {
        "messages": wire.messages,
        "parameters": [p.detach() for p in after],
        "gradients": [p.grad for p in after],
        "the same parameter objects": all(p is q for p, q in zip(after, before, strict=True)),
        "train mode": model.training,
    }


@all_reduce_gradients.observe
def _(obj, ranks, shapes, dtypes, frozen, absent, bucket_bytes, seed):
    return _in_processes(_average, ranks, obj, bucket_bytes, shapes, dtypes, frozen, absent, seed)


@all_reduce_gradients.oracle
def _(ranks, shapes, dtypes, frozen, absent, bucket_bytes, seed):
    every = [list(_bag(r, shapes, dtypes, frozen, absent, seed).parameters()) for r in range(ranks)]
    gradients = []
    for k, same in enumerate(zip(*every, strict=True)):
        present = [p.grad for p in same if p.grad is not None]
        gradients.append(None if k in frozen else sum(present) / ranks)
    cut = _cut(every[0], bucket_bytes or 25 * 2**20)
    seen = {"messages": [sum(p.nelement() for p in bucket) for bucket in cut]}
    seen |= {"parameters": [p.detach() for p in every[0]], "gradients": gradients}
    return [seen | {"the same parameter objects": True, "train mode": True}] * ranks


all_reduce_gradients.agree(
    _told(
        {
            "messages": "there should be one all_reduce for each bucket, of all the bucket's numbers, in the order "
            "of the buckets.",
            "parameters": "the parameters have changed; only their gradients are averaged.",
        }
    )
)


def _means(model, bucket_bytes, *, cut=_cut, send=None, put=True):
    for bucket in cut(list(model.parameters()), bucket_bytes):
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
        flat = torch.cat([part.reshape(-1) for part in parts])
        dist.all_reduce(flat)
        flat = send(flat) if send else flat / dist.get_world_size()
        if put:
            for p, piece in zip(bucket, flat.split([p.nelement() for p in bucket]), strict=True):
                p.grad = piece.reshape(p.shape)


@all_reduce_gradients.mistake
def sum_instead_of_mean(model, bucket_bytes=25 * 2**20):
    """Your gradients are the sums over the processes. all_reduce adds; the mean needs a division by the number of processes. With sums, more processes take larger steps."""
    _means(model, bucket_bytes, send=lambda flat: flat)


@all_reduce_gradients.mistake
def always_two_processes(model, bucket_bytes=25 * 2**20):
    """You divide by 2, whatever the number of processes. Ask dist.get_world_size()."""
    _means(model, bucket_bytes, send=lambda flat: flat / 2)


@all_reduce_gradients.mistake
def a_message_for_each_parameter(model, bucket_bytes=25 * 2**20):
    """The gradients are right, but you send each parameter in a message of its own. Each message costs time, even a tiny one: send a bucket at once."""
    _means(model, 1)


@all_reduce_gradients.mistake
def bucket_size_ignored(model, bucket_bytes=25 * 2**20):
    """You do not use bucket_bytes: the buckets always have the usual size. Hand it on to bucket_gradients."""
    _means(model, 25 * 2**20)


@all_reduce_gradients.mistake
def averages_not_put_back(model, bucket_bytes=25 * 2**20):
    """You compute the averages, but the parameters' gradients stay as they were: torch.cat copies. Cut the vector up again and make its pieces the gradients."""
    _means(model, bucket_bytes, put=False)


@all_reduce_gradients.mistake
def only_one_bucket(model, bucket_bytes=25 * 2**20):
    """You average one bucket and stop. All buckets must be sent; is a return inside the loop?"""
    _means(model, bucket_bytes, cut=lambda *given: _cut(*given)[:1])


# -- data parallel -------------------------------------------------------------------------------------


class _Net(nn.Module):
    """A layer, another that may be left out, and a last one; a frozen parameter scales what comes between.

    swapped: the last one is defined before the other, so that gradients do not come in the order of the buckets.
    """

    def __init__(self, sizes, seed, swapped):
        super().__init__()
        a, b, c = sizes
        self.first = nn.Linear(a, b)
        self.scale = nn.Parameter(torch.zeros(b), requires_grad=False)
        for name in ("last", "optional") if swapped else ("optional", "last"):
            setattr(self, name, nn.Linear(b, c if name == "last" else b))
        generator = torch.Generator().manual_seed(seed)
        self.double()
        for p in self.parameters():
            p.data.copy_(0.5 * torch.randn(p.shape, generator=generator, dtype=p.dtype))

    def forward(self, x, use):
        h = torch.tanh(self.first(x))
        h = h + torch.tanh(self.optional(h)) if use else h
        return self.last(h * self.scale)


def _inputs(net, rank, number):
    sizes, generator = net["sizes"], torch.Generator()
    generator.manual_seed(net["seed"] * 1000 + 10 * number + rank)
    x = torch.randn(2, sizes[0], generator=generator, dtype=torch.float64)
    return x, torch.randn(2, sizes[2], generator=generator, dtype=torch.float64)


@DataParallel.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, ranks, sizes, bucket_bytes, passes, swapped=False):
        net = {"sizes": sizes, "seed": int(rng.integers(2**20)), "swapped": swapped}
        return Case(label, ranks=ranks, net=net, bucket_bytes=bucket_bytes, passes=passes)

    # A pass is one backward: whether it exchanges, and which ranks leave the optional layer out.
    yield case("two processes, one bucket", 2, (2, 3, 1), 10_000, [(True, ())])
    twice = [(True, ()), (True, ())]
    yield case("three processes, layers used in another order", 3, (2, 3, 4), 110, twice, swapped=True)
    yield case("a layer that rank 1 leaves out", 2, (3, 3, 2), 1, [(True, (1,)), (True, ()), (True, (0,))])
    yield case("no_sync", 2, (4, 2, 3), None, [(False, (0,)), (False, ()), (True, ()), (False, ())])
    yield case("one process alone, in no_sync first", 1, (2, 3, 2), 100, [(False, ()), (True, ())])


def _parallel(rank, world_size, packed, net, bucket_bytes, passes):
    given, wire = net, _Wire()
    net = _Net(**given | {"seed": given["seed"] + rank})

    def count(_):
        wire.ready += 1

    trainable = [p for p in net.parameters() if p.requires_grad]
    for p in trainable:
        p.register_post_accumulate_grad_hook(count)
    options = () if bucket_bytes is None else (bucket_bytes,)
    model = unpack(packed)(net, *options)
    seen = {"parameters": [p.detach().clone() for p in net.parameters()]}
    with contextlib.suppress(KeyError), model.no_sync():
        raise KeyError  # what comes after it exchanges again
    gradients, messages, started, early, blocking, outputs = [], [], [], False, False, []
    for number, (exchange, without) in enumerate(passes):
        x, weight = _inputs(given, rank, number)
        wire.messages, wire.started, wire.blocking, wire.waits, wire.ready = [], [], [], [], 0
        with contextlib.nullcontext() if exchange else model.no_sync():
            y = model(x, rank not in without)
            (y * weight).sum().backward()
        outputs.append(y.detach())
        gradients.append([None if p.grad is None else p.grad.clone() for p in net.parameters()])
        messages.append(wire.messages)
        started.append(wire.started)
        early |= any(when < wire.ready for when in wire.waits)
        blocking |= any(wire.blocking)
    seen |= {"outputs": outputs, "messages": messages, "waits": bool(early or blocking), "starts": started}
    seen |= {"gradients": gradients, "message_bytes": list(model.message_bytes)}
    seen["parameters at the end"] = [p.detach() for p in net.parameters()]
    return seen


@DataParallel.observe
def _(obj, ranks, net, bucket_bytes, passes):
    return _in_processes(_parallel, ranks, obj, net, bucket_bytes, passes)


@DataParallel.oracle
def _(ranks, net, bucket_bytes, passes):
    given, net = net, _Net(**net)
    parameters = list(net.parameters())
    trainable = [p for p in parameters if p.requires_grad]
    cut = _cut(parameters, bucket_bytes or 25 * 2**20)
    fired = []
    for p in trainable:
        p.register_post_accumulate_grad_hook(lambda p: fired.append(id(p)))
    values = [p.detach().clone() for p in parameters]
    seen = [
        {name: [] for name in ("parameters", "outputs", "messages", "waits", "starts", "gradients")}
        for _ in range(ranks)
    ]
    held = [[None] * len(parameters) for _ in range(ranks)]
    for number, (exchange, without) in enumerate(passes):
        for rank in range(ranks):
            x, weight = _inputs(given, rank, number)
            fired.clear()
            y = net(x, rank not in without)
            (y * weight).sum().backward()
            for k, p in enumerate(parameters):
                if p.grad is not None:
                    held[rank][k] = p.grad if held[rank][k] is None else held[rank][k] + p.grad
                    p.grad = None
            place = {name: k + 1 for k, name in enumerate(fired)}
            last = [max(place.get(id(p), len(fired)) for p in bucket) for bucket in cut]
            mine = seen[rank]
            mine["outputs"].append(y.detach())
            sizes_of = [sum(p.nelement() for p in bucket) for bucket in cut]
            mine["messages"].append(sizes_of if exchange else [])
            mine["starts"].append([max(last[: k + 1]) for k in range(len(cut))] if exchange else [])
        if exchange:
            for k, p in enumerate(parameters):
                if p.requires_grad:
                    parts = [torch.zeros_like(p) if h[k] is None else h[k] for h in held]
                    mean = torch.stack(parts).mean(0)
                    for h in held:
                        h[k] = mean
        for rank in range(ranks):
            seen[rank]["gradients"].append([None if g is None else g.clone() for g in held[rank]])
    for mine in seen:
        mine |= {"parameters": values, "parameters at the end": values, "waits": False}
        mine["message_bytes"] = [8 * n for sent in mine["messages"] for n in sent]
    return seen


DataParallel.agree(
    _told(
        {
            "parameters": "after wrapping, its parameters (frozen ones too) are not those of rank 0.",
            "messages": "each backward that exchanges sends one message per bucket, in the order of the buckets, "
            "and one inside no_sync sends none.",
            "waits": "it waits for a message while backward still runs. Start with async_op=True, wait in finish.",
            "starts": "its messages do not start at the right moment: as soon as a bucket's last gradient is there "
            "and all buckets before it were started.",
        }
    )
)


class _Parallel(nn.Module):
    """A right answer with places where a mistake can differ."""

    def __init__(self, module, bucket_bytes=25 * 2**20):
        super().__init__()
        self.module, self.on = module, True
        self.buckets = _cut(list(module.parameters()), bucket_bytes)
        self.waiting, self.under_way, self.message_bytes = None, {}, []
        for k, bucket in enumerate(self.buckets):
            for p in bucket:
                p.register_post_accumulate_grad_hook(lambda p, k=k: self.arrived(k))
        self.align()

    def align(self):
        for p in self.module.parameters():
            dist.broadcast(p.data, 0)

    def forward(self, *inputs):
        return self.module(*inputs)

    @contextlib.contextmanager
    def no_sync(self):
        before, self.on = self.on, False
        try:
            yield
        finally:
            self.on = before

    def arrived(self, k):
        if not self.on:
            return
        if self.waiting is None:
            self.waiting, self.under_way = [len(bucket) for bucket in self.buckets], {}
            torch.autograd.Variable._execution_engine.queue_callback(self.finish)
        self.waiting[k] -= 1
        self.launch(k)

    def launch(self, k):
        while (n := len(self.under_way)) < len(self.buckets) and not self.waiting[n]:
            self.begin(n)

    def begin(self, k):
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.buckets[k]]
        flat = torch.cat([part.reshape(-1) for part in parts])
        self.message_bytes.append(flat.nelement() * flat.element_size())
        self.under_way[k] = flat, self.send(flat)

    def send(self, flat):
        return dist.all_reduce(flat, async_op=True)

    def mean(self, flat):
        return flat / dist.get_world_size()

    def collect(self, work):
        work.wait()

    def finish(self):
        for k in range(len(self.buckets)):
            if k not in self.under_way:
                self.begin(k)
        for k, (flat, work) in self.under_way.items():
            self.collect(work)
            bucket = self.buckets[k]
            for p, piece in zip(bucket, self.mean(flat).split([p.nelement() for p in bucket]), strict=True):
                p.grad = piece.reshape(p.shape)
        self.waiting = None


@DataParallel.mistake
class parameters_not_sent(_Parallel):
    """Each process keeps the parameters it was made with. Then they add equal steps to different models, and never become one. Broadcast rank 0's at the beginning, into the parameters themselves: not into copies."""

    def align(self):
        pass


@DataParallel.mistake
class frozen_ones_not_sent(_Parallel):
    """You broadcast only the parameters that are trained. Frozen ones take part in forward: if they differ, the processes train different models."""

    def align(self):
        for bucket in self.buckets:
            for p in bucket:
                dist.broadcast(p.data, 0)


@DataParallel.mistake
class averages_the_parameters(_Parallel):
    """You begin with the mean of all processes' parameters. A mean of random models is no model: its numbers are too small. Take those of rank 0."""

    def align(self):
        for p in self.module.parameters():
            every = [torch.empty_like(p) for _ in range(dist.get_world_size())]
            dist.all_gather(every, p.data)
            p.data.copy_(torch.stack(every).mean(0))


@DataParallel.mistake
class gradients_added_up(_Parallel):
    """Your gradients are the sums over the processes. Divide by the number of processes, or the steps grow with it."""

    def mean(self, flat):
        return flat


@DataParallel.mistake(shape=True)
class waits_at_once(_Parallel):
    """You send without async_op=True, so backward stands still during every message. Start the message, and wait for it in finish."""

    def send(self, flat):
        dist.all_reduce(flat)

    def collect(self, work):
        pass


@DataParallel.mistake
class never_waits(_Parallel):
    """You read a message's vector before its work is waited for. Until then the sum need not stand in it, and what you take are this process's own numbers."""

    def collect(self, work):
        pass


@DataParallel.mistake
class unfilled_ones_not_sent(_Parallel):
    """You send no bucket of which a gradient did not come. Another process may have used that layer and waits for this message: in finish, start all that were not started."""

    def finish(self):
        for k, (flat, work) in self.under_way.items():
            work.wait()
            bucket = self.buckets[k]
            for p, piece in zip(bucket, self.mean(flat).split([p.nelement() for p in bucket]), strict=True):
                p.grad = piece.reshape(p.shape)
        self.waiting = None


@DataParallel.mistake
class all_at_the_end(_Parallel):
    """You start all messages when backward is complete, so nothing overlaps. Start each as soon as its bucket is full."""

    def launch(self, k):
        pass


@DataParallel.mistake
class one_message_at_a_time(_Parallel):
    """You start at most one message for each gradient that arrives. One gradient can release several buckets which were held back by it: use `while`, not `if`."""

    def launch(self, k):
        n = len(self.under_way)
        if n < len(self.buckets) and not self.waiting[n]:
            self.begin(n)


@DataParallel.mistake
class next_one_when_any_is_full(_Parallel):
    """You start the next bucket in line whenever some bucket is full. The next in line may still miss gradients, which then are not in its message. Ask how many it misses itself: self.missing[len(self.started)]."""

    def launch(self, k):
        if not self.waiting[k] and len(self.under_way) < len(self.buckets):
            self.begin(len(self.under_way))


@DataParallel.mistake
class held_back_until_the_end(_Parallel):
    """You start a bucket only at its own last gradient. If it had to wait for those before it, nothing starts it until finish. After each start, ask again whether the next in line is full."""

    def launch(self, k):
        if not self.waiting[k] and k == len(self.under_way):
            self.begin(k)


@DataParallel.mistake
class whichever_is_full(_Parallel):
    """You start each bucket as soon as it is full, in whatever order. If one process does not use a layer, its order is another, and gradients of different parameters are added up."""

    def launch(self, k):
        if not self.waiting[k]:
            self.begin(k)


# -- the step ------------------------------------------------------------------------------------------


class _Words(nn.Module):
    """A bigram model of which train mode changes the logits."""

    def __init__(self, vocab_size, n_embd, seed):
        super().__init__()
        self.wte = nn.Embedding(vocab_size, n_embd)
        self.head = nn.Linear(n_embd, vocab_size)
        generator = torch.Generator().manual_seed(seed)
        self.double()
        for p in self.parameters():
            p.data.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype))

    def forward(self, idx):
        return self.head(self.wte(idx)) * (1.5 if self.training else 0.5)


class _Averaged(nn.Module):
    """Averages after backward if forward ran outside no_sync, as PyTorch's class does; counts how often."""

    def __init__(self, module):
        super().__init__()
        self.module, self.on, self.exchanges, self.average = module, True, 0, dist.all_reduce
        self.inside = []  # for each backward, whether it ran inside no_sync
        self.planned = self.running = False
        for p in module.parameters():
            p.register_post_accumulate_grad_hook(self.arrived)

    def forward(self, idx):
        if torch.is_grad_enabled():
            self.planned = self.on
        return self.module(idx)

    @contextlib.contextmanager
    def no_sync(self):
        before, self.on = self.on, False
        try:
            yield
        finally:
            self.on = before

    def arrived(self, p):
        if not self.running:
            self.running = True
            self.inside.append(not self.on)
            torch.autograd.Variable._execution_engine.queue_callback(self.finish)

    def finish(self):
        self.running = False
        if not self.planned:
            return
        self.exchanges += 1
        for p in self.module.parameters():
            self.average(p.grad)
            p.grad /= dist.get_world_size()


class _Descent:
    """Plain descent, in the form of a torch optimizer."""

    def __init__(self, parameters, lr):
        self.parameters, self.lr, self.steps = list(parameters), lr, 0
        self.param_groups = [{"params": self.parameters, "lr": lr}]

    def zero_grad(self, set_to_none=True):
        for p in self.parameters:
            p.grad = None

    @torch.no_grad()
    def step(self):
        self.steps += 1
        for p in self.parameters:
            p -= self.lr * p.grad


class _List:
    """Batches from a list."""

    def __init__(self, pairs):
        self.pairs, self.taken = pairs, 0

    def next_batch(self):
        self.taken += 1
        return self.pairs[self.taken - 1]


def _pairs(rank, B, T, vocab_size, count, seed):
    generator = torch.Generator().manual_seed(seed + 1 + rank)
    cut = torch.randint(vocab_size, (count, B, T + 1), generator=generator)
    return [(rows[:, :-1], rows[:, 1:]) for rows in cut]


@distributed_step.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, ranks, B, T, accumulation, max_norm, steps):
        seed = int(rng.integers(2**20))
        options = {"accumulation": accumulation, "max_norm": max_norm} if accumulation else {}
        return Case(label, ranks=ranks, B=B, T=T, options=options, steps=steps, seed=seed)

    yield case("one micro-batch", 2, 2, 3, 1, 1e3, 1)
    yield case("three micro-batches", 2, 1, 4, 3, 1e3, 2)
    yield case("three processes, clipped", 3, 2, 3, 2, 0.05, 2)
    yield case("the usual options", 2, 2, 5, None, None, 2)
    yield case("one process alone", 1, 2, 3, 2, 1e3, 1)


def _stepping(rank, world_size, packed, B, T, options, steps, seed):
    words = _Words(5, 3, seed)
    model = _Averaged(words)
    batches = _List(_pairs(rank, B, T, 5, steps * options.get("accumulation", 1) + 1, seed))
    optimizer = _Descent(words.parameters(), 0.3)
    for p in words.parameters():
        p.grad = torch.ones_like(p)  # left over from somewhere
    wire = _Wire()  # not before: the model's own messages do not count
    step = unpack(packed)
    seen = {"exchanges": [], "inside no_sync": [], "messages": [], "parameters": [], "returned": []}
    for _ in range(steps):
        model.eval()
        before, model.inside, wire.messages = model.exchanges, [], []
        returned = step(model, batches, optimizer, **options)
        if not isinstance(returned, tuple | list) or [type(n) for n in returned] != [float, float]:
            seen["returned"].append("a step returns two plain floats, loss and norm")
        else:
            seen["returned"].append({"loss": returned[0], "norm": returned[1]})
        seen["parameters"].append([p.detach().clone() for p in words.parameters()])
        seen["exchanges"].append(model.exchanges - before)
        seen["inside no_sync"].append(model.inside)
        # The loss may also travel by another collective. More than two numbers are gradients.
        seen["messages"].append(max(1, sum(numbers <= 2 for numbers in wire.messages)))
    seen |= {"batches taken": batches.taken, "steps of the optimizer": optimizer.steps}
    seen["backwards"] = sum(map(len, seen["inside no_sync"]))
    return seen | {"train mode": words.training, "synchronises": model.on}


@distributed_step.observe
def _(obj, ranks, B, T, options, steps, seed):
    return _in_processes(_stepping, ranks, obj, B, T, options, steps, seed)


@distributed_step.oracle
def _(ranks, B, T, options, steps, seed):
    accumulation, max_norm = options.get("accumulation", 1), options.get("max_norm", 1.0)
    words = _Words(5, 3, seed)
    parameters = list(words.parameters())
    every = [_pairs(rank, B, T, 5, steps * accumulation + 1, seed) for rank in range(ranks)]
    inside = [True] * (accumulation - 1) + [False]
    seen = {"backwards": steps * accumulation, "exchanges": [1] * steps, "inside no_sync": [inside] * steps}
    seen |= {"messages": [1] * steps, "parameters": [], "returned": []}
    for k in range(steps):
        chosen = [pair for pairs in every for pair in pairs[k * accumulation : (k + 1) * accumulation]]
        x, y = (torch.cat(parts) for parts in zip(*chosen, strict=True))
        loss = F.nll_loss(words(x).log_softmax(-1).flatten(0, 1), y.flatten())
        grads = torch.autograd.grad(loss, parameters)
        norm = torch.cat([g.flatten() for g in grads]).norm().item()
        with torch.no_grad():
            for p, g in zip(parameters, grads, strict=True):
                p -= 0.3 * min(1.0, max_norm / (norm + 1e-6)) * g
        seen["parameters"].append([p.detach().clone() for p in parameters])
        seen["returned"].append({"loss": loss.item(), "norm": norm})
    seen |= {"batches taken": steps * accumulation, "steps of the optimizer": steps}
    return [seen | {"train mode": True, "synchronises": True}] * ranks


distributed_step.agree(
    _told(
        {
            "exchanges": "in each step the model should exchange the gradients exactly once, in the last backward. "
            "Forward and backward of all other micro-batches stand inside no_sync, and those of the last outside.",
            "inside no_sync": "forward and backward of all micro-batches but the last stand inside no_sync: our class "
            "decides in backward whether to exchange, PyTorch's in forward.",
            "messages": "a step needs one small message only: add up the losses of the micro-batches first, and "
            "all-reduce their sum once. The norm is the same in every process already.",
            "synchronises": "after the step no_sync is still on: use it in a with statement.",
            "backwards": "each micro-batch has a forward and a backward of its own: together they need the memory "
            "that accumulation saves.",
            "batches taken": "the number of batches taken from the loader is not accumulation for each step.",
        }
    )
)


def _loss(model, batches):
    x, y = batches.next_batch()
    return F.cross_entropy(model(x).flatten(0, 1), y.flatten())


def _step(
    model,
    batches,
    optimizer,
    *,
    accumulation=1,
    max_norm=1.0,
    exchange=lambda k, n: k == n - 1,
    parts=lambda n: n,
    shared=lambda: dist.get_world_size(),
    clip_each=False,
    forward_inside=True,
    by_hand=False,
):
    model.train()
    optimizer.zero_grad()
    total = 0.0
    for k in range(accumulation):
        held, loss = not exchange(k, accumulation), None
        if not forward_inside:
            loss = _loss(model, batches) / parts(accumulation)
        with model.no_sync() if held else contextlib.nullcontext():
            if loss is None:
                loss = _loss(model, batches) / parts(accumulation)
            loss.backward()
        total += loss.detach()
        if clip_each:
            norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    if by_hand:
        _means(model, 25 * 2**20)
    if not clip_each:
        norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    if shared:
        dist.all_reduce(total)
        total = total / shared()
    return total.item(), norm.item()


@distributed_step.mistake
def exchanges_after_the_first(model, batches, optimizer, *, accumulation=1, max_norm=1.0):
    """You exchange after the first micro-batch. The gradients of the others are added afterwards and stay in their process: each rank makes another step, and the models drift apart."""
    options = {"accumulation": accumulation, "max_norm": max_norm}
    return _step(model, batches, optimizer, exchange=lambda k, n: k == 0, **options)


@distributed_step.mistake(shape=True)
def never_exchanges(model, batches, optimizer, *, accumulation=1, max_norm=1.0):
    """All your micro-batches run inside no_sync, the last one too, so nothing is ever exchanged: every process trains a model of its own."""
    options = {"accumulation": accumulation, "max_norm": max_norm}
    return _step(model, batches, optimizer, exchange=lambda k, n: False, **options)


@distributed_step.mistake
def exchanges_at_each_micro_batch(model, batches, optimizer, *, accumulation=1, max_norm=1.0):
    """The result is right, but you exchange at every micro-batch, which is several times the traffic. All but the last go inside no_sync, forward and backward both."""
    options = {"accumulation": accumulation, "max_norm": max_norm}
    return _step(model, batches, optimizer, exchange=lambda k, n: True, **options)


@distributed_step.mistake
def only_backward_inside(model, batches, optimizer, *, accumulation=1, max_norm=1.0):
    """You put backward inside no_sync, but not forward. Our class then exchanges once, but PyTorch's decides in forward, and exchanges at every micro-batch. Put both inside."""
    options = {"accumulation": accumulation, "max_norm": max_norm}
    return _step(model, batches, optimizer, forward_inside=False, **options)


@distributed_step.mistake(shape=True)
def averages_after_the_loop(model, batches, optimizer, *, accumulation=1, max_norm=1.0):
    """The result is right, but all your messages wait until the last backward is over: nothing overlaps. Leave the last micro-batch outside no_sync, then the model itself exchanges during its backward."""
    options = {"accumulation": accumulation, "max_norm": max_norm}
    return _step(model, batches, optimizer, exchange=lambda k, n: False, by_hand=True, **options)


@distributed_step.mistake
def micro_batches_added_up(model, batches, optimizer, *, accumulation=1, max_norm=1.0):
    """You add up the micro-batches without dividing by their number, so loss and gradient grow with accumulation."""
    options = {"accumulation": accumulation, "max_norm": max_norm}
    return _step(model, batches, optimizer, parts=lambda n: 1, **options)


@distributed_step.mistake
def loss_of_one_process(model, batches, optimizer, *, accumulation=1, max_norm=1.0):
    """Your loss is that of this process's windows alone. All ranks should report the mean over all windows: all-reduce the total and divide."""
    options = {"accumulation": accumulation, "max_norm": max_norm}
    return _step(model, batches, optimizer, shared=None, **options)


@distributed_step.mistake
def losses_added_up(model, batches, optimizer, *, accumulation=1, max_norm=1.0):
    """Your loss is the sum over the processes: after the all_reduce, divide by their number."""
    options = {"accumulation": accumulation, "max_norm": max_norm}
    return _step(model, batches, optimizer, shared=lambda: 1, **options)


@distributed_step.mistake
def clips_every_micro_batch(model, batches, optimizer, *, accumulation=1, max_norm=1.0):
    """You clip inside the loop, before the exchange. Each process then shrinks its own part, and the sum is another one. Clip once, after the loop."""
    options = {"accumulation": accumulation, "max_norm": max_norm}
    return _step(model, batches, optimizer, clip_each=True, **options)
