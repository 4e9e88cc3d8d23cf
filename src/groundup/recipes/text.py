"""Text for a training run: where it comes from, and as which tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from groundup.data import shakespeare
from groundup.gpt2.bpe import BPETokenizer
from groundup.gpt2.loading import ShardedTokens
from groundup.gpt2.ngrams import CharTokenizer
from groundup.recipes.errors import RecipeError

HELD_OUT = 0.1  # of a text that has no split of its own


@dataclass(frozen=True)
class Corpus:
    """Tokens to learn from, tokens to validate on, and what turns text into them and back.

    train, validation: 1-D int64, or shards.
    bytes_per_token: of the validation text, to turn nats per token into bits per byte.
    description: of the tokenizer, as `described` made it.
    """

    train: torch.Tensor | ShardedTokens
    validation: torch.Tensor | ShardedTokens
    tokenizer: CharTokenizer | BPETokenizer
    bytes_per_token: float
    description: dict


def corpus(data: str, tokenizer: str, vocab_size: int) -> Corpus:
    """Reads `data` and encodes it.

    Args:
        data: `shakespeare`; a folder that `groundup shards` wrote, with the tokenizer that it was written with; or the
            path of a text file (UTF-8), whose last tenth is held out.
        tokenizer: `char`, `gpt2` (the real ranks), or `bpe` (trained on the training part).
        vocab_size: of `bpe`.

    Raises:
        RecipeError: no such file, not UTF-8, too short, or an unknown tokenizer.
    """
    if Path(data).is_dir():
        from groundup.recipes.shards import opened

        return opened(data)
    train, validation = _texts(data)
    known = made(tokenizer, train + validation if tokenizer == "char" else train, vocab_size)
    ids = [torch.tensor(known.encode(text), dtype=torch.int64) for text in (train, validation)]
    return Corpus(*ids, known, len(validation.encode()) / len(ids[1]), described(known, tokenizer))


def made(kind: str, text: str, vocab_size: int) -> CharTokenizer | BPETokenizer:
    """A tokenizer of this kind for `text`."""
    if kind == "char":
        return CharTokenizer(text)
    if kind == "gpt2":
        return BPETokenizer.gpt2()
    if kind == "bpe":
        return BPETokenizer.train(text, vocab_size)
    raise RecipeError(f"--tokenizer is char, bpe or gpt2, not {kind!r}")


def described(tokenizer: CharTokenizer | BPETokenizer, kind: str) -> dict:
    """What a checkpoint keeps of a tokenizer, as JSON can hold it; `restored` makes it again."""
    if kind == "char":
        return {"kind": kind, "characters": tokenizer.characters}
    if kind == "gpt2":
        return {"kind": kind}
    ranks = sorted(tokenizer.ranks, key=tokenizer.ranks.get)
    return {"kind": kind, "tokens": [token.hex() for token in ranks]}


def restored(description: dict) -> CharTokenizer | BPETokenizer:
    """The tokenizer that `described` described."""
    kind = description["kind"]
    if kind == "char":
        return CharTokenizer(description["characters"])
    if kind == "gpt2":
        return BPETokenizer.gpt2()
    ranks = {bytes.fromhex(token): rank for rank, token in enumerate(description["tokens"])}
    return BPETokenizer(ranks, description.get("special_tokens", {}))


def _texts(data: str) -> tuple[str, str]:
    if data == "shakespeare":
        try:
            text = shakespeare()
        except FileNotFoundError as missing:
            raise RecipeError(str(missing)) from None
        return text.train, text.validation
    path = Path(data)
    try:
        whole = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not UTF-8 text (at byte {error.start})") from None
    except OSError as error:
        raise RecipeError(f"cannot read {path}: {error.strerror or error}") from None
    cut = int(len(whole) * (1 - HELD_OUT))
    if not whole[:cut] or not whole[cut:]:
        raise RecipeError(f"{path} is too short to hold a tenth of it out")
    return whole[:cut], whole[cut:]
