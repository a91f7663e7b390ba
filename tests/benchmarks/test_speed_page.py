"""Figures on their way from a benchmark to the README."""

from pathlib import Path

import pytest

from benchmarks import speed_page, speed_plot
from benchmarks.results import Row, read, show
from benchmarks.speed_page import BEGIN, END, Section

ROWS = [
    Row("bfloat16, greedy", "transformers, one at a time", 6.0, "s a request", 1.0, 0.2),
    Row("bfloat16, greedy", "transformers, one batch of 8", 4.0, "s a request", 1.5, 0.3),
    Row("bfloat16, greedy", "florist", 1.5, "s a request", 4.0, 0.8, "the same tokens in 4 of 4"),
]


def test_rows_come_back_from_json_as_they_were(tmp_path: Path) -> None:
    show("title", ROWS, tmp_path / "rows.json")
    assert read(tmp_path / "rows.json") == ROWS


def test_the_headline_holds_both_ratios(tmp_path: Path) -> None:
    text = speed_page.headline({"mixed-bf16": Section("a machine", ROWS)})
    (line,) = [line for line in text.splitlines() if "60, 300" in line]
    assert [cell.strip() for cell in line.split("|")[2:-1]] == [
        *("6.00 s a request", "4.00 s a request", "1.50 s a request", "4.0×, 2.7×", "80%")
    ]


def test_the_readme_changes_between_its_markers_only(tmp_path: Path) -> None:
    readme, sections = tmp_path / "README.md", {"mixed-bf16": Section("a machine", ROWS)}
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    speed_page.insert(readme, sections)
    once = readme.read_text(encoding="utf-8")
    speed_page.insert(readme, sections)
    assert readme.read_text(encoding="utf-8") == once
    assert once.startswith(f"before\n{BEGIN}\n")
    assert once.endswith(f"{END}\nafter\n")
    assert "a machine" in once
    assert "old" not in once


def test_a_readme_without_markers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("nothing here", encoding="utf-8")
    with pytest.raises(ValueError, match="once each"):
        speed_page.insert(tmp_path / "README.md", {})


def test_the_plot_is_drawn_of_whatever_is_there(tmp_path: Path) -> None:
    waits = [Row("w", f"{load}% of capacity, p{p}", 10.0 * load, "ms") for load in (30, 90) for p in (50, 99)]
    speed_plot.draw(tmp_path / "plot.png", {"mixed-bf16": Section("m", ROWS), "arrivals": Section("m", waits)})
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
