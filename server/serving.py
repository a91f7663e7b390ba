"""The one engine that a server has, and what state the server is in: loading, ready, failed, or draining."""

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from server.api.problems import LOADING, NO_JOBS, NO_MODEL, NO_PROJECTS, SHUTTING_DOWN, Problem, busy
from server.engine.adapters.store import AdapterStore
from server.settings import Settings, variable

if TYPE_CHECKING:
    from finetune.forgetting import Probe
    from server.engine.engine import Engine
    from server.jobs.queue import JobQueue
    from server.projects.projects import Projects

TUNE_COMMAND = (sys.executable, "-m", "server.cli.tune_process")
logger = logging.getLogger(__name__)


class CannotLoad(Exception):  # noqa: N818
    """The model cannot be loaded, for a reason that its operator can mend."""


class CannotKeep(CannotLoad):
    """Jobs or projects cannot be kept, for such a reason."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """What a server keeps beside its adapters, where its settings say so."""

    jobs: "JobQueue | None" = None
    projects: "Projects | None" = None

    def load(self, engine: "Engine") -> None:
        if self.projects is not None:
            self.projects.load(engine)

    def start(self, engine: "Engine") -> None:
        """What was under way goes on where it stopped."""
        if self.jobs is not None:
            self.jobs.start(engine, self.projects.pinned_models if self.projects else None)
        if self.projects is not None:
            self.projects.start()

    def close(self) -> None:
        if self.projects is not None:
            self.projects.close()  # first: it is kept in the database of jobs
        if self.jobs is not None:
            self.jobs.close()


class Serving:
    """Loads the engine beside the event loop, hands it out, and counts the requests that hold it.

    `on_failure` is called, with the reason, when the model cannot be loaded.
    """

    def __init__(self, settings: Settings, engine: "Engine | None" = None) -> None:
        self.settings = settings
        self.failure: str | None = None
        self.draining = False
        self.running = 0
        # Decoding a picture takes a core, and up to hundreds of megabytes.
        self.decoding = anyio.CapacityLimiter(os.cpu_count() or 1)
        self.storing = anyio.CapacityLimiter(1)  # what adapters wait for: the store takes one call at a time
        self.queueing = anyio.CapacityLimiter(1)  # sources are listed, and jobs made of them, one at a time
        self.exporting = anyio.CapacityLimiter(1)
        self.on_failure: Callable[[str], None] = lambda reason: None
        self._engine = engine
        self._ours = engine is None
        self._loading: asyncio.Task[None] | None = None
        self._kept = _Kept()

    @property
    def loaded(self) -> "Engine | None":
        return self._engine

    def engine(self) -> "Engine":
        """The engine, for a new request. Raises Problem while it loads, once that failed, and as the server stops."""
        if self.draining:
            raise busy(SHUTTING_DOWN, "it answers what it has begun and takes nothing new; ask again soon", 5)
        if self.failure:
            raise busy(NO_MODEL, "its operator finds the reason in the log", 60)
        if self._engine is None:
            raise busy(LOADING, "the model is still being loaded; GET /readyz tells when it is there", 2)
        return self._engine

    def adapters(self) -> AdapterStore:
        """The engine's adapters, to be changed under `storing`. Raises Problem as `engine` does."""
        return AdapterStore(self.engine(), self.settings.adapters_folder)

    def jobs(self) -> "JobQueue":
        """The server's jobs, to be looked at; who changes one calls `engine` first. Raises Problem where the server
        runs none, and as `engine` does until they are there."""
        if self.settings.jobs_folder is None:
            raise Problem(NO_JOBS, f"its operator can let it run jobs by the setting {variable('jobs_folder')}")
        if self._kept.jobs is None:
            self.engine()
            raise busy(LOADING, "the jobs are still being opened; ask again soon", 2)
        return self._kept.jobs

    def projects(self) -> "Projects":
        """The server's projects. Raises Problem as `jobs` does."""
        if self.settings.projects_folder is None:
            raise Problem(
                NO_PROJECTS, f"its operator can let it have some by the setting {variable('projects_folder')}"
            )
        if self._kept.projects is None:
            self.engine()
            raise busy(LOADING, "the projects are still being opened; ask again soon", 2)
        return self._kept.projects

    @contextmanager
    def work(self) -> Iterator[ExitStack]:
        """Counts a request as running; who takes the stack over (`pop_all`) ends it by closing that."""
        self.running += 1
        with ExitStack() as stack:
            stack.callback(self._done)
            yield stack

    def _done(self) -> None:
        self.running -= 1

    def start(self) -> None:
        """Begins to load, unless an engine was given. Raises OSError when its adapters' folder cannot be used, and
        CannotKeep when jobs cannot be kept."""
        self.draining = False
        if self._engine is not None:
            AdapterStore(self._engine, self.settings.adapters_folder).load_all()
            kept = _open(self.settings)
            kept.load(self._engine)
            self._begin(kept)
        else:
            self._loading = asyncio.create_task(self._load())

    async def _load(self) -> None:
        settings = self.settings
        loaded: Future[tuple[Engine, _Kept]] = Future()
        # A daemon, unlike asyncio's own threads: a server told to stop does not wait for a download to end.
        threading.Thread(target=_load, args=(settings, loaded), name="florist-load", daemon=True).start()
        try:
            engine, kept = await asyncio.wrap_future(loaded)
        except Exception as error:
            self.failure = str(error) or type(error).__name__
            trace = None if isinstance(error, CannotLoad) else error
            what = f"the model {settings.model} cannot be loaded"
            what = "jobs and projects cannot be kept" if isinstance(error, CannotKeep) else what
            logger.error("%s: %s", what, self.failure, exc_info=trace)
            self.on_failure(self.failure)
        else:
            self._engine = engine
            logger.info("the model %s is loaded on %s", settings.model, engine.device)
            self._begin(kept)

    def _begin(self, kept: _Kept) -> None:
        self._kept = kept
        if self._engine is not None:
            kept.start(self._engine)

    async def abandon(self) -> None:
        """Gives up what still runs: those who wait are told that the server is shutting down."""
        if self._engine is not None:
            await asyncio.to_thread(self._engine.close, drain=False)

    async def stop(self) -> None:
        """Closes the engine that was loaded here; one that was given stays its giver's."""
        self.draining = True
        if self._loading is not None:
            self._loading.cancel()
            with suppress(asyncio.CancelledError):
                await self._loading
        await asyncio.to_thread(self._kept.close)
        self._kept = _Kept()
        if self._ours:
            await self.abandon()


