"""Runs recipes on scripted answers, without an engine. Checks that an engine would accept each prompt."""

import textwrap
from collections.abc import Callable, Sequence

from hypothesis import HealthCheck, settings

from labels.labeled_image import TracedAnnotation
from prompts.annotations import Annotation, Box, Polygon, Quad, Text
from server.engine.request import Result
from server.jobs.model_prompts import ModelPrompt, RecipeLabels
from server.jobs.recipes.execution import execute_recipe
from server.jobs.recipes.parsing import parse_recipe
from server.jobs.recipes.recipe import Recipe

SIZE = (1000, 500)
deterministic = settings(derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def make_recipe(steps: str, top: str = "") -> Recipe:
    """Returns a recipe from the YAML of its steps. `top` has the other keys."""
    return parse_recipe(
        f"name: test\n{textwrap.dedent(top)}\nsteps:\n{textwrap.indent(textwrap.dedent(steps), '  ')}\n"
    )


def label_image(recipe: Recipe, answer: Callable[[ModelPrompt], Result]) -> RecipeLabels:
    """Returns the annotations of an image of SIZE, and the labels that were dropped."""
    execution = execute_recipe(recipe, SIZE)
    try:
        prompts = next(execution)
        while True:
            prompts = execution.send([answer(prompt) for prompt in prompts])
    except StopIteration as end:
        labels: RecipeLabels = end.value
        return labels


def run_recipe(
    recipe: Recipe, answer: Callable[[ModelPrompt], Result], size: tuple[int, int] = SIZE
) -> tuple[list[TracedAnnotation], list[list[ModelPrompt]]]:
    """Returns the annotations, and the prompts of each round."""
    execution, rounds = execute_recipe(recipe, size), []
    try:
        prompts: Sequence[ModelPrompt] = next(execution)
        while True:
            assert prompts
            rounds.append(list(prompts))
            for prompt in prompts:
                prompt.task.build_prompt(prompt.text, prompt.region, get_view_size(prompt, size))
            prompts = execution.send([answer(prompt) for prompt in prompts])
    except StopIteration as end:
        return end.value.traces, rounds


def get_view_size(prompt: ModelPrompt, size: tuple[int, int]) -> tuple[int, int]:
    """Returns the size of the view that a prompt is about. Asserts that it is inside the image."""
    if prompt.crop is None:
        return size
    x1, y1, x2, y2 = prompt.crop
    assert 0 <= x1 < x2 <= size[0]
    assert 0 <= y1 < y2 <= size[1]
    return x2 - x1, y2 - y1


def answer_by_task(**answers: Result | Callable[[ModelPrompt], Result]) -> Callable[[ModelPrompt], Result]:
    """Returns answers by the name of the task, as in `OD=make_result(…)`. Other tasks have empty answers."""

    def answer(prompt: ModelPrompt) -> Result:
        found = answers.get(prompt.task.token.strip("<>"), make_result())
        return found(prompt) if callable(found) else found

    return answer


def make_result(*annotations: Annotation, text: str = "raw", finish: str = "stop") -> Result:
    return Result(list(annotations), text, [2], [0.0], finish)


def make_text_result(words: str, score: float | None = 0.9) -> Result:
    return make_result(Text(label=words, score=score))


def make_box(label: str, *corners: float, score: float | None = 0.9) -> Box:
    x1, y1, x2, y2 = corners
    return Box(label=label, score=score, box=(x1, y1, x2, y2))


def make_quad(label: str, *points: float) -> Quad:
    x1, y1, x2, y2, x3, y3, x4, y4 = points
    return Quad(label=label, score=0.9, quad=(x1, y1, x2, y2, x3, y3, x4, y4))


def make_polygon(*rings: Sequence[float], label: str = "") -> Polygon:
    return Polygon(label=label, score=0.9, polygons=[list(ring) for ring in rings])
