"""Outlines: how much of what is marked is right."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from finetune.evaluation.matching import mask
from prompts.annotations import Annotation, Polygon


@dataclass(frozen=True, slots=True)
class Areas:
    """Pixels that two masks share, and that either covers."""

    shared: int
    union: int

    @property
    def iou(self) -> float:
        """1 where both are empty: nothing there, and nothing marked."""
        return self.shared / self.union if self.union else 1.0


def areas(found: Sequence[Annotation], true: Sequence[Annotation], size: tuple[int, int]) -> Areas:
    """All polygons found, as one mask, against all true ones, on a picture of `size` (width, height)."""
    first, second = (
        mask([ring for note in notes if isinstance(note, Polygon) for ring in note.polygons], size)
        for notes in (found, true)
    )
    return Areas(int((first & second).sum()), int((first | second).sum()))


def mean_iou(answers: Iterable[Areas]) -> float:
    """The mean over answers (mIoU of referring segmentation); nan of none."""
    ious = [one.iou for one in answers]
    return sum(ious) / len(ious) if ious else float("nan")


def overall_iou(answers: Iterable[Areas]) -> float:
    """All shared pixels over all covered ones (oIoU, where large things weigh more); nan of none."""
    every = list(answers)
    union = sum(one.union for one in every)
    return sum(one.shared for one in every) / union if union else float("nan")
