"""The lesson autograd.optimizers: its rules against torch.optim on walks that hypothesis makes up, and its checks."""

import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.autograd import optimizers
from groundup.autograd.optimizers import SGD, Adam, AdamW, Optimizer, RMSProp
from groundup.autograd.tensors import Tensor
from groundup.check import grade
from groundup.checks.autograd import optimizers as checks
from tests.lessons.edits import edited

share = st.floats(0.0, 0.999)
small = st.floats(0.0, 0.5)
betas = st.tuples(share, share)
OPTIONS = {
    SGD: st.fixed_dictionaries({}, optional={"momentum": st.floats(0.01, 0.999), "weight_decay": small}),
    RMSProp: st.fixed_dictionaries({}, optional={"alpha": share, "eps": st.floats(1e-6, 1.0)}),
    Adam: st.fixed_dictionaries(
        {}, optional={"betas": betas, "weight_decay": small, "eps": st.floats(1e-6, 1.0)}
    ),
    AdamW: st.fixed_dictionaries(
        {}, optional={"betas": betas, "weight_decay": small, "eps": st.floats(1e-6, 1.0)}
    ),
}
TORCHS = {
    SGD: torch.optim.SGD,
    RMSProp: torch.optim.RMSprop,
    Adam: torch.optim.Adam,
    AdamW: torch.optim.AdamW,
}
STATES = {
    "velocity": "momentum_buffer",
    "square_avg": "square_avg",
    "exp_avg": "exp_avg",
    "exp_avg_sq": "exp_avg_sq",
}


@pytest.mark.parametrize("rule", OPTIONS)
@settings(max_examples=40, deadline=None)
@given(
    data=st.data(),
    shapes=st.lists(st.lists(st.integers(1, 3), max_size=3).map(tuple), min_size=1, max_size=4),
    rates=st.lists(st.floats(1e-4, 0.3), min_size=1, max_size=12),
    seed=st.integers(0, 2**32 - 1),
)
def test_parameters_and_states_equal_torch(rule, data, shapes, rates, seed):
    options = data.draw(OPTIONS[rule])
    if rule is SGD and "momentum" in options:
        options["nesterov"] = data.draw(st.booleans())
    rng = np.random.default_rng(seed)
    p = [Tensor(rng.normal(size=shape)) for shape in shapes]
    q = [torch.tensor(leaf.data, requires_grad=True) for leaf in p]  # torch.tensor copies
    ours, theirs = rule(iter(p), lr=rates[0], **options), TORCHS[rule](q, lr=rates[0], **options)
    for step, rate in enumerate(rates, 1):
        ours.lr = theirs.param_groups[0]["lr"] = rate
        ours.zero_grad()
        for a, b in zip(p, q, strict=True):
            a.grad += rng.normal(size=a.shape)
            b.grad = torch.tensor(a.grad)
        ours.step()
        theirs.step()
        assert getattr(ours, "steps", step) == step
        for k, (a, b) in enumerate(zip(p, q, strict=True)):
            np.testing.assert_allclose(a.data, b.detach().numpy(), rtol=1e-9, atol=1e-9)
            for name in STATES.keys() & vars(ours).keys():
                if STATES[name] in theirs.state[b] and theirs.state[b][STATES[name]] is not None:
                    held = theirs.state[b][STATES[name]].numpy()
                    np.testing.assert_allclose(getattr(ours, name)[k], held, rtol=1e-9, atol=1e-12)


def test_zero_grad_clears_in_place():
    leaf = Tensor([1.0, 2.0])
    leaf.grad[...] = 3.0
    before = leaf.grad
    Optimizer(x for x in [leaf]).zero_grad()
    assert leaf.grad is before and not before.any()


def test_a_step_keeps_the_arrays_and_the_gradients():
    for rule in OPTIONS:
        leaf = Tensor([1.0, 2.0])
        leaf.grad[...] = 3.0
        data, grad = leaf.data, leaf.grad
        rule([leaf], lr=0.1).step()
        assert leaf.data is data and leaf.grad is grad
        assert (grad == 3.0).all() and (data != [1.0, 2.0]).all()


