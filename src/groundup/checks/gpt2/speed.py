"""Checks for the lesson gpt2.speed.

No real time is ever measured: the stopwatches read the clock of a simulated machine. The two changes of a model are made
to a stand-in with GPT-2's names, and judged by what its blocks and its products are seen to do.
"""

import functools
import statistics
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from groundup.check import Case, Exercise, compare


def by_name(got, expected) -> str | None:
    """Compares two observations entry by entry, in the order of the expected one; a text is a sentence."""
    if isinstance(got, str) or not isinstance(got, dict) or not isinstance(expected, dict):
        return None if type(got) is type(expected) and got == expected else str(got)
    for name in expected:
        if difference := compare(got.get(name), expected[name]):
            return f"{name}: {difference.replace('you returned', 'yours is')}"
    return None


# -- a machine with a queue and a clock -------------------------------------------------------------------------------
class _Machine:
    """A call hands over in `launch` seconds and queues work; wait() lets the queue run empty."""

    def __init__(self, start: float, launch: float, leftover: float = 0.0):
        self.now, self.launch = start, launch
        self.ready = start + leftover
        self.order = []
        self.read = False

    def job(self, name: str, costs: list[float]):
        left = list(costs)

        def call():
            self.order.append(name)
            self.now += self.launch
            self.ready = max(self.ready, self.now) + (left.pop(0) if len(left) > 1 else left[0])

        return call

    def wait(self):
        self.now = max(self.now, self.ready)

    def clock(self):
        self.read = True
        return self.now


median_seconds = Exercise("gpt2.speed.median_seconds", tolerance=1e-7)
median_seconds.agree(by_name)


@median_seconds.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, repeats, warmup, leftover=0.0, costs=None):
        if costs is None:
            costs = rng.uniform(1, 3, size=max(1, warmup)).cumsum()[::-1] + 5  # the first calls are dear
            costs = [float(c) for c in costs[:warmup]] + [float(c) for c in rng.uniform(0.5, 4, size=repeats)]
        start = float(rng.uniform(1, 100))
        launch = float(rng.uniform(0.01, 0.1))
        return Case(
            label,
            costs=costs,
            repeats=repeats,
            warmup=warmup,
            start=start,
            launch=launch,
            leftover=leftover,
        )

    yield case("three calls, one warm-up", 3, 1, costs=[7.0, 2.0, 9.0, 1.0])
    yield case("an even number of calls", 4, 2)
    yield case("one call, and work of others in the queue", 1, 0, leftover=3.5)
    yield case("one call after a warm-up", 1, 2)
    yield case("many calls, no warm-up", 7, 0, leftover=1.25)
    yield case("two calls", 2, 1)
    yield case("many calls", int(rng.integers(8, 12)), 3)


@median_seconds.observe
def _(obj, costs, repeats, warmup, start, launch, leftover):
    machine = _Machine(start, launch, leftover)
    call = machine.job("x", costs)
    seconds = obj(call, repeats=repeats, warmup=warmup, wait=machine.wait, clock=machine.clock)
    seen = {
        "Was the given clock read": machine.read,
        "The number of calls": len(machine.order),
        "The median in seconds": seconds,
    }
    if warmup == 1:  # the default
        again = _Machine(start, launch, leftover)
        call = again.job("x", costs)
        seen["The median with the default warm-up"] = obj(
            call, repeats=repeats, wait=again.wait, clock=again.clock
        )
    return seen


@median_seconds.oracle
def _(costs, repeats, warmup, start, launch, leftover):
    taken = np.array(costs[warmup : warmup + repeats]) + launch
    seen = {
        "Was the given clock read": True,
        "The number of calls": warmup + repeats,
        "The median in seconds": float(np.median(taken)),
    }
    return seen | ({"The median with the default warm-up": float(np.median(taken))} if warmup == 1 else {})


def _times(call, repeats, warmup, wait, clock, before=True, after=True):
    for _ in range(warmup):
        call()
    seconds = []
    for _ in range(repeats):
        if before:
            wait()
        start = clock()
        call()
        if after:
            wait()
        seconds.append(clock() - start)
    return seconds


