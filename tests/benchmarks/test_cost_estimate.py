"""The cost estimate follows from the measurements."""

import pytest

from benchmarks.cost_estimate import format_page, list_rates
from benchmarks.results import Measurement
from benchmarks.speed_page import BenchmarkSection

CASCADE = BenchmarkSection("a machine", [Measurement("seedling, fp32", "florist, whole job", 100.0, "ms CPU/scene")])
MIXED = BenchmarkSection("a machine", [Measurement("bfloat16, greedy", "florist", 2.0, "s/request")])
PROMPTS = BenchmarkSection("another", [Measurement("base, bfloat16, 8 prompts", "cold: florist", 500.0, "ms/prompt")])


def test_rates_are_core_seconds() -> None:
    sections = {"cascade-job": CASCADE, "mixed-lengths-bf16": MIXED, "prompts-per-image-base": PROMPTS}
    assert [(rate.section, rate.seconds) for rate in list_rates(sections)] == [
        ("cascade-job", 0.1),
        ("mixed-lengths-bf16", 4.0),
        ("prompts-per-image-base", 8.0),
    ]
    assert list(list_rates({})) == []


@pytest.mark.parametrize(
    ("price", "days", "cells"),
    [(0.1, 30.0, "| 4 s | 4,000 | 2 | 400 |"), (0.05, 1.0, "| 4 s | 4,000 | 42 | 200 |")],
)
def test_core_hours_machines_and_cost(price: float, days: float, cells: str) -> None:
    """3.6 million images at 2 s on two cores take 4,000 core-hours: 1,000 hours or 41.7 days on 4 cores."""
    page = format_page({"mixed-lengths-bf16": MIXED}, price, 4, days, 3_600_000)
    assert cells in page
    assert "3.6 million" in page
    assert "a machine" in page
