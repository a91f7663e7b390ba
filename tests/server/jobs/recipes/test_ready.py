"""The ready recipes, asked of the real seedling about one drawn scene."""

import pytest
from PIL import Image, ImageOps

from seedling.scenes.drawing import draw_scene
from server.engine.engine import Engine
from server.engine.request import Request, Result
from server.jobs.model_prompts import Ask
from server.jobs.recipes.parsing import load, ready
from tests.server.jobs.recipes.answering import play


@pytest.fixture(scope="module")
def scene() -> Image.Image:
    return draw_scene(3, words=(1, 2)).image


@pytest.mark.parametrize("name", ready())
def test_it_labels_a_scene(name: str, scene: Image.Image, engine: Engine) -> None:
    def answer(ask: Ask) -> Result:
        shown = scene.crop(ask.crop) if ask.crop else scene
        shown = ImageOps.mirror(shown) if ask.mirrored else shown
        return engine.submit(Request(shown, ask.task, ask.text, ask.region, adapter=ask.adapter)).wait()

    recipe = load(name)
    labels, _ = play(recipe, answer, scene.size)
    found = {label.step for label in labels}
    assert labels
    assert found <= {step.id for step in recipe.steps}
    for step in recipe.steps:
        if step.each in found and step.task == "<REGION_TO_SEGMENTATION>":
            about = [label.parent for label in labels if label.step == step.id]
            assert all(parent is not None and labels[parent].step == step.each for parent in about)
            assert about
