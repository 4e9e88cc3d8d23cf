"""The lesson gpt2.speed: its counts and changes on the real model, its ladder, and its checks."""

import copy
import functools
import inspect
import json
import subprocess
import sys
import textwrap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from groundup.autograd.functions import Checkpoint
from groundup.check import grade
from groundup.gpt2 import speed
from groundup.gpt2.model import GPT, GPTConfig
from groundup.gpt2.speed import (
    checkpoint_blocks,
    data_sheet_rate,
    flops_per_token,
    in_own_process,
    in_turns,
    measured_matmul_rate,
    median_seconds,
    mfu,
    pad_vocabulary,
    speed_ladder,
)

TINY = GPTConfig(block_size=12, vocab_size=53, n_layer=2, n_head=2, n_embd=16, fused=False)


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 6), st.integers(2, 40), st.integers(1, 9))
def test_the_count_is_pytorchs_own(n_layer, n_head, head_dim, vocab_size, T):
    config = GPTConfig(10, vocab_size, n_layer, n_head, n_head * head_dim, fused=False)
    with FlopCounterMode(display=False) as counter:
        GPT(config)(torch.zeros(2, T, dtype=torch.long)).sum().backward()
    # The explicit attention weighs the values twice, of which once for nothing: forward only.
    twice = 2 * n_layer * config.n_embd * T
    assert counter.get_total_flops() == 2 * T * (flops_per_token(config, T) + twice)


def results(model, seed=0):
    """Loss and gradients of a training step, the gradient of the token matrix cut to its tokens."""
    torch.manual_seed(seed)
    idx = torch.randint(53, (3, 8))
    logits = model(idx)
    loss = F.cross_entropy(logits.flatten(0, 1), idx.flip(0).flatten())
    loss.backward()
    return loss.detach(), torch.cat([p.grad[:53].flatten() for p in model.parameters()])


@pytest.mark.parametrize("change", [checkpoint_blocks, pad_vocabulary, "both"])
def test_the_real_model_stays_as_it_was(change):
    torch.manual_seed(1)
    model = GPT(GPTConfig(12, 53, 2, 2, 16, dropout=0.3)).double()
    changed = copy.deepcopy(model)
    for one in (checkpoint_blocks, pad_vocabulary) if change == "both" else (change,):
        one(changed)
    for _ in range(2):
        torch.testing.assert_close(results(changed), results(model), rtol=1e-12, atol=1e-14)
    copied = copy.deepcopy(changed)
    torch.testing.assert_close(results(copied, 3)[0], results(model, 3)[0])
    assert list(changed.state_dict()) == list(model.state_dict())
    changed.load_state_dict(changed.state_dict())


