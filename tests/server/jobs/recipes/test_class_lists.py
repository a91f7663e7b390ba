"""Class lists in recipes: what answers are held to, and what the ontology drops."""

from dataclasses import replace

import pytest

from labels.dropped_labels import DroppedLabel, DropReason
from prompts.class_lists import ClassList
from server.jobs.recipes.class_lists import allow_any_class, describe_class_lists, find_class_list
from server.jobs.recipes.problems import RecipeError
from server.jobs.recipes.recipe import Recipe
from tests.server.jobs.recipes.scripted_answers import (
    answer_by_task,
    label_image,
    make_box,
    make_recipe,
    make_result,
    make_text_result,
    run_recipe,
)

DETECT = "- {id: things, task: <OD>, adapter: birds}"
ONTOLOGY = "ontology: {bird: [robin, finch]}"
LISTS = "class_lists: {birds: [robin, wren]}"


def find_names(recipe: Recipe, task: str = "<OD>") -> tuple[str, ...] | None:
    """Returns the class list of the first step."""
    found = find_class_list(recipe, recipe.steps[0], task)
    return found and found.names


@pytest.mark.parametrize(
    ("steps", "top", "expected"),
    [
        (DETECT, LISTS, ("robin", "wren")),
        (DETECT, f"{LISTS}\n{ONTOLOGY}", ("robin", "wren", "finch")),
        (DETECT, "", None),
        # The engine adds what the model knows; a model of which nobody knows that is free.
        (DETECT, ONTOLOGY, ("robin", "finch")),
        ("- {id: things, task: <OD>}", ONTOLOGY, ("robin", "finch")),
        (DETECT, f"{LISTS}\nany_class: true", None),
        ("- {id: things, task: <OD>, adapter: birds, any_class: true}", LISTS, None),
        ("- {id: things, task: <DENSE_REGION_CAPTION>, adapter: birds}", LISTS, None),
    ],
)
def test_answers_are_held_to_the_list_of_the_model_with_the_phrases_of_the_ontology(
    steps: str, top: str, expected: tuple[str, ...] | None
) -> None:
    recipe = make_recipe(steps, top)
    assert find_names(recipe, recipe.steps[0].task) == expected
    found = find_class_list(recipe, recipe.steps[0], recipe.steps[0].task)
    assert not found or found.is_open == ("ontology" in top)  # it decides what becomes of other names


def test_a_project_has_a_list_of_its_own_or_that_of_its_champion() -> None:
    top = "champions: {birds: {<OD>: {model: 3, sha256: abc}}}\nclass_lists: "
    step = "- {id: things, task: <OD>, project: birds}"
    assert find_names(make_recipe(step, top + "{projects/birds/model-3: [robin]}")) == ("robin",)
    both = make_recipe(step, top + "{projects/birds/model-3: [robin], projects/birds: [wren]}")
    assert find_names(both) == ("wren",)
    assert describe_class_lists(both) == ["answers to <OD> are held to the 1 classes of project birds"]


def test_prompts_and_checks_have_the_class_list() -> None:
    recipe = make_recipe(DETECT.replace("}", ", check: true}"), LISTS)
    od = make_result(make_box("robin", 0, 0, 50, 50))
    _, rounds = run_recipe(recipe, answer_by_task(OD=od, REGION_TO_CATEGORY=make_text_result("robin")))
    assert [prompt.class_list for round_ in rounds for prompt in round_] == 2 * [
        ClassList(("robin", "wren"), "adapter birds")
    ]


def test_a_list_that_cannot_be_held_is_described() -> None:
    names = ", ".join(f"bird{i}" for i in range(2001))
    (sentence,) = describe_class_lists(make_recipe(DETECT, f"class_lists: {{birds: [{names}]}}"))
    assert "not held" in sentence
    assert "2,001" in sentence


def test_any_class_changes_the_hash_and_needs_a_step_that_names_classes() -> None:
    recipe = make_recipe(DETECT)
    assert allow_any_class(recipe).hash != recipe.hash
    with pytest.raises(RecipeError, match="no step of test names classes"):
        allow_any_class(make_recipe("- {id: texts, task: <CAPTION>}"))
    for steps, top in (
        ("- {id: texts, task: <CAPTION>, any_class: true}", ""),
        ("- {id: texts, task: <CAPTION>}", "any_class: true"),
    ):
        with pytest.raises(RecipeError, match="held to classes anyway"):
            make_recipe(steps, top)


def test_a_list_of_a_model_that_no_step_uses_is_a_problem() -> None:
    with pytest.raises(RecipeError, match="no step uses fish"):
        make_recipe(DETECT, "class_lists: {fish: [cod]}")


def test_what_the_ontology_drops_is_counted_by_words() -> None:
    od = make_result(
        make_box("a robin", 0, 0, 99, 99), make_box("cat", 200, 0, 300, 99), make_box("cat", 400, 0, 500, 99),
        make_box("a black\ndog", 600, 0, 700, 99), make_box("ant", 800, 0, 805, 5),
    )  # fmt: skip
    step = "- {id: things, task: <OD>, filter: {min_side: 0.05}}"
    labels = label_image(make_recipe(step, ONTOLOGY), answer_by_task(OD=od))
    assert [trace.annotation.label for trace in labels.traces] == ["bird"]
    assert labels.dropped == (  # without the ant, which the filter would have removed
        DroppedLabel("things", "cat", DropReason.NO_CLASS, 2),
        DroppedLabel("things", "a black dog", DropReason.NO_CLASS, 1),
    )


@pytest.mark.parametrize(("top", "kept"), [("", ["wren"]), (f"{ONTOLOGY}\nunmatched: keep", ["wren", "bird"])])
def test_what_an_answer_left_out_is_dropped_unless_the_ontology_has_it(top: str, kept: list[str]) -> None:
    others = [make_box("a red robin", 200, 0, 300, 99), make_box("cat", 400, 0, 500, 99)]
    od = replace(make_result(make_box("wren", 0, 0, 99, 99)), left_out=others)
    labels = label_image(make_recipe("- {id: things, task: <OD>}", top), answer_by_task(OD=od))
    assert [trace.annotation.label for trace in labels.traces] == kept
    assert sum(each.count for each in labels.dropped) == 3 - len(kept)


def test_an_object_in_several_tiles_is_dropped_once() -> None:
    od = make_result(make_box("cat", 10, 10, 100, 100))
    recipe = make_recipe("- {id: things, task: <OD>, tile: {size: 600}}", ONTOLOGY)
    answers = answer_by_task(OD=lambda prompt: od if prompt.crop in (None, (0, 0, 600, 500)) else make_result())
    assert label_image(recipe, answers).dropped == (DroppedLabel("things", "cat", DropReason.NO_CLASS, 1),)


def test_what_a_check_contradicts_is_counted_if_it_is_dropped() -> None:
    od = make_result(make_box("robin", 0, 0, 50, 50), make_box("wren", 100, 0, 150, 50))
    recipe = make_recipe("- {id: things, task: <OD>, check: true}", "disagreement: drop")
    labels = label_image(recipe, answer_by_task(OD=od, REGION_TO_CATEGORY=make_text_result("wren")))
    assert [trace.annotation.label for trace in labels.traces] == ["wren"]
    assert labels.dropped == (DroppedLabel("things", "robin", DropReason.CONTRADICTED, 1),)
