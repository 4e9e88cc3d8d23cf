"""Checks for the lesson gpt2.training."""

import math
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from groundup.check import Case, Exercise, compare

TokenBatches = Exercise("gpt2.training.TokenBatches", kind="class")
parameter_groups = Exercise("gpt2.training.parameter_groups")
training_step = Exercise("gpt2.training.training_step", tolerance=1e-5)
estimate_loss = Exercise("gpt2.training.estimate_loss")
accumulate_gradients = Exercise("gpt2.training.accumulate_gradients")


def _told(sentences):
    """An `agree` that says `sentences[name]` where the observation `name` differs, and else compares the rest."""

    def agree(got, expected):
        if isinstance(got, str) and got != expected:  # an observation that says what is wrong
            return got
        if isinstance(got, dict) and isinstance(expected, dict):
            for name, sentence in sentences.items():
                if name in expected and compare(got.get(name), expected[name]):
                    return sentence
        return compare(got, expected, tolerance=1e-5 if sentences is STEP else None)

    return agree


def _stirred():
    """The states of the generators that everybody shares, after one draw: a fixed seed then shows, too."""
    random.random(), np.random.random(), torch.rand(1)
    return _states()


def _states():
    states = np.random.get_state()
    return random.getstate(), states[1].tolist(), states[2], torch.get_rng_state().tolist()


class _File:
    """Tokens as they lie in a file: an array that counts how many of its numbers are read."""

    __class__ = np.ndarray  # for answers that ask isinstance

    def __init__(self, array):
        self.array, self.read = array, 0

    def __len__(self):
        return len(self.array)

    def __getitem__(self, places):
        cut = self.array[places]
        self.read += 0 if isinstance(places, slice) else cut.size  # a slice is a view: nothing is read yet
        return cut

    def take(self, places, *args, **options):
        return self[places]

    def __array__(self, dtype=None, copy=None):
        self.read += len(self)
        return self.array.astype(dtype or self.array.dtype)

    def __getattr__(self, name):
        if name not in ("dtype", "shape", "size", "ndim"):
            self.read += len(self)
        return getattr(self.array, name)


def _as_given(tokens):
    return _File(tokens) if isinstance(tokens, np.ndarray) else tokens


def _places(tokens, cut):
    """Where rows begin in a text whose tokens are FIRST_TOKEN, FIRST_TOKEN + 1, …; None where it cannot be told."""
    if isinstance(tokens, torch.Tensor) and isinstance(cut, torch.Tensor) and cut.dim() == 2 and cut.shape[1]:
        return (cut[:, 0] - FIRST_TOKEN).tolist()
    return None


# -- the loader ----------------------------------------------------------------------------------------

FIRST_TOKEN = 1000  # of a text in which each token tells its place


@TokenBatches.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, n, B, T, steps, *, rank=0, world_size=1, position=0, seed=None, as_file=False):
        tokens = FIRST_TOKEN + torch.arange(n)
        if as_file:  # any numbers: the token at a place is not to be guessed from the place
            tokens = rng.integers(2**16, size=n).astype(np.uint16)
        return Case(
            label,
            tokens=tokens,
            batch_size=B,
            block_size=T,
            rank=rank,
            world_size=world_size,
            position=position,
            seed=seed,
            steps=steps,
        )

    yield case("14 tokens, two batches an epoch", 14, 2, 3, 3)
    yield case("a text whose end fills no batch", 45, 2, 5, 5)
    yield case("a text that comes out even", 25, 2, 4, 4)
    yield case("one window short of the last target", 24, 2, 4, 3)
    yield case("rows of one", 20, 1, 4, 6)
    yield case("windows of one token", 9, 3, 1, 4)
    yield case("rank 0 of 2", 70, 2, 4, 6, world_size=2)
    yield case("rank 1 of 2", 70, 2, 4, 6, rank=1, world_size=2)
    yield case("rank 2 of 3", 120, 3, 2, 9, rank=2, world_size=3)
    yield case("shuffled", 90, 3, 4, 15, seed=int(rng.integers(1, 1000)))
    yield case("shuffled with seed 0", 60, 2, 5, 11, seed=0)
    yield case("shuffled, rank 1 of 2", 110, 2, 4, 13, rank=1, world_size=2, seed=int(rng.integers(1, 1000)))
    yield case("from position 8 on", 90, 3, 4, 9, position=8, seed=int(rng.integers(1, 1000)))
    yield case("uint16, as files have them", 400, 2, 3, 7, as_file=True)
    yield case("no batch taken yet", 40, 2, 3, 0)
    yield case("uint16, shuffled", 400, 2, 3, 7, as_file=True, seed=int(rng.integers(1, 1000)))


