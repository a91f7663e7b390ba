"""What is still known of the base's own world, and the price of what was learned."""

import pytest

from finetune.forgetting import more, price, probe
from prompts.tasks import TASKS
from server.engine.engine import Engine


def test_every_task_has_a_figure() -> None:
    with Engine.load() as engine:
        found = probe(engine, scenes=4)
    assert set(found) == set(TASKS)
    assert all(0 <= value <= 1 for value in found.values())
    assert found["<OD>"] > 0.5  # the seedling knows its own world


def test_the_price_in_points() -> None:
    lost = price({"<OD>": 0.9, "<OCR>": 0.5, "<CAPTION>": 0.1}, {"<OD>": 0.8, "<OCR>": 0.6})
    assert lost == {"<OD>": pytest.approx(10), "<OCR>": pytest.approx(-10), "mean": pytest.approx(0)}
    assert price({"<OD>": 0.9}, {}) == {"mean": 0.0}


def test_corrections_more_than_before() -> None:
    added = more({"<OD>": 20.0, "<CAPTION>": 50.0}, {"<OD>": 26.0, "<CAPTION>": 48.0})
    assert added == {"<OD>": 6.0, "<CAPTION>": -2.0, "mean": 2.0}
    assert more({}, {}) == {"mean": 0.0}
