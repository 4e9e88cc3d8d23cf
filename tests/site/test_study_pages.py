"""What a part's page shows of its lessons, from the stored runs, without building the site."""

import sys
import tomllib

import pytest

from ci.lesson import ROOT, lessons

sys.path.insert(0, str(ROOT / "book" / "_ext"))
study_pages = pytest.importorskip("study_pages")

PROOFS = tomllib.loads((ROOT / study_pages.PROOFS).read_text(encoding="utf-8"))
PAGES = {lesson.id: lesson.path.with_suffix("").as_posix() for lesson in lessons()}


@pytest.mark.parametrize("lesson", lessons(), ids=lambda lesson: lesson.id)
def test_of_each_proof_a_sentence_and_at_most_three_lines_are_shown(lesson):
    proof = PROOFS.get(lesson.id, {})
    _, printed = study_pages._proof(lesson)
    if wanted := proof.get("lines"):
        assert any(text in printed for text in wanted), (
            f"{study_pages.PROOFS}: nothing of {wanted} was printed"
        )
    shown = study_pages._evidence(lesson, "title", proof)
    assert not printed or 1 <= shown.partition("```text\n")[2].count("\n") <= 3
    owned = shown.splitlines()[2]
    assert all(f"`{exercise.name}`" in owned for exercise in lesson.exercises)
    assert owned.count("`") == 2 * len(lesson.exercises), (
        "constants and helpers that are given are nobody's own"
    )


def test_no_sentence_is_about_a_lesson_that_is_not_there():
    assert set(PROOFS) <= set(PAGES)


def test_lines_of_a_proof():
    printed = "a: 1\nHellaSwag is left out: it cannot be fetched\n\nb: 2\nb: 3\nc: 4\n"
    assert study_pages.proof_lines(printed, ["c", "b"]) == ["c: 4", "b: 2"]
    assert study_pages.proof_lines(printed, ["fetched", "z"]) == ["b: 2", "b: 3", "c: 4"]
    assert study_pages.proof_lines("", ["a"]) == []


def test_the_totals_and_the_ladder():
    page = study_pages.owned(ROOT, "gpt2", PAGES, {})
    total = int(page.partition("**Together**")[2].split("**")[5].replace(",", ""))
    assert total > 1000 and f"**{total:,}**" in page
    assert "cannot be fetched" not in page and "Errno" not in page
    ladder = study_pages.ladder(ROOT, PAGES, {})
    rows = [
        [cell.strip() for cell in line.split("|")[1:4]] for line in ladder.splitlines() if line[:1] == "|"
    ][2:]
    scores = [float(score) for _, score, _ in rows]
    assert scores == sorted(scores, reverse=True)
    said = f"The last two, {rows[-2][0]} and {rows[-1][0]}, are {scores[-2] - scores[-1]:.3f} bits per byte apart."
    assert said in ladder
