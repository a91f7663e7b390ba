"""Training batches of drawn scenes.

The batch of a step depends only on the seed and the step, so a run that is resumed sees exactly the same images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from finetune.datasets.task_weights import TASK_WEIGHTS
from finetune.losses import IGNORE
from labels.sample import Sample
from prompts.formatting import format_answer
from prompts.special_tokens import BOS, EOS
from seedling.dense_heads import SUBCELLS, DenseTargets
from seedling.scenes import samples
from seedling.scenes.alignment import AttentionTarget, make_attention_targets
from seedling.scenes.dense_targets import make_dense_targets
from seedling.scenes.drawing import draw_scene
from seedling.scenes.masks import make_relevance_mask
from seedling.scenes.out_of_distribution import draw_side_by_side, draw_unrelated_scene, widen
from seedling.scenes.scene import Scene

TRAINING_SEEDS = 1_000_000
"""Seeds from here on are for training. Smaller ones are for evaluation and tests; training never sees them."""
OCR_TASKS = ("<OCR>", "<OCR_WITH_REGION>", "<REGION_TO_OCR>")
EMPTY_SHARE, UNRELATED_SHARE, WIDE_SHARE, TEXT_PAGE_SHARE = 0.03, 0.04, 0.14, 0.1
"""Shares of images that are: a plain background; unrelated to the 40 categories; very wide or high; full of words."""
REPEAT_SHARE = 0.15
"""Share of objects that repeat a category of their image. Few do by chance, and then words must tell them apart."""
NO_WORDS_SHARE = 0.35
"""Share of the other images that have no words."""


@dataclass(frozen=True, slots=True)
class SceneBatch:
    """b images and n prompts about them, with cells = grid²."""

    pixels: Tensor
    """uint8 [b, 3, side, side]."""
    dense: DenseTargets
    owner: Tensor
    """[n]: the index of each prompt's image."""
    prompts: Tensor
    """[n, p], padded on the right with the pad token."""
    labels: Tensor
    """[n, l], padded on the right with -100."""
    relevance: Tensor
    """Booleans [n, cells, 16]: the subcells that the answer is about (`masks.make_relevance_mask`)."""
    attention_rows: Tensor
    """[n, l]: for each label its row of `attention_targets`, or -1 for none."""
    attention_targets: Tensor
    """[m, cells]: shares that sum to one (`alignment.make_attention_targets`)."""


