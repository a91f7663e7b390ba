"""A recipe's hash, and how two differ."""

import pytest

from server.jobs.recipes.parsing import load, read, ready
from server.jobs.recipes.recipe import Recipe, difference

WRITTEN = """
name: x
ontology: {cat: [cat, kitten], dog: }
steps:
- {id: a, task: <OD>, filter: {score: 0.3, nms: 0.5}}
- {id: b, task: <REGION_TO_OCR>, each: a}
"""


def test_the_hash_is_of_what_can_change_an_answer() -> None:
    same = """
steps:   # keys in another order, defaults written out, another name
- {filter: {nms: 0.50, score: 3e-1}, task: <OD>, id: a, check: false, keep: true}
- {id: b, each: a, task: <REGION_TO_OCR>, filter: {}}
ontology:
  dog: [dog]
  cat: [cat, kitten]
name: y
others: drop
"""
    assert read(WRITTEN).hash == read(same).hash
    assert difference(read(WRITTEN), read(same)) == []
    assert len({load(name).hash for name in ready()}) == len(ready())


def test_the_hash_stays_as_it_was() -> None:
    """Stores keep it: what changes it makes every job of before ask anew."""
    assert read(WRITTEN).hash == "5caf44dad84a6a67a910a682342d1ee233e1ea3cf0e904bce8d17cc48b62f0d6"


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ("score: 0.3", "score: 0.5", ["step a: filter.score was 0.3, is 0.5"]),
        ("score: 0.3, ", "", ["step a: filter.score was 0.3, is not given"]),
        ("{score: 0.3", "{count: 4, score: 0.3", ["step a: filter.count was not given, is 4"]),
        ("kitten", "kätzchen", ['ontology.cat was ["cat", "kitten"], is ["cat", "kätzchen"]']),
        ("dog: ", "bird: ", ['ontology.dog was ["dog"], is not given', 'ontology.bird was not given, is ["bird"]']),
        ("name: x", "name: x\nreview_below: 0.5", ["review_below was not given, is 0.5"]),
        ("<OD>,", "<OD>, project: birds,", ['step a: project was not given, is "birds"']),
        ("- {id: b, task: <REGION_TO_OCR>, each: a}", "- {id: c, task: <OCR>}", ["step b is gone", "step c is new"]),
    ],
)
def test_a_difference_is_told_in_lines(old: str, new: str, lines: list[str]) -> None:
    before, after = read(WRITTEN), read(WRITTEN.replace(old, new))
    assert difference(before, after) == lines
    assert before.hash != after.hash


def test_another_order_of_steps_is_a_difference() -> None:
    one, other = "{id: a, task: <OD>}", "{id: b, task: <OCR>}"
    before, after = (read(f"name: x\nsteps: [{first}, {second}]") for first, second in ((one, other), (other, one)))
    assert difference(before, after) == ["the steps' order was a, b; is b, a"]


@pytest.mark.parametrize("name", ready())
def test_a_recipe_comes_back_from_its_json(name: str) -> None:
    recipe = load(name)
    again = Recipe.model_validate_json(recipe.model_dump_json())
    assert (again, again.hash) == (recipe, recipe.hash)
