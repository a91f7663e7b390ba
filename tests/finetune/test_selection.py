"""Which pictures are corrected next."""

import pytest

from finetune.selection import NOTHING_FOUND, doubt, most_doubtful
from prompts.annotations import Annotation, Box


def answer(*scores: float | None) -> list[Annotation]:
    return [Box(label="cat", box=(0, 0, 1, 1), score=score) for score in scores]


@pytest.mark.parametrize(
    ("scores", "wanted"), [((0.9,), 0.1), ((0.9, 0.4), 0.7), ((None,), 0.5), ((0.25, 0.25, 0.5), 2.0)]
)
def test_doubt_is_the_expected_number_of_wrong_labels(scores: tuple[float | None, ...], wanted: float) -> None:
    assert doubt(answer(*scores)) == pytest.approx(wanted)


def test_nothing_found_is_worth_a_look() -> None:
    assert doubt(answer(0.999)) < NOTHING_FOUND == doubt([]) < doubt(answer(0.4))


def test_the_most_doubtful_come_first_and_equals_in_order() -> None:
    answers = [answer(0.9), answer(0.2), [], answer(0.2), answer(0.5, 0.5)]
    assert most_doubtful(answers, 4) == [4, 1, 3, 2]
    assert most_doubtful(answers, 99) == [4, 1, 3, 2, 0]
    assert most_doubtful(answers, 0) == []
