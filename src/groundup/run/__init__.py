"""Devices, seeds, sizes and timing: everything a lesson needs to run the same anywhere.

`triton` and `tl` come from here too, so that a lesson's kernels can be read where Triton is not installed.
"""

import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from groundup.run.interpret import has_nvidia, prepare_triton

__all__ = ["Timing", "at_scale", "device", "resolve_scale", "seed_everything", "timed", "tl", "triton"]

SCALES = ("auto", "smoke", "cpu", "gpu")
T = TypeVar("T")


def device():
    """The best `torch.device` here: cuda, else mps, else cpu."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def seed_everything(seed: int) -> None:
    """Seed Python's `random`, NumPy's global generator, and torch (every device) if it has been imported."""
    random.seed(seed)
    try:
        import numpy
    except ImportError:
        pass
    else:
        numpy.random.seed(seed % 2**32)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


def resolve_scale(scale: str) -> str:
    """Turn a scale into "smoke", "cpu" or "gpu".

    The environment's GROUNDUP_SCALE wins over `scale`. "auto" is "gpu" where CUDA works, else "cpu".

    Raises:
        ValueError: the scale is not one of auto, smoke, cpu, gpu.
    """
    override = os.environ.get("GROUNDUP_SCALE")
    chosen, origin = (override, "GROUNDUP_SCALE") if override else (scale, "scale")
    if chosen not in SCALES:
        raise ValueError(f"{origin} is {chosen!r}: choose one of {', '.join(SCALES)}")
    if chosen != "auto":
        return chosen
    return "gpu" if _cuda_works() else "cpu"


def at_scale(scale: str, *, smoke: T, cpu: T, gpu: T) -> T:
    """Pick a lesson's size: `steps = at_scale(SCALE, smoke=20, cpu=200, gpu=2000)`."""
    return {"smoke": smoke, "cpu": cpu, "gpu": gpu}[resolve_scale(scale)]


def _cuda_works() -> bool:
    # Most machines have no NVIDIA driver at all: answer for them without the seconds that importing torch takes.
    if not has_nvidia():
        return False
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


@dataclass(frozen=True)
class Timing:
    """Wall-clock seconds of every timed call, in order, and their median."""

    median_seconds: float
    all_seconds: tuple[float, ...]

    def __str__(self) -> str:
        seconds = self.median_seconds
        unit, scale = ("s", 1) if seconds >= 1 else ("ms", 1e3) if seconds >= 1e-3 else ("µs", 1e6)
        return f"{seconds * scale:.3g} {unit} (median of {len(self.all_seconds)})"


def timed(fn: Callable[[], Any], *, repeat: int = 5, warmup: int = 1, device=None) -> Timing:
    """Time `fn()` `repeat` times after `warmup` untimed calls.

    A GPU works behind Python's back, so each call is timed until the device has finished: `device` (a
    `torch.device` or its name) says which; None means CUDA if this process has used it. A JAX result is waited for.

    Raises:
        ValueError: repeat < 1 or warmup < 0.
    """
    import statistics  # costs more than the rest of this module, which every lesson imports

    if repeat < 1 or warmup < 0:
        raise ValueError(f"timed needs repeat ≥ 1 and warmup ≥ 0, got repeat={repeat}, warmup={warmup}")
    wait = _synchroniser(device)

    def call() -> float:
        wait()
        start = time.perf_counter()
        result = fn()
        if hasattr(result, "block_until_ready"):
            result.block_until_ready()
        wait()
        return time.perf_counter() - start

    for _ in range(warmup):
        call()
    seconds = tuple(call() for _ in range(repeat))
    return Timing(statistics.median(seconds), seconds)


def _synchroniser(device) -> Callable[[], None]:
    torch = sys.modules.get("torch")
    if device is None:
        used = torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized()
        return torch.cuda.synchronize if used else lambda: None
    import torch

    device = torch.device(device)
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return torch.mps.synchronize if device.type == "mps" else lambda: None


def __getattr__(name: str):
    # Importing Triton takes a while and most lessons have no kernel: wait until somebody asks for it.
    if name not in ("triton", "tl"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    prepare_triton()
    try:
        import triton
        import triton.language as tl
    except ImportError:
        from groundup.run._standin import tl, triton
    globals().update(triton=triton, tl=tl)
    return globals()[name]
