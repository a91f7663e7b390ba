"""Caption metrics: better captions score higher, and punctuation does not matter."""

import pytest

from finetune.evaluation.captions import score_captions

TRUE = [
    ["a black cat sits on a red mat", "a cat is sitting on a mat"],
    ["two dogs run through a park", "a pair of dogs running on grass"],
    ["a man rides a bicycle down the street", "someone cycling along a road"],
]


def score(predicted: list[str]) -> dict[str, float]:
    return score_captions(list(zip(predicted, TRUE, strict=True)))


def test_the_references_score_best() -> None:
    best = score([texts[0] for texts in TRUE])
    near = score(["a black cat on a mat", "two dogs in a park", "a man on a street"])
    far = score(["a plane", "a plane", "a plane"])
    assert best["BLEU-4"] == pytest.approx(1)
    assert best["ROUGE-L"] == pytest.approx(1)
    for name in ("CIDEr", "BLEU-1", "ROUGE-L"):
        assert best[name] > near[name] > far[name]


def test_case_and_punctuation_do_not_matter() -> None:
    plain = score(["a black cat", "two dogs", "a man"])
    assert score(["A black cat.", "Two dogs!", "(a man)"]) == plain


def test_no_captions_have_no_metrics() -> None:
    assert score_captions([]) == {}
    assert score(["", "two dogs", "a man"])["BLEU-1"] > 0
