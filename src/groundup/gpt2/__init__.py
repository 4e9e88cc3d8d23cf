"""GPT-2: the library that the learner builds in this part.

Generated from chapters/ by `make sync`: edit that file, not this one.
"""

from importlib import import_module

_HOME = {
    "CharTokenizer": "ngrams",
    "held_out_bits": "ngrams",
    "missing_ngrams": "ngrams",
    "Cell": "rnn",
    "RNNCell": "rnn",
    "RecurrentModel": "rnn",
    "clip_gradients": "rnn",
    "LSTMCell": "rnn",
    "windows": "rnn",
    "truncated_step": "rnn",
}

__all__ = [
    "Cell",
    "CharTokenizer",
    "LSTMCell",
    "RNNCell",
    "RecurrentModel",
    "clip_gradients",
    "held_out_bits",
    "missing_ngrams",
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
