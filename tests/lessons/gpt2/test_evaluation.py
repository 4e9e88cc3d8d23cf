"""The lesson gpt2.evaluation: scores against each ending alone, error bars against simulation, and its checks."""

import math
import textwrap
import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.check import grade
from groundup.gpt2 import evaluation
from groundup.gpt2.evaluation import (
    bits_of_pieces,
    bits_per_byte,
    held_out_log_probs,
    load_hellaswag,
    make_questions,
    paired_difference,
    score_choices,
    standard_error,
)
from groundup.gpt2.model import GPT, GPTConfig
from groundup.gpt2.ngrams import held_out_bits
from groundup.gpt2.sampling import continuation_log_prob
from tests.lessons.edits import edited


def _gpt(block_size=9):
    torch.manual_seed(1)
    model = GPT(GPTConfig(block_size, vocab_size=5, n_layer=1, n_head=2, n_embd=8, dropout=0.3)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.7)
    return model


def _digits(text):
    return [int(digit) for digit in text]


texts = st.text("01234", min_size=1, max_size=9)


@settings(max_examples=25, deadline=None)
@given(texts, st.lists(texts, min_size=1, max_size=5))
def test_a_batch_of_endings_is_each_ending_alone(context, endings):
    model = _gpt()
    sums = score_choices(model, _digits, context, endings)["sum"]
    for total, ending in zip(sums, endings, strict=True):
        row = torch.tensor([_digits(context + ending)[-10:]])
        expected = continuation_log_prob(model, row, row.shape[1] - len(ending))
        assert total.item() == pytest.approx(expected.item(), rel=1e-9)
    assert model.training


@pytest.mark.parametrize("n", [2, 9, 10, 37, 91])
def test_single_log_probs_add_up_to_held_out_bits(n):
    model, ids = _gpt(), torch.randint(5, (n,), generator=torch.Generator().manual_seed(n))
    found = held_out_log_probs(model, ids, 9, batch_size=3)
    assert found.shape == (n - 1,)
    assert -found.mean() / math.log(2) == pytest.approx(held_out_bits(model, ids, 9), rel=1e-6)
    assert bits_per_byte(found, "x" * (n - 1)) == pytest.approx(bits_of_pieces(found, n - 1)[0])


def test_intervals_hold_the_true_value_as_often_as_they_say():
    rng = np.random.default_rng(0)
    answers = rng.random((2000, 200)) < 0.4
    held = [abs(row.mean() - 0.4) < 1.96 * standard_error(row) for row in answers]
    assert 0.93 < np.mean(held) < 0.97


def test_a_pair_is_less_uncertain_than_two_samples_when_both_find_the_same_things_hard():
    rng = np.random.default_rng(0)
    hard = rng.normal(size=(500, 60))
    first, second = (hard + 0.3 * rng.normal(size=hard.shape) for _ in range(2))
    spread = (first.mean(axis=1) - second.mean(axis=1)).std()
    errors = [paired_difference(a, b)[1] for a, b in zip(first, second, strict=True)]
    assert np.mean(errors) == pytest.approx(spread, rel=0.1)
    assert np.mean(errors) < 0.5 * math.hypot(standard_error(first[0]), standard_error(second[0]))


def test_questions_are_in_the_published_form():
    text = " ".join(f"w{k}" for k in range(200))
    for number, question in enumerate(make_questions(text, 50)):
        assert question["ind"] == number and len(question["endings"]) == 4
        right = question["ctx"] + question["endings"][question["label"]]
        assert right in text and len(question["ctx"]) == 60
        assert all(4 <= len(ending) <= 24 and ending in text for ending in question["endings"])
    assert make_questions(text, 5, seed=1) != make_questions(text, 5)


def test_offline_one_line_says_so(monkeypatch, capsys):
    def refuse(*args, **options):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    assert load_hellaswag(3) == []
    assert capsys.readouterr().out == "HellaSwag is left out: it cannot be fetched\n"


def test_online_the_labels_are_numbers(monkeypatch):
    import datasets

    rows = [{"ctx": "a", "endings": list("bcde"), "label": str(k)} for k in range(4)]
    fetched = datasets.Dataset.from_list(rows)
    monkeypatch.setattr(
        urllib.request, "urlopen", lambda *args, **options: SimpleNamespace(close=lambda: None)
    )
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: fetched)
    loaded = load_hellaswag(3)
    assert [row["label"] for row in loaded] == [0, 1, 2]
    assert loaded[0]["endings"] == [" b", " c", " d", " e"]


