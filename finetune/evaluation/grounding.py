"""Metrics of phrase grounding: whether the most certain box of a phrase is correct."""

from collections.abc import Sequence

from finetune.evaluation.corrections import CORRECT_IOU
from finetune.evaluation.matching import annotation_iou, normalize_class
from labels.geometry import bounding_box_or_none
from prompts.annotations import Annotation


def is_hit(predicted: Sequence[Annotation], truth: Sequence[Annotation]) -> bool:
    """Returns whether the shape with the highest score (the first of equals) has an IoU of 0.5 or more with a true one.

    This is RefCOCO's accuracy at 0.5 (Yu et al. 2016), and the recall at 1 of Flickr30k Entities if any box of a phrase
    counts.
    """
    shapes = [annotation for annotation in predicted if bounding_box_or_none(annotation)]
    if not shapes:
        return False
    best = max(shapes, key=lambda shape: shape.score or 0.0)
    return any(annotation_iou(best, shape) >= CORRECT_IOU for shape in truth)


def find_phrase_hits(predicted: Sequence[Annotation], truth: Sequence[Annotation]) -> dict[str, bool]:
    """Returns `is_hit` for each phrase of the truth."""

    def select(annotations: Sequence[Annotation], phrase: str) -> list[Annotation]:
        return [annotation for annotation in annotations if normalize_class(annotation.label) == phrase]

    phrases = dict.fromkeys(normalize_class(annotation.label) for annotation in truth)
    return {phrase: is_hit(select(predicted, phrase), select(truth, phrase)) for phrase in phrases}
