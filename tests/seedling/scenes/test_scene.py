"""The jittered order of a scene's objects."""

from collections import Counter

import numpy as np
from PIL import Image

from seedling.scenes.colors import make_pure_color_shares
from seedling.scenes.scene import Scene, SceneObject


def scene_of(*boxes: tuple[float, float, float, float]) -> Scene:
    ring = [0.0, 0.0, 1.0, 0.0, 1.0, 1.0]
    objects = tuple(
        SceneObject(str(i), "set/name", box, [ring], make_pure_color_shares("red")) for i, box in enumerate(boxes)
    )
    return Scene(Image.new("RGB", (600, 200)), objects, (), "blue")


def count_orders(scene: Scene) -> Counter[str]:
    jittered = [scene.jitter_order(np.random.default_rng(seed)) for seed in range(60)]
    return Counter("".join(item.category for item in one.objects) for one in jittered)


def test_only_objects_with_close_left_edges_swap() -> None:
    orders = count_orders(scene_of((100, 0, 150, 50), (101, 100, 150, 150), (200, 0, 250, 50)))
    assert set(orders) == {"012", "102"}
    assert min(orders.values()) > 15


def test_the_jitter_is_relative_to_the_span_of_the_objects_not_to_the_image() -> None:
    assert set(count_orders(scene_of((10, 0, 40, 50), (20, 60, 50, 90)))) == {"01"}
    assert len(count_orders(scene_of((10, 0, 40, 50), (20, 60, 590, 90)))) == 2


def test_an_empty_scene_stays_the_same() -> None:
    assert scene_of().jitter_order(np.random.default_rng(0)) == scene_of()
