"""From measurements to the published page and plot."""

from pathlib import Path

from benchmarks import speed_page, speed_plot
from benchmarks.results import Measurement, read_measurements, report_measurements
from benchmarks.speed_page import BenchmarkSection

MEASUREMENTS = [
    Measurement("bfloat16, greedy", "transformers, one at a time", 6.0, "s/request", 1.0, 0.2),
    Measurement("bfloat16, greedy", "transformers, one batch of 8", 4.0, "s/request", 1.5, 0.3),
    Measurement("bfloat16, greedy", "florist", 1.5, "s/request", 4.0, 0.8, "same tokens in 4 of 4"),
]
SECTIONS = {"mixed-lengths-bf16": BenchmarkSection("a machine", MEASUREMENTS)}


def test_measurements_are_read_back_unchanged(tmp_path: Path) -> None:
    report_measurements("title", MEASUREMENTS, tmp_path / "measurements.json")
    assert read_measurements(tmp_path / "measurements.json") == MEASUREMENTS


def test_the_main_table_has_both_speedups() -> None:
    text = speed_page.format_headlines(SECTIONS)
    (line,) = [line for line in text.splitlines() if "60, 300" in line]
    assert [cell.strip() for cell in line.split("|")[2:-1]] == [
        *("6.00 s/request", "4.00 s/request", "1.50 s/request", "4.0×, 2.7×", "80%")
    ]


def test_the_page_holds_every_figure_and_is_repeatable(tmp_path: Path) -> None:
    path = tmp_path / "speed.md"
    speed_page.write_page(path, SECTIONS)
    once = path.read_text(encoding="utf-8")
    speed_page.write_page(path, SECTIONS)
    assert path.read_text(encoding="utf-8") == once
    assert once.startswith("# Speed\n")
    assert "a machine" in once
    assert "| florist | 1.50 s/request | 4.00× | 80% | same tokens in 4 of 4 |" in once


def test_the_plot_uses_what_is_measured(tmp_path: Path) -> None:
    latencies = [
        Measurement("w", f"{load}% of capacity, p{p}", 10.0 * load, "ms") for load in (30, 90) for p in (50, 99)
    ]
    sections = {**SECTIONS, "poisson-arrivals": BenchmarkSection("m", latencies)}
    speed_plot.draw_plot(tmp_path / "plot.png", sections)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
