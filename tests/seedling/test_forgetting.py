"""The seedling's forgetting evaluation on drawn scenes."""

import pytest

from prompts.tasks import FLORENCE_TASKS
from seedling.forgetting import compute_lost_points, measure_quality
from server.engine.engine import Engine


def test_every_task_has_a_quality() -> None:
    with Engine.load() as engine:
        quality = measure_quality(engine, scenes=4)
    assert set(quality) == set(FLORENCE_TASKS)
    assert all(0 <= value <= 1 for value in quality.values())
    assert quality["<OD>"] > 0.5  # the seedling knows its own domain


def test_lost_points_are_the_difference_and_its_mean() -> None:
    lost = compute_lost_points({"<OD>": 0.9, "<OCR>": 0.5, "<CAPTION>": 0.1}, {"<OD>": 0.8, "<OCR>": 0.6})
    assert lost == {"<OD>": pytest.approx(10), "<OCR>": pytest.approx(-10), "mean": pytest.approx(0)}
    assert compute_lost_points({"<OD>": 0.9}, {}) == {"mean": 0.0}
