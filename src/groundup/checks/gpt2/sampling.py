"""Checks for the lesson gpt2.sampling.

The models are stand-ins whose next token depends on the whole text in a known way, so that every continuation can be
enumerated. What is drawn is judged by chi-square tests against that enumeration; the rest must be equal.
"""

import contextlib
import functools
import math
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from groundup.check import Case, Exercise, agree_in_distribution, compare


def by_name(got, expected) -> str | None:
    """Compares two observations: dicts entry by entry, counts of draws by chi-square; a text is told as it is."""
    if not isinstance(expected, dict) or not isinstance(got, dict):
        if isinstance(got, str) and not isinstance(expected, str):
            return got
        return compare(got, expected)
    for name in expected:
        if name == "The draws":
            said = agree_in_distribution(got.get(name), expected[name])
        elif expected[name] is None and isinstance(got.get(name), str):
            return got[name]
        else:
            said = compare(got.get(name), expected[name])
        if said:
            return f"{name}: {said}"
    return None


def table(rng: np.random.Generator, V: int, block_size: int, spread: float = 1.5) -> torch.Tensor:
    """The weights of a `Standin`: no two of its logits are equal."""
    return torch.tensor(rng.normal(size=(block_size, V, V)) * spread, dtype=torch.float32)


class Interrupted(Exception):
    """What a `Standin` raises that is asked more often than its `patience` allows."""


class Standin(nn.Module):
    """Logits that depend on every token of the text and on how far back it stands; others in training mode.

    It keeps the size of each input, and whether gradients were on, and refuses a text above its block_size.
    """

    def __init__(self, weights: torch.Tensor):
        super().__init__()
        self.register_buffer("weights", weights)
        self.frozen = nn.Dropout(0.5)
        self.config = SimpleNamespace(block_size=weights.shape[0], vocab_size=weights.shape[1])
        self.calls: list[tuple[int, ...]] = []
        self.grad = False
        self.patience = math.inf

    def forward(self, idx):
        if len(self.calls) >= self.patience:
            raise Interrupted
        if idx.shape[1] > self.config.block_size:
            raise ValueError(f"{idx.shape[1]} tokens, but this model reads at most {self.config.block_size}")
        self.calls.append(tuple(idx.shape))
        self.grad = self.grad or torch.is_grad_enabled()
        logits = self.weights[0][idx]
        for back in range(1, idx.shape[1]):
            logits[:, back:] += self.weights[back][idx[:, :-back]] / (1 + back)
        return logits.flip(-1) if self.training else logits

    def manners(self) -> str | None:
        """What it should not have met, in a sentence."""
        if self.grad:
            return "The model was asked while gradients were on. Ask it within `with evaluating(model):`."
        return None


def standin(weights, training: bool) -> Standin:
    model = Standin(weights.clone()).train(training)
    model.frozen.eval()  # somebody froze a part: its mode must come back too
    return model


def modes(model) -> str:
    return "training" if model.training else "evaluation"


ELSEWHERE = "A tensor that you make lands where torch makes tensors by default. With idx on a GPU that fails: give `device=idx.device`."


class _Watch(TorchFunctionMode):
    """Notices tensors, other than single numbers, on the device "meta"."""

    found = False

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.ndim and result.device.type == "meta":
            self.found = True
        return result


def on_its_device(call) -> str | None:
    """What `call` does wrong if torch's default device is not that of its inputs, in a sentence."""
    with torch.device("meta"), _Watch() as watch:
        try:
            call()
        except (RuntimeError, NotImplementedError):
            if not watch.found:
                raise
    return ELSEWHERE if watch.found else None


def after(model, training: bool) -> str | None:
    if said := model.manners():
        return said
    if model.training != training or model.frozen.training:
        return (
            "The model is in another mode after the call than before it. Every module must get its own mode back, "
            "as `evaluating(model)` sees to."
        )
    return None


def log_probs_of(weights):
    """A function of a text (tuple of tokens) that gives ln p of each next token, in float64, one text at a time."""
    numbers = weights.double().numpy()
    block_size = len(numbers)
    known: dict = {}

    def ask(text):
        window = tuple(text[-block_size:])
        if window not in known:
            z = numbers[0][window[-1]].copy()
            for back in range(1, len(window)):
                z += numbers[back][window[-1 - back]] / (1 + back)
            z -= z.max()
            known[window] = z - math.log(np.exp(z).sum())
        return known[window]

    return ask


# ---------------------------------------------------------------------------------------------------------------------
next_probabilities = Exercise("gpt2.sampling.next_probabilities")


@next_probabilities.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def logits(B, V, dtype=torch.float32, scale=1.5):
        return torch.tensor(rng.normal(size=(B, V)) * scale, dtype=dtype)

    yield Case("three tokens, default settings", logits=torch.tensor([[2.0, 1.0, -0.5]]))
    yield Case("two rows, default settings", logits=logits(2, 5))
    yield Case("warm", logits=logits(3, 4), temperature=1.7)
    yield Case("cold", logits=logits(2, 6), temperature=0.4)
    yield Case("temperature 0", logits=logits(4, 7), temperature=0)
    yield Case("temperature 0.0, all logits below 0", logits=logits(3, 5) - 9, temperature=0.0)
    close = torch.tensor([[1.0, 1.00001, 0.2], [0.7, -0.4, 0.70001]])
    yield Case("temperature 0, two logits nearly equal", logits=close, temperature=0.0)
    yield Case("very cold", logits=logits(2, 5, scale=0.05), temperature=0.05)
    yield Case("top 2", logits=logits(3, 5), temperature=1.0, top_k=2)
    yield Case("top 8 of 12", logits=logits(3, 12), temperature=0.9, top_k=8)
    yield Case("top 1", logits=logits(3, 4), temperature=1.0, top_k=1)
    yield Case("top 3, warm", logits=logits(4, 6), temperature=1.3, top_k=3)
    yield Case("top 3, cold, float64", logits=logits(2, 8, torch.float64), temperature=0.6, top_k=3)
    yield Case("temperature 0 and top 3", logits=logits(3, 6), temperature=0.0, top_k=3)
    yield Case("k is V", logits=logits(2, 4), temperature=0.8, top_k=4)
    yield Case("k is larger than V", logits=logits(2, 4), temperature=0.8, top_k=50)
    tied = torch.tensor([[0.5, 2.0, 0.5, -1.0, 0.5], [3.0, 1.0, 2.0, 1.0, 0.0]])
    yield Case("ties at the k-th place", logits=tied, temperature=1.2, top_k=2)
    yield Case("ties above the k-th place", logits=tied.roll(1, dims=1), temperature=1.0, top_k=3)
    yield Case("large logits", logits=logits(2, 5, scale=300.0), temperature=0.5, top_k=4)
    masked = logits(2, 5).masked_fill(torch.tensor([True, False, False, False, False]), -torch.inf)
    texts = logits(6, 5).reshape(2, 3, 5)
    yield Case("two texts, three positions", logits=texts, temperature=1.4, top_k=2)
    yield Case("two texts, three positions, temperature 0", logits=texts, temperature=0.0)
    yield Case("one text, no batch", logits=texts[0, 0], temperature=0.7, top_k=3)
    yield Case("a token that the model excludes", logits=masked, temperature=1.4, top_k=3)


@next_probabilities.oracle
def _(logits, temperature=1.0, top_k=None):
    rows = []
    for row in logits.double().reshape(-1, logits.shape[-1]).tolist():
        if temperature == 0:
            p = [float(k == row.index(max(row))) for k in range(len(row))]
        else:
            bar = sorted(row, reverse=True)[min(top_k or len(row), len(row)) - 1]
            e = [math.exp((z - max(row)) / temperature) if z >= bar else 0.0 for z in row]
            p = [x / math.fsum(e) for x in e]
        rows.append(p)
    return torch.tensor(rows, dtype=logits.dtype).reshape(logits.shape)


def _top(logits, top_k):
    if top_k is None:
        return logits
    largest = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values
    return logits.masked_fill(logits < largest[..., -1:], -torch.inf)


