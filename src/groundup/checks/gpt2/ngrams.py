"""Checks for the lesson gpt2.ngrams.

The oracles count with dictionaries and loop over single tokens in NumPy. `held_out_bits` is run on `Watched`, a model
that looks back over its whole window, answers differently while it trains, and writes down how it is called. It says
that it lies on another device than the tokens do.
"""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from groundup.check import Case, Exercise, compare


def by_name(got, expected) -> str | None:
    """Compares two observations entry by entry, in the order of the expected one; a text is a sentence."""
    if isinstance(got, str) or not isinstance(got, dict) or not isinstance(expected, dict):
        return None if type(got) is type(expected) and got == expected else str(got)
    for name in expected:
        if difference := compare(got.get(name), expected[name]):
            return f"{name}: {difference.replace('you returned', 'yours is')}"
    return None


# ---------------------------------------------------------------------------------------------------------------------
CharTokenizer = Exercise("gpt2.ngrams.CharTokenizer", kind="class")


@CharTokenizer.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, text, encode, ids):
        return Case(label, text=text, encode=encode, ids=ids)

    yield case("hello", "hello", "hole", [3, 0, 1])
    yield case("an unknown character", "hello", "hejo", [2, 1])
    yield case("an unknown character in the middle, by order, too", "acegikm", "cajge", [5, 4, 4, 0])
    yield case("capitals, signs and line ends", "To be, or not to be?\nThat is", "to\nbe? TaT", [4, 3, 0, 1])
    yield case("unknown: the first letter is a capital", "to be or not", "To be", [1, 0])
    yield case("letters beyond ASCII", "größer als 3 µm, naïve 漢字", "字 größe", [9, 2, 2])
    yield case("an empty text to encode and to decode", "zebra", "", [])
    yield case("one character", "aaaa", "aa", [0, 0, 0])
    alphabet = [chr(c) for c in rng.permutation(np.arange(33, 4000))[:600]]
    text = "".join(rng.choice(alphabet, size=5000))
    long = "".join(rng.choice(sorted(set(text)), size=30_000))
    yield case("many characters, long texts", text, long, rng.integers(len(set(text)), size=30_000).tolist())


@CharTokenizer.observe
def _(obj, text, encode, ids):
    other = obj(text[::-1] + "~")  # made first, and looked at last: each has a vocabulary of its own
    tokenizer = obj(text)
    seen = {"characters": tokenizer.characters, "vocab_size": tokenizer.vocab_size}

    def encoded():
        try:
            return tokenizer.encode(encode)
        except ValueError as error:
            unknown = set(encode) - set(text)
            named = any(c in str(error) or repr(c)[1:-1] in str(error) for c in unknown)
            return "a ValueError that names the character" if named else "a ValueError that does not name it"

    seen["encode"] = encoded()
    seen["encode of the text itself"] = ids_of_text = tokenizer.encode(text)
    plain = type(ids_of_text) is list and all(type(k) is int for k in ids_of_text)
    seen["encode gives a list of Python integers"] = plain
    seen["encode, called again"] = encoded()
    seen["decode of a list"] = tokenizer.decode(list(ids))
    seen["decode of a generator"] = tokenizer.decode(k for k in ids)
    seen["decode of an array"] = tokenizer.decode(np.array(ids, dtype=np.int64))
    seen["characters of another tokenizer"] = other.characters
    try:
        seen["encode of another tokenizer"] = other.encode("~" + text)
    except (ValueError, KeyError):
        seen["encode of another tokenizer"] = "an error for a character that it has"
    return seen


@CharTokenizer.oracle
def _(text, encode, ids):
    different = set(text)
    characters = "".join(c for c in map(chr, range(max(map(ord, different)) + 1)) if c in different)
    places = {c: characters.index(c) for c in different}
    known = all(c in places for c in encode)
    decoded = "".join(map(characters.__getitem__, ids))
    encoded = [places[c] for c in encode] if known else "a ValueError that names the character"
    more = "".join(sorted({*characters, "~"}))
    return {
        "characters": characters,
        "vocab_size": len(characters),
        "encode": encoded,
        "encode of the text itself": [places[c] for c in text],
        "encode gives a list of Python integers": True,
        "encode, called again": encoded,
        "decode of a list": decoded,
        "decode of a generator": decoded,
        "decode of an array": decoded,
        "characters of another tokenizer": more,
        "encode of another tokenizer": [more.index(c) for c in "~" + text],
    }


