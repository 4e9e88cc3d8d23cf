"""The lesson gpt2.precision: rounding against PyTorch's casts, the scaler against PyTorch's, and its checks."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from groundup.check import grade
from groundup.checks.gpt2.precision import FIELDS, WHOLE, _rounded_fraction
from groundup.gpt2 import precision
from groundup.gpt2.precision import FORMATS, LossScaler, float_bits, round_to_format, scaled_step
from groundup.gpt2.training import TokenBatches, training_step


def _equal(a, b):
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_is_the_cast_at_every_number_that_decides(dtype):
    values = torch.arange(2**16).to(torch.int16).view(dtype).float()
    format = FORMATS[str(dtype).removeprefix("torch.")]
    assert _equal(round_to_format(values, *format), values)
    values = values[values.isfinite()].sort().values
    halfway = ((values[1:].double() + values[:-1].double()) / 2).float()
    for x in (halfway, *(halfway.nextafter(torch.tensor(end)) for end in (-math.inf, math.inf))):
        assert _equal(round_to_format(x, *format), x.to(dtype).float())


def test_rounding_of_float64_is_numpys_and_keeps_the_dtype():
    exponents = np.random.default_rng(0).uniform(-160, 130, size=4000)
    x = 2.0**exponents
    with np.errstate(over="ignore"):
        for name, dtype in (("float16", np.float16), ("float32", np.float32)):
            got = round_to_format(torch.tensor(x), *FORMATS[name])
            assert got.dtype == torch.float64
            assert np.array_equal(got.numpy(), x.astype(dtype).astype(np.float64))


@settings(max_examples=200, deadline=None)
@given(st.floats(width=32), st.integers(2, 8), st.integers(1, 23))
def test_rounding_to_any_format_is_exact_arithmetic_once_and_for_all(number, e, m):
    x = torch.tensor(number)
    got = round_to_format(x, e, m)
    assert _equal(got, torch.tensor(_rounded_fraction(number, e, m)))
    assert _equal(round_to_format(got, e, m), got) and _equal(round_to_format(-x, e, m), -got)


@pytest.mark.parametrize("dtype", FIELDS)
def test_bits_put_together_are_the_number(dtype):
    e, m = FIELDS[dtype]
    patterns = torch.randint(
        -(2 ** (e + m)), 2 ** (e + m), (5000,), generator=torch.Generator().manual_seed(0)
    )
    x = patterns.to(WHOLE[dtype]).view(dtype)
    sign, exponent, mantissa = float_bits(x)
    whole = (sign << (e + m)) | (exponent << m) | mantissa
    assert torch.equal(whole, patterns % 2 ** (1 + e + m))


def test_the_scaler_serves_a_training_step():
    tokens, ends = torch.arange(60) % 4, []
    for scaler in (LossScaler(2.0**8), torch.amp.GradScaler("cpu", init_scale=2.0**8), None):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(4, 6), nn.Linear(6, 4))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        batches = TokenBatches(tokens, 2, 5)
        for _ in range(4):
            training_step(model, batches, optimizer, scaler=scaler, max_norm=0.2)
        ends.append(model[0].weight.detach())
    torch.testing.assert_close(ends[0], ends[1])
    torch.testing.assert_close(ends[0], ends[2])


def test_the_scaler_refuses_to_unscale_twice():
    weight = nn.Parameter(torch.ones(2))
    optimizer, scaler = torch.optim.SGD([weight], lr=0.25), LossScaler(4.0)
    scaler.scale(weight.sum()).backward()
    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="unscaled already"):
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert weight.tolist() == [0.75, 0.75] and scaler.overflowed is None


@pytest.mark.parametrize("make", [LossScaler, lambda value: torch.amp.GradScaler("cpu", init_scale=value)])
def test_a_scaled_step_does_not_depend_on_the_scale(make):
    ends = []
    for scale in (1.0, 2.0**20):
        weight = nn.Parameter(torch.tensor([1.0, -2.0]))
        optimizer, scaler = torch.optim.SGD([weight], lr=0.25), make(scale)
        norm = scaled_step((3 * weight**2).sum(), [weight], optimizer, scaler, 0.5)
        assert norm == pytest.approx(6 * math.sqrt(5))
        ends.append(weight.detach())
    torch.testing.assert_close(*ends)


# -- answers written otherwise -------------------------------------------------------------------------


def bits_by_numpy(x):
    e, m = FIELDS[x.dtype]
    unsigned = np.uint32 if x.dtype == torch.float32 else np.uint16
    whole = x.contiguous().view(WHOLE[x.dtype]).numpy().view(unsigned).astype(np.int64)
    parts = whole >> (e + m), whole >> m & (1 << e) - 1, whole % (1 << m)
    return [torch.from_numpy(np.asarray(part)) for part in parts]


def rounded_in_float32(x, exponent_bits, mantissa_bits):
    """By adding and taking away a number so large that the digits fall off."""
    bias = 2 ** (exponent_bits - 1) - 1
    wide = x.double()
    p = (torch.frexp(wide).exponent - 1).clamp(min=1 - bias)
    large = 1.5 * torch.exp2((p + 52 - mantissa_bits).double())
    rounded = (wide + large) - large
    largest = math.ldexp(2 - 2.0**-mantissa_bits, bias)
    rounded[rounded > largest] = math.inf
    rounded[rounded < -largest] = -math.inf
    return torch.where(wide.isfinite(), rounded, wide).to(x.dtype)


def rounded_by_ldexp(x, exponent_bits, mantissa_bits):
    bias = (1 << exponent_bits - 1) - 1
    f, q = torch.frexp(x)
    digits = (mantissa_bits + 1 - torch.clamp(2 - bias - q, min=0)).double()
    rounded = torch.round(f.double() * 2**digits) / 2**digits * 2.0 ** q.double()
    too_large = rounded.abs() >= 2.0 ** (bias + 1)
    return torch.where(too_large, torch.copysign(torch.tensor(math.inf), x), rounded).type_as(x)


class Listed(LossScaler):
    def unscale_(self, optimizer):
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        for grad in grads:
            grad.mul_(1 / self.value)
        self.overflowed = not all(torch.isfinite(grad).all() for grad in grads)

    def step(self, optimizer):
        if self.overflowed is None:
            self.unscale_(optimizer)
        return None if self.overflowed else optimizer.step()

    def update(self):
        self.good_steps = 0 if self.overflowed else self.good_steps + 1
        grow = self.good_steps == self.growth_interval
        self.value *= self.backoff if self.overflowed else self.growth if grow else 1.0
        self.good_steps *= not grow
        self.overflowed = None


def step_by_hand(loss, parameters, optimizer, scaler, max_norm=1.0):
    for parameter in parameters:
        parameter.grad = None
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    norm = math.sqrt(sum(float((p.grad**2).sum()) for p in parameters))
    if norm > max_norm:
        for parameter in parameters:
            parameter.grad *= max_norm / norm
    scaler.step(optimizer)
    scaler.update()
    return norm


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("name", "obj"),
    [
        ("float_bits", bits_by_numpy),
        ("round_to_format", rounded_in_float32),
        ("round_to_format", rounded_by_ldexp),
        ("LossScaler", Listed),
        ("scaled_step", step_by_hand),
    ],
)
def test_right_answers_written_otherwise_pass(name, obj, seed):
    result = grade(f"gpt2.precision.{name}", obj, seed=seed)
    assert result.status == "passed", result.message


# -- wrong answers that an attack found ----------------------------------------------------------------


def only_contiguous(x):
    return tuple(part.reshape(x.shape) for part in float_bits(x.T.contiguous().view(-1)))


def only_rows(x):
    return tuple(torch.stack(parts) for parts in zip(*(float_bits(row) for row in x), strict=True))


def rounded_by_the_cast(x, exponent_bits, mantissa_bits):
    """Knows two formats, and no other."""
    dtype = torch.float16 if exponent_bits == 5 else torch.bfloat16
    return x.to(dtype).to(x.dtype)


def rounded_in_place(x, exponent_bits, mantissa_bits):
    return x.copy_(round_to_format(x, exponent_bits, mantissa_bits))


class CountOfTheClass(LossScaler):
    """The count is kept by the class: a second scaler goes on from the first one's."""

    good = 0

    def update(self):
        CountOfTheClass.good = 0 if self.overflowed else CountOfTheClass.good + 1
        if self.overflowed:
            self.value *= self.backoff
        elif CountOfTheClass.good == self.growth_interval:
            self.value *= self.growth
            CountOfTheClass.good = 0
        self.overflowed = None


