"""Training batches of drawn scenes. The batch of a step depends on the seed and the step alone, so a run that was
stopped goes on with the very pictures it would have seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from finetune.losses import IGNORE
from labels.sample import Sample
from prompts import locations
from prompts.formatting import format_answer
from prompts.tasks import BOS, EOS
from seedling.dense_heads import HALVES, LETTERS, SHADES, DenseTargets
from seedling.scenes import samples
from seedling.scenes.alignment import Look, looks
from seedling.scenes.colors import COLOR_NAMES, classify_pixels, pure_color_shares
from seedling.scenes.drawing import draw_scene
from seedling.scenes.glyphs import CATEGORIES
from seedling.scenes.masks import asked_for
from seedling.scenes.out_of_distribution import abreast, foreign, widened
from seedling.scenes.scene import Scene, Word

# Seeds below this are for looking and testing: training starts above it and never sees them.
TRAINING_SEEDS = 1_000_000
READING = ("<OCR>", "<OCR_WITH_REGION>", "<REGION_TO_OCR>")
# How often each task is asked: those that must heed their prompt most, since two questions of one picture with two
# answers teach that best.
TASK_WEIGHTS = {
    "<OD>": 2.5, "<OCR_WITH_REGION>": 1.6, "<REGION_TO_OCR>": 1.6, "<OCR>": 1.0, "<REGION_TO_CATEGORY>": 0.8,
    "<CAPTION>": 0.8, "<DETAILED_CAPTION>": 0.8, "<MORE_DETAILED_CAPTION>": 0.8, "<DENSE_REGION_CAPTION>": 1.0,
    "<REGION_PROPOSAL>": 0.5, "<CAPTION_TO_PHRASE_GROUNDING>": 2.5, "<REFERRING_EXPRESSION_SEGMENTATION>": 2.5,
    "<REGION_TO_SEGMENTATION>": 1.5, "<OPEN_VOCABULARY_DETECTION>": 4.0, "<REGION_TO_DESCRIPTION>": 1.2,
}  # fmt: skip
EMPTY, FOREIGN, WIDE, PAGES = 0.03, 0.04, 0.14, 0.1
"""Shares of pictures: an empty ground; something else than the world; far wider or higher than others; many words."""
TWINS = 0.15
"""The share of the objects that repeat a kind of their picture: few do by chance, and they are told apart by words."""
NO_WORDS_SHARE = 0.35
"""The share of the others in which there is nothing to read."""


@dataclass(frozen=True, slots=True)
class Batch:
    """b pictures and n prompts on them. pixels uint8 [b, 3, side, side]; owner [n]: the prompt's picture;
    prompts [n, p] and labels [n, l], padded on the right with the pad token and -100; asked, booleans [n, cells, 16]:
    which places of each cell the answer is about (`masks.asked_for`); looks [n, l]: for each label the row of
    `looked_at` [m, cells] that says where it lies in the picture, shares that sum to one (`alignment.looks`), -1 where
    it lies nowhere."""

    pixels: Tensor
    dense: DenseTargets
    owner: Tensor
    prompts: Tensor
    labels: Tensor
    asked: Tensor
    looks: Tensor
    looked_at: Tensor


class SceneBatchDataset(Dataset[Batch]):
    """Step → Batch."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        side: int,
        grid: int,
        pictures: int,
        prompts: int,
        seed: int = 0,
        share: tuple[int, int] = (0, 1),
        objects: tuple[int, int] = (1, 4),
        words: tuple[int, int] = (1, 2),
        reading: float = 1.0,
        task_weights: Mapping[str, float] = TASK_WEIGHTS,
        wide: float = WIDE,
    ) -> None:
        """`side` pixels and `grid` cells a side; `prompts` questions a picture, 0 for dense targets alone; `share`
        (i, n): of several processes this is number i, which takes each n-th picture; `words`: the least and the most,
        in the two scenes of three that have any; `reading` scales the share of the tasks that read them; `shares`: how
        often each task is asked, and `wide` the share of wide pictures."""
        self.tokenizer, self.side, self.grid = tokenizer, side, grid
        self.pictures, self.prompts, self.seed, self.objects = pictures, prompts, seed, objects
        self.words, self.reading, self.share, self.task_weights, self.wide = words, reading, share, task_weights, wide

    def __getitem__(self, step: int) -> Batch:
        scenes, owner, asked, answered, masks = [], [], [], [], []
        found: list[list[Look]] = []
        for number, i in enumerate(range(self.share[0], self.pictures, self.share[1])):
            seed = TRAINING_SEEDS * (1 + self.seed) + step * self.pictures + i
            rng = np.random.default_rng((seed, 1))
            scene = self.scene(seed, rng).reordered(rng)
            scenes.append(scene)
            for question in choose_samples(scene, self.prompts, rng, self.reading, self.task_weights):
                size = (scene.width, scene.height)
                owner.append(number)
                asked.append(BOS + question.task.build_prompt(question.text, question.region, size) + EOS)
                answered.append(BOS + format_answer(question.task, question.answer, size) + EOS)
                masks.append(asked_for(question, scene, self.side, self.grid))
                found.append(looks(question, scene, self.side, self.grid))
        labels, *aligned = self._aligned(answered, found)
        labels[labels == self.tokenizer.pad_token_id] = IGNORE
        pixels = torch.stack([pixels_of(s.image, self.side) for s in scenes])
        owners = torch.tensor(owner, dtype=torch.long)
        told = np.array(masks, bool).reshape(-1, self.grid**2, SHADES**2)
        dense = dense_targets(scenes, pixels, self.grid)
        return Batch(pixels, dense, owners, self._ids(asked), labels, torch.from_numpy(told), *aligned)

    def scene(self, seed: int, rng: np.random.Generator) -> Scene:
        """The scene of `seed`, of the kind that `rng` says."""
        kind, wide = rng.random(), rng.random() < self.wide
        # Nobody can read what a wide picture shows of words: they are squashed to threads.
        words = (0, 0) if rng.random() < NO_WORDS_SHARE or wide else self.words
        if kind < FOREIGN:
            return foreign(seed)
        if kind > 1 - PAGES:
            return draw_scene(seed, objects=(0, 2), words=(4, 7))
        if wide and kind > 0.5:
            return abreast(seed, rng)
        scene = draw_scene(seed, objects=(0, 0) if kind < FOREIGN + EMPTY else self.objects, words=words, twins=TWINS)
        return widened(scene, rng) if wide else scene

    def _aligned(self, texts: list[str], found: Sequence[Sequence[Look]]) -> tuple[Tensor, Tensor, Tensor]:
        """The token ids of a batch's answers, and their `looks` and `looked_at`; a token belongs to the look that its
        last character is in."""
        labels, ends = self._tokens(texts)
        rows = torch.full_like(labels, -1)
        places: list[np.ndarray] = []
        for number, (text, own) in enumerate(zip(texts, found, strict=True)):
            at = np.full(1 + len(text), -1)  # by the end of a character; padding ends at 0
            for look in own:
                at[1 + len(BOS) + look.start : 1 + len(BOS) + look.end] = len(places)
                places.append(look.cells)
            rows[number] = torch.from_numpy(at)[ends[number]]
        return labels, rows, torch.from_numpy(np.array(places, np.float32).reshape(-1, self.grid**2))

    def _ids(self, texts: list[str]) -> Tensor:
        return self._tokens(texts)[0]

    def _tokens(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """The ids, padded on the right, and where in its text each token ends, 0 of padding: [n, l] both."""
        if not texts:
            return torch.zeros(0, 0, dtype=torch.long), torch.zeros(0, 0, dtype=torch.long)
        told = self.tokenizer(
            texts, add_special_tokens=False, padding=True, padding_side="right", return_offsets_mapping=True
        )
        return torch.tensor(told["input_ids"]), torch.tensor(told["offset_mapping"])[..., 1]


def choose_samples(
    scene: Scene,
    count: int,
    rng: np.random.Generator,
    reading: float = 1.0,
    task_weights: Mapping[str, float] = TASK_WEIGHTS,
) -> list[Sample]:
    """`count` questions on a scene, by `shares`; fewer when the scene has less to ask about. A region may be asked
    about again, by another box; nothing else comes twice."""
    tokens = list(task_weights)
    chances = np.array([share * (reading if token in READING else 1.0) for token, share in task_weights.items()])
    found: list[Sample] = []
    for i in rng.choice(len(tokens), size=20 * count, p=chances / chances.sum()):
        if len(found) == count:
            break
        question = samples.make_sample(scene, tokens[i], rng)
        if question and not any((q.task, q.text) == (question.task, question.text) and not q.region for q in found):
            found.append(question)
    return found


def pixels_of(image: Image.Image, side: int) -> Tensor:
    """RGB picture → uint8 [3, side, side], squashed bicubically as the server does."""
    squashed = image.resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(squashed).copy()).permute(2, 0, 1)


