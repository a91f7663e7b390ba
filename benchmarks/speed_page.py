"""The figures as Markdown: all of them as a page, the main ones for the README."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from benchmarks.results import Row, figures

BEGIN, END = "<!-- figures of `make bench`: written by it -->", "<!-- end of the figures -->"


@dataclass(frozen=True, slots=True)
class Section:
    """What one benchmark measured, and on which machine."""

    machine: str
    rows: list[Row]


@dataclass(frozen=True, slots=True)
class Headline:
    """A line of the README's table: one workload, transformers' two ways and ours. Rows are told by their side, or
    by how it begins: of several, the fastest."""

    title: str
    section: str
    workload: str
    alone: str
    batched: str | None
    ours: str

    def find(self, sections: Mapping[str, Section]) -> tuple[Row, Row | None, Row] | None:
        """The three rows; None where they are not measured yet."""
        rows = sections[self.section].rows if self.section in sections else []
        own = [row for row in rows if row.workload.startswith(self.workload)]

        def named(side: str | None) -> Row | None:
            exact = [row for row in own if row.side == side]
            found = exact or [row for row in own if side is not None and row.side.startswith(side)]
            return max(found, key=lambda row: row.ratio or 0, default=None)

        alone, ours = named(self.alone), named(self.ours)
        return (alone, named(self.batched), ours) if alone and ours else None


_ALONE, _BATCH = "transformers, one at a time", "transformers, one batch"
HEADLINES = (
    Headline("vision tower alone, bf16", "vision", "base, 768 px, bfloat16", "transformers", None, "florist"),
    Headline("vision tower alone, fp32", "vision", "base, 768 px, float32", "transformers", None, "florist"),
    Headline("answers of 5, 15, 60, 300 tokens, bf16", "mixed-bf16", "bfloat16", _ALONE, _BATCH, "florist"),
    Headline("the same, 3 beams, bf16", "mixed-bf16-beams", "bfloat16", _ALONE, _BATCH, "florist"),
    Headline("the same, greedy, fp32", "mixed-fp32", "float32", _ALONE, _BATCH, "florist"),
    Headline("the same, 3 beams, fp32", "mixed-fp32-beams", "float32", _ALONE, _BATCH, "florist"),
    *(
        Headline(
            f"{shape}, 8 prompts on a new picture, {kind}", section, f"{shape}, {long}, 8 prompts",
            "cold: transformers, one at a time", "cold: transformers, one batch", "cold: florist",
        )
        for shape, section, kind, long in (
            ("base", "prompts-base", "bf16", "bfloat16"), ("seedling", "prompts", "fp32", "float32"),
        )
    ),
    Headline(
        "seedling over HTTP, one prompt a picture, fp32", "http", "seedling, fp32, greedy, a new picture", _ALONE,
        "transformers behind LitServe", "florist serve",
    ),
    Headline(
        "seedling over HTTP, all tasks of a picture, fp32", "http", "seedling, fp32, greedy, all tasks", _ALONE,
        "transformers, a batch", "florist serve",
    ),
    Headline(
        "a job: objects asked back, outlined, described; fp32", "cascade", "seedling, fp32, greedy", _ALONE,
        "transformers, a batch a turn", "florist, the whole job",
    ),
    Headline(
        "seedling, 4 adapters mixed, fp32", "adapters", "seedling", "PEFT, one at a time", "PEFT, sorted",
        "florist, 4 adapters",
    ),
)  # fmt: skip


def read(path: Path) -> dict[str, Section]:
    """docs/bench.json."""
    kept = json.loads(path.read_text(encoding="utf-8"))
    return {name: Section(own["machine"], [Row(**row) for row in own["rows"]]) for name, own in kept.items()}


def write(path: Path, sections: Mapping[str, Section]) -> None:
    """Every figure, a table a benchmark."""
    parts = [
        "# Figures",
        "Written by `make bench`; each part by `python -m benchmarks NAME`. Ratio: how many times better than the "
        "workload's baseline. Floor: the share of what the machine could do at best (`benchmarks/roofline.py`).",
    ]
    for name, section in sections.items():
        parts.append(f"## {name}\n\n{section.machine}")
        for workload, rows in groupby(section.rows, key=lambda row: row.workload):
            body = [[row.side, *figures(row), row.note] for row in rows]
            parts.append(_table([workload, "figure", "ratio", "floor", ""], body))
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def headline(sections: Mapping[str, Section]) -> str:
    """The README's table."""
    body = []
    for line in HEADLINES:
        if found := line.find(sections):
            alone, batched, ours = found
            cells = [figures(row)[0] if row else "" for row in (alone, batched)]
            ratios = f"{ours.ratio:.1f}×" if ours.ratio else ""
            if batched and batched.ratio and ours.ratio:
                ratios += f", {ours.ratio / batched.ratio:.1f}×"
            body.append([line.title, *cells, figures(ours)[0], ratios, figures(ours)[2]])
    head = ["", "transformers, one at a time", "batched", "florist", "faster", "of the floor"]
    machines = sorted({section.machine for section in sections.values()})
    said = [
        "`make bench` measures both sides in one run, with the same weights, type, beams and pictures, transformers "
        f"with its faster attention. On {'; '.join(machines)}:",
        _table(head, body),
        "![How many times faster than transformers one at a time; and how long requests wait](docs/bench.png)",
        "*The floor is what the products and bytes that nobody can do without take here. Nothing is kept between a "
        "side's pictures. All figures: [docs/bench.md](docs/bench.md).*",
    ]
    return "\n\n".join(said)


def insert(path: Path, sections: Mapping[str, Section]) -> None:
    """Writes the headline between the README's markers. Raises ValueError where they are missing."""
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{path.name} must hold the lines {BEGIN} and {END} once each; put them where figures belong")
    before, rest = text.split(BEGIN)
    path.write_text(f"{before}{BEGIN}\n\n{headline(sections)}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    line: Callable[[Sequence[str]], str] = lambda cells: f"| {' | '.join(c.replace('|', '/') for c in cells)} |"  # noqa: E731
    return "\n".join([line(head), "|---|" + "---:|" * (len(head) - 2) + "---|", *map(line, body)])
