"""Which labels of a recipe a person should check: by their scores, and by the labels that they depend on."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from labels.label_kind import LabelKind
from labels.labeled_image import TracedAnnotation
from prompts.tasks import AnswerKind
from server.jobs.recipes.recipe import CATEGORY, ONTOLOGY, Recipe, RecipeStep
from server.jobs.recipes.validation import INHERITS_LABELS, uses_ontology

PARENT_REASON = "its parent annotation needs review"
_SCORE_REASON = re.compile(r"score [\d.]+ is below [\d.]+")
_SEPARATOR = "; "  # of the reasons in `TracedAnnotation.review`
WORD_TASKS = ("<OCR>", "<OCR_WITH_REGION>", "<REGION_TO_OCR>")
_REGION_TEXTS = "<DENSE_REGION_CAPTION>"


def get_step_kind(recipe: Recipe, step: RecipeStep) -> LabelKind:
    """Returns what the labels of a step are: classes of objects, words that are read, or free text.

    Free text about a region is no class: descriptions of regions, and phrases of a caption. An ontology makes classes
    of them.
    """
    task = step.task_definition
    if task.token in WORD_TASKS or task.answer_kind is AnswerKind.QUADS:
        return LabelKind.WORDS
    if recipe.ontology and uses_ontology(step):
        return LabelKind.OBJECTS
    labeled_by = step.for_each if step.task == INHERITS_LABELS else step.reference
    if labeled_by not in (None, ONTOLOGY):
        return get_step_kind(recipe, recipe.get_step(labeled_by or ""))
    is_free = task.answer_kind is AnswerKind.TEXT and step.task != CATEGORY
    return LabelKind.CAPTIONS if is_free or step.task == _REGION_TEXTS else LabelKind.OBJECTS


def get_review_threshold(recipe: Recipe, step: RecipeStep) -> float:
    """Returns the score below which labels of a step are to review; 0 if scores are not reviewed."""
    if step.review_below is not None:
        return step.review_below
    return recipe.review_below.get(get_step_kind(recipe, step)) if recipe.review_below else 0.0


def describe_low_score(score: float | None, threshold: float) -> str:
    """Returns why a label with this score is to review; empty if it is not."""
    return f"score {score:.2f} is below {threshold:g}" if score is not None and score < threshold else ""


def differs_only_in_review(old: Recipe, new: Recipe) -> bool:
    """Returns whether two recipes lead to the same labels, and only their review thresholds differ."""
    return _without_review(old) == _without_review(new)


def _without_review(recipe: Recipe) -> dict[str, Any]:
    normal = recipe.normalize()
    for part in (normal, *normal["steps"]):
        part.pop("review_below", None)
    return normal


def is_low_score(review: str) -> bool:
    """Returns whether a low score is one of the reasons in `TracedAnnotation.review`."""
    return any(_SCORE_REASON.fullmatch(reason) for reason in review.split(_SEPARATOR))


def review_again(recipe: Recipe, traces: Sequence[TracedAnnotation]) -> list[TracedAnnotation]:
    """Returns the labels of an image with the review thresholds of `recipe`, whatever thresholds they had before.

    Other reasons for review stay. No model is asked.
    """
    steps = {step.id: step for step in recipe.steps}
    reviewed: list[TracedAnnotation] = []
    for trace in traces:
        if (step := steps.get(trace.step)) is None:
            reviewed.append(trace)
            continue
        reasons = [reason for reason in trace.review.split(_SEPARATOR) if not _SCORE_REASON.fullmatch(reason)]
        parent = reviewed[trace.parent] if trace.parent is not None and trace.parent < len(reviewed) else None
        if parent is not None and parent.step == step.for_each:  # not if the parent is of a step that is not kept
            reasons = [reason for reason in reasons if reason != PARENT_REASON]
            if parent.review and follows_parent(recipe, step):
                reasons.insert(0, PARENT_REASON)
        reasons.append(describe_low_score(trace.annotation.score, get_review_threshold(recipe, step)))
        reviewed.append(replace(trace, review=_SEPARATOR.join(filter(None, reasons))))
    return reviewed


def follows_parent(recipe: Recipe, step: RecipeStep) -> bool:
    """Returns whether labels of a step are to review if the regions that they are about are. Captions are not."""
    return get_step_kind(recipe, step) is not LabelKind.CAPTIONS or get_review_threshold(recipe, step) > 0
