"""Attention targets: names attend to their object, letters to their position, points to themselves."""

import numpy as np
import pytest
from PIL import Image

from prompts.formatting import format_answer
from prompts.tasks import FLORENCE_TASKS
from seedling.scenes.alignment import AttentionTarget, make_attention_targets
from seedling.scenes.colors import make_pure_color_shares
from seedling.scenes.drawing import draw_scene
from seedling.scenes.samples import make_sample
from seedling.scenes.scene import Scene, SceneObject, SceneWord

SIDE, GRID = 192, 12
CAT = SceneObject(
    "cat", "noto/x", (40, 20, 90, 110), [[40, 20, 90, 20, 90, 110, 40, 110]], make_pure_color_shares("red")
)
DOG = SceneObject(
    "dog", "noto/y", (230, 80, 290, 170), [[230, 80, 290, 80, 290, 170, 230, 170]], make_pure_color_shares("blue")
)
OTHER = SceneObject(
    "cat", "noto/x", (300, 20, 350, 60), [[300, 20, 350, 20, 350, 60, 300, 60]], make_pure_color_shares("green")
)
WIDE = SceneWord("WI", (32, 144, 96, 144, 96, 160, 32, 160), (32, 144, 96, 160), letter_boundaries=(0.75,))
SCENE = Scene(Image.new("RGB", (384, 192)), (CAT, DOG, OTHER), (WIDE,), "red")


def find_center(cells: np.ndarray) -> tuple[float, float]:
    """Returns the attention's center in pixels of SCENE: cell k is centered at k / 12 of the side."""
    raster = cells.reshape(GRID, GRID)
    rows, columns = np.arange(GRID) / GRID * 192, np.arange(GRID) / GRID * 384
    return float((raster.sum(0) * columns).sum()), float((raster.sum(1) * rows).sum())


def find_targets(token: str, text: str | None = None) -> list[tuple[str, np.ndarray]]:
    """Returns the parts of an answer on SCENE, each with its attention per cell."""
    for number in range(300):
        sample = make_sample(SCENE, token, np.random.default_rng((0, number)))
        assert sample
        if text in (None, sample.text):
            answer = format_answer(sample.task, sample.answer, (384, 192))
            return [(answer[t.start : t.end], t.cells) for t in make_attention_targets(sample, SCENE, SIDE, GRID)]
    raise AssertionError(text)


def test_a_box_and_its_name_attend_to_their_object() -> None:
    parts = find_targets("<OD>")
    assert [part.split("<")[0] for part, _ in parts] == ["cat", "dog", "cat"]
    assert all(part.count("<loc_") == 4 for part, _ in parts)
    for (part, cells), middle in zip(parts, [(65, 65), (260, 125), (325, 40)], strict=True):
        assert find_center(cells) == pytest.approx(middle, abs=9), part


def test_an_absent_phrase_has_no_target() -> None:
    assert find_targets("<OPEN_VOCABULARY_DETECTION>", text="red dog") == []
    assert [part.split("<")[0] for part, _ in find_targets("<OPEN_VOCABULARY_DETECTION>", text="cat")] == ["cat", ""]


def test_the_background_color_attends_to_uncovered_cells() -> None:
    (part, ground), *items = find_targets("<MORE_DETAILED_CAPTION>")
    assert part == "a red background"
    raster, covered = ground.reshape(GRID, GRID), np.sum([cells for _, cells in items], 0).reshape(GRID, GRID)
    free, inner = covered == 0, np.s_[1:, 1:]
    assert raster[inner][free[inner]] == pytest.approx(ground.max())
    assert raster[inner][~free[inner]].max() < ground.max()
    assert ground.min() == 0
    # Half of each cell along the upper and left border lies outside the image.
    assert raster[0, 1:][free[0, 1:]] == pytest.approx(ground.max() / 2)
    assert raster[1:, 0][free[1:, 0]] == pytest.approx(ground.max() / 2)


