"""Checks for the lesson gpt2.bpe.

The oracles replace texts: a list of ids is a string with a character for each id, and `str.replace` merges a pair, from
left to right. Tables with which pieces are encoded are learnt in this way, and tiktoken encodes.
"""

import functools
import heapq
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import regex
import tiktoken

from groundup.check import Case, Exercise

PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _join(word: str, pair: tuple[int, int], new: int) -> str:
    return word.replace(chr(pair[0]) + chr(pair[1]), chr(new))


def _learn(pieces: dict[bytes, int], n_merges: int) -> list[tuple[int, int]]:
    """Merges by the definition: count all, take the most frequent, replace."""
    words = [("".join(map(chr, piece)), times) for piece, times in pieces.items()]
    merges = []
    while len(merges) < n_merges:
        counts = Counter()
        for word, times in words:
            for a, b in pairwise(word):
                counts[ord(a), ord(b)] += times
        if not counts:
            break
        merges.append(min(counts, key=lambda pair: (-counts[pair], pair)))
        words = [(_join(word, merges[-1], 255 + len(merges)), times) for word, times in words]
    return merges


def _table(merges, singles=range(256), first=256, step=1) -> dict[bytes, int]:
    """The ranks of a list of merges: the id of each single byte is given, and those of the merges follow."""
    tokens = [bytes([byte]) for byte in range(256)]
    for a, b in merges:
        tokens.append(tokens[a] + tokens[b])
    ids = [*singles, *range(first, first + step * len(merges), step)]
    return dict(zip(tokens, ids, strict=True))


def _words(rng: np.random.Generator, letters: str, n: int, longest: int = 9) -> list[str]:
    return ["".join(rng.choice(list(letters), size=rng.integers(1, longest + 1))) for _ in range(n)]


def _counted(rng: np.random.Generator, letters: str, n: int, longest: int = 9) -> dict[bytes, int]:
    return {word.encode(): int(rng.integers(1, 30)) for word in _words(rng, letters, n, longest)}


def _tiktoken(ranks: dict[bytes, int], special_tokens=()) -> tiktoken.Encoding:
    return tiktoken.Encoding(
        "oracle", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=dict(special_tokens)
    )


# ---------------------------------------------------------------------------------------------------------------------
merge_pair = Exercise(
    "gpt2.bpe.merge_pair",
    seconds=2.0,
    slow="What moves or copies all the other items for each of them is too slow. Or is there a loop that never ends?",
)
LONG = "1,200,000 items"


@merge_pair.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    yield Case("two items", ids=[3, 5], pair=(3, 5), new_id=300)
    yield Case("once inside", ids=[7, 3, 5, 8], pair=(3, 5), new_id=300)
    yield Case("the pair the other way round", ids=[5, 3, 4, 3, 5, 3], pair=(3, 5), new_id=300)
    yield Case("nothing to merge", ids=[5, 3, 4], pair=(3, 5), new_id=300)
    yield Case("both of a kind, odd", ids=[1, 1, 2, 1, 1, 1], pair=(1, 1), new_id=9)
    yield Case("both of a kind, even", ids=[1] * 4, pair=(1, 1), new_id=9)
    yield Case("one item", ids=[3], pair=(3, 3), new_id=300)
    yield Case("no item", ids=[], pair=(3, 5), new_id=300)
    yield Case("the first id alone at the end", ids=[3, 5, 6, 3], pair=(3, 5), new_id=300)
    yield Case("the new id meets the pair", ids=[4, 2, 2, 2, 4, 2], pair=(4, 2), new_id=4)
    yield Case("bytes", ids=[b"t", b"h", b"e", b"t", b"h"], pair=(b"t", b"h"), new_id=b"th")
    yield Case("many", ids=rng.integers(0, 3, 60).tolist(), pair=(2, 0), new_id=7)
    yield Case("many of a kind", ids=rng.integers(0, 2, 60).tolist(), pair=(1, 1), new_id=7)
    yield Case(
        "large ids", ids=rng.integers(50_000, 50_003, 40).tolist(), pair=(50_001, 50_002), new_id=90_000
    )
    # Work that grows with the square of the length (pop(0), ids[i : i + 2] = [new_id]) takes ten times the limit and
    # more; one pass takes a tenth of it.
    groups = [[4, 5], [4, 5], [4, 5], [4, 5], [5], [6]]
    ids = [item for k in rng.permutation(len(groups)) for item in groups[k]]
    yield Case(LONG, ids=ids, pair=(4, 5), new_id=300, times=120_000)


def _comparable(merged):
    """A long list as an array: the engine compares no structures of so many items."""
    return np.array(merged) if isinstance(merged, list) and len(merged) > 10_000 else merged


@merge_pair.observe
def _(obj, ids, pair, new_id, times=1):
    return _comparable(obj(ids * times, pair, new_id) if times > 1 else obj(ids, pair, new_id))


@merge_pair.oracle
def _(ids, pair, new_id, times=1):
    kinds = list(dict.fromkeys([*ids, *pair, new_id]))
    a, b, new = (chr(kinds.index(item)) for item in (*pair, new_id))
    numbers = {kind: k for k, kind in enumerate(kinds)}
    text = ("".join(chr(numbers[item]) for item in ids) * times).replace(a + b, new)
    return _comparable([kinds[ord(c)] for c in text])


@merge_pair.property
def a_new_list(obj, ids, pair, new_id, times=1):
    """You gave back the very list that you were given. Return a new one, also if there is nothing to merge: the caller may change it."""
    return times > 1 or obj(ids, pair, new_id) is not ids


def _merged(ids, pair, new_id, *, step=2, end=None, first_only=False, either=False):
    out, i, done = [], 0, False
    while i < len(ids) + (end or 0):
        here = i + 1 < len(ids) and not done and (ids[i], ids[i + 1])
        if here and (here == pair or (either and here == pair[::-1])):
            out.append(new_id)
            i, done = i + step, first_only
        else:
            out.append(ids[i])
            i += 1
    return out


@merge_pair.mistake
def used_items_twice(ids, pair, new_id):
    """After a merge you went on by one item only, so its second item is used again. Go on by two: both items are inside the new one."""
    return _merged(ids, pair, new_id, step=1)


