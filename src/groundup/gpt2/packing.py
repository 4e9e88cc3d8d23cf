"""Packing and cleaning the data.

Generated from chapters/02_gpt2/13_packing.md by `make sync`: edit that file, not this one.
"""

import re
import zlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from groundup.gpt2.attention import attend, merge_heads, split_heads

__all__ = [
    "PRIME",
    "block_diagonal_mask",
    "candidate_pairs",
    "contaminated",
    "explicit_attention",
    "hash_functions",
    "jaccard",
    "minhash_signature",
    "pack",
    "packed_attention",
    "packed_logits",
    "packed_loss",
    "packed_targets",
    "quality_problems",
    "shingles",
    "word_ngrams",
]


def pack(
    documents: Sequence[Sequence[int]], block_size: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Documents in as few rows as first-fit decreasing (Johnson, 1973) needs.

    Returns tokens, document ids and positions, int64, each (rows, block_size); an
    empty place has token 0, document -1, position 0. No document is cut: ValueError if
    one is longer than block_size.
    """
    lengths = [len(document) for document in documents]
    if max(lengths, default=0) > block_size:
        raise ValueError(f"a document of {max(lengths)} tokens in rows of {block_size}")
    rows, room = [], []
    for number in sorted(range(len(documents)), key=lambda k: -lengths[k]):
        fitting = (row for row in range(len(rows)) if room[row] >= lengths[number])
        row = next(fitting, None)
        if row is None:
            row = len(rows)
            rows.append([])
            room.append(block_size)
        rows[row].append(number)
        room[row] -= lengths[number]
    tokens = torch.zeros(len(rows), block_size, dtype=torch.long)
    document_ids = torch.full_like(tokens, -1)
    positions = torch.zeros_like(tokens)
    for row, numbers in enumerate(rows):
        start = 0
        for number in numbers:
            stop = start + lengths[number]
            tokens[row, start:stop] = torch.tensor(documents[number])
            document_ids[row, start:stop] = number
            positions[row, start:stop] = torch.arange(lengths[number])
            start = stop
    return tokens, document_ids, positions


def packed_targets(tokens: torch.Tensor, document_ids: torch.Tensor) -> torch.Tensor:
    """The next token of the same document, or -100 where there is none: (B, T)."""
    targets = torch.full_like(tokens, -100)
    inside = (document_ids[:, 1:] == document_ids[:, :-1]) & (document_ids[:, 1:] >= 0)
    targets[:, :-1][inside] = tokens[:, 1:][inside]
    return targets


def block_diagonal_mask(document_ids: torch.Tensor) -> torch.Tensor:
    """True where attending is allowed: not later, and in the same document.

    document_ids: (..., T), int64 → bool, (..., T, T), rows attend to columns.
    """
    same = document_ids[..., :, None] == document_ids[..., None, :]
    return same.tril()


def explicit_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, document_ids: torch.Tensor
) -> torch.Tensor:
    """Attention within documents; q, k, v: (B, n_head, T, d), document_ids: (B, T)."""
    return attend(q, k, v, block_diagonal_mask(document_ids)[:, None])[0]


def packed_logits(
    model: nn.Module,
    tokens: torch.Tensor,
    document_ids: torch.Tensor,
    positions: torch.Tensor,
    attention: Callable = explicit_attention,
) -> torch.Tensor:
    """Logits of a GPT, (B, T, V), for packed rows; all inputs (B, T). No dropout."""
    parts = model.transformer
    x = parts.wte(tokens) + parts.wpe(positions)
    for block in parts.h:
        qkv = block.attn.c_attn(block.ln_1(x)).chunk(3, dim=-1)
        q, k, v = (split_heads(part, block.attn.n_head) for part in qkv)
        heads = attention(q, k, v, document_ids)
        x = x + block.attn.c_proj(merge_heads(heads))
        x = x + block.mlp(block.ln_2(x))
    return model.lm_head(parts.ln_f(x))


def packed_loss(
    model: nn.Module,
    tokens: torch.Tensor,
    document_ids: torch.Tensor,
    positions: torch.Tensor,
    attention: Callable = explicit_attention,
) -> torch.Tensor:
    """Mean cross-entropy over all targets within documents, nats per token."""
    logits = packed_logits(model, tokens, document_ids, positions, attention)
    targets = packed_targets(tokens, document_ids)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


PRIME = 2**31 - 1


def word_ngrams(text: str, n: int) -> set[str]:
    """All runs of n words; case and punctuation do not count."""
    words = re.findall(r"[a-z0-9']+", text.lower())
    return {" ".join(words[k : k + n]) for k in range(len(words) - n + 1)}


def shingles(text: str, n: int = 3) -> np.ndarray:
    """The text's n-grams of words as numbers below PRIME: int64, sorted, each once.

    A text of fewer than n words is one n-gram.
    """
    grams = word_ngrams(text, n) or {text.lower()}
    return np.unique([zlib.crc32(gram.encode()) % PRIME for gram in grams])


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Shared elements over all elements of two sets, given as arrays."""
    shared = len(np.intersect1d(a, b))
    return shared / (len(a) + len(b) - shared)


def hash_functions(k: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The a and b of k random functions x → (a x + b) mod PRIME; int64, (k,)."""
    rng = np.random.default_rng(seed)
    return rng.integers(1, PRIME, size=k), rng.integers(PRIME, size=k)


def minhash_signature(items: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The smallest (a x + b) mod PRIME over the items, for each a and b (Broder, 1997).

    items: (n,), n >= 1; a, b: (k,); all int64, below PRIME. Returns int64 (k,).
    """
    values = (a[:, None] * items + b[:, None]) % PRIME
    return values.min(axis=1)


def candidate_pairs(signatures: np.ndarray, bands: int) -> set[tuple[int, int]]:
    """Pairs i < j that agree in all rows of some band (Indyk and Motwani, 1998).

    signatures: (n, k), int64; bands divides k: band 0 is the first k / bands columns.
    """
    pairs = set()
    for band in np.split(signatures, bands, axis=1):
        buckets = {}
        for j, rows in enumerate(band):
            others = buckets.setdefault(rows.tobytes(), [])
            pairs.update((i, j) for i in others)
            others.append(j)
    return pairs


def contaminated(examples: Sequence[str], documents: Iterable[str], n: int = 13) -> list[bool]:
    """For each example: does it share n words in a row with one of the documents?

    After Brown and others (2020), appendix C. documents: gone through once.
    """
    grams = [word_ngrams(example, n) for example in examples]
    watched, seen = set().union(*grams), set()
    for document in documents:
        seen |= watched & word_ngrams(document, n)
    return [not seen.isdisjoint(own) for own in grams]


def quality_problems(text: str) -> list[str]:
    """The rules of Gopher (Rae and others, 2021, appendix A.1.1) that a text breaks."""
    words, lines = text.split(), text.splitlines()
    n_words, n_lines = max(1, len(words)), max(1, len(lines))
    symbols = max(text.count("#"), text.count("...") + text.count("…"))
    bullets = sum(line.lstrip().startswith(("•", "-", "*")) for line in lines)
    unended = sum(line.rstrip().endswith(("...", "…")) for line in lines)
    letters = sum(any(c.isalpha() for c in word) for word in words)
    common = {"the", "be", "to", "of", "and", "that", "have", "with"}
    rules = {
        "50 to 100,000 words": 50 <= len(words) <= 100_000,
        "mean length of a word 3 to 10": 3 <= sum(map(len, words)) / n_words <= 10,
        "few symbols": symbols / n_words <= 0.1,
        "few lines with a bullet": bullets / n_lines <= 0.9,
        "few lines end in dots": unended / n_lines <= 0.3,
        "most words have letters": letters / n_words >= 0.8,
        "two common words": len(common & set(text.lower().split())) >= 2,
    }
    return [rule for rule, kept in rules.items() if not kept]


def packed_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, document_ids: torch.Tensor
) -> torch.Tensor:
    """Fused attention within documents; q, k, v: (B, n_head, T, d), ids: (B, T).

    Place t attends to the places s <= t of its own document.
    """
    mask = block_diagonal_mask(document_ids)[:, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
