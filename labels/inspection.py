"""Summarizes a dataset: its images, annotations, sizes, and entries that cannot be used."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from statistics import median_low
from typing import Any

from labels.dataset import Dataset, UnusableEntry
from labels.geometry import bounding_box
from labels.label_kind import LabelKind, get_label_kind
from labels.split_names import is_split_name
from prompts.annotations import Box, Polygon

_COMMON_SIZES = 5


@dataclass(frozen=True, slots=True)
class ClassSummary:
    """One class of a dataset: how many boxes, polygons and images it has."""

    name: str
    boxes: int
    polygons: int
    images: int

    @property
    def annotations(self) -> int:
        """Boxes and polygons."""
        return self.boxes + self.polygons


@dataclass(frozen=True, slots=True)
class SplitSummary:
    """The images and annotations of a split. `name` is its folder, such as `val2017`; empty for images in no split."""

    name: str
    images: int
    annotations: int


@dataclass(frozen=True, slots=True)
class Extent:
    """The smallest, the median and the largest of some values, in pixels."""

    smallest: float
    median: float
    largest: float


@dataclass(frozen=True, slots=True)
class DatasetSummary:
    """The content of a dataset.

    Attributes:
        format: The name of the format.
        images: Number of usable images.
        empty_images: Number of usable images without annotations.
        holdout_images: Number of images that the source itself keeps out of training.
        splits: The splits by the folders in the names of the images; empty without one.
        classes: The classes of boxes and polygons, the most frequent first.
        annotations: Number of annotations by kind: box, polygon, quad (a word), text (a caption).
        samples: Number of prompts with answers.
        regions: Number of regions with free text.
        complete: For each kind of label, the number of images in which all labels of this kind are known.
        widths: Widths of the images.
        heights: Heights of the images.
        common_sizes: The most frequent image sizes (width, height) with their numbers of images.
        object_sides: The longer sides of the bounding boxes of objects; None without objects.
        unusable: The entries that were left out, by file and line.
    """

    format: str
    images: int
    empty_images: int
    holdout_images: int
    splits: tuple[SplitSummary, ...]
    classes: tuple[ClassSummary, ...]
    annotations: dict[str, int]
    samples: int
    regions: int
    complete: dict[str, int]
    widths: Extent
    heights: Extent
    common_sizes: tuple[tuple[tuple[int, int], int], ...]
    object_sides: Extent | None
    unusable: tuple[UnusableEntry, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns the summary as a JSON object."""
        return {
            "format": self.format,
            "images": self.images,
            "empty_images": self.empty_images,
            "holdout_images": self.holdout_images,
            "splits": [
                {"name": each.name, "images": each.images, "annotations": each.annotations} for each in self.splits
            ],
            "classes": [
                {"name": each.name, "boxes": each.boxes, "polygons": each.polygons, "images": each.images}
                for each in self.classes
            ],
            "annotations": self.annotations,
            "samples": self.samples,
            "regions": self.regions,
            "complete": self.complete,
            "widths": _to_dict(self.widths),
            "heights": _to_dict(self.heights),
            "common_sizes": [
                {"width": width, "height": height, "images": count} for (width, height), count in self.common_sizes
            ],
            "object_sides": None if self.object_sides is None else _to_dict(self.object_sides),
            "unusable": [{"source": entry.source, "reason": entry.reason} for entry in self.unusable],
        }


def summarize_dataset(dataset: Dataset) -> DatasetSummary:
    """Returns a summary of the dataset. Decodes no image."""
    boxes, polygons, class_images = Counter[str](), Counter[str](), Counter[str]()
    kinds, complete = Counter[str](), Counter[str]()
    sides = list[float]()
    for image in dataset.images:
        for annotation in image.annotations:
            kinds[annotation.kind] += 1
            if isinstance(annotation, Box | Polygon):
                (boxes if isinstance(annotation, Box) else polygons)[annotation.label] += 1
                x1, y1, x2, y2 = bounding_box(annotation)
                sides.append(max(x2 - x1, y2 - y1))
        class_images.update({each.label for each in image.annotations if get_label_kind(each) is LabelKind.OBJECTS})
        complete.update(kind.value for kind in image.complete)
    sizes = Counter(image.size for image in dataset.images)
    return DatasetSummary(
        format=dataset.format,
        images=len(dataset.images),
        empty_images=sum(not image.annotations for image in dataset.images),
        holdout_images=len(dataset.holdout),
        splits=_summarize_splits(dataset),
        classes=tuple(ClassSummary(name, boxes[name], polygons[name], class_images[name]) for name in dataset.classes),
        annotations={kind: kinds[kind] for kind in ("box", "polygon", "quad", "text")},
        samples=sum(len(image.samples) for image in dataset.images),
        regions=sum(len(image.regions) for image in dataset.images),
        complete={kind.value: complete[kind.value] for kind in LabelKind},
        widths=_to_extent([image.width for image in dataset.images]),
        heights=_to_extent([image.height for image in dataset.images]),
        common_sizes=tuple(sizes.most_common(_COMMON_SIZES)),
        object_sides=_to_extent(sides) if sides else None,
        unusable=dataset.unusable,
    )


def group_by_reason(entries: tuple[UnusableEntry, ...]) -> list[tuple[str, list[str]]]:
    """Returns the reasons of unusable entries with their sources, the most frequent reason first."""
    sources = defaultdict[str, list[str]](list)
    for entry in entries:
        sources[entry.reason].append(entry.source)
    return sorted(sources.items(), key=lambda item: -len(item[1]))


def _summarize_splits(dataset: Dataset) -> tuple[SplitSummary, ...]:
    images, annotations = Counter[str](), Counter[str]()
    for image in dataset.images:
        folders = image.name.split("/")[:-1]
        split = next((folder for folder in folders if is_split_name(folder)), "")
        images[split] += 1
        annotations[split] += len(image.annotations)
    return tuple(SplitSummary(name, images[name], annotations[name]) for name in images) if any(images) else ()


def _to_extent(values: list[int] | list[float]) -> Extent:
    return Extent(min(values), median_low(values), max(values))


def _to_dict(extent: Extent) -> dict[str, float]:
    return {"smallest": extent.smallest, "median": extent.median, "largest": extent.largest}
