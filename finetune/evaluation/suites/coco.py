"""COCO: detection and captions, in the layout of the unpacked downloads (https://cocodataset.org/#download).

    val2017/000000000139.jpg …   annotations/instances_val2017.json   annotations/captions_val2017.json

One of the two annotation files is enough. mAP is computed from the file itself, with its crowds and mask areas. The
authors report captions on Karpathy's test split, which is part of val2014.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

from finetune.evaluation.detection import compute_coco_precision
from finetune.evaluation.matching import normalize_class
from finetune.evaluation.report import EvaluationReport, TaskReport
from finetune.evaluation.suites.suite import Suite, SuiteBuilder, SuiteMetric
from labels.dataset import DatasetError
from labels.reading import documents
from labels.sample import Sample
from prompts.annotations import Box, Text
from prompts.tasks import TASKS

DETECTION = {"base": 34.7, "large": 37.5, "base-ft": 41.4, "large-ft": 43.4}
CAPTIONS = {"base": 133.0, "large": 135.6, "base-ft": 140.0, "large-ft": 143.3}


def read_suite(folder: Path) -> Suite:
    """Reads a folder in this layout. Raises DatasetError."""
    instances, captions = (_load_annotations(folder, kind) for kind in ("instances", "captions"))
    either = instances or captions
    if not either:
        raise DatasetError(f"{folder} has no annotations/instances_val2017.json and no captions_val2017.json")
    split = either[0].stem.rpartition("_")[2]
    builder = SuiteBuilder([folder / split, folder / "images" / split, folder / "images", folder])
    ids: dict[str, int] = {}  # COCO's image IDs by file name
    try:
        if instances:
            _add_detection(*instances, builder, ids)
        if captions:
            _add_captions(*captions, builder)
    except KeyError as error:
        raise DatasetError(f"{folder / 'annotations'} is not in COCO's format: {error} is missing") from error
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{folder / 'annotations'} is not in COCO's format: {error}") from error

    def compute_metrics(report: EvaluationReport) -> list[SuiteMetric]:
        metrics = []
        if instances and (task := report.tasks.get("<OD>")):
            metrics.append(SuiteMetric("<OD>", "mAP", 100 * _compute_map(instances[1], task, ids), DETECTION))
        if captions and (task := report.tasks.get("<CAPTION>")) and "CIDEr" in task.metrics:
            metrics.append(SuiteMetric("<CAPTION>", "CIDEr", 100 * task.metrics["CIDEr"], CAPTIONS))
        return metrics

    return builder.build(compute_metrics)


def _load_annotations(folder: Path, kind: str) -> tuple[Path, dict[str, Any]] | None:
    for name in (f"{kind}_val2017.json", f"{kind}_val2014.json", f"{kind}_*.json"):
        if files := sorted((folder / "annotations").glob(name)):
            content = documents.load_json(files[0])
            if not isinstance(content, dict) or not all(
                isinstance(content.get(k), list) for k in ("images", "annotations")
            ):
                raise DatasetError(f"{files[0]} is not a COCO file: it needs the lists images and annotations")
            return files[0], content
    return None


def _add_detection(path: Path, content: dict[str, Any], builder: SuiteBuilder, ids: dict[str, int]) -> None:
    names = {row["id"]: row["name"] for row in content["categories"]}
    boxes = defaultdict(list)
    for row in content["annotations"]:
        if not row.get("iscrowd"):
            if row["category_id"] not in names:
                raise ValueError(
                    f"annotation {row.get('id')} has category {row['category_id']!r}, which the file does not list"
                )
            x, y, width, height = row["bbox"]
            boxes[row["image_id"]].append(Box(label=names[row["category_id"]], box=(x, y, x + width, y + height)))
    for image in content["images"]:
        ids[image["file_name"]] = image["id"]
        builder.add(image["file_name"], path.name, [Sample(TASKS["<OD>"], tuple(boxes[image["id"]]))])


def _add_captions(path: Path, content: dict[str, Any], builder: SuiteBuilder) -> None:
    captions = defaultdict(list)
    for row in content["annotations"]:
        captions[row["image_id"]].append(Text(label=" ".join(row["caption"].split())))
    for image in content["images"]:
        if texts := captions[image["id"]]:
            builder.add(image["file_name"], path.name, [Sample(TASKS["<CAPTION>"], tuple(texts))])


def _compute_map(content: dict[str, Any], task: TaskReport, ids: dict[str, int]) -> float:
    """Computes mAP over the evaluated images only: an image that is missing on disk does not count."""
    categories = {normalize_class(row["name"]): row["id"] for row in content["categories"]}
    evaluated = {ids[p.image.name] for p in task.predictions}
    results = []
    for p in task.predictions:
        for box in p.predicted:
            if isinstance(box, Box) and (category := categories.get(normalize_class(box.label))) is not None:
                x1, y1, x2, y2 = box.box
                where = {"image_id": ids[p.image.name], "bbox": [x1, y1, x2 - x1, y2 - y1]}
                results.append({**where, "category_id": category, "score": box.score or 1.0})
    truth = {
        "images": [row for row in content["images"] if row["id"] in evaluated],
        "annotations": [row for row in content["annotations"] if row["image_id"] in evaluated],
        "categories": content["categories"],
    }
    return compute_coco_precision(truth, results).ap
