"""Which pictures are corrected next."""

import numpy as np
import pytest

from finetune.active_learning import NOTHING_FOUND, doubt, select
from prompts.annotations import Annotation, Box


def answer(*scores: float | None, label: str = "cat") -> list[Annotation]:
    return [Box(label=label, box=(0, 0, 1, 1), score=score) for score in scores]


@pytest.mark.parametrize(
    ("scores", "wanted"), [((0.9,), 0.1), ((0.9, 0.4), 0.7), ((None,), 0.5), ((0.25, 0.25, 0.5), 2.0)]
)
def test_doubt_is_the_expected_number_of_wrong_labels(scores: tuple[float | None, ...], wanted: float) -> None:
    assert doubt(answer(*scores)) == pytest.approx(wanted)


def test_nothing_found_is_worth_a_look() -> None:
    assert doubt(answer(0.999)) < NOTHING_FOUND == doubt([]) < doubt(answer(0.4))


def test_the_most_doubtful_come_first_and_equals_in_order() -> None:
    names = ("cat", "dog", "cow", "bird")
    answers = [answer(score, label=name) for score, name in zip((0.9, 0.2, 0.2, 0.1), names, strict=True)]
    assert select([*answers, []], 5) == [3, 1, 2, 4, 0]
    assert select(answers, 2) == [3, 1]
    assert select(answers, 99) == [3, 1, 2, 0]
    assert select(answers, 0) == []


def test_what_is_known_already_is_worth_less() -> None:
    answers = [answer(0.2), answer(0.3), answer(0.6, label="dog"), []]
    assert select(answers, 4) == [0, 3, 2, 1]  # another cat is half as good as the first
    assert select(answers, 4, known=["cat"] * 9) == [3, 2, 0, 1]
    assert select(answers, 2, known=["dog", "cat", "cat", "cat"]) == [3, 0]
    assert select([answer(0.4, 0.4, 0.4), answer(0.3, 0.3, label="dog")], 1) == [0]
    assert select([answer(0.5, 0.5, 0.5), [*answer(0.4), *answer(0.6, label="dog")]], 1) == [1]


def test_the_choice_is_the_greedy_one() -> None:
    rng = np.random.default_rng(0)
    names = ["cat", "dog", "cow"]
    answers = [
        [note for _ in range(rng.integers(4)) for note in answer(float(rng.random()), label=str(rng.choice(names)))]
        for _ in range(40)
    ]
    chosen: list[int] = []
    for _ in range(12):
        known = [note.label for place in chosen for note in answers[place] or answer(0.5, label="")]
        rest = [place for place in range(40) if place not in chosen]
        chosen.append(rest[select([answers[place] for place in rest], 1, known)[0]])
    assert select(answers, 12) == chosen
