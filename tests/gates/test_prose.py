"""Which numbers in prose read like measurements, and which do not."""

import pytest

from ci.gates.prose import measured


@pytest.mark.parametrize(
    "text",
    [
        "Training takes 40 seconds.",
        "It takes 3 ms per step.",
        "It takes 3ms per step.",
        "It took 12 µs.",
        "A run of 2.5 hours.",
        "The cache takes 1.5 GB.",
        "It needs 300 MiB.",
        "It reaches 97.5 % of the test set.",
        "About 95% are right.",
        "The compiled version is 3.2× faster.",
        "It is 10 times slower than torch.",
        "It is twice as fast.",
        "That is an order of magnitude faster.",
        "The accuracy is 0.95 at the end.",
        "The loss falls to 1.47 after that.",
        "A perplexity of 23.1 on held-out text.",
        "It decodes 25 tokens/s.",
        "The card reaches 790 TFLOP/s.",
        "It uses 2x less memory.",
        "Line one.\nThen it takes 5 s.",
    ],
)
def test_measured(text):
    assert list(measured(text)), text


@pytest.mark.parametrize(
    "text",
    [
        "Difficulty 2/5 · 10 minutes · 1 point",
        "A float64 has 53 bits of mantissa and takes 8 bytes.",
        "`time.sleep(3 s)` and `5 ms`",
        "```python\n# takes 3 ms\n```",
        "```text\n40 ms\n```",
        "$t = 3\\,\\text{s}$ and $$95\\%$$",
        "The loss is 0 where prediction and target agree.",
        "Vaswani et al. (2017), section 3.2, wrote 6 layers.",
        "Move x by 2 and the output moves 3 times as much.",
        "See [the page](https://example.org/3ms/95%/x).",
        "A matrix of shape (3, 4), row 2, the year 2019, 124,439,808 parameters.",
        "Use 3 samples, 10 steps and 2 layers.",
        "The 90s; 3x3 kernels; a 2x2 grid; GPT-2; float32; x2.",
        "<!-- constant: a light year by definition -->\nLight takes 8 minutes from the sun.",
        "<!-- constant: by definition -->\n\nLight takes 8 minutes from the sun.",
        "Light takes 8 minutes <!-- citation: Rømer 1676 --> from the sun.",
    ],
)
def test_not_measured(text):
    assert not list(measured(text)), list(measured(text))


def test_an_exemption_needs_a_reason_and_covers_one_paragraph():
    assert list(measured("<!-- constant: -->\nIt takes 8 minutes."))
    text = "<!-- constant: by definition -->\nIt takes 8 minutes.\n\nTraining takes 9 minutes."
    assert list(measured(text)) == [(3, "9 minutes")]


def test_line_numbers_survive_what_is_skipped():
    text = "```python\na = 1\nb = 2\n```\n\n$$\nx\n$$\nIt takes 7 ms."
    assert list(measured(text)) == [(8, "7 ms")]
