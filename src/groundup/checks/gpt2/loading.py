"""Checks for the lesson gpt2.loading.

The shards are watched as they come: what was read of the documents by then counts too. The joined shards are given
arrays that write down what is read of them. The prefetcher runs with a real thread: each call that might wait for ever
is made in a helper thread with a time limit, and whatever thread is left in the end is freed.
"""

import contextlib
import ctypes
import itertools
import queue
import sys
import threading
import time
import weakref
from array import array
from collections.abc import Iterator

import numpy as np

from groundup.check import Case, Exercise, compare

token_shards = Exercise("gpt2.loading.token_shards", seconds=4.0)
ShardedTokens = Exercise("gpt2.loading.ShardedTokens", kind="class")
produce = Exercise("gpt2.loading.produce")
Prefetcher = Exercise("gpt2.loading.Prefetcher", kind="class", seconds=30.0)


def _told(sentences):
    """An `agree` that says `sentences[name]` where the observation `name` differs, and else compares the rest."""

    def agree(got, expected):
        if not isinstance(got, dict) or not isinstance(expected, dict):
            return compare(got, expected) and str(got)
        for name in expected:
            if difference := compare(got.get(name), expected[name]):
                said = sentences.get(name)
                return said.format(got.get(name), expected[name]) if said else f"{name}: {difference}"
        return None

    return agree


# -- shards of tokens ----------------------------------------------------------------------------------


@token_shards.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, lengths, shard_size, *, extra=None, breaks=None):
        documents = [rng.integers(1, 65_536, size=n).tolist() for n in lengths]
        if extra is not None:
            documents[-1][-1] = extra
        end = int(rng.integers(40_000, 65_536))
        return Case(label, documents=documents, end_of_text=end, shard_size=shard_size, breaks=breaks)

    yield case("two documents in a shard", [3, 2], 10)
    yield case("a document goes on in the next shard", [3, 4, 2], 5)
    yield case("a document fills several shards", [2, 17, 3], 4)
    yield case("the last shard comes out full", [2, 4, 1], 5)
    yield case("each document fills its shards", [4, 9, 4], 5)
    yield case("empty documents", [3, 0, 0, 2, 0], 4)
    yield case("shards of one token", [2, 1], 1)
    yield case("one document", [6], 4)
    yield case("no document", [], 3)
    yield case("a stream of many", rng.integers(0, 30, size=60).tolist(), 37)
    yield case("a token that does not fit into uint16", [4, 5], 5, extra=65_541)
    yield case("a long document in small shards", [5, 20_000, 4], 3)
    yield case("the stream breaks off after three documents", [5, 2, 4, 6, 3], 4, breaks=3)


@token_shards.observe
def _(obj, documents, end_of_text, shard_size, breaks):
    read = []

    def stream():
        for k in range(len(documents)):
            if k == breaks:
                raise ConnectionResetError("the network is gone")
            read.append(k)
            yield str(k)

    def encode(document):
        return list(documents[int(document)])

    shards, moments, ended = [], [], "quietly"
    try:
        made = obj(stream(), encode=encode, end_of_text=end_of_text, shard_size=shard_size)
        for shard in itertools.islice(made, 1_000_000):
            if not isinstance(shard, np.ndarray):
                return f"You must yield NumPy arrays, not a {type(shard).__name__}."
            if shard.ndim != 1:
                return f"Each shard must have one axis; yours has the shape {shard.shape}."
            shards.append(shard)
            moments.append(len(read))
    except ConnectionResetError:
        ended = "with the stream's error"
    return {
        "ended": ended,
        "lengths": np.array([len(shard) for shard in shards], dtype=np.int64),
        "types": sorted({str(shard.dtype) for shard in shards}),
        "tokens": np.concatenate(shards) if shards else None,
        "moments": np.array(moments, dtype=np.int64),
        "documents": len(read),
    }


