"""ci/curriculum.toml: every row of the requirements has its place, and the files agree with the plan."""

import re
import tomllib

from ci.lesson import ROOT, chapters

PLAN = tomllib.loads((ROOT / "ci" / "curriculum.toml").read_text(encoding="utf-8"))
LESSONS = [lesson for part in PLAN["part"] for lesson in part["lesson"]]


def test_every_row_is_covered_by_a_lesson_a_recipe_or_a_page():
    covered = {row for lesson in LESSONS for row in lesson["rows"]}
    covered |= set(PLAN["elsewhere"]["recipes"]) | set(PLAN["elsewhere"]["book"])
    assert covered == set(range(1, PLAN["rows"] + 1))


def test_ids_are_unique_and_belong_to_their_part():
    ids = [lesson["id"] for lesson in LESSONS]
    assert len(set(ids)) == len(ids)
    for number, part in enumerate(PLAN["part"], 1):
        assert part["number"] == number and part["folder"] == f"{number:02}_{part['id']}" and part["title"]
        for lesson in part["lesson"]:
            assert re.fullmatch(rf"{part['id']}\.[a-z_]+", lesson["id"]) and lesson["title"]


def test_every_chapter_stands_in_the_folder_of_its_part():
    folders = {part["folder"] for part in PLAN["part"]}
    assert {path.parent.name for path in chapters()} <= folders
