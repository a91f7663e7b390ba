"""Harder pictures keep their objects where the figures look for them, and what is found is marked as it is."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from prompts.annotations import Box
from seedling import robustness
from seedling.robustness import CONDITIONS, LONG, texture
from seedling.scenes import samples
from seedling.scenes.drawing import draw_scene
from server.engine.request import Request


@pytest.mark.parametrize("size", [(160, 120), (120, 300)])
@pytest.mark.parametrize("name", CONDITIONS)
def test_a_square_stays_where_its_box_says(name: str, size: tuple[int, int]) -> None:
    picture = Image.new("RGB", size, (40, 40, 40))
    ImageDraw.Draw(picture).rectangle((20, 30, 99, 79), fill=(250, 250, 250))
    changed = CONDITIONS[name](picture)
    found = Image.fromarray((np.asarray(changed)[..., 0] > 190).astype(np.uint8)).getbbox()
    scale = LONG / max(size) if name == "2000 pixels" else 1.0
    assert found == pytest.approx([scale * v for v in (20, 30, 100, 80)], abs=2 * scale)
    assert CONDITIONS[name](picture).tobytes() == changed.tobytes()


def test_sizes_of_the_wide_and_the_large() -> None:
    assert CONDITIONS["aspect 2:1"](Image.new("RGB", (160, 120))).size == (240, 120)
    assert CONDITIONS["aspect 3:1"](Image.new("RGB", (160, 120))).size == (360, 120)
    assert CONDITIONS["aspect 3:1"](Image.new("RGB", (120, 160))).size == (120, 360)
    assert CONDITIONS["2000 pixels"](Image.new("RGB", (160, 120))).size == (2000, 1500)


def test_textures_are_seeded_and_differ() -> None:
    assert texture(1).tobytes() == texture(1).tobytes() != texture(2).tobytes()
    assert np.asarray(texture(1)).std() > 20


class Finder:
    """An engine that finds every object of the scenes in plain pictures of their own size, and a cat in all others."""

    def __init__(self, scenes: int) -> None:
        drawn = [draw_scene(seed, objects=(1, 6), words=(0, 2)) for seed in range(scenes)]
        ask = samples.make_sample
        self.known = {s.image.size: list(ask(s, "<OD>", np.random.default_rng(0)).answer) for s in drawn}  # type: ignore[union-attr]
        self.plain = {s.image.tobytes() for s in drawn}

    def submit(self, request: Request) -> SimpleNamespace:
        image = request.image
        assert isinstance(image, Image.Image)
        known = image.tobytes() in self.plain
        notes = self.known[image.size] if known else [Box(label="cat", box=(0, 0, 9, 9))]
        return SimpleNamespace(wait=lambda: SimpleNamespace(annotations=notes))


def test_losses_and_inventions_are_counted() -> None:
    figures = robustness.robustness(Finder(3), 3)  # type: ignore[arg-type]
    assert figures.keys() == {
        *(f"{name}: loss of mAP@50" for name in CONDITIONS), "empty picture: nothing found", "texture: nothing found",
    }  # fmt: skip
    assert all(figures[f"{name}: loss of mAP@50"] == pytest.approx(1.0) for name in CONDITIONS)
    assert figures["empty picture: nothing found"] == figures["texture: nothing found"] == 0.0


def test_boxes_grow_with_a_larger_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    finder = Finder(2)
    sizes = {robustness.large(draw_scene(seed, objects=(1, 6), words=(0, 2)).image).size: seed for seed in range(2)}

    def submit(request: Request) -> SimpleNamespace:
        image = request.image
        assert isinstance(image, Image.Image)
        if image.size not in sizes:
            return finder.submit(request)
        scene = draw_scene(sizes[image.size], objects=(1, 6), words=(0, 2))
        across, down = image.width / scene.image.width, image.height / scene.image.height
        notes = [
            n.model_copy(update={"box": tuple(v * s for v, s in zip(n.box, (across, down) * 2, strict=True))})
            for n in finder.known[scene.image.size]
        ]
        return SimpleNamespace(wait=lambda: SimpleNamespace(annotations=notes))

    monkeypatch.setattr(robustness, "HARDER", {"2000 pixels": robustness.large})
    figures = robustness.robustness(SimpleNamespace(submit=submit), 2)  # type: ignore[arg-type]
    assert figures["2000 pixels: loss of mAP@50"] == pytest.approx(0.0)
