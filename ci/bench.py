"""Measures this course's code beside its peers, on the same work in the same run, as ratios.

    python -m ci.bench                  a table
    python -m ci.bench gpt recipe       some of the measures
    python -m ci.bench --json           the same, as JSON

Timings on a shared machine are noisy, so the two sides take turns and the ratio is that of their medians.
"""

import argparse
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from itertools import pairwise

from rich.console import Console
from rich.table import Table

from ci.lesson import lessons

ROUNDS = 15


def in_turns(*functions: Callable[[], object], rounds: int = ROUNDS) -> list[float]:
    """Median seconds of each, all taking turns so that a slow moment of the machine hits them alike."""
    times: list[list[float]] = [[] for _ in functions]
    for function in functions:
        function()
    for _ in range(rounds):
        for function, taken in zip(functions, times, strict=True):
            started = time.perf_counter()
            function()
            taken.append(time.perf_counter() - started)
    return [statistics.median(taken) for taken in times]


def beside(what: str, work: str, ours: float, peers: dict[str, float]) -> list[dict]:
    """One row of the table for each peer: seconds of ours and theirs for the same work."""
    return [
        {"what": what, "work": work, "ours": ours, "peer": peer, "theirs": theirs}
        for peer, theirs in peers.items()
    ]


def with_version(package: str) -> str:
    return f"{package} {version(package)}"


def agree(same: bool, what: str) -> None:
    if not same:
        raise SystemExit(f"bench: {what} disagree on the same work: there is nothing to compare")


def scalar_engine() -> list[dict]:
    """`groundup.autograd.Value` beside micrograd's: forward and backward of the same random expression."""
    from micrograd.engine import Value as Theirs

    from groundup.autograd import Value as Ours

    random.seed(0)
    leaves = [random.uniform(0.5, 1.5) for _ in range(20)]
    steps = [(random.choice("+*-"), random.random(), random.random()) for _ in range(400)]

    def expression(value: type) -> list[float]:
        nodes = [value(leaf) for leaf in leaves]
        start = nodes[:]
        for op, left, right in steps:
            # Indices lean on recent nodes, so that the graph is deep; the factor keeps numbers in range.
            a, b = nodes[int(left * len(nodes))], nodes[-1 - int(right * 10)]
            nodes.append({"+": a + b, "*": a * b, "-": a - b}[op] * 0.5)
        nodes[-1].backward()
        return [leaf.grad for leaf in start]

    mine, reference = expression(Ours), expression(Theirs)
    close = all(abs(a - b) <= 1e-9 * max(1.0, abs(b)) for a, b in zip(mine, reference, strict=True))
    agree(close, "the two scalar engines")
    ours, theirs = in_turns(lambda: expression(Ours), lambda: expression(Theirs))
    work = f"an expression of {3 * len(steps)} operations, forward and backward"
    return beside("scalar autograd", work, ours, {with_version("micrograd"): theirs})


def bpe_training() -> list[dict]:
    """`BPETokenizer.train` on the training text of Shakespeare, one thread for everybody."""
    import rustbpe
    from tokenizers import ByteLevelBPETokenizer

    from groundup.data import shakespeare
    from groundup.gpt2.bpe import GPT2_PATTERN, BPETokenizer

    text, size = shakespeare().train, 4096

    def rust() -> rustbpe.Tokenizer:
        tokenizer = rustbpe.Tokenizer()
        tokenizer.train_from_iterator([text], size, pattern=GPT2_PATTERN)
        return tokenizer

    def hugging_face() -> ByteLevelBPETokenizer:
        tokenizer = ByteLevelBPETokenizer()
        tokenizer.train_from_iterator([text], size, show_progress=False)
        return tokenizer

    def our() -> BPETokenizer:
        return BPETokenizer.train(text, size)

    learnt = {bytes(token): rank for token, rank in rust().get_mergeable_ranks()}
    agree(our().ranks == learnt, "our BPE training and rustbpe's")
    # tokenizers breaks ties otherwise, so its table differs; as good a table makes a text as short.
    sample = shakespeare().validation
    lengths = len(our().encode(sample)), len(hugging_face().encode(sample).ids)
    agree(abs(lengths[0] / lengths[1] - 1) < 0.01, "our BPE table and that of tokenizers")
    ours, theirs, rusts = in_turns(our, hugging_face, rust, rounds=5)
    work = f"{len(text) / 1e6:.1f} M characters, a table of {size:,}"
    peers = {with_version("tokenizers"): theirs, with_version("rustbpe"): rusts}
    return beside("BPE training", work, ours, peers)


