"""Schedules, checkpoints and resuming.

Generated from chapters/02_gpt2/09_schedules.md by `make sync`: edit that file, not this one.
"""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from groundup.gpt2.training import TokenBatches, training_step
from groundup.run.state import CheckpointError, newest, restore, run_state

__all__ = [
    "batch_size_ramp",
    "checkpoint_files",
    "load_checkpoint",
    "read_checkpoint",
    "save_checkpoint",
    "train_and_save",
    "warmup_cosine",
    "warmup_stable_decay",
    "write_whole",
]


def warmup_cosine(step: int, *, max_lr: float, min_lr: float, warmup: int, steps: int) -> float:
    """The learning rate of a step: a straight way up, then half a cosine down.

    max_lr is reached in step warmup - 1, min_lr in step `steps`, and kept after it.
    """
    if step < warmup:
        return max_lr * (step + 1) / warmup
    if step >= steps:
        return min_lr
    done = (step - warmup) / (steps - warmup)
    return min_lr + (max_lr - min_lr) * (1 + math.cos(math.pi * done)) / 2


def warmup_stable_decay(
    step: int,
    *,
    max_lr: float,
    min_lr: float = 0.0,
    warmup: int,
    decay: int,
    steps: int,
) -> float:
    """The learning rate of a step: up, level, and down in the last `decay` steps.

    min_lr is reached in step `steps`, and kept after it. warmup + decay <= steps.
    """
    if step < warmup:
        return max_lr * (step + 1) / warmup
    left = min(decay, max(0, steps - step))
    return min_lr + (max_lr - min_lr) * left / decay


def batch_size_ramp(step: int, *, start: int, end: int, steps: int, multiple_of: int) -> int:
    """How many windows a step learns from: evenly from start to end, then end.

    `end` is reached in step `steps`. Rounded down to a multiple of multiple_of; start
    and end are such multiples.
    """
    size = start + (end - start) * min(step, steps) // steps
    return size // multiple_of * multiple_of


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Makes the file `path` with write(another path), whole or not at all.

    Whatever happens on the way, `path` holds all of the new or all of the old, and no
    temporary file stays. An error of `write` goes on to the caller.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_checkpoint(
    folder: str | Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: TokenBatches,
    step: int,
    extra: object = None,
    keep: int = 2,
) -> Path:
    """Writes all that a run needs to go on after `step` steps into one file.

    extra: anything that JSON can hold. Of the files up to this step the newest `keep`
    stay. CheckpointError if it cannot be written; the files before stay as they are.
    """
    tensors, notes = run_state(model, optimizer)
    notes |= {"step": step, "batches": batches.state_dict(), "extra": extra}
    folder, metadata = Path(folder), {"groundup": json.dumps(notes)}
    path = folder / f"step-{step:08d}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda temporary: save_file(tensors, temporary, metadata))
        older = [p for p in checkpoint_files(folder) if p.name < path.name]
        # What killed runs left half-written: our names, and safetensors' own.
        halves = [*folder.glob("step-*.tmp"), *folder.glob(".tmp*")]
        for p in older[max(0, keep - 1) :] + halves:
            p.unlink()
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    return path


def checkpoint_files(folder: str | Path) -> list[Path]:
    """The checkpoints in a folder, the newest first."""
    return sorted(Path(folder).glob("step-*.safetensors"), reverse=True)


def load_checkpoint(
    folder: str | Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: TokenBatches,
) -> dict:
    """Puts the newest good checkpoint back: the run goes on as if it had not stopped.

    Returns step, extra, path, and skipped: a line for each newer file that is damaged.
    CheckpointError if no file is good, or it does not fit; then nothing was changed.
    """
    path, tensors, notes, skipped = newest(folder, checkpoint_files(folder))
    restore(path, tensors, notes, model=model, optimizer=optimizer)
    batches.load_state_dict(notes["batches"])
    found = {"path": path, "skipped": skipped}
    return found | {key: notes[key] for key in ("step", "extra")}


def read_checkpoint(source: str | Path) -> dict:
    """step, config, model (a state_dict), extra, path, skipped of a file, or of a
    folder's newest good one. CheckpointError as above."""
    source = Path(source)
    files = checkpoint_files(source) if source.is_dir() else [source]
    path, tensors, notes, skipped = newest(source, files)
    names = [name for name in tensors if name.startswith("model.")]
    state = {name.removeprefix("model."): tensors[name] for name in names}
    state |= {name: state[first] for name, first in notes["tied"].items()}
    found = {"model": state, "path": path, "skipped": skipped}
    return found | {key: notes[key] for key in ("step", "config", "extra")}


def train_and_save(
    folder: str | Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: TokenBatches,
    steps: int,
    learning_rate: Callable[[int], float],
    save_every: int,
) -> list[float]:
    """Trains until `steps` steps are done, from the folder's newest checkpoint on.

    Returns the losses of the steps made now.
    """
    run = {"model": model, "optimizer": optimizer, "batches": batches}
    step, losses = 0, []
    if checkpoint_files(folder):
        step = load_checkpoint(folder, **run)["step"]
    while step < steps:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        loss, _ = training_step(model, batches, optimizer)
        losses.append(loss)
        step += 1
        if step % save_every == 0:
            save_checkpoint(folder, step=step, **run)
    return losses