# Wrong answers that an attack on the checks came up with; `kept` is the course's version.
WRONG = {
    "bits_per_byte": [
        """
        def bits_per_byte(log_probs, text):
            return float(-np.sum(log_probs) / math.log(2) / len(text.encode("utf-16")))
        """,
        """
        def bits_per_byte(log_probs, text):
            return float(-np.sum(log_probs) / 0.693 / len(text.encode()))
        """,
        """
        def bits_per_byte(log_probs, text):
            with np.errstate(divide="ignore"):
                return float(-np.log2(np.exp(log_probs)).sum() / len(text.encode()))
        """,
    ],
    "ending_log_probs": [
        # each ending by itself: as many questions as endings
        """
        def ending_log_probs(model, encode, context, endings):
            rows = [kept(model, encode, context, [ending])[0] for ending in endings]
            return pad_sequence(rows, batch_first=True)
        """,
        # the padding is told apart by its token
        """
        def ending_log_probs(model, encode, context, endings):
            found = kept(model, encode, context, endings)
            tails = [torch.tensor(encode(ending)) for ending in endings]
            return found * (pad_sequence(tails, batch_first=True) != 0)
        """,
        # only the top-level module's mode comes back
        """
        def ending_log_probs(model, encode, context, endings):
            training = model.training
            model.eval()
            found = kept(model, encode, context, endings)
            model.train(training)
            return found
        """,
        # the tokens stay on the CPU
        """
        def ending_log_probs(model, encode, context, endings):
            if next(model.parameters()).device.type != "cpu":
                model(torch.zeros(2, 3, dtype=torch.long))
            return kept(model, encode, context, endings)
        """,
        # filled up with nan
        """
        def ending_log_probs(model, encode, context, endings):
            found = kept(model, encode, context, endings)
            for row, ending in zip(found, endings):
                row[len(encode(ending)):] = torch.nan
            return found
        """,
        # two equal endings become one
        """
        def ending_log_probs(model, encode, context, endings):
            found = dict(zip(endings, kept(model, encode, context, endings)))
            return torch.stack(list(found.values()))
        """,
        # padded with what an nn.Embedding refuses
        """
        def ending_log_probs(model, encode, context, endings):
            prefix, tails = encode(context), [encode(ending) for ending in endings]
            rows = [torch.tensor((prefix + tail)[-model.config.block_size - 1 :]) for tail in tails]
            idx = pad_sequence(rows, batch_first=True, padding_value=-1).to(next(model.parameters()).device)
            with evaluating(model):
                log_probs = torch.log_softmax(model(idx[:, :-1]), dim=-1)
            picked = log_probs.gather(-1, idx[:, 1:, None].clamp(min=0))[:, :, 0]
            found = [p[len(r) - 1 - len(t) : len(r) - 1] for p, r, t in zip(picked, rows, tails)]
            return pad_sequence(found, batch_first=True)
        """,
        # always float32
        """
        def ending_log_probs(model, encode, context, endings):
            return kept(model, encode, context, endings).float()
        """,
        # the caller's endings in another order afterwards
        """
        def ending_log_probs(model, encode, context, endings):
            found = kept(model, encode, context, endings)
            endings.sort(key=len)
            return found
        """,
        # the endings without their spaces
        """
        def ending_log_probs(model, encode, context, endings):
            return kept(model, encode, context, [ending.strip() for ending in endings])
        """,
    ],
    "score_choices": [
        # means of every row, then the sums from them
        """
        def score_choices(model, encode, context, endings):
            found = kept(model, encode, context, endings)
            return found | {"byte": found["token"]}
        """,
        """
        def score_choices(model, encode, context, endings):
            return {rule: scores.tolist() for rule, scores in kept(model, encode, context, endings).items()}
        """,
        """
        def score_choices(model, encode, context, endings):
            return {rule: -scores for rule, scores in kept(model, encode, context, endings).items()}
        """,
        """
        def score_choices(model, encode, context, endings):
            found = kept(model, encode, context, endings)
            n = [len(ending.strip().encode()) for ending in endings]
            return found | {"byte": found["sum"] / torch.tensor(n)}
        """,
    ],
    "standard_error": [
        """
        def standard_error(values):
            p = np.mean(values)
            return kept(values) if len(values) < 2 else float(np.sqrt(p * (1 - p) / (len(values) - 1)))
        """,
        """
        def standard_error(values):
            if len(values) < 3:
                raise ValueError(len(values))
            return kept(values)
        """,
    ],
    "paired_difference": [
        """
        def paired_difference(first, second):
            mean, error = kept(first, second)
            return abs(mean), error
        """,
        """
        def paired_difference(first, second):
            mean, error = kept(first, second)
            a, b = standard_error(first), standard_error(second)
            return mean, min(error, math.hypot(a, b))
        """,
    ],
}


