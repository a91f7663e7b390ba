"""Recipes on unusual and random answers: no answer makes them raise."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labels.labeled_image import TracedAnnotation
from prompts import locations
from prompts.annotations import Box, Polygon, Text
from prompts.parsing import parse_answer
from prompts.special_tokens import STRUCTURE_TOKENS
from prompts.tasks import TASKS, AnswerKind, InputKind, find_task
from prompts.vocabulary import Token
from server.engine.request import Result
from server.jobs.model_prompts import ModelPrompt
from server.jobs.recipes.parsing import list_builtin_recipes, load_recipe, validate_recipe
from server.jobs.recipes.problems import RecipeError
from tests.server.jobs.recipes.scripted_answers import (
    SIZE,
    deterministic,
    get_view_size,
    make_box,
    make_polygon,
    make_quad,
    make_recipe,
    make_result,
    make_text_result,
    run_recipe,
)

ODD = [
    make_result(),
    make_result(Box(box=(3, 3, 3, 3)), Box(label="cat", box=(-9, -9, 5000, 5000)), Box(label="  ", box=(9, 9, 1, 1))),
    make_result(
        Polygon(polygons=[]), Polygon(label="cat", polygons=[[]]), Polygon(polygons=[[1.0]]), make_polygon([1, 1])
    ),
    make_result(Text(label=""), Text(label="cat")),
    make_result(make_quad("", *range(8))),
    make_result(*[make_box("cat", 0, 0, 1000, 500)] * 3),
]
EVERYTHING = make_recipe(
    """
    - id: things
      task: <OD>
      tile: {size: 400}
      flip: 0.5
      check: true
      filter: {nms: 0.5, class_agnostic_nms: 0.9, max_count: 3}
    - {id: outlines, task: <REGION_TO_SEGMENTATION>, for_each: things, filter: {max_aspect: 3, min_area: 0.01}}
    - {id: words, task: <OCR_WITH_REGION>, for_each: outlines, filter: {min_side: 0.01, max_side: 0.9}}
    - {id: read, task: <REGION_TO_OCR>, for_each: words}
    - {id: caption, task: <CAPTION>}
    - {id: phrases, task: <CAPTION_TO_PHRASE_GROUNDING>, text: "${caption}", flip: 0.5, check: true}
    - {id: open, task: <OPEN_VOCABULARY_DETECTION>, text: "${ontology}", tile: {size: 300}, check: true}
    - {id: masks, task: <REFERRING_EXPRESSION_SEGMENTATION>, text: "${words}", flip: 0.3}
    - {id: own, task: <REFERRING_EXPRESSION_SEGMENTATION>, text: "${things}", for_each: things}
    - {id: proposals, task: <REGION_PROPOSAL>, tile: {size: 300}}
    - {id: categories, task: <REGION_TO_CATEGORY>, for_each: proposals}
    - {id: question, task: <VQA>, text: how many?, for_each: proposals}
    """,
    "ontology: {cat: [cat, kitten], dog: }\nunmatched: review\nreview_below: 0.5",
)


def assert_valid(traces: list[TracedAnnotation]) -> None:
    """Asserts what every consumer of annotations relies on."""
    for index, trace in enumerate(traces):
        assert trace.parent is None or 0 <= trace.parent < index


@deterministic
@given(st.lists(st.sampled_from(ODD), min_size=1, max_size=20), st.sampled_from([(1, 1), (7, 3), SIZE]))
def test_unusual_answers_do_not_raise(answers: list[Result], size: tuple[int, int]) -> None:
    script = iter(answers * 1000)
    assert_valid(run_recipe(EVERYTHING, lambda prompt: next(script), size)[0])


TOKENS = st.one_of(
    st.sampled_from(["cat", " dog", "a", " ", "é", "<s>", "${caption}", "\n"]).map(
        lambda s: Token(text_bytes=s.encode())
    ),
    st.integers(0, locations.BINS - 1).map(lambda n: Token(location=n)),
    st.sampled_from(STRUCTURE_TOKENS).map(lambda s: Token(structure=s)),
)


@deterministic
@given(st.lists(st.lists(TOKENS, max_size=30), min_size=1, max_size=8))
def test_any_tokens_do_not_raise(answers: list[list[Token]]) -> None:
    script = iter(answers * 1000)

    def answer(prompt: ModelPrompt) -> Result:
        read = parse_answer(prompt.task, next(script), get_view_size(prompt, SIZE))
        return make_result(*read.annotations, text=read.text)

    traces, _ = run_recipe(EVERYTHING, answer)
    assert_valid(traces)
    for trace in traces:
        if isinstance(trace.annotation, Box):
            x1, y1, x2, y2 = trace.annotation.box
            assert 0 <= x1 <= x2 <= SIZE[0]
            assert 0 <= y1 <= y2 <= SIZE[1]
        assert trace.annotation.score is None or math.isfinite(trace.annotation.score)


LIMITS = [{}, {}, {}, {"score": 0.5}, {"nms": 0.5, "max_count": 2}, {"min_side": 0.1, "max_area": 0.5}]


@st.composite
def generate_recipes(draw: st.DrawFn) -> dict[str, object]:
    """Generates recipes, many of them valid."""
    steps: list[dict[str, object]] = []
    for id in "abcd"[: draw(st.integers(1, 4))]:
        task = find_task(draw(st.sampled_from([*TASKS, "<VQA>"])))
        step: dict[str, object] = {"id": id, "task": task.token, "filter": draw(st.sampled_from(LIMITS))}
        before = [str(other["id"]) for other in steps]
        if before and (task.input_kind is InputKind.REGION or draw(st.booleans())):
            step["for_each"] = draw(st.sampled_from(before))
        elif task.input_kind is not InputKind.REGION and task.answer_kind is not AnswerKind.TEXT:
            step |= draw(st.sampled_from([{}, {"tile": {"size": 300}}, {"flip": 0.5}]))
        if task.input_kind is InputKind.TEXT:
            step["text"] = draw(st.sampled_from(["a cat", "${ontology}", *(f"${{{name}}}" for name in before)]))
        steps.append(step | draw(st.sampled_from([{}, {}, {}, {"check": True}, {"keep": False}])))
    named = draw(st.booleans()) or any(step.get("text") == "${ontology}" for step in steps)
    policy = (
        {"ontology": {"pet": ["cat"]}, "unmatched": draw(st.sampled_from(["keep", "drop", "review"]))} if named else {}
    )
    return {"name": "x", "steps": steps, "disagreement": "drop", "review_below": 0.5} | policy


@settings(deterministic, max_examples=150)
@given(generate_recipes(), st.lists(st.sampled_from(ODD), min_size=1, max_size=8))
def test_a_recipe_is_rejected_or_runs(data: dict[str, object], answers: list[Result]) -> None:
    try:
        given_ = validate_recipe(data)
    except RecipeError:
        return
    script = iter(answers * 1000)
    traces, _ = run_recipe(given_, lambda prompt: next(script))
    assert_valid(traces)
    assert {trace.step for trace in traces} <= {step.id for step in given_.steps if step.keep}


@pytest.mark.parametrize("name", list_builtin_recipes())
def test_the_same_answers_give_the_same_annotations(name: str) -> None:
    def answer(prompt: ModelPrompt) -> Result:
        if prompt.task.answer_kind is AnswerKind.TEXT:
            return make_text_result(f"a cat and a dog, in {prompt.region}")
        return make_result(*(make_box("cat", x, 0, x + 90, 90, score=0.5) for x in range(0, 900, 40)))

    assert run_recipe(load_recipe(name), answer) == run_recipe(load_recipe(name), answer)