@median_seconds.mistake(shape=True)  # right on no case
def did_not_wait_at_the_end(call, *, repeats, warmup=1, wait=None, clock=None):
    """You read the clock right after the call. A GPU has only been told what to do by then: you measured how long it takes to hand the work over. Wait until it is done, then read."""
    return statistics.median(_times(call, repeats, warmup, wait, clock, after=False))


@median_seconds.mistake
def did_not_wait_at_the_start(call, *, repeats, warmup=1, wait=None, clock=None):
    """You start the clock while the queue still holds work, of the warm-up or of somebody else, and measure that too. Wait before you read the clock for the first time."""
    return statistics.median(_times(call, repeats, warmup, wait, clock, before=False))


@median_seconds.mistake
def no_warmup(call, *, repeats, warmup=1, wait=None, clock=None):
    """You never call it without a clock. The first calls prepare things and are not like the others: make `warmup` calls that are not measured."""
    return statistics.median(_times(call, repeats, 0, wait, clock))


@median_seconds.mistake
def counted_the_warmup(call, *, repeats, warmup=1, wait=None, clock=None):
    """The warm-up calls are among your measured times. They are slower for a reason that will not come again: call first, and start your list afterwards."""
    return statistics.median(_times(call, warmup + repeats, 0, wait, clock))


@median_seconds.mistake
def took_the_mean(call, *, repeats, warmup=1, wait=None, clock=None):
    """You return the mean of the times. One call that was interrupted moves the mean as far as it likes; the median stays."""
    return statistics.mean(_times(call, repeats, warmup, wait, clock))


@median_seconds.mistake
def took_the_fastest(call, *, repeats, warmup=1, wait=None, clock=None):
    """You return the fastest call. That is how it goes when luck helps; asked for is the median, the one in the middle."""
    return min(_times(call, repeats, warmup, wait, clock))


