"""groundup shards: documents become files of tokens that a run trains on, whole or not at all."""

import errno
import json
from pathlib import Path

import pytest
from rich.console import Console

from groundup.gpt2 import loading
from groundup.gpt2.bpe import BPETokenizer
from groundup.recipes import shards, text
from groundup.recipes.errors import RecipeError
from tests.recipes.test_train import TINY, quiet, run, settings_of

DOCUMENTS = [f"Document {number}: the cat sat on mat {number % 7}, and ran.\n" * 5 for number in range(60)]
SIZES = {"validation_tokens": 400, "shard_size": 500, "console": Console(quiet=True)}


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "documents.txt"
    path.write_text("<|endoftext|>\n".join(DOCUMENTS), encoding="utf-8")
    return path


@pytest.mark.parametrize("tokenizer", ["gpt2", "bpe"])
def test_every_document_is_there_once_and_ends(source, tmp_path, tokenizer):
    out = tmp_path / "shards"
    counted = shards.write(str(source), out, tokenizer=tokenizer, vocab_size=300, **SIZES)
    corpus = text.corpus(str(out), "char", 0)
    assert counted == {"train": len(corpus.train), "validation": len(corpus.validation)}
    assert counted["validation"] >= 400 and len(list((out / "train").glob("shard-*.npy"))) > 2
    ids = [*corpus.validation[:].tolist(), *corpus.train[:].tolist()]
    end = corpus.tokenizer.special_tokens["<|endoftext|>"]
    assert corpus.tokenizer.decode(ids).split("<|endoftext|>") == [*DOCUMENTS, ""] and ids.count(end) == 60
    held_out = corpus.tokenizer.decode(corpus.validation[:].tolist()).replace("<|endoftext|>", "")
    assert corpus.bytes_per_token == len(held_out.encode()) / counted["validation"]
    if tokenizer == "gpt2":
        assert ids == [i for document in DOCUMENTS for i in [*BPETokenizer.gpt2().encode(document), 50256]]


def test_a_run_trains_on_shards_and_goes_on(source, tmp_path):
    out, folder = tmp_path / "shards", tmp_path / "run"
    shards.write(str(source), out, tokenizer="bpe", vocab_size=300, **SIZES)
    given = TINY | {"data": str(out), "out": str(folder), "max_iters": 10}
    found = quiet(settings_of("small", given))
    assert found["step"] == 10 and 0 < found["bits_per_byte"] < 8 and 0 < found["mfu"] < 1
    done = run("--resume", out=folder, max_iters=20)
    assert done.returncode == 0 and "step 20:" in done.stdout and "MFU" in done.stdout, done.stderr


def test_a_full_disk_leaves_nothing_that_looks_complete(source, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    out = tmp_path / "shards"
    monkeypatch.setattr(loading, "save_array", full)
    with pytest.raises(RecipeError, match="No space left on device"):
        shards.write(str(source), out, **SIZES)
    with pytest.raises(RecipeError, match="no complete shards"):
        text.corpus(str(out), "gpt2", 0)
    monkeypatch.undo()
    shards.write(str(source), out, **SIZES)
    text.corpus(str(out), "gpt2", 0)
    with pytest.raises(RecipeError, match="holds shards already"):
        shards.write(str(source), out, **SIZES)


def test_a_shortened_shard_is_named(source, tmp_path):
    out = tmp_path / "shards"
    shards.write(str(source), out, **SIZES)
    index = out / "train" / "index.json"
    lengths = json.loads(index.read_text())
    lengths["shards"]["shard-00001.npy"] += 1
    index.write_text(json.dumps(lengths))
    with pytest.raises(RecipeError, match=r"shard-00001\.npy"):
        text.corpus(str(out), "gpt2", 0)


def test_what_cannot_be_had_is_said_in_one_line(source, tmp_path, monkeypatch):
    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("the hub does not answer")

    monkeypatch.setattr(loading, "ask_hub", offline)
    cases = {
        "fineweb-edu": "does not answer",
        "nowhere.txt": "neither a text file nor one of fineweb-edu",
        str(tmp_path): "neither a text file",
    }
    for asked, said in cases.items():
        with pytest.raises(RecipeError, match=said):
            shards.write(asked, tmp_path / "none", **SIZES)
    with pytest.raises(RecipeError, match="lower --validation-tokens"):
        shards.write(str(source), tmp_path / "short", **SIZES | {"validation_tokens": 10**6})
    (tmp_path / "latin.txt").write_bytes("Röslein".encode("latin-1"))
    with pytest.raises(RecipeError, match="utf-8"):
        shards.write(str(tmp_path / "latin.txt"), tmp_path / "latin", **SIZES)
