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
    "merge_pair": "bpe",
    "GPT2_PATTERN": "bpe",
    "pretokenize": "bpe",
    "learn_merges": "bpe",
    "encode_piece": "bpe",
    "KEPT_PIECES": "bpe",
    "split_special": "bpe",
    "BPETokenizer": "bpe",
    "stream_text": "bpe",
    "TiktokenTokenizer": "bpe",
    "attend": "attention",
    "causal_mask": "attention",
    "split_heads": "attention",
    "merge_heads": "attention",
    "CausalSelfAttention": "attention",
    "CrossAttention": "attention",
    "mask_for_newest": "attention",
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
    "GPT2_PATTERN",
    "KEPT_PIECES",
    "BPETokenizer",
    "BigramModel",
    "Block",
    "CausalSelfAttention",
    "CharTokenizer",
    "CrossAttention",
    "FeedForward",
    "GPTConfig",
    "LayerNorm",
    "TiktokenTokenizer",
    "attend",
    "bits_per_token",
    "causal_mask",
    "count_ngrams",
    "encode_piece",
    "gelu",
    "held_out_bits",
    "init_gpt2",
    "learn_merges",
    "mask_for_newest",
    "merge_heads",
    "merge_pair",
    "ngram_log_probs",
    "perplexity",
    "pretokenize",
    "smoothed",
    "split_heads",
    "split_special",
    "stream_text",
]


def __getattr__(name: str) -> object:
    # Lazy, so that one lesson's name does not import what only another lesson needs (JAX, Triton).
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