class Doubles(LossScaler):
    """2 and 1/2, whatever was asked for."""

    def __init__(self, value=2.0**16, *, growth=2.0, backoff=0.5, growth_interval=2000):
        super().__init__(value, growth_interval=growth_interval)


class JudgedByTheNorm(LossScaler):
    """The norm of large finite numbers overflows, too."""

    def unscale_(self, optimizer):
        super().unscale_(optimizer)
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self.overflowed = not all(grad.norm().isfinite() for grad in grads)


class Clears(LossScaler):
    """Forgets the gradients after the step: the caller may still look at them."""

    def step(self, optimizer):
        super().step(optimizer)
        optimizer.zero_grad()


class Zeroes(LossScaler):
    """Makes the step without the bad gradients, instead of leaving it out: momentum goes on."""

    def step(self, optimizer):
        if self.overflowed is None:
            self.unscale_(optimizer)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if self.overflowed and parameter.grad is not None:
                    parameter.grad = torch.zeros_like(parameter)
        optimizer.step()


def always_clipped(loss, parameters, optimizer, scaler, max_norm=1.0):
    """Scales short gradients up to max_norm, too."""
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(parameters, math.inf)
    for parameter in parameters:
        parameter.grad *= max_norm / norm
    scaler.step(optimizer)
    scaler.update()
    return norm.item()


