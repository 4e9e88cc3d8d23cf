"""The lesson autograd.functions: its operations against torch's own, and answers found in an attack."""

import gc
import weakref

import pytest
import torch
import torch.utils.checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import Function
from torch.nn.functional import dropout

from groundup.autograd.functions import (
    Checkpoint,
    RoundStraightThrough,
    Softplus,
    checkpoint_segments,
    saved_bytes,
    stretches,
)
from groundup.check import grade

seeds = st.integers(0, 2**31 - 1)


def leaf(*shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@settings(max_examples=30, deadline=None)
@given(seeds, st.floats(0.1, 5), st.lists(st.integers(1, 3), max_size=2))
def test_softplus_passes_gradcheck_twice_and_equals_torch(seed, beta, shape):
    torch.manual_seed(seed)
    x = leaf(*shape)
    assert torch.autograd.gradcheck(Softplus.apply, (x, beta))
    assert torch.autograd.gradgradcheck(Softplus.apply, (x, beta))
    expected = torch.nn.functional.softplus(x, beta, threshold=1e9)
    torch.testing.assert_close(Softplus.apply(x, beta), expected)


@settings(max_examples=50, deadline=None)
@given(seeds, st.integers(-5, 0), st.integers(1, 5))
def test_the_gradient_passes_where_a_clamp_would_let_it(seed, low, high):
    torch.manual_seed(seed)
    x = (4 * torch.randn(20)).requires_grad_()
    y = RoundStraightThrough.apply(x, low, high)
    [slope] = torch.autograd.grad((y * y.detach()).sum(), x)
    torch.testing.assert_close(y.detach(), x.detach().clamp(low, high).round())
    [clamped] = torch.autograd.grad((x.clamp(low, high) * y.detach()).sum(), x)
    torch.testing.assert_close(slope, clamped)


def stack(depth, drop):
    weights = [leaf(3, 3) for _ in range(depth)]
    layers = [lambda x, w=w: dropout(x + torch.tanh(x @ w), drop) for w in weights]
    return weights, layers


def run_all(layers, x):
    for layer in layers:
        x = layer(x)
    return x


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 7), st.data())
def test_segments_equal_the_plain_network_and_torchs_checkpoint(seed, depth, data):
    segments = data.draw(st.integers(1, depth))
    torch.manual_seed(seed)
    weights, layers = stack(depth, 0.3)
    x = leaf(5, 3)

    def by_torch(layers, x, segments):
        for own in stretches(layers, segments):
            x = torch.utils.checkpoint.checkpoint(run_all, own, x, use_reentrant=False)
        return x

    seen = []
    for run in (lambda layers, x, _: run_all(layers, x), checkpoint_segments, by_torch):
        torch.manual_seed(seed)
        for w in [x, *weights]:
            w.grad = None
        y = run(layers, x, segments)
        (y**2).sum().backward()
        saved = saved_bytes(lambda x, run=run: run(layers, x, segments), [x], weights)
        seen.append((saved, [y.detach(), torch.rand(2), *(w.grad for w in [x, *weights])]))
    for _, tensors in seen[1:]:
        torch.testing.assert_close(tensors[0], seen[0][1][0], rtol=0, atol=0)
        torch.testing.assert_close(tensors, seen[1][1])
        torch.testing.assert_close(tensors[2:], seen[0][1][2:])
    assert seen[1][0] == seen[2][0] == (segments - 1) * x.nbytes


def test_a_checkpoint_in_a_checkpoint():
    torch.manual_seed(0)
    w, x = leaf(3, 3), leaf(2, 3)

    def inner(x):
        return dropout(x @ w, 0.5)

    grads = []
    for apply in (lambda f, x: f(x), Checkpoint.apply):
        torch.manual_seed(1)
        y = apply(lambda x, apply=apply: apply(inner, x * 2).sin() + dropout(x, 0.5), x)
        w.grad = x.grad = None
        y.sum().backward()
        grads.append([w.grad, x.grad])
    torch.testing.assert_close(*grads)


