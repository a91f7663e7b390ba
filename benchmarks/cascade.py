"""A cascade over drawn scenes: a job of florist's against a script that asks transformers the same, picture by picture.

`python -m benchmarks.cascade`. The recipe finds the objects, asks each one's region back, and has each outlined and
described. The script reads the same files, asks the same questions in the same order and reads the answers alike; its
labels are compared with the job's, all but their scores, which a script does not compute. Its time is a sum over
pictures, so it is measured on the first of them. What the job takes beside the model is its time less that of an
engine that is given the same prompts all at once, on pictures that are read and resized already.
"""

import io
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from PIL import Image

from benchmarks.baselines import Transformers
from benchmarks.machine import apart, timed
from benchmarks.results import Row, show
from benchmarks.workloads import scenes
from prompts.grammar import read
from server.engine import checkpoint as checkpoints
from server.engine.checkpoint import Checkpoint
from server.engine.engine import Engine
from server.engine.handle import Handle
from server.engine.request import Request, Result
from server.jobs import intake
from server.jobs.labels import Label
from server.jobs.recipes.annotation import annotate
from server.jobs.recipes.reading import parse
from server.jobs.recipes.recipe import Recipe
from server.jobs.runner import run
from server.jobs.sources import open_source
from server.jobs.store import Store

# Nothing in it hangs on a score.
RECIPE = parse(
    {
        "name": "cascade",
        "steps": [
            {"id": "objects", "task": "<OD>", "check": True},
            {"id": "outlines", "task": "<REGION_TO_SEGMENTATION>", "each": "objects"},
            {"id": "descriptions", "task": "<REGION_TO_DESCRIPTION>", "each": "objects"},
        ],
    }
)
AHEAD = 128  # prompts that the engine alone is given at a time

Ask = Callable[[list[Request]], list[list[int]]]


class Recording(Engine):
    """An engine that keeps what it was asked."""

    asked: list[Request]

    def submit(self, request: Request) -> Handle:
        """See Engine."""
        self.asked.append(request)
        return super().submit(request)


def drawn(folder: Path, count: int) -> list[Path]:
    """Scenes as PNG files."""
    paths = []
    for i, scene in enumerate(scenes(count)):
        scene.image.save(path := folder / f"{i:05}.png")
        paths.append(path)
    return paths


def job(engine: Engine, recipe: Recipe, pictures: Path, folder: Path) -> list[list[Label]]:
    """Labels a folder as `florist label` does, all but the export: labels by picture."""
    with Store(f"sqlite:///{folder / 'florist.db'}") as store, open_source(str(pictures)) as source:
        begun = intake.begin(store, engine, recipe, source, str(pictures), ".")
        ended = run(store, begun, engine, source, lambda size: annotate(recipe, size), sole=True)
        return [list(picture.labels) for picture in store.labelled(ended)]


def script(paths: Sequence[Path], ask: Ask, checkpoint: Checkpoint, recipe: Recipe) -> list[list[Label]]:
    """Labels the pictures one after the other. `ask`: questions that can be asked at once → tokens of their answers."""
    labelled = []
    for path in paths:
        image = Image.open(io.BytesIO(path.read_bytes())).convert("RGB")
        asking = annotate(recipe, image.size)
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
    answer = read(request.task, [checkpoint.vocabulary[token] for token in tokens], request.image.size)
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


def plain(label: Label) -> Any:
    """A label without its score, and without the hashes that a script does not know."""
    note = label.annotation.model_copy(update={"score": None})
    return replace(label, annotation=note, model="", adapter=None)


def main(
    count: Annotated[int, typer.Option(min=2, help="Scenes of the job.")] = 500,
    first: Annotated[int, typer.Option(min=1, help="Of them, those that transformers labels too.")] = 150,
    out: Annotated[Path | None, typer.Option(help="Where to write the figures as JSON.")] = None,
) -> None:
    """Prints milliseconds a picture of all sides, their ratio, and the share of the job's time beside the model."""
    checkpoint = apart(lambda: checkpoints.load(checkpoints.SEEDLING))
    first = min(first, count)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pictures").mkdir()
        paths = drawn(folder / "pictures", count)
        theirs = Transformers(checkpoint, torch.float32)
        unseen = scenes(1, first=100_000)[0].image
        apart(lambda: theirs.tune([unseen]))
        took, labels = {}, {}
        sides: dict[str, Ask] = {
            "transformers, one at a time": theirs.one_at_a_time,
            "transformers, a batch a turn, sharing the picture": lambda r: theirs.batched(r, len(r), share=True),
        }
        for side, ask in sides.items():
            taken, labels[side] = timed(lambda ask=ask: script(paths[:first], ask, checkpoint, RECIPE))
            took[side] = taken / first
        with Recording(checkpoint) as engine:
            engine.asked = []
            (folder / "warm").mkdir()
            unseen.save(folder / "warm" / "0.png")
            job(engine, RECIPE, folder / "warm", folder / "warm")
            engine.asked, before = [], engine.stats()
            whole, ours = timed(lambda: job(engine, RECIPE, folder / "pictures", folder))
            after, asked = engine.stats(), engine.asked
        with Engine(checkpoint) as engine:
            alone(engine, asked[:8])
        with Engine(checkpoint) as engine:  # that has seen none of them
            bare, _ = timed(lambda: alone(engine, asked))
    phases = ("vision_seconds", "encode_seconds", "decode_seconds")
    busy = sum(getattr(after, phase) - getattr(before, phase) for phase in phases)
    reference = labels["transformers, one at a time"]
    alike = sum(
        list(map(plain, own)) == list(map(plain, other)) for own, other in zip(ours[:first], reference, strict=True)
    )
    took |= {"florist, the whole job": whole / count, "florist's engine alone": bare / count}
    notes = {
        "florist, the whole job": f"the same labels on {alike} of {first} pictures",
        "florist's engine alone": "the job's prompts given to it all at once",
    }
    work = f"seedling, fp32, greedy, {len(asked) / count:.1f} prompts a scene"
    base = took["transformers, one at a time"]
    rows = [
        Row(work, side, taken * 1e3, "ms a scene", base / taken, None, notes.get(side, ""))
        for side, taken in took.items()
    ]
    share = f"a job of {count} scenes: where its time goes"
    rows += [
        Row(
            share, "beside the model", 100 * (1 - bare / whole), "%", note="what it takes longer than the engine alone"
        ),
        Row(share, "the engine's worker not in the model", 100 * (1 - busy / whole), "%"),
    ]
    show("Objects asked back, outlined and described", rows, out)


if __name__ == "__main__":
    typer.run(main)
