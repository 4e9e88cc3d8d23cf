"""The lesson gpt2.packing: packing against running alone, MinHash and bands against brute force, and its checks."""

import itertools
import math
import textwrap

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from groundup.check import grade
from groundup.gpt2 import packing
from groundup.gpt2.model import GPT, GPTConfig
from groundup.gpt2.packing import (
    PRIME,
    candidate_pairs,
    contaminated,
    explicit_attention,
    hash_functions,
    jaccard,
    minhash_signature,
    pack,
    packed_attention,
    packed_loss,
    packed_targets,
    quality_problems,
    shingles,
    word_ngrams,
)
from tests.lessons.edits import edited

DOCUMENTS = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=8), min_size=1, max_size=12)


@settings(max_examples=80, deadline=None)
@given(DOCUMENTS, st.integers(8, 20))
def test_every_document_is_there_once_and_whole(documents, block_size):
    tokens, ids, positions = pack(documents, block_size)
    for number, document in enumerate(documents):
        places = ids == number
        assert tokens[places].tolist() == document
        assert positions[places].tolist() == list(range(len(document)))
        assert places.any(dim=1).sum() == 1
    empty = ids < 0
    assert (~empty).sum() == sum(map(len, documents))
    assert not tokens[empty].any() and not positions[empty].any()
    fewest = math.ceil(sum(map(len, documents)) / block_size)
    assert fewest <= len(tokens) <= 11 / 9 * len(documents) + 1
    assert (packed_targets(tokens, ids) >= 0).sum() == sum(len(document) - 1 for document in documents)


@settings(max_examples=10, deadline=None)
@given(DOCUMENTS, st.booleans())
def test_packed_equals_alone(documents, fused):
    documents = [*documents, [1, 2, 3]]
    torch.manual_seed(0)
    model = GPT(GPTConfig(11, 10, 2, 2, 8)).double()
    attention = packed_attention if fused else explicit_attention
    loss = packed_loss(model, *pack(documents, 11), attention)
    ours = torch.autograd.grad(loss, list(model.parameters()))
    total, count = 0.0, sum(len(document) - 1 for document in documents)
    for document in documents:
        if len(document) > 1:
            idx = torch.tensor([document])
            total += F.cross_entropy(model(idx[:, :-1])[0], idx[0, 1:], reduction="sum")
    alone = torch.autograd.grad(total / count, list(model.parameters()))
    assert abs(loss.item() - total.item() / count) < 1e-12
    assert max((a - b).abs().max().item() for a, b in zip(ours, alone, strict=True)) < 1e-12


def test_a_neighbour_changes_nothing():
    torch.manual_seed(0)
    model = GPT(GPTConfig(12, 10, 2, 2, 8)).double()
    one, other = pack([[1, 2, 3, 4, 5], [6, 7, 8]], 12), pack([[5, 5, 1, 9, 0], [6, 7, 8]], 12)
    logits = [packing.packed_logits(model, *packed) for packed in (one, other)]
    assert torch.equal(logits[0][:, 5:8], logits[1][:, 5:8])
    assert not torch.equal(logits[0][:, :5], logits[1][:, :5])


def test_the_estimate_is_unbiased_and_its_error_as_promised():
    k, rng = 4096, np.random.default_rng(0)
    functions = hash_functions(k, seed=1)
    for shared in (5, 40, 90):
        items = rng.integers(PRIME, size=100)
        first, second = items[: (100 + shared) // 2], items[(100 - shared) // 2 :]
        truth = jaccard(np.unique(first), np.unique(second))
        same = minhash_signature(first, *functions) == minhash_signature(second, *functions)
        assert abs(same.mean() - truth) < 5 * math.sqrt(truth * (1 - truth) / k)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 8), st.integers(1, 4), st.integers(1, 3), st.integers(0, 99))
def test_candidates_equal_brute_force(n, bands, rows, seed):
    signatures = np.random.default_rng(seed).integers(3, size=(n, bands * rows))
    cut = signatures.reshape(n, bands, rows)
    wanted = {(i, j) for i, j in itertools.combinations(range(n), 2) if (cut[i] == cut[j]).all(axis=1).any()}
    assert candidate_pairs(signatures, bands) == wanted


def test_words_and_rules():
    assert word_ngrams("To be, or NOT to be!", 3) == {"to be or", "be or not", "or not to", "not to be"}
    assert len(shingles("Yes.")) == 1 and len(shingles("one two three four")) == 2
    good = "The king and the queen have to be with all of that company before the evening comes. " * 5
    assert quality_problems(good) == []
    assert quality_problems("- " + good.replace(". ", ".\n- ")) == ["few lines with a bullet"]
    assert quality_problems(good.replace(". ", " ...\n")) == ["few lines end in dots"]
    assert "50 to 100,000 words" in quality_problems("Too short.")


