import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompts import locations
from prompts.annotations import Box, Polygon, Quad, Text
from prompts.formatting import format_answer
from prompts.grammar import FILLER_PHRASES
from prompts.parsing import parse_answer
from prompts.special_tokens import ADDED_TOKENS, CONTROL_TOKENS
from prompts.tasks import TASKS, AnswerKind
from prompts.vocabulary import find_special_token, tokenize_answer
from tests.prompts.answers import SIZE, A, B, locs

TEXT, BOXES = TASKS["<CAPTION>"], TASKS["<OD>"]
PHRASES, QUADS = TASKS["<CAPTION_TO_PHRASE_GROUNDING>"], TASKS["<OCR_WITH_REGION>"]
POLYGONS, BOXES_OR_POLYGONS = TASKS["<REGION_TO_SEGMENTATION>"], TASKS["<OPEN_VOCABULARY_DETECTION>"]

RING = [1.0, 2, 3, 4, 5, 6]


sizes = st.tuples(st.integers(1, 20_000), st.integers(1, 20_000))
# Also outside the image, because people draw there.
points = st.floats(-100, 20_100)
labels = st.one_of(st.sampled_from(["cat", "dog"]), st.text(min_size=1).filter(lambda t: not find_special_token(t)))
words = labels.filter(lambda t: t.strip() and t.strip() not in FILLER_PHRASES)


def build_shapes(label):
    ring = st.integers(3, 6).flatmap(lambda n: st.lists(points, min_size=2 * n, max_size=2 * n))
    return {
        Box: st.builds(Box, label=label, box=st.tuples(*[points] * 4)),
        Quad: st.builds(Quad, label=label, quad=st.tuples(*[points] * 8)),
        Polygon: st.builds(Polygon, label=label, polygons=st.lists(ring, min_size=1, max_size=3)),
        Text: st.builds(Text, label=label),
    }


SHAPES_BY_KIND = {
    AnswerKind.TEXT: [Text],
    AnswerKind.BOXES: [Box],
    AnswerKind.PHRASES: [Box],
    AnswerKind.QUADS: [Quad],
    AnswerKind.POLYGONS: [Polygon],
    AnswerKind.BOXES_OR_POLYGONS: [Box, Polygon],
}


def draw_annotations(task):
    """Returns a strategy for valid annotations; those without labels come first, see `format_answer`."""

    def draw_one(label):
        return st.one_of(*(build_shapes(label)[shape] for shape in SHAPES_BY_KIND[task.answer_kind]))

    if task.answer_kind is AnswerKind.TEXT:
        return st.lists(draw_one(words), max_size=1)
    return st.tuples(
        st.lists(draw_one(st.sampled_from(["", " \n"])), max_size=3), st.lists(draw_one(words), max_size=4)
    ).map(lambda two: two[0] + two[1])


def get_bins(annotation, size):
    def quantized(flat):
        return locations.quantize_points(flat, *size)

    match annotation:
        case Box():
            x1, y1, x2, y2 = quantized(annotation.box)
            return [min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)]
        case Quad():
            return quantized(annotation.quad)
        case Polygon():
            return [quantized(ring) for ring in annotation.polygons]
        case Text():
            return None


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda t: t.token)
@given(data=st.data(), size=sizes)
def test_a_formatted_answer_is_parsed_into_the_same_annotations(task, data, size):
    annotations = data.draw(draw_annotations(task))
    parsed = parse_answer(task, tokenize_answer(format_answer(task, annotations, size)), size)
    assert [(a.kind, a.label, get_bins(a, size)) for a in parsed.annotations] == [
        (a.kind, a.label.strip(), get_bins(a, size)) for a in annotations
    ]
    assert parsed.dropped == []
    assert format_answer(task, parsed.annotations, size) == format_answer(task, annotations, size)


# The text of an answer


@pytest.mark.parametrize(
    ("task", "annotations", "text"),
    [
        (BOXES, [], ""),
        (TEXT, [], ""),
        (TEXT, [Text(label=" a\ncat ")], "a\ncat"),
        (BOXES, [Box(label="cat", box=A), Box(label="dog", box=B)], f"cat{locs(*A)}dog{locs(*B)}"),
        (BOXES, [Box(label="cat", box=A), Box(label="cat ", box=B)], f"cat{locs(*A, *B)}"),
        (BOXES, [Box(box=A), Box(box=B)], locs(*A, *B)),
        (BOXES, [Box(label="cat", box=(3, 4, 1, 2))], f"cat{locs(*A)}"),
        (BOXES, [Box(label="cat", box=(-5, 0, 1000, 2000))], f"cat{locs(0, 0, 999, 999)}"),
        (QUADS, [Quad(label="a", quad=A + B), Quad(label="a", quad=B + A)], f"a{locs(*A, *B)}a{locs(*B, *A)}"),
        (POLYGONS, [Polygon(polygons=[RING])], locs(1, 2, 3, 4, 5, 6)),
        (POLYGONS, [Polygon(polygons=[RING, RING])], f"{locs(1, 2, 3, 4, 5, 6)}<sep>{locs(1, 2, 3, 4, 5, 6)}"),
        (POLYGONS, [Polygon(label="cat", polygons=[RING])], f"cat<poly>{locs(1, 2, 3, 4, 5, 6)}</poly>"),
        (POLYGONS, [Polygon(polygons=[RING])] * 2, f"<poly>{locs(1, 2, 3, 4, 5, 6)}</poly>" * 2),
        (BOXES_OR_POLYGONS, [Polygon(polygons=[RING])], f"<poly>{locs(1, 2, 3, 4, 5, 6)}</poly>"),
        (
            BOXES_OR_POLYGONS,
            [Polygon(label="cat", polygons=[RING]), Box(label="cat", box=A)],
            f"cat<poly>{locs(1, 2, 3, 4, 5, 6)}</poly>{locs(*A)}",
        ),
    ],
)
def test_annotations_are_formatted(task, annotations, text):
    assert format_answer(task, annotations, SIZE) == text


