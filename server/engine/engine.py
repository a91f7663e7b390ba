"""The engine: `submit` a request, get a handle. Behind that one seam a queue, and a worker for each device."""

import functools
import threading
import time
from collections.abc import Sequence as Many
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import torch
from PIL.Image import Image

from prompts.tasks import Task
from server.engine.adapters.registry import Adapter, Adapters, UnknownAdapter
from server.engine.checkpoints import loading as checkpoints
from server.engine.checkpoints.loading import Checkpoint
from server.engine.decoding.constraint import Automaton, Constrain, automaton
from server.engine.errors import EngineClosedError, InvalidRequestError, OverloadedError, RequestCancelledError
from server.engine.handle import Handle
from server.engine.model.feature_cache import CacheStats, FeatureCache
from server.engine.model.preprocessing import Picture
from server.engine.request import Request
from server.engine.scheduler import Scheduler
from server.engine.sequence import Plan, Sequence, plan
from server.engine.worker import Worker, shares_of_cores, workers_for

CACHE_BYTES = 256 << 20  # some 280 pictures of Florence-2-base in fp32
ADAPTER_BYTES = 1 << 30  # some 300 adapters of Florence-2-base's attention in fp32, of rank 8


@dataclass(frozen=True, slots=True)
class Stats:
    """Counters since the start, seconds of the workers' time by phase, and how many requests wait and run now.

    `submitted` counts those accepted, `refused` those turned away as too many; `pictures` went through the vision
    tower, fewer than requests where they share one; `rows` is the sum of the running requests over all `steps`;
    `out_of_memory` counts the times that a batch was too much and was tried again smaller.
    """

    submitted: int = 0
    refused: int = 0
    finished: int = 0
    failed: int = 0
    cancelled: int = 0
    tokens: int = 0
    steps: int = 0
    rows: int = 0
    pictures: int = 0
    out_of_memory: int = 0
    vision_seconds: float = 0.0
    encode_seconds: float = 0.0
    decode_seconds: float = 0.0
    waiting: int = 0
    running: int = 0
    cache: CacheStats = field(default_factory=CacheStats)


