"""GPT-2: the library that the learner builds in this part.

Generated from chapters/ by `make sync`: edit that file, not this one.
"""

from importlib import import_module

_HOME = {
    "attend": "attention",
    "causal_mask": "attention",
    "split_heads": "attention",
    "merge_heads": "attention",
    "CausalSelfAttention": "attention",
    "CrossAttention": "attention",
    "GPTConfig": "model",
    "gelu": "model",
    "FeedForward": "model",
    "Block": "model",
    "init_gpt2": "model",
    "GPT": "model",
    "LayerNorm": "model",
}

__all__ = [
    "GPT",
    "Block",
    "CausalSelfAttention",
    "CrossAttention",
    "FeedForward",
    "GPTConfig",
    "LayerNorm",
    "attend",
    "causal_mask",
    "gelu",
    "init_gpt2",
    "merge_heads",
    "split_heads",
]


def __getattr__(name: str) -> object:
    # Lazy, so that one lesson's name does not import what only another lesson needs (JAX, Triton).
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
