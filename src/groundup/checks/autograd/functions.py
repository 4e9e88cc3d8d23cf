"""Checks for the lesson autograd.functions.

The oracles are closed forms (Softplus, rounding), a walk over the recorded graph (saved bytes) and the plain
calculation without a checkpoint. An observation that is a text is a sentence for the learner.
"""

import math
import re
from itertools import pairwise

import numpy as np
import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import dropout, embedding

from groundup.check import Case, Exercise, compare
from groundup.checks.autograd.pytorch import by_name, function, tensor, wanting


def packed(run) -> tuple[object, list[torch.Tensor]]:
    """What run() returns, and the tensors that were saved meanwhile."""
    saved = []

    def pack(x):
        saved.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        return run(), saved


def storages(tensors) -> dict[int, torch.UntypedStorage]:
    return {x.untyped_storage().data_ptr(): x.untyped_storage() for x in tensors}


def within(value, allowed: torch.dtype | None, depth: int = 4) -> float:
    """How much an attribute holds: 1 for each plain thing, inf for a tensor or array, but for tensors of one dtype."""
    if isinstance(value, torch.Tensor):
        return 0 if value.dtype == allowed else math.inf
    if isinstance(value, np.ndarray):
        return math.inf
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple | set) and depth:
        return sum(within(item, allowed, depth - 1) for item in value)
    return len(value) if isinstance(value, bytes | bytearray) else 1


def attributes(node, allowed: torch.dtype | None = None) -> list[str]:
    """The names of a custom function's attributes that keep a tensor, or numbers one by one instead of a tensor."""
    kept = getattr(node, "__dict__", {})
    return [name for name, value in kept.items() if within(value, allowed) > 8]


def no_function(obj) -> str | None:
    """A sentence if the answer is no subclass of Function."""
    if isinstance(obj, type) and issubclass(obj, Function):
        return None
    return "Your class must stay a subclass of torch.autograd.Function, with a forward and a backward of its own."


def guarded(x: torch.Tensor, back, right) -> bool:
    """Whether, after a change of x in place, back() stops because of it, or still finds the right gradient."""
    with torch.no_grad():
        x.add_(1)
    try:
        return compare(back(), right) is None
    except RuntimeError as error:
        return "modified by an inplace operation" in str(error)


def wrong_result(result, x) -> str | None:
    """Why the result of apply cannot be looked at further, or None."""
    if not isinstance(result, torch.Tensor):
        return f"forward must return a tensor; yours returned {type(result).__name__}."
    if result.grad_fn is None:
        return "The result of apply has no node in the graph. Does forward return a tensor that it computed?"
    if result.shape != x.shape:
        return f"forward must keep the shape of x, {tuple(x.shape)}; yours returned {tuple(result.shape)}."
    return None


ABOUT_THE_GRAPH = (
    "returned an incorrect number of gradients",
    "returned a gradient different than None",
    "returned an invalid gradient",
    "Trying to backward through the graph a second time",
    "does not require grad",
    "once_differentiable",
)


def backward(run) -> str | None:
    """None, or what PyTorch said about the graph, without the names of the learner's class."""
    try:
        run()
    except RuntimeError as error:
        said = str(error).partition(". Saved intermediate")[0].partition(" (or directly")[0]
        if not any(known in said for known in ABOUT_THE_GRAPH):
            raise
        return "Going backward, PyTorch stopped: " + re.sub(r"\w+Backward", "your backward", said)
    return None


# ---------------------------------------------------------------------------------------------------------------------
Softplus = Exercise("autograd.functions.Softplus", kind="class")


@Softplus.cases
def _(rng):
    def case(label, x, beta, dtype=torch.float64):
        x = torch.as_tensor(x, dtype=dtype)
        weights = tensor(rng, *x.shape, dtype=dtype), tensor(rng, *x.shape, dtype=dtype)
        return Case(label, x=x, beta=beta, grad=weights[0], nudge=weights[1])

    yield case("two numbers, beta = 1", tensor(rng, 2), 1.0)
    yield case("two numbers, beta = 2", tensor(rng, 2), 2.0)
    yield case("a matrix, beta = 0.5", 3 * tensor(rng, 3, 4), 0.5)
    yield case("a single number", tensor(rng), 1.5)
    yield case("beta is an int", tensor(rng, 2, 3, 2), 3)
    yield case("large numbers of both signs", rng.uniform(500, 900, 4) * [1, -1, 1, -1], 3.0)
    yield case("large negative numbers only", -rng.uniform(30, 40, 3), 1.5)
    yield case("zero among others", [0.0, 0.7, -1.3], 1.7)
    yield case("float32", 2 * tensor(rng, 5), 1.3, torch.float32)
    yield case("float32, large numbers", rng.uniform(100, 300, 3), 1.3, torch.float32)


