"""A cascade over drawn scenes: a job of florist's against a script that asks transformers the same, picture by picture.

`python -m benchmarks.cascade_job`. The recipe finds the objects, asks each one's region back, and has each outlined and
described. The script reads the same files, asks the same questions in the same order and reads the answers alike; its
labels are compared with the job's, all but their scores, which a script does not compute. Its time is a sum over
pictures, so it is measured on the first of them. What the job takes beside the model is its time less that of an
engine that is given the same prompts all at once, on pictures that are read and resized already.

Every side has one core and one thread, and what counts is the processor's time, of all threads: so all that a job does
beside the model is in it, and what else the machine does is not. Rounds on new pictures, all sides in each, and the
best of each is taken. Linux only.
"""

import io
import os
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
import typer
from PIL import Image

from benchmarks.machine import apart
from benchmarks.results import Row, show
from benchmarks.transformers_baseline import Transformers
from benchmarks.workloads import scenes
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
from server.store import JobStore, file_url

# Nothing in it hangs on a score.
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
ALONE, WHOLE, BARE = "transformers, one at a time", "florist, the whole job", "florist's engine alone"
AHEAD = 128  # prompts that the engine alone is given at a time

ModelPrompt = Callable[[list[Request]], list[list[int]]]
T = TypeVar("T")


class Recording(Engine):
    """An engine that keeps what it was asked."""

    asked: list[Request]

    def submit(self, request: Request) -> Handle:
        """See Engine."""
        self.asked.append(request)
        return super().submit(request)


def drawn(folder: Path, count: int, first: int = 0) -> list[Path]:
    """Scenes as PNG files."""
    paths = []
    for i, scene in enumerate(scenes(count, first)):
        scene.image.save(path := folder / f"{i:05}.png")
        paths.append(path)
    return paths


def job(engine: Engine, recipe: Recipe, pictures: Path, folder: Path) -> list[list[TracedAnnotation]]:
    """Labels a folder as `florist label` does, all but the export: labels by picture."""
    with JobStore(file_url(folder / "florist.db")) as store, open_source(str(pictures)) as source:
        begun = job_start.start_job(store, engine, recipe, source, str(pictures), ".")
        ended = run_job(store, begun, engine, source, lambda size: execute_recipe(recipe, size), exclusive=True)
        return [list(picture.traces) for picture in store.iter_images(ended)]


def script(
    paths: Sequence[Path], ask: ModelPrompt, checkpoint: Checkpoint, recipe: Recipe
) -> list[list[TracedAnnotation]]:
    """Labels the pictures one after the other. `ask`: questions that can be asked at once → tokens of their answers."""
    labelled = []
    for path in paths:
        image = Image.open(io.BytesIO(path.read_bytes())).convert("RGB")
        asking = execute_recipe(recipe, image.size)
        try:
            asks = next(asking)
            while True:
                requests = [Request(image, one.task, one.text, one.region) for one in asks]
                said = [
                    _result(request, tokens, checkpoint)
                    for request, tokens in zip(requests, ask(requests), strict=True)
                ]
                asks = asking.send(said)
        except StopIteration as end:
            labelled.append(end.value)
    return labelled


def _result(request: Request, tokens: list[int], checkpoint: Checkpoint) -> Result:
    answer = parse_answer(request.task, [checkpoint.vocabulary[token] for token in tokens], request.image.size)
    return Result(answer.annotations, answer.text, tokens, [], "stop")


def alone(engine: Engine, requests: Sequence[Request]) -> None:
    """The prompts answered, none waiting for another."""
    under_way: deque[Handle] = deque()
    for request in requests:
        if len(under_way) == AHEAD:
            under_way.popleft().wait()
        under_way.append(engine.submit(request))
    while under_way:
        under_way.popleft().wait()


def plain(label: TracedAnnotation) -> Any:
    """A label without its score, and without the hashes that a script does not know."""
    note = label.annotation.model_copy(update={"score": None})
    return replace(label, annotation=note, model="", adapter=None)


def spent(work: Callable[[], T]) -> tuple[float, T]:
    """Seconds of the processor that one call takes, on a thread of its own and all that it starts; what it returns."""
    start = time.process_time()
    result = apart(work)
    return time.process_time() - start, result