@merge_pair.mistake
def lost_the_last_item(ids, pair, new_id):
    """Your loop ends before the last item, because that has no right neighbour. If it was not merged, it still belongs to the result."""
    out, i = [], 0
    while i < len(ids) - 1:
        if (ids[i], ids[i + 1]) == pair:
            out.append(new_id)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out


@merge_pair.mistake
def merged_only_once(ids, pair, new_id):
    """You merged the first occurrence of the pair and left the others. All of them are replaced in one call."""
    return _merged(ids, pair, new_id, first_only=True)


@merge_pair.mistake
def merged_from_the_right(ids, pair, new_id):
    """You went from right to left. In a run such as 1 1 1 that merges the other two, and training and encoding must do the same. Go from left to right."""
    return _merged(ids[::-1], pair[::-1], new_id)[::-1]


@merge_pair.mistake
def ignored_the_order(ids, pair, new_id):
    """You also merged the two items the other way round. A pair has an order: the new token stands for exactly these bytes."""
    return _merged(ids, pair, new_id, either=True)


@merge_pair.mistake
def merged_again(ids, pair, new_id):
    """You repeated until no pair was left, so that a new item could be merged again at once. One pass over the list you were given is the rule."""
    while (shorter := _merged(ids, pair, new_id)) != ids:
        ids = shorter
    return ids


@merge_pair.mistake
def went_over_all_neighbours(ids, pair, new_id):
    """You go over all pairs of neighbours. After a merge, its second item comes again as the first of the next pair, and the last item never comes. Use a while loop that goes on by two after a merge."""
    return [new_id if both == pair else both[0] for both in pairwise(ids)]


@merge_pair.mistake
def merged_with_the_result(ids, pair, new_id):
    """You compare with the last item of your result. That may be new_id, which must not be merged again in the same pass: compare two items of `ids`."""
    out = []
    for item in ids:
        if out and (out[-1], item) == pair:
            out[-1] = new_id
        else:
            out.append(item)
    return out


@merge_pair.mistake
def dropped_the_rest(ids, pair, new_id):
    """Your result holds the new items only. Items that belong to no pair stay where they are."""
    return [item for item in _merged(ids, pair, new_id) if item == new_id]


# ---------------------------------------------------------------------------------------------------------------------
learn_merges = Exercise(
    "gpt2.bpe.learn_merges",
    seconds=8.0,
    slow="A merge may neither read all pieces again nor go through all pairs. Or is there a loop that never ends?",
)
MANY = "12,000 pieces"


@learn_merges.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    yield Case("one merge", pieces={b"abab": 2, b"ca": 3}, n_merges=1)
    yield Case("a small text", pieces={b"hug": 10, b"pug": 5, b"pun": 12, b"bun": 4, b"hugs": 5}, n_merges=4)
    yield Case("counts decide", pieces={b"ab": 1, b"abc": 1, b"xab": 1, b"yz": 50}, n_merges=3)
    yield Case("equal counts", pieces={b"zy": 4, b"mn": 4, b"ba": 4, b"za": 4}, n_merges=3)
    yield Case("a run of one letter", pieces={b"aaaaaaa": 3, b"baaa": 2, b"aab": 4}, n_merges=5)
    yield Case("until no pair is left", pieces={b"abc": 1, b"d": 7, b"cd": 1}, n_merges=50)
    yield Case("no merge wanted", pieces={b"abc": 4}, n_merges=0)
    yield Case("nothing to read", pieces={}, n_merges=3)
    yield Case("bytes above 127", pieces={"für".encode(): 3, "Tür".encode(): 9, "ü".encode(): 2}, n_merges=6)
    yield Case("two letters", pieces=_counted(rng, "ab", 40, 12), n_merges=60)
    yield Case("four letters", pieces=_counted(rng, "abcd", 150), n_merges=150)
    yield Case("many letters", pieces=_counted(rng, "abcdefghijklmnop", 200), n_merges=120)
    # In these the merges are the pairs in the order of their counts: the pieces of two bytes are far more frequent than
    # all that comes of the long ones, which make it costly to count again.
    yield Case("2,800 pieces", pieces=_long_pieces(rng, 20, 20), n_merges=100, watch="pieces")
    two = {bytes([a, b]): 5 for b in rng.permutation(range(216, 256)) for a in rng.permutation(50)}
    yield Case("2,000 pairs", pieces=two, n_merges=300, watch="pairs")
    yield Case(MANY, pieces=_long_pieces(rng, 50, 40), n_merges=1_000, watch="all")


def _long_pieces(rng: np.random.Generator, firsts: int, seconds: int) -> dict[bytes, int]:
    pairs = [bytes([a, b]) for a in range(firsts) for b in range(256 - seconds, 256)]
    counts = 60 + rng.permutation(len(pairs))
    frequent = {pair: int(n) for pair, n in zip(pairs, counts, strict=True)}
    return frequent | {pair * n: 1 for pair in pairs for n in range(4, 9)}


@learn_merges.oracle
def _(pieces, n_merges, watch=None):
    if watch is None:
        return _learnt(pieces, n_merges, _learn(pieces, n_merges))
    pairs = [tuple(piece) for piece in pieces if len(piece) == 2]
    return _learnt({}, n_merges, sorted(pairs, key=lambda p: (-pieces[bytes(p)], p))[:n_merges])


# How often an answer may compare an id or look it up in a dict: at least three times what it takes, and by far less than
# a wasteful one needs.
LOOKS = {"pieces": 1_600_000, "pairs": 250_000, "all": 3_500_000}
WASTE = {
    "pieces": "You read all pieces again for each merge: we stopped you. Only the pieces in places[pair] change, so only they are read.",
    "pairs": "You go through all pairs for each merge: we stopped you. That is what the heap is for: it gives the most frequent pair in a few steps.",
    "all": "Each merge does far more than its own pieces ask for: we stopped you. Read only the pieces in places[pair], and let the heap find the most frequent pair.",
}


class _TooMuch(BaseException):
    """The looks are used up."""


def _watched(pieces: dict[bytes, int], looks: int) -> tuple[dict[bytes, int], list[int]]:
    """The same pieces, whose ids count how often they are looked at; and what is left of `looks`."""
    left = [looks]

    def counted(method):
        def look(*ids):
            left[0] -= 1
            if left[0] < 0:
                raise _TooMuch
            return method(*ids)

        return look

    names = ("__hash__", "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__")
    ids = list(map(type("int", (int,), {n: counted(getattr(int, n)) for n in names}), range(256)))

    class Piece(bytes):
        def __iter__(self):
            return map(ids.__getitem__, bytes.__iter__(self))

    return {Piece(piece): n for piece, n in pieces.items()}, left


