"""Where answers look: every name at its object, every letter at its place, every point at itself."""

import numpy as np
import pytest
from PIL import Image

from prompts.formatting import format_answer
from prompts.tasks import TASKS
from seedling.scenes.alignment import Look, looks
from seedling.scenes.colors import pure_color_shares
from seedling.scenes.drawing import draw_scene
from seedling.scenes.samples import make_sample
from seedling.scenes.scene import Object, Scene, Word

SIDE, GRID = 192, 12
CAT = Object("cat", "noto/x", (40, 20, 90, 110), [[40, 20, 90, 20, 90, 110, 40, 110]], pure_color_shares("red"))
DOG = Object("dog", "noto/y", (230, 80, 290, 170), [[230, 80, 290, 80, 290, 170, 230, 170]], pure_color_shares("blue"))
OTHER = Object("cat", "noto/x", (300, 20, 350, 60), [[300, 20, 350, 20, 350, 60, 300, 60]], pure_color_shares("green"))
WIDE = Word("WI", (32, 144, 96, 144, 96, 160, 32, 160), (32, 144, 96, 160), stops=(0.75,))
SCENE = Scene(Image.new("RGB", (384, 192)), (CAT, DOG, OTHER), (WIDE,), "red")


def centre(cells: np.ndarray) -> tuple[float, float]:
    """Pixels of SCENE: cell k looks at k / 12 of the side."""
    raster = cells.reshape(GRID, GRID)
    rows, columns = np.arange(GRID) / GRID * 192, np.arange(GRID) / GRID * 384
    return float((raster.sum(0) * columns).sum()), float((raster.sum(1) * rows).sum())


def told(token: str, text: str | None = None) -> list[tuple[str, np.ndarray]]:
    """The parts of an answer on SCENE, and where each looks."""
    for number in range(300):
        question = make_sample(SCENE, token, np.random.default_rng((0, number)))
        assert question
        if text in (None, question.text):
            answer = format_answer(question.task, question.answer, (384, 192))
            return [(answer[look.start : look.end], look.cells) for look in looks(question, SCENE, SIDE, GRID)]
    raise AssertionError(text)


def test_a_box_and_its_name_look_at_their_object() -> None:
    parts = told("<OD>")
    assert [part.split("<")[0] for part, _ in parts] == ["cat", "dog", "cat"]
    assert all(part.count("<loc_") == 4 for part, _ in parts)
    for (part, cells), middle in zip(parts, [(65, 65), (260, 125), (325, 40)], strict=True):
        assert centre(cells) == pytest.approx(middle, abs=9), part


def test_what_is_not_there_has_no_look() -> None:
    assert told("<OPEN_VOCABULARY_DETECTION>", text="red dog") == []
    assert [part.split("<")[0] for part, _ in told("<OPEN_VOCABULARY_DETECTION>", text="cat")] == ["cat", ""]


def test_the_background_is_what_nothing_covers() -> None:
    (part, ground), *things = told("<MORE_DETAILED_CAPTION>")
    assert part == "a red background"
    raster, covered = ground.reshape(GRID, GRID), np.sum([cells for _, cells in things], 0).reshape(GRID, GRID)
    free, inner = covered == 0, np.s_[1:, 1:]
    assert raster[inner][free[inner]] == pytest.approx(ground.max())
    assert raster[inner][~free[inner]].max() < ground.max()
    assert ground.min() == 0
    # Of the cells along the upper and the left edge half lies beyond the picture.
    assert raster[0, 1:][free[0, 1:]] == pytest.approx(ground.max() / 2)
    assert raster[1:, 0][free[1:, 0]] == pytest.approx(ground.max() / 2)


def test_a_background_that_nothing_leaves_free_is_anywhere() -> None:
    full = Object("cat", "noto/x", (0, 0, 384, 192), [[0, 0, 384, 0, 384, 192, 0, 192]], pure_color_shares("red"))
    scene = Scene(SCENE.image, (full,), (), "red")
    question = make_sample(scene, "<MORE_DETAILED_CAPTION>", np.random.default_rng(0))
    assert question
    ground = looks(question, scene, SIDE, GRID)[0].cells.reshape(GRID, GRID)
    assert ground[1:, 1:] == pytest.approx(ground.max())
    assert ground.sum() == pytest.approx(1)


def test_captions_look_at_what_they_count() -> None:
    parts = dict(told("<CAPTION>"))
    assert list(parts) == ["two cats", "a dog", "a word"]
    assert centre(parts["two cats"])[0] == pytest.approx((65 * 50 * 90 + 325 * 50 * 40) / (50 * 130), abs=9)
    assert centre(parts["a dog"]) == pytest.approx((260, 125), abs=9)
    assert centre(parts["a word"]) == pytest.approx((64, 152), abs=9)
    detailed = [part for part, _ in told("<DETAILED_CAPTION>")]
    assert [part.split()[-1] for part in detailed] == ["cat", "dog", "cat", "word", "background"]
    paragraph = told("<MORE_DETAILED_CAPTION>")
    assert [part[-1] for part, _ in paragraph] == ["d"] + ["."] * 4
    assert centre(paragraph[2][1]) == pytest.approx((260, 125), abs=9)


@pytest.mark.parametrize("token", ["<OCR>", "<REGION_TO_OCR>", "<OCR_WITH_REGION>"])
def test_letters_look_at_their_own_place(token: str) -> None:
    """The W takes three quarters of 64 pixels from 32 on: its middle is at 56, the I's at 88."""
    parts = told(token)
    assert [part for part, _ in parts[:2]] == ["W", "I"]
    assert centre(parts[0][1]) == pytest.approx((56, 152), abs=0.1)
    assert centre(parts[1][1]) == pytest.approx((88, 152), abs=0.1)
    corners = [centre(cells) for _, cells in parts[2:]]
    assert len(corners) == (4 if token == "<OCR_WITH_REGION>" else 0)
    for corner, wanted in zip(corners, [(32, 144), (96, 144), (96, 160), (32, 160)], strict=False):
        assert corner == pytest.approx(wanted, abs=0.5)


def test_points_of_an_outline_look_at_themselves() -> None:
    parts = told("<REFERRING_EXPRESSION_SEGMENTATION>", text="the dog")
    assert [part.count("<loc_") for part, _ in parts] == [2] * 4
    assert [centre(cells) for _, cells in parts] == [
        pytest.approx(corner, abs=0.5) for corner in [(230, 80), (290, 80), (290, 170), (230, 170)]
    ]


def test_drawn_answers_share_out_their_attention() -> None:
    tasks = set[str]()
    for seed in range(12):
        scene = draw_scene(seed, objects=(0, 4), words=(0, 2))
        for token in TASKS:
            if question := make_sample(scene, token, np.random.default_rng(seed)):
                answer = format_answer(question.task, question.answer, (scene.width, scene.height))
                found: list[Look] = looks(question, scene, SIDE, GRID)
                told = question.answer and (scene.objects or scene.words or "DETAILED" in token)
                assert bool(found) == bool(told), (seed, token)
                spans = [(look.start, look.end) for look in found]
                assert all(0 <= start < end <= len(answer) for start, end in spans)
                assert all(look.cells.shape == (GRID**2,) and look.cells.min() >= 0 for look in found)
                assert [look.cells.sum() for look in found] == pytest.approx([1.0] * len(found))
                tasks |= {token} if found else set()
    assert tasks == set(TASKS)
