"""The main figures drawn: how many times faster, and how long requests wait under load."""

import re
from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from benchmarks.speed_page import HEADLINES, Section

COLOR_NAMES = {"transformers, one at a time": "#b9bec6", "transformers, batched": "#7a8594", "florist": "#2f7d5b"}


def draw(path: Path, sections: Mapping[str, Section]) -> None:
    """Writes the plot as PNG."""
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.7, 1))
    _ratios(left, sections)
    _latencies(right, sections)
    figure.savefig(path, dpi=120)


def _ratios(axes: Axes, sections: Mapping[str, Section]) -> None:
    found = [(line.title, rows) for line in HEADLINES if (rows := line.find(sections))]
    for place, (_, rows) in enumerate(found):
        for offset, (name, row) in enumerate(zip(COLOR_NAMES, rows, strict=True)):
            if row is None or row.ratio is None:
                continue
            bars = axes.barh(place + 0.27 * (offset - 1), row.ratio, 0.25, color=COLOR_NAMES[name])
            axes.bar_label(bars, fmt="%.1f×", padding=3, fontsize=8)
    axes.set_yticks(range(len(found)), [title for title, _ in found])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("times as fast as transformers one at a time")
    patches = [Patch(color=color, label=name) for name, color in COLOR_NAMES.items()]
    axes.legend(handles=patches, loc="lower left", bbox_to_anchor=(-0.5, 1.0), ncols=3, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _latencies(axes: Axes, sections: Mapping[str, Section]) -> None:
    rows = sections["arrivals"].rows if "arrivals" in sections else []
    for percentile, style in ((50, "o-"), (99, "s--")):
        points = [
            (int(load[1]), row.value)
            for row in rows
            if (load := re.match(rf"(\d+)% of capacity, p{percentile}$", row.side))
        ]
        if points:
            axes.plot(*zip(*points, strict=True), style, color=COLOR_NAMES["florist"], label=f"p{percentile}")
    axes.set_xlabel("load, % of capacity")
    axes.set_ylabel("ms from scheduled arrival to answer")
    axes.set_title("seedling, Poisson arrivals", fontsize=10)
    axes.set_ylim(bottom=0)
    if rows:
        axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
