"""Schedules, checkpoints and resuming.

Generated from chapters/02_gpt2/09_schedules.md by `make sync`: edit that file, not this one.
"""

import json
import math
import os
import zlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from groundup.gpt2.training import TokenBatches, training_step

__all__ = [
    "HOW",
    "CheckpointError",
    "batch_size_ramp",
    "checkpoint_files",
    "checksum",
    "load_checkpoint",
    "model_tensors",
    "one_line",
    "optimizer_tensors",
    "random_tensors",
    "read_checkpoint",
    "read_file",
    "save_checkpoint",
    "train_and_save",
    "unwrapped",
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

    min_lr is reached in step `steps`, and kept after it.
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


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """What the optimizer remembers, by the parameters' names: "wte.weight.exp_avg".

    A parameter for which it remembers nothing has no entry. Nothing is changed.
    """
    return {
        f"{name}.{key}": tensor
        for name, parameter in model.named_parameters()
        for key, tensor in optimizer.state.get(parameter, {}).items()
    }


class CheckpointError(Exception):
    """A checkpoint cannot be written, read, or fitted to the model; a line says why."""


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Makes the file `path` with write(another path), whole or not at all.

    Whatever happens on the way, `path` holds all of the new or all of the old, and no
    other file stays. An error of `write` goes on to the caller.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model without what torch.compile or DistributedDataParallel put around it."""
    while True:
        if hasattr(model, "_orig_mod"):  # torch.compile's
            model = model._orig_mod
        elif isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        else:
            return model


def model_tensors(model: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """A state_dict's tensors by name, and for each tied name the one it is tied to."""
    tensors, tied, first = {}, {}, {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        name = name.replace("_orig_mod.", "")  # of a part that was compiled
        if first.setdefault(id(tensor), name) == name:
            tensors[name] = tensor
        else:
            tied[name] = first[id(tensor)]
    return tensors, tied


def random_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """The states of the generators that training draws from: torch's and CUDA's."""
    states = {"rng.cpu": torch.get_rng_state()}
    device = next(model.parameters()).device
    if device.type == "cuda":
        states["rng.cuda"] = torch.cuda.get_rng_state(device)
    return states


def checksum(tensors: dict[str, torch.Tensor]) -> int:
    """CRC-32 of all bytes, in the order of the names."""
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(tensors[name].flatten().view(torch.uint8).numpy(), value)
    return value


# How an optimizer computes, not what: that is for the machine on which the run goes on.
HOW = ("params", "foreach", "fused", "capturable", "differentiable")


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
    model, folder = unwrapped(model), Path(folder)
    weights, tied = model_tensors(model)
    tensors = {f"model.{name}": tensor for name, tensor in weights.items()}
    for name, tensor in optimizer_tensors(model, optimizer).items():
        tensors["optimizer." + name.replace("_orig_mod.", "")] = tensor
    tensors |= random_tensors(model)
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    groups = optimizer.param_groups
    notes = {
        "step": step,
        "config": asdict(model.config) if hasattr(model, "config") else None,
        "tied": tied,
        "groups": [{k: v for k, v in g.items() if k not in HOW} for g in groups],
        "batches": batches.state_dict(),
        "extra": extra,
        "checksum": checksum(tensors),
    }
    metadata = {"groundup": json.dumps(notes)}
    path = folder / f"step-{step:08d}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda temporary: save_file(tensors, temporary, metadata))
        older = [p for p in checkpoint_files(folder) if p.name < path.name]
        for p in [*older[max(0, keep - 1) :], *folder.glob("step-*.tmp")]:
            p.unlink()
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: {one_line(error)}") from None
    return path


def checkpoint_files(folder: str | Path) -> list[Path]:
    """The checkpoints in a folder, the newest first."""
    return sorted(Path(folder).glob("step-*.safetensors"), reverse=True)


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def read_file(path: str | Path) -> tuple[dict[str, torch.Tensor], dict]:
    """All tensors of a checkpoint, and its notes. CheckpointError if it is damaged."""
    try:
        with safe_open(path, "pt") as file:
            notes = json.loads((file.metadata() or {})["groundup"])
        tensors = load_file(path)
        whole = checksum(tensors) == notes["checksum"]
    except KeyError:
        raise CheckpointError(f"{path}: not a checkpoint of this course") from None
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{path}: {one_line(error)}") from None
    if not whole:
        raise CheckpointError(f"{path}: damaged, the checksum is wrong")
    return tensors, notes


def read_checkpoint(path: str | Path) -> dict:
    """step, config, model (a state_dict), extra of a file. CheckpointError as above."""
    tensors, notes = read_file(path)
    state = {
        name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")
    }
    state |= {name: state[first] for name, first in notes["tied"].items()}
    return {"model": state} | {key: notes[key] for key in ("step", "config", "extra")}


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
    skipped = []
    for path in checkpoint_files(folder):
        try:
            tensors, notes = read_file(path)
            break
        except CheckpointError as error:
            skipped.append(str(error))
    else:
        raise CheckpointError("; ".join([f"{folder} holds no good checkpoint", *skipped]))
    model, state = unwrapped(model), {}
    weights, held = model_tensors(model)[0], optimizer.state_dict()["param_groups"]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    numbers = {parameter: number for number, parameter in enumerate(parameters)}
    missing = {f"model.{name}" for name in weights} - tensors.keys()
    if missing or len(held) != len(notes["groups"]):
        what = min(missing, default=f"the optimizer with {len(held)} groups")
        raise CheckpointError(f"{path}: it has nothing for {what}")
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "rng":
            continue
        parameter, _, key = (rest, "", "") if kind == "model" else rest.rpartition(".")
        owner = weights.get(parameter)
        if owner is None or (key and owner not in numbers):
            raise CheckpointError(f"{path}: there is no place for {name}")
        have, need = ((*t.shape, t.dtype) for t in (tensor, owner))
        if have != need and not (key and tensor.dim() == 0):
            raise CheckpointError(f"{path}: {name} is {have}, here it has to be {need}")
        if key:
            state.setdefault(numbers[owner], {})[key] = tensor.clone()
    for group, noted in zip(held, notes["groups"], strict=True):
        for key, value in noted.items():  # JSON has no tuples
            group[key] = tuple(value) if isinstance(value, list) else value
    optimizer.load_state_dict({"state": state, "param_groups": held})
    with torch.no_grad():
        for name, tensor in weights.items():
            tensor.copy_(tensors[f"model.{name}"])
    batches.load_state_dict(notes["batches"])
    torch.set_rng_state(tensors["rng.cpu"])
    device = next(model.parameters()).device
    if device.type == "cuda" and "rng.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng.cuda"], device)
    return {
        "step": notes["step"],
        "extra": notes["extra"],
        "path": path,
        "skipped": skipped,
    }


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
    step, losses = 0, []
    if checkpoint_files(folder):
        found = load_checkpoint(folder, model=model, optimizer=optimizer, batches=batches)
        step = found["step"]
    while step < steps:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        loss, _ = training_step(model, batches, optimizer)
        losses.append(loss)
        step += 1
        if step % save_every == 0:
            run = {"model": model, "optimizer": optimizer, "batches": batches}
            save_checkpoint(folder, step=step, **run)
    return losses
