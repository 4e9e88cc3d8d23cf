"""Values as the engine sees them: plain copies of what a submission returned, copies of inputs, descriptions.

A submission may return an object with any behaviour. `plain` therefore looks only at exact types and copies;
what it does not know becomes an `Opaque`, which equals nothing.
"""

from __future__ import annotations

import copy
import sys
import types
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_BYTES = 2**28
MAX_ITEMS = 200_000
NUMPY_SCALARS = frozenset(
    {*np.sctypeDict.values(), np.bool_, np.str_, np.bytes_, np.datetime64, np.timedelta64}
    - {np.object_, np.void}
)
_NUMBERS = frozenset({bool, int, float, complex})
_LEAVES = _NUMBERS | NUMPY_SCALARS | {type(None), str, bytes, type(Ellipsis), type(NotImplemented), range}


@dataclass(frozen=True)
class Opaque:
    """Stands for a value that cannot be compared: `what` says what it is, with its article."""

    what: str


def _torch():
    return sys.modules.get("torch")


def is_torch(value: Any) -> bool:
    """A plain torch tensor or parameter, not some other subclass."""
    torch = _torch()
    return torch is not None and type(value) in (torch.Tensor, torch.nn.Parameter)


def is_jax(value: Any) -> bool:
    """A concrete JAX array (a tracer is not one)."""
    array = sys.modules.get("jax._src.array")
    return array is not None and type(value) is array.ArrayImpl


def is_array(value: Any) -> bool:
    """A NumPy, torch or JAX array."""
    return type(value) is np.ndarray or is_torch(value) or is_jax(value)


def type_name(value: Any) -> str:
    """The name of a value's real type; a lying `__class__` or metaclass does not matter."""
    return type.__dict__["__name__"].__get__(type(value))


def a(noun: str) -> str:
    """The noun with its article."""
    return f"an {noun}" if noun[:1].lower() in "aeiou" else f"a {noun}"


def _unknown(value: Any) -> Opaque:
    kind = type(value)
    if kind is types.GeneratorType:
        return Opaque("a generator")
    if kind in (types.FunctionType, types.MethodType, types.BuiltinFunctionType, types.LambdaType):
        return Opaque("a function")
    if issubclass(kind, type):
        return Opaque(f"the class {type.__dict__['__name__'].__get__(value)}")
    name = type_name(value)
    torch = _torch()
    bases = [(np.ndarray, "NumPy array"), (float, "float"), (int, "int"), (str, "str"), (complex, "complex")]
    if torch is not None:
        bases.append((torch.Tensor, "torch tensor"))
    for base, said in bases:
        if base in type.__dict__["__mro__"].__get__(kind):
            return Opaque(f"{a(name)} object (a subclass of {said}; a plain {said} is wanted)")
    return Opaque(f"{a(name)} object")


def plain(value: Any) -> Any:
    """A copy of `value` made of exact, well-behaved types only.

    Numbers, text, None, arrays (NumPy, torch, JAX) and lists, tuples, dicts and sets of them stay what they are;
    anything else, anything too large (256 MB) or nested without end becomes an `Opaque`.
    """
    budget = [MAX_ITEMS]
    return _plain(value, budget, 0)


