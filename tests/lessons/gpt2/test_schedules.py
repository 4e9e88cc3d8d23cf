"""The lesson gpt2.schedules: its schedules against PyTorch's, its checkpoints under damage, and its checks."""

import inspect
import json
import math
import textwrap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from groundup.check import grade
from groundup.gpt2 import schedules
from groundup.gpt2.model import GPT, GPTConfig
from groundup.gpt2.schedules import (
    CheckpointError,
    batch_size_ramp,
    load_checkpoint,
    read_checkpoint,
    save_checkpoint,
    warmup_cosine,
    warmup_stable_decay,
)
from groundup.gpt2.training import TokenBatches, parameter_groups, training_step
from groundup.run.state import optimizer_tensors


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 30), st.integers(1, 60), st.integers(1, 60), st.floats(0, 0.9))
def test_schedules_equal_pytorchs(warmup, level, decay, lowest):
    steps = warmup + level + decay
    plan = {"max_lr": 1.0, "min_lr": lowest, "warmup": warmup, "steps": steps}
    schedulers = torch.optim.lr_scheduler
    for ours, parts, milestones in (
        (
            warmup_cosine,
            [lambda o: schedulers.CosineAnnealingLR(o, steps - warmup, eta_min=lowest)],
            [warmup],
        ),
        (
            lambda step, **plan: warmup_stable_decay(step, decay=decay, **plan),
            [lambda o: schedulers.ConstantLR(o, 1.0), lambda o: schedulers.LinearLR(o, 1.0, lowest, decay)],
            [warmup, steps - decay],
        ),
    ):
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        up = schedulers.LinearLR(optimizer, 1 / warmup, 1.0, warmup - 1)
        chain = schedulers.SequentialLR(optimizer, [up, *(make(optimizer) for make in parts)], milestones)
        for step in range(steps):
            assert ours(step, **plan) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
            optimizer.step()
            chain.step()
        assert ours(steps, **plan) == ours(steps + 9, **plan) == lowest


@given(st.integers(1, 50), st.integers(0, 100), st.integers(1, 16), st.integers(1, 200))
def test_a_ramp_rises_and_can_be_cut_into_micro_batches(low, more, unit, steps):
    start, end = low * unit, (low + more) * unit
    sizes = [
        batch_size_ramp(s, start=start, end=end, steps=steps, multiple_of=unit) for s in range(steps + 3)
    ]
    assert sizes == sorted(sizes) and sizes[0] == start and set(sizes[steps:]) == {end}
    assert all(type(size) is int and size % unit == 0 for size in sizes)


def parts(seed=0, **changes):
    torch.manual_seed(seed)
    options = {"block_size": 8, "vocab_size": 11, "n_layer": 1, "n_head": 2, "n_embd": 8, "dropout": 0.2}
    model = GPT(GPTConfig(**(options | changes)))
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), lr=1e-2, betas=(0.9, 0.95))
    tokens = torch.arange(500) * 7 % 11
    return {"model": model, "optimizer": optimizer, "batches": TokenBatches(tokens, 3, 8, seed=1)}


def test_the_optimizers_state_goes_by_name_whatever_the_order_of_the_groups():
    run = parts()
    assert optimizer_tensors(run["model"], run["optimizer"]) == {} and not run["optimizer"].state
    groups = run["optimizer"].param_groups[::-1]
    run["optimizer"] = torch.optim.AdamW([{"params": g["params"][::-1]} for g in groups], amsgrad=True)
    frozen = run["model"].transformer.ln_f.bias.requires_grad_(False)
    steps_of(run, 2)
    made = optimizer_tensors(run["model"], run["optimizer"])
    order = [p for group in run["optimizer"].param_groups for p in group["params"]]
    names = {p: name for name, p in run["model"].named_parameters()}
    expected = {
        f"{names[order[number]]}.{key}": value
        for number, state in run["optimizer"].state_dict()["state"].items()
        for key, value in state.items()
    }
    assert made.keys() == expected.keys() and all(made[name] is expected[name] for name in made)
    assert "transformer.wte.weight.max_exp_avg_sq" in made and frozen not in run["optimizer"].state


def steps_of(run, n):
    return [training_step(run["model"], run["batches"], run["optimizer"])[0] for _ in range(n)]


