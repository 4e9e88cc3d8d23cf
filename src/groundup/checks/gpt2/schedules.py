"""Checks for the lesson gpt2.schedules.

The schedules are judged against NumPy's interpolation and a cosine of our own. `write_whole` works in a folder of its
own, with a `write` that breaks off and with os.fsync and os.replace watched. `train_and_save` trains a model of ours
with dropout, is killed, and goes on in other objects; the oracle is a run that nobody touched.
"""

import contextlib
import inspect
import io
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from groundup.check import Case, Exercise, compare

# The first optimizer imports for seconds: let it, before the clock of a check starts.
torch.optim.SGD([torch.zeros(1)])


def by_name(got, expected) -> str | None:
    """Compares two observations entry by entry, in the order of the expected one; a text is a sentence."""
    if isinstance(got, str) or not isinstance(got, dict) or not isinstance(expected, dict):
        return None if type(got) is type(expected) and got == expected else str(got)
    for name in expected:
        if difference := compare(got.get(name), expected[name]):
            return f"{name}: {difference.replace('you returned', 'yours is')}"
    return None


# ---------------------------------------------------------------------------------------------------------------------
def by_step(got, expected) -> str | None:
    """Compares two rows of {step: value}."""
    for step in expected:
        if difference := compare(got.get(step), expected[step]):
            return f"In step {step}: {difference}"
    return None


def _rates(exercise: Exercise) -> None:
    exercise.agree(by_step)

    @exercise.observe
    def _(obj, at, **plan):
        return {step: obj(step, **plan) for step in at}


warmup_cosine = Exercise("gpt2.schedules.warmup_cosine")
_rates(warmup_cosine)


