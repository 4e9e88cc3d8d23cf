"""Checks for the lesson gpt2.weights.

Files are written byte by byte here, not by safetensors. The models that a check loads into are `_GPT` of the lesson
before, with the names that the page prescribes; what they must compute is that lesson's reference, a function of the
tensors. Mistakes of from_huggingface use a loader of our own.
"""

import contextlib
import inspect
import json
import math
import shutil
import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from groundup.check import Case, Exercise, compare
from groundup.checks.gpt2.model import _GPT, _config, _gpt, _numbers, _shapes


class WeightsError(ValueError):
    """As on the page; told apart by its name."""


def by_name(got, expected) -> str | None:
    """Compares two observations entry by entry, in the order of the expected one; a text is a sentence."""
    if not isinstance(got, dict) or not isinstance(expected, dict):
        return None if type(got) is type(expected) and got == expected else str(got)
    for name in expected:
        told = f"the tensor {name}" if "." in name and " " not in name else name  # a sentence begins large
        if isinstance(expected[name], str) and isinstance(got.get(name), str):
            if got[name] != expected[name]:
                return f"{told}: {got[name]} (expected: {expected[name]})"
        elif difference := compare(got.get(name), expected[name]):
            return f"{told}: {difference.replace('you returned', 'yours is')}"
    return None


def _raised(error: BaseException | None, names=(), good=()) -> str:
    """What was raised, in words; of a WeightsError, whether it names one of `names` and none of `good`."""
    if error is None:
        return "nothing"
    if all(kind.__name__ != "WeightsError" for kind in type(error).__mro__):
        return f"{type(error).__name__}: {str(error)[:120]}"
    if names and not any(name in str(error) for name in names):
        return f"a WeightsError that does not name the tensor: {str(error)[:120]}"
    for name in good:
        if name in str(error):
            return f"a WeightsError that also names {name}, which fits"
    return "WeightsError with the name" if names else "WeightsError"


# -- theirs -----------------------------------------------------------------------------------------------------------
_CODES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
}


def _write(path, tensors, metadata=None):
    """A safetensors file of real numbers."""
    header, blocks, at = {} if metadata is None else {"__metadata__": metadata}, [], 0
    for name, tensor in tensors.items():
        block = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        code = next(code for code, dtype in _CODES.items() if dtype == tensor.dtype)
        header[name] = {
            "dtype": code,
            "shape": list(tensor.shape),
            "data_offsets": [at, at + len(block)],
        }
        at += len(block)
        blocks.append(block)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    Path(path).write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blocks))


_MATRICES = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


def _theirs(config, seed, *, bare=False, head=False, masks=0):
    """Tensors in Hugging Face's form; bare: without `transformer.`; masks: 0, or how many kinds of them."""
    found = {}
    for name, tensor in _numbers(config, "gpt", seed).items():
        tensor = tensor.float()
        if any(name.endswith(f".{matrix}") for matrix in _MATRICES):
            tensor = tensor.t().contiguous()
        if name != "lm_head.weight" or head:
            found[name.removeprefix("transformer.") if bare else name] = tensor
    T, start = config.block_size, "" if bare else "transformer."
    for k in range(config.n_layer if masks else 0):
        found[f"{start}h.{k}.attn.bias"] = torch.ones(1, 1, T, T).tril()
        if masks > 1:
            found[f"{start}h.{k}.attn.masked_bias"] = torch.tensor(-1e4)
    return found


# -- read_header ------------------------------------------------------------------------------------------------------
read_header = Exercise("gpt2.weights.read_header", seconds=20)
MEGABYTE = 2**20


@read_header.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, *, metadata=None, padding=0, cut=False, **tensors):
        return Case(label, tensors=tensors, metadata=metadata, padding=padding, cut=cut)

    yield case("one tensor", w=("F32", [2, 3]))
    yield case(
        "three tensors and metadata",
        metadata={"format": "pt"},
        w=("F32", [2, 3]),
        b=("F16", [7]),
        s=("I64", []),
    )
    yield case("no tensor")
    yield case("metadata alone", metadata={"format": "pt", "dtype": "F32"})
    yield case("spaces behind the header", padding=5, w=("BF16", [3, 1, 2]))
    yield case("names that are not English", **{"größe.ß": ("F32", [4, 1]), "层": ("U8", [2, 0])})
    many = {f"h.{k}.w": ("F32", [int(n), k + 1]) for k, n in enumerate(rng.integers(1, 9, size=40))}
    yield case("a header of some thousand bytes", metadata={"note": "x" * 50}, **many)
    yield case("a header of more than 65,536 bytes", metadata={"note": "x" * 70_000}, w=("F32", [5, 2]))
    yield case("numbers that should stay on the disk", w=("F32", [2000, 4000]))
    yield case("a download that broke off behind the header", cut=True, w=("F32", [2, 3]), b=("F16", [7]))


def _memory(obj, path):
    """What obj returns, and how many bytes Python held at most while it worked."""
    started = not tracemalloc.is_tracing()
    if started:
        tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        return obj(path), tracemalloc.get_traced_memory()[1] - before
    finally:
        if started:
            tracemalloc.stop()


