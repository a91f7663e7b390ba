"""Samples of every task from the labels of an image."""

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from finetune.datasets.image_labels import ObjectOrder
from finetune.datasets.samples import JITTER, find_trainable_tasks, make_samples
from labels import geometry
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage
from labels.sample import Sample
from prompts.annotations import Annotation, Box, Polygon, Quad, Text
from prompts.formatting import format_answer
from prompts.parsing import parse_answer
from prompts.tasks import TASKS, InputKind, find_task
from prompts.vocabulary import tokenize_answer

SIZE = (320, 240)
CLASSES = ("cat", "dog", "bus", "No-Helmet", "fire hydrant", "small orange cat", "猫")
BOTH = frozenset((LabelKind.OBJECTS, LabelKind.WORDS))
quick = settings(max_examples=60, deadline=None, derandomize=True)

CAT = Polygon(label="cat", polygons=[[200, 10, 260, 10, 260, 60, 200, 60]])
DOGS = (Box(label="dog", box=(100, 20, 180, 90)), Box(label="dog", box=(10, 100, 90, 230)))
WORD = Quad(label="STOP", quad=(5, 5, 40, 8, 39, 20, 4, 17))
CAPTION = Text(label="two dogs and a cat in front of a sign")


def make_image(
    *annotations: Annotation, complete: frozenset[LabelKind] = BOTH, own: tuple[Sample, ...] = ()
) -> LabeledImage:
    return LabeledImage("a.png", "a.json:1", *SIZE, annotations, lambda: Image.new("RGB", SIZE), complete, own)


def make_rngs(count: int = 200) -> Iterator[np.random.Generator]:
    return (np.random.default_rng(seed) for seed in range(count))


xs, ys = st.integers(0, 1000).map(lambda n: n * 0.32), st.integers(0, 1000).map(lambda n: n * 0.24)
names = st.sampled_from(CLASSES)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    (x1, x2), (y1, y2) = (sorted(draw(st.lists(axis, min_size=2, max_size=2, unique=True))) for axis in (xs, ys))
    return Box(label=draw(names), box=(x1, y1, x2, y2))


@st.composite
def polygons(draw: st.DrawFn) -> Polygon:
    rings = []
    for _ in range(draw(st.integers(1, 3))):
        x1, y1, x2, y2 = draw(boxes()).box
        rings.append([x1, y1, x2, y1, x2, y2] if draw(st.booleans()) else geometry.box_to_ring((x1, y1, x2, y2)))
    return Polygon(label=draw(names), polygons=rings)


quads = st.builds(lambda box, text: Quad(label=text, quad=tuple(geometry.box_to_ring(box.box))), boxes(), names)
captions = st.integers(1, 60).map(lambda n: Text(label=" ".join(["word"] * n)))
images = st.builds(
    lambda annotations, complete: make_image(*annotations, complete=frozenset(complete)),
    st.lists(st.one_of(boxes(), polygons(), quads, captions), max_size=8),
    st.sets(st.sampled_from(list(LabelKind))),
)


@quick
@given(images, st.integers(0, 5), st.sampled_from(["left-to-right", "size", "given", "random"]))
def test_every_prompt_is_valid_and_its_answer_can_be_parsed_back(
    image: LabeledImage, seed: int, order: ObjectOrder
) -> None:
    samples = make_samples(image, TASKS, classes=CLASSES, rng=np.random.default_rng(seed), order=order)
    assert {sample.task.token for sample in samples} <= find_trainable_tasks(image)
    for sample in samples:
        sample.task.build_prompt(sample.text, sample.region, SIZE)
        assert (sample.region is not None) == (sample.task.input_kind is InputKind.REGION)
        written = format_answer(sample.task, sample.answer, SIZE)
        parsed = parse_answer(sample.task, tokenize_answer(written), SIZE)
        assert not parsed.dropped
        assert [(n.kind, n.label) for n in parsed.annotations] == [(n.kind, n.label) for n in sample.answer]
        assert format_answer(sample.task, parsed.annotations, SIZE) == written


@quick
@given(images)
def test_samples_depend_only_on_labels_and_seed(image: LabeledImage) -> None:
    first, second = (make_samples(image, TASKS, classes=CLASSES, rng=np.random.default_rng(3)) for _ in range(2))
    assert first == second


@quick
@given(images)
def test_every_trainable_task_has_samples(image: LabeledImage) -> None:
    """After a few tries, if there is an absent class to search for."""
    absent = (*CLASSES, "unseen")
    tasks = find_trainable_tasks(image)
    made = {s.task.token for rng in make_rngs(5) for s in make_samples(image, tasks, classes=absent, rng=rng)}
    assert made == tasks


