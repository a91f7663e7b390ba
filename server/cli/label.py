"""`florist label`: a job on the command line, gone on with by the same command; its dataset and summary."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from server.cli.datasets import projects_of
from server.cli.progress import ProgressDisplay

if TYPE_CHECKING:
    from server.engine.engine import Engine
    from server.jobs.cluster import ClusterJob, Loading, WorkerPool
    from server.jobs.pinned_models import ProjectModels
    from server.jobs.recipes.recipe import Recipe
    from server.jobs.sources import ImageSource
    from server.projects.pinned_models import PinnedProjectModels
    from server.store import CompletedImage, FailedImage, Job, JobProgress, JobStore

DATABASE = "FLORIST_DATABASE_URL"
_FILE, _DRAWN = "florist.db", "drawn"
_LISTED, _CLASSES = 20, 8  # failures named at the end; classes shown while it runs
console, errors = Console(), Console(stderr=True)


class LabelError(Exception):
    """What ends the command; the message says what to do."""


def one_step(task: str, text: str | None, adapter: str | None) -> "Recipe":
    """The recipe that asks one question of each picture. Raises LabelError."""
    from server.jobs.recipes.parsing import RecipeError, validate_recipe

    step = {"id": "answers", "task": task, "text": text, "adapter": adapter}
    try:
        return validate_recipe({"name": task, "steps": [step]}, "--task")
    except RecipeError as error:
        raise LabelError("; ".join(problem.message for problem in error.problems)) from error


def by_recipe(
    pictures: str,
    recipe: "str | Recipe",
    out: Path,
    formats: Sequence[str],
    load: "Callable[[], Engine]",
    *,
    adapter: str | None = None,
    draw: bool = False,
    retry: bool = False,
    cluster: "tuple[Loading, WorkerPool] | None" = None,
) -> int:
    """Labels `pictures` into `out`: the job's database, a dataset in each of the formats, and with `draw` each picture
    with its labels; with `retry` those that were set aside are tried once more. `recipe`: a file, the name of a ready
    one, or one. `load` gives the engine, `adapter` is the name of the one that it has; with `cluster`, actors on Ray's
    machines work, each with an engine of its own, and this one only says what the job is asked with.

    The exit code: 0, all labelled; 1, some were set aside, as listed; 2, all were. Raises LabelError.
    """
    shared = os.environ.get(DATABASE)
    if cluster is not None and not (shared or "").startswith("postgres"):
        raise LabelError(
            f"on several machines a job is kept in PostgreSQL, to which all of them write: set {DATABASE}="
            f"postgresql://user:password@host/name, a name by which each of them reaches it"
        )
    from labels.formats import FORMATS
    from server.engine.adapters.errors import AdapterError
    from server.jobs import job_start
    from server.jobs.cluster import ClusterError, ClusterJob
    from server.jobs.output_folder import OutputError, claim_output_folder
    from server.jobs.recipes.parsing import RecipeError
    from server.jobs.recipes.parsing import load_recipe as parse_recipe
    from server.jobs.runner import JobFailedError
    from server.jobs.sources import SourceError, addresses, open_source
    from server.store import JobStore, StoreError, file_url

    for name in formats:
        if name not in FORMATS:
            raise LabelError(f"there is no format {name}: take one of {', '.join(FORMATS)}")
    url = shared or file_url(out.resolve() / _FILE)
    try:
        asked = parse_recipe(recipe) if isinstance(recipe, str) else recipe
        if adapter is not None and adapter not in asked.adapters:
            raise LabelError(
                f"no step of {asked.name} names the adapter {adapter}: write `adapter: {adapter}` in those that it is "
                f"to answer"
            )
        if cluster is not None and asked.projects:
            raise LabelError(
                f"{asked.name} asks a project, which one machine alone can: leave --engine ray out, or write `adapter` "
                f"in place of `project`, and give its folder by --adapter"
            )
        with (
            _projects(asked) as projects,
            open_source(pictures, besides=out) as source,
            claim_output_folder(out),
            JobStore(url) as store,
        ):
            for note in source.notes:
                errors.print(escape(note), soft_wrap=True)
            # In a database of its own the folder may be moved; in one for many it is told apart by its path.
            output = str(out.resolve()) if shared else "."
            with load() as engine:
                model = engine.checkpoint.name
                job = _begun(store, asked, pictures, source, engine, output, projects, retry=retry)
                asked = job_start.get_job_recipe(job)  # with its champions
                for project, tasks in asked.champions.items():
                    for task, champion in tasks.items():
                        who = f"its model {champion.model}" if champion else "the model alone"
                        errors.print(f"{project} answers {task} in this job by {who}", highlight=False)
                if cluster is None:
                    # Who else works in a shared database cannot be known; in the folder's own nobody: it is claimed.
                    job = _shown(store, job, asked, engine, source, projects, sole=not shared)
            del engine  # an actor on this machine has the room for its own
            if cluster is not None:
                loading, pool = cluster
                work = ClusterJob(url, job.id, addresses.absolute(pictures), out.resolve(), loading)
                job = _spread(store, job, work, pool, f"{asked.name} by {model}")
            code = _written(store, job, source, out, formats, draw=draw)
            _summarised(store, job, asked, model, out, source)
            return code
    except (AdapterError, ClusterError, RecipeError, SourceError, OutputError, StoreError, JobFailedError) as error:
        raise LabelError(str(error)) from error
    except OSError as error:
        raise LabelError(f"{error.filename or out}: {error.strerror or error}") from error


@contextmanager
def _projects(asked: "Recipe") -> "Iterator[PinnedProjectModels | None]":
    """A server's, beside it, where the recipe asks some. Raises LabelError."""
    if not asked.projects:
        yield None
        return
    from labels.dataset import DatasetError
    from server import settings
    from server.projects.pinned_models import PinnedProjectModels
    from server.store.projects.registry import Registry

    try:
        with projects_of(f"the project {asked.projects[0][0]}", settings.load()) as (kept, folder):
            yield PinnedProjectModels(Registry(kept), folder)
    except (DatasetError, settings.SettingsError) as error:
        raise LabelError(str(error)) from error