def clipped_one_by_one(loss, parameters, optimizer, scaler, max_norm=1.0):
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(parameters, math.inf)
    for parameter in parameters:
        nn.utils.clip_grad_norm_([parameter], max_norm)
    scaler.step(optimizer)
    scaler.update()
    return norm.item()


def scaled_when_it_is_too_late(loss, parameters, optimizer, scaler, max_norm=1.0):
    """What is too small for float16 was lost in backward."""
    optimizer.zero_grad()
    loss.backward()
    factor = scaler.scale(torch.tensor(1.0))
    for parameter in parameters:
        parameter.grad *= factor
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(parameters, max_norm)
    scaler.step(optimizer)
    scaler.update()
    return norm.item()


def bound_of_one(loss, parameters, optimizer, scaler, max_norm=1.0):
    return scaled_step(loss, parameters, optimizer, scaler, 1.0)


@pytest.mark.parametrize(
    ("name", "obj"),
    [
        ("float_bits", only_contiguous),
        ("float_bits", only_rows),
        ("round_to_format", rounded_by_the_cast),
        ("round_to_format", rounded_in_place),
        ("LossScaler", CountOfTheClass),
        ("LossScaler", Doubles),
        ("LossScaler", JudgedByTheNorm),
        ("LossScaler", Clears),
        ("LossScaler", Zeroes),
        ("scaled_step", always_clipped),
        ("scaled_step", clipped_one_by_one),
        ("scaled_step", scaled_when_it_is_too_late),
        ("scaled_step", bound_of_one),
    ],
)
def test_wrong_answers_fail(name, obj):
    assert grade(f"gpt2.precision.{name}", obj, seed=0).status in ("failed", "error")


def test_what_the_draft_is_told():
    def draft(loss, parameters, optimizer, scaler, max_norm=1.0):
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        norm = nn.utils.clip_grad_norm_(parameters, max_norm)
        scaler.step(optimizer)
        scaler.update()
        return norm.item()

    assert grade("gpt2.precision.scaled_step", draft, seed=3).mistake == "clipped_before_unscaling"
    assert set(precision.__all__) == {"FORMATS", "LossScaler", "float_bits", "round_to_format", "scaled_step"}


def gap_of_a_whole_exponent(x, exponent_bits, mantissa_bits):
    bias = 2 ** (exponent_bits - 1) - 1
    p = (torch.frexp(x).exponent - 1).clamp(min=1 - bias)
    gap = 2.0 ** (p - mantissa_bits)
    rounded = (x / gap).round() * gap
    largest = (2 - 2.0**-mantissa_bits) * 2.0**bias
    return torch.where(rounded.abs() > largest, rounded * math.inf, rounded).to(x.dtype)


def bits_with_a_negative_sign(x):
    sign, exponent, mantissa = float_bits(x)
    return -sign, exponent, mantissa


class NeverFalse(LossScaler):
    def unscale_(self, optimizer):
        super().unscale_(optimizer)
        self.overflowed = self.overflowed or None


@pytest.mark.parametrize(
    ("name", "obj", "mistake"),
    [
        ("float_bits", bits_with_a_negative_sign, "sign_by_shifting"),
        ("round_to_format", gap_of_a_whole_exponent, "gap_in_float32"),
        ("LossScaler", NeverFalse, "divided_twice"),
        ("scaled_step", scaled_when_it_is_too_late, "scaled_after_backward"),
    ],
)
def test_what_common_slips_are_told(name, obj, mistake):
    assert grade(f"gpt2.precision.{name}", obj, seed=1).mistake == mistake