CharTokenizer.agree(by_name)


class _Characters:
    """A right tokenizer, to be spoilt."""

    def __init__(self, text):
        self.characters = "".join(self.order(text))
        self.vocab_size = len(self.characters)

    def order(self, text):
        return sorted(set(text))

    def tokens(self):
        return {c: k for k, c in enumerate(self.characters)}

    def encode(self, text):
        ids, known = [], self.tokens()
        for c in text:
            if c not in known:
                raise ValueError(f"unknown character {c!r}")
            ids.append(known[c])
        return ids

    def decode(self, ids):
        return "".join(self.characters[k] for k in ids)


@CharTokenizer.mistake
class in_order_of_appearance(_Characters):
    """You number the characters as they first appear. Sort them: then the tokens do not depend on which word the text begins with, and everybody's tokens are the same."""

    def order(self, text):
        return dict.fromkeys(text)


@CharTokenizer.mistake
class repeats_kept(_Characters):
    """Your `characters` holds a character as often as the text does. Each belongs in the vocabulary once; a set drops the repeats."""

    def order(self, text):
        return sorted(text)


@CharTokenizer.mistake
class unknown_dropped(_Characters):
    """Your `encode` leaves out characters that it does not know. The text is then another one, and nobody notices: raise a ValueError that names the character."""

    def encode(self, text):
        known = self.tokens()
        return [known[c] for c in text if c in known]


@CharTokenizer.mistake
class unknown_becomes_minus_one(_Characters):
    """Your `encode` turns an unknown character into −1, as str.find does. As an index, −1 means the last character: the mistake would stay hidden. Raise a ValueError that names the character."""

    def encode(self, text):
        known = self.tokens()
        return [known.get(c, -1) for c in text]


@CharTokenizer.mistake(shape=True)
class raises_a_key_error(_Characters):
    """Your `encode` lets the dictionary's KeyError through. Callers of this method wait for a ValueError that names the character."""

    def encode(self, text):
        known = self.tokens()
        return [known[c] for c in text]


@CharTokenizer.mistake
class character_not_named(_Characters):
    """Your ValueError does not say which character is unknown. In a text of millions of characters, that is what its reader wants to know."""

    def encode(self, text):
        try:
            return super().encode(text)
        except ValueError:
            raise ValueError("unknown") from None


@CharTokenizer.mistake(shape=True)  # right on no case
class counted_from_one(_Characters):
    """Your tokens begin at 1. They are places in `characters`, counted from 0: otherwise the last token lies outside a table with vocab_size rows."""

    def encode(self, text):
        return [k + 1 for k in super().encode(text)]

    def decode(self, ids):
        return super().decode(k - 1 for k in ids)


@CharTokenizer.mistake(shape=True)
class decoded_to_a_list(_Characters):
    """Your `decode` returns a list of characters. Join them into one string: `decode(encode(text))` must be the text."""

    def decode(self, ids):
        return [self.characters[k] for k in ids]


@CharTokenizer.mistake(shape=True)
class encoded_to_an_array(_Characters):
    """Your `encode` returns an array. The page asks for a list of Python integers; an array or a tensor is made of it where one is needed."""

    def encode(self, text):
        return np.array(super().encode(text), dtype=np.int64)


@CharTokenizer.mistake(shape=True)
class characters_in_a_list(_Characters):
    """Your `characters` is a list. The page asks for one string: join them with "".join."""

    def __init__(self, text):
        self.characters = self.order(text)
        self.vocab_size = len(self.characters)


# ---------------------------------------------------------------------------------------------------------------------
count_ngrams = Exercise("gpt2.ngrams.count_ngrams")


