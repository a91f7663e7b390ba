"""A job on the machines of a Ray cluster: an engine in each actor of a pool, and the store between them.

Ray Data keeps the pool: as many actors as there is room for, between two bounds, begun anew elsewhere when their node
dies. What it deals out are turns, not pictures. An actor whose turn it is works by `server.jobs.runner.run_job`, as a
process on one machine does, until no picture is open; which ones it works on say its leases. So exactly-once hangs on
the database alone, whatever Ray repeats or loses: a node that is killed midway leaves leases, which lapse, and
whoever is free takes those pictures. Were positions dealt out instead, a picture would wait for the very actor that
Ray had meant it for, and an engine's batch would run empty at the end of every block. No picture and no label travels
through Ray.
"""

import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from server.engine.adapters.errors import AdapterError
from server.engine.checkpoints.errors import CheckpointError
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.jobs import job_start
from server.jobs.recipes.execution import execute_recipe
from server.jobs.runner import LEASE, JobFailedError, compute_model_hash
from server.jobs.runner import run_job as work_on
from server.jobs.sources import ImageSource, SourceError, addresses, open_source
from server.jobs.sources.source import ImageListing, SourceImageError, SourceImageFault
from server.store import Job, JobProgress, JobState, JobStore, StoreError, StoreUnavailableError

_TURNS = 4  # for each actor there may be: Ray Data makes the pool larger while turns wait
_DEATHS = 10  # of actors while they begin, one after another, before Ray gives up: nodes come and go
_LOOK = 1.0  # seconds between two looks at the store
_PATIENCE = 60.0  # seconds that an actor tries to reach the database when it begins
_LAST = 10.0  # seconds in which the actors notice that the job has ended
_OPEN = JobState.QUEUED, JobState.RUNNING
_ELSEWHERE = SourceImageFault.MISSING, SourceImageFault.DENIED  # what may be this node's fault alone
logger = logging.getLogger(__name__)


class ClusterError(Exception):
    """The cluster cannot work on the job; the message says why, on which node, and what to do."""


@dataclass(frozen=True, slots=True)
class Loading:
    """How each actor gets its engine: what `Engine.load` takes, and the folders of adapters by their names."""

    config: EngineConfig
    adapters: tuple[tuple[str, Path], ...] = ()

    def engine(self) -> Engine:
        """Raises CheckpointError and AdapterError."""
        engine = Engine.load(self.config)
        try:
            for name, folder in self.adapters:
                engine.load_adapter(name, folder)
        except BaseException:
            engine.close(drain=False)
            raise
        return engine


@dataclass(frozen=True, slots=True)
class WorkerPool:
    """From `least` to `most` actors, of `cpus` cores each; None: as many as there is room for when the job begins."""

    least: int = 1
    most: int | None = None
    cpus: int = 1

    def fitted(self, room: Mapping[str, float], gpu: bool) -> "WorkerPool":
        """The pool with a number for `most`. `room`: the cluster's CPU and GPU."""
        fits = int(min(room.get("CPU", 0) / self.cpus, room.get("GPU", 0) if gpu else math.inf))
        return replace(self, most=self.most or max(self.least, fits))


@dataclass(frozen=True, slots=True)
class ClusterJob:
    """What an actor must know, wherever it is. `pictures`: the source, by a name that every node opens; `besides`: the
    output folder, which is left out of it; `lease`: seconds until an actor that says nothing is taken for dead."""

    database: str
    job: int
    pictures: str
    besides: Path
    loading: Loading
    lease: float = LEASE
    version: str = version("florist")


def run_on_cluster(
    store: JobStore, job: Job, work: ClusterJob, pool: WorkerPool, told: Callable[[JobProgress, int], None]
) -> Job:
    """Works on the job with the cluster's actors until no picture is open, or somebody pauses or cancels it: the job as
    it then stands. `told` hears every second how far it is, and how many actors have pictures in hand.

    The cluster is the one that RAY_ADDRESS names or that runs on this machine; without any, this machine is one. Raises
    ClusterError, and StoreError.
    """
    if job.state not in _OPEN:
        return job
    ray = _connected()
    try:
        room = ray.cluster_resources()
        device = work.loading.config.device
        gpu = device.startswith("cuda") or (device == "auto" and room.get("GPU", 0) > 0)
        # Ray shows an actor its own GPU alone.
        config = replace(work.loading.config, device="cuda" if gpu else "cpu")
        work = replace(work, loading=replace(work.loading, config=config))
        turns = _Turns(work, pool.fitted(room, gpu), gpu)
        turns.start()
        while turns.is_alive() and job.state in _OPEN:
            turns.join(_LOOK)
            try:
                job = store.get_job(job.id)
                told(store.get_progress(job), store.count_workers(job))
            except StoreUnavailableError as away:
                logger.warning("%s; waiting for it", away)
        # An actor whose node has died may wait for another node, with nothing left to do there.
        turns.join(_LAST)
        job = store.get_job(job.id)
        if turns.fault and job.state is not JobState.DONE:  # a node that came late and can do nothing hurts nobody
            raise ClusterError(turns.fault)
        return job
    finally:
        ray.shutdown()


def _connected() -> Any:
    # What Ray Data still does as the connection ends would else begin another.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    try:
        import ray
    except ImportError as error:
        raise ClusterError("Ray is not installed: pip install 'florist[ray]', on every node") from error
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # of this process: what matters reaches us as errors
    try:
        ray.init(logging_level=logging.ERROR, log_to_driver=False)
    except ConnectionError as error:
        raise ClusterError(
            f"no Ray cluster answers ({error}): begin one by `ray start --head`, and name it by RAY_ADDRESS"
        ) from error
    return ray


