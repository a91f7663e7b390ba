"""Checks that the images of a dataset can be decoded."""

from collections.abc import Sequence
from dataclasses import replace

from labels.dataset import Dataset, DatasetError, UnusableEntry, list_reasons
from labels.images import ImageError
from labels.labeled_image import LabeledImage
from labels.reading.dataset_builder import describe_error


def keep_readable(dataset: Dataset) -> Dataset:
    """Returns the dataset without the images that cannot be decoded, which are recorded as unusable.

    Decodes each image once. Raises DatasetError if no image is left.
    """
    images, broken = find_readable(dataset.images)
    unusable = (*dataset.unusable, *broken)
    if not images:
        raise DatasetError(f"no image of the dataset can be opened:\n{list_reasons(unusable)}")
    return replace(dataset, images=images, unusable=unusable)


def find_readable(images: Sequence[LabeledImage]) -> tuple[tuple[LabeledImage, ...], tuple[UnusableEntry, ...]]:
    """Returns the images that can be decoded, and an entry with the reason for every other image."""
    readable, broken = [], []
    for image in images:
        try:
            image.open()
            readable.append(image)
        except (OSError, ImageError) as error:
            broken.append(UnusableEntry(image.source, describe_error(error)))
    return tuple(readable), tuple(broken)
