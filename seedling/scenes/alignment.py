"""Attention targets: for each part of an answer, the grid cells that it is about.

One head of the decoder's cross-attention is trained on them (`finetune.forward.decode_answers`).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from labels.geometry import bounding_box_or_none
from labels.sample import Sample
from prompts.annotations import Box, Quad
from prompts.formatting import format_answer
from prompts.locations import LOCATION_PATTERN, dequantize
from seedling.scenes.descriptions import (
    TextPart,
    describe_background,
    list_caption_parts,
    list_detailed_caption_parts,
    list_paragraph_parts,
)
from seedling.scenes.masks import find_best_overlap, make_coverage_mask, make_image_mask
from seedling.scenes.scene import Scene, SceneObject, SceneWord

_POINT = re.compile(LOCATION_PATTERN.pattern * 2)
Items = Sequence[SceneObject | SceneWord]


@dataclass(frozen=True, slots=True)
class AttentionTarget:
    """Characters `start` to `end` (exclusive) of an answer, and the share of attention per cell, [grid²]."""

    start: int
    end: int
    cells: np.ndarray


def make_attention_targets(sample: Sample, scene: Scene, side: int, grid: int) -> list[AttentionTarget]:
    """Returns the attention targets of the answer's text.

    Names and boxes attend to their object, the background's color to what no object or word covers, a letter to its
    position in the word, a point of a polygon or quad to that point. Text about nothing in particular has no target.
    Cell k is centered at pixel k · side / grid of the image resized to `side` pixels.
    """
    text = format_answer(sample.task, sample.answer, (scene.width, scene.height))
    targets: list[AttentionTarget] = []
    at = 0
    for words, items in _list_text_parts(sample, scene):
        at = text.index(words, at)
        if sample.task.token in ("<OCR>", "<REGION_TO_OCR>"):
            targets += _make_letter_targets(items[0], at, scene, grid)
        else:
            targets.append(AttentionTarget(at, at + len(words), _attend_to_items(items, scene, side, grid)))
        at += len(words)
    return targets + list(_make_shape_targets(sample, scene, side, grid))


def _list_items(scene: Scene) -> Items:
    return [*scene.objects, *scene.words]


def _list_text_parts(sample: Sample, scene: Scene) -> list[TextPart]:
    """Returns the parts of a text answer in order. A part without items is about the background."""
    match sample.task.token:
        case "<OCR>":
            return [(word.text, [word]) for word in scene.words]
        case "<CAPTION>":
            return list_caption_parts(scene)
        case "<DETAILED_CAPTION>":
            return [*list_detailed_caption_parts(scene), (describe_background(scene), [])]
        case "<MORE_DETAILED_CAPTION>":
            return [(describe_background(scene), []), *list_paragraph_parts(scene)]
    if sample.region and sample.answer and bounding_box_or_none(sample.answer[0]) is None:
        return [(sample.answer[0].label, [find_best_overlap(_list_items(scene), sample.region)])]
    return []


def _make_shape_targets(sample: Sample, scene: Scene, side: int, grid: int) -> Iterator[AttentionTarget]:
    """Yields the targets of an answer that consists of shapes."""
    items, size = _list_items(scene), (scene.width, scene.height)
    before = ""
    for number, annotation in enumerate(sample.answer, 1):
        box = bounding_box_or_none(annotation)
        if box is None:
            return
        start, before = len(before), format_answer(sample.task, sample.answer[:number], size)
        if isinstance(annotation, Box):
            item = find_best_overlap(items, box)
            yield AttentionTarget(start, len(before), _attend_to_items([item], scene, side, grid))
            continue
        if isinstance(annotation, Quad):
            yield from _make_letter_targets(find_best_overlap(items, box), start, scene, grid)
        for pair in _POINT.finditer(before, start):
            x, y = (dequantize(int(part), 1.0) for part in pair.groups())
            yield AttentionTarget(pair.start(), pair.end(), _attend_to_point(x, y, grid))


def _attend_to_items(items: Items, scene: Scene, side: int, grid: int) -> np.ndarray:
    """Spreads attention over everything that the items cover; without items, over everything that no item covers."""
    covered = make_coverage_mask(items or _list_items(scene), scene, side, grid)
    if not items:
        inside = make_image_mask(side, grid)
        free = inside & ~covered
        covered = free if free.any() else inside
    if covered.any():
        return covered.mean(1) / covered.mean(1).sum()
    x1, y1, x2, y2 = items[0].box  # too small to cover the center of any subcell
    return _attend_to_point((x1 + x2) / 2 / scene.width, (y1 + y2) / 2 / scene.height, grid)


def _make_letter_targets(
    word: SceneObject | SceneWord, start: int, scene: Scene, grid: int
) -> Iterator[AttentionTarget]:
    """Yields a target at the center of each letter of a word that begins at the character `start`."""
    if isinstance(word, SceneWord):
        for k, (x, y) in enumerate(word.letter_centers / (scene.width, scene.height), start):
            yield AttentionTarget(k, k + 1, _attend_to_point(x, y, grid))


def _attend_to_point(x: float, y: float, grid: int) -> np.ndarray:
    """Distributes attention bilinearly over the four cells around a point of the unit square."""
    rows, columns = (np.maximum(0, 1 - abs(np.arange(grid) - min(max(v * grid, 0), grid - 1))) for v in (y, x))
    return np.outer(rows, columns).ravel()
