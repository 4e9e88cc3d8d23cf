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
    "next_probabilities": "sampling",
    "evaluating": "sampling",
    "generate": "sampling",
    "beam_search": "sampling",
    "np_softmax": "sampling",
    "np_gelu": "sampling",
    "np_layer_norm": "sampling",
    "np_gpt": "sampling",
    "continuation_log_prob": "sampling",
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
    "attend",
    "beam_search",
    "bits_per_token",
    "causal_mask",
    "continuation_log_prob",
    "count_ngrams",
    "evaluating",
    "gelu",
    "generate",
    "held_out_bits",
    "init_gpt2",
    "merge_heads",
    "next_probabilities",
    "ngram_log_probs",
    "np_gelu",
    "np_gpt",
    "np_layer_norm",
    "np_softmax",
    "perplexity",
    "smoothed",
    "split_heads",
]


def __getattr__(name: str) -> object:
    # Lazy, so that one lesson's name does not import what only another lesson needs (JAX, Triton).
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