@Softplus.observe
def _(obj, x, beta, grad, nudge):
    if said := no_function(obj):
        return said
    leaf, arriving = x.clone().requires_grad_(), grad.clone().requires_grad_()
    middle = leaf * 1
    result, saved = packed(lambda: obj.apply(middle, beta))
    if said := wrong_result(result, x):
        return said
    obj.apply(leaf * 0.7 - 0.3, beta + 0.5)  # another call before the first goes backward
    slopes = []
    if said := backward(lambda: slopes.extend(_slopes(result, leaf, arriving, nudge))):
        return said
    slope, second, other = slopes
    size = sum(storage.nbytes() for storage in storages(saved).values())
    value = result.detach()

    fresh = x.clone().requires_grad_()
    changed = fresh * 1
    again = obj.apply(changed, beta)
    return {
        "x is as it was": torch.equal(middle, x),
        "The value": value,
        "The logarithm of the value": value.log(),
        "The gradient in x": slope,
        "The logarithm of the slope": (slope / grad).log().clamp(min=-80),
        "The second derivative": second,
        "The derivative of the gradient in the arriving one": other,
        "The arrays of the size of x that you save": -(-size // x.nbytes),
        "The attributes of ctx that keep a tensor": attributes(result.grad_fn),
        "A change of x in place after forward is noticed": guarded(
            changed, lambda: torch.autograd.grad(again, fresh, grad)[0], slope
        ),
    }


def _slopes(result, leaf, arriving, nudge):
    """The gradient in x, and the derivatives of nudge · gradient in x and in the gradient that arrives."""
    [slope] = torch.autograd.grad(result, leaf, arriving, create_graph=True)
    second = [torch.zeros_like(leaf)] * 2
    if slope.requires_grad:
        if not any(
            x is not None
            for x in torch.autograd.grad(slope, [leaf, arriving], nudge, retain_graph=True, allow_unused=True)
        ):
            slope.backward(nudge)  # a node that leads nowhere: once_differentiable's, which says so
        second = torch.autograd.grad(slope, [leaf, arriving], nudge, materialize_grads=True)
    return slope.detach(), *second


@Softplus.oracle
def _(x, beta, grad, nudge):
    exact = x.double().numpy() * beta
    sigma = np.exp(-np.logaddexp(0, -exact))
    value = np.logaddexp(0, exact) / beta
    curve = beta * sigma * np.exp(-np.logaddexp(0, exact))
    with np.errstate(divide="ignore"):
        # above the smallest float, e^-80, all must agree; below, a float32 may be 0
        seen = {
            "The value": value,
            "The logarithm of the value": np.log(value),
            "The gradient in x": sigma * grad.double().numpy(),
            "The logarithm of the slope": np.maximum(-np.logaddexp(0, -exact), -80),
            "The second derivative": curve * grad.double().numpy() * nudge.double().numpy(),
            "The derivative of the gradient in the arriving one": sigma * nudge.double().numpy(),
        }
    seen = {name: torch.tensor(numbers, dtype=x.dtype) for name, numbers in seen.items()}
    return (
        {"x is as it was": True}
        | seen
        | {
            "The arrays of the size of x that you save": 1,
            "The attributes of ctx that keep a tensor": [],
            "A change of x in place after forward is noticed": True,
        }
    )


Softplus.agree(by_name)


def stable(x, beta):
    return torch.clamp(x, min=0) + torch.log1p(torch.exp(-beta * x.abs())) / beta


class _Softplus(Function):
    """A right one, to be spoilt."""

    @staticmethod
    def forward(ctx, x, beta):
        ctx.save_for_backward(x)
        ctx.beta = beta
        return stable(x, beta)

    @staticmethod
    def backward(ctx, grad):
        return grad * torch.sigmoid(ctx.beta * ctx.saved_tensors[0]), None


@Softplus.mistake
class overflows(_Softplus):
    """You took exp of large numbers: the value becomes inf. Use the form whose exponent is never positive."""

    @staticmethod
    def forward(ctx, x, beta):
        ctx.save_for_backward(x)
        ctx.beta = beta
        return torch.log(1 + torch.exp(beta * x)) / beta


@Softplus.mistake
class log_of_one_plus(_Softplus):
    """Nothing overflows, but 1 + a tiny number is rounded to 1, and its log is 0: for large negative x the value is lost. There is a function that takes the tiny number itself."""

    @staticmethod
    def forward(ctx, x, beta):
        ctx.save_for_backward(x)
        ctx.beta = beta
        return torch.clamp(x, min=0) + torch.log(1 + torch.exp(-beta * x.abs())) / beta


@Softplus.mistake
class beta_left_out_of_the_slope(_Softplus):
    """Your slope is right for beta = 1 only: it is the sigmoid of beta · x."""

    @staticmethod
    def backward(ctx, grad):
        return grad * torch.sigmoid(ctx.saved_tensors[0]), None


@Softplus.mistake
class slope_times_beta(_Softplus):
    """Your slope has a factor beta too many. The inner derivative gives one, and the division by beta in front takes it away again."""

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.beta * torch.sigmoid(ctx.beta * ctx.saved_tensors[0]), None


@Softplus.mistake
class not_divided_by_beta(_Softplus):
    """Your value has log1p(...) as it is; it must be divided by beta, or it is right for beta = 1 only."""

    @staticmethod
    def forward(ctx, x, beta):
        ctx.save_for_backward(x)
        ctx.beta = beta
        return torch.clamp(x, min=0) + torch.log1p(torch.exp(-beta * x.abs()))


@Softplus.mistake(shape=True)
class saved_the_sigmoid(_Softplus):
    """Your first derivative is right and the second is not: what you saved was computed in forward, where nothing is recorded, so it is a constant to the second backward. Save x, and compute the sigmoid in backward."""

    @staticmethod
    def forward(ctx, x, beta):
        ctx.save_for_backward(torch.sigmoid(beta * x))
        return stable(x, beta)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0], None


@Softplus.mistake(shape=True)
class kept_as_an_attribute(_Softplus):
    """Everything is right, but you keep x as an attribute of ctx. There the version counter does not guard it; tensors go into save_for_backward."""

    @staticmethod
    def forward(ctx, x, beta):
        ctx.x, ctx.beta = x, beta
        return stable(x, beta)

    @staticmethod
    def backward(ctx, grad):
        return grad * torch.sigmoid(ctx.beta * ctx.x), None


@Softplus.mistake
class sigmoid_by_hand(_Softplus):
    """Your first derivative is right; in the second, exp of a large number is inf, and inf/inf is nan. torch.sigmoid takes care of that."""

    @staticmethod
    def backward(ctx, grad):
        return grad / (1 + torch.exp(-ctx.beta * ctx.saved_tensors[0])), None


@Softplus.mistake
class arriving_gradient_detached(_Softplus):
    """You cut the arriving gradient off from its past. It may itself depend on x, and then the second derivative misses a part."""

    @staticmethod
    def backward(ctx, grad):
        return grad.detach() * torch.sigmoid(ctx.beta * ctx.saved_tensors[0]), None


@Softplus.mistake(shape=True)
class beta_on_the_class(_Softplus):
    """You keep beta on the class, and all calls share that: the next call overwrites it before this one goes backward. Keep it on ctx, which each call has for itself."""

    @staticmethod
    def forward(ctx, x, beta):
        ctx.save_for_backward(x)
        beta_on_the_class.beta = beta
        return stable(x, beta)

    @staticmethod
    def backward(ctx, grad):
        return grad * torch.sigmoid(beta_on_the_class.beta * ctx.saved_tensors[0]), None