@token_shards.oracle
def _(documents, end_of_text, shard_size, breaks):
    documents, row, ends = documents[:breaks], [], []
    for document in documents:
        row = [*row, *document, end_of_text] if len(document) < 1000 else row + document + [end_of_text]
        ends.append(len(row))
    if row and max(row) > 65_535:
        raise OverflowError("unsigned short is greater than maximum")
    if breaks is not None:  # only what was full by then
        row = row[: len(row) // shard_size * shard_size]
    places = np.arange(0, len(row), shard_size)
    filled = np.minimum(places + shard_size, len(row))
    moments = np.searchsorted(ends, filled, side="left") + 1 if ends else np.zeros(0)
    if len(row) % shard_size:
        moments[-1] = len(documents)
    return {
        "ended": "quietly" if breaks is None else "with the stream's error",
        "lengths": (filled - places).astype(np.int64),
        "types": ["uint16"] if row else [],
        "tokens": np.array(row, dtype=np.uint16) if row else None,
        "moments": moments.astype(np.int64),
        "documents": len(documents),
    }


token_shards.agree(
    _told(
        {
            "ended": "The stream broke off, and your generator ended {0}; it should end {1}. Half a text must not "
            "look like a whole one.",
            "types": "Your shards are of the types {0}, not uint16: 2 bytes for each token.",
            "moments": "You yield a shard too late, when more documents were read than it needs. A stream may be "
            "larger than memory: yield each shard as soon as it is full.",
        }
    )
)


def _cut(waiting, shard_size):
    return [waiting[k : k + shard_size] for k in range(0, len(waiting), shard_size)]


def _shards(documents, encode, end, shard_size, *, rest=True, to_array=None, late_end=False):
    """Right, unless told otherwise."""
    to_array = to_array or (lambda ids: np.array(array("H", ids), dtype=np.uint16))
    waiting, first = [], True
    for document in documents:
        if late_end and not first:
            waiting.append(end)
        first = False
        waiting = waiting + encode(document) + ([] if end is None or late_end else [end])
        full = len(waiting) // shard_size * shard_size
        yield from map(to_array, _cut(waiting[:full], shard_size))
        waiting = waiting[full:]
    if rest and waiting:
        yield to_array(waiting)


@token_shards.mistake
def no_end_of_text(documents, *, encode, end_of_text, shard_size):
    """You leave out end_of_text. The model then cannot see where a document ends and another begins. It follows every document."""
    return _shards(documents, encode, None, shard_size)


@token_shards.mistake
def no_end_after_the_last(documents, *, encode, end_of_text, shard_size):
    """You put end_of_text between the documents only. It follows the last one too: a model that never sees that end goes on for ever there."""
    return _shards(documents, encode, end_of_text, shard_size, late_end=True)


@token_shards.mistake
def the_rest_is_lost(documents, *, encode, end_of_text, shard_size):
    """What fills no whole shard at the end is lost. After the last document, yield what is still waiting."""
    return _shards(documents, encode, end_of_text, shard_size, rest=False)


@token_shards.mistake
def an_empty_last_shard(documents, *, encode, end_of_text, shard_size):
    """Your last shard may be empty. Where the tokens come out even, or there are none, nothing is waiting: yield nothing."""
    waiting = array("H")
    for document in documents:
        waiting.extend([*encode(document), end_of_text])
        full = len(waiting) // shard_size * shard_size
        for ids in _cut(waiting[:full], shard_size):
            yield np.array(ids, dtype=np.uint16)
        waiting = waiting[full:]
    yield np.array(waiting, dtype=np.uint16)


@token_shards.mistake
def each_document_on_its_own(documents, *, encode, end_of_text, shard_size):
    """You begin a new shard with each document, so many are short. A shard does not care for documents: keep what is left, and go on with the next."""
    for document in documents:
        yield from _shards([document], encode, end_of_text, shard_size)


@token_shards.mistake
def one_shard_for_a_document(documents, *, encode, end_of_text, shard_size):
    """After a document you yield one shard at most. A document may fill several: yield all that are full before you read on."""
    waiting = array("H")
    for document in documents:
        waiting.extend([*encode(document), end_of_text])
        if len(waiting) >= shard_size:
            yield np.array(waiting[:shard_size], dtype=np.uint16)
            waiting = waiting[shard_size:]
    if waiting:
        yield np.array(waiting, dtype=np.uint16)


@token_shards.mistake
def everything_first(documents, *, encode, end_of_text, shard_size):
    """You read all documents before the first shard comes. A stream may be larger than memory: yield each shard as soon as it is full."""
    return _shards(list(documents), encode, end_of_text, shard_size)


@token_shards.mistake
def half_a_text(documents, *, encode, end_of_text, shard_size):
    """You catch the stream's error, and end as if the text were complete. An index is then written for half of it. Let the error go on to the caller."""

    def until_it_breaks():
        with contextlib.suppress(OSError):
            yield from documents

    return _shards(until_it_breaks(), encode, end_of_text, shard_size)


@token_shards.mistake
def wrapped_around(documents, *, encode, end_of_text, shard_size):
    """A token above 65,535 becomes another one in your files: .astype(np.uint16) takes it modulo 65,536 and says nothing. Let OverflowError come, as array("H") and np.array(ids, dtype=np.uint16) do."""
    return _shards(
        documents, encode, end_of_text, shard_size, to_array=lambda ids: np.array(ids).astype(np.uint16)
    )


@token_shards.mistake(shape=True)
def eight_bytes_each(documents, *, encode, end_of_text, shard_size):
    """Your shards have 8 bytes for a token: the files are four times as large as they need be. Ask for dtype=np.uint16."""
    return _shards(
        documents,
        encode,
        end_of_text,
        shard_size,
        to_array=lambda ids: np.array(array("H", ids), dtype=np.int64),
    )


# -- joined shards -------------------------------------------------------------------------------------


class _Shard:
    """An array that counts how many of its numbers are read, as a file would be."""

    __class__ = np.ndarray  # for answers that ask isinstance

    def __init__(self, numbers):
        self.numbers, self.read, self.touched, self.whole = numbers, 0, False, self

    def __len__(self):
        return len(self.numbers)

    def count(self, n):
        self.whole.read, self.whole.touched = self.whole.read + n, True

    def __getitem__(self, places):
        cut = self.numbers[places]
        self.count(0 if isinstance(places, slice) else np.size(cut))
        if not isinstance(places, slice):
            return cut
        view = _Shard(cut)  # nothing is read yet
        view.whole = self.whole
        return view

    def take(self, places, *args, **options):
        return self[places]

    def __array__(self, dtype=None, copy=None):
        self.count(len(self))
        return self.numbers.astype(dtype or self.numbers.dtype)

    def __getattr__(self, name):
        if name not in ("dtype", "shape", "size", "ndim"):
            self.count(len(self))
        return getattr(self.numbers, name)


@ShardedTokens.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, lengths, places, dtype=np.uint16):
        shards = [rng.integers(1, 30_000, size=n).astype(dtype) for n in lengths]
        return Case(label, shards=shards, places=places)

    yield case("the worked example", [3, 2, 4], np.array([[1, 2, 3], [4, 5, 8]]))
    yield case("every place, in order", [4, 1, 6, 2], np.arange(13))
    yield case("backwards", [4, 1, 6, 2], np.arange(13)[::-1].copy())
    yield case("one shard of several", [5, 7, 6], np.array([[6, 7, 8, 9], [7, 9, 10, 11]]))
    yield case("one shard", [8], np.array([[3, 4], [0, 1], [6, 7]]))
    yield case("the ends of the shards", [3, 3, 3, 3], np.array([2, 3, 5, 6, 8, 9, 11, 0]))
    yield case("the same place several times", [4, 5], np.array([[3, 4, 3], [3, 3, 8]]))
    starts = rng.integers(0, 180, size=(6, 1))
    yield case("windows", [50, 30, 70, 41], starts + np.arange(11))
    yield case("three axes", [50, 30, 70, 41], rng.integers(0, 191, size=(2, 3, 5)))
    yield case("int64 tokens", [5, 9, 4], rng.integers(0, 18, size=(3, 4)), np.int64)
    yield case("a slice", [5, 9, 4], slice(3, 16))
    yield case("no place", [5, 9, 4], np.zeros((2, 0), dtype=np.int64))
    yield case("a place before the first", [5, 9], np.array([3, -1]))
    yield case("a place after the last", [5, 9], np.array([[0, 14]]))
    yield case("no shard", [], np.array([0]))
    yield case("many small shards", rng.integers(1, 5, size=300).tolist(), rng.integers(0, 300, size=(4, 6)))


