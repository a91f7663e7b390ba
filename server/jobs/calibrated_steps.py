"""Which steps of a recipe have scores that are probabilities.

The scores of a task are calibrated if a calibration beside the weights that answer has a scale for the task: all tasks
of the seedling have one. An adapter's scores are calibrated only by its own calibration, whatever its base model has,
and those of other checkpoints not at all until one is fitted (`server.cli.calibrate`).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from server.jobs.recipes.recipe import Recipe
from server.jobs.recipes.review import get_review_threshold

if TYPE_CHECKING:  # torch
    from server.engine.engine import Engine


def find_uncalibrated_steps(recipe: Recipe, engine: "Engine") -> Sequence[str]:
    """Returns the IDs of steps that are reviewed by scores which are not calibrated.

    Says nothing of steps that models of a project answer.
    """
    calibrations = {adapter.name: adapter.calibration for adapter in engine.list_adapters()}
    found: list[str] = []
    for step in recipe.steps:
        if step.project is not None or not get_review_threshold(recipe, step):
            continue
        calibration = engine.checkpoint.calibration if step.adapter is None else calibrations.get(step.adapter)
        if calibration is None or calibration.get_scale(step.task_definition) is None:
            found.append(step.id)
    return found
