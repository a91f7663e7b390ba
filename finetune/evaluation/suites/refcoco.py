"""RefCOCO, RefCOCO+ and RefCOCOg: the thing that a sentence means, as box and as outline, in the layout of the REFER
toolbox (https://github.com/lichengunc/refer).

    refs(unc).p   instances.json   and COCO's pictures in train2014/, images/ or ../images/mscoco/images/train2014/

`refs(unc).p` is a pickle, which can run anybody's code when it is read: here it is read as plain data, and one that
holds anything else is refused. The same as `refs(unc).json` will do. All splits but train are asked; the figures
published here are RefCOCO's own.
"""

import pickle
from collections import defaultdict
from pathlib import Path
from typing import IO, Any

from finetune.evaluation.grounding import hit
from finetune.evaluation.report import Report
from finetune.evaluation.segmentation import areas, mean_iou
from finetune.evaluation.suites.suite import Gathering, Row, Suite, only
from labels.dataset import DatasetError
from labels.reading import documents
from labels.sample import Question
from prompts.annotations import Box, Polygon
from prompts.tasks import TASKS

GROUNDING, OUTLINE = "<CAPTION_TO_PHRASE_GROUNDING>", "<REFERRING_EXPRESSION_SEGMENTATION>"
ACCURACY = {
    "val": {"base": 53.9, "large": 56.3, "base-ft": 92.6, "large-ft": 93.4},
    "testA": {"base": 58.4, "large": 61.6, "base-ft": 94.8, "large-ft": 95.3},
    "testB": {"base": 49.7, "large": 51.4, "base-ft": 91.5, "large-ft": 92.0},
}
MEAN_IOU = {"val": {"base": 34.6, "large": 35.8, "base-ft": 78.0, "large-ft": 80.5}}


def read(folder: Path) -> Suite:
    """The suite of a folder of that layout. Raises DatasetError."""
    path = only(folder, "refs(*).json", "refs*.json", "refs(*).p", needs="it is a part of RefCOCO as REFER has it")
    references = documents.load(path) if path.suffix == ".json" else _plain(path)
    instances = documents.load(only(folder, "instances.json", needs="it lies beside the references"))
    above = folder.parent / "images/mscoco/images/train2014"
    gathering = Gathering([folder / "train2014", folder / "images" / "train2014", folder / "images", above, folder])
    splits: dict[int, str] = {}  # by what tells a question apart from every other while the suite lives
    try:
        _read(path, references, instances, gathering, splits)
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{path} and instances.json are not as REFER has them: {error!r}") from error

    def rows(report: Report) -> list[Row]:
        hits, outlines = defaultdict(list), defaultdict(list)
        for marks in report.tasks.values():
            for one in marks.answers:
                split = splits[id(one.question)]
                if marks.task.token == OUTLINE:
                    outlines[split].append(areas(one.found, one.question.answer, one.example.size))
                else:
                    hits[split].append(hit(one.found, one.question.answer))
        own = "refcoco+" not in folder.name and "refcocog" not in folder.name
        found = [
            Row(
                GROUNDING,
                f"accuracy at 0.5, {split}",
                100 * sum(right) / len(right),
                ACCURACY.get(split, {}) if own else {},
            )
            for split, right in sorted(hits.items())
        ]
        return found + [
            Row(OUTLINE, f"mIoU, {split}", 100 * mean_iou(each), MEAN_IOU.get(split, {}) if own else {})
            for split, each in sorted(outlines.items())
        ]

    return gathering.suite(rows)


def _read(path: Path, references: Any, instances: Any, gathering: Gathering, splits: dict[int, str]) -> None:
    files = {image["id"]: image["file_name"] for image in instances["images"]}
    notes = {note["id"]: note for note in instances["annotations"]}
    for reference in references:
        split = str(reference["split"])
        if split == "train":
            continue
        note = notes[reference["ann_id"]]
        x, y, width, height = note["bbox"]
        rings = note.get("segmentation")
        for sentence in reference["sentences"]:
            said = str(sentence["sent"])
            asked = [Question(TASKS[GROUNDING], (Box(label=said, box=(x, y, x + width, y + height)),), text=said)]
            if isinstance(rings, list) and rings:
                asked.append(Question(TASKS[OUTLINE], (Polygon(polygons=rings),), text=said))
            splits |= {id(question): split for question in asked}
            gathering.add(files[reference["image_id"]], f"{path.name}: reference {reference.get('ref_id')}", asked)


class _Plain(pickle.Unpickler):
    """Lists, dictionaries, numbers and words need no class to be looked up, and nothing else is."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it holds a {module}.{name}")


def _plain(path: Path) -> Any:
    def load(file: IO[bytes]) -> Any:
        return _Plain(file, encoding="utf-8").load()  # REFER's are of Python 2

    try:
        with path.open("rb") as file:
            return load(file)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:  # a broken pickle raises anything
        raise DatasetError(
            f"{path} is no pickle of plain data ({error}), and no other is read, since it could run code: save it as "
            f"{path.with_suffix('.json').name} where you trust it"
        ) from error