@ShardedTokens.observe
def _(obj, shards, places):
    files = [_Shard(shard) for shard in shards]
    tokens = obj(list(files))
    length, before = len(tokens), sum(file.read for file in files)
    for file in files:
        file.read, file.touched = 0, False
    got = tokens[places]
    if not isinstance(got, np.ndarray):
        return f"tokens[places] must be a NumPy array, not a {type(got).__name__}."
    asked = places.size if isinstance(places, np.ndarray) else len(range(*places.indices(length)))
    return {
        "read at first": before,
        "len": length,
        "tokens": np.array(got),
        "much read": sum(file.read for file in files) > 2 * asked,
        "others": sum(file.touched for file in files),
    }


@ShardedTokens.oracle
def _(shards, places):
    if not shards:
        raise ValueError("there is no shard to read")
    row = [int(token) for shard in shards for token in shard]
    number = [k for k, shard in enumerate(shards) for _ in shard]
    if isinstance(places, slice):
        places = np.array(range(len(row))[places])
    flat = [int(place) for place in places.flatten()]
    if any(not 0 <= place < len(row) for place in flat):
        raise IndexError("there is no such place")
    tokens = np.array([row[place] for place in flat], dtype=shards[0].dtype).reshape(places.shape)
    hit = {number[place] for place in flat}
    return {"read at first": 0, "len": len(row), "tokens": tokens, "much read": False, "others": len(hit)}


ShardedTokens.agree(
    _told(
        {
            "read at first": "You read {0} tokens before any was asked for. The shards may be larger than memory: keep "
            "the maps, and read in __getitem__.",
            "much read": "You read more of the shards than the places that were asked for. They may be larger than "
            "memory: index each shard with its own places only.",
            "others": "You touched {0} shards, but the places lie in {1}. There may be thousands of shards: go "
            "through those only in which a place lies.",
        }
    )
)


