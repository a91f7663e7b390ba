"""Runs a job on a Ray cluster: an engine in each actor of a pool, and the job store between them.

Ray Data manages the pool of actors: it starts as many as fit, within limits, and restarts them elsewhere if their node
dies. It distributes turns, not images. In its turn, an actor runs `server.jobs.runner.run_job`, like a process on one
machine, until all images have ended; its leases determine which images it processes. Exactly-once processing therefore
depends only on the database, whatever Ray repeats or loses: if a node dies, its leases expire, and other workers
process its images. If Ray distributed images, each would be bound to one actor, and the engine's batch would run empty
at the end of every block. Neither images nor annotations are sent through Ray.
"""

import logging
import math
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

from labels.extras import describe_install
from server.jobs.cluster_worker import ClusterError, ClusterJob, ClusterWorker
from server.store import Job, JobProgress, JobState, StoreUnavailableError
from server.store.jobs.job_store import JobStore

_TURNS_PER_ACTOR = 4  # Ray Data enlarges the pool while turns wait
_MAX_INIT_DEATHS = 10  # consecutive actors that may die while they start, since nodes may leave the cluster
_POLL_SECONDS = 1.0  # between two reads of the job's state
_FINAL_SECONDS = 10.0  # that the actors have to notice the end of the job
_ACTIVE = JobState.QUEUED, JobState.RUNNING
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerPool:
    """The number of actors, with `cpus` cores each. `max_actors` None means as many as fit when the job starts."""

    min_actors: int = 1
    max_actors: int | None = None
    cpus: int = 1

    def fit(self, resources: Mapping[str, float], gpu: bool) -> "WorkerPool":
        """Returns the pool with a number for `max_actors`. `resources` are the numbers of CPUs and GPUs."""
        fits = int(min(resources.get("CPU", 0) / self.cpus, resources.get("GPU", 0) if gpu else math.inf))
        return replace(self, max_actors=self.max_actors or max(self.min_actors, fits))


def run_on_cluster(
    store: JobStore,
    job: Job,
    cluster_job: ClusterJob,
    pool: WorkerPool,
    on_progress: Callable[[JobProgress, int], None],
) -> Job:
    """Works on the job with the cluster's actors until all its images have ended, or until it is paused or cancelled.
    Returns the job's new state.

    `on_progress` is called every second with the progress and the number of active actors. The cluster is the one at
    RAY_ADDRESS or on this machine; if there is none, this machine becomes one. Raises ClusterError and StoreError.
    """
    if job.state not in _ACTIVE:
        return job
    ray = _connect()
    try:
        resources = ray.cluster_resources()
        device = cluster_job.engine.config.device
        gpu = device.startswith("cuda") or (device == "auto" and resources.get("GPU", 0) > 0)
        # Ray shows an actor only its own GPU.
        config = replace(cluster_job.engine.config, device="cuda" if gpu else "cpu")
        cluster_job = replace(cluster_job, engine=replace(cluster_job.engine, config=config))
        dispatcher = _TurnDispatcher(cluster_job, pool.fit(resources, gpu), gpu)
        dispatcher.start()
        while dispatcher.is_alive() and job.state in _ACTIVE:
            dispatcher.join(_POLL_SECONDS)
            try:
                job = store.get_job(job.id)
                on_progress(store.get_progress(job), store.count_workers(job))
            except StoreUnavailableError as error:
                logger.warning("%s; waiting for it", error)
        # An actor whose node has died may wait for another node, with nothing left to do there.
        dispatcher.join(_FINAL_SECONDS)
        job = store.get_job(job.id)
        # If the job is done, the problem of a node that joined late does not matter.
        if dispatcher.problem and job.state is not JobState.DONE:
            raise ClusterError(dispatcher.problem)
        return job
    finally:
        ray.shutdown()


def _connect() -> Any:
    # Otherwise, calls of Ray Data could open another connection while this one closes.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    try:
        import ray
    except ImportError as error:
        raise ClusterError(f"Ray is not installed. On every node: {describe_install('ray')}") from error
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # of this process: the errors that matter are raised
    try:
        ray.init(logging_level=logging.ERROR, log_to_driver=False)
    except ConnectionError as error:
        raise ClusterError(
            f"no Ray cluster answers ({error}): start one with `ray start --head`, and set RAY_ADDRESS"
        ) from error
    return ray


class _TurnDispatcher(threading.Thread):
    """Distributes turns until none are left. It is a daemon thread, since Ray Data cannot be stopped from outside."""

    def __init__(self, cluster_job: ClusterJob, pool: WorkerPool, gpu: bool) -> None:
        super().__init__(name="florist-turns", daemon=True)
        self.cluster_job, self.pool, self.gpu = cluster_job, pool, gpu
        self.problem = ""

    def run(self) -> None:
        import ray.data

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.max_consecutive_actor_init_deaths = _MAX_INIT_DEATHS
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        # Not `ray.data.range`, whose tasks need cores that the actors use.
        count = _TURNS_PER_ACTOR * (self.pool.max_actors or 1)
        turns = ray.data.from_items([{"turn": n} for n in range(count)], override_num_blocks=count).map_batches(
            ClusterWorker,
            fn_constructor_args=(self.cluster_job, self.pool.cpus),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=self.pool.min_actors, max_size=self.pool.max_actors),
            num_cpus=self.pool.cpus,
            num_gpus=1 if self.gpu else 0,
        )
        try:
            for row in turns.iter_rows():
                if row["problem"]:
                    self.problem = row["problem"]
                    return  # this ends the other actors too
        except Exception as error:
            self.problem = _describe_ray_error(error)


def _describe_ray_error(error: Exception) -> str:
    message = str(error).strip()
    last_line = message.splitlines()[-1] if message else "without a message"
    if "No module named" in message:
        wanted = f"florist {version('florist')} with its extra `ray`"
        return f"a node lacks a package: install {wanted} on every node ({last_line})"
    logger.debug("Ray failed", exc_info=error)
    return f"Ray failed: {last_line}"