@TokenBatches.observe
def _(obj, tokens, batch_size, block_size, rank, world_size, position, seed, steps):
    tokens, before = _as_given(tokens), _stirred()

    def loader():
        options = {"rank": rank, "world_size": world_size, "position": position, "seed": seed}
        return obj(tokens, batch_size, block_size, **options)

    ours, batches = loader(), []
    saved = dict(ours.state_dict())
    for k in range(steps):
        if k == steps // 2:
            saved = dict(ours.state_dict())
        batch = ours.next_batch()
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            return f"next_batch must return a pair, inputs and targets, not a {type(batch).__name__}."
        batches.append({name: part for name, part in zip(("inputs", "targets"), batch, strict=True)})
    seen = {"order": [ours.order(epoch) for epoch in (0, 1, 6)], "batches": batches}
    seen["starts"] = [_places(tokens, batch["inputs"]) for batch in batches]
    seen["position"] = ours.position
    cut = 2 * batch_size * (block_size + 1) * steps  # inputs and targets may be cut one by one
    seen["much read"] = isinstance(tokens, _File) and tokens.read > cut
    resumed, after = loader(), []
    for _ in range(2 * steps):  # the state of the other comes when this one is in a later epoch
        resumed.next_batch()
    resumed.load_state_dict(saved)
    for _ in range(steps // 2, steps):
        x, y = resumed.next_batch()
        after.append({"inputs": x, "targets": y})
    same = compare(after, batches[steps // 2 :]) is None
    return seen | {"resumed": same, "shared": _states() != before}


@TokenBatches.oracle
def _(tokens, batch_size, block_size, rank, world_size, position, seed, steps):
    text = [int(token) for token in tokens]
    windows = [text[k : k + block_size + 1] for k in range(0, len(text) - block_size, block_size)]
    batches, epoch, place = [], -1, position
    while len(batches) < steps:
        per_epoch = len(windows) // (batch_size * world_size)
        if place // per_epoch != epoch:
            epoch = place // per_epoch
            rows = range(len(windows))
            if seed is not None:
                rows = np.random.default_rng([seed, epoch]).permutation(len(windows))
            ordered = [windows[k] for k in rows]
        everyone = batch_size * world_size
        of_all = ordered[place % per_epoch * everyone :][:everyone]
        mine = torch.tensor(of_all[rank * batch_size :][:batch_size])
        batches.append({"inputs": mine[:, :-1], "targets": mine[:, 1:]})
        place += 1
    rows = np.arange(len(windows))
    orders = [
        rows if seed is None else np.random.default_rng([seed, k]).permutation(len(rows)) for k in (0, 1, 6)
    ]
    seen = {"order": orders, "batches": batches, "position": position + steps}
    seen["starts"] = [_places(tokens, batch["inputs"]) for batch in batches]
    return seen | {"much read": False, "resumed": True, "shared": False}


_loader_told = _told(
    {
        "shared": "Your loader uses the generator that everybody shares. Then its order depends on what else was "
        "drawn, and dropout on the loader. Make one from (seed, epoch).",
        "position": "`position` does not count the batches that were taken: after each next_batch it is 1 more.",
        "much read": "You read more of `tokens` than a batch needs. A file may be larger than memory: cut first, "
        "then convert what you cut.",
        "resumed": "A loader that got the state of another one did not go on with the batches of that one. "
        "All that next_batch does must follow from `position`.",
    }
)


@TokenBatches.agree
def _(got, expected):
    said = _loader_told(got, expected)
    if said and said.startswith("At result['batches']") and any(expected["starts"]):
        for k, (ours, theirs) in enumerate(zip(got["starts"], expected["starts"], strict=True)):
            if ours and theirs and len(ours) == len(theirs) and ours != theirs:
                said = f"In batch {k}, counted from 0, your rows of inputs start at the places {ours} of the text, "
                said += f"expected {theirs}."
                break
        said += f" (Here tokens[k] is {FIRST_TOKEN} + k.)"
    return said


class _Batches:
    """A right loader with places where a mistake can differ."""

    stride, step = 0, 1

    def __init__(self, tokens, batch_size, block_size, *, rank=0, world_size=1, position=0, seed=None):
        self.tokens, self.B, self.T = tokens, batch_size, block_size
        self.rank, self.world_size, self.position, self.seed = rank, world_size, position, seed
        self.n_windows = (len(tokens) - 1) // block_size
        self.per_epoch = self.n_windows // (batch_size * world_size)

    def order(self, epoch):
        return self.shuffled([self.seed, epoch])

    def shuffled(self, words):
        rows = np.arange(self.n_windows)
        return rows if self.seed is None else np.random.default_rng(words).permutation(rows)

    def first(self, number):
        return (number * self.world_size + self.rank) * self.B

    def chosen(self, epoch, first):
        return self.order(epoch)[first : first + self.B]

    def targets(self, cut):
        return cut[:, 1:]

    def whole_numbers(self, cut):
        return cut.long()

    def next_batch(self):
        epoch, number = divmod(self.position, self.per_epoch)
        starts = self.chosen(epoch, self.first(number)) * (self.T + self.stride)
        places = starts[:, None] + np.arange(self.T + 1)
        cut = self.whole_numbers(torch.as_tensor(self.tokens[places]))
        self.position += self.step
        return cut[:, :-1], self.targets(cut)

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


@TokenBatches.mistake
class targets_not_shifted(_Batches):
    """Your targets are the inputs themselves, so the model learns to repeat what it reads. The target of a token is the one after it: y is x moved by one place."""

    def targets(self, cut):
        return cut[:, :-1]


@TokenBatches.mistake
class last_target_from_the_front(_Batches):
    """Your rows are block_size tokens long and you turn them round for the targets, so the last target is the row's own first token. Cut block_size + 1 tokens: the last target comes after the row."""

    def targets(self, cut):
        return cut[:, :-1].roll(-1, 1)


@TokenBatches.mistake
class a_batch_skipped_at_each_step(_Batches):
    """You move on by two batches with each call, so half of the text is never seen. Count `position` up once in a call."""

    step = 2


@TokenBatches.mistake
class always_the_same_batch(_Batches):
    """Every call gives the same batch: `position` stays where it is. Count it up by 1 in each call."""

    step = 0


@TokenBatches.mistake
class a_token_lost_between_windows(_Batches):
    """Your windows start block_size + 1 tokens apart, so one token in each window is never predicted from, and the places drift. They start block_size apart; the last target of one is the first input of the next."""

    stride = 1


@TokenBatches.mistake
class every_rank_reads_the_same(_Batches):
    """All ranks read the same batches, so more processes learn nothing more. In each round the processes share batch_size * world_size windows; rank r takes the r-th part."""

    def first(self, number):
        return number * self.world_size * self.B


@TokenBatches.mistake
class ranks_overlap(_Batches):
    """Your ranks run into each other: what rank 1 reads now, rank 0 reads again in the next round. A round moves on by world_size batches, not by one."""

    def first(self, number):
        return (number + self.rank) * self.B


@TokenBatches.mistake
class rank_left_out(_Batches):
    """You leave out rank and world_size, so all processes read the same batches. In each round they share world_size * batch_size windows; rank r takes the r-th part."""

    def first(self, number):
        return number * self.B


@TokenBatches.mistake
class one_stretch_for_each_rank(_Batches):
    """You give each rank a stretch of the order for itself. Asked for are rounds: all ranks move through the order together, and in each round rank r takes the r-th batch_size windows."""

    def first(self, number):
        return (self.rank * self.per_epoch + number) * self.B


@TokenBatches.mistake
class dealt_out_one_by_one(_Batches):
    """You deal the windows out like cards, one to each rank in turn. Asked for is: in each round, rank r takes the r-th batch_size windows, all in a row."""

    def chosen(self, epoch, first):
        taken = first // (self.world_size * self.B) * self.B
        return self.order(epoch)[self.rank :: self.world_size][taken : taken + self.B]


@TokenBatches.mistake
class order_not_used(_Batches):
    """Your batches are cut from the text in its own order, also with a seed. Take the numbers of the windows from `self.windows`, the order of this epoch."""

    def chosen(self, epoch, first):
        return np.arange(first, first + self.B)


@TokenBatches.mistake
class epoch_added_to_the_seed(_Batches):
    """You add seed and epoch. Then seed 3 has in epoch 1 the order that seed 4 has in epoch 0. Give the generator both numbers, as the pair (seed, epoch)."""

    def order(self, epoch):
        return self.shuffled((self.seed or 0) + epoch)


@TokenBatches.mistake
class same_order_in_every_epoch(_Batches):
    """You shuffle every epoch alike: the order depends on the seed alone. Both numbers, seed and epoch, go into the generator."""

    def order(self, epoch):
        return self.shuffled([self.seed])


@TokenBatches.mistake
class each_rank_shuffles_for_itself(_Batches):
    """Each rank has an order of its own, so some windows are read twice in an epoch and others never. All ranks must agree on the order: it depends on seed and epoch only."""

    def order(self, epoch):
        return self.shuffled([self.seed, epoch] + [self.rank] * (self.rank > 0))


@TokenBatches.mistake
class seed_zero_taken_for_no_seed(_Batches):
    """With seed 0 you do not shuffle. 0 is a seed like any other, but `if self.seed:` takes it for none: ask `is None`."""

    def order(self, epoch):
        return np.arange(self.n_windows) if not self.seed else super().order(epoch)


@TokenBatches.mistake(shape=True)
class dtype_of_the_file(_Batches):
    """Tokens from a file are uint16, and you hand them on like that. An embedding takes int64: convert with .long()."""

    def whole_numbers(self, cut):
        return cut


# -- groups of parameters ------------------------------------------------------------------------------


class _Head(nn.Module):
    """An embedding tied to the head, norms, a table called bias, a frozen part, and a number without an axis."""

    def __init__(self, frozen=True):
        super().__init__()
        self.wte = nn.Embedding(7, 3)
        self.norm = nn.LayerNorm(3)
        self.relative_bias = nn.Parameter(torch.zeros(2, 5))
        self.temperature = nn.Parameter(torch.tensor(1.0))
        self.lm_head = nn.Linear(3, 7, bias=False)
        self.lm_head.weight = self.wte.weight
        self.adapter = nn.Linear(3, 4)
        if frozen:
            self.adapter.requires_grad_(False)


def _scrambled():
    """Many parameters, whose addresses tell nothing of their order."""
    layers = [nn.Linear(2, 3) for _ in range(9)]
    return nn.Sequential(*[layers[k] for k in (4, 8, 1, 6, 0, 7, 3, 5, 2)])


MODELS = {
    "a layer and a norm": lambda: nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3)),
    "a tied head": lambda: _Head(frozen=False),
    "a tied head and a frozen part": _Head,
    "all frozen": lambda: nn.Linear(4, 3).requires_grad_(False),
    "matrices only": lambda: nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)),
    "layers in another order than they were made": _scrambled,
    "a convolution": lambda: nn.Sequential(nn.Conv1d(2, 5, 3), nn.BatchNorm1d(5)),
}


