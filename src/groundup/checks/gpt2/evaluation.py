"""Checks for the lesson gpt2.evaluation.

The model is a stand-in whose logits depend on the whole text in a known way. The oracle scores each ending alone, one
token at a time, in float64 NumPy: no batch, no padding.
"""

import math
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from groundup.check import Case, Exercise, compare

# ---------------------------------------------------------------------------------------------------------------------
bits_per_byte = Exercise("gpt2.evaluation.bits_per_byte")


@bits_per_byte.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def log_probs(n):
        return np.log(rng.uniform(0.01, 0.9, size=n))

    yield Case("two tokens for three bytes", log_probs=log_probs(2), text="né")
    yield Case("one token for each character", log_probs=log_probs(5), text="right")
    yield Case("tokens of several characters", log_probs=log_probs(4), text="To be, or not to be")
    yield Case("characters of two to four bytes", log_probs=log_probs(7), text="Größe, 語 and 🙂")
    yield Case("more tokens than characters", log_probs=log_probs(9), text="🙂 語")
    yield Case("one token", log_probs=log_probs(1), text=" morrow")
    yield Case("a long text", log_probs=log_probs(3000), text="Out, damned spot! " * 400)
    yield Case("a certain token", log_probs=np.array([0.0, -1.5, 0.0]), text="a line\n")
    yield Case("a text without surprise", log_probs=np.zeros(3), text="ünd so on")
    yield Case("a token that nobody expected", log_probs=np.array([-1.0, -900.0, -0.5]), text="an é")


@bits_per_byte.oracle
def _(log_probs, text):
    return -math.fsum(log_probs) * math.log2(math.e) / len(bytes(text, "utf-8"))


def _n_bytes(text):
    return len(text.encode())


@bits_per_byte.mistake
def divided_by_tokens(log_probs, text):
    """You divided by the number of tokens. That is bits per token, which cannot be compared between tokenizers. Divide by the bytes of the text."""
    return float(-np.sum(log_probs) / math.log(2) / len(log_probs))


@bits_per_byte.mistake
def divided_by_characters(log_probs, text):
    """You divided by the number of characters. Outside ASCII a character has more than one byte in UTF-8: encode the text, then take the length."""
    return float(-np.sum(log_probs) / math.log(2) / len(text))


@bits_per_byte.mistake
def left_it_in_nats(log_probs, text):
    """Your result is in nats, since ln is the natural logarithm. Divide by ln 2 to get bits."""
    return float(-np.sum(log_probs) / _n_bytes(text))


@bits_per_byte.mistake
def forgot_the_sign(log_probs, text):
    """Your result has the wrong sign: ln p is negative, and the cost of a text is minus its sum."""
    return float(np.sum(log_probs) / math.log(2) / _n_bytes(text))


@bits_per_byte.mistake
def times_ln_2(log_probs, text):
    """You multiplied by ln 2 where you should divide: one nat is 1.44 bits, so the number of bits is the larger one."""
    return float(-np.sum(log_probs) * math.log(2) / _n_bytes(text))


@bits_per_byte.mistake
def took_the_mean(log_probs, text):
    """You took the mean of the logarithms and divided by the bytes as well. The formula has the sum over all tokens, divided once."""
    return float(-np.mean(log_probs) / math.log(2) / _n_bytes(text))


@bits_per_byte.mistake
def went_back_to_probabilities(log_probs, text):
    """You made probabilities of the logarithms again. A very small one becomes 0, and its logarithm minus infinity. Stay with the logarithms: only their unit changes."""
    with np.errstate(divide="ignore"):
        return float(-np.sum(np.log2(np.exp(log_probs))) / _n_bytes(text))


# ---------------------------------------------------------------------------------------------------------------------
class Seen(Exception):
    """What a `Reader` on the device "meta" raises: all that is asked there is where its input lies."""


class Reader(nn.Module):
    """Logits that depend on every token of the text and on how far back it stands; others in training mode."""

    def __init__(self, weights: torch.Tensor):
        super().__init__()
        self.weights = nn.Parameter(weights.clone())
        self.frozen = nn.Dropout(0.5)
        self.config = SimpleNamespace(block_size=weights.shape[0], vocab_size=weights.shape[1])
        self.calls, self.where, self.grad = 0, None, False

    def forward(self, idx):
        self.calls += 1
        self.where = idx.device.type
        if self.weights.device.type == "meta":
            raise Seen
        if idx.shape[1] > self.config.block_size:
            raise ValueError(f"{idx.shape[1]} tokens, but this model reads at most {self.config.block_size}")
        if (idx < 0).any():  # PyTorch would count from the end here, but not in an nn.Embedding
            raise IndexError(f"{idx.min().item()} is no token: fill up with one that the model knows")
        self.grad = self.grad or torch.is_grad_enabled()
        logits = self.weights[0][idx]
        for back in range(1, idx.shape[1]):
            earlier = nn.functional.pad(self.weights[back][idx[:, :-back]], (0, 0, back, 0))
            logits = logits + earlier / (1 + back)
        return logits.flip(-1) if self.training else logits


