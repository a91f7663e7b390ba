"""The object view: one annotation for each object, whatever recipe has found it."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labels.geometry import bounding_box
from labels.labeled_image import LabeledImage, TracedAnnotation
from prompts.annotations import Box, Polygon, Quad, Text
from prompts.tasks import TASKS
from server.jobs.object_view import ObjectView
from server.jobs.recipes.parsing import load_recipe, validate_recipe
from server.jobs.recipes.recipe import Recipe

SIZE = (1000, 1000)
HAT = (100.0, 100.0, 300.0, 300.0)
FULL = load_recipe("full")


def make_box(step: str, label: str, box: Sequence[float] = HAT, score: float = 0.9, **more: Any) -> TracedAnnotation:
    return TracedAnnotation(Box(label=label, score=score, box=tuple(box)), step, f"prompt of {step}", **more)


def make_outline(step: str, label: str, box: Sequence[float], parent: int | None, **more: Any) -> TracedAnnotation:
    """Returns an octagon with these bounds."""
    x1, y1, x2, y2 = box
    dx, dy = (x2 - x1) / 4, (y2 - y1) / 4
    ring = [x1 + dx, y1, x2 - dx, y1, x2, y1 + dy, x2, y2 - dy, x2 - dx, y2, x1 + dx, y2, x1, y2 - dy, x1, y1 + dy]
    shape = Polygon(label=label, score=0.8, polygons=[ring])
    return TracedAnnotation(shape, step, f"outline {parent}", parent=parent, **more)


def make_text(step: str, text: str, parent: int | None = None, **more: Any) -> TracedAnnotation:
    return TracedAnnotation(Text(label=text, score=0.7), step, f"text {step} {parent}", parent=parent, **more)


def make_word(step: str, text: str, box: Sequence[float]) -> TracedAnnotation:
    x1, y1, x2, y2 = box
    return TracedAnnotation(Quad(label=text, score=0.6, quad=(x1, y1, x2, y1, x2, y2, x1, y2)), step, "words")


def view(recipe: Recipe, *traces: TracedAnnotation) -> LabeledImage:
    return ObjectView(recipe).apply(LabeledImage.from_traces("a.png", *SIZE, traces))


def make_recipe(*steps: dict[str, Any], **keys: Any) -> Recipe:
    return validate_recipe({"name": "r", "steps": list(steps), **keys})


OBJECTS = {"id": "objects", "task": "<OD>"}
OUTLINES = {"id": "outlines", "task": "<REGION_TO_SEGMENTATION>", "for_each": "objects"}


def test_everything_that_a_full_recipe_says_about_one_object_is_one_annotation() -> None:
    """The case of the issue: hat, a hat and medium blue hat were three categories of one object."""
    image = view(
        FULL,
        make_text("brief", "a hat"),
        make_box("phrases", "a hat", (102, 98, 299, 305)),
        make_box("objects", "hat", HAT, 0.95),
        make_outline("outlines", "hat", (101, 101, 298, 299), 2),
        make_text("descriptions", "medium blue\n hat", 2),
        make_box("regions", "medium blue hat", (99, 100, 300, 300)),
        make_word("words", "NY", (150, 150, 200, 180)),
    )
    caption, hat, word = image.traces
    assert (caption.annotation.label, word.annotation.label) == ("a hat", "NY")
    assert isinstance(hat.annotation, Polygon)
    assert (hat.annotation.label, hat.annotation.score, hat.step) == ("hat", 0.95, "objects")
    assert hat.attributes == {"description": "medium blue hat", "phrases": "medium blue hat", "words": "NY"}
    assert image.regions == ()
    assert len(image.answers) == 7
    assert image.left_out == {}


@pytest.mark.parametrize(
    ("bounds", "fits"), [((100, 100, 300, 300), True), ((100, 100, 300, 210), True), ((100, 100, 200, 190), False)]
)
def test_an_outline_takes_the_place_of_a_box_that_it_fits(bounds: tuple[float, ...], fits: bool) -> None:
    recipe = load_recipe("segment")
    image = view(recipe, make_box("objects", "hat"), make_outline("outlines", "hat", bounds, 0))
    (hat,) = image.annotations
    assert hat.kind == ("polygon" if fits else "box")
    assert image.left_out == ({} if fits else {"outlines that do not fit an object": 1})
    assert len(image.answers) == 2


def test_a_sliver_is_no_outline() -> None:
    line = Polygon(label="hat", polygons=[[100.0, 100.0, 300.0, 300.0, 301.0, 301.0]])
    trace = TracedAnnotation(line, "outlines", "outline", parent=0)
    image = view(load_recipe("segment"), make_box("objects", "hat"), trace)
    assert [each.kind for each in image.annotations] == ["box"]
    assert image.left_out == {"outlines that do not fit an object": 1}


def test_an_outline_without_the_kept_box_is_the_object() -> None:
    recipe = make_recipe({**OBJECTS, "keep": False}, OUTLINES)
    image = view(recipe, make_outline("outlines", "hat", HAT, None))
    assert [(each.kind, each.label) for each in image.annotations] == [("polygon", "hat")]
    assert image.answers == ()


def test_an_outline_of_a_step_that_is_not_kept_is_not_that_of_an_earlier_one() -> None:
    hats = {"id": "hats", "task": "<OPEN_VOCABULARY_DETECTION>", "text": "hat", "for_each": "objects", "keep": False}
    recipe = make_recipe(OBJECTS, hats, {**OUTLINES, "for_each": "hats"})
    image = view(recipe, make_box("objects", "person"), make_outline("outlines", "hat", (120, 100, 200, 150), 0))
    assert [(each.kind, each.label) for each in image.annotations] == [("box", "person"), ("polygon", "hat")]
    assert image.left_out == {}


def test_referring_segmentation_of_each_object_outlines_it() -> None:
    step = {"id": "masks", "task": "<REFERRING_EXPRESSION_SEGMENTATION>", "text": "${objects}", "for_each": "objects"}
    image = view(make_recipe(OBJECTS, step), make_box("objects", "hat"), make_outline("masks", "hat", HAT, 0))
    assert [each.kind for each in image.annotations] == ["polygon"]


def test_referring_segmentation_of_a_class_outlines_the_objects_of_the_class() -> None:
    step = {"id": "masks", "task": "<REFERRING_EXPRESSION_SEGMENTATION>", "text": "${objects}"}
    other = (600.0, 600.0, 800.0, 800.0)
    traces = [make_box("objects", "hat"), make_box("objects", "hat", other), make_outline("masks", "hat", other, None)]
    image = view(make_recipe(OBJECTS, step), *traces)
    assert [(each.kind, bounding_box(each)) for each in image.annotations] == [("box", HAT), ("polygon", other)]  # type: ignore[arg-type]


def test_referring_segmentation_of_the_users_own_words_is_a_class() -> None:
    step = {"id": "masks", "task": "<REFERRING_EXPRESSION_SEGMENTATION>", "text": "the left hat"}
    image = view(make_recipe(step), make_outline("masks", "the left hat", HAT, None))
    assert [(each.kind, each.label) for each in image.annotations] == [("polygon", "the left hat")]


def test_phrases_of_a_caption_are_no_classes() -> None:
    image = view(load_recipe("ground"), make_text("caption", "a red hat"), make_box("phrases", "a red hat"))
    assert [each.kind for each in image.annotations] == ["text"]
    assert [each.annotation.label for each in image.regions] == ["a red hat"]
    dense = view(load_recipe("dense"), make_box("regions", "a red hat"))
    assert (dense.annotations, [each.annotation.label for each in dense.regions]) == ((), ["a red hat"])


@pytest.mark.parametrize("text", ["hat. book", "${ontology}"])
def test_phrases_of_the_user_are_classes(text: str) -> None:
    step = {"id": "phrases", "task": "<CAPTION_TO_PHRASE_GROUNDING>", "text": text}
    recipe = make_recipe(step, **({"ontology": {"hat": ["hat"], "book": []}} if "$" in text else {}))
    image = view(recipe, make_box("phrases", "hat"))
    assert [each.label for each in image.annotations] == ["hat"]
    assert image.regions == ()


def test_phrases_that_the_ontology_knows_are_classes_and_others_are_not() -> None:
    steps = [
        {"id": "caption", "task": "<CAPTION>"},
        {"id": "phrases", "task": "<CAPTION_TO_PHRASE_GROUNDING>", "text": "${caption}"},
    ]
    recipe = make_recipe(*steps, ontology={"headgear": ["hat"]}, unmatched="keep")
    image = view(recipe, make_box("phrases", "headgear"), make_box("phrases", "a red wall", (0, 0, 999, 999)))
    assert [each.label for each in image.annotations] == ["headgear"]
    assert [each.annotation.label for each in image.regions] == ["a red wall"]


@pytest.mark.parametrize(
    ("phrase", "is_about"),
    [
        ("a hat", True),
        ("two small hats", True),
        ("the hat of a man", True),
        ("a hat box", False),
        ("a man in a hat", False),
        ("a person", False),
    ],
)
def test_a_phrase_is_about_an_object_whose_class_is_its_head(phrase: str, is_about: bool) -> None:
    image = view(FULL, make_box("objects", "hat"), make_box("regions", phrase))
    assert len(image.annotations) == 1
    assert len(image.regions) == (not is_about)
    says_more = is_about and phrase != "a hat"
    assert image.traces[0].attributes == ({"phrases": phrase} if says_more else {})


def test_a_phrase_elsewhere_is_a_region() -> None:
    image = view(FULL, make_box("objects", "hat"), make_box("regions", "a hat", (200, 200, 400, 400)))
    assert [each.annotation.label for each in image.regions] == ["a hat"]


def test_one_region_of_two_steps_is_one() -> None:
    image = view(FULL, make_box("phrases", "a hat", score=0.5), make_box("regions", "A hat.", score=0.6))
    (region,) = image.regions
    assert (region.annotation.label, region.annotation.score) == ("a hat", 0.6)


TWO = make_recipe({**OBJECTS, "adapter": "one"}, {"id": "more", "task": "<OD>", "adapter": "two"})


def test_two_steps_that_find_one_object_are_one_annotation() -> None:
    found = [
        make_box("objects", "hat", HAT, 0.4, review="score 0.40 is below 0.5"),
        make_box("objects", "cup", (500, 500, 600, 600)),
        make_box("more", "Hat", (110, 100, 300, 310), 0.8, adapter="two"),
        make_box("more", "hat", (700, 700, 900, 900)),
    ]
    image = view(TWO, *found)
    assert [each.label for each in image.annotations] == ["hat", "cup", "hat"]
    first = image.traces[0]
    assert (first.annotation.score, first.adapter, first.review) == (0.8, "two", "")
    assert bounding_box(first.annotation) == (110, 100, 300, 310)  # type: ignore[arg-type]


def test_objects_of_other_classes_or_of_one_answer_stay_apart() -> None:
    image = view(
        TWO,
        make_box("objects", "hat"),
        make_box("objects", "hat", (105, 100, 300, 300)),
        make_box("more", "cap", (100, 100, 300, 270)),
    )
    assert [each.label for each in image.annotations] == ["hat", "hat", "cap"]
    assert image.answers == ()


@pytest.mark.parametrize(("score", "label", "category"), [(0.95, "cap", "hat"), (0.5, "hat", "cap")])
def test_detections_that_disagree_about_an_object_are_one_annotation(score: float, label: str, category: str) -> None:
    image = view(TWO, make_box("objects", "hat"), make_box("more", "cap", (102, 100, 300, 300), score))
    (trace,) = image.traces
    assert (trace.annotation.label, trace.annotation.score) == (label, max(score, 0.9))
    assert trace.attributes == {"category": category}
    asked = make_recipe(OBJECTS, {"id": "more", "task": "<OPEN_VOCABULARY_DETECTION>", "text": "cap"})
    assert len(view(asked, make_box("objects", "hat"), make_box("more", "cap")).annotations) == 2


def test_two_objects_of_one_class_are_matched_one_for_one() -> None:
    near = (140.0, 100.0, 340.0, 300.0)
    boxes = [make_box(step, "hat", box) for step in ("objects", "more") for box in (HAT, near)]
    assert [bounding_box(each) for each in view(TWO, *boxes).annotations] == [HAT, near]  # type: ignore[arg-type]


def test_proposals_get_their_class_from_the_category_of_their_region() -> None:
    steps = [
        {"id": "objects", "task": "<REGION_PROPOSAL>"},
        {"id": "names", "task": "<REGION_TO_CATEGORY>", "for_each": "objects"},
    ]
    image = view(make_recipe(*steps), make_box("objects", ""), make_text("names", "hat", 0))
    assert [(each.kind, each.label) for each in image.annotations] == [("box", "hat")]
    region = TASKS["<REGION_TO_CATEGORY>"].build_prompt(None, HAT, SIZE)
    only = make_recipe({**steps[0], "keep": False}, steps[1])
    image = view(only, TracedAnnotation(Text(label="hat", score=0.9), "names", region))
    assert [(each.kind, each.label) for each in image.annotations] == [("box", "hat")]
    assert bounding_box(image.annotations[0]) == pytest.approx(HAT, abs=1)  # type: ignore[arg-type]


def test_another_category_is_an_attribute() -> None:
    recipe = make_recipe(OBJECTS, {"id": "names", "task": "<REGION_TO_CATEGORY>", "for_each": "objects"})
    image = view(recipe, make_box("objects", "hat"), make_text("names", "cap", 0))
    assert (image.annotations[0].label, image.traces[0].attributes) == ("hat", {"category": "cap"})
    assert view(recipe, make_box("objects", "hat"), make_text("names", "Hat", 0)).traces[0].attributes == {}


def test_answers_to_a_models_own_task_are_attributes_and_samples() -> None:
    recipe = make_recipe(
        OBJECTS,
        {"id": "color", "task": "<VQA>", "text": "which color?", "for_each": "objects"},
        {"id": "mood", "task": "<VQA>", "text": "which mood?"},
        {"id": "read", "task": "<OCR>"},
    )
    image = view(
        recipe,
        make_box("objects", "hat"),
        make_text("color", "blue", 0),
        TracedAnnotation(Text(label="calm"), "mood", "<VQA>which mood?"),
        TracedAnnotation(Text(label="STOP"), "read", "What is the text in the image?"),
    )
    assert image.traces[0].attributes == {"color": "blue"}
    assert len(image.annotations) == 1
    assert [(each.task.token, each.text, each.answer[0].label) for each in image.samples] == [
        ("<VQA>", "which mood?", "calm"), ("<OCR>", None, "STOP"),
    ]  # fmt: skip


def test_a_word_belongs_to_the_smallest_object_around_it() -> None:
    image = view(
        FULL,
        make_box("objects", "street", (0, 0, 1000, 1000)),
        make_box("objects", "sign", HAT),
        make_word("words", "STOP", (120, 120, 200, 150)),
        make_word("words", "STOP", (120, 160, 200, 190)),
        make_word("words", "EXIT", (280, 280, 400, 320)),
    )
    street, sign, *words = image.traces
    assert (street.attributes, sign.attributes) == ({"words": "EXIT"}, {"words": "STOP STOP"})
    assert [each.annotation.kind for each in words] == ["quad"] * 3


def test_reasons_for_review_are_combined() -> None:
    low = "score 0.20 is below 0.3"
    image = view(
        FULL,
        make_box("objects", "hat", review="the check returned 'cap'"),
        make_outline("outlines", "hat", HAT, 0, review=f"its parent annotation needs review; {low}"),
        make_text(
            "descriptions", "a blue hat", 0, review="its parent annotation needs review; the answer was truncated"
        ),
        make_box("regions", "a blue hat", review=low),
    )
    (hat,) = image.traces
    reasons = ["the check returned 'cap'", f"outline: {low}", "description: the answer was truncated"]
    assert hat.review.split("; ") == reasons


def test_steps_that_the_recipe_does_not_have_are_objects_words_and_captions() -> None:
    image = view(
        load_recipe("detect"), make_box("gone", "hat"), make_word("gone", "NY", HAT), make_text("gone", "a hat")
    )
    assert [each.kind for each in image.annotations] == ["box", "quad", "text"]


boxes = st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 4), st.integers(1, 4)).map(
    lambda v: (v[0] * 80.0, v[1] * 80.0, v[0] * 80.0 + v[2] * 60.0, v[1] * 80.0 + v[3] * 60.0)
)
phrases = st.sampled_from(["hat", "a hat", "medium blue hat", "cup", "a red cup", "a wall", ""])


@st.composite
def answers(draw: st.DrawFn) -> list[TracedAnnotation]:
    """Answers to the recipe `full`, in the order of its steps."""
    found = [make_box("phrases", draw(phrases), draw(boxes)) for _ in range(draw(st.integers(0, 3)))]
    objects = draw(st.integers(0, 4))
    first = len(found)
    found += [make_box("objects", draw(st.sampled_from(["hat", "cup"])), draw(boxes)) for _ in range(objects)]
    for parent in range(first, first + objects):
        box = bounding_box(found[parent].annotation)  # type: ignore[arg-type]
        outline = draw(st.sampled_from([box, draw(boxes)]))
        found.append(make_outline("outlines", found[parent].annotation.label, outline, parent))
        found.append(make_text("descriptions", draw(phrases), parent))
    found += [make_box("regions", draw(phrases), draw(boxes)) for _ in range(draw(st.integers(0, 3)))]
    return found + [make_word("words", "NY", draw(boxes)) for _ in range(draw(st.integers(0, 2)))]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(answers())
def test_no_object_is_counted_twice_and_no_answer_is_lost(traces: list[TracedAnnotation]) -> None:
    image = view(FULL, *traces)
    objects = [each for each in image.traces if each.annotation.kind in ("box", "polygon")]
    found = [each for each in traces if each.step == "objects"]
    assert [each.annotation.label for each in objects] == [each.annotation.label for each in found]
    assert {each.annotation.label for each in objects} <= {"hat", "cup"}
    outlines = sum(each.annotation.kind == "polygon" for each in objects)
    assert outlines + image.left_out.get("outlines that do not fit an object", 0) == len(found)
    said = " ".join("; ".join(each.attributes.values()) for each in objects)
    said += " ".join(each.annotation.label for each in image.regions)
    for trace in traces:
        if trace.step in ("phrases", "regions") and trace.annotation.label not in ("hat", "a hat", "cup", ""):
            assert trace.annotation.label in said
    assert all(trace in (image.answers or image.traces) for trace in traces)
    assert ObjectView(FULL).apply(image.with_traces(*traces)).annotations == image.annotations
