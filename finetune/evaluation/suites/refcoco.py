"""RefCOCO, RefCOCO+ and RefCOCOg: the object that a sentence refers to, as a box and as an outline.

The layout is that of the REFER toolbox (https://github.com/lichengunc/refer):

    refs(unc).p   instances.json   and COCO's images in train2014/, images/ or ../images/mscoco/images/train2014/

`refs(unc).p` is a pickle, which could run code when it is loaded. Only plain data is accepted here; anything else is
refused. `refs(unc).json` with the same content is accepted too. All splits except train are used. The published values
are those of RefCOCO.
"""

import pickle
from collections import defaultdict
from pathlib import Path
from typing import IO, Any

from finetune.evaluation.grounding import is_hit
from finetune.evaluation.report import EvaluationReport
from finetune.evaluation.segmentation import compute_mean_iou, measure_overlap
from finetune.evaluation.suites.suite import Suite, SuiteBuilder, SuiteMetric, find_file
from labels.dataset import DatasetError
from labels.reading import documents
from labels.sample import Sample
from prompts.annotations import Box, Polygon
from prompts.tasks import TASKS

GROUNDING, SEGMENTATION = "<CAPTION_TO_PHRASE_GROUNDING>", "<REFERRING_EXPRESSION_SEGMENTATION>"
ACCURACY = {
    "val": {"base": 53.9, "large": 56.3, "base-ft": 92.6, "large-ft": 93.4},
    "testA": {"base": 58.4, "large": 61.6, "base-ft": 94.8, "large-ft": 95.3},
    "testB": {"base": 49.7, "large": 51.4, "base-ft": 91.5, "large-ft": 92.0},
}
MEAN_IOU = {"val": {"base": 34.6, "large": 35.8, "base-ft": 78.0, "large-ft": 80.5}}


def read_suite(folder: Path) -> Suite:
    """Reads a folder in this layout. Raises DatasetError."""
    path = find_file(folder, "refs(*).json", "refs*.json", "refs(*).p", needs="the references of REFER's RefCOCO")
    references = documents.load_json(path) if path.suffix == ".json" else _load_pickle(path)
    instances = documents.load_json(find_file(folder, "instances.json", needs="it belongs beside the references"))
    toolbox = folder.parent / "images/mscoco/images/train2014"
    builder = SuiteBuilder([folder / "train2014", folder / "images" / "train2014", folder / "images", toolbox, folder])
    splits: dict[int, str] = {}  # by id() of the sample, which the suite keeps alive
    try:
        _add_references(path, references, instances, builder, splits)
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{path} and instances.json are not in REFER's format: {error!r}") from error

    def compute_metrics(report: EvaluationReport) -> list[SuiteMetric]:
        hits, overlaps = defaultdict(list), defaultdict(list)
        for task in report.tasks.values():
            for p in task.predictions:
                split = splits[id(p.sample)]
                if task.task.token == SEGMENTATION:
                    overlaps[split].append(measure_overlap(p.predicted, p.truth, p.image.size))
                else:
                    hits[split].append(is_hit(p.predicted, p.truth))
        is_refcoco = "refcoco+" not in folder.name and "refcocog" not in folder.name
        accuracy, iou = (ACCURACY, MEAN_IOU) if is_refcoco else ({}, {})
        grounding = [
            SuiteMetric(GROUNDING, f"accuracy at 0.5, {split}", 100 * sum(own) / len(own), accuracy.get(split, {}))
            for split, own in sorted(hits.items())
        ]
        return grounding + [
            SuiteMetric(SEGMENTATION, f"mIoU, {split}", 100 * compute_mean_iou(own), iou.get(split, {}))
            for split, own in sorted(overlaps.items())
        ]

    return builder.build(compute_metrics)


def _add_references(path: Path, references: Any, instances: Any, builder: SuiteBuilder, splits: dict[int, str]) -> None:
    files = {image["id"]: image["file_name"] for image in instances["images"]}
    objects = {row["id"]: row for row in instances["annotations"]}
    for reference in references:
        split = str(reference["split"])
        if split == "train":
            continue
        row = objects[reference["ann_id"]]
        x, y, width, height = row["bbox"]
        rings = row.get("segmentation")
        for sentence in reference["sentences"]:
            text = str(sentence["sent"])
            samples = [Sample(TASKS[GROUNDING], (Box(label=text, box=(x, y, x + width, y + height)),), text=text)]
            if isinstance(rings, list) and rings:
                samples.append(Sample(TASKS[SEGMENTATION], (Polygon(polygons=rings),), text=text))
            splits |= {id(sample): split for sample in samples}
            builder.add(files[reference["image_id"]], f"{path.name}: reference {reference.get('ref_id')}", samples)


class _PlainUnpickler(pickle.Unpickler):
    """Loads only lists, dictionaries, numbers and strings, which need no class."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it contains {module}.{name}")


def _load_pickle(path: Path) -> Any:
    def load(file: IO[bytes]) -> Any:
        return _PlainUnpickler(file, encoding="utf-8").load()  # REFER's files were written by Python 2

    try:
        with path.open("rb") as file:
            return load(file)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:  # a broken pickle can raise any exception
        raise DatasetError(
            f"{path} is not a pickle of plain data ({error}); others are not loaded since they could run code. If you "
            f"trust it, save it as {path.with_suffix('.json').name}"
        ) from error