def reader(weights, training: bool) -> Reader:
    model = Reader(weights).train(training)
    model.frozen.eval()  # somebody froze a part: its mode must come back too
    return model


LETTERS = "abcdefgh"


def by_letter(text: str) -> list[int]:
    return [LETTERS.index(letter) for letter in text.replace("é", "e").replace("語", "f").replace(" ", "h")]


def in_pairs(text: str) -> list[int]:
    """Two letters are one token where they can be, so that a text and its parts have different tokens."""
    numbers = by_letter(text)
    pairs = [numbers[k : k + 2] for k in range(0, len(numbers), 2)]
    return [sum(pair) + len(pair) - 1 for pair in pairs]


ENCODERS = {"letters": by_letter, "pairs": in_pairs}


def alone(weights, encode, context, ending) -> list[float]:
    """ln p of each token of one ending, in float64, one at a time."""
    numbers = weights.double().numpy()
    tail = encode(ending)
    text, found = [*encode(context), *tail][-len(numbers) - 1 :], []
    for place in range(len(text) - len(tail), len(text)):
        z = sum(numbers[back][text[place - 1 - back]] / (1 + back) for back in range(place))
        top = z.max()
        found.append(float((z - top)[text[place]] - np.log(np.exp(z - top).sum())))
    return found


def after(model: Reader, training: bool) -> str | None:
    """What is wrong about how the model was asked, in a sentence."""
    if model.calls != 1:
        return f"The model was asked {model.calls} times. All endings go through it as one batch, once."
    if model.grad:
        return "The model was asked while gradients were on. Ask it within `with evaluating(model):`."
    if model.training != training or model.frozen.training:
        return "A module is in another mode after the call than before. `evaluating(model)` gives each its own mode back."
    return None


def placed(call, weights, training) -> str | None:
    """Whether the input was on the model's device, in a sentence if not."""
    model = reader(weights, training).to("meta")
    try:
        call(model)
    except Seen:
        if model.where == "meta":
            return None
    return "The tokens were not on the device of the model's parameters. With a model on a GPU that fails."


def told(got, expected):
    """Compares observations; an expected None stands for a sentence that says what is wrong."""
    if not isinstance(expected, dict) or not isinstance(got, dict):
        return compare(got, expected, tolerance=1e-5)
    for name in expected:
        if expected[name] is None and isinstance(got.get(name), str):
            return got[name]
        if said := compare(got.get(name), expected[name], tolerance=1e-5):
            return f"{name}: {said}"
    return None


def _questions(rng: np.random.Generator) -> Iterator[tuple[str, dict]]:
    def case(
        label,
        V,
        block_size,
        context,
        endings,
        encoder="letters",
        training=False,
        spread=1.5,
        impossible=False,
        dtype=torch.float32,
    ):
        weights = torch.tensor(rng.normal(size=(block_size, V, V)) * spread, dtype=dtype)
        if impossible:
            weights[0, :, V - 1] = -torch.inf
        return label, {
            "weights": weights,
            "encoder": encoder,
            "context": context,
            "endings": endings,
            "training": training,
        }

    yield case("one ending of one token", 3, 4, "ab", ["c"])
    yield case("two endings of equal length", 4, 9, "abd", ["cda", "bbc"])
    yield case("three endings of different lengths", 5, 12, "bead", ["a", "ecb", "dd"], training=True)
    yield case("the longest first", 5, 12, "deb", ["cabed", "ba", "d", "aec"])
    yield case("a context of one token", 4, 8, "d", ["abc", "b", "acdb"], training=True)
    yield case("some rows longer than the context", 5, 6, "abcde", ["e", "dbca", "cb"])
    yield case("a row of one token more than is read", 4, 6, "dabc", ["bcd", "a"])
    yield case(
        "all rows much longer than the context", 6, 5, "fedcbaabcdef", ["bad", "f", "ceded"], training=True
    )
    yield case("an ending as long as the context", 4, 4, "abdc", ["cdab", "ba"])
    yield case("tokens of two letters", 12, 10, "abcde", ["bad", "fe", "cafeb"], encoder="pairs")
    yield case("six endings", 6, 14, "cafe", ["a", "feed", "bed", "ed", "fa", "decaf"], training=True)
    yield case("very improbable endings", 6, 9, "face", ["bee", "deaf", "c"], spread=150.0)
    yield case("a token that cannot come", 5, 9, "bad", ["cab", "bed", "a"], impossible=True)
    yield case("endings with characters of several bytes", 7, 12, "bad", ["éa", "語語b", "caged"])
    yield case("endings with spaces", 8, 12, "bad", [" egg", "  a", "feed ", "b c"])
    yield case("two equal endings", 4, 9, "cab", ["dab", "c", "dab"])
    yield case("logits in float64", 5, 9, "dab", ["ecb", "a"], dtype=torch.float64)


