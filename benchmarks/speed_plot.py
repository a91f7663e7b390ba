"""Draws docs/measurements/speed.png: speedups on the left, latency under load on the right."""

import re
from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from benchmarks.speed_page import HEADLINES, BenchmarkSection

COLORS = {"transformers, one at a time": "#b9bec6", "transformers, batched": "#7a8594", "florist": "#2f7d5b"}


def draw_plot(path: Path, sections: Mapping[str, BenchmarkSection]) -> None:
    """Writes the plot as PNG."""
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.7, 1))
    _draw_speedups(left, sections)
    _draw_latencies(right, sections)
    figure.savefig(path, dpi=120)


def _draw_speedups(axes: Axes, sections: Mapping[str, BenchmarkSection]) -> None:
    rows = [(row.title, found) for row in HEADLINES if (found := row.find(sections))]
    for position, (_, found) in enumerate(rows):
        for offset, (name, one) in enumerate(zip(COLORS, found, strict=True)):
            if one is None or one.speedup is None:
                continue
            bars = axes.barh(position + 0.27 * (offset - 1), one.speedup, 0.25, color=COLORS[name])
            axes.bar_label(bars, fmt="%.1f×", padding=3, fontsize=8)
    axes.set_yticks(range(len(rows)), [title for title, _ in rows])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("speedup over transformers one at a time")
    patches = [Patch(color=color, label=name) for name, color in COLORS.items()]
    axes.legend(handles=patches, loc="lower left", bbox_to_anchor=(-0.5, 1.0), ncols=3, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_latencies(axes: Axes, sections: Mapping[str, BenchmarkSection]) -> None:
    measurements = sections["poisson-arrivals"].measurements if "poisson-arrivals" in sections else []
    for percentile, style in ((50, "o-"), (99, "s--")):
        points = [
            (int(load[1]), one.value)
            for one in measurements
            if (load := re.match(rf"(\d+)% of capacity, p{percentile}$", one.system))
        ]
        if points:
            axes.plot(*zip(*points, strict=True), style, color=COLORS["florist"], label=f"p{percentile}")
    axes.set_xlabel("load, % of capacity")
    axes.set_ylabel("ms from scheduled arrival to answer")
    axes.set_title("seedling, Poisson arrivals", fontsize=10)
    axes.set_ylim(bottom=0)
    if measurements:
        axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