@count_ngrams.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, length, n, vocab_size, kind=np.array):
        ids = rng.integers(vocab_size, size=length)
        return Case(label, ids=kind(ids), n=n, vocab_size=vocab_size)

    yield Case("five tokens, n = 2", ids=np.array([0, 1, 1, 1, 2]), n=2, vocab_size=3)
    yield case("n = 1", 9, 1, 4)
    yield case("n = 2, a list", 23, 2, 3, kind=lambda ids: ids.tolist())
    yield case("n = 3", 40, 3, 2)
    yield Case("tokens that never come", ids=rng.integers(2, 4, size=30), n=2, vocab_size=7)
    yield case("n = 4", 50, 4, 3)
    yield Case("exactly one n-gram", ids=np.array([2, 0, 1]), n=3, vocab_size=4)
    yield Case("a text shorter than n", ids=np.array([1, 0]), n=3, vocab_size=2)
    yield Case("much shorter than n", ids=[1, 0, 1], n=5, vocab_size=2)
    yield Case("ends on a rare pair", ids=np.array([0, 0, 0, 0, 0, 2, 1]), n=2, vocab_size=3)
    yield Case("32-bit tokens", ids=rng.integers(200, size=900).astype(np.int32), n=2, vocab_size=200)
    yield Case("8-bit tokens", ids=rng.integers(200, size=900).astype(np.uint8), n=2, vocab_size=200)
    often = np.where(rng.random(100_000) < 0.9, 7, rng.integers(50, size=100_000))
    yield Case("100,000 tokens, n = 3", ids=often, n=3, vocab_size=50)
    yield Case("a large vocabulary", ids=rng.integers(50_000, size=40), n=1, vocab_size=50_000)
    yield Case("every other token of an array", ids=rng.integers(4, size=60)[::2], n=3, vocab_size=4)


@count_ngrams.oracle
def _(ids, n, vocab_size):
    ids = [int(k) for k in ids]
    counts = np.zeros((vocab_size,) * n, dtype=np.int64)
    for gram, count in Counter(zip(*(ids[k:] for k in range(n)), strict=False)).items():
        counts[gram] = count
    return counts


def _rows(ids, n):
    ids = np.asarray(ids, dtype=np.int64)
    places = max(len(ids) - n + 1, 0)
    return tuple(ids[k : k + places] for k in range(n))


def _tally(rows, n, vocab_size):
    counts = np.zeros((vocab_size,) * n, dtype=np.int64)
    np.add.at(counts, tuple(rows), 1)
    return counts


@count_ngrams.mistake
def repeats_counted_once(ids, n, vocab_size):
    """No count is above 1. With `counts[rows] += 1`, NumPy reads, adds and writes once for each place, however often the place comes among the indices. np.add.at adds each time."""
    counts = np.zeros((vocab_size,) * n, dtype=np.int64)
    counts[_rows(ids, n)] += 1
    return counts


@count_ngrams.mistake
def last_one_missed(ids, n, vocab_size):
    """You left out the last n-gram. A text of N tokens has N − n + 1 of them: a range or slice ends one too early."""
    return _tally([row[:-1] for row in _rows(ids, n)], n, vocab_size)


@count_ngrams.mistake
def back_to_front(ids, n, vocab_size):
    """Your axes are in reverse order: for n = 2 your counts[a, b] says how often b comes before a. The first axis is the first token."""
    return _tally(_rows(ids, n)[::-1], n, vocab_size)


@count_ngrams.mistake
def not_overlapping(ids, n, vocab_size):
    """You cut the text into pieces of n tokens, one after the other. N-grams overlap: one starts at every place where n tokens fit."""
    return _tally([row[::n] for row in _rows(ids, n)], n, vocab_size)


@count_ngrams.mistake
def around_the_end(ids, n, vocab_size):
    """You also counted n-grams that run from the end of the text on to its beginning, as np.roll or an index −1 does. Nothing comes after the last token."""
    ids = np.asarray(ids, dtype=np.int64)
    return _tally([np.roll(ids, -k) for k in range(n)], n, vocab_size)


@count_ngrams.mistake
def pairs_at_a_distance(ids, n, vocab_size):
    """Your tokens are not neighbours: token number k of an n-gram stands k places after its first, not more."""
    ids = np.asarray(ids, dtype=np.int64)
    places = max(len(ids) - n + 1, 0)
    return _tally([np.roll(ids, -2 * k)[:places] for k in range(n)], n, vocab_size)


@count_ngrams.mistake(shape=True)
def shares_instead_of_counts(ids, n, vocab_size):
    """You divided by the number of n-grams. Here only whole numbers are wanted, of type int64; the shares come with the smoothing."""
    counts = _tally(_rows(ids, n), n, vocab_size)
    return counts / max(counts.sum(), 1)


@count_ngrams.mistake(shape=True)
def counted_in_floats(ids, n, vocab_size):
    """Your counts are right, but they are floats: np.zeros makes floats unless dtype says otherwise. Whole numbers, int64, are wanted."""
    return _tally(_rows(ids, n), n, vocab_size).astype(np.float64)


# ---------------------------------------------------------------------------------------------------------------------
smoothed = Exercise("gpt2.ngrams.smoothed")