@warmup_cosine.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, at, warmup, steps, max_lr=None, min_lr=None):
        highest = float(rng.uniform(1e-4, 1e-2)) if max_lr is None else max_lr
        lowest = highest * float(rng.uniform(0.05, 0.3)) if min_lr is None else min_lr
        return Case(label, at=list(at), max_lr=highest, min_lr=lowest, warmup=warmup, steps=steps)

    yield case("the worked example", [0, 3, 4, 9, 14], 4, 14, max_lr=1.0, min_lr=0.1)
    yield case("every step, and some after the end", range(45), 7, 40)
    yield case("no warm-up", [0, 1, 5, 12, 13, 20], 0, 13)
    yield case("one step of warm-up", [0, 1, 2, 10, 11, 12], 1, 11)
    yield case("warm-up is all", [0, 4, 8, 9, 12], 9, 9)
    yield case("more warm-up than steps", [0, 3, 4, 5, 6, 7], 6, 4)
    yield case("down to nothing", [2, 7, 30, 59, 60, 61], 5, 60, min_lr=0.0)
    warmup, steps = int(rng.integers(100, 1000)), int(rng.integers(10_000, 20_000))
    at = [0, warmup - 1, warmup, warmup + 1, (warmup + steps) // 3, steps - 1, steps, steps + 5]
    yield case("a long run", at, warmup, steps)


def _level(step, warmup, max_lr):
    return float(Fraction(max_lr) * (step + 1) / warmup)


@warmup_cosine.oracle
def _(at, max_lr, min_lr, warmup, steps):
    rates = {}
    for step in at:
        if step in range(warmup):
            rates[step] = _level(step, warmup, max_lr)
        else:
            left = 1 - min(1.0, (step - warmup) / (steps - warmup)) if steps > warmup else 0.0
            rates[step] = min_lr + (max_lr - min_lr) * math.sin(math.pi * left / 2) ** 2
    return rates


def _cosine(done, max_lr, min_lr):
    return min_lr + (max_lr - min_lr) * (1 + math.cos(math.pi * done)) / 2


def _down(step, max_lr, min_lr, warmup, steps):
    if step >= steps:
        return min_lr
    return _cosine((step - warmup) / (steps - warmup), max_lr, min_lr)


@warmup_cosine.mistake
def started_at_zero(step, *, max_lr, min_lr, warmup, steps):
    """Your warm-up starts at step / warmup, which is 0: the first step is wasted, and the maximum comes one step late. Steps count from 0, so step 0 is the first part of the way."""
    return (
        max_lr * step / warmup
        if step < warmup
        else _down(step, max_lr=max_lr, min_lr=min_lr, warmup=warmup, steps=steps)
    )


@warmup_cosine.mistake(shape=True)  # right on no case: every one has the step after the warm-up
def warmed_up_one_step_longer(step, *, max_lr, min_lr, warmup, steps):
    """Your warm-up holds in step `warmup` too. The steps 0 to warmup − 1 are `warmup` steps already; in the next one the rate goes above its maximum."""
    if step <= warmup:
        return max_lr * (step + 1) / warmup
    return _down(step, max_lr, min_lr, warmup, steps)


@warmup_cosine.mistake
def rose_from_the_minimum(step, *, max_lr, min_lr, warmup, steps):
    """Your warm-up rises from min_lr. It rises from nothing: (step + 1) / warmup of the maximum; min_lr is only where the cosine ends."""
    if step < warmup:
        return min_lr + (max_lr - min_lr) * (step + 1) / warmup
    return _down(step, max_lr, min_lr, warmup, steps)


@warmup_cosine.mistake
def cosine_over_all_steps(step, *, max_lr, min_lr, warmup, steps):
    """Your cosine counts from step 0, so after the warm-up it is on its way down already, and the rate jumps. The way down begins in step `warmup`."""
    if step < warmup:
        return max_lr * (step + 1) / warmup
    return min_lr if step >= steps else _cosine(step / steps, max_lr, min_lr)


@warmup_cosine.mistake
def came_up_again(step, *, max_lr, min_lr, warmup, steps):
    """After step `steps` your rate rises again: a cosine goes on as a wave. A run that is made longer would then climb. From step `steps` on it is min_lr."""
    if step < warmup:
        return max_lr * (step + 1) / warmup
    return _cosine((step - warmup) / (steps - warmup), max_lr, min_lr)


@warmup_cosine.mistake
def down_to_zero(step, *, max_lr, min_lr, warmup, steps):
    """Your cosine runs between max_lr and 0, and min_lr only cuts it off. Half the wave has to run between max_lr and min_lr: scale it by max_lr − min_lr and add min_lr."""
    if step < warmup:
        return max_lr * (step + 1) / warmup
    return min_lr if step >= steps else max(min_lr, _cosine((step - warmup) / (steps - warmup), max_lr, 0.0))


@warmup_cosine.mistake
def left_out_the_half(step, *, max_lr, min_lr, warmup, steps):
    """Your rate is too high after the warm-up: 1 + cos begins at 2. Take half of it, so that the way down begins at max_lr."""
    if step < warmup:
        return max_lr * (step + 1) / warmup
    return (
        min_lr if step >= steps else 2 * _cosine((step - warmup) / (steps - warmup), max_lr, min_lr) - min_lr
    )


@warmup_cosine.mistake
def forgot_to_add_the_minimum(step, *, max_lr, min_lr, warmup, steps):
    """Your wave has the right height, max_lr − min_lr, but stands on 0: it begins below max_lr. Add min_lr to it."""
    if step < warmup:
        return max_lr * (step + 1) / warmup
    return min_lr if step >= steps else _cosine((step - warmup) / (steps - warmup), max_lr - min_lr, 0.0)


@warmup_cosine.mistake
def ignored_the_minimum(step, *, max_lr, min_lr, warmup, steps):
    """Your cosine runs from max_lr to 0, and then jumps up to min_lr. Scale the wave by max_lr − min_lr and add min_lr: it ends where the level part begins."""
    if step < warmup:
        return max_lr * (step + 1) / warmup
    return min_lr if step >= steps else _cosine((step - warmup) / (steps - warmup), max_lr, 0.0)


@warmup_cosine.mistake
def half_a_half_wave(step, *, max_lr, min_lr, warmup, steps):
    """Your wave goes only from cos 0 to cos π/2. The shape is (1 + cos) / 2 with an angle from 0 to π: flat at both ends, steepest in the middle."""
    if step < warmup:
        return max_lr * (step + 1) / warmup
    if step >= steps:
        return min_lr
    return min_lr + (max_lr - min_lr) * math.cos(math.pi / 2 * (step - warmup) / (steps - warmup))


@warmup_cosine.mistake
def minimum_one_step_early(step, *, max_lr, min_lr, warmup, steps):
    """Your cosine reaches min_lr in step steps − 1. It is reached in step `steps`: divide by steps − warmup, the number of steps from the top to the bottom."""
    if step < warmup:
        return max_lr * (step + 1) / warmup
    done = (step - warmup) / (steps - 1 - warmup) if steps - 1 > warmup else 1.0
    return _cosine(min(1.0, done), max_lr, min_lr)


# ---------------------------------------------------------------------------------------------------------------------
write_whole = Exercise("gpt2.schedules.write_whole")


class _Interrupted(BaseException):
    """As Ctrl-C: no Exception."""


_FAULTS = {
    "disk": lambda: OSError(28, "No space left on device"),
    "value": lambda: ValueError("a tensor of a strange kind"),
    "interrupt": lambda: _Interrupted("stopped"),
}


@write_whole.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, old, fault=None, where="write", leftover=False, size=40):
        def content():
            return rng.bytes(size)

        return Case(
            label, old=content() if old else None, new=content(), fault=fault, where=where, leftover=leftover
        )

    yield case("a new file", old=False)
    yield case("a file that is there already", old=True, size=3000)
    yield case("the disk is full half-way, there was a file", old=True, fault="disk")
    yield case("the disk is full half-way, there was none", old=False, fault="disk")
    yield case("`write` raises another error", old=True, fault="value")
    yield case("Ctrl-C half-way", old=True, fault="interrupt")
    yield case("os.fsync fails", old=True, fault="disk", where="fsync")
    yield case("os.replace fails", old=True, fault="disk", where="replace")
    yield case("a killed run left its half file", old=True, leftover=True)
    yield case("`write` fails before it has made a file", old=True, fault="disk", where="before")


