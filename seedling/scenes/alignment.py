"""Where each part of an answer lies in its picture: what a head of the decoder's cross-attention is taught to look at
(`finetune.forward.decode`)."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from labels.sample import Sample
from labels.shapes import bounds
from prompts.annotations import Box, Quad
from prompts.formatting import format_answer
from prompts.locations import LOCATION_PATTERN, dequantize
from seedling.scenes.masks import nearest, places, within
from seedling.scenes.samples import Told, caption_parts, detailed_parts, ground, paragraph_parts
from seedling.scenes.scene import Object, Scene, Word

_POINT = re.compile(LOCATION_PATTERN.pattern * 2)
Things = Sequence[Object | Word]


@dataclass(frozen=True, slots=True)
class Look:
    """Characters `start` up to `end` of an answer, and the share of attention that each cell should have, [grid²]."""

    start: int
    end: int
    cells: np.ndarray


def looks(question: Sample, scene: Scene, side: int, grid: int) -> list[Look]:
    """Of the answer's text: names and boxes look at their object, the background's colour at what no object or word
    covers, a letter at its place in the word, a point of a polygon or quad at that point. What is about nothing in
    particular has no look.

    Cell k looks at pixel k · side / grid of the picture squashed to `side` pixels.
    """
    text = format_answer(question.task, question.answer, (scene.width, scene.height))
    found: list[Look] = []
    at = 0
    for words, things in _told(question, scene):
        at = text.index(words, at)
        if question.task.token in ("<OCR>", "<REGION_TO_OCR>"):
            found += _spelled(things[0], at, scene, grid)
        else:
            found.append(Look(at, at + len(words), _whole(things, scene, side, grid)))
        at += len(words)
    return found + list(_placed(question, scene, side, grid))


def _things(scene: Scene) -> Things:
    return [*scene.objects, *scene.words]


def _told(question: Sample, scene: Scene) -> list[Told]:
    """The parts of a text, in order, and what each is about; nothing: the background."""
    match question.task.token:
        case "<OCR>":
            return [(word.text, [word]) for word in scene.words]
        case "<CAPTION>":
            return caption_parts(scene)
        case "<DETAILED_CAPTION>":
            return [*detailed_parts(scene), (ground(scene), [])]
        case "<MORE_DETAILED_CAPTION>":
            return [(ground(scene), []), *paragraph_parts(scene)]
    if question.region and question.answer and bounds(question.answer[0]) is None:
        return [(question.answer[0].label, [nearest(_things(scene), question.region)])]
    return []


def _placed(question: Sample, scene: Scene, side: int, grid: int) -> Iterator[Look]:
    """The looks of an answer of shapes."""
    things, size = _things(scene), (scene.width, scene.height)
    before = ""
    for number, note in enumerate(question.answer, 1):
        box = bounds(note)
        if box is None:
            return
        start, before = len(before), format_answer(question.task, question.answer[:number], size)
        if isinstance(note, Box):
            yield Look(start, len(before), _whole([nearest(things, box)], scene, side, grid))
            continue
        if isinstance(note, Quad):
            yield from _spelled(nearest(things, box), start, scene, grid)
        for pair in _POINT.finditer(before, start):
            x, y = (dequantize(int(part), 1.0) for part in pair.groups())
            yield Look(pair.start(), pair.end(), _point(x, y, grid))


def _whole(things: Things, scene: Scene, side: int, grid: int) -> np.ndarray:
    """All that the things cover; of none, all that no thing of the scene covers."""
    covered = places(things or _things(scene), scene, side, grid)
    if not things:
        inside = within(side, grid)
        free = inside & ~covered
        covered = free if free.any() else inside
    if covered.any():
        return covered.mean(1) / covered.mean(1).sum()
    x1, y1, x2, y2 = things[0].box  # too small for any place to lie on it
    return _point((x1 + x2) / 2 / scene.width, (y1 + y2) / 2 / scene.height, grid)


def _spelled(word: Object | Word, start: int, scene: Scene, grid: int) -> Iterator[Look]:
    """Each letter of a word that begins at the character `start`, at its middle."""
    if isinstance(word, Word):
        for k, (x, y) in enumerate(word.middles / (scene.width, scene.height), start):
            yield Look(k, k + 1, _point(x, y, grid))


def _point(x: float, y: float, grid: int) -> np.ndarray:
    """A point of the unit square on the four cells around it, by nearness."""
    rows, columns = (np.maximum(0, 1 - abs(np.arange(grid) - min(max(v * grid, 0), grid - 1))) for v in (y, x))
    return np.outer(rows, columns).ravel()