def dense_targets(scenes: Sequence[Scene], pixels: Tensor, grid: int) -> DenseTargets:
    """What each cell of a `grid` × `grid` raster should know; a cell belongs to the smallest box over its middle.
    `pixels`: the scenes as they are seen (`pixels_of`), uint8 [b, 3, side, side].

    Cell k looks at pixel k · side / grid (`blueprint.initialise`). A half belongs to the letter under its middle, and
    each letter has at least the half that is nearest.
    """
    cells = grid * grid
    classes = np.zeros((len(scenes), cells), dtype=np.int64)
    boxes = np.zeros((len(scenes), cells, 4), dtype=np.int64)
    colors = np.zeros((len(scenes), cells, len(COLOR_NAMES)), dtype=np.float32)
    letters = np.zeros((len(scenes), cells, HALVES), dtype=np.int64)
    orders = np.zeros((len(scenes), cells, HALVES), dtype=np.int64)
    signs = np.zeros((len(scenes), 4 * cells), dtype=np.int64)
    middle = np.arange(grid) / grid
    halves = (np.arange(grid * HALVES) - (HALVES - 1) / 2) / (grid * HALVES)
    fine = np.arange(2 * grid) / (2 * grid)
    for i, scene in enumerate(scenes):
        colors[i] = 0 if scene.mixed else pure_color_shares(scene.background)
        by_area = sorted(scene.objects, key=lambda t: -(t.box[2] - t.box[0]) * (t.box[3] - t.box[1]))
        for thing in by_area:
            x1, y1, x2, y2 = thing.box
            columns = (middle >= x1 / scene.width) & (middle <= x2 / scene.width)
            rows = (middle >= y1 / scene.height) & (middle <= y2 / scene.height)
            covered = np.flatnonzero(np.outer(rows, columns))
            classes[i, covered] = 1 + CATEGORIES.index(thing.category)
            colors[i, covered] = thing.color_shares
            boxes[i, covered] = locations.quantize_points(thing.box, scene.width, scene.height)
        for word in scene.words:
            size = np.array([scene.width, scene.height])
            letter, count = [1 + LETTERS.index(one) for one in word.text], range(1, 1 + len(word.text))
            _spell(letters[i].reshape(grid, grid * HALVES), halves, middle, word, size, letter)
            _spell(orders[i].reshape(grid, grid * HALVES), halves, middle, word, size, count)
            _spell(signs[i].reshape(2 * grid, 2 * grid), fine, fine, word, size, letter)
    tints = np.stack([_tints(picture.permute(1, 2, 0).numpy(), 2 * grid) for picture in pixels])
    return DenseTargets(*map(torch.from_numpy, (classes, boxes, colors, letters, orders, signs, tints)))


