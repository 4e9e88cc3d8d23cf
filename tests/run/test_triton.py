"""Triton where it is, where it is absent, and where there is no GPU for it. Each in a process of its own."""

import os
import subprocess
import sys
import textwrap

import pytest

from groundup.run import _standin, interpret

NO_TRITON = "import sys; sys.modules['triton'] = None\n"

KERNEL = """
from groundup.run import triton, tl

@triton.autotune(configs=[triton.Config({"BLOCK": 64}, num_warps=4)], key=["n"])
@triton.jit
def tuned(x, n, BLOCK: tl.constexpr):
    tl.store(x, tl.load(x))

@triton.jit(do_not_specialize=["n"])
def add_one(x, y, n, BLOCK: tl.constexpr):
    \"\"\"Adds one.\"\"\"
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + offsets, tl.load(x + offsets, mask=offsets < n) + 1, mask=offsets < n)

@triton.jit
def total(x, y, BLOCK: tl.constexpr):
    tl.store(y, tl.sum(tl.load(x + tl.arange(0, BLOCK))))

SIZE = tl.constexpr(128)
def typed(x: tl.tensor, dtype=tl.float32): ...
"""


def python(code: str, **env: str) -> str:
    cleared = {
        key: value
        for key, value in os.environ.items()
        if key not in ("TRITON_INTERPRET", "CUDA_VISIBLE_DEVICES")
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env=cleared | env,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def write(tmp_path, body: str) -> str:
    """Kernels need a file: Triton reads their source."""
    path = tmp_path / "kernels.py"
    path.write_text(body)
    return f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"


def test_kernels_can_be_read_without_triton_and_say_what_to_install(tmp_path):
    out = python(
        NO_TRITON
        + write(tmp_path, KERNEL)
        + """
from kernels import add_one, tuned, SIZE, tl, triton
import copy, inspect
print(SIZE.value, add_one.__name__, add_one.__doc__, triton.cdiv(10, 4), triton.next_power_of_2(5), triton.next_power_of_2(8))
copy.copy(tl), hasattr(tl, "__wrapped__"), inspect.unwrap(add_one.fn), repr(tl.float32)
for launch in (lambda: add_one[(1,)](1, 2, 3, BLOCK=4), lambda: tuned[lambda meta: (1,)](1, 2), lambda: tl.load(1),
               lambda: triton.testing.do_bench(print)):
    try:
        launch()
    except ImportError as error:
        print(type(error).__name__, error)
"""
    )
    first, *errors = out.splitlines()
    assert first == "128 add_one Adds one. 3 8 8"
    assert [line.split(":")[0] for line in errors] == [
        f"TritonMissing cannot run {name}"
        for name in ("add_one", "tuned", "triton.language.load", "triton.testing.do_bench")
    ]
    assert all("pip install triton" in line for line in errors)


@pytest.mark.skipif(interpret.has_nvidia(), reason="kernels compile here")
def test_a_kernel_runs_in_the_interpreter(tmp_path):
    pytest.importorskip("triton")
    out = python(
        write(tmp_path, KERNEL)
        + """
import torch
from kernels import add_one, total, triton
x, y, z = torch.arange(100.0), torch.zeros(100), torch.zeros(1)
add_one[(triton.cdiv(100, 32),)](x, y, 100, BLOCK=32)
total[(1,)](x, z, BLOCK=64)
print(torch.equal(y, x + 1), z.item() == x[:64].sum().item())
"""
    )
    assert out == "True True\n"


def test_real_triton_is_what_run_exports():
    pytest.importorskip("triton")
    assert (
        python(
            "import groundup.run as run, triton, triton.language; print(run.triton is triton, run.tl is triton.language)"
        )
        == "True True\n"
    )


@pytest.fixture
def machine(monkeypatch):
    """A machine without NVIDIA driver, whose files and variables a test may add to."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    files = set()
    monkeypatch.setattr(interpret.os.path, "exists", lambda path: path in files)
    return files


def test_the_interpreter_is_chosen_where_there_is_no_gpu(machine, monkeypatch):
    monkeypatch.setattr(interpret.sys, "modules", {})
    assert interpret.prepare_triton() is None and os.environ["TRITON_INTERPRET"] == "1"


@pytest.mark.parametrize("file", ["/dev/nvidiactl", "/dev/nvidia0", "/usr/lib/wsl/lib/libcuda.so.1"])
def test_a_gpu_compiles(machine, monkeypatch, file):
    machine.add(file)
    assert interpret.has_nvidia()
    assert interpret.prepare_triton() is None and "TRITON_INTERPRET" not in os.environ
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert not interpret.has_nvidia()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert interpret.has_nvidia()


def test_the_learners_choice_is_kept(machine, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert interpret.prepare_triton() is None and os.environ["TRITON_INTERPRET"] == "0"


def test_too_late_is_one_line_that_says_what_to_do(machine, monkeypatch):
    monkeypatch.setattr(interpret.sys, "modules", {"triton": object()})
    warning = interpret.prepare_triton()
    assert "restart the kernel and import groundup first" in warning and "\n" not in warning
    assert interpret.prepare_triton() is None, "said once"


@pytest.mark.skipif(interpret.has_nvidia(), reason="nothing to prepare here")
def test_too_late_is_true(tmp_path):
    """What the warning claims: after a late setting, Triton's own functions cannot be interpreted."""
    pytest.importorskip("triton")
    warned = "import warnings; warnings.simplefilter('error'); import groundup"
    assert python(f"import torch; {warned}") == "", "torch alone is early enough"
    late = python(
        f"import torch._dynamo\ntry:\n    {warned}\nexcept UserWarning as warning:\n    print(warning)\n"
        + write(tmp_path, KERNEL)
        + """
import torch
from kernels import total
try:
    total[(1,)](torch.ones(8), torch.ones(1), BLOCK=8)
except Exception:
    print("does not run")
"""
    )
    assert late.splitlines() == [interpret.TOO_LATE, "does not run"], "torch's compile stack brings Triton in"


def test_preparing_is_fast_and_needs_no_other_package():
    code = """
        import sys, time
        start = time.perf_counter()
        from groundup.run import interpret
        interpret.prepare_triton()
        print(time.perf_counter() - start < 0.2, [m for m in ("torch", "triton", "numpy") if m in sys.modules])
    """
    assert python(code) == "True []\n"


def test_the_stand_in_says_it_in_one_line():
    assert "\n" not in str(_standin.TritonMissing("kernel"))
