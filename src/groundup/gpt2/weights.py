"""Loading the GPT-2 weights.

Generated from chapters/02_gpt2/06_weights.md by `make sync`: edit that file, not this one.
"""

import json
import urllib.request
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from groundup.gpt2.model import GPT, GPTConfig

__all__ = [
    "ASSUMED",
    "CONV1D_WEIGHTS",
    "PUBLISHED",
    "WeightsError",
    "config_from_huggingface",
    "download_gpt2",
    "from_huggingface",
    "gpt_with",
    "load_safetensors",
    "load_weights",
    "read_header",
    "to_huggingface",
    "translate_weights",
]


def read_header(path: str | Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Each tensor of a safetensors file: name → (dtype, shape); no number is read."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return {n: (entry["dtype"], tuple(entry["shape"])) for n, entry in header.items()}


CONV1D_WEIGHTS = ("c_attn.weight", "c_fc.weight", "c_proj.weight")


def translate_weights(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Hugging Face's names and Conv1D matrices → the names and matrices of GPT."""
    translated = {}
    for name, tensor in tensors.items():
        if name.endswith((".attn.bias", ".attn.masked_bias")):
            continue
        if name.endswith(CONV1D_WEIGHTS):
            tensor = tensor.T
        if not name.startswith(("transformer.", "lm_head.")):
            name = f"transformer.{name}"
        translated[name] = tensor
    return translated


class WeightsError(ValueError):
    """Weights that do not fit, or that are not to be had; names what is wrong."""


def load_weights(model: GPT, tensors: dict[str, torch.Tensor]) -> None:
    """Copies tensors by name into the model, in place: all of them or none.

    WeightsError names a tensor that is missing, unknown, misshapen, or a head that is
    not tied.
    """
    state, table, head = model.state_dict(), "transformer.wte.weight", "lm_head.weight"
    if table in tensors and head not in tensors:
        tensors = tensors | {head: tensors[table]}
    for name in state:
        if name not in tensors:
            raise WeightsError(f"{name} is missing")
    for name, tensor in tensors.items():
        if name not in state:
            raise WeightsError(f"{name} has no place in this model")
        have, need = tuple(tensor.shape), tuple(state[name].shape)
        if have != need:
            raise WeightsError(f"{name} has the shape {have}, here it is {need}")
    if not torch.equal(tensors[head], tensors[table]):
        raise WeightsError(f"{head} is not {table}: this model is not tied")
    for name, tensor in state.items():
        tensor.copy_(tensors[name])


# What must hold for a model to be our GPT; if config.json is silent, it does.
ASSUMED = {"model_type": ("gpt2",), "layer_norm_epsilon": (1e-5,)}
ASSUMED |= {"activation_function": ("gelu_new", "gelu_pytorch_tanh")}
ASSUMED |= dict.fromkeys(("scale_attn_weights", "tie_word_embeddings"), (True,))
ASSUMED |= dict.fromkeys(("scale_attn_by_inverse_layer_idx", "add_cross_attention"), (False,))


def config_from_huggingface(settings: dict) -> GPTConfig:
    """What stands in a config.json of Hugging Face's GPT-2, as our GPTConfig.

    dropout is 0. WeightsError names a setting that is missing, or that GPT cannot be.
    """
    sizes = ("n_positions", "vocab_size", "n_layer", "n_head", "n_embd")
    for name in sizes:
        if not isinstance(settings.get(name), int):
            raise WeightsError(f"the configuration must say {name}")
    wide = {"n_inner": (4 * settings["n_embd"], None)}  # None means 4C, too
    for name, allowed in (ASSUMED | wide).items():
        value = settings.get(name, allowed[0])
        if value not in allowed:
            raise WeightsError(f"{name} is {value!r}; this GPT has {allowed[0]!r}")
    try:
        return GPTConfig(*(settings[name] for name in sizes))
    except ValueError as error:
        raise WeightsError(str(error)) from None


def gpt_with(config: GPTConfig, tensors: dict[str, torch.Tensor]) -> GPT:
    """A GPT with these tensors of Hugging Face's, in evaluation mode."""
    model = GPT(config)
    load_weights(model, translate_weights(tensors))
    return model.eval()


def load_safetensors(path: str | Path, config: GPTConfig | None = None) -> GPT:
    """The GPT in a safetensors file with Hugging Face's names, in evaluation mode.

    config: its sizes; None reads config.json beside the file.
    WeightsError: another format, a damaged file, tensors or settings that do not fit.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        reason = "unpickling a .bin, .pt or .pth runs the code in it"
        raise WeightsError(f"{path.name}: only .safetensors is read, as {reason}")
    try:
        if config is None:
            text = path.with_name("config.json").read_text(encoding="utf-8")
            config = config_from_huggingface(dict(json.loads(text)))
        tensors = load_file(path)
    except WeightsError:
        raise
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from None
    return gpt_with(config, tensors)


PUBLISHED = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")


def download_gpt2(name: str) -> Path:
    """The folder with the published weights of one of the four sizes, from the hub.

    WeightsError in one line: another name, or the hub is not reached.
    """
    if name not in PUBLISHED:
        sizes = ", ".join(PUBLISHED)
        raise WeightsError(f"{name} is neither a folder nor one of {sizes}")
    from huggingface_hub import constants, snapshot_download

    files = ["config.json", "model.safetensors"]
    where = {"repo_id": f"openai-community/{name}", "allow_patterns": files}
    try:
        folder = Path(snapshot_download(**where, local_files_only=True))
        if all((folder / file).exists() for file in files):
            return folder
    except OSError:  # nothing of it is here
        pass
    try:
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        urllib.request.urlopen(constants.ENDPOINT, timeout=5).close()
        return Path(snapshot_download(**where))
    except Exception as error:  # the client has many ways to fail
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{name} is not here, nor can it be had: {reason}") from None


def from_huggingface(model_or_name, device: torch.device | str | None = None) -> GPT:
    """A GPT from a folder, a published name, or a GPT2LMHeadModel of transformers.

    In evaluation mode, on `device` (None: on the CPU). WeightsError in one line if
    something does not fit, or if the hub is not reached.
    """
    if isinstance(model_or_name, (str, Path)):
        folder = Path(model_or_name)
        if not folder.is_dir():
            folder = download_gpt2(str(model_or_name))
        model = load_safetensors(folder / "model.safetensors")
    else:
        config = config_from_huggingface(model_or_name.config.to_dict())
        model = gpt_with(config, model_or_name.state_dict())
    return model.to(device)


def to_huggingface(model: GPT) -> dict[str, torch.Tensor]:
    """The tensors of a GPT under the names and in the shapes of a GPT2LMHeadModel.

    For safetensors' save_file; lm_head.weight, tied to wte, is left out.
    """
    weights = {}
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight":
            tensor = tensor.T if name.endswith(CONV1D_WEIGHTS) else tensor
            weights[name] = tensor.contiguous()
    return weights
