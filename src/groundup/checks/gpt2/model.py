"""Checks for the lesson gpt2.model.

The oracle is a GPT-2 of our own, written as functions of a state dict with explicit matrices and no module of torch.nn.
Mistakes are edits of `_Block`, `_GPT` and so on, modules with the names that the page prescribes. A sentence as an
observation means that there was nothing to compare.
"""

import math
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from groundup.check import Case, Exercise, compare
from groundup.check.distribution import agree_in_distribution


def by_name(got, expected) -> str | None:
    """Compares two observations, dicts or sentences, in the order of the expected one."""
    if not isinstance(got, dict) or not isinstance(expected, dict):
        return None if type(got) is type(expected) and got == expected else str(got)
    for name in expected:
        if name.startswith("draws: "):
            if difference := agree_in_distribution(got.get(name), expected[name]):
                return f"{name[7:]}: {difference}"
        elif difference := compare(got.get(name), expected[name]):
            return f"{name}: {difference.replace('you returned', 'yours is')}"
    return None


# -- the reference ----------------------------------------------------------------------------------------------------
def _gelu(x):
    return x / (
        1 + torch.exp(-2 * math.sqrt(2 / math.pi) * x * (1 + 0.044715 * x * x))
    )  # (1 + tanh u) / 2 = sigmoid(2u)


def _norm(x, state, name):
    centred = x - x.sum(-1, keepdim=True) / x.shape[-1]
    y = centred * torch.rsqrt((centred * centred).sum(-1, keepdim=True) / x.shape[-1] + 1e-5)
    y = y * state[f"{name}.weight"]
    return y + state[f"{name}.bias"] if f"{name}.bias" in state else y


def _linear(x, state, name):
    y = torch.einsum("...i,oi->...o", x, state[f"{name}.weight"])
    return y + state[f"{name}.bias"] if f"{name}.bias" in state else y