@Softplus.mistake(shape=True)
class forgot_the_none(_Softplus):
    """forward has two inputs besides ctx, x and beta, and backward returned one thing. It must return one for each: None for beta, which is no tensor."""

    @staticmethod
    def backward(ctx, grad):
        return grad * torch.sigmoid(ctx.beta * ctx.saved_tensors[0])


@Softplus.mistake(shape=True)
class wrong_order(_Softplus):
    """You returned a tensor in the place of beta, where None must stand. The order is that of forward's inputs: first x, then beta."""

    @staticmethod
    def backward(ctx, grad):
        return None, grad * torch.sigmoid(ctx.beta * ctx.saved_tensors[0])


@Softplus.mistake(shape=True)
class forgot_the_arriving_gradient(_Softplus):
    """Your backward returns the slope alone. By the chain rule it must be multiplied by `grad`, the gradient that arrives at the result."""

    @staticmethod
    def backward(ctx, grad):
        return torch.sigmoid(ctx.beta * ctx.saved_tensors[0]), None


# ---------------------------------------------------------------------------------------------------------------------
RoundStraightThrough = Exercise("autograd.functions.RoundStraightThrough", kind="class")


@RoundStraightThrough.cases
def _(rng):
    def case(label, x, low, high, dtype=torch.float64):
        x = torch.as_tensor(x, dtype=dtype)
        return Case(label, x=x, low=low, high=high, grad=tensor(rng, *x.shape, dtype=dtype))

    inside = rng.uniform(-1.45, 2.45, (3, 4))
    yield case("two numbers inside", [0.7, -1.2], -2, 3)
    yield case("one below, one above", [-3.2, 0.7, 1.3], -2, 1)
    yield case("far outside", [-9.4, 8.7, 1.6], -2, 3)
    yield case("a matrix inside", inside, -2, 3)
    yield case("a matrix, some outside", rng.uniform(-6, 7, (4, 5)), -3, 2)
    yield case("exactly at the ends", [-2.0, 3.0, 1.1], -2, 3)
    yield case("outside, though its rounded number is not", [3.3, -2.4, 1.2], -2, 3)
    yield case("halves", [0.5, 1.5, -0.5, 2.5], -4, 5)
    yield case("both ends positive", rng.uniform(0, 9, (2, 3, 3)), 3, 6)
    yield case("a single number", 1.7, -3, 4)
    yield case("float32", rng.uniform(-4, 4, 9), -1, 3, torch.float32)


@RoundStraightThrough.observe
def _(obj, x, low, high, grad):
    if said := no_function(obj):
        return said
    leaf = x.clone().requires_grad_()
    middle = leaf * 1
    result, saved = packed(lambda: obj.apply(middle, low, high))
    if said := wrong_result(result, x):
        return said
    obj.apply(3.7 - leaf, low - 1, high)  # another call before the first goes backward
    slopes = []
    if said := backward(lambda: slopes.extend(torch.autograd.grad(result, leaf, grad))):
        return said
    size = sum(storage.nbytes() for storage in storages(saved).values())
    return {
        "x is as it was": torch.equal(middle, x),
        "The value": result.detach(),
        "The gradient in x": slopes[0],
        "The bytes that you save for each number": max(1, -(-size // x.numel())),
        "The attributes of ctx that keep tensors or lists": attributes(result.grad_fn),
    }


@RoundStraightThrough.oracle
def _(x, low, high, grad):
    numbers = x.numpy()
    inside = np.logical_and(numbers >= low, numbers <= high)
    value = np.minimum(np.maximum(np.rint(numbers), low), high).astype(numbers.dtype)
    return {
        "x is as it was": True,
        "The value": torch.tensor(value),
        "The gradient in x": torch.tensor(np.where(inside, grad.numpy(), 0).astype(numbers.dtype)),
        "The bytes that you save for each number": 1,
        "The attributes of ctx that keep tensors or lists": [],
    }


RoundStraightThrough.agree(by_name)


def _rounder(make_mask, value=lambda x, low, high: torch.round(x).clamp(low, high)):
    class Rounder(Function):
        @staticmethod
        def forward(ctx, x, low, high):
            ctx.save_for_backward(make_mask(x, low, high))
            return value(x, low, high)

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.saved_tensors[0], None, None

    return Rounder


@RoundStraightThrough.mistake
class passes_everything(_rounder(lambda x, low, high: torch.ones_like(x, dtype=torch.bool))):
    """You hand the gradient through everywhere. Where x is below low or above high the result is stuck, and the gradient is 0."""


@RoundStraightThrough.mistake
class looks_at_the_rounded_number(
    _rounder(lambda x, low, high: (torch.round(x) >= low) & (torch.round(x) <= high))
):
    """You compared the rounded number with the range. A number just outside rounds to the end of the range, and its gradient must still be 0: compare x itself."""


@RoundStraightThrough.mistake
class without_the_ends(_rounder(lambda x, low, high: (x > low) & (x < high))):
    """You leave out the ends of the range. A number that is exactly low or high is inside, and its gradient passes."""


@RoundStraightThrough.mistake(shape=True)
class masks_the_wrong_side(_rounder(lambda x, low, high: (x < low) | (x > high))):
    """You let the gradient pass outside the range and stop it inside. It is the other way round."""


@RoundStraightThrough.mistake
class only_below_high(_rounder(lambda x, low, high: x <= high)):
    """You stop the gradient above high, but not below low. Both ends count."""


@RoundStraightThrough.mistake
class only_above_low(_rounder(lambda x, low, high: x >= low)):
    """You stop the gradient below low, but not above high. Both ends count."""


@RoundStraightThrough.mistake
class not_kept_in_the_range(
    _rounder(lambda x, low, high: (x >= low) & (x <= high), lambda x, low, high: torch.round(x))
):
    """You round, but the result leaves the range. It must be kept between low and high."""


@RoundStraightThrough.mistake
class rounds_down(
    _rounder(
        lambda x, low, high: (x >= low) & (x <= high), lambda x, low, high: torch.floor(x).clamp(low, high)
    )
):
    """You cut off what is behind the point instead of rounding to the nearest whole number."""


@RoundStraightThrough.mistake
class rounds_halves_up(
    _rounder(
        lambda x, low, high: (x >= low) & (x <= high),
        lambda x, low, high: torch.floor(x + 0.5).clamp(low, high),
    )
):
    """You round every half up. As torch.round does it, a half goes to the even neighbour."""


@RoundStraightThrough.mistake(shape=True)
class saves_all_of_x(Function):
    """Value and gradient are right, but you save x itself: several bytes for each number. Backward needs one yes or no for each; save that."""

    @staticmethod
    def forward(ctx, x, low, high):
        ctx.save_for_backward(x)
        ctx.low, ctx.high = low, high
        return torch.round(x).clamp(low, high)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * ((x >= ctx.low) & (x <= ctx.high)), None, None


@RoundStraightThrough.mistake(shape=True)
class mask_as_an_attribute(Function):
    """Value and gradient are right, but you keep a tensor as an attribute of ctx. Tensors go into save_for_backward."""

    @staticmethod
    def forward(ctx, x, low, high):
        ctx.inside = (x >= low) & (x <= high)
        return torch.round(x).clamp(low, high)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.inside, None, None


@RoundStraightThrough.mistake
class rounds_in_place(Function):
    """You changed the caller's x in place: methods that end in _ do that. Make a new tensor."""

    @staticmethod
    def forward(ctx, x, low, high):
        ctx.save_for_backward((x >= low) & (x <= high))
        return torch.round(x.clamp_(low, high))

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0], None, None


@RoundStraightThrough.mistake(shape=True)
class too_few_nones(_rounder(lambda x, low, high: (x >= low) & (x <= high))):
    """forward has three inputs besides ctx: x, low and high. backward must return one thing for each: the gradient of x, and None twice."""

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0]


