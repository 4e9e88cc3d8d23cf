"""Checks for the lesson gpt2.precision."""

import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import torch
from torch import nn

from groundup.check import Case, Exercise, compare

float_bits = Exercise("gpt2.precision.float_bits")
round_to_format = Exercise("gpt2.precision.round_to_format", tolerance=0.0)
LossScaler = Exercise("gpt2.precision.LossScaler", kind="class")
scaled_step = Exercise("gpt2.precision.scaled_step")

FIELDS = {torch.float32: (8, 23), torch.bfloat16: (8, 7), torch.float16: (5, 10)}
WHOLE = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


# -- the bits ------------------------------------------------------------------------------------------


@float_bits.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def drawn(dtype, *shape):
        bits = 16 if dtype != torch.float32 else 32
        patterns = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), size=shape)
        return torch.tensor(patterns).to(WHOLE[dtype]).view(dtype)

    yield Case("two numbers", x=torch.tensor([1.0, -2.5]))
    yield Case("positive numbers", x=torch.tensor(rng.uniform(0.1, 9, size=6), dtype=torch.float32))
    yield Case("no numbers at all", x=torch.zeros(0, 3))
    for dtype in FIELDS:
        name = str(dtype).removeprefix("torch.")
        numbers = torch.tensor(rng.normal(size=(3, 5)) * 4)
        yield Case(f"{name}, ordinary numbers", x=numbers.to(dtype))
        yield Case(f"{name}, any patterns", x=drawn(dtype, 40))
        ends = torch.iinfo(WHOLE[dtype])
        patterns = torch.tensor([-1, 1, 0, -2, ends.max, ends.min, ends.min + 1], dtype=WHOLE[dtype])
        yield Case(f"{name}, first and last patterns", x=patterns.view(dtype))
        yield Case(f"{name}, a table of three axes", x=drawn(dtype, 2, 3, 4))
        yield Case(f"{name}, a transposed table", x=drawn(dtype, 3, 4).T)
        extremes = torch.tensor([0.0, -0.0, math.inf, -math.inf, 1e-40, -6e-8]).to(dtype)
        yield Case(f"{name}, zeros, infinities and subnormals", x=extremes)
        yield Case(f"{name}, a single number", x=torch.tensor(-rng.uniform(2, 90)).to(dtype))


@float_bits.oracle
def _(x):
    _, m = FIELDS[x.dtype]
    size = 8 * x.element_size()
    parts = []
    for number in x.reshape(-1).view(WHOLE[x.dtype]).tolist():
        text = f"{number % 2**size:0{size}b}"
        parts.append([int(text[0], 2), int(text[1 : size - m], 2), int(text[size - m :], 2)])
    return tuple(part.reshape(x.shape) for part in torch.tensor(parts, dtype=torch.int64).reshape(-1, 3).T)


def _fields(x):
    e, m = FIELDS[x.dtype]
    whole = x.view(WHOLE[x.dtype]).long()
    return (whole < 0).long(), (whole >> m) & (2**e - 1), whole & (2**m - 1)


@float_bits.mistake
def sign_left_in_the_exponent(x):
    """Your exponent still holds the sign: `>>` fills up with copies of the first bit. Keep only the exponent's own bits, with & (2**e - 1)."""
    sign, _, mantissa = _fields(x)
    return sign, x.view(WHOLE[x.dtype]).long() >> FIELDS[x.dtype][1], mantissa


@float_bits.mistake
def bias_taken_away(x):
    """You took the bias away from the exponent. Asked for is the whole number that stands in memory, from 0 up."""
    sign, exponent, mantissa = _fields(x)
    return sign, exponent - (2 ** (FIELDS[x.dtype][0] - 1) - 1), mantissa


@float_bits.mistake
def leading_one_put_in(x):
    """You put the leading 1 into the mantissa. It is not stored; asked for are the bits that are."""
    sign, exponent, mantissa = _fields(x)
    return sign, exponent, mantissa + 2 ** FIELDS[x.dtype][1]


@float_bits.mistake
def sign_as_plus_or_minus_one(x):
    """Your sign is 1 or -1. In memory it is a bit: 0 for plus, 1 for minus."""
    sign, exponent, mantissa = _fields(x)
    return 1 - 2 * sign, exponent, mantissa


