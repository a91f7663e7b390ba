"""The ground truth of a scene, checked against its pixels: one seed always draws the same background."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw

from seedling.scenes import colors, drawing
from seedling.scenes.drawing import draw_scene
from seedling.scenes.glyphs import CATEGORIES, HOLDOUT_SET, TRAINING_SETS, load_glyph_set
from seedling.scenes.scene import Scene, SceneObject


def hash_scene(scene: Scene) -> str:
    truth = repr((scene.objects, scene.words, scene.background)).encode()
    return hashlib.sha256(scene.image.tobytes() + truth).hexdigest()


def find_changes(scene: Scene, seed: int) -> np.ndarray:
    """Returns (h, w) bool: the pixels that differ from the plain background of the same seed."""
    bare = draw_scene(seed, objects=(0, 0), words=(0, 0), degraded_share=0)
    assert bare.image.size == scene.image.size
    difference = np.asarray(scene.image).astype(int) - np.asarray(bare.image)
    return np.abs(difference).max(axis=-1) > 0


def find_bounds(mask: np.ndarray) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def fill_polygons(polygons: list[list[float]], size: tuple[int, int]) -> np.ndarray:
    """Returns an (h, w) bool raster of the polygons, drawn at four times the resolution and averaged."""
    sheet = Image.new("L", (size[0] * 4, size[1] * 4), 0)
    for ring in polygons:
        ImageDraw.Draw(sheet).polygon([4 * value - 0.5 for value in ring], fill=255)
    return np.asarray(sheet.resize(size, Image.Resampling.BOX)) > 127


def fill_holes(mask: np.ndarray) -> np.ndarray:
    outside = Image.fromarray(np.pad(np.where(mask, 255, 0).astype(np.uint8), 1)).copy()  # writable
    ImageDraw.floodfill(outside, (0, 0), 128)
    return np.asarray(outside)[1:-1, 1:-1] != 128


def test_a_seed_always_draws_the_same_scene() -> None:
    assert hash_scene(draw_scene(7)) == hash_scene(draw_scene(7))
    assert hash_scene(draw_scene(7)) != hash_scene(draw_scene(8))


def test_another_process_draws_the_same_scene() -> None:
    code = (
        "import hashlib; from seedling.scenes.drawing import draw_scene; s = draw_scene(11); "
        "truth = repr((s.objects, s.words, s.background)).encode(); "
        "print(hashlib.sha256(s.image.tobytes() + truth).hexdigest())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == hash_scene(draw_scene(11))


def test_boxes_are_tight() -> None:
    exact = 0
    for seed in range(60):
        scene = draw_scene(seed, objects=(1, 1), words=(0, 0), degraded_share=0)
        (item,) = scene.objects
        visible = find_bounds(find_changes(scene, seed))
        assert item.box[0] <= visible[0]
        assert item.box[1] <= visible[1]
        assert item.box[2] >= visible[2]
        assert item.box[3] >= visible[3]
        exact += max(abs(a - b) for a, b in zip(item.box, visible, strict=True)) <= 1
    # An edge in the color of the background cannot be detected; nearly all others can.
    assert exact >= 57


def test_polygons_and_boxes_follow_the_visible_alpha(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in crowded scenes, where objects cover parts of others."""
    ious = []

    def check(item: drawing.PlacedObject, image: Image.Image) -> SceneObject:
        result = to_scene_object(item, image)
        visible = item.alpha > 127
        left, top, right, bottom = find_bounds(visible)
        assert result.box == (left + item.left, top + item.top, right + item.left, bottom + item.top)
        own = [[v - (item.top if i % 2 else item.left) for i, v in enumerate(ring)] for ring in result.polygons]
        mask, drawn = fill_holes(visible), fill_polygons(own, visible.shape[::-1])
        ious.append((mask & drawn).sum() / (mask | drawn).sum())
        return result

    to_scene_object = drawing.to_scene_object
    monkeypatch.setattr(drawing, "to_scene_object", check)
    for seed in range(100):
        draw_scene(seed)
    # 16 points cannot follow a palm tree or a bicycle, but most objects.
    assert np.mean(ious) >= 0.9
    assert np.median(ious) >= 0.925
    assert min(ious) >= 0.5


