"""What a question is about, on the picture's own raster."""

import numpy as np
import pytest
from PIL import Image

from prompts.tasks import TASKS
from seedling.scenes.colors import pure_color_shares
from seedling.scenes.drawing import draw_scene
from seedling.scenes.masks import asked_for, subjects, within
from seedling.scenes.samples import make_sample
from seedling.scenes.scene import Object, Scene, Word

SIDE, GRID = 192, 12
LEFT = Object("cat", "noto/x", (40, 40, 88, 72), [[40, 40, 88, 40, 88, 72, 40, 72]], pure_color_shares("red"))
RIGHT = Object("dog", "noto/y", (240, 40, 288, 72), [[240, 40, 288, 40, 264, 72]], pure_color_shares("blue"))
WORD = Word("ABC", (40, 140, 100, 140, 100, 160, 40, 160), (40, 140, 100, 160))
SCENE = Scene(Image.new("RGB", (384, 192)), (LEFT, RIGHT), (WORD,), "red")


def asked(token: str, text: str | None = None, seed: int = 0) -> tuple[list[Object | Word], np.ndarray]:
    """The subjects and the raster of the first such question that is about `text`."""
    for number in range(200):
        question = make_sample(SCENE, token, np.random.default_rng((seed, number)))
        assert question
        if text is None or question.text == text:
            return subjects(question, SCENE), asked_for(question, SCENE, SIDE, GRID)
    raise AssertionError(text)


def raster(places: np.ndarray) -> np.ndarray:
    """[cells, 16] → [48, 48]."""
    return places.reshape(GRID, GRID, 4, 4).transpose(0, 2, 1, 3).reshape(GRID * 4, GRID * 4)


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
def test_a_question_is_about_what_its_answer_names(token: str, text: str | None, wanted: list[Object | Word]) -> None:
    assert asked(token, text)[0] == wanted


def test_the_raster_lies_around_the_pixels_that_cells_look_at() -> None:
    """Squashed to 192 pixels the cat covers x 20-44, y 40-72; place (i, j) of the raster looks at pixel 4 i - 6."""
    looked_at = np.arange(48) * 4 - 6
    inside = np.outer((looked_at >= 40) & (looked_at <= 72), (looked_at >= 20) & (looked_at <= 44))
    np.testing.assert_array_equal(raster(asked("<OPEN_VOCABULARY_DETECTION>", "cat")[1]), inside)
    assert not asked("<OPEN_VOCABULARY_DETECTION>", "red dog")[1].any()


def test_the_raster_begins_half_a_cell_beyond_the_picture() -> None:
    wanted = np.ones((48, 48), bool)
    wanted[:2] = wanted[:, :2] = False
    np.testing.assert_array_equal(raster(within(SIDE, GRID)), wanted)


def test_outlines_are_told_and_not_boxes() -> None:
    places = raster(asked("<REFERRING_EXPRESSION_SEGMENTATION>", "the dog")[1])
    rows = places.sum(1)[places.any(1)]
    assert rows[0] >= 5  # 24 pixels of the triangle's base
    assert rows[-1] <= 2
    assert list(rows) == sorted(rows, reverse=True)


def test_drawn_questions_are_about_things_that_overlap_their_answers() -> None:
    told = 0
    for seed in range(30):
        scene = draw_scene(seed, objects=(0, 4), words=(0, 2))
        rng = np.random.default_rng(seed)
        for token in TASKS:
            if question := make_sample(scene, token, rng):
                places = asked_for(question, scene, SIDE, GRID)
                assert places.shape == (GRID**2, 16)
                assert bool(places.any()) == bool(subjects(question, scene)), (seed, token)
                if question.answer and question.task.answer_kind.name != "TEXT":
                    assert len(subjects(question, scene)) == len(question.answer)
                    told += 1
    assert told > 100
