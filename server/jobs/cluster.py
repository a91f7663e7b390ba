"""Runs a job on a Ray cluster: an engine in each actor of a pool, and the job store between them.

Ray Data manages the pool: as many actors as fit, between two bounds, and started again elsewhere if their node dies. It
distributes turns, not images. In its turn, an actor works with `server.jobs.runner.run_job`, as a process on one
machine does, until all images have ended; its leases decide which images it processes. So exactly-once processing
depends on the database alone, whatever Ray repeats or loses: the leases of a node that dies expire, and other workers
take its images. If Ray distributed positions instead, an image would wait for one certain actor, and the engine's batch
would run empty at the end of every block. No image and no annotation travels through Ray.
"""

import logging
import math
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

from server.jobs.cluster_worker import ClusterError, ClusterJob, ClusterWorker
from server.store import Job, JobProgress, JobState, StoreUnavailableError
from server.store.jobs.job_store import JobStore

_TURNS_PER_ACTOR = 4  # Ray Data enlarges the pool while turns wait
_MAX_INIT_DEATHS = 10  # of actors in a row while they start, before Ray gives up: nodes come and go
_POLL_SECONDS = 1.0  # between two looks at the job store
_FINAL_SECONDS = 10.0  # in which the actors notice that the job has ended
_ACTIVE = JobState.QUEUED, JobState.RUNNING
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerPool:
    """From `least` to `most` actors with `cpus` cores each. None means as many as fit when the job starts."""

    least: int = 1
    most: int | None = None
    cpus: int = 1

    def fit(self, resources: Mapping[str, float], gpu: bool) -> "WorkerPool":
        """Returns the pool with a number for `most`. `resources` are the cluster's CPU and GPU counts."""
        fits = int(min(resources.get("CPU", 0) / self.cpus, resources.get("GPU", 0) if gpu else math.inf))
        return replace(self, most=self.most or max(self.least, fits))


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
        # If the job is done, the problem of a node that came late does not matter.
        if dispatcher.problem and job.state is not JobState.DONE:
            raise ClusterError(dispatcher.problem)
        return job
    finally:
        ray.shutdown()


def _connect() -> Any:
    # Otherwise, calls of Ray Data while the connection closes would open another one.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    try:
        import ray
    except ImportError as error:
        raise ClusterError("Ray is not installed: pip install 'florist[ray]' on every node") from error
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
        # From items: tasks would create a range, and need cores that the actors use.
        count = _TURNS_PER_ACTOR * (self.pool.most or 1)
        turns = ray.data.from_items([{"turn": n} for n in range(count)], override_num_blocks=count).map_batches(
            ClusterWorker,
            fn_constructor_args=(self.cluster_job, self.pool.cpus),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=self.pool.least, max_size=self.pool.most),
            num_cpus=self.pool.cpus,
            num_gpus=1 if self.gpu else 0,
        )
        try:
            for row in turns.iter_rows():
                if row["problem"]:
                    self.problem = row["problem"]
                    return  # this ends the other actors too
        except Exception as error:
            self.problem = _explain(error)


def _explain(error: Exception) -> str:
    message = str(error).strip()
    if "No module named" in message:
        return (
            f"a node lacks a package: install florist[ray] {version('florist')} on every node ({_last_line(message)})"
        )
    logger.debug("Ray failed", exc_info=error)
    return f"Ray failed: {_last_line(message)}"


def _last_line(message: str) -> str:
    return message.splitlines()[-1] if message else "without a message"
