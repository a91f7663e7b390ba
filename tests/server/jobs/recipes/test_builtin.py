"""The built-in recipes on a drawn scene, with the seedling model."""

import pytest
from PIL import Image, ImageOps

from seedling.scenes.drawing import draw_scene
from server.engine.engine import Engine
from server.engine.request import Request, Result
from server.jobs.model_prompts import ModelPrompt
from server.jobs.recipes.parsing import list_builtin_recipes, load_recipe
from tests.server.jobs.recipes.scripted_answers import run_recipe


@pytest.fixture(scope="module")
def scene() -> Image.Image:
    return draw_scene(3, words=(1, 2)).image


@pytest.mark.parametrize("name", list_builtin_recipes())
def test_a_built_in_recipe_labels_a_scene(name: str, scene: Image.Image, engine: Engine) -> None:
    def answer(prompt: ModelPrompt) -> Result:
        view = scene.crop(prompt.crop) if prompt.crop else scene
        view = ImageOps.mirror(view) if prompt.mirrored else view
        return engine.submit(Request(view, prompt.task, prompt.text, prompt.region, adapter=prompt.adapter)).wait()

    recipe = load_recipe(name)
    traces, _ = run_recipe(recipe, answer, scene.size)
    found = {trace.step for trace in traces}
    assert traces
    assert found <= {step.id for step in recipe.steps}
    for step in recipe.steps:
        if step.for_each in found and step.task == "<REGION_TO_SEGMENTATION>":
            parents = [trace.parent for trace in traces if trace.step == step.id]
            assert all(parent is not None and traces[parent].step == step.for_each for parent in parents)
            assert parents