# A learner's slip, as an edit of the course's version, and what the reply must say or the mistake that it must name.
SLIPS = [
    ("SGD", "velocity[...] = ", "velocity = ", "velocity_is_not_kept"),
    ("SGD", "parameter.data -= self.lr * move", "parameter.data = parameter.data - self.lr * move", "another array"),
    ("SGD", "slope = parameter.grad + ", "slope = parameter.grad; slope += ", "changed parameters[0].grad"),
    ("SGD", "self.momentum * velocity if", "velocity if", "parameters[0].data is wrong"),
    ("SGD", "parameter.data -= self.lr", "parameter.data -= 0.1", "is wrong"),
    ("SGD", "self.velocity = self.zeros()", "self.speed = self.velocity = self.zeros()", None),
    ("SGD", "self.weight_decay * parameter.data", "self.weight_decay", "is wrong"),
    ("RMSProp", "np.sqrt(square_avg) + self.eps", "np.sqrt(square_avg + self.eps)", "eps_inside_the_root"),
    ("RMSProp", "(np.sqrt(square_avg) + self.eps)", "np.maximum(np.sqrt(square_avg), self.eps)", "is wrong"),
    ("RMSProp", "self.square_avg = self.zeros()", "self.square = self.zeros()", "square_avg"),
    ("RMSProp", "self.eps)", "1e-8)", "is wrong"),
    ("Adam", "v[...] = beta2 * v", "v[...] = beta1 * v", "is wrong"),
    ("Adam", "self.steps += 1", "self.steps = 1", "steps is wrong"),
    ("Adam", "self.eps)", "1e-8)", "is wrong"),
    ("Adam", "self.lr * mean", "self.lr * m", "only_the_square_corrected"),
    ("AdamW", "self.lr * self.decay", "self.decay", "decays_without_the_learning_rate"),
    ("AdamW", "*= 1 - ", "-= ", "subtracts_the_share"),
    ("SGD", "move = slope +", "move = parameter.grad +", "nesterov_without_the_decay"),
    ("SGD", "slope = parameter.grad + ", "slope = parameter.grad; slope += ", "Your step() changed"),
    ("SGD", "[...] = self.momentum * velocity + slope", " *= self.momentum; velocity += slope", None),
    ("RMSProp", "self.zeros()", "[np.zeros_like(p.data) for p in parameters]", "may be a generator"),
    ("Adam", "= self.zeros()", "= [np.zeros_like(p.data) for p in parameters]", "may be a generator"),
    ("Adam", "1 - beta2**", "1 - beta1**", "first_beta_in_both_corrections"),
    ("Adam", "1 - beta1**", "1 - beta2**", "second_beta_in_both_corrections"),
    ("Adam", "self.exp_avg_sq = self.zeros()", "self.exp_avg_sq = self.exp_avg", "one_list_for_both_averages"),
    ("Adam", "[...] =", " =", "averages_are_not_kept"),
    ("Adam", "np.sqrt(square)", "square", "root_forgotten"),
    ("Adam", "data -=", "data +=", "adam_climbs"),
    ("AdamW", "super().step()", "pass", "only_shrinks"),
    ("AdamW", "        super().step()", "            super().step()", "adam_steps_inside_the_loop"),
    ("AdamW", "self.lr * self.decay", "self.lr * self.weight_decay", "never_decays"),
]  # fmt: skip


@pytest.mark.parametrize("slip", SLIPS)
def test_reply_can_be_read(slip):
    name, old, new, said = slip
    # A learner writes no strict=True.
    strict = (
        [(", strict=True", "")] if ", strict=True" in inspect.getsource(getattr(optimizers, name)) else []
    )
    edits = [(old, new), *strict]
    result = grade(f"autograd.optimizers.{name}", edited(optimizers, name, *edits), seed=0)
    if said is None:
        assert result.passed, result.message
    else:
        assert result.status in ("failed", "error")
        assert said in result.message or said == result.mistake, (result.mistake, result.message)


# -- wrong answers that an easy grader would accept ------------------------------------------------------------------
class SharedVelocity(SGD):
    shared: list = []  # noqa: RUF012  the slip itself

    def __init__(self, parameters, lr, **options):
        super().__init__(parameters, lr, **options)
        if [x.shape for x in self.shared] != [x.shape for x in self.velocity]:
            type(self).shared = self.velocity
        self.velocity = self.shared


class VelocityIsTheGradient(SGD):
    """The first velocity is the caller's own gradient array, which is cleared later."""

    def step(self):
        if not hasattr(self, "begun"):
            self.begun, self.velocity = True, [p.grad for p in self.parameters]
        else:
            self.velocity = [
                self.momentum * v + p.grad for v, p in zip(self.velocity, self.parameters, strict=True)
            ]
        for p, v in zip(self.parameters, self.velocity, strict=True):
            p.data -= self.lr * v


