"""The VQA score: what counts as the same, and how far ten people agree."""

import pytest

from finetune.evaluation.vqa import accuracy, normalized


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
def test_normalized(answer: str, plain: str) -> None:
    assert normalized(answer) == plain


@pytest.mark.parametrize(("agreed", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_three_others_that_agree_make_it_right(agreed: int, score: float) -> None:
    answers = ["blue"] * agreed + [f"other {i}" for i in range(10 - agreed)]
    assert accuracy("Blue", answers) == pytest.approx(score)


def test_of_one_answer_it_is_right_or_wrong() -> None:
    assert accuracy("the STOP", ["stop"]) == 1
    assert accuracy("go", ["stop"]) == 0
    assert accuracy("go", []) == 0
