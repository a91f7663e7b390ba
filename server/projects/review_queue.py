"""Which pictures of a job a person should correct next (`finetune.active_learning`)."""

import heapq
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from finetune.active_learning import doubt, select
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage
from prompts.annotations import Annotation
from prompts.tasks import TASKS, Gives, Takes
from server.projects.annotation_validation import kind_of

_KEPT = 1000  # pictures


@dataclass(frozen=True, slots=True)
class ReviewCandidate:
    """A picture at its place in the job's source; `doubt`: how many of its labels are expected to be wrong."""

    position: int
    picture: LabeledImage
    doubt: float


def candidates(
    pictures: Iterable[tuple[int, LabeledImage]], corrected: Collection[str], known: Iterable[str], tasks: Sequence[str],
    count: int,
) -> tuple[list[ReviewCandidate], int]:  # fmt: skip
    """Of a job's pictures that are not `corrected` (by SHA-256) `count` to look at, the best first; and how many there
    are. `known`: the names of the labels that are corrected. A picture that is there twice counts once. Labels of kinds
    that no task of `tasks` is learned from raise no doubt. Chosen among the _KEPT of the most doubt (or a few times
    `count`), which alone are in memory."""
    kinds, seen = {_learned_from(task) for task in tasks}, set(corrected)

    def taught(picture: LabeledImage) -> list[Annotation]:
        own = [label.annotation for label in picture.labels if label.parent is None]
        return [note for note in own if kind_of(note) in kinds]

    def found() -> Iterator[ReviewCandidate]:
        for position, picture in pictures:
            if picture.sha256 not in seen:
                seen.add(picture.sha256)
                yield ReviewCandidate(position, picture, doubt(taught(picture)))

    kept = heapq.nsmallest(max(_KEPT, 4 * count), found(), key=lambda each: (-each.doubt, each.position))
    chosen = select([taught(each.picture) for each in kept], count, known)
    return [kept[place] for place in chosen], len(seen) - len(set(corrected))


def _learned_from(token: str) -> LabelKind:
    """The kind of label that teaches a task."""
    task = TASKS[token]
    if "OCR" in token:
        return LabelKind.WORDS
    return LabelKind.CAPTIONS if task.gives is Gives.TEXT and task.takes is Takes.NOTHING else LabelKind.OBJECTS
