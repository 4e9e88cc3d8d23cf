"""Run Triton kernels in Triton's own interpreter where there is no NVIDIA GPU.

Triton decides while it is imported whether its own functions are interpreted, so the decision must be made
before anything imports it. `import groundup` calls `prepare_triton`: standard library only, no torch.
"""

import os
import sys
from pathlib import Path

# Linux gives every NVIDIA GPU a device file; WSL and Windows have only the driver's library.
DEVICE_FILES = ("/dev/nvidiactl", "/dev/nvidia0")
WSL_DRIVER = "/usr/lib/wsl/lib/libcuda.so.1"
WINDOWS_DRIVER = r"System32\nvcuda.dll"

TOO_LATE = (
    "Triton was imported before groundup (torch's optimizers and torch.compile import it too), so kernels that use "
    "tl.sum, tl.max and the like fail on this machine, which has no NVIDIA GPU: restart the kernel and import groundup "
    "first."
)


def has_nvidia() -> bool:
    """Whether this machine has an NVIDIA driver whose GPU this process may use."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return False
    if sys.platform == "win32":
        return Path(os.environ.get("SYSTEMROOT", r"C:\Windows"), WINDOWS_DRIVER).exists()
    return any(os.path.exists(path) for path in (*DEVICE_FILES, WSL_DRIVER))


def prepare_triton() -> str | None:
    """Set TRITON_INTERPRET=1 where there is no NVIDIA GPU; return a one-line warning when it is too late.

    A value that the learner has set is left alone.
    """
    if "TRITON_INTERPRET" in os.environ or has_nvidia():
        return None
    os.environ["TRITON_INTERPRET"] = "1"
    return TOO_LATE if "triton" in sys.modules else None
