"""The running table of Part 2: how well each model predicts text that it has not seen, each measured by a lesson's run.

    from groundup import ladder
    ladder.record("bigram", bits_per_byte=3.5, parameters=7056, scale=SCALE)   # a rung is shown, and kept
    ladder.rungs()                                                             # those kept so far

All rungs are about one text, `groundup.data.shakespeare().test`, every byte of which is predicted once. It is ASCII, so
that bits per byte and bits per character are one number, whatever the tokens of the model are.

The course's own rungs, which the runs behind the site recorded, come with the package; those of the learner's runs are
kept in `ladder.json` in `groundup.progress.home()` and take the place of the course's of the same name.
"""

import json
import math
from dataclasses import asdict, dataclass
from importlib.resources import files

from groundup import _files, progress
from groundup.run import resolve_scale

MIME = "application/vnd.groundup.rung+json"


@dataclass(frozen=True)
class Rung:
    """One model on the ladder."""

    name: str
    bits_per_byte: float
    parameters: int
    scale: str

    def __str__(self) -> str:
        return f"on the ladder: {self.name}, {self.bits_per_byte:.3f} bits per byte, {self.parameters:,} parameters"

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        return {"text/plain": str(self), MIME: asdict(self)}


def record(name: str, *, bits_per_byte: float, parameters: int, scale: str) -> Rung:
    """Puts a model on the ladder and returns its rung, which a notebook shows if it is a cell's last line.

    A run at the scale `smoke` is too short to say anything, so that its rung is shown but not kept.

    Args:
        bits_per_byte: mean of -log2 of the probability given to each byte of the test text.
        parameters: how many numbers the model learnt (for counts: how many it keeps).
        scale: the lesson's SCALE.

    Raises:
        ValueError: bits_per_byte is not a positive number, or parameters is negative.
    """
    if not (math.isfinite(bits_per_byte) and bits_per_byte > 0):
        raise ValueError(f"bits_per_byte is a positive number, not {bits_per_byte}")
    if parameters < 0:
        raise ValueError(f"parameters is a count, not {parameters}")
    rung = Rung(name, round(float(bits_per_byte), 4), int(parameters), resolve_scale(scale))
    if rung.scale != "smoke" and progress.recording():
        _keep(rung)
    return rung


def rungs() -> list[Rung]:
    """Every model on the ladder, the one that predicts worst first."""
    own = _own() if progress.recording() else []
    known = {rung.name: rung for rung in [*_published(), *own]}
    return sorted(known.values(), key=lambda rung: -rung.bits_per_byte)


def _published() -> list[Rung]:
    text = files("groundup").joinpath("ladder.json").read_text(encoding="utf-8")
    return [Rung(**fields) for fields in json.loads(text)]


def _path():
    return progress.home() / "ladder.json"


def _own() -> list[Rung]:
    try:
        return [Rung(**fields) for fields in json.loads(_path().read_bytes())]
    except (OSError, ValueError, TypeError):
        return []  # none yet, or a file that makes no sense: the next run writes it anew


def _keep(rung: Rung) -> None:
    path = _path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _files.locked(path.with_name("ladder.lock")):
            kept = {one.name: one for one in _own()} | {rung.name: rung}
            _files.write_whole(path, json.dumps([asdict(one) for one in kept.values()], indent=1).encode())
    except OSError as error:
        print(f"the rung is not kept: {path.parent} cannot be written ({error.strerror or error})")
