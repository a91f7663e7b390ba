"""Metrics of segmentation: mean and overall intersection over union."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from finetune.evaluation.matching import rasterize
from prompts.annotations import Annotation, Polygon


@dataclass(frozen=True, slots=True)
class MaskOverlap:
    """The numbers of pixels in the intersection and in the union of two masks."""

    intersection: int
    union: int

    @property
    def iou(self) -> float:
        """Intersection over union; 1 if both masks are empty."""
        return self.intersection / self.union if self.union else 1.0


def measure_overlap(predicted: Sequence[Annotation], truth: Sequence[Annotation], size: tuple[int, int]) -> MaskOverlap:
    """Compares all predicted polygons, as one mask, with all true ones, on an image of `size` (width, height)."""
    first, second = (
        rasterize([ring for shape in shapes if isinstance(shape, Polygon) for ring in shape.polygons], size)
        for shapes in (predicted, truth)
    )
    return MaskOverlap(int((first & second).sum()), int((first | second).sum()))


def compute_mean_iou(overlaps: Iterable[MaskOverlap]) -> float:
    """Returns the mean IoU (mIoU of referring segmentation); nan if there is nothing to average."""
    ious = [overlap.iou for overlap in overlaps]
    return sum(ious) / len(ious) if ious else float("nan")


def compute_overall_iou(overlaps: Iterable[MaskOverlap]) -> float:
    """Returns all intersections divided by all unions (oIoU): large objects weigh more; nan if all masks are empty."""
    overlaps = list(overlaps)
    union = sum(overlap.union for overlap in overlaps)
    return sum(overlap.intersection for overlap in overlaps) / union if union else float("nan")
