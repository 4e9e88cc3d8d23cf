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
    "matmul_jacobian": "losses",
    "softmax_jacobian": "losses",
    "log_softmax": "losses",
    "smoothed_targets": "losses",
    "cross_entropy": "losses",
    "Optimizer": "optimizers",
    "SGD": "optimizers",
    "RMSProp": "optimizers",
    "Adam": "optimizers",
    "AdamW": "optimizers",
    "init_weights": "training",
    "MLP": "training",
    "dead_units": "training",
    "minibatches": "training",
    "find_learning_rate": "training",
    "train": "training",
}

__all__ = [
    "Adam",
    "AdamW",
    "MLP",
    "Optimizer",
    "RMSProp",
    "SGD",
    "Tensor",
    "Value",
    "accumulate_slopes",
    "backpropagate",
    "broadcast_shape",
    "central_difference",
    "cross_entropy",
    "dead_units",
    "descend",
    "descend_near_average",
    "einsum_by_loops",
    "find_learning_rate",
    "gradcheck",
    "gradients_by_hand",
    "hessian_vector_product",
    "index_gradient",
    "init_weights",
    "jacobian",
    "log_softmax",
    "matmul_gradients",
    "matmul_jacobian",
    "minibatches",
    "negative_log_likelihood",
    "slopes_at",
    "slopes_through",
    "smoothed_targets",
    "softmax",
    "softmax_jacobian",
    "spread",
    "standardise",
    "step_for",
    "strides_of",
    "sum_accurately",
    "topological_order",
    "train",
    "unbroadcast",
]


def __getattr__(name: str) -> object:
    # Lazy, so that one lesson's name does not import what only another lesson needs (JAX, Triton).
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
