"""The HTML page of an evaluation: corrections by kind and class, and the worst predictions beside the truth."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from finetune.evaluation.corrections import CorrectionKind, RequiredCorrection, count_labels, find_corrections
from finetune.evaluation.predictions import Prediction
from finetune.evaluation.reliability import bin_scores, compute_ece
from finetune.evaluation.report import EvaluationReport, TaskReport
from finetune.evaluation.suites import CHECKPOINTS, SuiteMetric
from labels import drawing
from labels.html_pages import create_environment, replace_when_complete
from labels.images import ImageError
from prompts.annotations import Annotation, Box, Text
from prompts.text import truncate

_IMAGE_SIDE = 360  # pixels of the longer side of an image
_MAX_CARDS, _MIN_CARDS_PER_TASK = 48, 4
_MAX_LINES, _MAX_CLASSES = 6, 12


@dataclass(frozen=True, slots=True)
class PredictionCard:
    """A prediction beside the truth, both as data URLs, and the corrections it needs.

    `error`: why the image cannot be shown.
    """

    name: str
    text: str
    true: str
    predicted: str
    corrections: Sequence[str]
    more: int
    error: str = ""


def write_page(path: Path, report: EvaluationReport, dataset: str, published: Sequence[SuiteMetric] = ()) -> None:
    """Writes the page to `path`, completely or not at all: HTML without scripts or other files.

    `dataset`: its name; `published`: the metrics of a suite. Raises OSError if `path` cannot be written.
    """
    most = max(_MIN_CARDS_PER_TASK, _MAX_CARDS // max(1, len(report.tasks)))
    content = {
        "report": report,
        "dataset": dataset,
        "published": published,
        "checkpoints": CHECKPOINTS,
        "kinds": list(CorrectionKind),
        "sections": [(task, _select_worst(task, most)) for task in report.tasks.values()],
        "most_classes": _MAX_CLASSES,
        "bin_scores": bin_scores,
        "ece": compute_ece,
    }
    with replace_when_complete(path) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(_load_template().generate(content))


@cache
def _load_template() -> Any:
    environment = create_environment("finetune.evaluation", "template")
    environment.filters |= {"field": lambda kind: kind.replace(" ", "_")}
    return environment.get_template("evaluation.html")


def _select_worst(task: TaskReport, most: int) -> list[PredictionCard]:
    """Returns the predictions with the most corrections; among equals those with fewer labels first."""
    ranked = []
    for i, p in enumerate(task.predictions):
        if corrections := find_corrections(p.predicted, p.truth, task.task):
            ranked.append((-len(corrections), count_labels(p.truth, task.task), i, corrections))
    worst = sorted(ranked, key=lambda row: row[:3])[:most]
    return [_make_card(task.predictions[i], corrections) for _, _, i, corrections in worst]


def _make_card(prediction: Prediction, corrections: Sequence[RequiredCorrection]) -> PredictionCard:
    lines = [_describe(correction) for correction in corrections]
    true = predicted = error = ""
    try:
        image = prediction.image.open()
    except (OSError, ImageError) as failure:
        error = str(failure)
    else:
        region = prediction.sample.region
        boxes = [Box(label="region", box=region)] if region else []
        # Alternative texts would fill the page; one is enough.
        texts = [annotation for annotation in prediction.truth if isinstance(annotation, Text)]
        truth = [annotation for annotation in prediction.truth if not isinstance(annotation, Text)] + texts[:1]
        true, predicted = (_draw_url(image, [*boxes, *shapes]) for shapes in (truth, prediction.predicted))
    shown, more = lines[:_MAX_LINES], max(0, len(lines) - _MAX_LINES)
    return PredictionCard(prediction.image.name, prediction.sample.text or "", true, predicted, shown, more, error)


def _describe(correction: RequiredCorrection) -> str:
    own, true = (truncate(a.label, 80) if a else "" for a in (correction.predicted, correction.true))
    match correction.kind:
        case CorrectionKind.MISSED | CorrectionKind.LOCALIZATION_ERROR:
            return f"{correction.kind}: {true or 'an object'}"
        case CorrectionKind.FALSE_POSITIVE:
            return f"{correction.kind}: {own or 'an object'}"
        case _:
            return f"{correction.kind}: {own} → {true}"


def _draw_url(image: Image.Image, annotations: Sequence[Annotation]) -> str:
    file = io.BytesIO()
    drawing.draw_annotations(image, annotations, max_side=_IMAGE_SIDE).save(file, "WEBP", quality=82)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