@median_seconds.mistake
def one_of_the_two_in_the_middle(call, *, repeats, warmup=1, wait=None, clock=None):
    """With an even number of calls you return one of the two in the middle. The median is then the mean of both."""
    return sorted(_times(call, repeats, warmup, wait, clock))[repeats // 2]


@median_seconds.mistake
def middle_of_the_unsorted(call, *, repeats, warmup=1, wait=None, clock=None):
    """You return the call in the middle of the list as it was measured. The median is the middle of the times in order of size."""
    return _times(call, repeats, warmup, wait, clock)[repeats // 2]


# ---------------------------------------------------------------------------------------------------------------------
flops_per_token = Exercise("gpt2.speed.flops_per_token")


@flops_per_token.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, T, **sizes):
        usual = {"block_size": 1024, "vocab_size": 50257, "n_layer": 12, "n_head": 12, "n_embd": 768}
        options = {"dropout": 0.0, "bias": True, "fused": True}
        return Case(label, config=SimpleNamespace(**(usual | options | sizes)), T=T)

    yield case("the worked example", 3, n_layer=1, n_head=1, n_embd=2, vocab_size=5)
    yield case("GPT-2 small", 1024)
    yield case("windows shorter than block_size", 100, n_layer=3, n_embd=36, bias=False)
    L, H, d, V, T = (int(n) for n in rng.integers((2, 2, 3, 20, 5), (7, 6, 20, 900, 300)))
    yield case("random sizes", T, n_layer=L, n_head=H, n_embd=H * d, vocab_size=V, block_size=T + 13)


@flops_per_token.oracle
def _(config, T):
    # Product by product, (rows in, columns out) for one token; two FLOPs each, and backward has twice as many.
    C = config.n_embd
    block = [(C, 3 * C), (C, C), (C, 4 * C), (4 * C, C), (C, T), (T, C)]
    products = block * config.n_layer + [(C, config.vocab_size)]
    return 3 * sum(2 * rows * columns for rows, columns in products)


def _count(config, T, *, weights=6, attention=12, extra=0, head=1):
    L, C = config.n_layer, config.n_embd
    return weights * (12 * L * C**2 + head * config.vocab_size * C + extra) + attention * L * C * T


@flops_per_token.mistake(shape=True)  # right on no case
def forward_only(config, T):
    """You counted forward only. Backward needs two products for each of forward's: for the gradient of the input and of the weight. All in all three times as much."""
    return _count(config, T, weights=2, attention=4)


@flops_per_token.mistake(shape=True)  # right on no case
def counted_positions(config, T):
    """You counted the position table too. Its rows are only looked up and added: no matrix product."""
    return _count(config, T, extra=config.block_size * config.n_embd)


@flops_per_token.mistake(shape=True)  # right on no case
def counted_the_token_table_twice(config, T):
    """You counted V · C twice. The head multiplies with that matrix; in the embedding it is only looked up."""
    return _count(config, T, head=2)


@flops_per_token.mistake(shape=True)  # right on no case
def forgot_the_head(config, T):
    """Your N lacks the head, V · C. Its matrix is shared with the embedding, but the product with it is real: in a small model it is the largest one."""
    return _count(config, T, head=0)


@flops_per_token.mistake(shape=True)  # right on no case
def forgot_attention(config, T):
    """You counted the weights only. Attention has two products without weights, queries with keys and weights with values: 12 · L · C · T."""
    return _count(config, T, attention=0)


@flops_per_token.mistake
def took_block_size(config, T):
    """You took config.block_size for T. That is the longest text that the model can read; the windows may be shorter, and attention is then cheaper."""
    return _count(config, config.block_size)


@flops_per_token.mistake(shape=True)  # right on no case
def halved_for_the_mask(config, T):
    """You halved attention for the causal mask. The work could be saved, but the usual count leaves it in, so that figures can be compared: 12 · L · C · T."""
    return _count(config, T, attention=6)


@flops_per_token.mistake(shape=True)  # right on no case
def one_for_a_multiply_and_add(config, T):
    """You have half of what it should be: a multiplication and an addition are two FLOPs."""
    return _count(config, T, weights=3, attention=6)


# -- a stand-in with GPT-2's names ------------------------------------------------------------------------------------
class _Part(nn.Module):
    def __init__(self, C):
        super().__init__()
        self.c_proj = nn.Linear(C, C)

    def forward(self, x):
        return self.c_proj(x).tanh()


class _Block(nn.Module):
    def __init__(self, C, dropout):
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(C), _Part(C)
        self.ln_2, self.mlp = nn.LayerNorm(C), _Part(C)
        self.drop = nn.Dropout(dropout)

    def forward(self, x):
        x = x + self.drop(self.attn(self.ln_1(x)).cumsum(1) / x.shape[1])
        return x + self.drop(self.mlp(self.ln_2(x)))


class _Model(nn.Module):
    def __init__(self, V, C, L, dropout, seed, dtype, longest=16):
        super().__init__()
        self.config = SimpleNamespace(
            block_size=longest, vocab_size=V, n_layer=L, n_head=1, n_embd=C, dropout=dropout
        )
        parts = {
            "wte": nn.Embedding(V, C),
            "wpe": nn.Embedding(longest, C),
            "drop": nn.Dropout(dropout),
            "h": nn.ModuleList(_Block(C, dropout) for _ in range(L)),
            "ln_f": nn.LayerNorm(C),
        }
        self.transformer = nn.ModuleDict(parts)
        self.lm_head = nn.Linear(C, V, bias=False)
        self.lm_head.weight = self.transformer.wte.weight
        rng = np.random.default_rng(seed)
        self.to(dtype)
        with torch.no_grad():
            for parameter in self.parameters():
                size = tuple(parameter.shape)
                parameter.copy_(torch.tensor(rng.normal(size=size) * (0.7 if len(size) > 1 else 0.9)))

    def forward(self, idx):
        parts = self.transformer
        x = parts.drop(parts.wte(idx) + parts.wpe(torch.arange(idx.shape[1])))
        for block in parts.h:
            x = block(x)
        return self.lm_head(parts.ln_f(x))


def _gradient(parameters) -> torch.Tensor:
    return torch.cat(
        [(torch.zeros_like(p) if p.grad is None else p.grad).detach().flatten() for p in parameters]
    )


# ---------------------------------------------------------------------------------------------------------------------
checkpoint_blocks = Exercise("gpt2.speed.checkpoint_blocks", seconds=20.0)
checkpoint_blocks.agree(by_name)


@checkpoint_blocks.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, layers, dropout=0.0, frozen=False, dtype=torch.float64):
        B, T = (int(n) for n in rng.integers((2, 5), (4, 9)))
        idx = torch.tensor(rng.integers(0, 11, size=(2, B, T)))
        return Case(
            label, layers=layers, dropout=dropout, frozen=frozen, dtype=dtype, idx=idx, seed=int(rng.integers(2**31))
        )  # fmt: skip

    yield case("one block", 1)
    yield case("three blocks", 3)
    yield case("two blocks with dropout", 2, dropout=0.4)
    yield case("frozen embeddings", 2, frozen=True)
    yield case("four blocks in float32, with dropout", 4, dropout=0.2, dtype=torch.float32)


