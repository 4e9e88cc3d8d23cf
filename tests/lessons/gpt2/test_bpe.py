"""The lesson gpt2.bpe: its tokenizer against tiktoken and rustbpe, and answers that its checks must tell apart."""

import functools
import inspect
import textwrap
from collections import Counter
from itertools import pairwise

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.check import grade
from groundup.data import shakespeare
from groundup.gpt2 import bpe
from groundup.gpt2.bpe import GPT2_PATTERN, BPETokenizer, TiktokenTokenizer, learn_merges, stream_text

END = "<|endoftext|>"


@functools.cache
def gpt2() -> tuple[BPETokenizer, TiktokenTokenizer]:
    ours = BPETokenizer.gpt2()
    return ours, TiktokenTokenizer(ours)


# Any text that Unicode has, and texts of what GPT-2's pattern looks at.
texts = st.text(max_size=60) | st.text("aB'sdtlveré€日😀0１٣ \t\n\r\u00a0\u2003\u3000.,!?_-", max_size=60)


@settings(max_examples=400, deadline=None)
@given(texts)
def test_ids_are_tiktokens_and_come_back(text):
    ours, theirs = gpt2()
    ids = ours.encode(text)
    assert ids == theirs.encode(text)
    assert ours.decode(ids) == text


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([END, "a", " ", "<|", "endoftext|>", "é"]), max_size=12).map("".join))
def test_special_tokens_are_tiktokens(text):
    ours, theirs = gpt2()
    for allowed in ((), "all", {END}):
        ids = ours.encode(text, allowed)
        assert ids == theirs.encode(text, allowed)
        assert ours.decode(ids) == text


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 50_256), max_size=12))
def test_any_ids_decode_as_in_tiktoken(ids):
    ours, theirs = gpt2()
    text = ours.decode(ids)
    assert text == theirs.decode(ids)
    assert "".join(stream_text(ours.token_bytes[i] for i in ids)) == text


def test_half_a_character_is_replaced_as_in_tiktoken():
    ours, theirs = gpt2()
    for text in ("a\ud83d", "\ud83d\ude00b", "\udc00\udc00 x"):
        assert ours.encode(text) == theirs.encode(text)


def test_gpt2_is_gpt2():
    ours, _ = gpt2()
    assert (ours.vocab_size, ours.special_tokens) == (50_257, {END: 50_256})
    assert ours.encode("Hello world") == [15496, 995]  # as in every introduction to GPT-2


def test_learning_is_rustbpes():
    rustbpe = pytest.importorskip("rustbpe")
    text = shakespeare().train[:300_000]
    theirs = rustbpe.Tokenizer()
    theirs.train_from_iterator([text], 1000, pattern=GPT2_PATTERN)
    ours = BPETokenizer.train(text, 1000)
    assert ours.ranks == {bytes(token): rank for token, rank in theirs.get_mergeable_ranks()}
    sample = shakespeare().validation[:50_000]
    assert ours.encode(sample) == theirs.encode(sample) == TiktokenTokenizer(ours).encode(sample)


def recount(pieces, n_merges):
    """Merges by the definition, on tuples."""
    words = {piece: tuple(piece) for piece in pieces}
    merges = []
    while len(merges) < n_merges:
        counts = Counter()
        for piece, word in words.items():
            for pair in pairwise(word):
                counts[pair] += pieces[piece]
        if not counts:
            break
        most = max(counts.values())
        best = min(pair for pair in counts if counts[pair] == most)
        merges.append(best)
        for piece, word in words.items():
            new, rest = [], list(word)
            while rest:
                if tuple(rest[:2]) == best:
                    new.append(255 + len(merges))
                    del rest[:2]
                else:
                    new.append(rest.pop(0))
            words[piece] = tuple(new)
    return merges


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=12).map(str.encode), st.integers(1, 9), max_size=12)
)
def test_kept_counts_are_true_counts(pieces):
    assert learn_merges(pieces, 30) == recount(pieces, 30)