@parameter_groups.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    for model in MODELS:
        yield Case(model, model=model, weight_decay=float(rng.uniform(0.02, 0.5)))
    yield Case("no decay at all", model="a tied head", weight_decay=0.0)


def _state(model):
    """All that a function which only reads a model leaves as it is."""
    named = list(model.named_parameters())
    modes = [module.training for module in model.modules()]
    grads = [None if p.grad is None else p.grad.tolist() for _, p in named]
    return [(name, p.requires_grad, p.tolist()) for name, p in named], modes, grads


@parameter_groups.observe
def _(obj, model, weight_decay):
    model = MODELS[model]()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    before = _state(model)
    groups = obj(model, weight_decay)
    if not isinstance(groups, list | tuple) or not all(isinstance(group, dict) for group in groups):
        return "You must return a list of dicts, one for each group."
    if not all(isinstance(group.get("params"), list) for group in groups):
        return 'Each group must have its parameters under "params", as a list.'
    if _state(model) != before:
        return "You changed the model. Only sort its parameters into lists."
    seen = []
    for group in groups:
        parameters = [names.get(id(parameter), "no parameter") for parameter in group["params"]]
        others = sorted(set(group) - {"params", "weight_decay"})
        decay = float(group.get("weight_decay", math.nan)) if parameters else 0.0  # of nothing: any will do
        seen.append([decay, parameters, others])
    return seen


@parameter_groups.oracle
def _(model, weight_decay):
    groups = [[weight_decay, [], []], [0.0, [], []]]
    for name, parameter in MODELS[model]().named_parameters():
        if parameter.requires_grad:
            groups[len(parameter.shape) < 2][1].append(name)
    return [[decay if names else 0.0, names, others] for decay, names, others in groups]


@parameter_groups.agree
def _(got, expected):
    if isinstance(got, str) or isinstance(expected, str):
        return None if got == expected else got
    if not isinstance(got, list):
        return compare(got, expected)
    if len(got) != len(expected):
        return f"You returned {len(got)} groups, expected {len(expected)}, also if one of them is empty."
    for which, ours, theirs in zip(("first", "second"), got, expected, strict=True):
        if ours[2]:
            return f"Your {which} group has keys that were not asked for: {', '.join(ours[2])}."
        if ours[1] != theirs[1]:
            return f"The parameters of the {which} group are {ours[1]}, expected {theirs[1]}, in this order."
        if math.isnan(ours[0]) and not math.isnan(theirs[0]):
            return f'Your {which} group says nothing about "weight_decay".'
        if compare(ours[0], theirs[0]):
            return f"The {which} group has weight decay {ours[0]:.3g}, expected {theirs[0]:.3g}."
    return None


def _groups(decays, others, weight_decay):
    return [
        {"params": list(decays), "weight_decay": weight_decay},
        {"params": list(others), "weight_decay": 0.0},
    ]


def _learnt(model):
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


@parameter_groups.mistake
def everything_decays(model, weight_decay):
    """You let all parameters decay. Decay pulls towards 0, and a LayerNorm's scale belongs near 1: parameters with one axis must not decay."""
    return _groups([p for _, p in _learnt(model)], [], weight_decay)


@parameter_groups.mistake
def chosen_by_the_name(model, weight_decay):
    """You choose by the word "bias" in the name. Then the scales of the norms, called "weight", decay, and a table that happens to be called a bias does not. Count the axes."""
    return _groups(
        [p for name, p in _learnt(model) if "bias" not in name],
        [p for name, p in _learnt(model) if "bias" in name],
        weight_decay,
    )


@parameter_groups.mistake
def exactly_two_axes(model, weight_decay):
    """You let only parameters with exactly two axes decay. The weights of a convolution have three or four, and decay as well."""
    return _groups(
        [p for _, p in _learnt(model) if p.dim() == 2],
        [p for _, p in _learnt(model) if p.dim() != 2],
        weight_decay,
    )


@parameter_groups.mistake
def the_wrong_way_round(model, weight_decay):
    """Your groups are the wrong way round: biases and norms decay, matrices do not."""
    return _groups(
        [p for _, p in _learnt(model) if p.dim() < 2],
        [p for _, p in _learnt(model) if p.dim() >= 2],
        weight_decay,
    )


@parameter_groups.mistake
def tied_parameter_twice(model, weight_decay):
    """The embedding and the head share one parameter, and you list it twice: the optimizer would move it twice in a step. model.parameters() names each one once."""
    named = [p for _, p in model.named_parameters(remove_duplicate=False) if p.requires_grad]
    return _groups([p for p in named if p.dim() >= 2], [p for p in named if p.dim() < 2], weight_decay)


