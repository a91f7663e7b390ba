"""Dense targets agree with the scenes they are made of."""

import numpy as np
import pytest
import torch
from PIL import Image

from prompts import locations
from seedling.dense_heads import LETTERS, DenseTargets
from seedling.scenes.batches import to_pixels
from seedling.scenes.colors import COLOR_NAMES, make_pure_color_shares
from seedling.scenes.dense_targets import make_dense_targets
from seedling.scenes.drawing import draw_scene
from seedling.scenes.glyphs import CATEGORIES
from seedling.scenes.out_of_distribution import draw_unrelated_scene, widen
from seedling.scenes.scene import Scene, SceneObject, SceneWord

SIDE, GRID = 96, 12


def make_targets(scenes: list[Scene]) -> DenseTargets:
    return make_dense_targets(scenes, torch.stack([to_pixels(scene.image, SIDE) for scene in scenes]), GRID)


def find_cell(x: float, y: float, scene: Scene, grid: int = GRID) -> int:
    """Returns the cell with the nearest center; centers are whole multiples of the cell's side."""
    row, column = (min(round(share * grid), grid - 1) for share in (y / scene.height, x / scene.width))
    return row * grid + column


def test_the_cells_in_the_box_of_a_single_object_belong_to_it() -> None:
    for seed in range(20):
        scene = draw_scene(seed, objects=(1, 1), words=(0, 0))
        (item,) = scene.objects
        dense = make_targets([scene])
        covered = {
            row * GRID + column
            for row in range(GRID)
            for column in range(GRID)
            if item.box[0] <= column * scene.width / GRID <= item.box[2]
            and item.box[1] <= row * scene.height / GRID <= item.box[3]
        }
        assert covered
        assert set(dense.classes[0].nonzero().flatten().tolist()) == covered
        bins = locations.quantize_points(item.box, scene.width, scene.height)
        for cell in covered:
            assert dense.classes[0, cell] == 1 + CATEGORIES.index(item.category)
            assert dense.boxes[0, cell].tolist() == bins
            assert dense.colors[0, cell].tolist() == pytest.approx(item.color_shares)
        assert not dense.letters.any()


def test_only_a_background_of_one_color_has_a_color_target() -> None:
    scene = draw_scene(3, objects=(1, 1), words=(0, 0))
    dense = make_targets([scene, widen(scene, np.random.default_rng(0)), draw_unrelated_scene(0)])
    occupied = dense.classes > 0
    free = dense.colors[0][~occupied[0]]
    assert set(free.argmax(-1).tolist()) == {COLOR_NAMES.index(scene.background)}
    assert (free.amax(-1) == 1).all()
    for number in (1, 2):
        assert not dense.colors[number][~occupied[number]].any()
    assert dense.colors[1][occupied[1]].argmax(-1).unique().tolist() == [COLOR_NAMES.index(scene.objects[0].color)]


def test_a_fine_point_has_the_color_shares_around_it() -> None:
    """Red on the left, blue on the right of the 10th of 24 points, which is centered at pixel 40."""
    image = Image.new("RGB", (SIDE, SIDE), "red")
    image.paste((0, 0, 255), (40, 0, SIDE, SIDE))
    targets = make_targets([Scene(image, (), (), "red")])
    shares = targets.early_colors[0].reshape(2 * GRID, 2 * GRID, len(COLOR_NAMES))
    red, blue = (shares[..., COLOR_NAMES.index(name)] for name in ("red", "blue"))
    assert (red[:, :10] == 1).all()
    assert (red[:, 10] == 0.5).all()
    assert (blue[:, 10] == 0.5).all()
    assert (blue[:, 11:] == 1).all()


def test_a_cell_belongs_to_the_smallest_object_over_its_center(scenes: list[Scene]) -> None:
    dense = make_targets(scenes)
    checked = 0
    for number, scene in enumerate(scenes):
        for item in scene.objects:
            cell = find_cell((item.box[0] + item.box[2]) / 2, (item.box[1] + item.box[3]) / 2, scene)
            x, y = (cell % GRID) * scene.width / GRID, (cell // GRID) * scene.height / GRID
            over = [o for o in scene.objects if o.box[0] <= x <= o.box[2] and o.box[1] <= y <= o.box[3]]
            if over:
                least = min(over, key=lambda o: (o.box[2] - o.box[0]) * (o.box[3] - o.box[1]))
                assert dense.classes[number, cell] == 1 + CATEGORIES.index(least.category)
                bins = locations.quantize_points(least.box, scene.width, scene.height)
                assert dense.boxes[number, cell].tolist() == bins
                checked += 1
    assert checked > 50


def test_the_order_of_objects_does_not_matter() -> None:
    def make_item(category: str, box: tuple[float, float, float, float]) -> SceneObject:
        return SceneObject(category, "noto/x", box, [[0.0, 0.0, 1.0, 0.0, 1.0, 1.0]], make_pure_color_shares("red"))

    large, small = make_item("cat", (0, 0, 120, 120)), make_item("dog", (30, 30, 60, 60))
    orders = ((large, small), (small, large))
    one, two = make_targets([Scene(Image.new("RGB", (120, 120)), items, (), "red") for items in orders]).classes
    assert torch.equal(one, two)
    assert (one.eq(1 + CATEGORIES.index("dog")).sum(), one.eq(0).sum()) == (16, 0)


def test_letters_are_in_their_half_cells() -> None:
    """Twelve letters in a row, one per half cell, upright and upside down."""
    text = "ABCDEFGHIJ09"
    upright = SceneWord(text, (10, 30, 130, 30, 130, 50, 10, 50), (10, 30, 130, 50))  # half centers: 15, 25, 35 …
    turned = SceneWord(text, (230, 150, 110, 150, 110, 130, 230, 130), (110, 130, 230, 150))
    scene = Scene(Image.new("RGB", (240, 240)), (), (upright, turned), "red")
    letters = make_targets([scene]).letters[0].reshape(GRID, GRID * 2)
    rows = {row: "".join(LETTERS[k - 1] if k else "." for k in letters[row].tolist()) for row in (2, 7)}
    assert rows == {2: ".." + text + "." * 10, 7: "." * 12 + text[::-1]}
    assert letters.count_nonzero() == 24
    indices = make_targets([scene]).letter_indices[0].reshape(GRID, GRID * 2)
    assert indices[2].tolist() == [0, 0, *range(1, 13), *[0] * 10]
    assert indices[7].tolist() == [*[0] * 12, *range(12, 0, -1)]


def test_drawn_letters_are_where_their_word_is(scenes: list[Scene]) -> None:
    dense = make_targets(scenes)
    for number, scene in enumerate(scenes):
        halves = dense.letters[number].reshape(GRID, GRID * 2)
        expected = [LETTERS.index(letter) + 1 for word in scene.words for letter in word.text]
        assert set(halves[halves > 0].tolist()) <= set(expected)
        # Of two letters in one half, one is lost. A wide or a high letter covers several halves.
        assert len(expected) * 0.7 <= halves.count_nonzero() <= len(expected) * 6
        for row, half in halves.nonzero().tolist():
            x, y = (half - 0.5) / (2 * GRID) * scene.width, row / GRID * scene.height
            margin = (scene.width / (4 * GRID) + 1, scene.height / (2 * GRID) + 1)
            assert any(
                w.box[0] - margin[0] <= x <= w.box[2] + margin[0] and w.box[1] - margin[1] <= y <= w.box[3] + margin[1]
                for w in scene.words
            )