@settings(max_examples=60, deadline=None)
@given(st.text("ab ä<s>", max_size=80), st.integers(257, 300), st.text("ab ä<s>", max_size=40))
def test_a_trained_tokenizer_is_tiktokens_too(text, size, other):
    ours = BPETokenizer.train(text, size, ["<s>"])
    assert ours.vocab_size <= size and len(set(ours.token_bytes.values())) >= ours.vocab_size - 1
    for allowed in ((), "all"):
        ids = ours.encode(other, allowed)
        assert ids == TiktokenTokenizer(ours).encode(other, allowed)
        assert ours.decode(ids) == other


def test_a_long_special_token_goes_before_its_beginning():
    ours = BPETokenizer.train("", 258, ["<s", "<s>"])
    assert ours.encode("a<s><s", "all") == [97, 257, 256]


@pytest.mark.parametrize(
    "call",
    [
        lambda: BPETokenizer.train("abc", 256, ["<s>"]),
        lambda: gpt2()[0].decode([50_257]),
        lambda: gpt2()[0].decode([-1]),
        lambda: gpt2()[0].encode("a", allowed_special=["<s>"]),
        lambda: gpt2()[0].encode("a", allowed_special=END),  # a name where a list of names belongs
    ],
)
def test_what_cannot_be_is_refused(call):
    with pytest.raises(ValueError):
        call()


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(bpe, "KEPT_PIECES", 10)
    ours = BPETokenizer.train("", 256)
    ours.encode(" ".join(map(str, range(100))))
    assert len(ours._ids_of_piece) <= 10


def test_a_very_long_piece_takes_no_quadratic_time():
    assert len(gpt2()[0].encode("a" * 100_000)) > 10_000
    assert isinstance(gpt2()[1]._encoding, tiktoken.Encoding)


def learners(name: str, source: str):
    """The learner's own version, in a notebook where the rest is the course's."""
    names = dict(vars(bpe))
    exec(textwrap.dedent(source), names)
    return names[name]