def test_a_loaded_run_goes_on_bit_for_bit(tmp_path):
    run = parts()
    steps_of(run, 5)
    run["optimizer"].param_groups[1]["lr"] = 0.125
    extra = {"history": [1.5, None], "name": "größer"}
    path = save_checkpoint(tmp_path / "new" / "folder", **run, step=5, extra=extra)
    expected = steps_of(run, 4)
    again = parts(seed=9)
    found = load_checkpoint(path.parent, **again)
    assert found == {"step": 5, "extra": extra, "path": path, "skipped": []}
    assert again["optimizer"].param_groups[1]["lr"] == 0.125
    assert again["optimizer"].param_groups[0]["betas"] == (0.9, 0.95)
    assert steps_of(again, 4) == expected
    for a, b in zip(run["model"].parameters(), again["model"].parameters(), strict=True):
        assert torch.equal(a, b)


def test_what_stands_in_a_file(tmp_path):
    run = parts()
    steps_of(run, 1)
    path = save_checkpoint(tmp_path, **run, step=1234)
    assert path.name == "step-00001234.safetensors"
    names = load_file(path).keys()
    assert "model.transformer.wte.weight" in names and "model.lm_head.weight" not in names  # tied: once
    assert "optimizer.transformer.h.0.ln_1.bias.exp_avg_sq" in names and "rng.cpu" in names
    with safe_open(path, "pt") as file:
        (text,) = file.metadata().values()
    assert json.loads(text)["step"] == 1234
    read = read_checkpoint(path)
    model = GPT(GPTConfig(**read["config"]))
    model.load_state_dict(read["model"])
    assert read["step"] == 1234 and read["extra"] is None
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), run["model"].parameters(), strict=True))


class Compiled(nn.Module):
    """As torch.compile wraps a module; the real one would change nn.Module under the checks' feet."""

    def __init__(self, module):
        super().__init__()
        self._orig_mod = module

    def forward(self, x):
        return self._orig_mod(x)


def test_no_prefix_gets_into_a_file(tmp_path):
    run = parts()
    plain = load_file(save_checkpoint(tmp_path / "plain", **run, step=0)).keys()
    whole = run | {"model": Compiled(run["model"])}
    assert load_file(save_checkpoint(tmp_path / "c", **whole, step=0)).keys() == plain
    load_checkpoint(tmp_path / "c", **whole)
    run["model"].transformer.h[0] = Compiled(run["model"].transformer.h[0])
    steps_of(run, 1)
    names = load_file(save_checkpoint(tmp_path / "d", **run, step=0)).keys()
    assert not [name for name in names if "_orig_mod" in name] and plain <= names
    load_checkpoint(tmp_path / "d", **run)  # and it finds its place again
    load_checkpoint(tmp_path / "d", **parts())


def test_only_the_newest_stay_and_a_half_file_of_a_killed_run_goes(tmp_path):
    run = parts()
    (tmp_path / "step-00000001.safetensors.tmp").write_bytes(b"half")
    (tmp_path / ".tmpXUBXj6").write_bytes(b"half")  # safetensors writes to such a name first
    (tmp_path / "step-00000900.safetensors").write_bytes(b"damaged, of a run that was longer")
    for step in (1, 2, 3, 4):
        save_checkpoint(tmp_path, **run, step=step, keep=2 if step < 4 else 1)
        kept = [step - 1, step] if 1 < step < 4 else [step]
        assert sorted(p.name for p in tmp_path.iterdir())[:-1] == [f"step-{k:08d}.safetensors" for k in kept]


