"""The figures are written between their comments; the text around them stays."""

import json
from pathlib import Path

import pytest

from benchmarks.reliability.page import write_page

ROW = {"workload": "attack", "system": "crashes", "value": 0.0, "unit": "crashes", "note": "3 kills"}


def test_a_table_replaces_the_table_before(tmp_path: Path) -> None:
    page, figures = tmp_path / "reliability.md", tmp_path / "reliability.json"
    page.write_text("# Title\n<!-- kills -->\nold\n<!-- end kills -->\nend\n", encoding="utf-8")
    figures.write_text(json.dumps({"kills": {"machine": "a CPU", "measurements": [ROW]}}), encoding="utf-8")
    write_page(page, figures)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Title\n<!-- kills -->\n\na CPU\n\n| attack | figure | |\n")
    assert "| crashes | 0.00 crashes | 3 kills |\n\n<!-- end kills -->\nend\n" in text
    assert "old" not in text
    write_page(page, figures)
    assert page.read_text(encoding="utf-8") == text


def test_a_page_without_the_comments_is_refused(tmp_path: Path) -> None:
    page, figures = tmp_path / "reliability.md", tmp_path / "reliability.json"
    page.write_text("# Title\n", encoding="utf-8")
    figures.write_text(json.dumps({"kills": {"machine": "a CPU", "measurements": [ROW]}}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"reliability\.md needs the comments <!-- kills -->"):
        write_page(page, figures)