def _settled(temperature, top_k):
    return (1.0, 1) if temperature == 0 else (temperature, top_k)


@next_probabilities.mistake
def divided_by_zero(logits, temperature=1.0, top_k=None):
    """You divided by a temperature of 0: the results are inf or nan. Temperature 0 is a case of its own, in which the largest logit gets probability 1."""
    return torch.softmax(_top(logits, top_k) / temperature, dim=-1)


@next_probabilities.mistake
def zero_gives_index_0(logits, temperature=1.0, top_k=None):
    """At temperature 0 you always gave token 0 the probability 1. It belongs to the token with the largest logit of the row."""
    if temperature == 0:
        first = torch.zeros_like(logits)
        first[..., 0] = 1.0
        return first
    return torch.softmax(_top(logits, top_k) / temperature, dim=-1)


@next_probabilities.mistake
def zero_means_one(logits, temperature=1.0, top_k=None):
    """At temperature 0 you left the probabilities as they are at temperature 1. Then tokens are still drawn; only the largest logit may be left."""
    return torch.softmax(_top(logits, top_k) / (temperature or 1.0), dim=-1)


@next_probabilities.mistake
def zero_means_nearly_zero(logits, temperature=1.0, top_k=None):
    """You took a small temperature for 0. Then two logits that are close still share the probability; at 0 the larger one gets all of it."""
    return torch.softmax(_top(logits, top_k) / max(temperature, 1e-4), dim=-1)


@next_probabilities.mistake
def multiplied_by_the_temperature(logits, temperature=1.0, top_k=None):
    """You multiplied the logits by the temperature, so hot and cold are exchanged. Divide by it."""
    if temperature == 0:
        logits, temperature, top_k = logits, 1.0, 1
    return torch.softmax(_top(logits, top_k) * temperature, dim=-1)


@next_probabilities.mistake
def divided_after_softmax(logits, temperature=1.0, top_k=None):
    """You divided the probabilities by the temperature instead of the logits. They no longer add up to 1, and their ratios have not changed."""
    temperature, top_k = _settled(temperature, top_k)
    return torch.softmax(_top(logits, top_k), dim=-1) / temperature


@next_probabilities.mistake
def removed_after_softmax(logits, temperature=1.0, top_k=None):
    """You set the probabilities outside of the top k to 0, and what is left adds up to less than 1. Remove the logits before softmax."""
    temperature, top_k = _settled(temperature, top_k)
    p = torch.softmax(logits / temperature, dim=-1)
    return p.masked_fill(_top(logits, top_k).isneginf(), 0.0)


@next_probabilities.mistake
def filled_with_zero(logits, temperature=1.0, top_k=None):
    """You set the logits outside of the top k to 0. A logit of 0 is not probability 0, for e to the power 0 is 1. Minus infinity is what softmax makes 0."""
    temperature, top_k = _settled(temperature, top_k)
    kept = _top(logits, top_k)
    return torch.softmax(torch.where(kept.isneginf(), 0.0, logits) / temperature, dim=-1)


@next_probabilities.mistake
def kept_the_smallest(logits, temperature=1.0, top_k=None):
    """With top_k you kept the k smallest logits and removed the others."""
    if temperature == 0 or top_k is None:
        temperature, top_k = _settled(temperature, top_k)
        return torch.softmax(_top(logits, top_k) / temperature, dim=-1)
    smallest = -(-logits).topk(min(top_k, logits.shape[-1]), dim=-1).values
    return torch.softmax(logits.masked_fill(logits > smallest[..., -1:], -torch.inf) / temperature, dim=-1)


@next_probabilities.mistake
def one_bar_for_all_rows(logits, temperature=1.0, top_k=None):
    """You took the k-th largest logit of the first row as the bar for every row. Each row has its own."""
    temperature, top_k = _settled(temperature, top_k)
    if top_k is not None:
        first = logits.reshape(-1, logits.shape[-1])[0]
        bar = first.topk(min(top_k, len(first))).values[-1]
        logits = logits.masked_fill(logits < bar, -torch.inf)
    return torch.softmax(logits / temperature, dim=-1)


@next_probabilities.mistake
def refused_a_large_k(logits, temperature=1.0, top_k=None):
    """With top_k above the number of tokens your function fails, because topk cannot give more than there are. Then all stay."""
    temperature, top_k = _settled(temperature, top_k)
    if top_k is not None:
        bar = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < bar, -torch.inf)
    return torch.softmax(logits / temperature, dim=-1)


@next_probabilities.mistake
def cut_through_a_tie(logits, temperature=1.0, top_k=None):
    """You kept exactly k tokens, also where another has the same logit as the k-th. There is no reason to prefer one of them: all that reach it stay."""
    temperature, top_k = _settled(temperature, top_k)
    if top_k is not None:
        top = logits.topk(min(top_k, logits.shape[-1]), dim=-1)
        logits = torch.full_like(logits, -torch.inf).scatter(-1, top.indices, top.values)
    return torch.softmax(logits / temperature, dim=-1)


@next_probabilities.mistake
def removed_the_kth_too(logits, temperature=1.0, top_k=None):
    """You removed the k-th largest logit too. What is as large as it stays: remove only what is smaller."""
    if temperature == 0 or top_k is None or top_k < 2:
        temperature, top_k = _settled(temperature, top_k)
        return torch.softmax(_top(logits, top_k) / temperature, dim=-1)
    bar = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[..., -1:]
    return torch.softmax(logits.masked_fill(logits <= bar, -torch.inf) / temperature, dim=-1)


@next_probabilities.mistake(shape=True)
def over_the_batch(logits, temperature=1.0, top_k=None):
    """Your softmax runs over the rows of the batch. The probabilities of one text's tokens, along the last axis, add up to 1."""
    temperature, top_k = _settled(temperature, top_k)
    return torch.softmax(_top(logits, top_k) / temperature, dim=0)


# ---------------------------------------------------------------------------------------------------------------------
generate = Exercise("gpt2.sampling.generate", seconds=20)
DRAWS = 3000  # rows of a batch that is judged by chi-square
LONG = 600  # new tokens of a text that is judged by chi-square


