"""Labels for the model's words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.jobs.recipes.ontology import OntologyIndex, contains_words, normalize_words
from tests.server.jobs.recipes.scripted_answers import deterministic

INDEX = OntologyIndex({"vehicle": ["car", "fire truck"], "person": ["man", "woman"], "drink": ["glass of wine"]})


@pytest.mark.parametrize(
    ("words", "label"),
    [
        ("car", "vehicle"),
        ("A  Car.", "vehicle"),
        ("the old red car", "vehicle"),
        ("car on a road", "vehicle"),
        ("a man in a car", "person"),  # the head of the noun phrase comes first
        ("road with a car", None),
        ("car wheel", None),
        ("a fire truck", "vehicle"),
        ("truck", None),
        ("a glass of wine", "drink"),
        ("scar", None),
        ("", None),
        ("the", None),
        ("in", None),
    ],
)
def test_the_head_of_a_noun_phrase_decides_the_label(words: str, label: str | None) -> None:
    assert INDEX.find_label(words) == label


def test_the_order_of_labels_does_not_matter() -> None:
    assert OntologyIndex({"b": ["x", "a"], "a": ["y"]}).phrases == OntologyIndex({"a": ["y"], "b": ["x", "a"]}).phrases


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("cat", "A cat", True),
        ("cat", "a black cat", True),
        ("woman with a hat", "man", True),  # they have one label
        ("cat", "dog", False),
        ("cat", "caterpillar", False),
        ("cat", "", False),
        ("", "", False),
    ],
)
def test_two_names_of_one_object(one: str, other: str, same: bool) -> None:
    assert INDEX.is_same_object(one, other) is INDEX.is_same_object(other, one) is same


@deterministic
@given(st.text(), st.text())
def test_any_words_can_be_compared(one: str, other: str) -> None:
    assert normalize_words(normalize_words(one)) == normalize_words(one)
    assert contains_words(one, other) in (True, False)
    INDEX.find_label(one)
