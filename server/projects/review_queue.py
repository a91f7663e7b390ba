"""The images of a job that a person should correct next, by active learning."""

import heapq
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from finetune.active_learning import estimate_uncertainty, select_next
from labels.label_kind import LabelKind, get_label_kind
from labels.labeled_image import LabeledImage
from prompts.annotations import Annotation
from prompts.tasks import TASKS, AnswerKind, InputKind

_MIN_POOL = 1000  # images that are in memory at the same time


@dataclass(frozen=True, slots=True)
class ReviewCandidate:
    """An image to correct.

    Attributes:
        position: Its position in the job's source.
        sha256: Hash of the image file.
        annotations: Those that train the tasks of the project.
        uncertainty: Expected number of wrong annotations.
    """

    position: int
    sha256: str
    annotations: tuple[Annotation, ...]
    uncertainty: float


def select_candidates(
    images: Iterable[tuple[int, LabeledImage]], corrected: Collection[str], known_labels: Iterable[str],
    tasks: Sequence[str], count: int,
) -> tuple[list[ReviewCandidate], int]:  # fmt: skip
    """Returns the `count` most useful images to correct, best first, and the number of images without a correction.

    They are selected from the most uncertain images: 1000, or four times `count` if that is more. Only annotations that
    train one of the `tasks` count. An image that appears twice counts once.

    Args:
        images: Positions and images of a job.
        corrected: SHA-256 of the images that are already corrected.
        known_labels: The labels of all corrections.
        tasks: Tokens of the project's tasks.
    """
    kinds, seen = {get_training_kind(task) for task in tasks}, set(corrected)

    def get_relevant(image: LabeledImage) -> tuple[Annotation, ...]:
        own = [trace.annotation for trace in image.traced_annotations if trace.parent is None]
        return tuple(annotation for annotation in own if get_label_kind(annotation) in kinds)

    def find_uncorrected() -> Iterator[ReviewCandidate]:
        for position, image in images:
            if image.sha256 not in seen:
                seen.add(image.sha256)
                relevant = get_relevant(image)
                yield ReviewCandidate(position, image.sha256, relevant, estimate_uncertainty(relevant))

    pool = heapq.nsmallest(
        max(_MIN_POOL, 4 * count),
        find_uncorrected(),
        key=lambda candidate: (-candidate.uncertainty, candidate.position),
    )
    selected = select_next([candidate.annotations for candidate in pool], count, known_labels)
    return [pool[index] for index in selected], len(seen) - len(set(corrected))


def get_training_kind(token: str) -> LabelKind:
    """Returns the kind of labels that a task is trained on."""
    task = TASKS[token]
    if "OCR" in token:
        return LabelKind.WORDS
    is_caption = task.answer_kind is AnswerKind.TEXT and task.input_kind is InputKind.NOTHING
    return LabelKind.CAPTIONS if is_caption else LabelKind.OBJECTS