@generate.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, V, block_size, idx, new, seed=None, training=False, spread=1.5, **options):
        if seed is None:
            seed = int(rng.integers(1, 1000))
        weights = table(rng, V, block_size, spread)
        return Case(label, weights=weights, idx=idx, new=new, seed=seed, training=training, options=options)

    def tokens(V, B, T):
        return torch.tensor(rng.integers(V, size=(B, T)))

    def stopping(T, new, stops, V=6, block_size=9, B=3):
        """A prompt and weights with which greedy rows stop at different times, and one of them not at all."""
        while True:
            weights, idx = table(rng, V, block_size), tokens(V, B, T)
            ask, lengths = log_probs_of(weights), []
            for row in idx.tolist():
                for _ in range(new):
                    row.append(int(np.argmax(ask(row))))
                written = row[T:]
                lengths.append(next((k for k, token in enumerate(written) if token in stops), new))
            if len(set(lengths)) == B and min(lengths) < max(lengths) - 1 and min(lengths) < new - 2:
                return weights, idx, lengths

    yield case("likeliest tokens, one row", 5, 8, tokens(5, 1, 2), 3, temperature=0)
    yield case("a prompt of one token", 4, 6, tokens(4, 2, 1), 3, temperature=0, stop_tokens=(0,))
    yield case("likeliest tokens, two rows", 6, 12, tokens(6, 2, 3), 5, temperature=0, training=True)
    yield case("longer than block_size", 7, 4, tokens(7, 2, 3), 9, temperature=0)
    yield case("a prompt longer than block_size", 7, 3, tokens(7, 3, 8), 4, temperature=0, training=True)
    yield case("a block_size of 1", 9, 1, tokens(9, 2, 3), 4, temperature=0)
    yield case("no new token", 5, 4, tokens(5, 2, 3), 0, temperature=0, training=True)
    for label, stops in (("one stop token", {2}), ("two stop tokens", {4, 1})):
        while True:
            weights, idx, lengths = stopping(3, 12, stops)
            prompted = idx.clone()
            prompted[:, 0] = min(stops)
            prompted[1, -1] = min(stops)
            # A prompt that ends with a stop token goes on, here with another token: else one could not tell.
            if int(np.argmax(log_probs_of(weights)(prompted[1].tolist()))) not in stops:
                break
        options = {"temperature": 0, "stop_tokens": stops}
        yield Case(label, weights=weights, idx=idx, new=12, seed=0, training=True, options=options)
        options = {"temperature": 0, "stop_tokens": tuple(stops)}
        yield Case(
            label + ", in the prompt too", weights=weights, idx=prompted, new=12, seed=0, training=False,
            options=options,
        )  # fmt: skip
        most = max(lengths)
        early = idx[[k for k, length in enumerate(lengths) if length < most]]
        options = {"temperature": 0, "stop_tokens": list(stops)}
        yield Case(
            label + ", all rows stop",
            weights=weights,
            idx=early,
            new=60,
            seed=0,
            training=False,
            options=options,
        )
    one = tokens(4, 1, 2)
    two = torch.cat([one, (one + 1) % 4])
    many = two.repeat_interleave(DRAWS // 2, dim=0)
    yield case("draws of one token", 4, 5, one.repeat(DRAWS, 1), 1, spread=0.8)
    yield case("draws of two tokens", 3, 5, one.remainder(3).repeat(DRAWS, 1), 2, spread=0.8, training=True)
    yield case("draws after two prompts", 4, 2, many, 2, spread=0.8, temperature=1.6)
    yield case("draws, cold", 4, 5, many, 2, spread=0.8, temperature=0.5)
    yield case("draws of the top 2", 4, 5, many, 2, spread=0.8, top_k=2)
    yield case("draws, top 3, warm, a stop token", 4, 5, many, 2, spread=0.8, temperature=1.5, top_k=3, stop_tokens=(1,))  # fmt: skip
    yield case("draws without a generator", 4, 5, many, 2, spread=0.8, seed=-1)
    while True:  # until every token comes up often in the long run
        weights = table(rng, 4, 1, spread=0.8)
        p = np.array([_odds(weights, [token], 1, 1.5, 3) for token in range(4)])
        if np.linalg.matrix_power(p, 50).min() > 0.1:
            break
    options = {"temperature": 1.5, "top_k": 3}
    yield Case(
        "two long texts", weights=weights, idx=two, new=LONG, seed=int(rng.integers(1, 1000)), training=False,
        options=options,
    )  # fmt: skip


@generate.observe
def _(obj, weights, idx, new, seed, training, options):
    model = standin(weights, training)
    torch.manual_seed(abs(seed))
    before = torch.get_rng_state()
    if seed >= 0:
        generator = torch.Generator().manual_seed(seed)
        got = obj(model, idx, new, **options, generator=generator)
    else:
        got = obj(model, idx, new, **options)
    if not isinstance(got, torch.Tensor) or got.ndim != 2 or got.shape[0] != idx.shape[0]:
        return {"The result": got}
    seen = {"The mode of the model afterwards": after(model, training), "The dtype": str(got.dtype)}
    if len(idx) < 100 and new < LONG:
        if new and idx.shape[1] == 1:
            call = functools.partial(obj, standin(weights, training), idx, new, **options)
            if said := on_its_device(call):
                return said
        interrupted = standin(weights, training)
        interrupted.patience = 1
        with contextlib.suppress(Interrupted):
            obj(interrupted, idx, new, **options)
        seen["The mode of the model after an error"] = None
        if interrupted.training != training or interrupted.frozen.training:
            seen["The mode of the model after an error"] = (
                "An error ended the call and left the model in another mode than before. `with evaluating(model):` "
                "gives the mode back then too."
            )
        return {"The tokens": got, "How often the model was asked": len(model.calls)} | seen
    if new >= LONG:  # each token depends on the last one alone: what follows each token, counted
        if got.shape[1] != idx.shape[1] + new:
            return {"The result": got}
        V = weights.shape[1]
        pairs = (got[:, idx.shape[1] - 1 : -1] * V + got[:, idx.shape[1] :]).flatten()
        return seen | {"The draws": torch.bincount(pairs, minlength=V * V)[: V * V].reshape(V, V).numpy()}
    if seed >= 0 and not torch.equal(before, torch.get_rng_state()):
        return "Random numbers were drawn that are not the generator's. Give `generator` to the draw."
    T, V = idx.shape[1], weights.shape[1]
    if not torch.equal(got[:, :T], idx):
        return "The result does not begin with the prompt."
    seen["Tokens in a row"] = got.shape[1]
    if new:  # going on with the same random numbers gives other draws, the same seed the same ones
        seeded = {} if seed < 0 else {"generator": generator}
        further = obj(model, idx, new, **options, **seeded)
        says = "Without a generator, " if seed < 0 else "With the same generator, "
        wrong = (
            " None means torch's own random numbers, those that torch.manual_seed sets." if seed < 0 else ""
        )
        seen["Going on"] = None
        if torch.equal(got, further):
            seen["Going on"] = (
                says + "a second call draws the same text again: its random numbers do not go on." + wrong
            )
        (torch.default_generator if seed < 0 else generator).manual_seed(abs(seed))
        again = obj(model, idx, new, **options, **seeded)
        seen["Repeated"] = (
            None if torch.equal(got, again) else says + "the same seed gives another text." + wrong
        )
        outcome = (got[:, T:] * V ** torch.arange(got.shape[1] - T)).sum(dim=1)
        groups = idx.unique(dim=0)
        counts = [torch.bincount(outcome[(idx == row).all(dim=1)], minlength=V**new) for row in groups]
        if any(len(row) > V**new for row in counts):
            return "A new token is not one of the model's."
        seen["The draws"] = torch.stack(counts).numpy()
    return seen


def _odds(weights, row, new, temperature=1.0, top_k=None, stop_tokens=()):
    """The probability of each continuation, by enumeration: (V ** new,)."""
    ask, V = log_probs_of(weights), weights.shape[1]
    odds = np.zeros(V**new)
    todo = [(list(row), (), 1.0)]
    while todo:
        text, written, p = todo.pop()
        if len(written) == new:
            odds[sum(token * V**k for k, token in enumerate(written))] += p
            continue
        if written and written[-1] in stop_tokens:
            todo.append((text, (*written, written[-1]), p))
            continue
        z = ask(text) / temperature
        bar = np.sort(z)[::-1][min(top_k or V, V) - 1]
        e = np.where(z >= bar, np.exp(z), 0.0)
        e /= e.sum()
        todo += [([*text, k], (*written, k), p * e[k]) for k in range(V) if e[k] > 0]
    return odds


@generate.oracle
def _(weights, idx, new, seed, training, options):
    seen = {"The mode of the model afterwards": None, "The dtype": "torch.int64"}
    if new >= LONG:
        p = np.array([_odds(weights, [token], 1, **options) for token in range(weights.shape[1])])
        return seen | {"The draws": p}
    if len(idx) >= 100:
        seen |= {"Tokens in a row": idx.shape[1] + new, "Going on": None, "Repeated": None}
        seen["The draws"] = np.stack(
            [_odds(weights, row, new, **options) for row in idx.unique(dim=0).tolist()]
        )
        return seen
    ask, stops, T = log_probs_of(weights), options.get("stop_tokens", ()), idx.shape[1]
    rows = idx.tolist()
    asked = 0
    while asked < new and not (asked and all(row[-1] in stops for row in rows)):
        for row in rows:
            stopped = len(row) > T and row[-1] in stops
            row.append(row[-1] if stopped else int(np.argmax(ask(row))))
        asked += 1
    seen["The mode of the model after an error"] = None
    return {"The tokens": torch.tensor(rows), "How often the model was asked": asked} | seen


generate.agree(by_name)


class _evaluating:
    def __init__(self, model):
        self.model = model

    def __enter__(self):
        self.modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        self.grad = torch.is_grad_enabled()
        torch.set_grad_enabled(False)

    def __exit__(self, *_):
        torch.set_grad_enabled(self.grad)
        for module, training in self.modes:
            module.training = training


class _Kept:
    """`with _Kept(model)`: nothing changes but the gradients, which are off."""

    def __init__(self, model):
        self.no_grad = torch.no_grad()

    def __enter__(self):
        self.no_grad.__enter__()

    def __exit__(self, *error):
        self.no_grad.__exit__(*error)


class _LeftInEval(_Kept):
    def __init__(self, model):
        super().__init__(model)
        model.eval()


def _probabilities(logits, temperature, top_k):
    temperature, top_k = _settled(temperature, top_k)
    return torch.softmax(_top(logits, top_k) / temperature, dim=-1)


def _generate(
    model, idx, new, *, temperature=1.0, top_k=None, stop_tokens=(), generator=None,
    mode=_evaluating, crop=lambda idx, n: idx[:, -n:], position=-1, draw=None, goes_on=False, first=None, end=torch.all,
    pad=None,
):  # fmt: skip
    """The loop, with its parts exchangeable."""
    stops = torch.tensor(list(stop_tokens), dtype=torch.long, device=idx.device)
    stopped = (
        torch.zeros(len(idx), dtype=torch.bool, device=idx.device) if first is None else first(idx, stops)
    )
    with mode(model):
        for _ in range(new):
            logits = model(crop(idx, model.config.block_size))[:, position]
            p = _probabilities(logits, temperature, top_k)
            token = draw(p, generator) if draw else torch.multinomial(p, 1, generator=generator)
            if not goes_on:
                token = torch.where(stopped[:, None], idx[:, -1:] if pad is None else pad, token)
            idx = torch.cat([idx, token], dim=1)
            stopped = stopped | torch.isin(token[:, 0], stops)
            if end(stopped):
                break
    return idx


@generate.mistake
def cropped_from_the_wrong_end(model, idx, new, **options):
    """Of a text longer than block_size you gave the model the first tokens. It must see the last ones, or it answers the same question for ever."""
    return _generate(model, idx, new, **options, crop=lambda idx, n: idx[:, :n])


@generate.mistake
def never_cropped(model, idx, new, **options):
    """You gave the model more tokens than its block_size, which it refuses. Give it the last block_size ones."""
    return _generate(model, idx, new, **options, crop=lambda idx, n: idx)


@generate.mistake
def saw_only_the_last_token(model, idx, new, **options):
    """You gave the model only the last token. Then it does not know what stands before: give it the whole text, as far as block_size allows."""
    return _generate(model, idx, new, **options, crop=lambda idx, n: idx[:, -1:])


@generate.mistake
def asked_the_first_position(model, idx, new, **options):
    """You took the logits at the first position. The next token is predicted at the last position of the text."""
    return _generate(model, idx, new, **options, position=0)


@generate.mistake
def stayed_in_training_mode(model, idx, new, **options):
    """The model was in training mode when you asked it, so dropout was on. Ask it within `with evaluating(model):`."""
    return _generate(model, idx, new, **options, mode=_Kept)


@generate.mistake
def left_in_evaluation_mode(model, idx, new, **options):
    """You switched the model to evaluation and left it so. Whoever trains it goes on without dropout and never notices. `evaluating` gives each module its mode back."""
    return _generate(model, idx, new, **options, mode=_LeftInEval)


@generate.mistake
def always_the_likeliest(model, idx, new, **options):
    """You took the likeliest token at every temperature. The next token is drawn: a token with probability 0.2 comes up in a fifth of all draws."""
    return _generate(model, idx, new, **options, draw=lambda p, g: p.argmax(dim=-1, keepdim=True))


@generate.mistake
def drew_with_global_numbers(model, idx, new, **options):
    """You drew without the generator that was given. Then a seed does not make the text repeatable, and every sample changes the random numbers of the training around it."""
    return _generate(model, idx, new, **options, draw=lambda p, g: torch.multinomial(p, 1))


@generate.mistake
def own_numbers_without_a_generator(model, idx, new, *, generator=None, **options):
    """Where no generator was given you made one of your own. Each new torch.Generator() begins alike, so every text comes out the same. None means torch's own random numbers, those that seed_everything sets."""
    return _generate(model, idx, new, generator=generator or torch.Generator(idx.device), **options)


@generate.mistake
def one_draw_for_all_rows(model, idx, new, **options):
    """You drew once for the whole batch: rows with the same prompt come out the same. Each row has its own draw."""

    def draw(p, generator):
        u = torch.rand(1, generator=generator, device=p.device)
        return (p.cumsum(dim=-1) < u).sum(dim=-1, keepdim=True).clamp(max=p.shape[-1] - 1)

    return _generate(model, idx, new, **options, draw=draw)


@generate.mistake
def forgot_temperature_and_top_k(model, idx, new, *, temperature=1.0, top_k=None, **options):
    """You drew from the model's own probabilities, whatever temperature and top_k say. Hand both on to next_probabilities."""
    return _generate(model, idx, new, **options)


@generate.mistake
def ignored_stop_tokens(model, idx, new, *, stop_tokens=(), **options):
    """Stop tokens have no effect: every row goes on to the end. Compare each new token with them. (Is a method written without its brackets? No token is ever equal to it.)"""
    return _generate(model, idx, new, **options)


@generate.mistake
def went_on_after_the_stop(model, idx, new, **options):
    """A row that had drawn a stop token went on writing until the others had stopped too. From its stop token on, it repeats that token."""
    return _generate(model, idx, new, **options, goes_on=True)


@generate.mistake
def first_stop_ends_all(model, idx, new, **options):
    """You ended the loop as soon as one row had stopped. The others are not finished: end when all have."""
    return _generate(model, idx, new, **options, end=torch.any)


@generate.mistake
def stopped_by_the_prompt(model, idx, new, **options):
    """A stop token in the prompt stopped your row before it wrote anything. Only new tokens stop a row."""
    return _generate(model, idx, new, **options, first=lambda idx, stops: torch.isin(idx, stops).any(dim=1))


@generate.mistake
def stopped_by_the_prompts_end(model, idx, new, **options):
    """A prompt that ends with a stop token stopped your row before it wrote anything. Only new tokens stop a row."""
    return _generate(model, idx, new, **options, first=lambda idx, stops: torch.isin(idx[:, -1], stops))


@generate.mistake
def padded_with_zero(model, idx, new, **options):
    """A row that has stopped was padded with token 0, which is an ordinary token. It repeats the stop token that it has drawn."""
    return _generate(model, idx, new, **options, pad=torch.tensor(0))


@generate.mistake
def went_on_when_all_had_stopped(model, idx, new, **options):
    """All rows had stopped, and you went on to ask the model and to pad. End the loop then: nothing can change any more."""
    return _generate(model, idx, new, **options, end=lambda stopped: False)


@generate.mistake(shape=True)
def returned_only_the_new_tokens(model, idx, new, **options):
    """You returned the new tokens without the prompt. The result begins with the prompt."""
    return _generate(model, idx, new, **options)[:, idx.shape[1] :]


# ---------------------------------------------------------------------------------------------------------------------
beam_search = Exercise("gpt2.sampling.beam_search", tolerance=1e-5, seconds=20)


@beam_search.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, V, block_size, T, new, beams, stops=(), training=False, holds=lambda *_: True):
        """A case for which `holds(weights, prompt)`, and whose best texts are not too close to each other."""
        while True:
            weights, prompt = table(rng, V, block_size), rng.integers(V, size=T).tolist()
            found = search(weights, prompt, new, beams, stops)
            sure = new and found[1] > -0.5  # a sum so near to 0 would have few right digits in float32
            if found[2] > 1e-3 and not sure and holds(weights, prompt):
                break
        idx = torch.tensor([prompt])
        return Case(label, weights=weights, idx=idx, new=new, beams=beams, stops=stops, training=training)

    def others(new, beams, *widths, stops=()):
        """True if each of the other widths finds another text."""

        def holds(weights, prompt):
            found = search(weights, prompt, new, beams, stops)[0]
            return all(search(weights, prompt, new, width, stops)[0] != found for width in widths)

        return holds

    def branches(new, beams):
        """True if no narrower beam finds the text, nor one whose beams keep their own best token only."""

        def holds(weights, prompt):
            lone = lone_candidates(standin(weights, False), torch.tensor([prompt]), new, beams)[0][0].tolist()
            found = search(weights, prompt, new, beams, ())[0]
            return lone != found and others(new, beams, 1)(weights, prompt)

        return holds

    def shrinks(new, beams, stops):
        """True if a text that stopped was the best for a while and was overtaken, or stands behind one that goes on."""

        def holds(weights, prompt):
            text = search(weights, prompt, new, beams, stops)[0]
            free = search(weights, prompt, new, beams, ())[0]
            return text != free and len(text) < len(prompt) + new

        return holds

    yield case("two beams, two new tokens", 4, 8, 1, 2, 2, holds=others(2, 2, 1))
    yield case("one beam is greedy", 5, 8, 3, 5, 1, holds=others(5, 1, 4))
    yield case("three beams", 5, 9, 2, 6, 3, training=True, holds=branches(6, 3))
    yield case("more beams than tokens", 3, 9, 2, 5, 7, holds=others(5, 7, 1, 3))
    yield case("a beam wide enough for all", 4, 9, 2, 4, 64, holds=others(4, 64, 1))
    yield case("wider than all texts", 3, 6, 2, 3, 200)
    yield case("longer than block_size", 5, 3, 2, 7, 3, holds=others(7, 3, 1))
    yield case("a prompt longer than block_size", 6, 4, 9, 4, 2, training=True)
    yield case("one new token", 6, 4, 2, 1, 3)
    yield case("no new token", 4, 4, 3, 0, 3, training=True)
    yield case("a stop token ends the best", 5, 9, 2, 8, 3, (1,), holds=shrinks(8, 3, (1,)))
    yield case("two stop tokens", 6, 9, 2, 7, 4, {3, 0}, training=True, holds=shrinks(7, 4, {3, 0}))
    yield case("a stop token, wide", 3, 8, 2, 5, 300, (2,), holds=shrinks(5, 300, (2,)))
    yield case("a prompt that ends with the stop token", 2, 6, 3, 6, 3, [0, 1], holds=lambda *_: True)
    yield case(
        "a stop token, one beam",
        5,
        6,
        2,
        30,
        1,
        (4,),
        holds=lambda w, p: 4 < len(search(w, p, 30, 1, (4,))[0]) < 12,
    )

    def waits(new, beams, stops):
        """True if the best text stopped while another one was ahead of it, and two mistakes are told apart."""

        def holds(weights, prompt):
            text, _, _, steps = search(weights, prompt, new, beams, stops)
            if len(prompt) + steps == len(text):
                return False
            scores = [
                mistake(standin(weights, False), torch.tensor([prompt]), new, beams, stops)[1]
                for mistake in (paid_for_padding, divided_by_the_length)
            ]
            return abs(scores[0] - scores[1]) > 0.01

        return holds

    yield case("a finished text is overtaken for a while", 4, 8, 2, 6, 3, (1,), holds=waits(6, 3, (1,)))
    yield case("a prompt of one token", 5, 8, 1, 6, 4, (3,), training=True, holds=waits(6, 4, (3,)))

    def ends(token, new, beams, stops):
        """True if the best text stopped with `token` while another one was ahead of it."""

        def holds(weights, prompt):
            text, _, _, steps = search(weights, prompt, new, beams, stops)
            return text[-1] == token and len(text) < len(prompt) + steps

        return holds

    yield case("three stop tokens, padded", 5, 8, 2, 6, 3, (3, 1, 0), holds=ends(1, 6, 3, (3, 1, 0)))

    def falls_out(new, beams, stops):
        """True if a finished text fell out of the beam that would have beaten what was found in the end."""

        def holds(weights, prompt):
            kept = search(weights, prompt, new, beams, stops, forgets=False)[1]
            return kept > search(weights, prompt, new, beams, stops)[1] + 1e-3

        return holds

    yield case("a finished text falls out of the beam", 4, 8, 2, 5, 2, (2,), holds=falls_out(5, 2, (2,)))
    yield case(
        "an unfinished text beats a finished one", 4, 8, 2, 5, 3, (1,),
        holds=lambda w, p: 1 in search(w, p, 2, 1, (1,))[0][2:] and len(search(w, p, 5, 3, (1,))[0]) == 7
        and 1 not in search(w, p, 5, 3, (1,))[0][2:],
    )  # fmt: skip


