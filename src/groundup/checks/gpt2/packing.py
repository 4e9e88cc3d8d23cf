"""Checks for the lesson gpt2.packing."""

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from groundup.check import Case, Exercise

PRIME = 2**31 - 1


# ---------------------------------------------------------------------------------------------------------------------
pack = Exercise("gpt2.packing.pack", seconds=10)


@pack.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def documents(*lengths):
        return [rng.integers(1, 90, size=n).tolist() for n in lengths]

    yield Case("two documents that fill one row", documents=documents(2, 3), block_size=5)
    yield Case("the page's lengths", documents=documents(3, 2, 4, 3), block_size=6)
    yield Case("one short document", documents=documents(3), block_size=7)
    yield Case("each fills a row", documents=documents(4, 4, 4), block_size=4)
    # after 12 | 10 9 the rows have room 8 and 1: the 1 goes to row 0 by first fit, to row 1 by best fit
    yield Case("several rows have room", documents=documents(9, 1, 12, 10), block_size=20)
    yield Case("equal lengths keep their order", documents=documents(3, 5, 3, 5, 3, 3, 5), block_size=9)
    yield Case("documents of one token", documents=documents(1, 4, 1, 1, 2), block_size=4)
    mixed = [int(n) for n in rng.integers(1, 14, size=23)]
    twins = [[0, 50_256, 0], [7], [0, 50_256, 0], [7], [7], [0, 0]]
    yield Case("equal documents, and token 0", documents=twins, block_size=5)
    yield Case("many lengths", documents=documents(*mixed), block_size=13)
    yield Case("rows with much room", documents=documents(*mixed[:9], 13, 12), block_size=40)
    yield Case("no documents", documents=[], block_size=5)
    yield Case("a document too long", documents=documents(2, 6), block_size=5)


@pack.oracle
def _(documents, block_size):
    if any(len(document) > block_size for document in documents):
        raise ValueError
    order = sorted((-len(document), k) for k, document in enumerate(documents))
    table = []  # rows of (token, document, position)
    for _, k in order:
        cells = [(token, k, place) for place, token in enumerate(documents[k])]
        fits = [row for row in table if len(row) + len(cells) <= block_size]
        if not fits:
            table.append([])
        (fits or table[-1:])[0].extend(cells)
    table = [row + [(0, -1, 0)] * (block_size - len(row)) for row in table]
    numbers = np.array(table, dtype=np.int64).reshape(len(table), block_size, 3)
    return tuple(torch.tensor(numbers[..., k]) for k in range(3))


def _first_fit(room, length):
    return next((row for row in range(len(room)) if room[row] >= length), None)


def _packed(
    documents, block_size, *, choose=_first_fit, descending=True, stable=True, restart=True, empty=-1
):
    lengths = [len(document) for document in documents]
    if max(lengths, default=0) > block_size:
        raise ValueError(f"a document of {max(lengths)} tokens in rows of {block_size}")
    order = list(range(len(documents)))
    if descending:
        order = sorted(order, key=lambda k: (-lengths[k], k if stable else -k))
    rows, room = [], []
    for k in order:
        row = choose(room, lengths[k])
        if row is None:
            row = len(rows)
            rows.append([])
            room.append(block_size)
        rows[row].append(k)
        room[row] -= lengths[k]
    tokens = torch.zeros(len(rows), block_size, dtype=torch.long)
    document_ids, positions = torch.full_like(tokens, empty), torch.zeros_like(tokens)
    for row, numbers in enumerate(rows):
        start = 0
        for k in numbers:
            stop = start + lengths[k]
            tokens[row, start:stop] = torch.tensor(documents[k])
            document_ids[row, start:stop] = k
            positions[row, start:stop] = torch.arange(lengths[k]) + (0 if restart else start)
            start = stop
    return tokens, document_ids, positions


@pack.mistake
def positions_run_on(documents, block_size):
    """Your positions run on through the row. A document that runs alone starts at position 0, so each document in a row must too."""
    return _packed(documents, block_size, restart=False)


@pack.mistake
def in_the_given_order(documents, block_size):
    """You took the documents as they came. Long ones first: a long one that comes late finds no room, while short ones fill gaps."""
    return _packed(documents, block_size, descending=False)


