"""Metrics of detection: COCO's average precision, and counts of matches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

from faster_coco_eval import COCO, COCOeval_faster

from finetune.evaluation.matching import MatchCounts, annotation_iou, normalize_class
from labels.geometry import area, bounding_box_or_none, box_area
from prompts.annotations import Annotation, Polygon

AnnotationPairs = Sequence[tuple[Sequence[Annotation], Sequence[Annotation]]]
"""The predicted and the true annotations of each image."""


@dataclass(frozen=True, slots=True)
class AveragePrecision:
    """COCO's metrics, 0 to 1; nan if there is no object of the kind.

    `ap`: the mean over IoU thresholds from 0.5 to 0.95; `ap50`, `ap75`: at one threshold; `small`, `medium`, `large`:
    `ap` of objects up to 32², up to 96² and above, in pixels; `by_class`: `ap` of each class.
    """

    ap: float
    ap50: float
    ap75: float
    small: float
    medium: float
    large: float
    by_class: Mapping[str, float]


def compute_average_precision(pairs: AnnotationPairs) -> AveragePrecision:
    """Computes mAP of boxes; other shapes count by their bounds. A prediction without a score has the score 1.

    The classes are those of the truth. Predictions of other classes are ignored, as in COCO.
    """
    labels = sorted({normalize_class(a.label) for _, truth in pairs for a in truth if bounding_box_or_none(a)})
    ids = {label: i + 1 for i, label in enumerate(labels)}
    truth_rows: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image, (predicted, truth) in enumerate(pairs, 1):
        for annotation in truth:
            if (row := _make_row(annotation, image, ids)) is not None:
                truth_rows.append({**row, "id": len(truth_rows) + 1, "iscrowd": 0})
        for annotation in predicted:
            if (row := _make_row(annotation, image, ids)) is not None:
                results.append({**row, "score": 1.0 if annotation.score is None else annotation.score})
    dataset = {
        "images": [{"id": i + 1} for i in range(len(pairs))],
        "annotations": truth_rows,
        "categories": [{"id": i, "name": label} for label, i in ids.items()],
    }
    return compute_coco_precision(dataset, results)


def compute_coco_precision(dataset: dict[str, Any], results: list[dict[str, Any]]) -> AveragePrecision:
    """Computes mAP of boxes by COCO's rules: at most 100 predictions for an image and class, crowds ignored.

    `dataset`: the content of a COCO file; `results`: COCO's results with image_id, category_id, bbox and score.
    """
    if not dataset["annotations"]:
        return AveragePrecision(nan, nan, nan, nan, nan, nan, {})
    # In the library a match with ID 0 means no match, and some files number their annotations from 0.
    numbered = [{**row, "id": i} for i, row in enumerate(dataset["annotations"], 1)]
    truth = COCO({**dataset, "annotations": numbered}, use_deepcopy=True)
    names = {row["id"]: row["name"] for row in dataset["categories"]}
    if not results:  # loadRes refuses an empty list; an empty box changes no metric
        row = dataset["annotations"][0]
        results = [{**{key: row[key] for key in ("image_id", "category_id")}, "bbox": [0, 0, 0, 0], "score": 0.0}]
    evaluation = COCOeval_faster(truth, truth.loadRes(results), iouType="bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    ap, ap50, ap75, small, medium, large = (_nan_if_missing(float(value)) for value in evaluation.stats[:6])
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # [IoU, recall, class]: all areas, 100 predictions
    by_class = {}
    for k, category in enumerate(evaluation.params.catIds):
        values = precision[:, :, k]
        if (values > -1).any():
            by_class[names[category]] = float(values[values > -1].mean())
    return AveragePrecision(ap, ap50, ap75, small, medium, large, by_class)


def count_matches(pairs: AnnotationPairs, *, labeled: bool = True) -> MatchCounts:
    """Matches shapes at an IoU of 0.5 over all images; if not `labeled`, labels may differ."""

    def similarity(a: Annotation, b: Annotation) -> float:
        same = not labeled or normalize_class(a.label) == normalize_class(b.label)
        return annotation_iou(a, b) if same else 0.0

    counts = MatchCounts()
    for predicted, truth in pairs:
        counts.add(
            [a for a in predicted if bounding_box_or_none(a)], [a for a in truth if bounding_box_or_none(a)], similarity
        )
    return counts


def _make_row(annotation: Annotation, image: int, ids: Mapping[str, int]) -> dict[str, Any] | None:
    """Returns COCO's row of a shape; None for a text and for a class that the truth lacks."""
    box = bounding_box_or_none(annotation)
    if box is None or (category := ids.get(normalize_class(annotation.label))) is None:
        return None
    x1, y1, x2, y2 = box
    pixels = sum(area(ring) for ring in annotation.polygons) if isinstance(annotation, Polygon) else box_area(box)
    return {"image_id": image, "category_id": category, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": pixels}


def _nan_if_missing(value: float) -> float:
    return value if value > -1 else nan
