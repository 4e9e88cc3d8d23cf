"""Autograd: the library that the learner builds in this part.

Generated from chapters/ by `make sync`: edit that file, not this one.
"""

from importlib import import_module

_HOME = {
    "strides_of": "arrays",
    "broadcast_shape": "arrays",
    "einsum_by_loops": "arrays",
    "sum_accurately": "arrays",
    "softmax": "arrays",
    "negative_log_likelihood": "arrays",
    "gradients_by_hand": "graph",
    "Value": "graph",
    "topological_order": "graph",
    "backpropagate": "graph",
    "descend": "graph",
}

__all__ = [
    "Value",
    "backpropagate",
    "broadcast_shape",
    "descend",
    "einsum_by_loops",
    "gradients_by_hand",
    "negative_log_likelihood",
    "softmax",
    "strides_of",
    "sum_accurately",
    "topological_order",
]


def __getattr__(name: str) -> object:
    # Lazy, so that one lesson's name does not import what only another lesson needs (JAX, Triton).
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