def _begun(
    store: "JobStore", asked: "Recipe", pictures: str, source: "ImageSource", engine: "Engine", output: str,
    projects: "ProjectModels | None", *, retry: bool,
) -> "Job":  # fmt: skip
    from server.jobs import job_start
    from server.store import JobState

    job = job_start.start_job(store, engine, asked, source, pictures, output, projects=projects)
    if job.state in (JobState.PAUSED, JobState.FAILED):
        job = store.resume(job)
    if job.state is JobState.CANCELLED:
        raise LabelError(f"job {job.id} of this output was cancelled: take another output")
    return store.get_job(job.id) if retry and store.retry_failed(job) else job


def _shown(
    store: "JobStore", job: "Job", asked: "Recipe", engine: "Engine", source: "ImageSource",
    projects: "ProjectModels | None", *, sole: bool,
) -> "Job":  # fmt: skip
    """Runs the job, and shows how far it is."""
    from server.jobs.recipes.execution import execute_recipe
    from server.jobs.runner import run_job
    from server.store import CompletedImage

    before = store.get_progress(job)
    failed, ended = before.failed, before.done + before.failed
    classes = Counter[str]()

    def told(one: "CompletedImage | FailedImage") -> None:
        nonlocal failed, ended
        ended += 1
        if isinstance(one, CompletedImage):
            classes.update(label.annotation.label for label in one.answer.labels if label.annotation.kind != "text")
        else:
            failed += 1
        display.show(ended, failed, "   ".join(f"{label} {count}" for label, count in classes.most_common(_CLASSES)))

    seated = projects.seated(engine, asked, job.id) if projects and before.open else nullcontext({})
    with seated as seats, ProgressDisplay(f"{asked.name} by {engine.checkpoint.name}", before.total, ended, errors) as display:
        annotates = partial(execute_recipe, asked)
        return run_job(store, job, engine, source, annotates, sole=sole, seats=seats, told=told)


def _spread(store: "JobStore", job: "Job", work: "ClusterJob", pool: "WorkerPool", title: str) -> "Job":
    """Runs the job on Ray's machines, and shows how far it is."""
    from server.jobs import cluster

    def told(progress: "JobProgress", actors: int) -> None:
        waits = "engines load, or wait for machines (see `ray status`)" if progress.open else ""
        display.show(progress.done + progress.failed, progress.failed, f"{actors} at work" if actors else waits)

    before = store.get_progress(job)
    with ProgressDisplay(title, before.total, before.done + before.failed, errors) as display:
        return cluster.run_on_cluster(store, job, work, pool, told)


def _written(store: "JobStore", job: "Job", source: "ImageSource", out: Path, formats: Sequence[str], *, draw: bool) -> int:
    """The dataset, once the job is done."""
    from labels.formats import FORMATS
    from server.jobs import drawn_images
    from server.store import JobState

    if job.state is not JobState.DONE:
        why = f" ({job.reason})" if job.reason else ""
        raise LabelError(f"the job was {job.state}{why}; the same command goes on with it")
    progress = store.get_progress(job)
    for name in [*formats, *([_DRAWN] if draw else ())]:
        labelled = store.iter_images(job, lambda position: source[position].read())
        if name == _DRAWN:
            target = out / _DRAWN
            report = drawn_images.write_drawn_images(labelled, target)
        else:
            suffix = FORMATS[name].suffix
            target = out / (name if suffix is None else f"labels{suffix}")
            report = FORMATS[name].write(labelled, target, pictures_too=False)
        left_out = "".join(f"; {count} {what} left out" for what, count in report.left_out.items())
        console.print(
            f"{report.annotations} annotations on {report.pictures} pictures: {escape(str(target))}{left_out}",
            soft_wrap=True, highlight=False,
        )  # fmt: skip
    if not progress.failed:
        return 0
    errors.print(f"[bold red]set aside {progress.failed}[/] (the same command with --retry tries them once more):")
    for number, failure in enumerate(store.iter_failures(job)):
        if number == _LISTED:
            errors.print(f"  … and {progress.failed - _LISTED} more")
            break
        errors.print(f"  {escape(failure.name)}: {escape(failure.reason)}", soft_wrap=True, highlight=False)
    return 1 if progress.done else 2


def _summarised(store: "JobStore", job: "Job", asked: "Recipe", model: str, out: Path, source: "ImageSource") -> None:
    """The page to look at."""
    from server.jobs.sources import addresses
    from server.jobs.summary import SummaryInfo, write

    about = SummaryInfo(
        title=out.resolve().name,
        recipe=asked,
        source=addresses.shown(job.spec.source),
        model=model,
        progress=store.get_progress(job),
        failures=store.iter_failures(job),
    )
    write(out / "summary.html", store.iter_images(job, lambda position: source[position].read()), about)
    console.print(f"to look at: {escape(str(out / 'summary.html'))}", soft_wrap=True, highlight=False)
