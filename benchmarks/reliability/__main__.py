"""Runs the reliability measurements: `python -m benchmarks.reliability [NAME …]` (`make reliability`).

`docs/measurements/reliability.json` holds the figures of each with the machine's name, and a run replaces only its own.
From it, the tables in `docs/measurements/reliability.md` are written.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.machine import describe_machine
from benchmarks.reliability import page

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "docs" / "measurements" / "reliability.json"
MEASUREMENTS = ("kills", "overload", "hostile_bodies", "attacks")


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"Any of {', '.join(MEASUREMENTS)}; default: all.")] = None,
    show: Annotated[bool, typer.Option(help="Run nothing; only write the page again.")] = False,
) -> None:
    """Runs measurements and writes their figures into docs/measurements/."""
    if unknown := [name for name in names or () if name not in MEASUREMENTS]:
        raise typer.BadParameter(f"unknown {', '.join(unknown)}; use one of {', '.join(MEASUREMENTS)}")
    failed = []
    for name in [] if show else names or MEASUREMENTS:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "measurements.json"
            command = [sys.executable, "-m", f"benchmarks.reliability.{name}", "--out", str(out)]
            if subprocess.run(command, cwd=ROOT).returncode:
                failed.append(name)
            if not out.exists():
                continue
            sections = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
            rows = json.loads(out.read_text(encoding="utf-8"))
            sections[name] = {"machine": describe_machine(), "measurements": rows}
        ordered = {name: sections[name] for name in MEASUREMENTS if name in sections}
        FIGURES.write_text(json.dumps(ordered, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    if FIGURES.exists():
        page.write_page(FIGURES.with_suffix(".md"), FIGURES)
    if failed:
        print(f"failed: {', '.join(failed)}")
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
