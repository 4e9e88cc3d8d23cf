"""The lesson gpt2.weights: the loader against transformers and damaged files, the hub without a network, and its checks."""

import inspect
import json
import textwrap
import urllib.request

import huggingface_hub
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save
from transformers import GPT2Config, GPT2LMHeadModel

from groundup.check import grade
from groundup.gpt2 import weights as lesson
from groundup.gpt2.model import GPT, GPTConfig
from groundup.gpt2.weights import (
    WeightsError,
    config_from_huggingface,
    download_gpt2,
    from_huggingface,
    load_safetensors,
    load_weights,
    read_header,
    to_huggingface,
    translate_weights,
)

IDX = torch.arange(26).view(2, 13)


@torch.no_grad()
def their_model(**changed):
    torch.manual_seed(0)
    sizes = {"n_positions": 16, "vocab_size": 31, "n_layer": 2, "n_head": 3, "n_embd": 12} | changed
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=None, eos_token_id=None)).eval()
    for parameter in model.parameters():
        parameter.normal_(std=0.4)
    return model


@pytest.fixture(scope="module")
def theirs():
    return their_model()


def published(theirs, folder):
    tensors = theirs.transformer.state_dict()
    for n in range(theirs.config.n_layer):
        tensors[f"h.{n}.attn.bias"] = torch.ones(1, 1, 16, 16).tril()
        tensors[f"h.{n}.attn.masked_bias"] = torch.tensor(-1e4)
    (folder / "model.safetensors").write_bytes(save(tensors))  # save_file waits for the disk
    (folder / "config.json").write_text(json.dumps(theirs.config.to_dict()))
    return folder


@torch.no_grad()
def same_logits(ours, theirs):
    return torch.allclose(ours(IDX), theirs(IDX).logits, atol=1e-5)


@pytest.mark.parametrize("heads", [1, 2, 3, 4])
def test_logits_equal_those_of_transformers(heads, tmp_path):
    theirs = their_model(n_head=heads)
    theirs.save_pretrained(tmp_path / "own")
    (tmp_path / "old").mkdir()
    for source in (theirs, tmp_path / "own", str(published(theirs, tmp_path / "old"))):
        ours = from_huggingface(source)
        assert not ours.training and ours.lm_head.weight is ours.transformer.wte.weight
        assert ours.config.n_head == heads and ours.config.dropout == 0
        assert same_logits(ours, theirs)


def test_another_number_of_heads_loads_quietly_and_is_wrong(theirs, tmp_path):
    path = published(theirs, tmp_path) / "model.safetensors"
    sizes = {"block_size": 16, "vocab_size": 31, "n_layer": 2, "n_embd": 12}
    assert same_logits(load_safetensors(path, GPTConfig(n_head=3, **sizes)), theirs)
    assert not same_logits(load_safetensors(path, GPTConfig(n_head=4, **sizes)), theirs)


def test_the_way_back(theirs, tmp_path):
    ours = from_huggingface(theirs)
    (tmp_path / "model.safetensors").write_bytes(save(to_huggingface(ours)))
    again = load_safetensors(tmp_path / "model.safetensors", ours.config)
    assert all(torch.equal(again.state_dict()[name], t) for name, t in ours.state_dict().items())
    other = GPT2LMHeadModel(theirs.config).eval()
    answer = other.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=False)
    assert answer.missing_keys == ["lm_head.weight"] and not answer.unexpected_keys
    other.tie_weights()
    assert same_logits(ours, other)


shapes = st.dictionaries(
    st.text(min_size=1, max_size=5).filter(lambda name: name != "__metadata__"),
    st.lists(st.integers(0, 5), max_size=4).map(tuple),
    max_size=6,
)