@pytest.mark.parametrize(
    ("image", "tasks"),
    [
        (make_image(*DOGS, complete=frozenset()),
         "CAPTION_TO_PHRASE_GROUNDING OPEN_VOCABULARY_DETECTION REGION_TO_CATEGORY"),
        (
            make_image(*DOGS, complete=frozenset((LabelKind.OBJECTS,))),
            "OD REGION_PROPOSAL CAPTION_TO_PHRASE_GROUNDING OPEN_VOCABULARY_DETECTION REGION_TO_CATEGORY",
        ),
        (
            make_image(complete=frozenset((LabelKind.OBJECTS,))),
            "OD REGION_PROPOSAL CAPTION_TO_PHRASE_GROUNDING OPEN_VOCABULARY_DETECTION",
        ),
        (
            make_image(CAT, complete=frozenset()),
            "CAPTION_TO_PHRASE_GROUNDING OPEN_VOCABULARY_DETECTION REGION_TO_CATEGORY REGION_TO_SEGMENTATION "
            "REFERRING_EXPRESSION_SEGMENTATION",
        ),
        (
            make_image(Box(label="small orange cat", box=(1, 1, 9, 9)), complete=frozenset((LabelKind.OBJECTS,))),
            "OD REGION_PROPOSAL DENSE_REGION_CAPTION CAPTION_TO_PHRASE_GROUNDING OPEN_VOCABULARY_DETECTION "
            "REGION_TO_CATEGORY REGION_TO_DESCRIPTION",
        ),
        (make_image(Box(box=(1, 1, 9, 9)), complete=frozenset((LabelKind.OBJECTS,))), "REGION_PROPOSAL"),
        (make_image(WORD, complete=frozenset((LabelKind.WORDS,))), "OCR OCR_WITH_REGION REGION_TO_OCR"),
        (make_image(WORD, complete=frozenset()), "REGION_TO_OCR"),
        (make_image(complete=frozenset((LabelKind.WORDS,))), "OCR OCR_WITH_REGION"),
        (make_image(CAPTION, complete=frozenset()), "CAPTION"),
        (make_image(Text(label="word " * 20), Text(label="word " * 60), complete=frozenset()),
         "DETAILED_CAPTION MORE_DETAILED_CAPTION"),
        (make_image(complete=frozenset()), ""),
    ],
)  # fmt: skip
def test_labels_decide_which_tasks_are_trainable(image: LabeledImage, tasks: str) -> None:
    assert find_trainable_tasks(image) == {f"<{task}>" for task in tasks.split()}


def test_detection_lists_all_objects_in_the_given_order() -> None:
    def list_objects(order: ObjectOrder) -> list[tuple[str, tuple[float, ...]]]:
        image = make_image(CAT, *DOGS)
        (sample,) = make_samples(image, ["<OD>"], classes=(), rng=np.random.default_rng(1), order=order)
        return [(annotation.label, annotation.box) for annotation in sample.answer if isinstance(annotation, Box)]

    cat = ("cat", (200, 10, 260, 60))
    one, two = (("dog", dog.box) for dog in DOGS)
    assert list_objects("given") == [cat, one, two]
    assert list_objects("left-to-right") == [two, one, cat]
    assert list_objects("size") == [two, one, cat]
    assert sorted(list_objects("random")) == sorted(list_objects("given"))


def test_a_random_order_varies() -> None:
    image = make_image(CAT, *DOGS)
    orders = {make_samples(image, ["<OD>"], classes=(), rng=rng, order="random")[0].answer for rng in make_rngs(40)}
    assert len(orders) == 6


def test_groundings_have_exactly_the_boxes_of_their_phrases() -> None:
    truth = {"a cat": {(200.0, 10.0, 260.0, 60.0)}, "two dogs": {dog.box for dog in DOGS}, "a bus": set()}
    seen = set[str]()
    for rng in make_rngs():
        (sample,) = make_samples(
            make_image(CAT, *DOGS), ["<CAPTION_TO_PHRASE_GROUNDING>"], classes=("cat", "dog", "bus"), rng=rng
        )
        phrases = re.split(r", | and ", sample.text or "")
        assert set(phrases) <= set(truth)
        for phrase in phrases:
            assert {n.box for n in sample.answer if isinstance(n, Box) and n.label == phrase} == truth[phrase]
        assert {annotation.label for annotation in sample.answer} <= set(phrases)
        seen.add(sample.text or "")
    assert {"a cat", "two dogs and a cat", "a cat and two dogs", "a bus", "two dogs, a cat and a bus"} <= seen


def test_open_vocabulary_searches_for_present_and_absent_classes() -> None:
    answers = dict[str, set[int]]()
    for rng in make_rngs():
        (sample,) = make_samples(make_image(CAT, *DOGS), ["<OPEN_VOCABULARY_DETECTION>"], classes=CLASSES, rng=rng)
        answers.setdefault(sample.text or "", set()).add(len(sample.answer))
    assert answers == {**{label: {0} for label in CLASSES}, "cat": {1}, "dog": {2}}