@parameter_groups.mistake
def frozen_ones_too(model, weight_decay):
    """You include frozen parameters, those with requires_grad False. They are not to be learnt: leave them out."""
    every = list(model.parameters())
    return _groups([p for p in every if p.dim() >= 2], [p for p in every if p.dim() < 2], weight_decay)


@parameter_groups.mistake
def second_group_says_nothing(model, weight_decay):
    """Your second group has no weight_decay of its own, so it gets the optimizer's default, and for AdamW that is 0.01, not 0. Say 0.0."""
    decays, others = _groups(
        [p for _, p in _learnt(model) if p.dim() >= 2],
        [p for _, p in _learnt(model) if p.dim() < 2],
        weight_decay,
    )
    return [decays, {"params": others["params"]}]


# -- one step ------------------------------------------------------------------------------------------


class _Gain(nn.Module):
    """Stands for dropout: in train mode numbers differ."""

    def forward(self, h):
        return h * torch.linspace(0.5, 1.5, h.shape[-1], dtype=h.dtype) if self.training else h


class _Reader(nn.Module):
    """A small language model that notes how it is called: shapes, dtypes, gradients on or off, and how many
    of its graphs waited for their backward at once, at most.
    """

    def __init__(self, seed, dtype, V=6, C=5):
        super().__init__()
        numbers = np.random.default_rng(seed)
        self.table = nn.Parameter(torch.tensor(numbers.normal(size=(V, C)), dtype=dtype))
        self.head = nn.Parameter(torch.tensor(numbers.normal(size=(C, V)), dtype=dtype))
        self.unused = nn.Parameter(torch.tensor(numbers.normal(size=3), dtype=dtype))
        self.gain = _Gain()
        self.shapes, self.firsts, self.dtypes, self.grads = [], [], [], []
        self.waiting, self.most_waiting = 0, 0

    def forward(self, idx):
        self.shapes.append(list(idx.shape))
        self.firsts += idx[..., 0].flatten().tolist() if idx.numel() else []
        self.grads.append(torch.is_grad_enabled())
        logits = self.gain(torch.tanh(self.table[idx])) @ self.head
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        if logits.requires_grad:
            logits.register_hook(self.arrived)
        self.dtypes.append(str(logits.dtype).removeprefix("torch."))
        return logits

    def arrived(self, grad):
        self.waiting -= 1


class _Feed:
    """The batches of a case, one after the other; too many calls begin anew."""

    def __init__(self, batches):
        self.batches, self.taken = batches, 0

    def next_batch(self):
        self.taken += 1
        return self.batches[(self.taken - 1) % len(self.batches)]


class _Momentum:
    """Gradient descent with momentum, in two groups. (torch's own optimizers import its compiler, which takes seconds.)"""

    def __init__(self, model):
        first, *others = model.parameters()
        self.param_groups = [{"params": [first], "lr": 0.5}, {"params": others, "lr": 0.5}]
        self.moved, self.steps = {}, 0

    def zero_grad(self, set_to_none=True):
        for parameter in (p for group in self.param_groups for p in group["params"]):
            parameter.grad = None

    @torch.no_grad()
    def step(self):
        self.steps += 1
        for parameter in (p for group in self.param_groups for p in group["params"]):
            if parameter.grad is not None:
                self.moved[parameter] = 0.5 * self.moved.get(parameter, 0.0) + parameter.grad
                parameter -= self.param_groups[0]["lr"] * self.moved[parameter]


@training_step.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, accumulation=1, max_norm=100.0, *, B=2, T=3, dtype="float64", **more):
        n = 2 * accumulation
        cut = torch.tensor(rng.integers(6, size=(n, B, T + 1)))
        options = {
            "autocast": None,
            "scale": None,
            "gradients_before": 0.0,
            "overflow": False,
            "training": False,
        } | more
        return Case(
            label,
            micro_batches=[(one[:, :-1], one[:, 1:]) for one in cut],
            accumulation=accumulation,
            max_norm=max_norm,
            dtype=dtype,
            seed=int(rng.integers(1, 1000)),
            **options,
        )

    yield case("one batch")
    yield case("a model in train mode", training=True)
    yield case("a gradient that is clipped", max_norm=0.1)
    yield case("three batches", 3, B=3, T=4)
    yield case("three batches, clipped", 3, 0.05, B=3, T=4)
    yield case("gradients left from before", gradients_before=0.7)
    yield case("four batches, clipped, gradients left from before", 4, 0.3, gradients_before=0.4)
    yield case("a scaler", 1, 0.1, dtype="float32", scale=256.0)
    yield case("a scaler and two batches", 2, 0.2, dtype="float32", scale=64.0, gradients_before=0.3)
    yield case(
        "a scaler, and a first step that overflows", 2, 0.2, dtype="float32", scale=64.0, overflow=True
    )
    yield case("bfloat16", 2, dtype="float32", autocast="bfloat16")
    yield case("float16", 2, dtype="float32", autocast="float16")


def _after_the_steps(model):
    named = model.named_parameters()
    return {f"parameter {name!r} after two steps": parameter.detach() for name, parameter in named}


@training_step.observe
def _(
    obj,
    micro_batches,
    accumulation,
    max_norm,
    dtype,
    seed,
    autocast,
    scale,
    gradients_before,
    overflow,
    training,
):
    model = _Reader(seed, getattr(torch, dtype)).train(training)
    optimizer, feed = _Momentum(model), _Feed(micro_batches)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1) if scale else None
    options = {"accumulation": accumulation, "max_norm": max_norm}
    if autocast:
        options["autocast"] = getattr(torch, autocast)
    if scaler:
        options["scaler"] = scaler
    for parameter in (model.table, model.head):
        parameter.grad = torch.full_like(parameter, gradients_before) if gradients_before else None
    if overflow:  # in the first step
        model.table.register_hook(lambda grad: grad * math.inf if len(model.shapes) <= accumulation else grad)
    said = []
    for _ in range(2):
        result = obj(model, feed, optimizer, **options)
        if not isinstance(result, tuple | list) or len(result) != 2:
            return f"You must return a pair, loss and norm, not a {type(result).__name__}."
        if not all(isinstance(number, float) for number in result):
            kinds = " and ".join(type(number).__name__ for number in result)
            return f"Loss and norm must be plain floats (use .item()), not {kinds}."
        said.append({"loss": result[0], "norm": result[1] if math.isfinite(result[1]) else "not finite"})
    modes = {module.training for module in model.modules()}
    seen = {"taken": feed.taken, "mode": modes == {True}, "calls": len(model.shapes)}
    seen["graphs at once"] = model.most_waiting
    seen["optimizer steps"] = optimizer.steps
    seen["dtypes"] = sorted(set(model.dtypes))
    if autocast:  # the numbers themselves are rough
        return seen
    seen["scale"] = scaler.get_scale() if scaler else None
    seen["steps"] = said
    return seen | _after_the_steps(model)