class _Joined:
    """A right answer with places where a mistake can differ."""

    side = "right"

    def __init__(self, shards):
        if not shards:
            raise ValueError("no shard")
        self.shards = shards
        lengths = [len(shard) for shard in shards]
        self.ends = np.cumsum(lengths)
        self.starts = self.ends - lengths

    def __len__(self):
        return int(self.ends[-1])

    def numbers(self, places):
        return np.minimum(np.searchsorted(self.ends, places, side=self.side), len(self.shards) - 1)

    def inside(self, places, k):
        return places - self.starts[k]

    def chosen(self, numbers):
        return sorted(set(numbers.flatten().tolist()))

    def __getitem__(self, places):
        if isinstance(places, slice):
            places = np.arange(*places.indices(len(self)))
        if places.size and not 0 <= places.min() <= places.max() < len(self):
            raise IndexError("no such place")
        return self.fetch(places)

    def fetch(self, places):
        out = np.zeros(places.shape, dtype=self.shards[0].dtype)
        numbers = self.numbers(places)
        for k in self.chosen(numbers):
            rows = np.nonzero(numbers == k)
            out[rows] = self.shards[k][self.inside(places[rows], k)]
        return out


@ShardedTokens.mistake
class the_first_place_after_a_shard(_Joined):
    """You look for the first place after a shard in that shard itself. A place equal to an end belongs to the next one: searchsorted needs side="right"."""

    side = "left"


@ShardedTokens.mistake
class places_counted_from_zero(_Joined):
    """You index a shard with places of the joined row. Inside a shard counting begins at 0 again: take off the place where it starts."""

    def inside(self, places, k):
        return places


@ShardedTokens.mistake
class the_shard_of_the_first_place(_Joined):
    """You look up the shard of the first place in a row and read the whole row from it. A window may run on into the next shard: each place has a shard of its own."""

    def numbers(self, places):
        numbers = super().numbers(places)
        return np.broadcast_to(numbers[..., :1], numbers.shape)

    def inside(self, places, k):
        return np.clip(places - self.starts[k], 0, len(self.shards[k]) - 1)


@ShardedTokens.mistake
class sorted_by_shard(_Joined):
    """You put the tokens together shard after shard, so they come out in another order than the places. Fill them in where their places stand: out[mine] = ..."""

    def fetch(self, places):
        right = super().fetch(places).flatten()
        order = np.argsort(self.numbers(places).flatten(), kind="stable")
        return right[order].reshape(places.shape)


@ShardedTokens.mistake
class joined_in_memory(_Joined):
    """You join the shards before you index. All files are then read into memory, for each batch again. Index each shard with its own places."""

    def fetch(self, places):
        return np.concatenate([np.asarray(shard) for shard in self.shards])[places]


@ShardedTokens.mistake
class through_all_shards(_Joined):
    """You go through all shards, also those in which no place lies. There may be thousands: go through np.unique of the shards' numbers."""

    def chosen(self, numbers):
        return range(len(self.shards))


@ShardedTokens.mistake(shape=True)
class flat(_Joined):
    """You return the tokens without the shape of `places`. Make `out` with places.shape, and fill it."""

    def fetch(self, places):
        return super().fetch(places).flatten()[None, None, None]


# -- what the producer sends ---------------------------------------------------------------------------


class _Stop(BaseException):
    """As KeyboardInterrupt: no Exception."""


_ERRORS = {
    "value": ValueError("a broken file"),
    "disk": OSError(5, "the disk is gone"),
    "stop": _Stop("stopped"),
    "name": KeyError("text"),
}


class _Source:
    """Items, then an error or the end; it counts, and ends at once when it is `stopped`."""

    def __init__(self, items, error=None, seconds=0.0, broken_iter=False):
        self.items, self.error, self.seconds = items, error, seconds
        self.broken_iter, self.read, self.asked, self.stopped = broken_iter, 0, 0, False
        self.clock, self.busy = None, 0.0  # the most seconds of the processor between two items

    def __iter__(self):
        if self.broken_iter:
            raise self.error
        return self

    def __next__(self):
        self.asked += 1
        if self.clock is not None:
            self.busy = max(self.busy, time.thread_time() - self.clock)
        self.clock = time.thread_time()
        if self.seconds:
            time.sleep(self.seconds)
        if self.stopped:
            raise StopIteration
        if self.read == len(self.items):
            raise self.error or StopIteration
        self.read += 1
        return self.items[self.read - 1]


ODD = (None, 0, False, "", (), ValueError("an item"), ("end", None), StopIteration)


