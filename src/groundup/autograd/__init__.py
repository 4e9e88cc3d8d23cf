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
    "central_difference": "gradients",
    "step_for": "gradients",
    "slopes_through": "gradients",
    "jacobian": "gradients",
    "gradcheck": "gradients",
    "gradients_by_hand": "graph",
    "Value": "graph",
    "topological_order": "graph",
    "backpropagate": "graph",
    "descend": "graph",
    "slopes_at": "pytorch",
    "accumulate_slopes": "pytorch",
    "standardise": "pytorch",
    "hessian_vector_product": "pytorch",
    "descend_near_average": "pytorch",
    "unbroadcast": "tensors",
    "spread": "tensors",
    "matmul_gradients": "tensors",
    "Tensor": "tensors",
    "index_gradient": "tensors",
    "Optimizer": "optimizers",
    "SGD": "optimizers",
    "RMSProp": "optimizers",
    "Adam": "optimizers",
    "AdamW": "optimizers",
}

__all__ = [
    "Adam",
    "AdamW",
    "Optimizer",
    "RMSProp",
    "SGD",
    "Tensor",
    "Value",
    "accumulate_slopes",
    "backpropagate",
    "broadcast_shape",
    "central_difference",
    "descend",
    "descend_near_average",
    "einsum_by_loops",
    "gradcheck",
    "gradients_by_hand",
    "hessian_vector_product",
    "index_gradient",
    "jacobian",
    "matmul_gradients",
    "negative_log_likelihood",
    "slopes_at",
    "slopes_through",
    "softmax",
    "spread",
    "standardise",
    "step_for",
    "strides_of",
    "sum_accurately",
    "topological_order",
    "unbroadcast",
]


def __getattr__(name: str) -> object:
    # Lazy, so that one lesson's name does not import what only another lesson needs (JAX, Triton).
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
