"""Rasterizes what a sample is about: the target of the encoder's relevance head (`DenseHeads.compute_relevance_loss`).

Masks are booleans [grid², 16]: each grid cell is divided into 4 × 4 subcells. Cell k is centered at pixel
k · side / grid of the image resized to `side` pixels and covers half a cell in each direction. The subcells beyond the
upper and left image borders are never set.
"""

from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np

from finetune.evaluation.matching import rasterize
from labels.geometry import bounding_box_or_none, box_iou
from labels.sample import Sample
from seedling.dense_heads import SUBCELLS
from seedling.scenes.scene import Scene, SceneObject, SceneWord

Item = TypeVar("Item", bound=SceneObject | SceneWord)


def find_subjects(sample: Sample, scene: Scene) -> list[SceneObject | SceneWord]:
    """Returns the objects and words that the answer is about.

    These are the ones that the answer locates; for a region, the one inside it; for a text about the whole image, all
    that the task describes.
    """
    items: list[SceneObject | SceneWord] = [*scene.objects, *scene.words]
    if not items:
        return []
    if sample.region:
        return [find_best_overlap(items, sample.region)]
    if sample.task.token == "<OCR>":
        return list(scene.words)
    if sample.task.token.endswith("CAPTION>") and sample.task.token != "<DENSE_REGION_CAPTION>":
        return items
    return [find_best_overlap(items, box) for annotation in sample.answer if (box := bounding_box_or_none(annotation))]


def find_best_overlap(items: Sequence[Item], box: Sequence[float]) -> Item:
    """Returns the item whose box has the largest IoU with `box`."""
    return max(items, key=lambda item: box_iou(item.box, box))


def make_relevance_mask(sample: Sample, scene: Scene, side: int, grid: int) -> np.ndarray:
    """Returns which subcells lie on a subject of the sample."""
    return make_coverage_mask(find_subjects(sample, scene), scene, side, grid)


def make_coverage_mask(items: Iterable[SceneObject | SceneWord], scene: Scene, side: int, grid: int) -> np.ndarray:
    """Returns which subcells lie on one of the items."""
    pixels = _compute_subcell_centers(side, grid).clip(0).astype(int)
    covered = np.zeros((grid * SUBCELLS, grid * SUBCELLS), bool)
    for item in items:
        rings = item.polygons if isinstance(item, SceneObject) else [item.quad]
        scale = np.array([side / scene.width, side / scene.height])
        scaled = [(np.reshape(ring, (-1, 2)) * scale).ravel().tolist() for ring in rings]
        covered |= rasterize(scaled, (side, side))[np.ix_(pixels, pixels)]
    return _group_by_cell(covered, grid) & make_image_mask(side, grid)


def make_image_mask(side: int, grid: int) -> np.ndarray:
    """Returns which subcells lie in the image, not beyond its upper or left border."""
    inside = _compute_subcell_centers(side, grid) >= 0
    return _group_by_cell(np.outer(inside, inside), grid)


def _compute_subcell_centers(side: int, grid: int) -> np.ndarray:
    """Returns the centers of a row's subcells, in pixels."""
    return ((np.arange(grid * SUBCELLS) + 0.5) / SUBCELLS - 0.5) * side / grid


def _group_by_cell(raster: np.ndarray, grid: int) -> np.ndarray:
    """[4 grid, 4 grid] → [grid², 16]."""
    return raster.reshape(grid, SUBCELLS, grid, SUBCELLS).transpose(0, 2, 1, 3).reshape(grid**2, SUBCELLS**2)
