"""The engine: submit a request, get a handle. Owns the queue and one worker per device."""

import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
from cachetools import LRUCache
from PIL.Image import Image

from prompts.tasks import Task
from server.engine.adapters.errors import UnknownAdapterError
from server.engine.adapters.registry import Adapter, AdapterRegistry
from server.engine.checkpoints.errors import CheckpointError
from server.engine.checkpoints.loading import Checkpoint, load_checkpoint
from server.engine.config import EngineConfig
from server.engine.decoding.constraint import CompiledConstraint, compile_constraint
from server.engine.decoding.token_masks import TokenMasks
from server.engine.devices import choose_worker_count, resolve_device, resolve_dtype, split_cores
from server.engine.errors import (
    DeadlineExceededError,
    EngineClosedError,
    InvalidRequestError,
    OverloadedError,
    RequestCancelledError,
)
from server.engine.handle import Handle
from server.engine.loop import is_out_of_memory
from server.engine.model.feature_cache import CacheStats, FeatureCache
from server.engine.model.preprocessing import PreparedImage
from server.engine.request import Constraint, Request
from server.engine.scheduler import Scheduler
from server.engine.sequence import Outcome, Sequence
from server.engine.stats import EngineStats
from server.engine.worker import Worker

CONSTRAINT_CACHE_BYTES = 64 << 20  # of compiled constraints; least recently used are evicted
POLL_SECONDS = 0.1  # longest pause of `submit_blocking` between two attempts


