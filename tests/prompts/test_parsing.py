import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompts.annotations import Box, Polygon, Quad, Text
from prompts.formatting import format_answer
from prompts.grammar import FILLER_PHRASES
from prompts.parsing import AnswerParser, parse_answer
from prompts.special_tokens import ADDED_TOKENS, CONTROL_TOKENS
from prompts.tasks import AnswerKind
from prompts.vocabulary import Token, classify_token, tokenize_answer
from tests.prompts.answers import RING, RING2, SIZE, TASK_BY_KIND, A, B, C, D, locs

every_task = pytest.mark.parametrize("task", TASK_BY_KIND.values(), ids=lambda t: t.answer_kind.name)

tokens = st.one_of(
    st.builds(lambda k: Token(location=k), st.integers(0, 999)),
    st.builds(
        lambda b: Token(text_bytes=b), st.one_of(st.binary(max_size=4), st.sampled_from([b"cat", b" ", b"it", b"\n"]))
    ),
    st.builds(classify_token, st.sampled_from([t for t in ADDED_TOKENS if not t.startswith("<loc_")])),
    # The tokens with a meaning, more often.
    st.builds(classify_token, st.sampled_from(["<sep>", "<poly>", "</poly>"])),
    st.builds(classify_token, st.sampled_from(CONTROL_TOKENS)),
)
# Sequences of locations that are long enough for shapes.
answers = st.lists(
    st.one_of(
        st.builds(lambda t: [t], tokens),
        st.lists(st.builds(lambda k: Token(location=k), st.integers(0, 999)), min_size=3, max_size=9),
    ),
    max_size=14,
).map(lambda parts: [token for part in parts for token in part])


def parse_text(answer_kind, text):
    """Parses an answer string. Returns labels with their bins, and the dropped parts."""
    answer = parse_answer(TASK_BY_KIND[answer_kind], tokenize_answer(text), SIZE)
    return [(annotation.label, get_bins(annotation)) for annotation in answer.annotations], [
        d.what for d in answer.dropped
    ]


def get_bins(annotation):
    match annotation:
        case Box():
            return tuple(int(v) for v in annotation.box)
        case Quad():
            return tuple(int(v) for v in annotation.quad)
        case Polygon():
            return [[int(v) for v in ring] for ring in annotation.polygons]
        case Text():
            return None


