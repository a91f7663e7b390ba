"""Answers of mixed lengths, offline: Florence-2-base's architecture, florist against transformers.

`python -m benchmarks.mixed_lengths`. The answers have 5, 15, 60 and 300 tokens. Both systems use the same random
weights, whose answers never end by themselves; each request sets its `max_new_tokens`. Every request has its own image,
and nothing is reused between rounds.

transformers runs one request at a time (only the first `--alone` requests: its time there is a sum) and all requests in
one padded batch, which its longest answer ends. With `--sorted N` it also runs batches of N sorted by answer length,
which no server knows in advance: the best that batches of whole requests can do.
"""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.base_checkpoint import DTYPES, IMAGE_SIDE, save_base_checkpoint
from benchmarks.machine import measure_machine, run_in_thread, time_call
from benchmarks.results import Measurement, report_measurements
from benchmarks.roofline import Roofline
from benchmarks.transformers_baseline import TransformersBaseline
from benchmarks.workloads import draw_scenes, get_image, make_fixed_length_requests, run_concurrently
from server.engine.checkpoints.loading import load_checkpoint
from server.engine.config import EngineConfig
from server.engine.engine import Engine

LENGTHS = (5, 15, 60, 300)


def compare(folder: Path, dtype_name: str, beams: int, count: int, alone: int, batch_size: int) -> list[Measurement]:
    """Measures seconds per request of all systems, with one type and number of beams."""
    dtype = DTYPES[dtype_name]
    checkpoint = run_in_thread(lambda: load_checkpoint(str(folder), dtype=dtype))
    images = [scene.image for scene in draw_scenes(count)]
    requests = make_fixed_length_requests(images, [LENGTHS[i % len(LENGTHS)] for i in range(count)], beams)
    baseline = TransformersBaseline(checkpoint, dtype)
    warmup = make_fixed_length_requests([draw_scenes(1, first=900)[0].image], [3], beams)
    run_in_thread(lambda: baseline.select_attention([get_image(warmup[0])]))
    run_in_thread(lambda: baseline.generate(warmup))
    systems = {
        "transformers, one at a time": lambda: baseline.generate_one_by_one(requests[:alone]),
        f"transformers, one batch of {count}": lambda: baseline.generate(requests),
    }
    if batch_size:
        name = f"transformers, batches of {batch_size}, sorted by length"
        systems[name] = lambda: baseline.generate_batches(requests, batch_size, lambda r: r.max_new_tokens)
    seconds, answers = {}, {}
    for name, run in systems.items():
        total, answers[name] = time_call(run)
        seconds[name] = total / len(answers[name])
    with Engine(checkpoint, EngineConfig(max_batch=16)) as engine:
        run_concurrently(engine, warmup)
        total, answers["florist"] = time_call(lambda: run_concurrently(engine, requests))
        seconds["florist"] = total / count
    tokens = checkpoint.image_tokens + 13
    roofline = Roofline.from_config(checkpoint.model.config, IMAGE_SIDE, tokens, dtype, measure_machine(dtype))
    least = roofline.min_seconds(count, [r.max_new_tokens or 0 for r in requests], beams=beams) / count
    pairs = zip(answers["transformers, one at a time"], answers["florist"], strict=False)
    same = sum(a == b for a, b in pairs)
    workload = f"{dtype_name}, {'greedy' if beams == 1 else f'{beams} beams'}"
    first = seconds["transformers, one at a time"]
    notes = {"florist": f"same tokens in {same} of {alone}"}
    return [
        Measurement(workload, name, value, "s/request", first / value, least / value, notes.get(name, ""))
        for name, value in seconds.items()
    ]


def main(
    dtype: Annotated[list[str], typer.Option(help="Types of the weights.")] = ["bfloat16", "float32"],  # noqa: B006
    beams: Annotated[list[int], typer.Option(help="Numbers of beams.")] = [1, 3],  # noqa: B006
    count: Annotated[int, typer.Option(min=4, help="Requests, with one image each.")] = 8,
    alone: Annotated[int, typer.Option(min=1, help="Requests that transformers answers one at a time.")] = 4,
    batch_size: Annotated[int, typer.Option("--sorted", help="Size of batches sorted by length; 0: none.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Also write the measurements to this file, as JSON.")] = None,
) -> None:
    """Prints seconds per request of all systems, the speedups, and the shares of the roofline."""
    with tempfile.TemporaryDirectory() as folder:
        save_base_checkpoint(Path(folder))
        measurements = [
            one
            for dtype_name in dtype
            for width in beams
            for one in compare(Path(folder), dtype_name, width, count, alone, batch_size)
        ]
    lengths = ", ".join(map(str, LENGTHS))
    title = f"Florence-2-base's architecture, offline: {count} requests, answers of {lengths} tokens"
    report_measurements(title, measurements, out)


if __name__ == "__main__":
    typer.run(main)