def _steps(model, idx, seed, frozen, prepare):
    """Two training steps' losses and gradients, and how often the four layers of each block ran."""
    for part in (model.transformer.wte, model.transformer.wpe) if frozen else ():
        part.weight.requires_grad_(False)
    runs, order = {}, []

    def count(key):
        def look(module, args):
            runs[key] = runs.get(key, 0) + 1
            order.append(key[0])

        return look

    for k, block in enumerate(model.transformer.h):
        for n, layer in enumerate((block.ln_1, block.attn.c_proj, block.ln_2, block.mlp.c_proj)):
            layer.register_forward_pre_hook(count((k, n)))
        for parameter in block.parameters():
            parameter.register_post_accumulate_grad_hook(lambda parameter, k=k: order.append(k))
    parameters = list(model.parameters())
    names = list(model.state_dict())
    returned = prepare(model)
    seen = {
        "What it returns": None if returned is None else type(returned).__name__,
        "The names in state_dict()": list(model.state_dict()) == names or list(model.state_dict()),
        "Parameters that are other objects than before": sum(
            a is not b for a, b in zip(parameters, model.parameters(), strict=False)
        ),
    }
    keys = [(k, n) for k in range(len(model.transformer.h)) for n in range(4)]

    def counted():
        found = [runs.get(key, 0) for key in keys]
        runs.clear()
        return found

    for step in range(3):
        model.train(step < 2)
        torch.manual_seed(seed + step)
        logits = model(idx[step % 2])
        say = f"In training step {step + 1}, " if step < 2 else "In a step in eval mode, "
        seen[say + "the logits"] = logits.detach().clone()
        seen[say + "how often the four layers of each block ran in forward"] = counted()
        order.clear()
        F.cross_entropy(logits.flatten(0, 1), idx[1 - step % 2].flatten()).backward()
        seen[say + "the gradients, in a row"] = _gradient(parameters).clone()
        seen[say + "how often the four layers of each block ran in backward"] = counted()
        # A block runs again, then its gradients come, then the block before it.
        turns = [k for n, k in enumerate(order) if n == 0 or order[n - 1] != k]
        seen[say + "the blocks (from 0) that backward was busy with, in turn"] = turns
        seen[say + "the next random number"] = torch.rand(2)
    with torch.no_grad():
        seen["Under no_grad, the logits"] = model(idx[0]).clone()
    seen["Under no_grad, how often the four layers of each block ran"] = counted()
    other = _Model(
        5, 4, 1, 0.0, seed, torch.float64
    )  # made afterwards, of the same classes, and not handed in
    other.transformer.h[0].ln_1.register_forward_pre_hook(count(("other", 0)))
    other(torch.zeros(2, 3, dtype=torch.long)).sum().backward()
    seen["Of another model, how often a block runs in a training step"] = runs["other", 0]
    return seen


@checkpoint_blocks.observe
def _(obj, layers, dropout, frozen, dtype, idx, seed):
    forward = _Block.forward
    try:
        return _steps(_Model(11, 6, layers, dropout, seed, dtype), idx, seed, frozen, obj)
    finally:
        _Block.forward = forward  # a wrong answer may have changed the class, for good