@float_bits.mistake
def sign_by_shifting(x):
    """Your sign is 0 or -1: `>>` fills up with copies of the first bit, and all ones mean -1. In memory the sign is one bit, 0 or 1."""
    sign, exponent, mantissa = _fields(x)
    return -sign, exponent, mantissa


@float_bits.mistake
def absolute_value_of_the_whole_number(x):
    """You take the whole number's absolute value to be rid of its sign. That changes its other bits, too: -1 is all ones. Leave it as it is, and cut the fields out with `&`."""
    sign, _, _ = _fields(x)
    e, m = FIELDS[x.dtype]
    whole = x.view(WHOLE[x.dtype]).long().abs()
    return sign, (whole >> m) & (2**e - 1), whole & (2**m - 1)


@float_bits.mistake
def sign_by_comparing_with_zero(x):
    """You find the sign by x < 0. Then -0 has none, and nan never, though both have the bit. Look at the whole number instead."""
    _, exponent, mantissa = _fields(x)
    return (x < 0).long(), exponent, mantissa


@float_bits.mistake
def always_the_bits_of_float32(x):
    """You convert to float32 first, and show its bits. A 16-bit number has other ones: view it as int16, without converting."""
    return _fields(x.float())


@float_bits.mistake
def converted_instead_of_viewed(x):
    """You convert the number to a whole number, which drops what is behind the point. `x.view` takes the same bytes as they are."""
    e, m = FIELDS[x.dtype]
    whole = x.nan_to_num(0, 0, 0).to(WHOLE[x.dtype]).long()
    return (whole < 0).long(), (whole >> m) & (2**e - 1), whole & (2**m - 1)


@float_bits.mistake
def order_in_memory_reversed(x):
    """You return mantissa, exponent, sign. Asked for is the order in memory: sign, exponent, mantissa."""
    return _fields(x)[::-1]


# -- rounding ------------------------------------------------------------------------------------------


@round_to_format.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, numbers, e, m, dtype=torch.float32):
        return Case(label, x=torch.tensor(numbers, dtype=dtype), exponent_bits=e, mantissa_bits=m)

    def spread(*shape, low=-20.0, high=20.0):
        return rng.choice([-1, 1], size=shape) * 2.0 ** rng.uniform(low, high, size=shape)

    yield case("four numbers to float16", [2049.0, 65519.0, 65520.0, 0.1], 5, 10)
    yield case("0, infinities and nan", [0.0, math.inf, -math.inf, math.nan, -1.3], 5, 10)
    yield case("halfway", [[2049.0, 2051.0, -2053.0], [1 + 2.0**-11, 1 + 3 * 2.0**-11, -4097.0 - 1]], 5, 10)
    yield case("a single number", float(rng.uniform(1, 9)), 8, 7)
    yield case("ordinary numbers to bfloat16", spread(3, 5, low=-3, high=3), 8, 7)
    yield case("ordinary numbers to TF32", spread(2, 3, 4, low=-30, high=30), 8, 10)
    yield case("subnormals of float16", spread(4, 6, low=-27, high=-13), 5, 10)
    smallest = 2.0**-24
    edges = [
        smallest / 2,
        smallest * 0.5001,
        -smallest * 1.5,
        smallest * 2.5,
        smallest / 3,
        2.0**-14 - smallest / 4,
    ]
    yield case("at the lower end of float16", edges, 5, 10)
    largest = [65504.0, 65505.0, 65519.9, -65520.0, 65536.0, 1e6, -65504.0]
    yield case("at the upper end of float16", largest, 5, 10)
    yield case("beyond bfloat16", [3.39e38, -3.4e38, 3.3895e38, 1e-39, -1e-40, 3e-41], 8, 7)
    exact = [2 - 2.0**-23, 4 - 2.0**-22, -(2.0**24 - 1), 1e-44, 3.4e38, 2.0**-126]
    yield case("float32 to float32", exact, 8, 23)
    yield case("float64 to float32", spread(12, low=-150, high=129), 8, 23, torch.float64)
    yield case("tiny and huge float64", [1e-300, -1e200, 1e-46, 7.1e-46, 3.40282357e38], 8, 23, torch.float64)
    near = [1 + 2.0**-11 + 2.0**-40, 1 + 3 * 2.0**-11 - 2.0**-45, -(1 + 2.0**-11 + 2.0**-50)]
    yield case("float64, nearly halfway", near, 5, 10, torch.float64)
    yield case("float64 to bfloat16", [1 + 2.0**-8 + 2.0**-35, *spread(6)], 8, 7, torch.float64)
    yield case("8 bits", spread(20, low=-19, high=18), 5, 2)
    yield case("4 bits of exponent, 3 of mantissa", spread(20, low=-12, high=9), 4, 3)
    yield case("3 bits of exponent, 1 of mantissa", spread(15, low=-5, high=4), 3, 1)
    yield case("6 bits of exponent, 5 of mantissa", spread(15, low=-40, high=33), 6, 5, torch.float64)


