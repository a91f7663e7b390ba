"""The log of a run, `log.jsonl`, and its plot, `curves.png`."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

_TAIL_BYTES = 1 << 16  # many times the size of a line
LOG_FILE, PLOT_FILE = "log.jsonl", "curves.png"


def append_to_log(folder: Path, line: dict[str, Any]) -> None:
    """Adds a line. Raises OSError."""
    with (folder / LOG_FILE).open("a") as log:
        log.write(json.dumps(line) + "\n")


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Returns the lines, each step once: a run that continues after a crash repeats some steps."""
    path = folder / LOG_FILE
    lines: dict[int, dict[str, Any]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        with suppress(ValueError):  # a crash or a full disk can leave a partial line, and the next one follows in it
            content = json.loads(line)
            earlier = {step: kept for step, kept in lines.items() if step < content["step"]}
            lines = earlier | {content["step"]: content}
    return list(lines.values())


def read_last_line(folder: Path) -> dict[str, Any] | None:
    """Returns the newest complete line, without reading the whole log; None if there is none yet. Raises OSError."""
    with (folder / LOG_FILE).open("rb") as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
        for line in reversed(log.read().splitlines()):
            with suppress(ValueError):  # a line that is not complete
                if isinstance(content := json.loads(line), dict):
                    return content
    return None


def plot_curves(folder: Path, metric: str) -> None:
    """Plots the parts of the loss and the validation metric over steps."""
    from matplotlib.figure import Figure

    lines = read_log(folder)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for part in ("text", "location", "kind", "anchor"):
        points = [(line["step"], line[f"{part}_loss"]) for line in lines if f"{part}_loss" in line]
        if points:
            left.plot(*zip(*points, strict=True), label=part)
    left.set(xlabel="step", title="training loss")
    if left.lines:
        left.legend()
    points = [(line["step"], line["validation"]) for line in lines if "validation" in line]
    if points:
        right.plot(*zip(*points, strict=True), marker="o")
        best = min(points, key=lambda point: point[1])
        right.annotate(f"{best[1]:.3g}", best, textcoords="offset points", xytext=(4, 6))
    title = "corrections per 100 labels" if metric == "corrections" else "loss"
    right.set(xlabel="step", title=f"{title}, holdout", ylim=(0, None))
    figure.savefig(folder / PLOT_FILE, dpi=110)