@dataclass(slots=True)
class Side:
    """What one side took: seconds a prompt by round."""

    note: str = ""
    seconds: list[float] = field(default_factory=list)


class Comparison:
    """All sides, round by round."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoint = apart(lambda: load_checkpoint(SEEDLING))
        self.theirs = Transformers(self.checkpoint, torch.float32)
        unseen = scenes(1, first=100_000)[0].image
        apart(lambda: self.theirs.tune([unseen]))
        (folder / "warm").mkdir()
        unseen.save(folder / "warm" / "0.png")
        self.scripts: dict[str, ModelPrompt] = {
            ALONE: self.theirs.one_at_a_time,
            "transformers, a batch a turn, sharing the picture": lambda r: self.theirs.batched(r, len(r), share=True),
        }
        self.sides = {name: Side() for name in (*self.scripts, WHOLE, BARE)}
        self.prompts = self.pictures = self.alike = self.compared = 0

    def round(self, number: int, count: int, first: int) -> None:
        """`count` scenes that no other round has; transformers labels the `first` of them."""
        own = self.folder / f"round-{number}"
        (own / "pictures").mkdir(parents=True)
        paths = drawn(own / "pictures", count, number * count)
        reference: list[list[TracedAnnotation]] = []
        for name, ask in self.scripts.items():
            asked = 0

            def counted(requests: list[Request], ask: ModelPrompt = ask) -> list[list[int]]:
                nonlocal asked
                asked += len(requests)
                return ask(requests)

            took, labels = spent(lambda counted=counted: script(paths[:first], counted, self.checkpoint, RECIPE))
            self.sides[name].seconds.append(took / asked)
            reference = reference or labels
        with Recording(self.checkpoint) as engine:
            engine.asked = []
            job(engine, RECIPE, self.folder / "warm", own)
            (own / "florist.db").unlink()
            engine.asked = []
            whole, ours = spent(lambda: job(engine, RECIPE, own / "pictures", own))
            requests = engine.asked
        with Engine(self.checkpoint) as engine:  # that has seen none of them
            alone(engine, [replace(request, image=scenes(1, 100_000)[0].image) for request in requests[:8]])
            bare, _ = spent(lambda: alone(engine, requests))
        self.sides[WHOLE].seconds.append(whole / len(requests))
        self.sides[BARE].seconds.append(bare / len(requests))
        self.prompts += len(requests)
        self.pictures += count
        self.compared += first
        self.alike += sum(
            list(map(plain, own)) == list(map(plain, other)) for own, other in zip(ours[:first], reference, strict=True)
        )

    def rows(self) -> list[Row]:
        """The best round of each side, as the figures of other benchmarks are."""
        each = self.prompts / self.pictures
        work = f"seedling, fp32, greedy, one core, {self.pictures} scenes, {each:.1f} prompts a scene"
        best = {name: min(side.seconds) * each for name, side in self.sides.items()}
        base = best[ALONE]
        self.sides[WHOLE].note = f"the same labels on {self.alike} of {self.compared} scenes"
        self.sides[BARE].note = "a job's prompts given to it all at once"
        rows = [
            Row(work, name, took * 1e3, "ms CPU a scene", base / took, None, self.sides[name].note)
            for name, took in best.items()
        ]
        pairs = zip(*(self.sides[name].seconds for name in (WHOLE, BARE)), strict=True)
        beside = 100 * statistics.median(1 - bare / whole for whole, bare in pairs)
        note = "what it takes more than the engine alone"
        return [*rows, Row("a job's time", "beside the model", beside, "%", note=note)]


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, of which each side's best counts.")] = 5,
    count: Annotated[int, typer.Option(min=2, help="Scenes of a round's job.")] = 100,
    first: Annotated[int, typer.Option(min=1, help="Of them, those that transformers labels too.")] = 12,
    out: Annotated[Path | None, typer.Option(help="Where to write the figures as JSON.")] = None,
) -> None:
    """Prints the processor's milliseconds a scene of all sides, their ratio, and a job's share beside the model."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        comparison = Comparison(Path(folder))
        for number in range(rounds):
            comparison.round(number, count, min(first, count))
    show("Objects asked back, outlined and described", comparison.rows(), out)


if __name__ == "__main__":
    typer.run(main)
