"""The command `groundup`: list, check, progress, doctor, lab, reset, train, sample.

Whatever the learner types ends in an answer or in one line on stderr (exit code 2 for bad input), never in a trace.
"""

import json
import os
import sys
import time
import webbrowser
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from groundup import catalogue, progress, workspace

app = typer.Typer(
    name="groundup",
    help="Deep Learning from the Ground Up: the course's command line.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

train_app = typer.Typer(help="Train a model that you have written.", rich_markup_mode=None)
app.add_typer(train_app, name="train")

# `--batch_size 64` is `--batch-size 64`, as in the scripts that people come from.
UNDERSCORES = {"token_normalize_func": lambda name: name.replace("_", "-")}

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to stdout.")]
NoBrowser = Annotated[bool, typer.Option("--no-browser", help="Print the address; open no browser.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="The first port to try.")]

_MARKS = {
    "passed": "[green]✓[/]",
    "failed": "[red]✗[/]",
    "error": "[red]![/]",
    "timeout": "[red]…[/]",
    "todo": "○",
}


class Refusal(Exception):
    """The command cannot do what was asked; the message is one line."""


def main() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a terminal that cannot show ✓ shows ?
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `groundup list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(0)
    except Exception as error:
        if os.environ.get("GROUNDUP_DEBUG"):
            raise
        code = _refused(error)
    sys.exit(code if isinstance(code, int) else 0)


def _refused(error: Exception) -> int:
    """Say on one line what was wrong, and return the exit code."""
    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error, typer.Abort):
        return 130
    usage = getattr(
        error, "format_message", None
    )  # of click's exceptions, which typer carries its own copy of
    if usage is not None:
        line, code = f"{usage()} See `groundup --help`.", 2
    elif isinstance(error, Refusal | workspace.WorkspaceError):
        line, code = str(error), 2
    else:
        line, code = f"unexpected {type(error).__name__}: {error} (GROUNDUP_DEBUG=1 shows where)", 1
    line = " ".join(line.split())
    if line:
        print(f"groundup: {line}", file=sys.stderr)
    return code


def _console() -> Console:
    """Piped or logged, a table keeps its full width instead of being cut to a terminal that is not there."""
    return Console() if sys.stdout.isatty() else Console(width=140)


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=sys.stdout.encoding.lower() not in ("utf-8", "utf8")))


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"groundup {version('groundup')}")
        raise typer.Exit


@app.callback()
def _global(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command("list")
def list_exercises(as_json: AsJson = False) -> None:
    """List every exercise: difficulty, minutes, points, and whether you passed it."""
    lessons = _lessons()
    if as_json:
        keys = ("id", "lesson", "title", "difficulty", "minutes", "points", "hints")
        try:
            mistakes = {key: names for lesson in lessons for key, names in mistakes_of(lesson).items()}
        except ImportError as error:
            raise Refusal(
                f"checks cannot be read ({error}): `groundup doctor` says what to install"
            ) from None
        _print_json(
            [
                {key: exercise[key] for key in keys} | {"mistakes": mistakes[exercise["id"]]}
                for lesson in lessons
                for exercise in lesson["exercises"]
            ]
        )
        return
    passed = progress.passed()
    console = _console()
    for lesson in lessons:
        table = Table(
            title=f"{lesson['id']} · {escape(lesson['title'])}",
            title_justify="left",
            box=None,
            padding=(0, 1),
        )
        for heading, justify in [("", "left"), ("exercise", "left"), ("", "left"), ("difficulty", "left")]:
            table.add_column(heading, justify=justify)
        for heading in ("minutes", "points"):
            table.add_column(heading, justify="right")
        for exercise in lesson["exercises"]:
            table.add_row(
                _MARKS["passed" if exercise["id"] in passed else "todo"],
                exercise["id"],
                escape(exercise["title"]),
                "●" * exercise["difficulty"] + "○" * (5 - exercise["difficulty"]),
                str(exercise["minutes"]),
                str(exercise["points"]),
            )
        console.print(table)


def mistakes_of(lesson: dict) -> dict[str, list[str]]:
    """The names of the mistakes that the checks of `lesson` can recognise, by exercise id.

    Raises:
        ImportError: the lesson's checks need a package that is not installed here.
    """
    from groundup.check import exercises_of

    return {
        exercise.id: [mistake.name for mistake in exercise.mistakes]
        for exercise in exercises_of(lesson["id"])
    }


@app.command()
def check(
    notebook: Annotated[Path, typer.Argument(metavar="NOTEBOOK", help="A lesson's notebook (.ipynb).")],
    as_json: AsJson = False,
    record: Annotated[bool, typer.Option(help="Remember what passed.")] = True,
) -> None:
    """Grade every exercise of a notebook. Runs its definitions only; exit code 0 if all passed, else 1."""
    from groundup import notebook as notebooks

    console = _console()
    verdicts = []
    try:
        for verdict, is_own in notebooks.check(notebook):
            verdicts.append(verdict)
            if record and is_own and verdict["status"] == "passed":
                progress.record(verdict["id"])
            if not as_json:
                _show_verdict(console, verdict)
    except notebooks.NotebookError as error:
        raise Refusal(str(error)) from None
    count = sum(verdict["status"] == "passed" for verdict in verdicts)
    if as_json:
        _print_json(verdicts)
    else:
        console.print(f"{count} of {len(verdicts)} passed")
    raise typer.Exit(0 if count == len(verdicts) else 1)


def _show_verdict(console: Console, verdict: dict) -> None:
    console.print(
        f"{_MARKS.get(verdict['status'], '?')} [bold]{verdict['id']}[/] {verdict['status']}", highlight=False
    )
    if verdict["status"] != "passed":
        for line in verdict["message"].splitlines():
            console.print(f"    {escape(line)}", highlight=False, soft_wrap=True)


@app.command("progress")
def show_progress(as_json: AsJson = False) -> None:
    """Show what you have passed, lesson by lesson."""
    passed = progress.passed()
    rows = []
    for lesson in _lessons():
        done = [exercise for exercise in lesson["exercises"] if exercise["id"] in passed]
        rows.append(
            {
                "lesson": lesson["id"],
                "title": lesson["title"],
                "passed": len(done),
                "exercises": len(lesson["exercises"]),
                "points": sum(exercise["points"] for exercise in done),
                "points_possible": sum(exercise["points"] for exercise in lesson["exercises"]),
                "passed_at": {exercise["id"]: passed[exercise["id"]] for exercise in done},
            }
        )
    if as_json:
        _print_json(rows)
        return
    table = Table(box=None, padding=(0, 1))
    for heading in ("lesson", "title", ""):
        table.add_column(heading)
    for heading in ("passed", "points"):
        table.add_column(heading, justify="right")
    for row in rows:
        bar = round(10 * row["passed"] / row["exercises"]) if row["exercises"] else 0
        table.add_row(
            row["lesson"],
            escape(row["title"]),
            f"[green]{'━' * bar}[/][dim]{'━' * (10 - bar)}[/]",
            f"{row['passed']}/{row['exercises']}",
            f"{row['points']}/{row['points_possible']}",
        )
    console = _console()
    console.print(table)
    total, possible = sum(row["passed"] for row in rows), sum(row["exercises"] for row in rows)
    console.print(
        f"{total} of {possible} exercises passed. Records: {progress.home()}", highlight=False, soft_wrap=True
    )


@app.command()
def doctor() -> None:
    """Say what this machine has of what the course needs, and what to do. Exit code 1 if something is missing."""
    from groundup.doctor import examine

    console = _console()
    marks = {"ok": "[green]✓[/]", "note": "[yellow]·[/]", "missing": "[red]✗[/]"}
    missing = 0
    for finding in examine():
        missing += finding.status == "missing"
        todo = f" → {escape(finding.todo)}" if finding.todo else ""
        line = f"{marks[finding.status]} [bold]{finding.what}[/] {escape(finding.said)}{todo}"
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"{missing} missing" if missing else "Everything that the course needs is here.")
    raise typer.Exit(1 if missing else 0)


@app.command()
def lab(no_browser: NoBrowser = False, port: Port = 8888) -> None:
    """Open JupyterLab on your working copies (work/). Ctrl-C stops it."""
    import signal

    from groundup.lab import Lab, LabError

    root = _course()
    for line in workspace.refresh(root):
        print(line)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        with Lab(root / "work", port=port, log=root / "_build" / "jupyter" / "lab.log") as server:
            print(f"JupyterLab  {server.url}\nCtrl-C stops it.", flush=True)
            if not no_browser:
                webbrowser.open(server.url)
            while server.running():
                time.sleep(0.2)
    except LabError as error:
        raise Refusal(str(error)) from None
    except KeyboardInterrupt:
        print("\nStopped.")


@app.command()
def reset(
    lesson: Annotated[
        str, typer.Argument(metavar="LESSON", help="Such as autograd.graph, or the notebook's path.")
    ],
) -> None:
    """Start a lesson afresh. Your old copy is kept beside the new one, under a dated name."""
    entry = _lesson(lesson)
    target, kept = workspace.reset(_course(), entry["path"])
    print(f"{target} is fresh." + (f" Your old copy: {kept.name}" if kept else ""))


Whole = int | None
Share = float | None


def _option(text: str) -> object:
    return typer.Option(help=text, show_default=False)


@train_app.command("gpt2", context_settings=UNDERSCORES)
def train_gpt2(
    preset: Annotated[
        str, typer.Option(help="small (two CPU cores, minutes), nanogpt, or gpt2 (124M).")
    ] = "small",
    out: Annotated[str | None, _option("Folder of the run: checkpoints and loss.html. [out-gpt2]")] = None,
    data: Annotated[
        str | None,
        _option("shakespeare, a text file, or a folder that `groundup shards` wrote. [shakespeare]"),
    ] = None,
    tokenizer: Annotated[str | None, _option("char, bpe or gpt2.")] = None,
    vocab_size: Annotated[Whole, _option("Tokens of the tokenizer bpe.")] = None,
    n_layer: Annotated[Whole, _option("Blocks.")] = None,
    n_head: Annotated[Whole, _option("Attention heads in each.")] = None,
    n_embd: Annotated[Whole, _option("Width of the residual stream.")] = None,
    block_size: Annotated[Whole, _option("Context, in tokens.")] = None,
    dropout: Annotated[Share, _option("Share of activations dropped in training.")] = None,
    batch_size: Annotated[Whole, _option("Sequences in a micro-batch, for each process.")] = None,
    gradient_accumulation_steps: Annotated[Whole, _option("Micro-batches in a step.")] = None,
    max_iters: Annotated[Whole, _option("Steps.")] = None,
    learning_rate: Annotated[Share, _option("The highest; warm-up before it, a cosine after it.")] = None,
    eval_interval: Annotated[Whole, _option("Steps between two evaluations, each with a checkpoint.")] = None,
    eval_iters: Annotated[Whole, _option("Batches of an evaluation.")] = None,
    device: Annotated[str | None, _option("auto, cpu, cuda, cuda:1, mps.")] = None,
    dtype: Annotated[str | None, _option("auto, float32, bfloat16 or float16.")] = None,
    compile: Annotated[bool | None, typer.Option("--compile/--no-compile", help="Use torch.compile.")] = None,
    seed: Annotated[Whole, _option("Of weights, order of batches and dropout.")] = None,
    verbose: Annotated[bool | None, typer.Option("--verbose/--quiet", help="A line for every step.")] = None,
    wandb: Annotated[bool | None, typer.Option("--wandb/--no-wandb", help="Log to Weights & Biases.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint in --out.")
    ] = False,
) -> None:
    """Train GPT-2. Alone, or under torchrun: torchrun --nproc-per-node 2 -m groundup train gpt2."""
    given = {key: value for key, value in locals().items() if key not in ("preset", "resume")}
    with _recipe():
        from groundup.recipes.train import settings_of, settings_to_resume, train

        settings = settings_to_resume(given) if resume else settings_of(preset, given)
        train(settings, resume=resume, console=_console())


@app.command(context_settings=UNDERSCORES)
def shards(
    source: Annotated[str, typer.Argument(help="A text file, or fineweb-edu or tinystories from the hub.")],
    out: Annotated[str, typer.Option(help="Folder for the shards.")] = "shards",
    tokenizer: Annotated[str, typer.Option(help="gpt2, or bpe: one of its own.")] = "gpt2",
    vocab_size: Annotated[int, typer.Option(min=258, help="Tokens of the tokenizer bpe.")] = 4096,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of the training part.")] = 100_000_000,
    validation_tokens: Annotated[int, typer.Option(min=1, help="Of the part that is held out.")] = 100_000,
    shard_size: Annotated[int, typer.Option(min=1, help="Tokens in a file.")] = 10_000_000,
) -> None:
    """Turn much text into files of tokens for `groundup train gpt2 --data`."""
    with _recipe():
        from groundup.recipes.shards import write

        tokens = write(
            source, out, tokenizer=tokenizer, vocab_size=vocab_size, max_tokens=max_tokens,
            validation_tokens=validation_tokens, shard_size=shard_size, console=_console(),
        )  # fmt: skip
    print(f"{tokens['train']:,} tokens to learn from and {tokens['validation']:,} to validate on, in {out}")


@app.command(context_settings=UNDERSCORES)
def sample(
    model: Annotated[
        str,
        typer.Argument(
            help="A run's folder, or gpt2, gpt2-medium, gpt2-large, gpt2-xl: the published weights."
        ),
    ] = "out-gpt2",
    prompt: Annotated[str, typer.Option(help="What to continue.")] = "\n",
    temperature: Annotated[float, typer.Option(min=0.0, help="0: always the most probable token.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(min=1, help="Only the k most probable tokens.")] = 200,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to add.")] = 300,
    num_beams: Annotated[int, typer.Option(min=1, help="Above 1: beam search of this width.")] = 1,
    num_samples: Annotated[int, typer.Option(min=1, help="How many continuations.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the random numbers.")] = 1337,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")] = "auto",
) -> None:
    """Let a trained model go on with a text."""
    with _recipe():
        from groundup.recipes.sample import sample as sampled
        from groundup.recipes.train import device_of

        texts = sampled(
            model, prompt, temperature=temperature,
            top_k=top_k, max_new_tokens=max_new_tokens, num_beams=num_beams, num_samples=num_samples, seed=seed,
            device=device_of(device),
        )  # fmt: skip
    print("\n---\n".join(texts))


@contextmanager
def _recipe():
    """What a recipe cannot do becomes one line; so does a library that is missing."""
    try:
        from groundup.recipes.errors import RecipeError
    except ImportError as error:
        raise Refusal(f"{error}: run `groundup doctor`") from None
    try:
        yield
    except RecipeError as error:
        raise Refusal(str(error)) from None
    except ModuleNotFoundError as error:
        raise Refusal(f"the package {error.name} is missing: run `groundup doctor`") from None


def _lessons() -> list[dict]:
    try:
        return catalogue.lessons()
    except (OSError, ValueError, KeyError):
        raise Refusal("the list of lessons is missing or damaged: install the course again") from None


def _lesson(asked: str) -> dict:
    """The lesson meant by an id, by its last part if that is unique, or by the path of its notebook."""
    lessons = _lessons()
    stem = Path(asked).name.split(".")[0] if asked.endswith(".ipynb") else None
    found = [entry for entry in lessons if entry["id"] == asked]
    found = found or [entry for entry in lessons if entry["id"].rpartition(".")[2] == asked]
    if stem is not None:
        folder = Path(asked).resolve().parent.name
        paths = {entry["id"]: Path(entry["path"]) for entry in lessons}
        found = [entry for entry in lessons if paths[entry["id"]].stem == stem]
        if len(found) > 1:
            found = [entry for entry in found if paths[entry["id"]].parent.name == folder]
    if len(found) > 1:
        raise Refusal(f"{asked!r} could be several lessons: {', '.join(entry['id'] for entry in found)}")
    if not found:
        ids = {
            name: entry["id"] for entry in lessons for name in (entry["id"], entry["id"].rpartition(".")[2])
        }
        near = {ids[name] for name in get_close_matches(stem or asked, ids, n=3)}
        meant = f"did you mean {' or '.join(sorted(near))}? " if near else ""
        raise Refusal(f"{asked!r} is not a lesson; {meant}`groundup progress` lists all")
    return found[0]


def _course() -> Path:
    root = workspace.course_root()
    if root is None:
        raise Refusal(
            "this needs the course's folder: git clone the course, run `make start` there, and try again in it"
        )
    return root


if __name__ == "__main__":
    main()
