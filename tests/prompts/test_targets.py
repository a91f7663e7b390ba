import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompts import locations
from prompts.annotations import Box, Polygon, Quad, Text
from prompts.grammar import FILLERS, read
from prompts.targets import answer
from prompts.tasks import ADDED_TOKENS, CONTROL, TASKS, Gives
from prompts.vocabulary import special_in, tokens_of

SIZE = (1000, 1000)
TEXT, BOXES = TASKS["<CAPTION>"], TASKS["<OD>"]
PHRASES, QUADS = TASKS["<CAPTION_TO_PHRASE_GROUNDING>"], TASKS["<OCR_WITH_REGION>"]
POLYGONS, ANY = TASKS["<REGION_TO_SEGMENTATION>"], TASKS["<OPEN_VOCABULARY_DETECTION>"]

A, B = (1, 2, 3, 4), (5, 6, 7, 8)
RING = [1.0, 2, 3, 4, 5, 6]


def locs(*bins):
    return "".join(f"<loc_{k}>" for k in bins)


sizes = st.tuples(st.integers(1, 20_000), st.integers(1, 20_000))
# Beyond the border too, since annotators draw there.
points = st.floats(-100, 20_100)
labels = st.one_of(st.sampled_from(["cat", "dog"]), st.text(min_size=1).filter(lambda t: not special_in(t)))
words = labels.filter(lambda t: t.strip() and t.strip() not in FILLERS)


def shapes(label):
    ring = st.integers(3, 6).flatmap(lambda n: st.lists(points, min_size=2 * n, max_size=2 * n))
    return {
        Box: st.builds(Box, label=label, box=st.tuples(*[points] * 4)),
        Quad: st.builds(Quad, label=label, quad=st.tuples(*[points] * 8)),
        Polygon: st.builds(Polygon, label=label, polygons=st.lists(ring, min_size=1, max_size=3)),
        Text: st.builds(Text, label=label),
    }


HOLDS = {
    Gives.TEXT: [Text],
    Gives.BOXES: [Box],
    Gives.PHRASES: [Box],
    Gives.QUADS: [Quad],
    Gives.POLYGONS: [Polygon],
    Gives.ANY: [Box, Polygon],
}


def notes_of(task):
    """Annotations that `task` can hold: first those without labels, since they cannot follow one that has a label."""

    def some(label):
        return st.one_of(*(shapes(label)[kind] for kind in HOLDS[task.gives]))

    if task.gives is Gives.TEXT:
        return st.lists(some(words), max_size=1)
    return st.tuples(st.lists(some(st.sampled_from(["", " \n"])), max_size=3), st.lists(some(words), max_size=4)).map(
        lambda two: two[0] + two[1]
    )


def bins_of(note, size):
    def quantized(flat):
        return locations.quantize_points(flat, *size)

    match note:
        case Box():
            x1, y1, x2, y2 = quantized(note.box)
            return [min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)]
        case Quad():
            return quantized(note.quad)
        case Polygon():
            return [quantized(ring) for ring in note.polygons]
        case Text():
            return None


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda t: t.token)
@given(data=st.data(), size=sizes)
def test_what_is_taught_is_read_back_to_the_bin(task, data, size):
    notes = data.draw(notes_of(task))
    back = read(task, tokens_of(answer(task, notes, size)), size)
    assert [(n.kind, n.label, bins_of(n, size)) for n in back.annotations] == [
        (n.kind, n.label.strip(), bins_of(n, size)) for n in notes
    ]
    assert back.dropped == []
    # And what was read teaches the same answer.
    assert answer(task, back.annotations, size) == answer(task, notes, size)


# The form


@pytest.mark.parametrize(
    ("task", "notes", "text"),
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
        (ANY, [Polygon(polygons=[RING])], f"<poly>{locs(1, 2, 3, 4, 5, 6)}</poly>"),
        (
            ANY,
            [Polygon(label="cat", polygons=[RING]), Box(label="cat", box=A)],
            f"cat<poly>{locs(1, 2, 3, 4, 5, 6)}</poly>{locs(*A)}",
        ),
    ],
)
def test_an_answer_has_one_form(task, notes, text):
    assert answer(task, notes, SIZE) == text