def _attention(x, state, name, n_head):
    B, T, C = x.shape
    q, k, v = _linear(x, state, f"{name}.c_attn").view(B, T, 3, n_head, C // n_head).unbind(2)
    scores = torch.einsum("bthd,bshd->bhts", q, k) / math.sqrt(C // n_head)
    past = torch.ones(T, T, dtype=torch.bool, device=x.device).tril()
    weights = torch.where(past, scores, torch.full_like(scores, -1e30)).softmax(-1)
    return _linear(torch.einsum("bhts,bshd->bthd", weights, v).reshape(B, T, C), state, f"{name}.c_proj")


def _mlp(x, state, name):
    return _linear(_gelu(_linear(x, state, f"{name}.c_fc")), state, f"{name}.c_proj")


def _block(x, state, name, n_head):
    x = x + _attention(_norm(x, state, f"{name}ln_1"), state, f"{name}attn", n_head)
    return x + _mlp(_norm(x, state, f"{name}ln_2"), state, f"{name}mlp")


def _gpt(idx, state, config):
    x = state["transformer.wte.weight"][idx] + state["transformer.wpe.weight"][: idx.shape[1]]
    for k in range(config.n_layer):
        x = _block(x, state, f"transformer.h.{k}.", config.n_head)
    return torch.einsum("btc,vc->btv", _norm(x, state, "transformer.ln_f"), state["lm_head.weight"])


def _shapes(config, what: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the state of a `mlp`, a `block` or a `gpt`."""
    C, bias = config.n_embd, config.bias

    def layer(name, out, into):
        return {f"{name}.weight": (out, into)} | ({f"{name}.bias": (out,)} if bias else {})

    def norm(name):
        return {f"{name}.weight": (C,)} | ({f"{name}.bias": (C,)} if bias else {})

    mlp = layer("c_fc", 4 * C, C) | layer("c_proj", C, 4 * C)
    if what == "mlp":
        return mlp
    block = norm("ln_1") | layer("attn.c_attn", 3 * C, C) | layer("attn.c_proj", C, C)
    block |= norm("ln_2") | {f"mlp.{name}": shape for name, shape in mlp.items()}
    if what == "block":
        return block
    found = {
        "transformer.wte.weight": (config.vocab_size, C),
        "transformer.wpe.weight": (config.block_size, C),
    }
    for k in range(config.n_layer):
        found |= {f"transformer.h.{k}.{name}": shape for name, shape in block.items()}
    found |= {f"transformer.{name}": shape for name, shape in norm("ln_f").items()}
    return found | {"lm_head.weight": (config.vocab_size, C)}


def _config(**changed) -> SimpleNamespace:
    sizes = {"block_size": 8, "vocab_size": 11, "n_layer": 2, "n_head": 2, "n_embd": 6}
    return SimpleNamespace(**(sizes | {"dropout": 0.0, "bias": True, "fused": False} | changed))


def _numbers(config, what: str, seed: int) -> dict[str, torch.Tensor]:
    """A state of random numbers, in float64, none of them a usual first value."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, shape in _shapes(config, what).items():
        size = rng.normal(size=shape) * (0.9 if len(shape) == 1 else 1.2 / math.sqrt(shape[-1]))
        state[name] = torch.tensor(size + (name.split(".")[-2].startswith("ln") and name.endswith("weight")))
    if "lm_head.weight" in state:
        state["lm_head.weight"] = state["transformer.wte.weight"]
    return state


def _expected(what, config, state, x):
    if what == "mlp":
        return _mlp(x, {f"m.{name}": tensor for name, tensor in state.items()}, "m")
    return _block(x, state, "", config.n_head) if what == "block" else _gpt(x, state, config)


def _weights(y):
    """Weights of a sum whose gradient tells every output from every other one."""
    return torch.linspace(0.3, 4, y.numel(), dtype=y.dtype).sin().reshape(y.shape)


def _gradients(by_name: dict[str, torch.Tensor | None]) -> dict[str, torch.Tensor]:
    """What to call a gradient → it; those of one block of a GPT one after the other, as comparing costs time."""
    found, blocks = {}, {}
    for name, gradient in sorted(by_name.items()):
        gradient = torch.zeros(1) if gradient is None else gradient
        if name.startswith("transformer.h."):
            blocks.setdefault(name.split(".")[2], []).append(gradient.flatten())
        else:
            found[f"The gradient of {name}"] = gradient
    return found | {f"The gradients in block {k}, in a row": torch.cat(all_) for k, all_ in blocks.items()}


def _look(make, what, config, seed, x, places, own=lambda module: {}, only_names=False):
    """Names, shapes, values, gradients and dropout of a learner's module.

    places: what to say → (child whose output is watched; a hook before it if `before`; is what is kept scaled up?)
    """
    module = make(config)
    if not isinstance(module, nn.Module):
        return "Your class must stay an nn.Module."
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    for name, shape in _shapes(config, what).items():
        if name not in shapes:
            return f"state_dict() lacks {name}: it has {', '.join(shapes) or 'nothing'}."
        if shapes[name] != shape:
            return f"{name} has the shape {shapes[name]}, not {shape}."
    if unknown := shapes.keys() - _shapes(config, what).keys():
        return f"state_dict() has {', '.join(sorted(unknown))}, which should not be there."
    if only_names:
        return {"The names and shapes": "as they should be"}
    seen = {"The parameters, each once": sorted(name for name, _ in module.named_parameters())} | own(module)
    state = _numbers(config, what, seed)
    module.double().load_state_dict(state)
    module.eval()
    x = x.clone().requires_grad_(x.is_floating_point())
    given = x.clone()
    y = module(given)
    if y is None:
        return "forward returned None. Is a return missing?"
    if not isinstance(y, torch.Tensor):
        return f"forward must return a tensor, not a {type(y).__name__}."
    seen["In evaluation, the result"] = y.detach().clone()
    seen["x itself, after the call"] = given.detach().clone()
    if y.shape != _expected(what, config, state, x.detach()).shape:
        return f"The result has the shape {tuple(y.shape)}."
    if not y.requires_grad:
        return "The result does not want a gradient: nothing could be learnt through your module."
    (y * _weights(y)).sum().backward()
    if x.is_floating_point():
        seen["The gradient of x"] = x.grad
    seen |= _gradients({name: parameter.grad for name, parameter in module.named_parameters()})
    with torch.no_grad():
        seen["In a second call, the result"] = module(x.detach().flip(0)).detach()
        for say, (place, before, scaled) in places.items():
            seen[say] = _dropped(module, place(module), before, scaled, config.dropout, x.detach())
    return seen


def _truth(what, config, seed, x, places, own=None, only_names=False):
    """What `_look` sees of a right module."""
    if only_names:
        return {"The names and shapes": "as they should be"}
    state = _numbers(config, what, seed)
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in state.items()}
    if what == "gpt":
        leaves["lm_head.weight"] = leaves["transformer.wte.weight"]
    names = sorted(name for name in state if name != "lm_head.weight")
    x = x.clone().requires_grad_(x.is_floating_point())
    y = _expected(what, config, leaves, x)
    (y * _weights(y)).sum().backward()
    seen = {"The parameters, each once": names} | (own or {})
    seen |= {"In evaluation, the result": y.detach(), "x itself, after the call": x.detach()}
    if x.is_floating_point():
        seen["The gradient of x"] = x.grad
    seen |= _gradients({name: leaves[name].grad for name in names})
    seen["In a second call, the result"] = _expected(what, config, state, x.detach().flip(0))
    return seen | dict.fromkeys(places, "once a call, and as it should")


MANY = 1000


def _dropped(module, child, before, scaled, p, x):
    """What runs through `child` in training: how often it runs, which share is dropped, what is kept."""
    caught = []
    if before:
        hook = child.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0].clone()))
    else:
        hook = child.register_forward_hook(lambda _, inputs, output: caught.append(output.clone()))
    try:
        module(x)
        if len(caught) != 1:
            return f"runs {len(caught)} times in a call"
        calm = caught.pop()
        module.train()
        for _ in range(math.ceil(MANY / calm.numel()) if p else 1):
            module(x)
    finally:
        module.eval()
        hook.remove()
    drawn = torch.stack(caught)
    out = (drawn == 0) & (calm != 0)
    share, spread = out.double().mean().item(), math.sqrt(p * (1 - p) / out.numel())
    if p and not out.any():
        same = torch.allclose(drawn, calm.expand_as(drawn))
        return "is the same in training" if same else "changes in training, but nothing in it is dropped"
    if abs(share - p) > 6 * spread:
        return f"a share of {share:.2f} is dropped in training, not {p}"
    if p and len(caught) > 1 and all(torch.equal(out[0], other) for other in out):
        return "drops the same numbers in every call"
    if scaled and not torch.allclose(drawn[~out], (calm / (1 - p)).expand_as(drawn)[~out]):
        return f"what is kept in training is not divided by 1 - {p}"
    return "once a call, and as it should"


# -- gelu -------------------------------------------------------------------------------------------------------------
gelu = Exercise("gpt2.model.gelu")


@gelu.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    yield Case("one number", x=torch.tensor([1.0]), slopes=False)
    yield Case("nothing", x=torch.tensor([0.0]), slopes=False)
    yield Case("five numbers", x=torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0]), slopes=True)
    yield Case("float64, a matrix", x=torch.tensor(rng.normal(size=(3, 4)) * 2), slopes=True)
    yield Case("float64, three axes", x=torch.tensor(rng.normal(size=(2, 3, 4))), slopes=True)
    yield Case("float32, one axis", x=torch.tensor(rng.normal(size=7), dtype=torch.float32), slopes=True)
    yield Case("far from 0", x=torch.tensor(rng.normal(size=(2, 5)) * 30), slopes=True)
    yield Case(
        "a single number without an axis", x=torch.tensor(float(rng.uniform(0.5, 2)), dtype=torch.float64)
    )
    yield Case("bfloat16", x=torch.tensor(rng.normal(size=(4, 3)), dtype=torch.bfloat16), slopes=True)


@gelu.observe
def _(obj, x, slopes):
    x = x.clone().requires_grad_()
    given = x.clone()
    y = obj(given)
    if y is None:
        return "You returned None. Is a return missing?"
    if not isinstance(y, torch.Tensor):
        return f"You must return a tensor, not a {type(y).__name__}."
    seen = {"The result": y.detach().clone(), "x itself, after the call": given.detach().clone()}
    if not slopes:
        return seen
    if not y.requires_grad:
        return "The result does not want a gradient: nothing could be learnt through your gelu."
    return seen | {"The slopes": torch.autograd.grad(y.sum(), x)[0]}