RIGHT = {
    "merge_pair": """
        def merge_pair(ids, pair, new_id):
            out = []
            used = False
            for k, item in enumerate(ids):
                if used:
                    used = False
                elif tuple(ids[k:k + 2]) == tuple(pair):
                    out.append(new_id)
                    used = True
                else:
                    out.append(item)
            return out""",
    "encode_piece": """
        def encode_piece(piece, ranks):
            parts = [bytes([b]) for b in piece]
            while True:
                found = [(ranks[a + b], k) for k, (a, b) in enumerate(zip(parts, parts[1:])) if a + b in ranks]
                if not found:
                    return [ranks[p] for p in parts]
                k = min(found)[1]
                parts[k:k + 2] = [parts[k] + parts[k + 1]]""",
    "stream_text": """
        def stream_text(chunks):
            decode = codecs.getincrementaldecoder("utf8")("replace").decode
            yield from map(decode, chunks)
            rest = decode(b"", True)
            if rest:
                yield rest""",
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_answers_written_differently_pass(name):
    result = grade(f"gpt2.bpe.{name}", learners(name, RIGHT[name]), seed=0)
    assert result.passed, result.message


def test_the_largest_count_may_be_searched():
    source = inspect.getsource(learn_merges)
    start = source.index("    while heap")
    by_max = source[:start] + textwrap.indent(
        textwrap.dedent("""
        while any(counts.values()) and len(merges) < n_merges:
            pair = min(counts, key=lambda p: (-counts[p], p))
            for w in places.pop(pair):
                for sign in (-1, 1):
                    for p in zip(words[w], words[w][1:]):
                        counts[p] += sign * times[w]
                        if sign == 1:
                            places[p].add(w)
                    if sign == -1:
                        words[w] = merge_pair(words[w], pair, 256 + len(merges))
            merges.append(pair)
        return merges
        """),
        "    ",
    )
    result = grade("gpt2.bpe.learn_merges", learners("learn_merges", by_max), seed=0)
    assert result.passed, result.message


# Wrong answers, written from nothing, and what the reply must say or the mistake that it must name.
WRONG = [
    (
        "merge_pair",
        """
        def merge_pair(ids, pair, new_id):
            rest, out = list(ids), []
            while rest:
                if tuple(rest[:2]) == pair:
                    out.append(new_id)
                    del rest[:2]
                else:
                    out.append(rest.pop(0))
            return out""",
        "did not finish",
    ),
    (
        "merge_pair",
        """
        whole = merge_pair
        def merge_pair(ids, pair, new_id):
            return whole(ids, pair, new_id) if pair in pairwise(ids) else ids""",
        "Return a new one",
    ),
    (
        "encode_piece",
        """
        def encode_piece(piece, ranks):
            parts = [bytes([b]) for b in piece]
            for token in ranks:
                i = 0
                while i + 1 < len(parts):
                    if parts[i] + parts[i + 1] == token:
                        parts[i : i + 2] = [token]
                    i += 1
            return [ranks[p] for p in parts]""",
        "took_the_order_of_the_dict",
    ),
    (
        "encode_piece",
        """
        known, uncached = {}, encode_piece
        def encode_piece(piece, ranks):
            if piece not in known:
                known[piece] = uncached(piece, ranks)
            return list(known[piece])""",
        "another table",
    ),
    (
        "stream_text",
        """
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        def stream_text(chunks):
            for chunk in chunks:
                yield decoder.decode(chunk)
            if rest := decoder.decode(b"", final=True):
                yield rest""",
        "Two streams",
    ),
]


@pytest.mark.parametrize("answer", WRONG)
def test_wrong_answers_are_rejected(answer):
    name, source, said = answer
    result = grade(f"gpt2.bpe.{name}", learners(name, source), seed=0)
    assert result.status in ("failed", "timeout")
    assert said in result.message or said in (result.mistake or ""), (result.mistake, result.message)


# A learner's slip, as an edit of the course's version, and what the reply must say or the mistake that it must name.
SLIPS = [
    ("merge_pair", "i += 2", "i += 1", "used_items_twice"),
    ("merge_pair", "return merged", "merged", "None"),
    ("learn_merges", "(-counts[p], p)", "(counts[p], p)", ""),
    ("learn_merges", "change[p] -= t", "pass", "counts_that_never_fall"),
    ("learn_merges", "if -n != counts[pair]", "if False", ""),
    ("learn_merges", "if counts[p]:", "if made in p:", "forgot_pairs_that_fell"),
    ("learn_merges", "merges.append(pair)", "merges.append(list(pair))", "tuple"),
    ("encode_piece", "min(", "max(", ""),
    (
        "BPETokenizer",
        "self.token_bytes[i] for i in ids)",
        "bytes([i]) if i < 256 else self.token_bytes[i] for i in ids)",
        "bytes_for_ids_in_decode",
    ),
    (
        "BPETokenizer",
        "ids += self.piece_ids(piece)",
        "ids = ids + self.piece_ids(piece) if ids else self.piece_ids(piece)",
        "once more",
    ),
    (
        "BPETokenizer",
        "ids += self.piece_ids(piece)",
        "ids += self.piece_ids(piece) if len(piece.encode()) > 1 else [ord(piece)]",
        "from elsewhere",
    ),
    ("BPETokenizer", "for piece in pretokenize(part):", "for piece in [part]:", "not_cut_into_pieces"),
    ("BPETokenizer", 'errors="replace"', 'errors="ignore"', "lost_broken_bytes"),
    ("BPETokenizer", 'errors="replace"', 'errors="strict"', "failed_on_broken_bytes"),
    ("BPETokenizer", "tokens[first] + tokens[second]", "tokens[second] + tokens[first]", ""),
    (
        "stream_text",
        "yield decoder.decode(chunk)",
        'yield chunk.decode("utf-8", "replace")',
        "each_chunk_by_itself",
    ),
]


@pytest.mark.parametrize("slip", SLIPS)
def test_slips_are_rejected_and_named(slip):
    name, old, new, said = slip
    source = inspect.getsource(getattr(bpe, name))
    assert old in source
    result = grade(f"gpt2.bpe.{name}", learners(name, source.replace(old, new)), seed=0)
    assert result.status in ("failed", "error", "timeout")
    assert said in result.message or said in (result.mistake or ""), (result.mistake, result.message)
