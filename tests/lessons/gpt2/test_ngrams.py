"""The lesson gpt2.ngrams: its functions against plain loops and torch, and its checks."""

import inspect
import textwrap
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from groundup.check import grade
from groundup.gpt2 import ngrams
from groundup.gpt2.ngrams import (
    BigramModel,
    CharTokenizer,
    bits_per_token,
    count_ngrams,
    held_out_bits,
    ngram_log_probs,
    perplexity,
    smoothed,
)

tokens = st.lists(st.integers(0, 3), max_size=30)
seeds = st.integers(0, 2**32 - 1)


@given(st.text(min_size=1))
def test_texts_come_back(text):
    tokenizer = CharTokenizer(text)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert sorted(set(ids)) == list(range(tokenizer.vocab_size))
    assert list(tokenizer.characters) == sorted(set(text))


@given(tokens, st.integers(1, 4))
def test_counts_equal_a_counter(ids, n):
    counts = count_ngrams(ids, n, 4)
    wanted = Counter(tuple(ids[k : k + n]) for k in range(len(ids) - n + 1))
    assert counts.shape == (4,) * n and counts.dtype == np.int64
    assert counts.sum() == wanted.total() and all(counts[gram] == wanted[gram] for gram in wanted)


@given(tokens, st.integers(1, 3), st.floats(1e-3, 1e3))
def test_each_context_is_a_distribution(ids, n, alpha):
    probabilities = smoothed(count_ngrams(ids, n, 4), alpha)
    assert (probabilities > 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, rtol=1e-12)


def test_log_probs_bits_and_perplexity():
    rng = np.random.default_rng(0)
    ids = rng.integers(4, size=50)
    table = smoothed(count_ngrams(ids, 3, 4), 0.5)
    log_probs = ngram_log_probs(table, ids)
    wanted = [np.log(table[a, b, c]) for a, b, c in zip(ids, ids[1:], ids[2:], strict=False)]
    np.testing.assert_allclose(log_probs, wanted, rtol=1e-12)
    loss = -float(np.mean(wanted))
    assert bits_per_token(log_probs) == pytest.approx(loss / np.log(2))
    assert perplexity(log_probs) == pytest.approx(np.exp(loss))
    assert perplexity(np.log(np.full(9, 1 / 16))) == pytest.approx(16)
    assert len(ngram_log_probs(smoothed(count_ngrams(ids, 1, 4), 1), ids)) == 50


class LooksBack(nn.Module):
    """Logits from all tokens of the window so far, disturbed by dropout in training mode."""

    def __init__(self, vocab_size, block_size):
        super().__init__()
        self.table = nn.Embedding(vocab_size, vocab_size, dtype=torch.float64)
        self.dropout, self.block_size = nn.Dropout(0.5), block_size

    def forward(self, idx):
        assert idx.shape[1] <= self.block_size and not torch.is_grad_enabled()
        return self.dropout(self.table(idx).cumsum(dim=1))


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 60), st.integers(1, 20), st.integers(1, 7), st.booleans(), seeds)
def test_held_out_bits_equals_single_windows(length, block_size, batch_size, training, seed):
    torch.manual_seed(seed)
    model, ids = LooksBack(5, block_size).train(training), torch.randint(5, (length,))
    bits = held_out_bits(model, ids, block_size, batch_size)
    assert model.training is training and model.dropout.training is training
    losses = []
    with torch.no_grad():
        for start in range(0, length - 1, block_size):
            window = ids[start : start + block_size + 1]
            logits = model.table(window[:-1]).cumsum(dim=0)
            losses.append(F.cross_entropy(logits, window[1:], reduction="none"))
    losses = torch.cat(losses)
    assert len(losses) == length - 1
    assert bits == pytest.approx(losses.mean().item() / np.log(2), rel=1e-12)


