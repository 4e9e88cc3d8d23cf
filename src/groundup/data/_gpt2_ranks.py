"""The merge ranks of GPT-2's tokenizer."""

from __future__ import annotations

import base64
import json

from groundup.data._files import file_of

SIZE = 50_256


def gpt2_ranks() -> dict[bytes, int]:
    """GPT-2's vocabulary: the bytes of each of its 50,256 tokens, and the token's rank, which is also its id.

    Ranks 0 … 255 are the single bytes (in GPT-2's own order); the others are merges, and a lower rank was learnt, and is
    applied, earlier. The special token <|endoftext|> is not among them; its id is 50,256.

    Read from the package openai-whisper if it is installed, else from the Hugging Face hub (`openai-community/gpt2`).

    Raises:
        FileNotFoundError: neither is to be had; the message says what to install.

    Source: the tokenizer of Radford et al., Language Models are Unsupervised Multitask Learners (2019), MIT licence.
    """
    try:
        path = file_of("whisper", "assets/gpt2.tiktoken", install="openai-whisper")
    except FileNotFoundError as missing:
        return _from_hub(missing)
    lines = path.read_bytes().splitlines()
    return {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, lines)}


def _from_hub(missing: FileNotFoundError) -> dict[bytes, int]:
    try:
        from huggingface_hub import hf_hub_download

        path = hf_hub_download("openai-community/gpt2", "vocab.json")
    except Exception:  # not installed, or any of the hub's many ways of not being reached
        raise missing from None
    with open(path, encoding="utf-8") as file:
        vocabulary = json.load(file)
    of_character = {character: byte for byte, character in _printable().items()}
    return {
        bytes(of_character[character] for character in token): rank
        for token, rank in vocabulary.items()
        if rank < SIZE
    }


def _printable() -> dict[int, str]:
    """The character by which the published vocabulary writes each byte: itself if it prints, else one from 256 on."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + i) for i, byte in enumerate(others)}
