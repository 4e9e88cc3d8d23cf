"""groundup train gpt2: a run learns, is killed and goes on bit for bit, keeps its last good checkpoint, refuses in one line."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from groundup.gpt2 import schedules
from groundup.recipes.errors import RecipeError
from groundup.recipes.train import PRESETS, Settings, settings_of, settings_to_resume, train

# A model so small that a step takes milliseconds, with dropout, so that random numbers matter.
TINY = {
    "n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 16, "batch_size": 4, "dropout": 0.1, "max_iters": 60,
    "eval_interval": 10, "eval_iters": 2, "device": "cpu", "learning_rate": 3e-3,
}  # fmt: skip


@pytest.fixture
def text(tmp_path) -> Path:
    path = tmp_path / "text.txt"
    rng = random.Random(0)
    words = ["the", "cat", "dog", "sat", "ran", "on", "a", "mat", "and", "then"]
    path.write_text("\n".join(" ".join(rng.choices(words, k=6)) for _ in range(400)), encoding="utf-8")
    return path


def arguments(**given: object) -> list[str]:
    flags = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    return [sys.executable, "-m", "groundup", "train", "gpt2", *flags]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def run(*extra: str, **given: object) -> subprocess.CompletedProcess:
    command = [*arguments(**given), *extra]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment())


def newest(folder: Path) -> Path:
    return max(folder.glob("step-*.safetensors"))


def same(one: Path, other: Path) -> bool:
    a, b = load_file(one), load_file(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def quiet(settings: Settings, **options: object) -> dict:
    return train(settings, console=Console(quiet=True), **options)


def test_a_run_learns_and_leaves_checkpoints_and_curves(text, tmp_path):
    out = tmp_path / "run"
    done = run(**TINY, data=text, out=out)
    assert done.returncode == 0, done.stderr
    assert "step 60:" in done.stdout and "tokens/s" in done.stdout
    steps = [line for line in done.stdout.splitlines() if line.startswith("step ")]
    losses = [float(line.split("validation ")[1].split()[0]) for line in steps]
    assert len(steps) == 6 and losses[-1] < losses[0] - 0.1
    assert len(list(out.glob("step-*.safetensors"))) == 2  # the newest, and one to fall back on
    assert "plotly" in (out / "loss.html").read_text(encoding="utf-8")


def test_killed_at_any_moment_and_resumed_it_ends_with_the_same_bits(text, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(**TINY, data=text, out=whole).returncode == 0
    rng = random.Random(time.time_ns())
    kills = 0
    for attempt in range(12):
        again = ["--resume"] if list(broken.glob("step-*.safetensors")) else []
        process = subprocess.Popen(
            [*arguments(**TINY, data=text, out=broken), *again],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(),
        )  # fmt: skip
        # Somewhere after the first checkpoint of this start, or in the middle of writing it.
        before = set(broken.glob("*")) if broken.exists() else set()
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if broken.exists() and set(broken.glob("*")) - before:
                break
            time.sleep(0.001)
        if attempt < 3:
            time.sleep(rng.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
        said, _ = process.communicate(timeout=120)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, said
        kills += 1
    assert process.returncode == 0 and kills
    assert newest(broken).name == newest(whole).name and same(newest(broken), newest(whole))


def test_a_polite_stop_saves_and_says_how_to_go_on(text, tmp_path):
    out = tmp_path / "run"
    given = TINY | {"max_iters": 100_000, "eval_interval": 50}
    process = subprocess.Popen(
        arguments(**given, data=text, out=out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(out.glob("step-*")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "--resume" in said and "Traceback" not in errors


def test_a_damaged_checkpoint_is_skipped_by_name_and_the_one_before_it_taken(text, tmp_path):
    out = tmp_path / "run"
    settings = settings_of("small", TINY | {"data": str(text), "out": str(out)})
    quiet(settings)
    # Copies: the tensors of load_file lie in the file, which is about to be damaged.
    expected = {name: tensor.clone() for name, tensor in load_file(newest(out)).items()}
    damaged = newest(out)
    damaged.write_bytes(damaged.read_bytes()[:-100])
    done = run("--resume", out=out, device="cpu", eval_interval=10)
    assert done.returncode == 0, done.stderr
    assert "skipped" in done.stdout and damaged.name in done.stdout and "step-00000050" in done.stdout
    again = load_file(newest(out))
    assert all(torch.equal(again[name], expected[name]) for name in expected)
    for path in out.glob("step-*.safetensors"):
        path.write_bytes(b"nothing")
    done = run("--resume", out=out)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert "step-" in done.stderr and "Traceback" not in done.stderr


def test_a_full_disk_costs_the_newest_checkpoint_and_nothing_else(text, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    settings = settings_of("small", TINY | {"data": str(text), "out": str(out)})
    real, saves = schedules.os.replace, []

    def full_after_two(source, target):
        if str(target).endswith(".safetensors"):
            saves.append(target)
            if len(saves) > 2:
                raise OSError(28, "No space left on device")
        return real(source, target)

    monkeypatch.setattr(schedules.os, "replace", full_after_two)
    result = train(settings, console=Console(width=200))
    said = capsys.readouterr().out
    assert result["step"] == 60 and len(saves) > 2
    assert [path.name for path in sorted(out.iterdir()) if "step-" in path.name] == [
        "step-00000010.safetensors",
        "step-00000020.safetensors",
    ]
    line = next(line for line in said.splitlines() if "not saved" in line)
    assert "No space left" in line


def two_processes(*extra: str, **given: object) -> list[str]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    return [sys.executable, *torchrun, *arguments(**given)[2:], *extra]


@pytest.mark.timeout(300)
def test_two_processes_take_the_steps_of_one(text, tmp_path):
    """Batches of 2 in each of two processes are the batches of 4 of one, when nothing is dropped out."""
    one, two = tmp_path / "one", tmp_path / "two"
    given = TINY | {"dropout": 0.0, "max_iters": 20, "data": text}
    assert run(**given, out=one).returncode == 0
    done = subprocess.run(
        two_processes(**given | {"batch_size": 2}, out=two),
        capture_output=True, text=True, timeout=240, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "× 2" in done.stdout and done.stdout.count("step 20:") == 1
    a, b = load_file(newest(one)), load_file(newest(two))
    for name in a:
        if name.startswith("model."):
            torch.testing.assert_close(
                a[name], b[name], rtol=0, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
            )


@pytest.mark.timeout(300)
def test_two_killed_processes_end_with_the_same_bits_and_must_stay_two(text, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    given = TINY | {"batch_size": 2, "data": text}
    done = subprocess.run(
        two_processes(**given, out=whole), capture_output=True, text=True, timeout=240, env=environment()
    )
    assert done.returncode == 0, done.stderr[-2000:]
    process = subprocess.Popen(
        two_processes(**given, out=broken),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, env=environment(),
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(broken.glob("step-*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)  # torchrun and both of its processes
    process.wait(timeout=60)
    assert list(broken.glob("step-*.safetensors")) and newest(broken).name < newest(whole).name
    alone = run("--resume", out=broken)
    assert alone.returncode == 2 and "2 processes" in alone.stderr
    again = subprocess.run(
        two_processes("--resume", out=broken), capture_output=True, text=True, timeout=240, env=environment()
    )
    assert again.returncode == 0, again.stderr[-2000:]
    assert newest(broken).name == newest(whole).name and same(newest(broken), newest(whole))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"preset": "huge"}, "--preset is one of"),
        ({"n_embd": 30, "n_head": 4}, "--n-embd 30"),
        ({"batch_size": 0}, "--batch-size is at least 1"),
        ({"dropout": 1.5}, "--dropout"),
        ({"learning_rate": -1.0}, "--learning-rate"),
        ({"dtype": "int8"}, "--dtype"),
        ({"device": "abacus"}, "--device abacus"),
        ({"dtype": "float16", "device": "cpu"}, "float16"),
        ({"tokenizer": "words"}, "--tokenizer"),
        ({"data": "no/such/file.txt"}, "cannot read"),
        ({"block_size": 100_000}, "--block-size"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(given, said, text, tmp_path):
    given = TINY | {"data": str(text), "out": str(tmp_path / "run")} | given
    preset = given.pop("preset", "small")
    with pytest.raises(RecipeError, match=said) as caught:
        quiet(settings_of(preset, given))
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_and_a_text_too_short_are_refused(tmp_path):
    path = tmp_path / "data"
    for content, said in ((b"\xff\xfe\x00", "UTF-8"), (b"", "too short"), (b"a few words", "too few")):
        path.write_bytes(content)
        with pytest.raises(RecipeError, match=said):
            quiet(settings_of("small", TINY | {"data": str(path), "out": str(tmp_path / "run")}))


def test_what_a_resumed_run_cannot_change_is_named(text, tmp_path):
    out = str(tmp_path / "run")
    quiet(settings_of("small", TINY | {"data": str(text), "out": out, "max_iters": 10}))
    assert settings_to_resume({"out": out, "max_iters": 20, "n_layer": None}).max_iters == 20
    with pytest.raises(RecipeError, match="--n-layer was 2"):
        settings_to_resume({"out": out, "n_layer": 3})
    with pytest.raises(RecipeError, match="holds no checkpoint"):
        settings_to_resume({"out": str(tmp_path / "elsewhere")})


def test_a_folder_that_holds_a_run_is_not_written_over(text, tmp_path):
    settings = settings_of("small", TINY | {"data": str(text), "out": str(tmp_path / "run"), "max_iters": 10})
    quiet(settings)
    with pytest.raises(RecipeError, match="--resume"):
        quiet(settings)


def test_every_flag_of_the_plan_is_there_with_underscores_too():
    asked = [
        "n-layer",
        "n-head",
        "n-embd",
        "block-size",
        "dropout",
        "batch-size",
        "max-iters",
        "learning-rate",
        "eval-interval",
        "eval-iters",
        "gradient-accumulation-steps",
        "device",
        "dtype",
        "compile",
        "verbose",
        "wandb",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "groundup", "train", "gpt2", "--help"],
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert [name for name in asked if f"--{name}" not in done.stdout] == []
    refused = run(batch_size="many")
    underscored = subprocess.run(
        [sys.executable, "-m", "groundup", "train", "gpt2", "--batch_size", "many"],
        capture_output=True, text=True, env=environment(),
    )  # fmt: skip
    assert refused.returncode == underscored.returncode == 2
    assert refused.stderr == underscored.stderr and "--batch-size" in refused.stderr


def test_the_preset_nanogpt_is_as_published():
    wanted = {
        "n_layer": 6, "n_head": 6, "n_embd": 384, "block_size": 256, "dropout": 0.2, "batch_size": 64,
        "max_iters": 10_000, "learning_rate": 3e-4,
    }  # fmt: skip
    settings = settings_of("nanogpt", {})
    assert {name: getattr(settings, name) for name in wanted} == wanted
    assert set(PRESETS) == {"small", "nanogpt", "gpt2"}


def test_the_defaults_are_json():
    """A checkpoint keeps them as JSON."""
    from dataclasses import asdict

    assert Settings(**json.loads(json.dumps(asdict(Settings())))) == Settings()