@read_header.observe
def _(obj, tensors, metadata, padding, cut):
    sizes = {"F64": 8, "I64": 8, "F32": 4, "F16": 2, "BF16": 2, "U8": 1}
    header, at = {} if metadata is None else {"__metadata__": metadata}, 0
    for name, (code, shape) in tensors.items():
        size = sizes[code] * math.prod(shape)
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, ensure_ascii=False).encode() + b" " * padding
    folder = Path(tempfile.mkdtemp())
    try:
        path = folder / "model.safetensors"
        with open(path, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + (0 if cut else at))  # zeros, which take no place on the disk
        if at > 8 * MEGABYTE:
            found, used = _memory(obj, path)
        else:
            found, used = obj(path), 0
        if not isinstance(found, dict):
            return (
                "You return no dictionary. (Is a return missing?)"
                if found is None
                else f"You return a {type(found).__name__}, not a dictionary."
            )
        seen = {"The names": sorted(map(str, found))}
        seen |= {
            f"The entry of {name}": list(pair) if isinstance(pair, tuple | list) else str(pair)
            for name, pair in found.items()
        }
        seen["The shapes are tuples"] = all(
            isinstance(pair, tuple | list) and isinstance(pair[-1], tuple) for pair in found.values()
        )
        return seen | {"Memory taken": "little" if used < 8 * MEGABYTE else "as much as the numbers"}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@read_header.oracle
def _(tensors, metadata, padding, cut):
    seen = {"The names": sorted(tensors)}
    seen |= {f"The entry of {name}": [code, tuple(shape)] for name, (code, shape) in tensors.items()}
    return seen | {"The shapes are tuples": True, "Memory taken": "little"}


read_header.agree(by_name)


def _read(path, *, count=8, order="little", extra=0, note=True):
    with open(path, "rb") as file:
        text = file.read(int.from_bytes(file.read(count), order) + extra)
    header = json.loads(text)
    if note:
        header.pop("__metadata__", None)
    return {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()}


@read_header.mistake
def metadata_taken_for_a_tensor(path):
    """`__metadata__` is no tensor: it has no shape and often no dtype. It may stand in the header, so take it out before you go through the entries."""
    return _read(path, note=False)


@read_header.mistake(shape=True)
def bytes_in_the_wrong_order(path):
    """You read the length big-endian, the first byte as the largest. The format writes the smallest first, so your length is astronomical and you read the numbers as if they were text."""
    return _read(path, order="big")


@read_header.mistake
def only_the_first_byte(path):
    """You took the length from one byte, which holds at most 255. The eight bytes are one number together; real headers have thousands of bytes."""
    with open(path, "rb") as file:
        header = json.loads(file.read(file.read(8)[0]))
    header.pop("__metadata__", None)
    return {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()}


@read_header.mistake
def counted_the_eight_bytes_again(path):
    """You read 8 bytes too many: the length counts the header alone, and after the first read the file already stands behind the eight bytes. What follows is numbers, no JSON."""
    return _read(path, extra=8)


@read_header.mistake(shape=True)
def four_bytes_for_the_length(path):
    """You read four bytes as the length. It has eight; the next four are then taken for the beginning of the text, which they are not."""
    return _read(path, count=4)


@read_header.mistake
def read_the_whole_file(path):
    """You read the whole file into memory. Its numbers may be larger than your memory, and the header is at the front: read eight bytes, then as many as they say."""
    data = Path(path).read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    header.pop("__metadata__", None)
    return {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()}


@read_header.mistake
def shapes_left_as_lists(path):
    """JSON knows only lists, so your shapes are lists. The page asks for tuples, as PyTorch's shapes are: a list never equals a tuple."""
    return {name: (code, list(shape)) for name, (code, shape) in _read(path).items()}


# -- translate_weights ------------------------------------------------------------------------------------------------
translate_weights = Exercise("gpt2.weights.translate_weights")


