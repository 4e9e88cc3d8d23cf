"""Checks for the lesson gpt2.attention.

The oracles are sums over the allowed positions written with einsum, in float64. Layers get seeded numbers by
`load_state_dict`; an observation that is a text is a sentence for the learner: there was nothing to compare.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from groundup.check import Case, Exercise, compare
from groundup.check.distribution import agree_in_distribution


def _normal(rng: np.random.Generator, *shape: int, dtype=torch.float64) -> torch.Tensor:
    return torch.tensor(rng.normal(size=shape)).to(dtype)


def _cotangent(out: torch.Tensor, seed: int) -> torch.Tensor:
    made = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return made.to(out.dtype)


def by_name(got, expected) -> str | None:
    """Compares two observations, dicts or sentences, in the order of the expected one."""
    if not isinstance(got, dict) or not isinstance(expected, dict):
        return None if type(got) is type(expected) and got == expected else str(got)
    for name in expected:
        if name in TOLD:
            if got.get(name) != expected[name]:
                return TOLD[name]
        elif name.startswith("draws"):
            if agree_in_distribution(got[name], expected[name]):
                return DROPS
        elif difference := compare(got.get(name), expected[name]):
            return f"{name}: {difference.replace('you returned', 'yours is')}"
    return None


TOLD = {
    "refuses": "With 3 heads for 8 channels the class must raise a ValueError when it is made.",
    "fused": "With fused=True the layer calls F.scaled_dot_product_attention once, with fused=False never.",
    "anywhere": "Your layer fails on another device than the CPU: make every tensor that it needs where x is.",
    "levels": "In training, what dropout leaves must be divided by 1 - p: once for the weights, once for the output.",
}
DROPS = (
    "In training, the wrong numbers are dropped. Dropout acts on the weights after the softmax (a position is then "
    "not heard by a whole head) and on the output of c_proj, at the rate that the layer was given."
)


# ---------------------------------------------------------------------------------------------------------------------
attend = Exercise("gpt2.attention.attend")


def _reference_attend(q, k, v, mask=None, *, scale=None):
    """The weighted means and the weights, by the sum over what is allowed."""
    dtype = q.dtype
    q, k, v = q.double(), k.double(), v.double()
    scores = torch.einsum("...td,...sd->...ts", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    allowed = torch.ones_like(scores) if mask is None else mask.expand(scores.shape).double()
    top = (scores - 1e6 * (1 - allowed)).amax(dim=-1, keepdim=True).detach()
    powers = torch.exp(torch.clamp(scores - top, max=0)) * allowed
    weights = powers / powers.sum(dim=-1, keepdim=True)
    return torch.einsum("...ts,...se->...te", weights, v).to(dtype), weights.to(dtype)


@attend.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, lead, t, s, d, e, mask=None, dtype=torch.float64, shift=0.0):
        q, k = _normal(rng, *lead, t, d), _normal(rng, *lead, s, d)
        if shift:  # all scores of a row move by the same number
            q[..., 0], k[..., 0] = 1.0, shift * math.sqrt(d)
        q, k, v = q.to(dtype), k.to(dtype), _normal(rng, *lead, s, e, dtype=dtype)
        if mask is not None:
            mask = torch.tensor(rng.random(mask) < 0.5)
            mask[..., 0] |= ~mask.any(dim=-1)
        return Case(label, q=q, k=k, v=v, mask=mask)

    yield case("one query, two keys", (), 1, 2, 4, 2)
    yield case("two queries, three keys", (), 2, 3, 5, 2)
    yield case("three queries, two keys, a mask", (), 3, 2, 4, 3, mask=(3, 2))
    yield case("one query, one key", (), 1, 1, 3, 2)
    yield case("a batch", (4,), 3, 5, 2, 6)
    yield case("a batch and heads", (2, 3), 5, 4, 6, 7)
    yield case("a batch and heads, one mask for all", (2, 3), 4, 6, 5, 2, mask=(4, 6))
    yield case("a mask for each of the batch", (3, 2), 4, 5, 3, 2, mask=(3, 1, 4, 5))
    yield case("one row of the mask for all queries", (3, 2), 4, 5, 3, 2, mask=(3, 1, 1, 5))
    yield case("all scores far below zero, a mask", (2,), 3, 6, 3, 2, mask=(3, 6), shift=-2e4)
    yield case("all scores far above zero", (2,), 3, 6, 3, 2, shift=1e4)
    yield case("three axes in front, float32", (2, 1, 3), 3, 4, 8, 5, dtype=torch.float32)
    yield case("float32 and a mask", (3,), 6, 5, 7, 4, mask=(6, 5), dtype=torch.float32)
    yield case("many numbers in a query", (2,), 3, 7, 64, 5)
    yield case("nothing masked by a mask", (2,), 2, 3, 4, 3, mask=(2, 1, 1))


def _look_at_attend(obj, q, k, v, mask):
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    made = obj(*leaves) if mask is None else obj(*leaves, mask)
    if made is None:
        return "attend returned None. Is a return missing?"
    if not isinstance(made, tuple | list) or len(made) != 2:
        return "attend must return a pair: the weighted means, and the weights."
    out, weights = made
    for name, tensor in (("means", out), ("weights", weights)):
        if not isinstance(tensor, torch.Tensor):
            return f"The {name} must be a tensor, not a {type(tensor).__name__}."
        if not tensor.requires_grad:
            return f"No slopes arrive at q and k through the {name}: use PyTorch's operations all the way."
    total = (out * _cotangent(out, 1)).sum() + (weights * _cotangent(weights, 2)).sum()
    grads = torch.autograd.grad(total, leaves, materialize_grads=True)
    seen = {"The weights": weights.detach(), "The means": out.detach()}
    return seen | {f"The slopes of {n}": g for n, g in zip("qkv", grads, strict=True)}


@attend.observe
def _(obj, q, k, v, mask):
    return _look_at_attend(obj, q, k, v, mask)


@attend.oracle
def _(q, k, v, mask):
    return _look_at_attend(_reference_attend, q, k, v, mask)


@attend.agree
def _(got, expected):
    return by_name(got, expected)


@attend.property
def weights_add_up_to_one(obj, q, k, v, mask):
    """The weights of every query must add up to 1; yours do not."""
    weights = (obj(q, k, v) if mask is None else obj(q, k, v, mask))[1]
    return bool((weights.sum(dim=-1) - 1).abs().max() < 1e-5)


@attend.property
def hidden_positions_have_no_weight(obj, q, k, v, mask):
    """Where the mask is False the weight must be exactly 0; yours is not."""
    weights = (obj(q, k, v) if mask is None else obj(q, k, v, mask))[1]
    return mask is None or not bool(weights[~mask.expand(weights.shape)].any())


def _attend(q, k, v, mask=None, *, scale=None, axis=-1, hide=-math.inf, late=False):
    """attend with its ways to go wrong."""
    scale = math.sqrt(q.shape[-1]) if scale is None else scale
    scores = q @ k.mT / scale
    if mask is not None and not late:
        scores = torch.where(mask, scores, torch.full_like(scores, hide))
    weights = scores.softmax(dim=axis)
    if mask is not None and late:
        weights = weights * mask
    return weights @ v, weights


@attend.mistake
def forgot_the_scale(q, k, v, mask=None):
    """You did not divide the scores by the root of d. With many numbers in a query the scores grow large, the softmax puts all weight on one key, and hardly any slope is left to learn from."""
    return _attend(q, k, v, mask, scale=1)


@attend.mistake
def divided_by_d_itself(q, k, v, mask=None):
    """You divided the scores by d. It is their variance that is d; their size is its root, so divide by the root."""
    return _attend(q, k, v, mask, scale=q.shape[-1])


@attend.mistake
def scaled_by_the_number_of_keys(q, k, v, mask=None):
    """You divided by the root of the number of keys. A score is a sum over the d numbers of a query, so it is d whose root counts."""
    return _attend(q, k, v, mask, scale=math.sqrt(k.shape[-2]))


@attend.mistake
def softmax_over_the_queries(q, k, v, mask=None):
    """You took the softmax over the queries. Then the weights of a key add up to 1 and not those of a query, and each position depends on what the others ask: the keys lie on the last axis."""
    return _attend(q, k, v, mask, axis=-2)


@attend.mistake
def masked_after_the_softmax(q, k, v, mask=None):
    """You set the weights to 0 after the softmax. The hidden scores have been in its sum already: the rest no longer adds up to 1, and what is hidden still has a say."""
    return _attend(q, k, v, mask, late=True)


@attend.mistake
def hid_what_is_allowed(q, k, v, mask=None):
    """Your mask works the wrong way round: True means that attending is allowed, so hide where it is False."""
    return _attend(q, k, v, None if mask is None else ~mask)


@attend.mistake
def hid_with_a_score_of_zero(q, k, v, mask=None):
    """You gave hidden positions the score 0. The power of 0 is 1 and not 0, so they still get weight."""
    return _attend(q, k, v, mask, hide=0.0)


@attend.mistake
def ignored_the_mask(q, k, v, mask=None):
    """You never used the mask: hidden positions still get weight."""
    return _attend(q, k, v)


@attend.mistake(shape=True)
def returned_the_means_only(q, k, v, mask=None):
    """You returned the means only. Return the pair: the means and the weights."""
    return _attend(q, k, v, mask)[0]


@attend.mistake(shape=True)
def returned_them_the_other_way_round(q, k, v, mask=None):
    """You returned the weights first. First come the means, then the weights."""
    return _attend(q, k, v, mask)[::-1]


# ---------------------------------------------------------------------------------------------------------------------
split_heads = Exercise("gpt2.attention.split_heads")


@split_heads.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, B, T, C, n_head, dtype=torch.float64, slice_of=0):
        x = _normal(rng, B, T, C + slice_of, dtype=dtype)
        return Case(label, x=x[..., slice_of:], n_head=n_head)

    yield Case("two positions, two heads", x=torch.arange(8.0).reshape(1, 2, 4), n_head=2)
    yield case("a batch", 2, 3, 8, 4)
    yield case("heads of three", 3, 2, 6, 2, torch.float32)
    yield case("as many heads as positions", 2, 3, 12, 3)
    yield case("a single head", 2, 4, 6, 1)
    yield case("heads of one number", 3, 4, 5, 5)
    yield case("a slice of a larger tensor", 2, 5, 8, 2, slice_of=8)
    yield case("one position", 4, 1, 6, 3)


@split_heads.observe
def _(obj, x, n_head):
    base = x.new_zeros(*x.shape[:-1], 2 * x.shape[-1])
    base[..., x.shape[-1] :] = x
    base.requires_grad_()
    made = obj(base[..., x.shape[-1] :], n_head)
    if not isinstance(made, torch.Tensor):
        return made
    if not made.requires_grad:
        return "No slopes arrive at x: use PyTorch's operations all the way."
    grad = torch.autograd.grad((made * _cotangent(made, 3)).sum(), base)[0]
    return made.detach(), grad


def _split(x, n_head):
    d = x.shape[-1] // n_head
    return torch.stack([x[..., h * d : (h + 1) * d] for h in range(n_head)], dim=1)


@split_heads.oracle
def _(x, n_head):
    made = _split(x, n_head)
    grad = torch.zeros(*x.shape[:-1], 2 * x.shape[-1], dtype=x.dtype)
    grad[..., x.shape[-1] :] = torch.cat(list(_cotangent(made, 3).unbind(1)), dim=-1)
    return made, grad


@split_heads.mistake
def reshaped_without_exchanging(x, n_head):
    """You went to the last shape by one reshape. It reads the numbers in the order of memory, so a head gets stretches of positions instead of its channels: positions mix, and the future leaks into the past."""
    B, T, C = x.shape
    return x.reshape(B, n_head, T, C // n_head)


@split_heads.mistake
def dealt_out_like_cards(x, n_head):
    """You dealt the channels out in turn: head 0 gets channels 0, n_head, … Each head must get a run of neighbours; otherwise GPT-2's weights do not fit."""
    B, T, C = x.shape
    return x.reshape(B, T, C // n_head, n_head).permute(0, 3, 1, 2)


@split_heads.mistake(shape=True)
def positions_before_heads(x, n_head):
    """Your axes are (B, T, n_head, d). attend works on the last two axes, so they must be positions and d: exchange positions and heads."""
    B, T, C = x.shape
    return x.reshape(B, T, n_head, C // n_head)


@split_heads.mistake(shape=True)
def heads_of_n_head_numbers(x, n_head):
    """You made C / n_head heads of n_head numbers each. It is the other way round: n_head heads of C / n_head numbers."""
    return _split(x, x.shape[-1] // n_head)


@split_heads.mistake(shape=True)
def heads_in_the_batch(x, n_head):
    """You put the heads into the batch axis. Keep them as an axis of their own, after the batch's."""
    return _split(x, n_head).flatten(0, 1)


@split_heads.mistake(shape=True)
def exchanged_the_last_two(x, n_head):
    """You exchanged the wrong axes: the result has d before the positions. It is axis 1, the positions, and axis 2, the heads, that change places."""
    return _split(x, n_head).mT


# ---------------------------------------------------------------------------------------------------------------------
CausalSelfAttention = Exercise("gpt2.attention.CausalSelfAttention", kind="class", seconds=20.0)


class _Meta(TorchFunctionMode):
    """Cuts triangles on the device "meta" by itself: PyTorch would first load a second's worth of modules."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in ("tril", "triu") and args[0].device.type == "meta":
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))


class _Spy(TorchFunctionMode):
    """Counts the calls of the fused attention, and notes tensors made on the default device that stay there."""

    calls, homeless = 0, False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self.calls += func is F.scaled_dot_product_attention
        if func in FACTORIES and kwargs.get("device") is None:
            self.homeless = True
        elif func is torch.Tensor.to:
            self.homeless = False
        return func(*args, **kwargs)


FACTORIES = (torch.ones, torch.zeros, torch.full, torch.arange, torch.empty, torch.eye, torch.tensor)


def _shapes(state: dict) -> dict:
    return {name: tuple(tensor.shape) for name, tensor in sorted(state.items())}


def _state_of(layer: nn.Module) -> dict:
    return dict(layer.named_parameters()) | dict(layer.named_buffers())


def _random_state(rng, n_embd: int, bias: bool, widths: dict[str, int]) -> dict:
    state = {}
    for name, n_out in widths.items():
        state[f"{name}.weight"] = _normal(rng, n_out, n_embd) / math.sqrt(n_embd) * 1.5
        if bias:
            state[f"{name}.bias"] = _normal(rng, n_out) * 0.7
    return state


def _wrong_state(layer, state) -> str | None:
    """A sentence if the layer's parameters are not those of the state."""
    if not isinstance(layer, nn.Module):
        return "The class must inherit from nn.Module."
    got, wanted = _shapes(_state_of(layer)), _shapes(state)
    if got == wanted:
        return None
    return f"The parameters of your layer are {got}; they must be {wanted}."


def _refuses(build) -> bool:
    try:
        build()
    except ValueError:
        return True
    return False


def _outputs(layer, inputs: dict[str, tuple], seed: int) -> dict | str:
    """Outputs for each of the inputs and again for the first, then all slopes for the first."""
    seen = {}
    first = next(iter(inputs))
    for name in [*inputs, f"{first}, once more"]:
        torch.manual_seed(seed)
        made = layer(*inputs[name.removesuffix(", once more")])
        if not isinstance(made, torch.Tensor):
            return (
                f"forward must return a tensor, not {'None' if made is None else 'a ' + type(made).__name__}."
            )
        if not made.requires_grad:
            return "No slopes arrive at the parameters: use PyTorch's operations all the way."
        seen[f"The output for {name}"] = made.detach()
    leaves = {"x": inputs[first][0], "memory": inputs[first][1] if len(inputs[first]) > 1 else None}
    leaves = {n: t for n, t in leaves.items() if t is not None} | dict(layer.named_parameters())
    torch.manual_seed(seed)
    made = layer(*inputs[first])
    grads = torch.autograd.grad((made * _cotangent(made, 4)).sum(), leaves.values(), materialize_grads=True)
    return seen | {f"The slopes of {n}": g for n, g in zip(leaves, grads, strict=True)}


@CausalSelfAttention.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, n_embd, n_head, shape, dtype=torch.float64, **options):
        widths = {"c_attn": 3 * n_embd, "c_proj": n_embd}
        B, T = shape
        return Case(
            label,
            n_embd=n_embd,
            n_head=n_head,
            options=options,
            x=_normal(rng, B, T, n_embd, dtype=dtype),
            longer=_normal(rng, B + 1, T + 3, n_embd, dtype=dtype),
            state=_random_state(rng, n_embd, options.get("bias", True), widths),
        )

    yield case("one head, two positions", 2, 1, (1, 2))
    yield case("two heads", 6, 2, (2, 3))
    yield case("two heads, explicit", 6, 2, (2, 3), fused=False)
    yield case("three heads, a longer text", 12, 3, (3, 7), fused=True)
    yield case("four heads, explicit", 8, 4, (2, 5), fused=False)
    yield case("without bias", 10, 2, (2, 4), bias=False)
    yield case("without bias, explicit", 10, 5, (2, 4), bias=False, fused=False)
    yield case("one position", 6, 3, (4, 1), fused=False)
    yield case("float32", 16, 4, (2, 9), torch.float32)
    yield case("float32, explicit", 16, 2, (2, 9), torch.float32, fused=False)
    yield case("heads that do not fit", 8, 3, (1, 2))
    yield case("dropout", 8, 2, (2, 4), dropout=0.4)
    yield case("dropout, explicit", 8, 2, (2, 4), dropout=0.25, fused=False)


@CausalSelfAttention.observe
def _(obj, n_embd, n_head, options, x, longer, state):
    if n_embd % n_head:
        return {"refuses": _refuses(lambda: obj(n_embd, n_head, **options))}
    with torch.random.fork_rng(devices=[]):
        layer = obj(n_embd, n_head, **options)
        if said := _wrong_state(layer, state):
            return said
        layer.to(x.dtype).load_state_dict(state)
        p = options.get("dropout", 0.0)
        layer.train(not p)
        with _Spy() as spy:
            layer(x)
        seen = _outputs(layer, {"x": (x.clone().requires_grad_(),), "a longer x": (longer,)}, seed=7)
        if isinstance(seen, str):
            return seen
        seen |= {"fused": spy.calls, "anywhere": not spy.homeless}
        if p and seen["The output for x"].shape == x.shape:
            seen |= _dropped(layer.train(), n_embd, n_head, p)
        return seen


N = 4000


def _dropped(layer, n_embd, n_head, p) -> dict:
    """What dropout leaves at position 1 of N texts, where both positions weigh 1/2 and all values are 1.

    Counted for each head: how many of the two positions are heard, and how many outputs are kept.
    """
    d = n_embd // n_head
    state = {name: torch.zeros_like(t) for name, t in layer.state_dict().items()}
    state["c_attn.bias"][2 * n_embd :] = 1
    state["c_proj.weight"] = torch.eye(n_embd, dtype=torch.float64)
    layer.load_state_dict(state)
    torch.manual_seed(8)
    made = layer(torch.zeros(N, 2, n_embd, dtype=torch.float64))[:, 1].detach()
    units = (made * 2 * (1 - p) ** 2).reshape(N, n_head, d)  # 0, 1 or 2
    level = units.amax(dim=-1).round().clamp(0, 2)
    levels = bool(((units.abs() < 1e-6) | ((units - level[..., None]).abs() < 1e-6)).all())
    kept = (units > 0.5).sum(dim=-1)
    outcome = torch.where(kept == 0, 0, (level.long() - 1) * d + kept).clamp(0, 2 * d)
    counts = torch.bincount(outcome.flatten(), minlength=2 * d + 1)
    return {"levels": levels, "draws": counts.numpy()}


def _chances(n_embd, n_head, p) -> np.ndarray:
    """The probabilities of what `_dropped` counts."""
    d = n_embd // n_head
    heard = [2 * p * (1 - p), (1 - p) ** 2]
    kept = [math.comb(d, k) * (1 - p) ** k * p ** (d - k) for k in range(1, d + 1)]
    likely = np.outer(heard, kept).flatten()
    return np.concatenate([[1 - likely.sum()], likely])


class _Reference(nn.Module):
    """Attention with many heads by einsum over named axes: x looks at `memory`, or causally at itself."""

    def __init__(self, state: dict, n_head: int):
        super().__init__()
        self.n_head = n_head
        self.numbers = nn.ParameterDict({n.replace(".", "_"): nn.Parameter(t) for n, t in state.items()})

    def linear(self, name, x):
        y = torch.einsum("bti,oi->bto", x, self.numbers[f"{name}_weight"])
        return y + self.numbers[f"{name}_bias"] if f"{name}_bias" in self.numbers else y

    def forward(self, x, memory=None, mask=None):
        dtype, C = x.dtype, x.shape[-1]
        x = x.double()
        if memory is None:
            both = self.linear("c_attn", x)
            mask = torch.arange(x.shape[1])[:, None] >= torch.arange(x.shape[1])
        else:
            both = torch.cat([self.linear("c_q", x), torch.zeros(*x.shape[:2], 2 * C)], dim=-1)
            of_memory = self.linear("c_kv", memory.double())
        d, answers = C // self.n_head, []
        for h in range(self.n_head):
            here = slice(h * d, (h + 1) * d)
            if memory is None:
                k, v = both[..., C : 2 * C][..., here], both[..., 2 * C :][..., here]
            else:
                k, v = of_memory[..., :C][..., here], of_memory[..., C:][..., here]
            of_head = mask
            if mask is not None:
                full = (len(x), self.n_head, x.shape[1], k.shape[1])
                of_head = mask.expand(full)[:, h]
            answers.append(_reference_attend(both[..., :C][..., here], k, v, of_head)[0])
        return self.linear("c_proj", torch.cat(answers, dim=-1)).to(dtype)


def _expected(state, n_head, inputs) -> dict:
    layer = _Reference({n: t.clone() for n, t in state.items()}, n_head)
    seen = _outputs(layer, inputs, seed=7)
    dtype = next(iter(inputs.values()))[0].dtype
    named = {"numbers." + name.replace(".", "_"): name for name in state}
    return {
        f"The slopes of {named[n.removeprefix('The slopes of ')]}" if n[14:] in named else n: t.to(dtype)
        for n, t in seen.items()
    }


@CausalSelfAttention.oracle
def _(n_embd, n_head, options, x, longer, state):
    if n_embd % n_head:
        return {"refuses": True}
    seen = _expected(state, n_head, {"x": (x.clone().requires_grad_(),), "a longer x": (longer,)})
    seen |= {"fused": int(options.get("fused", True)), "anywhere": True}
    if p := options.get("dropout", 0.0):
        seen |= {"levels": True, "draws": _chances(n_embd, n_head, p)}
    return seen


@CausalSelfAttention.agree
def _(got, expected):
    return by_name(got, expected)


@CausalSelfAttention.property
def the_future_changes_nothing(obj, n_embd, n_head, options, x, longer, state):
    """The output at a position changes when tokens after it change: your layer sees the future."""
    if n_embd % n_head:
        return True
    layer = obj(n_embd, n_head, **options).to(x.dtype).eval()
    T = longer.shape[1]
    other = torch.cat([longer[:, : T // 2], longer[:, T // 2 :] + 1], dim=1)
    before, after = layer(longer)[:, : T // 2], layer(other)[:, : T // 2]
    return bool((before - after).abs().max() < 1e-5)


class _Layer(nn.Module):
    """The layer with its ways to go wrong; each mistake turns one switch."""

    queries, keys, values = 0, 1, 2
    fused_mask = explicit_mask = "causal"
    all_channels = False  # the scale
    split = merge = "right"
    dropped_weights = dropped_output = True
    fused_drops_in_evaluation = always_bias = checks_nothing = False
    project = True

    def __init__(self, n_embd, n_head, *, dropout=0.0, bias=True, fused=True):
        super().__init__()
        if n_embd % n_head and not self.checks_nothing:
            raise ValueError("heads")
        self.n_head, self.p, self.fused = n_head, dropout, fused
        bias = bias or self.always_bias
        self.c_attn = nn.Linear(n_embd, 3 * n_embd, bias=bias)
        self.c_proj = nn.Linear(n_embd, n_embd, bias=bias)

    def forward(self, x):
        B, T, C = x.shape
        parts = self.c_attn(x).chunk(3, dim=-1)
        if self.split == "right":
            parts = [_split(part, self.n_head) for part in parts]
        else:
            parts = [part.reshape(B, self.n_head, T, C // self.n_head) for part in parts]
        q, k, v = parts[self.queries], parts[self.keys], parts[self.values]
        if self.all_channels:
            q = q / math.sqrt(self.n_head)
        p = self.p if self.training else 0.0
        mask = torch.ones(T, T, dtype=torch.bool, device=x.device).tril()
        if self.fused:
            drop = self.p if self.fused_drops_in_evaluation else p * self.dropped_weights
            causal = self.fused_mask == "causal"
            heads = F.scaled_dot_product_attention(q, k, v, dropout_p=drop, is_causal=causal)
        else:
            weights = _attend(q, k, v, mask if self.explicit_mask == "causal" else None)[1]
            heads = F.dropout(weights, p * self.dropped_weights) @ v
        out = heads.transpose(1, 2).flatten(2) if self.merge == "right" else heads.reshape(B, T, C)
        if not self.project:
            out = out + 0 * self.c_proj(out)
        return F.dropout(self.c_proj(out) if self.project else out, p * self.dropped_output)


@CausalSelfAttention.mistake
class fused_call_without_the_mask(_Layer):
    """Your fused call is not told to be causal: without is_causal=True every position sees the future, and the training loss looks far too good."""

    fused_mask = "none"


@CausalSelfAttention.mistake
class explicit_way_without_the_mask(_Layer):
    """With fused=False your layer attends without a mask: every position sees the future, and the training loss looks far too good."""

    explicit_mask = "none"


@CausalSelfAttention.mistake
class no_mask_at_all(_Layer):
    """Your layer attends without a mask, both ways: every position sees the future, and the training loss looks far too good."""

    fused_mask = explicit_mask = "none"


@CausalSelfAttention.mistake
class scaled_by_all_channels(_Layer):
    """Your scores are divided by the root of C. A head's scalar product has only C / n_head terms: d is the size of one head."""

    all_channels = True


@CausalSelfAttention.mistake
class merged_without_exchanging_back(_Layer):
    """You merged the heads by a reshape alone. The axes are (B, n_head, T, d): exchange heads and positions first, or the numbers of different positions end up in one row, and the future leaks in."""

    merge = "reshape"


@CausalSelfAttention.mistake
class split_by_reshape_alone(_Layer):
    """You split into heads by one reshape. It takes the numbers in the order of memory, so positions and heads mix. Use split_heads."""

    split = "reshape"


@CausalSelfAttention.mistake
class keys_before_queries(_Layer):
    """You took the first C numbers of c_attn as keys. The order is queries, keys, values; GPT-2's weights rely on it."""

    queries, keys = 1, 0


@CausalSelfAttention.mistake
class fused_call_drops_in_evaluation(_Layer):
    """Your fused call drops weights in evaluation, too: it knows nothing of self.training, so dropout_p must then be 0."""

    fused_drops_in_evaluation = True


@CausalSelfAttention.mistake
class no_dropout_of_the_weights(_Layer):
    """You drop numbers of the output only. Dropout acts on the weights after the softmax as well."""

    dropped_weights = False


@CausalSelfAttention.mistake
class no_dropout_of_the_output(_Layer):
    """You drop weights only. Dropout acts on the output of c_proj as well."""

    dropped_output = False


@CausalSelfAttention.mistake
class bias_in_any_case(_Layer):
    """Your linear layers have a bias even with bias=False. Hand the argument on to both."""

    always_bias = True


@CausalSelfAttention.mistake
class never_used_c_proj(_Layer):
    """You never use c_proj. Without it the heads' answers only lie side by side: nothing mixes them."""

    project = False


@CausalSelfAttention.mistake
class accepted_heads_that_do_not_fit(_Layer):
    """You accept heads that cannot share the channels evenly. Raise a ValueError in __init__, where the cause can still be seen."""

    checks_nothing = True


# ---------------------------------------------------------------------------------------------------------------------
CrossAttention = Exercise("gpt2.attention.CrossAttention", kind="class", seconds=20.0)


@CrossAttention.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, n_embd, n_head, B, T, S, mask=None, dtype=torch.float64):
        if mask is not None:
            mask = torch.tensor(rng.random(mask) < 0.5)
            mask[..., 0] |= ~mask.any(dim=-1)
        return Case(
            label,
            n_embd=n_embd,
            n_head=n_head,
            x=_normal(rng, B, T, n_embd, dtype=dtype),
            memory=_normal(rng, B, S, n_embd, dtype=dtype),
            mask=mask,
            state=_random_state(rng, n_embd, True, {"c_q": n_embd, "c_kv": 2 * n_embd, "c_proj": n_embd}),
        )

    yield case("one head, two queries, three in the memory", 2, 1, 1, 2, 3)
    yield case("two heads", 6, 2, 2, 3, 5)
    yield case("a memory shorter than x", 12, 3, 3, 6, 2)
    yield case("a mask of queries and memory", 8, 4, 2, 3, 5, (3, 5))
    yield case("a mask for each memory of the batch", 8, 2, 3, 4, 6, (3, 1, 1, 6))
    yield case("a mask for each head", 6, 3, 2, 2, 5, (3, 2, 5))
    yield case("a memory as long as x", 10, 2, 2, 4, 4)
    yield case("one query", 8, 2, 3, 1, 7)
    yield case("float32", 16, 4, 2, 5, 3, dtype=torch.float32)
    yield case("heads that do not fit", 8, 3, 1, 2, 2)


def _cross_inputs(x, memory, mask) -> dict:
    rest = () if mask is None else (mask,)
    once = x.clone().requires_grad_(), memory.clone().requires_grad_(), *rest
    return {"x and memory": once, "another x": (x + 1, memory, *rest)}


@CrossAttention.observe
def _(obj, n_embd, n_head, x, memory, mask, state):
    if n_embd % n_head:
        return {"refuses": _refuses(lambda: obj(n_embd, n_head))}
    with torch.random.fork_rng(devices=[]):
        layer = obj(n_embd, n_head)
        if said := _wrong_state(layer, state):
            return said
        layer.to(x.dtype).load_state_dict(state)
        return _outputs(layer, _cross_inputs(x, memory, mask), seed=7)


@CrossAttention.oracle
def _(n_embd, n_head, x, memory, mask, state):
    if n_embd % n_head:
        return {"refuses": True}
    return _expected(state, n_head, _cross_inputs(x, memory, mask))


@CrossAttention.agree
def _(got, expected):
    return by_name(got, expected)


class _Cross(nn.Module):
    """Cross-attention with its ways to go wrong."""

    swapped = itself = causal = all_channels = unmasked = checks_nothing = flipped = False
    split = merge = "right"

    def __init__(self, n_embd, n_head):
        super().__init__()
        if n_embd % n_head and not self.checks_nothing:
            raise ValueError("heads")
        self.n_head = n_head
        self.c_q, self.c_kv = nn.Linear(n_embd, n_embd), nn.Linear(n_embd, 2 * n_embd)
        self.c_proj = nn.Linear(n_embd, n_embd)

    def forward(self, x, memory, mask=None):
        B, T, C = x.shape
        if self.flipped:
            x, memory = memory, x
        q, (k, v) = self.c_q(x), self.c_kv(x if self.itself else memory).chunk(2, dim=-1)
        if self.swapped:
            k, v = v, k
        if self.split == "right":
            q, k, v = (_split(part, self.n_head) for part in (q, k, v))
        else:
            q, k, v = (part.reshape(B, self.n_head, part.shape[1], C // self.n_head) for part in (q, k, v))
        if self.all_channels:
            q = q / math.sqrt(self.n_head)
        if self.causal:
            past = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril()
            mask = past if mask is None else mask & past
        heads, _ = _attend(q, k, v, None if self.unmasked else mask)
        out = heads.transpose(1, 2).flatten(2) if self.merge == "right" else heads.reshape(B, T, C)
        return self.c_proj(out)


@CrossAttention.mistake
class values_before_keys(_Cross):
    """You took the first C numbers of c_kv as values. First come the keys, then the values."""

    swapped = True


@CrossAttention.mistake
class looked_at_itself(_Cross):
    """Your keys and values come from x, so the layer looks at itself. They come from the memory; only the queries come from x."""

    itself = True


@CrossAttention.mistake(shape=True)
class asked_from_the_memory(_Cross):
    """Your queries come from the memory, and keys and values from x. It is the other way round: x asks, the memory answers, and there is one answer for each position of x."""

    flipped = True


@CrossAttention.mistake
class never_handed_on_the_mask(_Cross):
    """You never hand the mask on: what only fills up a shorter memory still gets weight."""

    unmasked = True


@CrossAttention.mistake
class masked_causally(_Cross):
    """You used a causal mask. The whole memory is known before the first word is written, so nothing of it is future."""

    causal = True


@CrossAttention.mistake
class scores_over_the_root_of_all_channels(_Cross):
    """Your scores are divided by the root of C. Split into heads before you attend: d is the size of one head."""

    all_channels = True


@CrossAttention.mistake
class merged_by_reshape_alone(_Cross):
    """You merged the heads by a reshape alone, so the numbers of different positions end up in one row. Exchange heads and positions first, as merge_heads does."""

    merge = "reshape"


@CrossAttention.mistake
class split_without_exchanging(_Cross):
    """You split into heads by one reshape. It takes the numbers in the order of memory, so positions and heads mix. Use split_heads."""

    split = "reshape"


@CrossAttention.mistake
class made_heads_that_do_not_fit(_Cross):
    """You accept heads that cannot share the channels evenly. Raise a ValueError in __init__, where the cause can still be seen."""

    checks_nothing = True


# ---------------------------------------------------------------------------------------------------------------------
mask_for_newest = Exercise("gpt2.attention.mask_for_newest", seconds=15.0)


@mask_for_newest.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    yield Case("2 newest of 4", n_new=2, n_total=4)
    yield Case("the newest of 5 alone", n_new=1, n_total=5)
    yield Case("all of 3", n_new=3, n_total=3)
    yield Case("5 newest of 6", n_new=5, n_total=6)
    yield Case("nothing new", n_new=0, n_total=4)
    yield Case("a single position", n_new=1, n_total=1)
    n_total = int(rng.integers(20, 60))
    yield Case("many positions", n_new=int(rng.integers(2, n_total - 2)), n_total=n_total)
    yield Case("more than a thousand positions", n_new=3, n_total=1100)


@mask_for_newest.observe
def _(obj, n_new, n_total):
    mask = obj(n_new, n_total)
    with _Meta():
        elsewhere = obj(n_new, n_total, device="meta")
    if not isinstance(mask, torch.Tensor):
        return "mask_for_newest must return a tensor."
    place = elsewhere.device.type if isinstance(elsewhere, torch.Tensor) else "no tensor"
    return {"The mask": mask, "The device of mask_for_newest(…, device='meta')": place}


@mask_for_newest.oracle
def _(n_new, n_total):
    rows = [[s <= n_total - n_new + i for s in range(n_total)] for i in range(n_new)]
    return {
        "The mask": torch.tensor(rows, dtype=torch.bool).reshape(n_new, n_total),
        "The device of mask_for_newest(…, device='meta')": "meta",
    }


@mask_for_newest.agree
def _(got, expected):
    return by_name(got, expected)


@mask_for_newest.mistake
def last_rows_from_minus_zero(n_new, n_total, device=None):
    """You took the last rows by [-n_new:]. For n_new = 0 that is [0:], all rows: Python knows no minus zero. Count from the front instead."""
    return _tril(n_total, n_total, device, 0)[-n_new:]


def _tril(n_new, n_total, device, diagonal):
    return torch.ones(n_new, n_total, dtype=torch.bool, device=device).tril(diagonal)


@mask_for_newest.mistake
def rows_begin_at_position_0(n_new, n_total, device=None):
    """Your row 0 stands at position 0. So the newest token, alone, sees nothing but the very first one. Row 0 belongs to position n_total - n_new."""
    return _tril(n_new, n_total, device, 0)


@mask_for_newest.mistake
def hid_the_position_itself(n_new, n_total, device=None):
    """Your rows stop one position early: a token may look at itself, not only at what is before it."""
    return _tril(n_new, n_total, device, n_total - n_new - 1)


@mask_for_newest.mistake
def one_position_too_far(n_new, n_total, device=None):
    """Your rows reach one position too far: each token sees the next one, which it is meant to predict."""
    return _tril(n_new, n_total, device, n_total - n_new + 1)


@mask_for_newest.mistake
def shifted_the_wrong_way(n_new, n_total, device=None):
    """You shifted the diagonal to the left, so the newest tokens see even less, some of them nothing. The diagonal must move to the right."""
    return _tril(n_new, n_total, device, n_new - n_total)


@mask_for_newest.mistake
def allowed_everything(n_new, n_total, device=None):
    """You allow everything. That is right for a single newest token; of several, the first must not see those after it."""
    return _tril(n_new, n_total, device, n_total)


@mask_for_newest.mistake
def true_means_hidden(n_new, n_total, device=None):
    """Your mask is True where attending is forbidden. In this lesson, and for attend, True means allowed."""
    return ~_tril(n_new, n_total, device, n_total - n_new)


@mask_for_newest.mistake(shape=True)
def numbers_instead_of_truths(n_new, n_total, device=None):
    """Your mask holds numbers, ones and zeros. A mask holds Trues and Falses: dtype=torch.bool."""
    return _tril(n_new, n_total, device, n_total - n_new).float()
