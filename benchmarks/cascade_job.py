"""A labeling cascade over drawn scenes: a florist job against a script that sends the same prompts to transformers.

`python -m benchmarks.cascade_job`. The recipe detects objects, checks each one by its region, and lets each be outlined
and described. The script reads the same files, sends the same prompts in the same order and parses answers the same
way. Its labels are compared with the job's, without scores, which a script does not compute. Its time is a sum over
images, so it is measured on the first ones only. The overhead of the job is its time minus that of an engine that gets
the same prompts at once, for images that are already read and resized.

Every system has one core and one thread. What counts is the CPU time of all threads: it includes all that a job does
outside the model, and excludes what else runs on the machine. Rounds use new images. Each runs all systems, and
the best of each is taken. Linux only.
"""

import io
import os
import statistics
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
import typer
from PIL import Image

from benchmarks.machine import measure_cpu_seconds, run_in_thread
from benchmarks.results import Measurement, report_measurements
from benchmarks.transformers_baseline import TransformersBaseline
from benchmarks.workloads import draw_scenes, save_scenes
from labels.labeled_image import TracedAnnotation
from prompts.parsing import parse_answer
from server.engine.checkpoints.loading import Checkpoint, load_checkpoint
from server.engine.checkpoints.sources import SEEDLING
from server.engine.engine import Engine
from server.engine.handle import Handle
from server.engine.request import Request, Result
from server.jobs import job_start
from server.jobs.recipes.execution import execute_recipe
from server.jobs.recipes.parsing import validate_recipe
from server.jobs.recipes.recipe import Recipe
from server.jobs.runner import run_job
from server.jobs.sources import open_source
from server.store.database import to_file_url
from server.store.jobs.job_store import JobStore

# Nothing in it depends on a score.
RECIPE = validate_recipe(
    {
        "name": "cascade",
        "steps": [
            {"id": "objects", "task": "<OD>", "check": True},
            {"id": "outlines", "task": "<REGION_TO_SEGMENTATION>", "for_each": "objects"},
            {"id": "descriptions", "task": "<REGION_TO_DESCRIPTION>", "for_each": "objects"},
        ],
    }
)
ONE_BY_ONE, WHOLE_JOB, BARE_ENGINE = "transformers, one at a time", "florist, whole job", "florist's engine alone"
MAX_PENDING = 128  # prompts of the bare engine

Generate = Callable[[list[Request]], list[list[int]]]
T = TypeVar("T")


class RecordingEngine(Engine):
    """An engine that records its requests."""

    requests: list[Request]

    def submit(self, request: Request) -> Handle:
        """See Engine."""
        self.requests.append(request)
        return super().submit(request)


def label_with_job(engine: Engine, recipe: Recipe, images: Path, folder: Path) -> list[list[TracedAnnotation]]:
    """Labels a folder as `florist label` does, without the export; returns the labels of each image."""
    with JobStore(to_file_url(folder / "florist.db")) as store, open_source(str(images)) as source:
        started = job_start.start_job(store, engine, recipe, source, str(images), ".")
        job = run_job(store, started, engine, source, lambda size: execute_recipe(recipe, size), exclusive=True)
        return [list(image.traces) for image in store.iter_images(job)]


def label_with_script(
    paths: Sequence[Path], generate: Generate, checkpoint: Checkpoint, recipe: Recipe
) -> list[list[TracedAnnotation]]:
    """Labels one image after the other. `generate` answers prompts that do not depend on each other."""
    labels = []
    for path in paths:
        image = Image.open(io.BytesIO(path.read_bytes())).convert("RGB")
        execution = execute_recipe(recipe, image.size)
        try:
            prompts = next(execution)
            while True:
                requests = [Request(image, one.task, one.text, one.region) for one in prompts]
                answers = zip(requests, generate(requests), strict=True)
                prompts = execution.send([_to_result(request, tokens, checkpoint) for request, tokens in answers])
        except StopIteration as end:
            labels.append(end.value.traces)
    return labels


def _to_result(request: Request, tokens: list[int], checkpoint: Checkpoint) -> Result:
    answer = parse_answer(request.task, [checkpoint.vocabulary[token] for token in tokens], request.image.size)
    return Result(answer.annotations, answer.text, tokens, [], "stop")


def run_bare_engine(engine: Engine, requests: Sequence[Request]) -> None:
    """Answers all prompts, without dependencies between them."""
    pending: deque[Handle] = deque()
    for request in requests:
        if len(pending) == MAX_PENDING:
            pending.popleft().wait()
        pending.append(engine.submit(request))
    while pending:
        pending.popleft().wait()


def strip_trace(trace: TracedAnnotation) -> Any:
    """Returns the annotation without its score, and without the hashes that a script does not know."""
    annotation = trace.annotation.model_copy(update={"score": None})
    return replace(trace, annotation=annotation, model="", adapter=None)


