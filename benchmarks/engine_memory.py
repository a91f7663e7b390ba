"""Memory of the engine over ten thousand requests: it must not grow once caches and pools are full.

`python -m benchmarks.engine_memory`. The seedling answers prompts about noise images, more of them than the feature
cache holds, so that the cache is full and evicts. Tasks, beams and lengths change from request to request. Linux only
(it reads /proc).
"""

import os
from collections import deque
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from benchmarks.machine import run_in_thread
from benchmarks.results import Measurement, report_measurements
from prompts.tasks import TASKS
from server.engine.checkpoints.loading import load_checkpoint
from server.engine.checkpoints.sources import SEEDLING
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.handle import Handle
from server.engine.request import Request

CACHE_BYTES = 16 << 20  # features of about 150 images
SAMPLES = 40
PROMPTS_PER_IMAGE = 4


def read_resident_megabytes() -> float:
    """Returns the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main(
    count: Annotated[int, typer.Option(min=400, help="Requests.")] = 10_000,
    images: Annotated[int, typer.Option(min=1, help="Different images, used in turn for four prompts each.")] = 300,
    out: Annotated[Path | None, typer.Option(help="Also write the measurements to this file, as JSON.")] = None,
) -> None:
    """Prints the memory after the first tenth and at the end, and its growth over the second half."""
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)) for _ in range(images)]
    tasks = [task for task in TASKS.values() if task.input_kind == "nothing"]
    checkpoint = run_in_thread(lambda: load_checkpoint(SEEDLING))
    samples: list[float] = []
    with Engine(checkpoint, EngineConfig(feature_cache_bytes=CACHE_BYTES)) as engine:
        pending: deque[Handle] = deque()
        for i in range(count):
            request = Request(
                noise[i // PROMPTS_PER_IMAGE % images],
                tasks[i % len(tasks)],
                max_new_tokens=2 + i % 9,
                num_beams=3 if i % 4 == 0 else 1,
            )
            pending.append(engine.submit(request))
            if len(pending) == 2 * engine.config.max_batch:
                pending.popleft().wait()
            if (i + 1) % (count // SAMPLES) == 0:
                samples.append(read_resident_megabytes())
        for handle in pending:
            handle.wait()
    later = np.array(samples[len(samples) // 2 :])
    growth = float(np.polyfit(np.arange(len(later)) * count / SAMPLES / 1000, later, 1)[0])
    workload = f"seedling, {count:,} requests on {images} images"
    measurements = [
        Measurement(workload, "after the first tenth", samples[len(samples) // 10], "MB"),
        Measurement(workload, "at the end", samples[-1], "MB"),
        Measurement(workload, "maximum", max(samples), "MB"),
        Measurement(workload, "growth over the second half", growth, "MB per 1,000 requests"),
    ]
    report_measurements("Resident memory of the engine", measurements, out)


if __name__ == "__main__":
    typer.run(main)
