"""`compare`: None when two values agree, else a sentence that says where they differ."""

from __future__ import annotations

from typing import Any

import numpy as np

from .values import NUMPY_SCALARS, Opaque, a, dtype_name, is_array, is_jax, is_torch, plain, short, to_numpy

# Largest accepted difference, relative to the largest |expected| of the array. Sums of some thousand terms stay
# two to three digits inside; a bias of 1 % never passes.
TOLERANCES = {
    "float64": 1e-9,
    "complex128": 1e-9,
    "float32": 1e-5,
    "complex64": 1e-5,
    "float16": 1e-2,
    "bfloat16": 2e-2,
}
# An expected value of exactly 0 (a gradient that cancels) still leaves room for rounding.
SMALLEST_SCALE = 1e-3


def compare(
    got: Any, expected: Any, *, tolerance: float | None = None, strict_scalars: bool = False
) -> str | None:
    """Compare two observations; None when they agree, else a sentence for the learner.

    Arrays must agree in kind (NumPy, torch, JAX), shape, dtype, device and values; numbers in value; text, bool
    and int exactly. A list and a tuple count as the same; so do a Python number, a NumPy scalar and a 0-d array
    unless `strict_scalars`. nan equals nan.

    Args:
        tolerance: largest accepted difference relative to the largest finite |expected| of each array. None:
            1e-9 for float64, 1e-5 for float32, 1e-2 for float16, 2e-2 for bfloat16.
    """
    return _differ(plain(got), plain(expected), "", tolerance, strict_scalars)


def _at(path: str) -> str:
    return f"At result{path}: " if path else ""


def _differ(got: Any, expected: Any, path: str, tolerance: float | None, strict: bool) -> str | None:
    if type(expected) is Opaque:
        same = (
            type(got) is Opaque
            and got.what == expected.what
            and not expected.what.endswith(("object", "compare"))
        )
        return None if same else f"{_at(path)}you returned {_kind(got)}, expected {expected.what}."
    if _is_scalar(expected, strict) and _is_scalar(got, strict):
        return _numbers(got, expected, path, tolerance)
    if is_array(expected):
        return _arrays(got, expected, path, tolerance)
    if type(expected) in (list, tuple):
        return _sequences(got, expected, path, tolerance, strict)
    if type(expected) is dict:
        return _mappings(got, expected, path, tolerance, strict)
    if type(got) is not type(expected):
        return f"{_at(path)}you returned {_kind(got)}, expected {_kind(expected)}."
    if type(expected) is frozenset:
        return _sets(got, expected, path)
    if type(expected) in (str, bytes):
        return None if got == expected else _texts(got, expected, path)
    if _is_number(expected):
        return _numbers(got, expected, path, tolerance)
    return None if got == expected else f"{_at(path)}you returned {short(got)}, expected {short(expected)}."


def _is_number(value: Any) -> bool:
    return type(value) in (bool, int, float, complex) or (
        type(value) in NUMPY_SCALARS and value.dtype.kind in "biufc"
    )


def _is_scalar(value: Any, strict: bool) -> bool:
    """A number, or in the lax reading a 0-d array of numbers (NumPy or JAX)."""
    if strict:
        return False
    if _is_number(value):
        return True
    return (
        (type(value) is np.ndarray or is_jax(value))
        and value.shape == ()
        and to_numpy(value).dtype.kind in "biufc"
    )


def _kind(value: Any) -> str:
    """What a value is, in words, with its article."""
    if type(value) is Opaque:
        return value.what
    if value is None:
        return "None"
    if is_array(value):
        noun = "torch tensor" if is_torch(value) else "JAX array" if is_jax(value) else "NumPy array"
        return f"a {noun} of shape {tuple(value.shape)}"
    if type(value) in NUMPY_SCALARS:
        return f"a NumPy {value.dtype.name} ({short(value, 40)})"
    if type(value) in (bool, int, float, complex, str):
        return f"{a(type(value).__name__)} ({short(value, 60)})"
    if type(value) in (list, tuple, dict):
        return f"a {type(value).__name__} of {len(value)}"
    if type(value) is frozenset:
        return f"a set of {len(value)}"
    return a(type(value).__name__)


def _letter(value: Any) -> str:
    """b, i, f or c: which sort of number."""
    if is_array(value) or type(value) in NUMPY_SCALARS:
        letter = to_numpy(value).dtype.kind
        return "i" if letter == "u" else letter
    return {bool: "b", int: "i", float: "f", complex: "c"}[type(value)]


_SORTS = {"b": "True or False", "i": "a whole number", "f": "a float", "c": "a complex number"}