# ---------------------------------------------------------------------------------------------------------------------
saved_bytes = Exercise("autograd.functions.saved_bytes")


BYTES: dict[str, int] = {}  # for each text of a function, counted by hand for the shapes of its case


@saved_bytes.cases
def _(rng):
    def case(label, f, number, *inputs, held=(), dtype=torch.float32):
        BYTES[f] = number
        made = [wanting(tensor(rng, *shape, dtype=dtype)) for shape in inputs]
        kept = [wanting(tensor(rng, *shape, dtype=dtype)) for shape in held]
        return Case(label, f=f, inputs=made, held=kept)

    yield case("nothing to save", "x + y", 0, (2,), (2,))
    yield case("the result of exp", "x.exp()", 8, (2,))
    yield case("only inputs", "(x * y).sum()", 0, (3,), (3,))
    yield case("one storage, saved three times", "(lambda u: u * u)(x.exp())", 12, (3,))
    yield case("two results", "x.exp().tanh().sum()", 48, (2, 3))
    yield case("float64", "(x * 2).exp().tanh()", 80, (5,), dtype=torch.float64)
    yield case("a view of a result", "(x * 2)[0].sin()", 48, (4, 3))
    yield case("two views of one result", "(lambda u: u[0] * u[1])(x + 1)", 48, (4, 3))
    yield case("a view of an input", "x[1].sin() * x.T[0, 2]", 12, (4, 3))
    yield case("two results of one shape", "(x + 1) @ (x + 2).T", 48, (2, 3))
    yield case("a result and its transpose", "(lambda u: u @ u.T)(x + 1)", 24, (2, 3))
    yield case("a choice, which saves True and False", "torch.where(x > 0, 3 * x, x)", 7, (7,))
    yield case("a parameter that is held", "(x + y) @ z", 32, (4, 2), (2,), held=[(2, 3)])
    yield case("a view of what is held", "(x + y) @ z.T", 32, (4, 2), (2,), held=[(3, 2)])
    yield case("two tensors are held", "(x + y) * y + (x + z) * z", 24, (3,), held=[(3,), (3,)])
    yield case("a result and its detached twin", "(lambda u: u * (x * u.detach()))(x + 1)", 24, (3,))
    yield case("held, and no other", "(x * z).sum() + y.sum()", 0, (3,), (1,), held=[(3,)])
    text = "torch.autograd.grad(x.exp().sum(), x)[0] + x.tanh()"
    yield case("f goes backward itself", text, 24, (3,))
    yield case("single numbers", "(x * y).exp() * x.sin()", 8, (), ())
    text = "[torch.autograd.grad((x + k).exp().sum(), x)[0].sum().item() for k in range(8)]"
    label = "f goes backward eight times, and each time frees what it saved"
    yield case(label, text, 8 * 4 * 3000, (50, 60))
    large = tensor(rng, 5, dtype=torch.float32)
    part = large[2:].detach().requires_grad_()
    BYTES["x.sin() + x.cos()"] = 0
    BYTES["(x + 1).sin() * y"] = 12
    plain = [tensor(rng, 3, dtype=torch.float32), wanting(tensor(rng, 3, dtype=torch.float32))]
    yield Case("an input that wants no gradient", f="(x + 1).sin() * y", inputs=plain, held=[])
    yield Case("the input is a part of something larger", f="x.sin() + x.cos()", inputs=[part], held=[])


def switch_hooks_off() -> bool:
    """Whether hooks on saved tensors were in use."""
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x)
    in_use = False
    while True:
        try:  # PyTorch refuses to forbid hooks while some are in use
            with torch.autograd.graph.disable_saved_tensors_hooks(""):
                return in_use
        except RuntimeError:
            hooks.__exit__(None, None, None)
            in_use = True


@saved_bytes.observe
def _(obj, f, inputs, held):
    calls = []
    run = function(f, len(inputs) + len(held))

    def counted(*given):
        calls.append(1)
        return run(*given, *held)

    switch_hooks_off()  # those that an earlier answer left on
    number = obj(counted, inputs, held) if held else obj(counted, inputs)
    left_on = switch_hooks_off()
    if number is None:
        return None
    if isinstance(number, torch.Tensor):
        return "You returned a tensor. Return a plain number of bytes."
    return {
        "The number of bytes": number,
        "How often f ran": len(calls),
        "The hooks are still in use afterwards": left_on,
        "The tensors that have a .grad afterwards": sum(x.grad is not None for x in [*inputs, *held]),
    }