@pack.mistake
def shortest_first(documents, block_size):
    """You went from the shortest to the longest. The other way round: `sorted` puts small keys first, so the key is minus the length."""
    _packed(documents, block_size)
    order = sorted(range(len(documents)), key=lambda k: len(documents[k]))
    tokens, ids, positions = _packed([documents[k] for k in order], block_size, descending=False)
    return tokens, torch.tensor([*order, -1])[ids], positions


@pack.mistake
def only_the_last_row(documents, block_size):
    """You looked for room only in the newest row. An earlier row may still have room: take the first that has."""
    return _packed(
        documents, block_size, choose=lambda room, n: len(room) - 1 if room and room[-1] >= n else None
    )


@pack.mistake
def the_tightest_row(documents, block_size):
    """You put a document into the row where the least room is left over. That is best fit; first fit takes the first row with room."""

    def tightest(room, n):
        return min((r for r in range(len(room)) if room[r] >= n), key=lambda r: room[r], default=None)

    return _packed(documents, block_size, choose=tightest)


@pack.mistake
def never_quite_full(documents, block_size):
    """You leave a document out of a row that it would fill to the last place. Room that is just as large as the document is enough."""
    return _packed(documents, block_size, choose=lambda room, n: _first_fit(room, n + 1))


@pack.mistake
def ties_reversed(documents, block_size):
    """You turned the order of documents of equal length around, as sorting and then reversing does. They keep the order in which they were given."""
    return _packed(documents, block_size, stable=False)


@pack.mistake
def numbered_in_the_row(documents, block_size):
    """You numbered the documents within each row. The id is the document's place in `documents`, so that it can be found again."""
    tokens, ids, positions = _packed(documents, block_size)
    starts = (positions == 0) & (ids >= 0)
    return tokens, torch.where(ids >= 0, starts.long().cumsum(dim=1) - 1, ids), positions


@pack.mistake
def empty_places_belong_to_document_0(documents, block_size):
    """Your empty places have the id 0, which is the id of a document. They must keep -1."""
    return _packed(documents, block_size, empty=0)


# ---------------------------------------------------------------------------------------------------------------------
block_diagonal_mask = Exercise("gpt2.packing.block_diagonal_mask")


@block_diagonal_mask.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def ids(*rows):
        return torch.tensor(rows)

    yield Case("two documents", document_ids=ids([0, 0, 1]))
    yield Case("each token a document", document_ids=ids([4, 2, 9], [1, 0, 3]))
    yield Case("one document in each row", document_ids=ids([6, 6, 6], [1, 1, 1]))
    yield Case("rows of no places", document_ids=torch.zeros(2, 0, dtype=torch.long))
    yield Case("padding at the end", document_ids=ids([4, 4, 2, 2, 2, -1, -1]))
    yield Case(
        "rows that differ", document_ids=ids([3, 3, 0, 0, 0, 0], [1, 2, 2, 2, -1, -1], [5, 5, 5, 5, 5, 5])
    )
    large = 2**40
    yield Case("large ids", document_ids=ids([large, large, large + 1], [3, large + 3, large + 3]))
    yield Case("ids that fall", document_ids=ids([9, 5, 5, 1, 1], [8, 8, 8, 0, -1]))
    yield Case("one row without a batch", document_ids=ids([2, 2, 7, 7, 7, -1])[0])
    runs = torch.tensor(rng.permutation(40).reshape(4, 10)).repeat_interleave(
        torch.tensor(rng.integers(1, 4, size=10)), dim=1
    )
    yield Case("four long rows", document_ids=runs)
    yield Case("a document that goes on later", document_ids=ids([1, 1, 6, 6, 1, 1], [0, 3, 0, 3, 3, 0]))
    yield Case(
        "as many rows as places", document_ids=ids([0, 0, 4, 4], [1, 1, 1, 1], [2, 5, 5, 5], [3, 3, 3, -1])
    )


@block_diagonal_mask.oracle
def _(document_ids):
    rows = (document_ids if document_ids.dim() > 1 else document_ids[None]).tolist()
    table = [
        [[s <= t and row[s] == row[t] for s in range(len(row))] for t in range(len(row))] for row in rows
    ]
    return torch.tensor(table, dtype=torch.bool).reshape(*document_ids.shape, document_ids.shape[-1])