@produce.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, n, *, error=None, leave=None, odd=False, broken_iter=False):
        items = [str(k) for k in rng.permutation(n)]
        return Case(label, items=items, error=error, leave=leave, odd=odd, broken_iter=broken_iter)

    yield case("three items", 3)
    yield case("no item", 0)
    yield case("None, False and errors are items too", 0, odd=True)
    yield case("an error after two items", 2, error="value")
    yield case("an error at once", 0, error="disk")
    yield case("an error that is no Exception", 3, error="stop")
    yield case("an error when the walk begins", 3, error="name", broken_iter=True)
    yield case("the consumer leaves at the second item", 5, leave=2)
    yield case("the consumer leaves at the first item", 4, leave=1)
    yield case("the consumer leaves at the last item", 3, leave=3)
    yield case("the consumer leaves before the end", 3, leave=4)
    yield case("the consumer leaves before the error", 3, leave=4, error="value")
    yield case("the consumer leaves a long source", 1_000, leave=7)


def _shown(kind, value, error):
    return kind, "the error" if value is error and error is not None else repr(value)


@produce.observe
def _(obj, items, error, leave, odd, broken_iter):
    error = _ERRORS.get(error)
    source = _Source(list(ODD) if odd else items, error, broken_iter=broken_iter)
    sent, returned = [], "nothing"

    def put(kind, value):
        sent.append(_shown(kind, value, error))
        return leave is None or len(sent) < leave

    try:
        returned = repr(obj(source, put))
    except NotImplementedError:
        raise
    except (Exception, _Stop) as escaped:
        returned = f"raised {type(escaped).__name__}"
    return {"sent": sent, "read": source.asked, "returned": returned}


@produce.oracle
def _(items, error, leave, odd, broken_iter):
    values = [] if broken_iter else [repr(item) for item in (ODD if odd else items)]
    last = ("error", "the error") if error else ("end", "None")
    sent = [*(("item", value) for value in values), last]
    asked = 0 if broken_iter else len(values) + 1
    if leave is not None:
        sent, asked = sent[:leave], min(asked, leave)
    return {"sent": sent, "read": asked, "returned": "None"}


def _show_entries(got, expected):
    if not isinstance(got, dict) or not isinstance(expected, dict):
        return None if got == expected else str(got)
    if got["returned"] != expected["returned"]:
        if got["returned"].startswith("raised"):
            return f"produce {got['returned']}: in a thread nobody would see that. Hand the error to put."
        return f"produce returned {got['returned']}; nobody takes that: return nothing."
    if got["sent"] != expected["sent"]:
        pairs = itertools.zip_longest(got["sent"], expected["sent"])
        number, (ours, wanted) = next((k, pair) for k, pair in enumerate(pairs, 1) if pair[0] != pair[1])
        shown = [f"({entry[0]!r}, {entry[1][:60]})" if entry else "nothing" for entry in (ours, wanted)]
        return f"As entry {number} you sent {shown[0]}; it should be {shown[1]}."
    if got["read"] != expected["read"]:
        return f"You asked the source {got['read']} times for an item, not {expected['read']} times."
    return None


produce.agree(_show_entries)


@produce.mistake
def never_looked_at_the_answer(source, put):
    """You do not look at what put returns. When the consumer has left, you read on, perhaps for ever. Return as soon as put returns False."""
    try:
        for item in source:
            put("item", item)
    except BaseException as error:
        put("error", error)
    else:
        put("end", None)


@produce.mistake
def said_end_to_nobody(source, put):
    """When the consumer has left, you stop reading but still send an end. Nobody listens any more: return at once."""
    try:
        for item in source:
            if not put("item", item):
                break
        put("end", None)
    except BaseException as error:
        put("error", error)


@produce.mistake
def an_end_after_the_error(source, put):
    """After an error you send an end as well. The error is the last entry; nobody takes the one after it."""
    try:
        for item in source:
            if not put("item", item):
                return
    except BaseException as error:
        put("error", error)
    put("end", None)


@produce.mistake
def errors_taken_for_the_end(source, put):
    """You turn an error into an end. The training then stops as if the data were over, and nobody knows that a file was broken."""
    with contextlib.suppress(BaseException):
        for item in source:
            if not put("item", item):
                return
    put("end", None)


@produce.mistake
def only_the_usual_errors(source, put):
    """You catch Exception only. SystemExit and KeyboardInterrupt are none; they end the thread without a word, and the consumer waits for ever."""
    try:
        for item in source:
            if not put("item", item):
                return
    except Exception as error:
        put("error", error)
    else:
        put("end", None)


@produce.mistake
def errors_not_caught(source, put):
    """You catch no error. It ends the thread, outside which nobody sees it, and the consumer waits for ever. Send it as ("error", error)."""
    for item in source:
        if not put("item", item):
            return
    put("end", None)