def test_a_checkpointed_model_saves_less():
    def saved(model):
        storages = {}

        def pack(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(torch.zeros(2, 12, dtype=torch.long))
        return sum(storage.nbytes() for storage in storages.values())

    model = GPT(TINY)
    before = saved(model)
    checkpoint_blocks(model)
    assert saved(model) + 2 * 2 * 12 * 16 * 4 < 0.6 * before


def test_rates():
    assert data_sheet_rate("NVIDIA H200") == data_sheet_rate("NVIDIA H100 80GB HBM3") == 989e12
    assert data_sheet_rate("NVIDIA H100 PCIe") == 756e12
    assert data_sheet_rate("NVIDIA A100-SXM4-40GB") == 312e12
    assert data_sheet_rate("some other") is None
    assert measured_matmul_rate("cpu", torch.float32) > 1e8
    assert mfu(1000, TINY, 12, 1000 * flops_per_token(TINY, 12)) == 1


def test_real_clocks_are_the_default():
    assert 0 <= median_seconds(lambda: None, repeats=3) < 1
    assert set(in_turns({"a": lambda: None, "b": lambda: None}, rounds=2)) == {"a", "b"}


def test_the_ladder_climbs_and_the_loss_stays():
    rows = speed_ladder(TINY, 2, 12, "cpu", compiled=False, repeats=1, larger_batches=[4])
    names = [row["name"] for row in rows]
    assert names == [
        "float32", "TF32", "bfloat16", "fused attention", "padded vocabulary", "fused AdamW", "compiled", "batch of 4",
    ]  # fmt: skip
    ran = {row["name"]: row for row in rows if "note" not in row}
    assert set(names) - set(ran) == {"TF32", "compiled"}
    for row in ran.values():
        assert row["tokens_per_second"] == pytest.approx(1000 * row["B"] * row["T"] / row["ms"])
        assert sum(row["shares"].values()) == pytest.approx(1)
        assert row["mfu"] > 0 and row["mfu_sheet"] is None
    first = ran["float32"]["loss"]
    assert all(abs(row["loss"] / first - 1) < 1e-2 for row in rows[:-1] if "loss" in row)
    assert ran["float32"]["kept"] and torch.get_float32_matmul_precision() == "highest"
    json.dumps(rows)


def test_a_process_of_its_own_says_what_went_wrong():
    with pytest.raises(RuntimeError, match="no_such_function"):
        in_own_process("no_such_function", TINY)


def test_checks_still_grade_after_the_pages_compiling():
    """torch.compile replaces nn.Module.__init__, after which a check refuses to grade; the page's own does not do that here."""
    program = """
        import torch
        from groundup.check import grade
        from groundup.gpt2 import speed
        config = speed.GPTConfig(block_size=6, vocab_size=11, n_layer=1, n_head=1, n_embd=8)
        assert grade("gpt2.speed.checkpoint_blocks", speed.checkpoint_blocks).status == "passed"
        report = speed.in_own_process(
            "compile_report", config, B=2, T=6, device="cpu", backend="aot_eager")
        assert report["the model"] == {"graphs": 1, "breaks": 0}, report
        assert report["with an if"]["breaks"] >= 1, report
        assert report["gradient off by"] < 1e-5, report
        speed.speed_ladder(config, 2, 6, "cpu", compiled=False, repeats=1)
        for name in ("checkpoint_blocks", "in_turns"):
            result = grade(f"gpt2.speed.{name}", getattr(speed, name))
            assert result.status == "passed", result.message
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=240)


# -- the checks -------------------------------------------------------------------------------------------------------
def other_stopwatch(call, *, repeats, warmup=1, wait=lambda: None, clock=None):
    """Waits more often than it must, and finds the median by itself."""
    for _ in range(warmup):
        call()
        wait()
    times = []
    while len(times) < repeats:
        wait()
        times.append(-clock())
        call()
        wait()
        times[-1] += clock()
    times.sort()
    return (times[(repeats - 1) // 2] + times[repeats // 2]) / 2


def other_checkpoint(model):
    """A function for each block, made by another function."""

    def under(forward):
        return lambda x: checkpoint(forward, x, use_reentrant=False)

    for block in model.transformer.h:
        block.forward = under(block.forward)


def other_forward(model):
    """A forward of the model's own, with a checkpoint around each block."""

    def forward(idx):
        parts = model.transformer
        x = parts.drop(parts.wte(idx) + parts.wpe(torch.arange(idx.shape[1])))
        for block in parts.h:
            x = checkpoint(block, x, use_reentrant=False)
        return model.lm_head(parts.ln_f(x))

    model.forward = forward


def padding_in_place(model, multiple=128):
    """Keeps the parameter and grows its data; cuts the model's output."""
    weight = model.lm_head.weight
    V = len(weight)
    weight.data = F.pad(weight.data, (0, 0, 0, -V % multiple))
    model.register_forward_hook(lambda model, args, logits: logits[..., :V])


def checkpoint_in_checkpoint(model):
    """Twice around each block, at no cost: PyTorch stops a second run once it has computed what it was run for, and what
    the inner one had kept, the block's input, comes before the block."""
    checkpoint_blocks(model)
    checkpoint_blocks(model)


def other_padding(model, multiple=128):
    """Grows the rows where they are, and cuts in the head's forward."""
    head = model.lm_head
    V, C = head.weight.shape
    extra = (multiple - V % multiple) % multiple
    weight = torch.cat([head.weight.data, torch.zeros(extra, C, dtype=head.weight.dtype)])
    head.weight = model.transformer.wte.weight = nn.Parameter(weight)
    forward = head.forward
    head.forward = lambda x: forward(x)[:, :, :V]


def other_turns(candidates, *, rounds, wait=lambda: None, clock=None):
    times = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, call in candidates.items():
            wait()
            start = clock()
            call()
            wait()
            if number:
                times[name].append(clock() - start)
    return {name: float(torch.tensor(t, dtype=torch.float64).quantile(0.5)) for name, t in times.items()}


@pytest.mark.parametrize(
    "name, obj",
    [
        ("median_seconds", other_stopwatch),
        ("checkpoint_blocks", other_checkpoint),
        ("checkpoint_blocks", other_forward),
        ("checkpoint_blocks", checkpoint_in_checkpoint),
        ("pad_vocabulary", other_padding),
        ("pad_vocabulary", padding_in_place),
        ("in_turns", other_turns),
    ],
)
def test_right_answers_written_differently_pass(name, obj):
    result = grade(f"gpt2.speed.{name}", obj)
    assert result.status == "passed", result.message


def edited(function, old, new):
    """The function with one edit of its source."""
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(old) == 1
    space = dict(vars(speed))
    exec(source.replace(old, new), space)
    return space[function.__name__]


def own_checkpoint(model):
    """Part 1's Checkpoint, which needs an input that wants a gradient."""
    for block in model.transformer.h:
        block.forward = functools.partial(Checkpoint.apply, block.forward)


def only_in_training(model):
    for block in model.transformer.h:

        def run(x, block=block, forward=block.forward):
            return checkpoint(forward, x, use_reentrant=False) if block.training else forward(x)

        block.forward = run


def for_the_whole_class(model):
    """Every model of this class is changed, once and for all."""
    kind = type(model.transformer.h[0])
    if not hasattr(kind, "plain"):
        kind.plain = kind.forward
        kind.forward = lambda self, x: checkpoint(kind.plain, self, x, use_reentrant=False)


def without_dropout(model):
    def forward(idx):
        parts = model.transformer
        x = parts.wte(idx) + parts.wpe(torch.arange(idx.shape[1]))
        for block in parts.h:
            x = checkpoint(block, x, use_reentrant=False)
        return model.lm_head(parts.ln_f(x))

    model.forward = forward


def one_for_all(model):
    blocks = [block.forward for block in model.transformer.h]
    first, *rest = model.transformer.h
    first.forward = functools.partial(
        checkpoint, lambda x: functools.reduce(lambda y, run: run(y), blocks, x), use_reentrant=False
    )
    for block in rest:
        block.forward = lambda x: x


latest = {}


def padding_with(cut):
    def pad(model, multiple=128):
        latest["V"] = V = len(model.lm_head.weight)
        padded = F.pad(model.lm_head.weight, (0, 0, 0, -V % multiple))
        model.transformer.wte.weight = model.lm_head.weight = nn.Parameter(padded)
        model.lm_head.register_forward_hook(lambda layer, args, logits: cut(layer, logits, V))

    return pad


def clears_its_input(candidates, **options):
    found = in_turns(dict(candidates), **options)
    candidates.clear()
    return found


@pytest.mark.parametrize(
    "name, obj",
    [
        ("checkpoint_blocks", only_in_training),
        ("checkpoint_blocks", for_the_whole_class),
        ("checkpoint_blocks", without_dropout),
        ("checkpoint_blocks", one_for_all),
        ("pad_vocabulary", padding_with(lambda layer, y, V: y[..., :V] if layer.training else y)),
        ("pad_vocabulary", padding_with(lambda layer, y, V: y[..., : latest["V"]])),
        ("in_turns", clears_its_input),
        ("median_seconds", edited(median_seconds, "for _ in range(warmup):", "for _ in range(1):")),
        ("median_seconds", edited(median_seconds, "statistics.median(seconds)", "statistics.median_low(seconds)")),
        ("median_seconds", edited(median_seconds, "start = clock()\n", "start = time.perf_counter()\n")),
        ("flops_per_token", edited(flops_per_token, "config.vocab_size", "50257")),
        ("flops_per_token", edited(flops_per_token, "12 * L * C**2", "sum([7 * L * C**2, 6 * L * C**2])")),
        ("checkpoint_blocks", own_checkpoint),
        ("pad_vocabulary", edited(pad_vocabulary, "-V % multiple", "-V % 128")),
        ("pad_vocabulary", edited(pad_vocabulary, "int = 128", "int = 64")),
        ("pad_vocabulary", edited(pad_vocabulary, "nn.Parameter(padded)", "nn.Parameter(padded.float())")),
        ("in_turns", edited(in_turns, "times[1:]", "times[:-1]")),
        ("in_turns", edited(in_turns, "candidates.items()", "sorted(candidates.items())")),
    ],
)  # fmt: skip
def test_wrong_answers_fail(name, obj):
    assert grade(f"gpt2.speed.{name}", obj).status in ("failed", "error")