@pytest.mark.parametrize(("name", "source"), [(name, source) for name in WRONG for source in WRONG[name]])
def test_wrong_answers_fail(name, source):
    learners = {"np": np, **vars(evaluation), "kept": getattr(evaluation, name)}
    exec(textwrap.dedent(source), learners)
    for seed in range(2):
        assert grade(f"gpt2.evaluation.{name}", learners[name], seed=seed).status in ("failed", "error")


# Right answers that are written differently: all must pass.
RIGHT = {
    "bits_per_byte": """
        def bits_per_byte(log_probs, text):
            return sum(-math.log2(math.e) * float(x) for x in log_probs) / len(bytes(text, "utf8"))
        """,
    "ending_log_probs": """
        def ending_log_probs(model, encode, context, endings):
            where = next(model.parameters()).device
            most, before = model.config.block_size, encode(context)
            after = [encode(ending) for ending in endings]
            longest = max(map(len, after))
            rows = [(before + tail)[-most - 1:] for tail in after]
            width = max(map(len, rows)) - 1
            x = torch.full((len(rows), width), 1, device=where)
            for k, row in enumerate(rows):
                x[k, : len(row) - 1] = torch.tensor(row[:-1], device=where)
            with evaluating(model):
                logits = model(x)
            out = logits.new_zeros(len(rows), longest)
            for k, (row, tail) in enumerate(zip(rows, after)):
                z = logits[k, len(row) - 1 - len(tail) : len(row) - 1]
                out[k, : len(tail)] = z[range(len(tail)), tail] - z.logsumexp(dim=-1)
            return out
        """,
    "score_choices": """
        def score_choices(model, encode, context, endings):
            rows, found = ending_log_probs(model, encode, context, endings), {"sum": [], "token": [], "byte": []}
            for row, ending in zip(rows, endings):
                n = len(encode(ending))
                found["sum"].append(row[:n].sum())
                found["token"].append(row[:n].mean())
                found["byte"].append(row[:n].sum() / len(bytes(ending, "utf-8")))
            return {rule: torch.stack(scores) for rule, scores in found.items()}
        """,
    "standard_error": """
        def standard_error(values):
            n = len(values)
            if n < 2:
                raise ValueError(f"only {n}")
            mean = sum(values) / n
            return (sum((x - mean) ** 2 for x in values) / n / (n - 1)) ** 0.5
        """,
    "paired_difference": """
        def paired_difference(first, second):
            differences = [float(a) - float(b) for a, b in zip(first, second, strict=True)]
            return sum(differences) / max(len(differences), 1), standard_error(differences)
        """,
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_answers_pass(name):
    learners = {"np": np, **vars(evaluation)}
    exec(textwrap.dedent(RIGHT[name]), learners)
    for seed in range(3):
        result = grade(f"gpt2.evaluation.{name}", learners[name], seed=seed)
        assert result.passed, result.message


# A learner's slip, as an edit of the course's version, and the mistake that it must name or what the reply must say.
SLIPS = [
    ("bits_per_byte", 'text.encode("utf-8")', "text", "divided_by_characters"),
    ("ending_log_probs", "with evaluating(model)", "with torch.no_grad()", "scored_in_training_mode"),
    ("ending_log_probs", "block_size + 1", "block_size", "cropped_one_token_too_many"),
    ("ending_log_probs", ".to(where)", "", "device"),
    ("ending_log_probs", "pad_sequence(rows, batch_first=True)", "pad_sequence(rows, True, -1)", "no token"),
    ("score_choices", "len(encode(ending)) for", "len(ending) for", "characters_for_tokens"),
    ("score_choices", "ending.encode", "ending.strip().encode", "bytes_without_the_ends"),
    ("standard_error", "ddof=1", "ddof=0", "divided_by_n"),
    ("standard_error", "len(values) < 2", "len(values) < 1", "should raise ValueError"),
    ("standard_error", "len(values) < 2", "False", "accepted_too_few"),
    ("paired_difference", "first - second", "second - first", "turned_round"),
    ("paired_difference", "return float", "float", "None"),
]


@pytest.mark.parametrize("slip", SLIPS)
def test_reply_can_be_read(slip):
    name, old, new, said = slip
    result = grade(f"gpt2.evaluation.{name}", edited(evaluation, name, (old, new)), seed=0)
    assert result.status in ("failed", "error")
    assert said in result.message or said in (result.mistake or ""), (result.mistake, result.message)