@produce.mistake
def none_taken_for_the_end(source, put):
    """You take an item that is None, 0, False or empty for the end, or leave it out. An item may be anything; only the source says when it ends."""
    try:
        for item in source:
            if item and not put("item", item):
                return
    except BaseException as error:
        put("error", error)
    else:
        put("end", None)


@produce.mistake
def another_error(source, put):
    """You send another error than the one the source raised, or only its text. The consumer wants to raise that very object, with its type and its trace."""
    try:
        for item in source:
            if not put("item", item):
                return
    except BaseException as error:
        put("error", RuntimeError(str(error)))
    else:
        put("end", None)


@produce.mistake
def read_all_first(source, put):
    """You read the whole source before you send anything. It may have no end, and an error at its end then costs all items before it. Send each item when it comes."""
    try:
        items = list(source)
    except BaseException as error:
        put("error", error)
        return
    for item in items:
        if not put("item", item):
            return
    put("end", None)


# -- the prefetcher ------------------------------------------------------------------------------------

BUSY = 0.02  # seconds of the processor while a call waits ten times as long
PATIENCE = 2.5  # seconds that a call may take on a busy machine; it needs a twentieth
_patience = weakref.WeakKeyDictionary()  # shorter for a class that hung once: it is wrong already


class _Hung(Exception):
    """The call named did not come back."""


class _Watch:
    """Calls that may wait for ever, made in helper threads; on leaving, every thread that is left is freed."""

    def __init__(self, obj, source):
        self.obj, self.source = obj, source
        self.before = set(threading.enumerate())
        self.helpers, self.busy = set(), 0.0  # the most seconds of the processor that a call took

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.source.stopped = True
        _free(set(threading.enumerate()) - self.before)

    @property
    def seconds(self):
        return _patience.get(self.obj, PATIENCE)

    def call(self, name, function):
        """function(), or what it raises.

        Raises:
            _Hung: it did not come back in time.
        """
        box = []

        def run():
            try:
                box.append((function(), None))
            except BaseException as error:
                box.append((None, error))
            self.busy = max(self.busy, time.thread_time())

        helper = threading.Thread(target=run, daemon=True)
        self.helpers.add(helper)
        helper.start()
        helper.join(self.seconds)
        if not box:
            _patience[self.obj] = 0.3
            raise _Hung(name)
        helper.join(1.0)
        value, error = box[0]
        if error is not None:
            raise error
        return value

    def settled(self, wanted):
        """How many items were read, when at least `wanted` were and the producer had time for more."""
        end = time.monotonic() + self.seconds
        asked = wanted + (wanted == len(self.source.items))  # the last time it says that there is no more
        while self.source.asked < asked and time.monotonic() < end:
            time.sleep(0.002)
        if self.source.asked < asked:
            _patience[self.obj] = 0.3
        time.sleep(0.03)
        return self.source.read

    def left(self, seconds=0.0):
        """How many threads are there that were not there before, after waiting for their end so long at most."""
        end = time.monotonic() + seconds
        while True:
            others = set(threading.enumerate()) - self.before - self.helpers
            if not others or time.monotonic() >= end:
                return len(others)
            time.sleep(0.002)


def _free(threads):
    """Ends threads that wait at a queue, for an event, for one another, or run in circles."""
    end = time.monotonic() + 2.0
    while (alive := [thread for thread in threads if thread.is_alive()]) and time.monotonic() < end:
        frames = sys._current_frames()
        for thread in alive:
            frame = frames.get(thread.ident)
            while frame is not None:
                for value in list(frame.f_locals.values()):
                    for thing in (value, *vars(value).values()) if hasattr(value, "__dict__") else (value,):
                        _shake(thing)
                frame = frame.f_back
            ending = ctypes.py_object(SystemExit)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ending)
        time.sleep(0.005)


def _shake(thing):
    if isinstance(thing, threading.Event):
        thing.set()
    if isinstance(thing, queue.Queue):
        with contextlib.suppress(queue.Empty):
            while True:
                thing.get_nowait()
        with contextlib.suppress(queue.Full):
            thing.put_nowait(("end", None))


@Prefetcher.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, n, depth, take, *, error=None, odd=False, how="close", wait=False, slow=False):
        return Case(label, n=n, depth=depth, take=take, error=error, odd=odd, how=how, wait=wait, slow=slow)

    yield case("all of five items", 5, 2, None, how="nothing")
    yield case("odd items", 0, 3, None, odd=True, how="nothing")
    yield case("a source without items", 0, 2, None, how="nothing")
    yield case("an error after three items", 3, 5, None, error="value", how="nothing", wait=True)
    yield case("the end comes while the queue is full", 2, 2, None, how="nothing", wait="short")
    yield case("a slow source", 1, 2, None, how="nothing", slow=True)
    yield case("an error that is no Exception", 0, 1, None, error="stop", how="nothing")
    yield case("a consumer that pauses", 6, 2, None, how="nothing", wait="long")
    yield case("closed after two of many items", 5000, 3, 2, wait=True)
    yield case("closed before the first item is taken", 5000, 1, 0, wait=True)
    yield case("closed at once", 5000, 2, 0)
    yield case("closed with the last items still waiting", 3, 6, 1, wait=True)
    yield case("an error leaves the with", 5000, 4, 3, how="with", wait=True)