class Engine:
    """One model on one device or several. Safe to use from any thread."""

    def __init__(
        self, checkpoint: Checkpoint, *, replicas: Many[Checkpoint] = (), max_batch: int = 16, max_waiting: int = 256,
        cache_bytes: int = CACHE_BYTES, adapter_bytes: int = ADAPTER_BYTES, drafts: int = 0,
    ) -> None:  # fmt: skip
        """`replicas`: the same checkpoint on further devices, a worker each; one that stands there again gets a further
        worker on cores of its own. `max_batch`: requests that a worker decodes together; `max_waiting`: requests that
        may wait for a place; `cache_bytes`: of image features that a device keeps; `adapter_bytes`: of adapters loaded;
        `drafts`: tokens a step may guess from a grounding prompt. Raises ValueError for more workers than cores."""
        self.checkpoint, self.max_batch, self.max_waiting, self.drafts = checkpoint, max_batch, max_waiting, drafts
        self.device = checkpoint.model.device
        everywhere = (checkpoint, *replicas)
        self._caches = {id(own): FeatureCache(cache_bytes) for own in everywhere}
        models = list({id(own): own.model for own in everywhere}.values())
        self._adapters = Adapters(models, checkpoint.sha256, adapter_bytes)
        self._ready = threading.Condition()
        self._scheduler: Scheduler[Sequence] = Scheduler(max_waiting, time.monotonic)
        self._closing = False
        self._stats = Stats()
        self._seconds = 1.0  # a running mean of a request's time in the decoder
        self._automaton = functools.lru_cache(64)(self._built)
        on_cpu = [own for own in everywhere if own.model.device.type == "cpu"]
        cores = iter(shares_of_cores(len(on_cpu)) if len(on_cpu) > 1 else [[]])
        self._workers = [
            Worker(
                own, self._caches[id(own)], self._scheduler, self._ready, max_batch,
                next(cores) if own.model.device.type == "cpu" else (),
            )
            for own in everywhere
        ]  # fmt: skip

    @classmethod
    def load(
        cls,
        name: str = checkpoints.SEEDLING,
        *,
        device: str = "auto",
        dtype: str = "auto",
        max_batch: int = 16,
        max_waiting: int = 256,
        cache_bytes: int = CACHE_BYTES,
        adapter_bytes: int = ADAPTER_BYTES,
    ) -> Self:
        """An engine on a checkpoint by name or path.

        `device`: auto, cpu, cuda, cuda:1 …; several with commas between get a worker each (`cuda:0,cuda:1`; `cpu,cpu`
        shares out the cores). auto: a GPU where there is one; on a CPU a small model gets a worker for each of a few
        cores. `dtype`: auto, float32, bfloat16, float16. Raises CheckpointError.
        """
        places = [_place(part.strip()) for part in device.split(",")]
        # On a thread that ends: OpenMP keeps helpers for every thread that has used it, and once there are more of them
        # than cores they sleep between any two operations, which makes the worker's steps take twice as long.
        with ThreadPoolExecutor(1, thread_name_prefix="florist-load") as thread:
            loaded = {
                place: thread.submit(checkpoints.load, name, device=place, dtype=_kind(dtype, place)).result()
                for place in dict.fromkeys(places)
            }
        first, *replicas = [loaded[place] for place in places]
        if device == "auto":
            replicas = [first] * (workers_for(first.model) - 1)
        try:
            return cls(
                first, replicas=replicas, max_batch=max_batch, max_waiting=max_waiting, cache_bytes=cache_bytes,
                adapter_bytes=adapter_bytes,
            )  # fmt: skip
        except ValueError as error:
            raise checkpoints.CheckpointError(str(error)) from error

    def prepare(self, image: Image) -> Picture:
        """What the engine keeps of a picture, for requests that ask about it several times. Takes milliseconds."""
        return self.checkpoint.preprocessing.prepare(image)

    def submit(self, request: Request) -> Handle:
        """Takes a request in. Raises InvalidRequestError, OverloadedError or EngineClosedError; what goes wrong later, the handle raises."""
        planned = plan(request, self.checkpoint)
        guide = self._guide(request)
        adapter = self._adapter(request)
        try:
            return self._add(planned, guide, adapter)
        except BaseException:
            if adapter:
                self._adapters.release(adapter.key)
            raise

    def submit_when_room(self, request: Request, stop: threading.Event) -> Handle:
        """As `submit`, but waits where too many wait already. Raises RequestCancelledError once `stop` is set."""
        while not stop.is_set():
            try:
                return self.submit(request)
            except OverloadedError as error:
                stop.wait(min(error.retry_after, 0.1))
        raise RequestCancelledError("nothing more is asked")

    def load_adapter(self, name: str, folder: Path, sha256: str | None = None) -> Adapter:
        """Loads a LoRA adapter from a folder of PEFT's, beside what runs; requests name it from then on. One that has
        the name already is replaced, for new requests. `sha256`: what its weights' file must have. Takes as long as
        reading the file does. Raises AdapterError."""
        return self._adapters.load(name, folder, sha256)

    def unload_adapter(self, name: str) -> None:
        """New requests can name it no more; those under way end on it. Raises UnknownAdapter."""
        self._adapters.unload(name)

    def adapters(self) -> list[Adapter]:
        """Those that requests can name."""
        return self._adapters.loaded()

    def stats(self) -> Stats:
        """A snapshot."""
        loops = [worker.loop for worker in self._workers]
        runners = [worker.runner for worker in self._workers]
        with self._ready:
            return replace(
                self._stats,
                steps=sum(loop.steps for loop in loops),
                rows=sum(loop.rows for loop in loops),
                pictures=sum(runner.pictures for runner in runners),
                out_of_memory=sum(loop.out_of_memory for loop in loops),
                vision_seconds=sum(runner.seconds.vision for runner in runners),
                encode_seconds=sum(runner.seconds.encode for runner in runners),
                decode_seconds=sum(runner.seconds.decode for runner in runners),
                waiting=len(self._scheduler),
                running=sum(len(loop.running) for loop in loops),
                cache=CacheStats.total(cache.stats() for cache in self._caches.values()),
            )

    def close(self, *, drain: bool = True) -> None:
        """Takes no more requests and returns when the workers have ended: after all answers, or without `drain` at
        once, the rest failing with Closed."""
        with self._ready:
            self._closing = True
            for worker in self._workers:
                worker.close(drain=drain)
        for worker in self._workers:
            worker.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close(drain=False)

    def _guide(self, request: Request) -> Automaton | None:
        """The automaton that the request's constraint asks for, built once."""
        if request.constrain is None:
            return None
        try:
            return self._automaton(request.task, request.constrain)
        except ValueError as error:
            raise InvalidRequestError(str(error), "constrain") from error

    def _built(self, task: Task, constrain: Constrain) -> Automaton:
        checkpoint = self.checkpoint
        return automaton(task, constrain, checkpoint.tokenizer, checkpoint.vocabulary, len(checkpoint.unused))

    def _adapter(self, request: Request) -> Adapter | None:
        """The adapter that the request names, held for it."""
        if request.adapter is None:
            return None
        try:
            return self._adapters.acquire(request.adapter)
        except UnknownAdapter as error:
            raise InvalidRequestError(str(error), "adapter") from error

    def _add(self, planned: Plan, guide: Automaton | None, adapter: Adapter | None) -> Handle:
        """Takes a checked request in. Raises OverloadedError or EngineClosedError."""
        with self._ready:
            if self._closing:
                raise EngineClosedError("the engine is shutting down")
            if self._scheduler.full(interactive=planned.request.interactive):
                self._count(refused=1)
                rounds = 1 + len(self._scheduler) / (self.max_batch * len(self._workers))
                raise OverloadedError(len(self._scheduler), max(1.0, rounds * self._seconds))
            scales = adapter.calibration if adapter else self.checkpoint.calibration
            handle = Handle(self._cancel)
            sequence = Sequence(
                planned, self.checkpoint, handle, adapter=adapter.key if adapter else None,
                tower=adapter.tower if adapter else None, automaton=guide, drafts=self.drafts, on_end=self._ended,
                scale=scales.scale(planned.request.task) if scales else None,
            )  # fmt: skip
            handle._work = sequence
            self._scheduler.add(sequence)
            self._count(submitted=1)
            self._ready.notify()
        return handle

    def _cancel(self, handle: Handle) -> None:
        """A waiting request ends here and now; a running one at its worker's next turn."""
        work = handle._work
        if work is None:  # it has ended
            return
        with self._ready:
            waited = self._scheduler.remove(work)
        if waited:
            work.give_up()

    def _ended(self, sequence: Sequence, how: str) -> None:
        if sequence.adapter:
            self._adapters.release(sequence.adapter)
        with self._ready:
            if how == "finished":
                self._seconds += 0.1 * (time.monotonic() - sequence.started - self._seconds)
                self._count(finished=1, tokens=len(sequence.search.settled))
            else:
                self._count(**{how: 1})

    def _count(self, **more: int) -> None:
        self._stats = replace(self._stats, **{name: getattr(self._stats, name) + n for name, n in more.items()})


def _place(device: str) -> torch.device:
    """A device that can be used. Raises CheckpointError."""
    try:
        place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise checkpoints.CheckpointError(f"the device {device} cannot be used: {error}") from error
    return place


def _kind(dtype: str, place: torch.device) -> torch.dtype:
    """The type of the weights on a device. Raises CheckpointError."""
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype == "auto":
        # On a CPU only fp32 gives the reference's tokens.
        half = torch.bfloat16 if place.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float16
        return torch.float32 if place.type == "cpu" else half
    if dtype not in kinds:
        raise checkpoints.CheckpointError(f"dtype must be auto or one of {', '.join(kinds)}, not {dtype}")
    return kinds[dtype]
