"""The jobs of a server: kept in a store, and worked on one at a time, in the order in which they came, by a thread."""

import json
import logging
import shutil
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from server.engine.adapters.registry import AdapterError
from server.engine.engine import Engine
from server.engine.errors import EngineClosedError
from server.jobs import job_start
from server.jobs.output_folder import claimed
from server.jobs.pinned_models import ProjectModels, Seat
from server.jobs.recipes.execution import annotate
from server.jobs.recipes.parsing import Problem, RecipeError
from server.jobs.recipes.recipe import Recipe
from server.jobs.runner import JobFailed, answerer, run
from server.jobs.sources import Source, SourceError, addresses, open_source, permissions
from server.store import Job, JobState, NotNow, Store, StoreAway, StoreError, UnknownJob, file_url

_OURS = json.dumps({"by": "server"})  # jobs of the command line may be in the same database: they are not ours to run
_LOOK = 5.0  # seconds after which a thread without work looks for jobs that came by another server
_WAIT = 5.0  # seconds before another try where the database cannot be used
_JOIN = 15.0  # seconds that a stopping server waits for pictures that are being read
logger = logging.getLogger(__name__)


class NotAllowed(Exception):  # noqa: N818
    """A source in none of the places that the operator lists."""


class JobQueue:
    """Safe to use from any thread. Methods raise what the store does."""

    def __init__(self, folder: Path, database_url: str | None = None, sources: Sequence[str] = ()) -> None:
        """`folder` is this server's own: for the database where `database_url` names none, and for exports under way.
        `sources`: the folders and URLs that pictures may be in. Raises OutputError for the folder, and StoreError."""
        self.folder = folder.absolute()
        self.allowed = permissions.within(sources)
        # Who has the folder alone has its database alone; PostgreSQL may serve several servers.
        self._sole = database_url is None
        with ExitStack() as stack:
            stack.enter_context(claimed(self.folder))
            shutil.rmtree(self._exports, ignore_errors=True)  # of a process that died
            self.store = stack.enter_context(Store(database_url or file_url(self.folder / "florist.db")))
            self._until = stack.pop_all()
        self._engine: Engine | None = None
        self._projects: ProjectModels | None = None
        self._thread = threading.Thread(target=self._work, name="florist-jobs", daemon=True)
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._stop = threading.Event()  # of the run under way
        self._pace = Pace()
        self._running: int | None = None

    @property
    def _exports(self) -> Path:
        return self.folder / "exports"

    def start(self, engine: Engine, projects: ProjectModels | None = None) -> None:
        """Begins to work, with what another process left undone. `projects`: whose champions recipes may ask."""
        self._engine, self._projects = engine, projects
        self._thread.start()

    def close(self) -> None:
        """Stops; what is in hand is given back, and done after the next start."""
        self._closing.set()
        self._stop.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(_JOIN)
        self._until.close()

    # Jobs

    def add(self, source: str, recipe: Recipe, output: str) -> tuple[Job, bool]:
        """The output's job, and whether it is new. Raises NotAllowed and SourceError for a source, RecipeError for an
        adapter that is not loaded or a project without a champion, JobChanged for an output whose job is another."""
        assert self._engine is not None
        source = addresses.absolute(source)
        if not self.allowed(source):
            raise NotAllowed(addresses.shown(source))
        loaded = {adapter.name for adapter in self._engine.adapters()}
        if missing := [name for name in recipe.adapters if name not in loaded]:
            there = ", ".join(sorted(loaded)) or "none"
            raise RecipeError(recipe.name, [Problem(f"no adapter {missing[0]!r} is loaded; there are: {there}")])
        new = self.store.of_output(output) is None
        with self._open(source) as opened:
            job = job_start.begin(self.store, self._engine, recipe, opened, source, output, _OURS, self._projects)
        self._wake.set()
        return job, new

    def jobs(self, after: int = 0, limit: int | None = None) -> list[Job]:
        """The server's after a number, the oldest first; at most `limit`."""
        return self.store.jobs(after, limit, _OURS)

    def job(self, number: int) -> Job:
        """Raises UnknownJob."""
        if (job := self.store.job(number)).wanted.options != _OURS:
            raise UnknownJob(f"there is no job {number}")
        return job

    def resume(self, job: Job) -> Job:
        """Queued again."""
        job = self.store.resume(job)
        self._wake.set()
        return job

    def retry(self, job: Job, kind: str | None = None) -> int:
        """Opens the pictures that failed, or those of a kind, once more; how many. Raises NotNow."""
        if job.state is JobState.CANCELLED:
            raise NotNow(f"job {job.id} is cancelled, for good; begin another with its source and recipe")
        count = self.store.retry(job, kind)
        self._wake.set()
        return count

    def rate(self, job: Job) -> float | None:
        """Pictures a second of late, by this server; None where it does not work on the job, or has just begun."""
        return self._pace.rate() if job.state is JobState.RUNNING and self._running == job.id else None

    @contextmanager
    def export_folder(self) -> Iterator[Path]:
        """A folder for one export, which goes with it. Raises OSError."""
        self._exports.mkdir(exist_ok=True)
        with TemporaryDirectory(dir=self._exports, ignore_cleanup_errors=True) as folder:
            yield Path(folder)

    @contextmanager
    def source(self, job: Job) -> Iterator[Source]:
        """The job's pictures. Raises SourceError where they are not what it began with."""
        with self._open(job.wanted.source) as source:
            if source.fingerprint != job.wanted.fingerprint:
                raise SourceError(
                    f"{addresses.shown(job.wanted.source)} does not hold the same pictures as when the job began; give "
                    f"them back, or begin a job with another output"
                )
            yield source

    def _open(self, source: str) -> Source:
        return open_source(source, besides=self.folder, allowed=self.allowed)

    # In the thread

    def _work(self) -> None:
        while not self._closing.is_set():
            self._wake.clear()
            try:
                job = next((job for job in self.jobs() if job.state in (JobState.QUEUED, JobState.RUNNING)), None)
                if job is None:
                    self._wake.wait(_LOOK)
                else:
                    self._run(job)
            except EngineClosedError:
                return
            except StoreAway as away:
                logger.warning("%s; the jobs wait for it", away)
                self._closing.wait(_WAIT)
            except Exception:
                logger.exception("the jobs cannot go on; trying again")
                self._closing.wait(_WAIT)

    def _run(self, job: Job) -> None:
        """Works on a job until it ends, or says why it cannot go on."""
        engine = self._engine
        assert engine is not None
        self._stop, self._pace = threading.Event(), Pace()
        if self._closing.is_set():
            return
        self._running = job.id
        try:
            recipe = job_start.kept(job)
            if answerer(engine, recipe.adapters, recipe.models) != job.wanted.model:
                raise JobFailed("the model or an adapter has other weights than when the job began; begin another job")
            with self.source(job) as source, self._seated(engine, recipe, job) as seats:
                logger.info("job %d: %s by %s", job.id, addresses.shown(job.wanted.source), recipe.name)
                ended = run(
                    self.store, job, engine, source, partial(annotate, recipe), sole=self._sole, seats=seats,
                    told=lambda _: self._pace.count(), stop=self._stop,
                )  # fmt: skip
            logger.info("job %d is %s", job.id, ended.state)
        except (EngineClosedError, StoreAway):
            raise
        except Exception as error:
            expected = isinstance(error, JobFailed | SourceError | StoreError | RecipeError | AdapterError)
            logger.error("job %d cannot go on: %s", job.id, error, exc_info=None if expected else error)
            self.store.give_up(job, str(error) if expected else f"the server failed: {error}")
        finally:
            self._running = None

    def _seated(self, engine: Engine, recipe: Recipe, job: Job) -> AbstractContextManager[Mapping[str, Seat]]:
        """The projects' models that answer. Raises JobFailed where there are no projects any more."""
        if not recipe.models:
            return nullcontext({})
        if self._projects is None:
            raise JobFailed("its recipe asks projects: set FLORIST_PROJECTS_FOLDER as when it began, and resume it")
        return self._projects.seated(engine, recipe, job.id)


class Pace:
    """How fast pictures end."""

    _SECONDS = 30.0

    def __init__(self) -> None:
        self._count = 0
        self._marks = deque([(time.monotonic(), 0)])  # at most one a second

    def count(self) -> None:
        """One more has ended."""
        self._count += 1
        now = time.monotonic()
        if now - self._marks[-1][0] >= 1:
            self._marks.append((now, self._count))
        while len(self._marks) > 2 and now - self._marks[1][0] > self._SECONDS:
            self._marks.popleft()

    def rate(self) -> float | None:
        """Pictures a second, of the last half minute; None before there is one."""
        began, before = self._marks[0]
        return (self._count - before) / (time.monotonic() - began) if self._count else None
