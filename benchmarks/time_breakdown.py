"""Where the engine's time goes: tower, encoder and decoder, and in each what products, attention, other kernels and
Python take.

`python -m benchmarks.time_breakdown`. One picture and 16 prompts at a time on the seedling; on base's shape, 4 pictures and
answers of 5 to 60 tokens. Under torch's profiler, whose own cost goes to Python's share.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from torch.profiler import ProfilerActivity, profile

from benchmarks import base_checkpoint
from benchmarks.machine import apart
from benchmarks.results import Row, show
from benchmarks.workloads import LONGEST, forced, one_picture, scenes
from server.engine.checkpoints.loading import Checkpoint, load_checkpoint
from server.engine.checkpoints.sources import SEEDLING
from server.engine.model.feature_cache import FeatureCache
from server.engine.request import Request
from server.engine.runner import ModelRunner
from server.engine.sequence import Sequence as Work

KINDS = {
    "matrix products": ("linear", "mm", "conv", "addmm", "bmm", "baddbmm"),
    "attention": ("scaled_dot_product", "flash_attention"),
}


def answer(runner: ModelRunner, requests: Sequence[Request]) -> int:
    """All of them together, as the engine's loop does; the number of decoder steps."""
    works = [Work(request, runner.checkpoint) for request in requests]
    steps = 0
    runner.add(works)
    while works:
        for work in [work for work in works if work.process_output()]:
            runner.remove(work)
            works.remove(work)
        if works:
            runner.step()
            steps += 1
    return steps


@contextmanager
def kernels() -> Iterator[dict[str, float]]:
    """Seconds by kind of kernel, there once the block has ended."""
    found = dict.fromkeys((*KINDS, "other kernels"), 0.0)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        yield found
    for event in profiled.key_averages():
        name = event.key.split("::")[-1].lower()
        kind = next((k for k, words in KINDS.items() if any(w in name for w in words)), "other kernels")
        found[kind] += event.self_cpu_time_total / 1e6


def parts(name: str, checkpoint: Checkpoint, batches: Sequence[Sequence[Request]]) -> list[Row]:
    """Shares of the time of all batches, each on a runner that has not seen its pictures."""

    def run() -> list[Row]:
        answer(ModelRunner(checkpoint, 16, FeatureCache(0)), batches[0])  # warm
        runner = ModelRunner(checkpoint, 16, FeatureCache(0))
        with kernels() as found:
            steps = sum(answer(runner, requests) for requests in batches)
        spent = runner.seconds
        whole = spent.vision + spent.encode + spent.decode
        places = {"tower": spent.vision, "encoder": spent.encode, "decoder": spent.decode}
        rows = [Row(f"{name}: parts", part, 100 * took / whole, "%") for part, took in places.items()]
        rows.append(Row(f"{name}: parts", "a decoder step", 1e3 * spent.decode / steps, "ms"))
        found["Python, launches and the profiler"] = whole - sum(found.values())
        return rows + [Row(f"{name}: kinds of work", kind, 100 * took / whole, "%") for kind, took in found.items()]

    return apart(run)


def main(
    model: Annotated[list[str], typer.Option(help="seedling, base.")] = ["seedling", "base"],  # noqa: B006
    out: Annotated[Path | None, typer.Option(help="Where to write the figures as JSON.")] = None,
) -> None:
    """Prints the shares of the parts and of the kinds of work."""
    rows: list[Row] = []
    if "seedling" in model:
        checkpoint = apart(lambda: load_checkpoint(SEEDLING))
        pictures = [scene.image for scene in scenes(8, first=700)]
        rows += parts("seedling, fp32, 16 prompts a picture", checkpoint, [
            one_picture(image, 16, limit=LONGEST) for image in pictures
        ])  # fmt: skip
    if "base" in model:
        with tempfile.TemporaryDirectory() as folder:
            base_checkpoint.save(Path(folder))
            checkpoint = apart(lambda: load_checkpoint(folder))
        images = [scene.image for scene in scenes(4, first=800)]
        rows += parts("base, fp32, 4 pictures", checkpoint, [forced(images, (5, 15, 30, 60))])
    show("Where the time goes", rows, out)


if __name__ == "__main__":
    typer.run(main)
