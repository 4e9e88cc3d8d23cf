"""Byte-pair encoding.

Generated from chapters/02_gpt2/03_bpe.md by `make sync`: edit that file, not this one.
"""

import codecs
import functools
import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from itertools import pairwise

import regex

from groundup.data import gpt2_ranks

__all__ = [
    "GPT2_PATTERN",
    "KEPT_PIECES",
    "BPETokenizer",
    "TiktokenTokenizer",
    "encode_piece",
    "learn_merges",
    "merge_pair",
    "pretokenize",
    "split_special",
    "stream_text",
]


def merge_pair(ids: list, pair: tuple, new_id) -> list:
    """A new list: `new_id` in place of each `pair` in `ids`, from left to right."""
    first, second = pair
    merged, i = [], 0
    while i < len(ids):
        if ids[i] == first and i + 1 < len(ids) and ids[i + 1] == second:
            merged.append(new_id)
            i += 2
        else:
            merged.append(ids[i])
            i += 1
    return merged


GPT2_PATTERN = (
    r"'s|'t|'re|'ve|'m|'ll|'d"  # the ends of it's, don't, we're, ...
    r"| ?\p{L}+| ?\p{N}+"  # a word or a number, with the space before it
    r"| ?[^\s\p{L}\p{N}]+"  # punctuation, also with the space before it
    r"|\s+(?!\S)|\s+"  # white space; its last character is left to the word after it
)
_find_pieces = regex.compile(GPT2_PATTERN).findall


def pretokenize(text: str) -> list[str]:
    """Cuts a text into pieces as GPT-2 does; joined again they are the text.

    Half a surrogate pair (UTF-16 writes some characters as two codes, a pair) cannot
    be written in UTF-8; it becomes � as in tiktoken.
    Source of the pattern: github.com/openai/gpt-2, src/encoder.py.
    """
    valid = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return _find_pieces(valid)


def learn_merges(pieces: dict[bytes, int], n_merges: int) -> list[tuple[int, int]]:
    """The first `n_merges` merges of BPE, or fewer if no pair is left.

    pieces: how often each piece of the text occurs. Merge k makes the id 256 + k. The
    most frequent pair is merged; among equals, the smallest.

    Source: Sennrich et al. (2016), Algorithm 1; the counts are kept between merges.
    """
    words, times = [list(piece) for piece in pieces], list(pieces.values())
    # what a defaultdict lacks starts as int(), which is 0, or as set()
    counts, places = defaultdict(int), defaultdict(set)
    for w, word in enumerate(words):
        for pair in pairwise(word):
            counts[pair] += times[w]
            places[pair].add(w)
    heap = [(-n, pair) for pair, n in counts.items()]
    heapq.heapify(heap)  # puts the list into the order of a heap
    merges = []
    while heap and len(merges) < n_merges:
        n, pair = heapq.heappop(heap)
        if -n != counts[pair]:
            continue
        made, change = 256 + len(merges), defaultdict(int)
        for w in places.pop(pair):
            old, t = words[w], times[w]
            new = words[w] = merge_pair(old, pair, made)
            for p in pairwise(old):
                change[p] -= t
            for p in pairwise(new):
                change[p] += t
                if made in p:
                    places[p].add(w)
        merges.append(pair)
        for p, difference in change.items():
            if difference:
                counts[p] += difference
                if counts[p]:
                    heapq.heappush(heap, (-counts[p], p))
    return merges


def encode_piece(piece: bytes, ranks: dict[bytes, int]) -> list[int]:
    """The ids of one piece of text; `ranks` is a table that BPE learnt."""
    parts = [bytes([byte]) for byte in piece]
    while len(parts) > 1:
        pairs = pairwise(parts)
        first, second = min(pairs, key=lambda p: ranks.get(b"".join(p), math.inf))
        if first + second not in ranks:
            break
        parts = merge_pair(parts, (first, second), first + second)
    return [ranks[part] for part in parts]


KEPT_PIECES = 300_000  # pieces whose ids are remembered; then we forget all of them
_gpt2_ranks = functools.cache(gpt2_ranks)


def split_special(text: str, names: Collection[str]) -> list[str]:
    """Cuts `text` at every one of `names`: [plain, name, plain, name, ..., plain]."""
    longest_first = sorted(names, key=len, reverse=True)
    pattern = "|".join(regex.escape(name) for name in longest_first)
    return regex.split(f"({pattern})", text) if names else [text]


