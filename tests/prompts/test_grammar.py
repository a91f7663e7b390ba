import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prompts import targets
from prompts.annotations import Box, Polygon, Quad, Text
from prompts.grammar import FILLERS, AnswerParser, read
from prompts.tasks import ADDED_TOKENS, CONTROL, TASKS, Gives
from prompts.vocabulary import Token, classify, tokens_of

# In a picture of this size location k is read as k + 0.5.
SIZE = (1000, 1000)
TASK = {
    Gives.TEXT: TASKS["<OCR>"],
    Gives.BOXES: TASKS["<OD>"],
    Gives.PHRASES: TASKS["<CAPTION_TO_PHRASE_GROUNDING>"],
    Gives.QUADS: TASKS["<OCR_WITH_REGION>"],
    Gives.POLYGONS: TASKS["<REFERRING_EXPRESSION_SEGMENTATION>"],
    Gives.ANY: TASKS["<OPEN_VOCABULARY_DETECTION>"],
}
every_task = pytest.mark.parametrize("task", TASK.values(), ids=lambda t: t.gives.name)

tokens = st.one_of(
    st.builds(lambda k: Token(location=k), st.integers(0, 999)),
    st.builds(
        lambda b: Token(letters=b), st.one_of(st.binary(max_size=4), st.sampled_from([b"cat", b" ", b"it", b"\n"]))
    ),
    st.builds(classify, st.sampled_from([t for t in ADDED_TOKENS if not t.startswith("<loc_")])),
    # The tokens that matter to some task, more often than chance would have it.
    st.builds(classify, st.sampled_from(["<sep>", "<poly>", "</poly>"])),
    st.builds(classify, st.sampled_from(CONTROL)),
)
# Runs of locations long enough to make shapes.
answers = st.lists(
    st.one_of(
        st.builds(lambda t: [t], tokens),
        st.lists(st.builds(lambda k: Token(location=k), st.integers(0, 999)), min_size=3, max_size=9),
    ),
    max_size=14,
).map(lambda parts: [token for part in parts for token in part])


def locs(*bins):
    return "".join(f"<loc_{k}>" for k in bins)


def middle(*bins):
    return tuple(k + 0.5 for k in bins)


def said(gives, text):
    """The answer `text`, read: labels with their bins, and what was dropped."""
    answer = read(TASK[gives], tokens_of(text), SIZE)
    return [(note.label, bins_of(note)) for note in answer.annotations], [d.what for d in answer.dropped]


def bins_of(note):
    match note:
        case Box():
            return tuple(int(v) for v in note.box)
        case Quad():
            return tuple(int(v) for v in note.quad)
        case Polygon():
            return [[int(v) for v in ring] for ring in note.polygons]
        case Text():
            return None


A, B, C, D = (1, 2, 3, 4), (5, 6, 7, 8), (11, 12, 13, 14), (15, 16, 17, 18)
RING, RING2 = (1, 2, 3, 4, 5, 6), (21, 22, 23, 24, 25, 26, 27, 28)


