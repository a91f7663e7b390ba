"""Runs the reliability measurements: `python -m benchmarks.reliability [NAME …]` (`make reliability`).

`docs/measurements/reliability.json` holds the figures of each with the machine's name, and a run replaces only its own.
From it, the tables in `docs/measurements/reliability.md` are written.
"""

from typing import Annotated

import typer

from benchmarks.recording import ROOT, record_benchmark
from benchmarks.reliability import page

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
        if not record_benchmark(name, f"reliability.{name}", (), FIGURES, MEASUREMENTS):
            failed.append(name)
    if FIGURES.exists():
        page.write_page(FIGURES.with_suffix(".md"), FIGURES)
    if failed:
        print(f"failed: {', '.join(failed)}")
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