class SceneBatchDataset(Dataset[SceneBatch]):
    """Maps a step to its `SceneBatch`."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        side: int,
        grid: int,
        images: int,
        prompts: int,
        seed: int = 0,
        shard: tuple[int, int] = (0, 1),
        objects: tuple[int, int] = (1, 4),
        words: tuple[int, int] = (1, 2),
        ocr_weight: float = 1.0,
        task_weights: Mapping[str, float] = TASK_WEIGHTS,
        wide_share: float = WIDE_SHARE,
    ) -> None:
        """Creates the dataset.

        Args:
            side: Pixels per side of an image.
            grid: Cells per side of an image.
            images: Images per batch, over all processes.
            prompts: Prompts per image; 0 for dense targets only.
            shard: (i, n): this is process i of n, which takes every n-th image.
            objects: Minimum and maximum number of objects.
            words: Minimum and maximum number of words, in the two of three scenes that have any.
            ocr_weight: Factor on the weights of the OCR tasks.
            task_weights: Relative frequency of each task.
            wide_share: Share of wide images.
        """
        self.tokenizer, self.side, self.grid = tokenizer, side, grid
        self.images, self.prompts, self.seed, self.objects = images, prompts, seed, objects
        self.words, self.ocr_weight, self.shard = words, ocr_weight, shard
        self.task_weights, self.wide_share = task_weights, wide_share

    def __getitem__(self, step: int) -> SceneBatch:
        scenes, owners, prompts, answers, masks = [], [], [], [], []
        targets: list[list[AttentionTarget]] = []
        for number, i in enumerate(range(self.shard[0], self.images, self.shard[1])):
            seed = TRAINING_SEEDS * (1 + self.seed) + step * self.images + i
            rng = np.random.default_rng((seed, 1))
            scene = self.draw(seed, rng).jitter_order(rng)
            scenes.append(scene)
            for sample in choose_samples(scene, self.prompts, rng, self.ocr_weight, self.task_weights):
                size = (scene.width, scene.height)
                owners.append(number)
                prompts.append(BOS + sample.task.build_prompt(sample.text, sample.region, size) + EOS)
                answers.append(BOS + format_answer(sample.task, sample.answer, size) + EOS)
                masks.append(make_relevance_mask(sample, scene, self.side, self.grid))
                targets.append(make_attention_targets(sample, scene, self.side, self.grid))
        labels, attention_rows, attention_targets = self._tokenize_answers(answers, targets)
        labels[labels == self.tokenizer.pad_token_id] = IGNORE
        pixels = torch.stack([to_pixels(scene.image, self.side) for scene in scenes])
        relevance = np.array(masks, bool).reshape(-1, self.grid**2, SUBCELLS**2)
        return SceneBatch(
            pixels,
            make_dense_targets(scenes, pixels, self.grid),
            torch.tensor(owners, dtype=torch.long),
            self._tokenize(prompts)[0],
            labels,
            torch.from_numpy(relevance),
            attention_rows,
            attention_targets,
        )

    def draw(self, seed: int, rng: np.random.Generator) -> Scene:
        """Draws the scene of `seed`; `rng` chooses its kind."""
        kind, wide = rng.random(), rng.random() < self.wide_share
        # Words are unreadable in a wide image: resizing makes them too thin.
        words = (0, 0) if rng.random() < NO_WORDS_SHARE or wide else self.words
        if kind < UNRELATED_SHARE:
            return draw_unrelated_scene(seed)
        if kind > 1 - TEXT_PAGE_SHARE:
            return draw_scene(seed, objects=(0, 2), words=(4, 7))
        if wide and kind > 0.5:
            return draw_side_by_side(seed, rng)
        objects = (0, 0) if kind < UNRELATED_SHARE + EMPTY_SHARE else self.objects
        scene = draw_scene(seed, objects=objects, words=words, repeat_share=REPEAT_SHARE)
        return widen(scene, rng) if wide else scene

    def _tokenize_answers(
        self, texts: list[str], targets: Sequence[Sequence[AttentionTarget]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns `labels`, `attention_rows` and `attention_targets` of a batch.

        A token takes the target that its last character belongs to.
        """
        labels, ends = self._tokenize(texts)
        rows = torch.full_like(labels, -1)
        cells: list[np.ndarray] = []
        for number, (text, own_targets) in enumerate(zip(texts, targets, strict=True)):
            row_at = np.full(1 + len(text), -1)  # by the end of a character; padding ends at 0
            for target in own_targets:
                row_at[1 + len(BOS) + target.start : 1 + len(BOS) + target.end] = len(cells)
                cells.append(target.cells)
            rows[number] = torch.from_numpy(row_at)[ends[number]]
        return labels, rows, torch.from_numpy(np.array(cells, np.float32).reshape(-1, self.grid**2))

    def _tokenize(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Returns the IDs, padded on the right, and the position in the text where each token ends (0 for padding).

        Both are [n, l].
        """
        if not texts:
            return torch.zeros(0, 0, dtype=torch.long), torch.zeros(0, 0, dtype=torch.long)
        encoded = self.tokenizer(
            texts, add_special_tokens=False, padding=True, padding_side="right", return_offsets_mapping=True
        )
        return torch.tensor(encoded["input_ids"]), torch.tensor(encoded["offset_mapping"])[..., 1]


def choose_samples(
    scene: Scene,
    count: int,
    rng: np.random.Generator,
    ocr_weight: float = 1.0,
    task_weights: Mapping[str, float] = TASK_WEIGHTS,
) -> list[Sample]:
    """Returns `count` samples of a scene by `task_weights`, or fewer when the scene does not offer as many.

    A region may be asked about again with another box; no other sample comes twice.
    """
    tokens = list(task_weights)
    weights = np.array([w * (ocr_weight if token in OCR_TASKS else 1.0) for token, w in task_weights.items()])
    chosen: list[Sample] = []
    for i in rng.choice(len(tokens), size=20 * count, p=weights / weights.sum()):
        if len(chosen) == count:
            break
        sample = samples.make_sample(scene, tokens[i], rng)
        if sample and not any((s.task, s.text) == (sample.task, sample.text) and not s.region for s in chosen):
            chosen.append(sample)
    return chosen


def to_pixels(image: Image.Image, side: int) -> Tensor:
    """Returns an RGB image as uint8 [3, side, side], resized bicubically as the server does."""
    resized = image.resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1)