# ---------------------------------------------------------------------------------------------------------------------
ending_log_probs = Exercise("gpt2.evaluation.ending_log_probs")
ending_log_probs.agree(told)


@ending_log_probs.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    for label, inputs in _questions(rng):
        yield Case(label, **inputs)


@ending_log_probs.observe
def _(obj, weights, encoder, context, endings, training):
    model, encode = reader(weights, training), ENCODERS[encoder]
    got = obj(model, encode, context, endings)
    return {
        "The numbers": got.detach() if isinstance(got, torch.Tensor) else got,
        "The model": after(model, training),
        "The device": placed(lambda model: obj(model, encode, context, endings), weights, training),
    }


@ending_log_probs.oracle
def _(weights, encoder, context, endings, training):
    rows = [alone(weights, ENCODERS[encoder], context, ending) for ending in endings]
    longest = max(len(row) for row in rows)
    filled = [row + [0.0] * (longest - len(row)) for row in rows]
    return {"The numbers": torch.tensor(filled, dtype=weights.dtype), "The model": None, "The device": None}


class _Evaluating:
    def __init__(self, model):
        self.model, self.no_grad = model, torch.no_grad()

    def __enter__(self):
        self.modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        self.no_grad.__enter__()

    def __exit__(self, *error):
        self.no_grad.__exit__(*error)
        for module, training in self.modes:
            module.training = training


class _Kept(_Evaluating):
    """Nothing but the gradients changes."""

    def __enter__(self):
        self.modes = []
        self.no_grad.__enter__()


def _scored(
    model, encode, context, endings, *, mode=_Evaluating, crop=lambda row, n: row[-n:], more=1, shift=1,
    first=0, whole=False, padded=False, log=None, left=False, joined=False, fill=0.0,
):  # fmt: skip
    """The scores, with the parts exchangeable in which people go wrong."""
    prefix, tails = encode(context), [encode(ending) for ending in endings]
    if joined:
        tails = [encode(context + ending)[len(prefix) :] for ending in endings]
    rows = [crop(prefix + tail, model.config.block_size + more) for tail in tails]
    width = max(len(row) for row in rows)
    fills = [[0] * (width - len(row)) for row in rows]
    idx = torch.tensor([f + r if left else r + f for f, r in zip(fills, rows, strict=True)])
    idx = idx.to(model.weights.device)
    with mode(model):
        logits = model(idx[:, :-1] if shift else idx[:, : model.config.block_size])
    log_probs = torch.log_softmax(logits, dim=-1) if log is None else log(logits)
    targets = idx[:, 1:] if shift else idx[:, : logits.shape[1]]
    picked = log_probs.gather(-1, targets[:, :, None])[:, :, 0]
    found = []
    for line, row, tail in zip(picked, rows, tails, strict=True):
        end = len(line) if padded or left else len(row) - shift
        start = 0 if whole else end - len(tail) + first
        found.append(line[start:end])
    return pad_sequence(found, batch_first=True, padding_value=fill)


@ending_log_probs.mistake(shape=True)
def one_position_off(model, encode, context, endings):
    """You read each token's probability at its own position, where the model has already seen it. The logits at position t speak about token t + 1."""
    return _scored(model, encode, context, endings, shift=0, more=0)


@ending_log_probs.mistake
def counted_the_padding(model, encode, context, endings):
    """You took the last numbers of the padded row. In a row that is shorter than the longest they belong to the padding: count from the end of the row's own tokens."""
    return _scored(model, encode, context, endings, padded=True)