@pytest.mark.parametrize(
    ("gives", "text", "notes"),
    [
        (Gives.BOXES, "", []),
        (Gives.BOXES, f"cat{locs(*A)}", [("cat", A)]),
        (Gives.BOXES, f"cat{locs(*A)}dog{locs(*B)}", [("cat", A), ("dog", B)]),
        (Gives.BOXES, f"cat{locs(*A, *B)}dog{locs(*C)}", [("cat", A), ("cat", B), ("dog", C)]),
        (Gives.BOXES, f"</s><s><s> cat \n{locs(*A)}</s><pad>", [("cat", A)]),
        (Gives.BOXES, locs(*A, *B), [("", A), ("", B)]),
        # White space between locations is no label, and parts nothing.
        (Gives.BOXES, f"cat{locs(*A)} {locs(5, 6)}\n{locs(7, 8)}", [("cat", A), ("cat", B)]),
        # Corners in the wrong order are the same rectangle; a box may be thinner than a bin.
        (Gives.BOXES, f"cat{locs(3, 4, 1, 2)}{locs(1, 4, 3, 2)}", [("cat", A), ("cat", A)]),
        (Gives.BOXES, f"cat{locs(1, 2, 1, 4)}", [("cat", (1, 2, 1, 4))]),
        (
            Gives.PHRASES,
            f"a red cat{locs(*A, *B)} on a mat{locs(*C)}",
            [("a red cat", A), ("a red cat", B), ("on a mat", C)],
        ),
        (Gives.QUADS, f"STOP{locs(*A, *B)}two\nlines{locs(*C, *D)}", [("STOP", A + B), ("two\nlines", C + D)]),
        (Gives.QUADS, f"STOP{locs(*A, *B, *C, *D)}", [("STOP", A + B), ("STOP", C + D)]),
        # Corners of a quad tell how the words turn: they are kept in their order.
        (Gives.QUADS, f"STOP{locs(9, 8, 7, 6, 5, 4, 3, 2)}", [("STOP", (9, 8, 7, 6, 5, 4, 3, 2))]),
        (Gives.POLYGONS, locs(*RING), [("", [[*RING]])]),
        (Gives.POLYGONS, f"{locs(*RING)}<sep>{locs(*RING2)}", [("", [[*RING], [*RING2]])]),
        (Gives.POLYGONS, f"<poly>{locs(*RING)}</poly><poly>{locs(*RING2)}</poly>", [("", [[*RING]]), ("", [[*RING2]])]),
        (Gives.POLYGONS, f"cat{locs(*RING)}dog{locs(*RING2)}", [("cat", [[*RING]]), ("dog", [[*RING2]])]),
        (Gives.POLYGONS, f"cat<poly>{locs(*RING)}<sep>{locs(*RING2)}</poly>", [("cat", [[*RING], [*RING2]])]),
        (Gives.POLYGONS, f"<poly>{locs(*RING)}<sep>dog{locs(*RING2)}", [("", [[*RING]]), ("dog", [[*RING2]])]),
        # Wrappers that were not closed, or not opened.
        (Gives.POLYGONS, f"<poly>{locs(*RING)}<poly>{locs(*RING2)}", [("", [[*RING]]), ("", [[*RING2]])]),
        (Gives.POLYGONS, f"{locs(*RING)}</poly>{locs(*RING2)}", [("", [[*RING]]), ("", [[*RING2]])]),
        (Gives.POLYGONS, f"<poly>cat{locs(*RING)}</poly>", [("cat", [[*RING]])]),
        (Gives.ANY, f"cat<poly>{locs(*RING)}</poly>", [("cat", [[*RING]])]),
        (Gives.ANY, f"cat{locs(*A, *B)}", [("cat", A), ("cat", B)]),
        (
            Gives.ANY,
            f"cat{locs(*A)}<poly>{locs(*RING)}</poly>{locs(*B)}dog<poly>{locs(*RING2)}</poly>",
            [("cat", A), ("cat", [[*RING]]), ("cat", B), ("dog", [[*RING2]])],
        ),
        # A new label ends a wrapper that was left open: what it places is bare again.
        (Gives.ANY, f"cat<poly>{locs(*RING)}dog{locs(*A)}", [("cat", [[*RING]]), ("dog", A)]),
        (Gives.TEXT, "</s><s> two\nlines </s>", [("two\nlines", None)]),
        (Gives.TEXT, " \n", []),
    ],
)
def test_an_answer_is_read_whole(gives, text, notes):
    assert said(gives, text) == (notes, [])