def test_a_second_derivative_of_a_checkpoint_is_an_error_where_the_page_says_so():
    x = leaf(3)
    [slope] = torch.autograd.grad((Checkpoint.apply(torch.sin, x) ** 2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()
    [slope] = torch.autograd.grad(Checkpoint.apply(torch.sin, x).sum(), x, create_graph=True)
    assert not slope.requires_grad  # a constant arriving gradient slips through


def test_the_claim_about_the_ring():
    """A result kept as an attribute of ctx is not freed when it is let go of; a saved one is."""

    class Ring(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.y = x.exp()
            return ctx.y

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.y

    class Saved(Function):
        @staticmethod
        def forward(ctx, x):
            y = x.exp()
            ctx.save_for_backward(y)
            return y

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.saved_tensors[0]

    gc.disable()
    try:
        alive = []
        for kind in (Ring, Saved):
            y = kind.apply(leaf(2))
            watched = weakref.ref(y)
            del y
            alive.append(watched() is not None)
    finally:
        gc.enable()
    assert alive == [True, False]


# -- right answers, written differently ------------------------------------------------------------------------------
class FromTheResult(Function):
    """Softplus that saves its result: 1 − e^(−βy) is the sigmoid."""

    @staticmethod
    def forward(ctx, x, beta):
        ctx.beta = beta
        y = torch.logaddexp(beta * x, torch.zeros_like(x)) / beta
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, grad):
        return -torch.expm1(-ctx.beta * ctx.saved_tensors[0]) * grad, None


class InTwoParts(Function):
    """Softplus with the context set up apart from forward, as newer code does it."""

    @staticmethod
    def forward(x, beta):
        return -torch.nn.functional.logsigmoid(-beta * x) / beta

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, ctx.beta = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx, grad):
        return grad * torch.special.expit(ctx.beta * ctx.saved_tensors[0]), None


class ByteMask(Function):
    """Compares x with its clamped self, and cuts with where."""

    @staticmethod
    def forward(ctx, x, low, high):
        clamped = x.clamp(low, high)
        ctx.save_for_backward((clamped == x).to(torch.uint8))
        return clamped.round()

    @staticmethod
    def backward(ctx, grad):
        return torch.where(ctx.saved_tensors[0] > 0, grad, 0.0), None, None


class Forked(Function):
    """A checkpoint that saves the state too, forks the generator, and asks for slopes leaf by leaf."""

    @staticmethod
    def forward(ctx, function, *inputs):
        ctx.function = function
        ctx.save_for_backward(torch.get_rng_state(), *inputs)
        with torch.no_grad():
            return function(*inputs)

    @staticmethod
    def backward(ctx, grad):
        state, *inputs = ctx.saved_tensors
        made = []
        for x, wants in zip(inputs, ctx.needs_input_grad[1:], strict=True):
            made.append(x.detach().clone().requires_grad_() if wants else x)
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.random.set_rng_state(state)
            result = ctx.function(*made)
            (result * grad).sum().backward()
        return (None, *(x.grad if x.requires_grad else None for x in made))


def with_partial(layers, x, segments):
    from functools import partial

    ends = [len(layers) * k // segments for k in range(segments + 1)]
    for k in range(segments):
        x = Checkpoint.apply(partial(run_all, list(layers[ends[k] : ends[k + 1]])), x)
    return x


def with_a_factory(layers, x, segments):
    class Stretch:
        def __init__(self, own):
            self.own = own

        def __call__(self, x):
            return run_all(self.own, x)

    for own in stretches(layers, segments):
        x = Checkpoint.apply(Stretch(own), x)
    return x


def packs_places(f, inputs, held=()):
    saved = []

    def pack(x):
        saved.append(x)
        return len(saved) - 1

    with torch.autograd.graph.saved_tensors_hooks(pack, saved.__getitem__):
        f(*inputs)
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage() for x in saved}
    for x in [*inputs, *held]:
        storages.pop(x.untyped_storage().data_ptr(), None)
    return sum(s.size() for s in storages.values())


def by_pieces(f, inputs, held=()):
    kept = []

    def pack(x):
        kept.append(x.detach())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        f(*inputs)
    seen = {x.untyped_storage().data_ptr() for x in inputs} | {x.untyped_storage().data_ptr() for x in held}
    total = 0
    for x in kept:
        if x.untyped_storage().data_ptr() not in seen:
            seen.add(x.untyped_storage().data_ptr())
            total += len(x.untyped_storage())
    return total


@pytest.mark.parametrize(
    "name, answer",
    [
        ("Softplus", FromTheResult),
        ("Softplus", InTwoParts),
        ("RoundStraightThrough", ByteMask),
        ("Checkpoint", Forked),
        ("checkpoint_segments", with_partial),
        ("checkpoint_segments", with_a_factory),
        ("saved_bytes", by_pieces),
        ("saved_bytes", packs_places),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_right_answers_written_differently_pass(name, answer, seed):
    assert grade(f"autograd.functions.{name}", answer, seed=seed).status == "passed"


# -- wrong answers found in an attack --------------------------------------------------------------------------------
class OnTheClass(Function):
    """Keeps the function and the state on the class: two checkpoints in one graph share them."""

    @staticmethod
    def forward(ctx, function, *inputs):
        OnTheClass.function, OnTheClass.state = function, torch.get_rng_state()
        ctx.save_for_backward(*inputs)
        return function(*inputs)

    @staticmethod
    def backward(ctx, grad):
        leaves = [
            x.detach().requires_grad_(n)
            for x, n in zip(ctx.saved_tensors, ctx.needs_input_grad[1:], strict=True)
        ]
        present = torch.get_rng_state()
        torch.set_rng_state(OnTheClass.state)
        with torch.enable_grad():
            y = OnTheClass.function(*leaves)
        torch.set_rng_state(present)
        torch.autograd.backward(y, grad)
        return None, *[x.grad for x in leaves]


class FixedSeed(Checkpoint):
    """Seeds the generator in both runs: the same dice twice, but not the caller's."""

    @staticmethod
    def forward(ctx, function, *inputs):
        torch.manual_seed(0)
        return Checkpoint.forward(ctx, function, *inputs)


class NoNode:
    """Not a Function at all: just calls it."""

    @staticmethod
    def apply(function, *inputs):
        return function(*inputs)


class LinearAbove(Function):
    """PyTorch's own softplus has a threshold, above which it is a straight line."""

    @staticmethod
    def forward(ctx, x, beta):
        ctx.save_for_backward(x)
        ctx.beta = beta
        return torch.nn.functional.softplus(x, beta, threshold=2)

    @staticmethod
    def backward(ctx, grad):
        return grad * torch.sigmoid(ctx.beta * ctx.saved_tensors[0]), None


class Nudged(Function):
    """A slope by finite differences."""

    @staticmethod
    def forward(ctx, x, beta):
        ctx.save_for_backward(x)
        ctx.beta = beta
        return torch.logaddexp(beta * x, torch.zeros_like(x)) / beta

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors

        def f(x):
            return torch.logaddexp(ctx.beta * x, torch.zeros_like(x)) / ctx.beta

        return grad * (f(x + 1e-6) - f(x - 1e-6)) / 2e-6, None


class PlainOperations:
    """Composes PyTorch's operations instead of writing a backward."""

    @staticmethod
    def apply(x, beta):
        return torch.clamp(x, min=0) + torch.log1p(torch.exp(-beta * x.abs())) / beta


class MaskInTheSign(Function):
    """Saves x in half precision: two bytes a number, and wrong near the ends."""

    @staticmethod
    def forward(ctx, x, low, high):
        ctx.save_for_backward(x.half())
        ctx.ends = low, high
        return torch.round(x).clamp(low, high)

    @staticmethod
    def backward(ctx, grad):
        low, high = ctx.ends
        (x,) = ctx.saved_tensors
        return grad * ((x >= low) & (x <= high)), None, None


class InAClosure(Function):
    """Hides x in a function that ctx keeps: no attribute is a tensor, but nothing guards x."""

    @staticmethod
    def forward(ctx, x, beta):
        ctx.save_for_backward(x.detach())
        ctx.slope = lambda: torch.sigmoid(beta * x)
        return torch.logaddexp(beta * x, torch.zeros_like(x)) / beta

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.slope(), None


class MaskOnTheClass(Function):
    @staticmethod
    def forward(ctx, x, low, high):
        MaskOnTheClass.inside = (x >= low) & (x <= high)
        return torch.round(x).clamp(low, high)

    @staticmethod
    def backward(ctx, grad):
        return grad * MaskOnTheClass.inside, None, None


class MaskAsAList(Function):
    @staticmethod
    def forward(ctx, x, low, high):
        ctx.inside = {"mask": ((x >= low) & (x <= high)).tolist()}
        return torch.round(x).clamp(low, high)

    @staticmethod
    def backward(ctx, grad):
        return grad * torch.tensor(ctx.inside["mask"]), None, None


class TwoMasks(Function):
    @staticmethod
    def forward(ctx, x, low, high):
        ctx.save_for_backward(x >= low, x <= high)
        return torch.round(x).clamp(low, high)

    @staticmethod
    def backward(ctx, grad):
        above, below = ctx.saved_tensors
        return grad * above * below, None, None


class OneStack(Function):
    """A stack on the class: right only while calls go backward in the opposite order."""

    stack: list = []  # noqa: RUF012

    @staticmethod
    def forward(ctx, function, *inputs):
        OneStack.stack.append((function, torch.get_rng_state()))
        ctx.save_for_backward(*inputs)
        return function(*inputs)

    @staticmethod
    def backward(ctx, grad):
        ctx.function, ctx.rng_state = OneStack.stack.pop()
        return Checkpoint.backward(ctx, grad)


class InitialSeed(Checkpoint):
    """Rewinds the dice to the last seed, not to where they were."""

    @staticmethod
    def backward(ctx, grad):
        present = torch.get_rng_state()
        torch.manual_seed(torch.initial_seed())
        ctx.rng_state = torch.get_rng_state()
        torch.set_rng_state(present)
        return Checkpoint.backward(ctx, grad)


class InputsInAClosure(Function):
    @staticmethod
    def forward(ctx, function, *inputs):
        ctx.state, ctx.function, ctx.inputs = torch.get_rng_state(), function, lambda: inputs
        return function(*inputs)

    @staticmethod
    def backward(ctx, grad):
        leaves = [
            x.detach().requires_grad_(n) for x, n in zip(ctx.inputs(), ctx.needs_input_grad[1:], strict=True)
        ]
        present = torch.get_rng_state()
        torch.set_rng_state(ctx.state)
        with torch.enable_grad():
            y = ctx.function(*leaves)
        torch.set_rng_state(present)
        torch.autograd.backward(y, grad)
        return None, *[x.grad for x in leaves]


class GradientsForAllFloats(Checkpoint):
    @staticmethod
    def backward(ctx, grad):
        leaves = [x.detach().requires_grad_(x.is_floating_point()) for x in ctx.saved_tensors]
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.set_rng_state(ctx.rng_state)
            y = ctx.function(*leaves)
        torch.autograd.backward(y, grad)
        return None, *[x.grad for x in leaves]


class KeepsTheGraph(Checkpoint):
    @staticmethod
    def backward(ctx, grad):
        leaves = [
            x.detach().requires_grad_(n)
            for x, n in zip(ctx.saved_tensors, ctx.needs_input_grad[1:], strict=True)
        ]
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.set_rng_state(ctx.rng_state)
            ctx.y = ctx.function(*leaves)
        torch.autograd.backward(ctx.y, grad, retain_graph=True)
        return None, *[x.grad for x in leaves]


def saved_by(f, given):
    kept = []

    def pack(x):
        kept.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        result = f(*given)
    return result, kept


def total(kept, known):
    known = {x.untyped_storage().data_ptr() for x in known}
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage() for x in kept}
    return sum(s.nbytes() for address, s in storages.items() if address not in known)


def one_held_tensor_only(f, inputs, held=()):
    return total(saved_by(f, inputs)[1], [*inputs, *held[:1]])


def on_fresh_leaves(f, inputs, held=()):
    leaves = [x.detach().requires_grad_() for x in inputs]
    return total(saved_by(f, leaves)[1], [*inputs, *held])


def goes_backward(f, inputs, held=()):
    result, kept = saved_by(f, inputs)
    if isinstance(result, torch.Tensor):
        result.sum().backward()
    return total(kept, [*inputs, *held])


def leaves_its_hooks_on(f, inputs, held=()):
    kept = []

    def pack(x):
        kept.append(x)
        return x

    torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x).__enter__()
    f(*inputs)
    return total(kept, [*inputs, *held])


def by_base(f, inputs, held=()):
    bases = {}
    for x in saved_by(f, inputs)[1]:
        base = x if x._base is None else x._base
        if not any(base is known for known in [*inputs, *held]):
            bases[id(base)] = base
    return sum(base.nbytes for base in bases.values())


def test_hooks_left_on_by_one_answer_do_no_harm_to_the_next():
    assert grade("autograd.functions.saved_bytes", leaves_its_hooks_on, seed=0).status == "failed"
    assert grade("autograd.functions.saved_bytes", by_pieces, seed=0).status == "passed"


SEEN: set = set()


def remembers_between_calls(f, inputs, held=()):
    def pack(x):
        SEEN.add(x.untyped_storage())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        f(*inputs)
    known = {x.untyped_storage().data_ptr() for x in [*inputs, *held]}
    return sum({s.data_ptr(): s.nbytes() for s in SEEN if s.data_ptr() not in known}.values())


def runs_f_twice(f, inputs, held=()):
    f(*inputs)
    return saved_bytes(f, inputs, held)


def sizes_without_storages(f, inputs, held=()):
    """Keeps sizes by address, and lets the storages go: freed addresses come back."""
    sizes = {}

    def pack(x):
        sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        f(*inputs)
    known = {x.untyped_storage().data_ptr() for x in [*inputs, *held]}
    return sum(size for address, size in sizes.items() if address not in known)


def empties_the_list(layers, x, segments):
    parts = stretches(layers, segments)
    layers.clear()
    for own in parts:
        x = Checkpoint.apply(lambda x, own=own: run_all(own, x), x)
    return x


def ceil_sized(layers, x, segments):
    size = -(-len(layers) // segments)
    for start in range(0, len(layers), size):
        own = layers[start : start + size]
        x = Checkpoint.apply(lambda x, own=own: run_all(own, x), x)
    return x


def sets_the_seed(layers, x, segments):
    torch.manual_seed(3)
    return checkpoint_segments(layers, x, segments)


CUTS: dict = {}


def remembers_its_cuts(layers, x, segments):
    key = len(layers), segments
    if key not in CUTS:
        CUTS[key] = stretches(layers, segments)
    for own in CUTS[key]:
        x = Checkpoint.apply(lambda x, own=own: run_all(own, x), x)
    return x


def torchs_own(layers, x, segments):
    return torch.utils.checkpoint.checkpoint_sequential(layers, segments, x, use_reentrant=False)


@pytest.mark.parametrize(
    "name, answer",
    [
        ("Softplus", LinearAbove),
        ("Softplus", Nudged),
        ("Softplus", PlainOperations),
        ("Softplus", InAClosure),
        ("RoundStraightThrough", MaskOnTheClass),
        ("RoundStraightThrough", MaskAsAList),
        ("RoundStraightThrough", TwoMasks),
        ("RoundStraightThrough", MaskInTheSign),
        ("saved_bytes", remembers_between_calls),
        ("saved_bytes", runs_f_twice),
        ("saved_bytes", one_held_tensor_only),
        ("saved_bytes", on_fresh_leaves),
        ("saved_bytes", goes_backward),
        ("saved_bytes", leaves_its_hooks_on),
        ("saved_bytes", by_base),
        ("saved_bytes", sizes_without_storages),
        ("Checkpoint", OnTheClass),
        ("Checkpoint", FixedSeed),
        ("Checkpoint", NoNode),
        ("Checkpoint", OneStack),
        ("Checkpoint", InitialSeed),
        ("Checkpoint", InputsInAClosure),
        ("Checkpoint", GradientsForAllFloats),
        ("Checkpoint", KeepsTheGraph),
        ("checkpoint_segments", empties_the_list),
        ("checkpoint_segments", ceil_sized),
        ("checkpoint_segments", torchs_own),
        ("checkpoint_segments", sets_the_seed),
        ("checkpoint_segments", remembers_its_cuts),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_wrong_answers_fail(name, answer, seed):
    result = grade(f"autograd.functions.{name}", answer, seed=seed)
    assert result.status in ("failed", "error"), result
