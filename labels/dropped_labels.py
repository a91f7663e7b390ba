"""The labels that a recipe did not keep, counted."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from prompts.text import truncate

OTHER_LABELS = "other labels"
"""Stands for all labels above the limit."""
MAX_LABELS = 10_000  # different labels that a job counts separately: sentences must not fill the memory
_MAX_IMAGE_LABELS, _MAX_CHARACTERS = 50, 80  # different labels of one image; characters of a label


class DropReason(StrEnum):
    """Why labels were dropped."""

    NO_CLASS = "not one of the classes"
    CONTRADICTED = "contradicted by a check"


@dataclass(frozen=True, slots=True)
class DroppedLabel:
    """A label in the model's words, and how many times a step dropped it."""

    step: str
    label: str
    reason: DropReason
    count: int = 1


def count_dropped(dropped: Iterable[DroppedLabel]) -> tuple[DroppedLabel, ...]:
    """Returns the counts of one image. Long labels are cut."""
    short = (
        DroppedLabel(each.step, truncate(" ".join(each.label.split()), _MAX_CHARACTERS), each.reason, each.count)
        for each in dropped
    )
    return merge_dropped(short, _MAX_IMAGE_LABELS)


def merge_dropped(dropped: Iterable[DroppedLabel], limit: int = MAX_LABELS) -> tuple[DroppedLabel, ...]:
    """Adds up equal labels, most frequent first. Further ones after `limit` different labels count as OTHER_LABELS."""
    counts = Counter[tuple[str, str, DropReason]]()
    for each in dropped:
        key = each.step, each.label, each.reason
        if key not in counts and len(counts) >= limit:
            key = each.step, OTHER_LABELS, each.reason
        counts[key] += each.count
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(DroppedLabel(*key, count) for key, count in ranked)