def test_a_score_is_not_taught():
    assert answer(BOXES, [Box(label="cat", score=0.3, box=A)], SIZE) == f"cat{locs(*A)}"


# What cannot be taught


@pytest.mark.parametrize(
    "token", [*CONTROL, *(t for t in ADDED_TOKENS if not t.startswith("<loc_")), "<loc_0>", "<loc_999>"]
)
def test_a_label_holds_no_reserved_token(token):
    for task, note in ((BOXES, Box(label=f"a{token}b", box=A)), (TEXT, Text(label=f"a{token}b"))):
        with pytest.raises(ValueError, match="reserved"):
            answer(task, [note], SIZE)


@pytest.mark.parametrize("label", ["<b>", "a < b", "<loc_1000>", "<locs>", "x>", "<lo"])
def test_angle_brackets_alone_reserve_nothing(label):
    (note,) = read(BOXES, tokens_of(answer(BOXES, [Box(label=label, box=A)], SIZE)), SIZE).annotations
    assert note.label == label


@pytest.mark.parametrize(
    ("task", "first", "second"),
    [
        (BOXES, Box(label="cat", box=A), Box(box=A)),
        (BOXES, Box(label="cat", box=A), Box(label=" ", box=A)),
        (QUADS, Quad(label="cat", quad=A + B), Quad(quad=A + B)),
        (POLYGONS, Polygon(label="cat", polygons=[RING]), Polygon(polygons=[RING])),
        (ANY, Box(label="cat", box=A), Polygon(polygons=[RING])),
    ],
)
def test_a_shape_without_a_label_cannot_follow_one_that_has_a_label(task, first, second):
    with pytest.raises(ValueError, match="without a label"):
        answer(task, [first, second], SIZE)
    assert len(read(task, tokens_of(answer(task, [second, first], SIZE)), SIZE).annotations) == 2


def test_a_text_task_gives_one_text_with_letters():
    with pytest.raises(ValueError, match="one text"):
        answer(TEXT, [Text(label="a"), Text(label="b")], SIZE)
    with pytest.raises(ValueError, match="letters"):
        answer(TEXT, [Text(label=" \n")], SIZE)


def test_a_filler_is_no_phrase_to_ground():
    with pytest.raises(ValueError, match="filler"):
        answer(PHRASES, [Box(label=" it", box=A)], SIZE)
    assert answer(BOXES, [Box(label="it", box=A)], SIZE) == f"it{locs(*A)}"


@pytest.mark.parametrize("rings", [[], [[]], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6, 7]], [RING, []]])
def test_a_polygon_has_rings_of_three_points_or_more(rings):
    with pytest.raises(ValueError, match=r"a (polygon|ring) needs"):
        answer(POLYGONS, [Polygon(polygons=rings)], SIZE)


ONE = {Box: Box(box=A), Quad: Quad(quad=A + B), Polygon: Polygon(polygons=[RING]), Text: Text(label="a cat")}


@pytest.mark.parametrize(
    ("task", "note"),
    [
        pytest.param(task, note, id=f"{task.gives.name} {note.kind}")
        for task in (TEXT, BOXES, PHRASES, QUADS, POLYGONS, ANY)
        for kind, note in ONE.items()
        if kind not in HOLDS[task.gives]
    ],
)
def test_a_task_holds_its_own_kinds_only(task, note):
    with pytest.raises(ValueError, match=f"cannot hold a {note.kind}"):
        answer(task, [note], SIZE)


@pytest.mark.parametrize("size", [(0, 5), (5, -1), (math.nan, 5)])
def test_a_picture_has_a_size(size):
    with pytest.raises(ValueError, match="size"):
        answer(BOXES, [Box(box=A)], size)


def test_half_a_character_is_no_label():
    with pytest.raises(ValueError, match="lone surrogate"):
        answer(TEXT, [Text(label="a \ud83d")], SIZE)
