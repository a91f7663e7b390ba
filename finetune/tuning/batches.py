"""The batches of a fine-tune run. What a step sees depends on the seed and the step alone, so that a run that was
stopped goes on with the very pictures that it would have seen."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from finetune import forward
from finetune.datasets import samples
from finetune.datasets.augmentation import Augment, augment
from finetune.datasets.copy_paste import Things
from finetune.losses import IGNORE
from finetune.tuning.config import TuneConfig
from finetune.tuning.replay import POOL, Replay, some
from labels.labeled_image import LabeledImage
from labels.sample import Sample
from prompts.annotations import Quad, Text
from prompts.formatting import format_answer
from prompts.special_tokens import BOS, EOS
from seedling.scenes.batches import TASK_WEIGHTS
from server.engine.checkpoints.loading import CheckpointFiles
from server.engine.model.preprocessing import count_image_tokens

_PLAIN = 1.0  # how often a task without a share in SHARES is asked
Seen = tuple[int, Image.Image, tuple[int, int], list[Sample]]  # view, picture, its width and height, questions


@dataclass(frozen=True, slots=True)
class Lesson:
    """b pictures and n prompts on them. `pixels`: uint8 [b, height, width, 3], squashed as the model is shown them;
    `views` [b]: which picture each is, for who keeps its features, the same number for the same pixels; `owner` [n]:
    the prompt's picture; `prompts` [n, p] and `labels` [n, l], padded on the right with the pad token and -100;
    `replayed` [n]: whether it is about the base's own data."""

    pixels: Tensor
    views: Tensor
    owner: Tensor
    prompts: Tensor
    labels: Tensor
    replayed: Tensor


class Lessons(Dataset[Lesson]):
    """Number → Lesson: of a step's accumulated parts, and of the processes that share it, each has its own."""

    def __init__(
        self, files: CheckpointFiles, examples: Sequence[LabeledImage], labels: Sequence[str], config: TuneConfig,
        replay: Replay | None = None,
    ) -> None:  # fmt: skip
        """`labels`: all of the dataset, to ask for what a picture does not show."""
        self.files, self.examples, self.labels, self.config, self.replay = files, examples, labels, config, replay
        self.changes = Augment.of(config.augment, flip=config.flip, hue=config.hue)
        self.things = Things(examples) if self.changes.paste else None
        wanted = set(config.tasks)
        self.tokens = [
            sorted(t for t in samples.teachable(example) if not wanted or t in wanted) for example in examples
        ]
        if not any(self.tokens):
            raise ValueError(f"the labels teach none of {', '.join(config.tasks) or 'the tasks'}")
        # Who cannot be asked anything would leave holes in the batches.
        self.order = [i for i, tokens in enumerate(self.tokens) if tokens]
        self.positions = files.shape.text_config.max_position_embeddings
        self.room = self.positions - count_image_tokens(files.shape, files.preprocessing)  # the tokens of a prompt

    def label_tokens(self) -> Counter[int]:
        """How often each token stands in the labels of the things that are taught."""
        notes = (note for example in self.examples for note in example.annotations)
        named = Counter(note.label for note in notes if not isinstance(note, Text | Quad))
        counts: Counter[int] = Counter()
        for label, count in named.items():
            for token in set(self._ids(label)):
                counts[token] += count
        return counts

    def __getitem__(self, number: int) -> Lesson:
        config = self.config
        pixels, views, owner, asked, answered, replayed = [], [], [], [], [], []
        for place in range(config.pictures):
            position = number * config.pictures + place
            rng = np.random.default_rng((config.seed, 3, position))
            old = self.replay is not None and rng.random() < config.replay
            view, image, size, questions = self._replayed(position) if old else self._own(position, rng)
            pixels.append(torch.from_numpy(self.files.preprocessing.squash(image).copy()))
            views.append(view)
            for question in questions:
                prompt = self._ids(BOS + question.task.build_prompt(question.text, question.region, size) + EOS)
                if len(prompt) > self.room:
                    continue  # nobody can ask it
                owner.append(place)
                replayed.append(old)
                asked.append(prompt)
                answer = BOS + format_answer(question.task, question.answer, size) + EOS
                answered.append(self._ids(answer)[: self.positions])
        pad = self.files.shape.text_config.pad_token_id
        return Lesson(
            torch.stack(pixels), torch.tensor(views), torch.tensor(owner, dtype=torch.long),
            _padded(asked, pad, self.room), _padded(answered, IGNORE, self.positions),
            torch.tensor(replayed, dtype=torch.bool),
        )  # fmt: skip

    def _own(self, position: int, rng: np.random.Generator) -> Seen:
        """A picture of the project; each comes at most once an epoch, in an order of the epoch's own: what is replayed
        takes the place of some."""
        epoch, place = divmod(position, len(self.order))
        index = self.order[int(np.random.default_rng((self.config.seed, 4, epoch)).permutation(len(self.order))[place])]
        view = int(rng.integers(self.config.views)) * bool(self.config.augment)  # unchanged, they are all one
        # Where features are kept the same changes must come again; elsewhere each picture is a new one.
        chance = np.random.default_rng((self.config.seed, 5, index, view)) if self.config.kept_stages else rng
        example = self.examples[index]
        if self.config.augment:
            example = augment(example, self.changes, chance, self.examples, self.things)
        questions = self.questions(example, self.tokens[index], rng)
        return index * self.config.views + view, example.open(), example.size, questions

    def questions(self, example: LabeledImage, tokens: Sequence[str], rng: np.random.Generator) -> list[Sample]:
        """Up to `prompts` questions, by SHARES."""
        task_weights = np.array([TASK_WEIGHTS.get(token, _PLAIN) for token in tokens])
        order = rng.choice(len(tokens), size=len(tokens), replace=False, p=task_weights / task_weights.sum())
        asked = [tokens[i] for i in order[: self.config.prompts]]
        found = samples.questions(example, asked, labels=self.labels, rng=rng, order=self.config.order)
        return some(found, self.config.prompts, rng)

    def _replayed(self, position: int) -> Seen:
        assert self.replay is not None
        image, questions = self.replay(position, self.config.prompts)
        return -1 - position % POOL, image, image.size, questions

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.files.tokenizer.backend.encode(text, add_special_tokens=False).ids
        return ids


def _padded(rows: Sequence[list[int]], fill: int, most: int) -> Tensor:
    """Ids [n, longest, rounded], filled up on the right; `most` is what the model has places for."""
    longest = min(forward.rounded(max(map(len, rows), default=0)), most)
    filled = [row + [fill] * (longest - len(row)) for row in rows]
    return torch.tensor(filled, dtype=torch.long).view(len(rows), longest)
