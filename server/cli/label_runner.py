"""The job behind `florist label`: runs it, and writes its dataset and summary. The same command continues it."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from server.cli.console import describe_os_error, error_console, print_line
from server.cli.datasets import open_projects
from server.cli.engine import list_unknown_tasks
from server.cli.label_start import LabelCommandError, print_champions, print_changed_images, start_job
from server.cli.progress import ProgressDisplay

if TYPE_CHECKING:
    from server.cli.label_datasets import LabelDatasets
    from server.engine.engine import Engine
    from server.jobs.cluster import WorkerPool
    from server.jobs.cluster_worker import ClusterJob, EngineSetup
    from server.jobs.pinned_models import ProjectModels
    from server.jobs.recipes.recipe import Recipe
    from server.jobs.sources import ImageSource
    from server.projects.pinned_models import PinnedProjectModels
    from server.store import CompletedImage, FailedImage, Job, JobProgress
    from server.store.jobs.job_store import JobStore

DATABASE_VARIABLE = "FLORIST_DATABASE_URL"
_DATABASE_FILE, _DRAWN_FOLDER, _SUMMARY_FILE = "florist.db", "drawn", "summary.html"
_SHOWN_FAILURES, _SHOWN_LABELS = 20, 8  # failures listed at the end; labels in the progress display


def make_one_step_recipe(
    task: str, text: str | None, adapter: str | None, review_below: float | None = None
) -> "Recipe":
    """Returns a recipe with one prompt for each image. Raises LabelCommandError.

    `review_below` is the score below which labels are to review; None: that of the built-in recipes.
    """
    from server.jobs.recipes.parsing import validate_recipe
    from server.jobs.recipes.problems import RecipeError
    from server.jobs.recipes.review import get_step_kind
    from server.jobs.recipes.review_thresholds import DEFAULT_THRESHOLDS

    step = {"id": "answers", "task": task, "text": text, "adapter": adapter}
    try:
        recipe = validate_recipe({"name": task, "steps": [step]}, "--task")
        if review_below is None:
            review_below = DEFAULT_THRESHOLDS[get_step_kind(recipe, recipe.steps[0])]
        return validate_recipe({"name": task, "steps": [step | {"review_below": review_below or None}]}, "--task")
    except RecipeError as error:
        raise LabelCommandError("; ".join(problem.message for problem in error.problems)) from error


def label_images(
    address: str,
    recipe: "str | Recipe",
    datasets: "LabelDatasets",
    load_engine: "Callable[[], Engine]",
    *,
    adapter: str | None = None,
    any_class: bool = False,
    retry: bool = False,
    relabel: bool = False,
    cluster: "tuple[EngineSetup, WorkerPool] | None" = None,
) -> int:
    """Labels the images of a source into the folder of `datasets`, and returns the exit code.

    Writes the job's database, a summary, and `datasets`. With `retry`, images that failed earlier are tried again. With
    `relabel`, all images are labeled again that have no labels of this recipe and these models.
    `recipe` is a file, the name of a built-in recipe, or a Recipe. `adapter` is the name of the adapter that the engine
    has. With `any_class`, answers are held to no class list. With `cluster`, workers on a Ray cluster label the images,
    each with its own engine, and this process only starts the job.

    The exit code is 0 if all images are labeled, 1 if some failed, and 2 if all failed. Raises LabelCommandError.
    """
    out, shared_url = datasets.out, os.environ.get(DATABASE_VARIABLE)
    if cluster is not None and not (shared_url or "").startswith("postgres"):
        raise LabelCommandError(
            f"a job on several machines needs a PostgreSQL database that all of them reach: set {DATABASE_VARIABLE}="
            "postgresql://user:password@host/name"
        )
    from labels.decoder_pool import decode_in_processes
    from server.jobs.calibrated_steps import find_uncalibrated_steps
    from server.jobs.cluster_worker import ClusterJob
    from server.jobs.job_recipe import get_job_recipe
    from server.jobs.output_folder import claim_output_folder
    from server.jobs.recipes.class_lists import allow_any_class, describe_class_lists
    from server.jobs.recipes.parsing import load_recipe
    from server.jobs.sources import addresses, open_source
    from server.store.database import to_file_url
    from server.store.jobs.job_store import JobStore

    url = shared_url or to_file_url(out.resolve() / _DATABASE_FILE)
    with _translate_errors(out), decode_in_processes():
        recipe = load_recipe(recipe) if isinstance(recipe, str) else recipe
        recipe = allow_any_class(recipe) if any_class else recipe
        _check_options(recipe, adapter, on_cluster=cluster is not None)
        datasets.check_targets()
        with (
            _open_projects(recipe) as projects,
            open_source(address, exclude=out) as source,
            claim_output_folder(out),
            JobStore(url) as store,
        ):
            for note in source.notes:
                error_console.print(escape(note), soft_wrap=True)
            # A folder with its own database can be moved. In a shared database, its path identifies the job.
            output = str(out.resolve()) if shared_url else "."
            with load_engine() as engine:
                model = engine.checkpoint.name
                job = start_job(
                    store, recipe, address, source, engine, output, projects, folder=str(out), retry=retry,
                    relabel=relabel,
                )  # fmt: skip
                recipe = get_job_recipe(job)  # with its champions and class lists
                print_champions(recipe, projects, engine)
                for line in (
                    *describe_class_lists(recipe),
                    *list_unknown_tasks(engine, (step.task for step in recipe.steps)),
                ):
                    error_console.print(escape(line), soft_wrap=True, highlight=False)
                uncalibrated = find_uncalibrated_steps(recipe, engine)
                if cluster is None:
                    # Other processes may use a shared database. This process has claimed the folder's own database.
                    job = _run(store, job, recipe, engine, source, projects, exclusive=not shared_url)
            del engine  # frees memory for a worker on this machine
            if cluster is not None:
                setup, pool = cluster
                cluster_job = ClusterJob(url, job.id, addresses.to_absolute(address), out.resolve(), setup)
                job = _run_on_cluster(store, job, cluster_job, pool, f"{recipe.name} with {model}")
            code = _write_results(store, job, source, datasets)
            _write_summary(store, job, recipe, model, out, source, uncalibrated)
            return code


@contextmanager
def _translate_errors(out: Path) -> Iterator[None]:
    """Raises errors whose message says what to do as LabelCommandError. `out`: named if an OSError names no file."""
    from server.engine.adapters.errors import AdapterError
    from server.jobs.cluster_worker import ClusterError
    from server.jobs.output_folder import OutputError
    from server.jobs.recipes.problems import RecipeError
    from server.jobs.runner import JobFailedError
    from server.jobs.sources import SourceError
    from server.store import JobMismatchError, StoreError

    try:
        yield
    except JobMismatchError as error:
        raise LabelCommandError(error.describe(str(out), "another folder (--out)")) from error
    except (AdapterError, ClusterError, RecipeError, SourceError, OutputError, StoreError, JobFailedError) as error:
        raise LabelCommandError(str(error)) from error
    except OSError as error:
        raise LabelCommandError(describe_os_error(error, out)) from error


def _check_options(recipe: "Recipe", adapter: str | None, *, on_cluster: bool) -> None:
    if adapter is not None and adapter not in recipe.adapters:
        raise LabelCommandError(
            f"no step of {recipe.name} uses the adapter {adapter}: add `adapter: {adapter}` to the steps that "
            "it should answer"
        )
    if on_cluster and recipe.projects:
        raise LabelCommandError(
            f"{recipe.name} uses a project, which works only on one machine: remove --engine ray, or use `adapter` "
            "instead of `project` and give its folder with --adapter"
        )


@contextmanager
def _open_projects(recipe: "Recipe") -> "Iterator[PinnedProjectModels | None]":
    """Opens the projects of the server on this machine if the recipe uses any. Raises LabelCommandError."""
    if not recipe.projects:
        yield None
        return
    from labels.dataset import DatasetError
    from server import settings
    from server.projects.pinned_models import PinnedProjectModels

    try:
        with open_projects(f"the project {recipe.projects[0][0]}", settings.load_settings()) as (project_store, files):
            yield PinnedProjectModels(project_store, files)
    except (DatasetError, settings.SettingsError) as error:
        raise LabelCommandError(str(error)) from error


def _run(
    store: "JobStore", job: "Job", recipe: "Recipe", engine: "Engine", source: "ImageSource",
    projects: "ProjectModels | None", *, exclusive: bool,
) -> "Job":  # fmt: skip
    """Runs the job, and shows its progress."""
    from server.jobs.object_view import ObjectView
    from server.jobs.recipes.execution import execute_recipe
    from server.jobs.runner import run_job
    from server.store import CompletedImage

    view = ObjectView(recipe)
    before = store.get_progress(job)
    failed, ended = before.failed, before.done + before.failed
    counts, changed = Counter[str](), list[str]()

    def on_image(image: "CompletedImage | FailedImage") -> None:
        nonlocal failed, ended
        ended += 1
        if isinstance(image, CompletedImage):
            if image.changed:
                changed.append(image.name)
            counts.update(view.list_labels(image.result.traces, (image.result.width, image.result.height)))
        else:
            failed += 1
        most_common = counts.most_common(_SHOWN_LABELS)
        display.show(ended, failed, "   ".join(f"{label} {count}" for label, count in most_common))

    champions = projects.load_champions(engine, recipe, job.id) if projects and before.unfinished else nullcontext({})
    title = f"{recipe.name} with {engine.checkpoint.name}"
    with champions as pinned_models, ProgressDisplay(title, before.total, ended, error_console) as display:
        job = run_job(
            store, job, engine, source, partial(execute_recipe, recipe), exclusive=exclusive,
            pinned_models=pinned_models, on_image=on_image,
        )  # fmt: skip
    print_changed_images(changed)
    return job


def _run_on_cluster(store: "JobStore", job: "Job", cluster_job: "ClusterJob", pool: "WorkerPool", title: str) -> "Job":
    """Runs the job on the machines of a Ray cluster, and shows its progress."""
    from server.jobs.cluster import run_on_cluster

    def on_progress(progress: "JobProgress", workers: int) -> None:
        waiting = "loading engines, or waiting for machines (see `ray status`)" if progress.unfinished else ""
        text = f"{workers} worker{'s' * (workers > 1)}" if workers else waiting
        display.show(progress.done + progress.failed, progress.failed, text)

    before = store.get_progress(job)
    with ProgressDisplay(title, before.total, before.done + before.failed, error_console) as display:
        return run_on_cluster(store, job, cluster_job, pool, on_progress)


def _write_results(store: "JobStore", job: "Job", source: "ImageSource", datasets: "LabelDatasets") -> int:
    """Writes the datasets of a job that is done, and lists the images that failed. Returns the exit code."""
    from server.store import JobState

    if job.state is not JobState.DONE:
        reason = f" ({job.reason})" if job.reason else ""
        raise LabelCommandError(f"the job is {job.state}{reason}; run the same command again to continue")
    progress = store.get_progress(job)
    datasets.write(store, job, source)
    if not progress.failed:
        return 0
    error_console.print(f"[bold red]{progress.failed} failed[/] (run the same command with --retry to try again):")
    for number, failure in enumerate(store.iter_failures(job)):
        if number == _SHOWN_FAILURES:
            error_console.print(f"  … and {progress.failed - _SHOWN_FAILURES} more")
            break
        error_console.print(f"  {escape(failure.name)}: {escape(failure.reason)}", soft_wrap=True, highlight=False)
    return 1 if progress.done else 2


def _write_summary(
    store: "JobStore", job: "Job", recipe: "Recipe", model: str, out: Path, source: "ImageSource",
    uncalibrated: "Sequence[str]",
) -> None:  # fmt: skip
    from server.jobs.summary import SummaryInfo, write_summary
    from server.jobs.summary.class_report import create_class_report
    from server.jobs.summary.review_report import describe_reviews
    from server.store.text import redact_address

    dropped, uncounted = store.count_dropped(job)
    info = SummaryInfo(
        title=out.resolve().name,
        recipe=recipe,
        source=redact_address(job.spec.source),
        model=model,
        progress=store.get_progress(job),
        failures=store.iter_failures(job),
        notes=source.notes,
        dropped=dropped,
        uncounted=uncounted,
        uncalibrated=uncalibrated,
    )
    images = store.iter_images(job, source.read)
    statistics = write_summary(out / _SUMMARY_FILE, images, info)
    for line in [
        *create_class_report(recipe, statistics, dropped, uncounted).describe(),
        *describe_reviews(statistics, uncalibrated),
    ]:
        print_line(line)
    print_line(f"summary: {out / _SUMMARY_FILE}")