def _rounded_fraction(number: float, e: int, m: int) -> float:
    """In exact fractions; Python rounds them half to even."""
    if not math.isfinite(number) or number == 0:
        return number
    bias = 2 ** (e - 1) - 1
    gap = Fraction(2) ** (max(math.frexp(number)[1] - 1, 1 - bias) - m)
    rounded = round(Fraction(number) / gap) * gap
    if abs(rounded) > (2 - Fraction(2) ** -m) * Fraction(2) ** bias:
        return math.copysign(math.inf, number)
    return float(rounded)


@round_to_format.oracle
def _(x, exponent_bits, mantissa_bits):
    flat = [_rounded_fraction(number, exponent_bits, mantissa_bits) for number in x.reshape(-1).tolist()]
    return torch.tensor(flat, dtype=x.dtype).reshape(x.shape)


def _rounded(x, e, m, wrong=""):
    """Right but for what `wrong` names."""
    bias = 2 ** (e - 1) - 1
    wide = (x.float() if wrong == "float32" else x).double()
    p = torch.frexp(wide)[1] - 1
    if wrong == "logarithm":
        p = x.float().abs().log2().floor().nan_to_num(0, 0, -999).int()
    if wrong == "one bit more":
        p = p - 1
    if wrong != "no subnormals":
        p = p.clamp(min=1 - bias)
    gap = 2.0 ** (p.double() - m)
    if wrong == "gap in float32":
        gap = gap.float().double()
    steps = wide / gap
    if wrong == "cut":
        steps = steps.trunc()
    elif wrong == "up":
        steps = steps.sign() * (steps.abs() + 0.5).floor()
    else:
        steps = steps.round()
    rounded = (steps * gap).where(wide.isfinite(), wide)
    if wrong == "flushed":
        rounded = rounded.where(rounded.abs() >= 2.0 ** (1 - bias), rounded * 0)
    largest = (2 - 2.0**-m) * 2.0**bias
    if wrong == "saturated":
        rounded = rounded.clamp(-largest, largest).where(wide.isfinite(), wide)
    elif wrong != "no end":
        beyond = (wide if wrong == "tested before" else rounded).abs() > largest
        rounded = rounded.where(~beyond, wide.sign() * math.inf)
    return rounded.to(x.dtype)


@round_to_format.mistake
def digits_cut_off(x, exponent_bits, mantissa_bits):
    """You cut digits off, so every result is too near to 0. Take the nearest multiple of the gap."""
    return _rounded(x, exponent_bits, mantissa_bits, "cut")


@round_to_format.mistake
def halfway_always_up(x, exponent_bits, mantissa_bits):
    """Halfway between two numbers you go away from 0. Take the even one, as torch.round does."""
    return _rounded(x, exponent_bits, mantissa_bits, "up")


@round_to_format.mistake
def no_smallest_gap(x, exponent_bits, mantissa_bits):
    """Your gap goes on shrinking below the smallest normal number, as if the exponent had no end. From there down it stays the same: p is at least 1 - bias."""
    return _rounded(x, exponent_bits, mantissa_bits, "no subnormals")


@round_to_format.mistake
def subnormals_flushed_to_zero(x, exponent_bits, mantissa_bits):
    """You set everything below the smallest normal number to 0. The format has subnormal numbers there: the gap is that of the smallest normal number."""
    return _rounded(x, exponent_bits, mantissa_bits, "flushed")