@pytest.mark.parametrize(
    ("answer_kind", "text", "annotations"),
    [
        (AnswerKind.BOXES, "", []),
        (AnswerKind.BOXES, f"cat{locs(*A)}", [("cat", A)]),
        (AnswerKind.BOXES, f"cat{locs(*A)}dog{locs(*B)}", [("cat", A), ("dog", B)]),
        (AnswerKind.BOXES, f"cat{locs(*A, *B)}dog{locs(*C)}", [("cat", A), ("cat", B), ("dog", C)]),
        (AnswerKind.BOXES, f"</s><s><s> cat \n{locs(*A)}</s><pad>", [("cat", A)]),
        (AnswerKind.BOXES, locs(*A, *B), [("", A), ("", B)]),
        # White space between locations is not a label, and does not end a shape.
        (AnswerKind.BOXES, f"cat{locs(*A)} {locs(5, 6)}\n{locs(7, 8)}", [("cat", A), ("cat", B)]),
        # Corners in any order are the same rectangle. A box may be thinner than a bin.
        (AnswerKind.BOXES, f"cat{locs(3, 4, 1, 2)}{locs(1, 4, 3, 2)}", [("cat", A), ("cat", A)]),
        (AnswerKind.BOXES, f"cat{locs(1, 2, 1, 4)}", [("cat", (1, 2, 1, 4))]),
        (
            AnswerKind.PHRASES,
            f"a red cat{locs(*A, *B)} on a mat{locs(*C)}",
            [("a red cat", A), ("a red cat", B), ("on a mat", C)],
        ),
        (AnswerKind.QUADS, f"STOP{locs(*A, *B)}two\nlines{locs(*C, *D)}", [("STOP", A + B), ("two\nlines", C + D)]),
        (AnswerKind.QUADS, f"STOP{locs(*A, *B, *C, *D)}", [("STOP", A + B), ("STOP", C + D)]),
        # The corners of a quad keep their order, because it encodes the direction of the text.
        (AnswerKind.QUADS, f"STOP{locs(9, 8, 7, 6, 5, 4, 3, 2)}", [("STOP", (9, 8, 7, 6, 5, 4, 3, 2))]),
        (AnswerKind.POLYGONS, locs(*RING), [("", [[*RING]])]),
        (AnswerKind.POLYGONS, f"{locs(*RING)}<sep>{locs(*RING2)}", [("", [[*RING], [*RING2]])]),
        (
            AnswerKind.POLYGONS,
            f"<poly>{locs(*RING)}</poly><poly>{locs(*RING2)}</poly>",
            [("", [[*RING]]), ("", [[*RING2]])],
        ),
        (AnswerKind.POLYGONS, f"cat{locs(*RING)}dog{locs(*RING2)}", [("cat", [[*RING]]), ("dog", [[*RING2]])]),
        (AnswerKind.POLYGONS, f"cat<poly>{locs(*RING)}<sep>{locs(*RING2)}</poly>", [("cat", [[*RING], [*RING2]])]),
        (AnswerKind.POLYGONS, f"<poly>{locs(*RING)}<sep>dog{locs(*RING2)}", [("", [[*RING]]), ("dog", [[*RING2]])]),
        # <poly> without </poly>, and the reverse.
        (AnswerKind.POLYGONS, f"<poly>{locs(*RING)}<poly>{locs(*RING2)}", [("", [[*RING]]), ("", [[*RING2]])]),
        (AnswerKind.POLYGONS, f"{locs(*RING)}</poly>{locs(*RING2)}", [("", [[*RING]]), ("", [[*RING2]])]),
        (AnswerKind.POLYGONS, f"<poly>cat{locs(*RING)}</poly>", [("cat", [[*RING]])]),
        (AnswerKind.BOXES_OR_POLYGONS, f"cat<poly>{locs(*RING)}</poly>", [("cat", [[*RING]])]),
        (AnswerKind.BOXES_OR_POLYGONS, f"cat{locs(*A, *B)}", [("cat", A), ("cat", B)]),
        (
            AnswerKind.BOXES_OR_POLYGONS,
            f"cat{locs(*A)}<poly>{locs(*RING)}</poly>{locs(*B)}dog<poly>{locs(*RING2)}</poly>",
            [("cat", A), ("cat", [[*RING]]), ("cat", B), ("dog", [[*RING2]])],
        ),
        # A new label ends an open <poly>.
        (AnswerKind.BOXES_OR_POLYGONS, f"cat<poly>{locs(*RING)}dog{locs(*A)}", [("cat", [[*RING]]), ("dog", A)]),
        (AnswerKind.TEXT, "</s><s> two\nlines </s>", [("two\nlines", None)]),
        (AnswerKind.TEXT, " \n", []),
    ],
)
def test_a_valid_answer_is_parsed(answer_kind, text, annotations):
    assert parse_text(answer_kind, text) == (annotations, [])


@pytest.mark.parametrize(
    ("answer_kind", "text", "annotations", "dropped"),
    [
        (AnswerKind.BOXES, "just words", [], ["the text 'just words'"]),
        (AnswerKind.BOXES, f"cat{locs(*A, 9)}", [("cat", A)], ["<loc_9> of 'cat'"]),
        (AnswerKind.BOXES, f"cat{locs(7, 8, 9)}dog{locs(*A)}", [("dog", A)], ["<loc_7><loc_8><loc_9> of 'cat'"]),
        (AnswerKind.BOXES, f"cat{locs(*A)}dog", [("cat", A)], ["the text 'dog'"]),
        (AnswerKind.BOXES, f"ca<and>t{locs(*A)}<and>", [("cat", A)], ["<and>"]),
        (AnswerKind.BOXES, f"cat<poly>{locs(*A)}</poly>", [("cat", A)], ["<poly>", "</poly>"]),
        (AnswerKind.BOXES, f"{locs(1, 2)}<sep>{locs(3, 4)}", [], ["<loc_1><loc_2>", "<sep>", "<loc_3><loc_4>"]),
        (AnswerKind.QUADS, f"STOP{locs(*A)}", [], [f"{locs(*A)} of 'STOP'"]),
        (
            AnswerKind.PHRASES,
            f"it{locs(*A, *B)}the image{locs(*C)}a cat{locs(*D)}",
            [("a cat", D)],
            ["the phrase 'it'", "the phrase 'the image'"],
        ),
        (AnswerKind.POLYGONS, locs(*RING, 9), [("", [[*RING]])], ["<loc_9>"]),
        (AnswerKind.POLYGONS, f"{locs(*RING)}<sep>{locs(7, 8, 9)}", [("", [[*RING]])], [locs(7, 8, 9)]),
        (AnswerKind.POLYGONS, f"<poly></poly><poly>{locs(*RING)}</poly>", [("", [[*RING]])], ["<poly></poly>"]),
        (
            AnswerKind.BOXES_OR_POLYGONS,
            f"cat{locs(1, 2)}<poly>{locs(*RING)}</poly>",
            [("cat", [[*RING]])],
            ["<loc_1><loc_2> of 'cat'"],
        ),
        (AnswerKind.BOXES_OR_POLYGONS, f"cat{locs(*A)}<sep>{locs(*B)}", [("cat", A), ("cat", B)], ["<sep>"]),
        # An out-of-place token in a text is reported once.
        (AnswerKind.TEXT, "a<loc_1> b<loc_2><sep>c<sep>", [("a bc", None)], ["a location", "<sep>"]),
    ],
)
def test_parts_that_do_not_follow_the_grammar_are_reported(answer_kind, text, annotations, dropped):
    assert parse_text(answer_kind, text) == (annotations, dropped)