@ending_log_probs.mistake(shape=True)
def counted_the_context(model, encode, context, endings):
    """The context's tokens are among your numbers. Only those of the ending count."""
    return _scored(model, encode, context, endings, whole=True)


@ending_log_probs.mistake(shape=True)
def first_token_missing(model, encode, context, endings):
    """The first token of each ending is missing. After the shift by one, the ending begins one place earlier."""
    return _scored(model, encode, context, endings, first=1)


@ending_log_probs.mistake(shape=True)
def last_token_missing(model, encode, context, endings):
    """The last token of each ending is missing: the last number that counts stands at the row's length minus 2, and a slice ends one after it."""
    found = _scored(model, encode, context, endings)
    tails = [len(encode(ending)) for ending in endings]
    return pad_sequence([row[: n - 1] for row, n in zip(found, tails, strict=True)], batch_first=True)


@ending_log_probs.mistake
def logarithm_after_softmax(model, encode, context, endings):
    """You took softmax first and the logarithm of its results. A very small probability becomes 0, and its logarithm minus infinity. Take log_softmax of the logits."""
    return _scored(model, encode, context, endings, log=lambda z: torch.softmax(z, dim=-1).log())


@ending_log_probs.mistake
def scored_in_training_mode(model, encode, context, endings):
    """The model was in training mode when you asked it, so dropout was on. Ask it within `with evaluating(model):`."""
    return _scored(model, encode, context, endings, mode=_Kept)


@ending_log_probs.mistake
def cropped_from_the_wrong_end(model, encode, context, endings):
    """You kept the first tokens of a long row. Then the ending is cut off, and the oldest part of the context stays: keep the last ones."""
    return _scored(model, encode, context, endings, crop=lambda row, n: row[:n])


@ending_log_probs.mistake
def cropped_one_token_too_many(model, encode, context, endings):
    """A long row lost one token of its context too many: the model reads block_size tokens, and the last one of the row is not read, so block_size + 1 fit."""
    return _scored(model, encode, context, endings, more=0)


@ending_log_probs.mistake
def did_not_crop(model, encode, context, endings):
    """You gave the model more than block_size tokens. Of a long row, keep the last block_size + 1; the last of them is not read."""
    return _scored(model, encode, context, endings, crop=lambda row, n: row)


@ending_log_probs.mistake
def padded_on_the_left(model, encode, context, endings):
    """You padded on the left. Then the padding stands before the text, the model reads it, and every later logit changes. Pad on the right."""
    return _scored(model, encode, context, endings, left=True)


@ending_log_probs.mistake(shape=True)
def encoded_together(model, encode, context, endings):
    """You encoded context and ending as one text. Letters on both sides of the seam can then become one token. Encode each by itself, and join the lists."""
    return _scored(model, encode, context, endings, joined=True)


@ending_log_probs.mistake(shape=True)
def summed_at_once(model, encode, context, endings):
    """You added up each row. Here every token keeps its own number: the result has shape (E, L)."""
    return _scored(model, encode, context, endings).sum(dim=1)


# ---------------------------------------------------------------------------------------------------------------------
score_choices = Exercise("gpt2.evaluation.score_choices")
score_choices.agree(told)


@score_choices.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    for label, inputs in _questions(rng):
        yield Case(label, **inputs)
    weights = torch.tensor(rng.normal(size=(9, 5, 5)), dtype=torch.float32)
    weights[0, :, 2] += 200.0  # after every token, c is certain
    inputs = {"encoder": "letters", "context": "abd", "endings": ["c", "cad", "dc"], "training": False}
    yield Case("a certain token", weights=weights, **inputs)
    yield Case("certain endings", weights=weights, **inputs | {"endings": ["c", "ccc"]})


@score_choices.observe
def _(obj, weights, encoder, context, endings, training):
    model = reader(weights, training)
    got = obj(model, ENCODERS[encoder], context, endings)
    return {"The scores": got, "The model": after(model, training)}


@score_choices.oracle
def _(weights, encoder, context, endings, training):
    encode = ENCODERS[encoder]
    rows = [alone(weights, encode, context, ending) for ending in endings]
    scores = {
        "sum": [math.fsum(row) for row in rows],
        "token": [math.fsum(row) / len(row) for row in rows],
        "byte": [math.fsum(row) / len(bytes(e, "utf-8")) for row, e in zip(rows, endings, strict=True)],
    }
    scores = {rule: torch.tensor(found, dtype=weights.dtype) for rule, found in scores.items()}
    return {"The scores": scores, "The model": None}


