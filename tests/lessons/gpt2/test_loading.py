"""The lesson gpt2.loading: shards against one array, resuming, no thread left, and its checks."""

import inspect
import json
import textwrap
import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.check import grade
from groundup.gpt2 import loading
from groundup.gpt2.loading import (
    PrefetchedBatches,
    Prefetcher,
    ShardedTokens,
    ShardReader,
    ask_hub,
    open_shards,
    stream_documents,
    token_shards,
    write_shards,
)
from groundup.gpt2.training import TokenBatches

WORDS = {"encode": lambda text: [ord(c) for c in text], "end_of_text": 0}


@pytest.fixture(autouse=True)
def no_thread_stays():
    def left():
        return [
            thread for thread in threading.enumerate() if thread.name == "prefetcher" and thread not in before
        ]

    before = threading.enumerate()
    yield
    end = time.monotonic() + 5
    while time.monotonic() < end and left():
        time.sleep(0.01)
    assert not left()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("abcdef", max_size=9), max_size=12), st.integers(1, 15))
def test_shards_joined_are_the_documents(documents, size):
    row = [token for text in documents for token in [*map(ord, text), 0]]
    shards = list(token_shards(iter(documents), shard_size=size, **WORDS))
    assert [token for shard in shards for token in shard.tolist()] == row
    assert all(len(shard) == size for shard in shards[:-1]) and all(
        0 < len(shard) <= size for shard in shards
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.data())
def test_joined_shards_are_one_array(lengths, data):
    row = np.arange(sum(lengths), dtype=np.uint16) * 7
    tokens = ShardedTokens(np.split(row, np.cumsum(lengths)[:-1]))
    places = np.array(data.draw(st.lists(st.integers(0, len(row) - 1), min_size=1, max_size=20)))
    assert np.array_equal(tokens[places], row[places]) and tokens[places].dtype == np.uint16
    assert len(tokens) == len(row)
    assert np.array_equal(tokens[2:-1:2], row[2:-1:2])
    for wrong in (-1, len(row)):
        with pytest.raises(IndexError):
            tokens[np.array([0, wrong])]


def written(folder, n=400, size=37):
    text = "".join(chr(1000 + k) for k in range(n))
    cuts = [text[k : k + 23] for k in range(0, n, 23)]
    write_shards(cuts, folder, shard_size=size, **WORDS)
    return np.array([token for cut in cuts for token in [*map(ord, cut), 0]])


@pytest.mark.parametrize("seed", [None, 0, 5])
@pytest.mark.parametrize("world_size", [1, 3])
def test_a_reader_of_shards_is_the_loader_of_one_array(tmp_path, seed, world_size):
    row = torch.tensor(written(tmp_path))
    for rank in range(world_size):
        options = {"rank": rank, "world_size": world_size, "seed": seed}
        ours, plain = ShardReader(tmp_path, 2, 7, **options), TokenBatches(row, 2, 7, **options)
        for _ in range(2 * plain.per_epoch + 1):
            for a, b in zip(ours.next_batch(), plain.next_batch(), strict=True):
                assert torch.equal(a, b) and a.dtype == torch.int64
    assert all(isinstance(shard, np.memmap) for shard in open_shards(tmp_path).shards)


def test_writing_that_breaks_off_leaves_no_index(tmp_path):
    written(tmp_path)

    def documents():
        yield "a" * 100
        raise OSError("the network is gone")

    with pytest.raises(OSError, match="network"):
        write_shards(documents(), tmp_path, shard_size=10, **WORDS)
    with pytest.raises(FileNotFoundError, match="not complete"):
        open_shards(tmp_path)
    assert not list(tmp_path.glob("*.tmp"))
    lengths = write_shards(["abc"], tmp_path, shard_size=3, **WORDS)  # fewer than before: none of those stays
    assert lengths == {"shard-00000.npy": 3, "shard-00001.npy": 1}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index.json", *lengths]


def test_an_index_that_does_not_fit_is_refused(tmp_path):
    written(tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    index["shards"]["shard-00001.npy"] += 1
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"shard-00001\.npy"):
        open_shards(tmp_path)


@pytest.mark.timeout(60)
def test_a_prefetcher_gives_the_items_and_ends():
    with Prefetcher(iter(range(100)), depth=3) as line:
        assert list(line) == list(range(100)) and list(line) == []
    with pytest.raises(KeyError), Prefetcher({}[k] for k in range(3)) as line:
        next(line)
    for depth in (1, 2, 9):
        for taken in range(4):
            line = Prefetcher(iter(range(10**9)), depth)
            assert [next(line) for _ in range(taken)] == list(range(taken))
            line.close()
            assert not line.thread.is_alive()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("depth", [1, 4])
