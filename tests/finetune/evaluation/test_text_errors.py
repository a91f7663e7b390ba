"""Error rates, compared with values computed by hand."""

import math

import pytest

from finetune.evaluation.text_errors import (
    EditCounts,
    compute_cer,
    compute_wer,
    count_character_edits,
    count_word_edits,
)


@pytest.mark.parametrize(
    ("predicted", "truth", "edits", "length"),
    [("STOP", "STOP", 0, 4), ("SHOP", "STOP", 1, 4), ("", "STOP", 4, 4), ("STOP", "", 4, 0), ("a  b\n", "a b", 0, 3)],
)
def test_character_edits_are_counted(predicted: str, truth: str, edits: int, length: int) -> None:
    assert count_character_edits(predicted, truth) == EditCounts(edits, length)


def test_word_edits_are_counted() -> None:
    assert count_word_edits("the cat sat", "the dog sat down") == EditCounts(2, 4)


def test_rates_are_over_all_characters_not_over_pairs() -> None:
    assert compute_cer([("ab", "ab"), ("x", "abcdef")]) == pytest.approx(6 / 8)
    assert compute_wer([("a b", "a c"), ("d", "d")]) == pytest.approx(1 / 3)
    assert compute_cer([("much too long", "a")]) > 1
    assert math.isnan(compute_cer([]))
