"""Optimizers.

Generated from chapters/01_autograd/07_optimizers.md by `make sync`: edit that file, not this one.
"""

import numpy as np

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "RMSProp"]


class Optimizer:
    """What all optimizers share. A parameter has two arrays, `.data` and `.grad`."""

    def __init__(self, parameters):
        self.parameters = list(parameters)  # it may come from a generator: walk it once

    def zeros(self) -> list[np.ndarray]:
        """A list of arrays of zeros, one for each parameter, of its shape."""
        return [np.zeros_like(parameter.data) for parameter in self.parameters]

    def zero_grad(self):
        """Set all gradients to 0, in place."""
        for parameter in self.parameters:
            parameter.grad[...] = 0.0


class SGD(Optimizer):
    """Gradient descent with momentum: Polyak (1964), in the form of torch.optim.SGD.

    velocity: a list with one array for each parameter.
    """

    def __init__(self, parameters, lr, momentum=0.0, weight_decay=0.0, nesterov=False):
        super().__init__(parameters)
        self.lr, self.momentum = lr, momentum
        self.weight_decay, self.nesterov = weight_decay, nesterov
        self.velocity = self.zeros()

    def step(self):
        """Move every parameter once, by the gradient that it holds now."""
        for parameter, velocity in zip(self.parameters, self.velocity, strict=True):
            slope = parameter.grad + self.weight_decay * parameter.data
            velocity[...] = self.momentum * velocity + slope
            move = slope + self.momentum * velocity if self.nesterov else velocity
            parameter.data -= self.lr * move


class RMSProp(Optimizer):
    """Steps divided by the root of a running mean square: Tieleman and Hinton (2012).

    square_avg: a list with one array for each parameter.
    """

    def __init__(self, parameters, lr, alpha=0.99, eps=1e-8):
        super().__init__(parameters)
        self.lr, self.alpha, self.eps = lr, alpha, eps
        self.square_avg = self.zeros()

    def step(self):
        """Move every parameter once, by the gradient that it holds now."""
        for parameter, square_avg in zip(self.parameters, self.square_avg, strict=True):
            slope = parameter.grad
            square_avg[...] = self.alpha * square_avg + (1 - self.alpha) * slope**2
            parameter.data -= self.lr * slope / (np.sqrt(square_avg) + self.eps)


class Adam(Optimizer):
    """Corrected averages of the gradient and its square: Kingma and Ba (2015), alg. 1.

    exp_avg, exp_avg_sq: lists with one array for each parameter; steps: how many.
    weight_decay is added to the gradient, as in torch.optim.Adam.
    """

    def __init__(self, parameters, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        super().__init__(parameters)
        self.lr, self.betas, self.eps = lr, betas, eps
        self.weight_decay = weight_decay
        self.steps = 0
        self.exp_avg = self.zeros()
        self.exp_avg_sq = self.zeros()

    def step(self):
        """Move every parameter once, by the gradient that it holds now."""
        self.steps += 1
        beta1, beta2 = self.betas
        averages = zip(self.parameters, self.exp_avg, self.exp_avg_sq, strict=True)
        for parameter, m, v in averages:
            slope = parameter.grad + self.weight_decay * parameter.data
            m[...] = beta1 * m + (1 - beta1) * slope
            v[...] = beta2 * v + (1 - beta2) * slope**2
            mean, square = m / (1 - beta1**self.steps), v / (1 - beta2**self.steps)
            parameter.data -= self.lr * mean / (np.sqrt(square) + self.eps)


class AdamW(Adam):
    """Adam whose weights also shrink by the share lr · weight_decay in every step.

    Loshchilov and Hutter (2019), in the form of torch.optim.AdamW.
    """

    def __init__(self, parameters, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        super().__init__(parameters, lr, betas, eps)
        self.decay = weight_decay

    def step(self):
        """Move every parameter once, by the gradient that it holds now."""
        for parameter in self.parameters:
            parameter.data *= 1 - self.lr * self.decay
        super().step()
