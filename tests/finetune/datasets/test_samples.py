import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from finetune.datasets import samples
from finetune.datasets.samples import questions, teachable
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
LABELS = ("cat", "dog", "bus", "No-Helmet", "fire hydrant", "small orange cat", "猫")
BOTH = frozenset((LabelKind.OBJECTS, LabelKind.WORDS))
some = settings(max_examples=60, deadline=None, derandomize=True)

CAT = Polygon(label="cat", polygons=[[200, 10, 260, 10, 260, 60, 200, 60]])
DOGS = (Box(label="dog", box=(100, 20, 180, 90)), Box(label="dog", box=(10, 100, 90, 230)))
WORD = Quad(label="STOP", quad=(5, 5, 40, 8, 39, 20, 4, 17))
CAPTION = Text(label="two dogs and a cat in front of a sign")


def example(*notes: Annotation, complete: frozenset[LabelKind] = BOTH, own: tuple[Sample, ...] = ()) -> LabeledImage:
    return LabeledImage("a.png", "a.json:1", *SIZE, notes, lambda: Image.new("RGB", SIZE), complete, own)


def chances(count: int = 200) -> Iterator[np.random.Generator]:
    return (np.random.default_rng(seed) for seed in range(count))


xs, ys = st.integers(0, 1000).map(lambda n: n * 0.32), st.integers(0, 1000).map(lambda n: n * 0.24)
names = st.sampled_from(LABELS)


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
examples = st.builds(
    lambda notes, complete: example(*notes, complete=frozenset(complete)),
    st.lists(st.one_of(boxes(), polygons(), quads, captions), max_size=8),
    st.sets(st.sampled_from(list(LabelKind))),
)


@some
@given(examples, st.integers(0, 5), st.sampled_from(["left-to-right", "size", "given", "random"]))
def test_every_question_can_be_asked_and_its_answer_reads_back(
    picture: LabeledImage, seed: int, order: samples.Order
) -> None:
    asked = questions(picture, TASKS, labels=LABELS, rng=np.random.default_rng(seed), order=order)
    assert {question.task.token for question in asked} <= teachable(picture)
    for question in asked:
        question.task.build_prompt(question.text, question.region, SIZE)
        assert (question.region is not None) == (question.task.input_kind is InputKind.REGION)
        written = format_answer(question.task, question.answer, SIZE)
        read = parse_answer(question.task, tokenize_answer(written), SIZE)
        assert not read.dropped
        assert [(n.kind, n.label) for n in read.annotations] == [(n.kind, n.label) for n in question.answer]
        assert format_answer(question.task, read.annotations, SIZE) == written


@some
@given(examples)
def test_chance_and_labels_decide_alone(picture: LabeledImage) -> None:
    first, second = (questions(picture, TASKS, labels=LABELS, rng=np.random.default_rng(3)) for _ in range(2))
    assert first == second


@some
@given(examples)
def test_what_is_teachable_is_taught(picture: LabeledImage) -> None:
    """At the latest after some tries, where there is a label to ask for that is not there."""
    absent = (*LABELS, "unseen")
    asked = {q.task.token for rng in chances(5) for q in questions(picture, teachable(picture), labels=absent, rng=rng)}
    assert asked == teachable(picture)