def _items(n, odd):
    return list(ODD) if odd else [f"item {k}" for k in range(n)]


@Prefetcher.observe
def _(obj, n, depth, take, error, odd, how, wait, slow):
    error = _ERRORS.get(error)
    source, seen = _Source(_items(n, odd), error, 0.15 if slow else 0.0), {"hung": "nothing"}
    with _Watch(obj, source) as watch:
        try:
            line = watch.call("Prefetcher(...)", lambda: obj(source, depth))
            if how == "with":
                line = watch.call("entering the with", lambda: line.__enter__())
            taken, ending = [], "none yet"
            if wait:
                seen["ahead"] = _ahead(watch.settled(min(depth, len(source.items))), depth, source)
                time.sleep({"long": 0.25, "short": 0.12}.get(wait, 0.0))
            for _ in range(len(source.items) + 2 if take is None else take):
                taken.append(_next(watch, line, error))
                if taken[-1].startswith("raised"):
                    ending = taken.pop()
                    break
            seen |= {"items": taken, "ending": ending}
            if wait == "long":
                seen["put is busy"] = source.busy > BUSY
            if slow:
                seen["next is busy"] = watch.busy > BUSY
            if wait and take:
                wanted = min(take + depth, len(source.items))
                seen["ahead later"] = _ahead(watch.settled(wanted) - take, depth, source, take)
            if how == "close":
                watch.call("close", lambda: line.close())
            elif how == "with":
                raised = ZeroDivisionError("in the with")
                watch.call(
                    "leaving the with", lambda: line.__exit__(type(raised), raised, raised.__traceback__)
                )
            seen["threads"] = watch.left(watch.seconds if how == "nothing" else 0.0)
            if how != "nothing":
                answer = watch.call("put, after close,", lambda: line.put("item", "late"))
                seen["put after close"] = repr(answer)
            if how != "with":
                seen["afterwards"] = [_next(watch, line, error) for _ in range(2)]
            for _ in range(2):
                watch.call("close, a second time,", lambda: line.close())
        except _Hung as hung:
            seen["hung"] = str(hung)
    return seen


def _next(watch, line, error):
    try:
        return repr(watch.call("next", lambda: next(line)))
    except (_Hung, NotImplementedError):
        raise
    except StopIteration:
        return "raised StopIteration"
    except (Exception, _Stop) as raised:
        return "raised the error" if raised is error else f"raised {type(raised).__name__}"


def _ahead(waiting, depth, source, taken=0):
    """Whether the producer is as far ahead as it should be."""
    left = len(source.items) - taken
    if waiting < min(depth, left):
        return "too little"
    return "too far" if waiting > min(depth + 1, left) else "right"


@Prefetcher.oracle
def _(n, depth, take, error, odd, how, wait, slow):
    values = [repr(item) for item in _items(n, odd)]
    seen = {"hung": "nothing"}
    if wait:
        seen["ahead"] = "right"
    seen["items"] = values[:take]
    ending = "raised the error" if error else "raised StopIteration"
    seen["ending"] = ending if take is None else "none yet"
    if wait == "long":
        seen["put is busy"] = False
    if slow:
        seen["next is busy"] = False
    if wait and take:
        seen["ahead later"] = "right"
    seen["threads"] = 0
    if how != "nothing":
        seen["put after close"] = "False"
    if how != "with":
        seen["afterwards"] = ["raised StopIteration"] * 2
    return seen


AHEAD = (
    "The producer is {0} ahead of the consumer. While the consumer does nothing, `depth` items wait in the queue, and "
    "the producer may hold one more."
)
Prefetcher.agree(
    _told(
        {
            "hung": "`{0}` did not come back within a few seconds: it waits for something that never happens. Who waits for whom?",
            "ahead": AHEAD,
            "ahead later": AHEAD,
            "put is busy": "While the queue was full, your put kept the processor busy: it asks again and again without a "
            "pause, and takes the time from the training. Let queue.put wait, with a timeout.",
            "next is busy": "While the queue was empty, your next kept the processor busy: it asks again and again "
            "without a pause. Let queue.get wait.",
            "ending": "After the items came: {0}; it should be: {1}.",
            "threads": "{0} threads are still there. When the line is closed or has ended, the producer's thread must have ended too.",
            "put after close": "After close, put returned {0}. It must return False, so that the producer stops.",
            "afterwards": "After the end or after close, next twice gave {0}; it must raise StopIteration each time.",
        }
    )
)


