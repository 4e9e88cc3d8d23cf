"""`groundup train gpt2`: trains the GPT of Part 2, on one CPU, one GPU, or several under torchrun.

The run is a folder: checkpoints (safetensors), and `loss.html`, the curves. Killed at any moment and resumed, it goes on
from the last checkpoint exactly as it would have gone on without: weights, optimizer, place in the batches and the step
come from the file, the order of the batches and the random numbers of a step from the seed.
"""

from __future__ import annotations

import math
import os
import signal
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
import torch.distributed as distributed
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from groundup.gpt2.model import GPT, GPTConfig
from groundup.gpt2.sampling import generate
from groundup.gpt2.schedules import (
    CheckpointError,
    checkpoint_files,
    load_checkpoint,
    save_checkpoint,
    warmup_cosine,
)
from groundup.gpt2.speed import measured_matmul_rate, mfu
from groundup.gpt2.training import TokenBatches, estimate_loss, parameter_groups, training_step
from groundup.recipes import text
from groundup.recipes.errors import RecipeError
from groundup.recipes.sample import newest

BETAS = (0.9, 0.95)  # GPT-3's (Brown et al. 2020, appendix B), as are weight decay and clipping below
WEIGHT_DECAY = 0.1
MAX_NORM = 1.0
MIN_LEARNING_RATE = 0.1  # of the highest
WARMUP = 0.05  # of all iterations
DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Settings:
    """One run. The defaults learn Shakespeare's characters on two CPU cores in about two minutes."""

    out: str = "out-gpt2"
    data: str = "shakespeare"
    tokenizer: str = "char"
    vocab_size: int = 4096
    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 128
    block_size: int = 64
    dropout: float = 0.0
    batch_size: int = 12
    gradient_accumulation_steps: int = 1
    max_iters: int = 2000
    learning_rate: float = 4e-3  # of 1e-3, 2e-3, 4e-3: the lowest validation loss after these iterations
    eval_interval: int = 250
    eval_iters: int = 20
    device: str = "auto"
    dtype: str = "auto"
    compile: bool = False
    seed: int = 1337
    verbose: bool = False
    wandb: bool = False


PRESETS = {
    "small": {},
    "nanogpt": {
        "n_layer": 6, "n_head": 6, "n_embd": 384, "block_size": 256, "dropout": 0.2,
        "batch_size": 64, "max_iters": 10_000, "learning_rate": 3e-4, "eval_interval": 500, "eval_iters": 200,
    },
    "gpt2": {
        "n_layer": 12, "n_head": 12, "n_embd": 768, "block_size": 1024, "tokenizer": "gpt2",
        "batch_size": 16, "gradient_accumulation_steps": 32, "max_iters": 19_073, "learning_rate": 6e-4,
        "dtype": "bfloat16", "compile": True,
    },
}  # fmt: skip
# What a resumed run may have otherwise than the one that it continues; all else is taken from the checkpoint.
FREE = ("out", "device", "compile", "verbose", "wandb", "max_iters", "eval_interval", "eval_iters")