@gelu.oracle
def _(x, slopes):
    x = x.clone().requires_grad_()
    y = nn.functional.gelu(x, approximate="tanh")
    seen = {"The result": y.detach(), "x itself, after the call": x.detach()}
    return seen | ({"The slopes": torch.autograd.grad(y.sum(), x)[0]} if slopes else {})


gelu.agree(by_name)


ROOT = math.sqrt(2 / math.pi)


def _gelu_form(x, *, factor=ROOT, cubic=0.044715, power=3, half=0.5):
    return half * x * (1 + torch.tanh(factor * (x + cubic * x**power)))


@gelu.mistake
def hard_switch(x):
    """You wrote relu. GELU's switch is soft: just below 0 its result is a little below 0, and its slope is not 0."""
    return x.relu()


@gelu.mistake
def exact_phi(x):
    """You multiply by Φ(x) itself. That is the true GELU, but GPT-2 was trained with the tanh form, and its logits would differ a little in every layer."""
    return x * torch.special.ndtr(x.double()).to(x.dtype)


@gelu.mistake
def sigmoid_form(x):
    """You used x · sigmoid(1.702 x), another approximation from the same paper. It is coarser, and not the one of GPT-2."""
    return x * torch.sigmoid(1.702 * x)


@gelu.mistake
def root_upside_down(x):
    """Under your root stands π/2. It is 2/π: the slope of the tanh part at 0 must be that of Φ."""
    return _gelu_form(x, factor=math.sqrt(math.pi / 2))


@gelu.mistake
def root_of_a_product(x):
    """Under your root stands 2 · π. `2 / math.pi` is a quotient."""
    return _gelu_form(x, factor=math.sqrt(2 * math.pi))


@gelu.mistake
def no_root(x):
    """You multiply by 2/π, without its root."""
    return _gelu_form(x, factor=2 / math.pi)


@gelu.mistake
def square_for_cube(x):
    """You took the square of x, not the third power. A square is never negative, so the two sides come out differently."""
    return _gelu_form(x, power=2)


@gelu.mistake
def without_the_cube(x):
    """The term with the third power of x is missing. Without it the curve is off where x is around 2."""
    return _gelu_form(x, cubic=0.0)


@gelu.mistake
def not_halved(x):
    """Your result is twice too large: far above 0, gelu(x) is x, and 1 + tanh is 2 there."""
    return _gelu_form(x, half=1.0)


@gelu.mistake
def only_the_switch(x):
    """You return the switch, a number between 0 and 1, but do not multiply x by it."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


# -- FeedForward ------------------------------------------------------------------------------------------------------
FeedForward = Exercise("gpt2.model.FeedForward", kind="class", seconds=10.0)
MLP_PLACES = {"Dropout of the result": (lambda module: module, False, True)}


def _module_cases(rng):
    def case(label, B, T, **changed):
        C = changed.get("n_embd", 6)
        x = torch.tensor(rng.normal(size=(B, T, C)) + rng.normal(size=(1, 1, C)))
        return Case(label, config=changed, seed=int(rng.integers(1000)), x=x, only_names="names" in label)

    yield case("names and shapes", 1, 1, n_embd=4)
    yield case("one text of one token", 1, 1, n_embd=4)
    yield case("three texts of five tokens", 3, 5)
    yield case("no bias", 2, 3, bias=False)
    yield case("width 8, four heads", 2, 7, n_embd=8, n_head=4)
    yield case("width 9, three heads, fused", 4, 2, n_embd=9, n_head=3, fused=True)
    yield case("dropout 0.3", 2, 5, dropout=0.3)
    yield case("dropout 0.6, width 4", 3, 4, dropout=0.6, n_embd=4)


@FeedForward.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    yield from _module_cases(rng)


@FeedForward.observe
def _(obj, config, seed, x, only_names):
    return _look(obj, "mlp", _config(**config), seed, x, MLP_PLACES, only_names=only_names)


@FeedForward.oracle
def _(config, seed, x, only_names):
    return _truth("mlp", _config(**config), seed, x, MLP_PLACES, only_names=only_names)


FeedForward.agree(by_name)


class _Mlp(nn.Module):
    """A right feed-forward network, in pieces that a mistake can exchange."""

    times, drops = 4, True

    def __init__(self, config):
        super().__init__()
        C, hidden = config.n_embd, self.times * config.n_embd
        self.c_fc, self.c_proj = (nn.Linear(*s, bias=config.bias) for s in ((C, hidden), (hidden, C)))
        self.p = config.dropout if self.drops else 0.0

    def bend(self, x):
        return _gelu(x)

    def drop(self, x):
        return nn.functional.dropout(x, self.p, self.training)

    def forward(self, x):
        return self.drop(self.c_proj(self.bend(self.c_fc(x))))


@FeedForward.mistake
class bend_is_missing(_Mlp):
    """Between your two layers nothing bends. Two linear layers in a row are one linear layer: the hidden units buy nothing."""

    def bend(self, x):
        return x


@FeedForward.mistake
class bend_is_relu(_Mlp):
    """Your hidden layer bends with relu. GPT-2 was trained with gelu, and so its weights fit only that."""

    def bend(self, x):
        return x.relu()


@FeedForward.mistake
class bend_is_torchs_default(_Mlp):
    """`F.gelu` and `nn.GELU` take the exact Φ unless you ask for approximate="tanh". GPT-2 has the tanh form; use your own gelu."""

    def bend(self, x):
        return nn.functional.gelu(x)


@FeedForward.mistake
class bends_at_the_end_too(_Mlp):
    """You bend the result, too. It is added to the stream, and must be free to be far below 0."""

    def forward(self, x):
        return self.drop(_gelu(super().forward(x)))


@FeedForward.mistake
class bends_only_at_the_end(_Mlp):
    """You bend after the second layer instead of between the two."""

    def forward(self, x):
        return self.drop(_gelu(self.c_proj(self.c_fc(x))))


@FeedForward.mistake
class nothing_is_dropped(_Mlp):
    """Your network never drops anything, whatever config.dropout says."""

    drops = False


@FeedForward.mistake
class drops_the_hidden_units(_Mlp):
    """You drop hidden units, before c_proj. In GPT-2 it is the result that is dropped, after c_proj."""

    def forward(self, x):
        return self.c_proj(self.drop(self.bend(self.c_fc(x))))


@FeedForward.mistake
class drops_when_used_too(_Mlp):
    """You drop in evaluation as well. `F.dropout` must be told `training=self.training`; `nn.Dropout` knows by itself."""

    def drop(self, x):
        return nn.functional.dropout(x, self.p, True)


@FeedForward.mistake(shape=True)
class hidden_is_not_wider(_Mlp):
    """Your hidden layer has C units. It has four times as many."""

    times = 1


@FeedForward.mistake(shape=True)
class bias_is_always_there(_Mlp):
    """Your layers have a bias even if config.bias is False."""

    def __init__(self, config):
        super().__init__(SimpleNamespace(**(vars(config) | {"bias": True})))


# -- Block ------------------------------------------------------------------------------------------------------------
Block = Exercise("gpt2.model.Block", kind="class", seconds=30.0)
BLOCK_PLACES = {
    "In the attention, dropout of the result": (lambda module: module.attn, False, False),
    "In the feed-forward network, dropout of the result": (lambda module: module.mlp, False, False),
}


@Block.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    yield from _module_cases(rng)


def _fused(module):
    return {"The attention's fused": getattr(module.attn, "fused", "not set")}


@Block.observe
def _(obj, config, seed, x, only_names):
    return _look(obj, "block", _config(**config), seed, x, BLOCK_PLACES, _fused, only_names)


@Block.oracle
def _(config, seed, x, only_names):
    config = _config(**config)
    return _truth("block", config, seed, x, BLOCK_PLACES, {"The attention's fused": config.fused}, only_names)


Block.agree(by_name)


class _Attention(nn.Module):
    def __init__(self, C, n_head, *, dropout=0.0, bias=True, fused=True):
        super().__init__()
        self.n_head, self.p, self.fused = n_head, dropout, fused
        self.c_attn, self.c_proj = nn.Linear(C, 3 * C, bias=bias), nn.Linear(C, C, bias=bias)

    def forward(self, x):
        state = {f"a.{name}": parameter for name, parameter in self.named_parameters()}
        return nn.functional.dropout(_attention(x, state, "a", self.n_head), self.p, self.training)


class _Block(nn.Module):
    """A right block, in pieces that a mistake can exchange."""

    def __init__(self, config):
        super().__init__()
        C = config.n_embd
        self.ln_1, self.ln_2 = (nn.LayerNorm(C, bias=self.norm_bias(config)) for _ in range(2))
        self.attn = _Attention(C, config.n_head, **self.options(config))
        self.mlp = _Mlp(config)

    def norm_bias(self, config):
        return config.bias

    def options(self, config):
        return {"dropout": config.dropout, "bias": config.bias, "fused": config.fused}

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


@Block.mistake
class norm_after_the_sum(_Block):
    """Your norms stand in the stream, after each sum. That is the post-LayerNorm block of the first Transformer; GPT-2 normalises only what a part reads."""

    def forward(self, x):
        x = self.ln_1(x + self.attn(x))
        return self.ln_2(x + self.mlp(x))


@Block.mistake
class norm_of_what_is_added(_Block):
    """You normalise what a part gives, not what it reads: the norm belongs inside, around the part's input."""

    def forward(self, x):
        x = x + self.ln_1(self.attn(x))
        return x + self.ln_2(self.mlp(x))


