"""COCO: detection and captions, as they lie on disk after unpacking (https://cocodataset.org/#download).

    val2017/000000000139.jpg …   annotations/instances_val2017.json   annotations/captions_val2017.json

Either file of annotations will do. mAP is reckoned from the file itself, crowds and areas of masks included. The
authors' caption figure is of Karpathy's test split, which is drawn from val2014.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

from finetune.evaluation.detection import coco_precision
from finetune.evaluation.matching import named
from finetune.evaluation.report import Marks, Report
from finetune.evaluation.suites.suite import Gathering, Row, Suite
from labels.dataset import DatasetError
from labels.reading import documents
from labels.sample import Question
from prompts.annotations import Box, Text
from prompts.tasks import TASKS

DETECTION = {"base": 34.7, "large": 37.5, "base-ft": 41.4, "large-ft": 43.4}
CAPTIONS = {"base": 133.0, "large": 135.6, "base-ft": 140.0, "large-ft": 143.3}


def read(folder: Path) -> Suite:
    """The suite of a folder of that layout. Raises DatasetError."""
    instances, captions = (_file(folder, kind) for kind in ("instances", "captions"))
    either = instances or captions
    if not either:
        raise DatasetError(f"{folder} holds no annotations/instances_val2017.json and no captions_val2017.json")
    split = either[0].stem.rpartition("_")[2]
    gathering = Gathering([folder / split, folder / "images" / split, folder / "images", folder])
    numbers: dict[str, int] = {}
    try:
        if instances:
            _detection(*instances, gathering, numbers)
        if captions:
            _captions(*captions, gathering)
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{folder / 'annotations'} is not as COCO has it: {error!r}") from error

    def rows(report: Report) -> list[Row]:
        made = []
        if instances and (marks := report.tasks.get("<OD>")):
            made.append(Row("<OD>", "mAP", 100 * _precision(instances[1], marks, numbers), DETECTION))
        if captions and (marks := report.tasks.get("<CAPTION>")) and "CIDEr" in marks.figures:
            made.append(Row("<CAPTION>", "CIDEr", 100 * marks.figures["CIDEr"], CAPTIONS))
        return made

    return gathering.suite(rows)


def _file(folder: Path, kind: str) -> tuple[Path, dict[str, Any]] | None:
    for name in (f"{kind}_val2017.json", f"{kind}_val2014.json", f"{kind}_*.json"):
        if files := sorted((folder / "annotations").glob(name)):
            content = documents.load(files[0])
            if not isinstance(content, dict) or not all(
                isinstance(content.get(k), list) for k in ("images", "annotations")
            ):
                raise DatasetError(f"{files[0]} is no COCO file: it needs the lists images and annotations")
            return files[0], content
    return None


def _detection(path: Path, content: dict[str, Any], gathering: Gathering, numbers: dict[str, int]) -> None:
    names = {row["id"]: row["name"] for row in content["categories"]}
    boxes = defaultdict(list)
    for row in content["annotations"]:
        if not row.get("iscrowd"):
            x, y, width, height = row["bbox"]
            boxes[row["image_id"]].append(Box(label=names[row["category_id"]], box=(x, y, x + width, y + height)))
    for image in content["images"]:
        numbers[image["file_name"]] = image["id"]
        gathering.add(image["file_name"], path.name, [Question(TASKS["<OD>"], tuple(boxes[image["id"]]))])


def _captions(path: Path, content: dict[str, Any], gathering: Gathering) -> None:
    said = defaultdict(list)
    for row in content["annotations"]:
        said[row["image_id"]].append(Text(label=" ".join(row["caption"].split())))
    for image in content["images"]:
        if texts := said[image["id"]]:
            gathering.add(image["file_name"], path.name, [Question(TASKS["<CAPTION>"], tuple(texts))])


def _precision(content: dict[str, Any], marks: Marks, numbers: dict[str, int]) -> float:
    """Over the pictures that were asked: those that are missing on disk are nobody's fault."""
    ids = {named(row["name"]): row["id"] for row in content["categories"]}
    asked = {numbers[one.example.name] for one in marks.answers}
    results = []
    for one in marks.answers:
        for note in one.found:
            if isinstance(note, Box) and (category := ids.get(named(note.label))) is not None:
                x1, y1, x2, y2 = note.box
                where = {"image_id": numbers[one.example.name], "bbox": [x1, y1, x2 - x1, y2 - y1]}
                results.append({**where, "category_id": category, "score": note.score or 1.0})
    truth = {
        "images": [row for row in content["images"] if row["id"] in asked],
        "annotations": [row for row in content["annotations"] if row["image_id"] in asked],
        "categories": content["categories"],
    }
    return coco_precision(truth, results).ap
