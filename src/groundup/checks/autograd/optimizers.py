"""Checks for the lesson autograd.optimizers.

A case is a walk: the parameters' start, the gradients of every step and the learning rate of every step. After each
step all parameters and all state are looked at; the oracle is torch.optim. The named mistakes are edits of the rules
below, which keep no code in common with the lesson. An observation that is a text is a sentence for the learner.
"""

from collections.abc import Callable, Iterator
from typing import ClassVar

import numpy as np
import torch

from groundup.check import Case, Exercise, compare
from groundup.checks.autograd.graph import Told


class Leaf:
    """A parameter: two arrays of one shape."""

    def __init__(self, data: np.ndarray):
        self.data, self.grad = data.copy(order="K"), np.zeros_like(data)


def walk(
    obj, states: tuple[str, ...], data, gradients, lr, options, *, pushed=0.0, leaves=None
) -> Iterator[dict]:
    """Runs the learner's optimizer; yields what is there after every step. Raises Told.

    Before every step somebody else adds `pushed` to all parameters; `leaves` are parameters that were used before.
    """
    leaves = [Leaf(array) for array in data] if leaves is None else leaves
    arrays = [(leaf.data, leaf.grad) for leaf in leaves]
    optimizer = obj(iter(leaves), lr[0], **options)  # an iterator: it can be walked through only once
    for step, (slopes, rate) in enumerate(zip(gradients, lr, strict=True), 1):
        if rate != lr[max(step - 2, 0)]:
            optimizer.lr = rate
        for leaf, slope in zip(leaves, slopes, strict=True):
            leaf.grad += slope
            leaf.data += pushed
        optimizer.step()
        for k, (leaf, (place, grad), slope) in enumerate(zip(leaves, arrays, slopes, strict=True)):
            if leaf.data is not place:
                raise Told(
                    f"After step {step}, parameters[{k}].data is another array than before. Others may hold the old "
                    "one: change its numbers in place, for example with -=."
                )
            if leaf.grad is not grad or not np.array_equal(leaf.grad, slope):
                raise Told(
                    f"Your step() changed parameters[{k}].grad. The gradient belongs to the caller: compute what you need "
                    "in a new array."
                )
        yield {name: _state(optimizer, name, data) for name in states} | {
            "data": [leaf.data.copy() for leaf in leaves]
        }
        optimizer.zero_grad()
        if any(leaf.grad is not grad or grad.any() for leaf, (_, grad) in zip(leaves, arrays, strict=True)):
            raise Told("zero_grad() must set every number of every parameter's grad to 0, in place.")


def _state(optimizer, name, data):
    """A copy of one named state."""
    if not hasattr(optimizer, name):
        raise Told(f"The optimizer has no attribute `{name}`.")
    state = getattr(optimizer, name)
    if name == "steps":
        return state
    if isinstance(state, list | tuple) and not state:
        raise Told(
            f"optimizer.{name} is empty. `parameters` may be a generator, which is empty when it is walked through a "
            "second time: walk through self.parameters instead."
        )
    if not isinstance(state, list | tuple) or len(state) != len(data):
        raise Told(f"optimizer.{name} must be a list with one array for each parameter.")
    if not all(isinstance(x, np.ndarray | np.floating | float) for x in state):
        raise Told(f"optimizer.{name} must hold NumPy arrays, one for each parameter.")
    return [np.array(x) for x in state]


def agree(got, expected) -> str | None:
    """The first step, state and parameter that differ, in words."""
    if isinstance(got, str) or isinstance(expected, str):
        return None if got == expected else str(got)
    if not isinstance(got, list | tuple) or not isinstance(expected, list | tuple):
        return compare(got, expected)
    for step, (ours, theirs) in enumerate(zip(got, expected, strict=True), 1):
        for name, values in theirs.items():
            if name == "steps":
                if difference := compare(ours[name], values):
                    return f"After step {step}, optimizer.steps is wrong: {difference}".replace(
                        "you returned", "it is"
                    )
                continue
            for k, array in enumerate(values):
                if difference := compare(ours[name][k], array):
                    what = f"parameters[{k}].data" if name == "data" else f"optimizer.{name}[{k}]"
                    return f"After step {step}, {what} is wrong: {difference}".replace(
                        "you returned", "yours is"
                    )
    return None


