"""Flickr30k Entities: the places of a sentence's phrases (https://github.com/BryanPlummer/flickr30k_entities).

    flickr30k-images/36979.jpg   Sentences/36979.txt   Annotations/36979.xml   test.txt

Of a phrase any of its boxes will do. Phrases without boxes are not counted. Without test.txt all pictures are asked.
"""

import re
from collections import defaultdict
from pathlib import Path

from finetune.evaluation.report import Report
from finetune.evaluation.suites.suite import Gathering, Row, Suite
from labels.dataset import DatasetError, Unusable
from labels.reading import documents
from labels.reading.documents import Element
from labels.sample import Question
from prompts.annotations import Box
from prompts.tasks import TASKS

RECALL = {"base": 83.6, "large": 84.4, "base-ft": 84.0, "large-ft": 85.2}
TOKEN = "<CAPTION_TO_PHRASE_GROUNDING>"
_PHRASE = re.compile(r"\[/EN#(\d+)\S*\s+([^\]]+)\]")


def read(folder: Path) -> Suite:
    """The suite of a folder of that layout. Raises DatasetError."""
    sentences, listed = sorted((folder / "Sentences").glob("*.txt")), folder / "test.txt"
    if not sentences or not (folder / "Annotations").is_dir():
        raise DatasetError(f"{folder} holds no Sentences/*.txt and Annotations/*.xml, as Flickr30k Entities has them")
    try:
        wanted = set(listed.read_text(encoding="utf-8").split()) if listed.is_file() else None
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{listed} cannot be read: {error}") from error
    gathering = Gathering([folder / "flickr30k-images", folder / "flickr30k_images", folder / "images", folder])
    for path in sentences:
        if wanted is None or path.stem in wanted:
            source = f"{path.parent.name}/{path.name}"
            try:
                boxes = _boxes(documents.load_xml(folder / "Annotations" / f"{path.stem}.xml"))
                questions = [
                    asked for line in path.read_text("utf-8").splitlines() if (asked := _question(line, boxes))
                ]
            except (DatasetError, OSError, ValueError) as error:
                gathering.trouble.append(Unusable(source, str(error)))
                continue
            gathering.add(f"{path.stem}.jpg", source, questions)

    def rows(report: Report) -> list[Row]:
        marks = report.tasks.get(TOKEN)
        return [Row(TOKEN, "R@1", 100 * marks.figures["R@1"], RECALL)] if marks else []

    return gathering.suite(rows)


def _question(line: str, boxes: dict[str, list[tuple[float, float, float, float]]]) -> Question | None:
    answer = [
        Box(label=phrase.strip(), box=box) for chain, phrase in _PHRASE.findall(line) for box in boxes.get(chain, ())
    ]
    text = " ".join(_PHRASE.sub(r"\2", line).split())
    return Question(TASKS[TOKEN], tuple(answer), text=text) if answer else None


def _boxes(root: Element) -> dict[str, list[tuple[float, float, float, float]]]:
    """By the number of the chain of phrases that means them; one box may be meant by several."""
    found = defaultdict(list)
    for thing in root.all("object"):
        if (place := thing.first("bndbox")) is None:
            continue
        x1, y1, x2, y2 = (float(place.value(side) or "nan") for side in ("xmin", "ymin", "xmax", "ymax"))
        if not (x1 < x2 and y1 < y2):
            raise ValueError(f"line {thing.line}: a box of no area")
        for name in thing.all("name"):
            found[name.text.strip()].append((x1, y1, x2, y2))
    return found
