"""Where each part of an answer lies in its picture: what a head of the decoder's cross-attention is taught to look at
(`finetune.forward.decode`)."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from finetune.datasets.question import Question
from finetune.datasets.scenes.masks import nearest, places
from finetune.datasets.scenes.questions import described, place_words
from finetune.datasets.scenes.scene import Object, Scene, Word
from finetune.datasets.wording import counted, with_article
from prompts import targets
from prompts.annotations import Box, Quad
from prompts.locations import BINS
from server.jobs.recipes.shapes import bounds

_POINT = re.compile(r"<loc_(\d+)><loc_(\d+)>")
Things = Sequence[Object | Word]


@dataclass(frozen=True, slots=True)
class Look:
    """Characters `start` up to `end` of an answer, and the share of attention that each cell should have, [grid²]."""

    start: int
    end: int
    cells: np.ndarray


def looks(question: Question, scene: Scene, side: int, grid: int) -> list[Look]:
    """Of the answer's text: names and boxes look at their object, the background's colour at what no object or word
    covers, a letter at its place in the word, a point of a polygon or quad at that point. What is about nothing in
    particular has no look.

    Cell k looks at pixel k · side / grid of the picture squashed to `side` pixels.
    """
    text = targets.answer(question.task, question.answer, (scene.width, scene.height))
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


def _told(question: Question, scene: Scene) -> Iterator[tuple[str, Things]]:
    """The parts of a text, in order, and what each is about; nothing: the background."""
    token, ground = question.task.token, f"{with_article(scene.background)} background"
    if token == "<OCR>":
        yield from ((word.text, [word]) for word in scene.words)
    elif token == "<CAPTION>":
        for noun in dict.fromkeys(thing.category for thing in scene.objects):
            group = [thing for thing in scene.objects if thing.category == noun]
            yield counted(noun, len(group)), group
    elif token == "<DETAILED_CAPTION>":
        yield from (("a " + described(thing, scene), [thing]) for thing in scene.objects)
    elif token == "<MORE_DETAILED_CAPTION>":
        yield ground, []
        for thing in _things(scene):
            name = described(thing, scene) if isinstance(thing, Object) else "word"
            yield f"A {name} is at the {place_words(thing.box, scene)}.", [thing]
    elif question.region and question.answer and bounds(question.answer[0]) is None:
        yield question.answer[0].label, [nearest(_things(scene), question.region)]
    if token in ("<CAPTION>", "<DETAILED_CAPTION>") and scene.words:
        yield counted("word", len(scene.words)), scene.words
    if token == "<DETAILED_CAPTION>":
        yield ground, []


def _placed(question: Question, scene: Scene, side: int, grid: int) -> Iterator[Look]:
    """The looks of an answer of shapes."""
    things, size = _things(scene), (scene.width, scene.height)
    before = ""
    for number, note in enumerate(question.answer, 1):
        box = bounds(note)
        if box is None:
            return
        start, before = len(before), targets.answer(question.task, question.answer[:number], size)
        thing = nearest(things, box)
        if isinstance(note, Box):
            yield Look(start, len(before), _whole([thing], scene, side, grid))
            continue
        if isinstance(note, Quad):
            yield from _spelled(thing, start, scene, grid)
        for pair in _POINT.finditer(before, start):
            x, y = (int(part) / BINS for part in pair.groups())
            yield Look(pair.start(), pair.end(), _point(x, y, grid))


def _whole(things: Things, scene: Scene, side: int, grid: int) -> np.ndarray:
    """All that the things cover; of none, all that no thing of the scene covers."""
    covered = places(things or _things(scene), scene, side, grid).mean(1)
    covered = covered if things else 1 - covered
    if covered.any():
        return covered / covered.sum()
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
