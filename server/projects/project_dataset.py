"""A project's corrections as a dataset: training images, and holdout images that are never used for training.

The split depends only on the content of an image, so that it never changes, whatever is added later: an image belongs
to the holdout if the first 32 bits of its SHA-256, as a number from 0 to 1, are below the project's holdout share.
(`labels.split` balances the labels, but splits again with each new image.)
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from finetune.datasets import samples
from labels.dataset import Dataset
from labels.image_files import ImageFile
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage
from prompts.annotations import Annotation
from server.projects.class_lists import is_outside
from server.projects.errors import NoTrainingDataError
from server.projects.image_store import ImageStore
from server.store.projects.records import MIN_HOLDOUT_IMAGES, Correction, Project

_VALIDATION_SHARE = 0.15  # of the training images
_ANNOTATIONS = TypeAdapter(tuple[Annotation, ...])


@dataclass(frozen=True, slots=True)
class ProjectDataset:
    """The corrected images of a project. Their names are their SHA-256."""

    train: tuple[LabeledImage, ...]
    holdout: tuple[LabeledImage, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels of all images, the most frequent first."""
        return Dataset((*self.train, *self.holdout)).classes

    def check_tasks(self, tasks: Sequence[str], holdout_share: float) -> None:
        """Raises NoTrainingDataError if no image trains any of the tasks, or if no holdout image can evaluate one."""
        count = len(self.train) + len(self.holdout)
        if not (trainable := _find_trainable_tasks(self.train) & set(tasks)):
            raise NoTrainingDataError(
                f"of {count} corrected images, no training image has labels for {' or '.join(tasks)}: correct images "
                "with labels of its kind"
            )
        if missing := sorted(trainable - _find_trainable_tasks(self.holdout)):
            raise NoTrainingDataError(
                f"of {count} corrected images, no holdout image (a share of {holdout_share:.0%}) has labels to "
                f"evaluate {missing[0]}: correct more images"
            )

    def split_validation(
        self, tasks: Sequence[str], trained_before: Collection[str] = ()
    ) -> tuple[tuple[LabeledImage, ...], tuple[LabeledImage, ...]]:
        """Splits the training images into images to train on and images to validate on, by content too.

        Validation selects the best step of a run and calibrates its scores. The holdout cannot do that: the backtest
        would then be biased. Neither can images in `trained_before` (SHA-256), on which the initial model was trained:
        its answers on them are better and more confident than on others. If fewer than MIN_HOLDOUT_IMAGES images
        remain for validation, there is none.
        """
        is_validation = [
            image.name not in trained_before
            and bool(_find_trainable_tasks([image]) & set(tasks) and image.annotations)
            and _is_below(image.name[8:16], _VALIDATION_SHARE)
            for image in self.train
        ]
        if sum(is_validation) < MIN_HOLDOUT_IMAGES:
            return self.train, ()
        train, validation = _partition(self.train, is_validation)
        return train, validation

    def select_trainable(self, tasks: Sequence[str]) -> list[str]:
        """Returns those of the tasks that the training images have labels for."""
        trainable = _find_trainable_tasks(self.train)
        return [task for task in tasks if task in trainable]


def is_holdout(sha256: str, holdout_share: float) -> bool:
    """Returns whether an image belongs to the holdout."""
    return _is_below(sha256[:8], holdout_share)


def build_dataset(project: Project, corrections: Sequence[Correction], images: ImageStore) -> ProjectDataset:
    """Builds the dataset of a project's current corrections, without objects of classes that it does not declare."""
    by_image: dict[str, list[Correction]] = {}
    for correction in corrections:
        by_image.setdefault(correction.content.image_sha256, []).append(correction)
    labeled = []
    for sha256, own in by_image.items():
        contents = [correction.content for correction in own]
        annotations = tuple(
            annotation
            for content in contents
            for annotation in content.annotations
            if not is_outside(project, content.label_kind, annotation)
        )
        # Captions are never complete: an image can have any number of them.
        complete = frozenset(
            content.label_kind
            for content in contents
            if content.complete and content.label_kind is not LabelKind.CAPTIONS
        )
        first = contents[0]
        source = f"{first.image_name or 'image'} ({sha256[:12]})"
        file = ImageFile(images.get_path(sha256))
        labeled.append(LabeledImage(sha256, source, first.width, first.height, annotations, file, complete))
    train, holdout = _partition(labeled, [is_holdout(image.name, project.holdout_share) for image in labeled])
    return ProjectDataset(train, holdout)


def to_json(dataset: ProjectDataset) -> dict[str, Any]:
    """Returns the dataset as JSON, without the image files."""
    return {"train": list(map(_image_to_json, dataset.train)), "holdout": list(map(_image_to_json, dataset.holdout))}


def from_json(data: dict[str, Any], images: ImageStore) -> ProjectDataset:
    """Returns the dataset that `to_json` was given."""
    train, holdout = (tuple(_image_from_json(each, images) for each in data[side]) for side in ("train", "holdout"))
    return ProjectDataset(train, holdout)


def _is_below(digits: str, share: float) -> bool:
    """Returns whether 32 bits in hexadecimal, as a number from 0 to 1, are below a share."""
    return int(digits, 16) < share * 2**32


def _partition(
    images: Sequence[LabeledImage], flags: Sequence[bool]
) -> tuple[tuple[LabeledImage, ...], tuple[LabeledImage, ...]]:
    """Returns the images whose flag is False, and those whose flag is True."""
    first, second = (
        tuple(image for image, flag in zip(images, flags, strict=True) if flag is side) for side in (False, True)
    )
    return first, second


def _find_trainable_tasks(images: Sequence[LabeledImage]) -> set[str]:
    return {token for image in images for token in samples.find_trainable_tasks(image)}


def _image_to_json(image: LabeledImage) -> dict[str, Any]:
    return {
        "image": image.name, "source": image.source, "size": image.size,
        "annotations": json.loads(_ANNOTATIONS.dump_json(image.annotations)), "complete": sorted(image.complete),
    }  # fmt: skip


def _image_from_json(data: dict[str, Any], images: ImageStore) -> LabeledImage:
    width, height = data["size"]
    return LabeledImage(
        data["image"], data["source"], width, height, _ANNOTATIONS.validate_python(data["annotations"]),
        ImageFile(images.get_path(data["image"])), frozenset(map(LabelKind, data["complete"])),
    )  # fmt: skip