@dataclass(frozen=True)
class Place:
    """This process among those of the run, and the device that it computes on."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0


def settings_of(preset: str, given: dict) -> Settings:
    """The preset's settings, with those `given` (None: not given) in their place.

    Raises:
        RecipeError: no such preset, or a setting that makes no sense, by name.
    """
    if preset not in PRESETS:
        raise RecipeError(f"--preset is one of {', '.join(PRESETS)}, not {preset!r}")
    asked = {name: value for name, value in given.items() if value is not None}
    settings = Settings(**(PRESETS[preset] | asked))
    for field in fields(settings):
        value, flag = getattr(settings, field.name), "--" + field.name.replace("_", "-")
        least = 0 if field.name == "seed" else 1
        if field.type == "int" and value < least:
            raise RecipeError(f"{flag} is at least {least}, not {value}")
    if not 0 <= settings.dropout < 1:
        raise RecipeError(f"--dropout is a probability below 1, not {settings.dropout}")
    if not settings.learning_rate > 0:
        raise RecipeError(f"--learning-rate is above 0, not {settings.learning_rate}")
    if settings.n_embd % settings.n_head:
        raise RecipeError(
            f"--n-embd {settings.n_embd} cannot be shared among --n-head {settings.n_head} heads"
        )
    if settings.dtype not in ("auto", *DTYPES):
        raise RecipeError(f"--dtype is one of auto, {', '.join(DTYPES)}, not {settings.dtype!r}")
    return settings


def settings_to_resume(given: dict) -> Settings:
    """The settings of the run in the folder `out`, with those `given` (None: not given) that may change.

    Raises:
        RecipeError: the folder holds no run, or something given differs that must stay as it was.
    """
    asked = {name: value for name, value in given.items() if value is not None}
    folder = asked.get("out", Settings.out)
    kept = newest(folder)["extra"]["settings"]
    for name, value in asked.items():
        if name not in FREE and value != kept[name]:
            raise RecipeError(
                f"--{name.replace('_', '-')} was {kept[name]} in {folder} and stays so in a resumed run, not {value}"
            )
    return Settings(**(kept | asked | {"out": folder}))


def train(settings: Settings, *, resume: bool = False, console: Console | None = None) -> dict:
    """Runs the training that `settings` describe; under torchrun, this process's share of it.

    Returns:
        step, train loss and validation loss (nats per token), bits per byte, tokens per second, MFU (of the rate of
        matrix products measured on this device as the run began), and the checkpoint's path.

    Raises:
        RecipeError: the data, the device or the checkpoint stand in the way.
    """
    console = console or Console()
    with _place(settings.device) as place:
        if not place.first:
            console = Console(quiet=True)
        return _Run(settings, place, console, resume).go()


class _Run:
    """One training run in this process."""

    def __init__(self, settings: Settings, place: Place, console: Console, resume: bool):
        self.place, self.console, self.folder = place, console, Path(settings.out)
        if not resume and checkpoint_files(self.folder):
            raise RecipeError(f"{self.folder} holds a run already: add --resume, or choose another --out")
        self.settings = settings
        self.autocast, self.scaler = _precision(settings.dtype, place.device)
        self.rate = (
            measured_matmul_rate(place.device, self.autocast or torch.float32) if place.first else None
        )
        self.corpus = text.corpus(settings.data, settings.tokenizer, settings.vocab_size)
        self.batches = self._batches()
        torch.manual_seed(settings.seed)  # every rank starts from the same weights
        self.config = GPTConfig(
            block_size=settings.block_size, vocab_size=self.corpus.tokenizer.vocab_size, n_layer=settings.n_layer,
            n_head=settings.n_head, n_embd=settings.n_embd, dropout=settings.dropout,
        )  # fmt: skip
        self.model = GPT(self.config).to(place.device)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.model, WEIGHT_DECAY),
            lr=settings.learning_rate,
            betas=BETAS,
            fused=place.device.type == "cuda",
        )
        self.step, self.history = 0, {"train": [[], []], "validation": [[], []]}
        if resume:
            self._restore()
        self.trained = self._wrapped()
        self.stopped = False

    def go(self) -> dict:
        settings, place = self.settings, self.place
        self._say_what()
        log = _weights_and_biases(settings) if settings.wandb and place.first else None
        tokens_per_step = (
            settings.batch_size
            * settings.block_size
            * settings.gradient_accumulation_steps
            * place.world_size
        )
        result = None
        with _interrupts(self), _bar(self.console, settings.max_iters, self.step) as bar:
            last, since = time.perf_counter(), self.step
            while self.step < settings.max_iters and not self._all_stop():
                for group in self.optimizer.param_groups:
                    group["lr"] = self._learning_rate()
                loss, norm = self._one_step()
                self.step += 1
                due = self.step % settings.eval_interval == 0 or self.step == settings.max_iters
                bar.update(
                    completed=self.step, said=f"loss {loss:.3f}", rate=_rate(since, self.step, last, tokens_per_step)
                )  # fmt: skip
                if settings.verbose:
                    bar.print(
                        f"step {self.step}: loss {loss:.4f}, norm {norm:.3f}, lr {self._learning_rate():.2e}"
                    )
                if due:
                    _wait(place.device)
                    seconds = time.perf_counter() - last
                    speed = (self.step - since) * tokens_per_step / seconds
                    result = self._evaluate(loss, bar, speed)
                    if log is not None:
                        log.log(result, step=self.step)
                    self._save(result, bar)
                    last, since = time.perf_counter(), self.step
        if self.stopped and self.step < settings.max_iters:
            self._save(result or {}, self.console)
            self.console.print(f"stopped at step {self.step}; go on with --resume --out {self.folder}")
        return result or {"step": self.step}

    def _batches(self) -> TokenBatches:
        settings, place = self.settings, self.place
        for name, tokens in (("training", self.corpus.train), ("validation", self.corpus.validation)):
            needed = settings.block_size * settings.batch_size * place.world_size + 1
            if len(tokens) < (needed if name == "training" else settings.block_size + 1):
                raise RecipeError(
                    f"the {name} text has {len(tokens):,} tokens, too few for --batch-size {settings.batch_size} "
                    f"of --block-size {settings.block_size}: give more text, or smaller numbers"
                )
        return TokenBatches(
            self.corpus.train,
            settings.batch_size,
            settings.block_size,
            rank=place.rank,
            world_size=place.world_size,
            seed=settings.seed,
        )

    def _wrapped(self):
        """The model as it is trained: compiled, and with its gradients shared, where asked for."""
        model = torch.compile(self.model) if self.settings.compile else self.model
        if self.place.world_size == 1:
            return model
        ids = [self.place.device.index] if self.place.device.type == "cuda" else None
        return torch.nn.parallel.DistributedDataParallel(model, device_ids=ids)

    def _one_step(self) -> tuple[float, float]:
        # What is dropped out depends on the step and the process alone, so that a resumed run drops out the same.
        torch.manual_seed(self.settings.seed + 1 + self.step * self.place.world_size + self.place.rank)
        try:
            return training_step(
                self.trained,
                self.batches,
                self.optimizer,
                accumulation=self.settings.gradient_accumulation_steps,
                max_norm=MAX_NORM,
                autocast=self.autocast,
                scaler=self.scaler,
            )
        except torch.OutOfMemoryError:
            raise RecipeError(
                f"out of memory on {self.place.device}: halve --batch-size and double --gradient-accumulation-steps"
            ) from None

    def _learning_rate(self) -> float:
        highest = self.settings.learning_rate
        warmup = max(1, round(WARMUP * self.settings.max_iters))
        return warmup_cosine(
            self.step,
            max_lr=highest,
            min_lr=MIN_LEARNING_RATE * highest,
            warmup=warmup,
            steps=self.settings.max_iters,
        )

    def _evaluate(self, loss: float, bar, speed: float) -> dict:
        settings = self.settings
        held_out = estimate_loss(
            self.model,
            self.corpus.validation,
            settings.block_size,
            batch_size=settings.batch_size,
            n_batches=settings.eval_iters,
            autocast=self.autocast,
        )
        bits = held_out / torch.log(torch.tensor(2.0)).item() / self.corpus.bytes_per_token
        rate = (self.rate or math.inf) * self.place.world_size
        share = mfu(speed, self.config, settings.block_size, rate)
        for name, value in (("train", loss), ("validation", held_out)):
            self.history[name][0].append(self.step)
            self.history[name][1].append(value)
        bar.print(
            f"step {self.step}: loss {loss:.4f}, validation {held_out:.4f} ({bits:.3f} bits per byte), "
            f"{speed:,.0f} tokens/s, MFU {share:.0%}"
        )
        bar.print(f"  {self._sample()!r}")
        return {
            "step": self.step,
            "train_loss": loss,
            "validation_loss": held_out,
            "bits_per_byte": bits,
            "tokens_per_second": speed,
            "mfu": share,
        }

    def _sample(self, length: int = 80) -> str:
        """What the model writes after a line end, always with the same random numbers; those of training stay as they are."""
        generator = torch.Generator(self.place.device).manual_seed(self.settings.seed)
        start = torch.tensor([self.corpus.tokenizer.encode("\n")], device=self.place.device)
        ids = generate(self.model, start, length, temperature=0.8, top_k=50, generator=generator)
        return self.corpus.tokenizer.decode(ids[0, start.shape[1] :].tolist())

    def _save(self, result: dict, printer) -> None:
        """A checkpoint and the curves. A disk that is full costs the newest of them, never the run or an older one."""
        if self.place.first:
            extra = {
                "settings": asdict(self.settings),
                "tokenizer": self.corpus.description,
                "history": self.history,
                "scaler": self.scaler.state_dict() if self.scaler else None,
                "world_size": self.place.world_size,
            }
            try:
                result["checkpoint"] = str(
                    save_checkpoint(
                        self.folder,
                        model=self.model,
                        optimizer=self.optimizer,
                        batches=self.batches,
                        step=self.step,
                        extra=extra,
                    )
                )
                self._plot()
            except (CheckpointError, OSError) as error:
                printer.print(f"[red]not saved[/red]: {' '.join(str(error).split())}", highlight=False)
        if self.place.world_size > 1:
            distributed.barrier()

    def _plot(self) -> None:
        from groundup import show

        curves = {name: tuple(points) for name, points in self.history.items() if points[0]}
        if curves:
            page = show.lines(curves, x="step", y="loss (nats per token)", title=str(self.folder.name))
            page.write_html(self.folder / "loss.html", include_plotlyjs="directory")

    def _restore(self) -> None:
        try:
            found = load_checkpoint(
                self.folder, model=self.model, optimizer=self.optimizer, batches=self.batches
            )
        except CheckpointError as error:
            raise RecipeError(str(error)) from None
        for reason in found["skipped"]:
            self.console.print(f"skipped: {reason}")
        extra = found["extra"]
        if extra["world_size"] != self.place.world_size:
            raise RecipeError(
                f"the run had {extra['world_size']} processes, this one has {self.place.world_size}: the order "
                f"of the batches would change; start as many"
            )
        self.step, self.history = found["step"], extra["history"]
        if self.scaler and extra["scaler"]:
            self.scaler.load_state_dict(extra["scaler"])
        self.console.print(f"going on from {found['path']}")

    def _all_stop(self) -> bool:
        """Whether somebody asked to stop; all processes answer alike, or one would wait for another for ever."""
        if self.place.world_size == 1:
            return self.stopped
        asked = torch.tensor(int(self.stopped), device=self.place.device)
        distributed.all_reduce(asked, distributed.ReduceOp.MAX)
        self.stopped = bool(asked.item())
        return self.stopped

    def _say_what(self) -> None:
        config, corpus = self.config, self.corpus
        processes = f" × {self.place.world_size}" if self.place.world_size > 1 else ""
        self.console.print(
            f"GPT of {self.model.num_parameters():,} parameters ({config.n_layer} layers, {config.n_head} heads, "
            f"{config.n_embd} wide, context {config.block_size}) on {self.place.device}{processes}; "
            f"{len(corpus.train):,} tokens to learn from, {len(corpus.validation):,} to validate on, "
            f"vocabulary {config.vocab_size:,}",
            highlight=False,
        )


def _precision(dtype: str, device: torch.device) -> tuple[torch.dtype | None, torch.amp.GradScaler | None]:
    if dtype == "auto":
        dtype = "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    if dtype == "float16" and device.type != "cuda":
        raise RecipeError("--dtype float16 needs a CUDA device; on others take bfloat16 or float32")
    scaler = torch.amp.GradScaler(device.type) if dtype == "float16" else None
    return DTYPES[dtype], scaler


def device_of(name: str) -> torch.device:
    """The device called `name`; `auto` is the best here.

    Raises:
        RecipeError: there is none of this name.
    """
    from groundup.run import device as best

    try:
        chosen = best() if name == "auto" else torch.device(name)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise RecipeError(f"--device {name} cannot be used here: {str(error).splitlines()[0]}") from None
    return chosen


@contextmanager
def _place(device: str):
    """This process's place: alone, or as torchrun's environment says."""
    chosen = device_of(device)
    if "RANK" not in os.environ:
        yield Place(0, 1, chosen)
        return
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(chosen)
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Place(rank, world_size, chosen)
    finally:
        distributed.destroy_process_group()


@contextmanager
def _interrupts(run: _Run):
    """Ctrl-C and a kind kill end the run after the step that is under way, with a checkpoint."""

    def stop(*_: object) -> None:
        run.stopped = True

    kept = {sign: signal.signal(sign, stop) for sign in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for sign, handler in kept.items():
            signal.signal(sign, handler)


class _Bar:
    """The live progress bar, and lines printed above it."""

    def __init__(self, progress: Progress, task):
        self.progress, self.task = progress, task

    def update(self, **fields: object) -> None:
        self.progress.update(self.task, **fields)

    def print(self, line: str, **options: object) -> None:
        self.progress.console.print(line, markup="[red]" in line, highlight=False)


@contextmanager
def _bar(console: Console, total: int, done: int):
    columns = (
        TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[said]}"),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=console.quiet) as progress:
        yield _Bar(progress, progress.add_task("", total=total, completed=done, said="", rate=""))


def _rate(since: int, step: int, last: float, tokens_per_step: int) -> str:
    return f"{(step - since) * tokens_per_step / max(time.perf_counter() - last, 1e-9):,.0f} tokens/s"


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _weights_and_biases(settings: Settings):
    try:
        import wandb
    except ImportError:
        raise RecipeError("--wandb needs the package: pip install wandb") from None
    return wandb.init(project="groundup", name=Path(settings.out).name, config=asdict(settings))
