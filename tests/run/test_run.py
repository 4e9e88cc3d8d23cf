"""Devices, seeds, sizes, timing."""

import random
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import groundup.run as run


def test_device_is_the_best_there_is(monkeypatch):
    def with_hardware(cuda: bool, mps: bool):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        return run.device()

    assert with_hardware(True, True) == torch.device("cuda")
    assert with_hardware(False, True) == torch.device("mps")
    assert with_hardware(False, False) == torch.device("cpu")


def test_seeds_repeat_and_differ():
    def draw(seed):
        run.seed_everything(seed)
        return random.random(), np.random.rand(), torch.rand(1).item()

    assert draw(3) == draw(3)
    assert all(a != b for a, b in zip(draw(3), draw(4), strict=True))
    run.seed_everything(2**40)  # NumPy takes 32 bits only


def test_seeding_does_not_import_torch():
    code = "import sys; from groundup.run import seed_everything; seed_everything(0); print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "False\n"
    )


@pytest.fixture
def no_override(monkeypatch):
    monkeypatch.delenv("GROUNDUP_SCALE", raising=False)


def test_scales(no_override, monkeypatch):
    for scale in ("smoke", "cpu", "gpu"):
        assert run.resolve_scale(scale) == scale
        assert run.at_scale(scale, smoke=1, cpu=2, gpu=3) == {"smoke": 1, "cpu": 2, "gpu": 3}[scale]
    monkeypatch.setenv("GROUNDUP_SCALE", "smoke")
    assert run.at_scale("gpu", smoke=1, cpu=2, gpu=3) == 1
    monkeypatch.setenv("GROUNDUP_SCALE", "")
    assert run.resolve_scale("gpu") == "gpu", "an empty variable says nothing"


def test_an_unknown_scale_lists_the_choices(no_override, monkeypatch):
    with pytest.raises(ValueError, match=r"^scale is 'big': choose one of auto, smoke, cpu, gpu$"):
        run.resolve_scale("big")
    monkeypatch.setenv("GROUNDUP_SCALE", "tpu")
    with pytest.raises(ValueError, match=r"^GROUNDUP_SCALE is 'tpu'"):
        run.at_scale("cpu", smoke=1, cpu=2, gpu=3)


@pytest.mark.parametrize(
    ("driver", "cuda", "scale"), [(False, True, "cpu"), (True, False, "cpu"), (True, True, "gpu")]
)
def test_auto_is_gpu_only_where_cuda_works(no_override, monkeypatch, driver, cuda, scale):
    monkeypatch.setattr(run, "has_nvidia", lambda: driver)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert run.resolve_scale("auto") == scale


def test_timed_counts_and_measures():
    calls = []

    def work():
        calls.append(time.perf_counter())
        time.sleep(0.01)

    timing = run.timed(work, repeat=3, warmup=2)
    assert len(calls) == 5 and len(timing.all_seconds) == 3
    assert all(0.01 <= seconds < 1 for seconds in timing.all_seconds)
    assert timing.median_seconds == sorted(timing.all_seconds)[1]
    assert len(run.timed(work, repeat=1, warmup=0, device="cpu").all_seconds) == 1


@pytest.mark.parametrize("device", [None, "cuda", torch.device("cuda", 0)])
def test_timed_waits_for_the_gpu(monkeypatch, device):
    log = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: log.append("wait"))
    run.timed(lambda: log.append("launch"), repeat=2, warmup=0, device=device)
    assert log == ["wait", "launch", "wait"] * 2


def test_timed_waits_for_jax():
    waited = []

    class Result:
        def block_until_ready(self):
            waited.append(True)

    run.timed(Result, repeat=2, warmup=1)
    assert len(waited) == 3


def test_timed_refuses_nonsense():
    with pytest.raises(ValueError, match="repeat=0"):
        run.timed(lambda: None, repeat=0)
    with pytest.raises(ValueError, match="warmup=-1"):
        run.timed(lambda: None, warmup=-1)


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.5, "2.5 s"), (0.0123, "12.3 ms"), (4.2e-6, "4.2 µs"), (1e-9, "0.001 µs")]
)
def test_timings_read_well(seconds, text):
    assert str(run.Timing(seconds, (seconds,))) == f"{text} (median of 1)"


def test_unknown_names():
    with pytest.raises(AttributeError, match="no attribute 'cuda_magic'"):
        _ = run.cuda_magic
