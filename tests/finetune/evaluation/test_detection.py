"""Average precision, compared with pycocotools and with values computed by hand."""

import contextlib
import io
import math

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from finetune.evaluation.detection import compute_average_precision, count_matches
from prompts.annotations import Annotation, Box, Polygon, Text

Pairs = list[tuple[list[Annotation], list[Annotation]]]


def make_pairs(seed: int, images: int = 12) -> Pairs:
    """Boxes of three classes, and predictions that are moved, relabeled, missing or false."""
    rng = np.random.default_rng(seed)
    pairs: Pairs = []
    for _ in range(images):
        predicted: list[Annotation] = []
        true: list[Annotation] = []
        for _ in range(rng.integers(0, 6)):
            x, y, w, h = rng.uniform([0, 0, 8, 8], [300, 300, 200, 200])
            label = str(rng.choice(["cat", "dog", "cup"]))
            true.append(Box(label=label, box=(x, y, x + w, y + h)))
            if rng.random() < 0.8:
                dx, dy = rng.normal(0, 0.15, 2) * (w, h)
                label_ = label if rng.random() < 0.8 else "cup"
                predicted.append(
                    Box(label=label_, box=(x + dx, y + dy, x + dx + w, y + dy + h), score=rng.uniform(0.01, 0.99))
                )
        if rng.random() < 0.4:
            predicted.append(Box(label="dog", box=(0, 0, 50, 60), score=rng.uniform(0.01, 0.99)))
        pairs.append((predicted, true))
    return pairs


def compute_reference(pairs: Pairs) -> list[float]:
    names = sorted({note.label for _, true in pairs for note in true})

    def row(note: Annotation, image: int) -> dict[str, object]:
        assert isinstance(note, Box)
        x1, y1, x2, y2 = note.box
        where = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
        return {"image_id": image, "category_id": names.index(note.label) + 1, **where}

    truth = [row(note, i) for i, (_, true) in enumerate(pairs) for note in true]
    answers = [{**row(note, i), "score": note.score} for i, (predicted, _) in enumerate(pairs) for note in predicted]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i} for i in range(len(pairs))],
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
def test_average_precision_equals_pycocotools(seed: int) -> None:
    pairs = make_pairs(seed)
    ours = compute_average_precision(pairs)
    assert [ours.ap, ours.ap50, ours.ap75, ours.small, ours.medium, ours.large] == pytest.approx(
        [math.nan if value == -1 else value for value in compute_reference(pairs)], abs=1e-6, nan_ok=True
    )
    assert ours.ap == pytest.approx(np.mean(list(ours.by_class.values())))


def test_the_truth_has_perfect_precision() -> None:
    pairs = [(true, true) for _, true in make_pairs(9)]
    ours = compute_average_precision(pairs)
    assert (ours.ap, ours.ap50) == (1, 1)
    assert set(ours.by_class.values()) == {1}


def test_no_predictions_and_no_truth() -> None:
    cat = Box(label="cat", box=(0, 0, 50, 50))
    missed = compute_average_precision([([], [cat])])
    assert (missed.ap, missed.ap50, missed.by_class) == (0, 0, {"cat": 0})
    assert math.isnan(missed.small)
    nothing = compute_average_precision([([cat], []), ([], [])])
    assert math.isnan(nothing.ap)


def test_an_outline_counts_by_its_bounds_and_texts_are_ignored() -> None:
    outline = Polygon(label="Cat", polygons=[[0, 0, 50, 0, 0, 50]])
    ours = compute_average_precision([([Box(label="cat", box=(0, 0, 50, 50)), Text(label="cat")], [outline])])
    assert ours.ap == 1


def test_precision_and_recall_by_class() -> None:
    cat, dog = Box(label="cat", box=(0, 0, 50, 50)), Box(label="dog", box=(100, 0, 150, 50))
    moved_cat = cat.model_copy(update={"box": (200, 0, 250, 50)})
    pairs = [([cat, dog], [cat, moved_cat]), ([cat], [cat])]
    cats = count_matches([tuple([a for a in side if a.label == "cat"] for side in pair) for pair in pairs])
    dogs = count_matches([tuple([a for a in side if a.label == "dog"] for side in pair) for pair in pairs])
    assert (cats.precision, cats.recall, cats.true_positives + cats.false_negatives) == (1, pytest.approx(2 / 3), 3)
    assert (dogs.precision, dogs.recall, dogs.true_positives + dogs.false_negatives) == (0, 1, 0)


def test_matches_are_counted_with_and_without_labels() -> None:
    cat, dog = Box(label="cat", box=(0, 0, 50, 50), score=0.9), Box(label="dog", box=(0, 0, 50, 50))
    assert count_matches([([cat], [dog])]).true_positives == 0
    assert count_matches([([cat], [dog])], labeled=False).scores == [(0.9, True)]