@Block.mistake
class attention_replaces_the_stream(_Block):
    """What attention gives takes the place of x in your block. It must be added to x: otherwise neither the text nor the gradient has a straight way through."""

    def forward(self, x):
        x = self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


@Block.mistake
class mlp_replaces_the_stream(_Block):
    """What the feed-forward network gives takes the place of the stream. It must be added to it."""

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return self.mlp(self.ln_2(x))


@Block.mistake
class no_stream_at_all(_Block):
    """Neither of your two parts adds to what was there: both replace it."""

    def forward(self, x):
        return self.mlp(self.ln_2(self.attn(self.ln_1(x))))


@Block.mistake
class adds_to_the_norm(_Block):
    """You overwrite x by its norm before you add. Then the norm is in the stream, and the x that came in is lost: add to x itself."""

    def forward(self, x):
        x = self.ln_1(x)
        x = x + self.attn(x)
        x = self.ln_2(x)
        return x + self.mlp(x)


@Block.mistake
class both_read_the_same(_Block):
    """Your feed-forward network reads the x from before the attention. It must read what attention has added to; some later models have both side by side, GPT-2 not."""

    def forward(self, x):
        return x + self.attn(self.ln_1(x)) + self.mlp(self.ln_2(x))


@Block.mistake
class one_norm_twice(_Block):
    """Both of your parts use the same norm. ln_1 belongs to the attention, ln_2 to the feed-forward network."""

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_1(x))


@Block.mistake
class norms_exchanged(_Block):
    """ln_1 and ln_2 are exchanged: ln_1 belongs to the attention, which comes first."""

    def forward(self, x):
        x = x + self.attn(self.ln_2(x))
        return x + self.mlp(self.ln_1(x))


@Block.mistake
class no_norms(_Block):
    """Your parts read x as it is. Each needs its norm around what it reads."""

    def forward(self, x):
        x = x + self.attn(x)
        return x + self.mlp(x)


@Block.mistake
class mlp_comes_first(_Block):
    """Your feed-forward network comes before the attention. First the tokens exchange what they know, then each works on it."""

    def forward(self, x):
        x = x + self.mlp(self.ln_2(x))
        return x + self.attn(self.ln_1(x))


@Block.mistake
class attention_never_drops(_Block):
    """config.dropout does not reach your attention."""

    def options(self, config):
        return super().options(config) | {"dropout": 0.0}


@Block.mistake
class fused_is_not_handed_on(_Block):
    """config.fused does not reach your attention."""

    def options(self, config):
        return super().options(config) | {"fused": True}


@Block.mistake(shape=True)
class norms_keep_their_bias(_Block):
    """Your norms have a bias even if config.bias is False."""

    def norm_bias(self, config):
        return True


@Block.mistake(shape=True)
class attention_keeps_its_bias(_Block):
    """Your attention has biases even if config.bias is False."""

    def options(self, config):
        return super().options(config) | {"bias": True}


# -- init_gpt2 --------------------------------------------------------------------------------------------------------
init_gpt2 = Exercise("gpt2.model.init_gpt2", seconds=10.0)