@pytest.mark.parametrize(
    ("gives", "text", "notes", "dropped"),
    [
        (Gives.BOXES, "just words", [], ["the text 'just words'"]),
        (Gives.BOXES, f"cat{locs(*A, 9)}", [("cat", A)], ["<loc_9> of 'cat'"]),
        (Gives.BOXES, f"cat{locs(7, 8, 9)}dog{locs(*A)}", [("dog", A)], ["<loc_7><loc_8><loc_9> of 'cat'"]),
        (Gives.BOXES, f"cat{locs(*A)}dog", [("cat", A)], ["the text 'dog'"]),
        (Gives.BOXES, f"ca<and>t{locs(*A)}<and>", [("cat", A)], ["<and>"]),
        (Gives.BOXES, f"cat<poly>{locs(*A)}</poly>", [("cat", A)], ["<poly>", "</poly>"]),
        (Gives.BOXES, f"{locs(1, 2)}<sep>{locs(3, 4)}", [], ["<loc_1><loc_2>", "<sep>", "<loc_3><loc_4>"]),
        (Gives.QUADS, f"STOP{locs(*A)}", [], [f"{locs(*A)} of 'STOP'"]),
        (
            Gives.PHRASES,
            f"it{locs(*A, *B)}the image{locs(*C)}a cat{locs(*D)}",
            [("a cat", D)],
            ["the phrase 'it'", "the phrase 'the image'"],
        ),
        (Gives.POLYGONS, locs(*RING, 9), [("", [[*RING]])], ["<loc_9>"]),
        (Gives.POLYGONS, f"{locs(*RING)}<sep>{locs(7, 8, 9)}", [("", [[*RING]])], [locs(7, 8, 9)]),
        (Gives.POLYGONS, f"<poly></poly><poly>{locs(*RING)}</poly>", [("", [[*RING]])], ["<poly></poly>"]),
        (Gives.ANY, f"cat{locs(1, 2)}<poly>{locs(*RING)}</poly>", [("cat", [[*RING]])], ["<loc_1><loc_2> of 'cat'"]),
        (Gives.ANY, f"cat{locs(*A)}<sep>{locs(*B)}", [("cat", A), ("cat", B)], ["<sep>"]),
        # What is out of place in a text is told once.
        (Gives.TEXT, "a<loc_1> b<loc_2><sep>c<sep>", [("a bc", None)], ["a location", "<sep>"]),
    ],
)
def test_what_cannot_be_used_is_reported(gives, text, notes, dropped):
    assert said(gives, text) == (notes, dropped)


def test_a_report_gives_a_reason_and_cuts_long_words_short():
    (dropped,) = read(TASK[Gives.BOXES], [Token(letters=b"words " * 1000)], SIZE).dropped
    assert dropped.reason
    assert len(dropped.what) < 100


def test_fillers_count_as_such_in_grounding_only():
    assert {"it", "I", "the image", "one another", "the"} <= FILLERS
    assert said(Gives.BOXES, f"it{locs(*A)}") == ([("it", A)], [])
    assert said(Gives.PHRASES, f"It{locs(*A)}") == ([("It", A)], [])


def test_locations_are_scaled_to_the_picture():
    answer = read(TASK[Gives.BOXES], tokens_of(f"cat{locs(0, 0, 999, 999)}"), (640, 480))
    assert answer.annotations[0].box == pytest.approx((0.32, 0.24, 639.68, 479.76))


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-1, 5), (math.nan, 5)])
def test_a_picture_has_a_size(size):
    with pytest.raises(ValueError, match="size"):
        AnswerParser(TASK[Gives.BOXES], size)


# Streaming


def test_a_box_comes_out_at_its_fourth_location():
    parser = AnswerParser(TASK[Gives.BOXES], SIZE)
    came = [[note.label for note in parser.feed(token)] for token in tokens_of(f"cat{locs(*A, *B)}dog{locs(*C)}")]
    assert came == [[], [], [], [], ["cat"], [], [], [], ["cat"], [], [], [], [], ["dog"]]
    assert parser.finish() == []


def test_a_quad_comes_out_at_its_eighth_location():
    parser = AnswerParser(TASK[Gives.QUADS], SIZE)
    came = [len(parser.feed(token)) for token in tokens_of(f"STOP{locs(*A, *B)}")]
    assert came == [0] * 8 + [1]


@pytest.mark.parametrize(
    "closing", ["</poly>", "<poly>", "dog"], ids=["the end of its wrapper", "the next instance", "the next label"]
)
def test_a_polygon_comes_out_with(closing):
    parser = AnswerParser(TASK[Gives.POLYGONS], SIZE)
    assert not any(parser.feed(token) for token in tokens_of(f"cat<poly>{locs(*RING)}<sep>{locs(*RING2)}"))
    (polygon,) = parser.feed(tokens_of(closing)[0])
    assert bins_of(polygon) == [[*RING], [*RING2]]