class KeepsTheFirstRate(Adam):
    def __init__(self, parameters, lr, *args, **options):
        super().__init__(parameters, lr, *args, **options)
        self.first = lr

    def step(self):
        self.lr, given = self.first, self.lr
        super().step()
        self.lr = given


class FlatCopies(RMSProp):
    """`ravel` of an array that does not lie in order is a copy: it moves, the parameter does not."""

    def step(self):
        for p, s in zip(self.parameters, self.square_avg, strict=True):
            s[...] = self.alpha * s + (1 - self.alpha) * p.grad**2
            flat = p.data.ravel()
            flat -= self.lr * (p.grad / (np.sqrt(s) + self.eps)).ravel()


class ClearsTheGradients(AdamW):
    def step(self):
        super().step()
        self.zero_grad()


class ForgetsAfterAWhile(Adam):
    """Drops the correction too early: right for the first steps only."""

    def step(self):
        super().step()
        if self.steps == 12:
            self.steps = 1000


@pytest.mark.parametrize(
    "wrong",
    [SharedVelocity, VelocityIsTheGradient, KeepsTheFirstRate, FlatCopies, ClearsTheGradients, ForgetsAfterAWhile],
)  # fmt: skip
def test_wrong_answers_are_refused(wrong):
    name = next(base.__name__ for base in wrong.__mro__[1:] if base in OPTIONS)
    for seed in range(3):
        assert grade(f"autograd.optimizers.{name}", wrong, seed=seed).status in ("failed", "error")


def held(optimizer) -> list[str]:
    return [name for name in STATES if hasattr(optimizer, name)]


class SkipsParametersWithoutGradient:
    def step(self):
        kept = {name: getattr(self, name) for name in ["parameters", *held(self)]}
        used = [k for k, p in enumerate(self.parameters) if p.grad.any()]
        for name, values in kept.items():
            setattr(self, name, [values[k] for k in used])
        super().step()
        vars(self).update(kept)


class FreezesWeightsWithoutGradient:
    def step(self):
        before = [p.data.copy() for p in self.parameters]
        super().step()
        for p, old in zip(self.parameters, before, strict=True):
            p.data[...] = np.where(p.grad == 0, old, p.data)


class ClipsTheGradients:
    def step(self):
        given = [p.grad.copy() for p in self.parameters]
        for p in self.parameters:
            np.clip(p.grad, -250, 250, out=p.grad)
        super().step()
        for p, grad in zip(self.parameters, given, strict=True):
            p.grad[...] = grad


