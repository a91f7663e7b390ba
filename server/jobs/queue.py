"""The job queue of a server: a thread works on one job at a time, oldest first."""

import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from server.engine.adapters.errors import AdapterError
from server.engine.errors import EngineClosedError
from server.jobs.errors import SourceNotAllowedError
from server.jobs.export_folders import ExportFolders
from server.jobs.job_recipe import get_job_recipe
from server.jobs.job_start import start_job, update_job
from server.jobs.job_warnings import list_job_warnings
from server.jobs.model_hash import compute_model_hash
from server.jobs.output_folder import claim_output_folder
from server.jobs.pinned_models import PinnedModel, ProjectModels
from server.jobs.recipes.execution import execute_recipe
from server.jobs.recipes.problems import RecipeError, RecipeProblem
from server.jobs.recipes.recipe import Recipe
from server.jobs.runner import JobFailedError, run_job
from server.jobs.sources import ImageSource, SourceError, addresses, open_source, permissions
from server.jobs.sources.uploads import UPLOAD_PREFIX
from server.jobs.throughput import RateMeter
from server.jobs.uploads import UPLOADS_FOLDER, UnknownUploadError, UploadInUseError, UploadLimits, Uploads
from server.store import (
    CompletedImage,
    FailedImage,
    InvalidStateError,
    Job,
    JobChangedError,
    JobMismatchError,
    JobState,
    StoreError,
    StoreUnavailableError,
    UnknownJobError,
)
from server.store.database import MAX_WAIT, to_file_url
from server.store.jobs.job_changes import ImageChanges
from server.store.jobs.job_store import JobStore
from server.store.pages import Page
from server.store.text import hide_folders, redact_address

if TYPE_CHECKING:  # torch
    from server.engine.engine import Engine

# Marks the jobs of servers. Servers ignore jobs of the command line in the same database.
_SERVER_OPTIONS = json.dumps({"by": "server"})
_POLL_SECONDS = 5.0  # after which an idle thread checks for jobs that another server added
_INTERNAL_REASON = "an internal error; the server's log contains it"
_EXPIRY_SECONDS = 600.0  # between two looks for uploads that have expired
_RETRY_SECONDS = 5.0  # between two attempts to use the database
_CLOSE_SECONDS = 15.0  # for which a closing server waits for the images in progress
logger = logging.getLogger(__name__)


