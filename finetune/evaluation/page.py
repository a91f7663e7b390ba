"""A report on one page: what a person would have to correct, of which kind and class, and the worst pictures."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from finetune.evaluation.corrections import Correction, Kind, corrections, labels
from finetune.evaluation.predictions import Answered
from finetune.evaluation.reliability import ece, reliability
from finetune.evaluation.report import Marks, Report
from finetune.evaluation.suites import COLUMNS, Row
from labels import drawing
from labels.images import ImageError
from prompts.annotations import Annotation, Box, Text
from server.jobs.summary.summary import environment, whole

_SIDE = 360  # pixels of the longer side of a picture
_SHOWN, _LEAST = 48, 4  # worst pictures in all, and of each task
_LINES, _CLASSES = 6, 12


@dataclass(frozen=True, slots=True)
class Card:
    """A question's truth beside its answer, as data URLs, and what must be done. `trouble`: why none can be shown."""

    name: str
    asked: str
    true: str
    found: str
    todo: Sequence[str]
    more: int
    trouble: str = ""


def write(path: Path, report: Report, dataset: str, beside: Sequence[Row] = ()) -> None:
    """Writes the page to `path`, whole or not at all: HTML that needs no other file and no script.

    `dataset`: what it is called; `beside`: a suite's figures. Raises OSError where `path` cannot be written.
    """
    most = max(_LEAST, _SHOWN // max(1, len(report.tasks)))
    content = {
        "report": report,
        "dataset": dataset,
        "beside": beside,
        "columns": COLUMNS,
        "kinds": list(Kind),
        "sections": [(marks, _worst(marks, most)) for marks in report.tasks.values()],
        "most_classes": _CLASSES,
        "reliability": reliability,
        "ece": ece,
    }
    with whole(path) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(_page().generate(content))


@cache
def _page() -> Any:
    pages = environment(("finetune.evaluation", "template"))
    pages.filters |= {"field": lambda kind: kind.replace(" ", "_")}
    return pages.get_template("evaluation.html")


def _worst(marks: Marks, most: int) -> list[Card]:
    """The questions with most to correct, of equals those with fewer labels first."""
    ranked = []
    for i, one in enumerate(marks.answers):
        if todo := corrections(one.found, one.question.answer, marks.task):
            ranked.append((-len(todo), labels(one.question.answer, marks.task), i, todo))
    return [_card(marks.answers[i], todo) for _, _, i, todo in sorted(ranked, key=lambda row: row[:3])[:most]]


def _card(one: Answered, todo: Sequence[Correction]) -> Card:
    said = [_said(correction) for correction in todo]
    asked = one.question.text or ""
    true = found = trouble = ""
    try:
        image = one.example.open()
    except (OSError, ImageError) as error:
        trouble = str(error)
    else:
        region = [Box(label="asked about", box=one.question.region)] if one.question.region else []
        # A picture's alternatives would fill the page, and one is as true as the others.
        texts = [note for note in one.question.answer if isinstance(note, Text)]
        answer = [note for note in one.question.answer if not isinstance(note, Text)] + texts[:1]
        true, found = (_url(image, [*region, *notes]) for notes in (answer, one.found))
    return Card(one.example.name, asked, true, found, said[:_LINES], max(0, len(said) - _LINES), trouble)


def _said(correction: Correction) -> str:
    found, true = (_short(note.label) if note else "" for note in (correction.found, correction.true))
    match correction.kind:
        case Kind.MISSED:
            return f"missed: {true or 'a thing'}"
        case Kind.MADE_UP:
            return f"made up: {found or 'a thing'}"
        case Kind.WRONG_BOX:
            return f"wrong box: {true or 'a thing'}"
        case _:
            return f"{correction.kind}: {found} → {true}"


def _url(image: Image.Image, notes: Sequence[Annotation]) -> str:
    file = io.BytesIO()
    drawing.draw(image, notes, most=_SIDE).save(file, "WEBP", quality=82)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def _short(words: str) -> str:
    return words if len(words) <= 80 else f"{words[:79]}…"
