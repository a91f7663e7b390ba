"""`python -m benchmarks [NAME …]` (`make bench`): runs benchmarks, keeps their figures, and writes the README's.

Each runs in a process of its own, so that none leaves threads or memory to the next. `docs/bench.json` keeps the rows
of each with the machine's name; running some replaces those alone. From it `docs/bench.md` lists every figure,
`docs/bench.png` draws the main ones, the README holds the headline between its markers, and `docs/fld5b.md` says what
a large job would take by them.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks import cost_estimate, speed_page, speed_plot
from benchmarks.machine import description

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "docs" / "bench.json"
# What runs under which name: a file of this folder and its options.
PLAN = {
    "vision": "vision",
    "exports": "exports",
    "mixed-bf16": "mixed --dtype bfloat16 --beams 1 --sorted 4",
    "mixed-bf16-beams": "mixed --dtype bfloat16 --beams 3",
    "mixed-fp32": "mixed --dtype float32 --beams 1",
    "mixed-fp32-beams": "mixed --dtype float32 --beams 3",
    "prompts": "prompts --model seedling",
    "prompts-base": "prompts --model base --prompts 1 --prompts 8",
    "compiled": "compiled",
    "http": "http",
    "arrivals": "arrivals",
    "adapters": "adapters",
    "constraint": "constraint",
    "precision": "precision",
    "breakdown": "breakdown --model seedling",
    "memory": "memory",
    "formats": "formats",
    "cascade": "cascade",
    "job-memory": "jobmemory",
    "beside-a-job": "beside",
    "cluster": "cluster",
    "tuning": "tuning",
}


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(PLAN)}; all without any.")] = None,
    show: Annotated[bool, typer.Option(help="Run nothing; write page, plot and README anew.")] = False,
) -> None:
    """Runs benchmarks and merges their figures into docs/ and the README."""
    if unknown := [name for name in names or () if name not in PLAN]:
        raise typer.BadParameter(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(PLAN)}")
    console, failed = Console(width=160), []
    for name in [] if show else names or PLAN:
        module, *options = PLAN[name].split()
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            rows = Path(folder) / "rows.json"
            command = [sys.executable, "-m", f"benchmarks.{module}", *options, "--out", str(rows)]
            if subprocess.run(command, cwd=ROOT).returncode:
                failed.append(name)
                continue
            kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
            kept[name] = {"machine": description(), "rows": json.loads(rows.read_text(encoding="utf-8"))}
        ordered = {n: kept[n] for n in PLAN if n in kept}
        KEPT.write_text(json.dumps(ordered, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        console.print(f"{name}: {time.monotonic() - began:.0f} s")
    if KEPT.exists():
        sections = speed_page.read(KEPT)
        speed_page.write(ROOT / "docs" / "bench.md", sections)
        speed_plot.draw(ROOT / "docs" / "bench.png", sections)
        speed_page.insert(ROOT / "README.md", sections)
        cost_estimate.write(sections)
    if failed:
        console.print(f"failed: {', '.join(failed)}")
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
