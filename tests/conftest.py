"""What holds for every test: shapes are checked, one thread each, nothing is recorded, Triton interprets."""

import os
import shutil
import tomllib
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GROUNDUP_NO_RECORD", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if shutil.which("nvidia-smi") is None:
    os.environ.setdefault("TRITON_INTERPRET", "1")

from jaxtyping import install_import_hook

from tests import typecheck  # the hook names it, and imports only `tests`

# The library that the lessons export is typed with shapes; in tests every call to it is checked against them.
_CURRICULUM = Path(__file__).resolve().parent.parent / "ci" / "curriculum.toml"
_PARTS = [part["id"] for part in tomllib.loads(_CURRICULUM.read_text(encoding="utf-8"))["part"]]
install_import_hook([f"groundup.{part}" for part in _PARTS], f"{typecheck.__name__}.checked")