class BPETokenizer:
    """A byte-level BPE tokenizer, as GPT-2's.

    ranks: the bytes of each token but the special ones -> its id. Ids grow in the order
        of the merges; all 256 single bytes are there.
    special_tokens: name -> id.
    """

    def __init__(self, ranks: dict[bytes, int], special_tokens=()):
        self.ranks, self.special_tokens = ranks, dict(special_tokens)
        self.token_bytes = {i: token for token, i in ranks.items()}
        for name, i in self.special_tokens.items():
            self.token_bytes[i] = name.encode()
        self.vocab_size = max(self.token_bytes) + 1
        self._ids_of_piece: dict[str, list[int]] = {}

    @classmethod
    def train(cls, text: str, vocab_size: int, special_tokens: Collection[str] = ()) -> "BPETokenizer":
        """Learns a table from `text`, but nothing across a special token.

        vocab_size: with the bytes and the special tokens; less if `text` has too few
            pairs. Raises ValueError if there is no room for the bytes.
        """
        n_merges = vocab_size - 256 - len(special_tokens)
        if n_merges < 0:
            raise ValueError(f"vocab_size must be at least {vocab_size - n_merges}")
        parts = split_special(text, special_tokens)[::2]
        pieces = Counter(p for part in parts for p in pretokenize(part))
        in_bytes = {piece.encode(): n for piece, n in pieces.items()}
        merges = learn_merges(in_bytes, n_merges)
        tokens = [bytes([byte]) for byte in range(256)]
        for first, second in merges:
            tokens.append(tokens[first] + tokens[second])
        ranks = {token: rank for rank, token in enumerate(tokens)}
        specials = {name: len(ranks) + k for k, name in enumerate(special_tokens)}
        return cls(ranks, specials)

    @classmethod
    def gpt2(cls) -> "BPETokenizer":
        """GPT-2's own tokenizer: 50,257 tokens, the last of them <|endoftext|>."""
        ranks = _gpt2_ranks()
        return cls(ranks, {"<|endoftext|>": len(ranks)})

    def piece_ids(self, piece: str) -> list[int]:
        """The ids of one piece of text, worked out only the first time."""
        if piece not in self._ids_of_piece:
            if len(self._ids_of_piece) >= KEPT_PIECES:
                self._ids_of_piece.clear()
            self._ids_of_piece[piece] = encode_piece(piece.encode(), self.ranks)
        return self._ids_of_piece[piece]

    def encode(self, text: str, allowed_special: Collection[str] = ()) -> list[int]:
        """The ids of `text`; special tokens in it are plain characters unless allowed.

        allowed_special: some of their names, or "all". ValueError for an unknown one.
        """
        names = self.special_tokens if allowed_special == "all" else allowed_special
        for name in names:
            if name not in self.special_tokens:
                raise ValueError(f"{name!r} is no special token of this tokenizer")
        ids = []
        for place, part in enumerate(split_special(text, names)):
            if place % 2 == 1:
                ids.append(self.special_tokens[part])
            else:
                for piece in pretokenize(part):
                    ids += self.piece_ids(piece)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, with � for broken bytes. ValueError for an unknown id."""
        ids = [int(i) for i in ids]
        for i in ids:
            if i not in self.token_bytes:
                raise ValueError(f"{i} is no id: there are {self.vocab_size} of them")
        joined = b"".join(self.token_bytes[i] for i in ids)
        return joined.decode("utf-8", errors="replace")


def stream_text(chunks: Iterable[bytes]) -> Iterator[str]:
    """For each chunk of bytes, the characters it completes; at the end, the rest."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for chunk in chunks:
        yield decoder.decode(chunk)
    if rest := decoder.decode(b"", final=True):
        yield rest


class TiktokenTokenizer:
    """The tokenizer `bpe`, with its work done by tiktoken: the same ids, faster."""

    def __init__(self, bpe: BPETokenizer):
        import tiktoken

        self.vocab_size, self.special_tokens = bpe.vocab_size, bpe.special_tokens
        self._encoding = tiktoken.Encoding(
            "groundup",
            pat_str=GPT2_PATTERN,
            mergeable_ranks=bpe.ranks,
            special_tokens=bpe.special_tokens,
        )

    def encode(self, text: str, allowed_special: Collection[str] = ()) -> list[int]:
        """The ids of `text`; special tokens are plain text unless allowed."""
        allowed = allowed_special if allowed_special == "all" else set(allowed_special)
        return self._encoding.encode(text, allowed_special=allowed, disallowed_special=())

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; bytes that are not valid UTF-8 become �."""
        return self._encoding.decode([int(i) for i in ids])