def _learnt(pieces, n_merges, merges) -> dict:
    return {"pieces": pieces, "n_merges": n_merges, "merges": merges}


@learn_merges.observe
def _(obj, pieces, n_merges, watch=None):
    if watch is None:
        asked = dict(pieces)  # as they were before obj had them
        merges = obj(pieces, n_merges)
        return None if merges is None else _learnt(asked, n_merges, list(merges))
    ours, left = _watched(pieces, LOOKS[watch])
    try:
        merges = obj(ours, n_merges)
        merges = merges and [tuple(map(int, p)) if type(p) is tuple else p for p in merges]
    except _TooMuch:
        return WASTE[watch]
    return WASTE[watch] if left[0] < 0 else _learnt({}, n_merges, merges)


@learn_merges.agree
def _(got, expected):
    """Two answers agree if they go wrong at the same merge, with the same pair: what follows a wrong merge says nothing."""
    from groundup.check import compare

    if isinstance(got, str):
        return None if got == expected else got
    if not isinstance(got, dict) or not isinstance(expected, dict):
        return compare(got, expected)
    ours, theirs = got["merges"], expected["merges"]
    if not got["pieces"] or not isinstance(ours, list):
        return compare(ours, theirs)
    pieces, n_merges = got["pieces"], got["n_merges"]
    right = _right_merges(tuple(pieces.items()), n_merges)
    wrong = _first_wrong(ours, right)
    if wrong == _first_wrong(theirs, right):
        return None
    if wrong is None:  # the other one is a mistake's
        return "all merges are right."
    return _why(tuple(pieces.items()), n_merges, *wrong) or compare(ours, right)


@functools.lru_cache(maxsize=64)
def _right_merges(pieces, n_merges):
    return _learn(dict(pieces), n_merges)


def _first_wrong(merges, right):
    """The number of the first wrong merge, and its pair, None if there is none; or None if all are right."""
    for k in range(max(len(merges), len(right))):
        ours = _as_pair(merges[k]) if k < len(merges) else None
        if ours is None or k >= len(right) or ours != right[k]:
            return k, ours
    return None


def _as_pair(merge) -> tuple:
    """A merge that can be compared: whatever is no list of whole numbers stands as its text."""
    if isinstance(merge, tuple | list) and all(isinstance(i, int | np.integer) for i in merge):
        return tuple(map(int, merge))
    return (repr(merge),)


@functools.lru_cache(maxsize=64)
def _why(pieces, n_merges, k, ours) -> str | None:
    """How often the two pairs occur when merge `k` is made, and how often they did before."""
    right = _right_merges(pieces, n_merges)
    best = right[k] if k < len(right) else None
    if ours is not None and k >= n_merges:
        return f"you return more than the {n_merges} merges that were asked for."
    if ours is not None and not (len(ours) == 2 and all(isinstance(i, int) for i in ours)):
        return None
    if ours is not None and not {*range(256 + k)}.issuperset(ours):
        return f"at result[{k}] you took {ours}, but at this point the ids are 0 to {255 + k}."
    words, history = [(list(piece), times) for piece, times in pieces], []
    for step in range(k + 1):
        counts = Counter()
        for word, times in words:
            for pair in pairwise(word):
                counts[pair] += times
        history.append((counts[ours], counts[best]))
        if step < k:
            words = [(_merged(word, right[step], 256 + step), times) for word, times in words]
    (our_count, best_count), (ours_once, best_once) = history[-1], map(max, zip(*history, strict=True))

    def often(n, once):
        return ("nowhere" if n == 0 else f"{n} time{'s' * (n != 1)}") + f" by now (once {once})" * (once > n)

    if ours is None:
        said = f"you stop after {k} merges, but {best} still occurs {often(best_count, best_once)}."
        return said + " The new count is pushed also where a count fell." * (best_once > best_count)
    if best is None:
        return f"after {k} merges no pair is left: {ours} occurs {often(our_count, ours_once)}. A pair of count 0 is not merged."
    said = f"at result[{k}] you took {ours}, which occurs {often(our_count, ours_once)}. "
    if our_count == best_count:
        said += f"{best} occurs as often, and it is the smaller pair, so it comes first."
    else:
        said += f"{best} occurs {often(best_count, best_once)}, so it comes first."
    old, fell = ours_once >= best_count > our_count, best_once > best_count
    if old and fell:
        said += f" Was an old count of {ours} used, or the new count of {best} not pushed when it fell?"
    elif old:
        said += f" Was an old count of {ours} used?"
    elif fell:
        said += f" Was the new count of {best} not pushed when it fell?"
    return said


@learn_merges.property
def merges_are_tuples(obj, pieces, n_merges, watch=None):
    """Each merge should be a tuple of two ids. Yours compare unequal to the same pairs as tuples, and a list cannot be a key of a dict."""
    return watch is not None or all(type(pair) is tuple for pair in obj(pieces, n_merges))


def _spoilt(pieces, n_merges, key=lambda n, pair: (-n, pair), least=1, fall=True, rise=True, again=True):
    """Merges with kept counts: of the pairs that occur `least` times, the one with the smallest key comes first."""
    words, counts, places = [list(piece) for piece in pieces], Counter(), defaultdict(list)
    times = list(pieces.values())
    for w, word in enumerate(words):
        for pair in pairwise(word):
            counts[pair] += times[w]
            places[pair].append(w)
    heap = [(key(n, pair), n, pair) for pair, n in counts.items()]
    heapq.heapify(heap)
    merges = []
    while heap and len(merges) < n_merges:
        _, n, best = heapq.heappop(heap)
        if n != counts[best] or n < least:
            continue
        changed = Counter()
        counts[best] = 0
        for w in dict.fromkeys(places.pop(best, ())):
            before, words[w] = words[w], _merged(words[w], best, 256 + len(merges))
            differences = Counter(pairwise(words[w])) if rise else Counter()
            if fall:
                differences.subtract(Counter(pairwise(before)))
            for pair, difference in differences.items():
                if pair != best and difference:
                    counts[pair] += times[w] * difference
                    changed[pair] += difference
                    places[pair].append(w)
        for pair, difference in changed.items():
            if again or difference > 0:
                heapq.heappush(heap, (key(counts[pair], pair), counts[pair], pair))
        merges.append(best)
    return merges


