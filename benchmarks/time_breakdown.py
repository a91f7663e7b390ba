"""Where the engine's time goes: vision encoder, encoder and decoder; matrix products, attention, other kernels, Python.

`python -m benchmarks.time_breakdown`. On the seedling one image with 16 prompts at a time; on base's architecture 4
images with answers of 5 to 60 tokens. It runs under torch's profiler, whose own cost counts as Python's.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from torch.profiler import ProfilerActivity, profile

from benchmarks.base_checkpoint import save_base_checkpoint
from benchmarks.machine import run_in_thread
from benchmarks.results import Measurement, report_measurements
from benchmarks.workloads import (
    MAX_ANSWER_TOKENS,
    draw_scenes,
    make_fixed_length_requests,
    make_same_image_requests,
)
from server.engine.checkpoints.loading import Checkpoint, load_checkpoint
from server.engine.checkpoints.sources import SEEDLING
from server.engine.model.feature_cache import FeatureCache
from server.engine.request import Request
from server.engine.runner import ModelRunner
from server.engine.sequence import Sequence as RequestSequence

KERNEL_KINDS = {
    "matrix products": ("linear", "mm", "conv", "addmm", "bmm", "baddbmm"),
    "attention": ("scaled_dot_product", "flash_attention"),
}


def run_requests(runner: ModelRunner, requests: Sequence[Request]) -> int:
    """Answers all requests together, as the engine's loop does, and returns the number of decoder steps."""
    sequences = [RequestSequence(request, runner.checkpoint) for request in requests]
    steps = 0
    runner.add(sequences)
    while sequences:
        for sequence in [sequence for sequence in sequences if sequence.process_output()]:
            runner.remove(sequence)
            sequences.remove(sequence)
        if sequences:
            runner.step()
            steps += 1
    return steps


@contextmanager
def profile_kernels() -> Iterator[dict[str, float]]:
    """Yields a dict that holds the seconds by kind of kernel after the block has ended."""
    seconds = dict.fromkeys((*KERNEL_KINDS, "other kernels"), 0.0)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        yield seconds
    for event in profiled.key_averages():
        name = event.key.split("::")[-1].lower()
        kinds = (kind for kind, words in KERNEL_KINDS.items() if any(word in name for word in words))
        seconds[next(kinds, "other kernels")] += event.self_cpu_time_total / 1e6


def measure_shares(name: str, checkpoint: Checkpoint, batches: Sequence[Sequence[Request]]) -> list[Measurement]:
    """Measures the shares of the time of all batches, with an empty feature cache."""

    def run() -> list[Measurement]:
        run_requests(ModelRunner(checkpoint, 16, FeatureCache(0)), batches[0])  # warmup
        runner = ModelRunner(checkpoint, 16, FeatureCache(0))
        with profile_kernels() as kernels:
            steps = sum(run_requests(runner, requests) for requests in batches)
        seconds = runner.seconds
        total = seconds.vision + seconds.encode + seconds.decode
        parts = {"vision encoder": seconds.vision, "encoder": seconds.encode, "decoder": seconds.decode}
        workload = f"{name}: parts of the model"
        measurements = [Measurement(workload, part, 100 * value / total, "%") for part, value in parts.items()]
        measurements.append(Measurement(workload, "one decoder step", 1e3 * seconds.decode / steps, "ms"))
        kernels["Python, kernel launches and the profiler"] = total - sum(kernels.values())
        workload = f"{name}: kinds of work"
        return measurements + [Measurement(workload, k, 100 * value / total, "%") for k, value in kernels.items()]

    return run_in_thread(run)


def main(
    model: Annotated[list[str], typer.Option(help="seedling, base.")] = ["seedling", "base"],  # noqa: B006
    out: Annotated[Path | None, typer.Option(help="Also write the measurements to this file, as JSON.")] = None,
) -> None:
    """Prints the shares of the parts and of the kinds of work."""
    measurements: list[Measurement] = []
    if "seedling" in model:
        checkpoint = run_in_thread(lambda: load_checkpoint(SEEDLING))
        images = [scene.image for scene in draw_scenes(8, first=700)]
        batches = [make_same_image_requests(image, 16, limit=MAX_ANSWER_TOKENS) for image in images]
        measurements += measure_shares("seedling, fp32, 16 prompts per image", checkpoint, batches)
    if "base" in model:
        with tempfile.TemporaryDirectory() as folder:
            save_base_checkpoint(Path(folder))
            checkpoint = run_in_thread(lambda: load_checkpoint(folder))
        images = [scene.image for scene in draw_scenes(4, first=800)]
        batches = [make_fixed_length_requests(images, (5, 15, 30, 60))]
        measurements += measure_shares("base, fp32, 4 images", checkpoint, batches)
    report_measurements("Where the time goes", measurements, out)


if __name__ == "__main__":
    typer.run(main)
