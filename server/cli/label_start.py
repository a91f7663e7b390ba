"""The job behind `florist label`: creates it, or adds to it what the source and the recipe have that it has not."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape

from server.cli.console import error_console

if TYPE_CHECKING:
    from server.engine.engine import Engine
    from server.jobs.pinned_models import ProjectModels
    from server.jobs.recipes.recipe import PinnedChampion, Recipe
    from server.jobs.sources import ImageSource
    from server.store import Job, JobMismatchError
    from server.store.jobs.job_changes import ImageChanges
    from server.store.jobs.job_store import JobStore

_SHOWN_NAMES = 5


class LabelCommandError(Exception):
    """An error that ends the command; the message says what to do."""


def start_job(
    store: "JobStore", recipe: "Recipe", address: str, source: "ImageSource", engine: "Engine", output: str,
    projects: "ProjectModels | None", *, folder: str, retry: bool, relabel: bool,
) -> "Job":  # fmt: skip
    """Returns the job of the output, ready to run, and prints how its images have changed.

    `folder` is the output folder, for messages. With `retry`, images that failed are labeled again. With `relabel`, all
    are, with the recipe and the models of now. Raises LabelCommandError, and as `server.jobs.job_start` does.
    """
    from server.jobs import job_start
    from server.store import JobMismatchError, JobState

    if (job := store.find_job(output)) is None:
        job = job_start.start_job(store, engine, recipe, source, address, output, projects=projects)
    elif job.state is JobState.CANCELLED:
        raise LabelCommandError(f"job {job.id} of this output was cancelled: use another output folder")
    else:
        try:
            job, changes = job_start.update_job(store, job, engine, recipe, source, address, projects, relabel=relabel)
        except JobMismatchError as error:
            raise LabelCommandError(_describe_mismatch(store, error, len(source), folder)) from error
        for line in describe_changes(changes):
            error_console.print(escape(line), soft_wrap=True, highlight=False)
    if job.state in (JobState.PAUSED, JobState.FAILED):
        job = store.resume(job)
    return store.get_job(job.id) if retry and store.retry_failed(job) else job


def describe_changes(changes: "ImageChanges") -> list[str]:
    """Returns lines that say how the images of a job have changed; none if nothing is to be said."""
    lines: list[str] = []
    if changes.relabeled:
        lines.append(
            f"{_count(changes.added, 'new image')}, {changes.relabeled:,} to label again; the labels so far stay in "
            "the database"
        )
    elif changes.added or changes.removed or changes.compared:
        lines.append(f"{_count(changes.added, 'new image')}, {changes.kept:,} kept")
    if changes.compared:
        lines.append(
            f"{_count(changes.compared, 'image')} may have changed and will be read again: {_list(changes, 'compared')}"
        )
    if changes.removed:
        lines.append(
            f"{_count(changes.removed, 'image')} no longer in the source, and left out of the datasets; the labels "
            f"stay in the database: {_list(changes, 'removed')}"
        )
    if changes.reviewed:
        lines.append(
            f"other review thresholds: the labels of {_count(changes.reviewed, 'image')} are reviewed by them, and no "
            "model is asked again"
        )
    if changes.unchecked:
        lines.append(
            f"{_count(changes.unchecked, 'image')} kept without a look at the file, as the source does not say whether "
            "it has changed; --relabel reads all"
        )
    return lines


def print_changed_images(names: Sequence[str]) -> None:
    """Prints which images have other files than before, and were labeled again."""
    if names:
        shown = ", ".join(names[:_SHOWN_NAMES]) + (", …" if len(names) > _SHOWN_NAMES else "")
        line = f"{_count(len(names), 'changed image')} labeled again: {shown}"
        error_console.print(escape(line), soft_wrap=True, highlight=False)


def print_champions(recipe: "Recipe", projects: "ProjectModels | None", engine: "Engine") -> None:
    """Prints which models of projects the job uses, and which are promoted now."""
    from server.store import StoreError

    for project, tasks in recipe.champions.items():
        for task, champion in tasks.items():
            line = f"project {project}: this job uses {_name_model(champion)} for {task}"
            try:
                newest = projects.find_champion(project, task, engine.checkpoint.sha256) if projects else champion
            except StoreError:
                newest = champion
            if newest != champion:
                line += f"; {_name_model(newest)} is promoted now, and --relabel uses it"
            error_console.print(escape(line), soft_wrap=True, highlight=False)


def describe_seconds(seconds: float) -> str:
    """Returns a time in words, such as `40 s`, `12 min` or `3.5 h`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _describe_mismatch(store: "JobStore", error: "JobMismatchError", images: int, folder: str) -> str:
    """Returns what differs from the job of the output, and what labeling its images again would cost."""
    text = error.describe(folder, "another folder (--out)")
    job, spec = error.job, error.spec
    if (job.spec.recipe_hash, job.spec.model_hash) == (spec.recipe_hash, spec.model_hash):
        return text  # another source: it would be another dataset
    stored = store.count_labeled(job, spec.recipe_hash, spec.model_hash)
    rate = store.estimate_rate(job)
    left = max(0, images - stored)
    cost = f"{_count(left, 'image')} again"
    if rate and left:
        cost += f", in about {describe_seconds(left / rate)} at the {rate:.2g} images per second of this job so far"
    if stored:
        cost += f"; {stored:,} have labels of these settings already"
    return f"{text}.\nOr add --relabel: it labels {cost}. The labels so far stay in the database"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _list(changes: "ImageChanges", kind: str) -> str:
    names = changes.names[kind]
    return ", ".join(names[:_SHOWN_NAMES]) + (", …" if getattr(changes, kind) > _SHOWN_NAMES else "")


def _name_model(champion: "PinnedChampion | None") -> str:
    return f"its model {champion.model}" if champion else "the base model"
