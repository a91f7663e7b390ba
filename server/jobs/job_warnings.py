"""What may not be as expected in a job: tasks that its model does not know, and class lists that cannot hold."""

from typing import TYPE_CHECKING

from prompts.tasks import describe_unknown_token
from server.engine.task_tokens import find_unknown_tasks
from server.jobs.recipes.class_lists import find_class_list
from server.jobs.recipes.recipe import Recipe

if TYPE_CHECKING:
    from server.engine.engine import Engine


def list_job_warnings(recipe: Recipe, engine: "Engine") -> list[str]:
    """Returns sentences about a job's recipe. The engine has the adapters that the recipe names."""
    steps = [(step, task) for step in recipe.steps for task in step.tasks]
    lists = [find_class_list(recipe, step, task) for step, task in steps]
    return [
        *map(describe_unknown_token, find_unknown_tasks(engine, (task for _, task in steps))),
        *dict.fromkeys(class_list.warning for class_list in lists if class_list and class_list.warning),
    ]
