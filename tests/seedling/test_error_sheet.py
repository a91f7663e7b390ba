"""The error sheet shows wrong answers only."""

from types import SimpleNamespace

import numpy as np
from PIL import Image

from prompts.annotations import Annotation, Text
from prompts.tasks import FLORENCE_TASKS
from seedling.error_sheet import draw_error_sheet
from seedling.report import OBJECTS
from seedling.robustness import pad_to_aspect
from seedling.scenes.drawing import draw_scene
from seedling.scenes.samples import make_sample
from server.engine.request import Request

SCENES = 4
SHEET_COLOR = (238, 241, 245)


class FakeEngine:
    """Knows the true answers of the first scenes, but answers the `wrong` tasks wrongly."""

    def __init__(self, *wrong: str) -> None:
        self.wrong, self.answers = wrong, dict[tuple[bytes, str], list[Annotation]]()
        for seed in range(SCENES):
            scene, rng = draw_scene(seed, objects=OBJECTS, words=(0, 2)), np.random.default_rng((seed, 2))
            for token in FLORENCE_TASKS:  # the report's samples share one generator
                sample = make_sample(scene, token, rng)
                image = pad_to_aspect(scene.image, 3) if token == "<OD>" else scene.image
                if sample is not None:
                    self.answers[image.tobytes(), token] = list(sample.answer)

    def submit(self, request: Request) -> SimpleNamespace:
        assert isinstance(request.image, Image.Image)
        token = request.task.token
        annotations = self.answers[request.image.tobytes(), token]
        if token in self.wrong:
            annotations = [] if token == "<OD>" else [Text(label="nine pink carrots")]
        return SimpleNamespace(wait=lambda: SimpleNamespace(annotations=annotations))


def draw(*wrong: str, per_kind: int = 2) -> Image.Image:
    return draw_error_sheet(FakeEngine(*wrong), SCENES, per_kind)  # type: ignore[arg-type]


def has_content(image: Image.Image) -> bool:
    """Returns whether there is anything on the sheet."""
    return bool((np.asarray(image) != SHEET_COLOR).any())


def test_correct_answers_are_not_shown() -> None:
    assert not has_content(draw())


def test_each_kind_of_error_has_its_row() -> None:
    heights = [draw(token).height for token in ("<CAPTION>", "<REGION_TO_DESCRIPTION>", "<OD>")]
    assert all(has_content(draw(token)) for token in ("<CAPTION>", "<REGION_TO_DESCRIPTION>", "<OD>"))
    everything = draw("<CAPTION>", "<REGION_TO_DESCRIPTION>", "<OD>")
    assert everything.height > max(heights)
    assert everything.width == draw().width


def test_the_first_errors_are_shown_and_no_more() -> None:
    one, two = draw("<OD>", per_kind=1), draw("<OD>", per_kind=2)
    assert one.width < two.width
    assert has_content(two.crop((two.width // 2, 0, two.width, two.height)))  # a second one beside it