@checkpoint_blocks.oracle
def _(layers, dropout, frozen, dtype, idx, seed):
    seen = _steps(_Model(11, 6, layers, dropout, seed, dtype), idx, seed, frozen, lambda model: None)
    for say in ("In training step 1", "In training step 2", "In a step in eval mode"):
        seen[say + ", how often the four layers of each block ran in backward"] = [1] * 4 * layers
        seen[say + ", the blocks (from 0) that backward was busy with, in turn"] = list(range(layers))[::-1]
    seen["Of another model, how often a block runs in a training step"] = 1
    return seen


@checkpoint_blocks.mistake
def looked_the_block_up_too_late(model):
    """All your blocks do what the last one does. A function that names the loop's variable looks it up when it runs, and by then it is the last block. Bind the method itself."""
    for block in model.transformer.h:
        own = block.forward
        block.forward = lambda x: checkpoint(own, x, use_reentrant=False)  # noqa: B023


@checkpoint_blocks.mistake(shape=True)
def called_itself(model):
    """Your function calls the block, which calls your function, and so on without an end. Keep the old block.forward, read before the assignment, and call that."""
    for block in model.transformer.h:
        block.forward = functools.partial(checkpoint, block, use_reentrant=False)


@checkpoint_blocks.mistake
def other_dice_in_backward(model):
    """With dropout your gradients are those of another network: the second run drew other random numbers than the first. Leave preserve_rng_state as it is, True."""
    for block in model.transformer.h:
        block.forward = functools.partial(
            checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False
        )


@checkpoint_blocks.mistake
def reentrant(model):
    """With frozen embeddings your blocks get no gradient: nothing that goes into the first one wants any, and the old kind of checkpoint then stops. Say use_reentrant=False."""
    for block in model.transformer.h:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=True)


@checkpoint_blocks.mistake(shape=True)  # right on no case
def changed_nothing(model):
    """Your blocks run once, in forward, and keep all that they computed: nothing is saved by that. Whatever you made is not what block(x) calls; assign it to block.forward."""
    for block in model.transformer.h:
        forward = block.forward
        forward = functools.partial(checkpoint, forward, use_reentrant=False)


@checkpoint_blocks.mistake(shape=True)  # right on no case
def only_the_parts(model):
    """Parts of your blocks run under checkpoints, the blocks themselves do not: what lies between the parts is still kept. One checkpoint for each whole block."""
    for block in model.transformer.h:
        for part in (block.attn, block.mlp):
            part.forward = functools.partial(checkpoint, part.forward, use_reentrant=False)


@checkpoint_blocks.mistake
def one_for_all(model):
    """Your blocks share one checkpoint: backward runs all of them again before it begins with the last, and keeps all that they save, as if there were none. Each block needs a checkpoint of its own."""
    first, *rest = model.transformer.h
    blocks = [block.forward for block in model.transformer.h]
    first.forward = functools.partial(
        checkpoint, lambda x: functools.reduce(lambda y, run: run(y), blocks, x), use_reentrant=False
    )
    for block in rest:
        block.forward = lambda x: x


@checkpoint_blocks.mistake(shape=True)  # right on no case
def only_in_training(model):
    """Your blocks run without a checkpoint when the model is in eval mode. Gradients are asked for there too, and the mode is about dropout, not about memory: always use the checkpoint."""
    for block in model.transformer.h:

        def run(x, block=block, forward=block.forward):
            return checkpoint(forward, x, use_reentrant=False) if block.training else forward(x)

        block.forward = run


@checkpoint_blocks.mistake(shape=True)
def wrapped_in_a_module(model):
    """You put each block into a module of your own. That changes the names in state_dict(), and no saved model fits any more. Leave the modules where they are."""

    class Wrapped(nn.Module):
        def __init__(self, block):
            super().__init__()
            self.block = block

        def forward(self, x):
            return checkpoint(self.block, x, use_reentrant=False)

    model.transformer.h = nn.ModuleList(Wrapped(block) for block in model.transformer.h)


@checkpoint_blocks.mistake
def every_other_block(model):
    """Some of your blocks run under a checkpoint, others do not. Every block of model.transformer.h gets its own."""
    for block in list(model.transformer.h)[::2]:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)


