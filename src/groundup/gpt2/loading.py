"""Streaming the data.

Generated from chapters/02_gpt2/12_loading.md by `make sync`: edit that file, not this one.
"""

import json
import queue
import threading
import urllib.error
import urllib.request
from array import array
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from groundup.gpt2.schedules import write_whole
from groundup.gpt2.training import TokenBatches

__all__ = [
    "PrefetchedBatches",
    "Prefetcher",
    "ShardReader",
    "ShardedTokens",
    "ask_hub",
    "open_shards",
    "produce",
    "save_array",
    "stream_documents",
    "token_shards",
    "write_shards",
]


def token_shards(
    documents: Iterable[str],
    *,
    encode: Callable[[str], list[int]],
    end_of_text: int,
    shard_size: int,
) -> Iterator[np.ndarray]:
    """The documents' tokens, each document followed by end_of_text, cut into arrays.

    Yields uint16 arrays of shard_size tokens, the last perhaps shorter, each as soon as
    it is full. OverflowError if a token does not fit into uint16.
    """
    waiting = array("H")
    for document in documents:
        waiting.extend(encode(document))
        waiting.append(end_of_text)
        full = len(waiting) // shard_size * shard_size
        for start in range(0, full, shard_size):
            yield np.array(waiting[start : start + shard_size], dtype=np.uint16)
        waiting = waiting[full:]
    if waiting:
        yield np.array(waiting, dtype=np.uint16)


def save_array(tokens: np.ndarray, path: Path) -> None:
    """np.save, but the name stays as it is."""
    with open(path, "wb") as file:
        np.save(file, tokens)