@pytest.mark.parametrize("damage", ["cut", "nothing", "empty", "one bit", "zeros", "foreign", "folder"])
def test_a_damaged_file_is_skipped_by_name(tmp_path, damage):
    run = parts()
    steps_of(run, 1)
    good = save_checkpoint(tmp_path, **run, step=1)
    weights = [p.detach().clone() for p in run["model"].parameters()]
    steps_of(run, 1)
    path = save_checkpoint(tmp_path, **run, step=2)
    content = path.read_bytes()
    path.unlink()
    if damage == "foreign":
        save_file({"x": torch.ones(2)}, path)
    elif damage == "folder":
        path.mkdir()
    else:
        path.write_bytes(
            {
                "cut": content[:-100],
                "nothing": b"nothing",
                "empty": b"",
                "one bit": content[:-999] + bytes([content[-999] ^ 1]) + content[-998:],
                "zeros": content[: len(content) // 2] + bytes(len(content) - len(content) // 2),
            }[damage]
        )
    found = load_checkpoint(tmp_path, **run)
    assert found["path"] == good and found["step"] == 1 and len(found["skipped"]) == 1
    assert path.name in found["skipped"][0] and "\n" not in found["skipped"][0]
    assert all(torch.equal(a, b) for a, b in zip(weights, run["model"].parameters(), strict=True))
    with pytest.raises(CheckpointError, match=path.name):
        read_checkpoint(path)
    good.unlink()
    with pytest.raises(CheckpointError, match=path.name) as caught:
        load_checkpoint(tmp_path, **run)
    assert "\n" not in str(caught.value)


def test_an_empty_folder_or_none_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(CheckpointError, match="no good checkpoint"):
            load_checkpoint(folder, **parts())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vocab_size": 12}, "transformer.wte.weight"),
        ({"n_layer": 2}, "transformer.h.1"),
        ({"bias": False}, "bias"),
        ({"block_size": 9}, "transformer.wpe.weight"),
    ],
)
def test_tensors_that_do_not_fit_are_named_and_nothing_changes(tmp_path, changes, said):
    run, other = parts(), parts(**changes)
    steps_of(run, 1)
    save_checkpoint(tmp_path, **run, step=1)
    before = [p.detach().clone() for p in other["model"].parameters()]
    random = torch.get_rng_state()
    with pytest.raises(CheckpointError, match=said) as caught:
        load_checkpoint(tmp_path, **other)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(a, b) for a, b in zip(before, other["model"].parameters(), strict=True))
    assert torch.equal(random, torch.get_rng_state()) and other["batches"].position == 0
    assert not other["optimizer"].state


def test_another_optimizer_is_refused(tmp_path):
    run = parts()
    steps_of(run, 1)
    save_checkpoint(tmp_path, **run, step=1)
    one_group = torch.optim.AdamW(run["model"].parameters())
    with pytest.raises(CheckpointError, match="groups"):
        load_checkpoint(tmp_path, **run | {"optimizer": one_group})
    part = [{"params": [run["model"].transformer.wte.weight]}, {"params": [nn.Parameter(torch.ones(1))]}]
    with pytest.raises(CheckpointError, match="no place for optimizer"):
        load_checkpoint(tmp_path, **run | {"optimizer": torch.optim.AdamW(part)})


def test_a_full_disk_costs_only_the_newest(tmp_path, monkeypatch):
    run = parts()
    steps_of(run, 1)
    for step in (1, 2):
        save_checkpoint(tmp_path, **run, step=step)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(schedules, "save_file", full)
    with pytest.raises(CheckpointError, match="No space left") as caught:
        save_checkpoint(tmp_path, **run, step=3)
    assert "\n" not in str(caught.value)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(CheckpointError):
        save_checkpoint(tmp_path / "file", **run, step=3)


def learners(name, source):
    """A learner's version, in the notebook's names."""
    scope = dict(vars(schedules))
    exec(textwrap.dedent(source), scope)
    return scope[name]


