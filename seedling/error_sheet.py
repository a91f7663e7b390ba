"""Draws the typical errors of a checkpoint: `python -m seedling.error_sheet FILE`."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image

from finetune.evaluation.corrections import CorrectionKind, find_corrections
from labels import drawing
from labels.sample import Sample
from prompts.annotations import Annotation, Box, Text
from prompts.tasks import TASKS
from seedling.report import submit_scenes
from seedling.robustness import CONDITIONS
from seedling.scenes import samples
from seedling.scenes.colors import COLOR_NAMES
from seedling.scenes.scene import Scene
from seedling.scores import count_categories, find_words
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.request import Request

_COMPARED: dict[str, Callable[[str], Any]] = {
    "<CAPTION>": count_categories,
    "<REGION_TO_DESCRIPTION>": partial(find_words, COLOR_NAMES),
}
"""Token → what is compared of an answer."""


def draw_error_sheet(engine: Engine, scenes: int, per_kind: int = 4) -> Image.Image:
    """Returns a contact sheet with one row per kind of error.

    The kinds are short captions with wrong counts, regions with a wrong color, and objects that are missed or
    misclassified in images padded to 3:1. A row holds the first `per_kind` errors among the report's samples of scenes
    0 to `scenes` - 1, without selection. It is shorter when there are fewer.
    """
    rows: dict[str, list[Image.Image]] = {token: [] for token in (*_COMPARED, "<OD>")}
    for scene, answers in submit_scenes(engine, scenes, tasks=_COMPARED):
        errors = {
            sample.task.token: _draw_text_error(scene, sample, handle.wait().annotations) for sample, handle in answers
        }
        for token, image in {**errors, "<OD>": _draw_padded_error(engine, scene)}.items():
            if image is not None and len(rows[token]) < per_kind:
                rows[token].append(image)
        if all(len(row) == per_kind for row in rows.values()):
            break
    blank = Image.new("RGB", (400, 1), "#eef1f5")  # in the color of the sheet
    cells = [cell for row in rows.values() for cell in row + [blank] * (per_kind - len(row))]
    return drawing.draw_contact_sheet(cells, columns=per_kind)


def _draw_text_error(scene: Scene, sample: Sample, predicted: Sequence[Annotation]) -> Image.Image | None:
    """Returns the image with the predicted and the true text, or None if they agree in what is compared."""
    text, true_text = (annotations[0].label if annotations else "" for annotations in (predicted, sample.answer))
    compare = _COMPARED[sample.task.token]
    if compare(text) == compare(true_text):
        return None
    region = [Box(box=sample.region)] if sample.region else []
    texts = [Text(label=f"predicted: {text}"), Text(label=f"true: {true_text}")]
    return drawing.draw_annotations(scene.image, [*region, *texts])


def _draw_padded_error(engine: Engine, scene: Scene) -> Image.Image | None:
    """Returns the padded image with its detections, or None if no object is missed or misclassified."""
    sample = samples.make_sample(scene, "<OD>", np.random.default_rng(0))
    assert isinstance(sample, Sample)  # every scene has a detection sample
    image = CONDITIONS["aspect 3:1"](scene.image)
    predicted = engine.submit(Request(image, TASKS["<OD>"])).wait().annotations
    errors = [
        correction
        for correction in find_corrections(predicted, sample.answer)
        if correction.kind in (CorrectionKind.MISSED, CorrectionKind.WRONG_CLASS)
    ]
    if not errors:
        return None
    listed = ", ".join(f"{e.predicted.label} is a {e.label}" if e.predicted else f"no {e.label}" for e in errors)
    return drawing.draw_annotations(image, [*predicted, Text(label=f"wrong: {listed}")])


def main(
    file: Annotated[Path, typer.Argument(help="Where to write the sheet, PNG or JPEG.")],
    model: Annotated[str, typer.Option(help="Checkpoint: `seedling`, a folder or a hub ID.")] = "seedling",
    scenes: Annotated[int, typer.Option(min=1, help="Number of unseen scenes to search.")] = 100,
) -> None:
    """Draws the first unseen scenes with wrong answers."""
    with Engine.load(EngineConfig(model)) as engine:
        draw_error_sheet(engine, scenes).save(file, quality=80)


if __name__ == "__main__":
    typer.run(main)