def _load(settings: Settings, loaded: "Future[tuple[Engine, _Kept]]") -> None:
    kept = _Kept()
    result, error = None, None
    try:
        kept = _open(settings)  # first: what is wrong there is told before the model has taken its time
        engine = _engine(settings)
        kept.load(engine)
        result = engine, kept
    except BaseException as raised:
        error = raised
        kept.close()
    try:
        if result is None:
            loaded.set_exception(error)
        else:
            loaded.set_result(result)
    except InvalidStateError:  # nobody waits any more
        kept.close()


def _open(settings: Settings) -> _Kept:
    """Jobs and projects. Raises CannotKeep."""
    if (jobs := _queue(settings)) is None or settings.projects_folder is None:
        return _Kept(jobs)
    try:
        from server.projects.projects import Projects

        return _Kept(
            jobs,
            Projects(
                settings.projects_folder,
                jobs.store.database,
                tune_command=TUNE_COMMAND,
                scene_evaluation=_evaluate_scenes,
            ),
        )
    except ImportError as error:
        jobs.close()
        raise CannotKeep(f"projects need what trains: pip install 'florist[train]' ({error})") from error
    except OSError as error:
        jobs.close()
        raise CannotKeep(f"{variable('projects_folder')}: {error}") from error


def _evaluate_scenes(scenes: int) -> "Probe":
    """Returns the forgetting evaluation of the seedling, on drawn scenes."""
    from finetune.forgetting import drawn  # needs the packages for drawing

    return drawn(scenes)


def _queue(settings: Settings) -> "JobQueue | None":
    if settings.jobs_folder is None:
        return None
    from server.jobs.output_folder import OutputError
    from server.jobs.queue import JobQueue
    from server.store import StoreError

    try:
        return JobQueue(settings.jobs_folder, settings.database_url, settings.jobs_sources)
    except OutputError as error:
        raise CannotKeep(f"{variable('jobs_folder')}: {error}") from error
    except StoreError as error:
        raise CannotKeep(f"{variable('database_url')}: {error}") from error


def load_engine(settings: Settings) -> "Engine":
    """The settings' model, without its adapters. Raises CannotLoad."""
    # They bring torch, which takes seconds: /healthz answers meanwhile.
    from server.engine.checkpoints.errors import CheckpointError
    from server.engine.engine import Engine

    try:
        return Engine.load(settings.engine_config)
    except CheckpointError as error:
        raise CannotLoad(str(error)) from error


def _engine(settings: Settings) -> "Engine":
    engine = load_engine(settings)
    try:
        AdapterStore(engine, settings.adapters_folder).load_all()
    except OSError as error:
        engine.close(drain=False)
        raise CannotLoad(f"{variable('adapters_folder')} {error.filename}: {error.strerror}") from error
    return engine
