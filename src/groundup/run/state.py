"""The state of a training run as named tensors and notes, and back: what stands behind the checkpoints of Part 2.

A run's state is the model, the optimizer's memory, the options of its groups, and the random generators. In a file all
goes by the parameters' names, each tied weight once, without the words that torch.compile and DistributedDataParallel
put before a name.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

# How an optimizer computes, not what: that is for the machine on which the run goes on.
HOW = ("params", "foreach", "fused", "capturable", "differentiable")


class CheckpointError(Exception):
    """A checkpoint cannot be written, read, or fitted to the model; a line says why."""

    def __init__(self, why: str):
        super().__init__(" ".join(why.split()))


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


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """What the optimizer remembers, by the parameters' names: "wte.weight.exp_avg".

    A parameter for which it remembers nothing has no entry. Nothing is changed: `optimizer.state` is a defaultdict, so
    asking for a state with [] would make one.
    """
    return {
        f"{name}.{key}".replace("_orig_mod.", ""): tensor
        for name, parameter in model.named_parameters()
        for key, tensor in optimizer.state.get(parameter, {}).items()
    }


def checksum(tensors: dict[str, torch.Tensor]) -> int:
    """CRC-32 of all bytes, in the order of the names."""
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(tensors[name].flatten().view(torch.uint8).numpy(), value)
    return value


def run_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict]:
    """All tensors of a run, on the CPU, and notes that JSON can hold.

    The tensors' names begin with `model.`, `optimizer.` or `rng.`. The notes are config (a GPTConfig's fields, if the
    model has .config), tied, groups, and the tensors' checksum.
    """
    model = unwrapped(model)
    weights, tied = model_tensors(model)
    tensors = {f"model.{name}": tensor for name, tensor in weights.items()}
    tensors |= {f"optimizer.{name}": t for name, t in optimizer_tensors(model, optimizer).items()}
    tensors["rng.cpu"] = torch.get_rng_state()
    device = next(model.parameters()).device
    if device.type == "cuda":
        tensors["rng.cuda"] = torch.cuda.get_rng_state(device)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return tensors, {
        "config": asdict(model.config) if hasattr(model, "config") else None,
        "tied": tied,
        "groups": [{k: v for k, v in group.items() if k not in HOW} for group in optimizer.param_groups],
        "checksum": checksum(tensors),
    }


def read_file(path: str | Path) -> tuple[dict[str, torch.Tensor], dict]:
    """All tensors of a checkpoint, and its notes.

    Raises:
        CheckpointError: it cannot be read, or is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            notes = json.loads((file.metadata() or {})["groundup"])
        tensors = load_file(path)
        whole = checksum(tensors) == notes["checksum"]
    except KeyError:
        raise CheckpointError(f"{path}: not a checkpoint of this course") from None
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    if not whole:
        raise CheckpointError(f"{path}: damaged, the checksum is wrong")
    return tensors, notes


def newest(folder: str | Path, files: list[Path]) -> tuple[Path, dict[str, torch.Tensor], dict, list[str]]:
    """The first of the files that is not damaged, its tensors and notes, and a line for each before it.

    Raises:
        CheckpointError: none is good.
    """
    skipped = []
    for path in files:
        try:
            return path, *read_file(path), skipped
        except CheckpointError as error:
            skipped.append(str(error))
    raise CheckpointError("; ".join([f"{folder} holds no good checkpoint", *skipped]))


def restore(
    path: Path,
    tensors: dict[str, torch.Tensor],
    notes: dict,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Puts the state of `run_state`, read from `path`, back into a model, its optimizer, and the random generators.

    Raises:
        CheckpointError: something does not fit, by name; then nothing was changed.
    """
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
    torch.set_rng_state(tensors["rng.cpu"])
    device = next(model.parameters()).device
    if device.type == "cuda" and "rng.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng.cuda"], device)