@training_step.oracle
def _(
    micro_batches, accumulation, max_norm, dtype, seed, autocast, scale, gradients_before, overflow, training
):
    model = _Reader(seed, getattr(torch, dtype)).train()
    optimizer = _Momentum(model)
    seen = {"taken": 2 * accumulation, "mode": True, "calls": 2 * accumulation}
    seen["graphs at once"] = 1
    seen["optimizer steps"] = 1 if overflow else 2
    if autocast:
        return seen | {"dtypes": [autocast]}
    said = []
    for k in range(2):
        part = micro_batches[k * accumulation : (k + 1) * accumulation]
        x, y = (torch.cat(rows) for rows in zip(*part, strict=True))
        log_probs = model(x).log_softmax(-1)
        loss = -log_probs.gather(-1, y[..., None]).mean()
        learnt = [model.table, model.head]
        grads = torch.autograd.grad(loss, learnt)
        norm = math.sqrt(sum(float((grad**2).sum()) for grad in grads))
        said.append({"loss": loss.item(), "norm": "not finite" if overflow and k == 0 else norm})
        if not (overflow and k == 0):
            for parameter, grad in zip(learnt, grads, strict=True):
                parameter.grad = grad * min(1.0, max_norm / (norm + 1e-6))
            optimizer.step()
    seen |= {"dtypes": [dtype], "steps": said}
    seen["scale"] = None if scale is None else scale if overflow else scale * 4
    return seen | _after_the_steps(model)


STEP = {
    "taken": "A step takes `accumulation` batches from `batches`, each by one call of next_batch; yours took another number.",
    "mode": "The model must be in train mode while it learns, or dropout does nothing: call model.train().",
    "dtypes": "The model did not compute in the dtype that `autocast` says: hand it to batch_loss.",
    "calls": "The model is called once for each batch; yours was called another number of times.",
    "graphs at once": "Call backward for each batch before the model sees the next one: it frees the memory of the "
    "batch's graph, and that is what accumulation is for.",
    "optimizer steps": "The optimizer makes one step for all `accumulation` batches together, or none if the scaler finds "
    "inf or nan; yours made another number of steps. Step once, after the loop.",
    "scale": "The scaler was not told how the step went: call scaler.update() once, after scaler.step.",
}
training_step.agree(_told(STEP))


def _loss_of(model, x, y, autocast=None):
    with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
        return F.cross_entropy(model(x).flatten(0, 1), y.flatten())


def _step(model, batches, optimizer, accumulation, max_norm, autocast, scaler, wrong=""):
    """A right step but for what `wrong` names."""
    scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
    if wrong != "mode":
        model.train()
    if wrong not in ("never cleared", "cleared at the end"):
        optimizer.zero_grad()
    losses, batch, norm = [], None, 0.0
    for _ in range(accumulation):
        if wrong != "one batch" or batch is None:
            batch = batches.next_batch()
        loss = _loss_of(model, *batch, None if wrong == "autocast" else autocast)
        if wrong == "cleared inside":
            optimizer.zero_grad()
        scaler.scale(loss if wrong == "not divided" else loss / accumulation).backward()
        losses.append((scaler.scale(loss) if wrong == "scaled loss" else loss).detach())
        if wrong == "unscaled inside":
            scaler.unscale_(optimizer)
        if wrong in ("clipped inside", "unscaled inside"):
            norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    if wrong == "clipped before unscaling":
        norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    if wrong != "unscaled inside":
        scaler.unscale_(optimizer)
    if wrong == "not clipped":
        norm = nn.utils.clip_grad_norm_(model.parameters(), math.inf)
    elif wrong not in ("clipped before unscaling", "clipped inside", "unscaled inside"):
        norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    if wrong == "past the scaler":
        optimizer.step()
    else:
        scaler.step(optimizer)
    if wrong != "no update":
        scaler.update()
    if wrong == "cleared at the end":
        optimizer.zero_grad()
    mean = losses[-1] if wrong == "last loss" else sum(losses) / len(losses)
    if wrong == "norm after":
        norm = norm.clamp(max=max_norm)
    return mean.item(), norm.item()


@training_step.mistake
def loss_not_divided(model, batches, optimizer, *, accumulation=1, max_norm=1.0, autocast=None, scaler=None):
    """You add up the gradients of the batches without dividing each loss by `accumulation`. That is the gradient of a sum, not of a mean: it grows with the number of batches."""
    return _step(model, batches, optimizer, accumulation, max_norm, autocast, scaler, "not divided")


@training_step.mistake
def cleared_inside_the_loop(
    model, batches, optimizer, *, accumulation=1, max_norm=1.0, autocast=None, scaler=None
):
    """You clear the gradients inside the loop, so only those of the last batch are left. Clear once, before the loop."""
    return _step(model, batches, optimizer, accumulation, max_norm, autocast, scaler, "cleared inside")


@training_step.mistake
def gradients_never_cleared(
    model, batches, optimizer, *, accumulation=1, max_norm=1.0, autocast=None, scaler=None
):
    """You never clear the gradients, so each step still holds those of all steps before it."""
    return _step(model, batches, optimizer, accumulation, max_norm, autocast, scaler, "never cleared")


@training_step.mistake
def cleared_only_after_the_step(
    model, batches, optimizer, *, accumulation=1, max_norm=1.0, autocast=None, scaler=None
):
    """You clear the gradients only after the step. What lay in them before the first step is then added to its gradient. Clear them before the first backward."""
    return _step(model, batches, optimizer, accumulation, max_norm, autocast, scaler, "cleared at the end")


@training_step.mistake
def clipped_before_unscaling(
    model, batches, optimizer, *, accumulation=1, max_norm=1.0, autocast=None, scaler=None
):
    """You clip before the scaler has divided the gradients again. Their norm is still too large by the scale, so nearly everything is clipped away. First scaler.unscale_, then clip."""
    return _step(
        model, batches, optimizer, accumulation, max_norm, autocast, scaler, "clipped before unscaling"
    )


@training_step.mistake
def clipped_inside_the_loop(
    model, batches, optimizer, *, accumulation=1, max_norm=1.0, autocast=None, scaler=None
):
    """You clip after each batch. Then the first batches count for less than the last one. Clip once, when the gradient of the whole step is there."""
    return _step(model, batches, optimizer, accumulation, max_norm, autocast, scaler, "clipped inside")


