"""The sheet shows answers that are wrong, and no others."""

from types import SimpleNamespace

import numpy as np
from PIL import Image

from prompts.annotations import Annotation, Text
from prompts.tasks import TASKS
from seedling import error_sheet
from seedling.report import OBJECTS
from seedling.robustness import wide
from seedling.scenes import samples
from seedling.scenes.drawing import draw_scene
from server.engine.request import Request

SCENES = 4
GROUND = (238, 241, 245)


class Oracle:
    """An engine that knows the truth of the first scenes, but for the tasks of `wrong`."""

    def __init__(self, *wrong: str) -> None:
        self.wrong, self.known = wrong, dict[tuple[bytes, str], list[Annotation]]()
        for seed in range(SCENES):
            scene, rng = draw_scene(seed, objects=OBJECTS, words=(0, 2)), np.random.default_rng((seed, 2))
            for token in TASKS:  # the report's questions share one chance
                question = samples.make_sample(scene, token, rng)
                picture = wide(scene.image, 3) if token == "<OD>" else scene.image
                if question is not None:
                    self.known[picture.tobytes(), token] = list(question.answer)

    def submit(self, request: Request) -> SimpleNamespace:
        assert isinstance(request.image, Image.Image)
        token = request.task.token
        notes = self.known[request.image.tobytes(), token]
        if token in self.wrong:
            notes = [] if token == "<OD>" else [Text(label="nine pink carrots")]
        return SimpleNamespace(wait=lambda: SimpleNamespace(annotations=notes))


def sheet(*wrong: str, each: int = 2) -> Image.Image:
    return error_sheet.sheet(Oracle(*wrong), SCENES, each)  # type: ignore[arg-type]


def shown(picture: Image.Image) -> bool:
    """Whether there is anything on the ground of the sheet."""
    return bool((np.asarray(picture) != GROUND).any())


def test_right_answers_are_not_shown() -> None:
    assert not shown(sheet())


def test_wrong_answers_are_shown_each_kind_in_its_row() -> None:
    heights = [sheet(token).height for token in ("<CAPTION>", "<REGION_TO_DESCRIPTION>", "<OD>")]
    assert all(shown(sheet(token)) for token in ("<CAPTION>", "<REGION_TO_DESCRIPTION>", "<OD>"))
    everything = sheet("<CAPTION>", "<REGION_TO_DESCRIPTION>", "<OD>")
    assert everything.height > max(heights)
    assert everything.width == sheet().width


def test_the_first_wrong_ones_are_shown_and_no_more() -> None:
    one, two = sheet("<OD>", each=1), sheet("<OD>", each=2)
    assert one.width < two.width
    assert shown(two.crop((two.width // 2, 0, two.width, two.height)))  # another beside it