def test_trained_logits_are_log_counts():
    rng = np.random.default_rng(0)
    ids = rng.choice(5, p=[0.5, 0.2, 0.15, 0.1, 0.05], size=400)
    raised = torch.tensor(count_ngrams(ids, 2, 5) + 1.0)
    model, every = BigramModel(5).double(), torch.arange(5)[None]
    optimizer = torch.optim.LBFGS(
        model.parameters(),
        max_iter=2000,
        tolerance_grad=1e-14,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def loss():
        optimizer.zero_grad()
        loss = -(raised * model(every)[0].log_softmax(dim=-1)).sum() / raised.sum()
        loss.backward()
        return loss

    optimizer.step(loss)
    np.testing.assert_allclose(
        model.logits.detach().softmax(dim=-1).numpy(),
        smoothed(count_ngrams(ids, 2, 5), 1.0),
        atol=1e-6,
    )


def learners(name, source):
    """What a learner's cell makes, with the names that the lesson imports."""
    namespace = {k: v for k, v in vars(ngrams).items() if not k.startswith("__")}
    exec(textwrap.dedent(source), namespace)
    return namespace[name]


# Right answers, written differently.
RIGHT = {
    "CharTokenizer": [
        """
        class CharTokenizer:
            def __init__(self, text):
                self.characters = ""
                for character in sorted(text):
                    if not self.characters.endswith(character):
                        self.characters += character
            @property
            def vocab_size(self):
                return len(self.characters)
            def encode(self, text):
                try:
                    return [self.characters.index(character) for character in text]
                except ValueError:
                    bad = [c for c in text if c not in self.characters]
                    raise ValueError(f"cannot encode {bad[0]}") from None
            def decode(self, ids):
                out = ""
                for k in ids:
                    out += self.characters[k]
                return out
        """,
        """
        class CharTokenizer:
            def __init__(self, text):
                self.characters = "".join(sorted(set(text)))
                self.vocab_size = len(self.characters)
                self.stoi = {c: k for k, c in enumerate(self.characters)}
                self.itos = dict(enumerate(self.characters))
            def encode(self, text):
                for c in text:
                    if c not in self.stoi:
                        raise ValueError(f"{c!r} is not in the vocabulary")
                return [self.stoi[c] for c in text]
            def decode(self, ids):
                return "".join(self.itos[k] for k in ids)
        """,
    ],
    "count_ngrams": [
        """
        def count_ngrams(ids, n, vocab_size):
            counts = np.zeros((vocab_size,) * n, dtype=int)
            for k in range(len(ids) - n + 1):
                counts[tuple(ids[k : k + n])] += 1
            return counts
        """,
        """
        def count_ngrams(ids, n, vocab_size):
            ids = np.asarray(ids).astype(np.int64)
            if len(ids) < n:
                return np.zeros((vocab_size,) * n, dtype=np.int64)
            windows = np.lib.stride_tricks.sliding_window_view(ids, n)
            places = np.ravel_multi_index(tuple(windows.T), (vocab_size,) * n)
            return np.bincount(places, minlength=vocab_size**n).reshape((vocab_size,) * n)
        """,
    ],
    "smoothed": [
        """
        def smoothed(counts, alpha):
            total = counts.sum(axis=-1)[..., None] + alpha * counts.shape[-1]
            return (counts + alpha) / total
        """,
    ],
    "BigramModel": [
        """
        class BigramModel(nn.Module):
            def __init__(self, vocab_size):
                super().__init__()
                self.logits = nn.Parameter(torch.zeros((vocab_size, vocab_size)))
            def forward(self, idx):
                return F.one_hot(idx, len(self.logits)).to(self.logits.dtype) @ self.logits
        """,
        """
        class BigramModel(nn.Module):
            def __init__(self, vocab_size):
                super().__init__()
                self.logits = nn.Parameter(torch.zeros(vocab_size, vocab_size))
            def forward(self, idx):
                return F.embedding(idx, self.logits)
        """,
    ],
    "held_out_bits": [
        # the tokens moved once, single windows collected in lists
        """
        def held_out_bits(model, ids, block_size, batch_size=32):
            ids = ids.to(next(model.parameters()).device)
            was, waiting, total = model.training, [], 0.0
            def run(windows):
                both = torch.stack(windows)
                logits = model(both[:, :-1])
                return F.cross_entropy(logits.transpose(1, 2), both[:, 1:], reduction="sum").item()
            model.eval()
            with torch.inference_mode():
                for start in range(0, len(ids) - 1, block_size):
                    window = ids[start : start + block_size + 1]
                    if len(window) <= block_size:
                        total += run([window])
                        continue
                    waiting.append(window)
                    if len(waiting) == batch_size:
                        total += run(waiting)
                        waiting = []
                if waiting:
                    total += run(waiting)
            if was:
                model.train()
            return total / (len(ids) - 1) / math.log(2)
        """,
        # the loss on the CPU, and targets moved to where the logits are
        *(
            f"""
            @torch.inference_mode()
            def held_out_bits(model, ids, block_size, batch_size=32):
                where, was, total = next(model.parameters()).device, model.training, 0.0
                model.eval()
                full = (len(ids) - 1) // block_size * block_size
                windows = [w[None] for w in [ids[full:]] if len(w) > 1]
                if full:
                    windows += ids.unfold(0, block_size + 1, block_size).split(batch_size)
                for w in windows:
                    logits = model(w[:, :-1].to(where)).log_softmax(dim=-1){cpu}
                    total -= logits.gather(2, w[:, 1:, None]{there}).sum().item()
                model.train(was)
                return total / (len(ids) - 1) * math.log2(math.e)
            """
            for cpu, there in [
                (".cpu()", ".cpu()"),
                ('.to("cpu")', '.to(device="cpu")'),
                ("", ".to(logits.device)"),
            ]
        ),
        # weighted means, log2 of probabilities
        """
        @torch.no_grad()
        def held_out_bits(model, ids, block_size, batch_size=32):
            where, was, bits = next(model.parameters()).device, model.training, []
            model.eval()
            N = len(ids) - 1
            k = 0
            while k < N:
                full = min((N - k) // block_size, batch_size)
                rows, cols = (full, block_size) if full else (1, N - k)
                x = ids[k : k + rows * cols].view(rows, cols).to(where)
                y = ids[k + 1 : k + 1 + rows * cols].view(rows, cols).to(where)
                p = model(x).softmax(dim=-1).gather(2, y[..., None])
                bits.append(-torch.log2(p).flatten())
                k += rows * cols
            model.train(was)
            return torch.cat(bits).mean().item()
        """,
    ],
}


@pytest.mark.parametrize(("name", "source"), [(name, s) for name in RIGHT for s in RIGHT[name]])
def test_right_answers_pass(name, source):
    for seed in range(2):
        result = grade(f"gpt2.ngrams.{name}", learners(name, source), seed=seed)
        assert result.status == "passed", (result.mistake, result.message)


# A learner's slip, as an edit of the course's version, and the mistake or the words of the reply.
SLIPS = [
    ("CharTokenizer", "sorted(set(text))", "dict.fromkeys(text)", "in_order_of_appearance"),
    ("CharTokenizer", "sorted(set(text))", "sorted(text)", "repeats_kept"),
    (
        "CharTokenizer",
        'raise ValueError(f"unknown character {min(unknown)!r}")',
        "pass",
        "raises_a_key_error",
    ),
    ("CharTokenizer", " {min(unknown)!r}", "", "character_not_named"),
    ("CharTokenizer", "for k in ids", "for k in list(ids)[:-1]", "Decode of a list"),
    ("count_ngrams", "np.add.at(counts, rows, 1)", "counts[rows] += 1", "repeats_counted_once"),
    ("count_ngrams", "- n + 1, 0)", "- n, 0)", "last_one_missed"),
    ("count_ngrams", "for k in range(n))", "for k in reversed(range(n)))", "back_to_front"),
    ("count_ngrams", ", dtype=np.int64", "", "counted_in_floats"),
    ("count_ngrams", "return counts", "pass", "None"),
    ("smoothed", ", keepdims=True", "", "sums_in_the_wrong_place"),
    ("smoothed", "axis=-1", "axis=0", "divided_along_the_first_axis"),
    ("smoothed", "axis=-1", "axis=1", "axis"),
    ("smoothed", "raised = counts + alpha", "counts += 1; raised = counts + alpha - 1", "changes its input"),
    ("BigramModel", "self.logits[idx]", "self.logits[:, idx]", "shape"),
    ("BigramModel", "self.logits[idx]", "self.logits.T[idx]", "column_instead_of_row"),
    ("BigramModel", "self.logits[idx]", "self.logits.data[idx]", "slope"),
    (
        "BigramModel",
        "nn.Parameter(torch.zeros(vocab_size, vocab_size))",
        "torch.zeros(vocab_size, vocab_size)",
        "a_plain_tensor",
    ),
    ("BigramModel", "return self.logits[idx]", "pass", "Is a return missing?"),
    ("held_out_bits", ", row[None, whole:]]", "]", "rest_missing_from_the_sum"),
    ("held_out_bits", " / math.log(2)", "", "in_nats"),
    ("held_out_bits", "total / len(inputs)", "total / len(ids)", "divided_by_the_tokens"),
    ("held_out_bits", "model.train(was_training)", "model.train()", "always_back_to_training"),
    ("held_out_bits", "model.train(was_training)", "pass", "left_in_evaluation_mode"),
    ("held_out_bits", "model.eval()", "pass", "measured_in_training_mode"),
    ("held_out_bits", "torch.no_grad()", "torch.autograd.profiler.record_function('')", "gradients_tracked"),
    ("held_out_bits", "split(batch_size)", "split(len(ids))", "all_windows_at_once"),
    ("held_out_bits", "x.to(where)", "x", "tokens_not_moved"),
    ("held_out_bits", "y.flatten().to(where)", "y.flatten()", "tokens_not_moved"),
    ("held_out_bits", "next(model.parameters()).device", '"cpu"', "tokens_not_moved"),
    ("held_out_bits", ".item()", "", "a torch tensor"),
]


@pytest.mark.parametrize("slip", SLIPS)
def test_reply_names_the_slip(slip):
    name, old, new, said = slip
    source = inspect.getsource(getattr(ngrams, name))
    assert old in source
    result = grade(f"gpt2.ngrams.{name}", learners(name, source.replace(old, new)), seed=0)
    assert result.status in ("failed", "error")
    assert said in result.message or said == result.mistake, (result.mistake, result.message)


# Wrong answers that are right for easy inputs.
WRONG = {
    "CharTokenizer": [
        # a vocabulary shared by all tokenizers
        """
        class CharTokenizer:
            kept = None
            def __init__(self, text):
                CharTokenizer.kept = "".join(sorted(set(text)))
                self.vocab_size = len(self.characters)
            @property
            def characters(self):
                return CharTokenizer.kept
            def encode(self, text):
                if bad := set(text) - set(self.characters):
                    raise ValueError(repr(min(bad)))
                return [self.characters.index(c) for c in text]
            def decode(self, ids):
                return "".join(self.characters[k] for k in ids)
        """,
        *(
            f"""
            class CharTokenizer:
                def __init__(self, text):
                    self.characters = "".join(sorted(set(text)))
                    self.vocab_size = len(self.characters)
                    {holder}.ids = {{c: k for k, c in enumerate(self.characters)}}
                def encode(self, text):
                    bad = [c for c in {checked} if c not in self.ids]
                    {learn}
                    if bad:
                        raise ValueError(bad[0])
                    return {ids}
                def decode(self, ids):
                    return "".join(self.characters[k] for k in ids)
            """
            for holder, checked, learn, ids in [
                ("CharTokenizer", "text", "", "[self.ids[c] for c in text]"),  # the dictionary is shared
                ("self", "text", "self.ids |= dict.fromkeys(bad, 0)", "[self.ids[c] for c in text]"),
                ("self", "text[:1] + text[-1:]", "", "[self.ids.get(c, 0) for c in text]"),
                ("self", "text", "", "tuple(self.ids[c] for c in text)"),
                ("self", "text", "", "list(np.array([self.ids[c] for c in text], dtype=np.int64))"),
            ]
        ),
        # decode looks at its ids twice
        """
        class CharTokenizer:
            def __init__(self, text):
                self.characters = "".join(sorted(set(text)))
                self.vocab_size = len(self.characters)
            def encode(self, text):
                if bad := set(text) - set(self.characters):
                    raise ValueError(repr(min(bad)))
                return [self.characters.index(c) for c in text]
            def decode(self, ids):
                if any(k < 0 for k in ids):
                    raise ValueError("below 0")
                return "".join(self.characters[k] for k in ids)
        """,
    ],
    "count_ngrams": [
        # pairs only
        """
        def count_ngrams(ids, n, vocab_size):
            counts = np.zeros((vocab_size,) * n, dtype=np.int64)
            for a, b in zip(ids, ids[1:]):
                counts[a, b] += 1
            return counts
        """,
        # counts that overflow; tokens that overflow
        *(
            f"""
            def count_ngrams(ids, n, vocab_size):
                ids = np.asarray(ids, dtype=np.{token})
                places = max(len(ids) - n + 1, 0)
                counts = np.zeros((vocab_size,) * n, dtype=np.{number})
                np.add.at(counts, tuple(ids[k : k + places] for k in range(n)), 1)
                return counts.astype(np.int64)
            """
            for token, number in [("int64", "uint16"), ("int64", "int16"), ("int16", "int64")]
        ),
        # the whole text once for each n-gram that could be
        """
        def count_ngrams(ids, n, vocab_size):
            ids, counts = np.asarray(ids), np.zeros((vocab_size,) * n, dtype=np.int64)
            places = max(len(ids) - n + 1, 0)
            for gram in np.ndindex(counts.shape):
                counts[gram] = np.all([ids[k : k + places] == gram[k] for k in range(n)], axis=0).sum()
            return counts
        """,
        # quadratic work
        """
        def count_ngrams(ids, n, vocab_size):
            ids, counts = list(map(int, ids)), np.zeros((vocab_size,) * n, dtype=np.int64)
            grams = [tuple(ids[k : k + n]) for k in range(len(ids) - n + 1)]
            for gram in grams:
                counts[gram] = grams.count(gram)
            return counts
        """,
    ],
    "smoothed": [
        """
        def smoothed(counts, alpha):
            raised = counts + min(alpha, 2)
            return raised / raised.sum(axis=-1, keepdims=True)
        """,
    ],
    "BigramModel": [
        # starts at random, until it is first called
        """
        class BigramModel(nn.Module):
            def __init__(self, vocab_size):
                super().__init__()
                self.logits, self.called = nn.Parameter(torch.randn(vocab_size, vocab_size)), False
            def forward(self, idx):
                if not self.called:
                    self.logits.data.zero_()
                self.called = True
                return self.logits[idx]
        """,
        # keeps the table of the first call
        """
        class BigramModel(nn.Module):
            def __init__(self, vocab_size):
                super().__init__()
                self.logits, self.kept = nn.Parameter(torch.zeros(vocab_size, vocab_size)), None
            def forward(self, idx):
                if self.kept is None:
                    self.kept = self.logits
                return torch.stack([self.kept[k] for k in idx]) * 1.0 if idx.shape[0] == 1 else self.logits[idx[:1]]
        """,
        # a further parameter that does nothing yet
        """
        class BigramModel(nn.Module):
            def __init__(self, vocab_size):
                super().__init__()
                self.logits = nn.Parameter(torch.zeros(vocab_size, vocab_size))
                self.bias = nn.Parameter(torch.zeros(vocab_size))
            def forward(self, idx):
                return self.logits[idx] + self.bias
        """,
    ],
    "held_out_bits": [
        *(
            f"""
            def held_out_bits(model, ids, block_size, batch_size=32):
                where, was, total = {where}, model.training, 0.0
                before = torch.is_grad_enabled()
                torch.set_grad_enabled(False)
                model.eval()
                {first}
                N, k = len(ids) - 1, 0
                while k < N:
                    full = min((N - k) // block_size, batch_size)
                    rows, cols = (full, block_size) if full else (1, N - k)
                    x = ids[k : k + rows * cols].view(rows, cols).to(where)
                    y = ids[k + 1 : k + 1 + rows * cols].to(where)
                    total += F.cross_entropy(model(x).flatten(0, 1), y, reduction="sum").item()
                    k += rows * cols
                model.train(was)
                torch.set_grad_enabled({after})
                return total / N / math.log(2)
            """
            for where, first, after in [
                ("'cpu'", "", "before"),  # the model may lie elsewhere
                ("next(model.parameters()).device", "", "True"),  # the caller may not have wanted them
                ("next(model.parameters()).device", "model.requires_grad_(False)", "before"),
                ("next(model.parameters()).device", "batch_size = min(batch_size, 8)", "before"),
            ]
        ),
        # one window at a time, whatever the batch size
        """
        @torch.no_grad()
        def held_out_bits(model, ids, block_size, batch_size=32):
            where, was, total = next(model.parameters()).device, model.training, 0.0
            model.eval()
            for k in range(0, len(ids) - 1, block_size):
                w = ids[k : k + block_size + 1].to(where)[None]
                total += F.cross_entropy(model(w[:, :-1]).flatten(0, 1), w[0, 1:], reduction="sum").item()
            model.train(was)
            return total / (len(ids) - 1) / math.log(2)
        """,
        # the short window is filled up with zeros, which are predicted, too
        """
        @torch.no_grad()
        def held_out_bits(model, ids, block_size, batch_size=32):
            where, was, total = next(model.parameters()).device, model.training, 0.0
            model.eval()
            N = len(ids) - 1
            rows = -(-N // block_size)
            filled = torch.cat([ids.to(where), torch.zeros(rows * block_size - N, dtype=torch.int64)])
            x, y = filled[:-1].view(rows, block_size), filled[1:].view(rows, block_size)
            for a, b in zip(x.split(batch_size), y.split(batch_size)):
                total += F.cross_entropy(model(a).flatten(0, 1), b.flatten(), reduction="sum").item()
            model.train(was)
            return total / (rows * block_size) / math.log(2)
        """,
        # freezes the parameters instead of recording nothing
        """
        def held_out_bits(model, ids, block_size, batch_size=32):
            torch.set_grad_enabled(False)
            where, was, total = next(model.parameters()).device, model.training, 0.0
            model.eval()
            N = len(ids) - 1
            k = 0
            while k < N:
                full = min((N - k) // block_size, batch_size)
                rows, cols = (full, block_size) if full else (1, N - k)
                x = ids[k : k + rows * cols].view(rows, cols).to(where)
                y = ids[k + 1 : k + 1 + rows * cols].to(where)
                total += F.cross_entropy(model(x).flatten(0, 1), y, reduction="sum").item()
                k += rows * cols
            model.train(was)
            return total / N / math.log(2)
        """,
    ],
}


@pytest.mark.parametrize(("name", "source"), [(name, s) for name in WRONG for s in WRONG[name]])
def test_wrong_answers_fail(name, source):
    try:
        for seed in range(2):
            result = grade(f"gpt2.ngrams.{name}", learners(name, source), seed=seed)
            assert result.status in ("failed", "error", "timeout"), source
            if result.status == "timeout":
                break
    finally:
        torch.set_grad_enabled(True)
