"""Runs a benchmark in a process of its own, and keeps its figures with the name of the machine."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.machine import describe_machine

ROOT = Path(__file__).parents[1]


def record_benchmark(name: str, module: str, options: Sequence[str], figures: Path, order: Iterable[str]) -> bool:
    """Runs `benchmarks.MODULE` and replaces the section `name` of the file `figures`. Returns whether it succeeded.

    Measurements of one that fails are kept too, if it has written them. `order`: of all sections in the file.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "measurements.json"
        command = [sys.executable, "-m", f"benchmarks.{module}", *options, "--out", str(out)]
        succeeded = subprocess.run(command, cwd=ROOT).returncode == 0
        if not out.exists():
            return False
        measurements = json.loads(out.read_text(encoding="utf-8"))
    sections = json.loads(figures.read_text(encoding="utf-8")) if figures.exists() else {}
    sections[name] = {"machine": describe_machine(), "measurements": measurements}
    ordered = {each: sections[each] for each in order if each in sections}
    figures.write_text(json.dumps(ordered, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return succeeded
