"""A faster training step.

Generated from chapters/02_gpt2/11_speed.md by `make sync`: edit that file, not this one.
"""

import dataclasses
import functools
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from groundup.gpt2.model import GPT, GPTConfig
from groundup.gpt2.training import parameter_groups

__all__ = [
    "can_compile",
    "checkpoint_blocks",
    "compile_report",
    "data_sheet_rate",
    "flops_per_token",
    "in_own_process",
    "in_turns",
    "make_step",
    "measured_matmul_rate",
    "median_seconds",
    "mfu",
    "pad_vocabulary",
    "speed_ladder",
    "wait_for",
    "where_time_goes",
]


def median_seconds(
    call: Callable,
    *,
    repeats: int,
    warmup: int = 1,
    wait: Callable = lambda: None,
    clock: Callable = time.perf_counter,
) -> float:
    """The median duration of `repeats` calls, after `warmup` calls that do not count.

    wait: returns when the device has finished all that was handed to it.
    """
    for _ in range(warmup):
        call()
    seconds = []
    for _ in range(repeats):
        wait()
        start = clock()
        call()
        wait()
        seconds.append(clock() - start)
    return statistics.median(seconds)


def flops_per_token(config: GPTConfig, T: int) -> int:
    """FLOPs of forward and backward per token: 6N + 12 L C T (Chowdhery et al. 2022).

    N: the weights in matrix products, 12 L C² + V C. Masked scores are counted.
    """
    L, C = config.n_layer, config.n_embd
    N = 12 * L * C**2 + config.vocab_size * C
    return 6 * N + 12 * L * C * T


def wait_for(device: torch.device | str) -> Callable:
    """A function that returns when the device has done all that was handed to it."""
    device = torch.device(device)
    if device.type == "cuda":
        return functools.partial(torch.cuda.synchronize, device)
    return torch.mps.synchronize if device.type == "mps" else lambda: None


def measured_matmul_rate(device: torch.device | str, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest of a few products of square matrices on this device."""
    on_cpu = torch.device(device).type == "cpu"
    rate = 0.0
    for n in (256, 512, 1024) if on_cpu else (4096, 8192, 16384):
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        product = functools.partial(torch.matmul, a, b)
        seconds = median_seconds(product, repeats=5, wait=wait_for(device))
        rate = max(rate, 2 * n**3 / seconds)
        if seconds > 0.1:  # a slow device: larger ones would take too long
            break
    return rate


def data_sheet_rate(name: str) -> float | None:
    """FLOP/s that NVIDIA promises for bfloat16, dense; None if we have no sheet."""
    sheets = {"NVL": 835e12, "H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12}
    sheets["A100"] = 312e12
    return next((rate for gpu, rate in sheets.items() if gpu in name), None)


def mfu(tokens_per_second: float, config: GPTConfig, T: int, rate: float) -> float:
    """The share of `rate` (FLOP/s) that the model's own FLOPs take up."""
    return tokens_per_second * flops_per_token(config, T) / rate


def checkpoint_blocks(model: GPT) -> None:
    """Each block saves only its input from now on and runs again in backward; in place.

    Losses, gradients and names stay. Source: Chen and others (2016).
    """
    for block in model.transformer.h:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)


def pad_vocabulary(model: GPT, multiple: int = 128) -> None:
    """Rows of 0 at the end of the (tied) token matrix, up to a multiple; in place.

    The extra rows' logits are cut off: the model has as many as before.
    """
    V = len(model.lm_head.weight)
    padded = F.pad(model.lm_head.weight, (0, 0, 0, -V % multiple))
    model.transformer.wte.weight = model.lm_head.weight = nn.Parameter(padded)
    model.lm_head.register_forward_hook(lambda layer, args, logits: logits[..., :V])