def test_a_bare_polygon_and_a_text_come_out_at_the_end():
    for gives, text in ((Gives.POLYGONS, locs(*RING)), (Gives.TEXT, "a cat")):
        parser = AnswerParser(TASK[gives], SIZE)
        assert not any(parser.feed(token) for token in tokens_of(text))
        assert len(parser.finish()) == 1
        assert parser.finish() == []


@every_task
@given(answer=answers)
def test_no_sequence_of_tokens_raises_and_text_only_grows(task, answer):
    parser = AnswerParser(task, SIZE)
    streamed, text = [], ""
    for token in answer:
        streamed += parser.feed(token, -0.1)
        assert parser.text.startswith(text)
        text = parser.text
    streamed += parser.finish()
    whole = read(task, answer, SIZE, [-0.1] * len(answer))
    assert (whole.annotations, whole.text, whole.dropped) == (streamed, parser.text, parser.dropped)
    assert all(0 < note.score < 1 for note in streamed)
    assert all(note.label == note.label.strip() for note in streamed)


@every_task
@given(answer=answers)
def test_what_is_read_can_be_taught_and_read_again(task, answer):
    notes = read(task, answer, (640, 480)).annotations
    again = read(task, tokens_of(targets.answer(task, notes, (640, 480))), (640, 480))
    assert again.annotations == notes
    assert again.dropped == []


# Letters


@pytest.mark.parametrize("words", ["naïve café", "日本語の看板", "देवनागरी लिपि", "عربى", "🐈‍⬛ and 👩‍👩‍👧"])
@pytest.mark.parametrize("gives", [Gives.TEXT, Gives.BOXES])
def test_letters_spread_over_tokens_are_joined_before_they_are_decoded(words, gives):
    letters = [Token(letters=bytes([byte])) for byte in words.encode()]
    parser = AnswerParser(TASK[gives], SIZE)
    seen = []
    for token in letters:
        # A letter shows when it is whole: nothing that is half there is ever seen.
        parser.feed(token)
        seen.append(parser.text)
    assert all(words.startswith(text) for text in seen)
    answer = read(TASK[gives], letters + ([] if gives is Gives.TEXT else tokens_of(locs(*A))), SIZE)
    assert [note.label for note in answer.annotations] == [words]


def test_control_tokens_do_not_part_a_letter():
    first, *rest = (Token(letters=bytes([byte])) for byte in "é".encode())
    answer = read(TASK[Gives.TEXT], [first, Token(control="<pad>"), *rest], SIZE)
    assert answer.annotations[0].label == "é"


@pytest.mark.parametrize("letters", [b"\xff", b"caf\xc3", b"\xc3caf", b"\xe0\xa4"])
def test_letters_that_are_no_utf8_are_marked(letters):
    for task, rest in ((TASK[Gives.TEXT], ""), (TASK[Gives.BOXES], locs(*A))):
        answer = read(task, [Token(letters=letters), *tokens_of(rest)], SIZE)
        assert answer.annotations[0].label == letters.decode(errors="replace")
        assert "\ufffd" in answer.text


def test_a_letter_cut_short_is_still_a_letter():
    cut = Token(letters=b"\xc3")
    answer = read(TASK[Gives.ANY], [cut, *tokens_of("<poly>" + locs(*RING))], SIZE)
    assert answer.text == "\ufffd<poly>" + locs(*RING)
    assert answer.annotations[0].label == "\ufffd"
    # So it begins a label, and ends the box before it.
    answer = read(TASK[Gives.BOXES], [*tokens_of("cat" + locs(1, 2)), cut, *tokens_of(locs(*A))], SIZE)
    assert [(note.label, bins_of(note)) for note in answer.annotations] == [("\ufffd", A)]


def test_the_text_of_an_answer_shows_all_but_control_tokens():
    answer = f"cat{locs(*A)}<sep>dog{locs(9)}"
    assert read(TASK[Gives.BOXES], tokens_of(f"</s><s>{answer}</s><pad>"), SIZE).text == answer
    assert read(TASK[Gives.TEXT], tokens_of(f"<s> {answer} \n</s>"), SIZE).text == answer


# Scores