class _Tree(nn.Module):
    """A block's parameters without what they compute, every one filled with 7; and `extra`, tied to a matrix."""

    def __init__(self, config):
        super().__init__()
        for k in range(2):
            self.add_module(f"h{k}", _Block(config))
        self.wte, self.head = nn.Embedding(40, config.n_embd), nn.Linear(config.n_embd, 40, bias=False)
        self.head.weight = self.wte.weight
        for parameter in self.parameters():
            nn.init.constant_(parameter, 7)


BINS = torch.tensor([-1.15035, -0.67449, -0.31864, 0.0, 0.31864, 0.67449, 1.15035], dtype=torch.float64)


@init_gpt2.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    yield Case("a model without parameters", n_layer=2, C=0, bias=True, seed=0)
    for label, n_layer, C, bias in (
        ("two blocks", 2, 32, True),
        ("one block, no bias", 1, 24, False),
        ("twelve blocks", 12, 40, True),
        ("31 blocks, no bias", 31, 32, False),
    ):
        yield Case(label, n_layer=n_layer, C=C, bias=bias, seed=int(rng.integers(1000)))


def _std(name, n_layer):
    return 0.02 / math.sqrt(2 * n_layer) if name.endswith("c_proj.weight") else 0.02


@init_gpt2.observe
def _(obj, n_layer, C, bias, seed):
    def drawn(seed):
        torch.manual_seed(seed)
        model = _Tree(_config(n_embd=C, bias=bias)) if C else nn.Identity()
        before = dict(model.named_parameters())
        result = obj(model, n_layer)
        after = dict(model.named_parameters())
        return result, before, after, model

    result, before, after, model = drawn(seed)
    seen = {
        "What is returned": result,
        "The parameters are the same objects as before": list(before) == list(after)
        and all(before[name] is after[name] for name in before),
        "The tied matrix is still tied": not C or model.head.weight is model.wte.weight,
        "All want gradients, and none has a history": all(
            p.requires_grad and p.is_leaf for p in after.values()
        ),
    }
    if after.keys() != before.keys() or not C:
        return seen
    again = drawn(seed)[2]
    other = drawn(seed + 1)[2]
    for name, parameter in after.items():
        numbers = parameter.detach()
        if parameter.dim() == 1:
            seen[name] = numbers.clone()
            continue
        counts = torch.bincount(
            torch.bucketize(numbers.double().flatten() / _std(name, n_layer), BINS), minlength=8
        )
        right, std = _std(name, n_layer), numbers.double().std().item()
        seen[f"{name}, standard deviation"] = right if abs(std / right - 1) < 0.2 else float(f"{std:.2g}")
        seen[f"draws: {name}, how many numbers lie in each of eight ranges that should be equally full"] = (
            counts.numpy()
        )
        seen[f"{name}, no number is far out"] = bool((numbers.abs() < 8 * _std(name, n_layer)).all())
        seen[f"{name}, the same numbers with the same seed"] = torch.equal(numbers, again[name])
        seen[f"{name}, other numbers with another seed"] = not torch.equal(numbers, other[name])
    matrices = sorted(name for name in after if name.startswith("h0") and after[name].dim() == 2)
    seen["Both blocks start with the same numbers, for each matrix"] = [
        torch.equal(after[name], after[name.replace("h0", "h1")]) for name in matrices
    ]
    return seen


@init_gpt2.oracle
def _(n_layer, C, bias, seed):
    shapes = {}
    for k in range(2):
        shapes |= {
            f"h{k}.{name}": shape for name, shape in _shapes(_config(n_embd=C, bias=bias), "block").items()
        }
    shapes["wte.weight"] = (40, C)
    seen = {
        "What is returned": None,
        "The parameters are the same objects as before": True,
        "The tied matrix is still tied": True,
        "All want gradients, and none has a history": True,
    }
    if not C:
        return seen
    for name, shape in shapes.items():
        if len(shape) == 1:
            seen[name] = torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
            continue
        seen[f"{name}, standard deviation"] = _std(name, n_layer)
        seen[f"draws: {name}, how many numbers lie in each of eight ranges that should be equally full"] = (
            np.full(8, 1 / 8)
        )
        seen[f"{name}, no number is far out"] = True
        seen[f"{name}, the same numbers with the same seed"] = True
        seen[f"{name}, other numbers with another seed"] = True
    seen["Both blocks start with the same numbers, for each matrix"] = [False] * 4
    return seen


init_gpt2.agree(by_name)


def _fill(
    model,
    n_layer,
    *,
    std=0.02,
    special=lambda name: name.endswith("c_proj.weight"),
    root=None,
    one=1.0,
    draw=None,
):
    root = math.sqrt(2 * n_layer) if root is None else root
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif parameter.dim() == 1:
                parameter.fill_(one)
            else:
                (draw or nn.init.normal_)(parameter, 0.0, std / root if special(name) else std)


@init_gpt2.mistake
def no_residual_scaling(model, n_layer):
    """All your matrices have the standard deviation 0.02. Those that write to the stream, the c_proj, must be divided by the root of 2n, or the stream grows with the depth."""
    _fill(model, n_layer, root=1.0)


@init_gpt2.mistake
def one_part_a_block(model, n_layer):
    """You divide by the root of n. Every block adds to the stream twice, so it is the root of 2n."""
    _fill(model, n_layer, root=math.sqrt(n_layer))


@init_gpt2.mistake
def no_root_taken(model, n_layer):
    """You divide by 2n, not by its root. Dividing numbers by a root divides their variance by what is under it."""
    _fill(model, n_layer, root=2 * n_layer)


@init_gpt2.mistake
def root_of_two_times_n(model, n_layer):
    """You divide by √2 · n: the n must stand under the root, too."""
    _fill(model, n_layer, root=math.sqrt(2) * n_layer)


@init_gpt2.mistake
def only_the_attention_scaled(model, n_layer):
    """You scale the c_proj of the attention, but not that of the feed-forward network. Both write to the stream."""
    _fill(model, n_layer, special=lambda name: name.endswith("attn.c_proj.weight"))


@init_gpt2.mistake
def only_the_mlp_scaled(model, n_layer):
    """You scale the c_proj of the feed-forward network, but not that of the attention. Both write to the stream."""
    _fill(model, n_layer, special=lambda name: name.endswith("mlp.c_proj.weight"))


@init_gpt2.mistake
def everything_scaled(model, n_layer):
    """You divide all matrices by the root of 2n. Only those that write to the stream, the c_proj, are special."""
    _fill(model, n_layer, special=lambda name: True)