def _tints(picture: np.ndarray, raster: int) -> np.ndarray:
    """The colours' shares around each place of a `raster` × `raster`, [raster², names], of every other pixel; place k
    looks at pixel k · side / raster."""
    side = len(picture)
    half = side // raster // 2
    around = np.pad(picture, ((half, 0), (half, 0), (0, 0)), "edge")[:side:2, :side:2]
    names = classify_pixels(around.reshape(-1, 3)).reshape(raster, half, raster, half)
    return (names[..., None] == np.arange(len(COLOR_NAMES))).mean((1, 3), dtype=np.float32).reshape(raster**2, -1)


def _spell(
    raster: np.ndarray, across: np.ndarray, down: np.ndarray, word: Word, size: np.ndarray, told: Sequence[int]
) -> None:
    """Writes what is `told` of a word's letters into the places of `raster` that look at them, their middles at
    `across` and `down`, in shares of the picture, whose `size` is in pixels."""
    quad, spelled = np.array(word.quad).reshape(4, 2) / size, np.array(told)
    # Where each middle lies along the word's top side and down its left one, 0 … 1 inside.
    points = np.stack(np.meshgrid(across, down), -1) - quad[0]
    along, below = np.moveaxis(points @ np.linalg.inv([quad[1] - quad[0], quad[3] - quad[0]]), -1, 0)
    inside = (along >= 0) & (along < 1) & (below >= 0) & (below < 1)
    raster[inside] = spelled[np.searchsorted(word.edges[1:-1], along[inside], "right")]
    x, y = (word.middles / size).T
    raster[np.abs(down[:, None] - y).argmin(0), np.abs(across[:, None] - x).argmin(0)] = spelled
