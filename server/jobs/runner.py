"""The runner of a job: leases images, executes the recipe on many at a time, and stores the annotations soon after.

One thread leases and stores. Each image in progress has a thread of its own that reads it and executes the recipe, so
that the engine fills its batches from all of them. If the process dies, images that were not stored are leased again.
"""

import hashlib
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from labels.images import ImageError
from server.engine.errors import EngineClosedError, InvalidRequestError
from server.jobs.budget import Budget
from server.jobs.image_annotator import ExecuteRecipe, ImageAnnotator, JobStoppedError
from server.jobs.pinned_models import PinnedModel
from server.jobs.sources.source import ImageSource, SourceImageError, SourceImageFault
from server.store import (
    CompletedImage,
    FailedImage,
    ImageAnnotations,
    Job,
    JobChangedError,
    JobState,
    LeasedImage,
    StoreError,
    StoreUnavailableError,
)
from server.store.jobs.job_store import JobStore
from server.store.text import hide_folders

if TYPE_CHECKING:  # torch
    from server.engine.engine import Engine

LEASE_SECONDS = 60.0  # until a worker that does not renew its leases is considered dead
_POLL_SECONDS = 0.5  # after which the loop stores ended images and checks the job's state
_RETRY_SECONDS = 2.0  # between two attempts to reach the database
_MAX_FILE_BYTES = 512 * 1024 * 1024  # of the image files in progress; a single one may have half of it
_MODEL_FAILURE = "model"  # the kind of failure whose cause may not be the image
_MAX_MODEL_FAILURES = 100  # in a row, without a success: the model would fail on the remaining images too
T = TypeVar("T")
logger = logging.getLogger(__name__)


class JobFailedError(Exception):
    """The job cannot continue, for a reason that is not about one image. It can be resumed once the reason is fixed."""


def run_job(
    store: JobStore,
    job: Job,
    engine: "Engine",
    source: ImageSource,
    execute: ExecuteRecipe,
    *,
    exclusive: bool = False,
    pinned_models: Mapping[str, PinnedModel] | None = None,
    lease_seconds: float = LEASE_SECONDS,
    on_image: Callable[[CompletedImage | FailedImage], None] = lambda image: None,
    stop: threading.Event | None = None,
) -> Job:
    """Works on the job until all its images have ended, or until it is paused or cancelled. Returns the job's new
    state.

    `execute` starts the recipe on an image. With `exclusive`, nobody else works on the job, and leases of dead
    processes expire at once. `pinned_models` are the project models that the recipe uses, by its names for them.
    `on_image` is called for each image that is done or failed, after that is stored. Setting `stop` ends the work but
    not the job: leased images are released.

    Waits while the database is unavailable. Raises StoreError if results cannot be stored, JobChangedError if another
    process changes the job meanwhile, JobFailedError if the model fails on every image, and EngineClosedError if the
    engine is closed.
    """
    runner = _JobRunner(
        store, job, engine, source, execute, pinned_models or {}, lease_seconds, on_image, stop or threading.Event()
    )
    try:
        return runner.run(exclusive=exclusive)
    except JobStoppedError:
        return store.get_job(job.id)