def test_a_dropped_part_has_a_reason_and_shortens_long_text():
    (dropped,) = parse_answer(TASK_BY_KIND[AnswerKind.BOXES], [Token(text_bytes=b"words " * 1000)], SIZE).dropped
    assert dropped.reason
    assert len(dropped.what) < 100


def test_fillers_are_dropped_in_grounding_only():
    assert {"it", "I", "the image", "one another", "the"} <= FILLER_PHRASES
    assert parse_text(AnswerKind.BOXES, f"it{locs(*A)}") == ([("it", A)], [])
    assert parse_text(AnswerKind.PHRASES, f"It{locs(*A)}") == ([("It", A)], [])


def test_locations_are_scaled_to_the_image():
    answer = parse_answer(TASK_BY_KIND[AnswerKind.BOXES], tokenize_answer(f"cat{locs(0, 0, 999, 999)}"), (640, 480))
    assert answer.annotations[0].box == pytest.approx((0.32, 0.24, 639.68, 479.76))


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-1, 5), (math.nan, 5)])
def test_an_invalid_size_is_rejected(size):
    with pytest.raises(ValueError, match="size"):
        AnswerParser(TASK_BY_KIND[AnswerKind.BOXES], size)


# Streaming


def test_a_box_is_complete_after_its_fourth_location():
    parser = AnswerParser(TASK_BY_KIND[AnswerKind.BOXES], SIZE)
    completed = [
        [annotation.label for annotation in parser.feed(token)]
        for token in tokenize_answer(f"cat{locs(*A, *B)}dog{locs(*C)}")
    ]
    assert completed == [[], [], [], [], ["cat"], [], [], [], ["cat"], [], [], [], [], ["dog"]]
    assert parser.finish() == []


def test_a_quad_is_complete_after_its_eighth_location():
    parser = AnswerParser(TASK_BY_KIND[AnswerKind.QUADS], SIZE)
    completed = [len(parser.feed(token)) for token in tokenize_answer(f"STOP{locs(*A, *B)}")]
    assert completed == [0] * 8 + [1]


@pytest.mark.parametrize("closing", ["</poly>", "<poly>", "dog"], ids=["poly end", "next instance", "next label"])
def test_a_polygon_is_complete_at(closing):
    parser = AnswerParser(TASK_BY_KIND[AnswerKind.POLYGONS], SIZE)
    assert not any(parser.feed(token) for token in tokenize_answer(f"cat<poly>{locs(*RING)}<sep>{locs(*RING2)}"))
    (polygon,) = parser.feed(tokenize_answer(closing)[0])
    assert get_bins(polygon) == [[*RING], [*RING2]]


def test_a_polygon_without_wrapper_and_a_text_are_complete_at_the_end():
    for answer_kind, text in ((AnswerKind.POLYGONS, locs(*RING)), (AnswerKind.TEXT, "a cat")):
        parser = AnswerParser(TASK_BY_KIND[answer_kind], SIZE)
        assert not any(parser.feed(token) for token in tokenize_answer(text))
        assert len(parser.finish()) == 1
        assert parser.finish() == []