def search(weights, prompt, new, width, stops, forgets=True):
    """A beam search with lists: the text up to its stop, its log-probability, the gap to the next best, the steps.

    With forgets=False finished texts take no place in the beam and are never dropped.
    """
    ask, T = log_probs_of(weights), len(prompt)
    beams, steps, gap = [(0.0, tuple(prompt), False)], 0, math.inf
    while steps < new and not beams[0][2]:
        steps += 1
        candidates = []
        for score, text, stopped in beams:
            if stopped:
                candidates.append((score, text, True))
                continue
            for token, log_prob in enumerate(ask(text)):
                candidates.append((score + float(log_prob), (*text, token), token in stops))
        candidates.sort(key=lambda beam: -beam[0])
        scores = [score for score, _, _ in candidates]
        gap = min([gap] + [scores[k] - scores[k + 1] for k in (0, width - 1) if k + 1 < len(scores)])
        finished = [] if forgets else [beam for beam in candidates if beam[2]]
        beams = sorted(
            finished + [beam for beam in candidates if beam not in finished][:width], key=lambda b: -b[0]
        )
    score, text, _ = beams[0]
    assert len(text) <= T + new
    return list(text), score, gap, steps


def _cut(row, T, stops):
    """The row up to its first new stop token: padding does not count."""
    for k in range(T, len(row)):
        if row[k] in stops:
            return row[: k + 1]
    return row