@block_diagonal_mask.property
def lands_where_the_ids_are(obj, document_ids):
    """A tensor that you make lands where torch makes tensors by default. With the ids on a GPU that fails: give `device=document_ids.device`."""
    with torch.device("meta"):
        return obj(document_ids).device == document_ids.device


def _same(document_ids):
    return document_ids[..., :, None] == document_ids[..., None, :]


def _causal(document_ids):
    T = document_ids.shape[-1]
    return torch.ones(T, T, dtype=torch.bool, device=document_ids.device).tril()


@block_diagonal_mask.mistake
def saw_the_future(document_ids):
    """Your mask lets a place attend to later places of its document, where the answers stand. Only s ≤ t is allowed."""
    return _same(document_ids)


@block_diagonal_mask.mistake
def no_walls(document_ids):
    """Your mask is causal, but it does not keep the documents apart: both places must have the same id."""
    return _causal(document_ids).expand(*document_ids.shape, -1)


@block_diagonal_mask.mistake
def upper_triangle(document_ids):
    """Your mask is turned over: places see what comes after them instead of before. Rows attend, columns are attended to."""
    return _same(document_ids).triu()


@block_diagonal_mask.mistake
def not_even_itself(document_ids):
    """A place may attend to itself: s = t is allowed. Without it the first place of each document has nothing at all, and softmax gives nan."""
    return _same(document_ids).tril(-1)


@block_diagonal_mask.mistake
def may_look_back(document_ids):
    """You compared the ids by size. A document may not look into another one, whichever has the larger number: only equal ids may attend."""
    return (document_ids[..., :, None] >= document_ids[..., None, :]).tril()


@block_diagonal_mask.mistake
def padding_sees_nothing(document_ids):
    """You allow padding nothing at all, so softmax divides 0 by 0 there, and nan spreads over all gradients. Padding follows the same rule as a document."""
    return _same(document_ids).tril() & (document_ids >= 0)[..., :, None]


@block_diagonal_mask.mistake
def either_is_enough(document_ids):
    """You joined the two conditions with "or". A place must be not later and in the same document."""
    return _same(document_ids) | _causal(document_ids)


@block_diagonal_mask.mistake(shape=True)
def as_numbers(document_ids):
    """Your mask holds numbers. It must be of type bool: a mask of numbers means something else to many functions."""
    return _same(document_ids).tril().float()


# ---------------------------------------------------------------------------------------------------------------------
minhash_signature = Exercise("gpt2.packing.minhash_signature")