@learn_merges.mistake
def took_the_largest_among_equals(pieces, n_merges):
    """Among pairs of equal counts you took the largest. The rule is the smallest, so that everybody learns the same table: store (-n, pair), and the heap does it by itself."""
    return _spoilt(pieces, n_merges, lambda n, pair: (-n, -pair[0], -pair[1]))


@learn_merges.mistake
def took_the_first_seen_among_equals(pieces, n_merges):
    """Among pairs of equal counts you took the one that was seen first. Then the table depends on the order of the pieces; the smallest pair is the rule."""
    order = {}
    return _spoilt(pieces, n_merges, lambda n, pair: (-n, order.setdefault(pair, len(order))))


@learn_merges.mistake
def counted_each_piece_once(pieces, n_merges):
    """You counted each piece once. A piece stands for times[w] occurrences in the text, and all of them count."""
    return _spoilt(dict.fromkeys(pieces, 1), n_merges)


@learn_merges.mistake
def took_the_rarest(pieces, n_merges):
    """You merged the rarest pair. The heap gives its smallest item, so the count must be stored as −n."""
    return _spoilt(pieces, n_merges, lambda n, pair: (n, pair))


@learn_merges.mistake
def counts_that_never_fall(pieces, n_merges):
    """You add the counts of new pairs, but the pairs that a merge destroys keep theirs. They are then merged although few are left: subtract times[w] for each old pair."""
    return _spoilt(pieces, n_merges, fall=False)


@learn_merges.mistake
def counts_that_never_grow(pieces, n_merges):
    """You subtract what a merge destroys, but the pairs with the new id are never counted, so no token longer than two bytes is learnt."""
    return _spoilt(pieces, n_merges, rise=False)


@learn_merges.mistake
def forgot_pairs_that_fell(pieces, n_merges):
    """A pair whose count fell is never merged any more: its entry in the heap is stale, and no new one was pushed. Push the new count for falling pairs as well, if it is above 0."""
    return _spoilt(pieces, n_merges, again=False)


def _slip(pieces, n_merges, slip):
    """The loop as people write it around the stub's own lines, with one slip."""
    words, times = [list(piece) for piece in pieces], list(pieces.values())
    counts, places = defaultdict(int), defaultdict(set)
    for w, word in enumerate(words):
        for pair in pairwise(word):
            counts[pair] += times[w]
            places[pair].add(w)
    heap = [(-n, pair) for pair, n in counts.items()]
    heapq.heapify(heap)
    merges = []
    while heap and len(merges) < n_merges:
        n, pair = heapq.heappop(heap)
        if (slip != "stale" and -n != counts[pair]) or (slip != "zero" and n == 0):
            continue
        made, changed = 256 + len(merges), set()
        merges.append(pair)
        for w in list(places[pair]):
            old, t = words[w], 1 if slip == "times" else times[w]
            words[w] = _merged(old, pair, made)
            before, after = list(pairwise(old)), list(pairwise(words[w]))
            if slip == "overlap":
                before, after = _around(old, pair, made)
            for p in before:
                counts[p] -= t
                if slip == "stale":
                    heapq.heappush(heap, (-counts[p], p))
            for p in after:
                counts[p] += t
                if slip != "places":
                    places[p].add(w)
                if slip in ("stale", "new piece"):
                    heapq.heappush(heap, (-counts[p], p))
            changed |= {*before, *after}
        for p in changed if slip not in ("stale", "new piece") else ():
            heapq.heappush(heap, (-counts[p], p))
    return merges


def _around(word, pair, made):
    """The pairs lost and won at each occurrence, of which two may overlap: in 1 1 1 it sees the pair 1 1 twice."""
    lost, won = [], []
    for i in range(len(word) - 1):
        if (word[i], word[i + 1]) == pair:
            lost.append(pair)
            if i > 0:
                lost.append((word[i - 1], pair[0]))
                won.append((word[i - 1], made))
            if i + 2 < len(word):
                lost.append((pair[1], word[i + 2]))
                won.append((made, word[i + 2]))
    return lost, won


@learn_merges.mistake
def pushed_only_pairs_of_the_new_piece(pieces, n_merges):
    """You push new counts only for the pairs of the new list of a piece. A pair that is gone from this piece is in others still, with a count that fell: push that as well."""
    return _slip(pieces, n_merges, "new piece")


@learn_merges.mistake
def used_stale_entries(pieces, n_merges):
    """You use entries of the heap whose count is out of date. When one comes out, compare its number with counts[pair]; if they differ, throw it away."""
    return _slip(pieces, n_merges, "stale")


@learn_merges.mistake
def changed_counts_by_one(pieces, n_merges):
    """You change counts by 1 for each piece. A piece stands for times[w] occurrences in the text: add and subtract that."""
    return _slip(pieces, n_merges, "times")


@learn_merges.mistake
def merged_pairs_of_count_0(pieces, n_merges):
    """You merge pairs whose count is 0: they occur nowhere any more, so no pair is left. Push a new count only if it is above 0."""
    return _slip(pieces, n_merges, "zero")


@learn_merges.mistake
def changed_counts_at_each_overlap(pieces, n_merges):
    """In a run such as 1 1 1 you change the counts at both places where the pair seems to be, and only one is merged. Compare the pairs of the old list with those of the new one."""
    return _slip(pieces, n_merges, "overlap")


@learn_merges.mistake
def forgot_the_places(pieces, n_merges):
    """You do not note in `places` which pieces hold the new pairs. When such a pair is merged, no piece is found: places[p].add(w) for the pairs of the new list."""
    return _slip(pieces, n_merges, "places")


@learn_merges.mistake
def ids_from_257(pieces, n_merges):
    """Your first merge makes the id 257. The single bytes use 0 to 255, so it is 256 + k with k counted from 0: look whether you append to `merges` before you use its length."""
    return [tuple(i + (i > 255) for i in pair) for pair in _spoilt(pieces, n_merges)]


@learn_merges.mistake
def only_pairs_seen_twice(pieces, n_merges):
    """You stopped at pairs that occur once. The rule here is to go on until n_merges are made or no pair is left."""
    return _spoilt(pieces, n_merges, least=2)


