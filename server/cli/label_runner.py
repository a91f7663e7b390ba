"""The job behind `florist label`: runs it, and writes its dataset and summary. The same command continues it."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from server.cli.console import error_console, print_line
from server.cli.datasets import open_projects
from server.cli.progress import ProgressDisplay

if TYPE_CHECKING:
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


class LabelCommandError(Exception):
    """An error that ends the command; the message says what to do."""


def make_one_step_recipe(task: str, text: str | None, adapter: str | None) -> "Recipe":
    """Returns a recipe with one prompt for each image. Raises LabelCommandError."""
    from server.jobs.recipes.parsing import validate_recipe
    from server.jobs.recipes.problems import RecipeError

    step = {"id": "answers", "task": task, "text": text, "adapter": adapter}
    try:
        return validate_recipe({"name": task, "steps": [step]}, "--task")
    except RecipeError as error:
        raise LabelCommandError("; ".join(problem.message for problem in error.problems)) from error


def label_images(
    address: str,
    recipe: "str | Recipe",
    out: Path,
    formats: Sequence[str],
    load_engine: "Callable[[], Engine]",
    *,
    adapter: str | None = None,
    draw: bool = False,
    retry: bool = False,
    cluster: "tuple[EngineSetup, WorkerPool] | None" = None,
) -> int:
    """Labels the images of a source into the folder `out`, and returns the exit code.

    Writes the job's database, a summary, a dataset in each of `formats` and, with `draw`, each image with its
    annotations drawn. With `retry`, images that failed earlier are tried again. `recipe` is a file, the name of a
    built-in recipe, or a Recipe. `adapter` is the name of the adapter that the engine has. With `cluster`, workers on a
    Ray cluster label the images, each with its own engine, and this process only starts the job.

    The exit code is 0 if all images are labeled, 1 if some failed, and 2 if all failed. Raises LabelCommandError.
    """
    shared_url = os.environ.get(DATABASE_VARIABLE)
    if cluster is not None and not (shared_url or "").startswith("postgres"):
        raise LabelCommandError(
            f"a job on several machines needs a PostgreSQL database that all of them reach: set {DATABASE_VARIABLE}="
            "postgresql://user:password@host/name"
        )
    from labels.decoder_pool import decode_in_processes
    from server.jobs.cluster_worker import ClusterJob
    from server.jobs.job_start import get_job_recipe
    from server.jobs.output_folder import claim_output_folder
    from server.jobs.recipes.parsing import load_recipe
    from server.jobs.sources import addresses, open_source
    from server.store.database import to_file_url
    from server.store.jobs.job_store import JobStore

    url = shared_url or to_file_url(out.resolve() / _DATABASE_FILE)
    with _translate_errors(out), decode_in_processes():
        recipe = load_recipe(recipe) if isinstance(recipe, str) else recipe
        _check_options(recipe, formats, adapter, on_cluster=cluster is not None)
        _check_targets(out, formats, draw=draw)
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
                job = _start(store, recipe, address, source, engine, output, projects, retry=retry)
                recipe = get_job_recipe(job)  # with its champions
                _print_champions(recipe)
                if cluster is None:
                    # Other processes may use a shared database. This process has claimed the folder's own database.
                    job = _run(store, job, recipe, engine, source, projects, exclusive=not shared_url)
            del engine  # frees memory for a worker on this machine
            if cluster is not None:
                setup, pool = cluster
                cluster_job = ClusterJob(url, job.id, addresses.to_absolute(address), out.resolve(), setup)
                job = _run_on_cluster(store, job, cluster_job, pool, f"{recipe.name} with {model}")
            code = _write_results(store, job, source, out, formats, draw=draw)
            _write_summary(store, job, recipe, model, out, source)
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
        raise LabelCommandError(f"{error.filename or out}: {error.strerror or error}") from error


def _check_options(recipe: "Recipe", formats: Sequence[str], adapter: str | None, *, on_cluster: bool) -> None:
    from labels.formats import FORMATS

    for name in formats:
        if name not in FORMATS:
            raise LabelCommandError(f"there is no format {name}: use one of {', '.join(FORMATS)}")
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


def _start(
    store: "JobStore", recipe: "Recipe", address: str, source: "ImageSource", engine: "Engine", output: str,
    projects: "ProjectModels | None", *, retry: bool,
) -> "Job":  # fmt: skip
    from server.jobs.job_start import start_job
    from server.store import JobState

    job = start_job(store, engine, recipe, source, address, output, projects=projects)
    if job.state in (JobState.PAUSED, JobState.FAILED):
        job = store.resume(job)
    if job.state is JobState.CANCELLED:
        raise LabelCommandError(f"job {job.id} of this output was cancelled: use another output folder")
    return store.get_job(job.id) if retry and store.retry_failed(job) else job


def _print_champions(recipe: "Recipe") -> None:
    for project, tasks in recipe.champions.items():
        for task, champion in tasks.items():
            model = f"its model {champion.model}" if champion else "the base model"
            error_console.print(f"project {project}: this job uses {model} for {task}", highlight=False)


def _run(
    store: "JobStore", job: "Job", recipe: "Recipe", engine: "Engine", source: "ImageSource",
    projects: "ProjectModels | None", *, exclusive: bool,
) -> "Job":  # fmt: skip
    """Runs the job, and shows its progress."""
    from server.jobs.recipes.execution import execute_recipe
    from server.jobs.runner import run_job
    from server.store import CompletedImage

    before = store.get_progress(job)
    failed, ended = before.failed, before.done + before.failed
    counts = Counter[str]()

    def on_image(image: "CompletedImage | FailedImage") -> None:
        nonlocal failed, ended
        ended += 1
        if isinstance(image, CompletedImage):
            annotations = [trace.annotation for trace in image.result.traces]
            counts.update(annotation.label for annotation in annotations if annotation.kind != "text")
        else:
            failed += 1
        most_common = counts.most_common(_SHOWN_LABELS)
        display.show(ended, failed, "   ".join(f"{label} {count}" for label, count in most_common))

    champions = projects.load_champions(engine, recipe, job.id) if projects and before.unfinished else nullcontext({})
    title = f"{recipe.name} with {engine.checkpoint.name}"
    with champions as pinned_models, ProgressDisplay(title, before.total, ended, error_console) as display:
        return run_job(
            store, job, engine, source, partial(execute_recipe, recipe), exclusive=exclusive,
            pinned_models=pinned_models, on_image=on_image,
        )  # fmt: skip


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


def _list_targets(out: Path, formats: Sequence[str], *, draw: bool) -> dict[str, Path]:
    """Returns the dataset of each format, and the folder of the drawn images."""
    from labels.formats import FORMATS

    targets = {name: out / (f"labels{FORMATS[name].suffix}" if FORMATS[name].suffix else name) for name in formats}
    return targets | ({_DRAWN_FOLDER: out / _DRAWN_FOLDER} if draw else {})


def _check_targets(out: Path, formats: Sequence[str], *, draw: bool) -> None:
    """Raises FileExistsError if an export would replace the files of a person: before anything is labeled."""
    from labels.writing.export_folder import check_target

    for target in _list_targets(out, formats, draw=draw).values():
        check_target(target, one_file=bool(target.suffix))


def _write_results(
    store: "JobStore", job: "Job", source: "ImageSource", out: Path, formats: Sequence[str], *, draw: bool
) -> int:
    """Writes the datasets of a job that is done, and lists the images that failed. Returns the exit code."""
    from labels.formats import FORMATS
    from server.jobs.drawn_images import write_drawn_images
    from server.store import JobState

    if job.state is not JobState.DONE:
        reason = f" ({job.reason})" if job.reason else ""
        raise LabelCommandError(f"the job is {job.state}{reason}; run the same command again to continue")
    progress = store.get_progress(job)
    for name, target in _list_targets(out, formats, draw=draw).items():
        images = store.iter_images(job, lambda position: source[position].read())
        if name == _DRAWN_FOLDER:
            report = write_drawn_images(images, target)
        else:
            report = FORMATS[name].write(images, target, copy_images=False)
        left_out = "".join(f"; {count} {what} left out" for what, count in report.left_out.items())
        print_line(f"{report.annotations} annotations on {report.images} images: {target}{left_out}")
        for remark in report.iter_remarks():
            print_line(f"  {remark}")
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
    store: "JobStore", job: "Job", recipe: "Recipe", model: str, out: Path, source: "ImageSource"
) -> None:
    from server.jobs.summary import SummaryInfo, write_summary
    from server.store.text import redact_address

    info = SummaryInfo(
        title=out.resolve().name,
        recipe=recipe,
        source=redact_address(job.spec.source),
        model=model,
        progress=store.get_progress(job),
        failures=store.iter_failures(job),
        notes=source.notes,
    )
    images = store.iter_images(job, lambda position: source[position].read())
    write_summary(out / _SUMMARY_FILE, images, info)
    print_line(f"summary: {out / _SUMMARY_FILE}")