def bpe_encoding() -> list[dict]:
    """Encoding with GPT-2's real table, by a tokenizer that has seen nothing yet; one thread for everybody."""
    import tiktoken
    from tokenizers import Tokenizer, models, pre_tokenizers

    from groundup.data import shakespeare
    from groundup.gpt2.bpe import GPT2_PATTERN, BPETokenizer

    text, ranks = shakespeare().validation, BPETokenizer.gpt2().ranks
    letters = {byte: letter for letter, byte in _letters_of_bytes().items()}

    def spelt(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    vocabulary = {spelt(token): rank for token, rank in ranks.items()}
    merges = [tuple(map(spelt, _halves(token, ranks))) for token in ranks if len(token) > 1]
    hugging_face = Tokenizer(models.BPE(vocabulary, merges))
    hugging_face.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust = tiktoken.Encoding("bench", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={})

    def our() -> list[int]:
        return BPETokenizer(ranks).encode(text)

    expected = rust.encode(text)
    agree(our() == expected == hugging_face.encode(text).ids, "the encoders")
    ours, theirs, rusts = in_turns(
        our, lambda: hugging_face.encode(text).ids, lambda: rust.encode(text), rounds=5
    )
    peers = {with_version("tokenizers"): theirs, with_version("tiktoken"): rusts}
    return beside("BPE encoding", f"{len(text) / 1e3:.0f} k characters, GPT-2's table", ours, peers)


def _letters_of_bytes() -> dict[str, int]:
    """The letter that stands for each byte in Hugging Face's tables (GPT-2's `bytes_to_unicode`)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + k): byte for k, byte in enumerate(rest)}


def _halves(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, ...]:
    """The two tokens whose merge made `token`: BPE on its bytes, stopped before the last merge."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        pairs = [ranks.get(a + b, len(ranks)) for a, b in pairwise(parts)]
        first = pairs.index(min(pairs))
        parts[first : first + 2] = [parts[first] + parts[first + 1]]
    return tuple(parts)


def gpt() -> list[dict]:
    """Forward and backward of our GPT and of transformers' GPT-2, with the same weights on the same batch."""
    import torch
    from torch.nn import functional as F

    ours, theirs = _same_models()
    batch = torch.randint(ours.config.vocab_size, (4, ours.config.block_size + 1))
    idx, targets = batch[:, :-1], batch[:, 1:]

    def our() -> float:
        ours.zero_grad(set_to_none=True)
        loss = F.cross_entropy(ours(idx).flatten(0, 1), targets.flatten())
        loss.backward()
        return loss.item()

    def their() -> float:
        theirs.zero_grad(set_to_none=True)
        loss = F.cross_entropy(theirs(idx, use_cache=False).logits.flatten(0, 1), targets.flatten())
        loss.backward()
        return loss.item()

    agree(abs(our() - their()) < 1e-4, "our GPT and transformers'")
    work = f"forward and backward of {ours.num_parameters() / 1e6:.1f} M parameters on {idx.numel()} tokens"
    mine, reference = in_turns(our, their, rounds=5)
    return beside("GPT", work, mine, {with_version("transformers"): reference})


def generation(new: int = 64) -> list[dict]:
    """Greedy text of our GPT (which computes all positions anew) and of transformers' GPT-2, without and with its cache."""
    import torch

    from groundup.gpt2.sampling import generate

    ours, theirs = _same_models()
    start = torch.randint(ours.config.vocab_size, (1, 16))

    def our() -> torch.Tensor:
        return generate(ours, start, new, temperature=0)

    def their(use_cache: bool) -> torch.Tensor:
        return theirs.generate(
            start, attention_mask=torch.ones_like(start), max_new_tokens=new, min_new_tokens=new, do_sample=False,
            use_cache=use_cache, pad_token_id=0,
        )  # fmt: skip

    agree(torch.equal(our(), their(True)) and torch.equal(our(), their(False)), "the generated texts")
    mine, plain, cached = in_turns(our, lambda: their(False), lambda: their(True), rounds=5)
    peer = with_version("transformers")
    work = f"{new} tokens after 16, {ours.num_parameters() / 1e6:.1f} M parameters"
    return beside("generation", work, mine, {f"{peer}, no cache": plain, f"{peer}, with a cache": cached})


def _same_models():
    """Our GPT and transformers' GPT-2 of the same size with the same weights, in eval mode."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from groundup.gpt2.weights import from_huggingface

    torch.manual_seed(0)
    sizes = {"n_layer": 4, "n_head": 4, "n_embd": 256, "n_positions": 256, "vocab_size": 4096}
    config = GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
    theirs = GPT2LMHeadModel(config).eval()
    theirs.generation_config.eos_token_id = None
    return from_huggingface(theirs).eval(), theirs


def recipe() -> dict:
    """`groundup train gpt2` beside a plain loop (ci/plain_gpt.py), side by side, one core each.

    Both train nanoGPT's published CPU setting on our Shakespeare and say their validation loss as they go.

    Returns:
        seconds: when the faster one was done, since its start; ours, theirs: each one's loss (nats per character) then,
        between the two measurements around that moment on a straight line; ours_at_end, theirs_at_end: after all its
        iterations; ours_seconds, theirs_seconds: how long those took.
    """
    with tempfile.TemporaryDirectory() as folder:
        commands = [
            ["groundup", "train", "gpt2", "--out", folder, "--eval-interval", "100", "--eval-iters", "100"],
            ["ci.plain_gpt"],
        ]
        started = [
            subprocess.Popen(
                [sys.executable, "-u", "-m", *command],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
            )
            for command in commands
        ]
        with ThreadPoolExecutor() as pool:
            ours, theirs = pool.map(_losses, started)
    done = min(ours[-1][0], theirs[-1][0])
    return {
        "seconds": done,
        "ours": _loss_at(done, ours),
        "theirs": _loss_at(done, theirs),
        "ours_at_end": ours[-1][1],
        "theirs_at_end": theirs[-1][1],
        "ours_seconds": ours[-1][0],
        "theirs_seconds": theirs[-1][0],
    }


def _losses(process: subprocess.Popen) -> list[tuple[float, float]]:
    """(seconds since the start, validation loss) of each line that says one."""
    start, said, losses = time.perf_counter(), [], []
    for line in process.stdout:
        said.append(line)
        if found := re.search(r"validation (\d+\.\d+)", line):
            losses.append((time.perf_counter() - start, float(found[1])))
    if process.wait() or not losses:
        raise SystemExit("bench: a training run failed:\n" + "".join(said[-5:]))
    return losses


def _loss_at(moment: float, losses: list[tuple[float, float]]) -> float:
    for (before, high), (after, low) in pairwise(losses):
        if before <= moment <= after:
            return high + (low - high) * (moment - before) / (after - before)
    return losses[-1][1] if moment > losses[-1][0] else losses[0][1]


def autograder(rounds: int = 20) -> dict:
    """Seconds that `check` takes for a right answer, over all exercises, first imports aside."""
    from importlib import import_module

    from groundup.check import grade

    taken = []
    for lesson in lessons():
        module = import_module(f"groundup.{lesson.id}")
        for exercise in lesson.exercises:
            answer = getattr(module, exercise.name)
            grade(exercise.id, answer)
            for _ in range(rounds):
                started = time.perf_counter()
                if grade(exercise.id, answer).status != "passed":
                    raise SystemExit(f"{exercise.id} rejects the course's own solution: run `make audit`")
                taken.append(time.perf_counter() - started)
    taken.sort()
    return {
        "checks": len(taken),
        "median": statistics.median(taken),
        "p95": taken[int(0.95 * len(taken))],
        "slowest": taken[-1],
    }


PEERS = (scalar_engine, bpe_training, bpe_encoding, gpt, generation)


def main(arguments: list[str] | None = None) -> int:
    names = [measure.__name__ for measure in (*PEERS, recipe, autograder)]
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.splitlines()[0])
    parser.add_argument("measures", nargs="*", help=f"some of {', '.join(names)}; without any, all")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    options = parser.parse_args(arguments)
    chosen = options.measures or names
    if unknown := set(chosen) - set(names):
        parser.error(f"no such measure: {', '.join(sorted(unknown))}")
    # One thread for everybody, the tokenizers written in Rust as well.
    os.environ |= {"GROUNDUP_NO_RECORD": "1", "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    found: dict = {"machine": machine}
    if peers := [row for measure in PEERS if measure.__name__ in chosen for row in measure()]:
        found["peers"] = peers
    if "recipe" in chosen:
        found["recipe"] = recipe()
    if "autograder" in chosen:
        found["check"] = autograder()
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        show(found)
    return 0


def show(found: dict, console: Console | None = None) -> None:
    """Prints what was measured, for people."""
    console = console or Console()
    if peers := found.get("peers"):
        table = Table(
            "what",
            "work",
            "ours",
            "peer",
            "theirs",
            "ours / theirs",
            title=f"on {found['machine']}, one thread",
        )
        for row in peers:
            ratio = f"{row['ours'] / row['theirs']:.2f}"
            times = f"{row['ours']:.4f} s", f"{row['theirs']:.4f} s"
            table.add_row(row["what"], row["work"], times[0], row["peer"], times[1], ratio)
        console.print(table)
    if run := found.get("recipe"):
        console.print(
            f"groundup train gpt2 beside a plain loop, after {run['seconds']:.0f} s: validation loss {run['ours']:.3f} "
            f"and {run['theirs']:.3f} nats per character; at the end {run['ours_at_end']:.3f} after "
            f"{run['ours_seconds']:.0f} s and {run['theirs_at_end']:.3f} after {run['theirs_seconds']:.0f} s"
        )
    if check := found.get("check"):
        console.print(
            f"check(): median {check['median']:.3f} s, 95th percentile {check['p95']:.3f} s, "
            f"slowest {check['slowest']:.3f} s, over {check['checks']} checks of right answers"
        )


if __name__ == "__main__":
    sys.exit(main())
