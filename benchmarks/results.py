"""Figures: rows that a benchmark measured, shown on the terminal and kept as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `workload` says what was done, `side` by whom; rows of one workload can be compared.

    `ratio`: how many times better than the workload's baseline; `floor`: the share of what the machine could do at
    best, 0 … 1; `note`: what a reader must know beside it.
    """

    workload: str
    side: str
    value: float
    unit: str
    ratio: float | None = None
    floor: float | None = None
    note: str = ""


def show(title: str, rows: Sequence[Row], out: Path | None = None) -> None:
    """Prints the rows as a table; writes them to `out` as JSON where it is given."""
    table = Table(title=title)
    for column in ("workload", "side", "figure", "ratio", "floor", "note"):
        table.add_column(column, justify="right" if column in ("figure", "ratio", "floor") else "left")
    last = None
    for row in rows:
        if last not in (None, row.workload):
            table.add_section()
        table.add_row("" if row.workload == last else row.workload, row.side, *figures(row), row.note)
        last = row.workload
    Console(width=160).print(table)
    if out:
        out.write_text(json.dumps([asdict(row) for row in rows], ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> list[Row]:
    """What `show` wrote."""
    return [Row(**row) for row in json.loads(path.read_text(encoding="utf-8"))]


def figures(row: Row) -> tuple[str, str, str]:
    """Figure, ratio and share of the floor as text."""
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}×"
    floor = "" if row.floor is None else f"{row.floor:.0%}"
    return f"{row.value:.{digits(row.value)}f} {row.unit}", ratio, floor


def digits(value: float) -> int:
    """Decimals that leave about three digits."""
    return 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 0.1 or value == 0 else 4