class _JobRunner:
    def __init__(
        self, store: JobStore, job: Job, engine: "Engine", source: ImageSource, execute: ExecuteRecipe,
        pinned_models: Mapping[str, PinnedModel], lease_seconds: float,
        on_image: Callable[[CompletedImage | FailedImage], None], stop: threading.Event,
    ) -> None:  # fmt: skip
        self.store, self.job, self.source, self.on_image, self.stop = store, job, source, on_image, stop
        owner = f"{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(4)}"
        self.leases = store.open_leases(job, owner, lease_seconds)
        self.window = min(2 * engine.config.max_batch, engine.config.max_waiting)  # images in progress
        self.annotator = ImageAnnotator(engine, execute, pinned_models, f"job {job.id}", stop)
        self.file_bytes = Budget(_MAX_FILE_BYTES)
        self.model_failures = 0  # in a row
        self.lock = threading.Lock()
        # By image hash: images whose annotations are in progress, or ready but not stored yet.
        self.unstored: dict[str, Future[ImageAnnotations | None]] = {}

    def run(self, *, exclusive: bool) -> Job:
        job = self._retry(lambda: self.store.start(self.job))
        if exclusive:
            self._retry(lambda: self.store.expire_leases(job))
        in_progress: dict[Future[CompletedImage | FailedImage], LeasedImage] = {}
        polled = renewed = time.monotonic()
        with ThreadPoolExecutor(self.window, "florist-job") as pool:
            try:
                while not self.stop.is_set() and (
                    job.state is JobState.RUNNING or (in_progress and job.state is not JobState.CANCELLED)
                ):
                    if job.state is JobState.RUNNING and len(in_progress) <= 3 * self.window // 4:
                        for image in self._retry(lambda: self._acquire(len(in_progress))):
                            in_progress[pool.submit(self._process, image)] = image
                        if not in_progress:
                            job = self._retry(lambda: self.store.finish(self.job))
                            if job.state is JobState.RUNNING:
                                self._wait_for_others()
                    ended = self._wait_for_ended(in_progress)
                    self._store([future.result() for future in ended if not future.exception()])
                    for future in ended:
                        del in_progress[future]
                        future.result()  # raises errors that are not about one image
                    now = time.monotonic()
                    if now - renewed > self.leases.seconds / 4:
                        self._retry(self.leases.renew)
                        renewed = now
                    if now - polled > _POLL_SECONDS:
                        job = self._retry(lambda: self.store.get_job(self.job.id))
                        if job.spec != self.job.spec:
                            raise JobChangedError(job)
                        polled = now
            finally:
                self.annotator.cancel()
                pool.shutdown(cancel_futures=True)
                with suppress(StoreError):
                    self.leases.release()
        return self.store.get_job(self.job.id)

    def _acquire(self, in_progress: int) -> list[LeasedImage]:
        """Leases more images. An image with which a process crashed is leased alone, when nothing is in progress."""
        if images := self.leases.acquire(self.window - in_progress):
            return images
        suspect = None if in_progress else self.leases.acquire_suspect()
        return [suspect] if suspect else []

    def _wait_for_others(self) -> None:
        """Waits while other workers hold the remaining images, or while failed images wait for their next attempt."""
        # Nothing is in progress here. If we still have a lease, the response of the call that acquired it was lost.
        self._retry(self.leases.release)
        self.stop.wait(_POLL_SECONDS)

    def _wait_for_ended(
        self, in_progress: Iterable[Future[CompletedImage | FailedImage]]
    ) -> set[Future[CompletedImage | FailedImage]]:
        """Waits for a quarter of the window to end, or until the next poll. Returns what has ended.

        Storing several images costs little more than storing one.
        """
        ended: set[Future[CompletedImage | FailedImage]] = set()
        pending, deadline = set(in_progress), time.monotonic() + _POLL_SECONDS
        while pending and len(ended) < max(1, self.window // 4) and (left := deadline - time.monotonic()) > 0:
            done, pending = wait(pending, left, FIRST_COMPLETED)
            ended |= done
        return ended

    def _store(self, ended: Sequence[CompletedImage | FailedImage]) -> None:
        completed = [image for image in ended if isinstance(image, CompletedImage)]
        failed = [image for image in ended if isinstance(image, FailedImage)]
        stored: list[CompletedImage | FailedImage] = []
        if completed:
            positions = self._retry(lambda: self.leases.complete(completed))
            stored += [image for image in completed if image.position in positions]
            with self.lock:
                for image in completed:
                    self.unstored.pop(image.result.sha256, None)
        if failed:
            stored += self._retry(lambda: self.leases.fail(failed))
        for each in stored:
            self.on_image(each)
        if ended:
            self._check_model(ended, failed)

    def _check_model(self, ended: Sequence[CompletedImage | FailedImage], failed: Sequence[FailedImage]) -> None:
        """Raises JobFailedError, and marks the job as failed, if the model fails on every image."""
        reasons = [failure.reason for failure in failed if failure.kind == _MODEL_FAILURE]
        self.model_failures = self.model_failures + len(reasons) if len(reasons) == len(ended) else 0
        if self.model_failures >= _MAX_MODEL_FAILURES:
            reason = f"the model failed {self.model_failures} times in a row; the last error: {reasons[-1]}"
            self._retry(lambda: self.store.fail(self.job, reason))
            raise JobFailedError(reason)

    def _retry(self, call: Callable[[], T]) -> T:
        """Calls the store, and repeats the call until the database is available."""
        warned = False
        while True:
            try:
                return call()
            except StoreUnavailableError as error:
                if not warned:
                    logger.warning("%s; waiting for it", error)
                warned = True
                if self.stop.wait(_RETRY_SECONDS):
                    raise

    # In the thread of an image

    def _process(self, image: LeasedImage) -> CompletedImage | FailedImage:
        """Labels one image."""

        def fail(kind: str, error: Exception, *, final: bool) -> FailedImage:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
            reason = hide_folders(reason) if kind == _MODEL_FAILURE else reason
            return FailedImage(image.position, kind, reason, final, image.name, image.attempts, stamp)

        stamp = self._get_stamp(image)
        try:
            with self.file_bytes.reserve_later() as reserve:
                data = self.source.find(image.name).read(reserve)
                stamp = stamp if stamp == self._get_stamp(image) else ""  # it may have changed while it was read
                result = self._annotate(data)
                changed = image.sha256 is not None and image.sha256 != result.sha256
                return CompletedImage(image.position, result, image.name, changed, stamp)
        except (JobStoppedError, EngineClosedError, StoreError):
            raise
        except SourceImageError as error:
            return fail(error.fault, error, final=error.fault is not SourceImageFault.UNREACHABLE)
        except OSError as error:
            return fail("unreadable", error, final=False)
        except ImageError as error:
            return fail(error.reason, error, final=True)
        except InvalidRequestError as error:
            return fail("request", error, final=True)
        except Exception as error:
            logger.exception("%s failed", image.name)
            return fail(_MODEL_FAILURE, error, final=False)

    def _get_stamp(self, image: LeasedImage) -> str:
        position = self.source.positions.get(image.name)
        return "" if position is None else self.source.get_stamp(position)

    def _annotate(self, data: bytes) -> ImageAnnotations:
        """Returns the annotations of an image file. An image that the source contains several times is processed
        once."""
        sha256 = hashlib.sha256(data).hexdigest()
        if stored := self._retry(lambda: self.store.find_annotations(self.job, sha256)):
            return stored
        while True:
            with self.lock:
                other = self.unstored.get(sha256)
                if other is None:
                    own = self.unstored[sha256] = Future()
                    break
            if result := other.result():
                return result
        result = None
        try:
            result = self.annotator.annotate(sha256, data)
            return result
        finally:
            if result is None:
                with self.lock:
                    del self.unstored[sha256]
            own.set_result(result)
