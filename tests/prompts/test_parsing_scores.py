import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prompts.parsing import parse_answer
from prompts.tasks import AnswerKind
from prompts.vocabulary import tokenize_answer
from tests.prompts.answers import RING, SIZE, TASK_BY_KIND, A, B, C, D, locs


def get_scores(answer_kind, *pairs):
    """Parses (text, log probability) pairs, whose tokens share the log probability. Returns the scores."""
    pairs_by_token = [(token, logprob) for text, logprob in pairs for token in tokenize_answer(text)]
    answer = parse_answer(
        TASK_BY_KIND[answer_kind], [t for t, _ in pairs_by_token], SIZE, [p for _, p in pairs_by_token]
    )
    return [annotation.score for annotation in answer.annotations]


def test_a_box_without_a_label_has_the_location_score():
    pairs = [("<loc_1>", -0.1), ("<loc_2>", -0.2), ("<loc_3>", -0.3), ("<loc_4>", -0.6)]
    assert get_scores(AnswerKind.BOXES, *pairs) == [pytest.approx(math.exp(-0.3))]


def test_boxes_that_share_a_label_share_its_mean_probability():
    pairs = [("ca", -1.0), ("t", -0.5), (locs(*A), -0.1), (locs(*B), -0.2), ("dog", -2.0), (locs(*C), -0.4)]
    assert get_scores(AnswerKind.BOXES, *pairs) == [pytest.approx(math.exp(-x)) for x in (0.75 + 0.1, 0.75 + 0.2, 2.4)]


def test_quads_and_polygons_are_scored_like_boxes():
    assert get_scores(AnswerKind.QUADS, ("STOP", -1.0), (locs(*A), -0.1), (locs(*B), -0.3)) == [
        pytest.approx(math.exp(-1.2))
    ]
    pairs = [
        ("cat", -1.0),
        ("<poly>", -9.0),
        (locs(*A, *B), -0.1),
        ("<sep>", -9.0),
        (locs(*C, *D), -0.3),
        ("</poly>", -9.0),
    ]
    assert get_scores(AnswerKind.POLYGONS, *pairs) == [pytest.approx(math.exp(-1.2))]


def test_dropped_parts_do_not_affect_scores():
    pairs = [(locs(*RING), -0.5), ("<loc_9>", -9.0), ("<sep>", -9.0), (locs(*A), -9.0)]
    assert get_scores(AnswerKind.POLYGONS, *pairs) == [pytest.approx(math.exp(-0.5))]
    assert get_scores(AnswerKind.BOXES, ("cat", -9.0), (locs(1, 2), -9.0), ("dog", -0.5), (locs(*A), -0.5)) == [
        pytest.approx(math.exp(-1))
    ]


def test_a_text_is_scored_by_its_text_tokens():
    pairs = [("<s>", -9.0), ("a", -1.0), ("<loc_1>", -9.0), ("b", -2.0), ("</s>", -9.0)]
    assert get_scores(AnswerKind.TEXT, *pairs) == [pytest.approx(math.exp(-1.5))]


def test_white_space_does_not_affect_scores():
    pairs = [("cat", -0.5), (locs(*A), -0.5), (" ", -9.0), (locs(*B), -0.5)]
    assert get_scores(AnswerKind.BOXES, *pairs) == [pytest.approx(math.exp(-1))] * 2


@pytest.mark.parametrize(
    ("logprob", "score"), [(0.0, 1 - 1e-6), (-1e9, 1e-6), (-math.inf, 1e-6), (math.nan, 1e-6), (1e9, 1 - 1e-6)]
)
@pytest.mark.parametrize(("answer_kind", "text"), [(AnswerKind.BOXES, f"cat{locs(*A)}"), (AnswerKind.TEXT, "cat")])
def test_a_score_is_never_0_or_1(answer_kind, text, logprob, score):
    assert get_scores(answer_kind, (text, logprob)) == [score]


def test_every_token_needs_a_log_probability():
    with pytest.raises(ValueError, match="2 tokens but 1"):
        parse_answer(TASK_BY_KIND[AnswerKind.TEXT], tokenize_answer("a<loc_1>"), SIZE, [-0.1])


@settings(max_examples=30)
@given(st.lists(st.floats(-20, 0), min_size=5, max_size=5), st.integers(0, 4))
def test_a_more_certain_token_never_lowers_the_score(logprobs, i):
    answer = tokenize_answer(f"cat{locs(*A)}")
    higher = [*logprobs[:i], logprobs[i] / 2, *logprobs[i + 1 :]]
    (before,), (after,) = (
        parse_answer(TASK_BY_KIND[AnswerKind.BOXES], answer, SIZE, p).annotations for p in (logprobs, higher)
    )
    assert after.score >= before.score * (1 - 1e-12)
