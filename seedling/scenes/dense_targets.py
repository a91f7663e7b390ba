"""Targets of the dense heads: what every grid cell of a drawn scene shows."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from prompts import locations
from seedling.dense_heads import HALVES, LETTERS, DenseTargets
from seedling.scenes.colors import COLOR_NAMES, classify_pixels, make_pure_color_shares
from seedling.scenes.glyphs import CATEGORIES
from seedling.scenes.scene import Scene, SceneWord


def make_dense_targets(scenes: Sequence[Scene], pixels: Tensor, grid: int) -> DenseTargets:
    """Returns the targets of a `grid` × `grid` raster.

    `pixels` are the scenes as the model sees them (`batches.to_pixels`), uint8 [b, 3, side, side]. Cell k is centered
    at pixel k · side / grid (`architecture.compute_cell_centers`). A cell belongs to the smallest box over its center.
    A half cell belongs to the letter under its center, and each letter has at least the nearest half.
    """
    cells = grid * grid
    classes = np.zeros((len(scenes), cells), dtype=np.int64)
    boxes = np.zeros((len(scenes), cells, 4), dtype=np.int64)
    colors = np.zeros((len(scenes), cells, len(COLOR_NAMES)), dtype=np.float32)
    letters = np.zeros((len(scenes), cells, HALVES), dtype=np.int64)
    letter_indices = np.zeros((len(scenes), cells, HALVES), dtype=np.int64)
    early_letters = np.zeros((len(scenes), 4 * cells), dtype=np.int64)
    centers = np.arange(grid) / grid
    half_centers = (np.arange(grid * HALVES) - (HALVES - 1) / 2) / (grid * HALVES)
    fine_centers = np.arange(2 * grid) / (2 * grid)
    for i, scene in enumerate(scenes):
        colors[i] = 0 if scene.multicolored else make_pure_color_shares(scene.background)
        by_area = sorted(scene.objects, key=lambda o: -(o.box[2] - o.box[0]) * (o.box[3] - o.box[1]))
        for item in by_area:
            x1, y1, x2, y2 = item.box
            columns = (centers >= x1 / scene.width) & (centers <= x2 / scene.width)
            rows = (centers >= y1 / scene.height) & (centers <= y2 / scene.height)
            covered = np.flatnonzero(np.outer(rows, columns))
            classes[i, covered] = 1 + CATEGORIES.index(item.category)
            colors[i, covered] = item.color_shares
            boxes[i, covered] = locations.quantize_points(item.box, scene.width, scene.height)
        for word in scene.words:
            size = np.array([scene.width, scene.height])
            letter_ids, positions = [1 + LETTERS.index(one) for one in word.text], range(1, 1 + len(word.text))
            half_raster = (grid, grid * HALVES)
            _write_letters(letters[i].reshape(half_raster), half_centers, centers, word, size, letter_ids)
            _write_letters(letter_indices[i].reshape(half_raster), half_centers, centers, word, size, positions)
            fine_raster = (2 * grid, 2 * grid)
            _write_letters(early_letters[i].reshape(fine_raster), fine_centers, fine_centers, word, size, letter_ids)
    early_colors = np.stack([_measure_local_color_shares(image.permute(1, 2, 0).numpy(), 2 * grid) for image in pixels])
    arrays = (classes, boxes, colors, letters, letter_indices, early_letters, early_colors)
    return DenseTargets(*map(torch.from_numpy, arrays))


def _measure_local_color_shares(image: np.ndarray, raster: int) -> np.ndarray:
    """Returns the color shares around each point of a `raster` × `raster`, [raster², colors].

    Point k is centered at pixel k · side / raster. Every second pixel counts.
    """
    side = len(image)
    half = side // raster // 2
    around = np.pad(image, ((half, 0), (half, 0), (0, 0)), "edge")[:side:2, :side:2]
    names = classify_pixels(around.reshape(-1, 3)).reshape(raster, half, raster, half)
    return (names[..., None] == np.arange(len(COLOR_NAMES))).mean((1, 3), dtype=np.float32).reshape(raster**2, -1)


def _write_letters(
    raster: np.ndarray, across: np.ndarray, down: np.ndarray, word: SceneWord, size: np.ndarray, values: Sequence[int]
) -> None:
    """Writes one value per letter of a word into the points of `raster` on that letter.

    `across` and `down` are the centers of the raster's points as fractions of the image, whose `size` is in pixels.
    """
    quad, per_letter = np.array(word.quad).reshape(4, 2) / size, np.array(values)
    # The position of each center along the word's top side and down its left side, 0 … 1 inside the quad.
    points = np.stack(np.meshgrid(across, down), -1) - quad[0]
    along, below = np.moveaxis(points @ np.linalg.inv([quad[1] - quad[0], quad[3] - quad[0]]), -1, 0)
    inside = (along >= 0) & (along < 1) & (below >= 0) & (below < 1)
    raster[inside] = per_letter[np.searchsorted(word.letter_edges[1:-1], along[inside], "right")]
    x, y = (word.letter_centers / size).T
    raster[np.abs(down[:, None] - y).argmin(0), np.abs(across[:, None] - x).argmin(0)] = per_letter