@saved_bytes.oracle
def _(f, inputs, held):
    return {
        "The number of bytes": BYTES[f],
        "How often f ran": 1,
        "The hooks are still in use afterwards": False,
        "The tensors that have a .grad afterwards": 0,
    }


saved_bytes.agree(by_name)


def _count(f, inputs):
    return packed(lambda: f(*inputs))[1]


def _address(x):
    return x.untyped_storage().data_ptr()


@saved_bytes.mistake
def counts_every_save(f, inputs, held=()):
    """You count a storage once for each time that it is saved. It lies in memory only once."""
    known = storages([*inputs, *held])
    saved = _count(f, inputs)
    return sum(x.untyped_storage().nbytes() for x in saved if _address(x) not in known)


@saved_bytes.mistake
def counts_the_inputs(f, inputs, held=()):
    """You count the inputs and held tensors too. The caller keeps those anyway; leave their storages out."""
    return sum(s.nbytes() for s in storages(_count(f, inputs)).values())


@saved_bytes.mistake
def forgets_held(f, inputs, held=()):
    """You leave out the inputs, but not the tensors in `held`, which the caller keeps as well."""
    known = storages(inputs)
    return sum(s.nbytes() for a, s in storages(_count(f, inputs)).items() if a not in known)


@saved_bytes.mistake
def forgets_the_inputs(f, inputs, held=()):
    """You leave out the tensors in `held`, but not the inputs, which the caller keeps as well."""
    known = storages(held)
    return sum(s.nbytes() for a, s in storages(_count(f, inputs)).items() if a not in known)


@saved_bytes.mistake
def counts_the_view(f, inputs, held=()):
    """You count the numbers of the saved tensor. A view keeps its whole storage alive, also the part that it does not show."""
    known = storages([*inputs, *held])
    saved = {_address(x): x.nbytes for x in _count(f, inputs)}
    return sum(size for address, size in saved.items() if address not in known)


@saved_bytes.mistake
def counts_numbers(f, inputs, held=()):
    """You count tensors of any kind as four bytes a number. A float64 has eight, a True or False has one; the storage knows its bytes."""
    known = storages([*inputs, *held])
    saved = {_address(x): x for x in _count(f, inputs)}
    return sum(
        4 * (x.untyped_storage().nbytes() // x.element_size())
        for address, x in saved.items()
        if address not in known
    )


@saved_bytes.mistake
def pack_returns_nothing(f, inputs, held=()):
    """Your pack (or unpack) returns nothing, so the graph keeps None instead of the tensor. As soon as somebody goes backward, that is an error."""
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda x: x):
        f(*inputs)
    known = storages([*inputs, *held])
    return sum(s.nbytes() for a, s in storages(saved).items() if a not in known)


# ---------------------------------------------------------------------------------------------------------------------
Checkpoint = Exercise("autograd.functions.Checkpoint", kind="class")


@Checkpoint.cases
def _(rng):
    def case(label, functions, inputs, w=None, held=None):
        w = wanting(tensor(rng, *(w or (1,))), held)
        with torch.no_grad():  # the shape of the result
            shape = _compose(functions, w, None)(*inputs).shape
        return Case(label, functions=functions, inputs=inputs, w=w, grad=tensor(rng, *shape))

    def some(*shape, held=None):
        return wanting(tensor(rng, *shape), held)

    yield case("one input", ["x ** 2"], [some(2)])
    yield case("two inputs", ["x * y.exp()"], [some(3), some(3)])
    yield case("a parameter", ["w * x ** 2"], [some(2)], w=(2,))
    yield case("three inputs that broadcast", ["((x + y) * z).tanh()"], [some(3, 1), some(4), some(3, 4)])
    yield case("a matrix as parameter", ["torch.tanh(x @ w) + x"], [some(2, 3)], w=(3, 3))
    yield case("the first input wants no gradient", ["x * y ** 2"], [tensor(rng, 3), some(3)])
    yield case("the last input wants no gradient", ["x ** 3 / y"], [some(3), tensor(rng, 3)])
    indices = torch.tensor([2, 0, 2])
    yield case("whole numbers as second input", ["embedding(y, x) ** 2"], [some(4, 2), indices])
    same = some(3)
    yield case("the same tensor twice", ["x ** 2 * y.sin()"], [same, same])
    yield case("gradients are there already", ["w * x ** 2"], [some(2, held=3.0)], w=(2,), held=-2.0)
    yield case("dropout", ["dropout(x * x, 0.5) + x"], [some(40)])
    yield case("dropout and a parameter", ["dropout(torch.tanh(x @ w), 0.3)"], [some(9, 4)], w=(4, 5))
    two = ["torch.tanh(x @ w)", "dropout(x, 0.4).sin() @ w.T"]
    yield case("two checkpoints, one after the other", two, [some(5, 4)], w=(4, 4))


def _compose(functions, w, apply):
    """The functions one after the other, each called by apply(function, *inputs)."""
    apply = apply or (lambda f, *given: f(*given))
    names = {"torch": torch, "dropout": dropout, "embedding": embedding, "w": w}

    def run(*given):
        for text in functions:
            arguments = ", ".join("xyz"[: len(given)])
            given = (apply(eval(f"lambda {arguments}: {text}", names), *given),)
        return given[0]

    return run


def _with_a_past(inputs):
    """The inputs, those that want a gradient as results of an operation that saves something."""
    made = {id(x): x * torch.ones_like(x) if x.requires_grad else x for x in inputs}
    return [made[id(x)] for x in inputs]


def _go_back(result, grad, given):
    """Backward from the result, and on a second road from the inputs themselves."""
    roads = [x for x in given if x.requires_grad]
    torch.autograd.backward([result, *roads], [grad, *[torch.full_like(x, 0.25) for x in roads]])


def _start(seed=7):
    """The dice, somewhere on their way."""
    torch.manual_seed(seed)
    torch.rand(3)


def _spy(obj, returned):
    """The class, with a note of the places in which backward returns None."""

    class Spy(obj):
        @staticmethod
        def backward(ctx, *grads):
            made = obj.backward(ctx, *grads)
            if isinstance(made, tuple | list):
                returned.append([place for place, item in enumerate(made) if item is None])
            return made

    return Spy