def test_covered_parts_do_not_belong_to_an_object() -> None:
    """A square under another: the rest stays visible, and too small a rest is rejected."""
    square = Image.new("RGBA", (20, 20), (255, 0, 0, 255))
    under = drawing.PlacedObject(
        next(iter(load_glyph_set("noto").values()))[0], square, 10, 10, np.full((20, 20), 255, np.uint8), 400
    )
    (left,) = drawing.cover_objects([under], square, 24, 10) or []
    assert (left[:, :14] == 255).all()
    assert (left[:, 14:] == 0).all()
    assert drawing.cover_objects([under], square, 18, 10) is None
    (untouched,) = drawing.cover_objects([under], square, 40, 10) or []
    assert (untouched == 255).all()


def test_polygons_are_ordered() -> None:
    for seed in range(80):
        scene = draw_scene(seed)
        for item in scene.objects:
            assert 1 <= len(item.polygons) <= 3
            for ring in item.polygons:
                points = np.array(ring).reshape(-1, 2)
                assert 3 <= len(points) <= 16
                x, y = points.T
                assert np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) > 0, "clockwise with y down"
                assert min(range(len(points)), key=lambda i: (y[i], x[i])) == 0, "starts at the top, then left"
                assert x.min() >= item.box[0] - 2
                assert y.min() >= item.box[1] - 2
                assert x.max() <= item.box[2] + 2
                assert y.max() <= item.box[3] + 2


def test_quads_cover_the_words() -> None:
    tight = total = 0
    for seed in range(80):
        scene = draw_scene(seed, objects=(0, 0), words=(1, 1), degraded_share=0)
        for word in scene.words:
            total += 1
            changes = find_changes(scene, seed)
            inside = fill_polygons([list(word.quad)], scene.image.size)
            around = find_bounds(changes)
            # A plate is larger than its word, so the change may be larger than the quad, but not smaller, except that a
            # rotated T or A has no ink in some corner of its quad.
            upright = word.quad[1] == word.quad[3]
            slack = 1.0 if upright else 2 + 0.1 * (word.box[3] - word.box[1])
            assert around[0] <= word.box[0] + slack
            assert around[1] <= word.box[1] + slack
            assert around[2] >= word.box[2] - slack
            assert around[3] >= word.box[3] - slack
            if (changes & ~inside).sum() < 0.12 * inside.sum():
                tight += max(abs(a - b) for a, b in zip(around, word.box, strict=True)) <= 2 * slack
    assert total >= 76
    assert tight >= 0.35 * total


def test_quads_start_at_the_top_left_of_the_text() -> None:
    for seed in range(60):
        for word in draw_scene(seed, objects=(0, 0), words=(1, 2)).words:
            corners = np.array(word.quad).reshape(4, 2)
            along, down = corners[1] - corners[0], corners[3] - corners[0]
            assert along[0] > 0
            assert abs(np.degrees(np.arctan2(along[1], along[0]))) <= 15.01
            assert along[0] * down[1] - along[1] * down[0] > 0, "clockwise with y down"
            assert abs(along @ down) < 1e-6 * (1 + abs(along).sum() * abs(down).sum())


def test_words_stay_legible_when_resized_for_the_model() -> None:
    for seed in range(120):
        scene = draw_scene(seed, objects=(0, 0), words=(1, 2))
        for word in scene.words:
            assert word.text.isalnum()
            assert word.text == word.text.upper()
            assert 3 <= len(word.text) <= 8
            corners = np.array(word.quad).reshape(4, 2) * [192 / scene.width, 192 / scene.height]
            assert np.hypot(*(corners[1] - corners[0])) / len(word.text) >= 6
            assert np.hypot(*(corners[3] - corners[0])) >= 6


def test_words_keep_clear_of_objects() -> None:
    for seed in range(80):
        scene = draw_scene(seed)
        for word in scene.words:
            for item in scene.objects:
                across = min(word.box[2], item.box[2]) - max(word.box[0], item.box[0])
                down = min(word.box[3], item.box[3]) - max(word.box[1], item.box[1])
                assert across <= 0 or down <= 0


