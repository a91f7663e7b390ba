"""Pictures from beyond the usual: repeatable, empty where they must be, moved with their labels."""

import numpy as np
import pytest

from seedling.scenes import colors
from seedling.scenes.drawing import draw_scene
from seedling.scenes.out_of_distribution import LONG, WIDEST, abreast, foreign, widened
from seedling.scenes.scene import Scene


def test_foreign_pictures_hold_nothing_and_differ() -> None:
    for seed in range(12):
        scene, again, other = foreign(seed), foreign(seed), foreign(seed + 100)
        assert (scene.objects, scene.words) == ((), ())
        assert scene.background in colors.COLOR_NAMES
        assert scene.image.mode == "RGB"
        assert scene.image.tobytes() == again.image.tobytes()
        assert scene.image.tobytes() != other.image.tobytes()


def test_a_mere_ground_has_a_colour_as_others_have_and_clouds_and_shapes_have_none() -> None:
    def share(scene: Scene) -> float:
        names = colors.classify_pixels(np.asarray(scene.image.resize((48, 48))).reshape(-1, 3))
        return float((names == colors.COLOR_NAMES.index(scene.background)).mean())

    mere, mixed = ([share(scene) for scene in map(foreign, range(60)) if scene.mixed is kind] for kind in (False, True))
    assert 4 < len(mere) < 20
    assert np.mean(mere) > 0.7 > 0.5 > np.mean(mixed)


@pytest.mark.parametrize("size", [(200, 120), (120, 200), (160, 160)])
def test_all_moves_with_a_widened_picture(size: tuple[int, int]) -> None:
    for seed in range(12):
        scene = draw_scene(seed, objects=(1, 3), words=(1, 2), size=size)
        wide = widened(scene, np.random.default_rng(seed))
        assert max(wide.width, wide.height) / min(wide.width, wide.height) <= WIDEST + 0.02
        assert (wide.width >= wide.height) == (size[0] >= size[1])
        assert min(wide.image.size) == min(size)
        assert max(wide.image.size) > 1.15 * max(size)
        for before, after in zip(scene.objects, wide.objects, strict=True):
            assert _content(scene.image, before.box) == _content(wide.image, after.box)
            shift = np.subtract(after.box, before.box)
            np.testing.assert_allclose(shift[:2], shift[2:])
            for ring, moved in zip(before.polygons, after.polygons, strict=True):
                np.testing.assert_allclose(
                    np.reshape(moved, (-1, 2)) - np.reshape(ring, (-1, 2)), [shift[:2]] * (len(ring) // 2)
                )
        for word, moved_word in zip(scene.words, wide.words, strict=True):
            assert word.text == moved_word.text
            assert _content(scene.image, word.box) == _content(wide.image, moved_word.box)
            np.testing.assert_allclose(
                np.subtract(moved_word.quad, word.quad)[:2], np.subtract(moved_word.box, word.box)[:2]
            )


def test_scenes_stand_side_by_side_with_all_that_they_hold() -> None:
    shapes = set()
    for seed in range(12):
        scene, again = (abreast(seed, np.random.default_rng(seed)) for _ in range(2))
        assert scene.image.tobytes() == again.image.tobytes()
        assert scene.objects == again.objects
        assert LONG - 0.03 <= max(scene.image.size) / min(scene.image.size) <= WIDEST + 0.03
        assert 2 <= len(scene.objects) <= 6
        assert not scene.words
        assert [t.box[0] for t in scene.objects] == sorted(t.box[0] for t in scene.objects)
        # From one end to the other, not in one of the scenes alone.
        along = int(scene.width < scene.height)
        middles = [(thing.box[along] + thing.box[along + 2]) / 2 / max(scene.image.size) for thing in scene.objects]
        assert min(middles) < 0.5 < max(middles)
        for thing in scene.objects:
            assert 0 <= thing.box[0] < thing.box[2] <= scene.width
            assert 0 <= thing.box[1] < thing.box[3] <= scene.height
            points = np.concatenate([np.reshape(ring, (-1, 2)) for ring in thing.polygons])
            assert (points >= np.subtract(thing.box[:2], 3)).all()
            assert (points <= np.add(thing.box[2:], 3)).all()
        shapes.add(along)
    assert shapes == {0, 1}


def _content(image: object, box: tuple[float, ...]) -> bytes:
    x1, y1, x2, y2 = box
    left, top = round(x1), round(y1)
    return image.crop((left, top, left + round(x2 - x1), top + round(y2 - y1))).tobytes()  # type: ignore[attr-defined, no-any-return]
