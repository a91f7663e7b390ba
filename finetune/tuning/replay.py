"""Pictures of the base's own world, mixed among a project's so that the model does not forget it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from PIL import Image

from finetune.datasets import samples
from finetune.tuning.config import TuneConfig
from labels.dataset import Dataset, UnusableEntry
from labels.labeled_image import LabeledImage
from labels.opening import open_dataset
from labels.sample import Sample
from labels.split import split
from labels.verification import find_readable, keep_readable
from seedling.scenes.batches import NO_WORDS_SHARE, TRAINING_SEEDS, choose_samples
from seedling.scenes.drawing import Scene, draw_scene
from seedling.stages import STAGES

Shown = tuple[Image.Image, list[Sample]]
Replay = Callable[[int, int], Shown]
"""A number and how many questions → a picture and its questions; the same for the same number."""

POOL = 512  # different pictures; where features are kept, so many are
PROBED = 40  # pictures of a dataset that are kept back, to tell what is forgotten
_FEW = 5  # so many are all replayed
_SEED = 900 * TRAINING_SEEDS
_DRAWN = 1_000_000 * TRAINING_SEEDS  # scenes among training's, beyond those of the seedling's stages


@dataclass(frozen=True, slots=True)
class World:
    """The base's own. `probe`: pictures of a dataset that are never replayed, to tell by what is forgotten; none of
    the seedling's, which has a probe of its own (`finetune.forgetting`). `labels`: of the whole dataset; `unusable`: what of
    it is."""

    replay: Replay
    probe: tuple[LabeledImage, ...] = ()
    labels: tuple[str, ...] = ()
    unusable: tuple[UnusableEntry, ...] = ()


def world(config: TuneConfig, opens: Callable[[str], Dataset] = open_dataset) -> World | None:
    """What a run of these settings replays; None where nothing is asked for, or at hand. `opens` gives a dataset by its
    name; what it holds out is not replayed. Raises DatasetError."""
    if not config.replays:
        return None
    if not config.replay_from:
        return World(scenes)
    whole = opens(config.replay_from)
    taught, back = _parted(whole)
    pool, (probe, broken) = keep_readable(replace(whole, images=taught)), find_readable(back)
    return World(of(pool), probe, whole.classes, (*pool.unusable, *broken))


def kept_back(config: TuneConfig) -> tuple[tuple[LabeledImage, ...], tuple[str, ...]]:
    """The same as `world` has, `probe` and `labels`, without a look at the pictures to be replayed, which are ten times
    as many. Raises DatasetError."""
    if not (config.replays and config.replay_from):
        return (), ()
    whole = open_dataset(config.replay_from)
    _, back = _parted(whole)
    return find_readable(back)[0], whole.classes


def _parted(whole: Dataset) -> tuple[tuple[LabeledImage, ...], tuple[LabeledImage, ...]]:
    """What is replayed, and what is kept back."""
    pool = _spread(whole.training_images, POOL + PROBED)
    if whole.holdout:
        return pool, _spread(whole.evaluation_images, PROBED)
    if len(pool) <= _FEW:
        return pool, ()
    return split(pool, min(0.2, PROBED / len(pool)), seed=_SEED)


def _spread(examples: Sequence[LabeledImage], most: int) -> tuple[LabeledImage, ...]:
    """At most so many, from all over: files are often in the order of their classes."""
    count = min(most, len(examples))
    return tuple(examples[i * len(examples) // count] for i in range(count))


def scenes(number: int, prompts: int) -> Shown:
    """The seedling's own data: drawn scenes of the usual shapes, all 15 tasks, asked as often as its last stage did."""
    last, rng = STAGES[-1], np.random.default_rng((_SEED, number))
    scene = _scene(_DRAWN + number % POOL).reordered(rng)
    return scene.image, choose_samples(scene, prompts, rng, last.reading, last.task_weights)


@lru_cache(POOL)
def _scene(seed: int) -> Scene:
    """Drawn once a process, which is half of what a lesson costs."""
    words = (0, 0) if np.random.default_rng((seed, 1)).random() < NO_WORDS_SHARE else STAGES[-1].words
    return draw_scene(seed, objects=STAGES[-1].objects, words=words)


def of(dataset: Dataset) -> Replay:
    """A dataset that a base was taught on, or one like it."""

    def replay(number: int, prompts: int) -> Shown:
        rng = np.random.default_rng((_SEED, number))
        example = dataset.images[number % POOL % len(dataset.images)]  # one picture for each place in the pool
        tokens = sorted(samples.teachable(example))
        asked = [tokens[i] for i in rng.permutation(len(tokens))]
        found = samples.questions(example, asked, labels=dataset.classes, rng=rng)
        return example.open(), some(found, prompts, rng)

    return replay


def some(questions: list[Sample], most: int, rng: np.random.Generator) -> list[Sample]:
    """`most` of the questions, by chance: a task may come with many of its own, of which each has its turn."""
    if len(questions) <= most:
        return questions
    return [questions[i] for i in sorted(rng.permutation(len(questions))[:most])]