def _numbers(got: Any, expected: Any, path: str, tolerance: float | None) -> str | None:
    ours, theirs = _letter(got), _letter(expected)
    typed = not (type(got) in (int, float, bool, complex) or type(expected) in (int, float, bool, complex))
    if (ours == "b") != (theirs == "b") or "bif c".find(ours) > "bif c".find(theirs):
        return f"{_at(path)}you returned {short(got)} ({_SORTS[ours]}), expected {short(expected)} ({_SORTS[theirs]})."
    if typed and (is_jax(got) != is_jax(expected)):
        return f"{_at(path)}you returned {_kind(got)}, expected {_kind(expected)}."
    if typed and dtype_name(got) != dtype_name(expected):
        return f"{_at(path)}your result has dtype {dtype_name(got)}, expected {dtype_name(expected)}."
    if theirs in "bi":
        g, e = (v.item() if hasattr(v, "item") else v for v in (got, expected))
        return None if g == e else f"{_at(path)}you returned {short(g)}, expected {short(e)}."
    names = [dtype_name(v) for v in (got, expected) if hasattr(v, "dtype")]
    allowed = tolerance if tolerance is not None else max([_default_tolerance(n) for n in names] + [1e-9])
    g, e = (np.asarray(to_numpy(v) if is_array(v) else v) for v in (got, expected))
    if _beyond_floats(g, e):
        return f"{_at(path)}you returned {short(g[()], 40)}, expected {short(e[()], 40)}."
    if _wrong(g, e, allowed).any():
        return f"{_at(path)}you returned {_precise(g[()], e[()])}."
    return None


def _beyond_floats(g: np.ndarray, e: np.ndarray) -> bool:
    """True for a Python int too large for a float."""
    return "O" in (g.dtype.kind, e.dtype.kind)


def _default_tolerance(name: str) -> float:
    if name.startswith(("int", "uint", "bool")):
        return 0.0
    return TOLERANCES.get(name, 0.1 if name.startswith("float8") else 1e-9)


def _precise(got: Any, expected: Any) -> str:
    """Both numbers, with as many digits as it takes to see them differ; whole ones as they are."""
    if isinstance(got, int | np.integer) and isinstance(expected, int | np.integer):
        return f"{got}, expected {expected}"
    for digits in (4, 6, 9, 12, 17):
        said = f"{got:.{digits}g}", f"{expected:.{digits}g}"
        if said[0] != said[1]:
            break
    return f"{said[0]}, expected {said[1]}"


def _wrong(got: np.ndarray, expected: np.ndarray, tolerance: float) -> np.ndarray:
    """Where two float arrays of one shape disagree."""
    with np.errstate(all="ignore"):
        wide = np.complex128 if "c" in (got.dtype.kind, expected.dtype.kind) else np.float64
        g, e = got.astype(wide), expected.astype(wide)
        finite = np.isfinite(e)
        scale = max(float(np.abs(e[finite]).max(initial=0.0)), SMALLEST_SCALE)
        near = np.abs(g - e) <= tolerance * scale
        return ~np.where(finite, near, (g == e) | (np.isnan(g) & np.isnan(e)))


def _arrays(got: Any, expected: Any, path: str, tolerance: float | None) -> str | None:
    at = _at(path)
    if not is_array(got) or is_torch(got) != is_torch(expected) or is_jax(got) != is_jax(expected):
        return f"{at}you returned {_kind(got)}, expected {_kind(expected)}."
    if tuple(got.shape) != tuple(expected.shape):
        said = f"{at}your result has shape {tuple(got.shape)}, expected {tuple(expected.shape)}."
        if len(got.shape) > 1 and tuple(got.shape) == tuple(expected.shape)[::-1]:
            said += " Is it transposed?"
        return said
    if is_torch(expected) and got.device.type != expected.device.type:
        return f"{at}your result is on device {got.device}, expected {expected.device}."
    if is_torch(expected) and expected.device.type == "meta":
        ours, theirs = dtype_name(got), dtype_name(expected)
        return None if ours == theirs else f"{at}your result has dtype {ours}, expected {theirs}."
    g, e = to_numpy(got), to_numpy(expected)
    ours, theirs = dtype_name(got), dtype_name(expected)
    if e.dtype.kind not in "biufc" or g.dtype.kind not in "biufc":
        return _other_arrays(g, e, path, tolerance)
    allowed = (
        tolerance if tolerance is not None else max(_default_tolerance(ours), _default_tolerance(theirs))
    )
    inexact = e.dtype.kind in "fc" or g.dtype.kind in "fc"
    wrong = _wrong(g, e, allowed) if inexact else g != e
    if ours != theirs:
        right = "" if wrong.any() else " The values are right."
        return f"{at}your result has dtype {ours}, expected {theirs}.{right}"
    return f"{at}{_where(g, e, wrong)}" if wrong.any() else None


def _where(g: np.ndarray, e: np.ndarray, wrong: np.ndarray) -> str:
    """Where the largest difference is, and what pattern the differences have, if a simple one."""
    with np.errstate(all="ignore"):
        wide = np.complex128 if "c" in (g.dtype.kind, e.dtype.kind) else np.float64
        gap = np.abs(g.astype(wide) - e.astype(wide))
        gap = np.where(wrong, np.where(np.isnan(gap), np.inf, gap), -1.0)
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(gap)), gap.shape))
    place = f"at {list(index)}: " if index else ""
    said = f"the largest difference is {place}you returned {_precise(g[index], e[index])}."
    said += f" {int(wrong.sum())} of {wrong.size} values differ." if wrong.size > 1 else ""
    return said + _pattern(g, e, wrong)