# ---------------------------------------------------------------------------------------------------------------------
encode_piece = Exercise("gpt2.bpe.encode_piece")


@encode_piece.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    small = {b"t": 0, b"h": 1, b"e": 2, b"he": 3, b"th": 4}
    yield Case("the", piece=b"the", ranks=small)
    yield Case("the, with another table", piece=b"the", ranks=small | {b"he": 4, b"th": 3})
    yield Case("one byte", piece=b"h", ranks=small)
    yield Case("nothing", piece=b"", ranks=small)
    yield Case("no merge is possible", piece=b"eht", ranks=small)
    yield Case("the last two come first", piece=b"tthe", ranks=small)
    nested = {b"bc": 300, b"bcd": 301, b"abcd": 302, b"ab": 303}
    # Single bytes in another order, and gaps between the ids.
    singles = rng.permutation(256).tolist()
    merges = _learn(_counted(rng, "abc", 80, 12), 60)
    ranks = _table(merges, singles, first=300, step=3)
    for word in _words(rng, "abc", 8, 14):
        yield Case("a random word", piece=word.encode(), ranks=ranks)
    shuffled = dict(rng.permutation(np.array(list(ranks.items()), dtype=object)).tolist())
    for word in _words(rng, "abc", 4, 14):
        yield Case("a table in another order", piece=word.encode(), ranks=shuffled)
    yield Case("letters that were never seen", piece=b"abxyzcab", ranks=ranks)
    yield Case("a long token behind a short one", piece=b"abcd", ranks=_table([], range(1, 257)) | nested)
    yield Case("more behind a long token", piece=b"abcda", ranks=_table([], range(1, 257)) | nested)
    yield Case("not UTF-8", piece=b"\xff" + b"ab\x80\xe2abc", ranks=ranks)
    runs = _table(_learn({b"a" * 40: 3, b"a" * 7: 2, b"ba": 9}, 12))
    for n in (5, 11, 23):
        yield Case("a run of one letter", piece=b"a" * n, ranks=runs)
    yield Case("a run behind another letter", piece=b"b" + b"a" * 9, ranks=runs)
    text = rng.choice(list(b"abcd"), size=2_000).astype(np.uint8).tobytes()
    yield Case("2,000 bytes", piece=text, ranks=_table(_learn(_counted(rng, "abcd", 100), 90)))
    large = {bytes([a, b]): 256 + 40 * a + b for a in range(40, 240) for b in range(40)}
    yield Case("a table of 8,256 tokens", piece=b"\xc8\x05d\x1eaB", ranks=_table([]) | large)


def _through_the_table(*_):
    raise _WholeTable


class _WholeTable(BaseException):
    """Somebody goes through all of the table."""


def _few(items):
    """The first few: whoever wants one of them, as tests of types do, does not go through the table."""
    for number, item in enumerate(items):
        if number == 10:
            raise _WholeTable
        yield item


class _Keys:
    """`token in ranks.keys()` is a look-up, too."""

    __reversed__ = _through_the_table

    def __iter__(self):
        return iter(self.table)

    def __init__(self, table):
        self.table = table

    def __contains__(self, token):
        return token in self.table

    def __len__(self):
        return len(self.table)


class _Table(dict):
    """A table in which tokens can only be looked up."""

    def keys(self):
        return _Keys(self)

    def __iter__(self):
        return _few(super().__iter__())

    def items(self):
        return _few(super().items())

    def values(self):
        return _few(super().values())

    copy = __or__ = __ror__ = __reversed__ = popitem = _through_the_table


@encode_piece.observe
def _(obj, piece, ranks):
    if len(ranks) < 2_000:
        return {"piece": piece, "ranks": dict(ranks), "ids": obj(piece, ranks)}
    try:
        return {"piece": piece, "ranks": {}, "ids": obj(piece, _Table(ranks))}
    except _WholeTable:
        return "You go through the whole table for one piece. A table has tens of thousands of tokens, and a text many pieces: only look up what neighbours of this piece make."


@encode_piece.agree
def _(got, expected):
    from groundup.check import compare

    if isinstance(got, str):
        return None if got == expected else got
    if not isinstance(got, dict) or not isinstance(expected, dict):
        return compare(got, expected)
    ours, theirs = got["ids"], expected["ids"]
    difference = compare(ours, theirs)
    if not difference or not isinstance(ours, list) or not isinstance(theirs, list) or len(theirs) > 30:
        return difference
    names = {i: token for token, i in expected["ranks"].items()}
    if not all(isinstance(i, int) and i in names for i in [*ours, *theirs]):
        return difference
    ours, theirs = (" ".join(str(names[i]) for i in ids) for ids in (ours, theirs))
    return f"{difference} These are the tokens {ours}, expected {theirs}." if theirs else difference


@encode_piece.oracle
def _(piece, ranks):
    # tiktoken wants all single bytes; those that are added merge nothing
    table = {bytes([b]): 100_000 + b for b in range(256)} | ranks
    ids = _tiktoken(table)._encode_single_piece(piece) if piece else []
    return {"piece": piece, "ranks": ranks if len(ranks) < 2_000 else {}, "ids": ids}


def _parts(piece):
    return [bytes([byte]) for byte in piece]


def _encode(piece, ranks, choose, names=False):
    """Merges one pair of neighbours after another; `choose` picks from the places where that is possible."""
    parts = _parts(piece)
    while True:
        possible = [i for i in range(len(parts) - 1) if parts[i] + parts[i + 1] in ranks]
        if not possible:
            break
        i = choose(possible, [ranks[parts[i] + parts[i + 1]] for i in possible])
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts if names else [ranks[part] for part in parts]


@encode_piece.mistake
def merged_the_leftmost(piece, ranks):
    """You merge the first neighbours that can be merged. The lowest rank comes first, wherever it stands, as in training; else words that have a token are cut up."""
    return _encode(piece, ranks, lambda places, found: places[0])


@encode_piece.mistake
def merged_the_highest_rank(piece, ranks):
    """You merge the highest rank first. It was learnt last, so it is merged last: take the smallest."""
    parts = _parts(piece)
    while found := [pair for pair in pairwise(parts) if b"".join(pair) in ranks]:
        pair = max(found, key=lambda pair: ranks[b"".join(pair)])
        parts = _merged(parts, pair, b"".join(pair))
    return [ranks[part] for part in parts]