@beam_search.observe
def _(obj, weights, idx, new, beams, stops, training):
    model = standin(weights, training)
    before = torch.get_rng_state()
    got = obj(model, idx, new, beams, stops)
    if not isinstance(got, tuple) or len(got) != 2:
        return {"The result": got}
    text, log_prob = got
    if not isinstance(text, torch.Tensor) or text.ndim != 2 or len(text) != 1:
        return {"The text": text}
    if not isinstance(log_prob, float):
        return {"The log-probability": log_prob}
    call = functools.partial(obj, standin(weights, training), idx, new, beams, stops)
    if idx.shape[1] == 1 and (said := on_its_device(call)):
        return said
    row, T = text[0].tolist(), idx.shape[1]
    cut = _cut(row, T, stops)
    if any(token != cut[-1] for token in row[len(cut) :]):
        return "After its stop token, the text goes on. It may only be padded with that token."
    steps = len(model.calls)
    return {
        "The text": torch.tensor(cut, dtype=text.dtype),
        "Its log-probability": log_prob,
        "How often the model was asked": steps,
        "Rows in the first question to the model": model.calls[0][0] if model.calls else None,
        "No question to the model has more rows than there may be beams": max(
            (rows for rows, _ in model.calls), default=0
        )
        <= beams,
        "The mode of the model afterwards": after(model, training),
        "Random numbers drawn": not torch.equal(before, torch.get_rng_state()),
        "Longer than asked for": len(row) > T + new,
    }


@beam_search.oracle
def _(weights, idx, new, beams, stops, training):
    text, score, _, steps = search(weights, idx[0].tolist(), new, beams, stops)
    return {
        "The text": torch.tensor(text),
        "Its log-probability": score,
        "How often the model was asked": steps,
        "Rows in the first question to the model": 1 if new else None,
        "No question to the model has more rows than there may be beams": True,
        "The mode of the model afterwards": None,
        "Random numbers drawn": False,
        "Longer than asked for": False,
    }


def _beam_agree(got, expected):
    if not isinstance(expected, dict) or not isinstance(got, dict):
        return by_name(got, expected)
    for name in expected:
        if expected[name] is None and isinstance(got.get(name), str):
            return got[name]
        if difference := compare(got.get(name), expected[name], tolerance=1e-5):
            return f"{name}: {difference}"
    return None


