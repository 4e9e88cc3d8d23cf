"""Triton's interpreter must be chosen before anything imports Triton."""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ["GROUNDUP_NO_RECORD"] = "1"