@round_to_format.mistake
def no_largest_number(x, exponent_bits, mantissa_bits):
    """Your format has no end: what is above its largest number, (2 - 2**-m) * 2**bias, becomes infinity."""
    return _rounded(x, exponent_bits, mantissa_bits, "no end")


@round_to_format.mistake
def stopped_at_the_largest(x, exponent_bits, mantissa_bits):
    """Too large numbers become the largest one. They must become infinity, so that an overflow is noticed."""
    return _rounded(x, exponent_bits, mantissa_bits, "saturated")


@round_to_format.mistake
def overflow_tested_before_rounding(x, exponent_bits, mantissa_bits):
    """You test for overflow before you round. A number a little above the largest is still rounded down to it: round first."""
    return _rounded(x, exponent_bits, mantissa_bits, "tested before")


@round_to_format.mistake
def one_digit_too_many(x, exponent_bits, mantissa_bits):
    """Your gap is half of the right one. frexp's exponent belongs to a fraction between 1/2 and 1, so it is p + 1."""
    return _rounded(x, exponent_bits, mantissa_bits, "one bit more")


@round_to_format.mistake
def exponent_by_a_logarithm(x, exponent_bits, mantissa_bits):
    """Your exponent comes from a logarithm in float32, which is itself rounded: just below a power of two it gives the next exponent. Use torch.frexp."""
    return _rounded(x, exponent_bits, mantissa_bits, "logarithm")


@round_to_format.mistake
def gap_in_float32(x, exponent_bits, mantissa_bits):
    """Your gap is float32, as 2.0 to the power of whole numbers is. For a very large float64 it becomes inf, and inf times 0 is nan. Make the exponent float64 first."""
    return _rounded(x, exponent_bits, mantissa_bits, "gap in float32")


@round_to_format.mistake
def rounded_twice(x, exponent_bits, mantissa_bits):
    """You round float64 to float32 first. What is a little off halfway then lands on it, and the second rounding goes the wrong way. Compute in float64."""
    return _rounded(x, exponent_bits, mantissa_bits, "float32")


@round_to_format.mistake(shape=True)
def other_dtype(x, exponent_bits, mantissa_bits):
    """Your result has another dtype than x. Compute in float64 if you like, and convert back at the end."""
    return _rounded(x.float() if x.dtype == torch.float64 else x.double(), exponent_bits, mantissa_bits)


# -- the scaler ----------------------------------------------------------------------------------------


class _Momentum:
    """Gradient descent with momentum, in two groups. (torch's own optimizers import its compiler, which takes seconds.)"""

    __class__ = torch.optim.Optimizer  # for answers whose types are checked

    def __init__(self, *groups, lr=0.25):
        self.param_groups = [{"params": list(group), "lr": lr} for group in groups]
        self.moved, self.steps = {}, 0

    def zero_grad(self, set_to_none=True):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    @torch.no_grad()
    def step(self):
        self.steps += 1
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.moved[parameter] = 0.5 * self.moved.get(parameter, 0.0) + parameter.grad
                    parameter -= group["lr"] * self.moved[parameter]


