"""What the report's figures that fall short are about, in pictures: `python -m finetune.misses PICTURE`."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from finetune.datasets.scenes import questions
from finetune.datasets.scenes.draw import draw
from finetune.datasets.scenes.questions import COLOURS
from finetune.datasets.scenes.scene import Scene
from finetune.evaluation.corrections import Kind, corrections
from finetune.report import OBJECTS, named, words_of
from finetune.robustness import wide
from prompts.annotations import Annotation, Box, Text
from prompts.tasks import TASKS
from server import drawing
from server.engine.engine import Engine
from server.engine.request import Request

_LONG = partial(wide, times=3)


def sheet(engine: Engine, scenes: int, each: int = 4) -> Image.Image:
    """A contact sheet, a row a kind: short captions with wrong counts, regions of which another colour is told, and
    things that are not found, or by another name, in pictures padded to 3:1. Of each the first `each` of the scenes of
    seeds 0 … `scenes` - 1, none chosen; a row ends early where there are no more."""
    kinds: Sequence[Callable[[Engine, Scene, int], Image.Image | None]] = (_caption, _colour, _padded)
    blank = Image.new("RGB", (400, 1), "#eef1f5")  # of the sheet's own ground
    cells = list[Image.Image]()
    for kind in kinds:
        wrong = list(islice(_pictures(engine, scenes, kind), each))
        cells += wrong + [blank] * (each - len(wrong))
    return drawing.contact_sheet(cells, columns=each)


def _pictures(
    engine: Engine, scenes: int, kind: Callable[[Engine, Scene, int], Image.Image | None]
) -> Iterator[Image.Image]:
    for seed in range(scenes):
        if (picture := kind(engine, draw(seed, objects=OBJECTS, words=(0, 2)), seed)) is not None:
            yield picture


def _answers(engine: Engine, scene: Scene, token: str, seed: int) -> tuple[list[Annotation], list[Annotation]] | None:
    """What is said of the scene, and what is true; None where it cannot be asked."""
    question = questions.ask(scene, token, np.random.default_rng((seed, 2)))
    if question is None:
        return None
    request = Request(scene.image, question.task, question.text, question.region)
    found, shown = list(engine.submit(request).wait().annotations), list(question.answer)
    if question.region:
        region = Box(box=question.region)
        return [region, *found], [region, *shown]
    return found, shown


def _caption(engine: Engine, scene: Scene, seed: int) -> Image.Image | None:
    answers = _answers(engine, scene, "<CAPTION>", seed)
    if answers is None or named(_text(answers[0])) == named(_text(answers[1])):
        return None
    return _compared(scene, *answers)


def _colour(engine: Engine, scene: Scene, seed: int) -> Image.Image | None:
    answers = _answers(engine, scene, "<REGION_TO_DESCRIPTION>", seed)
    if answers is None or words_of(COLOURS, _text(answers[0])) == words_of(COLOURS, _text(answers[1])):
        return None
    return _compared(scene, *answers)


def _padded(engine: Engine, scene: Scene, seed: int) -> Image.Image | None:
    question = questions.ask(scene, "<OD>", np.random.default_rng((seed, 2)))
    if question is None:
        return None
    picture = _LONG(scene.image)
    found = list(engine.submit(Request(picture, TASKS["<OD>"])).wait().annotations)
    wrong = [c for c in corrections(found, question.answer) if c.kind in (Kind.MISSED, Kind.WRONG_CLASS)]
    if not wrong:
        return None
    told = ", ".join(f"{c.found.label} is a {c.label}" if c.found else f"no {c.label}" for c in wrong)
    return drawing.draw(picture, [*found, Text(label=f"wrong: {told}")])


def _compared(scene: Scene, found: list[Annotation], true: list[Annotation]) -> Image.Image:
    shapes = [note for note in found if not isinstance(note, Text)]
    texts = [Text(label=f"said: {_text(found)}"), Text(label=f"true: {_text(true)}")]
    return drawing.draw(scene.image, [*shapes, *texts])


def _text(notes: Sequence[Annotation]) -> str:
    return next((note.label for note in notes if isinstance(note, Text)), "")


def main(
    picture: Annotated[Path, typer.Argument(help="Where the sheet goes, PNG or JPEG.")],
    model: Annotated[str, typer.Option(help="Checkpoint: `seedling`, a folder or a hub id.")] = "seedling",
    scenes: Annotated[int, typer.Option(min=1, help="How many unseen scenes to look through.")] = 100,
) -> None:
    """Draws the first unseen scenes that are answered wrongly."""
    with Engine.load(model) as engine:
        sheet(engine, scenes).save(picture, quality=80)


if __name__ == "__main__":
    typer.run(main)
