"""The life of a server: it loads the model, opens jobs and projects, serves, drains and stops."""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import anyio

from server.image_decoding import ImageDecoding
from server.settings import Settings, get_variable_name
from server.startup import Services, ServiceStartupError, StartupError, load_adapters, load_engine, open_services

if TYPE_CHECKING:
    from server.engine.adapters.store import AdapterStore
    from server.engine.engine import Engine
    from server.jobs.queue import JobQueue
    from server.projects.projects import Projects

_MAX_READS, _MAX_WRITES = 20, 8  # requests that use the database at a time
_CHECK_SECONDS = 2.0  # in which the database must answer /readyz
logger = logging.getLogger(__name__)


class UnavailableError(Exception):
    """The server cannot take a request now. Retry after `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ModelLoadingError(UnavailableError):
    """The model, the jobs or the projects are still being loaded."""


class ModelFailedError(UnavailableError):
    """The model could not be loaded."""


class DatabaseUnavailableError(UnavailableError):
    """The database of jobs and projects does not answer."""


class DecodersStuckError(UnavailableError):
    """Images wait to be decoded, and no decoder becomes free."""


class ShuttingDownError(UnavailableError):
    """The server is shutting down and takes no new requests."""


class JobsDisabledError(Exception):
    """The server runs no jobs, because no folder is set for them."""


class ProjectsDisabledError(Exception):
    """The server has no projects, because no folder is set for them."""


class Lifecycle:
    """Loads the engine in a background thread, provides it to requests, and counts the running requests.

    Attributes:
        settings: The settings of the server.
        failure: Why the model could not be loaded; None if it was, or is still being loaded.
        draining: Whether the server is shutting down.
        running: Number of requests in progress.
        preparing: Number of prompts whose images are being decoded. They are not in the queue yet.
        on_failure: Called with the reason when the model cannot be loaded.
        decoding: Decodes the images of requests.
        constraint_limiter: Limits how many lists of labels are compiled at a time. Each takes up to 0.1 s.
        adapter_limiter: Limits changes of adapters to one at a time.
        source_limiter: Limits jobs that list their source to one at a time.
        export_limiter: Limits exports of datasets to one at a time.
        read_limiter: Limits requests that read the database.
        write_limiter: Limits requests that write to the database.
    """

    def __init__(self, settings: Settings, engine: "Engine | None" = None) -> None:
        self.settings = settings
        self.failure: str | None = None
        self.draining = False
        self.running = 0
        self.preparing = 0
        self.on_failure: Callable[[str], None] = lambda reason: None
        self.decoding = ImageDecoding(settings)
        self.constraint_limiter = anyio.CapacityLimiter(1)
        self.adapter_limiter = anyio.CapacityLimiter(1)
        self.source_limiter = anyio.CapacityLimiter(1)
        self.export_limiter = anyio.CapacityLimiter(1)
        self.read_limiter = anyio.CapacityLimiter(_MAX_READS)
        self.write_limiter = anyio.CapacityLimiter(_MAX_WRITES)
        self._engine = engine
        self._owns_engine = engine is None
        self._loading: asyncio.Task[None] | None = None
        self._services = Services()
        self._database_check: Future[None] | None = None

    @property
    def engine(self) -> "Engine | None":
        """The loaded engine, also while the server shuts down."""
        return self._engine

    def require_engine(self) -> "Engine":
        """Returns the engine for a new request.

        Raises ModelLoadingError, ModelFailedError or ShuttingDownError.
        """
        if self.draining:
            raise ShuttingDownError("the server finishes running requests and takes no new ones; retry later", 5)
        if self.failure:
            raise ModelFailedError("the server's log contains the reason", 60)
        if self._engine is None:
            raise ModelLoadingError("the model is still loading; GET /readyz returns 200 when it is ready", 2)
        return self._engine

    def require_adapters(self) -> "AdapterStore":
        """Returns the store of adapters. Change it under `adapter_limiter`. Raises as `require_engine` does."""
        engine = self.require_engine()
        from server.engine.adapters.store import AdapterStore

        return AdapterStore(engine, self.settings.adapters_folder)

    def require_jobs(self) -> "JobQueue":
        """Returns the job queue. Reading from it works while the server shuts down.

        Raises JobsDisabledError, and as `require_engine` does until the queue is open.
        """
        if self.settings.jobs_folder is None:
            raise JobsDisabledError(f"to enable jobs, the operator sets {get_variable_name('jobs_folder')}")
        if self._services.jobs is None:
            self.require_engine()
            raise ModelLoadingError("the jobs are still being opened; retry soon", 2)
        return self._services.jobs

    def require_projects(self) -> "Projects":
        """Returns the projects. Raises ProjectsDisabledError, otherwise as `require_jobs` does."""
        if self.settings.projects_folder is None:
            raise ProjectsDisabledError(f"to enable projects, the operator sets {get_variable_name('projects_folder')}")
        if self._services.projects is None:
            self.require_engine()
            raise ModelLoadingError("the projects are still being opened; retry soon", 2)
        return self._services.projects

    def check_decoders(self) -> None:
        """Raises DecodersStuckError if no image can be decoded."""
        if self.decoding.is_stuck():
            raise DecodersStuckError("images wait to be decoded, and no decoder becomes free; retry later", 5)

    async def check_database(self) -> None:
        """Raises DatabaseUnavailableError if the database of jobs and projects does not answer within two seconds."""
        if self._services.jobs is None:
            return
        if self._database_check is None or self._database_check.done():
            self._database_check = Future()
            # A daemon thread: a server that is stopped does not wait for a database that hangs.
            arguments = self._services.jobs.store.database.check, self._database_check
            threading.Thread(target=_call_in_thread, args=arguments, name="florist-database", daemon=True).start()
        try:
            await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(self._database_check)), _CHECK_SECONDS)
        except TimeoutError:
            message = f"the database has not answered for {_CHECK_SECONDS:g} s; jobs and projects wait for it"
            raise DatabaseUnavailableError(message, 5) from None
        except Exception as error:
            logger.warning("the database does not answer: %s", error)
            message = "the database cannot be read, the server's log contains the reason; jobs and projects wait for it"
            raise DatabaseUnavailableError(message, 5) from None

    @contextmanager
    def track_request(self) -> Iterator[None]:
        """Counts a request as running. A server that shuts down waits for running requests."""
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    def start(self) -> None:
        """Starts to load the model, or starts the services at once if an engine was passed in.

        Raises OSError if the adapters' folder cannot be used, and ServiceStartupError.
        """
        self.draining = False
        self.decoding = ImageDecoding(self.settings)
        self.decoding.start()
        if self._engine is None:
            self._loading = asyncio.create_task(self._load())
            return
        load_adapters(self._engine, self.settings)
        services = open_services(self.settings)
        services.load(self._engine)
        self._start_services(services)

    async def _load(self) -> None:
        future: Future[tuple[Engine, Services]] = Future()
        # A daemon thread, unlike those of asyncio: a server that is stopped does not wait for a download.
        threading.Thread(target=_load_in_thread, args=(self.settings, future), name="florist-load", daemon=True).start()
        try:
            engine, services = await asyncio.wrap_future(future)
        except Exception as error:
            self._fail(error)
        else:
            self._engine = engine
            logger.info("loaded the model %s on %s", self.settings.model, engine.device)
            self._start_services(services)

    def _fail(self, error: Exception) -> None:
        self.failure = str(error) or type(error).__name__
        subject = f"cannot load the model {self.settings.model}"
        if isinstance(error, ServiceStartupError):
            subject = "cannot open the jobs and projects"
        traceback = None if isinstance(error, StartupError) else error
        logger.error("%s: %s", subject, self.failure, exc_info=traceback)
        self.on_failure(self.failure)

    def _start_services(self, services: Services) -> None:
        self._services = services
        if self._engine is not None:
            services.start(self._engine)

    async def abort(self) -> None:
        """Cancels what is still being decoded and answered. These requests fail as the server is shutting down."""
        await asyncio.to_thread(self.decoding.close)
        if self._engine is not None:
            await asyncio.to_thread(self._engine.close, drain=False)

    async def stop(self) -> None:
        """Closes the services, and the engine unless it was passed in."""
        self.draining = True
        if self._loading is not None:
            self._loading.cancel()
            with suppress(asyncio.CancelledError):
                await self._loading
        self._services.request_stop()
        await asyncio.to_thread(self.decoding.close)
        await asyncio.to_thread(self._services.close)
        self.decoding.uninstall()
        self._services = Services()
        if self._owns_engine:
            await self.abort()


def _call_in_thread(call: Callable[[], None], future: "Future[None]") -> None:
    try:
        call()
    except Exception as error:
        future.set_exception(error)
    else:
        future.set_result(None)


def _load_in_thread(settings: Settings, future: "Future[tuple[Engine, Services]]") -> None:
    services = Services()
    result, error = None, None
    try:
        services = open_services(settings)  # before the model: errors here show up within a second
        engine = load_engine(settings)
        try:
            load_adapters(engine, settings)
        except OSError as os_error:
            engine.close(drain=False)
            setting = get_variable_name("adapters_folder")
            raise StartupError(f"{setting} {os_error.filename}: {os_error.strerror}") from os_error
        services.load(engine)
        result = engine, services
    except BaseException as raised:
        error = raised
        services.close()
    try:
        if result is None:
            future.set_exception(error)
        else:
            future.set_result(result)
    except InvalidStateError:  # cancelled: the server stopped while it was loading
        services.close()
