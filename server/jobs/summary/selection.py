"""Selects the images that the summary shows: random samples, and the least certain ones."""

import hashlib
from typing import Any

from labels.labeled_image import LabeledImage, TracedAnnotation


class SmallestKeys:
    """Keeps the images with the smallest keys. Keeps an image with several names once, under the first name."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: dict[str, tuple[Any, LabeledImage]] = {}
        self._largest: Any = None

    def offer(self, key: Any, image: LabeledImage) -> None:
        """Keeps the image if its key is among the smallest so far."""
        full = len(self._kept) >= self._limit
        if image.sha256 in self._kept or (full and (not self._limit or key >= self._largest)):
            return
        self._kept[image.sha256] = key, image
        if full:
            del self._kept[max(self._kept, key=lambda sha256: self._kept[sha256][0])]
        self._largest = max(key for key, _ in self._kept.values())

    def get_images(self) -> list[LabeledImage]:
        """Returns the kept images, in the order of their keys."""
        return [image for _, image in sorted(self._kept.values(), key=lambda pair: pair[0])]


def make_sampling_key(image: LabeledImage) -> str:
    """Returns a pseudo-random key that is the same in every summary with this image."""
    return hashlib.sha256(f"sample {image.sha256}".encode()).hexdigest()


def make_review_key(image: LabeledImage) -> tuple[bool, float, str] | None:
    """Returns a key that is smaller for less certain images: images to review come first, then by the lowest score.
    None if no annotation has a score or needs review."""
    if not (traces := find_least_certain(image)):
        return None
    return not traces[0].review, _get_score(traces[0]), image.sha256


def find_least_certain(image: LabeledImage) -> list[TracedAnnotation]:
    """Returns the annotations to review, lowest score first; if there are none, the annotation with the lowest
    score."""
    if review := [trace for trace in image.traces if trace.review]:
        return sorted(review, key=_get_score)
    scored = [trace for trace in image.traces if trace.annotation.score is not None]
    return [min(scored, key=_get_score)] if scored else []


def _get_score(trace: TracedAnnotation) -> float:
    return 1.0 if trace.annotation.score is None else trace.annotation.score
