"""`groundup shards`: text of any length, as files of tokens that `groundup train gpt2 --data` reads without loading them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from groundup.gpt2.bpe import BPETokenizer, TiktokenTokenizer
from groundup.gpt2.loading import open_shards, stream_documents, write_shards
from groundup.gpt2.schedules import write_whole
from groundup.recipes import text
from groundup.recipes.errors import RecipeError

# On the Hugging Face hub: data set and configuration.
HUB = {
    "fineweb-edu": ("HuggingFaceFW/fineweb-edu", "sample-10BT"),  # Penedo et al. 2024
    "tinystories": ("roneneldan/TinyStories", None),  # Eldan and Li 2023
}
END = "<|endoftext|>"
LEARN_FROM = 10_000_000  # characters from which a tokenizer of one's own is trained


def write(
    source: str,
    out: str | Path,
    *,
    tokenizer: str = "gpt2",
    vocab_size: int = 4096,
    max_tokens: int = 100_000_000,
    validation_tokens: int = 100_000,
    shard_size: int = 10_000_000,
    console: Console | None = None,
) -> dict[str, int]:
    """Writes the documents of `source` as tokens: the first of them to out/validation, the others to out/train.

    source: a name in HUB, or the path of a text file (UTF-8) with a line <|endoftext|> between documents.
    max_tokens, validation_tokens: whole documents, until there are at least so many.

    Returns:
        the number of tokens of each part, {"train": …, "validation": …}.

    Raises:
        RecipeError: the source cannot be reached or read, is too short, or the disk is full. What is in `out` then is
            not taken for complete.
    """
    out = Path(out)
    about = out / "about.json"
    if about.exists():
        raise RecipeError(f"{out} holds shards already: choose another --out, or delete it")
    try:
        documents = _documents(source)
        made, documents = _tokenizer(tokenizer, vocab_size, documents)
        tokens, lengths = _written(documents, out, made, max_tokens, validation_tokens, shard_size, console)
        description = text.described(made, tokenizer) | {"special_tokens": made.special_tokens}
        note = {"source": source, "tokenizer": description, "tokens": tokens, "bytes": lengths}
        write_whole(about, lambda path: path.write_text(json.dumps(note), encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{source}: {' '.join(str(error).split())}") from None
    return tokens


def opened(folder: str | Path) -> text.Corpus:
    """The shards in a folder that `write` completed.

    Raises:
        RecipeError: it was not completed, or a file is damaged; by name.
    """
    folder = Path(folder)
    try:
        note = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        parts = {part: open_shards(folder / part) for part in ("train", "validation")}
    except FileNotFoundError:
        raise RecipeError(f"{folder} holds no complete shards: write them with `groundup shards`") from None
    except (OSError, ValueError) as error:
        raise RecipeError(f"{folder}: {error}") from None
    return text.Corpus(
        parts["train"],
        parts["validation"],
        text.restored(note["tokenizer"]),
        note["bytes"]["validation"] / note["tokens"]["validation"],
        note["tokenizer"],
    )


def _documents(source: str) -> Iterator[str]:
    if source in HUB:
        path, name = HUB[source]
        return stream_documents(path, name)
    path = Path(source)
    if not path.is_file():
        raise RecipeError(f"{source} is neither a text file nor one of {', '.join(HUB)}")
    return _split(path)


def _split(path: Path) -> Iterator[str]:
    lines: list[str] = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.strip() == END:
                yield "".join(lines)
                lines = []
            else:
                lines.append(line)
    yield "".join(lines)


def _tokenizer(kind: str, vocab_size: int, documents: Iterator[str]) -> tuple[BPETokenizer, Iterator[str]]:
    """The tokenizer, and all documents: one of its own is trained on the first of them."""
    if kind == "gpt2":
        return BPETokenizer.gpt2(), documents
    if kind != "bpe":
        raise RecipeError(f"--tokenizer is bpe or gpt2 here, not {kind!r}")
    if vocab_size > 2**16:
        raise RecipeError(f"--vocab-size is at most {2**16} in shards, whose tokens take two bytes")
    seen: list[str] = []
    for document in documents:
        seen.append(document)
        if sum(map(len, seen)) >= LEARN_FROM:
            break
    return BPETokenizer.train(END.join(seen), vocab_size, [END]), chain(seen, documents)


def _written(
    documents: Iterator[str],
    out: Path,
    tokenizer: BPETokenizer,
    max_tokens: int,
    validation_tokens: int,
    shard_size: int,
    console: Console | None,
) -> tuple[dict[str, int], dict[str, int]]:
    fast = TiktokenTokenizer(tokenizer)  # the same ids
    documents = (document for document in documents if document.strip())
    tokens, lengths = {}, {}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,} tokens"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        for part, wanted in (("validation", validation_tokens), ("train", max_tokens)):
            task = progress.add_task(part, total=wanted)
            count = {"tokens": 0, "bytes": 0}

            def encode(document: str, count=count, task=task) -> list[int]:
                ids = fast.encode(document)
                count["tokens"] += len(ids) + 1  # the end of the text
                count["bytes"] += len(document.encode())
                progress.update(task, completed=count["tokens"])
                return ids

            def enough(count=count, wanted=wanted) -> Iterator[str]:
                while count["tokens"] < wanted and (document := next(documents, None)) is not None:
                    yield document

            end = tokenizer.special_tokens[END]
            write_shards(enough(), out / part, encode=encode, end_of_text=end, shard_size=shard_size)
            if not count["tokens"]:
                raise RecipeError(
                    f"no document is left to {part.replace('train', 'train on').replace('validation', 'validate on')}: "
                    f"give more text, or lower --validation-tokens"
                )
            tokens[part], lengths[part] = count["tokens"], count["bytes"]
    return tokens, lengths
