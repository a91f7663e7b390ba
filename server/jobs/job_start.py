"""How a job begins, whoever asks for it: the recipe as it is kept, what answers, and what may not change meanwhile."""

import json
from contextlib import suppress

from server.engine.engine import Engine
from server.jobs.pinned_models import ProjectModels, pinned
from server.jobs.recipes.parsing import parse
from server.jobs.recipes.recipe import Recipe, difference
from server.jobs.runner import answerer
from server.jobs.sources import Source
from server.store import Job, JobChanged, Store, StoreError, Wanted


def begin(
    store: Store, engine: Engine, recipe: Recipe, source: Source, named: str, output: str, options: str = "{}",
    projects: ProjectModels | None = None,
) -> Job:  # fmt: skip
    """The output's job: a new one, or the one that is there. `named`: the source as it is kept; `options`: JSON, for
    whoever starts it again; `projects`: whose champions the recipe may ask. Raises JobChanged where the one that is
    there is another, RecipeError for a champion that is not to be had, and StoreError."""

    def begun(there: Job | None) -> Job:
        asked = pinned(recipe, kept(there) if there else None, engine.checkpoint.sha256, projects)
        written = asked.model_dump_json(exclude_defaults=True)
        model = answerer(engine, asked.adapters, asked.models)
        wanted = Wanted(output, written, asked.hash, named, source.fingerprint, model, options)
        return store.begin(wanted, source.names, _differences)

    there = store.of_output(output)
    try:
        return begun(there)
    except JobChanged:
        if there is not None:
            raise
    # Another process was faster; if others were promoted since it looked, its job differs by its champions alone.
    return begun(store.of_output(output))


def kept(job: Job) -> Recipe:
    """The recipe that the job began with. Raises RecipeError where this version reads it no more."""
    return parse(json.loads(job.wanted.recipe))


def model_name(job: Job, engine: Engine, recipe: Recipe) -> str:
    """What the model is called that the job began with, for people: by its hash where `engine` has another."""
    with suppress(StoreError):
        if answerer(engine, recipe.adapters, recipe.models) == job.wanted.model:
            return engine.checkpoint.name
    return f"of weights {job.wanted.model[:12]}"


def _differences(old: str, new: str) -> list[str]:
    return difference(*(parse(json.loads(recipe)) for recipe in (old, new)))
