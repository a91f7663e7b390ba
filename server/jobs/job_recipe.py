"""The recipe of a stored job. Imports no SQLAlchemy, which takes half a second."""

import json

from server.jobs.recipes.parsing import validate_recipe
from server.jobs.recipes.recipe import Recipe
from server.store import Job


def get_job_recipe(job: Job) -> Recipe:
    """Returns the recipe that the job was started with. Raises RecipeError if this version cannot read it."""
    return validate_recipe(json.loads(job.spec.recipe))