@every_task
@given(answer=answers)
def test_no_sequence_of_tokens_raises_and_the_text_only_grows(task, answer):
    parser = AnswerParser(task, SIZE)
    streamed, text = [], ""
    for token in answer:
        streamed += parser.feed(token, -0.1)
        assert parser.text.startswith(text)
        text = parser.text
    streamed += parser.finish()
    whole = parse_answer(task, answer, SIZE, [-0.1] * len(answer))
    assert (whole.annotations, whole.text, whole.dropped) == (streamed, parser.text, parser.dropped)
    assert all(0 < annotation.score < 1 for annotation in streamed)
    assert all(annotation.label == annotation.label.strip() for annotation in streamed)


@every_task
@given(answer=answers)
def test_parsed_annotations_can_be_formatted_and_parsed_again(task, answer):
    annotations = parse_answer(task, answer, (640, 480)).annotations
    parsed_again = parse_answer(task, tokenize_answer(format_answer(task, annotations, (640, 480))), (640, 480))
    assert parsed_again.annotations == annotations
    assert parsed_again.dropped == []


# Text


@pytest.mark.parametrize("words", ["naïve café", "日本語の看板", "देवनागरी लिपि", "عربى", "🐈‍⬛ and 👩‍👩‍👧"])
@pytest.mark.parametrize("answer_kind", [AnswerKind.TEXT, AnswerKind.BOXES])
def test_characters_spread_over_tokens_are_joined_before_decoding(words, answer_kind):
    tokens = [Token(text_bytes=bytes([byte])) for byte in words.encode()]
    parser = AnswerParser(TASK_BY_KIND[answer_kind], SIZE)
    texts = []
    for token in tokens:
        # A character appears when it is complete.
        parser.feed(token)
        texts.append(parser.text)
    assert all(words.startswith(text) for text in texts)
    answer = parse_answer(
        TASK_BY_KIND[answer_kind], tokens + ([] if answer_kind is AnswerKind.TEXT else tokenize_answer(locs(*A))), SIZE
    )
    assert [annotation.label for annotation in answer.annotations] == [words]


def test_control_tokens_do_not_split_a_character():
    first, *rest = (Token(text_bytes=bytes([byte])) for byte in "é".encode())
    answer = parse_answer(TASK_BY_KIND[AnswerKind.TEXT], [first, Token(control="<pad>"), *rest], SIZE)
    assert answer.annotations[0].label == "é"


@pytest.mark.parametrize("text_bytes", [b"\xff", b"caf\xc3", b"\xc3caf", b"\xe0\xa4"])
def test_invalid_utf8_is_replaced(text_bytes):
    for task, rest in ((TASK_BY_KIND[AnswerKind.TEXT], ""), (TASK_BY_KIND[AnswerKind.BOXES], locs(*A))):
        answer = parse_answer(task, [Token(text_bytes=text_bytes), *tokenize_answer(rest)], SIZE)
        assert answer.annotations[0].label == text_bytes.decode(errors="replace")
        assert "\ufffd" in answer.text


def test_an_incomplete_character_counts_as_text():
    cut = Token(text_bytes=b"\xc3")
    answer = parse_answer(
        TASK_BY_KIND[AnswerKind.BOXES_OR_POLYGONS], [cut, *tokenize_answer("<poly>" + locs(*RING))], SIZE
    )
    assert answer.text == "\ufffd<poly>" + locs(*RING)
    assert answer.annotations[0].label == "\ufffd"
    # It begins a label, and ends the box before it.
    answer = parse_answer(
        TASK_BY_KIND[AnswerKind.BOXES], [*tokenize_answer("cat" + locs(1, 2)), cut, *tokenize_answer(locs(*A))], SIZE
    )
    assert [(annotation.label, get_bins(annotation)) for annotation in answer.annotations] == [("\ufffd", A)]


def test_the_text_of_an_answer_omits_control_tokens():
    answer = f"cat{locs(*A)}<sep>dog{locs(9)}"
    assert (
        parse_answer(TASK_BY_KIND[AnswerKind.BOXES], tokenize_answer(f"</s><s>{answer}</s><pad>"), SIZE).text == answer
    )
    assert parse_answer(TASK_BY_KIND[AnswerKind.TEXT], tokenize_answer(f"<s> {answer} \n</s>"), SIZE).text == answer