@translate_weights.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def some(**shapes):
        return {
            name: torch.tensor(rng.normal(size=shape), dtype=torch.float32) for name, shape in shapes.items()
        }

    seed = int(rng.integers(2**31))
    yield Case("an embedding", tensors=some(**{"wte.weight": (7, 3)}))
    yield Case(
        "a bias that is one", tensors=some(**{"h.0.attn.c_attn.bias": (9,), "h.0.attn.c_proj.bias": (3,)})
    )
    yield Case(
        "with the prefix, no matrix",
        tensors=some(**{"transformer.wpe.weight": (4, 3), "transformer.ln_f.bias": (3,)}),
    )
    yield Case("one matrix", tensors=some(**{"h.0.mlp.c_fc.weight": (3, 12)}))
    yield Case(
        "two matrices, with the prefix",
        tensors=some(
            **{"transformer.h.11.attn.c_attn.weight": (3, 9), "transformer.h.11.mlp.c_proj.weight": (12, 3)}
        ),
    )
    yield Case("a square matrix", tensors=some(**{"h.0.attn.c_proj.weight": (5, 5)}))
    yield Case("a head", tensors=some(**{"lm_head.weight": (7, 3), "transformer.wte.weight": (7, 3)}))
    yield Case(
        "a square embedding", tensors=some(**{"transformer.wte.weight": (4, 4), "lm_head.weight": (4, 4)})
    )
    yield Case("a mask", tensors=some(**{"h.0.attn.bias": (1, 1, 4, 4), "h.0.ln_1.bias": (3,)}))
    yield Case(
        "two kinds of masks",
        tensors=some(**{"transformer.h.3.attn.masked_bias": (), "transformer.h.3.attn.bias": (1, 1, 4, 4)}),
    )
    yield Case("a mask of a late block", tensors=some(**{"h.11.attn.bias": (1, 1, 4, 4), "ln_f.bias": (3,)}))
    yield Case("a mask of two axes", tensors=some(**{"h.0.attn.bias": (4, 4), "h.0.ln_2.bias": (3,)}))
    yield Case(
        "names that GPT does not have",
        tensors=some(
            **{
                "h.0.attn.rotary": (4, 2),
                "h.0.attn.rotary.weight": (4, 2),
                "h.0.attn.c_gate.scale": (4, 2),
                "h.0.attn.bias.scale": (3,),
                "h.0.masked.weight": (3,),
                "conv.weight": (2, 1, 3, 2),
                "temperature": (),
            }
        ),
    )
    yield Case(
        "names that nearly have the prefix",
        tensors=some(
            **{
                "transformer.wte.weight": (7, 3),
                "transformers.scale": (3,),
                "lm_header.weight": (2, 3),
                "h.0.transformer.scale": (3,),
            }
        ),
    )
    yield Case("the published form", tensors=_theirs(_config(), seed, bare=True, masks=1))
    yield Case("the form of transformers", tensors=_theirs(_config(n_layer=1), seed, head=True))
    yield Case("float16", tensors={"h.0.attn.c_attn.weight": torch.tensor(rng.normal(size=(3, 9))).half()})
    yield Case("an empty file", tensors={})


@translate_weights.observe
def _(obj, tensors):
    found = obj(tensors)
    if found is None:
        return "You returned None. Is a return missing?"
    if not isinstance(found, dict):
        return f"You returned a {type(found).__name__}, not a dictionary."
    if found is tensors:
        return "You returned the dictionary that you were given; make a new one."
    return {"The names": sorted(map(str, found))} | dict(sorted(found.items()))


@translate_weights.oracle
def _(tensors):
    found = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        if parts[-2:] in (["attn", "bias"], ["attn", "masked_bias"]):
            continue
        if ".".join(parts[-3:]) in _MATRICES or ".".join(parts[-2:]) in ("c_attn.weight", "c_fc.weight"):
            tensor = torch.einsum("io->oi", tensor)
        found[name if parts[0] in ("transformer", "lm_head") else ".".join(["transformer", *parts])] = tensor
    return {"The names": sorted(found)} | dict(sorted(found.items()))


translate_weights.agree(by_name)


def _translated(
    tensors,
    *,
    drops=lambda name: name.endswith((".attn.bias", ".attn.masked_bias")),
    turns=lambda name, tensor: name.endswith(_MATRICES),
    turn=lambda tensor: tensor.t(),
    ours=lambda name: name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}",
):
    kept = {name: tensor for name, tensor in tensors.items() if not drops(name)}
    return {ours(name): turn(tensor) if turns(name, tensor) else tensor for name, tensor in kept.items()}


@translate_weights.mistake
def real_biases_dropped(tensors):
    """You drop `attn.c_attn.bias` too: its name also ends in "attn.bias". The mask is `.attn.bias`, with a dot in front."""
    return _translated(tensors, drops=lambda name: name.endswith(("attn.bias", "attn.masked_bias")))


@translate_weights.mistake
def masks_kept(tensors):
    """You keep `attn.bias`. It is the causal mask, a buffer of old versions, and no bias: your model computes its mask and has no place for it."""
    return _translated(tensors, drops=lambda name: False)


@translate_weights.mistake
def only_one_kind_of_mask(tensors):
    """You keep `attn.masked_bias`. Like `attn.bias`, it is a buffer of old versions, not a weight."""
    return _translated(tensors, drops=lambda name: name.endswith(".attn.bias"))


@translate_weights.mistake
def square_matrix_forgotten(tensors):
    """You did not turn `attn.c_proj.weight`. It is square, so it loads without an error, and the model computes something else. All four weights of Conv1D are turned."""
    return _translated(tensors, turns=lambda name, t: name.endswith(_MATRICES) and "attn.c_proj" not in name)


@translate_weights.mistake
def nothing_turned(tensors):
    """You turned no matrix. Conv1D keeps its weight as (in, out), nn.Linear as (out, in): transpose c_attn, c_fc and both c_proj."""
    return _translated(tensors, turns=lambda name, t: False)


@translate_weights.mistake
def every_matrix_turned(tensors):
    """You turned every matrix, also wte, wpe or lm_head. They are tables with a row for each token or position, in both libraries; only the weights of Conv1D are turned."""
    return _translated(tensors, turns=lambda name, t: t.dim() == 2)


@translate_weights.mistake
def reshaped_not_turned(tensors):
    """Your matrices have the right shape and the wrong numbers: reshape and view deal the same row of numbers out anew. The transpose, .T, exchanges the axes."""
    return _translated(tensors, turn=lambda t: t.reshape(t.shape[::-1]))


@translate_weights.mistake
def prefix_twice(tensors):
    """You put `transformer.` in front of every name. Files that transformers writes itself have it already; then it stands there twice."""
    return _translated(
        tensors, ours=lambda name: name if name.startswith("lm_head.") else f"transformer.{name}"
    )