@init_gpt2.mistake
def variance_for_deviation(model, n_layer):
    """0.02 and its quotient are standard deviations in GPT-2, but you take their root, as if they were variances."""
    _fill(model, n_layer, draw=lambda p, mean, std: nn.init.normal_(p, mean, math.sqrt(std)))


@init_gpt2.mistake
def uniform_numbers(model, n_layer):
    """Your numbers are drawn evenly from a range. The page asks for normal ones."""
    _fill(
        model, n_layer, draw=lambda p, mean, std: nn.init.uniform_(p, -std * math.sqrt(3), std * math.sqrt(3))
    )


@init_gpt2.mistake
def scales_start_at_zero(model, n_layer):
    """You start the scales of the LayerNorms at 0. Then nothing passes a norm, and no gradient either: they start at 1."""
    _fill(model, n_layer, one=0.0)


@init_gpt2.mistake
def scales_drawn_too(model, n_layer):
    """You draw the scales of the LayerNorms at random. They have one axis, and start at 1."""
    with torch.no_grad():
        _fill(model, n_layer)
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 and not name.endswith("bias"):
                parameter.normal_(std=0.02)


@init_gpt2.mistake
def biases_start_at_one(model, n_layer):
    """You ask for a single axis before you ask for the name, so your biases start at 1. A bias has one axis, too: it starts at 0."""
    _fill(model, n_layer)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.fill_(1)


@init_gpt2.mistake
def biases_left_as_they_were(model, n_layer):
    """You leave the biases as they were. They start at 0, whatever stood in them."""
    biases = [p.detach().clone() for n, p in model.named_parameters() if n.endswith("bias")]
    _fill(model, n_layer)
    with torch.no_grad():
        for p, old in zip(
            [p for n, p in model.named_parameters() if n.endswith("bias")], biases, strict=True
        ):
            p.copy_(old)


@init_gpt2.mistake
def new_objects(model, n_layer):
    """You put new parameters in place of the old ones. An optimizer would go on with the old ones, and a tied matrix comes apart: write into the memory that is there."""
    _fill(model, n_layer)
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                module._parameters[name] = nn.Parameter(parameter.detach().clone())


@init_gpt2.mistake
def same_seed_each_time(model, n_layer):
    """You set the seed inside. Then every model starts with the same numbers, and so do all matrices of one shape: leave the seed to the caller."""

    def draw(parameter, mean, std):
        torch.manual_seed(0)
        nn.init.normal_(parameter, mean, std)

    _fill(model, n_layer, draw=draw)


# -- GPT --------------------------------------------------------------------------------------------------------------
GPT = Exercise("gpt2.model.GPT", kind="class", seconds=60.0)
GPT_PLACES = {
    "Dropout of what runs into the first block": (lambda module: module.transformer.h[0], True, True),
}


@GPT.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, B, T, **changed):
        config = {"block_size": 8, "vocab_size": 11} | changed
        idx = torch.tensor(rng.integers(config["vocab_size"], size=(B, T)))
        return Case(label, config=config, seed=int(rng.integers(1000)), idx=idx, only_names="names" in label)

    yield case("names and shapes", 1, 1, vocab_size=5)
    yield case("one token", 1, 1, n_layer=1, n_embd=4, vocab_size=3)
    yield case("one text", 1, 5)
    yield case("three texts of five tokens", 3, 5)
    yield case("as long as it goes", 2, 8)
    yield case(
        "three blocks, no bias, width 8", 2, 5, n_layer=3, bias=False, n_embd=8, n_head=4, vocab_size=5
    )
    yield case("more positions than words", 2, 9, block_size=20, vocab_size=7, n_layer=1, fused=True)
    yield case("dropout 0.4", 3, 6, dropout=0.4, n_layer=1)
    yield case("dropout 0.2, no bias", 4, 3, dropout=0.2, bias=False, n_layer=1)


class _Devices(TorchFunctionMode):
    """Counts tensors that are made without a device and not moved afterwards."""

    untold = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.arange, torch.tensor, torch.zeros, torch.ones, torch.linspace):
            self.untold += kwargs.get("device") is None
        elif func is torch.Tensor.to:
            self.untold = 0
        return func(*args, **kwargs)


def _tied(module):
    head, wte = module.lm_head.weight, module.transformer.wte.weight
    return {
        "lm_head.weight starts with wte's numbers": torch.equal(head, wte),
        "lm_head.weight has wte's memory": head.data_ptr() == wte.data_ptr(),
        "lm_head.weight is wte's": head is wte,
        "lm_head's in_features and out_features": [module.lm_head.in_features, module.lm_head.out_features],
        "num_parameters()": module.num_parameters(),
        "fused in the blocks": [getattr(block.attn, "fused", None) for block in module.transformer.h],
    }


@GPT.observe
def _(obj, config, seed, idx, only_names):
    config = _config(**config)
    seen = _look(obj, "gpt", config, seed, idx, GPT_PLACES, _tied, only_names)
    if isinstance(seen, dict) and not only_names and idx.shape[1] == config.block_size:
        model = obj(config).eval()
        with _Devices() as devices, torch.no_grad():
            model(idx)
        seen["Tensors made on the usual device, not on that of idx"] = devices.untold
    return seen


@GPT.oracle
def _(config, seed, idx, only_names):
    config = _config(**config)
    numbers = sum(math.prod(s) for name, s in _shapes(config, "gpt").items() if name != "lm_head.weight")
    own = {
        "lm_head.weight starts with wte's numbers": True,
        "lm_head.weight has wte's memory": True,
        "lm_head.weight is wte's": True,
        "lm_head's in_features and out_features": [config.n_embd, config.vocab_size],
        "num_parameters()": numbers,
        "fused in the blocks": [config.fused] * config.n_layer,
    }
    seen = _truth("gpt", config, seed, idx, GPT_PLACES, own, only_names)
    told = {"Tensors made on the usual device, not on that of idx": 0}
    return seen | told if not only_names and idx.shape[1] == config.block_size else seen


GPT.agree(by_name)


