"""What a scene says of itself, checked against its own pixels: one seed always draws one background."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw

from seedling.scenes import colors, drawing
from seedling.scenes.drawing import draw_scene
from seedling.scenes.glyphs import CATEGORIES, HOLDOUT_SET, TRAINING_SETS, glyph_set
from seedling.scenes.scene import Object, Scene


def digest(scene: Scene) -> str:
    told = repr((scene.objects, scene.words, scene.background)).encode()
    return hashlib.sha256(scene.image.tobytes() + told).hexdigest()


def changed(scene: Scene, seed: int) -> np.ndarray:
    """(h, w) bool: the pixels that differ from the bare background of the same seed."""
    bare = draw_scene(seed, objects=(0, 0), words=(0, 0), hard=0)
    assert bare.image.size == scene.image.size
    difference = np.asarray(scene.image).astype(int) - np.asarray(bare.image)
    return np.abs(difference).max(axis=-1) > 0


def bounds(mask: np.ndarray) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def filled(polygons: list[list[float]], size: tuple[int, int]) -> np.ndarray:
    """(h, w) bool raster of the polygons, sampled four times as finely as the pixels and averaged back."""
    sheet = Image.new("L", (size[0] * 4, size[1] * 4), 0)
    for ring in polygons:
        ImageDraw.Draw(sheet).polygon([4 * value - 0.5 for value in ring], fill=255)
    return np.asarray(sheet.resize(size, Image.Resampling.BOX)) > 127


def without_holes(mask: np.ndarray) -> np.ndarray:
    outside = Image.fromarray(np.pad(np.where(mask, 255, 0).astype(np.uint8), 1)).copy()  # a picture one may write to
    ImageDraw.floodfill(outside, (0, 0), 128)
    return np.asarray(outside)[1:-1, 1:-1] != 128


def test_same_seed_same_scene() -> None:
    assert digest(draw_scene(7)) == digest(draw_scene(7))
    assert digest(draw_scene(7)) != digest(draw_scene(8))


def test_same_scene_in_another_process() -> None:
    code = (
        "import hashlib; from seedling.scenes.drawing import draw_scene; s = draw_scene(11); "
        "told = repr((s.objects, s.words, s.background)).encode(); "
        "print(hashlib.sha256(s.image.tobytes() + told).hexdigest())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == digest(draw_scene(11))


def test_boxes_are_tight() -> None:
    exact = 0
    for seed in range(60):
        scene = draw_scene(seed, objects=(1, 1), words=(0, 0), hard=0)
        (thing,) = scene.objects
        seen = bounds(changed(scene, seed))
        assert thing.box[0] <= seen[0]
        assert thing.box[1] <= seen[1]
        assert thing.box[2] >= seen[2]
        assert thing.box[3] >= seen[3]
        exact += max(abs(a - b) for a, b in zip(thing.box, seen, strict=True)) <= 1
    # An edge that has the ground's own colour cannot be told from it; nearly all others can.
    assert exact >= 57


def test_polygons_and_boxes_follow_the_visible_alpha(monkeypatch: pytest.MonkeyPatch) -> None:
    """Crowded scenes too, where objects hide parts of others."""
    agreements = []

    def checked(item: drawing.Placed, picture: Image.Image) -> Object:
        thing = described(item, picture)
        visible = item.alpha > 127
        left, top, right, bottom = bounds(visible)
        assert thing.box == (left + item.left, top + item.top, right + item.left, bottom + item.top)
        own = [[v - (item.top if i % 2 else item.left) for i, v in enumerate(ring)] for ring in thing.polygons]
        mask, drawn = without_holes(visible), filled(own, visible.shape[::-1])
        agreements.append((mask & drawn).sum() / (mask | drawn).sum())
        return thing

    described = drawing._described
    monkeypatch.setattr(drawing, "_described", checked)
    for seed in range(100):
        draw_scene(seed)
    # 16 points cannot follow a palm tree or a bicycle; they do follow most things.
    assert np.mean(agreements) >= 0.9
    assert np.median(agreements) >= 0.925
    assert min(agreements) >= 0.5


def test_hidden_parts_are_no_part_of_an_object() -> None:
    """A square under another: what is left is seen, and too little left is refused."""
    square = Image.new("RGBA", (20, 20), (255, 0, 0, 255))
    under = drawing.Placed(
        next(iter(glyph_set("noto").values()))[0], square, 10, 10, np.full((20, 20), 255, np.uint8), 400
    )
    (left,) = drawing._covered([under], square, 24, 10) or []
    assert (left[:, :14] == 255).all()
    assert (left[:, 14:] == 0).all()
    assert drawing._covered([under], square, 18, 10) is None
    (untouched,) = drawing._covered([under], square, 40, 10) or []
    assert (untouched == 255).all()


def test_polygons_are_ordered() -> None:
    for seed in range(80):
        scene = draw_scene(seed)
        for thing in scene.objects:
            assert 1 <= len(thing.polygons) <= 3
            for ring in thing.polygons:
                points = np.array(ring).reshape(-1, 2)
                assert 3 <= len(points) <= 16
                x, y = points.T
                assert np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) > 0, "clockwise with y down"
                assert min(range(len(points)), key=lambda i: (y[i], x[i])) == 0, "starts at the top, then left"
                assert x.min() >= thing.box[0] - 2
                assert y.min() >= thing.box[1] - 2
                assert x.max() <= thing.box[2] + 2
                assert y.max() <= thing.box[3] + 2


def test_quads_cover_the_words() -> None:
    tight = total = 0
    for seed in range(80):
        scene = draw_scene(seed, objects=(0, 0), words=(1, 1), hard=0)
        for word in scene.words:
            total += 1
            seen = changed(scene, seed)
            inside = filled([list(word.quad)], scene.image.size)
            around = bounds(seen)
            # A plate reaches beyond its word, so the change may be larger than the quad, but not smaller, except that a
            # turned T or A has no ink in some corner of its quad.
            upright = word.quad[1] == word.quad[3]
            slack = 1.0 if upright else 2 + 0.1 * (word.box[3] - word.box[1])
            assert around[0] <= word.box[0] + slack
            assert around[1] <= word.box[1] + slack
            assert around[2] >= word.box[2] - slack
            assert around[3] >= word.box[3] - slack
            if (seen & ~inside).sum() < 0.12 * inside.sum():
                tight += max(abs(a - b) for a, b in zip(around, word.box, strict=True)) <= 2 * slack
    assert total >= 76
    assert tight >= 0.35 * total


def test_quads_begin_at_the_texts_top_left() -> None:
    for seed in range(60):
        for word in draw_scene(seed, objects=(0, 0), words=(1, 2)).words:
            corners = np.array(word.quad).reshape(4, 2)
            along, down = corners[1] - corners[0], corners[3] - corners[0]
            assert along[0] > 0
            assert abs(np.degrees(np.arctan2(along[1], along[0]))) <= 15.01
            assert along[0] * down[1] - along[1] * down[0] > 0, "clockwise with y down"
            assert abs(along @ down) < 1e-6 * (1 + abs(along).sum() * abs(down).sum())


def test_words_stay_legible_when_squashed() -> None:
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
            for thing in scene.objects:
                across = min(word.box[2], thing.box[2]) - max(word.box[0], thing.box[0])
                down = min(word.box[3], thing.box[3]) - max(word.box[1], thing.box[1])
                assert across <= 0 or down <= 0


def test_everything_lies_inside_and_in_order() -> None:
    for seed in range(120):
        scene = draw_scene(seed)
        assert scene.image.mode == "RGB"
        assert 1 <= len(scene.objects) <= 4
        assert len(scene.words) <= 2
        assert scene.background in colors.COLOR_NAMES
        assert [t.box[0] for t in scene.objects] == sorted(t.box[0] for t in scene.objects)
        assert [w.box[1] for w in scene.words] == sorted(w.box[1] for w in scene.words)
        for thing in scene.objects:
            assert thing.category in CATEGORIES
            assert sum(thing.color_shares) == pytest.approx(1)
            assert thing.color_shares[colors.COLOR_NAMES.index(thing.color)] == max(thing.color_shares)
        for x1, y1, x2, y2 in [item.box for item in (*scene.objects, *scene.words)]:
            assert 0 <= x1 < x2 <= scene.width
            assert 0 <= y1 < y2 <= scene.height


def test_colours_are_those_of_the_finished_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    def drained(rng: np.random.Generator, picture: Image.Image) -> Image.Image:
        return picture.convert("L").convert("RGB")

    told = {seed: draw_scene(seed, hard=1) for seed in range(20)}
    monkeypatch.setattr(drawing, "_degraded", drained)
    greys = {"black", "grey", "white"}
    for seed, before in told.items():
        after = draw_scene(seed, hard=1)
        assert {after.background, *(thing.color for thing in after.objects)} <= greys
        assert [thing.box for thing in after.objects] == [thing.box for thing in before.objects]
    assert any({scene.background, *(t.color for t in scene.objects)} - greys for scene in told.values())


def test_the_held_out_set_is_never_drawn_unasked() -> None:
    assert HOLDOUT_SET not in TRAINING_SETS
    used = {thing.glyph.split("/")[0] for seed in range(150) for thing in draw_scene(seed).objects}
    assert used == set(TRAINING_SETS)


def test_the_held_out_set_can_be_asked_for() -> None:
    used = {thing.glyph.split("/")[0] for seed in range(10) for thing in draw_scene(seed, sets=(HOLDOUT_SET,)).objects}
    assert used == {HOLDOUT_SET}


def test_empty_scenes() -> None:
    for seed in range(10):
        scene = draw_scene(seed, objects=(0, 0), words=(0, 0))
        assert scene.objects == ()
        assert scene.words == ()


def test_size_can_be_given() -> None:
    scene = draw_scene(3, size=(320, 200))
    assert (scene.width, scene.height) == (320, 200) == scene.image.size


@pytest.mark.parametrize("size", [(16, 16), (24, 300), (300, 24)])
def test_tiny_and_narrow_canvases_hold_what_fits(size: tuple[int, int]) -> None:
    for seed in range(20):
        assert len(draw_scene(seed, size=size, objects=(4, 4)).objects) <= 4


def test_unknown_sets_and_negative_seeds_are_refused() -> None:
    with pytest.raises(FileNotFoundError):
        draw_scene(0, sets=("nobody",))
    with pytest.raises(ValueError, match="non-negative"):
        draw_scene(-1)


def test_letters_stand_between_their_edges() -> None:
    """Most fonts give an I less room than a W."""
    narrow, wide = list[float](), list[float]()
    for seed in range(80):
        for word in draw_scene(seed, objects=(0, 0), words=(1, 2), hard=0).words:
            edges = word.edges
            assert len(edges) == len(word.text) + 1
            assert (np.diff(edges) > 0).all()
            assert (edges[0], edges[-1]) == (0, 1)
            share = np.diff(edges) * len(word.text)
            narrow += [float(s) for s, letter in zip(share, word.text, strict=True) if letter in "IJ1"]
            wide += [float(s) for s, letter in zip(share, word.text, strict=True) if letter in "WM"]
            middles = word.middles
            assert (middles.min(0) >= np.array(word.box[:2]) - 1).all()
            assert (middles.max(0) <= np.array(word.box[2:]) + 1).all()
    assert np.mean(narrow) < 0.9 < 1.1 < np.mean(wide)


def test_kinds_are_repeated_where_twins_are_asked_for() -> None:
    def repeated(twins: float) -> int:
        kinds = [
            [t.category for t in draw_scene(s, objects=(4, 4), words=(0, 0), twins=twins).objects] for s in range(12)
        ]
        return sum(len(own) - len(set(own)) for own in kinds)

    assert repeated(0.0) <= 3 < repeated(0.5) < repeated(1.0)
