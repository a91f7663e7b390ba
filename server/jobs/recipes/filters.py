"""The filter of a step."""

from collections.abc import Sequence

from server.jobs.recipes.findings import Finding
from server.jobs.recipes.overlaps import suppress_overlaps
from server.jobs.recipes.recipe import AnnotationFilter


def filter_findings(findings: Sequence[Finding], limits: AnnotationFilter, size: tuple[int, int]) -> list[Finding]:
    """Returns the findings that pass, in order: by score and shape, then by overlap, then by count.

    `size` is that of the image (width, height) in pixels. Texts have no shape, and pass the limits on shapes.
    """
    kept = [each for each in findings if _passes_score(each, limits) and _passes_shape(each, limits, size)]
    if limits.nms is not None:
        kept = suppress_overlaps(kept, limits.nms)
    if limits.class_agnostic_nms is not None:
        kept = suppress_overlaps(kept, limits.class_agnostic_nms, class_agnostic=True)
    if limits.max_count is not None:
        best = sorted(range(len(kept)), key=lambda i: -kept[i].score)[: limits.max_count]
        kept = [kept[i] for i in sorted(best)]
    return kept


def _passes_score(finding: Finding, limits: AnnotationFilter) -> bool:
    return limits.min_score is None or finding.score >= limits.min_score


def _passes_shape(finding: Finding, limits: AnnotationFilter, size: tuple[int, int]) -> bool:
    box = finding.box
    if box is None:
        return True
    width, height = box[2] - box[0], box[3] - box[1]
    relative_width, relative_height = width / size[0], height / size[1]
    short, long = sorted((width, height))
    return (
        _is_between(min(relative_width, relative_height), limits.min_side, None)
        and _is_between(max(relative_width, relative_height), None, limits.max_side)
        and _is_between(width * height / (size[0] * size[1]), limits.min_area, limits.max_area)
        and (limits.max_aspect is None or long <= limits.max_aspect * short)
    )


def _is_between(value: float, least: float | None, most: float | None) -> bool:
    return (least is None or value >= least) and (most is None or value <= most)
