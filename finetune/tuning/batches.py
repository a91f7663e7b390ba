"""The training batches of a run.

A batch depends only on the seed and its number, so that a run that was stopped continues with the same images.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from finetune import forward
from finetune.datasets.augmentation import AugmentationConfig, augment
from finetune.datasets.copy_paste import ObjectBank
from finetune.datasets.samples import find_trainable_tasks, make_samples
from finetune.datasets.task_weights import OTHER_WEIGHT, TASK_WEIGHTS
from finetune.losses import IGNORE
from finetune.tuning.config import TuneConfig
from finetune.tuning.replay import POOL_SIZE, ReplaySource, choose_samples
from labels.labeled_image import LabeledImage
from labels.sample import Sample
from prompts.annotations import Quad, Text
from prompts.formatting import format_answer
from prompts.special_tokens import BOS, EOS
from server.engine.checkpoints.loading import CheckpointFiles
from server.engine.model.preprocessing import count_image_tokens

# Streams of random numbers, each with the seed of the run
_IMAGE_STREAM, _ORDER_STREAM, _VIEW_STREAM = 3, 4, 5


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """b images and n prompts.

    `pixels`: uint8 [b, height, width, 3], resized to the model's input; `views` [b]: a number for each image, the same
    for the same pixels, by which features are cached; `owner` [n]: the image of each prompt; `prompts` [n, p] and
    `labels` [n, l]: token IDs, padded on the right with the pad token and -100; `replayed` [n]: whether the prompt is
    about a replayed image.
    """

    pixels: Tensor
    views: Tensor
    owner: Tensor
    prompts: Tensor
    labels: Tensor
    replayed: Tensor


@dataclass(frozen=True, slots=True)
class _BatchImage:
    """An image of a batch. `size`: width and height."""

    view: int
    image: Image.Image
    size: tuple[int, int]
    samples: list[Sample]


class TrainingBatches(Dataset[TrainingBatch]):
    """Number → TrainingBatch. Each accumulated batch of a step, and each process, has its own number."""

    def __init__(
        self, files: CheckpointFiles, images: Sequence[LabeledImage], classes: Sequence[str], config: TuneConfig,
        replay: ReplaySource | None = None,
    ) -> None:  # fmt: skip
        """`classes`: of the complete dataset, to prompt for absent ones. Raises ValueError if no task is trainable."""
        self.files, self.images, self.classes, self.config, self.replay = files, images, classes, config, replay
        self.changes = AugmentationConfig.from_strength(config.augmentation, flip=config.flip, max_hue=config.hue)
        self.objects = ObjectBank(images) if self.changes.paste else None
        wanted = set(config.tasks)
        self.tasks = [
            sorted(task for task in find_trainable_tasks(image) if not wanted or task in wanted) for image in images
        ]
        if not any(self.tasks):
            raise ValueError(f"the labels allow no training of {', '.join(config.tasks) or 'any task'}")
        # Images without a trainable task would leave gaps in the batches.
        self.trainable = [i for i, tasks in enumerate(self.tasks) if tasks]
        self.max_positions = files.config.text_config.max_position_embeddings
        self.max_prompt = self.max_positions - count_image_tokens(files.config, files.preprocessor)  # tokens

    def count_class_tokens(self) -> Counter[int]:
        """Counts, for each token, the objects whose class contains it."""
        annotations = (annotation for image in self.images for annotation in image.annotations)
        classes = Counter(a.label for a in annotations if not isinstance(a, Text | Quad))
        counts: Counter[int] = Counter()
        for label, count in classes.items():
            for token in set(self.tokenize(label)):
                counts[token] += count
        return counts

    def __getitem__(self, number: int) -> TrainingBatch:
        config = self.config
        pixels, views, owner, prompts, answers, replayed = [], [], [], [], [], []
        for index in range(config.batch_size):
            position = number * config.batch_size + index
            rng = np.random.default_rng((config.seed, _IMAGE_STREAM, position))
            is_replay = self.replay is not None and rng.random() < config.replay_share
            item = self._load_replayed(position) if is_replay else self._load_own(position, rng)
            pixels.append(torch.from_numpy(self.files.preprocessor.resize(item.image).copy()))
            views.append(item.view)
            for sample in item.samples:
                prompt = self.tokenize(BOS + sample.task.build_prompt(sample.text, sample.region, item.size) + EOS)
                if len(prompt) > self.max_prompt:
                    continue  # the model cannot read it
                owner.append(index)
                replayed.append(is_replay)
                prompts.append(prompt)
                answer = BOS + format_answer(sample.task, sample.answer, item.size) + EOS
                answers.append(self.tokenize(answer)[: self.max_positions])
        pad = self.files.config.text_config.pad_token_id
        return TrainingBatch(
            torch.stack(pixels), torch.tensor(views), torch.tensor(owner, dtype=torch.long),
            _pad(prompts, pad, self.max_prompt), _pad(answers, IGNORE, self.max_positions),
            torch.tensor(replayed, dtype=torch.bool),
        )  # fmt: skip

    def tokenize(self, text: str) -> list[int]:
        """Returns the token IDs of a text without BOS and EOS."""
        ids: list[int] = self.files.tokenizer.backend.encode(text, add_special_tokens=False).ids
        return ids

    def _load_own(self, position: int, rng: np.random.Generator) -> _BatchImage:
        """Returns an image of the project.

        Each comes at most once in an epoch, in the order of the epoch; replayed images take the place of some.
        """
        config = self.config
        epoch, place = divmod(position, len(self.trainable))
        order = np.random.default_rng((config.seed, _ORDER_STREAM, epoch)).permutation(len(self.trainable))
        index = self.trainable[int(order[place])]
        view = int(rng.integers(config.views_per_image)) * bool(config.augmentation)  # without changes there is one
        # With cached features the same changes must come again; otherwise each image is a new one.
        chance = np.random.default_rng((config.seed, _VIEW_STREAM, index, view)) if config.cached_stages else rng
        image = self.images[index]
        if config.augmentation:
            image = augment(image, self.changes, chance, self.images, self.objects)
        samples = self._make_samples(image, self.tasks[index], rng)
        return _BatchImage(index * config.views_per_image + view, image.open(), image.size, samples)

    def _make_samples(self, image: LabeledImage, tasks: Sequence[str], rng: np.random.Generator) -> list[Sample]:
        """Returns up to `prompts_per_image` samples; TASK_WEIGHTS decide how often a task comes."""
        weights = np.array([TASK_WEIGHTS.get(task, OTHER_WEIGHT) for task in tasks])
        order = rng.choice(len(tasks), size=len(tasks), replace=False, p=weights / weights.sum())
        chosen = [tasks[i] for i in order[: self.config.prompts_per_image]]
        samples = make_samples(image, chosen, classes=self.classes, rng=rng, order=self.config.object_order)
        return choose_samples(samples, self.config.prompts_per_image, rng)

    def _load_replayed(self, position: int) -> _BatchImage:
        assert self.replay is not None
        image, samples = self.replay.load(position, self.config.prompts_per_image)
        return _BatchImage(-1 - position % POOL_SIZE, image, image.size, samples)


def _pad(rows: Sequence[list[int]], fill: int, max_length: int) -> Tensor:
    """Pads token IDs on the right to the longest row, rounded up to at most `max_length`: [n, length]."""
    length = min(forward.round_up(max(map(len, rows), default=0)), max_length)
    padded = [row + [fill] * (length - len(row)) for row in rows]
    return torch.tensor(padded, dtype=torch.long).view(len(rows), length)
