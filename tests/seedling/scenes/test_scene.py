"""What is there keeps its things, whatever order they are told in."""

from collections import Counter

import numpy as np
from PIL import Image

from seedling.scenes.colors import pure_color_shares
from seedling.scenes.scene import Object, Scene


def scene_of(*boxes: tuple[float, float, float, float]) -> Scene:
    ring = [0.0, 0.0, 1.0, 0.0, 1.0, 1.0]
    things = tuple(Object(str(i), "set/name", box, [ring], pure_color_shares("red")) for i, box in enumerate(boxes))
    return Scene(Image.new("RGB", (600, 200)), things, (), "blue")


def orders(scene: Scene) -> Counter[str]:
    turned = [scene.reordered(np.random.default_rng(seed)) for seed in range(60)]
    return Counter("".join(thing.category for thing in one.objects) for one in turned)


def test_only_neighbours_change_places() -> None:
    found = orders(scene_of((100, 0, 150, 50), (101, 100, 150, 150), (200, 0, 250, 50)))
    assert set(found) == {"012", "102"}
    assert min(found.values()) > 15


def test_how_far_starts_move_is_of_what_things_span_not_of_the_picture() -> None:
    assert set(orders(scene_of((10, 0, 40, 50), (20, 60, 50, 90)))) == {"01"}
    assert len(orders(scene_of((10, 0, 40, 50), (20, 60, 590, 90)))) == 2


def test_nothing_has_one_order() -> None:
    assert scene_of().reordered(np.random.default_rng(0)) == scene_of()
