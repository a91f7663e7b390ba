"""What the report's figures that fall short are about, in pictures: `python -m seedling.error_sheet PICTURE`."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image

from finetune.evaluation.corrections import Kind, corrections
from labels import drawing
from labels.sample import Sample
from prompts.annotations import Annotation, Box, Text
from prompts.tasks import TASKS
from seedling.report import asked_scenes, named, words_of
from seedling.robustness import CONDITIONS
from seedling.scenes import samples
from seedling.scenes.samples import COLOR_NAMES
from seedling.scenes.scene import Scene
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.request import Request

_HEARD: dict[str, Callable[[str], Any]] = {
    "<CAPTION>": named,
    "<REGION_TO_DESCRIPTION>": partial(words_of, COLOR_NAMES),
}
"""Token → what of an answer is compared."""


def sheet(engine: Engine, scenes: int, each: int = 4) -> Image.Image:
    """A contact sheet, a row a kind: short captions with wrong counts, regions of which another colour is told, and
    things that are not found, or by another name, in pictures padded to 3:1. Of each the first `each` of the report's
    questions on the scenes of seeds 0 … `scenes` - 1, none chosen; a row ends early where there are no more."""
    rows: dict[str, list[Image.Image]] = {token: [] for token in (*_HEARD, "<OD>")}
    for scene, asked in asked_scenes(engine, scenes, tasks=_HEARD):
        wrong = {question.task.token: _told(scene, question, handle.wait().annotations) for question, handle in asked}
        for token, picture in {**wrong, "<OD>": _padded(engine, scene)}.items():
            if picture is not None and len(rows[token]) < each:
                rows[token].append(picture)
        if all(len(row) == each for row in rows.values()):
            break
    blank = Image.new("RGB", (400, 1), "#eef1f5")  # of the sheet's own ground
    cells = [cell for row in rows.values() for cell in row + [blank] * (each - len(row))]
    return drawing.contact_sheet(cells, columns=each)


def _told(scene: Scene, question: Sample, found: Sequence[Annotation]) -> Image.Image | None:
    """The answer beside the truth, where it is heard to be another."""
    said, true = (notes[0].label if notes else "" for notes in (found, question.answer))
    heard = _HEARD[question.task.token]
    if heard(said) == heard(true):
        return None
    region = [Box(box=question.region)] if question.region else []
    return drawing.draw(scene.image, [*region, Text(label=f"said: {said}"), Text(label=f"true: {true}")])


def _padded(engine: Engine, scene: Scene) -> Image.Image | None:
    """What is found on the padded picture, where something is missed or misnamed."""
    question = samples.make_sample(scene, "<OD>", np.random.default_rng(0))
    assert isinstance(question, Sample)  # every scene can be asked what is on it
    picture = CONDITIONS["aspect 3:1"](scene.image)
    found = engine.submit(Request(picture, TASKS["<OD>"])).wait().annotations
    wrong = [c for c in corrections(found, question.answer) if c.kind in (Kind.MISSED, Kind.WRONG_CLASS)]
    if not wrong:
        return None
    told = ", ".join(f"{c.found.label} is a {c.label}" if c.found else f"no {c.label}" for c in wrong)
    return drawing.draw(picture, [*found, Text(label=f"wrong: {told}")])


def main(
    picture: Annotated[Path, typer.Argument(help="Where the sheet goes, PNG or JPEG.")],
    model: Annotated[str, typer.Option(help="Checkpoint: `seedling`, a folder or a hub id.")] = "seedling",
    scenes: Annotated[int, typer.Option(min=1, help="How many unseen scenes to look through.")] = 100,
) -> None:
    """Draws the first unseen scenes that are answered wrongly."""
    with Engine.load(EngineConfig(model)) as engine:
        sheet(engine, scenes).save(picture, quality=80)


if __name__ == "__main__":
    typer.run(main)