class _Turns(threading.Thread):
    """Deals out turns until there are none left; a daemon, for Ray Data cannot be told to leave off from outside."""

    def __init__(self, work: ClusterJob, pool: WorkerPool, gpu: bool) -> None:
        super().__init__(name="florist-turns", daemon=True)
        self.work, self.pool, self.gpu = work, pool, gpu
        self.fault = ""

    def run(self) -> None:
        import ray.data

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.max_consecutive_actor_init_deaths = _DEATHS
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        # From items and not a range, which tasks would make, and these would need cores that the actors have.
        count = _TURNS * (self.pool.most or 1)
        turns = ray.data.from_items([{"turn": n} for n in range(count)], override_num_blocks=count).map_batches(
            ClusterWorker,
            fn_constructor_args=(self.work, self.pool.cpus),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=self.pool.least, max_size=self.pool.most),
            num_cpus=self.pool.cpus,
            num_gpus=1 if self.gpu else 0,
        )
        try:
            for row in turns.iter_rows():
                if row["fault"]:
                    self.fault = row["fault"]
                    return  # that ends the other actors too
        except Exception as error:
            self.fault = _explained(error)


def _explained(error: Exception) -> str:
    said = str(error).strip()
    if "No module named" in said:
        return f"a node lacks a package: install florist[ray] {version('florist')} on every node ({_last_line(said)})"
    logger.debug("Ray failed", exc_info=error)
    return f"Ray failed: {_last_line(said)}"


def _last_line(said: str) -> str:
    return said.splitlines()[-1] if said else "it does not say why"


class ClusterWorker:
    """One engine, and the store: what Ray Data makes in each actor of the pool.

    What is wrong on its node is said in place of a turn's result: an error in an actor's beginning would have Ray try
    again, and reach a person wrapped in traces.
    """

    def __init__(self, work: ClusterJob, threads: int) -> None:
        self._work, self._node = work, socket.gethostname()
        torch.set_num_threads(threads)
        self._fault = self._kept(self._open)

    def __call__(self, turn: dict[str, Any]) -> dict[str, Sequence[str]]:
        """A turn: until no picture is open. {fault: what hinders it, or nothing}"""
        self._fault = self._fault or self._kept(self._label)
        return {"fault": [self._fault] * len(turn["turn"])}

    def _kept(self, call: Callable[[], None]) -> str:
        try:
            call()
        except (ClusterError, JobFailedError) as error:
            return str(error)
        except Exception as error:
            logger.exception("this node cannot go on")
            return f"{self._node}: {error or type(error).__name__}"
        return ""

    def _open(self) -> None:
        work, node = self._work, self._node
        if work.version != version("florist"):
            raise ClusterError(
                f"{node} has florist {version('florist')}, and the command is {work.version}: install the same on all"
            )
        with ExitStack() as stack:  # what is open is closed again if anything fails
            self.source = _Reached(stack.enter_context(self._pictures()), node)
            self.store = stack.enter_context(self._database())
            try:
                self.engine = stack.enter_context(work.loading.engine())
            except (CheckpointError, AdapterError, OSError) as error:
                raise ClusterError(
                    f"the model cannot be loaded on {node}: {error}. Every node needs the weights and the adapters, by "
                    f"the same names"
                ) from error
            self.job = self.store.get_job(work.job)
            self.recipe = job_start.get_job_recipe(self.job)
            if compute_model_hash(self.engine, self.recipe.adapters) != self.job.spec.model:
                raise ClusterError(
                    f"{work.loading.config.model} or an adapter has other weights on {node} than where the job began"
                )
            if self.source.fingerprint != self.job.spec.fingerprint:
                raise ClusterError(
                    f"{addresses.redact_address(work.pictures)} does not hold the same pictures on {node} as where the job began"
                )
            stack.pop_all()  # the actor's end closes them

    def _pictures(self) -> ImageSource:
        try:
            return open_source(self._work.pictures, besides=self._work.besides)
        except SourceError as error:
            raise ClusterError(
                f"the pictures cannot be read on {self._node}: {error}. Every node must find them by this name: mount "
                f"the folder there too, or give a URL such as s3://bucket/pictures"
            ) from error

    def _database(self) -> JobStore:
        ends = time.monotonic() + _PATIENCE
        while True:
            try:
                return JobStore(self._work.database)
            except StoreUnavailableError as away:
                if time.monotonic() > ends:
                    raise ClusterError(
                        f"{self._node} does not reach the database: {away}. Every node must reach it by the name in "
                        f"FLORIST_DATABASE_URL"
                    ) from away
                time.sleep(1)

    def _label(self) -> None:
        try:
            work_on(
                self.store,
                self.job,
                self.engine,
                self.source,
                partial(execute_recipe, self.recipe),
                lease=self._work.lease,
            )
        except StoreError as error:
            raise ClusterError(f"{self._node}: {error}") from error


class _Reached(ImageSource):
    """A source that says on which node it could not be read. What is not there may be there on another: it is no
    picture's last word."""

    def __init__(self, source: ImageSource, node: str) -> None:
        super().__init__(ImageListing())
        self.names, self.fingerprint, self.notes = source.names, source.fingerprint, source.notes
        self._source, self._node = source, node

    def _read(self, position: int) -> bytes:
        try:
            return self._source[position].read()
        except SourceImageError as error:
            fault = SourceImageFault.UNREACHABLE if error.fault in _ELSEWHERE else error.fault
            raise SourceImageError(f"{error} (on {self._node})", fault) from error
