"""Unusual images: repeatable, empty where they must be, with labels that move along."""

import numpy as np
import pytest

from seedling.scenes import colors
from seedling.scenes.drawing import draw_scene
from seedling.scenes.out_of_distribution import LONG_ASPECT, MAX_ASPECT, draw_side_by_side, draw_unrelated_scene, widen
from seedling.scenes.scene import Scene


def test_unrelated_images_have_no_objects_and_differ() -> None:
    for seed in range(12):
        scene, again, other = draw_unrelated_scene(seed), draw_unrelated_scene(seed), draw_unrelated_scene(seed + 100)
        assert (scene.objects, scene.words) == ((), ())
        assert scene.background in colors.COLOR_NAMES
        assert scene.image.mode == "RGB"
        assert scene.image.tobytes() == again.image.tobytes()
        assert scene.image.tobytes() != other.image.tobytes()


def test_a_plain_background_has_a_main_color_and_clouds_and_shapes_have_none() -> None:
    def main_color_share(scene: Scene) -> float:
        names = colors.classify_pixels(np.asarray(scene.image.resize((48, 48))).reshape(-1, 3))
        return float((names == colors.COLOR_NAMES.index(scene.background)).mean())

    plain, multicolored = (
        [main_color_share(scene) for scene in map(draw_unrelated_scene, range(60)) if scene.multicolored is kind]
        for kind in (False, True)
    )
    assert 4 < len(plain) < 20
    assert np.mean(plain) > 0.7 > 0.5 > np.mean(multicolored)


@pytest.mark.parametrize("size", [(200, 120), (120, 200), (160, 160)])
def test_labels_move_with_a_widened_image(size: tuple[int, int]) -> None:
    for seed in range(12):
        scene = draw_scene(seed, objects=(1, 3), words=(1, 2), size=size)
        wide = widen(scene, np.random.default_rng(seed))
        assert max(wide.width, wide.height) / min(wide.width, wide.height) <= MAX_ASPECT + 0.02
        assert (wide.width >= wide.height) == (size[0] >= size[1])
        assert min(wide.image.size) == min(size)
        assert max(wide.image.size) > 1.15 * max(size)
        for before, after in zip(scene.objects, wide.objects, strict=True):
            assert crop_bytes(scene.image, before.box) == crop_bytes(wide.image, after.box)
            shift = np.subtract(after.box, before.box)
            np.testing.assert_allclose(shift[:2], shift[2:])
            for ring, moved in zip(before.polygons, after.polygons, strict=True):
                np.testing.assert_allclose(
                    np.reshape(moved, (-1, 2)) - np.reshape(ring, (-1, 2)), [shift[:2]] * (len(ring) // 2)
                )
        for word, moved_word in zip(scene.words, wide.words, strict=True):
            assert word.text == moved_word.text
            assert crop_bytes(scene.image, word.box) == crop_bytes(wide.image, moved_word.box)
            np.testing.assert_allclose(
                np.subtract(moved_word.quad, word.quad)[:2], np.subtract(moved_word.box, word.box)[:2]
            )


def test_scenes_are_placed_side_by_side_with_their_labels() -> None:
    orientations = set()
    for seed in range(12):
        scene, again = (draw_side_by_side(seed, np.random.default_rng(seed)) for _ in range(2))
        assert scene.image.tobytes() == again.image.tobytes()
        assert scene.objects == again.objects
        assert LONG_ASPECT - 0.03 <= max(scene.image.size) / min(scene.image.size) <= MAX_ASPECT + 0.03
        assert 2 <= len(scene.objects) <= 6
        assert not scene.words
        assert [t.box[0] for t in scene.objects] == sorted(t.box[0] for t in scene.objects)
        # Objects are in more than one of the scenes.
        along = int(scene.width < scene.height)
        centers = [(item.box[along] + item.box[along + 2]) / 2 / max(scene.image.size) for item in scene.objects]
        assert min(centers) < 0.5 < max(centers)
        for item in scene.objects:
            assert 0 <= item.box[0] < item.box[2] <= scene.width
            assert 0 <= item.box[1] < item.box[3] <= scene.height
            points = np.concatenate([np.reshape(ring, (-1, 2)) for ring in item.polygons])
            assert (points >= np.subtract(item.box[:2], 3)).all()
            assert (points <= np.add(item.box[2:], 3)).all()
        orientations.add(along)
    assert orientations == {0, 1}


def crop_bytes(image: object, box: tuple[float, ...]) -> bytes:
    x1, y1, x2, y2 = box
    left, top = round(x1), round(y1)
    return image.crop((left, top, left + round(x2 - x1), top + round(y2 - y1))).tobytes()  # type: ignore[attr-defined, no-any-return]
