"""Review thresholds: which scores are to review, by the kind of label and by the step."""

import json
from typing import Any

import pytest

from labels.label_kind import LabelKind
from labels.labeled_image import TracedAnnotation
from prompts.annotations import Box, Text
from server.jobs.recipes.parsing import list_builtin_recipes, load_recipe, parse_recipe, validate_recipe
from server.jobs.recipes.problems import RecipeError
from server.jobs.recipes.recipe import Recipe
from server.jobs.recipes.review import get_review_threshold, get_step_kind, is_low_score, review_again
from server.jobs.recipes.review_thresholds import DEFAULT_THRESHOLDS, ReviewThresholds

STEPS = """
steps:
  - {id: objects, task: <OD>}
  - {id: outlines, task: <REGION_TO_SEGMENTATION>, for_each: objects}
  - {id: categories, task: <REGION_TO_CATEGORY>, for_each: objects}
  - {id: descriptions, task: <REGION_TO_DESCRIPTION>, for_each: objects}
  - {id: proposals, task: <REGION_PROPOSAL>}
  - {id: regions, task: <DENSE_REGION_CAPTION>}
  - {id: caption, task: <DETAILED_CAPTION>}
  - {id: phrases, task: <CAPTION_TO_PHRASE_GROUNDING>, text: "${caption}"}
  - {id: outlined_phrases, task: <REGION_TO_SEGMENTATION>, for_each: phrases}
  - {id: wanted, task: <OPEN_VOCABULARY_DETECTION>, text: a hat}
  - {id: words, task: <OCR_WITH_REGION>}
  - {id: page, task: <OCR>}
  - {id: signs, task: <REGION_TO_OCR>, for_each: objects}
  - {id: own, task: <VQA>, text: how many?}
"""


def make_recipe(head: str = "", steps: str = STEPS) -> Recipe:
    return parse_recipe(f"name: x\n{head}\n{steps}")


def get_kinds(recipe: Recipe) -> dict[LabelKind, str]:
    kinds: dict[LabelKind, list[str]] = {}
    for step in recipe.steps:
        kinds.setdefault(get_step_kind(recipe, step), []).append(step.id)
    return {kind: " ".join(ids) for kind, ids in kinds.items()}


def test_labels_are_classes_or_words_or_free_text() -> None:
    assert get_kinds(make_recipe()) == {
        LabelKind.OBJECTS: "objects outlines categories proposals wanted",
        LabelKind.WORDS: "words page signs",
        LabelKind.CAPTIONS: "descriptions regions caption phrases outlined_phrases own",
    }


def test_an_ontology_makes_classes_of_phrases_and_of_the_texts_of_regions() -> None:
    kinds = get_kinds(make_recipe("ontology: {hat: }"))
    assert kinds[LabelKind.OBJECTS] == "objects outlines categories proposals regions phrases outlined_phrases wanted"
    assert kinds[LabelKind.CAPTIONS] == "descriptions caption own"


def get_thresholds(recipe: Recipe) -> list[float]:
    return [get_review_threshold(recipe, step) for step in recipe.steps]


THREE = """
steps:
  - {id: objects, task: <OD>}
  - {id: words, task: <OCR_WITH_REGION>}
  - {id: caption, task: <CAPTION>}
"""


@pytest.mark.parametrize(
    ("written", "thresholds"),
    [
        ("", [0, 0, 0]),
        ("review_below: 0.3", [0.3, 0.3, 0]),
        ('review_below: "0.3"', [0.3, 0.3, 0]),
        ("review_below: {objects: 0.3, words: 0.5, captions: 0}", [0.3, 0.5, 0]),
        ("review_below: {captions: 0.2}", [0, 0, 0.2]),
        ("review_below: null", [0, 0, 0]),
    ],
)
def test_a_number_is_the_threshold_of_objects_and_words(written: str, thresholds: list[float]) -> None:
    assert get_thresholds(make_recipe(written, THREE)) == thresholds