def _three(
    model, encode, context, endings, *, tokens=None, n_bytes=_n_bytes, sums=lambda rows: rows.sum(dim=1)
):
    rows = _scored(model, encode, context, endings)
    counted = [len(encode(e)) for e in endings] if tokens is None else tokens(rows, encode, context, endings)
    total = sums(rows)
    lengths = [n_bytes(ending) for ending in endings]
    return {
        "sum": total,
        "token": total / torch.as_tensor(counted),
        "byte": total / torch.tensor(lengths),
    }


@score_choices.mistake
def divided_by_the_padded_length(model, encode, context, endings):
    """You divided every sum by the width of the tensor, padding included. That is one number for all endings, so the order stays that of the sums, and short endings win."""
    return _three(model, encode, context, endings, tokens=lambda rows, *_: rows.shape[1])


@score_choices.mistake
def counted_what_is_not_zero(model, encode, context, endings):
    """You counted the numbers that are not 0. A token of probability 1 has the logarithm 0, and counts as well. Count the tokens of each ending."""
    return _three(model, encode, context, endings, tokens=lambda rows, *_: (rows != 0).sum(dim=1))


@score_choices.mistake
def context_in_the_length(model, encode, context, endings):
    """You divided by the tokens of context and ending together. The sum contains the ending alone, so its length is the ending's alone."""
    return _three(
        model,
        encode,
        context,
        endings,
        tokens=lambda rows, encode, context, endings: [
            len(encode(context)) + len(encode(e)) for e in endings
        ],
    )


@score_choices.mistake
def characters_for_bytes(model, encode, context, endings):
    """Under "byte" you divided by the number of characters. Outside ASCII a character has more than one byte in UTF-8."""
    return _three(model, encode, context, endings, n_bytes=len)


@score_choices.mistake
def characters_for_tokens(model, encode, context, endings):
    """Under "token" you divided by the number of characters. A token may have several: encode the ending and count."""
    return _three(
        model,
        encode,
        context,
        endings,
        tokens=lambda rows, encode, context, endings: [len(e) for e in endings],
    )


@score_choices.mistake
def bytes_without_the_ends(model, encode, context, endings):
    """Under "byte" you did not count the spaces at the ends of an ending. The sum contains their tokens, so their bytes count as well."""
    return _three(model, encode, context, endings, n_bytes=lambda ending: _n_bytes(ending.strip()))


# ---------------------------------------------------------------------------------------------------------------------
standard_error = Exercise("gpt2.evaluation.standard_error")


@standard_error.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    yield Case("four numbers", values=[1, 2, 3, 7])
    yield Case("two numbers", values=np.array([0.5, -1.25]))
    yield Case("bits of pieces", values=rng.normal(2.5, 0.2, size=37))
    yield Case("right answers", values=rng.permutation(np.arange(50) < 17))
    yield Case("right answers in a list", values=[True, False, False, True, True, False, False])
    yield Case("all equal", values=[1.0, 1.0, 1.0])
    yield Case("far from 0", values=rng.normal(100.0, 1.0, size=24))
    yield Case("one value", values=[3.5])
    yield Case("no value", values=[])


@standard_error.oracle
def _(values):
    numbers = [float(value) for value in values]
    n = len(numbers)
    if n < 2:
        raise ValueError(f"{n} values are too few")
    mean = math.fsum(numbers) / n
    return math.sqrt(math.fsum((x - mean) ** 2 for x in numbers) / (n - 1) / n)


def _names(call, number) -> str | bool:
    try:
        call()
    except ValueError as error:
        return str(number) in str(error)
    return True


@standard_error.property
def names_the_number(obj, values):
    """The message of your ValueError does not say how many values there were."""
    return len(values) > 1 or _names(lambda: obj(values), len(values))


def _error(values, ddof=1, least=2, root=True, over=None):
    values = np.asarray(values, dtype=float)
    if len(values) < least:
        raise ValueError(f"{len(values)} values are too few")
    s = values.std(ddof=ddof)
    return float(s / (math.sqrt(len(values)) if over is None else over(len(values))))


@standard_error.mistake
def divided_by_n(values):
    """You divided the squares by n. The values lie closer to their own mean than to the true one; n - 1 makes up for it (`ddof=1`)."""
    return _error(values, ddof=0)


@standard_error.mistake
def spread_of_one_value(values):
    """That is the standard deviation, the spread of single values. The mean of n of them spreads less: divide by the root of n."""
    return _error(values, over=lambda n: 1)


