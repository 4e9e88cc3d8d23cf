"""What the README promises is so."""

import re
from pathlib import Path

from ci.lesson import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_quoted_reply_is_one_that_the_autograder_gives():
    from groundup.check import load

    quoted = " ".join(re.findall(r"^> (.+)$", README, re.M))
    mistakes = {
        mistake.name: " ".join(mistake.sentence.split()) for mistake in load("autograd.graph.Value").mistakes
    }
    assert quoted == mistakes["assigns_in_mul"]


def test_every_command_and_file_that_it_names_exists():
    targets = set(re.findall(r"^([a-z-]+):", Path(ROOT, "Makefile").read_text(encoding="utf-8"), re.M))
    assert set(re.findall(r"`?make ([a-z-]+)", README)) <= targets
    for name in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / name).exists(), name


def test_the_map_names_the_lessons_that_stand():
    from ci.lesson import lessons

    assert set(re.findall(r"\*\*([a-z_]+)\*\*", README)) == {lesson.name for lesson in lessons()}
