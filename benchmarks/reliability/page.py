"""Writes the figures into docs/measurements/reliability.md, each table between its two comments."""

import json
import re
from itertools import groupby
from pathlib import Path

from benchmarks.results import Measurement, format_measurement


def write_page(page: Path, figures: Path) -> None:
    """Replaces what stands between `<!-- NAME -->` and `<!-- end NAME -->`. Raises ValueError if they are missing."""
    text = page.read_text(encoding="utf-8")
    for name, section in json.loads(figures.read_text(encoding="utf-8")).items():
        begin, end = f"<!-- {name} -->", f"<!-- end {name} -->"
        if begin not in text or end not in text:
            raise ValueError(f"{page.name} needs the comments {begin} and {end}")
        rows = [Measurement(**row) for row in section["measurements"]]
        block = f"{begin}\n\n{section['machine']}\n\n{format_tables(rows)}\n\n{end}"
        text = re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _, block=block: block, text, flags=re.DOTALL)  # type: ignore[misc]
    page.write_text(text, encoding="utf-8")


def format_tables(measurements: list[Measurement]) -> str:
    """Returns one Markdown table for each workload."""
    tables = []
    for workload, rows in groupby(measurements, key=lambda one: one.workload):
        lines = [f"| {workload} | figure | |", "|---|---:|---|"]
        lines += [f"| {one.system} | {format_measurement(one)[0]} | {one.note} |" for one in rows]
        tables.append("\n".join(lines))
    return "\n\n".join(tables)