def test_a_step_may_have_its_own_threshold() -> None:
    recipe = make_recipe(
        "review_below: 0.3",
        THREE.replace("<OD>}", "<OD>, review_below: 0}").replace("<CAPTION>}", "<CAPTION>, review_below: 0.7}"),
    )
    assert get_thresholds(recipe) == [0, 0.3, 0.7]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("high", "`review_below` is a score from 0 to 1, such as 0.5, or one for each kind"),
        ("[0.3]", "`review_below` is a score from 0 to 1"),
        ("1.5", "`review_below` is a score from 0 to 1"),
        (".nan", "`review_below` is a score from 0 to 1"),
        ("{objects: 1.5}", "review_below.objects must be less than or equal to 1, not 1.5"),
        ("{object: 0.5}", "there is no key 'object' here; did you mean `objects`?"),
    ],
)
def test_a_wrong_threshold_is_one_problem_with_its_line(written: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        make_recipe(f"review_below: {written}", THREE)
    (problem,) = caught.value.problems
    assert message in problem.message
    assert problem.line == 2


# Hashes by the version before there were kinds: jobs of that version continue with the same recipe.
@pytest.mark.parametrize(
    ("written", "hash"),
    [
        (0.3, "a6d8a46a34ce"),
        (0, "66ade089a243"),
        (1, "004b87496fab"),
        (None, "1a8a65160374"),
    ],
)
def test_recipes_of_before_keep_their_hash(written: Any, hash: str) -> None:
    recipe = validate_recipe({"name": "x", "review_below": written, "steps": [{"id": "a", "task": "<OD>"}]})
    assert recipe.hash.startswith(hash)
    document = json.loads(recipe.model_dump_json(exclude_defaults=True))
    assert document.get("review_below") == written
    assert validate_recipe(document) == recipe


def test_thresholds_are_written_as_short_as_possible() -> None:
    assert ReviewThresholds(objects=0.5, words=0.5).model_dump() == 0.5
    assert ReviewThresholds(objects=0.5, words=0.3).model_dump() == {"objects": 0.5, "words": 0.3}
    assert ReviewThresholds(captions=0.2).model_dump(mode="json") == {"captions": 0.2}


def test_built_in_recipes_have_the_default_thresholds() -> None:
    for name in list_builtin_recipes():
        recipe = load_recipe(name)
        kinds = {step.id: get_step_kind(recipe, step) for step in recipe.steps}
        assert {id: DEFAULT_THRESHOLDS[kind] for id, kind in kinds.items()} == {
            step.id: get_review_threshold(recipe, step) for step in recipe.steps
        }, name


def make_trace(step: str, score: float | None, review: str = "", parent: int | None = None) -> TracedAnnotation:
    is_text = step == "descriptions"
    annotation = Text(label="a", score=score) if is_text else Box(label="a", score=score, box=(0, 0, 9, 9))
    return TracedAnnotation(annotation, step, review=review, parent=parent)


def test_labels_are_reviewed_again_with_other_thresholds() -> None:
    traces = [
        make_trace("objects", 0.4, "the check returned 'dog'; score 0.40 is below 0.5"),
        make_trace("outlines", 0.9, "its parent annotation needs review", parent=0),
        make_trace("objects", 0.2, "score 0.20 is below 0.5"),
        make_trace("outlines", 0.1, "its parent annotation needs review; score 0.10 is below 0.5", parent=2),
        make_trace("descriptions", 0.1, "its parent annotation needs review", parent=2),
        make_trace("objects", None),
        make_trace("gone", 0.1, "score 0.10 is below 0.5"),
    ]
    reviewed = review_again(make_recipe("review_below: 0.15"), traces)
    assert [trace.review for trace in reviewed] == [
        "the check returned 'dog'",
        "its parent annotation needs review",
        "",
        "score 0.10 is below 0.15",
        "",
        "",
        "score 0.10 is below 0.5",
    ]
    assert [trace.annotation for trace in reviewed] == [trace.annotation for trace in traces]
    higher = review_again(make_recipe("review_below: 0.95"), reviewed)
    assert [is_low_score(trace.review) for trace in higher] == [True, True, True, True, False, False, True]
    assert review_again(make_recipe("review_below: 0.15"), higher) == reviewed
