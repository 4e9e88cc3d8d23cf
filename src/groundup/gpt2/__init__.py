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
    "Cell": "rnn",
    "RNNCell": "rnn",
    "RecurrentModel": "rnn",
    "clip_gradients": "rnn",
    "LSTMCell": "rnn",
    "windows": "rnn",
    "truncated_step": "rnn",
}

__all__ = [
    "BigramModel",
    "Cell",
    "CharTokenizer",
    "LSTMCell",
    "RNNCell",
    "RecurrentModel",
    "bits_per_token",
    "clip_gradients",
    "count_ngrams",
    "held_out_bits",
    "ngram_log_probs",
    "perplexity",
    "smoothed",
    "truncated_step",
    "windows",
]


def __getattr__(name: str) -> object:
    # Lazy, so that one lesson's name does not import what only another lesson needs (JAX, Triton).
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