def time_cpu(work: Callable[[], T]) -> tuple[float, T]:
    """Returns the CPU seconds of one call in its own thread, including threads it starts, and its result."""
    results: list[T] = []
    seconds = measure_cpu_seconds(lambda: results.append(run_in_thread(work)))
    return seconds, results[0]


@dataclass(slots=True)
class SystemTimes:
    """Seconds per prompt of one system, by round."""

    note: str = ""
    seconds: list[float] = field(default_factory=list)


class CascadeComparison:
    """All systems, round by round."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoint = run_in_thread(lambda: load_checkpoint(SEEDLING))
        self.baseline = TransformersBaseline(self.checkpoint, torch.float32)
        warmup = draw_scenes(1, first=100_000)[0].image
        run_in_thread(lambda: self.baseline.select_attention([warmup]))
        (folder / "warmup").mkdir()
        warmup.save(folder / "warmup" / "0.png")
        self.scripts: dict[str, Generate] = {
            ONE_BY_ONE: self.baseline.generate_one_by_one,
            "transformers, one batch per turn, sharing features": lambda r: self.baseline.generate_batches(
                r, len(r), share_features=True
            ),
        }
        self.systems = {name: SystemTimes() for name in (*self.scripts, WHOLE_JOB, BARE_ENGINE)}
        self.prompts = self.images = self.same = self.compared = 0

    def run_round(self, number: int, count: int, first: int) -> None:
        """Runs `count` scenes that no other round has; transformers labels the `first` of them."""
        folder = self.folder / f"round-{number}"
        (folder / "images").mkdir(parents=True)
        paths = save_scenes(folder / "images", count, number * count)
        reference: list[list[TracedAnnotation]] = []
        for name, generate in self.scripts.items():
            prompts = 0

            def generate_counted(requests: list[Request], generate: Generate = generate) -> list[list[int]]:
                nonlocal prompts
                prompts += len(requests)
                return generate(requests)

            label = partial(label_with_script, paths[:first], generate_counted, self.checkpoint, RECIPE)
            seconds, labels = time_cpu(label)
            self.systems[name].seconds.append(seconds / prompts)
            reference = reference or labels
        with RecordingEngine(self.checkpoint) as recorder:
            recorder.requests = []
            label_with_job(recorder, RECIPE, self.folder / "warmup", folder)
            (folder / "florist.db").unlink()
            recorder.requests = []
            job_seconds, labels = time_cpu(lambda: label_with_job(recorder, RECIPE, folder / "images", folder))
            requests = recorder.requests
        with Engine(self.checkpoint) as engine:  # with an empty cache
            warmup = draw_scenes(1, 100_000)[0].image
            run_bare_engine(engine, [replace(request, image=warmup) for request in requests[:8]])
            engine_seconds, _ = time_cpu(lambda: run_bare_engine(engine, requests))
        self.systems[WHOLE_JOB].seconds.append(job_seconds / len(requests))
        self.systems[BARE_ENGINE].seconds.append(engine_seconds / len(requests))
        self.prompts += len(requests)
        self.images += count
        self.compared += first
        self.same += sum(
            list(map(strip_trace, own)) == list(map(strip_trace, other))
            for own, other in zip(labels[:first], reference, strict=True)
        )

    def to_measurements(self) -> list[Measurement]:
        """Returns the best round of each system, and the overhead of the job."""
        per_image = self.prompts / self.images
        workload = f"seedling, fp32, greedy, one core, {self.images} scenes, {per_image:.1f} prompts per scene"
        best = {name: min(system.seconds) * per_image for name, system in self.systems.items()}
        baseline = best[ONE_BY_ONE]
        self.systems[WHOLE_JOB].note = f"same labels on {self.same} of {self.compared} scenes"
        self.systems[BARE_ENGINE].note = "all prompts of a job at once"
        measurements = [
            Measurement(workload, name, s * 1e3, "ms CPU/scene", baseline / s, None, self.systems[name].note)
            for name, s in best.items()
        ]
        pairs = zip(*(self.systems[name].seconds for name in (WHOLE_JOB, BARE_ENGINE)), strict=True)
        overhead = 100 * statistics.median(1 - engine / job for job, engine in pairs)
        note = "CPU time beyond that of the engine alone"
        return [*measurements, Measurement("time of a job", "overhead outside the model", overhead, "%", note=note)]


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; the best of each system counts.")] = 5,
    count: Annotated[int, typer.Option(min=2, help="Scenes per round.")] = 100,
    first: Annotated[int, typer.Option(min=1, help="Scenes per round that transformers labels too.")] = 12,
    out: Annotated[Path | None, typer.Option(help="Also write the measurements to this file, as JSON.")] = None,
) -> None:
    """Prints CPU milliseconds per scene of all systems, the speedups, and the overhead of a job."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        comparison = CascadeComparison(Path(folder))
        for number in range(rounds):
            comparison.run_round(number, count, min(first, count))
    report_measurements("A cascade: detect, check, outline, describe", comparison.to_measurements(), out)


if __name__ == "__main__":
    typer.run(main)
