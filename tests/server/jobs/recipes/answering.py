"""Recipes run on answers made by hand, every ask held to what an engine takes."""

import textwrap
from collections.abc import Callable, Sequence

from hypothesis import HealthCheck, settings

from labels.labeled_image import TracedAnnotation
from prompts.annotations import Annotation, Box, Polygon, Quad, Text
from server.engine.request import Result
from server.jobs.model_prompts import ModelPrompt
from server.jobs.recipes.execution import execute_recipe
from server.jobs.recipes.parsing import parse_recipe
from server.jobs.recipes.recipe import Recipe

SIZE = (1000, 500)
steady = settings(derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def recipe(steps: str, top: str = "") -> Recipe:
    """A recipe of its steps' YAML."""
    return parse_recipe(f"name: test\n{textwrap.dedent(top)}\nsteps:\n{textwrap.indent(textwrap.dedent(steps), '  ')}\n")


def play(
    recipe: Recipe, answer: Callable[[ModelPrompt], Result], size: tuple[int, int] = SIZE
) -> tuple[list[TracedAnnotation], list[list[ModelPrompt]]]:
    """The labels, and what was asked at each turn."""
    work, turns = execute_recipe(recipe, size), []
    try:
        asks: Sequence[ModelPrompt] = next(work)
        while True:
            assert asks
            turns.append(list(asks))
            for ask in asks:
                ask.task.build_prompt(ask.text, ask.region, shown(ask, size))
            asks = work.send([answer(ask) for ask in asks])
    except StopIteration as end:
        return end.value, turns


def shown(ask: ModelPrompt, size: tuple[int, int]) -> tuple[int, int]:
    """The size of what an ask is about, which lies in the picture."""
    if ask.crop is None:
        return size
    x1, y1, x2, y2 = ask.crop
    assert 0 <= x1 < x2 <= size[0]
    assert 0 <= y1 < y2 <= size[1]
    return x2 - x1, y2 - y1


def by_task(**answers: Result | Callable[[ModelPrompt], Result]) -> Callable[[ModelPrompt], Result]:
    """Answers by the task's name, as in `OD=result(…)`; nothing to the others."""

    def answer(ask: ModelPrompt) -> Result:
        found = answers.get(ask.task.token.strip("<>"), result())
        return found(ask) if callable(found) else found

    return answer


def result(*annotations: Annotation, text: str = "raw", finish: str = "stop") -> Result:
    return Result(list(annotations), text, [2], [0.0], finish)


def text(words: str, score: float | None = 0.9) -> Result:
    return result(Text(label=words, score=score))


def box(label: str, *corners: float, score: float | None = 0.9) -> Box:
    x1, y1, x2, y2 = corners
    return Box(label=label, score=score, box=(x1, y1, x2, y2))


def quad(label: str, *points: float) -> Quad:
    x1, y1, x2, y2, x3, y3, x4, y4 = points
    return Quad(label=label, score=0.9, quad=(x1, y1, x2, y2, x3, y3, x4, y4))


def polygon(*rings: Sequence[float], label: str = "") -> Polygon:
    return Polygon(label=label, score=0.9, polygons=[list(ring) for ring in rings])
