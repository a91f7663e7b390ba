"""What of a step's findings is kept."""

from collections.abc import Sequence

from server.jobs.recipes.findings import Finding
from server.jobs.recipes.overlaps import suppressed
from server.jobs.recipes.recipe import Filter


def filtered(found: Sequence[Finding], given: Filter, size: tuple[int, int]) -> list[Finding]:
    """What passes, in its order, of a picture of `size` in pixels: by score and shape, then by overlap, then by count.

    Texts have no shape, and pass what asks for one.
    """
    kept = [each for each in found if _sure(each, given) and _fitting(each, given, size)]
    if given.nms is not None:
        kept = suppressed(kept, given.nms)
    if given.duplicates is not None:
        kept = suppressed(kept, given.duplicates, across_labels=True)
    if given.count is not None:
        surest = sorted(range(len(kept)), key=lambda i: -kept[i].score)[: given.count]
        kept = [kept[i] for i in sorted(surest)]
    return kept


def _sure(found: Finding, given: Filter) -> bool:
    return given.score is None or found.score >= given.score


def _fitting(found: Finding, given: Filter, size: tuple[int, int]) -> bool:
    box = found.box
    if box is None:
        return True
    width, height = box[2] - box[0], box[3] - box[1]
    across, down = width / size[0], height / size[1]
    short, long = sorted((width, height))
    return (
        _between(min(across, down), given.min_side, None)
        and _between(max(across, down), None, given.max_side)
        and _between(width * height / (size[0] * size[1]), given.min_area, given.max_area)
        and (given.max_aspect is None or long <= given.max_aspect * short)
    )


def _between(value: float, least: float | None, most: float | None) -> bool:
    return (least is None or value >= least) and (most is None or value <= most)
