"""Memory over ten thousand requests: it must not grow once caches and pools are full.

`python -m benchmarks.engine_memory`. Noise that the seedling looks at, more pictures than the feature cache holds, so that it
is full and turns over; tasks, beams and lengths change from request to request. Linux only (it reads /proc).
"""

import os
from collections import deque
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from benchmarks.machine import apart
from benchmarks.results import Row, show
from prompts.tasks import TASKS
from server.engine.checkpoints.loading import load_checkpoint
from server.engine.checkpoints.sources import SEEDLING
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.handle import Handle
from server.engine.request import Request

CACHE = 16 << 20  # bytes of features: some 150 pictures
SAMPLES = 40
PROMPTS = 4  # a picture, one after the other


def resident() -> float:
    """Megabytes of memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main(
    count: Annotated[int, typer.Option(min=400, help="Requests.")] = 10_000,
    pictures: Annotated[int, typer.Option(min=1, help="Different pictures, in turn, four prompts each.")] = 300,
    out: Annotated[Path | None, typer.Option(help="Where to write the figures as JSON.")] = None,
) -> None:
    """Prints memory after the first tenth, at the end, and its growth over the second half."""
    noise = np.random.default_rng(0)
    images = [Image.fromarray(noise.integers(0, 256, (64, 96, 3), dtype=np.uint8)) for _ in range(pictures)]
    tasks = [task for task in TASKS.values() if task.input_kind == "nothing"]
    checkpoint = apart(lambda: load_checkpoint(SEEDLING))
    seen: list[float] = []
    with Engine(checkpoint, EngineConfig(feature_cache_bytes=CACHE)) as engine:
        under_way: deque[Handle] = deque()
        for i in range(count):
            request = Request(
                images[i // PROMPTS % pictures],
                tasks[i % len(tasks)],
                max_new_tokens=2 + i % 9,
                num_beams=3 if i % 4 == 0 else 1,
            )
            under_way.append(engine.submit(request))
            if len(under_way) == 2 * engine.config.max_batch:
                under_way.popleft().wait()
            if (i + 1) % (count // SAMPLES) == 0:
                seen.append(resident())
        for handle in under_way:
            handle.wait()
    later = np.array(seen[len(seen) // 2 :])
    growth = float(np.polyfit(np.arange(len(later)) * count / SAMPLES / 1000, later, 1)[0])
    work = f"seedling, {count:,} requests on {pictures} pictures"
    rows = [
        Row(work, "after the first tenth", seen[len(seen) // 10], "MB"),
        Row(work, "at the end", seen[-1], "MB"),
        Row(work, "most", max(seen), "MB"),
        Row(work, "growth over the second half", growth, "MB a thousand requests"),
    ]
    show("Resident memory", rows, out)


if __name__ == "__main__":
    typer.run(main)