def test_a_fully_covered_background_attends_everywhere() -> None:
    full = SceneObject(
        "cat", "noto/x", (0, 0, 384, 192), [[0, 0, 384, 0, 384, 192, 0, 192]], make_pure_color_shares("red")
    )
    scene = Scene(SCENE.image, (full,), (), "red")
    sample = make_sample(scene, "<MORE_DETAILED_CAPTION>", np.random.default_rng(0))
    assert sample
    ground = make_attention_targets(sample, scene, SIDE, GRID)[0].cells.reshape(GRID, GRID)
    assert ground[1:, 1:] == pytest.approx(ground.max())
    assert ground.sum() == pytest.approx(1)


def test_captions_attend_to_the_objects_they_count() -> None:
    parts = dict(find_targets("<CAPTION>"))
    assert list(parts) == ["two cats", "a dog", "a word"]
    assert find_center(parts["two cats"])[0] == pytest.approx((65 * 50 * 90 + 325 * 50 * 40) / (50 * 130), abs=9)
    assert find_center(parts["a dog"]) == pytest.approx((260, 125), abs=9)
    assert find_center(parts["a word"]) == pytest.approx((64, 152), abs=9)
    detailed = [part for part, _ in find_targets("<DETAILED_CAPTION>")]
    assert [part.split()[-1] for part in detailed] == ["cat", "dog", "cat", "word", "background"]
    paragraph = find_targets("<MORE_DETAILED_CAPTION>")
    assert [part[-1] for part, _ in paragraph] == ["d"] + ["."] * 4
    assert find_center(paragraph[2][1]) == pytest.approx((260, 125), abs=9)


@pytest.mark.parametrize("token", ["<OCR>", "<REGION_TO_OCR>", "<OCR_WITH_REGION>"])
def test_letters_attend_to_their_position(token: str) -> None:
    """The W takes three quarters of the 64 pixels from x = 32: its center is at 56, that of the I at 88."""
    parts = find_targets(token)
    assert [part for part, _ in parts[:2]] == ["W", "I"]
    assert find_center(parts[0][1]) == pytest.approx((56, 152), abs=0.1)
    assert find_center(parts[1][1]) == pytest.approx((88, 152), abs=0.1)
    corners = [find_center(cells) for _, cells in parts[2:]]
    assert len(corners) == (4 if token == "<OCR_WITH_REGION>" else 0)
    for corner, wanted in zip(corners, [(32, 144), (96, 144), (96, 160), (32, 160)], strict=False):
        assert corner == pytest.approx(wanted, abs=0.5)


def test_points_of_an_outline_attend_to_themselves() -> None:
    parts = find_targets("<REFERRING_EXPRESSION_SEGMENTATION>", text="the dog")
    assert [part.count("<loc_") for part, _ in parts] == [2] * 4
    assert [find_center(cells) for _, cells in parts] == [
        pytest.approx(corner, abs=0.5) for corner in [(230, 80), (290, 80), (290, 170), (230, 170)]
    ]


def test_targets_of_drawn_scenes_sum_to_one() -> None:
    tasks = set[str]()
    for seed in range(12):
        scene = draw_scene(seed, objects=(0, 4), words=(0, 2))
        for token in FLORENCE_TASKS:
            if sample := make_sample(scene, token, np.random.default_rng(seed)):
                answer = format_answer(sample.task, sample.answer, (scene.width, scene.height))
                targets: list[AttentionTarget] = make_attention_targets(sample, scene, SIDE, GRID)
                expected = sample.answer and (scene.objects or scene.words or "DETAILED" in token)
                assert bool(targets) == bool(expected), (seed, token)
                spans = [(t.start, t.end) for t in targets]
                assert all(0 <= start < end <= len(answer) for start, end in spans)
                assert all(t.cells.shape == (GRID**2,) and t.cells.min() >= 0 for t in targets)
                assert [t.cells.sum() for t in targets] == pytest.approx([1.0] * len(targets))
                tasks |= {token} if targets else set()
    assert tasks == set(FLORENCE_TASKS)
