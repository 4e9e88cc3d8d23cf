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
                found = [(ranks[a + b], k) for k, (a, b) in enumerate(zip(parts, parts[1:])) if a + b in ranks.keys()]
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


# The loop of learn_merges as people write it after the stub's own lines; the slips below change a line of it.
LOOP = """
while heap and len(merges) < n_merges:
    n, pair = heapq.heappop(heap)
    if -n != counts[pair] or n == 0:
        continue
    new = 256 + len(merges)
    merges.append(pair)
    changed = set()
    for w in list(places[pair]):
        old, t = words[w], times[w]
        for p in pairwise(old):
            counts[p] -= t
            changed.add(p)
        words[w] = merge_pair(old, pair, new)
        for p in pairwise(words[w]):
            counts[p] += t
            places[p].add(w)
            changed.add(p)
    for p in changed:
        heapq.heappush(heap, (-counts[p], p))
return merges
"""
AT_ONCE = (
    ("            changed.add(p)\n", "            heapq.heappush(heap, (-counts[p], p))\n"),
    ("    for p in changed:\n        heapq.heappush(heap, (-counts[p], p))\n", ""),
)
FALLING = (
    "            counts[p] -= t\n            heapq.heappush(heap, (-counts[p], p))\n",
    "            counts[p] -= t\n",
)
NO_ZERO = ("or n == 0", "")
SEARCH = ("    n, pair = heapq.heappop(heap)\n    if -n != counts[pair] or n == 0:\n        continue\n", "")


def learners_loop(*edits):
    loop = LOOP
    for old, new in edits:
        assert old in loop
        loop = loop.replace(old, new)
    source = inspect.getsource(learn_merges)
    return learners("learn_merges", source[: source.index("    while heap")] + textwrap.indent(loop, "    "))


@pytest.mark.parametrize("edits", [(), AT_ONCE])
def test_counts_may_be_pushed_again_and_again(edits):
    result = grade("gpt2.bpe.learn_merges", learners_loop(*edits), seed=0)
    assert result.passed, result.message


LOOPS = [
    ([*AT_ONCE, FALLING, NO_ZERO], "pushed_only_pairs_of_the_new_piece"),
    (
        [*AT_ONCE, FALLING, ("            heapq.heappush", "            if new in p:\n                heapq.heappush")],
        "forgot_pairs_that_fell",
    ),
    ([("changed.add(p)", "if new in p: changed.add(p)")], "forgot_pairs_that_fell"),
    ([*AT_ONCE, ("if -n != counts[pair] or n == 0", "if False")], "used_stale_entries"),
    ([("t = words[w], times[w]", "t = words[w], 1")], "changed_counts_by_one"),
    ([*AT_ONCE, ("t = words[w], times[w]", "t = words[w], 1")], "changed_counts_by_one"),
    ([NO_ZERO], "merged_pairs_of_count_0"),
    ([*AT_ONCE, NO_ZERO], "merged_pairs_of_count_0"),
    ([("            places[p].add(w)\n", "")], "forgot_the_places"),
    ([("list(places[pair])", "range(len(words))")], "You read all pieces again"),
    ([SEARCH, ("heap and", "any(counts.values()) and"), ("    new =", "    pair = min(counts, key=lambda p: (-counts[p], p))\n    new =")], "You go through all pairs"),
    (
        [SEARCH, ("heap and", "any(counts.values()) and"), ("    new =", "    pair = min(counts.items(), key=lambda i: (-i[1], i[0]))[0]\n    new =")],
        "You go through all pairs",
    ),
    # no mistake of ours: the reply says how often both pairs occur, and did before
    ([("counts[p] -= t", "counts[p] -= t * (p != pair)"), ("for w in", "counts[pair] = 0\n    for w in"), ("counts[p] += t", "counts[p] += t + (new in p)")], "so it comes first"),
]  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("answer", LOOPS)
def test_slips_of_the_loop_are_named(answer, seed):
    edits, said = answer
    result = grade("gpt2.bpe.learn_merges", learners_loop(*edits), seed=seed)
    assert result.status == "failed"
    assert said in result.message or said == result.mistake, (result.mistake, result.message)


def test_learning_slowly_is_too_slow():
    result = grade("gpt2.bpe.learn_merges", recount, seed=0)
    assert result.status == "failed" and "You read all pieces again" in result.message


def test_a_pair_that_is_not_the_most_frequent_is_told_with_its_count():
    result = grade("gpt2.bpe.learn_merges", lambda *given: sorted(recount(*given), reverse=True), seed=0)
    assert "(117, 103) occurs 20 times, so it comes first" in result.message


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
    (
        "merge_pair",
        """
        def merge_pair(ids, pair, new_id):
            ids, i = ids[:], 0
            while i < len(ids) - 1:
                if (ids[i], ids[i + 1]) == pair:
                    ids[i : i + 2] = [new_id]
                i += 1
            return ids""",
        "moves or copies all the other items",
    ),
    (
        "merge_pair",
        """
        def merge_pair(ids, pair, new_id):
            out = []
            for a, b in pairwise(ids):
                if (a, b) == pair:
                    out.append(new_id)
                else:
                    out.append(a)
            return out""",
        "went_over_all_neighbours",
    ),
    (
        "merge_pair",
        """
        def merge_pair(ids, pair, new_id):
            out = []
            for x in ids:
                if out and (out[-1], x) == pair:
                    out[-1] = new_id
                else:
                    out.append(x)
            return out""",
        "merged_with_the_result",
    ),
    (
        "encode_piece",
        """
        def encode_piece(piece, ranks):
            if piece in ranks:
                return [ranks[piece]]
            parts = [bytes([byte]) for byte in piece]
            i = 0
            while i + 1 < len(parts):
                if parts[i] + parts[i + 1] in ranks:
                    parts[i : i + 2] = [parts[i] + parts[i + 1]]
                    i = 0
                else:
                    i += 1
            return [ranks[p] for p in parts]""",
        "whole_piece_or_leftmost",
    ),
    (
        "encode_piece",
        """
        def encode_piece(piece, ranks):
            ids, i = [], 0
            while i < len(piece):
                j = len(piece)
                while piece[i:j] not in ranks:
                    j -= 1
                ids.append(ranks[piece[i:j]])
                i = j
            return ids""",
        "took_the_longest_token",
    ),
    *(
        (
            "encode_piece",
            f"""
            def encode_piece(piece, ranks):
                parts = [bytes([byte]) for byte in piece]
                for token in {in_order}:
                    i = 0
                    while i + 1 < len(parts):
                        if parts[i] + parts[i + 1] == token:
                            parts[i : i + 2] = [token]
                        i += 1
                return [ranks[p] for p in parts]""",
            "whole table",
        )
        for in_order in (
            "sorted(ranks, key=ranks.get)",
            "sorted(dict(ranks), key=ranks.get)",
            "[t for t, _ in sorted(ranks.items(), key=lambda item: item[1])]",
        )
    ),
    (
        "stream_text",
        """
        def stream_text(chunks):
            rest = b""
            for chunk in chunks:
                rest += chunk
                try:
                    text = rest.decode("utf-8")
                    rest = b""
                except UnicodeDecodeError:
                    text = ""
                yield text
            if rest:
                yield rest.decode("utf-8", errors="replace")""",
        "all_or_nothing",
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
        "encode_piece",
        'min(pairs, key=lambda p: ranks.get(b"".join(p), math.inf))',
        'max(pairs, key=lambda p: ranks.get(b"".join(p), -1))',
        "merged_the_highest_rank",
    ),
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
        "you handed out a list that piece_ids remembers",
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
