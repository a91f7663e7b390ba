"""What the model says, and what the project calls it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.jobs.recipes.ontology import Ontology, agree, normal, says
from tests.server.jobs.recipes.answering import steady

ONTOLOGY = Ontology({"vehicle": ["car", "fire truck"], "person": ["man", "woman"], "drink": ["glass of wine"]})


@pytest.mark.parametrize(
    ("words", "label"),
    [
        ("car", "vehicle"),
        ("A  Car.", "vehicle"),
        ("the old red car", "vehicle"),
        ("car on a road", "vehicle"),
        ("a man in a car", "person"),  # what a thing is, is said before where it is
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
def test_words_to_labels(words: str, label: str | None) -> None:
    assert ONTOLOGY.label(words) == label


def test_the_order_of_labels_changes_nothing() -> None:
    assert Ontology({"b": ["x", "a"], "a": ["y"]}).phrases == Ontology({"a": ["y"], "b": ["x", "a"]}).phrases


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("cat", "A cat", True),
        ("cat", "a black cat", True),
        ("woman with a hat", "man", True),  # one label
        ("cat", "dog", False),
        ("cat", "caterpillar", False),
        ("cat", "", False),
        ("", "", False),
    ],
)
def test_two_answers_agree(one: str, other: str, same: bool) -> None:
    assert agree(ONTOLOGY, one, other) is agree(ONTOLOGY, other, one) is same


@steady
@given(st.text(), st.text())
def test_any_words_are_compared(one: str, other: str) -> None:
    assert normal(normal(one)) == normal(one)
    assert says(one, other) in (True, False)
    ONTOLOGY.label(one)
