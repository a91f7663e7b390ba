import pytest

from finetune.datasets import wording


@pytest.mark.parametrize(
    ("noun", "count", "said"),
    [
        ("cat", 1, "a cat"),
        ("apple", 1, "an apple"),
        ("bus", 2, "two buses"),
        ("fish", 3, "three fish"),
        ("berry", 10, "ten berries"),
        ("toy", 11, "many toys"),
        ("person", 4, "four people"),
        ("traffic light", 2, "two traffic lights"),
        ("wine glass", 2, "two wine glasses"),
    ],
)
def test_counted(noun: str, count: int, said: str) -> None:
    assert wording.counted(noun, count) == wording.phrase(noun, count) == said


@pytest.mark.parametrize("label", ["No-Helmet", "man with a hat", "猫", "type_2", "a small cat"])
def test_what_is_no_plain_noun_is_left_alone(label: str) -> None:
    assert wording.phrase(label, 2) == wording.expression(label) == label


def test_an_expression_has_the_definite_article() -> None:
    assert wording.expression("fire hydrant") == "the fire hydrant"


def test_three_words_are_a_phrase() -> None:
    assert [wording.is_phrase(label) for label in ("cat", "fire hydrant", "small orange cat")] == [False, False, True]


def test_listed() -> None:
    assert [wording.listed("abc"[:n]) for n in (1, 2, 3)] == ["a", "a and b", "a, b and c"]