@settings(max_examples=40, deadline=None)
@given(shapes, st.sampled_from([torch.float32, torch.bfloat16, torch.int64]), st.booleans())
def test_the_header_is_what_safetensors_says(tmp_path_factory, shapes, dtype, metadata):
    path = tmp_path_factory.mktemp("header") / "a.safetensors"
    zeros = {n: torch.zeros(s, dtype=dtype) for n, s in shapes.items()}
    path.write_bytes(save(zeros, {"a": "b"} if metadata else None))
    with safe_open(path, framework="pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        expected = {n: (s.get_dtype(), tuple(s.get_shape())) for n, s in slices.items()}
    assert read_header(path) == expected


def every_name(theirs):
    return translate_weights(theirs.state_dict())


def test_each_missing_unknown_or_misshapen_tensor_is_named(theirs):
    good = every_name(theirs)
    model = GPT(config_from_huggingface(theirs.config.to_dict()))
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name in good:
        without = {n: t for n, t in good.items() if n != name}
        wrong = [
            good | {name: good[name][None]},
            good | {name: good[name][:1]},
            good | {name + "x": good[name]},
        ]
        for tensors in wrong if name == "lm_head.weight" else [without, *wrong]:
            with pytest.raises(WeightsError, match=name.replace(".", r"\.")):
                load_weights(model, tensors)
            assert all(torch.equal(model.state_dict()[n], t) for n, t in start.items())
    with pytest.raises(WeightsError, match=r"lm_head\.weight"):
        load_weights(model, good | {"lm_head.weight": good["lm_head.weight"] + 1})


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_a_pickle_is_refused_unopened(name, tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path / "ran").touch, ()

    torch.save({"wte.weight": Trap()}, tmp_path / name)
    with pytest.raises(WeightsError, match=r"runs the code"):
        load_safetensors(tmp_path / name)
    (tmp_path / name).rename(tmp_path / "model.safetensors")  # under a false name
    (tmp_path / "config.json").write_text(json.dumps(GPT2Config().to_dict()))
    with pytest.raises(WeightsError, match="cannot be read"):
        from_huggingface(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_damaged_or_absent_files_give_one_line(theirs, tmp_path):
    folder = published(theirs, tmp_path)
    path, whole = folder / "model.safetensors", (folder / "model.safetensors").read_bytes()
    for damaged in (whole[:-5], whole[:20], b"", b"\xff" * 30):
        path.write_bytes(damaged)
        with pytest.raises(WeightsError) as caught:
            from_huggingface(folder)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    path.write_bytes(whole)
    for text in ("{", "[]", "null"):
        (folder / "config.json").write_text(text)
        with pytest.raises(WeightsError):
            from_huggingface(folder)
    (folder / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"config\.json"):
        from_huggingface(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"activation_function": "relu"},
        {"activation_function": "gelu"},
        {"layer_norm_epsilon": 1e-6},
        {"model_type": "gpt_neo"},
        {"n_inner": 50},
        {"scale_attn_weights": False},
        {"scale_attn_by_inverse_layer_idx": True},
        {"add_cross_attention": True},
        {"tie_word_embeddings": False},
        {"n_head": None},
        {"n_positions": "16"},
        {"n_head": 5},
    ],
)
def test_settings_that_are_not_ours_are_refused_by_name(theirs, change):
    with pytest.raises(WeightsError, match=next(iter(change))):
        config_from_huggingface(theirs.config.to_dict() | change)


def no_network(*inputs, **options):
    raise OSError("Name or service not known\nand more")


def nothing_here(*inputs, local_files_only=False, **options):
    assert local_files_only, "the client was asked though the hub cannot be reached"
    raise huggingface_hub.errors.LocalEntryNotFoundError("not in the cache")


