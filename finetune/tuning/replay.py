"""Replay: images of the base's own domain are mixed into a project's, so that the model does not forget it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from PIL import Image

from finetune.datasets.samples import find_trainable_tasks, make_samples
from finetune.tuning.config import TuneConfig
from labels.dataset import Dataset, UnusableEntry
from labels.labeled_image import LabeledImage
from labels.opening import open_dataset
from labels.sample import Sample
from labels.split import split_images
from labels.verification import find_readable, keep_readable

POOL_SIZE = 512  # different images that are replayed; with cached features this many are cached
HOLDOUT_SIZE = 40  # images of a dataset that are never replayed, to measure forgetting
_MIN_FOR_HOLDOUT = 5  # a dataset of this size or smaller is replayed completely
REPLAY_SEED = 900_000_000

ReplayedImage = tuple[Image.Image, list[Sample]]


class ReplaySource(Protocol):
    """Images of the base's own domain with their samples."""

    def load(self, number: int, max_samples: int) -> ReplayedImage:
        """Returns image `number` % POOL_SIZE with at most `max_samples` samples; the same for the same number."""
        ...


@dataclass(frozen=True, slots=True)
class ReplayData:
    """What a run replays, and the images by which its forgetting is measured.

    `holdout`: images of the dataset that are never replayed; none for a source that is not a dataset, which has a
    forgetting evaluation of its own. `classes`: of the complete dataset; `unusable`: entries of it.
    """

    source: ReplaySource
    holdout: tuple[LabeledImage, ...] = ()
    classes: tuple[str, ...] = ()
    unusable: tuple[UnusableEntry, ...] = ()


class DatasetReplay:
    """Replays a dataset that the base was trained on, or a similar one."""

    def __init__(self, dataset: Dataset) -> None:
        self._images, self._classes = dataset.images, dataset.classes

    def load(self, number: int, max_samples: int) -> ReplayedImage:
        """Returns an image and some of its samples."""
        rng = np.random.default_rng((REPLAY_SEED, number))
        image = self._images[number % POOL_SIZE % len(self._images)]  # one image for each index in the pool
        tasks = sorted(find_trainable_tasks(image))
        shuffled = [tasks[i] for i in rng.permutation(len(tasks))]
        samples = make_samples(image, shuffled, classes=self._classes, rng=rng)
        return image.open(), choose_samples(samples, max_samples, rng)


def load_replay(
    config: TuneConfig, own_source: ReplaySource | None, opener: Callable[[str], Dataset] = open_dataset
) -> ReplayData | None:
    """Returns what a run with these settings replays; None if replay is off or there is nothing to replay.

    `own_source`: what the base replays without a dataset, if anything; `opener` opens a dataset by its name. The
    holdout of a dataset is not replayed. Raises DatasetError.
    """
    if not config.replay_share:
        return None
    if not config.replay_dataset:
        return ReplayData(own_source) if own_source else None
    dataset = opener(config.replay_dataset)
    replayed, holdout = _split_holdout(dataset)
    pool, (readable, broken) = keep_readable(replace(dataset, images=replayed)), find_readable(holdout)
    return ReplayData(DatasetReplay(pool), readable, dataset.classes, (*pool.unusable, *broken))


def load_replay_holdout(config: TuneConfig) -> tuple[tuple[LabeledImage, ...], tuple[str, ...]]:
    """Returns `holdout` and `classes` of `load_replay` without reading the images to be replayed.

    Those are ten times as many. Raises DatasetError.
    """
    if not (config.replay_share and config.replay_dataset):
        return (), ()
    dataset = open_dataset(config.replay_dataset)
    _, holdout = _split_holdout(dataset)
    return find_readable(holdout)[0], dataset.classes


def choose_samples(samples: list[Sample], count: int, rng: np.random.Generator) -> list[Sample]:
    """Returns up to `count` random samples in their order: an image can have many samples of one task."""
    if len(samples) <= count:
        return samples
    return [samples[i] for i in sorted(rng.permutation(len(samples))[:count])]


def _split_holdout(dataset: Dataset) -> tuple[tuple[LabeledImage, ...], tuple[LabeledImage, ...]]:
    """Returns the images to replay, and those that are never replayed."""
    pool = _spread(dataset.training_images, POOL_SIZE + HOLDOUT_SIZE)
    if dataset.holdout:
        return pool, _spread(dataset.evaluation_images, HOLDOUT_SIZE)
    if len(pool) <= _MIN_FOR_HOLDOUT:
        return pool, ()
    return split_images(pool, min(0.2, HOLDOUT_SIZE / len(pool)), seed=REPLAY_SEED)


def _spread(images: Sequence[LabeledImage], count: int) -> tuple[LabeledImage, ...]:
    """Returns up to `count` images at equal distances: files are often sorted by class."""
    count = min(count, len(images))
    return tuple(images[i * len(images) // count] for i in range(count))
