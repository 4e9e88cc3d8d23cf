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
]  # fmt: skip


def edited(name: str, old: str, new: str):
    source = inspect.getsource(getattr(optimizers, name))
    assert old in source
    learners = dict(vars(optimizers))
    exec(source.replace(old, new), learners)
    return learners[name]


@pytest.mark.parametrize("slip", SLIPS)
def test_reply_can_be_read(slip):
    name, old, new, said = slip
    result = grade(f"autograd.optimizers.{name}", edited(name, old, new), seed=0)
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


@pytest.mark.parametrize(
    "name, right", [("SGD", SGDByNewArrays), ("Adam", AdamByLerp), ("AdamW", AdamWByDifference)]
)
def test_right_answers_written_differently_pass(name, right):
    for seed in range(3):
        result = grade(f"autograd.optimizers.{name}", right, seed=seed)
        assert result.passed, result.message
