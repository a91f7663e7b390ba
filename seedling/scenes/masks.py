"""Which part of a drawn picture a question is about: what the encoder is taught to point at."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np

from finetune.evaluation.matching import box_iou, mask
from labels.sample import Sample
from labels.shapes import bounds
from seedling.dense_heads import SHADES
from seedling.scenes.scene import Object, Scene, Word

Thing = TypeVar("Thing", bound=Object | Word)


def subjects(question: Sample, scene: Scene) -> list[Object | Word]:
    """The objects and words that the answer is about: those that it places; of a region, what lies in it; of a text
    about the whole picture, all that the task tells of."""
    things: list[Object | Word] = [*scene.objects, *scene.words]
    if not things:
        return []
    if question.region:
        return [nearest(things, question.region)]
    if question.task.token == "<OCR>":
        return list(scene.words)
    if question.task.token.endswith("CAPTION>") and question.task.token != "<DENSE_REGION_CAPTION>":
        return things
    return [nearest(things, box) for note in question.answer if (box := bounds(note))]


def nearest(things: Sequence[Thing], box: Sequence[float]) -> Thing:
    """The thing whose box overlaps `box` most."""
    return max(things, key=lambda thing: box_iou(thing.box, box))


def asked_for(question: Sample, scene: Scene, side: int, grid: int) -> np.ndarray:
    """Booleans [grid², 16]: which places of the cells lie on a subject of the question (`places`)."""
    return places(subjects(question, scene), scene, side, grid)


def places(things: Iterable[Object | Word], scene: Scene, side: int, grid: int) -> np.ndarray:
    """Booleans [grid², 16]: whether each of the 4 × 4 places of a cell lies on one of the things, in the picture
    squashed to `side` pixels. Cell k looks at pixel k · side / grid and knows what lies around it, half a cell each
    way; what lies beyond the picture (`within`) lies on nothing."""
    pixels = _across(side, grid).clip(0).astype(int)
    covered = np.zeros((grid * SHADES, grid * SHADES), bool)
    for thing in things:
        rings = thing.polygons if isinstance(thing, Object) else [thing.quad]
        scale = np.array([side / scene.width, side / scene.height])
        squashed = [(np.reshape(ring, (-1, 2)) * scale).ravel().tolist() for ring in rings]
        covered |= mask(squashed, (side, side))[np.ix_(pixels, pixels)]
    return _by_cell(covered, grid) & within(side, grid)


def within(side: int, grid: int) -> np.ndarray:
    """Booleans [grid², 16]: whether each of the `places` lies in the picture, not beyond its upper or left edge."""
    inside = _across(side, grid) >= 0
    return _by_cell(np.outer(inside, inside), grid)


def _across(side: int, grid: int) -> np.ndarray:
    """The middles of a row's places, in pixels."""
    return ((np.arange(grid * SHADES) + 0.5) / SHADES - 0.5) * side / grid


def _by_cell(raster: np.ndarray, grid: int) -> np.ndarray:
    """[4 grid, 4 grid] → [grid², 16]."""
    return raster.reshape(grid, SHADES, grid, SHADES).transpose(0, 2, 1, 3).reshape(grid**2, SHADES**2)
