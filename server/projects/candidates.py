"""Which pictures of a job a person should correct next: those of the most doubt (`finetune.selection`)."""

import heapq
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from finetune.datasets.example import Labels
from finetune.selection import doubt
from prompts.tasks import TASKS, Gives, Takes
from server.jobs.labels import Labelled
from server.projects.labels import kind_of


@dataclass(frozen=True, slots=True)
class Candidate:
    """A picture at its place in the job's source; `doubt`: how many of its labels are expected to be wrong."""

    position: int
    picture: Labelled
    doubt: float


def most_doubtful(
    pictures: Iterable[tuple[int, Labelled]], corrected: Collection[str], tasks: Sequence[str], count: int
) -> tuple[list[Candidate], int]:
    """Of a job's pictures that are not `corrected` (by SHA-256) the `count` of the most doubt, the most doubtful first,
    of equals the first; and how many there are. A picture that is there twice counts once. Labels of kinds that no
    task of `tasks` is learned from raise no doubt. Few pictures are in memory at a time."""
    kinds, seen = {_learned_from(task) for task in tasks}, set(corrected)

    def candidates() -> Iterator[Candidate]:
        for position, picture in pictures:
            if picture.sha256 not in seen:
                seen.add(picture.sha256)
                own = [label.annotation for label in picture.labels if label.parent is None]
                yield Candidate(position, picture, doubt([note for note in own if kind_of(note) in kinds]))

    chosen = heapq.nsmallest(count, candidates(), key=lambda each: (-each.doubt, each.position))
    return chosen, len(seen) - len(set(corrected))


def _learned_from(token: str) -> Labels:
    """The kind of label that teaches a task."""
    task = TASKS[token]
    if "OCR" in token:
        return Labels.WORDS
    return Labels.CAPTIONS if task.gives is Gives.TEXT and task.takes is Takes.NOTHING else Labels.OBJECTS