@Checkpoint.observe
def _(obj, functions, inputs, w, grad):
    if said := no_function(obj):
        return said
    modes, results, returned = [], [], []
    given = _with_a_past(inputs)
    apply = _spy(obj, returned).apply

    def counting(f, *arguments):
        def counted(*xs):
            modes.append(torch.is_grad_enabled())
            return f(*xs)

        results.append(apply(counted, *arguments))
        return results[-1]

    _start()
    result, saved = packed(lambda: _compose(functions, w, counting)(*given))
    for made in results:
        if not isinstance(made, torch.Tensor):
            return f"forward must return what the function returned; yours returned {type(made).__name__}."
    forward_modes, drawn = list(modes), torch.rand(2)
    modes.clear()
    if result.grad_fn is None:
        return "The result of apply has no node in the graph."
    obj.apply(lambda x: x.cos(), tensor_of_another_call())
    state = torch.get_rng_state()
    nodes = [made.grad_fn for made in results]
    # the state of the generator, a tensor of bytes, may be kept in either way
    kept = [name for node in nodes for name in attributes(node, allowed=torch.uint8)]
    known = storages([*given, *results[:-1]])
    extra = [x for x in saved if x.dtype != torch.uint8 and _address(x) not in known]
    if said := backward(lambda: _go_back(result, grad, given)):
        return said
    kept += [name for node in nodes for name in attributes(node, allowed=torch.uint8)]
    seen = {
        "The value": result.detach(),
        "The random numbers drawn after forward": drawn,
        "The generator is where it was before backward": torch.equal(state, torch.get_rng_state()),
        "In the runs of function in forward, recording is on": forward_modes,
        "In the runs of function in backward, recording is on": list(modes),
        "The saved tensors that are no inputs": len(extra),
        "The attributes of ctx that keep a tensor": sorted(set(kept)),
    }
    gradients = {f"The gradient in {name}": x.grad for name, x in zip("xyz", inputs, strict=False)}
    return (
        seen
        | gradients
        | {
            "The gradient in the parameter w": w.grad,
            "The places in which backward returns None": returned,
            "A change of x in place after forward is noticed": _checkpoint_guarded(obj),
        }
    )


def tensor_of_another_call() -> torch.Tensor:
    return torch.tensor([0.3, 0.6], dtype=torch.float64, requires_grad=True)


def _checkpoint_guarded(obj) -> bool:
    leaf = tensor_of_another_call()
    x = leaf * 1
    result = obj.apply(lambda x: x**3, x)
    right = 3 * leaf.detach() ** 2
    return guarded(x, lambda: torch.autograd.grad(result.sum(), leaf)[0], right)


@Checkpoint.oracle
def _(functions, inputs, w, grad):
    given = _with_a_past(inputs)
    _start()
    result = _compose(functions, w, None)(*given)
    drawn = torch.rand(2)
    _go_back(result, grad, given)
    seen = {
        "The value": result.detach(),
        "The random numbers drawn after forward": drawn,
        "The generator is where it was before backward": True,
        "In the runs of function in forward, recording is on": [False] * len(functions),
        "In the runs of function in backward, recording is on": [True] * len(functions),
        "The saved tensors that are no inputs": 0,
        "The attributes of ctx that keep a tensor": [],
    }
    gradients = {f"The gradient in {name}": x.grad for name, x in zip("xyz", inputs, strict=False)}
    none = [0] + [place for place, x in enumerate(inputs, 1) if not x.requires_grad]
    return (
        seen
        | gradients
        | {
            "The gradient in the parameter w": w.grad,
            "The places in which backward returns None": [none] * len(functions),
            "A change of x in place after forward is noticed": True,
        }
    )


Checkpoint.agree(by_name)


class _Checkpoint(Function):
    """A right one, in steps that a mistake can replace."""

    @staticmethod
    def forward(ctx, function, *inputs):
        ctx.function, ctx.state = function, torch.get_rng_state()
        ctx.save_for_backward(*inputs)
        return function(*inputs)

    @classmethod
    def again(cls, ctx, wants=None, state=None, restore=True, detach=True):
        """Fresh leaves, and the function of them."""
        needed = ctx.needs_input_grad[1:] if wants is None else [wants] * len(ctx.saved_tensors)
        leaves = list(ctx.saved_tensors)
        if detach:
            leaves = [x.detach().requires_grad_(n) for x, n in zip(leaves, needed, strict=True)]
        present = torch.get_rng_state()
        torch.set_rng_state(ctx.state if state is None else state)
        with torch.enable_grad():
            y = ctx.function(*leaves)
        if restore:
            torch.set_rng_state(present)
        return leaves, y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        leaves, y = _Checkpoint.again(ctx)
        torch.autograd.backward(y, grad)
        return None, *[leaf.grad for leaf in leaves]


@Checkpoint.mistake
class new_dice(_Checkpoint):
    """The second run threw new dice: dropout dropped other numbers than in forward, so your gradient is that of another function. Remember the generator's state before the first run, and set it before the second."""

    @staticmethod
    def backward(ctx, grad):
        leaves, y = _Checkpoint.again(ctx, state=torch.get_rng_state())
        torch.autograd.backward(y, grad)
        return None, *[leaf.grad for leaf in leaves]


@Checkpoint.mistake(shape=True)
class dice_left_behind(_Checkpoint):
    """Your gradients are right, but backward leaves the generator in the old state, so later draws repeat earlier ones. Put its present state back after the second run."""

    @staticmethod
    def backward(ctx, grad):
        leaves, y = _Checkpoint.again(ctx, restore=False)
        torch.autograd.backward(y, grad)
        return None, *[leaf.grad for leaf in leaves]


@Checkpoint.mistake
class state_after_the_first_run(_Checkpoint):
    """You read the generator's state after the function had run in forward. By then its dice were thrown; read the state before."""

    @staticmethod
    def forward(ctx, function, *inputs):
        ctx.save_for_backward(*inputs)
        y = function(*inputs)
        ctx.function, ctx.state = function, torch.get_rng_state()
        return y


