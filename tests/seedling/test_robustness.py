"""Harder images keep their objects in place, and detections on them are scored correctly."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from prompts.annotations import Box
from seedling import robustness
from seedling.robustness import CONDITIONS, LARGE_SIDE, draw_texture
from seedling.scenes.drawing import draw_scene
from seedling.scenes.samples import make_sample
from server.engine.request import Request


@pytest.mark.parametrize("size", [(160, 120), (120, 300)])
@pytest.mark.parametrize("name", CONDITIONS)
def test_a_square_stays_in_its_box(name: str, size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (40, 40, 40))
    ImageDraw.Draw(image).rectangle((20, 30, 99, 79), fill=(250, 250, 250))
    changed = CONDITIONS[name](image)
    bounds = Image.fromarray((np.asarray(changed)[..., 0] > 190).astype(np.uint8)).getbbox()
    scale = LARGE_SIDE / max(size) if name == "2000 pixels" else 1.0
    assert bounds == pytest.approx([scale * v for v in (20, 30, 100, 80)], abs=2 * scale)
    assert CONDITIONS[name](image).tobytes() == changed.tobytes()


def test_sizes_of_wide_and_large_images() -> None:
    assert CONDITIONS["aspect 2:1"](Image.new("RGB", (160, 120))).size == (240, 120)
    assert CONDITIONS["aspect 3:1"](Image.new("RGB", (160, 120))).size == (360, 120)
    assert CONDITIONS["aspect 3:1"](Image.new("RGB", (120, 160))).size == (120, 360)
    assert CONDITIONS["2000 pixels"](Image.new("RGB", (160, 120))).size == (2000, 1500)


def test_textures_are_seeded_and_differ() -> None:
    assert draw_texture(1).tobytes() == draw_texture(1).tobytes() != draw_texture(2).tobytes()
    assert np.asarray(draw_texture(1)).std() > 20


class FakeEngine:
    """Detects every object of the scenes in their unchanged images, and a cat in all other images."""

    def __init__(self, scenes: int) -> None:
        drawn = [draw_scene(seed, objects=(1, 6), words=(0, 2)) for seed in range(scenes)]
        rng = np.random.default_rng(0)
        self.truth = {s.image.size: list(make_sample(s, "<OD>", rng).answer) for s in drawn}  # type: ignore[union-attr]
        self.unchanged = {s.image.tobytes() for s in drawn}

    def submit(self, request: Request) -> SimpleNamespace:
        image = request.image
        assert isinstance(image, Image.Image)
        known = image.tobytes() in self.unchanged
        annotations = self.truth[image.size] if known else [Box(label="cat", box=(0, 0, 9, 9))]
        return SimpleNamespace(wait=lambda: SimpleNamespace(annotations=annotations))


def test_drops_and_false_positives_are_measured() -> None:
    metrics = robustness.measure_robustness(FakeEngine(3), 3)  # type: ignore[arg-type]
    assert metrics.keys() == {
        *(f"{name}: mAP@50 drop" for name in CONDITIONS), "empty image: no detections", "texture: no detections",
    }  # fmt: skip
    assert all(metrics[f"{name}: mAP@50 drop"] == pytest.approx(1.0) for name in CONDITIONS)
    assert metrics["empty image: no detections"] == metrics["texture: no detections"] == 0.0


def test_true_boxes_grow_with_an_enlarged_image(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine(2)
    scenes = [draw_scene(seed, objects=(1, 6), words=(0, 2)) for seed in range(2)]
    enlarged = {robustness.enlarge(scene.image).size: scene for scene in scenes}

    def submit(request: Request) -> SimpleNamespace:
        image = request.image
        assert isinstance(image, Image.Image)
        if image.size not in enlarged:
            return engine.submit(request)
        scene = enlarged[image.size]
        across, down = image.width / scene.image.width, image.height / scene.image.height
        annotations = [
            a.model_copy(update={"box": tuple(v * s for v, s in zip(a.box, (across, down) * 2, strict=True))})
            for a in engine.truth[scene.image.size]
        ]
        return SimpleNamespace(wait=lambda: SimpleNamespace(annotations=annotations))

    monkeypatch.setattr(robustness, "CONDITIONS", {"2000 pixels": robustness.enlarge})
    metrics = robustness.measure_robustness(SimpleNamespace(submit=submit), 2)  # type: ignore[arg-type]
    assert metrics["2000 pixels: mAP@50 drop"] == pytest.approx(0.0)