def test_a_resumed_prefetched_loader_goes_on(tmp_path, depth):
    written(tmp_path)
    plain = ShardReader(tmp_path, 2, 7, seed=3)
    wanted = [plain.next_batch()[1] for _ in range(2 * plain.per_epoch)]
    for stop in (0, 1, plain.per_epoch - 1, plain.per_epoch + 2):
        with PrefetchedBatches(ShardReader(tmp_path, 2, 7, seed=3), depth) as batches:
            got = [batches.next_batch()[1] for _ in range(stop)]
            time.sleep(0.02)
            state = batches.state_dict()
            assert state == {"position": stop}
            got.append(batches.next_batch()[1])
            batches.load_state_dict(state)  # back again: what waits is thrown away
            assert torch.equal(batches.next_batch()[1], got[-1])
        with PrefetchedBatches(ShardReader(tmp_path, 2, 7, seed=3), depth) as other:
            other.load_state_dict(state)
            got[stop:] = [other.next_batch()[1] for _ in range(3)]
        assert all(torch.equal(a, b) for a, b in zip(got, wanted[: stop + 3], strict=True))


def test_documents_of_a_local_file_arrive_one_by_one(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "text.txt").write_text("one\ntwo\nthree\n")
    stream = stream_documents("text", data_files=str(tmp_path / "text.txt"))
    assert next(stream) == "one" and list(stream) == ["two", "three"]


def test_no_hub_is_said_in_one_line(monkeypatch):
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match="does not answer") as caught:
        ask_hub()
    assert "\n" not in str(caught.value)


def learners(name, source):
    """A learner's version, in the notebook's names."""
    scope = dict(vars(loading))
    exec(textwrap.dedent(source), scope)
    return scope[name]


WRONG = {
    "token_shards": [
        # reads one document more before it yields
        """
        def token_shards(documents, *, encode, end_of_text, shard_size):
            waiting = []
            for document in documents:
                while len(waiting) >= shard_size:
                    yield np.array(waiting[:shard_size], dtype=np.uint16)
                    waiting = waiting[shard_size:]
                waiting += [*encode(document), end_of_text]
            for k in range(0, len(waiting), shard_size):
                yield np.array(waiting[k : k + shard_size], dtype=np.uint16)
        """,
        # one buffer for all shards
        """
        def token_shards(documents, *, encode, end_of_text, shard_size):
            buffer, n = np.zeros(shard_size, dtype=np.uint16), 0
            for document in documents:
                for token in [*encode(document), end_of_text]:
                    buffer[n] = token
                    n += 1
                    if n == shard_size:
                        yield buffer
                        n = 0
            if n:
                yield buffer[:n]
        """,
        # hands out the rest of a stream that broke off
        """
        def token_shards(documents, *, encode, end_of_text, shard_size):
            waiting = array("H")
            try:
                for document in documents:
                    waiting.extend([*encode(document), end_of_text])
                    while len(waiting) >= shard_size:
                        yield np.array(waiting[:shard_size])
                        waiting = waiting[shard_size:]
            finally:
                if waiting:
                    yield np.array(waiting)
        """,
    ],
    "ShardedTokens": [
        # guesses that all shards are as long as the first
        """
        class ShardedTokens(ShardedTokens):
            def __getitem__(self, places):
                if isinstance(places, slice):
                    places = np.arange(*places.indices(len(self)))
                n = len(self.shards[0])
                flat = [self.shards[p // n][p % n] for p in places.flatten().tolist()]
                return np.array(flat, dtype=self.dtype).reshape(places.shape)
        """,
        # no check of the range
        """
        class ShardedTokens(ShardedTokens):
            def __getitem__(self, places):
                if isinstance(places, slice):
                    places = np.arange(*places.indices(len(self)))
                out = np.zeros(places.shape, dtype=self.dtype)
                number = np.searchsorted(self.ends, places, side="right")
                for k in np.unique(number[number < len(self.shards)]):
                    mine = number == k
                    out[mine] = self.shards[k][places[mine] - self.starts[k]]
                return out
        """,
        # copies each shard that it needs
        """
        class ShardedTokens(ShardedTokens):
            def __getitem__(self, places):
                if isinstance(places, slice):
                    places = np.arange(*places.indices(len(self)))
                if places.size and not 0 <= places.min() <= places.max() < len(self):
                    raise IndexError("range")
                out = np.zeros(places.shape, dtype=self.dtype)
                number = np.searchsorted(self.ends, places, side="right")
                for k in np.unique(number):
                    mine = number == k
                    out[mine] = self.shards[k][:].copy()[places[mine] - self.starts[k]]
                return out
        """,
    ],
    "produce": [
        """
        def produce(source, put):
            try:
                while put("item", next(source)):
                    pass
            except StopIteration:
                put("end", None)
            except BaseException as error:
                put("error", error)
        """,
    ],
    "Prefetcher": [
        # takes all there is on closing, but lets a full source run to its end
        """
        class Prefetcher(Prefetcher):
            def put(self, kind, value):
                self.queue.put((kind, value))
                return True

            def close(self):
                while self.thread.is_alive():
                    try:
                        self.queue.get(timeout=0.001)
                    except queue.Empty:
                        pass
                self.stopped.set()
        """,
        # no thread at all
        """
        class Prefetcher(Prefetcher):
            def __init__(self, source, depth=2):
                self.source, self.stopped = iter(source), False

            def put(self, kind, value):
                return False

            def __next__(self):
                if self.stopped:
                    raise StopIteration
                try:
                    return next(self.source)
                except BaseException:
                    self.stopped = True
                    raise

            def close(self):
                self.stopped = True
        """,
        # a full queue: asks without a pause
        """
        class Prefetcher(Prefetcher):
            def put(self, kind, value):
                while not self.stopped.is_set():
                    try:
                        self.queue.put_nowait((kind, value))
                        return True
                    except queue.Full:
                        pass
                return False
        """,
        # an empty queue: asks without a pause
        """
        class Prefetcher(Prefetcher):
            def __next__(self):
                while not self.stopped.is_set() and self.queue.empty():
                    pass
                return super().__next__()
        """,
        # a full queue: leaves out the end
        """
        class Prefetcher(Prefetcher):
            def put(self, kind, value):
                while not self.stopped.is_set():
                    try:
                        self.queue.put((kind, value), timeout=self.patience)
                        return True
                    except queue.Full:
                        if kind == "end":
                            return False
                return False
        """,
    ],
}
RIGHT = {
    "token_shards": """
        def token_shards(documents, *, encode, end_of_text, shard_size):
            shard = array("H")
            for document in documents:
                for token in encode(document) + [end_of_text]:
                    shard.append(token)
                    if len(shard) == shard_size:
                        yield np.frombuffer(shard, dtype=np.uint16)
                        shard = array("H")
            if len(shard):
                yield np.array(shard)
        """,
    "ShardedTokens": """
        class ShardedTokens(ShardedTokens):
            def __getitem__(self, places):
                if isinstance(places, slice):
                    places = np.arange(*places.indices(len(self)))
                if ((places < 0) | (places >= len(self))).any():
                    raise IndexError(places)
                flat = places.reshape(-1)
                order = np.argsort(flat)
                number = np.searchsorted(self.starts, flat[order], side="right") - 1
                out = np.zeros(flat.shape, self.dtype)
                for k in sorted(set(number.tolist())):
                    rows = order[number == k]
                    out[rows] = np.take(self.shards[k], flat[rows] - self.starts[k])
                return out.reshape(places.shape)
        """,
    "produce": """
        def produce(source, put):
            try:
                walk = iter(source)
                while True:
                    try:
                        item = next(walk)
                    except StopIteration:
                        break
                    if put("item", item) is False:
                        return
            except BaseException as error:
                put("error", error)
                return
            put("end", None)
        """,
    "Prefetcher": """
        class Prefetcher(Prefetcher):
            def put(self, kind, value):
                if self.stopped.is_set():
                    return False
                self.queue.put((kind, value))  # close makes room
                return not self.stopped.is_set()

            def __next__(self):
                if not self.stopped.is_set():
                    kind, value = self.queue.get()
                    if kind == "item":
                        return value
                    self.close()
                    if kind == "error":
                        raise value
                raise StopIteration

            def close(self):
                self.stopped.set()
                while self.thread.is_alive():
                    try:
                        self.queue.get_nowait()
                    except queue.Empty:
                        pass
                    self.thread.join(0.001)
        """,
}