def write_shards(
    documents: Iterable[str],
    folder: str | Path,
    *,
    encode: Callable[[str], list[int]],
    end_of_text: int,
    shard_size: int = 10_000_000,
) -> dict[str, int]:
    """Writes shard-00000.npy, ... and then index.json; returns {file name: tokens}.

    Whatever is in the folder from before is replaced. If it breaks off half-way, there
    is no index, and open_shards refuses the folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for old in [folder / "index.json", *folder.glob("shard-*.npy")]:
        old.unlink(missing_ok=True)
    shards = token_shards(documents, encode=encode, end_of_text=end_of_text, shard_size=shard_size)
    lengths = {}
    for number, tokens in enumerate(shards):
        name = f"shard-{number:05}.npy"
        write_whole(folder / name, partial(save_array, tokens))
        lengths[name] = len(tokens)
    text = json.dumps({"shards": lengths})
    write_whole(folder / "index.json", lambda path: path.write_text(text))
    return lengths


def ask_hub(seconds: float = 3.0) -> None:
    """ConnectionError, in one line, if the Hugging Face hub does not answer."""
    from huggingface_hub.constants import ENDPOINT

    try:
        request = urllib.request.Request(ENDPOINT, method="HEAD")
        urllib.request.urlopen(request, timeout=seconds).close()
    except urllib.error.HTTPError:
        pass  # it answers
    except OSError:
        raise ConnectionError(f"{ENDPOINT} does not answer") from None


def stream_documents(path: str, name: str | None = None, *, split: str = "train", **options) -> Iterator[str]:
    """The column `text` of a data set, document by document, as it arrives.

    path, name: as on the hub, or "text" with data_files=... for files of your own;
    options go to datasets.load_dataset. ConnectionError if the hub cannot be reached.
    """
    from datasets import load_dataset

    if "data_files" not in options:
        ask_hub()
    rows = load_dataset(path, name, split=split, streaming=True, **options)
    return (row["text"] for row in rows)


class ShardedTokens:
    """Several arrays or memory maps of tokens, read as if they were joined.

    tokens[places]: array of any shape of places from 0 to len(tokens) - 1, or a slice.
    IndexError if a place is out of range; ValueError if there is no shard.
    """

    def __init__(self, shards: list[np.ndarray]):
        if not shards:
            raise ValueError("there is no shard to read")
        self.shards, self.dtype = shards, shards[0].dtype
        lengths = np.array([len(shard) for shard in shards])
        self.ends = lengths.cumsum()
        self.starts = self.ends - lengths

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, places: np.ndarray | slice) -> np.ndarray:
        if isinstance(places, slice):
            places = np.arange(*places.indices(len(self)))
        if places.size and not 0 <= places.min() <= places.max() < len(self):
            raise IndexError(f"places must lie between 0 and {len(self) - 1}")
        out = np.empty(places.shape, dtype=self.dtype)
        shard_of = np.searchsorted(self.ends, places, side="right")
        for k in np.unique(shard_of):
            mine = shard_of == k
            out[mine] = self.shards[k][places[mine] - self.starts[k]]
        return out


def open_shards(folder: str | Path) -> ShardedTokens:
    """The shards that the folder's index names, as memory maps.

    FileNotFoundError without an index: the folder was never completed. ValueError,
    naming the file, if one is not as long as the index says.
    """
    index = Path(folder) / "index.json"
    if not index.exists():
        raise FileNotFoundError(f"{folder} has no index.json: it is not complete")
    shards = []
    for name, length in json.loads(index.read_text())["shards"].items():
        shards.append(np.load(index.parent / name, mmap_mode="r"))
        if len(shards[-1]) != length:
            raise ValueError(f"{name} has {len(shards[-1])} tokens, not {length}")
    return ShardedTokens(shards)


class ShardReader(TokenBatches):
    """TokenBatches of a folder of shards: the windows of all shards, in one order.

    options (rank, world_size, position, seed) and methods are those of TokenBatches.
    """

    def __init__(self, folder: str | Path, batch_size: int, block_size: int, **options):
        super().__init__(open_shards(folder), batch_size, block_size, **options)


def produce(source: Iterable, put: Callable[[str, object], bool]) -> None:
    """Sends each item of source as ("item", item), and at last ("end", None).

    If source raises, ("error", error) is the last entry; nothing is raised here. When
    put returns False, nobody listens any more: it returns at once.
    """
    try:
        for item in source:
            if not put("item", item):
                return
    except BaseException as error:
        put("error", error)
    else:
        put("end", None)


class Prefetcher:
    """The items of `source`, which a thread reads ahead of the consumer.

    At most `depth` items wait (the thread may hold one more). An error of the source is
    raised by `next`, after the items before it. Use it in a `with`, or call close().
    """

    patience = 0.05  # seconds between two looks at `stopped`

    def __init__(self, source: Iterable, depth: int = 2):
        self.queue = queue.Queue(maxsize=depth)
        self.stopped = threading.Event()
        self.thread = threading.Thread(
            target=produce, args=(source, self.put), name="prefetcher", daemon=True
        )
        self.thread.start()

    def put(self, kind: str, value: object) -> bool:
        """Waits for room; False, and nothing is put, if the consumer has closed."""
        while not self.stopped.is_set():
            try:
                self.queue.put((kind, value), timeout=self.patience)
                return True
            except queue.Full:
                pass  # look at the flag again
        return False

    def __next__(self):
        """The next item, or the source's error; StopIteration after either end."""
        if self.stopped.is_set():
            raise StopIteration
        kind, value = self.queue.get()
        if kind == "item":
            return value
        self.close()
        raise value if kind == "error" else StopIteration

    def close(self) -> None:
        """Ends the thread, and comes back when it has ended."""
        self.stopped.set()
        self.thread.join()

    def __iter__(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


class PrefetchedBatches:
    """The batches of a loader such as ShardReader, prepared by a thread.

    It has the loader's methods; the state is that after the last batch taken, however
    far the thread is. Leave the loader itself alone, and close at the end.
    """

    def __init__(self, batches: TokenBatches, depth: int = 2):
        self.batches, self.depth = batches, depth
        self._start()

    def _start(self) -> None:
        self.state = self.batches.state_dict()
        self.line = Prefetcher(self._with_states(), self.depth)

    def _with_states(self) -> Iterator[tuple]:
        while True:
            batch = self.batches.next_batch()
            yield batch, self.batches.state_dict()

    def next_batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        batch, self.state = next(self.line)
        return batch

    def state_dict(self) -> dict:
        return dict(self.state)

    def load_state_dict(self, state: dict) -> None:
        self.close()  # the batches that wait are from elsewhere
        self.batches.load_state_dict(state)
        self._start()

    def close(self) -> None:
        self.line.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()