# ---------------------------------------------------------------------------------------------------------------------
pad_vocabulary = Exercise("gpt2.speed.pad_vocabulary", seconds=20.0)
pad_vocabulary.agree(by_name)


@pad_vocabulary.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, V, multiple, dtype=torch.float64):
        B, T = (int(n) for n in rng.integers((2, 4), (4, 9)))
        idx = torch.tensor(rng.integers(0, V, size=(2, B, T)))
        return Case(label, V=V, multiple=multiple, dtype=dtype, idx=idx, seed=int(rng.integers(2**31)))

    yield case("5 tokens, multiple 8", 5, 8)
    yield case("a multiple already", 12, 4)
    yield case("one more than a multiple", 33, 16)
    yield case("multiple 1", 7, 1)
    yield case("the default multiple, float32", 150, None, torch.float32)
    yield case("bfloat16", 13, 10, torch.bfloat16)


class _Widest(TorchFunctionMode):
    """The widest last axis that any product of matrices gave."""

    def __init__(self):
        super().__init__()
        self.width = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if getattr(function, "__name__", "") in ("linear", "matmul", "__matmul__", "mm", "einsum"):
            self.width = max(self.width, made.shape[-1])
        return made


def _padded(V, multiple, dtype, idx, seed, prepare):
    model = _Model(V, 6, 2, 0.0, seed, dtype)
    names = list(model.state_dict())
    asked = () if multiple is None else (multiple,)
    returned = prepare(model, *asked)
    prepare(_Model(V + 3, 6, 1, 0.0, seed, dtype), *asked)  # another model changes nothing about this one
    head, table = model.lm_head.weight, model.transformer.wte.weight
    if not isinstance(head, nn.Parameter) or not isinstance(table, nn.Parameter):
        return "The weight must be an nn.Parameter, or no optimizer finds it."
    seen = {
        "What it returns": None if returned is None else type(returned).__name__,
        "The shape of lm_head.weight": list(head.shape),
        "The shape of transformer.wte.weight": list(table.shape),
        "Is the matrix still shared": head is table,
        "The dtype": str(head.dtype),
        "Does it want a gradient": head.requires_grad,
        "The names in state_dict()": list(model.state_dict()) == names or list(model.state_dict()),
        "config.vocab_size": model.config.vocab_size,
    }
    if len(head) < V or head.shape[1] != 6:
        return (
            f"lm_head.weight has the shape {tuple(head.shape)}: rows for {V} tokens, of width 6, are needed."
        )
    seen["The old rows"], seen["The new rows"] = head[:V].detach().clone(), head[V:].detach().clone()
    for step in range(2):
        say = f"In training step {step + 1}, "
        with _Widest() as widest:
            logits = model(idx[step])
        seen[say + "the columns of the product with the matrix"] = widest.width
        seen[say + "the shape of the logits"] = list(logits.shape)
        if logits.shape[:-1] != idx[step].shape or logits.shape[-1] < V:
            return f"The logits have the shape {tuple(logits.shape)}; asked for is {(*idx[step].shape, V)}."
        seen[say + "the logits"] = logits.detach().clone()
        loss = F.cross_entropy(logits.flatten(0, 1), idx[1 - step].flatten())
        seen[say + "the loss"] = loss.detach().clone()
        loss.backward()
        rest = [p for p in model.parameters() if p is not head]
        seen[say + "the gradient of the old rows"] = head.grad[:V].clone()
        seen[say + "the gradient of the new rows"] = head.grad[V:].clone()
        seen[say + "all other gradients"] = _gradient(rest).clone()
    model.eval()
    with torch.no_grad():
        seen["In eval mode, for a single token, the logits"] = model(idx[0, :1, :1]).clone()
    return seen


@pad_vocabulary.observe
def _(obj, V, multiple, dtype, idx, seed):
    return _padded(V, multiple, dtype, idx, seed, obj)


@pad_vocabulary.oracle
def _(V, multiple, dtype, idx, seed):
    seen = _padded(V, multiple, dtype, idx, seed, lambda model, multiple=128: None)
    rows = next(n for n in range(V, 10**6) if n % (multiple or 128) == 0)
    none = torch.zeros(rows - V, 6, dtype=dtype)
    seen["The shape of lm_head.weight"] = seen["The shape of transformer.wte.weight"] = [rows, 6]
    seen["The new rows"] = none
    for step in (1, 2):
        seen[f"In training step {step}, the columns of the product with the matrix"] = rows
        seen[f"In training step {step}, the gradient of the new rows"] = none
    return seen