def by_torch(optimizer_class, states: dict[str, str], data, gradients, lr, options) -> list[dict]:
    """The same walk by torch.optim; `states` is our name → torch's."""
    leaves = [torch.tensor(array, requires_grad=True) for array in data]
    optimizer = optimizer_class(leaves, lr=lr[0], foreach=False, **options)
    seen = []
    for slopes, rate in zip(gradients, lr, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        for leaf, slope in zip(leaves, slopes, strict=True):
            leaf.grad = torch.tensor(slope)
        optimizer.step()
        held = {
            name: [optimizer.state[leaf][theirs].numpy().copy() for leaf in leaves]
            for name, theirs in states.items()
        }
        if "steps" in held:
            held["steps"] = int(held["steps"][0])
        seen.append(held | {"data": [leaf.detach().numpy().copy() for leaf in leaves]})
    return seen


RAGGED = ((2, 3), (), (4,), (1, 2, 2), (3, 2))


def numbers(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers of both signs between 0.5 and 2 in size, so that nothing hides behind a zero."""
    return np.asarray(rng.uniform(0.5, 2.0, shape) * rng.choice([-1.0, 1.0], shape))


def a_walk(rng, label, shapes, steps, lr=0.1, scale=1.0, **options) -> Case:
    """A case; lr is one number or one for every step, scale multiplies the gradients."""
    return Case(
        label,
        data=[numbers(rng, shape) for shape in shapes],
        gradients=[[scale * numbers(rng, shape) for shape in shapes] for _ in range(steps)],
        lr=[lr] * steps if isinstance(lr, float) else list(lr),
        options=options,
    )


def declare(exercise: Exercise, optimizer_class, states: dict[str, str], rule: Callable[[], type]) -> None:
    """Oracle, observation and the properties that all four exercises share; rule() is the right one of those below."""

    def kept(options):
        """torch keeps no velocity where momentum is 0, so there is nothing to compare."""
        return {} if options.get("momentum", 0.9 if "velocity" not in states else 0.0) == 0 else states

    @exercise.oracle
    def _(data, gradients, lr, options):
        return by_torch(optimizer_class, kept(options), data, gradients, lr, options)

    @exercise.observe
    def observed(obj, data, gradients, lr, options, **more):
        try:
            return list(walk(obj, tuple(kept(options)), data, gradients, lr, options, **more))
        except Told as sentence:
            return str(sentence)

    exercise.agree(agree)

    @exercise.property
    def optimizers_do_not_share(obj, data, gradients, lr, options):
        """Two optimizers at work at the same time disturb each other. Keep all state in `self`, not in the class or outside of it."""
        if not 2 <= len(gradients) <= 4:
            return True
        inputs = (obj, tuple(kept(options)), data, gradients, lr, options)
        alone = list(walk(*inputs))
        together = list(zip(walk(*inputs), walk(*inputs), strict=True))
        return all(agree(list(seen), alone) is None for seen in zip(*together, strict=True))

    @exercise.property
    def begins_at_rest(obj, data, gradients, lr, options):
        """A second optimizer for the same parameters does not begin afresh: something of the first is left. Keep all state in `self`, not in the parameters or outside of the optimizer."""
        if not 2 <= len(gradients) <= 4:
            return True
        leaves = [Leaf(array) for array in data]
        first = observed(obj, data, gradients, lr, options, leaves=leaves)
        for leaf, array in zip(leaves, data, strict=True):
            leaf.data[...] = array
        return agree(observed(obj, data, gradients, lr, options, leaves=leaves), first) is None

    @exercise.property
    def goes_on_from_the_numbers_that_are_there(obj, data, gradients, lr, options):
        """Somebody else changed the numbers in parameter.data between two steps, as loading saved weights does, and your step() went on from older numbers. Begin every step with what parameter.data holds now."""
        if not 2 <= len(gradients) <= 4:
            return True
        inputs = (data, gradients, lr, options)
        return agree(observed(obj, *inputs, pushed=0.7), observed(rule(), *inputs, pushed=0.7)) is None


class Rule:
    """What the mistakes are edits of: an optimizer that asks `move` for the change of each parameter."""

    states: tuple[str, ...] = ()
    defaults: ClassVar[dict] = {}

    def __init__(self, parameters, lr, **options):
        self.leaves, self.lr, self.steps = list(parameters), lr, 0
        self.options = self.defaults | options
        for name in self.states:
            setattr(self, name, [np.zeros(leaf.data.shape) for leaf in self.leaves])

    def zero_grad(self):
        for leaf in self.leaves:
            leaf.grad[...] = 0

    def step(self):
        self.steps += 1
        for k, leaf in enumerate(self.leaves):
            with np.errstate(all="ignore"):
                change = self.move(k, leaf.data, leaf.grad, **self.options)
            leaf.data += change

    def keep(self, name, k, value):
        getattr(self, name)[k] = value
        return value


# ---------------------------------------------------------------------------------------------------------------------
SGD = Exercise("autograd.optimizers.SGD", kind="class")
declare(SGD, torch.optim.SGD, {"velocity": "momentum_buffer"}, lambda: _SGD)


@SGD.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    yield a_walk(rng, "one number, one step, no momentum", ((),), 1)
    yield a_walk(rng, "one number, two steps with momentum", ((),), 2, momentum=0.9)
    yield a_walk(rng, "two steps without momentum", ((2, 3), (4,)), 2, lr=0.3)
    yield a_walk(rng, "several parameters, momentum", RAGGED, 4, momentum=0.8)
    yield a_walk(rng, "the learning rate changes", ((3,), (2, 1)), 4, lr=(0.1, 0.1, 0.02, 0.5), momentum=0.7)
    yield a_walk(rng, "weight decay without momentum", ((2, 3), ()), 3, weight_decay=0.2)
    yield a_walk(rng, "weight decay and momentum", ((2, 3), (2,)), 4, momentum=0.9, weight_decay=0.3)
    yield a_walk(rng, "Nesterov", ((3, 2), (4,)), 4, momentum=0.8, nesterov=True)
    yield a_walk(
        rng,
        "everything at once",
        RAGGED,
        6,
        lr=(0.1, 0.2, 0.2, 0.05, 0.3, 0.01),
        momentum=0.85,
        weight_decay=0.1,
        nesterov=True,
    )
    yield a_walk(
        rng, "a hundred and twenty steps", ((2, 2), (2, 2)), 120, lr=0.01, momentum=0.95, weight_decay=0.01
    )
    yield a_walk(rng, "a learning rate of 0", ((3,), (2,)), 2, lr=0.0, momentum=0.5)
    yield a_walk(rng, "gradients of 0", ((3,), (2,)), 2, scale=0.0)
    yield a_walk(rng, "gradients of a thousand", ((2, 3), ()), 3, scale=1000.0, momentum=0.6)
    yield resting(
        a_walk(rng, "some gradients are 0 for one step", ((3,), (2,)), 4, momentum=0.9, weight_decay=0.2)
    )
    yield transposed(a_walk(rng, "a transposed view", ((3, 2), (2, 4)), 3, momentum=0.9))


def resting(case: Case) -> Case:
    """The first parameter's gradient is 0 in step 2, and one number of the second's in step 3."""
    case.inputs["gradients"][1][0][...] = 0.0
    case.inputs["gradients"][2][1].flat[0] = 0.0
    return case


def transposed(case: Case) -> Case:
    case.inputs["data"] = [array.T for array in case.inputs["data"]]
    case.inputs["gradients"] = [[slope.T for slope in slopes] for slopes in case.inputs["gradients"]]
    return case


class _SGD(Rule):
    states = ("velocity",)
    defaults: ClassVar = {"momentum": 0.0, "weight_decay": 0.0, "nesterov": False}

    def move(self, k, w, g, momentum, weight_decay, nesterov):
        g = g + weight_decay * w
        v = self.keep("velocity", k, momentum * self.velocity[k] + g)
        return -self.lr * (g + momentum * v if nesterov else v)


@SGD.mistake
class velocity_is_averaged(_SGD):
    """You multiplied the new gradient by 1 − momentum. That makes an average, and all steps smaller. Here velocity is a sum: the gradient enters with its full size (as in torch)."""

    def move(self, k, w, g, momentum, weight_decay, nesterov):
        g = g + weight_decay * w
        v = self.keep("velocity", k, momentum * self.velocity[k] + (1 - momentum) * g)
        return -self.lr * (g + momentum * v if nesterov else v)


@SGD.mistake
class learning_rate_in_the_velocity(_SGD):
    """You put the learning rate into the velocity. While it stays the same the path is right, but when it changes, the old speed keeps the old rate. The velocity sums gradients only; multiply by lr when you move."""

    def move(self, k, w, g, momentum, weight_decay, nesterov):
        g = self.lr * (g + weight_decay * w)
        v = self.keep("velocity", k, momentum * self.velocity[k] + g)
        return -(g + momentum * v if nesterov else v)


@SGD.mistake
class velocity_is_not_kept(_SGD):
    """The new velocity is computed but not kept: after the step the list still holds the old one, so every step starts from rest. `velocity = …` only gives the loop's name a new meaning; write into the array, or into the list."""

    def move(self, k, w, g, momentum, weight_decay, nesterov):
        g = g + weight_decay * w
        return -self.lr * (g + momentum * g if nesterov else g)


@SGD.mistake
class velocity_replaced_by_the_gradient(_SGD):
    """Your velocity holds only the latest gradient: the old velocity, times momentum, must stay in it."""

    def move(self, k, w, g, momentum, weight_decay, nesterov):
        g = self.keep("velocity", k, g + weight_decay * w)
        return -self.lr * (g + momentum * g if nesterov else g)


@SGD.mistake
class velocity_never_slows(_SGD):
    """Your velocity adds up all gradients at full size. Multiply the old velocity by momentum first, or nothing ever slows it down."""

    def move(self, k, w, g, momentum, weight_decay, nesterov):
        g = g + weight_decay * w
        v = self.keep("velocity", k, self.velocity[k] + g if momentum else g)
        return -self.lr * (g + momentum * v if nesterov else v)


@SGD.mistake
class moves_with_the_old_velocity(_SGD):
    """You moved by the velocity from before this step. The first step then goes nowhere: first bring the gradient into the velocity, then move."""

    def move(self, k, w, g, momentum, weight_decay, nesterov):
        g = g + weight_decay * w
        old = self.velocity[k]
        self.keep("velocity", k, momentum * old + g)
        return -self.lr * (g + momentum * old if nesterov else old)


@SGD.mistake
class nesterov_ignored(_SGD):
    """Your rule is right without `nesterov`. With nesterov=True the move must look one step ahead: the gradient plus momentum times the *new* velocity. (With the old one it is the ordinary move.)"""

    def move(self, k, w, g, momentum, weight_decay, nesterov):
        return super().move(k, w, g, momentum, weight_decay, False)


@SGD.mistake
class nesterov_forgets_the_gradient(_SGD):
    """With nesterov=True you moved by the velocity plus momentum times the velocity. The first of the two must be this step's gradient (with its decay): the old velocity is in the second one already."""

    def move(self, k, w, g, momentum, weight_decay, nesterov):
        v = self.keep("velocity", k, momentum * self.velocity[k] + g + weight_decay * w)
        return -self.lr * (v + momentum * v if nesterov else v)


@SGD.mistake
class nesterov_without_the_decay(_SGD):
    """With nesterov=True your move takes the gradient as it came, without the weight decay. Use the sum of both in the move as well as in the velocity."""

    def move(self, k, w, g, momentum, weight_decay, nesterov):
        v = self.keep("velocity", k, momentum * self.velocity[k] + g + weight_decay * w)
        return -self.lr * (g + momentum * v if nesterov else v)


@SGD.mistake
class decay_ignored(_SGD):
    """Your rule is right without `weight_decay`. With it, weight_decay times the parameter belongs to the gradient, from the beginning."""

    def move(self, k, w, g, momentum, weight_decay, nesterov):
        return super().move(k, w, g, momentum, 0.0, nesterov)


@SGD.mistake
class decay_beside_the_velocity(_SGD):
    """You subtracted the decay straight from the parameter, past the velocity. With momentum that is another rule: torch's SGD adds it to the gradient *before* the velocity is made."""

    def move(self, k, w, g, momentum, weight_decay, nesterov):
        return super().move(k, w, g, momentum, 0.0, nesterov) - self.lr * weight_decay * w


@SGD.mistake
class decay_grows(_SGD):
    """Your weight decay has the wrong sign: it pushes the weights away from 0. Add it to the gradient; the step subtracts both."""

    def move(self, k, w, g, momentum, weight_decay, nesterov):
        return super().move(k, w, g, momentum, -weight_decay, nesterov)


@SGD.mistake
class climbs(_SGD):
    """You added the step. The gradient points uphill: subtract."""

    def move(self, k, w, g, momentum, weight_decay, nesterov):
        return -super().move(k, w, g, momentum, weight_decay, nesterov)


# ---------------------------------------------------------------------------------------------------------------------
RMSProp = Exercise("autograd.optimizers.RMSProp", kind="class")
declare(RMSProp, torch.optim.RMSprop, {"square_avg": "square_avg"}, lambda: _RMSProp)


def with_a_zero(case: Case) -> Case:
    """The first gradient of the first parameter begins with 0: a weight that was not used."""
    case.inputs["gradients"][0][0].flat[0] = 0.0
    return case


@RMSProp.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    yield a_walk(rng, "one number, one step", ((),), 1)
    yield a_walk(rng, "one number, two steps", ((),), 2, alpha=0.9)
    yield a_walk(rng, "several parameters", RAGGED, 4, alpha=0.8)
    yield a_walk(rng, "a large eps", ((2, 3), (4,)), 3, alpha=0.7, eps=0.3)
    yield a_walk(rng, "gradients as small as eps", ((2, 3), (4,)), 3, scale=1e-8)
    yield a_walk(rng, "gradients of a thousand", ((2, 3), ()), 3, scale=1000.0)
    yield resting(a_walk(rng, "some gradients are 0 for one step", ((3,), (2,)), 4))
    yield with_a_zero(a_walk(rng, "one weight was not used in the first step", ((3,), (2,)), 3))
    yield a_walk(rng, "the learning rate changes", ((3,), (2, 1)), 4, lr=(0.1, 0.1, 0.02, 0.5))
    yield a_walk(rng, "a hundred and twenty steps", ((2, 2), (2, 2)), 120, lr=0.01, alpha=0.95)
    yield a_walk(rng, "a learning rate of 0", ((3,), (2,)), 2, lr=0.0)
    yield a_walk(rng, "gradients of 0", ((3,), (2,)), 2, scale=0.0)
    yield a_walk(rng, "alpha is a half", ((3,), (2,)), 3, alpha=0.5)
    yield transposed(a_walk(rng, "a transposed view", ((3, 2), (2, 4)), 3))


class _RMSProp(Rule):
    states = ("square_avg",)
    defaults: ClassVar = {"alpha": 0.99, "eps": 1e-8}

    def average(self, old, g, alpha):
        return alpha * old + (1 - alpha) * g * g

    def scale(self, new, old, eps):
        return np.sqrt(new) + eps

    def move(self, k, w, g, alpha, eps):
        old = self.square_avg[k]
        new = self.keep("square_avg", k, self.average(old, g, alpha))
        return -self.lr * g / self.scale(new, old, eps)


@RMSProp.mistake
class eps_inside_the_root(_RMSProp):
    """You put eps under the square root. Its root is far larger (the root of 1e-8 is 1e-4), so small gradients are hardly scaled up at all. Take the root first, then add eps."""

    def scale(self, new, old, eps):
        return np.sqrt(new + eps)


@RMSProp.mistake
class eps_forgotten(_RMSProp):
    """You left out eps. A weight that has not been used yet has gradient 0 and average 0, and 0/0 is nan: from then on it stays nan."""

    def scale(self, new, old, eps):
        return np.sqrt(new)


@RMSProp.mistake
class no_root(_RMSProp):
    """You divided by the average square itself. Its unit is that of the gradient squared: steps then get smaller, not equal, where gradients are large. Divide by its square root."""

    def scale(self, new, old, eps):
        return new + eps


@RMSProp.mistake
class weights_exchanged(_RMSProp):
    """You exchanged alpha and 1 − alpha. The old average keeps the share alpha, and the new square enters with 1 − alpha; yours forgets nearly everything in one step."""

    def average(self, old, g, alpha):
        return (1 - alpha) * old + alpha * g * g


@RMSProp.mistake
class never_forgets(_RMSProp):
    """You added up the squares of all steps. The sum only grows, so the steps get smaller and smaller for ever. (That is AdaGrad.) Here the old ones fade: alpha of the old, 1 − alpha of the new."""

    def average(self, old, g, alpha):
        return old + g * g


@RMSProp.mistake
class new_square_at_full_size(_RMSProp):
    """You let the new square in at full size. An average takes the share alpha of the old and the share 1 − alpha of the new, together 1."""

    def average(self, old, g, alpha):
        return alpha * old + g * g


@RMSProp.mistake
class gradient_not_squared(_RMSProp):
    """You averaged the gradient, not its square. Gradients of both signs cancel, and the root of a negative number is nan."""

    def average(self, old, g, alpha):
        return alpha * old + (1 - alpha) * g


@RMSProp.mistake
class divides_by_the_old_average(_RMSProp):
    """You divided by the average from before this step. In the first step that is 0, and the move is enormous. First bring in the new square, then divide."""

    def scale(self, new, old, eps):
        return np.sqrt(old) + eps


@RMSProp.mistake
class average_is_not_kept(_RMSProp):
    """The new average is computed but not kept: after the step the list still holds the old one. `square_avg = …` only gives the loop's name a new meaning; write into the array, or into the list."""

    def keep(self, name, k, value):
        return value


@RMSProp.mistake
class climbs_scaled(_RMSProp):
    """You added the step. The gradient points uphill: subtract."""

    def move(self, k, w, g, alpha, eps):
        return -super().move(k, w, g, alpha, eps)


# ---------------------------------------------------------------------------------------------------------------------
Adam = Exercise("autograd.optimizers.Adam", kind="class")
STATES = {"steps": "step", "exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq"}
declare(Adam, torch.optim.Adam, STATES, lambda: _Adam)


def adam_cases(rng: np.random.Generator) -> Iterator[Case]:
    yield a_walk(rng, "one number, one step", ((),), 1)
    yield a_walk(rng, "one number, two steps", ((),), 2)
    yield a_walk(rng, "other betas", ((2, 3), (4,)), 3, betas=(0.7, 0.8))
    yield a_walk(rng, "beta1 is 0", ((2, 3),), 3, betas=(0.0, 0.9))
    yield a_walk(rng, "several parameters", RAGGED, 4, betas=(0.8, 0.95))
    yield a_walk(rng, "a large eps", ((2, 3), (4,)), 3, eps=0.3)
    yield a_walk(rng, "gradients as small as eps", ((2, 3), (4,)), 3, scale=1e-8)
    yield a_walk(rng, "gradients of a thousand", ((2, 3), ()), 3, scale=1000.0)
    yield resting(a_walk(rng, "some gradients are 0 for one step", ((3,), (2,)), 4))
    yield with_a_zero(a_walk(rng, "one weight was not used in the first step", ((3,), (2,)), 3))
    yield a_walk(rng, "the learning rate changes", ((3,), (2, 1)), 4, lr=(0.1, 0.1, 0.02, 0.5))
    yield a_walk(rng, "weight decay", ((2, 3), (2,)), 4, weight_decay=0.3)
    yield a_walk(rng, "no weight decay", ((2, 3), (2,)), 2, weight_decay=0.0)
    yield a_walk(
        rng,
        "everything at once",
        RAGGED,
        6,
        lr=(0.1, 0.2, 0.2, 0.05, 0.3, 0.01),
        betas=(0.85, 0.9),
        eps=0.01,
        weight_decay=0.1,
    )
    yield a_walk(rng, "a hundred and twenty steps", ((2, 2), (2, 2)), 120, lr=0.01, weight_decay=0.05)
    yield a_walk(rng, "a learning rate of 0", ((3,), (2,)), 2, lr=0.0)
    yield a_walk(rng, "gradients of 0", ((3,), (2,)), 2, scale=0.0)
    yield a_walk(rng, "a parameter without any numbers", ((0, 3),), 2)
    yield transposed(a_walk(rng, "a transposed view", ((3, 2), (2, 4)), 3))


Adam.cases(adam_cases)


class _Adam(Rule):
    states = ("exp_avg", "exp_avg_sq")
    defaults: ClassVar = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}

    def move(self, k, w, g, betas, eps, weight_decay):
        return self.adaptive(k, g + weight_decay * w, betas, eps)

    def adaptive(self, k, g, betas, eps):
        one, two = betas
        m = self.keep("exp_avg", k, one * self.exp_avg[k] + (1 - one) * g)
        v = self.keep("exp_avg_sq", k, two * self.exp_avg_sq[k] + (1 - two) * g * g)
        return -self.lr * self.quotient(m, v, one, two, eps)

    def quotient(self, m, v, one, two, eps):
        t = self.steps
        return (m / (1 - one**t)) / (np.sqrt(v / (1 - two**t)) + eps)


@Adam.mistake
class no_bias_correction(_Adam):
    """Your averages are right, but you divided them as they are. They began at 0, and early on they are far too small, the square even more than the gradient: the first steps are too long. Divide each by 1 − beta to the power of steps."""

    def quotient(self, m, v, one, two, eps):
        return m / (np.sqrt(v) + eps)


@Adam.mistake
class only_the_gradient_corrected(_Adam):
    """You corrected exp_avg, but not exp_avg_sq. Both began at 0, and the square's average takes even longer to fill up: the early steps are far too long."""

    def quotient(self, m, v, one, two, eps):
        return (m / (1 - one**self.steps)) / (np.sqrt(v) + eps)


@Adam.mistake
class only_the_square_corrected(_Adam):
    """You corrected exp_avg_sq, but not exp_avg. Both began at 0; without it the first steps are much too short."""

    def quotient(self, m, v, one, two, eps):
        return m / (np.sqrt(v / (1 - two**self.steps)) + eps)


@Adam.mistake
class steps_counted_afterwards(_Adam):
    """You counted the step at the end. In the first one `steps` is still 0, 1 − beta⁰ is 0, and you divide by it: nan. Count first: the first step is number 1."""

    def quotient(self, m, v, one, two, eps):
        t = self.steps - 1
        one, two = np.float64(1 - one**t), np.float64(1 - two**t)
        return (m / one) / (np.sqrt(v / two) + eps)


@Adam.mistake
class steps_counted_one_too_far(_Adam):
    """You used the power steps + 1, although you had counted this step already. In the first step the power must be 1."""

    def quotient(self, m, v, one, two, eps):
        t = self.steps + 1
        return (m / (1 - one**t)) / (np.sqrt(v / (1 - two**t)) + eps)


@Adam.mistake
class steps_counted_for_each_parameter(_Adam):
    """You count one step for each parameter, inside the loop. One call of step() is one step, however many parameters there are; it went unnoticed only with a single parameter."""

    def step(self):
        for k, leaf in enumerate(self.leaves):
            self.steps += 1
            leaf.data += self.move(k, leaf.data, leaf.grad, **self.options)


@Adam.mistake
class power_forgotten(_Adam):
    """You divided by 1 − beta in every step. That is right only for the first one: the averages fill up, so the correction must fade. Take beta to the power of steps."""

    def quotient(self, m, v, one, two, eps):
        return (m / (1 - one)) / (np.sqrt(v / (1 - two)) + eps)


@Adam.mistake
class eps_inside_the_root_of_adam(_Adam):
    """You put eps under the square root. Its root is far larger (the root of 1e-8 is 1e-4), so small gradients are hardly scaled up at all. Take the root first, then add eps."""

    def quotient(self, m, v, one, two, eps):
        t = self.steps
        return (m / (1 - one**t)) / np.sqrt(v / (1 - two**t) + eps)


@Adam.mistake
class eps_added_before_the_correction(_Adam):
    """You added eps to the root of the uncorrected average, and corrected both together. eps is then enlarged as well, in the first step about thirty-fold with the default betas. Correct first, take the root, then add eps."""

    def quotient(self, m, v, one, two, eps):
        t = self.steps
        return (m / (1 - one**t)) / (np.sqrt(v) + eps) * np.sqrt(1 - two**t)


@Adam.mistake
class eps_forgotten_in_adam(_Adam):
    """You left out eps. A weight that has not been used yet has both averages 0, and 0/0 is nan: from then on it stays nan."""

    def quotient(self, m, v, one, two, eps):
        return super().quotient(m, v, one, two, 0.0)


@Adam.mistake
class corrected_averages_are_kept(_Adam):
    """You wrote the corrected averages back into exp_avg and exp_avg_sq. The next step then averages numbers that were already enlarged, and enlarges them again. Correct a copy, for this step only."""

    def adaptive(self, k, g, betas, eps):
        (one, two), t = betas, self.steps
        m = self.keep("exp_avg", k, (one * self.exp_avg[k] + (1 - one) * g) / (1 - one**t))
        v = self.keep("exp_avg_sq", k, (two * self.exp_avg_sq[k] + (1 - two) * g * g) / (1 - two**t))
        return -self.lr * m / (np.sqrt(v) + eps)


@Adam.mistake
class betas_exchanged(_Adam):
    """You exchanged the betas: the first is for the gradient's average, the second for the square's."""

    def adaptive(self, k, g, betas, eps):
        return super().adaptive(k, g, betas[::-1], eps)


@Adam.mistake
class first_beta_in_both_corrections(_Adam):
    """You corrected both averages with the first beta. Each must be divided by 1 minus the power of its *own* beta: the square's average forgets with the second one."""

    def quotient(self, m, v, one, two, eps):
        return super().quotient(m, v, one, one, eps)


@Adam.mistake
class second_beta_in_both_corrections(_Adam):
    """You corrected both averages with the second beta. Each must be divided by 1 minus the power of its *own* beta: the gradient's average forgets with the first one."""

    def quotient(self, m, v, one, two, eps):
        return super().quotient(m, v, two, two, eps)


@Adam.mistake
class one_list_for_both_averages(_Adam):
    """exp_avg and exp_avg_sq are one and the same list, so what you write into one stands in the other. `a = b = self.zeros()` makes one list with two names: call zeros() once for each."""

    def adaptive(self, k, g, betas, eps):
        (one, two), self.exp_avg_sq = betas, self.exp_avg
        self.keep("exp_avg", k, one * self.exp_avg[k] + (1 - one) * g)
        v = self.keep("exp_avg", k, two * self.exp_avg[k] + (1 - two) * g * g)
        return -self.lr * self.quotient(v, v, one, two, eps)


@Adam.mistake
class averages_are_not_kept(_Adam):
    """The new averages are computed but not kept: after the step the lists still hold the old ones. `m = …` only gives the loop's name a new meaning; write into the array, or into the list."""

    def keep(self, name, k, value):
        return value


@Adam.mistake
class root_forgotten(_Adam):
    """You divided by the average square itself. Its unit is that of the gradient squared: steps then get smaller, not equal, where gradients are large. Divide by its square root."""

    def quotient(self, m, v, one, two, eps):
        t = self.steps
        return (m / (1 - one**t)) / (v / (1 - two**t) + eps)


@Adam.mistake
class adam_climbs(_Adam):
    """You added the step. The gradient points uphill: subtract."""

    def move(self, k, w, g, betas, eps, weight_decay):
        return -super().move(k, w, g, betas, eps, weight_decay)


@Adam.mistake
class divides_the_gradient(_Adam):
    """You moved by this step's gradient, divided by its scale. Adam moves by the *average* gradient, exp_avg, corrected: that is its momentum."""

    def adaptive(self, k, g, betas, eps):
        super().adaptive(k, g, betas, eps)
        return -self.lr * g / (np.sqrt(self.exp_avg_sq[k] / (1 - betas[1] ** self.steps)) + eps)


@Adam.mistake
class decay_is_ignored(_Adam):
    """Your rule is right without `weight_decay`. With it, weight_decay times the parameter is added to the gradient, before both averages."""

    def move(self, k, w, g, betas, eps, weight_decay):
        return self.adaptive(k, g, betas, eps)


@Adam.mistake
class decay_beside_the_averages(_Adam):
    """You took the decay straight off the parameter. That is AdamW, and it comes next; Adam's weight_decay is added to the gradient, before both averages."""

    def move(self, k, w, g, betas, eps, weight_decay):
        return self.adaptive(k, g, betas, eps) - self.lr * weight_decay * w


@Adam.mistake
class decay_only_in_the_first_average(_Adam):
    """The square's average must be made from the same gradient as the other one, weight decay included."""

    def move(self, k, w, g, betas, eps, weight_decay):
        one, two = betas
        m = self.keep("exp_avg", k, one * self.exp_avg[k] + (1 - one) * (g + weight_decay * w))
        v = self.keep("exp_avg_sq", k, two * self.exp_avg_sq[k] + (1 - two) * g * g)
        return -self.lr * self.quotient(m, v, one, two, eps)


# ---------------------------------------------------------------------------------------------------------------------
AdamW = Exercise("autograd.optimizers.AdamW", kind="class")
declare(AdamW, torch.optim.AdamW, STATES, lambda: _AdamW)


@AdamW.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    yield a_walk(rng, "one number, one step", ((),), 1, weight_decay=0.5)
    yield from adam_cases(rng)
    yield a_walk(rng, "half of every weight goes", ((2, 3), (2,)), 3, lr=0.5, weight_decay=1.0)
    yield a_walk(
        rng, "the learning rate and its decay change", ((3,),), 3, lr=(0.1, 0.4, 0.2), weight_decay=0.9
    )


class _AdamW(_Adam):
    defaults: ClassVar = _Adam.defaults | {"weight_decay": 0.01}

    def move(self, k, w, g, betas, eps, weight_decay):
        return self.adaptive(k, g, betas, eps) - self.lr * weight_decay * w


@AdamW.mistake
class decay_through_the_denominator(_AdamW):
    """Your decay still goes through the averages: it is divided by each weight's scale, so weights with large gradients hardly decay, and it disturbs both averages. Shrink the parameter itself, beside Adam's step."""

    def move(self, k, w, g, betas, eps, weight_decay):
        return self.adaptive(k, g + weight_decay * w, betas, eps)


@AdamW.mistake
class decays_after_the_step(_AdamW):
    """You shrank the weights after Adam's step, so the step itself was shrunk too. The share is taken of the weight as it was before: shrink first."""

    def move(self, k, w, g, betas, eps, weight_decay):
        change = self.adaptive(k, g, betas, eps)
        return change - self.lr * weight_decay * (w + change)


@AdamW.mistake
class decays_without_the_learning_rate(_AdamW):
    """You took the share weight_decay of every weight. The share is lr times weight_decay: when the steps get shorter, the decay must get weaker with them."""

    def move(self, k, w, g, betas, eps, weight_decay):
        return self.adaptive(k, g, betas, eps) - weight_decay * w


@AdamW.mistake
class decays_in_both_places(_AdamW):
    """You shrink the weights, and the decay is still in the gradient as well. It must be in one place only: beside Adam's step."""

    def move(self, k, w, g, betas, eps, weight_decay):
        return self.adaptive(k, g + weight_decay * w, betas, eps) - self.lr * weight_decay * w


@AdamW.mistake
class shrinks_and_then_decays_in_both(_AdamW):
    """You shrink the weights, and Adam's own weight decay then acts on them once more, through the averages. It must be in one place only: beside Adam's step."""

    def move(self, k, w, g, betas, eps, weight_decay):
        less = w - self.lr * weight_decay * w
        return self.adaptive(k, g + weight_decay * less, betas, eps) - self.lr * weight_decay * w


@AdamW.mistake
class never_decays(_AdamW):
    """Adam's step is right, but nothing decays: the weights must also lose the share lr times weight_decay of themselves."""

    def move(self, k, w, g, betas, eps, weight_decay):
        return self.adaptive(k, g, betas, eps)


@AdamW.mistake
class weights_grow(_AdamW):
    """Your weights grow by the share lr times weight_decay instead of losing it: check the sign."""

    def move(self, k, w, g, betas, eps, weight_decay):
        return self.adaptive(k, g, betas, eps) + self.lr * weight_decay * w


@AdamW.mistake
class keeps_only_the_share(_AdamW):
    """You left each weight only the share lr times weight_decay. That is what it should lose; it keeps 1 minus that."""

    def move(self, k, w, g, betas, eps, weight_decay):
        return self.adaptive(k, g, betas, eps) + (self.lr * weight_decay - 1) * w


@AdamW.mistake
class subtracts_the_share(_AdamW):
    """You subtracted lr times weight_decay itself, the same amount from every weight. A share is meant: multiply it with the weight."""

    def move(self, k, w, g, betas, eps, weight_decay):
        return self.adaptive(k, g, betas, eps) - self.lr * weight_decay


@AdamW.mistake(shape=True)  # the count stays 0, so that no case finds it right
class only_shrinks(_AdamW):
    """You shrink the weights, but Adam's own step is missing: nothing is counted and no average moves. Call it once, after the loop."""

    def step(self):
        for leaf in self.leaves:
            leaf.data *= 1 - self.lr * self.options["weight_decay"]


@AdamW.mistake
class adam_steps_inside_the_loop(_AdamW):
    """You take Adam's step inside the loop, once for each parameter, and it moves all of them every time. It went unnoticed only with a single parameter: step once, after the loop."""

    def step(self):
        for leaf in self.leaves:
            leaf.data *= 1 - self.lr * self.options["weight_decay"]
            self.steps += 1
            for k, other in enumerate(self.leaves):
                other.data += self.adaptive(k, other.grad, self.options["betas"], self.options["eps"])
