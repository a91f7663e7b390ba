"""The training batches of a run.

A batch depends only on the seed and its number, so that a run that was stopped continues with the same images.
"""

import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from finetune import forward
from finetune.datasets.augmentation import AugmentationConfig, augment
from finetune.datasets.copy_paste import ObjectBank
from finetune.datasets.samples import find_trainable_tasks, make_samples
from finetune.datasets.task_weights import OTHER_WEIGHT, TASK_WEIGHTS
from finetune.losses import IGNORE
from finetune.tuning.config import TuneConfig
from finetune.tuning.replay import POOL_SIZE, ReplaySource, choose_samples
from finetune.tuning.sample_tokens import LongSample, SampleTokenizer, SampleTokens
from labels.labeled_image import LabeledImage
from prompts.annotations import Quad, Text
from server.engine.checkpoints.loading import CheckpointFiles

# Streams of random numbers, each with the seed of the run
_IMAGE_STREAM, _ORDER_STREAM, _VIEW_STREAM = 3, 4, 5


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """b images and n prompts.

    `pixels`: uint8 [b, height, width, 3], resized to the model's input; `views` [b]: a number for each image, the same
    for the same pixels, by which features are cached; `owner` [n]: the image of each prompt; `prompts` [n, p] and
    `labels` [n, l]: token IDs, padded on the right with the pad token and -100; `replayed` [n]: whether the prompt is
    about a replayed image; `left_out`: samples of its images that are too long for the model.
    """

    pixels: Tensor
    views: Tensor
    owner: Tensor
    prompts: Tensor
    labels: Tensor
    replayed: Tensor
    left_out: tuple[LongSample, ...] = ()


@dataclass(frozen=True, slots=True)
class _BatchImage:
    """An image of a batch. `samples`: those that are too long too."""

    view: int
    image: Image.Image
    samples: list[SampleTokens | LongSample]


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
        self.tokenizer = SampleTokenizer(files)
        self.left_out = self._find_long_samples()
        """Samples of the unchanged images that are too long for the model. A crop of an image may have shorter ones."""

    def count_class_tokens(self) -> Counter[int]:
        """Counts, for each token, the objects whose class contains it."""
        annotations = (annotation for image in self.images for annotation in image.annotations)
        classes = Counter(a.label for a in annotations if not isinstance(a, Text | Quad))
        counts: Counter[int] = Counter()
        for label, count in classes.items():
            for token in set(self.tokenizer.tokenize(label)):
                counts[token] += count
        return counts

    def __getitem__(self, number: int) -> TrainingBatch:
        config = self.config
        pixels, views, owner, prompts, answers, replayed = [], [], [], [], [], []
        left_out: list[LongSample] = []
        for index in range(config.batch_size):
            position = number * config.batch_size + index
            rng = np.random.default_rng((config.seed, _IMAGE_STREAM, position))
            is_replay = self.replay is not None and rng.random() < config.replay_share
            item = self._load_replayed(position) if is_replay else self._load_own(position, rng)
            pixels.append(torch.from_numpy(self.files.preprocessor.resize(item.image).copy()))
            views.append(item.view)
            for sample in item.samples:
                if isinstance(sample, LongSample):
                    left_out.append(sample)
                    continue
                owner.append(index)
                replayed.append(is_replay)
                prompts.append(sample.prompt)
                answers.append(sample.answer)
        pad = self.files.config.text_config.pad_token_id
        return TrainingBatch(
            torch.stack(pixels), torch.tensor(views), torch.tensor(owner, dtype=torch.long),
            _pad(prompts, pad, self.tokenizer.max_prompt), _pad(answers, IGNORE, self.tokenizer.max_positions),
            torch.tensor(replayed, dtype=torch.bool), tuple(left_out),
        )  # fmt: skip

    def _find_long_samples(self) -> list[LongSample]:
        """Makes the samples of each image once. Raises ValueError if none of them fits the model."""
        left_out, fits = list[LongSample](), False
        longest_class = max((len(label.encode()) for label in self.classes), default=0)
        for index in self.trainable:
            image = self.images[index]
            if self.tokenizer.surely_fits(image, longest_class):
                fits = True
                continue
            samples = make_samples(
                image, self.tasks[index], classes=self.classes, rng=np.random.default_rng(0),
                order=self.config.object_order,
            )  # fmt: skip
            for sample in samples:
                tokens = self.tokenizer.encode(sample, image.name, image.size)
                if isinstance(tokens, LongSample):
                    left_out.append(tokens)
                else:
                    fits = True
        if left_out and not fits:
            raise ValueError(f"no sample fits the model, for example {left_out[0].image}: {left_out[0]}")
        return left_out

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
        return _BatchImage(index * config.views_per_image + view, image.open(), samples)

    def _make_samples(
        self, image: LabeledImage, tasks: Sequence[str], rng: np.random.Generator
    ) -> list[SampleTokens | LongSample]:
        """Returns up to `prompts_per_image` samples; TASK_WEIGHTS decide how often a task comes.

        Samples of other tasks take the place of those that are too long.
        """
        weights = np.array([TASK_WEIGHTS.get(task, OTHER_WEIGHT) for task in tasks])
        order = rng.choice(len(tasks), size=len(tasks), replace=False, p=weights / weights.sum())
        shuffled, count = [tasks[i] for i in order], self.config.prompts_per_image
        encoded: list[SampleTokens | LongSample] = []
        while shuffled and (missing := count - sum(isinstance(each, SampleTokens) for each in encoded)) > 0:
            chosen, shuffled = shuffled[:missing], shuffled[missing:]
            samples = make_samples(image, chosen, classes=self.classes, rng=rng, order=self.config.object_order)
            for sample in choose_samples(samples, missing, rng):
                encoded.append(self.tokenizer.encode(sample, image.name, image.size))
            if not any(isinstance(each, LongSample) for each in encoded):
                break
        return encoded

    def _load_replayed(self, position: int) -> _BatchImage:
        assert self.replay is not None
        image, samples = self.replay.load(position, self.config.prompts_per_image)
        name = f"replayed image {position % POOL_SIZE}"
        encoded = [self.tokenizer.encode(sample, name, image.size) for sample in samples]
        return _BatchImage(-1 - position % POOL_SIZE, image, encoded)


def create_loader(batches: TrainingBatches, numbers: Sequence[int], workers: int) -> DataLoader[TrainingBatch]:
    """Returns a loader of the batches with these numbers. `workers`: its processes; 0: it loads in this one."""
    return DataLoader(
        batches, batch_size=None, sampler=numbers, num_workers=workers, prefetch_factor=4 if workers else None,
        worker_init_fn=_ignore_signals,
        generator=torch.Generator(),  # without its own, the loader would change the random state of dropout
    )  # fmt: skip


def _ignore_signals(worker: int) -> None:
    """Leaves it to the main process when to stop: terminals send signals to a whole process group."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _pad(rows: Sequence[list[int]], fill: int, max_length: int) -> Tensor:
    """Pads token IDs on the right to the longest row, rounded up to at most `max_length`: [n, length]."""
    length = min(forward.round_up(max(map(len, rows), default=0)), max_length)
    padded = [row + [fill] * (length - len(row)) for row in rows]
    return torch.tensor(padded, dtype=torch.long).view(len(rows), length)
