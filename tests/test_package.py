"""What importing the package costs, and that its pieces come only when they are asked for."""

import subprocess
import sys

import pytest

from groundup import catalogue


def modules_after(code: str) -> set[str]:
    program = f"{code}\nimport sys; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("import groundup", {"torch", "numpy", "jax", "triton", "plotly", "typer", "IPython"}),
        ("import groundup; groundup.lesson", {"jax", "plotly", "typer", "ipywidgets"}),
        ("from groundup.autograd import Value", {"torch", "jax", "triton", "plotly"}),
        ("import groundup.show", {"torch", "jax", "plotly", "ipywidgets"}),
    ],
)
def test_heavy_things_are_imported_only_when_needed(code, unwanted):
    assert not unwanted & modules_after(code)


def test_the_catalogue_finds_lessons_and_exercises_and_says_what_there_is():
    entry = catalogue.lesson("autograd.graph")
    assert catalogue.exercise(entry["exercises"][0]["id"]) is entry["exercises"][0]
    with pytest.raises(KeyError, match=r"no lesson is called 'autograd.soup'; there are: autograd.arrays"):
        catalogue.lesson("autograd.soup")
    with pytest.raises(KeyError, match="no exercise is called"):
        catalogue.exercise("autograd.graph.soup")


def test_every_public_name_of_a_part_imports_and_has_a_docstring():
    import groundup.autograd as part

    for name in part.__all__:
        assert getattr(part, name).__doc__, name
    with pytest.raises(AttributeError):
        _ = part.soup
