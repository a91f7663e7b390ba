"""Starts a job, or changes it: records its recipe and models, so that they stay the same until it ends."""

import json
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from server.jobs.job_recipe import get_job_recipe
from server.jobs.model_hash import compute_model_hash
from server.jobs.pinned_models import ProjectModels, pin_champions, pin_class_lists
from server.jobs.recipes.differences import describe_differences
from server.jobs.recipes.parsing import validate_recipe
from server.jobs.recipes.recipe import Recipe
from server.jobs.recipes.review import differs_only_in_review, review_again
from server.jobs.sources import ImageSource, addresses
from server.store import Job, JobMismatchError, JobSpec, StoreError
from server.store.jobs.job_changes import ImageChanges, list_differences
from server.store.jobs.job_store import JobStore

if TYPE_CHECKING:  # torch
    from server.engine.engine import Engine


def start_job(
    store: JobStore, engine: "Engine", recipe: Recipe, source: ImageSource, address: str, output: str,
    options: str = "{}", projects: ProjectModels | None = None,
) -> Job:  # fmt: skip
    """Returns the job of the output. Creates the job if there is none.

    `address` is the address of the source, which is stored. `options` is JSON for the process that resumes the job.
    `projects` provides the champions that the recipe uses. Raises JobMismatchError if the output belongs to a job with
    another recipe, source or model, RecipeError if a champion is not available, and StoreError.
    """

    def get_or_create(existing: Job | None) -> Job:
        pinned = _pin_models(recipe, get_job_recipe(existing) if existing else None, engine, projects)
        spec = _create_spec(pinned, engine, source, address, output, options)
        if existing:
            _change_reviews(store, existing, pinned, spec)
        return store.get_or_create_job(spec, source.names, _compare_recipes)

    existing = store.find_job(output)
    try:
        return get_or_create(existing)
    except JobMismatchError:
        if existing is not None:
            raise
    # Another process was faster. If a model was promoted in between, its job differs only in the champions.
    return get_or_create(store.find_job(output))


def update_job(
    store: JobStore, job: Job, engine: "Engine", recipe: Recipe, source: ImageSource, address: str,
    projects: ProjectModels | None = None, *, relabel: bool = False,
) -> tuple[Job, ImageChanges]:  # fmt: skip
    """Adds the images that are new in the source to a job, and finds those that were removed or changed. Returns the
    job, and what has changed.

    With `relabel`, the job also gets the recipe and the models of now, and all its images are labeled again, but for
    those with stored annotations of this recipe and these models. Without it, they must be those of the job:
    JobMismatchError is raised otherwise, and also if the source is at another address and lacks an image of the job.
    If only review thresholds differ, the stored labels are reviewed by the new ones. Raises InvalidStateError if the
    job is cancelled, otherwise as `start_job`.
    """
    pinned = _pin_models(recipe, None if relabel else get_job_recipe(job), engine, projects)
    spec = _create_spec(pinned, engine, source, address, job.spec.output, job.spec.options)
    job, reviewed = _change_reviews(store, job, pinned, spec)
    if not relabel and (lines := list_differences(job.spec, spec, _compare_recipes)):
        raise JobMismatchError(spec.output, lines, job, spec)
    is_same_address = addresses.to_absolute(address) == addresses.to_absolute(job.spec.source)
    job, changes = store.update_job(job, spec, source, may_remove=is_same_address, relabel=relabel)
    return job, replace(changes, reviewed=reviewed)


def _change_reviews(store: JobStore, job: Job, recipe: Recipe, spec: JobSpec) -> tuple[Job, int]:
    """Gives a job the review thresholds of `recipe` if nothing else differs. Returns it, and how many images have
    labels that were reviewed again."""
    if job.spec.recipe_hash == spec.recipe_hash or job.spec.model_hash != spec.model_hash:
        return job, 0
    if not differs_only_in_review(get_job_recipe(job), recipe):
        return job, 0
    return store.change_reviews(job, spec, partial(review_again, recipe))


def _pin_models(recipe: Recipe, previous: Recipe | None, engine: "Engine", projects: ProjectModels | None) -> Recipe:
    """Returns the recipe with its champions and class lists; those of `previous` come before those of now."""
    pinned = pin_champions(recipe, previous, engine.checkpoint.sha256, projects)
    return pin_class_lists(pinned, previous, engine, projects)


def _create_spec(
    pinned: Recipe, engine: "Engine", source: ImageSource, address: str, output: str, options: str
) -> JobSpec:
    document = pinned.model_dump_json(exclude_defaults=True)
    model_hash = compute_model_hash(engine, pinned.adapters, pinned.models)
    return JobSpec(output, document, pinned.hash, address, source.fingerprint, model_hash, options)


def get_model_name(job: Job, engine: "Engine", recipe: Recipe) -> str:
    """Returns the name of the model that the job was started with; its hash if `engine` has another model."""
    with suppress(StoreError):
        if compute_model_hash(engine, recipe.adapters, recipe.models) == job.spec.model_hash:
            return engine.checkpoint.name
    return f"with the hash {job.spec.model_hash[:12]}"


def _compare_recipes(old: str, new: str) -> list[str]:
    return describe_differences(*(validate_recipe(json.loads(recipe)) for recipe in (old, new)))