WRONG = {
    "warmup_cosine": [
        # knows only the worked example's sizes
        """
        def warmup_cosine(step, *, max_lr, min_lr, warmup, steps):
            table = {0: 0.25, 3: 1.0, 4: 1.0, 9: 0.55, 14: 0.1}
            return table.get(step, min_lr)
        """,
        # a straight way down
        """
        def warmup_cosine(step, *, max_lr, min_lr, warmup, steps):
            if step < warmup:
                return max_lr * (step + 1) / warmup
            if step >= steps:
                return min_lr
            return max_lr + (min_lr - max_lr) * (step - warmup) / (steps - warmup)
        """,
        # the end is asked for before the warm-up
        """
        def warmup_cosine(step, *, max_lr, min_lr, warmup, steps):
            if step >= steps:
                return min_lr
            if step < warmup:
                return max_lr * (step + 1) / warmup
            done = (step - warmup) / (steps - warmup)
            return min_lr + (max_lr - min_lr) * (1 + math.cos(math.pi * done)) / 2
        """,
    ],
    "write_whole": [
        # syncs a file that `write` has put another in the place of
        """
        def write_whole(path, write):
            temporary = path.with_name(path.name + ".tmp")
            try:
                with open(temporary, "wb") as file:
                    write(temporary)
                    os.fsync(file.fileno())
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        """,
        # deletes the older checkpoints
        """
        def write_whole(path, write):
            temporary = path.with_name(path.name + ".tmp")
            try:
                write(temporary)
                with open(temporary, "rb+") as file:
                    os.fsync(file.fileno())
                os.replace(temporary, path)
            finally:
                for other in path.parent.iterdir():
                    if other != path:
                        other.unlink()
        """,
        # an error of the same kind and words, but not the same one
        """
        def write_whole(path, write):
            temporary = path.with_name(path.name + ".tmp")
            try:
                write(temporary)
                with open(temporary, "rb+") as file:
                    os.fsync(file.fileno())
                os.replace(temporary, path)
            except OSError as error:
                raise OSError(*error.args) from None
            finally:
                temporary.unlink(missing_ok=True)
        """,
        # copies where the disk refuses to move: in place, and not in one go
        """
        def write_whole(path, write):
            import shutil

            temporary = path.with_name(path.name + ".tmp")
            try:
                write(temporary)
                with open(temporary, "rb+") as file:
                    os.fsync(file.fileno())
                shutil.move(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        """,
        # syncs a file that it has just emptied
        """
        def write_whole(path, write):
            temporary = path.with_name(path.name + ".tmp")
            try:
                write(temporary)
                with open(temporary, "wb") as file:
                    os.fsync(file.fileno())
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        """,
        # wraps the error
        """
        def write_whole(path, write):
            temporary = path.with_name(path.name + ".tmp")
            try:
                write(temporary)
                with open(temporary, "rb+") as file:
                    os.fsync(file.fileno())
                os.replace(temporary, path)
            except Exception as error:
                raise CheckpointError(str(error)) from error
            finally:
                temporary.unlink(missing_ok=True)
        """,
        # tidies up the whole folder
        """
        def write_whole(path, write):
            temporary = path.with_name(path.name + ".tmp")
            try:
                write(temporary)
                with open(temporary, "rb+") as file:
                    os.fsync(file.fileno())
                os.replace(temporary, path)
            except BaseException:
                for p in path.parent.iterdir():
                    p.unlink()
                raise
        """,
    ],
    "train_and_save": [
        # saves nothing at all, and begins anew
        """
        def train_and_save(folder, *, model, optimizer, batches, steps, learning_rate, save_every):
            losses = []
            for step in range(steps):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(step)
                losses.append(training_step(model, batches, optimizer)[0])
            return losses
        """,
        # puts back all but the random numbers
        """
        def train_and_save(folder, *, model, optimizer, batches, steps, learning_rate, save_every):
            step, losses = 0, []
            if checkpoint_files(folder):
                random = torch.get_rng_state()
                run = {"model": model, "optimizer": optimizer, "batches": batches}
                step = load_checkpoint(folder, **run)["step"]
                torch.set_rng_state(random)
            while step < steps:
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(step)
                losses.append(training_step(model, batches, optimizer)[0])
                step += 1
                if step % save_every == 0:
                    run = {"model": model, "optimizer": optimizer, "batches": batches}
                    save_checkpoint(folder, step=step, **run)
            return losses
        """,
        # puts back all but the loader's place
        """
        def train_and_save(folder, *, model, optimizer, batches, steps, learning_rate, save_every):
            step, losses = 0, []
            if checkpoint_files(folder):
                run = {"model": model, "optimizer": optimizer, "batches": batches}
                step = load_checkpoint(folder, **run)["step"]
                batches.load_state_dict({"position": 0})
            while step < steps:
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(step)
                losses.append(training_step(model, batches, optimizer)[0])
                step += 1
                if step % save_every == 0:
                    run = {"model": model, "optimizer": optimizer, "batches": batches}
                    save_checkpoint(folder, step=step, **run)
            return losses
        """,
    ],
}
RIGHT = {
    "warmup_cosine": """
        def warmup_cosine(step, *, max_lr, min_lr, warmup, steps):
            if step < warmup:
                return (step + 1) * (max_lr / warmup)
            share = min(1, (step - warmup) / max(1, steps - warmup)) if step < steps else 1
            return 0.5 * max_lr * (1 + math.cos(math.pi * share)) + min_lr * 0.5 * (1 - math.cos(math.pi * share))
        """,
    "write_whole": """
        def write_whole(path, write):
            temporary = path.parent / "unfinished"
            try:
                write(temporary)
                descriptor = os.open(temporary, os.O_RDWR)
                os.fsync(descriptor)
                os.close(descriptor)
                temporary.replace(path)
            except BaseException:
                if temporary.exists():
                    temporary.unlink()
                (path.parent / (path.name + ".tmp")).unlink(missing_ok=True)
                raise
            (path.parent / (path.name + ".tmp")).unlink(missing_ok=True)
        """,
    "train_and_save": """
        def train_and_save(folder, *, model, optimizer, batches, steps, learning_rate, save_every):
            run = dict(model=model, optimizer=optimizer, batches=batches)
            first = load_checkpoint(folder, **run)["step"] if checkpoint_files(folder) else 0
            losses = []
            for number in range(first, steps):
                rate = learning_rate(number)
                [group.update(lr=rate) for group in optimizer.param_groups]
                losses += [training_step(*[run[k] for k in ("model", "batches", "optimizer")])[0]]
                if not (number + 1) % save_every:
                    save_checkpoint(folder, step=number + 1, **run)
            return losses
        """,
}