@LossScaler.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, plan, *, value=64.0, growth=2.0, backoff=0.5, interval=3, by_caller=True, groups=2):
        """plan: for each step "." for good ones, or which parameter has which bad number."""
        gradients = []
        for what in plan:
            parts = [
                torch.tensor(rng.normal(size=shape), dtype=torch.float32) for shape in ((2, 3), (4,), (5,))
            ]
            if what != ".":
                index, bad = int(what[0]), float(what[1:])
                parts[index].view(-1)[int(rng.integers(len(parts[index].view(-1))))] = bad
            gradients.append(parts)
        return Case(
            label, gradients=gradients, value=value, growth=growth, backoff=backoff,
            growth_interval=interval, by_caller=by_caller, groups=groups,
        )  # fmt: skip

    yield case(
        "good, good, good, overflow, good, good", [".", ".", ".", "1inf", ".", "."], value=8.0, interval=2
    )
    yield case("one good step", ["."], interval=5)
    yield case("a scale of 1", [".", "."], value=1.0, interval=5)
    yield case("overflow at a scale of 1", ["0inf", ".", "2nan", "."], value=1.0)
    yield case("a single group", [".", ".", ".", "0inf", "."], groups=1)
    yield case("unscaled by step", [".", ".", "0inf", "."], by_caller=False)
    yield case("inf in the first parameter", [".", "0inf", ".", "."])
    yield case("inf in the middle", [".", "1inf", ".", "."])
    yield case("inf in the second group", [".", "2inf", ".", "."])
    yield case("nan", [".", "0nan", ".", "2nan", "."])
    yield case("large, but finite", [".", "01e25", "2-1e25", "."])
    yield case("overflow at once, and again", ["0inf", "1-inf", ".", "."])
    yield case("an overflow begins the count anew", [".", ".", "1inf", ".", ".", ".", ".", ".", "."])
    yield case("growth, and growth again", ["."] * 9, interval=4)
    yield case("growth at every step", ["."] * 4, interval=1)
    yield case("other factors", [".", ".", "2inf", ".", ".", ".", "."], value=100.0, growth=3.0, backoff=0.25, interval=2)  # fmt: skip


def _run(scaler, gradients, by_caller, groups):
    """The scale after each step, what the optimizer did, the gradients that it saw."""
    weights = [nn.Parameter(torch.full(part.shape, 0.5)) for part in gradients[0]]
    unused = nn.Parameter(torch.ones(3))
    first, second = [unused, *weights[:2]], weights[2:]
    optimizer, seen = _Momentum(first, second) if groups == 2 else _Momentum(first + second), []
    for parts in gradients:
        optimizer.zero_grad()
        loss = sum((weight * part).sum() for weight, part in zip(weights, parts, strict=True))
        scaler.scale(loss).backward()
        finite = all(bool(part.isfinite().all()) for part in parts)
        if by_caller:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        grads = None
        if finite:
            grads = ["None" if weight.grad is None else weight.grad.clone() for weight in weights]
        scaler.update()
        seen.append({"steps": optimizer.steps, "scale": float(scaler.get_scale()), "gradients": grads})
    unused = unused.grad is None and bool((unused == 1).all())
    return {"after each step": seen, "weights": [weight.detach() for weight in weights], "unused": unused}


@LossScaler.observe
def _(obj, gradients, value, growth, backoff, growth_interval, by_caller, groups):
    scaler = obj(value, growth=growth, backoff=backoff, growth_interval=growth_interval)
    return _run(scaler, gradients, by_caller, groups)


@LossScaler.oracle
def _(gradients, value, growth, backoff, growth_interval, by_caller, groups):
    options = {"growth_factor": growth, "backoff_factor": backoff, "growth_interval": growth_interval}
    return _run(torch.amp.GradScaler("cpu", init_scale=value, **options), gradients, by_caller, groups)


@LossScaler.agree
def _(got, expected):
    if not isinstance(got, dict) or not isinstance(expected, dict):
        return compare(got, expected)
    for k, (ours, theirs) in enumerate(
        zip(got["after each step"], expected["after each step"], strict=True), 1
    ):
        if any(isinstance(gradient, str) for gradient in ours["gradients"] or ()):
            return f"In step {k}, a gradient is None after `step`: leave the gradients to the caller."
        if said := compare(ours["gradients"], theirs["gradients"]):
            return f"In step {k}, the gradients after unscaling are wrong: {said}"
        if ours["steps"] != theirs["steps"]:
            return f"After {k} calls of step, the optimizer made {ours['steps']} steps, expected {theirs['steps']}."
        if not math.isclose(ours["scale"], theirs["scale"]):
            return f"After step {k}, the scale is {ours['scale']:g}, expected {theirs['scale']:g}."
    if said := compare(got["weights"], expected["weights"]):
        return f"After all steps, the weights are wrong: {said}"
    return compare(got["unused"], expected["unused"])


