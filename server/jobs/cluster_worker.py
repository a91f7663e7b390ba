"""A worker of a Ray cluster: one engine, and a connection to the job store."""

import logging
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from labels.decoder_pool import decode_in_processes
from server.engine.adapters.errors import AdapterError
from server.engine.checkpoints.errors import CheckpointError
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.jobs.job_recipe import get_job_recipe
from server.jobs.model_hash import compute_model_hash
from server.jobs.recipes.execution import execute_recipe
from server.jobs.runner import LEASE_SECONDS, JobFailedError, run_job
from server.jobs.sources import ImageSource, SourceError, SourceImageError, SourceImageFault, open_source
from server.jobs.sources.listing import ImageListing
from server.jobs.sources.source import Reserve
from server.store import StoreError, StoreUnavailableError
from server.store.jobs.job_store import JobStore
from server.store.text import redact_address

_CONNECT_SECONDS = 60.0  # for which a new worker tries to reach the database
_NODE_FAULTS = SourceImageFault.MISSING, SourceImageFault.DENIED  # faults that other nodes may not have
logger = logging.getLogger(__name__)


class ClusterError(Exception):
    """The cluster cannot work on the job; the message says why, on which node, and what to do."""


@dataclass(frozen=True, slots=True)
class EngineSetup:
    """How each worker creates its engine: the engine's options, and the folders of adapters by their names."""

    config: EngineConfig
    adapters: tuple[tuple[str, Path], ...] = ()

    def load_engine(self) -> Engine:
        """Loads the model and the adapters. Raises CheckpointError and AdapterError."""
        engine = Engine.load(self.config)
        try:
            for name, folder in self.adapters:
                engine.load_adapter(name, folder)
        except BaseException:
            engine.close(drain=False)
            raise
        return engine


@dataclass(frozen=True, slots=True)
class ClusterJob:
    """The settings of a worker, valid on every node.

    `database` is the URL of the database, `source` the address of the images. `output` is the output folder, which is
    not part of the source. `lease_seconds` is the time after which a worker that does not renew its leases is
    considered dead.
    """

    database: str
    job_id: int
    source: str
    output: Path
    engine: EngineSetup
    lease_seconds: float = LEASE_SECONDS
    version: str = version("florist")


class ClusterWorker:
    """One engine and the job store, created by Ray Data in each actor of the pool.

    Problems of the node are returned as the result of a turn. If the constructor raised them, Ray would retry, and
    users would see them wrapped in stack traces.
    """

    def __init__(self, cluster_job: ClusterJob, threads: int) -> None:
        self._cluster_job, self._node = cluster_job, socket.gethostname()
        torch.set_num_threads(threads)
        self._problem = self._catch(self._open)

    def __call__(self, turn: dict[str, Any]) -> dict[str, Sequence[str]]:
        """Works until all images have ended. Returns {"problem": why it cannot work, or an empty string}."""
        self._problem = self._problem or self._catch(self._label)
        return {"problem": [self._problem] * len(turn["turn"])}

    def _catch(self, call: Callable[[], None]) -> str:
        try:
            call()
        except (ClusterError, JobFailedError) as error:
            return str(error)
        except Exception as error:
            logger.exception("this node cannot continue")
            return f"{self._node}: {error or type(error).__name__}"
        return ""

    def _open(self) -> None:
        cluster_job, node = self._cluster_job, self._node
        if cluster_job.version != version("florist"):
            raise ClusterError(
                f"{node} has florist {version('florist')}, and the command is {cluster_job.version}: install the same "
                "version on all nodes"
            )
        with ExitStack() as stack:  # closes everything if anything fails
            stack.enter_context(decode_in_processes())
            self.source = _NodeSource(stack.enter_context(self._open_source()), node)
            self.store = stack.enter_context(self._open_store())
            try:
                self.engine = stack.enter_context(cluster_job.engine.load_engine())
            except (CheckpointError, AdapterError, OSError) as error:
                raise ClusterError(
                    f"the model cannot be loaded on {node}: {error}. Every node needs the weights and the adapters, "
                    "with the same names"
                ) from error
            self.job = self.store.get_job(cluster_job.job_id)
            self.recipe = get_job_recipe(self.job)
            if compute_model_hash(self.engine, self.recipe.adapters) != self.job.spec.model_hash:
                raise ClusterError(
                    f"{cluster_job.engine.config.model} or an adapter has other weights on {node} than where the job "
                    "started"
                )
            if self.source.fingerprint != self.job.spec.fingerprint:
                raise ClusterError(
                    f"{redact_address(cluster_job.source)} does not contain the same images on {node} as where the job "
                    "started"
                )
            stack.pop_all()  # the end of the actor closes them

    def _open_source(self) -> ImageSource:
        try:
            return open_source(self._cluster_job.source, exclude=self._cluster_job.output)
        except SourceError as error:
            raise ClusterError(
                f"the images cannot be read on {self._node}: {error}. Every node must find them at this address: mount "
                "the folder there too, or use a URL such as s3://bucket/images"
            ) from error

    def _open_store(self) -> JobStore:
        deadline = time.monotonic() + _CONNECT_SECONDS
        while True:
            try:
                return JobStore(self._cluster_job.database)
            except StoreUnavailableError as error:
                if time.monotonic() > deadline:
                    raise ClusterError(
                        f"{self._node} cannot reach the database: {error}. Every node must reach it at the URL in "
                        "FLORIST_DATABASE_URL"
                    ) from error
                time.sleep(1)

    def _label(self) -> None:
        try:
            run_job(
                self.store, self.job, self.engine, self.source, partial(execute_recipe, self.recipe),
                lease_seconds=self._cluster_job.lease_seconds,
            )  # fmt: skip
        except StoreError as error:
            raise ClusterError(f"{self._node}: {error}") from error


class _NodeSource(ImageSource):
    """A source whose errors name the node. An image that is missing here may exist on another node, so that error is
    not final."""

    def __init__(self, source: ImageSource, node: str) -> None:
        super().__init__(ImageListing())
        self.names, self.positions = source.names, source.positions
        self.fingerprint, self.notes = source.fingerprint, source.notes
        self._source, self._node = source, node

    def get_stamp(self, position: int) -> str:
        return self._source.get_stamp(position)

    def _read(self, position: int, reserve: Reserve) -> bytes:
        try:
            return self._source[position].read(reserve)
        except SourceImageError as error:
            fault = SourceImageFault.UNREACHABLE if error.fault in _NODE_FAULTS else error.fault
            raise SourceImageError(f"{error} (on {self._node})", fault) from error