@pytest.mark.parametrize(("name", "source"), [(name, s) for name in WRONG for s in WRONG[name]])
def test_wrong_answers_fail(name, source):
    result = grade(f"gpt2.loading.{name}", learners(name, source), seed=0)
    assert result.status in ("failed", "error"), source


@pytest.mark.parametrize("name", RIGHT)
def test_right_answers_written_differently_pass(name):
    result = grade(f"gpt2.loading.{name}", learners(name, RIGHT[name]), seed=0)
    assert result.status == "passed", result.message


SLIPS = [
    ("token_shards", "waiting.append(end_of_text)", "pass", "no_end_of_text"),
    ("token_shards", "    if waiting:\n", "    if False:\n", "the_rest_is_lost"),
    ("ShardedTokens", ' side="right"', ' side="left"', "the_first_place_after_a_shard"),
    ("ShardedTokens", "np.unique(shard_of)", "range(len(self.shards))", "through_all_shards"),
    ("produce", "BaseException", "Exception", "only_the_usual_errors"),
    ("produce", "if not put(\"item\", item):\n                return", "put(\"item\", item)", "never_looked"),
    ("Prefetcher", ", timeout=self.patience", "", "waits_for_room_that_never_comes"),
    ("Prefetcher", "self.queue.get()", "self.queue.get(timeout=self.patience)", "a slow source"),
    ("Prefetcher", "self.thread.join()", "pass", "closed_without_waiting"),
    ("Prefetcher", "maxsize=depth", "maxsize=0", "no_back_pressure"),
    ("Prefetcher", "if self.stopped.is_set():\n            raise StopIteration", "pass", "waits_after_the_end"),
]  # fmt: skip


@pytest.mark.parametrize("slip", SLIPS)
def test_reply_can_be_read(slip):
    name, old, new, said = slip
    source = inspect.getsource(getattr(loading, name))
    assert old in source
    result = grade(f"gpt2.loading.{name}", learners(name, source.replace(old, new)), seed=0)
    assert result.status in ("failed", "error")
    assert said in result.message or said in (result.mistake or ""), (result.mistake, result.message)