class Engine:
    """One model on one or several devices. Safe to use from any thread.

    In fp32 an answer does not depend on the other requests of its batch, but for ties: where the logits of two tokens
    differ by less than 1e-4, the rounding of a matrix product of more or fewer rows may decide between them.
    """

    def __init__(
        self, checkpoint: Checkpoint, config: EngineConfig = EngineConfig(), *, replicas: Iterable[Checkpoint] = ()
    ) -> None:
        """Runs a loaded checkpoint; `load` also loads it. Uses the limits of `config`, not its model, device and dtype.

        `replicas`: the same checkpoint on further devices, one worker each. The same object again adds a worker on the
        same device, with cores of its own. Raises ValueError for more workers than cores.
        """
        self.checkpoint, self.config = checkpoint, config
        self.device = checkpoint.model.device
        checkpoints = [checkpoint, *replicas]
        self._caches = {id(own): FeatureCache(config.feature_cache_bytes) for own in checkpoints}
        models = list({id(own): own.model for own in checkpoints}.values())
        self._adapters = AdapterRegistry(models, checkpoint.sha256, config.max_adapter_bytes)
        self._ready = threading.Condition()
        self._scheduler = Scheduler(config.max_waiting, time.monotonic)
        self._closing = False
        self._stats = EngineStats()
        self._mean_seconds = 1.0  # running mean of the time from admission to the end of a request
        self._masks = TokenMasks(checkpoint.vocabulary, len(checkpoint.unused_tokens))
        self._constraints: LRUCache[tuple[Task, Constraint], CompiledConstraint] = LRUCache(
            CONSTRAINT_CACHE_BYTES, getsizeof=lambda compiled: compiled.nbytes
        )
        self._constraint_lock = threading.Lock()
        on_cpu = [own.model.device.type == "cpu" for own in checkpoints]
        cores = iter(split_cores(sum(on_cpu)) if sum(on_cpu) > 1 else [[]])
        self.workers = [
            Worker(
                own,
                self._caches[id(own)],
                self._scheduler,
                self._ready,
                config.max_batch,
                next(cores) if is_cpu else [],
            )
            for own, is_cpu in zip(checkpoints, on_cpu, strict=True)
        ]

    @classmethod
    def load(cls, config: EngineConfig = EngineConfig()) -> Self:
        """Loads a checkpoint onto its devices and starts the workers. Raises CheckpointError."""
        devices = [resolve_device(part.strip()) for part in config.device.split(",")]
        # In a thread that ends: OpenMP keeps helper threads for every thread that used it. With more helpers than
        # cores, they sleep between any two operations, and the steps of the workers take twice as long.
        with ThreadPoolExecutor(1, thread_name_prefix="florist-load") as thread:
            loaded = {
                device: thread.submit(
                    load_checkpoint, config.model, device=device, dtype=resolve_dtype(config.dtype, device)
                ).result()
                for device in dict.fromkeys(devices)
            }
        first, *replicas = [loaded[device] for device in devices]
        if config.device == "auto":
            replicas = [first] * (choose_worker_count(first.model) - 1)
        try:
            return cls(first, config, replicas=replicas)
        except ValueError as error:
            raise CheckpointError(str(error)) from error

    def prepare(self, image: Image) -> PreparedImage:
        """Preprocesses an image once, for several requests. Takes milliseconds."""
        return self.checkpoint.preprocessor.prepare(image)

    @property
    def resizing(self) -> tuple[int, int, int]:
        """The width, the height and Pillow's resampling filter of images that `prepare_resized` takes."""
        return self.checkpoint.preprocessor.resizing

    def prepare_resized(self, size: tuple[int, int], pixels: np.ndarray) -> PreparedImage:
        """Same as `prepare`, for an image of `size` (width, height) that another process has resized.

        `pixels`: uint8 [height, width, 3].
        """
        return self.checkpoint.preprocessor.prepare_resized(size, pixels)

    def find_constraint(self, task: Task, constraint: Constraint) -> CompiledConstraint | None:
        """Returns the compiled constraint if it is cached."""
        with self._constraint_lock:
            return self._constraints.get((task, constraint))

    def compile_constraint(self, task: Task, constraint: Constraint) -> CompiledConstraint:
        """Compiles a constraint once, for several requests. The longest list of labels takes a tenth of a second.

        Raises InvalidRequestError.
        """
        if (found := self.find_constraint(task, constraint)) is not None:
            return found
        try:
            compiled = compile_constraint(task, constraint, self.checkpoint.tokenizer, self._masks)
        except ValueError as error:
            raise InvalidRequestError(str(error), "constrain") from error
        with self._constraint_lock:
            return self._constraints.setdefault((task, constraint), compiled)

    def check_capacity(self, count: int = 1, *, interactive: bool = True) -> None:
        """Raises OverloadedError if the queue has no place for so many more requests."""
        with self._ready:
            self._check_capacity(count, interactive=interactive)

    def submit(self, request: Request) -> Handle:
        """Queues a request. Raises InvalidRequestError, AdapterSuspendedError, OverloadedError or EngineClosedError;
        the handle raises errors that occur later."""
        constraint = self._get_constraint(request)
        adapter = self._acquire_adapter(request)
        try:
            sequence = Sequence(
                request,
                self.checkpoint,
                adapter=adapter,
                constraint=constraint,
                on_cancel=self._cancel,
                on_end=self._record_end,
            )
            self._enqueue(sequence)
        except BaseException:
            if adapter:
                self._adapters.release(adapter.key)
            raise
        return sequence.handle

    def submit_blocking(self, request: Request, stop: threading.Event) -> Handle:
        """Same as `submit`, but waits while the queue is full. Raises RequestCancelledError once `stop` is set."""
        while not stop.is_set():
            try:
                return self.submit(request)
            except OverloadedError as error:
                stop.wait(min(error.retry_after, POLL_SECONDS))
        raise RequestCancelledError("stopped before the queue accepted the request")

    def load_adapter(self, name: str, folder: Path, sha256: str | None = None) -> Adapter:
        """Loads a LoRA adapter from a PEFT folder while requests run. New requests can then use it by name. Replaces an
        adapter with the same name, for new requests.

        `sha256`: expected hash of the weights file. Takes as long as reading the file. Raises AdapterError.
        """
        return self._adapters.load(name, folder, sha256)

    def unload_adapter(self, name: str) -> None:
        """Unloads an adapter for new requests. Running requests keep it until they end. Raises UnknownAdapterError."""
        self._adapters.unload(name)

    def list_adapters(self) -> list[Adapter]:
        """Returns the adapters that requests can use."""
        return self._adapters.list_loaded()

    def get_stats(self) -> EngineStats:
        """Returns the current counters."""
        loops = [worker.loop for worker in self.workers]
        runners = [worker.runner for worker in self.workers]
        with self._ready:
            return replace(
                self._stats,
                steps=sum(loop.steps for loop in loops),
                rows=sum(loop.rows for loop in loops),
                images=sum(runner.images for runner in runners),
                out_of_memory=sum(loop.out_of_memory for loop in loops),
                vision_seconds=sum(runner.seconds.vision for runner in runners),
                encode_seconds=sum(runner.seconds.encode for runner in runners),
                decode_seconds=sum(runner.seconds.decode for runner in runners),
                waiting=len(self._scheduler),
                running=sum(len(loop.running) for loop in loops),
                cache=CacheStats.combine(cache.get_stats() for cache in self._caches.values()),
            )

    def close(self, *, drain: bool = True) -> None:
        """Rejects new requests and waits until the workers have ended: after all answers, or without `drain` at once,
        in which case the remaining requests fail with EngineClosedError."""
        with self._ready:
            self._closing = True
            for worker in self.workers:
                worker.close(drain=drain)
        for worker in self.workers:
            worker.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close(drain=False)

    def _get_constraint(self, request: Request) -> CompiledConstraint | None:
        """Returns the compiled constraint of the request. Raises InvalidRequestError."""
        if request.constrain is None or isinstance(request.constrain, CompiledConstraint):
            return request.constrain
        return self.compile_constraint(request.task, request.constrain)

    def _acquire_adapter(self, request: Request) -> Adapter | None:
        """Returns the adapter of the request, which must be released. Raises InvalidRequestError or
        AdapterSuspendedError."""
        if request.adapter is None:
            return None
        try:
            return self._adapters.acquire(request.adapter)
        except UnknownAdapterError as error:
            raise InvalidRequestError(str(error), "adapter") from error

    def _enqueue(self, sequence: Sequence) -> None:
        """Adds a sequence to the queue. Raises OverloadedError or EngineClosedError."""
        with self._ready:
            if self._closing:
                raise EngineClosedError("the engine is shutting down")
            self._check_capacity(1, interactive=sequence.interactive)
            self._scheduler.add(sequence)
            self._increment(submitted=1)
            self._ready.notify()

    def _check_capacity(self, count: int, *, interactive: bool) -> None:
        """As `check_capacity`, for callers that hold the lock."""
        if self._scheduler.is_full(count, interactive=interactive):
            self._increment(rejected=1)
            waiting = len(self._scheduler)
            rounds = 1 + waiting / (self.config.max_batch * len(self.workers))
            raise OverloadedError(waiting, max(1.0, rounds * self._mean_seconds))

    def _cancel(self, sequence: Sequence) -> None:
        """Ends a waiting sequence at once. A running one is ended by the next iteration of its worker's loop."""
        with self._ready:
            was_waiting = self._scheduler.remove(sequence)
        if was_waiting:
            sequence.abort()

    def _record_end(self, sequence: Sequence, outcome: Outcome) -> None:
        if sequence.adapter_key:
            self._adapters.release(sequence.adapter_key)
            # Only what the adapter may have caused.
            if outcome == "finished" or (outcome == "failed" and _may_be_own(sequence.error)):
                self._adapters.record_outcome(sequence.adapter_key, failed=outcome == "failed")
        with self._ready:
            if outcome == "finished":
                self._mean_seconds += 0.1 * (time.monotonic() - sequence.started_at - self._mean_seconds)
                self._increment(finished=1, tokens=len(sequence.search.settled))
            else:
                self._increment(**{outcome: 1})

    def _increment(self, **counts: int) -> None:
        """Adds to the counters. The caller holds `_ready`."""
        self._stats = replace(self._stats, **{name: getattr(self._stats, name) + n for name, n in counts.items()})


def _may_be_own(error: BaseException | None) -> bool:
    """Returns whether the adapter of a request may have caused its error."""
    return not isinstance(error, DeadlineExceededError | EngineClosedError) and not (error and is_out_of_memory(error))