@smoothed.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    yield Case("one context", counts=np.array([[3, 1, 0]]), alpha=0.5)
    yield Case("unigrams", counts=rng.integers(0, 9, size=5), alpha=1.0)
    yield Case("bigrams", counts=rng.integers(0, 9, size=(4, 4)), alpha=0.3)
    yield Case("trigrams", counts=rng.integers(0, 9, size=(3, 3, 3)), alpha=2.0)
    yield Case("4-grams", counts=rng.integers(0, 5, size=(3, 3, 3, 3)), alpha=0.7)
    unseen = rng.integers(1, 9, size=(4, 4))
    unseen[1] = 0
    yield Case("a context that was never seen", counts=unseen, alpha=0.25)
    yield Case("each context seen once", counts=np.eye(4, dtype=np.int64)[[2, 0, 2, 1]], alpha=0.4)
    yield Case("large counts, little alpha", counts=rng.integers(0, 10**7, size=(5, 5)), alpha=1e-3)
    yield Case("few counts, little alpha", counts=rng.integers(0, 3, size=(4, 4)), alpha=1e-4)
    yield Case("a large alpha", counts=rng.integers(0, 900, size=(3, 3)), alpha=70)


@smoothed.oracle
def _(counts, alpha):
    out = np.empty(counts.shape)
    for context in np.ndindex(counts.shape[:-1]):
        total = math.fsum([*map(float, counts[context]), *[alpha] * counts.shape[-1]])
        for token, count in enumerate(counts[context]):
            out[(*context, token)] = (float(count) + alpha) / total
    return out


@smoothed.mistake
def divided_by_all(counts, alpha):
    """You divided by the sum of the whole table. Each context is a distribution of its own: divide along the last axis by its own sum."""
    raised = counts + alpha
    return raised / raised.sum()


@smoothed.mistake
def divided_along_the_first_axis(counts, alpha):
    """You made the probabilities add up along the first axis. There stand the contexts; the next token is the last axis."""
    raised = counts + alpha
    return raised / raised.sum(axis=0, keepdims=True)


@smoothed.mistake
def sums_in_the_wrong_place(counts, alpha):
    """You divided by the sums of the rows, but their axis was dropped, so broadcasting gave entry j the sum of row j instead of its own row's. No error tells: the table is square. keepdims=True keeps each sum at its row."""
    raised = counts + alpha
    return raised / raised.sum(axis=-1)


@smoothed.mistake
def alpha_only_above(counts, alpha):
    """You added alpha to the counts but divided by the sum of the counts alone. Then the probabilities add up to more than 1: the sum must be that of the raised counts."""
    with np.errstate(divide="ignore"):
        return (counts + alpha) / counts.sum(axis=-1, keepdims=True)


@smoothed.mistake
def alpha_once_below(counts, alpha):
    """You added alpha to the row's sum once. It was added to each of the V counts, so the sum grows by V times alpha."""
    return (counts + alpha) / (counts.sum(axis=-1, keepdims=True) + alpha)


@smoothed.mistake
def added_to_shares(counts, alpha):
    """You added alpha to shares instead of counts. Then a context seen a million times is smoothed as much as one seen twice: first add, then divide."""
    shares = counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1) + alpha
    return shares / shares.sum(axis=-1, keepdims=True)


@smoothed.mistake
def no_smoothing(counts, alpha):
    """You did not use alpha. A pair that the text does not have gets the probability 0, and a context that it does not have 0 divided by 0."""
    with np.errstate(invalid="ignore"):
        return counts / counts.sum(axis=-1, keepdims=True)


@smoothed.mistake
def only_zeros_raised(counts, alpha):
    """You raised only the counts that are 0. Additive smoothing adds alpha to every count."""
    raised = np.where(counts == 0, alpha, counts)
    return raised / raised.sum(axis=-1, keepdims=True)


# ---------------------------------------------------------------------------------------------------------------------
BigramModel = Exercise("gpt2.ngrams.BigramModel", kind="class")


@BigramModel.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, vocab_size, batch, time):
        table = torch.tensor(rng.normal(size=(vocab_size, vocab_size)) * 3)
        idx = torch.tensor(rng.integers(vocab_size, size=(batch, time)))
        seed = torch.tensor(rng.normal(size=(batch, time, vocab_size)))
        return Case(label, table=table, idx=idx, seed=seed)

    yield case("one text of two tokens", 3, 1, 2)
    yield case("a batch of texts", 5, 2, 4)
    yield case("more texts than tokens", 4, 7, 3)
    yield case("one token each", 6, 5, 1)
    yield case("as many texts as tokens as characters", 3, 3, 3)
    yield case("long texts", 11, 3, 40)


