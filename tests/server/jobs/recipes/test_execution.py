"""The prompts of recipes, and the annotations they make from scripted answers."""

import pytest

from labels.labeled_image import TracedAnnotation
from prompts.annotations import Text
from server.engine.errors import InvalidRequestError
from server.engine.request import Result
from server.jobs.model_prompts import ModelPrompt
from tests.server.jobs.recipes.scripted_answers import (
    SIZE,
    answer_by_task,
    get_view_size,
    make_box,
    make_polygon,
    make_quad,
    make_recipe,
    make_result,
    make_text_result,
    run_recipe,
)

CASCADE = """
- {id: things, task: <OD>}
- {id: outlines, task: <REGION_TO_SEGMENTATION>, for_each: things}
- {id: captions, task: <CAPTION>}
- {id: phrases, task: <CAPTION_TO_PHRASE_GROUNDING>, text: "${captions}"}
"""


def get_labels(traces: list[TracedAnnotation]) -> list[str]:
    return [trace.annotation.label for trace in traces]


def test_independent_steps_run_in_the_same_round() -> None:
    _, rounds = run_recipe(
        make_recipe(CASCADE),
        answer_by_task(OD=make_result(make_box("cat", 1, 1, 9, 9)), CAPTION=make_text_result("a cat")),
    )
    assert [[prompt.task.token for prompt in round_] for round_ in rounds] == [
        ["<OD>", "<CAPTION>"],
        ["<REGION_TO_SEGMENTATION>", "<CAPTION_TO_PHRASE_GROUNDING>"],
    ]
    outline, phrases = rounds[1]
    assert outline.region == (1, 1, 9, 9)
    assert phrases.text == "a cat"


def test_annotations_record_their_prompt_answer_and_parent() -> None:
    traces, _ = run_recipe(
        make_recipe(
            "- {id: things, task: <OD>, adapter: mine}\n"
            "- {id: descriptions, task: <REGION_TO_DESCRIPTION>, for_each: things}"
        ),
        answer_by_task(
            OD=make_result(make_box("cat", 0, 0, 500, 250), text="cat<loc_0>"),
            REGION_TO_DESCRIPTION=make_text_result("a fine cat"),
        ),
    )
    box, description = traces
    assert (box.step, box.prompt, box.raw) == (
        "things",
        "Locate the objects with category name in the image.",
        "cat<loc_0>",
    )
    assert (box.adapter, box.parent, box.review) == ("mine", None, "")
    assert (description.step, description.parent, description.adapter) == ("descriptions", 0, None)
    assert description.prompt == "What does the region <loc_0><loc_0><loc_500><loc_500> describe?"
    assert description.annotation == Text(label="a fine cat", score=0.9)


def test_annotations_are_ordered_by_step_then_parent_then_answer() -> None:
    def outline(prompt: ModelPrompt) -> Result:
        assert prompt.region
        x = prompt.region[0]
        return make_result(make_polygon([x, 0, x + 1, 0, x, 1]), make_polygon([x, 0, x + 2, 0, x, 1]))

    traces, _ = run_recipe(
        make_recipe(
            "- {id: a, task: <OD>}\n- {id: b, task: <REGION_TO_SEGMENTATION>, for_each: a}\n- {id: c, task: <CAPTION>}"
        ),
        answer_by_task(
            OD=make_result(make_box("dog", 50, 0, 60, 9), make_box("cat", 5, 0, 9, 9)),
            REGION_TO_SEGMENTATION=outline,
            CAPTION=make_text_result("x"),
        ),
    )
    assert [(trace.step, trace.parent) for trace in traces] == [
        *(("a", None), ("a", None), ("b", 0), ("b", 0), ("b", 1), ("b", 1), ("c", None))
    ]
    assert get_labels(traces) == [
        "dog",
        "cat",
        "dog",
        "dog",
        "cat",
        "cat",
        "x",
    ]  # outlines have the labels of their regions


def test_annotations_that_are_not_kept_are_replaced_by_their_parents() -> None:
    traces, _ = run_recipe(
        make_recipe("""
            - {id: things, task: <OD>}
            - {id: outlines, task: <REGION_TO_SEGMENTATION>, for_each: things, keep: no}
            - {id: words, task: <REGION_TO_OCR>, for_each: outlines}
        """),
        answer_by_task(
            OD=make_result(make_box("sign", 10, 10, 90, 90)),
            REGION_TO_SEGMENTATION=make_result(make_polygon([20, 20, 40, 20, 40, 60])),
            REGION_TO_OCR=lambda prompt: make_text_result(str(prompt.region)),
        ),
    )
    assert [(trace.step, trace.annotation.label, trace.parent) for trace in traces] == [
        ("things", "sign", None),
        ("words", "(20.0, 20.0, 40.0, 60.0)", 0),
    ]


def test_a_region_is_cropped_for_a_task_without_region_input() -> None:
    traces, rounds = run_recipe(
        make_recipe("- {id: things, task: <OD>}\n- {id: words, task: <OCR_WITH_REGION>, for_each: things}"),
        answer_by_task(
            OD=make_result(make_box("sign", 100.4, 50.6, 199.2, 80)),
            OCR_WITH_REGION=make_result(make_quad("STOP", *range(8))),
        ),
    )
    assert rounds[1][0].crop == (100, 50, 200, 80)
    assert rounds[1][0].region is None
    assert traces[1].annotation == make_quad("STOP", 100, 51, 102, 53, 104, 55, 106, 57)