def test_a_score_is_not_part_of_the_answer():
    assert format_answer(BOXES, [Box(label="cat", score=0.3, box=A)], SIZE) == f"cat{locs(*A)}"


# Annotations that the grammar cannot express


@pytest.mark.parametrize(
    "token", [*CONTROL_TOKENS, *(t for t in ADDED_TOKENS if not t.startswith("<loc_")), "<loc_0>", "<loc_999>"]
)
def test_a_label_with_a_reserved_token_is_rejected(token):
    for task, annotation in ((BOXES, Box(label=f"a{token}b", box=A)), (TEXT, Text(label=f"a{token}b"))):
        with pytest.raises(ValueError, match="reserved"):
            format_answer(task, [annotation], SIZE)


@pytest.mark.parametrize("label", ["<b>", "a < b", "<loc_1000>", "<locs>", "x>", "<lo"])
def test_angle_brackets_in_a_label_are_allowed(label):
    (annotation,) = parse_answer(
        BOXES, tokenize_answer(format_answer(BOXES, [Box(label=label, box=A)], SIZE)), SIZE
    ).annotations
    assert annotation.label == label


@pytest.mark.parametrize(
    ("task", "first", "second"),
    [
        (BOXES, Box(label="cat", box=A), Box(box=A)),
        (BOXES, Box(label="cat", box=A), Box(label=" ", box=A)),
        (QUADS, Quad(label="cat", quad=A + B), Quad(quad=A + B)),
        (POLYGONS, Polygon(label="cat", polygons=[RING]), Polygon(polygons=[RING])),
        (BOXES_OR_POLYGONS, Box(label="cat", box=A), Polygon(polygons=[RING])),
    ],
)
def test_a_shape_without_a_label_cannot_follow_one_with_a_label(task, first, second):
    with pytest.raises(ValueError, match="without a label"):
        format_answer(task, [first, second], SIZE)
    assert len(parse_answer(task, tokenize_answer(format_answer(task, [second, first], SIZE)), SIZE).annotations) == 2


def test_a_text_answer_is_one_text_that_is_not_empty():
    with pytest.raises(ValueError, match="one text"):
        format_answer(TEXT, [Text(label="a"), Text(label="b")], SIZE)
    with pytest.raises(ValueError, match="empty"):
        format_answer(TEXT, [Text(label=" \n")], SIZE)


def test_a_filler_phrase_is_rejected():
    with pytest.raises(ValueError, match="filler"):
        format_answer(PHRASES, [Box(label=" it", box=A)], SIZE)
    assert format_answer(BOXES, [Box(label="it", box=A)], SIZE) == f"it{locs(*A)}"


@pytest.mark.parametrize("rings", [[], [[]], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6, 7]], [RING, []]])
def test_a_ring_needs_three_points(rings):
    with pytest.raises(ValueError, match=r"a (polygon|ring) needs"):
        format_answer(POLYGONS, [Polygon(polygons=rings)], SIZE)


ONE = {Box: Box(box=A), Quad: Quad(quad=A + B), Polygon: Polygon(polygons=[RING]), Text: Text(label="a cat")}


@pytest.mark.parametrize(
    ("task", "annotation"),
    [
        pytest.param(task, annotation, id=f"{task.answer_kind.name} {annotation.kind}")
        for task in (TEXT, BOXES, PHRASES, QUADS, POLYGONS, BOXES_OR_POLYGONS)
        for shape, annotation in ONE.items()
        if shape not in SHAPES_BY_KIND[task.answer_kind]
    ],
)
def test_a_shape_of_another_kind_is_rejected(task, annotation):
    with pytest.raises(ValueError, match=f"cannot contain a {annotation.kind}"):
        format_answer(task, [annotation], SIZE)


@pytest.mark.parametrize("size", [(0, 5), (5, -1), (math.nan, 5)])
def test_an_invalid_size_is_rejected(size):
    with pytest.raises(ValueError, match="size"):
        format_answer(BOXES, [Box(box=A)], size)


def test_a_lone_surrogate_is_rejected():
    with pytest.raises(ValueError, match="lone surrogate"):
        format_answer(TEXT, [Text(label="a \ud83d")], SIZE)
