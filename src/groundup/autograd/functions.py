"""Custom functions and checkpointing.

Generated from chapters/01_autograd/10_functions.md by `make sync`: edit that file, not this one.
"""

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable

__all__ = ["Checkpoint", "RoundStraightThrough", "Softplus", "checkpoint_segments", "saved_bytes"]


class Softplus(Function):
    """log(1 + exp(beta · x)) / beta, number by number: `Softplus.apply(x, beta)`.

    x: a float tensor of any shape. beta: a Python number above 0.
    """

    @staticmethod
    def forward(ctx, x: torch.Tensor, beta: float) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.beta = beta
        return torch.clamp(x, min=0) + torch.log1p(torch.exp(-beta * x.abs())) / beta

    @staticmethod
    def backward(ctx, grad: torch.Tensor):
        (x,) = ctx.saved_tensors
        return grad * torch.sigmoid(ctx.beta * x), None


class RoundStraightThrough(Function):
    """x rounded to whole numbers from `low` to `high`; the gradient passes inside.

    Source: Bengio, Léonard and Courville (2013), section 4.
    """

    @staticmethod
    def forward(ctx, x: torch.Tensor, low: int, high: int) -> torch.Tensor:
        ctx.save_for_backward((x >= low) & (x <= high))
        return torch.round(x).clamp(low, high)

    @staticmethod
    def backward(ctx, grad: torch.Tensor):
        (inside,) = ctx.saved_tensors
        return grad * inside, None, None


def saved_bytes(f, inputs, held=()) -> int:
    """The bytes that f(*inputs) saves for its backward pass, each storage once.

    inputs, held: tensors. Their storages do not count, since the caller keeps them.
    """
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        f(*inputs)
    known = {tensor.untyped_storage().data_ptr() for tensor in [*inputs, *held]}
    return sum(s.nbytes() for address, s in storages.items() if address not in known)


class Checkpoint(Function):
    """function(*inputs), of which only the inputs are saved; backward computes it again.

    function: takes and returns tensors; one result. Source: Chen and others (2016).
    At least one input must want a gradient; only the CPU's random numbers are kept.
    """

    @staticmethod
    def forward(ctx, function, *inputs: torch.Tensor) -> torch.Tensor:
        ctx.function = function
        ctx.rng_state = torch.get_rng_state()
        ctx.save_for_backward(*inputs)
        return function(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: torch.Tensor):
        needed = ctx.needs_input_grad[1:]
        leaves = [x.detach().requires_grad_(n) for x, n in zip(ctx.saved_tensors, needed)]
        present = torch.get_rng_state()
        torch.set_rng_state(ctx.rng_state)
        with torch.enable_grad():
            y = ctx.function(*leaves)
        torch.set_rng_state(present)
        torch.autograd.backward(y, grad)
        return None, *[leaf.grad for leaf in leaves]


def checkpoint_segments(layers, x: torch.Tensor, segments: int) -> torch.Tensor:
    """All `layers` one after the other, in `segments` stretches, each a checkpoint.

    layers: functions of one tensor. Stretch k ends before the layer
    len(layers) · (k + 1) // segments.
    """
    edges = [len(layers) * k // segments for k in range(segments + 1)]
    for start, end in zip(edges, edges[1:]):

        def stretch(x, own=layers[start:end]):
            for layer in own:
                x = layer(x)
            return x

        x = Checkpoint.apply(stretch, x)
    return x