@encode_piece.mistake
def whole_piece_or_leftmost(piece, ranks):
    """You look for the whole piece in the table, and else merge the first neighbours that can be merged. The lowest rank comes first, wherever it stands, as in training."""
    if piece in ranks:
        return [ranks[piece]]
    return _encode(piece, ranks, lambda places, found: places[0])


@encode_piece.mistake
def took_the_longest_token(piece, ranks):
    """You take the longest token that fits, from left to right. That is another method; BPE repeats the merges of training, in their order, and gives other tokens."""
    ids, start = [], 0
    while start < len(piece):
        end = next(e for e in range(len(piece), start, -1) if piece[start:e] in ranks)
        ids.append(ranks[piece[start:end]])
        start = end
    return ids


@encode_piece.mistake
def took_the_order_of_the_dict(piece, ranks):
    """You went through the table in the order in which the dict holds it. The order of the merges is that of the ranks, its values."""
    parts = _parts(piece)
    for token in ranks:
        i = 0
        while i + 1 < len(parts):
            if parts[i] + parts[i + 1] == token:
                parts[i : i + 2] = [token]
            i += 1
    return [ranks[part] for part in parts]


@encode_piece.mistake
def merged_only_one_pair(piece, ranks):
    """You stop after the first pair. A merge makes new neighbours, so look again, until no two neighbours can be merged."""
    parts = _parts(piece)
    joined = [a + b for a, b in pairwise(parts) if a + b in ranks]
    if joined:
        best = min(joined, key=ranks.get)
        parts = _merged(parts, (best[:-1], best[-1:]), best)
    return [ranks[part] for part in parts]


@encode_piece.mistake
def bytes_for_ids(piece, ranks):
    """A byte that was not merged has its own value as id in your result. The table also holds the single bytes, and not always in order: look them up."""
    tokens = _encode(piece, ranks, lambda places, found: places[found.index(min(found))], names=True)
    return [token[0] if len(token) == 1 else ranks[token] for token in tokens]


@encode_piece.mistake
def merged_nothing(piece, ranks):
    """Each byte is still a token of its own: no neighbours were merged."""
    return [ranks[part] for part in _parts(piece)]


@encode_piece.mistake(shape=True)
def tokens_for_ids(piece, ranks):
    """You returned the bytes of the tokens. The model reads numbers: look each one up in `ranks`."""
    return _encode(piece, ranks, lambda places, found: places[found.index(min(found))], names=True)


# ---------------------------------------------------------------------------------------------------------------------
BPETokenizer = Exercise("gpt2.bpe.BPETokenizer", kind="class")
AGAIN = ", once more"


@BPETokenizer.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    end = "<|endoftext|>"
    plain = "hugs hug pug, hug 12 pugs\n\n hug's"

    def case(label, text, vocab_size, special_tokens, texts, damaged=True):
        return Case(
            label,
            text=text,
            vocab_size=vocab_size,
            special_tokens=special_tokens,
            texts=texts,
            damaged=damaged,
        )

    yield case("two merges", "hugs hug", 258, [], ["hug hugs"], damaged=False)
    yield case("no merge", plain, 256, [], ["", "hug", "é€😀"])
    yield case("pieces", plain, 270, [], [plain, "hug  hugs,,hug", " 12'shug"])
    spaces = "x      x\n\n\n\nx      x      hug  hug"
    yield case("more than one space", spaces, 266, [], [spaces, "hug   hug", "\n\n\nx  x "])
    mixed = f"{end}hug{end}{end} pug <s>hugs {end}"
    for special in ([end], [end, "<s>"]):
        yield case("special tokens", plain, 270, special, [mixed, "hug", "", end], damaged=False)
    between = f"hug{end}hug{end}hu"
    yield case("a special token in the text", between, 259, [end], [between])
    words = " ".join(_words(rng, "abcä", 60)) + "é€日本日本😀😀"
    yield case("other scripts", words, 330, ["<x>"], [words, "日<x>本😀ä"])
    yield case("too few pairs", "ab ab", 400, ["<x>"], ["<x>ab abab"], damaged=False)


