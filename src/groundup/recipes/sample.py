"""`groundup sample`: text from a trained model."""

from __future__ import annotations

from pathlib import Path

import torch

from groundup.gpt2.bpe import BPETokenizer
from groundup.gpt2.model import GPT, GPTConfig
from groundup.gpt2.sampling import beam_search, generate
from groundup.gpt2.schedules import CheckpointError, checkpoint_files, read_checkpoint
from groundup.gpt2.weights import PUBLISHED, WeightsError, from_huggingface
from groundup.recipes import text
from groundup.recipes.errors import RecipeError


def newest(folder: str | Path) -> dict:
    """The newest checkpoint in `folder` that can be read: `config`, `model` (state dict), `extra`, `path`, `skipped`.

    Raises:
        RecipeError: there is none; the reason for each file that could not be read.
    """
    if not checkpoint_files(folder):
        raise RecipeError(f"{folder} holds no checkpoint: train first, `groundup train gpt2 --out {folder}`")
    try:
        return read_checkpoint(folder)
    except CheckpointError as error:
        raise RecipeError(str(error)) from None


def opened(source: str, device: torch.device):
    """Model and tokenizer of a run's folder, or of a published GPT-2 such as `gpt2` or `gpt2-xl`.

    Raises:
        RecipeError: the folder holds no checkpoint that can be read, or the weights are not to be had.
    """
    if source in PUBLISHED and not Path(source).exists():
        try:
            return from_huggingface(source, device), BPETokenizer.gpt2()
        except WeightsError as error:
            raise RecipeError(str(error)) from None
    found = newest(source)
    model = GPT(GPTConfig(**found["config"]))
    model.load_state_dict(found["model"])
    return model.to(device).eval(), text.restored(found["extra"]["tokenizer"])


def sample(
    source: str,
    prompt: str,
    *,
    temperature: float,
    top_k: int | None,
    max_new_tokens: int,
    num_beams: int,
    num_samples: int,
    seed: int,
    device: torch.device,
) -> list[str]:
    """Continuations of `prompt`, each with the prompt before it.

    num_beams: above 1, the most probable continuation that a beam of this width finds; temperature and top_k are not
    used then.

    Raises:
        RecipeError: the model cannot be opened, or its tokenizer does not know the prompt.
    """
    model, tokenizer = opened(source, device)
    try:
        ids = tokenizer.encode(prompt)
    except ValueError as error:
        raise RecipeError(f"--prompt: {error}") from None
    if not ids:
        raise RecipeError("--prompt is empty: give at least one character")
    start = torch.tensor([ids], device=device)
    if num_beams > 1:
        tokens, _ = beam_search(model, start, max_new_tokens, num_beams)
        return [tokenizer.decode(tokens.flatten().tolist())]
    generator = torch.Generator(device).manual_seed(seed)
    rows = generate(
        model,
        start.repeat(num_samples, 1),
        max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        generator=generator,
    )
    return [tokenizer.decode(row.tolist()) for row in rows]
