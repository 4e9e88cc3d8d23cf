"""Number formats and mixed precision.

Generated from chapters/02_gpt2/10_precision.md by `make sync`: edit that file, not this one.
"""

import math

import torch
from torch import nn

__all__ = ["FORMATS", "LossScaler", "float_bits", "round_to_format", "scaled_step"]

# name: bits of exponent, bits of mantissa
FORMATS = {
    "float32": (8, 23),
    "TF32": (8, 10),
    "bfloat16": (8, 7),
    "float16": (5, 10),
    "float8 e5m2": (5, 2),
}


def float_bits(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sign, exponent and mantissa of each number, as they stand in memory.

    x: float32, bfloat16 or float16. Returns three int64 tensors of the shape of x.
    """
    e, m = FORMATS[str(x.dtype).removeprefix("torch.")]
    whole = x.view(torch.int32 if x.dtype == torch.float32 else torch.int16).long()
    return (whole < 0).long(), (whole >> m) & (2**e - 1), whole & (2**m - 1)


def round_to_format(x: torch.Tensor, exponent_bits: int, mantissa_bits: int) -> torch.Tensor:
    """x rounded to the nearest number of a format, halfway to the even one.

    x: float32 or float64, any shape; the result has the same. Numbers too large for
    the format become inf, too small ones subnormal or 0.
    """
    bias = 2 ** (exponent_bits - 1) - 1
    _, q = torch.frexp(x)
    p = (q - 1).clamp(min=1 - bias)
    gap = 2.0 ** (p - mantissa_bits).double()
    rounded = (x / gap).round() * gap
    largest = (2 - 2.0**-mantissa_bits) * 2.0**bias
    infinity = rounded * math.inf
    return torch.where(rounded.abs() > largest, infinity, rounded).to(x.dtype)


class LossScaler:
    """Loss scaling with a scale that finds its own size.

    value: the scale. good_steps: good steps in a row since the scale last changed.
    overflowed: None before this step's gradients are unscaled, then True or False.
    Stands for torch.amp.GradScaler with a single optimizer.
    """

    def __init__(
        self,
        value: float = 2.0**16,
        *,
        growth: float = 2.0,
        backoff: float = 0.5,
        growth_interval: int = 2000,
    ):
        self.value, self.growth, self.backoff = value, growth, backoff
        self.growth_interval = growth_interval
        self.good_steps, self.overflowed = 0, None

    def scale(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss to go backward from."""
        return loss * self.value

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        """Divides the gradients by the scale, and looks for inf and nan."""
        if self.overflowed is not None:
            raise RuntimeError("the gradients of this step are unscaled already")
        self.overflowed = False
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad /= self.value
                    if not parameter.grad.isfinite().all():
                        self.overflowed = True

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """optimizer.step(), unless a gradient overflowed."""
        if self.overflowed is None:
            self.unscale_(optimizer)
        if not self.overflowed:
            optimizer.step()

    def update(self) -> None:
        """The scale for the next step."""
        if self.overflowed:
            self.value *= self.backoff
            self.good_steps = 0
        else:
            self.good_steps += 1
            if self.good_steps == self.growth_interval:
                self.value *= self.growth
                self.good_steps = 0
        self.overflowed = None

    def get_scale(self) -> float:
        return self.value


def scaled_step(
    loss: torch.Tensor,
    parameters: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    scaler: LossScaler | torch.amp.GradScaler,
    max_norm: float = 1.0,
) -> float:
    """One step down the loss, scaled and clipped; the gradient's norm before clipping.

    A step whose gradient overflows changes the scale only.
    """
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(parameters, max_norm)
    scaler.step(optimizer)
    scaler.update()
    return norm.item()