def _plain(value: Any, budget: list[int], depth: int) -> Any:
    budget[0] -= 1
    if budget[0] < 0 or depth > 60:
        return Opaque("a structure too large to compare")
    kind = type(value)
    if kind in _LEAVES or kind is Opaque:
        return value
    if kind is np.ndarray:
        if value.nbytes > MAX_BYTES:
            return Opaque(f"a NumPy array of shape {value.shape}, too large to compare")
        if value.dtype.hasobject:
            return (
                _plain_objects(value, budget, depth)
                if value.dtype.kind == "O"
                else Opaque("an array of objects")
            )
        return np.array(value, order="K", copy=True, subok=False)
    if is_torch(value):
        return _plain_tensor(value)
    if is_jax(value):
        return value
    mro = type.__dict__["__mro__"].__get__(kind)
    if kind in (list, tuple, deque) or (tuple in mro and kind.__iter__ is tuple.__iter__):
        items = (
            list.__iter__(value)
            if kind is list
            else deque.__iter__(value)
            if kind is deque
            else tuple.__iter__(value)
        )
        made = []
        for item in items:
            if budget[0] < 0:
                return Opaque("a structure too large to compare")
            made.append(_plain(item, budget, depth + 1))
        return made if kind is list else tuple(made)
    if kind in (dict, OrderedDict, defaultdict, Counter):
        made = {}
        for key, item in dict.items(value):
            if budget[0] < 0:
                return Opaque("a structure too large to compare")
            made[_plain_key(key)] = _plain(item, budget, depth + 1)
        return made
    if kind in (set, frozenset):
        return frozenset(_plain_key(key) for key in kind.__iter__(value))
    if kind in (np.dtype,) or np.dtype in mro:
        return Opaque(f"the NumPy dtype {value}")
    torch = _torch()
    if torch is not None and kind in (torch.dtype, torch.device):
        return Opaque(f"{value!r}")
    if kind in (types.FunctionType, type) and value.__module__ in ("numpy", "torch"):
        return Opaque(f"{value.__module__}.{value.__name__}")
    return _unknown(value)


def _plain_key(key: Any) -> Any:
    if type(key) in _LEAVES:
        return key
    if type(key) is tuple:
        return tuple(_plain_key(k) for k in key)
    return _unknown(key)


def _plain_objects(value: np.ndarray, budget: list[int], depth: int) -> Any:
    made = np.empty(value.shape, dtype=object)
    for index in np.ndindex(value.shape):
        made[index] = _plain(value[index], budget, depth + 1)
        if budget[0] < 0:
            return Opaque("a structure too large to compare")
    return made


def _plain_tensor(value: Any) -> Any:
    torch = _torch()
    if value.layout is not torch.strided:
        return Opaque(f"a torch tensor of layout {value.layout}")
    if value.numel() * value.element_size() > MAX_BYTES:
        return Opaque(f"a torch tensor of shape {tuple(value.shape)}, too large to compare")
    with torch.no_grad():
        return torch.Tensor.detach(value).clone()


# -- inputs --------------------------------------------------------------------------------------------


def clone(value: Any, memo: dict | None = None) -> Any:
    """A deep copy that keeps strides, read-only flags, `requires_grad` and the state of generators."""
    memo = {} if memo is None else memo
    if id(value) in memo:
        return memo[id(value)]
    kind = type(value)
    if kind in _LEAVES:
        return value
    if kind is np.ndarray:
        made = _clone_array(value, memo)
    elif is_torch(value):
        made = _clone_tensor(value)
    elif is_jax(value):
        return value
    elif kind is list:
        made = []
        memo[id(value)] = made
        made.extend(clone(item, memo) for item in value)
    elif kind is tuple:
        made = tuple(clone(item, memo) for item in value)
    elif kind is dict:
        made = {key: clone(item, memo) for key, item in value.items()}
    elif _torch() is not None and kind is _torch().Generator:
        made = _torch().Generator(device=value.device)
        made.set_state(value.get_state())
    else:
        made = copy.deepcopy(value, memo)
    memo[id(value)] = made
    return made


def _clone_array(value: np.ndarray, memo: dict) -> np.ndarray:
    if value.dtype.hasobject:
        made = copy.deepcopy(value, memo)
    elif value.flags.forc:
        made = np.array(value, order="K", copy=True)
    else:  # a strided view: copy it into memory laid out in the same way
        low, high = np.lib.array_utils.byte_bounds(value)
        offset = value.__array_interface__["data"][0] - low
        made = np.ndarray(value.shape, value.dtype, np.zeros(high - low, np.uint8), offset, value.strides)
        made[...] = value
    made.flags.writeable = value.flags.writeable
    return made


def _clone_tensor(value: Any) -> Any:
    if value.is_leaf:
        made = copy.deepcopy(value)
        made.grad = None if value.grad is None else value.grad.clone()
        return made
    return value.detach().clone().requires_grad_(value.requires_grad)