def test_contaminated_by_whole_words_within_one_document():
    documents = ["The KING, and the queen!", "of all of France"]
    examples = ["so: the king and the end", "the queen of all", "breaking and the", "king and", "of all"]
    assert contaminated(examples, iter(documents), 3) == [True, False, False, False, False]
    assert contaminated(examples, iter(documents), 2) == [True, True, True, True, True]
    assert contaminated([], iter(documents)) == [] and contaminated(examples, []) == [False] * 5
    thirteen = "a b c d e f g h i j k l m"
    assert contaminated([thirteen, thirteen[2:]], [thirteen + " n"]) == [True, False]


# Wrong answers that were found by attacking the grader: none may pass.
WRONG = {
    "pack": [
        # positions from the place in the row, where only one document lies in it
        """
        def pack(documents, block_size):
            tokens, ids, positions = kept(documents, block_size)
            return tokens, ids, positions.int()
        """,
        # the documents change
        """
        def pack(documents, block_size):
            documents.sort(key=len, reverse=True)
            return kept(documents, block_size)
        """,
        # the number of a document is that of the first equal one
        """
        def pack(documents, block_size):
            tokens, ids, positions = kept(documents, block_size)
            for number in reversed(range(len(documents))):
                ids[ids == number] = documents.index(documents[number])
            return tokens, ids, positions
        """,
        # token 0 taken for an empty place
        """
        def pack(documents, block_size):
            tokens, ids, positions = kept(documents, block_size)
            return tokens, ids.masked_fill(tokens == 0, -1), positions
        """,
        # tokens of 8 bits
        """
        def pack(documents, block_size):
            tokens, ids, positions = kept(documents, block_size)
            return tokens.to(torch.uint8).long(), ids, positions
        """,
        # one row too many
        """
        def pack(documents, block_size):
            return tuple(F.pad(part, (0, 0, 0, 1)) for part in kept(documents, block_size))
        """,
    ],
    "block_diagonal_mask": [
        # documents found by where the id changes
        """
        def block_diagonal_mask(ids):
            new = F.pad((ids[..., 1:] != ids[..., :-1]).long(), (1, 0)).cumsum(-1)
            return (new[..., :, None] == new[..., None, :]).tril()
        """,
        # ids of few bits
        """
        def block_diagonal_mask(ids):
            return kept(ids.float())
        """,
        """
        def block_diagonal_mask(ids):
            return kept(ids.to(torch.int32))
        """,
        # an axis for the heads
        """
        def block_diagonal_mask(ids):
            return kept(ids)[..., None, :, :]
        """,
        # the first row's mask for all
        """
        def block_diagonal_mask(ids):
            mask = kept(ids)
            return mask[:1].expand_as(mask) if ids.dim() > 1 else mask
        """,
    ],
    "minhash_signature": [
        # in int32 the products overflow
        """
        def minhash_signature(items, a, b):
            with np.errstate(over="ignore"):
                return kept(items.astype(np.int32), a.astype(np.int32), b.astype(np.int32)).astype(np.int64)
        """,
        # in floats they are rounded
        """
        def minhash_signature(items, a, b):
            return ((a[:, None] * items.astype(float) + b[:, None]) % PRIME).min(axis=1).astype(np.int64)
        """,
        """
        def minhash_signature(items, a, b):
            items.sort()
            return kept(items, a, b)
        """,
    ],
    "candidate_pairs": [
        # all pairs are compared
        """
        def candidate_pairs(signatures, bands):
            cut = signatures.reshape(len(signatures), bands, -1)
            pairs = set()
            for j in range(len(cut)):
                for i in range(j):
                    if any(all(x == y for x, y in zip(p, q)) for p, q in zip(cut[i], cut[j])):
                        pairs.add((i, j))
            return pairs
        """,
        # both ways round
        """
        def candidate_pairs(signatures, bands):
            pairs = kept(signatures, bands)
            return pairs | {(j, i) for i, j in pairs}
        """,
        # the last band is forgotten
        """
        def candidate_pairs(signatures, bands):
            r = signatures.shape[1] // bands
            return kept(signatures[:, :-r], bands - 1) if bands > 1 else kept(signatures, 1)
        """,
        """
        def candidate_pairs(signatures, bands):
            return sorted(kept(signatures, bands))
        """,
    ],
    "packed_attention": [
        # a large number instead of minus infinity is right; a small one leaks
        """
        def packed_attention(q, k, v, ids):
            mask = (~block_diagonal_mask(ids))[:, None].to(q.dtype) * -5.0
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        """,
        # in float32 whatever the dtype
        """
        def packed_attention(q, k, v, ids):
            return kept(q.float(), k.float(), v.float(), ids).to(q.dtype)
        """,
        """
        def packed_attention(q, k, v, ids):
            out = kept(q, k, v, ids)
            return out if out.dtype == torch.float64 else out.float()
        """,
        # not fused at all
        """
        def packed_attention(q, k, v, ids):
            return explicit_attention(q, k, v, ids)
        """,
        # no gradient
        """
        def packed_attention(q, k, v, ids):
            with torch.no_grad():
                return kept(q, k, v, ids)
        """,
        """
        def packed_attention(q, k, v, ids):
            return kept(q, k, v.detach(), ids)
        """,
        # the axis of the heads at the wrong place
        """
        def packed_attention(q, k, v, ids):
            mask = block_diagonal_mask(ids)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask if len(mask) == q.shape[1] else mask[:, None])
        """,
    ],
}