@BigramModel.observe
def _(obj, table, idx, seed):
    torch.manual_seed(0)
    model = obj(len(table))
    if not isinstance(model, nn.Module):
        return "The class must inherit from nn.Module."
    named = dict(model.named_parameters())
    seen = {"The parameters and their shapes": [(name, tuple(p.shape)) for name, p in named.items()]}
    if "logits" not in named:
        return "There is no parameter named `logits`: an optimizer would find nothing to train. Is it an nn.Parameter?"
    if list(named) != ["logits"] or list(model.state_dict()) != ["logits"]:
        return f"The only parameter is `logits`, but the model has {list(model.state_dict())}."
    if named["logits"].shape != table.shape:
        return (
            f"`logits` must have the shape {tuple(table.shape)}, but it has {tuple(named['logits'].shape)}."
        )
    seen["The parameter at the start"] = named["logits"].detach().clone()
    seen["The logits at the start"] = model(idx)
    if seen["The logits at the start"] is None:
        return "The model returned None. Is a return missing?"
    model = model.double()
    model.load_state_dict({"logits": table})
    before = model(idx.flip(0))
    out = model(idx)
    seen["The logits of the batch with its rows reversed"] = before
    seen["The logits"] = out
    if isinstance(out, torch.Tensor) and out.shape == seed.shape:
        if not out.requires_grad:
            return "No slope reaches `logits`: was the table detached, or its .data used?"
        out.backward(seed)
        seen["The gradient of logits"] = model.logits.grad
    with torch.no_grad():
        model.logits += 1.0
    seen["The logits after a step"] = model.eval()(idx)
    return {name: v.detach() if isinstance(v, torch.Tensor) else v for name, v in seen.items()}


@BigramModel.oracle
def _(table, idx, seed):
    size = len(table)
    grad = torch.zeros_like(table)
    for row, token in enumerate(idx.flatten().tolist()):
        grad[token] += seed.reshape(-1, size)[row]
    logits = F.embedding(idx, table)
    return {
        "The parameters and their shapes": [("logits", (size, size))],
        "The parameter at the start": torch.zeros(size, size),
        "The logits at the start": torch.zeros(*idx.shape, size),
        "The logits of the batch with its rows reversed": logits.flip(0),
        "The logits": logits,
        "The gradient of logits": grad,
        "The logits after a step": logits + 1.0,
    }


BigramModel.agree(by_name)


