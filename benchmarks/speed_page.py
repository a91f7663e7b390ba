"""Writes docs/measurements/speed.md: the main figures, then all of them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from benchmarks.results import Measurement, format_measurement


@dataclass(frozen=True, slots=True)
class BenchmarkSection:
    """What one benchmark measured, and on which machine."""

    machine: str
    measurements: list[Measurement]


@dataclass(frozen=True, slots=True)
class HeadlineRow:
    """A row of the main table: one workload, measured for transformers one at a time, batched, and for florist.

    Systems are found by name, or by the start of their name; of several, the fastest is taken.
    """

    title: str
    section: str
    workload: str
    one_by_one: str
    batched: str | None
    florist: str

    def find(
        self, sections: Mapping[str, BenchmarkSection]
    ) -> tuple[Measurement, Measurement | None, Measurement] | None:
        """Returns the three measurements, or None if they are missing."""
        measurements = sections[self.section].measurements if self.section in sections else []
        own = [one for one in measurements if one.workload.startswith(self.workload)]

        def find_system(name: str | None) -> Measurement | None:
            exact = [one for one in own if one.system == name]
            matches = exact or [one for one in own if name is not None and one.system.startswith(name)]
            return max(matches, key=lambda one: one.speedup or 0, default=None)

        one_by_one, florist = find_system(self.one_by_one), find_system(self.florist)
        return (one_by_one, find_system(self.batched), florist) if one_by_one and florist else None


_ONE, _BATCH = "transformers, one at a time", "transformers, one batch"
HEADLINES = (
    HeadlineRow(
        "vision encoder alone, bf16", "vision-encoder", "base, 768 px, bfloat16", "transformers", None, "florist"
    ),
    HeadlineRow(
        "vision encoder alone, fp32", "vision-encoder", "base, 768 px, float32", "transformers", None, "florist"
    ),
    HeadlineRow(
        "answers of 5, 15, 60, 300 tokens, bf16", "mixed-lengths-bf16", "bfloat16", _ONE, _BATCH, "florist"
    ),
    HeadlineRow("the same, 3 beams, bf16", "mixed-lengths-bf16-beams", "bfloat16", _ONE, _BATCH, "florist"),
    HeadlineRow("the same, greedy, fp32", "mixed-lengths-fp32", "float32", _ONE, _BATCH, "florist"),
    HeadlineRow("the same, 3 beams, fp32", "mixed-lengths-fp32-beams", "float32", _ONE, _BATCH, "florist"),
    *(
        HeadlineRow(
            f"{model}, 8 prompts for a new image, {short}", section, f"{model}, {dtype}, 8 prompts",
            "cold: transformers, one at a time", "cold: transformers, one batch", "cold: florist",
        )
        for model, section, short, dtype in (
            ("base", "prompts-per-image-base", "bf16", "bfloat16"),
            ("seedling", "prompts-per-image", "fp32", "float32"),
        )
    ),
    HeadlineRow(
        "seedling over HTTP, one prompt per image, fp32", "http", "seedling, fp32, greedy, one new image", _ONE,
        "transformers behind LitServe", "florist serve",
    ),
    HeadlineRow(
        "seedling over HTTP, all tasks of an image, fp32", "http", "seedling, fp32, greedy, all tasks", _ONE,
        "transformers, one batch", "florist serve",
    ),
    HeadlineRow(
        "a job: detect, check, outline, describe; fp32", "cascade-job", "seedling, fp32, greedy", _ONE,
        "transformers, one batch per turn", "florist, whole job",
    ),
    HeadlineRow(
        "seedling, 4 adapters mixed, fp32", "mixed-adapters", "seedling", "PEFT, one at a time", "PEFT, sorted",
        "florist, 4 adapters",
    ),
)  # fmt: skip


def read_sections(path: Path) -> dict[str, BenchmarkSection]:
    """Reads docs/measurements/speed.json."""
    sections = json.loads(path.read_text(encoding="utf-8"))
    return {
        name: BenchmarkSection(section["machine"], [Measurement(**row) for row in section["measurements"]])
        for name, section in sections.items()
    }


def write_page(path: Path, sections: Mapping[str, BenchmarkSection]) -> None:
    """Writes the page: the main table, the plot, and one table per workload."""
    parts = ["# Speed", format_headlines(sections), "## All figures"]
    parts.append(
        "`make bench` runs all benchmarks; `python -m benchmarks NAME` runs one. Speedup: how many times better than "
        "the baseline of the workload. Roofline: the share of the best that the machine could do "
        "(`benchmarks/roofline.py`)."
    )
    for name, section in sections.items():
        parts.append(f"### {name}\n\n{section.machine}")
        for workload, group in groupby(section.measurements, key=lambda one: one.workload):
            body = [[one.system, *format_measurement(one), one.note] for one in group]
            parts.append(_format_table([workload, "figure", "speedup", "roofline", "note"], body))
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def format_headlines(sections: Mapping[str, BenchmarkSection]) -> str:
    """Returns the main table with its explanation."""
    body = []
    for row in HEADLINES:
        if found := row.find(sections):
            one_by_one, batched, florist = found
            cells = [format_measurement(one)[0] if one else "" for one in (one_by_one, batched)]
            speedups = f"{florist.speedup:.1f}×" if florist.speedup else ""
            if batched and batched.speedup and florist.speedup:
                speedups += f", {florist.speedup / batched.speedup:.1f}×"
            value, _, roofline = format_measurement(florist)
            body.append([row.title, *cells, value, speedups, roofline])
    head = ["workload", "transformers, one at a time", "batched", "florist", "speedup", "of the roofline"]
    machines = sorted({section.machine for section in sections.values()})
    paragraphs = [
        "`make bench` measures both systems in one run, with the same weights, type, beams and images. transformers "
        f"uses its faster attention. Machines: {'; '.join(machines)}.",
        _format_table(head, body),
        "![Speedup over transformers one at a time, and latency under load](speed.png)",
        "*Speedup: against one at a time, against batched. The roofline is the time that the necessary matrix products "
        "and memory reads take on the same machine. No system reuses anything between images.*",
    ]
    return "\n\n".join(paragraphs)


def _format_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |" for cells in (head, *body)]
    return "\n".join([lines[0], "|---|" + "---:|" * (len(head) - 2) + "---|", *lines[1:]])
