"""Captions scored: the order of better and worse, and what is left out of a text."""

import pytest

from finetune.evaluation.captions import scores

TRUE = [
    ["a black cat sits on a red mat", "a cat is sitting on a mat"],
    ["two dogs run through a park", "a pair of dogs running on grass"],
    ["a man rides a bicycle down the street", "someone cycling along a road"],
]


def of(said: list[str]) -> dict[str, float]:
    return scores(list(zip(said, TRUE, strict=True)))


def test_the_references_themselves_are_best() -> None:
    best = of([texts[0] for texts in TRUE])
    near = of(["a black cat on a mat", "two dogs in a park", "a man on a street"])
    far = of(["a plane", "a plane", "a plane"])
    assert best["BLEU-4"] == pytest.approx(1)
    assert best["ROUGE-L"] == pytest.approx(1)
    for name in ("CIDEr", "BLEU-1", "ROUGE-L"):
        assert best[name] > near[name] > far[name]


def test_case_and_punctuation_count_for_nothing() -> None:
    plain = of(["a black cat", "two dogs", "a man"])
    assert of(["A black cat.", "Two dogs!", "(a man)"]) == plain


def test_no_captions_have_no_scores() -> None:
    assert scores([]) == {}
    assert of(["", "two dogs", "a man"])["BLEU-1"] > 0
