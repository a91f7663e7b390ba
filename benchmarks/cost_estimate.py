"""Estimates the cost of labeling FLD-5B's 126 million images from the measured rates: docs/measurements/fld5b.md.

`python -m benchmarks.cost_estimate --price 0.04 --machine-cores 64 --days 30`. It measures nothing: it reads
`docs/measurements/speed.json`, multiplies, and states its assumptions.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.speed_page import BenchmarkSection, read_sections

DOCS = Path(__file__).parents[1] / "docs" / "measurements"
FIGURES, PAGE = DOCS / "speed.json", DOCS / "fld5b.md"
IMAGES = 126_000_000
MEASURED_CORES = 2  # of the machine of the measurements; the cascade job uses one of them
PRICE, MACHINE_CORES, DAYS = 0.04, 64, 30.0
CASCADE_PROMPTS = 8  # of the cascade on the base model, as in `prompts-per-image-base`


@dataclass(frozen=True, slots=True)
class LabelingRate:
    """The cost of one way to label, in core `seconds` per image."""

    description: str
    seconds: float
    section: str


def list_rates(sections: Mapping[str, BenchmarkSection]) -> Iterator[LabelingRate]:
    """Yields the rates that have been measured."""

    def find_value(section: str, workload: str, system: str) -> float | None:
        measurements = sections[section].measurements if section in sections else []
        matches = (m.value for m in measurements if m.workload.startswith(workload) and m.system == system)
        return next(matches, None)

    if (ms := find_value("cascade-job", "seedling", "florist, whole job")) is not None:
        description = "seedling: objects, each checked, outlined and described (drawn scenes)"
        yield LabelingRate(description, ms / 1e3, "cascade-job")
    for dtype, short in (("bfloat16", "bf16"), ("float32", "fp32")):
        section = f"mixed-lengths-{short}"
        if (seconds := find_value(section, f"{dtype}, greedy", "florist")) is not None:
            description = f"base, {short}: one prompt, 95 tokens on average"
            yield LabelingRate(description, MEASURED_CORES * seconds, section)
    workload = f"base, bfloat16, {CASCADE_PROMPTS} prompts"
    if (ms := find_value("prompts-per-image-base", workload, "cold: florist")) is not None:
        description = f"base, bf16: a cascade of {CASCADE_PROMPTS} prompts, 20 tokens each"
        yield LabelingRate(description, MEASURED_CORES * CASCADE_PROMPTS * ms / 1e3, "prompts-per-image-base")


def format_page(sections: Mapping[str, BenchmarkSection], price: float, cores: int, days: float, images: int) -> str:
    """Returns the page as Markdown."""
    body = []
    for rate in list_rates(sections):
        core_hours = images * rate.seconds / 3600
        machines = ceil(core_hours / (cores * 24 * days))
        cells = (
            rate.description, f"{rate.seconds:.3g} s", f"{core_hours:,.0f}", f"{machines:,}",
            f"{price * core_hours:,.0f}", f"[{rate.section}](speed.md#{rate.section})",
        )  # fmt: skip
        body.append(f"| {' | '.join(cells)} |")
    machine = "; ".join(sorted({section.machine for section in sections.values()}))
    table = "\n".join(body)
    head = [
        "workload",
        "core time per image",
        "core-hours",
        f"machines for {days:g} days",
        "cost",
        "measured in",
    ]
    return f"""# The cost of labeling {images / 1e6:g} million images

FLD-5B, the dataset behind Florence-2, has 126 million images. This page is written by
`python -m benchmarks.cost_estimate`, which prints it for your own assumptions:

| | assumed | option |
|---|---:|---|
| price of a core-hour | {price:g} | `--price` |
| cores per machine | {cores} | `--machine-cores` |
| days | {days:g} | `--days` |
| images | {images:,} | `--images` |

| {" | ".join(head)} |
|---|---:|---:|---:|---:|---|
{table}

core-hours = images × seconds ÷ 3600; machines = core-hours ÷ (cores × 24 × days), rounded up; cost = core-hours ×
price. The price is a guess for a preemptible cloud core, which fits a job that loses nothing when it is killed. Use
your own.

## Limits of this estimate

- The rates come from {machine}. For the base model they are {MEASURED_CORES} cores times the wall-clock time, for the
  cascade job the CPU time. Everything else is multiplication.
- It assumes that twice the cores label twice the images. Between machines this is nearly true: they share only the
  database, with one short transaction for some dozens of images. Within a machine, run one engine for a few cores
  (`--device cpu,cpu`, or one process each): one engine on {cores} cores was not measured.
- The seedling is a toy with a few million parameters for drawn scenes. Its row does not apply to photographs.
- The base model has random weights and answers of a fixed length. Real answers differ: a paragraph is longer than 95
  tokens, the name of a region shorter than 20. The row of the cascade is the rate of {CASCADE_PROMPTS} prompts sent at
  once for one image; a real cascade sends them in turns, for many images at a time.
- On a GPU, images take a fraction of the hours, at another price per hour. No GPU was measured.
- Not included: reading images over a network, decoding large photographs, storage and people.
- A job keeps the names of its images in memory, and some kilobytes per image in its database. {images / 1e6:g} million
  images are some hundred jobs of about a million each, in PostgreSQL.
"""


def write_page(sections: Mapping[str, BenchmarkSection]) -> None:
    """Writes the committed page."""
    PAGE.write_text(format_page(sections, PRICE, MACHINE_CORES, DAYS, IMAGES), encoding="utf-8")


def main(
    price: Annotated[float, typer.Option(min=0, help="Price of a core-hour, in any currency.")] = PRICE,
    machine_cores: Annotated[int, typer.Option(min=1, help="Cores per machine.")] = MACHINE_CORES,
    days: Annotated[float, typer.Option(min=0.01, help="Days that the work may take.")] = DAYS,
    images: Annotated[int, typer.Option(min=1, help="Number of images.")] = IMAGES,
) -> None:
    """Prints the page for your assumptions."""
    print(format_page(read_sections(FIGURES), price, machine_cores, days, images))


if __name__ == "__main__":
    typer.run(main)