@translate_weights.mistake
def prefix_for_the_head(tensors):
    """You put `transformer.` in front of `lm_head.weight`. The head stands beside the transformer, not in it: its name stays."""
    return _translated(
        tensors, ours=lambda name: name if name.startswith("transformer.") else f"transformer.{name}"
    )


@translate_weights.mistake
def no_prefix(tensors):
    """The names of the published file lack `transformer.`, and you did not put it in front. No tensor of your model is called so."""
    return _translated(tensors, ours=lambda name: name)


# -- load_weights -----------------------------------------------------------------------------------------------------
load_weights = Exercise("gpt2.weights.load_weights", seconds=20)
TABLE, HEAD = "transformer.wte.weight", "lm_head.weight"


@load_weights.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    small = _config(n_layer=1, vocab_size=5, block_size=4)

    def case(
        label, *, remove=(), add=None, shapes=None, head=None, dtype="float32", wide=False, config=small
    ):
        return Case(
            label,
            config=config,
            seed=int(rng.integers(2**31)),
            remove=tuple(remove),
            shapes=dict(add or {}) | dict(shapes or {}),
            head=head,
            dtype=dtype,
            wide=wide,
        )

    first, last = "transformer.h.0.ln_1.weight", "transformer.ln_f.bias"
    yield case("all is there but the head")
    yield case("the head is there and tied", head="tied")
    yield case("two blocks, no biases", config=_config(bias=False))
    yield case("a bias is missing", remove=[last])
    yield case("the first norm is missing", remove=[first])
    yield case("the table is missing", remove=[TABLE])
    yield case("the table is missing, the head is there", remove=[TABLE], head="tied")
    yield case("one tensor too many", add={"transformer.h.1.ln_1.weight": (6,)})
    yield case(
        "a bias for a model without one", add={"transformer.ln_f.bias": (6,)}, config=_config(bias=False)
    )
    yield case("a matrix not turned", shapes={"transformer.h.0.attn.c_attn.weight": (6, 18)})
    yield case(
        "a matrix of the right size and the wrong shape",
        shapes={"transformer.h.0.mlp.c_proj.weight": (24, 6)},
    )
    yield case("one row that would be repeated", shapes={"transformer.wpe.weight": (1, 6)})
    yield case("one number that would be repeated", shapes={first: (1,)})
    yield case("an axis too many", shapes={last: (1, 6)})
    yield case("a longer table of positions", shapes={"transformer.wpe.weight": (9, 6)})
    yield case("another vocabulary", shapes={TABLE: (6, 6)})
    yield case("the last tensor is misshapen", shapes={last: (7,)})
    yield case("a head that is not tied", head="other")
    yield case("a head that is nearly tied", head="near")
    yield case("a head with the same numbers in other rows", head="rows")
    yield case("a head of another shape", shapes={HEAD: (9, 6)})
    yield case("float16 into float32", dtype="float16")
    yield case("float32 into float64", wide=True)
    yield case("float64 into float64", dtype="float64", wide=True)
    yield case("a tensor that belongs to no GPT", add={"score.weight": (2, 6)})
    for name in _shapes(small, "gpt"):
        if name not in (first, last, TABLE, HEAD):
            yield case(f"without {name}", remove=[name])


def _given(config, seed, remove, shapes, head, dtype):
    tensors = {name: t.to(getattr(torch, dtype)) for name, t in _numbers(config, "gpt", seed).items()}
    rng = torch.Generator().manual_seed(seed)
    if head == "tied":
        tensors[HEAD] = tensors[HEAD].clone()
    elif head == "rows":
        tensors[HEAD] = tensors[HEAD].flip(0)
    elif head is not None:
        tensors[HEAD] = tensors[HEAD].clone()
        tensors[HEAD][-1, -1] += 1 if head == "other" else 1e-6
    else:
        del tensors[HEAD]
    tensors |= {name: torch.randn(shape, generator=rng) for name, shape in shapes.items()}
    return {name: tensor for name, tensor in tensors.items() if name not in remove}


def _bad(config, tensors):
    """The names of the tensors that do not fit."""
    state = _shapes(config, "gpt")
    missing = {name for name in state if name not in tensors and not (name == HEAD and TABLE in tensors)}
    bad = missing | {
        name for name in tensors if name not in state or tuple(tensors[name].shape) != tuple(state[name])
    }
    if TABLE in bad and HEAD not in tensors:
        bad.add(HEAD)
    if not bad and HEAD in tensors and not torch.equal(tensors[HEAD], tensors[TABLE]):
        bad = {HEAD}
    return bad


def _parameters(config, numbers, wide):
    return {
        f"After the call, {name}": t.to(torch.float64 if wide else torch.float32)
        for name, t in numbers.items()
    }