@standard_error.mistake
def forgot_the_root_of_n(values):
    """You divided the standard deviation by n. It is the variance that becomes n times smaller, so the deviation is divided by the root of n."""
    return _error(values, over=lambda n: n)


@standard_error.mistake
def forgot_the_root(values):
    """You gave the variance of the mean. The standard error is its root, in the unit of the values."""
    return _error(values) ** 2


@standard_error.mistake
def whole_interval(values):
    """You multiplied by 1.96. That is half of a 95 % interval; the standard error itself is asked for."""
    return 1.96 * _error(values)


@standard_error.mistake
def accepted_too_few(values):
    """You gave a number for fewer than two values. They say nothing about luck: raise a ValueError."""
    return math.nan if len(values) < 2 else _error(values)


# ---------------------------------------------------------------------------------------------------------------------
paired_difference = Exercise("gpt2.evaluation.paired_difference")


@paired_difference.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    hard = rng.normal(2.5, 0.5, size=41)
    yield Case("four pairs", first=[1, 2, 4, 7], second=[1.5, 1, 2, 3])
    yield Case("two pairs", first=np.array([0.25, 1.0]), second=np.array([2.0, 1.5]))
    yield Case("pieces, hard for both", first=hard + rng.normal(size=41) * 0.1, second=hard + 0.2)
    right = rng.permutation(np.arange(60) < 33)
    yield Case("answers as booleans", first=right, second=right ^ (rng.random(60) < 0.3))
    yield Case(
        "answers in lists", first=[True, False, True, True, False], second=[False, False, True, False, True]
    )
    yield Case("what helps one hurts the other", first=hard, second=-0.5 * hard + rng.normal(size=41) * 0.2)
    yield Case("not pairs", first=[1.0, 2.0, 3.0], second=[1.0, 2.5])
    yield Case("one value for all", first=np.array([1.0, 2.0, 4.0]), second=np.array([1.5]))
    yield Case("one value against many", first=[0.5], second=[1.5, 3.0, 2.0, 2.5])
    yield Case("one pair", first=[1.0], second=[2.0])


@paired_difference.oracle
def _(first, second):
    differences = [float(a) - float(b) for a, b in zip(first, second, strict=True)]
    n = len(differences)
    if n < 2:
        raise ValueError("too few")
    mean = math.fsum(differences) / n
    return mean, math.sqrt(math.fsum((x - mean) ** 2 for x in differences) / (n - 1) / n)


def _pair(first, second, strict=True):
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if strict and len(first) != len(second):
        raise ValueError("not pairs")
    return first, second


@paired_difference.mistake
def as_if_not_paired(first, second):
    """You joined the two standard errors as for separate samples. Here both models saw the same questions: take the standard error of the differences."""
    first, second = _pair(first, second)
    return float(np.mean(first - second)), math.hypot(_error(first), _error(second))


@paired_difference.mistake
def added_the_errors(first, second):
    """You added the two standard errors. Take one standard error, that of the differences of the pairs."""
    first, second = _pair(first, second)
    return float(np.mean(first - second)), _error(first) + _error(second)


@paired_difference.mistake
def turned_round(first, second):
    """Your difference has the wrong sign: it says how much larger the mean of first is, so second is subtracted."""
    first, second = _pair(first, second)
    return float(np.mean(second - first)), _error(second - first)


@paired_difference.mistake
def sizes_of_differences(first, second):
    """You took the size of each difference without its sign. Then two models that are equally good look different: keep the signs."""
    first, second = _pair(first, second)
    return float(np.mean(abs(first - second))), _error(abs(first - second))


@paired_difference.mistake
def stretched_one_value(first, second):
    """You subtracted arrays of different lengths. NumPy stretches an array of one value to any length without a word: these are not pairs, so raise a ValueError."""
    first, second = _pair(first, second, strict=False)
    return float(np.mean(first - second)), _error(first - second)


@paired_difference.mistake
def booleans_refused(first, second):
    """NumPy does not subtract booleans. Answers may be booleans: make numbers of them first, with dtype=float."""
    if len(first) != len(second):
        raise ValueError("not pairs")
    differences = np.asarray(first) - np.asarray(second)
    return float(differences.mean()), _error(differences)


@paired_difference.mistake
def cut_to_the_shorter(first, second):
    """You left out what had no partner. Different numbers of values are a sign that something is wrong: raise a ValueError."""
    n = min(len(first), len(second))
    first, second = _pair(first[:n], second[:n])
    return float(np.mean(first - second)), _error(first - second)