@training_step.mistake
def unscaled_inside_the_loop(
    model, batches, optimizer, *, accumulation=1, max_norm=1.0, autocast=None, scaler=None
):
    """You unscale and clip after each batch. The first batches then count for less than the last one, and a real scaler refuses a second unscale_ in one step. Both belong after the loop, once."""
    return _step(model, batches, optimizer, accumulation, max_norm, autocast, scaler, "unscaled inside")


@training_step.mistake
def one_batch_over_and_over(
    model, batches, optimizer, *, accumulation=1, max_norm=1.0, autocast=None, scaler=None
):
    """You take one batch before the loop and use it each time. Each round of the loop needs a batch of its own."""
    return _step(model, batches, optimizer, accumulation, max_norm, autocast, scaler, "one batch")


@training_step.mistake
def left_in_eval_mode(model, batches, optimizer, *, accumulation=1, max_norm=1.0, autocast=None, scaler=None):
    """You train in the mode in which you found the model. After an evaluation that may be eval mode, and dropout is off. Call model.train() first."""
    return _step(model, batches, optimizer, accumulation, max_norm, autocast, scaler, "mode")


@training_step.mistake
def loss_of_the_last_batch(
    model, batches, optimizer, *, accumulation=1, max_norm=1.0, autocast=None, scaler=None
):
    """You return the loss of the last batch only. The loss of the step is the mean over all its batches."""
    return _step(model, batches, optimizer, accumulation, max_norm, autocast, scaler, "last loss")


@training_step.mistake
def norm_after_clipping(
    model, batches, optimizer, *, accumulation=1, max_norm=1.0, autocast=None, scaler=None
):
    """You return the norm after clipping, which never says more than max_norm. The one before shows when training goes wild; clip_grad_norm_ returns it."""
    return _step(model, batches, optimizer, accumulation, max_norm, autocast, scaler, "norm after")


@training_step.mistake
def forgot_to_clip(model, batches, optimizer, *, accumulation=1, max_norm=1.0, autocast=None, scaler=None):
    """You measure the norm but do not clip: the gradient may be longer than max_norm when the optimizer steps."""
    return _step(model, batches, optimizer, accumulation, max_norm, autocast, scaler, "not clipped")


@training_step.mistake
def stepped_past_the_scaler(
    model, batches, optimizer, *, accumulation=1, max_norm=1.0, autocast=None, scaler=None
):
    """You call optimizer.step() yourself. When gradients overflow, the scaler would have left the step out; now inf or nan goes into the weights. Call scaler.step(optimizer)."""
    return _step(model, batches, optimizer, accumulation, max_norm, autocast, scaler, "past the scaler")


@training_step.mistake
def scaler_never_updated(
    model, batches, optimizer, *, accumulation=1, max_norm=1.0, autocast=None, scaler=None
):
    """Every step ends with scaler.step(optimizer) and then scaler.update(). If one of them is missing, the scaler takes the next step for the same one, and refuses to unscale twice."""
    return _step(model, batches, optimizer, accumulation, max_norm, autocast, scaler, "no update")


@training_step.mistake
def scaled_loss_returned(
    model, batches, optimizer, *, accumulation=1, max_norm=1.0, autocast=None, scaler=None
):
    """You return the loss times the scaler's scale. Scale only what you call backward on; the loss that you report is the one before."""
    return _step(model, batches, optimizer, accumulation, max_norm, autocast, scaler, "scaled loss")


@training_step.mistake
def autocast_forgotten(
    model, batches, optimizer, *, accumulation=1, max_norm=1.0, autocast=None, scaler=None
):
    """You do not hand `autocast` on, so the model computes in its own dtype whatever the caller asks for. Give it to batch_loss."""
    return _step(model, batches, optimizer, accumulation, max_norm, autocast, scaler, "autocast")


# -- the held-out loss ---------------------------------------------------------------------------------


FIRST_WORD = 20  # of a text in which each token tells its place


def _held_out_reader(seed, dtype, tokens):
    return _Reader(seed, getattr(torch, dtype), V=FIRST_WORD + len(tokens))


@estimate_loss.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, n, T, B, n_batches, *, training=False, as_file=False, autocast=None, dtype="float64"):
        tokens = FIRST_WORD + torch.arange(n)
        if as_file:  # any numbers: the token at a place is not to be guessed from the place
            tokens = rng.integers(FIRST_WORD + n, size=n).astype(np.uint16)
        return Case(
            label,
            tokens=tokens,
            block_size=T,
            batch_size=B,
            n_batches=n_batches,
            training=training,
            autocast=autocast,
            dtype=dtype,
            seed=int(rng.integers(1, 1000)),
        )

    yield case("two windows", 9, 3, 1, 2)
    yield case("six windows in two batches", 50, 4, 3, 2)
    yield case("a model that is being trained", 80, 5, 2, 4, training=True)
    yield case("one window", 30, 4, 1, 1)
    yield case("one batch of many", 211, 3, 7, 1)
    yield case("a text of one window", 6, 5, 2, 2)
    yield case("more windows than the text has", 12, 4, 3, 3)
    yield case("uint16, as files have them", 400, 6, 2, 3, as_file=True)
    yield case("bfloat16", 40, 4, 2, 2, autocast="bfloat16", dtype="float32", training=True)
    yield case("float16", 40, 4, 2, 2, autocast="float16", dtype="float32")


@estimate_loss.observe
def _(obj, tokens, block_size, batch_size, n_batches, training, autocast, dtype, seed):
    model, shared = _held_out_reader(seed, dtype, tokens).train(training), _stirred()
    for parameter in model.parameters():  # as in the middle of a step
        parameter.grad = torch.full_like(parameter, 0.3)
    options = {"autocast": getattr(torch, autocast)} if autocast else {}
    tokens, (parameters, modes, grads) = _as_given(tokens), _state(model)
    loss = obj(model, tokens, block_size, batch_size=batch_size, n_batches=n_batches, **options)
    switched_off = not torch.is_grad_enabled()
    torch.set_grad_enabled(True)
    if not isinstance(loss, float):
        return f"You must return a plain float, not a {type(loss).__name__}."
    if switched_off:
        return "You left the gradients switched off for everybody. Use torch.no_grad() as a decorator or with `with`."
    after = _state(model)
    seen = {
        "shared": _states() != shared,
        "mode": after[1] == modes,
        "gradients": any(model.grads),
        "batches": model.shapes,
    }
    seen["changed"] = (after[0], after[2]) != (parameters, grads)
    cut = 2 * batch_size * (block_size + 1) * n_batches
    seen["much read"] = isinstance(tokens, _File) and tokens.read > cut
    seen["dtypes"] = sorted(set(model.dtypes))
    if isinstance(tokens, torch.Tensor):
        seen["starts"] = sorted(first - FIRST_WORD for first in model.firsts)
    return seen | ({} if autocast else {"loss": loss})