@Checkpoint.mistake
class parameters_forgotten(_Checkpoint):
    """The gradients of the inputs are right, but parameters that the function uses get none: you asked for the inputs' slopes only. Start a backward pass that writes into all leaves."""

    @staticmethod
    def backward(ctx, grad):
        leaves, y = _Checkpoint.again(ctx)
        slopes = iter(torch.autograd.grad(y, [leaf for leaf in leaves if leaf.requires_grad], grad))
        return None, *[next(slopes) if leaf.requires_grad else None for leaf in leaves]


@Checkpoint.mistake(shape=True)
class ignores_the_arriving_gradient(_Checkpoint):
    """You went backward from the sum of the result. The gradient that arrives, `grad`, says how strongly each of its numbers moves the loss; start from y with it."""

    @staticmethod
    def backward(ctx, grad):
        leaves, y = _Checkpoint.again(ctx)
        torch.autograd.backward(y, torch.ones_like(y))
        return None, *[leaf.grad for leaf in leaves]


@Checkpoint.mistake
class wants_all_gradients(_Checkpoint):
    """You let every input want a gradient. Whole numbers, such as indices, cannot; ctx.needs_input_grad says which inputs want one."""

    @staticmethod
    def backward(ctx, grad):
        leaves, y = _Checkpoint.again(ctx, wants=True)
        torch.autograd.backward(y, grad)
        return None, *[leaf.grad for leaf in leaves]


@Checkpoint.mistake
class needs_off_by_one(_Checkpoint):
    """ctx.needs_input_grad has an entry for *every* argument of apply, and the first is that of `function`. The one of the first tensor comes after it."""

    @staticmethod
    def backward(ctx, grad):
        needed = [*ctx.needs_input_grad[2:], ctx.needs_input_grad[1]]
        leaves = [x.detach().requires_grad_(n) for x, n in zip(ctx.saved_tensors, needed, strict=True)]
        present = torch.get_rng_state()
        torch.set_rng_state(ctx.state)
        with torch.enable_grad():
            y = ctx.function(*leaves)
        torch.set_rng_state(present)
        torch.autograd.backward(y, grad)
        return None, *[leaf.grad for leaf in leaves]


@Checkpoint.mistake(shape=True)
class not_detached(_Checkpoint):
    """You ran the function on the saved inputs themselves. They have a past: your backward pass runs on through it, and the graph does it again. Cut each input off first, as a fresh leaf."""

    @staticmethod
    def backward(ctx, grad):
        inputs, y = _Checkpoint.again(ctx, detach=False)
        torch.autograd.backward(y, grad)
        return None, *[x.grad if x.is_leaf else None for x in inputs]


@Checkpoint.mistake(shape=True)
class recording_off(_Checkpoint):
    """backward runs with recording off, so the second run left no graph to go backward through. Switch recording on around it."""

    @staticmethod
    def backward(ctx, grad):
        leaves = [x.detach().requires_grad_() for x in ctx.saved_tensors]
        with torch.no_grad():
            y = ctx.function(*leaves)
        torch.autograd.backward(y, grad)
        return None, *[leaf.grad for leaf in leaves]


@Checkpoint.mistake(shape=True)
class forgot_the_none_for_function(_Checkpoint):
    """You returned the gradients of the inputs only. `function` is the first argument of apply, and needs its None."""

    @staticmethod
    def backward(ctx, grad):
        leaves, y = _Checkpoint.again(ctx)
        torch.autograd.backward(y, grad)
        return tuple(leaf.grad for leaf in leaves)


@Checkpoint.mistake(shape=True)
class inputs_as_attributes(_Checkpoint):
    """Everything is right, but you keep the inputs as attributes of ctx. Nothing guards them there against a change in place: save them for backward."""

    @staticmethod
    def forward(ctx, function, *inputs):
        ctx.function, ctx.state, ctx.inputs = function, torch.get_rng_state(), inputs
        return function(*inputs)

    @staticmethod
    def backward(ctx, grad):
        needed = ctx.needs_input_grad[1:]
        leaves = [x.detach().requires_grad_(n) for x, n in zip(ctx.inputs, needed, strict=True)]
        present = torch.get_rng_state()
        torch.set_rng_state(ctx.state)
        with torch.enable_grad():
            y = ctx.function(*leaves)
        torch.set_rng_state(present)
        torch.autograd.backward(y, grad)
        return None, *[leaf.grad for leaf in leaves]


@Checkpoint.mistake(shape=True)
class kept_on_the_class(_Checkpoint):
    """You keep the function on the class, and all calls share that: the next call overwrites it before this one goes backward. Keep it on ctx, which each call has for itself."""

    @staticmethod
    def forward(ctx, function, *inputs):
        kept_on_the_class.function, ctx.state = function, torch.get_rng_state()
        ctx.save_for_backward(*inputs)
        return function(*inputs)

    @staticmethod
    def backward(ctx, grad):
        ctx.function = kept_on_the_class.function
        return _Checkpoint.backward(ctx, grad)


@Checkpoint.mistake
class zeros_for_none(_Checkpoint):
    """You return a gradient for an input that wants none. Computing it is wasted work: its place gets None."""

    @staticmethod
    def backward(ctx, grad):
        leaves, y = _Checkpoint.again(ctx)
        torch.autograd.backward(y, grad)
        return None, *[torch.zeros_like(x) if x.grad is None else x.grad for x in leaves]


@Checkpoint.mistake(shape=True)
class ran_in_forward_for_good(_Checkpoint):
    """The gradients are right, but you record in forward and go backward through that graph: everything is kept, nothing is saved. Record only in the second run, in backward."""

    @staticmethod
    def forward(ctx, function, *inputs):
        ctx.save_for_backward(*inputs)
        needed = ctx.needs_input_grad[1:]
        leaves = [x.detach().requires_grad_(n) for x, n in zip(inputs, needed, strict=True)]
        with torch.enable_grad():
            ctx.y = function(*leaves)
        ctx.leaves = leaves
        return ctx.y.detach()

    @staticmethod
    def backward(ctx, grad):
        torch.autograd.backward(ctx.y, grad)
        return None, *[leaf.grad for leaf in ctx.leaves]