@pytest.mark.parametrize(
    ("picture", "tasks"),
    [
        (example(*DOGS, complete=frozenset()),
         "CAPTION_TO_PHRASE_GROUNDING OPEN_VOCABULARY_DETECTION REGION_TO_CATEGORY"),
        (
            example(*DOGS, complete=frozenset((LabelKind.OBJECTS,))),
            "OD REGION_PROPOSAL CAPTION_TO_PHRASE_GROUNDING OPEN_VOCABULARY_DETECTION REGION_TO_CATEGORY",
        ),
        (
            example(complete=frozenset((LabelKind.OBJECTS,))),
            "OD REGION_PROPOSAL CAPTION_TO_PHRASE_GROUNDING OPEN_VOCABULARY_DETECTION",
        ),
        (
            example(CAT, complete=frozenset()),
            "CAPTION_TO_PHRASE_GROUNDING OPEN_VOCABULARY_DETECTION REGION_TO_CATEGORY REGION_TO_SEGMENTATION "
            "REFERRING_EXPRESSION_SEGMENTATION",
        ),
        (
            example(Box(label="small orange cat", box=(1, 1, 9, 9)), complete=frozenset((LabelKind.OBJECTS,))),
            "OD REGION_PROPOSAL DENSE_REGION_CAPTION CAPTION_TO_PHRASE_GROUNDING OPEN_VOCABULARY_DETECTION "
            "REGION_TO_CATEGORY REGION_TO_DESCRIPTION",
        ),
        (example(Box(box=(1, 1, 9, 9)), complete=frozenset((LabelKind.OBJECTS,))), "REGION_PROPOSAL"),
        (example(WORD, complete=frozenset((LabelKind.WORDS,))), "OCR OCR_WITH_REGION REGION_TO_OCR"),
        (example(WORD, complete=frozenset()), "REGION_TO_OCR"),
        (example(complete=frozenset((LabelKind.WORDS,))), "OCR OCR_WITH_REGION"),
        (example(CAPTION, complete=frozenset()), "CAPTION"),
        (example(Text(label="word " * 20), Text(label="word " * 60), complete=frozenset()),
         "DETAILED_CAPTION MORE_DETAILED_CAPTION"),
        (example(complete=frozenset()), ""),
    ],
)  # fmt: skip
def test_what_labels_can_teach(picture: LabeledImage, tasks: str) -> None:
    assert teachable(picture) == {f"<{task}>" for task in tasks.split()}


def test_detection_tells_all_objects_in_the_order_that_was_asked_for() -> None:
    def told(order: samples.Order) -> list[tuple[str, tuple[float, ...]]]:
        picture = example(CAT, *DOGS)
        (question,) = questions(picture, ["<OD>"], labels=(), rng=np.random.default_rng(1), order=order)
        return [(note.label, note.box) for note in question.answer if isinstance(note, Box)]

    cat = ("cat", (200, 10, 260, 60))
    one, two = (("dog", dog.box) for dog in DOGS)
    assert told("given") == [cat, one, two]
    assert told("left-to-right") == [two, one, cat]
    assert told("size") == [two, one, cat]
    assert sorted(told("random")) == sorted(told("given"))


def test_a_random_order_is_not_always_the_same() -> None:
    picture = example(CAT, *DOGS)
    orders = {questions(picture, ["<OD>"], labels=(), rng=rng, order="random")[0].answer for rng in chances(40)}
    assert len(orders) == 6


def test_groundings_box_exactly_what_their_phrases_say() -> None:
    truth = {"a cat": {(200.0, 10.0, 260.0, 60.0)}, "two dogs": {dog.box for dog in DOGS}, "a bus": set()}
    seen = set[str]()
    for rng in chances():
        (question,) = questions(
            example(CAT, *DOGS), ["<CAPTION_TO_PHRASE_GROUNDING>"], labels=("cat", "dog", "bus"), rng=rng
        )
        phrases = re.split(r", | and ", question.text or "")
        assert set(phrases) <= set(truth)
        for phrase in phrases:
            assert {n.box for n in question.answer if isinstance(n, Box) and n.label == phrase} == truth[phrase]
        assert {note.label for note in question.answer} <= set(phrases)
        seen.add(question.text or "")
    assert {"a cat", "two dogs and a cat", "a cat and two dogs", "a bus", "two dogs, a cat and a bus"} <= seen


def test_open_vocabulary_asks_for_what_is_there_and_for_what_is_not() -> None:
    answers = dict[str, set[int]]()
    for rng in chances():
        (question,) = questions(example(CAT, *DOGS), ["<OPEN_VOCABULARY_DETECTION>"], labels=LABELS, rng=rng)
        answers.setdefault(question.text or "", set()).add(len(question.answer))
    assert answers == {**{label: {0} for label in LABELS}, "cat": {1}, "dog": {2}}


def test_nothing_is_called_absent_where_not_all_is_labelled() -> None:
    picture = example(CAT, *DOGS, complete=frozenset((LabelKind.WORDS,)))
    tasks = ("<OPEN_VOCABULARY_DETECTION>", "<CAPTION_TO_PHRASE_GROUNDING>")
    for rng in chances():
        for question in questions(picture, tasks, labels=LABELS, rng=rng):
            assert question.answer
            assert "bus" not in (question.text or "")


def test_a_label_that_differs_in_case_is_not_absent() -> None:
    for rng in chances(50):
        (question,) = questions(example(CAT), ["<OPEN_VOCABULARY_DETECTION>"], labels=("Cat",), rng=rng)
        assert question.answer