@contextlib.contextmanager
def _watched(path, error, where, events):
    """os.fsync, os.replace and os.rename write down what happens, and fail where they are asked to."""
    names = ("fsync", "replace", "rename")
    real = {name: getattr(os, name) for name in names}

    def sync(descriptor):
        if where == "fsync" and error:
            raise error
        real["fsync"](descriptor)
        events.append(("synced", os.fstat(descriptor).st_size))

    def moved(name):
        def move(source, target, **options):
            if where == "replace" and error:
                raise error
            content = path.read_bytes() if path.exists() else None
            real[name](source, target, **options)
            if Path(target) == path:
                events.append(("named", content))

        return move

    os.fsync, os.replace, os.rename = sync, moved("replace"), moved("rename")
    try:
        yield
    finally:
        for name in names:
            setattr(os, name, real[name])


@write_whole.observe
def _(obj, old, new, fault, where, leftover):
    folder = Path(tempfile.mkdtemp())
    path, events, seen = folder / "step-00000007.safetensors", [], {}
    error = _FAULTS[fault]() if fault else None
    try:
        if old is not None:
            path.write_bytes(old)
        if leftover:
            (folder / (path.name + ".tmp")).write_bytes(new * 3)
        others = {"step-00000004.safetensors": b"an older one", "notes.tmp": b"of somebody else"}
        others = others if old is not None else {}
        for name, content in others.items():
            (folder / name).write_bytes(content)

        def write(place):
            place = Path(place)
            events.append(("written", None))
            if place.parent != folder:
                seen["elsewhere"] = True
            if where == "before" and fault:
                raise error
            broken = fault and where == "write"
            place.unlink(missing_ok=True)  # as safetensors does: a new file takes the place of an old one
            place.write_bytes(new[: len(new) // 2] if broken else new)
            kept = path.read_bytes() if path.exists() else None
            seen["The file `path`, while the new one is written"] = _told(kept, old, new)
            if broken:
                raise error

        raised, same = "nothing", True
        with _watched(path, error, where, events):
            try:
                obj(path, write)
            except NotImplementedError:
                raise  # not written yet
            except (Exception, _Interrupted) as caught:
                raised, same = f"{type(caught).__name__}: {caught}", caught is error
        after = path.read_bytes() if path.exists() else None
        kinds = [kind for kind, _ in events]
        named = kinds.index("named") if "named" in kinds else None
        return {
            "How often `write` was called": kinds.count("written"),
            "Written to the folder of `path`": not seen.pop("elsewhere", False),
            **seen,
            "The file `path` afterwards": _told(after, old, new),
            "The older checkpoint and a file of somebody else are as they were": all(
                (folder / name).exists() and (folder / name).read_bytes() == content
                for name, content in others.items()
            ),
            "Temporary files that stay": sorted(
                p.name for p in folder.iterdir() if p != path and p.name not in others
            ),
            "What was raised": raised,
            "It is the very error that was raised below": same,
            "All bytes synced before the file got its name": named is not None
            and ("synced", len(new)) in events[:named],
            "The file `path`, when the new one took its name": _told(events[named][1], old, new)
            if named is not None
            else "nothing took its name",
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _told(content, old, new) -> str:
    if content is None:
        return "not there"
    if content == new:
        return "all of the new"
    if content == old:
        return "all of the old"
    return "empty" if not content else "part of the new" if new.startswith(content) else "something else"


@write_whole.oracle
def _(old, new, fault, where, leftover):
    before = "not there" if old is None else "all of the old"
    error = _FAULTS[fault]() if fault else None
    seen = {"How often `write` was called": 1, "Written to the folder of `path`": True}
    if where != "before":
        seen["The file `path`, while the new one is written"] = before
    return seen | {
        "The file `path` afterwards": before if fault else "all of the new",
        "The older checkpoint and a file of somebody else are as they were": True,
        "Temporary files that stay": [],
        "What was raised": f"{type(error).__name__}: {error}" if fault else "nothing",
        "It is the very error that was raised below": True,
        "All bytes synced before the file got its name": not fault,
        "The file `path`, when the new one took its name": "nothing took its name" if fault else before,
    }


write_whole.agree(by_name)


def _sync(place):
    with open(place, "rb+") as file:
        os.fsync(file.fileno())


@write_whole.mistake
def wrote_in_place(path, write):
    """You let `write` write to `path` itself. Killed half-way, the old file is gone and the new one is not whole. Let it write to `temporary`."""
    write(path)
    _sync(path)


@write_whole.mistake
def forgot_to_sync(path, write):
    """You never called os.fsync on the written file. Its bytes may still be in the machine's memory when it gets its name: after a power cut the name is there, and the contents are not."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@write_whole.mistake
def synced_what_was_open_before(path, write):
    """You opened the file before `write` made it, and synced that. `write` may put a new file in its place, as safetensors does; then the one that you hold is empty and has no name. Open it after `write`."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            write(temporary)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@write_whole.mistake
def deleted_other_files(path, write):
    """You delete other files of the folder too: an older checkpoint, or somebody else's. Only `temporary` is yours to delete."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        write(temporary)
        _sync(temporary)
        os.replace(temporary, path)
    finally:
        for other in path.parent.glob("*.tmp"):
            other.unlink()


@write_whole.mistake
def raised_another_error(path, write):
    """You raised an error of your own in place of the one that came. The caller can no longer tell a full disk from Ctrl-C. `finally` without `except` lets it go on as it is."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        write(temporary)
        _sync(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        raise type(error)(*error.args) from error
    finally:
        temporary.unlink(missing_ok=True)


@write_whole.mistake
def synced_too_late(path, write):
    """You called os.fsync after the file got its name. In between, a power cut leaves the name without its bytes. First sync, then replace."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
        _sync(path)
    finally:
        temporary.unlink(missing_ok=True)


@write_whole.mistake
def left_half_a_file(path, write):
    """After an error the half-written file stays. On a full disk these halves take the last space. Delete it in `finally`, which runs after an error too."""
    temporary = path.with_name(path.name + ".tmp")
    write(temporary)
    _sync(temporary)
    os.replace(temporary, path)


@write_whole.mistake
def swallowed_the_error(path, write):
    """You caught the error and kept it. The caller believes that the file was saved. Clean up, and let the error go on: `finally` does both."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        write(temporary)
        _sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)


@write_whole.mistake
def cleaned_after_some_errors_only(path, write):
    """You clean up after some errors only. Ctrl-C, and an error that is no OSError, leave half a file too. `finally` runs after all of them."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        write(temporary)
        _sync(temporary)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


@write_whole.mistake
def deleted_the_old_file_first(path, write):
    """You deleted the old file before the new one had its name. Killed in between, you have neither. os.replace takes the place of the old file in one go."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        write(temporary)
        _sync(temporary)
        path.unlink(missing_ok=True)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@write_whole.mistake
def copied_the_bytes(path, write):
    """You copied the bytes into `path`. That writes in place once more, and can be cut off half-way. os.replace moves only the name."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        write(temporary)
        _sync(temporary)
        path.write_bytes(temporary.read_bytes())
    finally:
        temporary.unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------------------------------------
train_and_save = Exercise("gpt2.schedules.train_and_save", seconds=20.0)


@train_and_save.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, steps, save_every, killed):
        return Case(label, steps=steps, save_every=save_every, killed=killed, seed=int(rng.integers(1, 1000)))

    yield case("three steps in one go", 3, 2, [])
    yield case("saved after every step, killed once", 5, 1, [3])
    yield case("killed between two checkpoints", 11, 3, [7])
    yield case("killed twice", 12, 2, [5, 3])
    yield case("killed right after a checkpoint", 9, 4, [4])
    yield case("killed before the first checkpoint", 6, 4, [3])
    yield case("started again when all is done", 6, 3, [None])
    yield case("the end is no multiple", 8, 5, [6])
    yield case("no steps at all", 0, 3, [])


class _Dead(Exception):
    pass


class _Text(nn.Module):
    """A small language model with dropout, so that random numbers matter."""

    def __init__(self):
        super().__init__()
        self.wte, self.dropout = nn.Embedding(7, 6), nn.Dropout(0.3)
        self.norm, self.lm_head = nn.LayerNorm(6), nn.Linear(6, 7)

    def forward(self, idx):
        return self.lm_head(self.norm(self.dropout(self.wte(idx))))


class _Watched(torch.optim.AdamW):
    """Writes down the rates of its groups in every step."""

    def step(self, closure=None):
        self.rates.append([group["lr"] for group in self.param_groups])
        return super().step(closure)


class _Batches:
    """Stands for TokenBatches. Batch k is always the same; dies when it is asked for its batch number `dies`, counted in this life."""

    def __init__(self, dies=None):
        self.position, self.taken, self.dies = 0, 0, dies

    def next_batch(self):
        if self.taken == self.dies:
            raise _Dead
        if self.taken == 60:
            raise RuntimeError(
                "60 batches were taken in a run of few steps: does `step` grow, and does the loop end?"
            )
        cut = np.random.default_rng((5, self.position)).integers(7, size=(3, 6))
        self.position, self.taken = self.position + 1, self.taken + 1
        return torch.tensor(cut[:, :-1]), torch.tensor(cut[:, 1:])

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


def _rate(step):
    """Every step has a rate of its own; it never comes back."""
    return 0.02 * (step + 1) / (step + 3)


def _life(seed, dies, batches=_Batches):
    torch.manual_seed(seed)
    model = _Text()
    groups = [
        {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = _Watched(groups, lr=0.5, betas=(0.9, 0.95), foreach=False)
    optimizer.rates = []
    return model, optimizer, batches(dies)


@train_and_save.observe
def _(obj, steps, save_every, killed, seed):
    folder, seen = Path(tempfile.mkdtemp()), {}
    # The functions that the loop calls may ask for a TokenBatches by type: those that its module knows.
    base = getattr(inspect.unwrap(obj), "__globals__", {}).get("TokenBatches", object)
    kind = type("_Batches", (_Batches, base), {}) if isinstance(base, type) else _Batches
    try:
        with torch.random.fork_rng(devices=[]):
            for life, dies in enumerate([*killed, None], start=1):
                model, optimizer, batches = _life(seed + life, dies, kind)
                options = {"steps": steps, "learning_rate": _rate, "save_every": save_every}
                losses = "killed"
                with contextlib.suppress(_Dead):
                    losses = obj(folder, model=model, optimizer=optimizer, batches=batches, **options)
                last = f"Start {life}"
                seen[f"{last}: the rates of the groups in each step"] = optimizer.rates
                seen[f"{last}: the number of the last batch"] = batches.position
                seen[f"{last}: the files"] = sorted(path.name for path in folder.iterdir())
                seen[f"{last}: the losses"] = losses
        return seen | {
            f"At the end, {name}": parameter.detach().clone() for name, parameter in model.named_parameters()
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@train_and_save.oracle
def _(steps, save_every, killed, seed):
    """A run that is never resumed: where a start finds a checkpoint, all before it is run again from the beginning."""
    seen, done, origin, files = {}, 0, None, []
    with torch.random.fork_rng(devices=[]):
        for life, dies in enumerate([*killed, None], start=1):
            if not files:  # nothing to go on from: this start is a beginning
                origin, done = seed + life, 0
            model, optimizer, batches = _life(origin, None)
            until = steps if dies is None else min(steps, done + dies)
            losses = [_one_step(model, optimizer, batches, step) for step in range(until)]
            last = f"Start {life}"
            seen[f"{last}: the rates of the groups in each step"] = optimizer.rates[done:]
            seen[f"{last}: the number of the last batch"] = until
            files += [n for n in range(done + 1, until + 1) if n % save_every == 0]
            seen[f"{last}: the files"] = [f"step-{n:08d}.safetensors" for n in files[-2:]]
            seen[f"{last}: the losses"] = "killed" if until < steps else losses[done:]
            done = files[-1] if files else 0
    return seen | {f"At the end, {n}": p.detach() for n, p in model.named_parameters()}


def _one_step(model, optimizer, batches, step=None) -> float:
    model.train()
    if step is not None:
        for group in optimizer.param_groups:
            group["lr"] = _rate(step)
    optimizer.zero_grad()
    x, y = batches.next_batch()
    loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


train_and_save.agree(by_name)


class _Loop:
    """A right loop with files of its own, to be spoilt."""

    forget = ()
    counts = "done"

    def __call__(self, folder, *, model, optimizer, batches, steps, learning_rate, save_every):
        parts = {"model": model, "optimizer": optimizer, "batches": batches}
        step, losses = self.load(folder, parts), []
        self.first = step
        while step < steps:
            self.rate(optimizer, learning_rate, step)
            losses.append(_one_step(**parts))
            step += 1
            if self.due(step, steps, save_every):
                self.save(folder, step, parts)
        return losses

    def rate(self, optimizer, learning_rate, step):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)

    def due(self, step, steps, save_every):
        return step % save_every == 0

    def load(self, folder, parts):
        files = sorted(Path(folder).iterdir())
        if not files:
            return 0
        state = torch.load(
            io.BytesIO(files[-1].read_bytes()), weights_only=False
        )  # no look at the file's name
        for name, part in parts.items():
            if name not in self.forget:
                part.load_state_dict(state[name])
        torch.set_rng_state(state["random"])
        return state["step"]

    def save(self, folder, step, parts, name=None):
        state = {name: part.state_dict() for name, part in parts.items()}
        state |= {"random": torch.get_rng_state(), "step": step}
        torch.save(state, Path(folder) / f"step-{step:08d}.safetensors")
        for old in sorted(Path(folder).iterdir())[:-2]:
            old.unlink()


def _spoilt(function, sentence, **changes):
    """A mistake from the right loop with some methods exchanged."""
    loop = type("Loop", (_Loop,), changes)

    def mistake(folder, *, model, optimizer, batches, steps, learning_rate, save_every):
        return loop()(
            folder,
            model=model,
            optimizer=optimizer,
            batches=batches,
            steps=steps,
            learning_rate=learning_rate,
            save_every=save_every,
        )

    mistake.__name__, mistake.__doc__ = function, sentence
    train_and_save.mistake(mistake)


def _step_just_made(self, folder, step, parts):
    _Loop.save(self, folder, step - 1, parts)


@train_and_save.mistake
def wrote_the_step_just_made(folder, *, model, optimizer, batches, steps, learning_rate, save_every):
    """You saved the number of the step just made, before it was counted. A resumed run takes it for the next step, makes it once more, on the next batch, and every rate after it comes one step late."""
    parts = {"model": model, "optimizer": optimizer, "batches": batches}
    loop = _Loop()
    step, losses = loop.load(folder, parts), []
    while step < steps:
        loop.rate(optimizer, learning_rate, step)
        losses.append(_one_step(**parts))
        if step % save_every == 0:
            loop.save(folder, step, parts)
        step += 1
    return losses


_spoilt(
    "named_by_the_step_before",
    "You saved at the right moment, but with the number of the step just made. The number in a checkpoint is how many "
    "steps are done; a resumed run makes the last of them twice.",
    save=_step_just_made,
)
_spoilt(
    "first_groups_rate_only",
    "You set the rate of the first group only. The parameters that do not decay are in the second; they keep the rate "
    "with which the optimizer was made.",
    rate=lambda self, optimizer, learning_rate, step: optimizer.param_groups[0].update(
        lr=learning_rate(step)
    ),
)
_spoilt(
    "rate_counts_from_the_start_of_the_process",
    "Your rate starts anew when the run is resumed: it follows the steps made in this call. It depends on the number "
    "of the step in the whole run.",
    rate=lambda self, optimizer, learning_rate, step: _Loop.rate(
        self, optimizer, learning_rate, step - self.first
    ),
)
_spoilt(
    "rate_one_step_ahead",
    "Your rate is one step ahead: step s got learning_rate(s + 1). Set it before `step` is counted up.",
    rate=lambda self, optimizer, learning_rate, step: _Loop.rate(self, optimizer, learning_rate, step + 1),
)
_spoilt(
    "saved_the_end_too",
    "You saved at the end, though it is no multiple of save_every. A run that is longer from the start has no such "
    "file, so the two would not leave the same ones. Save at multiples only.",
    due=lambda self, step, steps, save_every: step % save_every == 0 or step == steps,
)
_spoilt(
    "started_again_at_zero",
    "Your resumed run counts from step 0 again: it makes all steps once more, with the warm-up in the middle. Go on "
    "from the `step` that was restored.",
    load=lambda self, folder, parts: 0 * _Loop.load(self, folder, parts),
)


@train_and_save.mistake
def as_many_steps_again(folder, *, model, optimizer, batches, steps, learning_rate, save_every):
    """Your resumed run makes `steps` more steps. `steps` is the length of the whole run; of these some are done already."""
    parts = {"model": model, "optimizer": optimizer, "batches": batches}
    loop = _Loop()
    first, losses = loop.load(folder, parts), []
    for step in range(first, first + steps):
        loop.rate(optimizer, learning_rate, step)
        losses.append(_one_step(**parts))
        if (step + 1) % save_every == 0:
            loop.save(folder, step + 1, parts)
    return losses


@train_and_save.mistake
def saved_before_the_step(folder, *, model, optimizer, batches, steps, learning_rate, save_every):
    """You saved before the step was made: there is a file at step 0, and none when the last step ends on a multiple. Save after the step, when it has been counted."""
    parts = {"model": model, "optimizer": optimizer, "batches": batches}
    loop = _Loop()
    step, losses = loop.load(folder, parts), []
    while step < steps:
        if step % save_every == 0:
            loop.save(folder, step, parts)
        loop.rate(optimizer, learning_rate, step)
        losses.append(_one_step(**parts))
        step += 1
    return losses
