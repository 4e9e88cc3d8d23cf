"""PyTorch's autograd, trap by trap.

Generated from chapters/01_autograd/04_pytorch.md by `make sync`: edit that file, not this one.
"""

import torch

__all__ = ["accumulate_slopes", "descend_near_average", "hessian_vector_product", "slopes_at", "standardise"]


def slopes_at(f, inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The gradient of f(*inputs), a tensor with one number, in each of the inputs.

    Returns new tensors of the inputs' shapes, without a graph.
    """
    leaves = [x.detach().requires_grad_() for x in inputs]
    return torch.autograd.grad(f(*leaves), leaves, materialize_grads=True)


def accumulate_slopes(loss_of, parameters, inputs, targets, size: int) -> float:
    """Leave the gradient of loss_of(inputs, targets) in .grad, `size` rows at a time.

    loss_of(x, y): the mean loss of the examples x, one a row, with the targets y.
    parameters: the leaves. Returns the mean loss of all examples.
    """
    total = 0.0
    for parameter in parameters:
        parameter.grad = None
    for start in range(0, len(inputs), size):
        x, y = inputs[start : start + size], targets[start : start + size]
        loss = loss_of(x, y) * (len(x) / len(inputs))
        loss.backward()
        total += loss.item()
    return total


def standardise(x: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    """Each row (last dim) shifted to mean 0 and divided by sqrt(mean square + eps)."""
    difference = x - x.mean(dim=-1, keepdim=True)
    spread = (difference**2).mean(dim=-1, keepdim=True)
    return difference / (spread + eps).sqrt()


def hessian_vector_product(f, x: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """H v, where H holds the second derivatives of f, a function with one number, at x.

    Returns a new tensor of x's shape, without a graph; x and v stay untouched.
    """
    leaf = x.detach().requires_grad_()
    [gradient] = torch.autograd.grad(f(leaf), leaf, create_graph=True)
    [product] = torch.autograd.grad((gradient * v).sum(), leaf)
    return product


def descend_near_average(
    w: torch.Tensor, loss_of, learning_rate: float, decay: float, steps: int
) -> list[float]:
    """Descend loss_of(w) + half the squared distance from w to its running average.

    w: a leaf, changed in place. Returns the whole loss that each step started from.
    """
    average = w.detach().clone()
    losses = []
    for _ in range(steps):
        loss = loss_of(w) + ((w - average) ** 2).sum() / 2
        w.grad = None
        loss.backward()
        losses.append(loss.item())
        with torch.no_grad():
            w -= learning_rate * w.grad
            average = decay * average + (1 - decay) * w
    return losses
