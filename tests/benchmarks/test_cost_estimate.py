"""The page of arithmetic says what the figures say."""

import pytest

from benchmarks.cost_estimate import page, rates
from benchmarks.results import Row
from benchmarks.speed_page import Section

CASCADE = Section("a machine", [Row("seedling, fp32", "florist, the whole job", 100.0, "ms CPU a scene")])
MIXED = Section("a machine", [Row("bfloat16, greedy", "florist", 2.0, "s a request")])
PROMPTS = Section("another", [Row("base, bfloat16, 8 prompts", "cold: florist", 500.0, "ms a prompt")])


def test_rates_are_seconds_of_a_core() -> None:
    found = rates({"cascade": CASCADE, "mixed-bf16": MIXED, "prompts-base": PROMPTS})
    assert [(rate.source, rate.seconds) for rate in found] == [
        ("cascade", 0.1),
        ("mixed-bf16", 4.0),
        ("prompts-base", 8.0),
    ]
    assert list(rates({})) == []


@pytest.mark.parametrize(
    ("price", "days", "cells"),
    [(0.1, 30.0, "| 4 s | 4,000 | 2 | 400 |"), (0.05, 1.0, "| 4 s | 4,000 | 42 | 200 |")],
)
def test_core_hours_machines_and_money(price: float, days: float, cells: str) -> None:
    """3.6 million pictures of 2 s on two cores are 4,000 core-hours: of 4 cores, 1,000 hours, which are 41.7 days."""
    written = page({"mixed-bf16": MIXED}, price, 4, days, 3_600_000)
    assert cells in written
    assert "3.6 million" in written
    assert "a machine" in written
