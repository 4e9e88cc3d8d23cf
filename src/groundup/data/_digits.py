"""Handwritten digits, 8 × 8 pixels."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, NamedTuple

from groundup.data._files import file_of

if TYPE_CHECKING:
    import numpy as np


class Split(NamedTuple):
    """Examples to learn from, and others to test on."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def digits(*, test_share: float = 0.2, seed: int = 0) -> Split:
    """1797 handwritten digits: grey images of 8 × 8 pixels, and which of 0 … 9 each of them is.

    Shuffled by `seed`, then cut: the first `test_share` of them are the test set, which by default has 359 images; the
    other 1438 are to learn from. The same seed gives the same split.

    Returns:
        images of shape (n, 8, 8), float64 from 0 (paper) to 1 (ink), and labels of shape (n,), int64.

    Raises:
        FileNotFoundError: scikit-learn, which carries the file, is not installed.
        ValueError: test_share is not between 0 and 1.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (1998), UCI Machine Learning Repository,
    https://doi.org/10.24432/C50P49, CC BY 4.0; its test set, as scikit-learn (BSD-3-Clause) carries it. All images are by
    13 writers, who are in both parts of our split: a stranger's digits are harder.
    """
    import numpy as np

    if not 0 < test_share < 1:
        raise ValueError(f"test_share is a share between 0 and 1, not {test_share}")
    path = file_of("sklearn", "datasets/data/digits.csv.gz", install="scikit-learn")
    with gzip.open(path, "rt", encoding="ascii") as file:
        table = np.loadtxt(file, delimiter=",")
    table = table[np.random.default_rng(seed).permutation(len(table))]
    images, labels = table[:, :-1].reshape(-1, 8, 8) / 16, table[:, -1].astype(np.int64)
    tests = round(test_share * len(table))
    return Split(images[tests:], labels[tests:], images[:tests], labels[:tests])