# ---------------------------------------------------------------------------------------------------------------------
checkpoint_segments = Exercise("autograd.functions.checkpoint_segments")


@checkpoint_segments.cases
def _(rng):
    def case(label, depth, segments, drop=0.0, width=3, change=False):
        return Case(
            label,
            weights=[wanting(tensor(rng, width, width)) for _ in range(depth)],
            x=tensor(rng, 4, width),
            segments=segments,
            drop=drop,
            change=change,
        )

    yield case("one layer", 1, 1, width=1)
    yield case("two layers in two segments", 2, 2, width=2)
    yield case("three layers in one segment", 3, 1)
    yield case("three layers, each a segment", 3, 3)
    yield case("four layers in two segments", 4, 2)
    yield case("four other layers in two segments", 4, 2)
    yield case("six layers in three segments", 6, 3)
    yield case("seven layers in three segments", 7, 3)
    yield case("five layers in four segments", 5, 4)
    yield case("eight layers in three segments, with dropout", 8, 3, drop=0.3)
    yield case("the list of layers is changed after forward", 5, 2, change=True)


def _make_layers(weights, drop, log):
    def make(number, w):
        def layer(x):
            log.append(number)
            return x + dropout(torch.tanh(x @ w), drop, training=drop > 0)

        return layer

    return [make(number, w) for number, w in enumerate(weights)]


@checkpoint_segments.observe
def _(obj, weights, x, segments, drop, change):
    log = []
    layers = _make_layers(weights, drop, log)
    before = list(layers)
    leaf = x.clone().requires_grad_()
    _start(3)
    result, saved = packed(lambda: obj(layers, leaf, segments))
    if result is None:
        return None
    if not isinstance(result, torch.Tensor):
        return "You must return a tensor, the result of the last layer."
    intact, drawn = layers == before, torch.rand(2)
    forward = list(log)
    log.clear()
    if change:
        layers.reverse()
    (result**2).sum().backward()
    known = storages([leaf, *weights])
    extra = {a: s.nbytes() for a, s in storages(t for t in saved if t.dtype.is_floating_point).items()}
    arrays = sum(size for address, size in extra.items() if address not in known) / x.nbytes
    seen = {
        "The value": result.detach(),
        "The random numbers drawn after forward": drawn,
        "The layers that run in forward": forward,
        "The layers that run in backward": list(log),
        "The saved arrays besides x": arrays,
        "The list of layers is unchanged": intact,
        "The gradient in x": leaf.grad,
    }
    return seen | {f"The gradient in the weight of layer {k}": w.grad for k, w in enumerate(weights)}


@checkpoint_segments.oracle
def _(weights, x, segments, drop, change):
    leaf = x.clone().requires_grad_()
    _start(3)
    result = leaf
    for layer in _make_layers(weights, drop, []):
        result = layer(result)
    drawn = torch.rand(2)
    (result**2).sum().backward()
    everything = list(range(len(weights)))
    ends = [len(weights) * k // segments for k in range(segments + 1)]
    stretches = [everything[ends[k] : ends[k + 1]] for k in range(segments)]
    seen = {
        "The value": result.detach(),
        "The random numbers drawn after forward": drawn,
        "The layers that run in forward": everything,
        "The layers that run in backward": [number for part in reversed(stretches) for number in part],
        "The saved arrays besides x": float(segments - 1),
        "The list of layers is unchanged": True,
        "The gradient in x": leaf.grad,
    }
    return seen | {f"The gradient in the weight of layer {k}": w.grad for k, w in enumerate(weights)}


checkpoint_segments.agree(by_name)


def _edges(layers, segments):
    edges = [len(layers) * k // segments for k in range(segments + 1)]
    return list(pairwise(edges))


def _chain(layers):
    def run(x):
        for layer in layers:
            x = layer(x)
        return x

    return run


@checkpoint_segments.mistake
def looked_up_too_late(layers, x, segments):
    """In backward all your stretches run the layers of the last one: a function looks up start and end when it runs, and by then the loop is over. Give each function its own list when it is defined."""
    for start, end in _edges(layers, segments):

        def stretch(x):
            for layer in layers[start:end]:  # noqa: B023
                x = layer(x)
            return x

        x = _Checkpoint.apply(stretch, x)
    return x


@checkpoint_segments.mistake
def looks_at_the_list_later(layers, x, segments):
    """Each stretch has its own start and end, but takes its layers from the caller's list when it runs. If the list has changed by then, backward runs other layers than forward. Take the slice when the stretch is defined."""
    for start, end in _edges(layers, segments):

        def stretch(x, start=start, end=end):
            for layer in layers[start:end]:
                x = layer(x)
            return x

        x = _Checkpoint.apply(stretch, x)
    return x


@checkpoint_segments.mistake
def one_checkpoint_for_all(layers, x, segments):
    """You put one checkpoint around all layers. Backward then fills the whole network at once; there must be `segments` checkpoints."""
    return _Checkpoint.apply(_chain(list(layers)), x)


@checkpoint_segments.mistake
def one_checkpoint_for_each_layer(layers, x, segments):
    """You put a checkpoint around every layer. There must be one around each stretch of layers, `segments` in all."""
    for layer in list(layers):
        x = _Checkpoint.apply(layer, x)
    return x


@checkpoint_segments.mistake(shape=True)
def no_checkpoint(layers, x, segments):
    """The gradients are right, but backward runs no layer again: you recorded the layers in forward, so that everything is saved. Hand each stretch to Checkpoint.apply."""
    return _chain(list(layers))(x)


@checkpoint_segments.mistake
def begins_at_the_start(layers, x, segments):
    """Each of your stretches begins at the first layer. It must begin where the one before it ended."""
    for _, end in _edges(layers, segments):
        x = _Checkpoint.apply(_chain(layers[:end]), x)
    return x


@checkpoint_segments.mistake
def stretches_not_joined(layers, x, segments):
    """Every stretch of yours begins with the x that was given. The result of a stretch goes into the next one."""
    for start, end in _edges(layers, segments):
        y = _Checkpoint.apply(_chain(layers[start:end]), x)
    return y
