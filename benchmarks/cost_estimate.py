"""What labelling FLD-5B's pictures would take, by the rates that were measured: docs/fld5b.md.

`python -m benchmarks.cost_estimate --price 0.04 --machine-cores 64 --days 30`. It measures nothing: it reads the figures
of `docs/bench.json`, multiplies, and says what each step assumes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.speed_page import Section, read

ROOT = Path(__file__).parents[1]
FIGURES, PAGE = ROOT / "docs" / "bench.json", ROOT / "docs" / "fld5b.md"
PICTURES = 126_000_000
CORES = 2  # of the machine that the figures are from; the cascade has one of them
PRICE, MACHINE, DAYS = 0.04, 64, 30.0
CASCADE_PROMPTS = 8  # of base's cascade: as many as `prompts-base` asks of a picture


@dataclass(frozen=True, slots=True)
class Rate:
    """One way to label: `seconds` of one core for a picture; `what` is said of it."""

    what: str
    seconds: float
    source: str


def rates(sections: Mapping[str, Section]) -> Iterator[Rate]:
    """Those that are measured already."""

    def figure(section: str, workload: str, side: str) -> float | None:
        rows = sections[section].rows if section in sections else []
        return next((r.value for r in rows if r.workload.startswith(workload) and r.side == side), None)

    if (took := figure("cascade", "seedling", "florist, the whole job")) is not None:
        what = "seedling: objects, each asked back, outlined and described (drawn scenes)"
        yield Rate(what, took / 1e3, "cascade")
    for kind, name in (("bfloat16", "bf16"), ("float32", "fp32")):
        if (took := figure(f"mixed-{name}", f"{kind}, greedy", "florist")) is not None:
            yield Rate(f"base's shape, {name}: one prompt, 95 tokens on average", CORES * took, f"mixed-{name}")
    if (took := figure("prompts-base", f"base, bfloat16, {CASCADE_PROMPTS} prompts", "cold: florist")) is not None:
        what = f"base's shape, bf16: a cascade of {CASCADE_PROMPTS} prompts, 20 tokens each"
        yield Rate(what, CORES * CASCADE_PROMPTS * took / 1e3, "prompts-base")


def page(sections: Mapping[str, Section], price: float, cores: int, days: float, pictures: int) -> str:
    """The page as Markdown."""
    body = []
    for rate in rates(sections):
        core_hours = pictures * rate.seconds / 3600
        machines = ceil(core_hours / (cores * 24 * days))
        cells = (
            rate.what, f"{rate.seconds:.3g} s", f"{core_hours:,.0f}", f"{machines:,}", f"{price * core_hours:,.0f}",
            f"[{rate.source}](bench.md#{rate.source})",
        )  # fmt: skip
        body.append(f"| {' | '.join(cells)} |")
    machine = "; ".join(sorted({section.machine for section in sections.values()}))
    table = "\n".join(body)
    head = [
        "what is asked",
        "a core for a picture",
        "core-hours",
        f"machines for {days:g} days",
        "money",
        "from",
    ]
    return f"""# What FLD-5B's {pictures / 1e6:g} million pictures would take

Written by `python -m benchmarks.cost_estimate`, which prints it for what you assume:

| | assumed | option |
|---|---:|---|
| price of a core for an hour | {price:g} | `--price` |
| cores of a machine | {cores} | `--machine-cores` |
| days that it may take | {days:g} | `--days` |
| pictures | {pictures:,} | `--pictures` |

| {" | ".join(head)} |
|---|---:|---:|---:|---:|---|
{table}

core-hours = pictures × seconds ÷ 3600; machines = core-hours ÷ (cores × 24 × days), rounded up; money = core-hours ×
price. The price is a guess at a cloud's core that may be taken away at any moment, which suits a job that loses nothing
when it is killed; put in yours.

## How far to trust it

- The rates are of {machine}; for base's shape {CORES} cores times the time by the
  clock, for the cascade the processor's own time. All else is multiplication.
- Twice the cores are taken for twice the pictures. Between machines that is nearly so: they share only the database,
  one short transaction for some dozens of pictures. Within one, give each few cores an engine of their own
  (`--device cpu,cpu`, or a process each): one engine on {cores} cores was not measured.
- The seedling is a toy of a few million parameters on drawn scenes: its line is no quote for photographs.
- Base's shape has random weights, and answers as long as they are told to be. Photographs have their own: a paragraph
  is longer than 95 tokens, a region's name shorter than 20. The cascade's line is the rate of {CASCADE_PROMPTS} prompts
  asked of one picture at once; a cascade asks in turns, and of many pictures at a time.
- On a GPU the pictures take a fraction of the hours, at another price an hour: its figures are not here.
- Reading pictures over a network, decoding large photographs, storage and people are not in it.
- A job keeps the names of its pictures in memory, and some kilobytes a picture in its database: {pictures / 1e6:g}
  million are some hundred jobs of a million or so, in PostgreSQL.
"""


def write(sections: Mapping[str, Section]) -> None:
    """The page, as it is committed."""
    PAGE.write_text(page(sections, PRICE, MACHINE, DAYS, PICTURES), encoding="utf-8")


def main(
    price: Annotated[float, typer.Option(min=0, help="Of a core for an hour, in any currency.")] = PRICE,
    machine_cores: Annotated[int, typer.Option(min=1, help="Of each machine.")] = MACHINE,
    days: Annotated[float, typer.Option(min=0.01, help="That it may take.")] = DAYS,
    pictures: Annotated[int, typer.Option(min=1, help="To be labelled.")] = PICTURES,
) -> None:
    """Prints the page for what you assume."""
    print(page(read(FIGURES), price, machine_cores, days, pictures))


if __name__ == "__main__":
    typer.run(main)