beam_search.agree(_beam_agree)


def _beams(
    model, idx, new, num_beams, stop_tokens=(), *, mode=_evaluating, crop=lambda idx, n: idx[:, -n:], log=True,
    copies=1, end=lambda stopped: stopped[0], total=torch.add, choose=None, first=None, mean=False,
):  # fmt: skip
    """The search, with its parts exchangeable."""
    V = model.config.vocab_size
    stops = torch.tensor(list(stop_tokens), dtype=torch.long, device=idx.device)
    idx = idx.repeat(copies, 1)
    stopped = (
        torch.zeros(len(idx), dtype=torch.bool, device=idx.device) if first is None else first(idx, stops)
    )
    scores = torch.full((len(idx),), 0.0 if log else 1.0, device=idx.device)
    lengths = torch.zeros_like(scores)
    with mode(model):
        for _ in range(new):
            logits = model(crop(idx, model.config.block_size))[:, -1]
            steps = torch.log_softmax(logits, dim=-1) if log else torch.softmax(logits, dim=-1)
            steps[stopped] = -torch.inf
            steps[stopped, idx[stopped, -1]] = 0.0
            totals = total(scores[:, None], steps)
            now = lengths + (~stopped).float()
            ranked = totals / now.clamp(min=1)[:, None] if mean else totals
            if choose is not None:
                ranked = choose(ranked, steps, num_beams)
            _, best = ranked.flatten().topk(min(num_beams, ranked.numel()))
            parent, token = best // V, best % V
            scores, lengths = totals.flatten()[best], now[parent]
            idx = torch.cat([idx[parent], token[:, None]], dim=1)
            stopped = stopped[parent] | torch.isin(token, stops)
            if end(stopped):
                break
    return idx[:1], scores[0].item()


@beam_search.mistake
def added_probabilities(model, idx, new, num_beams, stop_tokens=()):
    """You added probabilities. A text's probability is their product, so it is their logarithms that are added."""
    text, score = _beams(model, idx, new, num_beams, stop_tokens, log=False)
    return text, math.log(score) if score > 0 else 0.0


