"""The metrics of a task's predictions that its field reports."""

import math
from collections.abc import Callable, Sequence

from finetune.evaluation import captions, detection, grounding, segmentation, text_errors
from finetune.evaluation.corrections import (
    READING_TASKS,
    UNLABELED_TASKS,
    CorrectionKind,
    find_corrections,
    mark_correct,
)
from finetune.evaluation.matching import normalize_class
from finetune.evaluation.predictions import Prediction
from finetune.evaluation.reliability import Scores, compute_auroc, compute_ece
from finetune.evaluation.vqa import compute_vqa_accuracy
from prompts.annotations import Annotation
from prompts.tasks import TASKS, AnswerKind, Task

DESCRIPTION_TASKS = ("<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>", "<REGION_TO_DESCRIPTION>")


def compute_metrics(task: Task, predictions: Sequence[Prediction]) -> dict[str, float]:
    """Returns metrics by name. Shares and rates are 0 to 1; undefined metrics are left out."""
    scores = collect_scores(task, predictions)
    metrics = _select_metrics(task)(predictions) | {
        "score AUROC": compute_auroc(scores),
        "score ECE": compute_ece(scores),
    }
    return {name: value for name, value in metrics.items() if not math.isnan(value)}


def collect_scores(task: Task, predictions: Sequence[Prediction]) -> Scores:
    """Returns the score of each predicted annotation, and whether the annotation is correct."""
    return [
        (annotation.score, correct)
        for p in predictions
        for annotation, correct in mark_correct(p.predicted, p.truth, task)
        if annotation.score is not None
    ]


def get_task_order(token: str) -> tuple[int, str]:
    """Returns a sort key: tasks in the order of the task table, others after them."""
    tokens = list(TASKS)
    return (tokens.index(token) if token in tokens else len(tokens), token)


def _select_metrics(task: Task) -> Callable[[Sequence[Prediction]], dict[str, float]]:
    if task.token in UNLABELED_TASKS:
        return _measure_proposals
    if task.token in READING_TASKS:
        return _measure_reading
    if task.token in DESCRIPTION_TASKS:
        return _measure_captions
    if task.token == "<REGION_TO_CATEGORY>":
        return _measure_categories
    by_answer = {
        AnswerKind.BOXES: _measure_objects, AnswerKind.PHRASES: _measure_phrases,
        AnswerKind.BOXES_OR_POLYGONS: _measure_phrases, AnswerKind.QUADS: _measure_words,
        AnswerKind.POLYGONS: _measure_outlines, AnswerKind.TEXT: _measure_vqa,
    }  # fmt: skip
    return by_answer[task.answer_kind]


def _pair(predictions: Sequence[Prediction]) -> list[tuple[Sequence[Annotation], Sequence[Annotation]]]:
    return [(p.predicted, p.truth) for p in predictions]


def _measure_objects(predictions: Sequence[Prediction]) -> dict[str, float]:
    pairs = _pair(predictions)
    precision, counts = detection.compute_average_precision(pairs), detection.count_matches(pairs)
    sizes = {"AP small": precision.small, "AP medium": precision.medium, "AP large": precision.large}
    metrics = {"mAP": precision.ap, "AP50": precision.ap50, "AP75": precision.ap75, **sizes}
    return metrics | {"precision": counts.precision, "recall": counts.recall, "F1": counts.f1}


def _measure_proposals(predictions: Sequence[Prediction]) -> dict[str, float]:
    counts = detection.count_matches(_pair(predictions), labeled=False)
    return {"precision": counts.precision, "recall": counts.recall, "F1": counts.f1}


def _measure_phrases(predictions: Sequence[Prediction]) -> dict[str, float]:
    present = [p for p in predictions if p.truth]
    nothing_found = [not p.predicted for p in predictions if not p.truth]
    hits = [hit for p in present for hit in grounding.find_phrase_hits(p.predicted, p.truth).values()]
    counts = detection.count_matches(_pair(present))
    metrics = {"R@1": _mean(hits), "precision": counts.precision, "recall": counts.recall, "F1": counts.f1}
    return (metrics if present else {}) | {"absent: nothing found": _mean(nothing_found)}


def _measure_outlines(predictions: Sequence[Prediction]) -> dict[str, float]:
    overlaps = [segmentation.measure_overlap(p.predicted, p.truth, p.image.size) for p in predictions]
    above_half = _mean([overlap.iou >= 0.5 for overlap in overlaps])
    mean, overall = segmentation.compute_mean_iou(overlaps), segmentation.compute_overall_iou(overlaps)
    return {"mIoU": mean, "oIoU": overall, "IoU ≥ 0.5": above_half}


def _measure_words(predictions: Sequence[Prediction]) -> dict[str, float]:
    """Words and their places. All characters of missed and false words count as edits."""
    correct = predicted = true = 0
    edits = text_errors.EditCounts(0, sum(len(word.label) for p in predictions for word in p.truth))
    for p in predictions:
        marks = mark_correct(p.predicted, p.truth)
        correct += sum(ok for _, ok in marks)
        predicted, true = predicted + len(marks), true + len(p.truth)
        for correction in find_corrections(p.predicted, p.truth):
            own, other = (word.label if word else "" for word in (correction.predicted, correction.true))
            if correction.kind is not CorrectionKind.LOCALIZATION_ERROR:
                edits += text_errors.EditCounts(text_errors.count_character_edits(own, other).edits)
    shares = {"precision": correct / predicted if predicted else 1.0, "recall": correct / true if true else 1.0}
    return {**shares, "F1": 2 * correct / (predicted + true) if predicted + true else 1.0, "CER": edits.rate}


def _measure_reading(predictions: Sequence[Prediction]) -> dict[str, float]:
    pairs = [(_join(p.predicted), _join(p.truth)) for p in predictions]
    exact = _mean([own.split() == true.split() for own, true in pairs])
    return {"CER": text_errors.compute_cer(pairs), "WER": text_errors.compute_wer(pairs), "exact": exact}


def _measure_captions(predictions: Sequence[Prediction]) -> dict[str, float]:
    pairs = [(_join(p.predicted), [text.label for text in p.truth]) for p in predictions]
    exact = {"exact": _mean([own in references for own, references in pairs])}
    try:
        return captions.score_captions(pairs) | exact
    except captions.CaptionScorersMissingError:
        return exact


def _measure_categories(predictions: Sequence[Prediction]) -> dict[str, float]:
    correct = [
        normalize_class(_join(p.predicted)) in {normalize_class(text.label) for text in p.truth} for p in predictions
    ]
    return {"accuracy": _mean(correct)}


def _measure_vqa(predictions: Sequence[Prediction]) -> dict[str, float]:
    accuracies = [compute_vqa_accuracy(_join(p.predicted), [text.label for text in p.truth]) for p in predictions]
    return {"accuracy": _mean(accuracies)}


def _join(annotations: Sequence[Annotation]) -> str:
    return "\n".join(annotation.label for annotation in annotations)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
