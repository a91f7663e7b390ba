"""Selects the images that the summary shows: the least certain ones, one of each class, and random ones."""

import hashlib
from collections.abc import Iterable
from typing import Any

from labels.labeled_image import LabeledImage, TracedAnnotation

_MAX_CLASSES = 500  # for which an image is remembered


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


class ImageSelection:
    """Selects at most `limit` images. Memory does not grow with the number of images that are offered.

    If there are more, a third of the selection are the least certain images, up to a third show classes that those
    lack, and the others are random, by their content, so that each summary of a job selects the same.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._third = limit, limit // 3
        self._random, self._uncertain = SmallestKeys(limit), SmallestKeys(self._third)
        self._examples: dict[str, tuple[str, LabeledImage]] = {}  # the image of each class with the smallest key

    def offer(self, image: LabeledImage, classes: Iterable[str]) -> None:
        """Adds an image with labels of `classes`."""
        key = make_sampling_key(image)
        self._random.offer(key, image)
        if (review_key := make_review_key(image)) is not None:
            self._uncertain.offer(review_key, image)
        for name in set(classes):
            known = self._examples.get(name)
            if (known and key < known[0]) or (not known and len(self._examples) < _MAX_CLASSES):
                self._examples[name] = key, image

    def select(self) -> tuple[list[LabeledImage], int, int]:
        """Returns the images, and how many of them are there as the least certain ones and for their class."""
        selected = {image.sha256: image for image in self._uncertain.get_images()}
        uncertain = len(selected)
        seen = {trace.annotation.label for image in selected.values() for trace in image.traces}
        for name, (_, image) in sorted(self._examples.items(), key=lambda item: item[1][0]):
            if name not in seen and len(selected) - uncertain < self._third and image.sha256 not in selected:
                selected[image.sha256] = image
                seen.update(trace.annotation.label for trace in image.traces)
        examples = len(selected) - uncertain
        for image in self._random.get_images():
            if len(selected) < self._limit:
                selected.setdefault(image.sha256, image)
        return list(selected.values()), uncertain, examples


def make_sampling_key(image: LabeledImage) -> str:
    """Returns a pseudo-random key that is the same in every summary with this image."""
    return hashlib.sha256(f"sample {image.sha256}".encode()).hexdigest()


def make_review_key(image: LabeledImage) -> tuple[bool, float, str] | None:
    """Returns a key that is smaller for less certain images: images to review come first, then by the lowest score.
    None if no annotation has a score or needs review."""
    review = [trace for trace in image.traces if trace.review]
    scored = review or [trace for trace in image.traces if trace.annotation.score is not None]
    return (not review, min(map(_get_score, scored)), image.sha256) if scored else None


def _get_score(trace: TracedAnnotation) -> float:
    return 1.0 if trace.annotation.score is None else trace.annotation.score