def _grow(model, rows, fill=torch.zeros, cut=True):
    old = model.lm_head.weight.detach()
    V, C = old.shape
    new = torch.cat([old, fill(max(0, rows - V), C, dtype=old.dtype)])[:rows]
    model.transformer.wte.weight = model.lm_head.weight = nn.Parameter(new)
    if cut:
        model.lm_head.register_forward_hook(lambda layer, args, logits: logits[..., :V])


@pad_vocabulary.mistake(shape=True)
def left_the_extra_logits(model, multiple=128):
    """Your model has a logit for each new row. It is 0, and e⁰ = 1 gets a share of the probability: the loss rises, and a sample may be a token that does not exist. Cut them off."""
    _grow(model, -(-len(model.lm_head.weight) // multiple) * multiple, cut=False)


@pad_vocabulary.mistake(shape=True)
def masked_the_extra_logits(model, multiple=128):
    """You set the new rows' logits to −inf. Probabilities are right then, but the model has more logits than tokens, and whoever looks at them has to know. Here they are cut off: V remain."""
    V = len(model.lm_head.weight)
    _grow(model, -(-V // multiple) * multiple, cut=False)

    def mask(layer, args, logits):
        return logits.masked_fill(torch.arange(logits.shape[-1]) >= V, -torch.inf)

    model.lm_head.register_forward_hook(mask)


@pad_vocabulary.mistake(shape=True)
def one_multiple_too_many(model, multiple=128):
    """A vocabulary that is a multiple already still grows by a whole multiple. The remainder of −V is 0 then; multiple − V % multiple is not."""
    V = len(model.lm_head.weight)
    _grow(model, V + multiple - V % multiple)


@pad_vocabulary.mistake(shape=True)
def rounded_down(model, multiple=128):
    """You rounded down to a multiple, and the last tokens lost their rows. Round up."""
    _grow(model, len(model.lm_head.weight) // multiple * multiple)


@pad_vocabulary.mistake(shape=True)
def lost_the_tie(model, multiple=128):
    """The embedding and the head have parameters of their own now. They would learn apart, and the model would have millions of weights more. Assign one and the same parameter to both."""
    _grow(model, -(-len(model.lm_head.weight) // multiple) * multiple)
    model.transformer.wte.weight = nn.Parameter(model.lm_head.weight.detach().clone())


@pad_vocabulary.mistake(shape=True)
def only_the_head(model, multiple=128):
    """Only the head has grown; the embedding keeps the old matrix. They shared one parameter: give the new one to both."""
    table = model.transformer.wte.weight
    _grow(model, -(-len(model.lm_head.weight) // multiple) * multiple)
    model.transformer.wte.weight = table


@pad_vocabulary.mistake
def random_new_rows(model, multiple=128):
    """Your new rows are random. They are never read, but they count in norms and checksums, and two paddings of the same model would differ. Rows of 0."""
    _grow(model, -(-len(model.lm_head.weight) // multiple) * multiple, fill=torch.randn)


@pad_vocabulary.mistake
def cut_the_matrix_first(model, multiple=128):
    """You cut the matrix before the product, so it has the ugly size again and nothing is gained. Multiply with all rows; cut the logits."""
    V = len(model.lm_head.weight)
    _grow(model, -(-V // multiple) * multiple, cut=False)
    model.lm_head.forward = lambda x: F.linear(x, model.lm_head.weight[:V])


# ---------------------------------------------------------------------------------------------------------------------
in_turns = Exercise("gpt2.speed.in_turns", tolerance=1e-7)
in_turns.agree(by_name)


@in_turns.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, names, rounds, leftover=0.0):
        # The first call is dear; later ones differ, so that median, mean and minimum do.
        calls = rounds + 3
        costs = {name: [float(c) for c in rng.uniform(1, 6, size=calls)] for name in names}
        for made in costs.values():
            made[0] += 20.0
        start, launch = float(rng.uniform(1, 50)), float(rng.uniform(0.01, 0.1))
        return Case(label, costs=costs, rounds=rounds, start=start, launch=launch, leftover=leftover)

    yield case("two candidates, three rounds", ["old", "new"], 3)
    yield case("one candidate", ["only"], 4)
    yield case("three candidates, an even number of rounds", ["b", "a", "c"], 4, leftover=2.5)
    yield case("one round", ["x", "y"], 1, leftover=1.5)
    yield case("many rounds", ["p", "o"], int(rng.integers(7, 10)))


@in_turns.observe
def _(obj, costs, rounds, start, launch, leftover):
    machine = _Machine(start, launch, leftover)
    candidates = {name: machine.job(name, cost) for name, cost in costs.items()}
    found = obj(candidates, rounds=rounds, wait=machine.wait, clock=machine.clock)
    if not isinstance(found, dict):
        return f"You returned a {type(found).__name__}, not a dict from name to seconds."
    return {
        "The candidates afterwards": list(candidates),
        "Was the given clock read": machine.read,
        "The order of the calls": " ".join(machine.order),
        "The seconds": dict(found),
    }


@in_turns.oracle
def _(costs, rounds, start, launch, leftover):
    order = " ".join(list(costs) * (1 + rounds))
    medians = {name: float(np.median(cost[1 : 1 + rounds])) + launch for name, cost in costs.items()}
    return {
        "The candidates afterwards": list(costs),
        "Was the given clock read": True,
        "The order of the calls": order,
        "The seconds": medians,
    }


def _rounds(candidates, rounds, wait, clock, before=True, after=True):
    seconds = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            seconds[name] += _times(call, 1, 0, wait, clock, before, after)
    return seconds


@in_turns.mistake
def one_after_the_other(candidates, *, rounds, wait=None, clock=None):
    """You measure each candidate to the end before the next one begins. A machine that gets hot or busy meanwhile favours the first. Take turns: one call of each, round after round."""
    return {
        name: statistics.median(_times(call, rounds, 1, wait, clock)) for name, call in candidates.items()
    }


@in_turns.mistake(shape=True)  # right on no case
def counted_the_first_round(candidates, *, rounds, wait=None, clock=None):
    """The first round, in which everything is prepared, is among your times. It is only the warm-up: leave each candidate's first time out."""
    return {
        name: statistics.median(times) for name, times in _rounds(candidates, 1 + rounds, wait, clock).items()
    }


@in_turns.mistake(shape=True)  # right on no case
def one_round_too_few(candidates, *, rounds, wait=None, clock=None):
    """You make `rounds` rounds with the warm-up, and one is missing. There are 1 + rounds of them: the first does not count, `rounds` do."""
    return {
        name: statistics.median(times[1:] or times)
        for name, times in _rounds(candidates, rounds, wait, clock).items()
    }


@in_turns.mistake(shape=True)  # right on no case
def warmed_up_twice(candidates, *, rounds, wait=None, clock=None):
    """Each call in your rounds has a warm-up of its own: you left median_seconds' default, 1. The first round is warm-up enough; say warmup=0."""
    seconds = {name: [] for name in candidates}
    for _ in range(1 + rounds):
        for name, call in candidates.items():
            seconds[name] += _times(call, 1, 1, wait, clock)
    return {name: statistics.median(times[1:]) for name, times in seconds.items()}


@in_turns.mistake
def mean_of_each(candidates, *, rounds, wait=None, clock=None):
    """You return each candidate's mean. One interrupted call moves it as far as it likes; take the median."""
    return {
        name: statistics.mean(times[1:])
        for name, times in _rounds(candidates, 1 + rounds, wait, clock).items()
    }


@in_turns.mistake(shape=True)  # right on no case
def never_waited(candidates, *, rounds, wait=None, clock=None):
    """You never wait, so you measure how long it takes to hand the work over. Hand `wait` and `clock` on to the stopwatch."""
    found = _rounds(candidates, 1 + rounds, wait, clock, False, False)
    return {name: statistics.median(times[1:]) for name, times in found.items()}
