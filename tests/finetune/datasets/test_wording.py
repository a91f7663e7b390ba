"""English phrases for labels, and the words in them that an augmentation can make wrong."""

import pytest

from finetune.datasets import wording


@pytest.mark.parametrize(
    ("noun", "count", "phrase"),
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
def test_nouns_are_counted(noun: str, count: int, phrase: str) -> None:
    assert wording.count_noun(noun, count) == wording.make_phrase(noun, count) == phrase


@pytest.mark.parametrize("label", ["No-Helmet", "man with a hat", "猫", "type_2", "a small cat"])
def test_other_labels_than_nouns_are_kept(label: str) -> None:
    assert wording.make_phrase(label, 2) == wording.make_expression(label) == label


def test_an_expression_has_the_definite_article() -> None:
    assert wording.make_expression("fire hydrant") == "the fire hydrant"


def test_three_words_are_a_phrase() -> None:
    assert [wording.is_phrase(label) for label in ("cat", "fire hydrant", "small orange cat")] == [False, False, True]


def test_lists_are_joined() -> None:
    assert [wording.join_list("abc"[:n]) for n in (1, 2, 3)] == ["a", "a and b", "a, b and c"]


@pytest.mark.parametrize(
    ("text", "mirror"),
    [
        ("the cat on the left", "the cat on the right"),
        ("Left and RIGHT", "Right and LEFT"),
        ("the rightmost of the left-hand side", "the leftmost of the right-hand side"),
        ("turn_left", "turn_right"),
        ("a bright lefty, leftovers", "a bright lefty, leftovers"),
        ("left_arrow", "right_arrow"),
    ],
)
def test_left_and_right_are_exchanged(text: str, mirror: str) -> None:
    assert wording.swap_sides(text) == mirror
    assert wording.mentions_side(text) is (mirror != text)
    assert wording.swap_sides(mirror) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *[(text, True) for text in ("a cat in the top corner", "a Large dog", "the left one", "the biggest cat")],
        *[(text, False) for text in ("a red cat", "smallpox", "a farm", "a laptop")],
    ],
)
def test_places_and_sizes_are_found(text: str, expected: bool) -> None:
    assert wording.mentions_place(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red car", True), ("Dark-Grey", True), ("reddish roof", True), ("an orange", True), ("two greens", True),
        ("colored pencil", True), ("redwood", False), ("a tired dog", False), ("greenhouse", False), ("", False),
    ],
)  # fmt: skip
def test_colors_are_found(text: str, *, expected: bool) -> None:
    assert wording.mentions_color(text) is expected
