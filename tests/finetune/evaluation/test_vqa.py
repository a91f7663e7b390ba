"""VQA accuracy: normalized answers, and the agreement of ten people."""

import pytest

from finetune.evaluation.vqa import compute_vqa_accuracy, normalize_answer


@pytest.mark.parametrize(
    ("answer", "plain"),
    [
        ("The Two Dogs.", "2 dogs"),
        ("a cat, an owl & the dog", "cat owl dog"),
        ("1,000 pounds", "1000 pounds"),
        ("2.5", "2.5"),
        ("U.S.A.", "usa"),
        ("10:30", "10:30"),
        ("dont", "don't"),
        ("theyve", "they've"),
        ("whats", "what's"),
        ("girl's", "girl's"),
        ("girls", "girls"),
        ("None", "0"),
        ("coca-cola", "coca cola"),
        ("  ", ""),
    ],
)
def test_answers_are_normalized(answer: str, plain: str) -> None:
    assert normalize_answer(answer) == plain


@pytest.mark.parametrize(("agreeing", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_three_agreeing_people_make_an_answer_correct(agreeing: int, score: float) -> None:
    answers = ["blue"] * agreeing + [f"other {i}" for i in range(10 - agreeing)]
    assert compute_vqa_accuracy("Blue", answers) == pytest.approx(score)


def test_a_single_answer_is_correct_or_wrong() -> None:
    assert compute_vqa_accuracy("the STOP", ["stop"]) == 1
    assert compute_vqa_accuracy("go", ["stop"]) == 0
    assert compute_vqa_accuracy("go", []) == 0
