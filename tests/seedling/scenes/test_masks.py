"""Masks of what a sample is about."""

import numpy as np
import pytest
from PIL import Image

from prompts.tasks import FLORENCE_TASKS
from seedling.scenes.colors import make_pure_color_shares
from seedling.scenes.drawing import draw_scene
from seedling.scenes.masks import find_subjects, make_image_mask, make_relevance_mask
from seedling.scenes.samples import make_sample
from seedling.scenes.scene import Scene, SceneObject, SceneWord

SIDE, GRID = 192, 12
LEFT = SceneObject("cat", "noto/x", (40, 40, 88, 72), [[40, 40, 88, 40, 88, 72, 40, 72]], make_pure_color_shares("red"))
RIGHT = SceneObject("dog", "noto/y", (240, 40, 288, 72), [[240, 40, 288, 40, 264, 72]], make_pure_color_shares("blue"))
WORD = SceneWord("ABC", (40, 140, 100, 140, 100, 160, 40, 160), (40, 140, 100, 160))
SCENE = Scene(Image.new("RGB", (384, 192)), (LEFT, RIGHT), (WORD,), "red")


def find_mask(token: str, text: str | None = None, seed: int = 0) -> tuple[list[SceneObject | SceneWord], np.ndarray]:
    """Returns the subjects and the mask of the first sample with this `text`."""
    for number in range(200):
        sample = make_sample(SCENE, token, np.random.default_rng((seed, number)))
        assert sample
        if text is None or sample.text == text:
            return find_subjects(sample, SCENE), make_relevance_mask(sample, SCENE, SIDE, GRID)
    raise AssertionError(text)


def to_raster(mask: np.ndarray) -> np.ndarray:
    """[cells, 16] → [48, 48]."""
    return mask.reshape(GRID, GRID, 4, 4).transpose(0, 2, 1, 3).reshape(GRID * 4, GRID * 4)


@pytest.mark.parametrize(
    ("token", "text", "wanted"),
    [
        ("<OD>", None, [LEFT, RIGHT]),
        ("<REGION_PROPOSAL>", None, [LEFT, RIGHT]),
        ("<CAPTION>", None, [LEFT, RIGHT, WORD]),
        ("<OCR>", None, [WORD]),
        ("<OCR_WITH_REGION>", None, [WORD]),
        ("<REGION_TO_OCR>", None, [WORD]),
        ("<OPEN_VOCABULARY_DETECTION>", "dog", [RIGHT]),
        ("<OPEN_VOCABULARY_DETECTION>", "red dog", []),
        ("<CAPTION_TO_PHRASE_GROUNDING>", "a cat", [LEFT]),
        ("<REFERRING_EXPRESSION_SEGMENTATION>", "the cat", [LEFT]),
    ],
)
def test_the_subjects_are_what_the_answer_names(
    token: str, text: str | None, wanted: list[SceneObject | SceneWord]
) -> None:
    assert find_mask(token, text)[0] == wanted


def test_subcells_lie_around_the_centers_of_cells() -> None:
    """Resized to 192 pixels, the cat covers x 20-44, y 40-72; subcell i is centered at pixel 4 i - 6."""
    centers = np.arange(48) * 4 - 6
    inside = np.outer((centers >= 40) & (centers <= 72), (centers >= 20) & (centers <= 44))
    np.testing.assert_array_equal(to_raster(find_mask("<OPEN_VOCABULARY_DETECTION>", "cat")[1]), inside)
    assert not find_mask("<OPEN_VOCABULARY_DETECTION>", "red dog")[1].any()


def test_the_mask_starts_half_a_cell_outside_the_image() -> None:
    wanted = np.ones((48, 48), bool)
    wanted[:2] = wanted[:, :2] = False
    np.testing.assert_array_equal(to_raster(make_image_mask(SIDE, GRID)), wanted)


def test_the_mask_follows_the_outline_not_the_box() -> None:
    mask = to_raster(find_mask("<REFERRING_EXPRESSION_SEGMENTATION>", "the dog")[1])
    rows = mask.sum(1)[mask.any(1)]
    assert rows[0] >= 5  # 24 pixels of the triangle's base
    assert rows[-1] <= 2
    assert list(rows) == sorted(rows, reverse=True)


def test_samples_of_drawn_scenes_have_one_subject_per_answer() -> None:
    checked = 0
    for seed in range(30):
        scene = draw_scene(seed, objects=(0, 4), words=(0, 2))
        rng = np.random.default_rng(seed)
        for token in FLORENCE_TASKS:
            if sample := make_sample(scene, token, rng):
                mask = make_relevance_mask(sample, scene, SIDE, GRID)
                assert mask.shape == (GRID**2, 16)
                assert bool(mask.any()) == bool(find_subjects(sample, scene)), (seed, token)
                if sample.answer and sample.task.answer_kind.name != "TEXT":
                    assert len(find_subjects(sample, scene)) == len(sample.answer)
                    checked += 1
    assert checked > 100
