"""The selection of the next images to correct."""

import numpy as np
import pytest

from finetune.active_learning import EMPTY_UNCERTAINTY, estimate_uncertainty, select_next
from prompts.annotations import Annotation, Box


def make_boxes(*scores: float | None, label: str = "cat") -> list[Annotation]:
    return [Box(label=label, box=(0, 0, 1, 1), score=score) for score in scores]


@pytest.mark.parametrize(
    ("scores", "expected"), [((0.9,), 0.1), ((0.9, 0.4), 0.7), ((None,), 0.5), ((0.25, 0.25, 0.5), 2.0)]
)
def test_uncertainty_is_the_expected_number_of_errors(scores: tuple[float | None, ...], expected: float) -> None:
    assert estimate_uncertainty(make_boxes(*scores)) == pytest.approx(expected)


def test_an_image_without_predictions_is_uncertain() -> None:
    assert (
        estimate_uncertainty(make_boxes(0.999))
        < EMPTY_UNCERTAINTY
        == estimate_uncertainty([])
        < estimate_uncertainty(make_boxes(0.4))
    )


def test_the_least_certain_come_first_and_equals_in_order() -> None:
    names = ("cat", "dog", "cow", "bird")
    answers = [make_boxes(score, label=name) for score, name in zip((0.9, 0.2, 0.2, 0.1), names, strict=True)]
    assert select_next([*answers, []], 5) == [3, 1, 2, 4, 0]
    assert select_next(answers, 2) == [3, 1]
    assert select_next(answers, 99) == [3, 1, 2, 0]
    assert select_next(answers, 0) == []


def test_classes_with_labels_count_less() -> None:
    answers = [make_boxes(0.2), make_boxes(0.3), make_boxes(0.6, label="dog"), []]
    assert select_next(answers, 4) == [0, 3, 2, 1]  # a second cat counts half
    assert select_next(answers, 4, labeled=["cat"] * 9) == [3, 2, 0, 1]
    assert select_next(answers, 2, labeled=["dog", "cat", "cat", "cat"]) == [3, 0]
    assert select_next([make_boxes(0.4, 0.4, 0.4), make_boxes(0.3, 0.3, label="dog")], 1) == [0]
    assert select_next([make_boxes(0.5, 0.5, 0.5), [*make_boxes(0.4), *make_boxes(0.6, label="dog")]], 1) == [1]


def test_the_selection_is_greedy() -> None:
    rng = np.random.default_rng(0)
    names = ["cat", "dog", "cow"]
    answers = [
        [box for _ in range(rng.integers(4)) for box in make_boxes(float(rng.random()), label=str(rng.choice(names)))]
        for _ in range(40)
    ]
    selected: list[int] = []
    for _ in range(12):
        labeled = [box.label for index in selected for box in answers[index] or make_boxes(0.5, label="")]
        rest = [index for index in range(40) if index not in selected]
        selected.append(rest[select_next([answers[index] for index in rest], 1, labeled)[0]])
    assert select_next(answers, 12) == selected