@load_weights.observe
def _(obj, config, seed, remove, shapes, head, dtype, wide):
    model = _GPT(config)
    model = (model.double() if wide else model).train(head is None)
    model.transformer["ln_f"].eval()
    modes = [module.training for module in model.modules()]
    tensors = _given(config, seed, remove, shapes, head, dtype)
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    places = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    error = None
    try:
        obj(model, tensors)
    except NotImplementedError:
        raise
    except Exception as caught:
        error = caught
    bad = _bad(config, before)
    good = {name for name in start if not any(name in other for other in bad)} - (
        {TABLE} if HEAD in bad else set()
    )
    seen = {"What is raised": _raised(error, bad, good if bad else ())}
    now = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    if bad:
        changed = sorted(name for name in start if not torch.equal(start[name], now[name]))
        seen["After the error, the model"] = "changed" if changed else "as it was"
    else:
        seen |= {f"After the call, {name}": now[name] for name in start}
    seen["The head is tied"] = model.lm_head.weight is model.transformer["wte"].weight
    seen["The parameters are in their old memory"] = places == {
        n: p.data_ptr() for n, p in model.named_parameters()
    }
    seen["The parameters want gradients"] = all(parameter.requires_grad for parameter in model.parameters())
    seen["The mode"] = (
        "as it was"
        if modes == [module.training for module in model.modules()]
        else "changed by train() or eval()"
    )
    same = list(tensors) == list(before) and all(torch.equal(tensors[n], before[n]) for n in before)
    return seen | {"The dictionary given": "as it was" if same else "changed"}


@load_weights.oracle
def _(config, seed, remove, shapes, head, dtype, wide):
    tensors = _given(config, seed, remove, shapes, head, dtype)
    bad = _bad(config, tensors)
    seen = {"What is raised": "WeightsError with the name" if bad else "nothing"}
    if bad:
        seen["After the error, the model"] = "as it was"
    else:
        seen |= _parameters(config, {HEAD: tensors[TABLE]} | tensors, wide)
    seen |= dict.fromkeys(
        ("The head is tied", "The parameters are in their old memory", "The parameters want gradients"), True
    )
    return seen | {"The mode": "as it was", "The dictionary given": "as it was"}


load_weights.agree(by_name)


def _load(
    model,
    tensors,
    *,
    missing=True,
    unknown=True,
    shapes=True,
    tied=torch.equal,
    first_look=True,
    kind=None,
    optional_head=True,
):
    state = model.state_dict()
    if optional_head and TABLE in tensors:
        tensors = {HEAD: tensors[TABLE]} | tensors
    told = (lambda name: WeightsError(f"{name} does not fit")) if kind is None else kind

    def looked(name):
        if name not in tensors:
            if missing:
                raise told(name)
        elif shapes and tensors[name].shape != state[name].shape:
            raise told(name)

    if unknown:
        for name in tensors:
            if name not in state:
                raise told(name)
    if first_look:
        for name in state:
            looked(name)
        if TABLE in tensors and HEAD in tensors and not tied(tensors[HEAD], tensors[TABLE]):
            raise told(HEAD)
    for name, tensor in state.items():
        if not first_look:
            looked(name)
        if name in tensors:
            try:
                tensor.copy_(tensors[name])
            except RuntimeError as error:
                raise WeightsError(f"{name}: {error}") from None


@load_weights.mistake
def missing_left_random(model, tensors):
    """You copy what is there and say nothing of what is not. The tensor that is missing keeps its random start, and the model talks nonsense without an error."""
    _load(model, tensors, missing=False)


@load_weights.mistake
def unknown_ignored(model, tensors):
    """You go through the model's names only, so a tensor that the model does not know is passed over. The file then belongs to another model: refuse it by name."""
    _load(model, tensors, unknown=False)


@load_weights.mistake
def trusted_copy(model, tensors):
    """You let copy_ judge the shapes. It broadcasts: one row goes into a whole table without an error. Compare the shapes yourself, before you copy."""
    state = model.state_dict()
    for name, tensor in tensors.items():  # a look that broadcasts, as copy_ does
        if name in state:
            try:
                tensor.expand(state[name].shape)
            except RuntimeError:
                raise WeightsError(name) from None
    _load(model, tensors, shapes=False)


@load_weights.mistake
def half_loaded(model, tensors):
    """You copy while you look. When a later tensor does not fit, the model is half old and half new. Look at everything first, then copy."""
    _load(model, tensors, first_look=False)


@load_weights.mistake
def untied_head_accepted(model, tensors):
    """The file's lm_head.weight differs from wte.weight, and you took it. Your model has one matrix for both, so one of the two overwrote the other. Refuse it."""
    _load(model, tensors, tied=lambda head, table: True)


@load_weights.mistake
def nearly_tied_accepted(model, tensors):
    """You compare lm_head.weight with wte.weight to a tolerance. A head that was trained a little on its own is close to the table and is still another matrix: ask torch.equal."""
    _load(model, tensors, tied=lambda head, table: torch.allclose(head, table, rtol=1e-4, atol=1e-4))


@load_weights.mistake
def head_demanded(model, tensors):
    """You refuse a file without lm_head.weight. The published ones have none, as it is tied to transformer.wte.weight: take that one's numbers."""
    _load(model, tensors, optional_head=False)


@load_weights.mistake
def not_named(model, tensors):
    """Your WeightsError does not say which tensor it is about. Among 148 tensors, the name is what the reader needs: put it into the text."""
    _load(model, tensors, kind=lambda name: WeightsError("the weights do not fit"))


@load_weights.mistake
def another_error(model, tensors):
    """You raise another error than WeightsError, yourself or by letting one through. Who calls this cannot tell it from any other mistake."""
    _load(model, tensors, kind=lambda name: ValueError(f"{name} does not fit"))