def same_bits(one: Any, other: Any) -> bool:
    """True if two inputs hold exactly the same bits; things that are no arrays, numbers or containers count as same."""
    if type(one) is not type(other):
        return False
    if type(one) is np.ndarray:
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        if one.dtype.hasobject:
            return all(
                same_bits(x, y) for x, y in zip(one.ravel().tolist(), other.ravel().tolist(), strict=True)
            )
        return one.tobytes() == other.tobytes()
    if is_torch(one):
        if one.shape != other.shape or one.dtype != other.dtype or one.device != other.device:
            return False
        torch = _torch()
        if one.layout is not torch.strided or one.device.type == "meta" or one.numel() == 0:
            return True
        one, other = (t.detach().contiguous().view(-1).view(torch.uint8) for t in (one, other))
        return bool(torch.equal(one, other))
    if type(one) in (list, tuple):
        return len(one) == len(other) and all(same_bits(x, y) for x, y in zip(one, other, strict=True))
    if type(one) is dict:
        return list(one) == list(other) and all(same_bits(one[key], other[key]) for key in one)
    if type(one) in _LEAVES:
        return one == other or one != one
    return one == other if type(one) in (set, frozenset, bytearray) else True


# -- words ---------------------------------------------------------------------------------------------


def dtype_name(value: Any) -> str:
    """float32, not torch.float32."""
    return str(value.dtype).removeprefix("torch.")


def to_numpy(value: Any) -> np.ndarray:
    """Any array as NumPy; types that NumPy lacks (bfloat16, float8) become float32."""
    if is_torch(value):
        torch = _torch()
        value = value.detach().cpu().resolve_conj().resolve_neg()
        if value.dtype == torch.bfloat16 or str(value.dtype).startswith("torch.float8"):
            value = value.float()
        return value.numpy()
    made = np.asarray(value)
    return made.astype(np.float32) if made.dtype.kind == "V" and made.dtype.names is None else made


def short(value: Any, limit: int = 120) -> str:
    """A plain value in a few characters."""
    if type(value) is Opaque:
        return value.what
    if is_array(value):
        if getattr(value, "device", None) is not None and str(value.device) == "meta":
            return "no values (meta device)"
        array = to_numpy(value)
        said = np.array2string(
            array,
            separator=", ",
            threshold=24,
            edgeitems=3,
            max_line_width=10_000,
            formatter={"float_kind": lambda x: f"{x:.4g}", "complex_kind": lambda x: f"{x:.4g}"},
        )
        said = " ".join(said.split())
    elif type(value) in NUMPY_SCALARS:
        said = f"{value:.6g}" if value.dtype.kind in "fc" else str(value)
    elif type(value) in (float, complex):
        said = f"{value:.9g}"
    elif type(value) in (list, tuple):
        shown = [short(item, limit) for item in value[:8]] + (["…"] if len(value) > 8 else [])
        inside = ", ".join(shown)
        said = f"[{inside}]" if type(value) is list else f"({inside}{',' if len(value) == 1 else ''})"
    elif type(value) is dict:
        shown = [f"{short(k, 30)}: {short(v, limit)}" for k, v in list(value.items())[:6]]
        said = "{" + ", ".join(shown + (["…"] if len(value) > 6 else [])) + "}"
    elif type(value) is int and value.bit_length() > 10_000:
        said = "a whole number of more than 3,000 digits"
    elif type(value) is str:
        said = repr(value if len(value) <= limit else value[:limit])
    elif type(value) in (types.FunctionType, types.BuiltinFunctionType, type):
        said = value.__name__
    else:
        said = repr(value)
        if " at 0x" in said:  # an address says nothing and is another one each time
            said = a(type(value).__name__)
    return said if len(said) <= limit else said[: limit - 1] + "…"


def describe(value: Any, limit: int = 120) -> str:
    """What a value is and, when it is small, what it holds: `float64 array of shape (2, 3): [[…]]`."""
    if not is_array(value):
        return short(value, limit)
    noun = "tensor" if is_torch(value) else "JAX array" if is_jax(value) else "array"
    said = f"{dtype_name(value)} {noun} of shape {tuple(value.shape)}"
    if (type(value) is np.ndarray and not value.flags.forc) or (
        is_torch(value) and not value.is_contiguous()
    ):
        said += ", not contiguous"
    return f"{said}: {short(value, limit)}" if 0 < np.prod(value.shape) <= 12 else said