class _Scaler:
    """A right scaler with places where a mistake can differ."""

    def __init__(self, value=2.0**16, *, growth=2.0, backoff=0.5, growth_interval=2000):
        self.value, self.growth, self.backoff, self.interval = value, growth, backoff, growth_interval
        self.count, self.found = 0, None

    def scale(self, loss):
        return loss * self.value

    def looked_at(self, optimizer):
        return [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]

    def bad(self, grad):
        return not bool(grad.isfinite().all())

    def divided(self, grad):
        return grad / self.value

    def verdict(self, bad):
        return any(bad)

    def unscale_(self, optimizer):
        if self.found is not None:
            raise RuntimeError("unscaled already")
        bad = []
        for parameter in self.looked_at(optimizer):
            parameter.grad = self.divided(parameter.grad)
            bad.append(self.bad(parameter.grad))
        self.found = self.verdict(bad)

    def step(self, optimizer):
        if self.found is None:
            self.unscale_(optimizer)
        if not self.found:
            optimizer.step()

    def overflowed(self):
        self.value, self.count = self.value * self.backoff, 0

    def grown(self):
        self.count = 0

    def update(self):
        if self.found:
            self.overflowed()
        else:
            self.count += 1
            if self.count >= self.interval:
                self.value *= self.growth
                self.grown()
        self.found = None

    def get_scale(self):
        return self.value


@LossScaler.mistake
class divided_twice(_Scaler):
    """If the caller has called `unscale_`, your `step` divides by the scale again. `overflowed` must be False, not None, once the gradients are unscaled and good."""

    def verdict(self, bad):
        return any(bad) or None


@LossScaler.mistake
class judged_by_the_norm(_Scaler):
    """You judge by the gradient's norm or its squares. The square of a large number overflows although the number is finite: ask every number itself."""

    def bad(self, grad):
        return not bool((grad**2).sum().isfinite())


@LossScaler.mistake
class stepped_all_the_same(_Scaler):
    """You make the step even if a gradient overflowed. Then inf or nan goes into the weights, and stays there: leave the step out."""

    def step(self, optimizer):
        if self.found is None:
            self.unscale_(optimizer)
        optimizer.step()


@LossScaler.mistake
class only_the_last_parameter_counts(_Scaler):
    """Your verdict is that of the last parameter: a good one after a bad one makes up for it. One bad gradient spoils the step."""

    def verdict(self, bad):
        return bad[-1]


@LossScaler.mistake
class only_the_first_group(_Scaler):
    """You look at the first group only. An optimizer can have several: go through all of optimizer.param_groups."""

    def looked_at(self, optimizer):
        return [p for p in optimizer.param_groups[0]["params"] if p.grad is not None]


@LossScaler.mistake
class nan_not_noticed(_Scaler):
    """You look for inf, but nan is just as bad: inf minus inf is nan. `isfinite` is False for both."""

    def bad(self, grad):
        return bool(grad.isinf().any())


@LossScaler.mistake
class not_divided_at_all(_Scaler):
    """Your gradients are still multiplied by the scale. Divide them, or every step is far too large."""

    def divided(self, grad):
        return grad


@LossScaler.mistake
class multiplied_once_more(_Scaler):
    """You multiply the gradients by the scale once more. The loss was multiplied, so they must be divided."""

    def divided(self, grad):
        return grad * self.value


@LossScaler.mistake
class overflow_keeps_the_count(_Scaler):
    """After an overflow you go on counting from where you were, so the scale grows too soon. Good steps must be in a row: count from 0."""

    def overflowed(self):
        self.value *= self.backoff


@LossScaler.mistake
class growth_keeps_the_count(_Scaler):
    """Once the scale has grown you go on counting, so it does not grow every growth_interval steps. Begin again at 0."""

    def grown(self):
        pass


@LossScaler.mistake
class grows_at_most_once(_Scaler):
    """Your scale grows once and then not again without an overflow: the count runs past growth_interval. Begin again at 0 when it grows."""

    def update(self):
        if self.found:
            self.overflowed()
        else:
            self.count += 1
            if self.count == self.interval:
                self.value *= self.growth
        self.found = None


@LossScaler.mistake
class never_shrinks(_Scaler):
    """After an overflow the scale stays as it is, so the next step overflows again, for ever. Multiply it by backoff."""

    def overflowed(self):
        self.count = 0


