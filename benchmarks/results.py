"""Measurements of a benchmark: printed as a table and written as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Measurement:
    """One figure. Measurements with the same workload can be compared."""

    workload: str
    system: str
    """What was measured, such as a server, a library or a mode."""
    value: float
    unit: str
    speedup: float | None = None
    """How many times better than the baseline of the workload."""
    roofline: float | None = None
    """Share of the best that this machine could do, 0 … 1."""
    note: str = ""


def report_measurements(title: str, measurements: Sequence[Measurement], out: Path | None = None) -> None:
    """Prints the measurements as a table and, if `out` is given, writes them there as JSON."""
    table = Table(title=title)
    for column in ("workload", "system", "figure", "speedup", "roofline", "note"):
        table.add_column(column, justify="right" if column in ("figure", "speedup", "roofline") else "left")
    last = None
    for one in measurements:
        if last not in (None, one.workload):
            table.add_section()
        workload = "" if one.workload == last else one.workload
        table.add_row(workload, one.system, *format_measurement(one), one.note)
        last = one.workload
    Console(width=160).print(table)
    if out:
        rows = [asdict(one) for one in measurements]
        out.write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def read_measurements(path: Path) -> list[Measurement]:
    """Reads what `report_measurements` wrote."""
    return [Measurement(**row) for row in json.loads(path.read_text(encoding="utf-8"))]


def format_measurement(one: Measurement) -> tuple[str, str, str]:
    """Returns value with unit, speedup and share of the roofline as text."""
    speedup = "" if one.speedup is None else f"{one.speedup:.2f}×"
    roofline = "" if one.roofline is None else f"{one.roofline:.0%}"
    return f"{one.value:.{_decimals(one.value)}f} {one.unit}", speedup, roofline


def _decimals(value: float) -> int:
    """Returns the number of decimals that leaves about three digits."""
    return 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 0.1 or value == 0 else 4
