"""Objects found: COCO's average precision, and precision and recall by class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

from faster_coco_eval import COCO, COCOeval_faster

from finetune.evaluation.matching import Counts, named, overlap
from labels.shapes import bounds
from prompts.annotations import Annotation, Polygon

Pictures = Sequence[tuple[Sequence[Annotation], Sequence[Annotation]]]
"""Of each picture, what was found and what is true."""


@dataclass(frozen=True, slots=True)
class Precision:
    """COCO's figures, 0 to 1, nan where there is nothing to find. `ap`: the mean over IoU 0.5 to 0.95; `ap50`, `ap75`:
    at one IoU; `small`, `medium`, `large`: `ap` of areas up to 32², up to 96² and above, in pixels."""

    ap: float
    ap50: float
    ap75: float
    small: float
    medium: float
    large: float
    by_class: Mapping[str, float]


def average_precision(pictures: Pictures) -> Precision:
    """mAP of boxes, or of the bounds of other shapes. What has no score counts as sure as can be.

    Classes are those of the truth: what is found of another lowers nobody's precision, as COCO has it.
    """
    labels = sorted({named(note.label) for _, true in pictures for note in true if bounds(note)})
    ids = {label: i + 1 for i, label in enumerate(labels)}
    truth: list[dict[str, Any]] = []
    answers: list[dict[str, Any]] = []
    for picture, (found, true) in enumerate(pictures, 1):
        for note in true:
            if (row := _row(note, picture, ids)) is not None:
                truth.append({**row, "id": len(truth) + 1, "iscrowd": 0})
        for note in found:
            if (row := _row(note, picture, ids)) is not None:
                answers.append({**row, "score": 1.0 if note.score is None else note.score})
    dataset = {
        "images": [{"id": i + 1} for i in range(len(pictures))],
        "annotations": truth,
        "categories": [{"id": i, "name": label} for label, i in ids.items()],
    }
    return coco_precision(dataset, answers)


def coco_precision(dataset: dict[str, Any], answers: list[dict[str, Any]]) -> Precision:
    """mAP of boxes as COCO's own evaluation reckons it (at most 100 answers a picture and class, crowds ignored).

    `dataset`: a COCO file's content; `answers`: COCO's results, each with image_id, category_id, bbox and score.
    """
    if not dataset["annotations"]:
        return Precision(nan, nan, nan, nan, nan, nan, {})
    # To the library an answer's match 0 is none, and files that count their labels from 0 are about.
    numbered = [{**row, "id": i} for i, row in enumerate(dataset["annotations"], 1)]
    truth = COCO({**dataset, "annotations": numbered}, use_deepcopy=True)
    names = {row["id"]: row["name"] for row in dataset["categories"]}
    if not answers:  # loadRes takes no empty list: one that overlaps nothing is the same to every figure
        row = dataset["annotations"][0]
        answers = [{**{key: row[key] for key in ("image_id", "category_id")}, "bbox": [0, 0, 0, 0], "score": 0.0}]
    evaluation = COCOeval_faster(truth, truth.loadRes(answers), iouType="bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    ap, ap50, ap75, small, medium, large = (_known(float(value)) for value in evaluation.stats[:6])
    table = evaluation.eval["precision"][:, :, :, 0, -1]  # IoU, recall, class; all areas, the most answers
    by_class = {}
    for k, category in enumerate(evaluation.params.catIds):
        values = table[:, :, k]
        if (values > -1).any():
            by_class[names[category]] = float(values[values > -1].mean())
    return Precision(ap, ap50, ap75, small, medium, large, by_class)


@dataclass(frozen=True, slots=True)
class ByClass:
    """One class's right, made-up and missed objects."""

    precision: float
    recall: float
    f1: float
    labels: int


def by_class(pictures: Pictures) -> dict[str, ByClass]:
    """Precision and recall of each class, of the truth or the answers, at an IoU of 0.5; the most frequent first."""
    counts: dict[str, Counts] = {}
    for found, true in pictures:
        shapes = [[note for note in notes if bounds(note)] for notes in (found, true)]
        for label in {named(note.label) for notes in shapes for note in notes}:
            mine = [[note for note in notes if named(note.label) == label] for notes in shapes]
            counts.setdefault(label, Counts()).add(mine[0], mine[1], overlap)
    ranked = sorted(counts.items(), key=lambda item: (-item[1].right - item[1].missed, item[0]))
    return {label: ByClass(c.precision, c.recall, c.f1, c.right + c.missed) for label, c in ranked}


def overall(pictures: Pictures, *, classes: bool = True) -> Counts:
    """Right, made-up and missed at an IoU of 0.5, with scores; without `classes` whatever they are called."""

    def alike(a: Annotation, b: Annotation) -> float:
        return overlap(a, b) if not classes or named(a.label) == named(b.label) else 0.0

    counts = Counts()
    for found, true in pictures:
        counts.add([note for note in found if bounds(note)], [note for note in true if bounds(note)], alike)
    return counts


def _row(note: Annotation, picture: int, ids: Mapping[str, int]) -> dict[str, Any] | None:
    box = bounds(note)
    if box is None or (category := ids.get(named(note.label))) is None:
        return None
    x1, y1, x2, y2 = box
    area = sum(_area(ring) for ring in note.polygons) if isinstance(note, Polygon) else (x2 - x1) * (y2 - y1)
    return {"image_id": picture, "category_id": category, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": area}


def _area(ring: Sequence[float]) -> float:
    xs, ys = ring[::2], ring[1::2]
    return abs(sum(xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(ys)))) / 2


def _known(value: float) -> float:
    return value if value > -1 else nan