@LossScaler.mistake
class step_not_forgotten(_Scaler):
    """After `update` your scaler still holds the verdict on the last step, so the gradients of the next are taken for unscaled. Set `overflowed` to None in both cases."""

    def update(self):
        found = self.found
        super().update()
        self.found = found


# -- the step ------------------------------------------------------------------------------------------


@scaled_step.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, *, scale=256.0, max_norm=1.0, size=3.0, overflow=(), leftover=0.0, steps=3, share=1.0):
        gradients = [torch.tensor(rng.normal(size=(steps, n)) * size).half().float() for n in (4, 3)]
        for k in overflow:
            gradients[1][k, 1] = math.inf
        return Case(
            label, gradients=gradients, scale=scale, max_norm=max_norm, leftover=leftover, share=share,
        )  # fmt: skip

    yield case("one step that is clipped", steps=1)
    yield case("short gradients, not clipped", size=0.02)
    yield case("a scale of 1, one step", scale=1.0, steps=1)
    yield case("a scale of 1", scale=1.0)
    yield case("a large scale", scale=65536.0, max_norm=0.3)
    yield case("a small bound", max_norm=0.05, size=0.3)
    yield case("gradients left from before", leftover=0.6)
    yield case("a scale below 1", scale=0.125, max_norm=2.0)
    yield case("the second of three steps overflows", overflow=(1,), max_norm=0.5)
    yield case("the first step overflows", overflow=(0,), size=0.02)
    yield case("too small for float16 without the scale", scale=2.0**20, share=2.0**-26)


@scaled_step.observe
def _(obj, gradients, scale, max_norm, leftover, share):
    weights = [nn.Parameter(torch.full((part.shape[1],), 0.5)) for part in gradients]
    optimizer, said = _Momentum(weights[:1], weights[1:]), []
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=2)
    for weight in weights:
        weight.grad = torch.full_like(weight, leftover) if leftover else None
    for parts in zip(*gradients, strict=True):
        dtype = torch.float32 if share == 1 else torch.float16  # in which gradients are passed on
        terms = [
            (weight.to(dtype) * part.to(dtype)).float() for weight, part in zip(weights, parts, strict=True)
        ]
        loss = sum(term.sum() for term in terms) * share
        norm = obj(loss, weights, optimizer, scaler, max_norm)
        if not isinstance(norm, float):
            return f"You must return a plain float (use .item()), not a {type(norm).__name__}."
        said.append({"norm": norm if math.isfinite(norm) else "not finite", "scale": scaler.get_scale()})
    return {
        "said": said,
        "weights": [weight.detach().clone() for weight in weights],
        "steps": optimizer.steps,
    }


@scaled_step.oracle
def _(gradients, scale, max_norm, leftover, share):
    weights = [torch.full((part.shape[1],), 0.5, dtype=torch.float64) for part in gradients]
    moved = [torch.zeros_like(weight) for weight in weights]
    said, good, steps = [], 0, 0
    for parts in zip(*gradients, strict=True):
        parts = [part.double() * share for part in parts]
        norm = math.sqrt(sum(float((part**2).sum()) for part in parts))
        if math.isfinite(norm):
            steps, good = steps + 1, good + 1
            for k, part in enumerate(parts):
                moved[k] = 0.5 * moved[k] + part * min(1.0, max_norm / (norm + 1e-6))
                weights[k] = weights[k] - 0.25 * moved[k]
            if good == 2:
                scale, good = scale * 2, 0
        else:
            scale, good = scale / 2, 0
        said.append({"norm": norm if math.isfinite(norm) else "not finite", "scale": scale})
    return {"said": said, "weights": [weight.float() for weight in weights], "steps": steps}


@scaled_step.agree
def _(got, expected):
    if isinstance(got, str) or isinstance(expected, str):
        return None if got == expected else got
    for k, (ours, theirs) in enumerate(zip(got["said"], expected["said"], strict=True), 1):
        if compare(ours["norm"], theirs["norm"], tolerance=1e-5):
            return f"The norm of step {k} is {ours['norm']}, expected {theirs['norm']}."
        if ours["scale"] != theirs["scale"]:
            return f"After step {k}, the scaler's scale is {ours['scale']:g}, expected {theirs['scale']:g}."
    if got["steps"] != expected["steps"]:
        return f"The optimizer made {got['steps']} steps, expected {expected['steps']}."
    said = compare(got["weights"], expected["weights"])
    return said and f"The weights after all steps are wrong: {said}"


