"""From whatever a learner plots (lists, NumPy, torch, JAX) to short plain JSON."""

import base64
import json
import math
from collections.abc import Sequence

DIGITS = 5  # more than a screen can show, and a stored figure stays small
LIMIT = 150_000  # bytes of one stored figure
THIN = 800  # points of one line that are still told apart on a page


def to_numpy(values):
    """NumPy array of `values`: a number, list, NumPy, JAX or torch array (any device or dtype, with or without grad).

    Raises:
        ValueError: the values are not a regular array of numbers or strings.
    """
    import numpy as np

    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if "bfloat16" in str(values.dtype) or "float8" in str(values.dtype):
            values = values.float()
        return values.numpy()
    if hasattr(values, "__iter__") and not hasattr(values, "dtype") and not isinstance(values, (str, bytes)):
        values = [to_numpy(value) if hasattr(value, "detach") else value for value in values]
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError("the rows have different lengths, so this is no array") from error
    if str(array.dtype) in ("bfloat16", "float16") or str(array.dtype).startswith("float8"):
        array = array.astype("float32")
    return array


def to_numbers(values, name: str, ndim: int | None = None):
    """`to_numpy` for arrays of real numbers; bool becomes 0 and 1, None becomes nan.

    Raises:
        ValueError: not real numbers, or not `ndim` axes; the sentence starts with `name`.
    """
    import numpy as np

    array = to_numpy(values)
    if array.dtype == object:
        try:
            array = array.astype(float)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} must hold numbers only") from error
    if array.dtype == bool:
        array = array.astype(int)
    if not np.issubdtype(array.dtype, np.integer) and not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{name} must hold real numbers, not {array.dtype}")
    if ndim is not None and array.ndim != ndim:
        raise ValueError(
            f"{name} must have {ndim} {'axis' if ndim == 1 else 'axes'}, its shape is {array.shape}"
        )
    return array


def plain(value):
    """A JSON value: floats rounded to 5 significant digits (whole numbers kept exact), nan and inf as None."""
    if isinstance(value, dict):
        if "bdata" in value and "dtype" in value:
            return plain(_decode(value))
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (str, bool)) or value is None:
        return value
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        if value.is_integer() and abs(value) < 1e15:
            return int(value)
        short = float(f"{value:.{DIGITS}g}")
        return int(short) if short.is_integer() and abs(short) < 1e15 else short
    return str(value)


def _decode(packed: dict):
    """plotly 6 and later pack NumPy arrays as base64, which older plotly.js cannot read: unpack them."""
    import numpy as np

    array = np.frombuffer(base64.b64decode(packed["bdata"]), dtype=packed["dtype"])
    if "shape" in packed:
        array = array.reshape([int(size) for size in str(packed["shape"]).split(",")])
    return array


def as_json(fig) -> dict:
    """Plain JSON of a plotly Figure (or of a dict that already is one)."""
    return plain(fig if isinstance(fig, dict) else fig.to_dict())


def check_size(figure: dict, remedy: str) -> None:
    """Raise ValueError when the figure would be stored with more than LIMIT bytes; `remedy` says what to do."""
    size = len(json.dumps(figure, ensure_ascii=False, separators=(",", ":")).encode())
    if size > LIMIT:
        raise ValueError(
            f"this figure has {size / 1000:.0f} kB and the limit is {LIMIT // 1000} kB: {remedy}"
        )


def thin(x: Sequence, y: Sequence, most: int = THIN) -> tuple[Sequence, Sequence]:
    """At most `most` points of a line: of each stretch its lowest and highest point, so that no peak is lost."""
    import numpy as np

    if len(y) <= most:
        return x, y
    y = np.asarray(y)
    keep = {0, len(y) - 1}
    for stretch in np.array_split(np.arange(len(y)), max(1, most // 2 - 1)):
        finite = stretch[np.isfinite(y[stretch])]
        if len(finite) < len(stretch):
            keep.add(int(stretch[~np.isfinite(y[stretch])][0]))  # a gap stays a gap
        if len(finite):
            keep |= {int(finite[y[finite].argmin()]), int(finite[y[finite].argmax()])}
    order = sorted(keep)
    return np.asarray(x)[order], y[order]