@minhash_signature.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def functions(k):
        return {"a": rng.integers(1, PRIME, size=k), "b": rng.integers(PRIME, size=k)}

    yield Case(
        "three items, two small functions", items=np.array([5, 1, 9]), a=np.array([2, 3]), b=np.array([1, 4])
    )
    zero = np.zeros(2, dtype=np.int64)
    yield Case("offsets of 0", items=np.array([0, 4, 9]), a=np.array([1, 5]), b=zero)
    yield Case("one item", items=rng.integers(PRIME, size=1), **functions(3))
    yield Case("large numbers", items=rng.integers(PRIME // 2, PRIME, size=6), **functions(4))
    yield Case("more items than functions", items=rng.integers(PRIME, size=40), **functions(5))
    yield Case("more functions than items", items=rng.integers(PRIME, size=4), **functions(33))
    yield Case("as many as functions", items=rng.integers(PRIME, size=6), **functions(6))
    yield Case("one function", items=rng.integers(PRIME, size=9), **functions(1))
    edge = {"a": np.array([PRIME - 1, PRIME - 2]), "b": np.array([PRIME - 1, PRIME - 3])}
    yield Case("the largest numbers of all", items=np.array([PRIME - 1, PRIME - 5]), **edge)
    # (a x + b) is exactly PRIME for the item 2, so the remainder 0 wins
    yield Case(
        "a value that is PRIME itself",
        items=np.array([7, 2, 30]),
        a=np.array([3, 5]),
        b=np.array([PRIME - 6, 8]),
    )
    yield Case("a thousand items", items=rng.integers(PRIME, size=1000), **functions(64))


@minhash_signature.oracle
def _(items, a, b):
    least = [
        min((f * x + g) % PRIME for x in items.tolist()) for f, g in zip(a.tolist(), b.tolist(), strict=True)
    ]
    return np.array(least, dtype=np.int64)


def _values(items, a, b):
    return (a[:, None] * items + b[:, None]) % PRIME


@minhash_signature.mistake
def remainder_after_the_minimum(items, a, b):
    """You took the minimum first and the remainder after it. Without the remainder nothing is shuffled: each function then prefers the smallest item."""
    return (a[:, None] * items + b[:, None]).min(axis=1) % PRIME


@minhash_signature.mistake
def forgot_the_offset(items, a, b):
    """You left out the offsets b: the value is a·x + b."""
    return (a[:, None] * items % PRIME).min(axis=1)


@minhash_signature.mistake
def offset_after_the_remainder(items, a, b):
    """You added b after the remainder, so it moves all values alike and shuffles nothing. It belongs inside of the remainder."""
    return (a[:, None] * items % PRIME + b[:, None]).min(axis=1)


@minhash_signature.mistake
def took_the_largest(items, a, b):
    """You took the largest value of each function. The signature holds the smallest."""
    return _values(items, a, b).max(axis=1)


@minhash_signature.mistake
def which_item_came_first(items, a, b):
    """You returned the place of the item that came first in the array. The order in which a set is stored means nothing: keep the smallest value itself."""
    return _values(items, a, b).argmin(axis=1)


@minhash_signature.mistake
def remainder_by_a_power_of_two(items, a, b):
    """You took the remainder by 2 to the power 31. The prime is one less, `PRIME`."""
    return ((a[:, None] * items + b[:, None]) % 2**31).min(axis=1)


@minhash_signature.mistake(shape=True)
def over_the_functions(items, a, b):
    """You have one number for each item. The minimum goes over the items, and leaves one number for each function."""
    return _values(items, a, b).min(axis=0)


@minhash_signature.mistake(shape=True)
def one_minimum_for_all(items, a, b):
    """You took one minimum over everything. Each function has its own: the result has the shape (k,)."""
    return _values(items, a, b).min()


# ---------------------------------------------------------------------------------------------------------------------
candidate_pairs = Exercise("gpt2.packing.candidate_pairs")


@candidate_pairs.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def alike(n, k, values=PRIME, share=0.5):
        """Signatures in which each text copies about this share of an earlier one's numbers."""
        table = rng.integers(values, size=(n, k))
        for row in range(1, n):
            other, same = table[rng.integers(row)], rng.random(k) < share
            table[row] = np.where(same, other, table[row])
        return table

    yield Case("the page's three", signatures=np.array([[1, 2, 3, 4], [9, 9, 3, 4], [3, 4, 1, 2]]), bands=2)
    yield Case("one band: all must agree", signatures=np.array([[5, 6, 7], [5, 6, 8], [5, 6, 7]]), bands=1)
    yield Case("as many bands as numbers", signatures=alike(7, 5, share=0.3), bands=5)
    yield Case("three equal texts", signatures=alike(3, 6)[[0, 1, 0, 2, 0]], bands=3)
    yield Case("few values, in all places", signatures=rng.integers(3, size=(9, 6)), bands=3)
    yield Case("bands of four", signatures=alike(20, 12, share=0.75), bands=3)
    yield Case("many bands of two", signatures=alike(15, 16, share=0.6), bands=8)
    # numbers that look alike when they are written one after the other
    yield Case(
        "1, 23 and 12, 3", signatures=np.array([[1, 23, 4, 5], [12, 3, 45, 6], [1, 23, 7, 8]]), bands=2
    )
    # equal as sets, as sums, up to the order
    yield Case(
        "the same numbers in another order",
        signatures=np.array([[2, 7, 5, 1], [7, 2, 1, 5], [4, 5, 5, 1]]),
        bands=2,
    )
    yield Case("nobody agrees", signatures=np.arange(24).reshape(6, 4), bands=2)
    yield Case("one text", signatures=alike(1, 4), bands=2)
    many = rng.integers(PRIME, size=(16_000, 4))
    many[1::40, 1:] = many[::40, 1:]
    yield Case("16,000 texts, too many to compare in pairs", signatures=many, bands=2)


@candidate_pairs.oracle
def _(signatures, bands):
    signatures = np.asarray(signatures)
    r = signatures.shape[1] // bands
    pairs = set()
    for start in range(0, signatures.shape[1], r):
        _, group = np.unique(signatures[:, start : start + r], axis=0, return_inverse=True)
        group = group.reshape(-1)
        for shared in np.flatnonzero(np.bincount(group) > 1):
            pairs.update(itertools.combinations(np.flatnonzero(group == shared).tolist(), 2))
    return _listed(pairs)


def _listed(pairs):
    """A set of pairs as a sorted list that shows its types."""
    if not isinstance(pairs, set):
        return f"a {type(pairs).__name__} instead of a set"
    wrong = [pair for pair in pairs if not isinstance(pair, tuple) or [type(i) for i in pair] != [int, int]]
    if wrong:
        return f"{wrong[0]!r} instead of a tuple of two Python ints"
    return sorted(pairs)


@candidate_pairs.observe
def _(obj, signatures, bands):
    return _listed(obj(signatures, bands))


@candidate_pairs.agree
def _(got, expected):
    if got == expected:
        return None
    if isinstance(got, str) or isinstance(expected, str):
        return f"Your function returned {got}" if isinstance(got, str) else f"Expected {expected}"
    missing, extra = sorted(set(expected) - set(got)), sorted(set(got) - set(expected))
    if missing:
        return f"{len(missing)} of {len(expected)} pairs are missing, such as {missing[0]}"
    return f"{len(extra)} pairs should not be there, such as {extra[0]}"


def _bucketed(
    signatures, bands, *, key=lambda rows: tuple(rows.tolist()), width=None, shared=False, last=False
):
    pairs, buckets = set(), {}
    k = signatures.shape[1]
    width = width or k // bands
    for start in range(0, k - width + 1, width):
        if not shared:
            buckets = {}
        for j, rows in enumerate(signatures[:, start : start + width]):
            others = buckets.setdefault(key(rows), [])
            pairs.update((i, j) for i in (others[-1:] if last else others))
            others.append(j)
    return pairs


@candidate_pairs.mistake
def one_dict_for_all_bands(signatures, bands):
    """You used one dict for all bands, so rows of one band meet rows of another. Each hash function is comparable only with itself: a new dict for each band."""
    return _bucketed(signatures, bands, shared=True)


@candidate_pairs.mistake
def bands_and_rows_exchanged(signatures, bands):
    """You made bands of `bands` rows each. `bands` is how many bands there are; each has k / bands rows."""
    return _bucketed(signatures, bands, width=bands)


@candidate_pairs.mistake
def one_row_is_enough(signatures, bands):
    """You made candidates of texts that agree in one single row. They must agree in all rows of a band; a single row agrees too easily."""
    return _bucketed(signatures, signatures.shape[1])


@candidate_pairs.mistake
def all_bands_must_agree(signatures, bands):
    """You kept only pairs that agree in every band. One band is enough."""
    return _bucketed(signatures, 1)


@candidate_pairs.mistake
def only_neighbours_in_a_bucket(signatures, bands):
    """In a bucket of three or more you paired each text only with the one before it. All of them agree with each other: every pair is a candidate."""
    return _bucketed(signatures, bands, last=True)


@candidate_pairs.mistake
def order_within_a_band_lost(signatures, bands):
    """You compared a band's rows without their order, as a sorted list, a set or a sum does. Each row has a hash function of its own: place by place."""
    return _bucketed(signatures, bands, key=lambda rows: tuple(sorted(rows.tolist())))


@candidate_pairs.mistake
def glued_together(signatures, bands):
    """You wrote the numbers of a band one after the other without anything between them, so 1, 23 and 12, 3 look alike. A tuple keeps them apart."""
    return _bucketed(signatures, bands, key=lambda rows: "".join(map(str, rows.tolist())))


# ---------------------------------------------------------------------------------------------------------------------
packed_attention = Exercise("gpt2.packing.packed_attention")


@packed_attention.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, ids, n_head, d, dtype=torch.float32):
        shape = len(ids), n_head, len(ids[0]), d
        q, k, v = (torch.tensor(rng.normal(size=shape), dtype=dtype) for _ in range(3))
        return Case(label, q=q, k=k, v=v, document_ids=torch.tensor(ids))

    yield case("one row, two documents", [[0, 0, 1]], 1, 2, torch.float64)
    rows = [[3, 3, 3, 0, 0, 0, 0], [1, 1, 2, 2, 2, -1, -1]]
    yield case("two rows, three heads, padding", rows, 3, 4)
    yield case("two rows, two heads", rows, 2, 5)
    yield case("three rows, two heads", [[5, 5, 4, 4, 4], [1, 2, 2, 2, 2], [0, 0, 0, 3, -1]], 2, 3)
    yield case("three rows, one head", [[5, 5, 4, 4, 4], [1, 2, 2, 2, 2], [0, 0, 0, 3, -1]], 1, 6)
    yield case("one row, four heads, float64", [[9, 9, 9, 2, 2, 6]], 4, 3, torch.float64)
    yield case("rows of one place", [[2], [0]], 2, 3)
    yield case("bfloat16", rows, 2, 4, torch.bfloat16)
    empty = {x: torch.zeros(0, 2, 3, 4) for x in "qkv"}
    yield Case("no rows", **empty, document_ids=torch.zeros(0, 3, dtype=torch.long))


def _attended(q, k, v, allowed, scale=None):
    """Attention written out; allowed: bool, broadcasts to the scores."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = torch.einsum("bhtd,bhsd->bhts", q, k) * scale
    return torch.einsum("bhts,bhsd->bhtd", scores.masked_fill(~allowed, -torch.inf).softmax(dim=-1), v)


def _allowed(document_ids):
    return (_same(document_ids) & _causal(document_ids))[:, None]


def _look(attention, q, k, v, document_ids):
    inputs = [x.detach().clone().requires_grad_() for x in (q, k, v)]
    out = attention(*inputs, document_ids)
    if not isinstance(out, torch.Tensor) or out.shape != q.shape or not len(out):
        return {"output": out}
    weight = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).reshape(out.shape)
    if not out.requires_grad:
        return {"output": out, "gradients": "none: the output does not depend on q, k and v"}
    slopes = torch.autograd.grad((out * weight).sum(), inputs)
    return {"output": out.detach()} | {
        f"gradient of {x}": slope for x, slope in zip("qkv", slopes, strict=True)
    }


@packed_attention.observe
def _(obj, q, k, v, document_ids):
    return _look(obj, q, k, v, document_ids)


@packed_attention.oracle
def _(q, k, v, document_ids):
    wide = [x.double() for x in (q, k, v)]
    seen = _look(lambda *inputs: _attended(*inputs[:3], _allowed(inputs[3])), *wide, document_ids)
    return {name: value.to(q.dtype) for name, value in seen.items()}


class _Spy(TorchFunctionMode):
    """Counts the calls of the fused attention, by whatever name it was imported."""

    calls = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.calls += func is F.scaled_dot_product_attention
        return func(*args, **(kwargs or {}))


@packed_attention.property
def calls_the_fused_function(obj, q, k, v, document_ids):
    """The numbers are right, but PyTorch's fused function did not compute them: call `F.scaled_dot_product_attention`, so that no weights are written to memory."""
    with _Spy() as spy:
        obj(q, k, v, document_ids)
    return spy.calls > 0 or not len(q)


@packed_attention.mistake
def added_ones_and_zeros(q, k, v, document_ids):
    """Your mask holds floats, 1 where attending is allowed and 0 elsewhere, and is added to the scores. It forbids nothing: everyone reads the future and the neighbours."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=_allowed(document_ids).to(q.dtype))


@packed_attention.mistake
def causal_only(q, k, v, document_ids):
    """Your attention is causal, but it reads the documents to the left as well. The mask must keep the documents of a row apart."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


@packed_attention.mistake
def mask_upside_down(q, k, v, document_ids):
    """Your mask is turned over: it says True where attending is forbidden. In this function True means allowed."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=~_allowed(document_ids))


@packed_attention.mistake
def masks_of_other_rows(q, k, v, document_ids):
    """Your mask has no axis for the heads, so the axis of the rows meets the heads. With one row, or as many rows as heads, it runs, and head h gets the mask of row h."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=_allowed(document_ids)[:, 0])


@packed_attention.mistake
def whole_documents(q, k, v, document_ids):
    """Your documents are apart, but a place reads what comes after it in its own document."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=_same(document_ids)[:, None])


@packed_attention.mistake
def mask_of_the_first_row(q, k, v, document_ids):
    """You used the first row's mask for all rows. Each row is packed in its own way."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=_allowed(document_ids)[:1])