def _scaled(loss, parameters, optimizer, scaler, max_norm, wrong=""):
    """A right step but for what `wrong` names."""
    if wrong != "not cleared":
        optimizer.zero_grad()
    scaled = scaler.scale(loss)
    (loss if wrong in ("not scaled", "scaled late") else scaled).backward()
    if wrong == "scaled late":
        for parameter in parameters:
            parameter.grad *= scaler.get_scale()
    if wrong == "clipped before":
        norm = nn.utils.clip_grad_norm_(parameters, max_norm)
        scaler.unscale_(optimizer)
    elif wrong == "bound scaled":
        norm = nn.utils.clip_grad_norm_(parameters, max_norm * scaler.get_scale())
        scaler.unscale_(optimizer)
    else:
        scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(parameters, math.inf if wrong == "not clipped" else max_norm)
    if wrong == "norm after":
        norm = torch.stack([parameter.grad.norm() for parameter in parameters]).norm()
    if wrong == "past the scaler":
        optimizer.step()
    else:
        scaler.step(optimizer)
    if wrong != "no update":
        scaler.update()
    return norm.item()


@scaled_step.mistake
def clipped_before_unscaling(loss, parameters, optimizer, scaler, max_norm=1.0):
    """You clip the scaled gradients: nearly all are longer than max_norm, are cut to it and then divided by the scale. Nothing is left of the step. Unscale first."""
    return _scaled(loss, parameters, optimizer, scaler, max_norm, "clipped before")


@scaled_step.mistake
def norm_of_the_scaled_gradient(loss, parameters, optimizer, scaler, max_norm=1.0):
    """You scale the bound as well, so the clipping is right, but the norm that you return is that of the scaled gradient. Unscale first, then clip to max_norm."""
    return _scaled(loss, parameters, optimizer, scaler, max_norm, "bound scaled")


@scaled_step.mistake
def not_clipped(loss, parameters, optimizer, scaler, max_norm=1.0):
    """Your gradients are not clipped: with a norm above max_norm they must become that long before the step."""
    return _scaled(loss, parameters, optimizer, scaler, max_norm, "not clipped")


@scaled_step.mistake
def loss_not_scaled(loss, parameters, optimizer, scaler, max_norm=1.0):
    """You go backward from the loss itself, and then divide by the scale all the same. Go backward from scaler.scale(loss)."""
    return _scaled(loss, parameters, optimizer, scaler, max_norm, "not scaled")


@scaled_step.mistake
def scaled_after_backward(loss, parameters, optimizer, scaler, max_norm=1.0):
    """You scale the gradients after backward, when what is too small for float16 is already 0. Go backward from scaler.scale(loss)."""
    return _scaled(loss, parameters, optimizer, scaler, max_norm, "scaled late")


@scaled_step.mistake
def stepped_past_the_scaler(loss, parameters, optimizer, scaler, max_norm=1.0):
    """You call optimizer.step() yourself, so a step with inf or nan is made, too. scaler.step(optimizer) leaves it out."""
    return _scaled(loss, parameters, optimizer, scaler, max_norm, "past the scaler")


@scaled_step.mistake
def gradients_not_cleared(loss, parameters, optimizer, scaler, max_norm=1.0):
    """The gradients of the step before are still there, and the new ones are added. Clear them first."""
    return _scaled(loss, parameters, optimizer, scaler, max_norm, "not cleared")


@scaled_step.mistake
def norm_after_clipping(loss, parameters, optimizer, scaler, max_norm=1.0):
    """You return the norm after clipping, which is never above max_norm. Asked for is the one before: clip_grad_norm_ returns it."""
    return _scaled(loss, parameters, optimizer, scaler, max_norm, "norm after")


@scaled_step.mistake
def scaler_never_updated(loss, parameters, optimizer, scaler, max_norm=1.0):
    """You never call scaler.update(), so it does not choose a new scale, and takes the next step's gradients for this one's. Call it last."""
    return _scaled(loss, parameters, optimizer, scaler, max_norm, "no update")