def in_own_process(function: str, config: GPTConfig, *, timeout=1800.0, **options):
    """groundup.gpt2.speed's `function`(config, **options), in a process of its own.

    What goes in and comes out is what JSON can hold. RuntimeError says why it failed.
    """
    code = (
        "import json, sys\n"
        "import groundup.gpt2.speed as speed\n"
        "function, config, options = json.load(sys.stdin)\n"
        "made = getattr(speed, function)(speed.GPTConfig(**config), **options)\n"
        "print(json.dumps(made))\n"
    )
    asked = json.dumps([function, dataclasses.asdict(config), options])
    command = [sys.executable, "-c", code]
    pipes = {"input": asked, "capture_output": True, "text": True, "timeout": timeout}
    run = subprocess.run(command, **pipes)
    if run.returncode:
        raise RuntimeError(f"{function}: {run.stderr.strip().splitlines()[-1]}")
    return json.loads(run.stdout.splitlines()[-1])


def can_compile() -> bool:
    """Whether there is a compiler for the code that torch.compile writes."""
    return any(map(shutil.which, ("c++", "g++", "clang++", "cl")))


def compile_report(config: GPTConfig, *, B: int, T: int, device: str, backend: str):
    """The graphs that torch.compile makes of the model, and how far off it is.

    Also the graphs of a model with an `if` about a value. Call it by in_own_process.
    """
    torch.manual_seed(0)
    model = GPT(config).to(device)
    idx = torch.randint(config.vocab_size, (B, T), device=device)

    def nervous(idx):
        logits = model(idx)
        return logits.softmax(-1) if logits.isfinite().all() else logits

    report, results = {}, []
    for name, function in (("the model", model), ("with an if", nervous)):
        torch._dynamo.reset()
        seen = torch._dynamo.explain(function)(idx)
        report[name] = {"graphs": seen.graph_count, "breaks": seen.graph_break_count}
    torch._dynamo.reset()
    for run in (model, torch.compile(model, backend=backend)):
        model.zero_grad()
        F.cross_entropy(run(idx).flatten(0, 1), idx.flatten()).backward()
        results.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    apart = (results[1] - results[0]).norm() / results[0].norm()
    return report | {"gradient off by": apart.item()}


