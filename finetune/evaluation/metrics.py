"""The figures of a task's answers: those that its field reports."""

import math
from collections.abc import Callable, Sequence

from finetune.evaluation import captions, detection, grounding, segmentation, text_errors, vqa
from finetune.evaluation.corrections import NAMELESS, READING, Kind, corrections, judged
from finetune.evaluation.matching import named
from finetune.evaluation.predictions import Answered
from finetune.evaluation.reliability import Scores, auroc, ece
from prompts.annotations import Annotation
from prompts.tasks import TASKS, Gives, Task

CAPTIONS = ("<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>", "<REGION_TO_DESCRIPTION>")


def figures(task: Task, answers: Sequence[Answered]) -> dict[str, float]:
    """Each figure by its name, those that cannot be told left out; shares and rates from 0 to 1."""
    scored = scores(task, answers)
    found = _measure(task)(answers) | {"score AUROC": auroc(scored), "score ECE": ece(scored)}
    return {name: value for name, value in found.items() if not math.isnan(value)}


def scores(task: Task, answers: Sequence[Answered]) -> Scores:
    """Each answer's score, and whether it stays as it is."""
    return [
        (note.score, right)
        for one in answers
        for note, right in judged(one.found, one.question.answer, task)
        if note.score is not None
    ]


def _measure(task: Task) -> Callable[[Sequence[Answered]], dict[str, float]]:
    if task.token in NAMELESS:
        return _proposals
    if task.token in READING:
        return _read
    if task.token in CAPTIONS:
        return _captions
    if task.token == "<REGION_TO_CATEGORY>":
        return _categories
    by_answer = {
        Gives.BOXES: _objects, Gives.PHRASES: _phrases, Gives.ANY: _phrases, Gives.QUADS: _words,
        Gives.POLYGONS: _outlines, Gives.TEXT: _replies,
    }  # fmt: skip
    return by_answer[task.gives]


def _pairs(answers: Sequence[Answered]) -> list[tuple[Sequence[Annotation], Sequence[Annotation]]]:
    return [(one.found, one.question.answer) for one in answers]


def _objects(answers: Sequence[Answered]) -> dict[str, float]:
    precision, counts = detection.average_precision(_pairs(answers)), detection.overall(_pairs(answers))
    sizes = {"AP small": precision.small, "AP medium": precision.medium, "AP large": precision.large}
    found = {"mAP": precision.ap, "AP50": precision.ap50, "AP75": precision.ap75, **sizes}
    return found | {"precision": counts.precision, "recall": counts.recall, "F1": counts.f1}


def _proposals(answers: Sequence[Answered]) -> dict[str, float]:
    counts = detection.overall(_pairs(answers), classes=False)
    return {"precision": counts.precision, "recall": counts.recall, "F1": counts.f1}


def _phrases(answers: Sequence[Answered]) -> dict[str, float]:
    there = [one for one in answers if one.question.answer]
    absent = [not one.found for one in answers if not one.question.answer]
    hits = [hit for one in there for hit in grounding.phrase_hits(one.found, one.question.answer).values()]
    counts = detection.overall(_pairs(there))
    found = {"R@1": _mean(hits), "precision": counts.precision, "recall": counts.recall, "F1": counts.f1}
    return (found if there else {}) | {"absent: nothing found": _mean(absent)}


def _outlines(answers: Sequence[Answered]) -> dict[str, float]:
    areas = [segmentation.areas(one.found, one.question.answer, one.example.size) for one in answers]
    halves = _mean([one.iou >= 0.5 for one in areas])
    return {"mIoU": segmentation.mean_iou(areas), "oIoU": segmentation.overall_iou(areas), "IoU ≥ 0.5": halves}


def _words(answers: Sequence[Answered]) -> dict[str, float]:
    """Places and words together; letters of what is misread, and all of what is missed or made up, are errors."""
    right = found = there = 0
    errors = text_errors.Errors(0, sum(len(note.label) for one in answers for note in one.question.answer))
    for one in answers:
        verdicts = judged(one.found, one.question.answer)
        right += sum(ok for _, ok in verdicts)
        found, there = found + len(verdicts), there + len(one.question.answer)
        for todo in corrections(one.found, one.question.answer):
            said, true = (note.label if note else "" for note in (todo.found, todo.true))
            if todo.kind is not Kind.WRONG_BOX:
                errors += text_errors.Errors(text_errors.letters(said, true).edits)
    shares = {"precision": right / found if found else 1.0, "recall": right / there if there else 1.0}
    return {**shares, "F1": 2 * right / (found + there) if found + there else 1.0, "CER": errors.rate}


def _read(answers: Sequence[Answered]) -> dict[str, float]:
    pairs = [(_said(one.found), _said(one.question.answer)) for one in answers]
    exact = _mean([said.split() == true.split() for said, true in pairs])
    return {"CER": text_errors.cer(pairs), "WER": text_errors.wer(pairs), "exact": exact}


def _captions(answers: Sequence[Answered]) -> dict[str, float]:
    pairs = [(_said(one.found), [note.label for note in one.question.answer]) for one in answers]
    exact = {"exact": _mean([said in true for said, true in pairs])}
    try:
        return captions.scores(pairs) | exact
    except captions.NoScores:
        return exact


def _categories(answers: Sequence[Answered]) -> dict[str, float]:
    right = [named(_said(one.found)) in {named(note.label) for note in one.question.answer} for one in answers]
    return {"accuracy": _mean(right)}


def _replies(answers: Sequence[Answered]) -> dict[str, float]:
    each = [vqa.accuracy(_said(one.found), [note.label for note in one.question.answer]) for one in answers]
    return {"accuracy": _mean(each)}


def _said(notes: Sequence[Annotation]) -> str:
    return "\n".join(note.label for note in notes)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def order(token: str) -> tuple[int, str]:
    """Tasks as the table has them, others after."""
    tokens = list(TASKS)
    return (tokens.index(token) if token in tokens else len(tokens), token)