@beam_search.mistake
def added_logits(model, idx, new, num_beams, stop_tokens=()):
    """You added logits without log_softmax. Logits of different beams cannot be compared: a constant added to all of one row changes no probability, but your sum."""

    V = model.config.vocab_size
    stops = torch.tensor(list(stop_tokens), dtype=torch.long, device=idx.device)
    stopped = torch.zeros(1, dtype=torch.bool, device=idx.device)
    scores = torch.zeros(1, device=idx.device)
    with _evaluating(model):
        for _ in range(new):
            steps = model(idx[:, -model.config.block_size :])[:, -1].clone()
            steps[stopped] = -torch.inf
            steps[stopped, idx[stopped, -1]] = 0.0
            totals = (scores[:, None] + steps).flatten()
            scores, best = totals.topk(min(num_beams, len(totals)))
            idx = torch.cat([idx[best // V], (best % V)[:, None]], dim=1)
            stopped = stopped[best // V] | torch.isin(best % V, stops)
            if stopped[0]:
                break
    return idx[:1], scores[0].item()


@beam_search.mistake
def forgot_what_came_before(model, idx, new, num_beams, stop_tokens=()):
    """You ranked the candidates by their last token's probability alone. Add the sum of the beam that they extend."""
    return _beams(model, idx, new, num_beams, stop_tokens, total=lambda scores, steps: steps)


@beam_search.mistake
def always_greedy(model, idx, new, num_beams, stop_tokens=()):
    """Your search takes the likeliest token in each step, whatever num_beams says. A beginning that is second best may end best: keep num_beams of them."""
    return _beams(model, idx, new, 1, stop_tokens)


@beam_search.mistake
def no_more_beams_than_tokens(model, idx, new, num_beams, stop_tokens=()):
    """You never kept more beams than there are tokens. Each beam has V candidates, so together they are many more: keep num_beams of them all."""
    return _beams(model, idx, new, min(num_beams, model.config.vocab_size), stop_tokens)


@beam_search.mistake
def copies_of_the_prompt(model, idx, new, num_beams, stop_tokens=()):
    """You began with num_beams equal copies of the prompt. Their candidates are equal too, so the best one is kept num_beams times and your beam is no wider than one."""
    return _beams(model, idx, new, num_beams, stop_tokens, copies=num_beams)


@beam_search.mistake
def lone_candidates(model, idx, new, num_beams, stop_tokens=()):
    """Each of your beams keeps only its own best token, so beams never branch after the first step. Take the best of all candidates of all beams together."""

    def choose(totals, steps, n):
        if len(totals) == 1:
            return totals
        best = totals.argmax(dim=1, keepdim=True)
        return torch.full_like(totals, -torch.inf).scatter(1, best, totals.gather(1, best))

    return _beams(model, idx, new, num_beams, stop_tokens, choose=choose)


@beam_search.mistake
def divided_by_the_length(model, idx, new, num_beams, stop_tokens=()):
    """You compared means per token, which favours long texts. Some searches do so on purpose, but here the text of the highest probability is asked for: compare sums."""
    T = idx.shape[1]
    text, score = _beams(model, idx, new, num_beams, stop_tokens, mean=True, end=torch.all)
    return text[:, : len(_cut(text[0].tolist(), T, stop_tokens))], score


@beam_search.mistake
def returned_the_mean(model, idx, new, num_beams, stop_tokens=()):
    """You divided the sum by the number of tokens. Asked for is the logarithm of the whole continuation's probability, which is the sum."""
    text, score = _beams(model, idx, new, num_beams, stop_tokens)
    written = len(_cut(text[0].tolist(), idx.shape[1], stop_tokens)) - idx.shape[1]
    return text, score / max(written, 1)


@beam_search.mistake
def ignored_stops(model, idx, new, num_beams, stop_tokens=()):
    """Stop tokens have no effect on your search: texts go on behind them. A beam whose last new token is a stop token has stopped."""
    text, score = _beams(model, idx, new, num_beams)
    return text, score


@beam_search.mistake
def paid_for_padding(model, idx, new, num_beams, stop_tokens=()):
    """A beam that has stopped went on losing probability with each step. Padding costs nothing: its logarithm is 0."""

    def total(scores, steps):
        return scores + torch.where(steps == 0.0, -1.0, steps)

    return _beams(model, idx, new, num_beams, stop_tokens, total=total)


@beam_search.mistake
def finished_apart(model, idx, new, num_beams, stop_tokens=()):
    """You put finished texts aside, where they take no place in the beam and cannot fall out of it. Here they stay candidates like all others: the num_beams most probable are kept, finished or not."""
    texts, done = [(0.0, idx[0].tolist())], []
    with _evaluating(model):
        for _ in range(new):
            rows = torch.tensor([text for _, text in texts])
            steps = torch.log_softmax(model(rows[:, -model.config.block_size :])[:, -1], dim=-1).tolist()
            found = [
                (score + step, [*text, k])
                for (score, text), row in zip(texts, steps, strict=True)
                for k, step in enumerate(row)
            ]
            done += [beam for beam in found if beam[1][-1] in stop_tokens]
            texts = sorted(beam for beam in found if beam[1][-1] not in stop_tokens)[: -num_beams - 1 : -1]
            if done and (not texts or max(done)[0] >= texts[0][0]):
                break
    score, text = max(done + texts)
    return torch.tensor([text]), score


@beam_search.mistake
def padded_with_the_first_stop(model, idx, new, num_beams, stop_tokens=()):
    """A beam that had stopped was padded with another stop token than its own. It repeats the one that ended it."""
    text, score = _beams(model, idx, new, num_beams, stop_tokens)
    T = idx.shape[1]
    end = len(_cut(text[0].tolist(), T, stop_tokens))
    if stop_tokens:
        text[:, end:] = next(iter(stop_tokens))
    return text, score


@beam_search.mistake
def prompts_stop_counts(model, idx, new, num_beams, stop_tokens=()):
    """A prompt that ends with a stop token stopped your search before it wrote anything. Only new tokens stop a beam."""
    return _beams(
        model, idx, new, num_beams, stop_tokens, first=lambda idx, stops: torch.isin(idx[:, -1], stops)
    )


@beam_search.mistake
def went_on_to_the_end(model, idx, new, num_beams, stop_tokens=()):
    """The best beam had stopped, and you went on asking the model. Every further token can only make the other beams less probable: end there."""
    return _beams(model, idx, new, num_beams, stop_tokens, end=lambda stopped: False)


@beam_search.mistake
def waited_for_all_beams(model, idx, new, num_beams, stop_tokens=()):
    """The best beam had stopped, and you waited until all had. The others can only become less probable: end as soon as the best has stopped."""
    return _beams(model, idx, new, num_beams, stop_tokens, end=torch.all)


@beam_search.mistake
def first_block_of_tokens(model, idx, new, num_beams, stop_tokens=()):
    """Of a text longer than block_size you gave the model the first tokens. It must see the last ones."""
    return _beams(model, idx, new, num_beams, stop_tokens, crop=lambda idx, n: idx[:, :n])


@beam_search.mistake
def left_the_mode_changed(model, idx, new, num_beams, stop_tokens=()):
    """You switched the model to evaluation and left it so. Search within `with evaluating(model):`, which gives each module its mode back."""
    return _beams(model, idx, new, num_beams, stop_tokens, mode=_LeftInEval)


@beam_search.mistake
def asked_in_training_mode(model, idx, new, num_beams, stop_tokens=()):
    """The model was in training mode when you asked it, so dropout was on. Search within `with evaluating(model):`."""
    return _beams(model, idx, new, num_beams, stop_tokens, mode=_Kept)


# ---------------------------------------------------------------------------------------------------------------------
np_gpt = Exercise("gpt2.sampling.np_gpt")


def _names(V, block_size, n_layer, C):
    yield "transformer.wte.weight", (V, C)
    yield "transformer.wpe.weight", (block_size, C)
    for n in range(n_layer):
        for name, shape in (
            ("ln_1", (C,)), ("attn.c_attn", (3 * C, C)), ("attn.c_proj", (C, C)), ("ln_2", (C,)),
            ("mlp.c_fc", (4 * C, C)), ("mlp.c_proj", (C, 4 * C)),
        ):  # fmt: skip
            yield f"transformer.h.{n}.{name}.weight", shape
            yield f"transformer.h.{n}.{name}.bias", shape[:1]
    yield "transformer.ln_f.weight", (C,)
    yield "transformer.ln_f.bias", (C,)


@np_gpt.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, T, V, block_size, n_layer, n_head, C, dtype=np.float64):
        weights = {
            name: np.asarray(
                0.6 * rng.normal(size=shape) + (len(shape) == 1 and name.endswith("weight")), dtype=dtype
            )
            for name, shape in _names(V, block_size, n_layer, C)
        }
        weights["lm_head.weight"] = weights["transformer.wte.weight"].copy()
        config = SimpleNamespace(
            block_size=block_size, vocab_size=V, n_layer=n_layer, n_head=n_head, n_embd=C
        )
        return Case(label, tokens=rng.integers(V, size=T), weights=weights, config=config)

    yield case("one token, one head", 1, 3, 2, 1, 1, 2)
    yield case("three tokens, one head", 3, 5, 4, 1, 1, 4)
    yield case("two heads", 4, 7, 6, 1, 2, 6)
    yield case("three heads, two blocks", 5, 11, 7, 2, 3, 12)
    yield case("three blocks, the whole context", 6, 8, 6, 3, 4, 8)
    yield case("heads of one column", 4, 6, 5, 1, 3, 3)
    yield case("no block", 3, 4, 5, 0, 2, 4)
    yield case("a longer text", 20, 9, 24, 1, 2, 4)
    yield case("float32", 4, 9, 5, 2, 2, 8, np.float32)


class _Torch(TorchFunctionMode):
    """Notices that torch is used."""

    used = False

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.used = True
        return function(*args, **(kwargs or {}))


@np_gpt.observe
def _(obj, tokens, weights, config):
    with _Torch() as watch:
        got = obj(tokens, weights, config)
    return "You used torch. The forward pass is asked for in NumPy alone." if watch.used else got


np_gpt.agree(by_name)


@np_gpt.oracle
def _(tokens, weights, config):
    w = {name: torch.tensor(array, dtype=torch.float64) for name, array in weights.items()}
    T, C, H = len(tokens), config.n_embd, config.n_head

    def linear(x, name):
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(x, name):
        return F.layer_norm(x, (C,), w[f"{name}.weight"], w[f"{name}.bias"])

    x = w["transformer.wte.weight"][torch.tensor(tokens)] + w["transformer.wpe.weight"][:T]
    for n in range(config.n_layer):
        at = f"transformer.h.{n}"
        qkv = linear(norm(x, f"{at}.ln_1"), f"{at}.attn.c_attn").reshape(T, 3, H, C // H)
        q, k, v = qkv.permute(1, 2, 0, 3)[:, None]
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)[0]
        x = x + linear(y.transpose(0, 1).reshape(T, C), f"{at}.attn.c_proj")
        inner = F.gelu(linear(norm(x, f"{at}.ln_2"), f"{at}.mlp.c_fc"), approximate="tanh")
        x = x + linear(inner, f"{at}.mlp.c_proj")
    logits = norm(x, "transformer.ln_f") @ w["transformer.wte.weight"].T
    return logits.numpy().astype(weights["lm_head.weight"].dtype)


def _softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _forward(
    tokens, weights, config, *, masked=True, scale=None, cut="heads", order=(0, 1, 2), positions=True, final=True,
    residual=True, post=False, bend=_gelu, blocks=None, project=True,
):  # fmt: skip
    """The forward pass, with its parts exchangeable."""
    T, H = len(tokens), config.n_head

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x, name):
        y = x - x.mean(axis=-1, keepdims=True)
        y = y / np.sqrt((y**2).mean(axis=-1, keepdims=True) + 1e-5)
        return y * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def attention(x, at):
        parts = np.split(linear(x, f"{at}.c_attn"), 3, axis=-1)
        q, k, v = (parts[p] for p in order)
        d = q.shape[-1] // H
        heads = []
        for h in range(H):
            mine = slice(h * d, (h + 1) * d) if cut == "heads" else slice(h, None, H)
            scores = q[:, mine] @ k[:, mine].T / (math.sqrt(d) if scale is None else scale(d, H * d))
            if masked:
                scores[np.triu(np.ones((T, T), dtype=bool), k=1)] = -np.inf
            heads.append(_softmax(scores) @ v[:, mine])
        y = np.concatenate(heads, axis=-1)
        return linear(y, f"{at}.c_proj") if project else y

    x = weights["transformer.wte.weight"][tokens]
    if positions:
        x = x + weights["transformer.wpe.weight"][:T]
    for n in range(config.n_layer if blocks is None else min(blocks, config.n_layer)):
        at = f"transformer.h.{n}"

        def mlp(x, at=at):
            return linear(bend(linear(x, f"{at}.mlp.c_fc")), f"{at}.mlp.c_proj")

        if post:
            x = norm(x + attention(x, f"{at}.attn"), f"{at}.ln_1")
            x = norm(x + mlp(x), f"{at}.ln_2")
            continue
        x = (x if residual else 0) + attention(norm(x, f"{at}.ln_1"), f"{at}.attn")
        inner = mlp(norm(x, f"{at}.ln_2"))
        x = x + inner if residual else inner
    return (norm(x, "transformer.ln_f") if final else x) @ weights["lm_head.weight"].T


@np_gpt.mistake
def saw_the_future(tokens, weights, config):
    """Your tokens see those after them. Set the scores of later tokens to minus infinity before softmax."""
    return _forward(tokens, weights, config, masked=False)


@np_gpt.mistake
def forgot_the_root_of_d(tokens, weights, config):
    """You did not divide the scores by the square root of d, the width of one head."""
    return _forward(tokens, weights, config, scale=lambda d, C: 1.0)


@np_gpt.mistake
def root_of_the_whole_width(tokens, weights, config):
    """You divided the scores by the square root of C. It is the width of one head, d = C / n_head, that counts."""
    return _forward(tokens, weights, config, scale=lambda d, C: math.sqrt(C))


@np_gpt.mistake
def interleaved_heads(tokens, weights, config):
    """You gave head h every n_head-th column. Its columns stand next to each other, from h · d to (h + 1) · d."""
    return _forward(tokens, weights, config, cut="every")


@np_gpt.mistake
def keys_before_queries(tokens, weights, config):
    """You took the keys first and the queries after them. c_attn gives queries, keys and values in this order."""
    return _forward(tokens, weights, config, order=(1, 0, 2))


@np_gpt.mistake(shape=True)
def forgot_the_positions(tokens, weights, config):
    """You did not add the vectors of the positions, so the order of the tokens is partly lost. Row t of wpe belongs to position t."""
    return _forward(tokens, weights, config, positions=False)


@np_gpt.mistake(shape=True)
def forgot_the_last_norm(tokens, weights, config):
    """You left out transformer.ln_f, the LayerNorm after the last block."""
    return _forward(tokens, weights, config, final=False)


@np_gpt.mistake
def nothing_added(tokens, weights, config):
    """You replaced x by what attention and feed-forward give. Both are added to the x that was there."""
    return _forward(tokens, weights, config, residual=False)


@np_gpt.mistake
def norms_in_the_stream(tokens, weights, config):
    """Your norms stand after each sum, as in the first Transformer. In GPT-2 they stand at the entrance of each part: x plus attention of ln_1 of x."""
    return _forward(tokens, weights, config, post=True)


@np_gpt.mistake
def relu_for_gelu(tokens, weights, config):
    """You bent with relu. GPT-2's bend is gelu, given as np_gelu."""
    return _forward(tokens, weights, config, bend=lambda x: np.maximum(x, 0))


@np_gpt.mistake
def only_the_first_block(tokens, weights, config):
    """You ran only one block. There are config.n_layer of them, each with its own weights."""
    return _forward(tokens, weights, config, blocks=1)


@np_gpt.mistake
def forgot_attentions_projection(tokens, weights, config):
    """You left out attn.c_proj, the layer that mixes the results of the heads."""
    return _forward(tokens, weights, config, project=False)


# ---------------------------------------------------------------------------------------------------------------------
continuation_log_prob = Exercise("gpt2.sampling.continuation_log_prob", tolerance=1e-5)


def _sums(weights, idx, prompt_length):
    ask = log_probs_of(weights)
    rows = ([float(ask(row[:t])[row[t]]) for t in range(prompt_length, len(row))] for row in idx.tolist())
    return torch.tensor([math.fsum(row) for row in rows], dtype=torch.float32)


@continuation_log_prob.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, V, block_size, B, T, prompt_length, training=False, spread=1.5, impossible=False):
        idx, weights = (
            torch.tensor(rng.integers(V - impossible, size=(B, T))),
            table(rng, V, block_size, spread),
        )
        while _sums(weights, idx, prompt_length).max() > -0.5:  # so near to 0, float32 has few right digits
            weights = table(rng, V, block_size, spread)
        if impossible:
            weights[0, :, -1] = -torch.inf  # the last token, which idx does not contain
        return Case(label, weights=weights, idx=idx, prompt_length=prompt_length, training=training)

    yield case("one token after one", 3, 4, 1, 2, 1)
    yield case("two rows", 5, 8, 2, 5, 2)
    yield case("all but the first token", 6, 9, 3, 6, 1, training=True)
    yield case("only the last token", 6, 9, 4, 7, 6)
    yield case("one token more than the context", 4, 6, 3, 7, 3)
    yield case("many rows", 7, 12, 9, 9, 4, training=True)
    yield case("very improbable texts", 6, 9, 3, 8, 2, spread=150.0)
    yield case("a token that cannot come", 5, 7, 2, 6, 2, impossible=True)


@continuation_log_prob.observe
def _(obj, weights, idx, prompt_length, training):
    model = standin(weights, training)
    got = obj(model, idx, prompt_length)
    mode = after(model, training)
    return {"The sums": got.detach() if isinstance(got, torch.Tensor) else got, "The mode afterwards": mode}


@continuation_log_prob.oracle
def _(weights, idx, prompt_length, training):
    return {"The sums": _sums(weights, idx, prompt_length), "The mode afterwards": None}


continuation_log_prob.agree(_beam_agree)


def _picked(model, idx, mode=_evaluating):
    with mode(model):
        log_probs = torch.log_softmax(model(idx), dim=-1)
    return log_probs


@continuation_log_prob.mistake(shape=True)
def one_position_off(model, idx, prompt_length):
    """You read each token's probability at its own position, where the model has already seen it. The logits at position t speak about token t + 1."""
    log_probs = _picked(model, idx)
    return log_probs.gather(-1, idx[:, :, None])[:, :, 0][:, prompt_length:].sum(dim=1)


@continuation_log_prob.mistake
def logarithm_after_softmax(model, idx, prompt_length):
    """You took softmax first and the logarithm of its results. A very small probability becomes 0, and its logarithm minus infinity. Take log_softmax of the logits, and add."""
    log_probs = _picked(model, idx[:, :-1]).exp().log()
    return log_probs.gather(-1, idx[:, 1:, None])[:, :, 0][:, prompt_length - 1 :].sum(dim=1)


@continuation_log_prob.mistake(shape=True)
def first_token_missing(model, idx, prompt_length):
    """The first token of the continuation is missing from your sum. After the shift by one, the continuation begins one place earlier."""
    log_probs = _picked(model, idx[:, :-1])
    return log_probs.gather(-1, idx[:, 1:, None])[:, :, 0][:, prompt_length:].sum(dim=1)


@continuation_log_prob.mistake
def counted_the_prompt(model, idx, prompt_length):
    """Your sum contains tokens of the prompt. Only those after it count."""
    log_probs = _picked(model, idx[:, :-1])
    return log_probs.gather(-1, idx[:, 1:, None])[:, :, 0].sum(dim=1)


@continuation_log_prob.mistake(shape=True)
def shifted_the_other_way(model, idx, prompt_length):
    """You paired the logits at position t with token t − 1. They speak about the token after it, t + 1."""
    log_probs = _picked(model, idx)[:, 1:]
    return log_probs.gather(-1, idx[:, :-1, None])[:, :, 0][:, prompt_length - 1 :].sum(dim=1)


@continuation_log_prob.mistake
def mean_for_sum(model, idx, prompt_length):
    """You took the mean over the tokens. The logarithm of a text's probability is the sum."""
    log_probs = _picked(model, idx[:, :-1])
    return log_probs.gather(-1, idx[:, 1:, None])[:, :, 0][:, prompt_length - 1 :].mean(dim=1)


@continuation_log_prob.mistake
def logarithm_of_the_sum(model, idx, prompt_length):
    """You added probabilities and took the logarithm at the end. A text's probability is a product, so the logarithms are added."""
    p = _picked(model, idx[:, :-1]).exp()
    return p.gather(-1, idx[:, 1:, None])[:, :, 0][:, prompt_length - 1 :].sum(dim=1).log()


@continuation_log_prob.mistake(shape=True)
def one_sum_for_the_batch(model, idx, prompt_length):
    """You added up over the whole batch. Each row has a sum of its own: the result has shape (B,)."""
    log_probs = _picked(model, idx[:, :-1])
    return log_probs.gather(-1, idx[:, 1:, None])[:, :, 0][:, prompt_length - 1 :].sum()


@continuation_log_prob.mistake
def scored_in_training_mode(model, idx, prompt_length):
    """The model was in training mode when you asked it, so dropout was on. Ask it within `with evaluating(model):`."""
    log_probs = _picked(model, idx[:, :-1], _Kept)
    return log_probs.gather(-1, idx[:, 1:, None])[:, :, 0][:, prompt_length - 1 :].sum(dim=1)