class _Line:
    """A right answer with places where a mistake can differ."""

    tick = 0.02

    def __init__(self, source, depth=2):
        self.queue = queue.Queue(self.room(depth))
        self.closed, self.error = threading.Event(), None
        self.thread = threading.Thread(target=self.run, args=(source,), daemon=True)
        self.thread.start()

    def room(self, depth):
        return depth

    def run(self, source):
        try:
            for item in source:
                if not self.put("item", item):
                    return
        except BaseException as error:
            self.error = error
            self.put("error", error)
            return
        self.put("end", None)

    def put(self, kind, value):
        while not self.closed.is_set():
            with contextlib.suppress(queue.Full):
                self.queue.put((kind, value), timeout=self.tick)
                return True
        return False

    def __next__(self):
        if self.closed.is_set():
            raise StopIteration
        kind, value = self.queue.get()
        if kind == "item":
            return value
        self.close()
        self.stop(kind, value)

    def stop(self, kind, value):
        if kind == "error":
            raise value
        raise StopIteration

    def close(self):
        self.closed.set()
        self.thread.join()

    def __iter__(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


@Prefetcher.mistake
class waits_for_room_that_never_comes(_Line):
    """Your put waits without end for room in the queue. When the consumer has left, nobody makes room, and close waits for a thread that waits. Wait a short time, look whether anybody still listens, and try again."""

    def put(self, kind, value):
        if self.closed.is_set():
            return False
        self.queue.put((kind, value))
        return True


@Prefetcher.mistake
class gives_up_on_a_slow_source(_Line):
    """Your next waits for a short time only, and takes an empty queue for the end. A source may be slow. Only an entry says that it is over: wait for it."""

    def __next__(self):
        if self.closed.is_set():
            raise StopIteration
        try:
            kind, value = self.queue.get(timeout=0.1)
        except queue.Empty:
            self.close()
            raise StopIteration from None
        if kind == "item":
            return value
        self.close()
        self.stop(kind, value)


@Prefetcher.mistake
class closed_without_waiting(_Line):
    """Your close does not wait until the thread has ended. It still runs when the caller goes on, and may touch a file that was closed meanwhile. Join it."""

    tick = 0.2

    def close(self):
        self.closed.set()


@Prefetcher.mistake
class no_back_pressure(_Line):
    """Your producer never waits: it reads on while nobody takes anything, until memory is full. At most `depth` items may wait in the queue."""

    def room(self, depth):
        return 0

    def put(self, kind, value):
        return not self.closed.is_set() and not self.queue.put((kind, value))


@Prefetcher.mistake
class waits_after_the_end(_Line):
    """After the end, next waits once more at a queue into which nobody puts anything. Remember that it is over: from then on, raise StopIteration at once."""

    def __next__(self):
        kind, value = self.queue.get()
        if kind == "item":
            return value
        self.close()
        self.stop(kind, value)


@Prefetcher.mistake
class the_error_is_lost(_Line):
    """An error of the source becomes a quiet end, so the consumer believes that it has seen everything. Raise the very error that came through the queue."""

    def stop(self, kind, value):
        raise StopIteration


@Prefetcher.mistake
class the_error_returned(_Line):
    """You return the error as if it were an item, or an item that is an error raises. The first part of an entry says what it is: return items, raise errors."""

    def __next__(self):
        if self.closed.is_set():
            raise StopIteration
        kind, value = self.queue.get()
        if kind == "end":
            self.close()
            raise StopIteration
        if kind == "error":
            self.close()
        return value


@Prefetcher.mistake
class the_error_before_the_items(_Line):
    """Your next raises the source's error while good items still wait. It comes after all items that were read before it: let it stand in the queue."""

    wait = 0.3

    def __next__(self):
        if self.wait:  # the source may be at its end before the first item is taken
            self.thread.join(self.wait)
            self.wait = 0.0
        if self.error is not None and not self.closed.is_set():
            self.close()
            raise self.error
        return super().__next__()


@Prefetcher.mistake
class put_does_not_answer(_Line):
    """Your put returns nothing when it has put an entry in. The producer takes that for False, stops, and the consumer waits for ever. Return True."""

    def put(self, kind, value):
        super().put(kind, value)
        return kind != "item" or None


@Prefetcher.mistake
class hands_out_after_close(_Line):
    """After close, next still hands out what waits in the queue. Who has closed wants nothing more: raise StopIteration."""

    def __next__(self):
        if self.closed.is_set() and self.queue.empty():
            raise StopIteration
        kind, value = self.queue.get()
        if kind == "item":
            return value
        self.close()
        self.stop(kind, value)


for _hanging in (waits_for_room_that_never_comes, waits_after_the_end, put_does_not_answer):
    _patience[_hanging] = 0.6  # no need to find out slowly
