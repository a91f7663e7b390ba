"""The hash of a recipe, and the differences between two recipes."""

import pytest

from server.jobs.recipes.differences import describe_differences
from server.jobs.recipes.parsing import list_builtin_recipes, load_recipe, parse_recipe
from server.jobs.recipes.recipe import Recipe

WRITTEN = """
name: x
ontology: {cat: [cat, kitten], dog: }
steps:
- {id: a, task: <OD>, filter: {min_score: 0.3, nms: 0.5}}
- {id: b, task: <REGION_TO_OCR>, for_each: a}
"""


def test_the_hash_depends_only_on_what_can_change_annotations() -> None:
    same = """
steps:   # other order of keys, explicit defaults, other name
- {filter: {nms: 0.50, min_score: 3e-1}, task: <OD>, id: a, check: false, keep: true}
- {id: b, for_each: a, task: <REGION_TO_OCR>, filter: {}}
ontology:
  dog: [dog]
  cat: [cat, kitten]
name: y
unmatched: drop
"""
    assert parse_recipe(WRITTEN).hash == parse_recipe(same).hash
    assert describe_differences(parse_recipe(WRITTEN), parse_recipe(same)) == []
    assert len({load_recipe(name).hash for name in list_builtin_recipes()}) == len(list_builtin_recipes())


def test_the_hash_does_not_change_between_versions() -> None:
    """Databases store the hash: if it changes, earlier jobs cannot be continued."""
    assert parse_recipe(WRITTEN).hash == "42bdae123b14691aa258f74a36552aeb250ff271f161e9e749ff2c467ab36f7c"


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ("score: 0.3", "score: 0.5", ["step a: filter.min_score was 0.3, is 0.5"]),
        ("min_score: 0.3, ", "", ["step a: filter.min_score was 0.3, is not set"]),
        ("{min_score: 0.3", "{max_count: 4, min_score: 0.3", ["step a: filter.max_count was not set, is 4"]),
        ("kitten", "kätzchen", ['ontology.cat was ["cat", "kitten"], is ["cat", "kätzchen"]']),
        ("dog: ", "bird: ", ['ontology.dog was ["dog"], is not set', 'ontology.bird was not set, is ["bird"]']),
        ("name: x", "name: x\nreview_below: 0.5", ["review_below was not set, is 0.5"]),
        ("<OD>,", "<OD>, project: birds,", ['step a: project was not set, is "birds"']),
        (
            "- {id: b, task: <REGION_TO_OCR>, for_each: a}",
            "- {id: c, task: <OCR>}",
            ["step b was removed", "step c was added"],
        ),
    ],
)
def test_each_difference_is_one_line(old: str, new: str, lines: list[str]) -> None:
    before, after = parse_recipe(WRITTEN), parse_recipe(WRITTEN.replace(old, new))
    assert describe_differences(before, after) == lines
    assert before.hash != after.hash


def test_another_order_of_steps_is_a_difference() -> None:
    one, other = "{id: a, task: <OD>}", "{id: b, task: <OCR>}"
    before, after = (
        parse_recipe(f"name: x\nsteps: [{first}, {second}]") for first, second in ((one, other), (other, one))
    )
    assert describe_differences(before, after) == ["the order of the steps was a, b; is b, a"]


@pytest.mark.parametrize("name", list_builtin_recipes())
def test_a_recipe_survives_a_round_trip_through_json(name: str) -> None:
    recipe = load_recipe(name)
    again = Recipe.model_validate_json(recipe.model_dump_json())
    assert (again, again.hash) == (recipe, recipe.hash)