def _cuts(ids, special) -> list[list[int]]:
    """Ids to decode: the whole, backwards, and ends that fall inside characters."""
    return [ids, ids[::-1], ids[: len(ids) // 2], ids[1:], [*special, 0xE2, 0x82, *ids[:1], 0xFF, *special]]


@functools.cache
def _foreign(text, vocab_size, special_tokens):
    """A table whose single bytes are not in order, as in GPT-2's."""
    right = _Right.train(text, vocab_size, special_tokens)
    return {t: (i * 7 + 33) % 256 if i < 256 else i for t, i in right.ranks.items()}, right.special_tokens


@BPETokenizer.observe
def _(obj, text, vocab_size, special_tokens, texts, damaged):
    tokenizer = obj.train(text, vocab_size, special_tokens)
    seen = {
        "`ranks` after training": dict(tokenizer.ranks),
        "`vocab_size`": tokenizer.vocab_size,
        "`special_tokens`": dict(tokenizer.special_tokens),
    }
    special = list(tokenizer.special_tokens.values())
    for t in texts:
        seen[f"encode({t[:40]!r})"] = plain = tokenizer.encode(t)
        allowed = tokenizer.encode(t, "all")
        if special:
            seen[f"encode({t[:40]!r}, 'all')"] = allowed
            seen[f"encode({t[:40]!r}, {special_tokens[:1]})"] = tokenizer.encode(t, special_tokens[:1])
        if isinstance(plain, list):  # the list is the caller's: what is remembered must not change with it
            seen[f"encode({t[:40]!r})"] = plain = list(plain)
            tokenizer.encode(t).clear()
        seen[f"encode({t[:40]!r}){AGAIN}"] = tokenizer.encode(t)
        if not isinstance(plain, list):
            return seen
        cuts = _cuts(plain, special) + _cuts(allowed, special)
        for ids in cuts if damaged else [plain, allowed]:
            seen[f"decode({ids})"] = tokenizer.decode(ids)
    if not damaged:
        return seen
    ranks, specials = _foreign(text, vocab_size, tuple(special_tokens))
    tokenizer = obj(dict(ranks), dict(specials))
    for t in texts:
        for allowed in ((), "all"):
            ids = tokenizer.encode(t, allowed)
            seen[f"encode({t[:40]!r}, {allowed!r}) with a table from elsewhere"] = ids
            if isinstance(ids, list):
                seen[f"decode({ids}) with a table from elsewhere"] = tokenizer.decode(ids)
    return seen


@BPETokenizer.agree
def _(got, expected):
    from groundup.check import compare

    if not isinstance(got, dict) or not isinstance(expected, dict):
        return compare(got, expected)
    for name in expected:
        if name not in got:
            return f"{name} is missing."
        if difference := compare(got[name], expected[name]):
            first = name.removesuffix(AGAIN)
            if first != name and got.get(first) == expected[first]:
                return f"the first {first[:150]} was right, but its caller changed the list, and the same call then gave another answer: you handed out a list that piece_ids remembers. Begin with a list of your own. The second time {difference}"
            return f"For {name[:150]}: {difference}"
    return None


class _Right:
    """A tokenizer on tiktoken, to be spoilt. Nothing here is written as the lesson writes it."""

    joined = staticmethod(lambda a, b: a + b)

    def __init__(self, ranks, special_tokens):
        self.ranks, self.special_tokens = ranks, special_tokens
        self.vocab_size = len(ranks) + len(special_tokens)
        self.core = _tiktoken(ranks, special_tokens)

    @classmethod
    def train(cls, text, vocab_size, special_tokens=()):
        documents = [text]
        for name in special_tokens:
            documents = [part for document in documents for part in document.split(name)]
        pieces = Counter(piece for document in documents for piece in regex.findall(PATTERN, document))
        merges = _learn({p.encode(): n for p, n in pieces.items()}, vocab_size - 256 - len(special_tokens))
        tokens = [bytes([byte]) for byte in range(256)]
        for a, b in merges:
            tokens.append(cls.joined(tokens[a], tokens[b]))
        ranks = {token: i for i, token in enumerate(tokens)}
        return cls(ranks, {name: len(tokens) + k for k, name in enumerate(special_tokens)})

    def encode(self, text, allowed_special=()):
        allowed = allowed_special if allowed_special == "all" else set(allowed_special)
        return self.core.encode(text, allowed_special=allowed, disallowed_special=())

    def decode(self, ids):
        return self.core.decode(ids)


@BPETokenizer.oracle
def _(text, vocab_size, special_tokens, texts, damaged):
    return BPETokenizer.observe_function(_Right, text, vocab_size, special_tokens, texts, damaged)


@BPETokenizer.mistake
class bytes_for_ids_in_decode(_Right):
    """Your decode takes ids below 256 for bytes. That holds for tables that we train, not for GPT-2's: look up self.token_bytes[i]."""

    def decode(self, ids):
        tokens = [bytes([i]) if i < 256 else self.core.decode_single_token_bytes(i) for i in ids]
        return b"".join(tokens).decode(errors="replace")


@BPETokenizer.mistake
class special_tokens_always(_Right):
    """You read special tokens in every text. Anybody who types one could then end your document: only those in `names` are special in this call."""

    def encode(self, text, allowed_special=()):
        return super().encode(text, "all")


@BPETokenizer.mistake
class special_tokens_never(_Right):
    """The allowed special tokens are read as plain characters. split_special puts them at the odd places of its list; there the id comes from self.special_tokens."""

    def encode(self, text, allowed_special=()):
        return super().encode(text)


@BPETokenizer.mistake
class special_tokens_dropped(_Right):
    """The allowed special tokens are missing from your ids: only the plain parts are there."""

    def encode(self, text, allowed_special=()):
        special = set(self.special_tokens.values())
        return [i for i in super().encode(text, allowed_special) if i not in special]


@BPETokenizer.mistake
class not_cut_into_pieces(_Right):
    """You encoded a part of the text as one piece. Merges then cross from word to word, as they never did in training: cut it with pretokenize first."""

    def encode(self, text, allowed_special=()):
        names = list(self.special_tokens) if allowed_special == "all" else list(allowed_special)
        cut = regex.split("(" + "|".join(map(regex.escape, names)) + ")", text) if names else [text]
        ids = []
        for k, part in enumerate(cut):
            if k % 2:
                ids.append(self.special_tokens[part])
            elif part:
                ids += self.core._encode_single_piece(part)
        return ids


@BPETokenizer.mistake
class decoded_one_by_one(_Right):
    """You decoded each token by itself. A character can be spread over several tokens, and none of them alone is valid UTF-8: join the bytes of all of them, then decode."""

    def decode(self, ids):
        return "".join(self.core.decode([i]) for i in ids)


@BPETokenizer.mistake
class lost_broken_bytes(_Right):
    """Bytes that are no valid UTF-8 vanish from your text. errors="replace" shows a � where something was broken; "ignore" hides it."""

    def decode(self, ids):
        return self.core.decode(ids, errors="ignore")


@BPETokenizer.mistake
class failed_on_broken_bytes(_Right):
    """Your decode raises when the bytes are no valid UTF-8. A model may stop in the middle of a character: decode with errors="replace"."""

    def decode(self, ids):
        return self.core.decode(ids, errors="strict")


@BPETokenizer.mistake(shape=True)
class joined_the_wrong_way_round(_Right):
    """Your merged tokens hold their two parts in the wrong order. The bytes of the pair's first id come first."""

    @classmethod
    def train(cls, text, vocab_size, special_tokens=()):
        right = _Right.train(text, vocab_size, special_tokens)
        tokens = sorted(right.ranks, key=right.ranks.get)
        swapped = tokens[:256]
        for token in tokens[256:]:
            first = next(
                t
                for t in reversed(tokens[: right.ranks[token]])
                if token.startswith(t) and token[len(t) :] in right.ranks
            )
            a, b = right.ranks[first], right.ranks[token[len(first) :]]
            swapped.append(swapped[b] + swapped[a])
        return cls({token: i for i, token in enumerate(swapped)}, right.special_tokens)


# ---------------------------------------------------------------------------------------------------------------------
stream_text = Exercise("gpt2.bpe.stream_text")


@stream_text.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    yield Case("one character in three chunks", chunks=[b"a\xe2", b"\x82", b"\xacb"])
    yield Case("plain text", chunks=[b"To be", b" or", b" not"])
    yield Case("one chunk", chunks=["für".encode()])
    yield Case("the end is missing", chunks=[b"a\xe2", b"\x82"])
    yield Case("four bytes, one by one", chunks=[bytes([b]) for b in "x😀é€".encode()])
    yield Case("no chunk", chunks=[])
    yield Case("empty chunks", chunks=[b"", b"\xc3", b"", b"\xa9", b""])
    yield Case("a byte that starts nothing", chunks=[b"a", b"\xff", b"b", b"\x80c", b"\xac"])
    yield Case(
        "a character broken off by another", chunks=[b"\xe2\x82", b"abc", b"\xf0\x9f", b"\xe2\x82", b"\xac"]
    )
    yield Case("settled at once", chunks=[b"\xe0", b"\x80", b"\xf4", b"\x90", b"z"])
    text = "".join(rng.choice(list("aé€😀 "), size=30)).encode()
    ends = sorted(rng.integers(0, len(text), 15).tolist())
    yield Case("random cuts", chunks=[text[a:b] for a, b in pairwise([0, *ends, len(text)])])
    damaged = (
        rng.choice(list(b"a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\xff"), size=80).astype(np.uint8).tobytes()
    )
    yield Case("random damage", chunks=[damaged[i : i + 2] for i in range(0, 80, 2)])


@stream_text.observe
def _(obj, chunks):
    """Each string with the number of chunks that were taken before it came."""
    taken = 0

    def source():
        nonlocal taken
        for chunk in chunks:
            taken += 1
            yield chunk

    strings = obj(source())
    if strings is None:
        return None
    return [(text, taken) for text in strings]


@functools.cache
def _may_go_on(tail: bytes) -> bool:
    """Can these bytes be the beginning of a character, and not all of it?"""
    ends = [b"\x80", b"\x90", b"\x9f", b"\xa0", b"\xbf"]
    later = [a + b + c for a in ends for b in [b"", *ends] for c in [b"", *ends] if b or not c]
    return any(_is_character(tail + end) for end in later)


def _is_character(data: bytes) -> bool:
    try:
        return len(data.decode()) == 1
    except UnicodeDecodeError:
        return False


def _settled(data: bytes) -> str:
    """The text of `data` without a beginning of a character at its end."""
    for n in (3, 2, 1):
        if len(data) >= n and _may_go_on(data[-n:]):
            return data[:-n].decode(errors="replace")
    return data.decode(errors="replace")


@stream_text.oracle
def _(chunks):
    shown, data, out = "", b"", []
    for taken, chunk in enumerate(chunks, start=1):
        data += chunk
        text = _settled(data)
        out.append((text[len(shown) :], taken))
        shown = text
    if rest := data.decode(errors="replace")[len(shown) :]:
        out.append((rest, len(chunks)))
    return out


@stream_text.agree
def _(got, expected):
    from groundup.check import compare

    if isinstance(got, list) and isinstance(expected, list):
        texts = [[text for text, _ in seen] for seen in (got, expected)]
        if difference := compare(*texts):
            return difference
        if got != expected:
            return "Your strings are right, but they come too late: hand each one out, with yield, before you take the next chunk."
        return None
    return compare(got, expected)


@stream_text.property
def streams_do_not_mix(obj, chunks):
    """Two streams that run at the same time disturb each other: bytes kept for one came out in the other. Each call needs a decoder of its own."""
    if not chunks:
        return True
    alone = list(obj(chunks))
    other = obj([b"\xe2", *chunks])
    next(other)  # one byte of a character is waiting in this stream
    return list(obj(chunks)) == alone


@stream_text.mistake
def each_chunk_by_itself(chunks):
    """You decoded each chunk by itself, so a character that is spread over two chunks becomes two �. Keep the unfinished bytes for the next chunk: one decoder for all."""
    for chunk in chunks:
        yield chunk.decode(errors="replace")


@stream_text.mistake
def lost_the_unfinished(chunks):
    """You decoded each chunk by itself and dropped what is not complete. Keep the unfinished bytes for the next chunk: one decoder for all."""
    for chunk in chunks:
        yield chunk.decode(errors="ignore")


@stream_text.mistake
def nothing_after_the_last(chunks):
    """Bytes that are left at the end vanish. Ask the decoder once more, with final=True, and yield what it gives up as �."""
    return _kept(chunks, last=False)


@stream_text.mistake
def always_one_more(chunks):
    """You yield one string more at the end even if nothing is left. Look first whether it is empty."""
    return _kept(chunks, empty_last=True)


@stream_text.mistake
def one_bad_byte_stops_all(chunks):
    """After a byte that can never become a character, your text stops until the end. Such a byte is � at once, and the stream goes on."""
    data = b""
    for chunk in chunks:
        data += chunk
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            good, data = data[: error.start], data[error.start :]
            yield good.decode()
        else:
            data = b""
            yield text
    if data:
        yield data.decode(errors="replace")


@stream_text.mistake
def all_or_nothing(chunks):
    """As soon as the last bytes are no whole character, you keep back all of the chunk, also the characters before them. Those are settled: hand them out, and keep only the unfinished bytes."""
    data = b""
    for chunk in chunks:
        data += chunk
        try:
            text, data = data.decode(), b""
        except UnicodeDecodeError:
            text = ""
        yield text
    if data:
        yield data.decode(errors="replace")


@stream_text.mistake
def broken_bytes_vanish(chunks):
    """Bytes that are no valid UTF-8 vanish. The decoder must be made with errors="replace", which shows them as �."""
    import codecs

    decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")
    for chunk in chunks:
        yield decoder.decode(chunk)


@stream_text.mistake
def all_at_the_end(chunks):
    """You waited for all chunks before you gave the first string. The reader wants to see each one as soon as it is there: yield inside the loop."""
    yield b"".join(chunks).decode(errors="replace")


@stream_text.mistake
def empty_strings_left_out(chunks):
    """You leave out the empty strings. There is one string for each chunk, so that the caller knows which token it belongs to."""
    for text in _kept(chunks):
        if text:
            yield text


def _kept(chunks, last=True, empty_last=False):
    """The right strings, with another end."""
    shown, data = "", b""
    for chunk in chunks:
        data += chunk
        text = _settled(data)
        yield text[len(shown) :]
        shown = text
    rest = data.decode(errors="replace")[len(shown) :]
    if empty_last or (last and rest):
        yield rest