@pytest.mark.parametrize(("name", "source"), [(name, s) for name in WRONG for s in WRONG[name]])
def test_wrong_answers_fail(name, source):
    result = grade(f"gpt2.schedules.{name}", learners(name, source), seed=0)
    assert result.status in ("failed", "error"), source


@pytest.mark.parametrize("name", RIGHT)
def test_right_answers_written_differently_pass(name):
    result = grade(f"gpt2.schedules.{name}", learners(name, RIGHT[name]), seed=0)
    assert result.status == "passed", result.message


SLIPS = [
    ("warmup_cosine", "step < warmup", "step <= warmup", "warmed_up_one_step_longer"),
    ("warmup_cosine", "(step + 1)", "step", "started_at_zero"),
    ("warmup_cosine", " / 2", "", "left_out_the_half"),
    ("warmup_cosine", "min_lr + (max_lr - min_lr)", "(max_lr - min_lr)", "forgot_to_add_the_minimum"),
    ("warmup_cosine", "min_lr + (max_lr - min_lr)", "max_lr", "ignored_the_minimum"),
    ("warmup_cosine", "    if step >= steps:\n        return min_lr\n", "", "came_up_again"),
    ("write_whole", "os.fsync(file.fileno())", "pass", "forgot_to_sync"),
    ("write_whole", "write(temporary)", "write(path)", "while the new one is written"),
    ("write_whole", "temporary.unlink(missing_ok=True)", "pass", "left_half_a_file"),
    ("train_and_save", "optimizer.param_groups", "optimizer.param_groups[:1]", "first_groups_rate_only"),
    ("train_and_save", "learning_rate(step)", "learning_rate(step + 1)", "rate_one_step_ahead"),
    ("train_and_save", "step=step, **run", "step=step - 1, **run", "named_by_the_step_before"),
    ("train_and_save", "return losses", "pass", "None"),
    ("train_and_save", "        step += 1\n", "", "does the loop end?"),
]  # fmt: skip


@pytest.mark.parametrize("slip", SLIPS)
def test_reply_can_be_read(slip):
    name, old, new, said = slip
    source = inspect.getsource(getattr(schedules, name))
    assert old in source
    result = grade(f"gpt2.schedules.{name}", learners(name, source.replace(old, new)), seed=0)
    assert result.status in ("failed", "error")
    assert said in result.message or said in (result.mistake or ""), (result.mistake, result.message)


def test_the_rates_are_floats_at_the_ends():
    assert math.isclose(warmup_cosine(0, max_lr=1.0, min_lr=0.1, warmup=1, steps=1), 1.0)
    assert warmup_cosine(5, max_lr=1.0, min_lr=0.1, warmup=0, steps=5) == 0.1