class KeepsItsOwnWeights:
    """Writes back the numbers from before: what others loaded between two steps is lost."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.own = [p.data.copy() for p in self.parameters]

    def step(self):
        for p, own in zip(self.parameters, self.own, strict=True):
            p.data[...] = own
        super().step()
        self.own = [p.data.copy() for p in self.parameters]


class RemembersInTheParameter:
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        for name in held(self):
            for k, p in enumerate(self.parameters):
                vars(p).setdefault(name, getattr(self, name)[k])
                getattr(self, name)[k] = getattr(p, name)


class ForgetsAtStepSixty:
    calls = 0

    def step(self):
        self.calls += 1
        if self.calls == 60:
            vars(self).update({name: self.zeros() for name in held(self)})
        super().step()


@pytest.mark.parametrize("rule", OPTIONS)
@pytest.mark.parametrize(
    "slip",
    [
        SkipsParametersWithoutGradient,
        FreezesWeightsWithoutGradient,
        ClipsTheGradients,
        KeepsItsOwnWeights,
        RemembersInTheParameter,
        ForgetsAtStepSixty,
    ],
)
def test_slips_of_any_rule_are_refused(rule, slip):
    wrong = type(rule.__name__, (slip, rule), {})
    result = grade(f"autograd.optimizers.{rule.__name__}", wrong, seed=0)
    # RMSProp does not move a weight without a gradient: there this is no slip
    assert result.passed == (rule is RMSProp and slip is FreezesWeightsWithoutGradient), result.message


# -- right answers written quite differently -------------------------------------------------------------------------
class SGDByNewArrays:
    """No base class, new state arrays in every step, a tuple for the velocities."""

    def __init__(self, parameters, lr, momentum=0.0, weight_decay=0.0, nesterov=False):
        self.p, self.lr, self.rest = [*parameters], lr, (momentum, weight_decay, nesterov)
        self.velocity = ()

    def zero_grad(self):
        for p in self.p:
            p.grad.fill(0)

    def step(self):
        momentum, decay, nesterov = self.rest
        slopes = [p.grad + decay * p.data for p in self.p]
        old = self.velocity or [0.0] * len(self.p)
        self.velocity = tuple(momentum * v + g for v, g in zip(old, slopes, strict=True))
        for p, v, g in zip(self.p, self.velocity, slopes, strict=True):
            np.subtract(p.data, self.lr * (momentum * v + g if nesterov else v), out=p.data)


class AdamByLerp(Optimizer):
    """The averages as moves towards the new value, and the corrections gathered in the step's length, as torch does."""

    def __init__(self, parameters, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        super().__init__(parameters)
        self.lr, self.betas, self.eps, self.weight_decay, self.steps = lr, betas, eps, weight_decay, 0
        self.exp_avg, self.exp_avg_sq = self.zeros(), self.zeros()

    def step(self):
        self.steps += 1
        one, two = self.betas
        length, root = self.lr / (1 - one**self.steps), np.sqrt(1 - two**self.steps)
        for k, p in enumerate(self.parameters):
            g = p.grad + self.weight_decay * p.data
            self.exp_avg[k] = self.exp_avg[k] + (1 - one) * (g - self.exp_avg[k])
            self.exp_avg_sq[k] = self.exp_avg_sq[k] + (1 - two) * (g * g - self.exp_avg_sq[k])
            p.data[...] = p.data - length * self.exp_avg[k] / (np.sqrt(self.exp_avg_sq[k]) / root + self.eps)


class AdamWByDifference(Adam):
    """Adam's step first, then the share of the weights as they were."""

    def __init__(self, parameters, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        super().__init__(parameters, lr, betas, eps)
        self.share = weight_decay

    def step(self):
        before = [p.data.copy() for p in self.parameters]
        super().step()
        for p, old in zip(self.parameters, before, strict=True):
            p.data -= self.lr * self.share * old


class RMSPropByLooking:
    """The list is made in the first step; the numbers go one by one."""

    def __init__(self, parameters, lr, alpha=0.99, eps=1e-8):
        self.parameters, self.lr, self.alpha, self.eps = tuple(parameters), lr, alpha, eps

    def zero_grad(self):
        for p in self.parameters:
            np.copyto(p.grad, 0)

    def step(self):
        if not hasattr(self, "square_avg"):
            self.square_avg = [np.zeros(p.data.shape) for p in self.parameters]
        for p, s in zip(self.parameters, self.square_avg, strict=True):
            for at in np.ndindex(p.data.shape):
                s[at] += (1 - self.alpha) * (p.grad[at] ** 2 - s[at])
                p.data[at] -= self.lr * p.grad[at] / (s[at] ** 0.5 + self.eps)


class AdamByProducts(Adam):
    """The powers are products that grow with the steps; the gradient is lent and given back."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.powers, self.steps = [1.0, 1.0], np.int64(0)

    def step(self):
        self.steps = self.steps + 1
        self.powers = [power * beta for power, beta in zip(self.powers, self.betas, strict=True)]
        for p, m, v in zip(self.parameters, self.exp_avg, self.exp_avg_sq, strict=True):
            grad, p.grad = p.grad, p.grad + self.weight_decay * p.data
            m *= self.betas[0]
            m += (1 - self.betas[0]) * p.grad
            v *= self.betas[1]
            v += (1 - self.betas[1]) * p.grad * p.grad
            p.data += -self.lr * (m / (1 - self.powers[0])) / ((v / (1 - self.powers[1])) ** 0.5 + self.eps)
            p.grad = grad


@pytest.mark.parametrize("rule", OPTIONS)
def test_the_rules_that_mistakes_are_edits_of_are_right(rule):
    base = getattr(checks, f"_{rule.__name__}")
    assert grade(f"autograd.optimizers.{rule.__name__}", base, seed=0).passed


@pytest.mark.parametrize(
    "name, right",
    [
        ("SGD", SGDByNewArrays),
        ("RMSProp", RMSPropByLooking),
        ("Adam", AdamByLerp),
        ("Adam", AdamByProducts),
        ("AdamW", AdamWByDifference),
    ],
)
def test_right_answers_written_differently_pass(name, right):
    for seed in range(3):
        result = grade(f"autograd.optimizers.{name}", right, seed=seed)
        assert result.passed, result.message