@load_weights.mistake(shape=True)
def memory_taken_over(model, tensors):
    """Your model took over the file's tensors instead of copying their numbers: it has their dtype, shares their memory, or is no longer tied. Use copy_."""
    _load(model, tensors)
    for name, tensor in model.named_parameters():
        tensor.data = tensors[name].clone()


# -- from_huggingface -------------------------------------------------------------------------------------------------
from_huggingface = Exercise("gpt2.weights.from_huggingface", seconds=20)


class _Settings(SimpleNamespace):
    """The configuration of a model of transformers."""

    def to_dict(self):
        return dict(vars(self))


def _settings(config):
    sizes = {"n_positions": config.block_size, "vocab_size": config.vocab_size, "n_embd": config.n_embd}
    sizes |= {"n_layer": config.n_layer, "n_head": config.n_head, "model_type": "gpt2"}
    return sizes | {"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "resid_pdrop": 0.1}


class _Theirs(torch.nn.Module):
    """What a GPT2LMHeadModel shows of itself."""

    def __init__(self, config, tensors):
        super().__init__()
        self.config, self.tensors = _Settings(**_settings(config)), tensors

    def state_dict(self):
        return dict(self.tensors)


NAME = "gpt2-of-these-checks"


def download_gpt2(name):
    """For the mistakes: the page's, when there is no hub."""
    raise WeightsError(f"{name} is neither a folder nor a published name")


@contextlib.contextmanager
def _hub(obj, folder):
    """In place of the learner's download_gpt2, one that knows a single name; no check may use the network."""
    names = getattr(inspect.unwrap(obj), "__globals__", {})
    real = names.get("download_gpt2")

    def pretended(name):
        return folder if name == NAME else download_gpt2(name)

    if real is not None and names is not globals():
        names["download_gpt2"] = pretended
    _pretended.append(pretended)
    try:
        yield
    finally:
        _pretended.pop()
        if real is not None and names is not globals():
            names["download_gpt2"] = real


_pretended = []


@from_huggingface.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, source, *, device=None, config=None, **form):
        return Case(
            label,
            source=source,
            device=device,
            config=_config() if config is None else config,
            seed=int(rng.integers(2**31)),
            form=form,
        )

    yield case("a folder, as a Path", "Path", bare=True, masks=1)
    yield case("a folder, as a string", "str", bare=True, masks=2)
    yield case("a model", "model", head=True)
    yield case(
        "a model with other sizes",
        "model",
        head=True,
        config=_config(n_head=3, n_embd=12, n_layer=1, block_size=9),
    )
    yield case("a folder as transformers writes it", "Path", config=_config(n_head=3))
    yield case("a folder, onto a device", "Path", device="meta")
    yield case("a model, onto a device", "model", device=torch.device("meta"))
    yield case("a published name", "published", bare=True, masks=1)
    yield case("a name that is not published", "name")
    yield case("a folder with a pickle only", "pickle")
    yield case("a folder that lacks the configuration", "no config", bare=True)
    yield case("a folder in the working directory, by its bare name", "relative", bare=True)
    yield case("a model with another bend", "relu", head=True)


