"""Custom functions and checkpointing.

Generated from chapters/01_autograd/10_functions.md by `make sync`: edit that file, not this one.
"""

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable

__all__ = [
    "Checkpoint",
    "RoundStraightThrough",
    "Softplus",
    "checkpoint_segments",
    "saved_bytes",
    "stretches",
]


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

    Source of the idea: Bengio, Léonard and Courville (2013).
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
    """function(*inputs), of which only the inputs are saved; backward runs it again.

    function: takes tensors, returns one. At least one input must want a gradient.
    Only the CPU's random numbers are kept. Source: Chen and others (2016).
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
        wanted = zip(ctx.saved_tensors, ctx.needs_input_grad[1:], strict=True)
        leaves = [x.detach().requires_grad_(wants) for x, wants in wanted]
        present = torch.get_rng_state()
        torch.set_rng_state(ctx.rng_state)
        with torch.enable_grad():
            y = ctx.function(*leaves)
        torch.set_rng_state(present)
        torch.autograd.backward(y, grad)
        return None, *[leaf.grad for leaf in leaves]


def stretches(layers, segments: int) -> list:
    """The list `layers` cut into `segments` lists, in order; 7 in 3: 2, 2 and 3."""
    n = len(layers)
    return [layers[n * k // segments : n * (k + 1) // segments] for k in range(segments)]


def checkpoint_segments(layers, x: torch.Tensor, segments: int) -> torch.Tensor:
    """All `layers` one after the other, in `segments` stretches, each a checkpoint.

    layers: a list of functions of one tensor.
    """
    for own in stretches(layers, segments):

        def stretch(x, own=own):
            for layer in own:
                x = layer(x)
            return x

        x = Checkpoint.apply(stretch, x)
    return x