def test_regions_are_near_and_inside() -> None:
    edge = Box(label="dog", box=(0, 0, 320, 240))
    thin = Box(label="bus", box=(319.5, 100, 320, 100.6))
    for rng in chances(100):
        for shape in (edge, thin, *DOGS):
            (question,) = questions(example(shape), ["<REGION_TO_CATEGORY>"], labels=(), rng=rng)
            assert question.region is not None
            assert question.answer == (Text(label=shape.label),)
            x1, y1, x2, y2 = question.region
            assert 0 <= x1 < x2 <= 320
            assert 0 <= y1 < y2 <= 240
            width, height = shape.box[2] - shape.box[0], shape.box[3] - shape.box[1]
            for k, side in enumerate((width, height, width, height)):
                assert abs(question.region[k] - shape.box[k]) <= samples.JITTER * side + 1


def test_only_what_is_alone_is_referred_to() -> None:
    two = (
        CAT,
        Polygon(label="Cat", polygons=[[1, 1, 9, 1, 9, 9]]),
        Polygon(label="dog", polygons=[[1, 1, 9, 1, 9, 9]]),
    )
    asked = {
        questions(example(*two), ["<REFERRING_EXPRESSION_SEGMENTATION>"], labels=(), rng=rng)[0].text
        for rng in chances(30)
    }
    assert asked == {"the dog"}
    assert "<REFERRING_EXPRESSION_SEGMENTATION>" not in teachable(example(CAT, Box(label="cat", box=(1, 1, 9, 9))))


def test_a_mask_of_many_points_is_told_with_few_and_stays_in_place() -> None:
    turns = np.linspace(0, 2 * np.pi, 2000, endpoint=False)
    radius = 80 + 10 * np.sin(40 * turns)
    ring = np.stack([160 + radius * np.cos(turns), 120 + radius * np.sin(turns)], axis=1).ravel().tolist()
    picture = example(Polygon(label="cat", polygons=[ring]))
    (question,) = questions(picture, ["<REGION_TO_SEGMENTATION>"], labels=(), rng=np.random.default_rng(0))
    (note,) = question.answer
    assert isinstance(note, Polygon)
    (told,) = note.polygons
    assert 30 < len(told) // 2 <= geometry.MAX_ANSWER_POINTS
    assert geometry.signed_area(told) == pytest.approx(abs(geometry.signed_area(ring)), rel=0.05)


def test_words_are_read_in_the_order_that_is_given() -> None:
    other = Quad(label="GO", quad=(5, 1, 9, 1, 9, 3, 5, 3))
    asked = questions(example(WORD, other), ["<OCR>", "<OCR_WITH_REGION>"], labels=(), rng=np.random.default_rng(0))
    assert asked[0].answer == (Text(label="STOP\nGO"),)
    assert asked[1].answer == (WORD, other)


def test_questions_that_came_with_the_picture_are_asked() -> None:
    own = (
        Sample(find_task("<VQA>"), (Text(label="red"),), text="what colour?"),
        Sample(find_task("<VQA>"), (Text(label="two"),), text="how many?"),
        Sample(TASKS["<MORE_DETAILED_CAPTION>"], (Text(label="A bus."),)),
    )
    picture = example(CAT, own=own)
    assert {"<VQA>", "<MORE_DETAILED_CAPTION>", "<OD>"} <= teachable(picture)
    asked = questions(picture, ["<VQA>", "<OD>"], labels=(), rng=np.random.default_rng(0))
    assert [question.task.token for question in asked] == ["<VQA>", "<VQA>", "<OD>"]


def test_tasks_that_cannot_be_asked_are_left_out() -> None:
    picture = replace(example(CAT), complete=frozenset())
    assert questions(picture, ["<OD>", "<OCR>", "<UNKNOWN>"], labels=LABELS, rng=np.random.default_rng(0)) == []


def test_answers_of_tiny_pictures() -> None:
    picture = replace(example(Box(label="cat", box=(0, 0, 1, 1))), width=1, height=1)
    for rng in chances(20):
        for question in questions(picture, TASKS, labels=LABELS, rng=rng):
            question.task.build_prompt(question.text, question.region, (1, 1))
            format_answer(question.task, question.answer, (1, 1))
