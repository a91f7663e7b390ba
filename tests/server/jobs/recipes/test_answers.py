"""Labels of the ontology, and annotations that are reviewed or dropped."""

import pytest

from labels.labeled_image import TracedAnnotation
from prompts.annotations import Text
from server.engine.request import Result
from server.jobs.model_prompts import ModelPrompt
from tests.server.jobs.recipes.scripted_answers import (
    answer_by_task,
    make_box,
    make_polygon,
    make_quad,
    make_recipe,
    make_result,
    make_text_result,
    run_recipe,
)


def get_labels(traces: list[TracedAnnotation]) -> list[str]:
    return [trace.annotation.label for trace in traces]


ONTOLOGY = """
ontology:
  vehicle: [car, truck]
  pet: [cat]
"""


@pytest.mark.parametrize(
    ("unmatched", "expected"),
    [("drop", ["vehicle", "pet"]), ("keep", ["vehicle", "pet", "tree"]), ("review", ["vehicle", "pet", "tree"])],
)
def test_labels_come_from_the_ontology(unmatched: str, expected: list[str]) -> None:
    od = make_result(make_box("a red Car", 0, 0, 9, 9), make_box("cat", 9, 9, 20, 20), make_box("tree", 30, 30, 50, 50))
    traces, _ = run_recipe(
        make_recipe("- {id: a, task: <OD>}", ONTOLOGY + f"unmatched: {unmatched}"), answer_by_task(OD=od)
    )
    assert get_labels(traces) == expected
    reviewed = [trace.annotation.label for trace in traces if trace.review]
    assert reviewed == (["tree"] if unmatched == "review" else [])


def test_the_ontology_does_not_change_text_and_descriptions() -> None:
    traces, _ = run_recipe(
        make_recipe(
            """
            - {id: a, task: <OD>}
            - {id: b, task: <OCR_WITH_REGION>}
            - {id: c, task: <REGION_TO_DESCRIPTION>, for_each: a}
            - {id: d, task: <REGION_TO_CATEGORY>, for_each: a}
            - {id: e, task: <REGION_PROPOSAL>}
            """,
            ONTOLOGY,
        ),
        answer_by_task(
            OD=make_result(make_box("cat", 0, 0, 9, 9)),
            OCR_WITH_REGION=make_result(make_quad("CARS", *range(8))),
            REGION_TO_DESCRIPTION=make_text_result("a house"),
            REGION_TO_CATEGORY=make_text_result("truck"),
            REGION_PROPOSAL=make_result(make_box("", 1, 1, 5, 5)),
        ),
    )
    assert get_labels(traces) == ["pet", "CARS", "a house", "vehicle", ""]


def test_a_category_that_matches_no_phrase_does_not_get_its_regions_label() -> None:
    steps = "- {id: a, task: <OD>}\n- {id: b, task: <REGION_TO_CATEGORY>, for_each: a}"
    answers = answer_by_task(OD=make_result(make_box("cat", 0, 0, 9, 9)), REGION_TO_CATEGORY=make_text_result("zebra"))
    assert get_labels(run_recipe(make_recipe(steps, ONTOLOGY), answers)[0]) == ["pet"]
    assert get_labels(run_recipe(make_recipe(steps, ONTOLOGY + "unmatched: keep"), answers)[0]) == ["pet", "zebra"]


def test_each_phrase_of_the_ontology_has_a_prompt_and_its_shapes_get_its_label() -> None:
    def find(prompt: ModelPrompt) -> Result:
        return (
            make_result(make_box("automobile" if prompt.text == "car" else "", 10, 10, 50, 50))
            if prompt.text != "cat"
            else make_result()
        )

    traces, rounds = run_recipe(
        make_recipe("- {id: a, task: <OPEN_VOCABULARY_DETECTION>, text: '${ontology}'}", ONTOLOGY),
        answer_by_task(OPEN_VOCABULARY_DETECTION=find),
    )
    assert [prompt.text for prompt in rounds[0]] == ["cat", "car", "truck"]
    assert get_labels(traces) == ["vehicle"]  # car and truck in the same place are one vehicle


def test_a_text_answer_to_a_phrase_stays_unchanged() -> None:
    traces, rounds = run_recipe(
        make_recipe("- {id: a, task: <OD>}\n- {id: b, task: <VQA>, text: '${ontology}'}", ONTOLOGY),
        answer_by_task(VQA=make_text_result("two")),
    )
    assert [prompt.text for prompt in rounds[0][1:]] == ["cat", "car", "truck"]
    assert get_labels(traces) == ["two"] * 3


def test_a_shape_without_a_label_gets_the_text_of_its_prompt() -> None:
    traces, _ = run_recipe(
        make_recipe("""
            - {id: a, task: <REFERRING_EXPRESSION_SEGMENTATION>, text: the cat}
            - {id: b, task: <CAPTION_TO_PHRASE_GROUNDING>, text: a cat on a mat}
        """),
        answer_by_task(
            REFERRING_EXPRESSION_SEGMENTATION=make_result(make_polygon([0, 0, 9, 0, 9, 9])),
            CAPTION_TO_PHRASE_GROUNDING=make_result(make_box("", 0, 0, 9, 9)),
        ),
    )
    assert get_labels(traces) == ["the cat", ""]