class _GPT(nn.Module):
    """A right GPT, in pieces that a mistake can exchange."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        C = config.n_embd
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.vocab_size, C),
                "wpe": nn.Embedding(config.block_size, C),
                "drop": nn.Dropout(config.dropout),
                "h": self.blocks(config),
                "ln_f": nn.LayerNorm(C, bias=config.bias),
            }
        )
        self.lm_head = self.head(config)
        self.tie()

    def blocks(self, config):
        return nn.ModuleList(_Block(config) for _ in range(config.n_layer))

    def head(self, config):
        return nn.Linear(config.n_embd, config.vocab_size, bias=False)

    def tie(self):
        self.lm_head.weight = self.transformer.wte.weight

    def num_parameters(self):
        return sum(parameter.numel() for parameter in self.parameters())

    def enter(self, idx):
        t = torch.arange(idx.shape[1], device=idx.device)
        return self.transformer.drop(self.transformer.wte(idx) + self.positions(t, idx))

    def positions(self, t, idx):
        return self.transformer.wpe(t)

    def run(self, x):
        for block in self.transformer.h:
            x = block(x)
        return x

    def leave(self, x):
        return self.lm_head(self.transformer.ln_f(x))

    def forward(self, idx):
        return self.leave(self.run(self.enter(idx)))


@GPT.mistake
class weights_copied(_GPT):
    """lm_head starts as a copy of wte, but is not the same Parameter. The first training step moves them apart, and the model has more parameters than it should: assign the Parameter itself."""

    def tie(self):
        self.lm_head.weight = nn.Parameter(self.transformer.wte.weight.detach().clone())


@GPT.mistake
class head_not_tied(_GPT):
    """lm_head has a matrix of its own. Let its weight be the weight of wte, the same object."""

    def tie(self):
        return None


@GPT.mistake
class data_shared_only(_GPT):
    """You tied with `.data`: the memory is shared, but there are two Parameters. Each has half of the gradient, and an optimizer steps twice. Assign the Parameter itself."""

    def tie(self):
        self.lm_head.weight.data = self.transformer.wte.weight.data


@GPT.mistake
class no_positions(_GPT):
    """Your model does not add the positions: to its attention, all orders of the words before are the same."""

    def positions(self, t, idx):
        return 0


@GPT.mistake
class positions_of_the_texts(_GPT):
    """You number the texts of the batch, not the tokens of a text: every token of a text gets the same position. It is arange(T), with T = idx.shape[1]."""

    def positions(self, t, idx):
        return self.transformer.wpe(torch.arange(idx.shape[0], device=idx.device))[:, None]


@GPT.mistake
class positions_from_the_end(_GPT):
    """Your positions count backwards. The first token has position 0."""

    def positions(self, t, idx):
        return self.transformer.wpe(t.flip(0))


@GPT.mistake
class positions_from_one(_GPT):
    """Your positions begin with 1. The first is 0: otherwise row 0 is never used, and a text of full length has no row for its last token."""

    def positions(self, t, idx):
        return self.transformer.wpe(t + 1)


@GPT.mistake
class last_positions_of_the_table(_GPT):
    """You take the last T rows of wpe. Position t has row t, whatever the length of the text."""

    def positions(self, t, idx):
        return self.transformer.wpe.weight[-len(t) :]


@GPT.mistake
class no_last_norm(_GPT):
    """ln_f is made but not used: it stands between the last block and lm_head."""

    def leave(self, x):
        return self.lm_head(x)


@GPT.mistake
class one_block_again_and_again(_GPT):
    """Your list holds one block n_layer times, so all layers share their weights. Make a new Block for each place, with a comprehension."""

    def blocks(self, config):
        return nn.ModuleList([_Block(config)] * config.n_layer)


@GPT.mistake
class every_block_reads_the_start(_GPT):
    """Each of your blocks reads the embeddings, so that all but the last have no effect. Each must read what the one before gave."""

    def run(self, x):
        return self.transformer.h[-1](x) if len(self.transformer.h) else x


@GPT.mistake
class blocks_in_reverse(_GPT):
    """Your text runs through the blocks from the last to the first."""

    def run(self, x):
        for block in reversed(self.transformer.h):
            x = block(x)
        return x


@GPT.mistake
class last_block_left_out(_GPT):
    """Your text does not run through the last block."""

    def run(self, x):
        for block in self.transformer.h[:-1]:
            x = block(x)
        return x


@GPT.mistake
class probabilities_not_logits(_GPT):
    """You return probabilities. A model returns logits: cross_entropy takes the softmax itself."""

    def leave(self, x):
        return super().leave(x).softmax(-1)


@GPT.mistake
class embeddings_never_dropped(_GPT):
    """What runs into the first block is never dropped in your model: use `drop` on the sum."""

    def enter(self, idx):
        t = torch.arange(idx.shape[1], device=idx.device)
        return self.transformer.wte(idx) + self.transformer.wpe(t)


@GPT.mistake
class only_the_words_dropped(_GPT):
    """You drop the words' vectors before you add the positions. Dropout belongs on the sum."""

    def enter(self, idx):
        t = torch.arange(idx.shape[1], device=idx.device)
        return self.transformer.drop(self.transformer.wte(idx)) + self.transformer.wpe(t)


@GPT.mistake(shape=True)
class only_the_last_token(_GPT):
    """You return the logits of the last token only. Training needs a prediction at every token: (B, T, V)."""

    def leave(self, x):
        return super().leave(x)[:, -1]


@GPT.mistake(shape=True)
class head_with_a_bias(_GPT):
    """Your lm_head has a bias. GPT-2's has none."""

    def head(self, config):
        return nn.Linear(config.n_embd, config.vocab_size)


# -- LayerNorm --------------------------------------------------------------------------------------------------------
LayerNorm = Exercise("gpt2.model.LayerNorm", kind="class")


@LayerNorm.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, *shape, eps=1e-5, size=1.0, dtype=torch.float64):
        x = rng.normal(size=shape) * size + rng.normal(size=shape[-1]) * size
        x = torch.tensor(x, dtype=dtype)
        return Case(label, x=x, eps=eps, seed=int(rng.integers(1000)), only_start="start" in label)

    yield case("the parameters at the start", 3)
    yield case("one token of two numbers", 2)
    yield case("a table", 5, 6)
    yield case("a batch of texts", 2, 3, 4)
    yield case("one text of one token", 1, 1, 5)
    yield case("four axes", 2, 3, 2, 4)
    yield case("as many texts as tokens as numbers", 3, 3, 3)
    yield case("a large eps", 2, 4, 3, eps=0.5)
    yield case("small numbers", 3, 2, 5, size=1e-3)
    yield case("large numbers, float32", 2, 5, 7, size=100.0, dtype=torch.float32)