def make_step(
    config: GPTConfig,
    B: int,
    T: int,
    device: torch.device,
    *,
    tf32=False,
    autocast=None,
    fused=False,
    multiple=1,
    compiled=False,
    fused_adamw=False,
) -> Callable:
    """A function that makes a training step, always on the same batch; gives the loss.

    The arguments after the star are the rungs of `speed_ladder`.
    """
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.manual_seed(0)
    tokens = torch.randint(config.vocab_size, (B, T + 1)).to(device)
    x, y = tokens[:, :-1], tokens[:, 1:].flatten()
    model = GPT(dataclasses.replace(config, fused=fused)).to(device)
    pad_vocabulary(model, multiple)
    groups = parameter_groups(model, weight_decay=0.1)
    optimizer = torch.optim.AdamW(groups, lr=6e-4, betas=(0.9, 0.95), fused=fused_adamw)

    def loss_of(x, y):
        with torch.autocast(device.type, autocast, enabled=autocast is not None):
            return F.cross_entropy(model(x).flatten(0, 1), y)

    if compiled:
        torch._dynamo.reset()  # what was compiled for the rung before
        loss_of = torch.compile(loss_of, dynamic=False)

    def step():
        optimizer.zero_grad()
        loss = loss_of(x, y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    return step


def where_time_goes(step: Callable, device: torch.device) -> dict[str, float]:
    """Shares of one step's time by kind of work, as torch.profiler sees it."""
    kinds = {  # the first that matches
        "compiled": ("triton", "compiledfxgraph"),
        "attention": ("flash", "fmha", "attention"),
        "matrix products": ("gemm", "nvjet", "cutlass", "mm", "matmul", "linear"),
        "optimizer": ("adam", "multi_tensor"),
        "softmax and loss": ("softmax", "nll", "cross_entropy"),
    }
    on_gpu = device.type == "cuda"
    for _ in range(2):  # the first time, the profiler itself warms up
        with torch.profiler.profile() as profile:
            step()
            wait_for(device)()
    times = dict.fromkeys([*kinds, "all else"], 0.0)
    for event in profile.key_averages():
        ran_on_gpu = event.device_type == torch.autograd.DeviceType.CUDA
        if ran_on_gpu != on_gpu or getattr(event, "is_user_annotation", False):
            continue
        spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        words = event.key.lower()
        fits = (kind for kind, parts in kinds.items() if any(p in words for p in parts))
        times[next(fits, "all else")] += spent
    total = sum(times.values())
    return {name: spent / total for name, spent in times.items()}


def speed_ladder(
    config: GPTConfig,
    B: int,
    T: int,
    device: torch.device | str,
    *,
    compiled: bool = True,
    profiled: bool = True,
    repeats: int = 5,
    larger_batches: list[int] = (),
) -> list[dict]:
    """A training step made faster, one change on top of the other; a row for each.

    name; ms, tokens_per_second, mfu (of this device's fastest measured product),
    mfu_sheet (of its data sheet, or None), loss (of the first step), kept, shares
    (`where_time_goes`). A row with a `note` was not run. Last come the larger batches.
    Compiling changes PyTorch: call it by `in_own_process` if checks are to follow.
    """
    device = torch.device(device)
    on_gpu = device.type == "cuda"
    changes = {
        "float32": {},
        "TF32": {"tf32": True},
        "bfloat16": {"autocast": torch.bfloat16},
        "compiled": {"compiled": True},
        "fused attention": {"fused": True},
        "padded vocabulary": {"multiple": 128},
        "fused AdamW": {"fused_adamw": True},
    }
    notes = {}
    if not on_gpu:
        changes["compiled"] = changes.pop("compiled")  # last
        notes["TF32"] = "not run: only NVIDIA's GPUs have it"
    if not (compiled and can_compile()):
        notes["compiled"] = "not run: not asked for, or no C++ compiler here"
    rungs = [(name, change, B) for name, change in changes.items()]
    rungs += [(f"batch of {larger}", {}, larger) for larger in larger_batches]
    rate = max(measured_matmul_rate(device, d) for d in (torch.float32, torch.bfloat16))
    sheet = data_sheet_rate(torch.cuda.get_device_name(device)) if on_gpu else None
    rows, kept, best = [], {}, float("inf")
    for name, change, batch in rungs:
        row = {"name": name, "B": batch, "T": T, "kept": False}
        rows.append(row)
        if name in notes:
            row["note"] = notes[name]
            continue
        wait = wait_for(device)
        try:
            step = make_step(config, batch, T, device, **(kept | change))
            row["loss"] = step().item()
            seconds = median_seconds(step, repeats=repeats, warmup=2, wait=wait)
            if profiled:
                row["shares"] = where_time_goes(step, device)
        except torch.OutOfMemoryError:
            row["note"] = "not run: too large for this GPU's memory"
            continue
        finally:
            step = None  # its memory goes before the next one comes
            torch.set_float32_matmul_precision("highest")
            if on_gpu:
                torch.cuda.empty_cache()
        tokens = batch * T / seconds
        row |= {"ms": 1000 * seconds, "tokens_per_second": tokens}
        row["mfu"] = mfu(tokens, config, T, rate)
        row["mfu_sheet"] = mfu(tokens, config, T, sheet) if sheet else None
        if seconds / batch < 1.05 * best:
            row["kept"], kept, best = True, kept | change, min(best, seconds / batch)
    return rows


def in_turns(
    candidates: dict[str, Callable],
    *,
    rounds: int,
    wait: Callable = lambda: None,
    clock: Callable = time.perf_counter,
) -> dict[str, float]:
    """The median seconds of each candidate, measured in turns; one round warms up."""
    seconds = {name: [] for name in candidates}
    for _ in range(1 + rounds):
        for name, call in candidates.items():
            once = median_seconds(call, repeats=1, warmup=0, wait=wait, clock=clock)
            seconds[name].append(once)
    return {name: statistics.median(times[1:]) for name, times in seconds.items()}