@pytest.mark.parametrize("name", ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"])
def test_without_the_hub_one_clear_line(name, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", nothing_here)
    with pytest.raises(WeightsError) as caught:
        from_huggingface(name)
    assert name in str(caught.value) and "Name or service not known" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_the_hub_gives_is_loaded_and_the_cache_comes_first(theirs, tmp_path, monkeypatch):
    folder, asked = published(theirs, tmp_path), []

    def hub(*, repo_id, allow_patterns, local_files_only=False):
        asked.append((repo_id, local_files_only))
        assert not any(pattern.endswith(".bin") for pattern in allow_patterns)
        return str(folder)

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    assert same_logits(from_huggingface("gpt2"), theirs)
    assert asked == [("openai-community/gpt2", True)]
    with pytest.raises(WeightsError, match="gpt2-xl"):
        download_gpt2("gpt3")


def edited(name, *edits):
    source = textwrap.dedent(inspect.getsource(getattr(lesson, name)))
    for old, new in edits:
        assert old in source
        source = source.replace(old, new)
    namespace = dict(vars(lesson))
    exec(source, namespace)
    return namespace[name]


LOOKED = "    for name, tensor in state.items():\n        tensor.copy_(tensors[name])\n"
WRONG = {
    "read_header": [
        # a library that opens the whole file, and so needs its numbers
        (None, [('    with open(path, "rb") as file:\n', "    load_file(path)\n    with open(path, 'rb') as file:\n")]),
    ],
    "load_weights": [
        ("nearly_tied_accepted", [("torch.equal(", "torch.allclose(")]),
        ("untied_head_accepted", [("torch.equal(tensors[head]", "torch.equal(tensors[table]")]),
        (None, [("if name not in tensors:", "if name not in tensors and 'h.0.ln_1.bias' not in name:"), ("    for name, tensor in state.items():\n", "    for name, tensor in state.items():\n        if name not in tensors:\n            continue\n")]),
        (None, [("if name not in state:", "if name not in state and name.startswith('transformer.'):"), ("        have, need", "        if name not in state:\n            continue\n        have, need")]),
        (None, [('f"{name} is missing"', '" ".join(state)')]),
        (None, [(LOOKED, LOOKED + "    model.eval()\n")]),
        (None, [("tensor.copy_(tensors[name])", "tensor.copy_(tensors[name].float())")]),
        (None, [("if have != need", "if len(have) != len(need)")]),
        (None, [("if have != need", "if state[name].numel() != tensor.numel()")]),
        (None, [(LOOKED, "    model.load_state_dict(tensors, assign=True)\n")]),
        (None, [("    for name, tensor in tensors.items():\n", "    for name, tensor in tensors.items():\n        if name in state and tensor.shape == state[name].shape:\n            state[name].copy_(tensor)\n")]),
    ],
    "translate_weights": [
        (None, [('name.endswith((".attn.bias", ".attn.masked_bias"))', "tensor.dim() in (0, 4)")]),
        (None, [('name.endswith((".attn.bias", ".attn.masked_bias"))', '"masked" in name or name.endswith(".attn.bias")')]),
        (None, [("name.endswith(CONV1D_WEIGHTS)", "'.c_' in name and tensor.dim() == 2")]),
        (None, [("name.endswith(CONV1D_WEIGHTS)", "'h.' in name and name.endswith('weight') and tensor.dim() == 2")]),
        (None, [('("transformer.", "lm_head.")', '("transformer", "lm_head")')]),
        (None, [('name.startswith(("transformer.", "lm_head."))', 'any(n.startswith(("transformer.", "lm_head.")) for n in tensors)')]),
        ("real_biases_dropped", [('".attn.bias", ', '"attn.bias", ')]),
        ("square_matrix_forgotten", [("name.endswith(CONV1D_WEIGHTS)", "name.endswith(CONV1D_WEIGHTS) and tensor.shape[0] != tensor.shape[1]")]),
        (None, [("translated = {}", "translated = tensors"), ("tensors.items()", "list(tensors.items())")]),
    ],
    "from_huggingface": [
        ("left_in_training", [("return model.to(device)", "return model.to(device).train()")]),
        ("their_model_put_to_sleep", [("    else:\n", "    else:\n        model_or_name.eval()\n")]),
        ("settings_not_asked", [("config_from_huggingface(model_or_name.config.to_dict())", "GPTConfig(*(getattr(model_or_name.config, n) for n in ('n_positions', 'vocab_size', 'n_layer', 'n_head', 'n_embd')))")]),
        (None, [("if not folder.is_dir()", 'if "/" not in str(model_or_name)')]),
        (None, [("return model.to(device)", "model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())\n    return model.to(device)")]),
        ("device_ignored", [("return model.to(device)", "return model")]),
    ],
    "to_huggingface": [
        ("square_left_as_it_was", [("name.endswith(CONV1D_WEIGHTS)", "name.endswith(CONV1D_WEIGHTS) and tensor.shape[0] != tensor.shape[1]")]),
        (None, [("    weights = {}\n", "    weights = {}\n    model.eval()\n")]),
        (None, [('if name != "lm_head.weight":', 'if name != "lm_head.weight" and "h.10." not in name:')]),
        ("views_handed_out", [("tensor.contiguous()", "tensor")]),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("name", "wrong"), [(name, wrong) for name in WRONG for wrong in WRONG[name]])
def test_wrong_answers_fail(name, wrong):
    mistake, edits = wrong
    result = grade(f"gpt2.weights.{name}", edited(name, *edits), seed=0)
    assert result.status in ("failed", "error") and mistake in (None, result.mistake), result.message


RIGHT = {
    "load_weights": [
        [(LOOKED, "    model.load_state_dict(tensors)\n")],
        [(LOOKED, "    for name, parameter in model.named_parameters():\n        parameter.data.copy_(tensors[name])\n")],
        [("raise WeightsError(", "raise type('NoFit', (WeightsError,), {})(")],
        [("raise WeightsError(f\"{name} is missing\")", "raise WeightsError(f'no {name}, nor perhaps others')")],
    ],
    "translate_weights": [
        [("tensor = tensor.T", "tensor = tensor.transpose(0, 1).clone()")],
        [('name.startswith(("transformer.", "lm_head."))', 'name.split(".")[0] in {"transformer", "lm_head"}')],
    ],
    "read_header": [[('"rb") as file', '"rb", buffering=0) as file')]],
    "from_huggingface": [[("folder.is_dir()", "folder.exists()")]],
    "to_huggingface": [[("tensor.contiguous()", "tensor.clone(memory_format=torch.contiguous_format)")]],
}  # fmt: skip


@pytest.mark.parametrize(("name", "edits"), [(name, edits) for name in RIGHT for edits in RIGHT[name]])
def test_right_answers_pass(name, edits):
    for seed in range(2):
        result = grade(f"gpt2.weights.{name}", edited(name, *edits), seed=seed)
        assert result.status == "passed", (edits, result.message)