class _Table(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.logits = nn.Parameter(self.start(vocab_size))

    def start(self, vocab_size):
        return torch.zeros(vocab_size, vocab_size)

    def forward(self, idx):
        return self.logits[idx]


@BigramModel.mistake(shape=True)  # right on no case
class column_instead_of_row(_Table):
    """You looked up columns. Row a of the table is for what follows token a; a column would say what comes before."""

    def forward(self, idx):
        return self.logits.T[idx]


@BigramModel.mistake(shape=True)  # right on no case
class probabilities_instead_of_logits(_Table):
    """You return probabilities, after a softmax. cross_entropy does the softmax itself; done twice, no probability can come near 1 and the model hardly learns."""

    def forward(self, idx):
        return self.logits[idx].softmax(dim=-1)


@BigramModel.mistake(shape=True)  # right on no case
class log_probabilities_instead_of_logits(_Table):
    """You return log-probabilities, after a log_softmax. cross_entropy does that itself: return the row as it is."""

    def forward(self, idx):
        return self.logits[idx].log_softmax(dim=-1)


@BigramModel.mistake(shape=True)
class random_start(_Table):
    """Your table starts at random. Each row has targets of its own, so there is no symmetry to break; started at 0, the model first gives every token the same probability."""

    def start(self, vocab_size):
        return torch.randn(vocab_size, vocab_size)


@BigramModel.mistake(shape=True)
class a_plain_tensor(_Table):
    """Your table is a plain tensor, not an nn.Parameter. Then parameters() does not list it, and no optimizer would ever change it."""

    def __init__(self, vocab_size):
        nn.Module.__init__(self)
        self.logits = torch.zeros(vocab_size, vocab_size)


@BigramModel.mistake(shape=True)
class cut_from_the_graph(_Table):
    """You took the numbers out of the parameter, with .data or detach, so no slope arrives at it and it never learns."""

    def forward(self, idx):
        return self.logits.detach()[idx]


@BigramModel.mistake(shape=True)
class flattened(_Table):
    """Your result has the shape (B · T, V). Keep the axes of the batch: (B, T, V); the loss flattens them itself."""

    def forward(self, idx):
        return self.logits[idx.flatten()]


@BigramModel.mistake(shape=True)
class last_token_only(_Table):
    """You return the logits of the last token of each text alone. Every place of the text predicts its next token: (B, T, V)."""

    def forward(self, idx):
        return self.logits[idx[:, -1]]


# ---------------------------------------------------------------------------------------------------------------------
held_out_bits = Exercise("gpt2.ngrams.held_out_bits")


ELSEWHERE = "Expected all tensors to be on the same device: tokens must be brought to where the model is"
HOME = torch.device("cpu", 0)  # where the model says that it lies; "cpu" is then another place


def moved(func, args, kwargs) -> type | None:
    """The class of what `to` or `cpu` returns; None if nothing moves."""
    if func is torch.Tensor.cpu:
        return OnCpu
    named = [k for k in (*args[1:], kwargs.get("device")) if isinstance(k, str | torch.device)]
    if func is not torch.Tensor.to or not named:
        return None
    return {HOME: torch.Tensor, torch.device("cpu"): OnCpu}.get(torch.device(named[0]))


class There(torch.Tensor):
    """Parameters and what comes of them: they say that they lie at HOME. Plain tensors count as lying there, too."""

    device = property(lambda self: HOME)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        out = super().__torch_function__(func, types, args, kwargs or {})
        place = moved(func, args, kwargs or {})
        return out.as_subclass(OnCpu) if place is OnCpu else out


class Elsewhere(torch.Tensor):
    """Tokens that act as if they lay on another device, so that one machine will do: `to` brings them to the model."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [t for t in (*args, *kwargs.values()) if isinstance(t, torch.Tensor)]
        if any(type(t) is not cls and t.dim() for t in tensors):
            raise RuntimeError(ELSEWHERE)
        out = super().__torch_function__(func, (cls,), args, kwargs)
        place = moved(func, args, kwargs)
        return out if place is None else out.as_subclass(place)


class OnCpu(Elsewhere):
    """What `cpu()` gives: neither where the tokens were nor where the model is."""


class Watched(nn.Module):
    """A model whose logits depend on all tokens of the window so far; it writes down how it is called."""

    def __init__(self, table, memory, block_size):
        super().__init__()
        self.table = nn.Parameter(table.clone().as_subclass(There))
        self.memory = nn.Parameter(memory.clone().as_subclass(There))
        self.block_size, self.shapes, self.modes, self.grads, self.dtypes = block_size, [], [], [], []

    def forward(self, idx):
        if isinstance(idx, Elsewhere):
            raise RuntimeError(ELSEWHERE)
        if idx.dim() != 2:
            raise ValueError(f"the model wants tokens of shape (B, T), not {tuple(idx.shape)}")
        if idx.shape[1] > self.block_size:
            raise ValueError(
                f"the model takes at most {self.block_size} tokens in a row, but got {idx.shape[1]}"
            )
        self.shapes.append(tuple(idx.shape))
        self.modes.append(self.training)
        self.grads.append(torch.is_grad_enabled())
        self.dtypes.append(idx.dtype)
        seen = self.memory[idx].cumsum(dim=1) / (1.0 + torch.arange(idx.shape[1]))[:, None]
        logits = self.table[idx] + seen
        return 0.3 * logits if self.training else logits


@held_out_bits.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, length, block_size, batch_size, vocab_size=5, training=True):
        ids = torch.tensor(rng.integers(vocab_size, size=length))
        table, memory = (torch.tensor(rng.normal(size=(vocab_size, vocab_size)) * 2) for _ in range(2))
        return Case(
            label,
            ids=ids,
            block_size=block_size,
            batch_size=batch_size,
            table=table,
            memory=memory,
            training=training,
        )

    yield case("8 tokens, windows of 3, 2 at a time", 8, 3, 2, vocab_size=3)
    yield case("all windows full", 13, 4, 3)
    yield case("all windows full, in full batches", 25, 4, 3)
    yield case("one short window at the end", 24, 5, 2)
    yield case("a batch that is not full", 36, 5, 3, training=False)
    yield case("a text shorter than one window", 6, 9, 4)
    yield case("exactly one window", 8, 7, 2)
    yield case("two tokens", 2, 5, 3)
    yield case("windows of one token", 14, 1, 4)
    yield case("one window at a time", 30, 7, 1, training=False)
    yield case("one target left over", 23, 7, 2)
    yield case("a long text", 3001, 16, 50, vocab_size=7, training=False)


@held_out_bits.observe
def _(obj, ids, block_size, batch_size, table, memory, training):
    model = Watched(table, memory, block_size)
    model.train(training)
    with torch.set_grad_enabled(training):  # the caller's own choice, which must outlast the call
        bits = obj(model, ids.as_subclass(Elsewhere), block_size, batch_size)
        enabled = torch.is_grad_enabled()
    if isinstance(bits, There):
        bits = bits.as_subclass(torch.Tensor)
    if bits is None:
        return "You returned None. Is a return missing?"
    if not model.shapes:
        return "The model was never called."
    full = (len(ids) - 1) // block_size
    calls = math.ceil(full / batch_size) + 1
    most = max(rows for rows, _ in model.shapes)
    return {
        "The bits per token": bits,
        "The result is a plain number": type(bits) is float,
        "The model is in training mode while it is measured": any(model.modes),
        "Gradients are kept track of while it is measured": any(model.grads),
        "The model is in training mode afterwards": model.training,
        "Gradients are kept track of afterwards": enabled,
        f"The model gets more than {batch_size} windows at once": most > batch_size,
        f"The model is called more than {calls} times": len(model.shapes) > calls,
        "The tokens stay int64": all(dtype == torch.int64 for dtype in model.dtypes),
        "The parameters after the measurement": [
            p.detach().as_subclass(torch.Tensor) for p in (model.table, model.memory)
        ],
        "The parameters can be trained afterwards": model.table.requires_grad and model.memory.requires_grad,
        "There are gradients afterwards": model.table.grad is not None,
    }


@held_out_bits.oracle
def _(ids, block_size, batch_size, table, memory, training):
    ids, table, memory = ids.tolist(), table.numpy(), memory.numpy()
    surprises = []
    for place in range(len(ids) - 1):
        first = place - place % block_size  # where the window of this token begins
        logits = table[ids[place]] + np.mean([memory[k] for k in ids[first : place + 1]], axis=0)
        highest = logits.max()
        total = math.log(math.fsum(np.exp(logits - highest))) + highest
        surprises.append((total - logits[ids[place + 1]]) / math.log(2))
    calls = math.ceil((len(ids) - 1) // block_size / batch_size) + 1
    return {
        "The bits per token": math.fsum(surprises) / len(surprises),
        "The result is a plain number": True,
        "The model is in training mode while it is measured": False,
        "Gradients are kept track of while it is measured": False,
        "The model is in training mode afterwards": training,
        "Gradients are kept track of afterwards": training,
        f"The model gets more than {batch_size} windows at once": False,
        f"The model is called more than {calls} times": False,
        "The tokens stay int64": True,
        "The parameters after the measurement": [torch.tensor(table), torch.tensor(memory)],
        "The parameters can be trained afterwards": True,
        "There are gradients afterwards": False,
    }


held_out_bits.agree(by_name)


def _batches(ids, block_size, batch_size):
    """Inputs and targets, (B, T) each, as the page says; the short window last."""
    inputs, targets = ids[:-1], ids[1:]
    starts = range(0, len(inputs) - block_size + 1, block_size)
    for k in range(0, len(starts), batch_size):
        some = starts[k : k + batch_size]
        yield tuple(torch.stack([row[s : s + block_size] for s in some]) for row in (inputs, targets))
    if left := len(inputs) % block_size:
        yield inputs[-left:][None], targets[-left:][None]


LN2 = math.log(2)


def _measured(
    model, batches, *, move=True, switch=True, track=False, restore=True, mean_of_means=False, unit=LN2
):
    was, sums, sizes, where = model.training, [], [], next(model.parameters()).device
    if switch:
        model.eval()
    with nullcontext() if track else torch.no_grad():
        for x, y in batches:
            if move:
                x, y = x.to(where), y.to(where)
            logits = model(x)
            sums.append(F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum").item())
            sizes.append(y.numel())
    if switch:
        model.train(was if restore else True)
    if not sizes:
        return float("nan")
    if mean_of_means:
        return sum(s / n for s, n in zip(sums, sizes, strict=True)) / len(sizes) / unit
    return sum(sums) / sum(sizes) / unit


@held_out_bits.mistake
def mean_of_unequal_means(model, ids, block_size, batch_size=32):
    """You averaged the mean losses of batches of different sizes, so that each prediction in a short window weighs more than others. Add up all surprises, and divide once by their number."""
    return _measured(model, _batches(ids, block_size, batch_size), mean_of_means=True)


@held_out_bits.mistake
def rest_dropped(model, ids, block_size, batch_size=32):
    """You left out the tokens after the last full window. Every token but the first must be predicted, so the rest makes a window of its own."""
    full = [(x, y) for x, y in _batches(ids, block_size, batch_size) if x.shape[1] == block_size]
    return _measured(model, full)


@held_out_bits.mistake
def rest_missing_from_the_sum(model, ids, block_size, batch_size=32):
    """Your sum leaves out the tokens after the last full window, though you divide by all N − 1 predictions: the bits come out too low. The rest makes a window of its own."""
    full = [(x, y) for x, y in _batches(ids, block_size, batch_size) if x.shape[1] == block_size]
    predicted = sum(y.numel() for _, y in full)
    return _measured(model, full) * predicted / (len(ids) - 1) if full else 0.0


@held_out_bits.mistake
def first_of_each_window_never_predicted(model, ids, block_size, batch_size=32):
    """Your windows share no token, so the first token of each is predicted by nobody. The last target of one window is the first input of the next."""
    return _measured(
        model,
        (
            (window[None, :-1], window[None, 1:])
            for window in ids.split(block_size + 1)
            if len(window) > 1  # windows of block_size + 1 tokens
        ),
    )


@held_out_bits.mistake(shape=True)  # right on no case
def divided_by_the_tokens(model, ids, block_size, batch_size=32):
    """You divided by the number of tokens. Nothing predicts the first one: N tokens make N − 1 predictions."""
    return _measured(model, _batches(ids, block_size, batch_size)) * (len(ids) - 1) / len(ids)


@held_out_bits.mistake(shape=True)  # right on no case
def in_nats(model, ids, block_size, batch_size=32):
    """Your number is in natural units: cross_entropy uses the natural logarithm. A bit is ln 2 of these units."""
    return _measured(model, _batches(ids, block_size, batch_size), unit=1.0)


@held_out_bits.mistake
def measured_in_training_mode(model, ids, block_size, batch_size=32):
    """The model is in training mode while you measure. Layers such as dropout then disturb it: call model.eval() first."""
    return _measured(model, _batches(ids, block_size, batch_size), switch=False)


@held_out_bits.mistake
def always_back_to_training(model, ids, block_size, batch_size=32):
    """You put the model into training mode at the end, whatever it was before. Whoever measures a model in evaluation mode finds it changed: remember model.training and restore it."""
    return _measured(model, _batches(ids, block_size, batch_size), restore=False)


@held_out_bits.mistake
def left_in_evaluation_mode(model, ids, block_size, batch_size=32):
    """You leave the model in evaluation mode. If it was training, it now goes on without its dropout: restore the mode that it had."""
    bits = _measured(model, _batches(ids, block_size, batch_size))
    model.eval()
    return bits


@held_out_bits.mistake(shape=True)
def gradients_tracked(model, ids, block_size, batch_size=32):
    """The bits are right, but PyTorch keeps every intermediate result for a backward that never comes. Measure within torch.no_grad()."""
    return _measured(model, _batches(ids, block_size, batch_size), track=True)


@held_out_bits.mistake
def all_windows_at_once(model, ids, block_size, batch_size=32):
    """You gave the model all full windows at once. A long text would not fit into the memory: batch_size windows at a time."""
    return _measured(model, _batches(ids, block_size, len(ids)))


@held_out_bits.mistake
def own_tokens_predicted(model, ids, block_size, batch_size=32):
    """Your targets are the inputs themselves. What stands at a place predicts the token after it: the targets are moved by one."""
    return _measured(model, ((x, x) for x, _ in _batches(ids, block_size, batch_size)))


@held_out_bits.mistake(shape=True)
def tokens_not_moved(model, ids, block_size, batch_size=32):
    """You give the model tokens that lie elsewhere. A model on a GPU wants its inputs there, and the loss wants the targets where the logits are: bring both to the device of the model's parameters."""
    return _measured(model, _batches(ids, block_size, batch_size), move=False)