@pytest.mark.parametrize("policy", ["review", "drop"])
def test_a_grounded_phrase_that_is_not_in_the_text_is_reviewed_or_dropped(policy: str) -> None:
    traces, _ = run_recipe(
        make_recipe("- {id: a, task: <CAPTION_TO_PHRASE_GROUNDING>, text: a cat on a mat}", f"disagreement: {policy}"),
        answer_by_task(
            CAPTION_TO_PHRASE_GROUNDING=make_result(make_box("a mat", 0, 0, 9, 9), make_box("a rocket", 5, 5, 9, 9))
        ),
    )
    assert get_labels(traces) == (["a mat", "a rocket"] if policy == "review" else ["a mat"])
    assert [bool(trace.review) for trace in traces] == [False, True][: len(traces)]


@pytest.mark.parametrize("policy", ["review", "drop"])
def test_flip_requires_the_same_answer_for_the_mirrored_image(policy: str) -> None:
    def answer_od(prompt: ModelPrompt) -> Result:
        if prompt.mirrored:  # the image is 1000 pixels wide, so the cat at 100–200 is at 800–900 there
            return make_result(make_box("cat", 800, 0, 900, 100), make_box("dog", 0, 0, 100, 100))
        return make_result(
            make_box("cat", 102, 0, 200, 100), make_box("dog", 0, 0, 100, 100), make_box("bird", 100, 0, 200, 100)
        )

    traces, rounds = run_recipe(
        make_recipe("- {id: a, task: <OD>, flip: 0.9}", f"disagreement: {policy}"), answer_by_task(OD=answer_od)
    )
    assert [prompt.mirrored for prompt in rounds[0]] == [False, True]
    assert get_labels(traces) == (["cat", "dog", "bird"] if policy == "review" else ["cat"])
    assert traces[0].annotation == make_box("cat", 102, 0, 200, 100)
    assert all("mirror" in trace.review for trace in traces[1:])


@pytest.mark.parametrize("policy", ["review", "drop"])
def test_check_requires_the_same_label_for_the_region(policy: str) -> None:
    categories = {0.0: "the cat", 20.0: "wolf", 40.0: "lorry", 60.0: ""}
    traces, rounds = run_recipe(
        make_recipe("- {id: a, task: <OD>, check: true, adapter: mine}", f"disagreement: {policy}\n" + CHECKED),
        answer_by_task(
            OD=make_result(
                *(
                    make_box(name, x, 0, x + 10, 9)
                    for name, x in zip(["cat", "dog", "truck", "bird"], categories, strict=True)
                )
            ),
            REGION_TO_CATEGORY=lambda prompt: (
                make_text_result(categories[prompt.region[0]]) if prompt.region else make_result()
            ),
        ),
    )
    assert [(prompt.task.token, prompt.adapter) for prompt in rounds[1]] == [("<REGION_TO_CATEGORY>", "mine")] * 4
    assert get_labels(traces) == (["cat", "dog", "truck", "bird"] if policy == "review" else ["cat", "truck"])
    if policy == "review":
        assert "'wolf'" in traces[1].review
        assert "no label" in traces[3].review


def test_each_task_of_a_step_uses_its_own_champion() -> None:
    steps = "- {id: a, task: <OD>, check: true, project: birds}\n- {id: b, task: <OCR>}"
    answers = answer_by_task(
        OD=make_result(make_box("cat", 0, 0, 9, 9)),
        REGION_TO_CATEGORY=make_text_result("cat"),
        OCR=make_text_result("X"),
    )
    for other, name in (("{model: 4, sha256: b}", "projects/birds/model-4"), ("null", None)):
        champions = f"champions: {{birds: {{<OD>: {{model: 3, sha256: a}}, <REGION_TO_CATEGORY>: {other}}}}}"
        recipe = make_recipe(steps, champions)
        assert recipe.projects == [("birds", "<OD>"), ("birds", "<REGION_TO_CATEGORY>")]
        assert recipe.models == {"projects/birds/model-3": "a", **({name: "b"} if name else {})}
        traces, rounds = run_recipe(recipe, answers)
        who = [(prompt.task.token, prompt.adapter) for round_ in rounds for prompt in round_]
        assert who == [("<OD>", "projects/birds/model-3"), ("<OCR>", None), ("<REGION_TO_CATEGORY>", name)]
        assert [trace.adapter for trace in traces] == ["projects/birds/model-3", None]


CHECKED = "ontology: {cat: , dog: , truck: [truck, lorry], bird: }"


def test_only_annotations_that_pass_the_filter_are_checked() -> None:
    _, rounds = run_recipe(
        make_recipe("- {id: a, task: <OD>, check: true, filter: {min_score: 0.5}}"),
        answer_by_task(OD=make_result(make_box("cat", 0, 0, 9, 9, score=0.4), make_box("dog", 0, 0, 9, 9, score=0.5))),
    )
    assert len(rounds[1]) == 1


def test_low_scores_and_their_children_are_reviewed() -> None:
    traces, _ = run_recipe(
        make_recipe("- {id: a, task: <OD>}\n- {id: b, task: <REGION_TO_OCR>, for_each: a}", "review_below: 0.5"),
        answer_by_task(
            OD=make_result(make_box("cat", 0, 0, 9, 9, score=0.49), make_box("dog", 9, 9, 20, 20, score=0.5)),
            REGION_TO_OCR=make_text_result("X", score=None),
        ),
    )
    assert [trace.review for trace in traces] == [
        *("score 0.49 is below 0.5", "", "its parent annotation needs review", "")
    ]


def test_a_truncated_text_is_reviewed() -> None:
    long = make_result(Text(label="and so on and so on", score=0.9), finish="length")
    traces, _ = run_recipe(make_recipe("- {id: a, task: <CAPTION>}"), answer_by_task(CAPTION=long))
    assert traces[0].review == "the answer was truncated"
