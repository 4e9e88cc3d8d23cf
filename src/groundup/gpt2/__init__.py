"""GPT-2: the library that the learner builds in this part.

Generated from chapters/ by `make sync`: edit that file, not this one.
"""

from importlib import import_module

_HOME = {
    "CharTokenizer": "ngrams",
    "count_ngrams": "ngrams",
    "smoothed": "ngrams",
    "bits_per_token": "ngrams",
    "perplexity": "ngrams",
    "ngram_log_probs": "ngrams",
    "BigramModel": "ngrams",
    "held_out_bits": "ngrams",
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
    "TokenBatches": "training",
    "parameter_groups": "training",
    "batch_loss": "training",
    "training_step": "training",
    "estimate_loss": "training",
    "accumulate_gradients": "training",
}

__all__ = [
    "GPT",
    "BigramModel",
    "Block",
    "CausalSelfAttention",
    "CharTokenizer",
    "CrossAttention",
    "FeedForward",
    "GPTConfig",
    "LayerNorm",
    "TokenBatches",
    "accumulate_gradients",
    "attend",
    "batch_loss",
    "bits_per_token",
    "causal_mask",
    "count_ngrams",
    "estimate_loss",
    "gelu",
    "held_out_bits",
    "init_gpt2",
    "merge_heads",
    "ngram_log_probs",
    "parameter_groups",
    "perplexity",
    "smoothed",
    "split_heads",
    "training_step",
]


def __getattr__(name: str) -> object:
    # Lazy, so that one lesson's name does not import what only another lesson needs (JAX, Triton).
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
