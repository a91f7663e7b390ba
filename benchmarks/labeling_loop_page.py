"""Writes the results of `benchmarks.labeling_loop`: loop.json, loop.md and loop.png."""

import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

Loops = dict[str, list[dict[str, Any]]]  # strategy → rows, one per round


def write_results(folder: Path, results: dict[str, Any]) -> None:
    """Writes all three files."""
    (folder / "loop.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "loop.md").write_text(format_page(results))
    draw_plot(results["loops"], folder / "loop.png")


def format_table(loops: Loops) -> Table:
    """Returns the figures for the terminal."""
    table = Table(title="corrections per 100 labels")
    for column in ("strategy", "corrected", "corrections per 100", "promoted", "points lost elsewhere", "minutes"):
        table.add_column(column, justify="right")
    for strategy, rows in loops.items():
        for row in rows:
            table.add_row(strategy, *_format_cells(row))
    return table


def format_page(results: dict[str, Any]) -> str:
    """Returns the figures as Markdown."""
    strategies = ",".join(results["loops"])
    command = "make loop"
    if strategies != "uncertainty,random":
        command = f"python -m benchmarks.labeling_loop --strategies {strategies}"
    images = results["images"]
    lines = [
        "# The labeling loop", "",
        f"Measured by `{command}` on {results['machine']}. There is a pool of {images['pool']} images to select from, "
        f"{images['backtest']} holdout images for backtests, and {images['test']} other images for the figures.", "",
        "![Corrections per 100 labels against the number of corrected images](loop.png)", "",
        "| strategy | corrected images | corrections per 100 labels | promoted (backtest, 95 %) | points lost on the "
        "base's tasks | minutes to select, tune, backtest and measure forgetting |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for strategy, rows in results["loops"].items():
        lines += [f"| {strategy} | {' | '.join(_format_cells(row))} |" for row in rows]
    return "\n".join(lines) + "\n"


def draw_plot(loops: Loops, path: Path) -> None:
    """Plots corrections per 100 labels over the number of corrected images."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for strategy, rows in loops.items():
        label = f"selected by {strategy}" if strategy != "random" else "selected at random"
        axes.plot([r["corrected"] for r in rows], [r["per_hundred"] for r in rows], "o-", label=label)
    first = next(iter(loops.values()))[0]["per_hundred"]
    for share, name in ((1 / 3, "a third"), (1 / 6, "a sixth")):
        axes.axhline(first * share, color="#999", linestyle=":", linewidth=1)
        axes.annotate(name, (0, first * share), fontsize=8, color="#777", va="bottom")
    axes.set(xlabel="corrected images", ylabel="corrections per 100 labels", ylim=(0, None))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def _format_cells(row: dict[str, Any]) -> tuple[str, ...]:
    interval = f" ({row['interval'][0]:+.0f} … {row['interval'][1]:+.0f})" if "interval" in row else ""
    return (
        str(row["corrected"]), f"{row['per_hundred']:.1f}", ("yes" if row["promoted"] else "no") + interval,
        f"{row['lost']:.1f}", f"{row['seconds'] / 60:.1f}",
    )  # fmt: skip
