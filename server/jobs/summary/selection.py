"""Which pictures of a job are shown."""

import hashlib
from typing import Any

from labels.labeled_image import LabeledImage, TracedAnnotation


class TopImages:
    """Of all pictures offered, the `most` with the least keys; of one picture under several names the first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: dict[str, tuple[Any, LabeledImage]] = {}
        self._worst: Any = None

    def offer(self, key: Any, picture: LabeledImage) -> None:
        full = len(self._kept) >= self._most
        if picture.sha256 in self._kept or (full and (not self._most or key >= self._worst)):
            return
        self._kept[picture.sha256] = key, picture
        if full:
            del self._kept[max(self._kept, key=lambda sha256: self._kept[sha256][0])]
        self._worst = max(key for key, _ in self._kept.values())

    def chosen(self) -> list[LabeledImage]:
        """In the order of their keys."""
        return [picture for _, picture in sorted(self._kept.values(), key=lambda pair: pair[0])]


def chance(picture: LabeledImage) -> str:
    """As good as random, and the same in every summary that has the picture."""
    return hashlib.sha256(f"sample {picture.sha256}".encode()).hexdigest()


def doubt(picture: LabeledImage) -> tuple[bool, float, str] | None:
    """The less, the more doubtful: what is to be reviewed first, by its lowest score. None: nothing to doubt."""
    if not (labels := doubtful(picture)):
        return None
    return not labels[0].review, _score(labels[0]), picture.sha256


def doubtful(picture: LabeledImage) -> list[TracedAnnotation]:
    """The labels to review, least sure first; where there are none, the least sure one."""
    if review := [label for label in picture.traces if label.review]:
        return sorted(review, key=_score)
    scored = [label for label in picture.traces if label.annotation.score is not None]
    return [min(scored, key=_score)] if scored else []


def _score(label: TracedAnnotation) -> float:
    return 1.0 if label.annotation.score is None else label.annotation.score
