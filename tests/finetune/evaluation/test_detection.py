"""Average precision against pycocotools and by hand."""

import contextlib
import io
import math

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from finetune.evaluation.detection import average_precision, by_class, overall
from prompts.annotations import Annotation, Box, Polygon, Text

Pictures = list[tuple[list[Annotation], list[Annotation]]]


def drawn(seed: int, pictures: int = 12) -> Pictures:
    """Boxes of three classes, and answers that are moved, renamed, missing or made up."""
    rng = np.random.default_rng(seed)
    made: Pictures = []
    for _ in range(pictures):
        found: list[Annotation] = []
        true: list[Annotation] = []
        for _ in range(rng.integers(0, 6)):
            x, y, w, h = rng.uniform([0, 0, 8, 8], [300, 300, 200, 200])
            label = str(rng.choice(["cat", "dog", "cup"]))
            true.append(Box(label=label, box=(x, y, x + w, y + h)))
            if rng.random() < 0.8:
                dx, dy = rng.normal(0, 0.15, 2) * (w, h)
                said = label if rng.random() < 0.8 else "cup"
                found.append(
                    Box(label=said, box=(x + dx, y + dy, x + dx + w, y + dy + h), score=rng.uniform(0.01, 0.99))
                )
        if rng.random() < 0.4:
            found.append(Box(label="dog", box=(0, 0, 50, 60), score=rng.uniform(0.01, 0.99)))
        made.append((found, true))
    return made


def reference(pictures: Pictures) -> list[float]:
    names = sorted({note.label for _, true in pictures for note in true})

    def row(note: Annotation, picture: int) -> dict[str, object]:
        assert isinstance(note, Box)
        x1, y1, x2, y2 = note.box
        where = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
        return {"image_id": picture, "category_id": names.index(note.label) + 1, **where}

    truth = [row(note, i) for i, (_, true) in enumerate(pictures) for note in true]
    answers = [{**row(note, i), "score": note.score} for i, (found, _) in enumerate(pictures) for note in found]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i} for i in range(len(pictures))],
            "annotations": [{**one, "id": i + 1} for i, one in enumerate(truth)],
            "categories": [{"id": i + 1, "name": name} for i, name in enumerate(names)],
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(answers), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats[:6]]


@pytest.mark.parametrize("seed", range(4))
def test_equals_pycocotools(seed: int) -> None:
    pictures = drawn(seed)
    ours = average_precision(pictures)
    assert [ours.ap, ours.ap50, ours.ap75, ours.small, ours.medium, ours.large] == pytest.approx(
        [math.nan if value == -1 else value for value in reference(pictures)], abs=1e-6, nan_ok=True
    )
    assert ours.ap == pytest.approx(np.mean(list(ours.by_class.values())))


def test_the_truth_itself_is_perfect() -> None:
    pictures = [(true, true) for _, true in drawn(9)]
    ours = average_precision(pictures)
    assert (ours.ap, ours.ap50) == (1, 1)
    assert set(ours.by_class.values()) == {1}


def test_nothing_found_and_nothing_there() -> None:
    cat = Box(label="cat", box=(0, 0, 50, 50))
    missed = average_precision([([], [cat])])
    assert (missed.ap, missed.ap50, missed.by_class) == (0, 0, {"cat": 0})
    assert math.isnan(missed.small)
    nothing = average_precision([([cat], []), ([], [])])
    assert math.isnan(nothing.ap)


def test_an_outline_counts_by_its_bounds_and_texts_not_at_all() -> None:
    outline = Polygon(label="Cat", polygons=[[0, 0, 50, 0, 0, 50]])
    ours = average_precision([([Box(label="cat", box=(0, 0, 50, 50)), Text(label="cat")], [outline])])
    assert ours.ap == 1


def test_precision_and_recall_by_class() -> None:
    cat, dog = Box(label="cat", box=(0, 0, 50, 50)), Box(label="dog", box=(100, 0, 150, 50))
    figures = by_class([([cat, dog], [cat, cat.model_copy(update={"box": (200, 0, 250, 50)})]), ([cat], [cat])])
    assert list(figures) == ["cat", "dog"]
    assert (figures["cat"].precision, figures["cat"].recall, figures["cat"].labels) == (1, pytest.approx(2 / 3), 3)
    assert (figures["dog"].precision, figures["dog"].recall, figures["dog"].labels) == (0, 1, 0)


def test_overall_with_and_without_names() -> None:
    cat, dog = Box(label="cat", box=(0, 0, 50, 50), score=0.9), Box(label="dog", box=(0, 0, 50, 50))
    assert overall([([cat], [dog])]).right == 0
    assert overall([([cat], [dog])], classes=False).scores == [(0.9, True)]