def scored(gives, *pairs):
    """Reads (text, log probability) pairs, each of one or more tokens that share it; the scores."""
    fed = [(token, logprob) for text, logprob in pairs for token in tokens_of(text)]
    answer = read(TASK[gives], [t for t, _ in fed], SIZE, [p for _, p in fed])
    return [note.score for note in answer.annotations]


def test_a_box_without_a_label_has_the_location_score():
    pairs = [("<loc_1>", -0.1), ("<loc_2>", -0.2), ("<loc_3>", -0.3), ("<loc_4>", -0.6)]
    assert scored(Gives.BOXES, *pairs) == [pytest.approx(math.exp(-0.3))]


def test_a_label_counts_by_the_mean_of_its_tokens_for_every_box_that_shares_it():
    pairs = [("ca", -1.0), ("t", -0.5), (locs(*A), -0.1), (locs(*B), -0.2), ("dog", -2.0), (locs(*C), -0.4)]
    assert scored(Gives.BOXES, *pairs) == [pytest.approx(math.exp(-x)) for x in (0.75 + 0.1, 0.75 + 0.2, 2.4)]


def test_a_quad_and_a_polygon_are_scored_as_a_box_is():
    assert scored(Gives.QUADS, ("STOP", -1.0), (locs(*A), -0.1), (locs(*B), -0.3)) == [pytest.approx(math.exp(-1.2))]
    pairs = [
        ("cat", -1.0),
        ("<poly>", -9.0),
        (locs(*A, *B), -0.1),
        ("<sep>", -9.0),
        (locs(*C, *D), -0.3),
        ("</poly>", -9.0),
    ]
    assert scored(Gives.POLYGONS, *pairs) == [pytest.approx(math.exp(-1.2))]


def test_what_is_dropped_does_not_weigh_on_what_is_kept():
    pairs = [(locs(*RING), -0.5), ("<loc_9>", -9.0), ("<sep>", -9.0), (locs(*A), -9.0)]
    assert scored(Gives.POLYGONS, *pairs) == [pytest.approx(math.exp(-0.5))]
    assert scored(Gives.BOXES, ("cat", -9.0), (locs(1, 2), -9.0), ("dog", -0.5), (locs(*A), -0.5)) == [
        pytest.approx(math.exp(-1))
    ]


def test_a_text_is_scored_by_its_letters():
    pairs = [("<s>", -9.0), ("a", -1.0), ("<loc_1>", -9.0), ("b", -2.0), ("</s>", -9.0)]
    assert scored(Gives.TEXT, *pairs) == [pytest.approx(math.exp(-1.5))]


def test_white_space_that_is_no_label_does_not_weigh():
    pairs = [("cat", -0.5), (locs(*A), -0.5), (" ", -9.0), (locs(*B), -0.5)]
    assert scored(Gives.BOXES, *pairs) == [pytest.approx(math.exp(-1))] * 2


@pytest.mark.parametrize(
    ("logprob", "score"), [(0.0, 1 - 1e-6), (-1e9, 1e-6), (-math.inf, 1e-6), (math.nan, 1e-6), (1e9, 1 - 1e-6)]
)
@pytest.mark.parametrize(("gives", "text"), [(Gives.BOXES, f"cat{locs(*A)}"), (Gives.TEXT, "cat")])
def test_a_score_is_never_0_or_1(gives, text, logprob, score):
    assert scored(gives, (text, logprob)) == [score]


def test_log_probabilities_come_one_a_token():
    with pytest.raises(ValueError, match="2 tokens came with 1"):
        read(TASK[Gives.TEXT], tokens_of("a<loc_1>"), SIZE, [-0.1])


@settings(max_examples=30)
@given(st.lists(st.floats(-20, 0), min_size=5, max_size=5), st.integers(0, 4))
def test_a_surer_token_never_lowers_the_score(logprobs, i):
    answer = tokens_of(f"cat{locs(*A)}")
    surer = [*logprobs[:i], logprobs[i] / 2, *logprobs[i + 1 :]]
    (before,), (after,) = (read(TASK[Gives.BOXES], answer, SIZE, p).annotations for p in (logprobs, surer))
    assert after.score >= before.score * (1 - 1e-12)