def test_no_class_is_absent_if_not_all_objects_are_labeled() -> None:
    image = make_image(CAT, *DOGS, complete=frozenset((LabelKind.WORDS,)))
    tasks = ("<OPEN_VOCABULARY_DETECTION>", "<CAPTION_TO_PHRASE_GROUNDING>")
    for rng in make_rngs():
        for sample in make_samples(image, tasks, classes=CLASSES, rng=rng):
            assert sample.answer
            assert "bus" not in (sample.text or "")


def test_a_class_with_another_case_is_not_absent() -> None:
    for rng in make_rngs(50):
        (sample,) = make_samples(make_image(CAT), ["<OPEN_VOCABULARY_DETECTION>"], classes=("Cat",), rng=rng)
        assert sample.answer


def test_regions_are_near_their_boxes_and_inside_the_image() -> None:
    edge = Box(label="dog", box=(0, 0, 320, 240))
    thin = Box(label="bus", box=(319.5, 100, 320, 100.6))
    for rng in make_rngs(100):
        for shape in (edge, thin, *DOGS):
            (sample,) = make_samples(make_image(shape), ["<REGION_TO_CATEGORY>"], classes=(), rng=rng)
            assert sample.region is not None
            assert sample.answer == (Text(label=shape.label),)
            x1, y1, x2, y2 = sample.region
            assert 0 <= x1 < x2 <= 320
            assert 0 <= y1 < y2 <= 240
            width, height = shape.box[2] - shape.box[0], shape.box[3] - shape.box[1]
            for k, side in enumerate((width, height, width, height)):
                assert abs(sample.region[k] - shape.box[k]) <= JITTER * side + 1


def test_only_unique_objects_are_referred_to() -> None:
    two = (
        CAT,
        Polygon(label="Cat", polygons=[[1, 1, 9, 1, 9, 9]]),
        Polygon(label="dog", polygons=[[1, 1, 9, 1, 9, 9]]),
    )
    texts = {
        make_samples(make_image(*two), ["<REFERRING_EXPRESSION_SEGMENTATION>"], classes=(), rng=rng)[0].text
        for rng in make_rngs(30)
    }
    assert texts == {"the dog"}
    two_cats = make_image(CAT, Box(label="cat", box=(1, 1, 9, 9)))
    assert "<REFERRING_EXPRESSION_SEGMENTATION>" not in find_trainable_tasks(two_cats)


def test_an_outline_with_many_points_is_simplified_and_keeps_its_area() -> None:
    turns = np.linspace(0, 2 * np.pi, 2000, endpoint=False)
    radius = 80 + 10 * np.sin(40 * turns)
    ring = np.stack([160 + radius * np.cos(turns), 120 + radius * np.sin(turns)], axis=1).ravel().tolist()
    image = make_image(Polygon(label="cat", polygons=[ring]))
    (sample,) = make_samples(image, ["<REGION_TO_SEGMENTATION>"], classes=(), rng=np.random.default_rng(0))
    (annotation,) = sample.answer
    assert isinstance(annotation, Polygon)
    (outline,) = annotation.polygons
    assert 30 < len(outline) // 2 <= geometry.MAX_ANSWER_POINTS
    assert geometry.signed_area(outline) == pytest.approx(abs(geometry.signed_area(ring)), rel=0.05)


def test_words_keep_their_order() -> None:
    other = Quad(label="GO", quad=(5, 1, 9, 1, 9, 3, 5, 3))
    tasks, rng = ["<OCR>", "<OCR_WITH_REGION>"], np.random.default_rng(0)
    samples = make_samples(make_image(WORD, other), tasks, classes=(), rng=rng)
    assert samples[0].answer == (Text(label="STOP\nGO"),)
    assert samples[1].answer == (WORD, other)


def test_samples_of_the_dataset_are_kept() -> None:
    own = (
        Sample(find_task("<VQA>"), (Text(label="red"),), text="what color?"),
        Sample(find_task("<VQA>"), (Text(label="two"),), text="how many?"),
        Sample(TASKS["<MORE_DETAILED_CAPTION>"], (Text(label="A bus."),)),
    )
    image = make_image(CAT, own=own)
    assert {"<VQA>", "<MORE_DETAILED_CAPTION>", "<OD>"} <= find_trainable_tasks(image)
    samples = make_samples(image, ["<VQA>", "<OD>"], classes=(), rng=np.random.default_rng(0))
    assert [sample.task.token for sample in samples] == ["<VQA>", "<VQA>", "<OD>"]


def test_tasks_without_labels_are_left_out() -> None:
    image = replace(make_image(CAT), complete=frozenset())
    assert make_samples(image, ["<OD>", "<OCR>", "<UNKNOWN>"], classes=CLASSES, rng=np.random.default_rng(0)) == []


def test_tiny_images_have_valid_samples() -> None:
    image = replace(make_image(Box(label="cat", box=(0, 0, 1, 1))), width=1, height=1)
    for rng in make_rngs(20):
        for sample in make_samples(image, TASKS, classes=CLASSES, rng=rng):
            sample.task.build_prompt(sample.text, sample.region, (1, 1))
            format_answer(sample.task, sample.answer, (1, 1))