def _pattern(g: np.ndarray, e: np.ndarray, wrong: np.ndarray) -> str:
    if g.dtype.kind not in "fi" or g.size < 2:
        return ""
    nans = int((np.isnan(g) & ~np.isnan(e)).sum())
    if nans:
        return f" {nans} of your values {'is' if nans == 1 else 'are'} nan."
    if (
        not wrong.all()
        or not np.isfinite(g).all()
        or not np.isfinite(e).all()
        or not (np.abs(e) > 1e-12).all()
    ):
        return " Your values are all 0." if not g.any() and e.any() else ""
    if not g.any():
        return " Your values are all 0."
    ratio = g.astype(np.float64) / e.astype(np.float64)
    if np.ptp(ratio) <= 1e-4 * abs(ratio.flat[0]):
        return f" Each of your values is {ratio.flat[0]:.4g} times the expected one."
    step = g.astype(np.float64) - e.astype(np.float64)
    if np.ptp(step) <= 1e-4 * abs(step.flat[0]):
        return f" Each of your values is the expected one plus {step.flat[0]:.4g}."
    return ""


def _other_arrays(g: np.ndarray, e: np.ndarray, path: str, tolerance: float | None) -> str | None:
    """Arrays of text, dates or objects, entry by entry."""
    if g.dtype.kind != e.dtype.kind:
        return f"{_at(path)}your result has dtype {g.dtype}, expected {e.dtype}."
    if g.dtype.names is not None:
        return (
            None if g.dtype == e.dtype and g.tobytes() == e.tobytes() else f"{_at(path)}the records differ."
        )
    for index in np.ndindex(e.shape):
        if said := _differ(g[index], e[index], f"{path}{list(index)}", tolerance, False):
            return said
    return None


def _sequences(got: Any, expected: Any, path: str, tolerance: float | None, strict: bool) -> str | None:
    if type(got) not in (list, tuple):
        return f"{_at(path)}you returned {_kind(got)}, expected {_kind(expected)}."
    if len(got) != len(expected):
        said = f"{_at(path)}you returned {len(got)} item{'s' * (len(got) != 1)}, expected {len(expected)}: "
        return said + _first_difference(got, expected, tolerance, strict)
    for number, (one, other) in enumerate(zip(got, expected, strict=True)):
        if said := _differ(one, other, f"{path}[{number}]", tolerance, strict):
            return said
    return None


def _first_difference(got: Any, expected: Any, tolerance: float | None, strict: bool) -> str:
    """Both sequences, which have different lengths; of long ones that begin alike, the place where they part."""
    pairs = enumerate(zip(got, expected, strict=False))
    alike = next(
        (n for n, (one, other) in pairs if _differ(one, other, "", tolerance, strict)),
        min(len(got), len(expected)),
    )
    if alike < 4:
        return f"got {short(got)}, expected {short(expected)}."
    if alike == len(got):
        return f"yours are right and end too early, before {short(expected[alike], 60)}."
    if alike == len(expected):
        return f"the first {alike} are right, but then yours go on with {short(got[alike], 60)}."
    return f"the first {alike} are right, then you have {short(got[alike], 60)}, expected {short(expected[alike], 60)}."


def _mappings(got: Any, expected: Any, path: str, tolerance: float | None, strict: bool) -> str | None:
    if type(got) is not dict:
        return f"{_at(path)}you returned {_kind(got)}, expected {_kind(expected)}."
    if missing := [key for key in expected if key not in got]:
        return f"{_at(path)}the key {short(missing[0], 60)} is missing; you returned the keys {short(list(got))}."
    if extra := [key for key in got if key not in expected]:
        return f"{_at(path)}the key {short(extra[0], 60)} is one too many; expected the keys {short(list(expected))}."
    for key, value in expected.items():
        if said := _differ(got[key], value, f"{path}[{short(key, 40)}]", tolerance, strict):
            return said
    return None


def _sets(got: Any, expected: Any, path: str) -> str | None:
    if got == expected:
        return None
    missing, extra = list(expected - got), list(got - expected)
    said = (
        f"{short(missing[0], 60)} is missing" if missing else f"{short(extra[0], 60)} does not belong in it"
    )
    return f"{_at(path)}your set has {len(got)} elements, expected {len(expected)}: {said}."


def _texts(got: Any, expected: Any, path: str) -> str:
    first = next(
        (i for i, (x, y) in enumerate(zip(got, expected, strict=False)) if x != y),
        min(len(got), len(expected)),
    )
    start = max(0, first - 20)
    cut = slice(start, first + 40)
    dots = "…" if start else ""
    place = f" (they differ from position {first} on)" if first else ""
    return f"{_at(path)}you returned {dots}{got[cut]!r}, expected {dots}{expected[cut]!r}{place}."