def test_everything_lies_inside_the_image_and_is_sorted() -> None:
    for seed in range(120):
        scene = draw_scene(seed)
        assert scene.image.mode == "RGB"
        assert 1 <= len(scene.objects) <= 4
        assert len(scene.words) <= 2
        assert scene.background in colors.COLOR_NAMES
        assert [t.box[0] for t in scene.objects] == sorted(t.box[0] for t in scene.objects)
        assert [w.box[1] for w in scene.words] == sorted(w.box[1] for w in scene.words)
        for item in scene.objects:
            assert item.category in CATEGORIES
            assert sum(item.color_shares) == pytest.approx(1)
            assert item.color_shares[colors.COLOR_NAMES.index(item.color)] == max(item.color_shares)
        for x1, y1, x2, y2 in [item.box for item in (*scene.objects, *scene.words)]:
            assert 0 <= x1 < x2 <= scene.width
            assert 0 <= y1 < y2 <= scene.height


def test_colors_are_those_of_the_finished_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def remove_color(rng: np.random.Generator, image: Image.Image) -> Image.Image:
        return image.convert("L").convert("RGB")

    scenes = {seed: draw_scene(seed, degraded_share=1) for seed in range(20)}
    monkeypatch.setattr(drawing, "degrade", remove_color)
    greys = {"black", "grey", "white"}
    for seed, before in scenes.items():
        after = draw_scene(seed, degraded_share=1)
        assert {after.background, *(item.color for item in after.objects)} <= greys
        assert [item.box for item in after.objects] == [item.box for item in before.objects]
    assert any({scene.background, *(t.color for t in scene.objects)} - greys for scene in scenes.values())


def test_the_holdout_set_is_not_drawn_by_default() -> None:
    assert HOLDOUT_SET not in TRAINING_SETS
    used = {item.glyph.split("/")[0] for seed in range(150) for item in draw_scene(seed).objects}
    assert used == set(TRAINING_SETS)


def test_the_holdout_set_can_be_drawn() -> None:
    used = {item.glyph.split("/")[0] for seed in range(10) for item in draw_scene(seed, sets=(HOLDOUT_SET,)).objects}
    assert used == {HOLDOUT_SET}


def test_scenes_can_be_empty() -> None:
    for seed in range(10):
        scene = draw_scene(seed, objects=(0, 0), words=(0, 0))
        assert scene.objects == ()
        assert scene.words == ()


def test_the_size_can_be_set() -> None:
    scene = draw_scene(3, size=(320, 200))
    assert (scene.width, scene.height) == (320, 200) == scene.image.size


@pytest.mark.parametrize("size", [(16, 16), (24, 300), (300, 24)])
def test_tiny_and_narrow_images_hold_what_fits(size: tuple[int, int]) -> None:
    for seed in range(20):
        assert len(draw_scene(seed, size=size, objects=(4, 4)).objects) <= 4


def test_unknown_sets_and_negative_seeds_are_rejected() -> None:
    with pytest.raises(FileNotFoundError):
        draw_scene(0, sets=("nobody",))
    with pytest.raises(ValueError, match="non-negative"):
        draw_scene(-1)


def test_letters_lie_between_their_edges() -> None:
    """In most fonts an I is narrower than a W."""
    narrow, wide = list[float](), list[float]()
    for seed in range(80):
        for word in draw_scene(seed, objects=(0, 0), words=(1, 2), degraded_share=0).words:
            edges = word.letter_edges
            assert len(edges) == len(word.text) + 1
            assert (np.diff(edges) > 0).all()
            assert (edges[0], edges[-1]) == (0, 1)
            share = np.diff(edges) * len(word.text)
            narrow += [float(s) for s, letter in zip(share, word.text, strict=True) if letter in "IJ1"]
            wide += [float(s) for s, letter in zip(share, word.text, strict=True) if letter in "WM"]
            centers = word.letter_centers
            assert (centers.min(0) >= np.array(word.box[:2]) - 1).all()
            assert (centers.max(0) <= np.array(word.box[2:]) + 1).all()
    assert np.mean(narrow) < 0.9 < 1.1 < np.mean(wide)


def test_categories_repeat_at_the_given_share() -> None:
    def count_repeats(share: float) -> int:
        categories = [
            [t.category for t in draw_scene(s, objects=(4, 4), words=(0, 0), repeat_share=share).objects]
            for s in range(12)
        ]
        return sum(len(own) - len(set(own)) for own in categories)

    assert count_repeats(0.0) <= 3 < count_repeats(0.5) < count_repeats(1.0)