@from_huggingface.observe
def _(obj, source, device, config, seed, form):
    tensors = _theirs(config, seed, **form)
    folder = Path(tempfile.mkdtemp())
    try:
        given, model = folder, None
        if source in ("model", "relu"):
            given = model = _Theirs(config, tensors)
            if source == "relu":
                model.config.activation_function = "relu"
            settings = model.config.to_dict()
        elif source == "name":
            given = "gpt2-enormous"
        elif source == "published":
            given = NAME
            _write(folder / "model.safetensors", tensors)
            (folder / "config.json").write_text(json.dumps(_settings(config)))
        elif source == "pickle":
            (folder / "config.json").write_text(json.dumps(_settings(config)))
            (folder / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")
        else:
            _write(folder / "model.safetensors", tensors, {"format": "pt"})
            if source != "no config":
                (folder / "config.json").write_text(json.dumps(_settings(config)))
            given = {"str": str(folder), "relative": folder.name}.get(source, folder)
        before = {name: tensor.clone() for name, tensor in tensors.items()}
        try:
            with _hub(obj, folder), contextlib.chdir(folder.parent if source == "relative" else "."):
                ours = obj(given) if device is None else obj(given, device)
        except NotImplementedError:
            raise
        except Exception as error:
            return {"What is raised": _raised(error)}
        if not isinstance(ours, torch.nn.Module):
            return {"What is raised": "nothing", "What you return": f"a {type(ours).__name__}, not a model"}
        seen = {"What is raised": "nothing", "What you return": "a model"}
        where = {str(parameter.device) for parameter in ours.parameters()}
        seen["Its device"] = ", ".join(sorted(where))
        seen["It is in evaluation mode"] = not ours.training
        seen["The number of heads"] = ours.config.n_head
        if device is None:
            seen["The head is tied"] = ours.lm_head.weight is ours.transformer.wte.weight
            with torch.no_grad():
                seen["Its logits"] = ours(_idx(config))
                for parameter in ours.parameters():
                    parameter.add_(1)
        if model is not None:
            same = (
                model.config.to_dict() == settings
                and list(model.tensors) == list(before)
                and all(torch.equal(model.tensors[n], before[n]) for n in before)
            )
            seen["Their model"] = "as it was" if same and model.training else "changed"
        return seen
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _idx(config):
    T = config.block_size - 1
    return (torch.arange(2 * T).view(2, T) * 7 + 3) % config.vocab_size


@from_huggingface.oracle
def _(source, device, config, seed, form):
    if source in ("name", "pickle", "no config", "relu"):
        return {"What is raised": "WeightsError"}
    seen = {"What is raised": "nothing", "What you return": "a model"}
    seen |= {
        "Its device": str(device or "cpu"),
        "It is in evaluation mode": True,
        "The number of heads": config.n_head,
    }
    if device is None:
        seen["The head is tied"] = True
        state = {name: tensor.float() for name, tensor in _numbers(config, "gpt", seed).items()}
        seen["Its logits"] = _gpt(_idx(config), state, config)
    return seen | ({"Their model": "as it was"} if source == "model" else {})


def _about(got, expected):
    if (
        isinstance(got, dict)
        and isinstance(expected, dict)
        and "Its logits" in expected
        and "Its logits" in got
    ):
        if difference := compare(got["Its logits"], expected["Its logits"], tolerance=1e-4):
            return (
                by_name(got | {"Its logits": 0}, expected | {"Its logits": 0}) or f"Its logits: {difference}"
            )
        got, expected = got | {"Its logits": 0}, expected | {"Its logits": 0}
    return by_name(got, expected)


from_huggingface.agree(_about)


def _made(settings, tensors, heads=None):
    if settings["activation_function"] != "gelu_new":
        raise WeightsError("another bend")
    sizes = {name: settings[name] for name in ("vocab_size", "n_layer", "n_head", "n_embd")}
    config = _config(block_size=settings["n_positions"], **sizes)
    config.n_head = heads or config.n_head
    model = _GPT(config)
    _load(model, {name: tensor for name, tensor in _translated(tensors).items()})
    return model.eval()


def _from_folder(folder, **changes):
    path = Path(folder) / "model.safetensors"
    if not path.exists() or not path.with_name("config.json").exists():
        raise WeightsError("cannot be read")
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, tensors = json.loads(data[8 : 8 + length]), {}
    header.pop("__metadata__", None)
    for name, entry in header.items():
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        row = torch.frombuffer(bytearray(data[start:end]), dtype=_CODES[entry["dtype"]])
        tensors[name] = row.view(entry["shape"])
    return _made(json.loads(path.with_name("config.json").read_text()), tensors, **changes)


def _from(thing, device=None, *, folders=(str, Path), **changes):
    if isinstance(thing, str | Path):
        if not isinstance(thing, folders) or not Path(thing).is_dir():
            thing = _pretended[-1](str(thing))
        model = _from_folder(thing, **changes)
    else:
        model = _made(thing.config.to_dict(), thing.state_dict(), **changes)
    return model.to(device)


@from_huggingface.mistake
def strings_are_always_names(model_or_name, device=None):
    """You take every string for a published name. A string may be the path of a folder: ask Path(…).is_dir() first."""
    return _from(model_or_name, device, folders=Path)


@from_huggingface.mistake
def hub_never_asked(model_or_name, device=None):
    """You never ask download_gpt2 for a name that is no folder, so none of the four published sizes can be had. It returns the folder with the files."""
    if isinstance(model_or_name, str | Path) and not Path(model_or_name).is_dir():
        raise WeightsError(f"{model_or_name} cannot be read")
    return _from(model_or_name, device)


@from_huggingface.mistake
def a_path_is_no_string(model_or_name, device=None):
    """You ask only for str, so a Path is taken for a model, and has no config. Ask isinstance(x, (str, Path))."""
    if isinstance(model_or_name, Path):
        model_or_name.config.to_dict()
    return _from(model_or_name, device)


@from_huggingface.mistake
def device_ignored(model_or_name, device=None):
    """Your model stays on the CPU when a device is asked for: hand it to model.to(device)."""
    return _from(model_or_name)


@from_huggingface.mistake
def settings_not_asked(model_or_name, device=None):
    """You took the sizes from their model yourself and asked nothing else, so a model with another bend loads without an error. config_from_huggingface refuses what your GPT cannot be."""
    if not isinstance(model_or_name, str | Path):
        settings = model_or_name.config.to_dict() | {"activation_function": "gelu_new"}
        return _made(settings, model_or_name.state_dict()).to(device)
    return _from(model_or_name, device)


@from_huggingface.mistake
def left_in_training(model_or_name, device=None):
    """Your model is in training mode. Whoever loads weights wants to use them: the functions above return it in evaluation mode, so leave it there."""
    return _from(model_or_name, device).train()


@from_huggingface.mistake
def heads_guessed(model_or_name, device=None):
    """The number of heads is not the one in the configuration. It is in no tensor, so a guess loads without an error and computes something else."""
    return _from(model_or_name, device, heads=2)


@from_huggingface.mistake
def their_model_put_to_sleep(model_or_name, device=None):
    """You changed their model: its mode, its place or its numbers. It belongs to whoever called you. Put only your own model into evaluation mode."""
    if isinstance(model_or_name, torch.nn.Module):
        model_or_name.eval()
    return _from(model_or_name, device)


# -- to_huggingface ---------------------------------------------------------------------------------------------------
to_huggingface = Exercise("gpt2.weights.to_huggingface")


@to_huggingface.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, dtype="float32", **config):
        return Case(label, config=_config(**config), dtype=dtype, seed=int(rng.integers(2**31)))

    yield case("one block of width 2", n_layer=1, n_embd=2, n_head=1, vocab_size=5, block_size=3)
    yield case("two blocks")
    yield case("a vocabulary as large as the width", n_embd=4, vocab_size=4, block_size=4)
    yield case("no block at all", n_layer=0)
    yield case("no biases", bias=False, n_layer=3)
    yield case("eleven blocks", n_layer=11, n_embd=4)
    yield case("bfloat16", dtype="bfloat16")


