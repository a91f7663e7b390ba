"""Runs benchmarks and updates the published figures: `python -m benchmarks [NAME …]` (`make bench`).

Each benchmark runs in its own process, so that none leaves threads or memory to the next.
`docs/measurements/speed.json` holds the measurements of each with the machine's name; a run replaces only its own. From
it, `docs/measurements/speed.md`, the plot `speed.png` and the cost estimate `fld5b.md` are written.
"""

import time
from typing import Annotated

import typer
from rich.console import Console

from benchmarks import cost_estimate, speed_page, speed_plot
from benchmarks.recording import ROOT, record_benchmark

DOCS = ROOT / "docs" / "measurements"
FIGURES = DOCS / "speed.json"
# Name → module of this package and its options.
BENCHMARKS = {
    "vision-encoder": "vision_encoder",
    "openvino-export": "openvino_export",
    "mixed-lengths-bf16": "mixed_lengths --dtype bfloat16 --beams 1 --sorted 4",
    "mixed-lengths-bf16-beams": "mixed_lengths --dtype bfloat16 --beams 3",
    "mixed-lengths-fp32": "mixed_lengths --dtype float32 --beams 1",
    "mixed-lengths-fp32-beams": "mixed_lengths --dtype float32 --beams 3",
    "prompts-per-image": "prompts_per_image --model seedling",
    "prompts-per-image-base": "prompts_per_image --model base --prompts 1 --prompts 8",
    "torch-compile": "torch_compile",
    "http": "http_saturation",
    "poisson-arrivals": "poisson_arrivals",
    "mixed-adapters": "mixed_adapters",
    "constrained-decoding": "constrained_decoding",
    "half-precision": "half_precision",
    "time-breakdown": "time_breakdown --model seedling",
    "engine-memory": "engine_memory",
    "format-export": "format_export",
    "cascade-job": "cascade_job",
    "job-memory": "job_memory",
    "jobs-and-interactive": "jobs_and_interactive",
    "ray-cluster": "ray_cluster",
    "fine-tuning": "fine_tuning",
}


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"Any of {', '.join(BENCHMARKS)}; default: all.")] = None,
    show: Annotated[bool, typer.Option(help="Run nothing; only write the page and the plot again.")] = False,
) -> None:
    """Runs benchmarks and writes their figures into docs/measurements/."""
    if unknown := [name for name in names or () if name not in BENCHMARKS]:
        raise typer.BadParameter(f"unknown benchmark {', '.join(unknown)}; use one of {', '.join(BENCHMARKS)}")
    console, failed = Console(width=160), []
    for name in [] if show else names or BENCHMARKS:
        module, *options = BENCHMARKS[name].split()
        start = time.monotonic()
        if not record_benchmark(name, module, options, FIGURES, BENCHMARKS):
            failed.append(name)
            continue
        console.print(f"{name}: {time.monotonic() - start:.0f} s")
    if FIGURES.exists():
        read = speed_page.read_sections(FIGURES)
        speed_page.write_page(DOCS / "speed.md", read)
        speed_plot.draw_plot(DOCS / "speed.png", read)
        cost_estimate.write_page(read)
    if failed:
        console.print(f"failed: {', '.join(failed)}")
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
