"""Pictures of the base's own world, mixed among a project's so that the model does not forget it."""

from collections.abc import Callable

import numpy as np
from PIL import Image

from finetune.datasets import teaching
from finetune.datasets.example import Dataset
from finetune.datasets.question import Question
from finetune.datasets.scenes.batches import TRAINING_SEEDS, choose
from finetune.datasets.scenes.draw import draw

Shown = tuple[Image.Image, list[Question]]
Replay = Callable[[int, int], Shown]
"""A number and how many questions → a picture and its questions; the same for the same number."""

POOL = 512  # different pictures; where features are kept, so many are
_SEED = 900 * TRAINING_SEEDS  # among training's, beyond those of the seedling's stages


def scenes(number: int, prompts: int) -> Shown:
    """The seedling's own data: drawn scenes, all 15 tasks."""
    seed = _SEED + number % POOL
    rng = np.random.default_rng((_SEED, number))
    scene = draw(seed, objects=(1, 4), words=(0, 0) if np.random.default_rng((seed, 1)).random() < 0.35 else (1, 2))
    return scene.image, choose(scene, prompts, rng)


def of(dataset: Dataset) -> Replay:
    """A dataset that a base was taught on, or one like it."""

    def replay(number: int, prompts: int) -> Shown:
        rng = np.random.default_rng((_SEED, number))
        example = dataset.examples[number % POOL % len(dataset.examples)]  # one picture for each place in the pool
        tokens = sorted(teaching.teachable(example))
        asked = [tokens[i] for i in rng.permutation(len(tokens))]
        found = teaching.questions(example, asked, labels=dataset.labels, rng=rng)
        return example.open(), some(found, prompts, rng)

    return replay


def some(questions: list[Question], most: int, rng: np.random.Generator) -> list[Question]:
    """`most` of the questions, by chance: a task may come with many of its own, of which each has its turn."""
    if len(questions) <= most:
        return questions
    return [questions[i] for i in sorted(rng.permutation(len(questions))[:most])]