@estimate_loss.oracle
def _(tokens, block_size, batch_size, n_batches, training, autocast, dtype, seed):
    model, n, losses = _held_out_reader(seed, dtype, tokens).eval(), batch_size * n_batches, []
    starts = [k * (len(tokens) - block_size) // n for k in range(n)]
    for start in starts:
        window = torch.tensor([int(token) for token in tokens[start : start + block_size + 1]])
        log_probs = model(window[None, :-1])[0].log_softmax(-1)
        losses += [-log_probs[place, token].item() for place, token in enumerate(window[1:])]
    seen = {"shared": False, "mode": True, "gradients": False, "changed": False, "much read": False}
    seen["batches"] = [[batch_size, block_size]] * n_batches
    seen["dtypes"] = [autocast or dtype]
    if isinstance(tokens, torch.Tensor):
        seen["starts"] = starts
    return seen | ({} if autocast else {"loss": math.fsum(losses) / len(losses)})


HELD_OUT = {
    "shared": "Your function draws random numbers. Then each call measures on other windows, and the training that goes on "
    "afterwards is another one than without the measurement.",
    "mode": "The model must leave your function in the mode in which it came, train or eval.",
    "changed": "You changed the model's parameters or their gradients. Measuring leaves them as they are.",
    "much read": "You read more of `tokens` than the windows need. A file may be larger than memory: cut first, then "
    "convert what you cut.",
    "gradients": "You switched gradients on: nothing is learnt here, so no graph is needed.",
    "batches": "The model must get n_batches batches of shape (batch_size, block_size), and nothing else.",
    "dtypes": "The model did not compute in the dtype that `autocast` says: hand it to batch_loss.",
}
_held_out_told = _told(HELD_OUT)


@estimate_loss.agree
def _(got, expected):
    said = _held_out_told(got, expected)
    if said and said.startswith("At result['starts']"):
        return f"Your windows start at the places {got['starts']} of the text, expected {expected['starts']}."
    return said


@torch.no_grad()
def _held_out(model, tokens, T, B, n_batches, autocast, wrong=""):
    was_training, n, total = model.training, B * n_batches, 0.0
    if wrong != "train mode":
        model.eval()
    for k in range(n_batches):
        rows = np.arange(k * B, k * B + B)
        starts = rows * (len(tokens) - T) // n
        if wrong == "the beginning":
            rounds = (len(tokens) - 1) // T // B
            if not rounds:
                raise ValueError("too few for one batch")
            starts = (k % rounds * B + np.arange(B)) * T
        elif wrong == "one batch":
            starts = np.arange(B) * (len(tokens) - T) // B
        places = starts[:, None] + np.arange(T + 1)
        cut = torch.as_tensor(tokens[places]).long()
        y = cut[:, :-1] if wrong == "targets" else cut[:, 1:]
        loss = _loss_of(model, cut[:, :-1], y, None if wrong == "autocast" else autocast)
        total += loss.item()
    if wrong != "left in eval":
        model.train(True if wrong == "always train" else was_training)
    if wrong == "bits":
        total /= math.log(2)
    return total if wrong == "sum" else total / n_batches


@estimate_loss.mistake
def measured_in_train_mode(model, tokens, block_size, *, batch_size, n_batches, autocast=None):
    """You measure in the mode in which the model came. In train mode dropout is on, so a crippled model is measured. Call model.eval() first."""
    return _held_out(model, tokens, block_size, batch_size, n_batches, autocast, "train mode")


@estimate_loss.mistake
def left_in_eval_mode_for_ever(model, tokens, block_size, *, batch_size, n_batches, autocast=None):
    """You leave the model in eval mode. A training that goes on would be without dropout. Remember model.training, and put it back."""
    return _held_out(model, tokens, block_size, batch_size, n_batches, autocast, "left in eval")


@estimate_loss.mistake
def always_back_to_train_mode(model, tokens, block_size, *, batch_size, n_batches, autocast=None):
    """You end with model.train() whatever the mode was. A caller who uses the model in eval mode gets dropout back. Put back what you found."""
    return _held_out(model, tokens, block_size, batch_size, n_batches, autocast, "always train")


@estimate_loss.mistake
def only_the_beginning(model, tokens, block_size, *, batch_size, n_batches, autocast=None):
    """Your windows follow one another from the start of the text, so only its beginning is measured, as by TokenBatches. Spread them over the whole text."""
    return _held_out(model, tokens, block_size, batch_size, n_batches, autocast, "the beginning")


@estimate_loss.mistake
def the_same_windows_in_each_batch(model, tokens, block_size, *, batch_size, n_batches, autocast=None):
    """Every batch has the same windows, so n_batches changes nothing. Spread all batch_size * n_batches of them over the text first, then cut into batches."""
    return _held_out(model, tokens, block_size, batch_size, n_batches, autocast, "one batch")


@estimate_loss.mistake
def inputs_as_targets(model, tokens, block_size, *, batch_size, n_batches, autocast=None):
    """You compare the predictions with the inputs themselves. The target of a token is the one after it."""
    return _held_out(model, tokens, block_size, batch_size, n_batches, autocast, "targets")


@estimate_loss.mistake
def sum_of_the_batches(model, tokens, block_size, *, batch_size, n_batches, autocast=None):
    """You return the sum over the batches. Divide by their number: the loss is a mean per token."""
    return _held_out(model, tokens, block_size, batch_size, n_batches, autocast, "sum")


@estimate_loss.mistake
def in_bits(model, tokens, block_size, *, batch_size, n_batches, autocast=None):
    """You return bits. Asked for are nats, as cross_entropy gives them, so that it stands beside the training loss."""
    return _held_out(model, tokens, block_size, batch_size, n_batches, autocast, "bits")


# -- the mean of means ---------------------------------------------------------------------------------

IGNORED = -100


@accumulate_gradients.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, shapes, counted, gradients_before=0.0, training=True, zeros=True):
        pairs = []
        for (B, T), count in zip(shapes, counted, strict=True):
            x, y = rng.integers(6, size=(B, T)), rng.integers(1, 6, size=(B, T))
            places = rng.permutation(B * T)
            if zeros:  # token 0 is a token like any other
                y.reshape(-1)[places[: count // 2]] = 0
            y.reshape(-1)[places[count:]] = IGNORED
            pairs.append((torch.tensor(x), torch.tensor(y)))
        return Case(
            label,
            micro_batches=pairs,
            gradients_before=gradients_before,
            training=training,
            seed=int(rng.integers(1, 1000)),
        )

    yield case("four targets and one", [(1, 4), (1, 4)], [4, 1], zeros=False)
    yield case("all count, alike", [(2, 3), (2, 3)], [6, 6], zeros=False)
    yield case("one batch", [(2, 5)], [7])
    yield case("one target", [(1, 3), (1, 2)], [1, 0], zeros=False)
    yield case("a model in eval mode", [(2, 3), (2, 2)], [4, 3], training=False)
    yield case("batches of other lengths", [(2, 3), (1, 7), (3, 2)], [6, 7, 6])
    yield case("few and many", [(2, 6), (2, 6), (2, 6)], [11, 2, 5])
    yield case("one without a target", [(2, 4), (2, 4), (1, 3)], [5, 0, 2])
    yield case("gradients from before", [(2, 4), (2, 4)], [7, 3], gradients_before=0.6)


@accumulate_gradients.observe
def _(obj, micro_batches, gradients_before, training, seed):
    model = _Reader(seed, torch.float64).train(training)
    for parameter in (model.table, model.head):
        parameter.grad = torch.full_like(parameter, gradients_before) if gradients_before else None
    all_have_targets = all(_count(y) for _, y in micro_batches)
    loss = obj(model, micro_batches)
    if not isinstance(loss, float):
        return f"You must return a plain float, not a {type(loss).__name__}."
    grads = {f"gradient of {name!r}": getattr(model, name).grad for name in ("table", "head")}
    start = _Reader(seed, torch.float64).parameters()
    moved = not all(torch.equal(p, q) for p, q in zip(model.parameters(), start, strict=True))
    modes = {module.training for module in model.modules()}
    seen = {"moved": moved, "mode": modes == {training}, "loss": loss} | grads
    if all_have_targets:  # a batch without targets may be passed over
        seen |= {"calls": len(model.shapes), "graphs at once": model.most_waiting}
    return seen


@accumulate_gradients.oracle
def _(micro_batches, gradients_before, training, seed):
    model = _Reader(seed, torch.float64).train(training)
    losses = []
    for x, y in micro_batches:
        log_probs = model(x).log_softmax(-1)
        rows, places = np.nonzero(y.numpy() != IGNORED)
        losses += [-log_probs[b, t, y[b, t]] for b, t in zip(rows.tolist(), places.tolist(), strict=True)]
    loss = torch.stack(losses).mean()
    grads = torch.autograd.grad(loss, [model.table, model.head])
    seen = {"moved": False, "mode": True, "loss": loss.item()}
    for name, grad in zip(("table", "head"), grads, strict=True):
        seen[f"gradient of {name!r}"] = grad + gradients_before
    if all(_count(y) for _, y in micro_batches):
        seen |= {"calls": len(micro_batches), "graphs at once": 1}
    return seen


accumulate_gradients.agree(
    _told(
        {
            "moved": "You changed the parameters. Only their gradients are asked for; the optimizer's step comes later.",
            "mode": "You change the model's mode. Train or eval is the caller's affair: leave it as it is.",
            "calls": "Call the model once for each of the micro-batches: one at a time is what fits into memory.",
            "graphs at once": STEP["graphs at once"],
        }
    )
)


def _accumulated(model, micro_batches, weight):
    """Backward of each sum of losses times weight(y, k); the sum of what went in."""
    total = 0.0
    for k, (x, y) in enumerate(micro_batches):
        logits = model(x)
        loss = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum", ignore_index=IGNORED)
        loss = loss * weight(y, k)
        loss.backward()
        total += loss.item()
    return total


def _count(y):
    return int((y != IGNORED).sum())


@accumulate_gradients.mistake
def mean_of_means(model, micro_batches):
    """You take the mean of each batch, and of these the mean. A target in a batch with few of them then counts for more than one among many. Divide every sum by the number of all targets that count."""
    number = len(micro_batches)
    return _accumulated(model, micro_batches, lambda y, k: 1 / (_count(y) or math.nan) / number)


@accumulate_gradients.mistake
def places_that_do_not_count(model, micro_batches):
    """You divide by the number of all places, with those whose target is -100. They add nothing to the sum, so the mean comes out too small."""
    number = sum(y.numel() for _, y in micro_batches)
    return _accumulated(model, micro_batches, lambda y, k: 1 / number)


@accumulate_gradients.mistake
def nothing_divided(model, micro_batches):
    """You add up the losses of all targets and divide by nothing. Asked for is their mean."""
    return _accumulated(model, micro_batches, lambda y, k: 1.0)


@accumulate_gradients.mistake
def each_by_its_own_count(model, micro_batches):
    """You divide each batch's sum by its own number of targets and add up. That is a sum of means, as large as the number of batches allows. Divide by the number of all targets."""
    return _accumulated(model, micro_batches, lambda y, k: 1 / (_count(y) or math.nan))


@accumulate_gradients.mistake
def mean_times_count(model, micro_batches):
    """Your weighting is right, but a batch without a target that counts gives nan: its mean is 0/0, and nan times 0 is nan. Take its sum, by reduction="sum"."""
    count, total = sum(_count(y) for _, y in micro_batches), 0.0
    for x, y in micro_batches:
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten()) * (_count(y) / count)
        loss.backward()
        total += loss.item()
    return total


@accumulate_gradients.mistake
def only_the_return_divided(model, micro_batches):
    """You return the mean, but its gradient is not what you add: backward was called on sums that nothing divides. Divide each loss before its backward."""
    count = sum(_count(y) for _, y in micro_batches)
    return _accumulated(model, micro_batches, lambda y, k: 1.0) / count


@accumulate_gradients.mistake
def token_zero_not_counted(model, micro_batches):
    """You count only targets above 0. Token 0 is a token like any other: all targets count but those that are -100."""
    count = sum(int((y > 0).sum()) for _, y in micro_batches)
    return _accumulated(model, micro_batches, lambda y, k: 1 / count)


@accumulate_gradients.mistake
def cleared_before_the_first(model, micro_batches):
    """You clear the gradients first. Yours are to be added to what is there: clearing is the caller's affair."""
    model.zero_grad()
    count = sum(_count(y) for _, y in micro_batches)
    return _accumulated(model, micro_batches, lambda y, k: 1 / count)


@accumulate_gradients.mistake
def counted_so_far(model, micro_batches):
    """You divide by the targets counted so far, while the later batches are still to come. Count all of them before the first backward."""
    counts = np.cumsum([_count(y) for _, y in micro_batches])
    return _accumulated(model, micro_batches, lambda y, k: 1 / counts[k])


@accumulate_gradients.mistake
def cleared_for_each_batch(model, micro_batches):
    """You clear the gradients in the loop, so only those of the last batch are left. They are to be added to what is there."""
    count = sum(_count(y) for _, y in micro_batches)

    def weight(y, k):
        model.zero_grad()
        return 1 / count

    return _accumulated(model, micro_batches, weight)