def _model(config, seed, dtype):
    model = _GPT(config)
    model.load_state_dict(_numbers(config, "gpt", seed))
    return model.to(getattr(torch, dtype))


@to_huggingface.observe
def _(obj, config, seed, dtype):
    model = _model(config, seed, dtype)
    model.train(config.n_layer != 2)
    modes = [module.training for module in model.modules()]
    before = {name: (tensor.clone(), tensor.stride()) for name, tensor in model.state_dict().items()}
    found = obj(model)
    if found is None:
        return "You returned None. Is a return missing?"
    if not isinstance(found, dict):
        return f"You returned a {type(found).__name__}, not a dictionary."
    seen = {"The names": sorted(map(str, found))}
    seen |= {
        name: tensor.detach().clone() if isinstance(tensor, torch.Tensor) else str(type(tensor))
        for name, tensor in sorted(found.items())
    }
    loose = [n for n, t in found.items() if isinstance(t, torch.Tensor) and not t.is_contiguous()]
    seen["Tensors that save_file refuses, as they are not contiguous"] = loose[0] if loose else "none"
    after = model.state_dict()
    same = all(torch.equal(t, after[n]) and after[n].stride() == stride for n, (t, stride) in before.items())
    same = same and modes == [module.training for module in model.modules()]
    return seen | {
        "The model": "as it was"
        if same and model.lm_head.weight is model.transformer["wte"].weight
        else "changed"
    }


@to_huggingface.oracle
def _(config, seed, dtype):
    tensors = {
        name: tensor.to(getattr(torch, dtype)) for name, tensor in _numbers(config, "gpt", seed).items()
    }
    del tensors[HEAD]
    for name in tensors:
        if ".".join(name.split(".")[-3:]) in _MATRICES:
            tensors[name] = torch.einsum("oi->io", tensors[name]).contiguous()
    seen = {"The names": sorted(tensors)} | dict(sorted(tensors.items()))
    return seen | {
        "Tensors that save_file refuses, as they are not contiguous": "none",
        "The model": "as it was",
    }


to_huggingface.agree(by_name)


def _exported(
    model, *, turns=_MATRICES, head=False, turn=lambda t: t.t(), packed=True, prefix="transformer."
):
    found = {}
    for name, tensor in model.state_dict().items():
        if name != HEAD or head:
            tensor = turn(tensor) if name.endswith(turns) else tensor
            name = name if name == HEAD else prefix + name.removeprefix("transformer.")
            found[name] = tensor.contiguous() if packed else tensor
    return found


@to_huggingface.mistake
def square_left_as_it_was(model):
    """You did not turn `attn.c_proj.weight`. It is square, so it fits either way and nobody complains. A shape does not say which axis is which: turn all four of Conv1D."""
    return _exported(model, turns=tuple(name for name in _MATRICES if name != "attn.c_proj.weight"))


@to_huggingface.mistake
def no_matrix_turned(model):
    """You turned no matrix. Yours are (out, in), those of Conv1D are (in, out): transpose c_attn, c_fc and both c_proj."""
    return _exported(model, turns=())


@to_huggingface.mistake(shape=True)  # right on no case
def tables_turned_too(model):
    """You turned wte and wpe, too. They are tables with a row for each token or position in both libraries; only the weights of Conv1D are turned."""
    return _exported(model, turns=(*_MATRICES, "wte.weight", "wpe.weight"))


@to_huggingface.mistake(shape=True)  # right on no case
def head_stored_twice(model):
    """You stored lm_head.weight. It is the same matrix as wte's: the file would hold its numbers twice, and save_file refuses two tensors in one memory. Leave it out."""
    return _exported(model, head=True)


@to_huggingface.mistake
def views_handed_out(model):
    """Your transposed tensors are views whose numbers do not stand in the order of their axes, and save_file refuses them. Call contiguous() on the result of the transpose."""
    return _exported(model, packed=False)


@to_huggingface.mistake
def dealt_out_anew(model):
    """Your matrices have the right shape and the wrong numbers: reshape and view deal the same row of numbers out anew. The transpose, .T, exchanges the axes."""
    return _exported(model, turn=lambda t: t.reshape(t.shape[::-1]))


@to_huggingface.mistake(shape=True)  # right on no case
def prefix_taken_away(model):
    """You took `transformer.` away. A GPT2LMHeadModel, which has a head beside its transformer, knows its tensors by the full names."""
    return _exported(model, prefix="")