@LayerNorm.observe
def _(obj, x, eps, seed, only_start):
    module = obj(x.shape[-1], eps)
    if not isinstance(module, nn.Module):
        return "Your class must stay an nn.Module."
    seen = {"The parameters": sorted(name for name, _ in module.named_parameters())}
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name in ("weight", "bias"):
            parameter = getattr(module, name)
            seen[f"{name} at the start"] = parameter.clone()
            parameter.data = torch.tensor(rng.normal(size=x.shape[-1]) + 0.5, dtype=x.dtype)
    if only_start:
        return seen
    x = x.clone().requires_grad_()
    given = x.clone()
    y = module(given)
    if y is None:
        return "forward returned None. Is a return missing?"
    if not isinstance(y, torch.Tensor):
        return f"forward must return a tensor, not a {type(y).__name__}."
    if y.shape != x.shape:
        return f"The result has the shape {tuple(y.shape)}, but x has {tuple(x.shape)}."
    seen |= {"The result": y.detach().clone(), "x itself, after the call": given.detach().clone()}
    if not y.requires_grad:
        return "The result does not want a gradient: nothing could be learnt through your module."
    (y * _weights(y)).sum().backward()
    seen |= {"The gradient of x": x.grad, "The gradient of weight": module.weight.grad}
    return seen | {"The gradient of bias": module.bias.grad}


@LayerNorm.oracle
def _(x, eps, seed, only_start):
    n, rng = x.shape[-1], np.random.default_rng(seed)
    seen = {"The parameters": ["bias", "weight"]}
    seen |= {"weight at the start": torch.ones(n), "bias at the start": torch.zeros(n)}
    if only_start:
        return seen
    weight, bias = (torch.tensor(rng.normal(size=n) + 0.5, dtype=x.dtype).requires_grad_() for _ in range(2))
    x = x.clone().requires_grad_()
    y = nn.functional.layer_norm(x, (n,), weight, bias, eps)
    (y * _weights(y)).sum().backward()
    seen |= {"The result": y.detach(), "x itself, after the call": x.detach()}
    seen |= {"The gradient of x": x.grad, "The gradient of weight": weight.grad}
    return seen | {"The gradient of bias": bias.grad}


@LayerNorm.agree
def _(got, expected):
    if not isinstance(got, dict) or not isinstance(expected, dict):
        return by_name(got, expected)
    for name in expected:
        single = isinstance(expected[name], torch.Tensor) and expected[name].dtype == torch.float32
        if difference := compare(got.get(name), expected[name], tolerance=1e-4 if single else None):
            return f"{name}: {difference.replace('you returned', 'yours is')}"
    return None


class _Norm(nn.Module):
    """A right LayerNorm, in pieces that a mistake can exchange."""

    def __init__(self, n, eps=1e-5):
        super().__init__()
        self.eps, self.weight, self.bias = eps, nn.Parameter(torch.ones(n)), nn.Parameter(torch.zeros(n))

    def axes(self, x):
        return -1

    def centre(self, x):
        return x - x.mean(self.axes(x), keepdim=True)

    def size(self, y, x):
        return torch.sqrt((y**2).mean(self.axes(x), keepdim=True) + self.eps)

    def forward(self, x):
        y = self.centre(x)
        return y / self.size(y, x) * self.weight + self.bias


@LayerNorm.mistake
class over_the_second_axis(_Norm):
    """You take means over axis 1. In a table (T, n) these are a token's numbers, in (B, T, n) the tokens of a text: then later tokens change earlier ones. The token's numbers are always on the last axis."""

    def axes(self, x):
        return 1


@LayerNorm.mistake
class over_tokens_and_numbers(_Norm):
    """You take one mean for all tokens of a text. Then later tokens change earlier ones: take it over the last axis alone."""

    def axes(self, x):
        return tuple(range(1, x.dim())) or (0,)


@LayerNorm.mistake
class over_everything(_Norm):
    """You take one mean over all numbers, of all texts. Each token has its own mean: over the last axis."""

    def axes(self, x):
        return tuple(range(x.dim()))


@LayerNorm.mistake
class over_the_batch(_Norm):
    """You take means over axis 0, as batch normalisation does. Then the texts of a batch change each other: the mean goes over the last axis."""

    def axes(self, x):
        return 0


@LayerNorm.mistake
class over_the_last_but_one(_Norm):
    """You take means over the last axis but one, the tokens of a text. A token's own numbers are on the last axis."""

    def axes(self, x):
        return -2 if x.dim() > 1 else -1


@LayerNorm.mistake
class one_less_below(_Norm):
    """Your variance divides by n - 1, as `x.var` does unless told otherwise. LayerNorm divides by n: the mean of the squares."""

    def size(self, y, x):
        return torch.sqrt((y**2).sum(-1, keepdim=True) / (x.shape[-1] - 1) + self.eps)


@LayerNorm.mistake
class eps_outside_the_root(_Norm):
    """You add eps to the standard deviation, after the root. It stands under the root, beside the variance."""

    def size(self, y, x):
        return torch.sqrt((y**2).mean(-1, keepdim=True)) + self.eps


@LayerNorm.mistake
class eps_forgotten(_Norm):
    """eps is not used. A token whose numbers are all equal would be divided by 0."""

    def size(self, y, x):
        return torch.sqrt((y**2).mean(-1, keepdim=True))


@LayerNorm.mistake
class no_root_of_the_variance(_Norm):
    """You divide by the variance, not by its root."""

    def size(self, y, x):
        return (y**2).mean(-1, keepdim=True) + self.eps


@LayerNorm.mistake
class mean_not_taken_away(_Norm):
    """You divide by the size of x, but do not take its mean away first. (That is RMSNorm, which other models use.)"""

    def centre(self, x):
        return x


@LayerNorm.mistake
class no_scale_and_shift(_Norm):
    """weight and bias are not used, so nothing in your norm can be learnt."""

    def forward(self, x):
        y = self.centre(x)
        return y / self.size(y, x) + 0 * (self.weight + self.bias)


@LayerNorm.mistake
class shifted_before_scaled(_Norm):
    """You add the bias before you multiply by the weight. It comes last."""

    def forward(self, x):
        y = self.centre(x)
        return (y / self.size(y, x) + self.bias) * self.weight