@pytest.mark.parametrize(("name", "source"), [(name, source) for name in WRONG for source in WRONG[name]])
def test_wrong_answers_fail(name, source):
    learners = {"np": np, "itertools": itertools, **vars(packing), "kept": getattr(packing, name)}
    exec(textwrap.dedent(source), learners)
    result = grade(f"gpt2.packing.{name}", learners[name], seed=1)
    assert result.status in ("failed", "error", "timeout")


# Right answers that are written differently: all must pass.
RIGHT = {
    "pack": """
        def pack(documents, block_size):
            if any(len(d) > block_size for d in documents):
                raise ValueError("too long")
            rows = []
            for k in np.argsort([-len(d) for d in documents], kind="stable").tolist():
                for row in rows:
                    if sum(len(documents[i]) for i in row) + len(documents[k]) <= block_size:
                        row.append(k)
                        break
                else:
                    rows.append([k])
            lines = [[], [], []]
            for row in rows:
                cells = [(t, k, p) for k in row for p, t in enumerate(documents[k])]
                cells += [(0, -1, 0)] * (block_size - len(cells))
                for line, column in zip(lines, zip(*cells)):
                    line.append(list(column))
            return tuple(torch.tensor(x, dtype=torch.long).reshape(len(rows), block_size) for x in lines)
        """,
    "block_diagonal_mask": """
        def block_diagonal_mask(document_ids):
            at = torch.arange(document_ids.shape[-1], device=document_ids.device)
            return (document_ids[..., None] == document_ids.unsqueeze(-2)) & (at[:, None] >= at)
        """,
    "minhash_signature": """
        def minhash_signature(items, a, b):
            least = np.full(len(a), PRIME)
            for x in items:
                least = np.minimum(least, (a * x + b) % PRIME)
            return least
        """,
    "candidate_pairs": """
        def candidate_pairs(signatures, bands):
            r, pairs = signatures.shape[1] // bands, set()
            for band in range(bands):
                buckets = {}
                for i, row in enumerate(signatures.tolist()):
                    buckets.setdefault(tuple(row[band * r : band * r + r]), []).append(i)
                for members in buckets.values():
                    pairs.update(itertools.combinations(members, 2))
            return pairs
        """,
    "packed_attention by rows": """
        def packed_attention(q, k, v, document_ids):
            out = torch.zeros_like(q)
            for b, ids in enumerate(document_ids):
                out[b] = F.scaled_dot_product_attention(q[b], k[b], v[b], attn_mask=block_diagonal_mask(ids))
            return out
        """,
    "packed_attention": """
        def packed_attention(q, k, v, document_ids):
            mask = torch.zeros(document_ids.shape[0], 1, q.shape[2], q.shape[2], dtype=q.dtype)
            mask.masked_fill_(~block_diagonal_mask(document_ids)[:, None], -torch.inf)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        """,
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_answers_pass(name):
    learners = {"np": np, "itertools": itertools, **vars(packing)}
    exec(textwrap.dedent(RIGHT[name]), learners)
    name = name.split()[0]
    for seed in range(2):
        result = grade(f"gpt2.packing.{name}", learners[name], seed=seed)
        assert result.passed, result.message


BANDS = "    for band in np.split(signatures, bands, axis=1):\n"
# A learner's slip, as an edit of the course's version, and what the reply must say or the mistake that it must name.
SLIPS = [
    ("pack", "-lengths[k]", "lengths[k]", "shortest_first"),
    ("pack", "torch.arange(lengths[number])", "torch.arange(start, stop)", "positions_run_on"),
    ("pack", "room[row] >= lengths[number]", "room[row] > lengths[number]", "never_quite_full"),
    ("block_diagonal_mask", ".tril()", "", "saw_the_future"),
    ("block_diagonal_mask", "==", ">=", "may_look_back"),
    ("minhash_signature", ".min(axis=1)", ".min(axis=0)", "over_the_functions"),
    ("minhash_signature", " + b[:, None]", "", "forgot_the_offset"),
    ("candidate_pairs", "return pairs", "pass", "NoneType"),
    (
        "candidate_pairs",
        f"{BANDS}        buckets = {{}}\n",
        f"    buckets = {{}}\n{BANDS}",
        "one_dict_for_all_bands",
    ),
    ("packed_attention", "[:, None]", "", "masks_of_other_rows"),
    ("packed_attention", "[:, None]", "[:, None].to(q.dtype)", "added_ones_and_zeros"),
]


@pytest.mark.parametrize("slip", SLIPS)
def test_reply_can_be_read(slip):
    name, old, new, said = slip
    result = grade(f"gpt2.packing.{name}", edited(packing, name, (old, new)), seed=0)
    assert result.status in ("failed", "error")
    assert said in result.message or said in (result.mistake or ""), (result.mistake, result.message)