@pytest.mark.parametrize(
    "wild", [(-5.0, -5.0, 2000.0, 900.0), (10.0, 10.0, 10.0, 90.0), (1100.0, 0.0, 1200.0, 9.0), (5.0, 5.0, 5.0, 5.0)]
)
def test_regions_are_clipped_to_the_image_and_empty_ones_are_skipped(wild: tuple[float, ...]) -> None:
    steps = "- {id: a, task: <OD>, check: true}\n- {id: b, task: <REGION_TO_OCR>, for_each: a}\n"
    _, rounds = run_recipe(
        make_recipe(steps + "- {id: c, task: <OCR>, for_each: a}"), answer_by_task(OD=make_result(make_box("x", *wild)))
    )
    assert len(rounds) == (3 if wild[0] < 0 else 1)  # `run_recipe` checks that the tasks accept each prompt


def test_a_step_with_for_each_uses_the_texts_of_the_same_region() -> None:
    _, rounds = run_recipe(
        make_recipe("""
            - {id: things, task: <OD>}
            - {id: descriptions, task: <REGION_TO_DESCRIPTION>, for_each: things}
            - {id: cut, task: <REFERRING_EXPRESSION_SEGMENTATION>, for_each: things, text: "${descriptions}"}
            - {id: whole, task: <OPEN_VOCABULARY_DETECTION>, text: "${things}"}
        """),
        answer_by_task(
            OD=make_result(make_box("cat", 0, 0, 9, 9), make_box("dog", 20, 0, 29, 9), make_box("cat", 40, 0, 49, 9)),
            REGION_TO_DESCRIPTION=lambda prompt: make_text_result(
                f"thing at {prompt.region[0]:.0f}" if prompt.region else ""
            ),
        ),
    )
    sent = [(prompt.task.token, prompt.text, prompt.crop) for round_ in rounds for prompt in round_ if prompt.text]
    assert sent == [
        ("<OPEN_VOCABULARY_DETECTION>", "cat", None),  # each text once
        ("<OPEN_VOCABULARY_DETECTION>", "dog", None),
        ("<REFERRING_EXPRESSION_SEGMENTATION>", "thing at 0", (0, 0, 9, 9)),
        ("<REFERRING_EXPRESSION_SEGMENTATION>", "thing at 20", (20, 0, 29, 9)),
        ("<REFERRING_EXPRESSION_SEGMENTATION>", "thing at 40", (40, 0, 49, 9)),
    ]


def test_invalid_texts_are_skipped_and_long_ones_truncated() -> None:
    _, rounds = run_recipe(make_recipe(CASCADE), answer_by_task(CAPTION=make_text_result("a <pad> of paper")))
    assert len(rounds) == 1
    _, rounds = run_recipe(make_recipe(CASCADE), answer_by_task(CAPTION=make_text_result("word " * 1000)))
    assert len(rounds[1][0].text or "") <= 1000


def test_a_step_without_regions_ends_the_steps_that_depend_on_it() -> None:
    traces, rounds = run_recipe(make_recipe(CASCADE), answer_by_task())
    assert traces == []
    assert len(rounds) == 1


def test_annotations_of_tiles_are_merged_in_pixels_of_the_image() -> None:
    """An object in the overlap of two tiles, found in both and in the whole image, is one annotation."""
    there = (430.0, 200.0, 470.0, 260.0)

    def answer_od(prompt: ModelPrompt) -> Result:
        x, y = prompt.crop[:2] if prompt.crop else (0, 0)
        width, _ = get_view_size(prompt, SIZE)
        if there[0] < x or there[2] > x + width:
            return make_result()
        score = 0.5 if prompt.crop is None else 0.9
        return make_result(make_box("cat", there[0] - x, there[1] - y, there[2] - x, there[3] - y, score=score))

    traces, rounds = run_recipe(
        make_recipe("- {id: a, task: <OD>, tile: {size: 500, overlap: 0.2}}"), answer_by_task(OD=answer_od)
    )
    assert [prompt.crop for prompt in rounds[0]] == [None, (0, 0, 500, 500), (250, 0, 750, 500), (500, 0, 1000, 500)]
    assert [trace.annotation for trace in traces] == [make_box("cat", *there, score=0.9)]
    assert not traces[0].review


def test_an_annotation_cut_by_a_tile_is_merged_or_reviewed() -> None:
    whole = (100.0, 100.0, 600.0, 200.0)

    def answer_od(prompt: ModelPrompt, seen_whole: bool) -> Result:
        if prompt.crop is None:
            return make_result(make_box("bus", *whole, score=0.3)) if seen_whole else make_result()
        x1, x2 = max(whole[0], prompt.crop[0]), min(whole[2], prompt.crop[2])
        return (
            make_result(make_box("bus", x1 - prompt.crop[0], 100, x2 - prompt.crop[0], 200))
            if x1 < x2
            else make_result()
        )

    given = make_recipe("- {id: a, task: <OD>, tile: {size: 500, overlap: 0.0}}")
    traces, _ = run_recipe(given, answer_by_task(OD=lambda prompt: answer_od(prompt, True)))
    assert [trace.annotation for trace in traces] == [make_box("bus", *whole, score=0.3)]
    traces, _ = run_recipe(given, answer_by_task(OD=lambda prompt: answer_od(prompt, False)))
    assert [trace.review for trace in traces] == ["cut by the edge of a tile"] * 2


def test_an_image_about_which_a_recipe_would_send_too_many_prompts_is_refused() -> None:
    recipe = make_recipe(
        '- {id: a, task: <OPEN_VOCABULARY_DETECTION>, text: "${ontology}", tile: {size: 128}}',
        "ontology: {x: [" + ", ".join(f"p{i}" for i in range(2000)) + "]}",
    )
    with pytest.raises(InvalidRequestError, match=r"more than 50,000 prompts about this image; use larger tiles"):
        run_recipe(recipe, answer_by_task(), size=(1000, 1000))