class JobQueue:
    """Runs the jobs of a server. Safe to use from any thread. Methods raise the errors of the job store.

    Attributes:
        folder: Its folder, an absolute path.
        is_allowed: Whether jobs may read from an address.
        store: The database.
        exports: Temporary folders for exports.
        uploads: The images that clients have sent.
    """

    def __init__(
        self, folder: Path, database_url: str | None = None, sources: Sequence[str] = (), max_wait: float = MAX_WAIT,
        upload_limits: UploadLimits = UploadLimits(),
    ) -> None:  # fmt: skip
        """Opens the database.

        `folder` is used only by this server, for exports in progress and, without `database_url`, for the database.
        `sources` are the folders and URLs from which jobs may read. `max_wait`: see Database.

        Raises OutputError if the folder cannot be used, and StoreError.
        """
        self.folder = folder.absolute()
        self.is_allowed = permissions.allow_within(sources)
        # Nobody else uses the database in the folder, but several servers can share a PostgreSQL database.
        self._exclusive = database_url is None
        with ExitStack() as stack:
            stack.enter_context(claim_output_folder(self.folder, "server"))
            self.exports = ExportFolders(self.folder / "exports")
            self.uploads = Uploads(self.folder / UPLOADS_FOLDER, upload_limits)
            url = database_url or to_file_url(self.folder / "florist.db")
            self.store = stack.enter_context(JobStore(url, max_wait=max_wait))
            self._resources = stack.pop_all()
        self._engine: Engine | None = None
        self._projects: ProjectModels | None = None
        self._thread = threading.Thread(target=self._work, name="florist-jobs", daemon=True)
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._stop = threading.Event()  # of the current job
        self._throughput = RateMeter()
        self._current: int | None = None
        self._next_expiry = 0.0

    def start(self, engine: "Engine", projects: ProjectModels | None = None) -> None:
        """Starts the thread, which first continues unfinished jobs of earlier processes. `projects` provides the
        champions that recipes can use."""
        self._engine, self._projects = engine, projects
        self._thread.start()

    def close(self) -> None:
        """Stops the thread and closes the database. Images in progress are processed after the next start."""
        self.request_stop()
        if self._thread.ident is not None:
            self._thread.join(_CLOSE_SECONDS)
        self._resources.close()

    def request_stop(self) -> None:
        """Tells the thread to stop. Does not wait for it."""
        self._closing.set()
        self._stop.set()
        self._wake.set()

    # Jobs

    def add_job(self, source: str, recipe: Recipe, output: str) -> tuple[Job, bool]:
        """Returns the job of the output, and whether it is new.

        Raises SourceNotAllowedError and SourceError for the source, RecipeError for an adapter that is not loaded or a
        project without a champion, and JobMismatchError if the output belongs to another job.
        """
        assert self._engine is not None
        if not source.startswith(UPLOAD_PREFIX):
            source = addresses.to_absolute(source)
            if not self.is_allowed(source):
                raise SourceNotAllowedError(redact_address(source))
        loaded = {adapter.name for adapter in self._engine.list_adapters()}
        if missing := [name for name in recipe.adapters if name not in loaded]:
            names = ", ".join(sorted(loaded)) or "none"
            message = f"the adapter {missing[0]!r} is not loaded; loaded adapters: {names}"
            raise RecipeError(recipe.name, [RecipeProblem(message)])
        is_new = self.store.find_job(output) is None
        with self.uploads.hold(source), self._open_source(source) as opened:
            job = start_job(self.store, self._engine, recipe, opened, source, output, _SERVER_OPTIONS, self._projects)
        self._wake.set()
        return job, is_new

    def plan_jobs(self, after: int, limit: int) -> Page:
        """Returns a page of the server's jobs with an ID above `after`, oldest first."""
        return self.store.plan_jobs(after, limit, _SERVER_OPTIONS)

    def list_jobs(self, ids: Sequence[int]) -> list[Job]:
        """Returns the server's jobs with these IDs, oldest first."""
        return self.store.list_jobs(ids, _SERVER_OPTIONS)

    def get_job(self, job_id: int) -> Job:
        """Returns a job of the server by its ID. Raises UnknownJobError."""
        if (job := self.store.get_job(job_id)).spec.options != _SERVER_OPTIONS:
            raise UnknownJobError(f"there is no job {job_id}")
        return job

    def resume(self, job: Job) -> Job:
        """Queues a paused or failed job again. Raises InvalidStateError."""
        job = self.store.resume(job)
        self._wake.set()
        return job

    def retry_failed(self, job: Job, kind: str | None = None) -> int:
        """Queues the failed images again, or those with one kind of failure, and returns their number. Raises
        InvalidStateError."""
        if job.state is JobState.CANCELLED:
            raise InvalidStateError(f"job {job.id} is cancelled; start another one with its source and recipe")
        count = self.store.retry_failed(job, kind)
        self._wake.set()
        return count

    def extend(self, job: Job) -> tuple[Job, ImageChanges]:
        """Adds the images that are new in the source of a job, and finds those that were removed or changed. Queues a
        job that has ended again if there is something to label.

        Raises SourceError, InvalidStateError if the job is cancelled or the models have changed, and RecipeError.
        """
        assert self._engine is not None
        if job.state is JobState.CANCELLED:
            raise InvalidStateError(f"job {job.id} is cancelled; start another one with its source and recipe")
        with self.uploads.hold(job.spec.source), self.open_job_source(job) as source:
            try:
                job, changes = update_job(
                    self.store, job, self._engine, get_job_recipe(job), source, job.spec.source, self._projects
                )
            except JobMismatchError as error:
                lines = "; ".join(error.differences)
                raise InvalidStateError(f"job {job.id} cannot be extended: {lines}. Start another job") from error
        self._wake.set()
        return job, changes

    def compute_rate(self, job: Job) -> float | None:
        """Returns the recent images per second of a job on this server; None if it is not running here, or has just
        started."""
        is_current = job.state is JobState.RUNNING and self._current == job.id
        return self._throughput.compute_rate() if is_current else None

    def list_warnings(self, job: Job) -> list[str]:
        """Returns what may not be as expected in a job, such as a task that the model does not know."""
        with suppress(RecipeError):  # of a version that had other recipes
            return list_job_warnings(get_job_recipe(job), self._engine) if self._engine else []
        return []

    @contextmanager
    def open_job_source(self, job: Job) -> Iterator[ImageSource]:
        """Opens the source of a job, which has the images of now. Raises SourceError."""
        with self._open_source(job.spec.source) as source:
            yield source

    def delete_upload(self, upload_id: str) -> None:
        """Deletes an upload. Raises UnknownUploadError, UploadInUseError, and InvalidStateError if a job needs it."""
        source = f"{UPLOAD_PREFIX}{upload_id}"

        def check() -> None:
            for job in self.store.list_jobs_by_source(source).get(source, ()):
                if job.state not in (JobState.DONE, JobState.CANCELLED):
                    raise InvalidStateError(f"job {job.id}, which is {job.state}, needs this upload; cancel it first")

        self.uploads.delete(upload_id, check)

    def _open_source(self, address: str) -> ImageSource:
        if address.startswith(UPLOAD_PREFIX):
            return self.uploads.open_source(address)
        return open_source(address, exclude=self.folder, is_allowed=self.is_allowed)

    # In the thread

    def _work(self) -> None:
        while not self._closing.is_set():
            self._wake.clear()
            try:
                self._remove_expired_uploads()
                job = self._find_job()
                if job is None:
                    self._wake.wait(_POLL_SECONDS)
                else:
                    self._run(job)
            except EngineClosedError:
                return
            except StoreUnavailableError as error:
                logger.warning("%s; the jobs wait for it", error)
                self._closing.wait(_RETRY_SECONDS)
            except Exception:
                logger.exception("the job queue failed; trying again")
                self._closing.wait(_RETRY_SECONDS)

    def _find_job(self) -> Job | None:
        """Returns the next job. Uploads are on the disk of one server: others leave the jobs with them to it."""
        if self._exclusive:
            return self.store.find_runnable(_SERVER_OPTIONS)
        own = [upload.source for upload in self.uploads.list_all()]
        return self.store.find_runnable(_SERVER_OPTIONS, UPLOAD_PREFIX, own)

    def _remove_expired_uploads(self) -> None:
        """Deletes uploads that no job has used in time. Looks for them every ten minutes."""
        if time.monotonic() < self._next_expiry:
            return
        self._next_expiry = time.monotonic() + _EXPIRY_SECONDS
        for upload in self.uploads.list_all():
            if time.time() > self.uploads.get_expiry(upload):
                with suppress(UnknownUploadError, UploadInUseError):
                    self.uploads.delete(upload.id, partial(self._check_unused, upload.source))
                    logger.info("deleted the upload %s, which no job has used", upload.id)

    def _check_unused(self, source: str) -> None:
        if self.store.list_jobs_by_source(source):
            raise UploadInUseError("a job uses it")

    def _run(self, job: Job) -> None:
        """Works on a job until it ends. Marks it as failed if it cannot continue."""
        engine = self._engine
        assert engine is not None
        self._stop, self._throughput = threading.Event(), RateMeter()
        if self._closing.is_set():
            return
        self._current = job.id
        try:
            recipe = get_job_recipe(job)
            if compute_model_hash(engine, recipe.adapters, recipe.models) != job.spec.model_hash:
                raise JobFailedError(
                    "the model or an adapter has other weights than when the job started; start another job"
                )
            with self.open_job_source(job) as source, self._load_champions(engine, recipe, job) as pinned_models:
                logger.info("job %d: %s with the recipe %s", job.id, redact_address(job.spec.source), recipe.name)
                for note in source.notes:
                    logger.warning("job %d: %s", job.id, note)
                if source.fingerprint != job.spec.fingerprint:
                    logger.warning("job %d: its source has changed; `extend` adds what is new there", job.id)
                ended = run_job(
                    self.store, job, engine, source, partial(execute_recipe, recipe), exclusive=self._exclusive,
                    pinned_models=pinned_models, on_image=partial(self._on_image, job), stop=self._stop,
                )  # fmt: skip
            logger.info("job %d is %s", job.id, ended.state)
        except JobChangedError as error:
            logger.info("%s", error)
        except (EngineClosedError, StoreUnavailableError):
            raise
        except Exception as error:
            expected = isinstance(error, JobFailedError | SourceError | StoreError | RecipeError | AdapterError)
            logger.error("job %d cannot continue: %s", job.id, error, exc_info=None if expected else error)
            self.store.fail(job, _describe_failure(error, job) if expected else _INTERNAL_REASON)
        finally:
            self._current = None

    def _on_image(self, job: Job, image: CompletedImage | FailedImage) -> None:
        self._throughput.count()
        if isinstance(image, CompletedImage) and image.changed:
            logger.info("job %d: %s has changed and was labeled again", job.id, image.name)

    def _load_champions(
        self, engine: "Engine", recipe: Recipe, job: Job
    ) -> AbstractContextManager[Mapping[str, PinnedModel]]:
        """Loads the project models of the recipe. Raises JobFailedError if this server has no projects any more."""
        if not recipe.models:
            return nullcontext({})
        if self._projects is None:
            raise JobFailedError(
                "its recipe uses projects: set FLORIST_PROJECTS_FOLDER to the same folder as before, and resume the job"
            )
        return self._projects.load_champions(engine, recipe, job.id)


def _describe_failure(error: Exception, job: Job) -> str:
    """Returns why a job cannot continue, without paths of the server other than the job's source."""
    if type(error) is StoreError:
        return "the database cannot be used; the server's log contains the reason"
    return hide_folders(str(error), keep=redact_address(job.spec.source))
