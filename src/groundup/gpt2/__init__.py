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
    "warmup_cosine": "schedules",
    "warmup_stable_decay": "schedules",
    "batch_size_ramp": "schedules",
    "optimizer_tensors": "schedules",
    "CheckpointError": "schedules",
    "write_whole": "schedules",
    "unwrapped": "schedules",
    "model_tensors": "schedules",
    "random_tensors": "schedules",
    "checksum": "schedules",
    "HOW": "schedules",
    "save_checkpoint": "schedules",
    "checkpoint_files": "schedules",
    "one_line": "schedules",
    "read_file": "schedules",
    "read_checkpoint": "schedules",
    "load_checkpoint": "schedules",
    "train_and_save": "schedules",
}

__all__ = [
    "GPT",
    "HOW",
    "BigramModel",
    "Block",
    "CausalSelfAttention",
    "CharTokenizer",
    "CheckpointError",
    "CrossAttention",
    "FeedForward",
    "GPTConfig",
    "LayerNorm",
    "TokenBatches",
    "accumulate_gradients",
    "attend",
    "batch_loss",
    "batch_size_ramp",
    "bits_per_token",
    "causal_mask",
    "checkpoint_files",
    "checksum",
    "count_ngrams",
    "estimate_loss",
    "gelu",
    "held_out_bits",
    "init_gpt2",
    "load_checkpoint",
    "merge_heads",
    "model_tensors",
    "ngram_log_probs",
    "one_line",
    "optimizer_tensors",
    "parameter_groups",
    "perplexity",
    "random_tensors",
    "read_checkpoint",
    "read_file",
    "save_checkpoint",
    "smoothed",
    "split_heads",
    "train_and_save",
    "training_step",
    "unwrapped",
    "warmup_cosine",
    "warmup_stable_decay",
    "write_whole",
]


def __getattr__(name: str) -> object:
    # Lazy, so that one lesson's name does not import what only another lesson needs (JAX, Triton).
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
