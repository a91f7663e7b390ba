"""Error rates by hand."""

import math

import pytest

from finetune.evaluation.text_errors import Errors, cer, letters, wer, words


@pytest.mark.parametrize(
    ("said", "true", "edits", "length"),
    [("STOP", "STOP", 0, 4), ("SHOP", "STOP", 1, 4), ("", "STOP", 4, 4), ("STOP", "", 4, 0), ("a  b\n", "a b", 0, 3)],
)
def test_letters(said: str, true: str, edits: int, length: int) -> None:
    assert letters(said, true) == Errors(edits, length)


def test_words_are_whole() -> None:
    assert words("the cat sat", "the dog sat down") == Errors(2, 4)


def test_rates_are_over_all_letters_not_over_pairs() -> None:
    assert cer([("ab", "ab"), ("x", "abcdef")]) == pytest.approx(6 / 8)
    assert wer([("a b", "a c"), ("d", "d")]) == pytest.approx(1 / 3)
    assert cer([("much too long", "a")]) > 1
    assert math.isnan(cer([]))
