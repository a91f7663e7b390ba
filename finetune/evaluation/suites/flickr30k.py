"""Flickr30k Entities: the boxes of a sentence's phrases (https://github.com/BryanPlummer/flickr30k_entities).

    flickr30k-images/36979.jpg   Sentences/36979.txt   Annotations/36979.xml   test.txt

Any box of a phrase counts as correct. Phrases without boxes are ignored. Without test.txt all images are used.
"""

import re
from collections import defaultdict
from pathlib import Path

from finetune.evaluation.report import EvaluationReport
from finetune.evaluation.suites.suite import Suite, SuiteBuilder, SuiteMetric
from labels.dataset import DatasetError, UnusableEntry
from labels.reading import documents
from labels.reading.documents import Element, find_text
from labels.sample import Sample
from prompts.annotations import Box
from prompts.tasks import TASKS

RECALL = {"base": 83.6, "large": 84.4, "base-ft": 84.0, "large-ft": 85.2}
TOKEN = "<CAPTION_TO_PHRASE_GROUNDING>"
_PHRASE = re.compile(r"\[/EN#(\d+)\S*\s+([^\]]+)\]")


def read_suite(folder: Path) -> Suite:
    """Reads a folder in this layout. Raises DatasetError."""
    sentences, test_list = sorted((folder / "Sentences").glob("*.txt")), folder / "test.txt"
    if not sentences or not (folder / "Annotations").is_dir():
        raise DatasetError(f"{folder} has no Sentences/*.txt and Annotations/*.xml, the layout of Flickr30k Entities")
    try:
        test_images = set(test_list.read_text(encoding="utf-8").split()) if test_list.is_file() else None
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{test_list} cannot be read: {error}") from error
    builder = SuiteBuilder([folder / "flickr30k-images", folder / "flickr30k_images", folder / "images", folder])
    for path in sentences:
        if test_images is None or path.stem in test_images:
            source = f"{path.parent.name}/{path.name}"
            try:
                boxes = _read_boxes(documents.load_xml(folder / "Annotations" / f"{path.stem}.xml"))
                lines = path.read_text("utf-8").splitlines()
                samples = [sample for line in lines if (sample := _make_sample(line, boxes))]
            except (DatasetError, OSError, ValueError) as error:
                builder.unusable.append(UnusableEntry(source, str(error)))
                continue
            builder.add(f"{path.stem}.jpg", source, samples)

    def compute_metrics(report: EvaluationReport) -> list[SuiteMetric]:
        task = report.tasks.get(TOKEN)
        return [SuiteMetric(TOKEN, "R@1", 100 * task.metrics["R@1"], RECALL)] if task else []

    return builder.build(compute_metrics)


def _make_sample(line: str, boxes: dict[str, list[tuple[float, float, float, float]]]) -> Sample | None:
    answer = [
        Box(label=phrase.strip(), box=box) for chain, phrase in _PHRASE.findall(line) for box in boxes.get(chain, ())
    ]
    text = " ".join(_PHRASE.sub(r"\2", line).split())
    return Sample(TASKS[TOKEN], tuple(answer), text=text) if answer else None


def _read_boxes(root: Element) -> dict[str, list[tuple[float, float, float, float]]]:
    """Returns the boxes of each chain of phrases, by its number; a box can belong to several chains."""
    boxes = defaultdict(list)
    for entity in root.iterfind("object"):
        if (bounds := entity.find("bndbox")) is None:
            continue
        x1, y1, x2, y2 = (float(find_text(bounds, side) or "nan") for side in ("xmin", "ymin", "xmax", "ymax"))
        if not (x1 < x2 and y1 < y2):
            raise ValueError(f"line {entity.sourceline}: the box has no area")
        for name in entity.iterfind("name"):
            boxes[(name.text or "").strip()].append((x1, y1, x2, y2))
    return boxes
