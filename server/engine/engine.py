"""The engine: `submit` a request, get a handle. Behind that one seam a worker thread turns the loop."""

import functools
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import torch
from PIL.Image import Image

from prompts.tasks import Task
from server.engine import checkpoint as checkpoints
from server.engine.adapters import Adapter, Adapters, UnknownAdapter
from server.engine.checkpoint import Checkpoint
from server.engine.constraint import Automaton, Constrain, automaton
from server.engine.features import CacheStats
from server.engine.handle import Handle
from server.engine.loop import Loop
from server.engine.request import Closed, InvalidRequest, Overloaded, Request
from server.engine.runner import Runner
from server.engine.scheduler import Scheduler
from server.engine.sequence import Plan, Sequence, plan
from server.engine.vision import Picture

CACHE_BYTES = 256 << 20  # some 280 pictures of Florence-2-base in fp32
ADAPTER_BYTES = 1 << 30  # some 300 adapters of Florence-2-base's attention in fp32, of rank 8
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stats:
    """Counters since the start, seconds of the worker's time by phase, and how many requests wait and run now.

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
    """One model on one device. Safe to use from any thread."""

    def __init__(
        self, checkpoint: Checkpoint, *, max_batch: int = 16, max_waiting: int = 256, cache_bytes: int = CACHE_BYTES,
        adapter_bytes: int = ADAPTER_BYTES, drafts: int = 0,
    ) -> None:  # fmt: skip
        """`max_batch`: requests decoded together; `max_waiting`: requests that may wait for a place; `cache_bytes`: of
        image features kept; `adapter_bytes`: of adapters loaded; `drafts`: tokens a step may guess from a
        grounding prompt."""
        self.checkpoint, self.max_batch, self.max_waiting, self.drafts = checkpoint, max_batch, max_waiting, drafts
        self.device = checkpoint.model.device
        self._adapters = Adapters(checkpoint.model, checkpoint.sha256, adapter_bytes)
        self._ready = threading.Condition()
        self._runner = Runner(checkpoint, max_batch, cache_bytes)
        self._scheduler: Scheduler[Sequence] = Scheduler(max_waiting, time.monotonic)
        self._loop = Loop(self._runner, self._scheduler, self._ready, slots=max_batch, clock=time.monotonic)
        self._closing = False
        self._stats = Stats()
        self._seconds = 1.0  # a running mean of a request's time in the decoder
        self._automaton = functools.lru_cache(64)(self._built)
        self._worker = threading.Thread(target=self._work, name="florist-engine", daemon=True)
        self._worker.start()

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

        `device`: auto, cpu, cuda, cuda:1 …; `dtype`: auto, float32, bfloat16, float16. Raises CheckpointError.
        """
        try:
            place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
            torch.empty(0, device=place)
        except (RuntimeError, AssertionError) as error:
            raise checkpoints.CheckpointError(f"the device {device} cannot be used: {error}") from error
        kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
        if dtype == "auto":
            # On a CPU only fp32 gives the reference's tokens, and bf16 gains little there.
            half = torch.bfloat16 if place.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float16
            kind = torch.float32 if place.type == "cpu" else half
        elif dtype in kinds:
            kind = kinds[dtype]
        else:
            raise checkpoints.CheckpointError(f"dtype must be auto or one of {', '.join(kinds)}, not {dtype}")
        # On a thread that ends: OpenMP keeps helpers for every thread that has used it, and once there are more of them
        # than cores they sleep between any two operations, which makes the worker's steps take twice as long.
        with ThreadPoolExecutor(1, thread_name_prefix="florist-load") as thread:
            loaded = thread.submit(checkpoints.load, name, device=place, dtype=kind).result()
        return cls(
            loaded, max_batch=max_batch, max_waiting=max_waiting, cache_bytes=cache_bytes, adapter_bytes=adapter_bytes
        )

    def prepare(self, image: Image) -> Picture:
        """What the engine keeps of a picture, for requests that ask about it several times. Takes milliseconds."""
        return self.checkpoint.preprocessing.prepare(image)

    def submit(self, request: Request) -> Handle:
        """Takes a request in. Raises InvalidRequest, Overloaded or Closed; what goes wrong later, the handle raises."""
        planned = plan(request, self.checkpoint)
        guide = self._guide(request)
        adapter = self._adapter(request)
        try:
            return self._add(planned, guide, adapter)
        except BaseException:
            if adapter:
                self._adapters.release(adapter.key)
            raise

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
        runner, loop = self._runner, self._loop
        with self._ready:
            return replace(
                self._stats,
                steps=loop.steps,
                rows=loop.rows,
                pictures=runner.pictures,
                out_of_memory=loop.out_of_memory,
                vision_seconds=runner.seconds.vision,
                encode_seconds=runner.seconds.encode,
                decode_seconds=runner.seconds.decode,
                waiting=len(self._scheduler),
                running=len(loop.running),
                cache=runner.cache.stats(),
            )

    def close(self, *, drain: bool = True) -> None:
        """Takes no more requests and returns when the worker has ended: after all answers, or without `drain` at once,
        the rest failing with Closed."""
        with self._ready:
            self._closing = True
            self._loop.abandon = self._loop.abandon or not drain
            self._ready.notify_all()
        self._worker.join()

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
            raise InvalidRequest(str(error), "constrain") from error

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
            raise InvalidRequest(str(error), "adapter") from error

    def _add(self, planned: Plan, guide: Automaton | None, adapter: Adapter | None) -> Handle:
        """Takes a checked request in. Raises Overloaded or Closed."""
        with self._ready:
            if self._closing:
                raise Closed("the engine is shutting down")
            if self._scheduler.full(interactive=planned.request.interactive):
                self._count(refused=1)
                rounds = 1 + len(self._scheduler) / self.max_batch
                raise Overloaded(len(self._scheduler), max(1.0, rounds * self._seconds))
            handle = Handle(self._cancel)
            sequence = Sequence(
                planned, self.checkpoint, handle, adapter=adapter.key if adapter else None,
                tower=adapter.tower if adapter else None, automaton=guide, drafts=self.drafts, on_end=self._ended,
            )  # fmt: skip
            handle._work = sequence
            self._scheduler.add(sequence)
            self._count(submitted=1)
            self._ready.notify()
        return handle

    def _cancel(self, handle: Handle) -> None:
        """A waiting request ends here and now; a running one at the worker's next turn."""
        with self._ready:
            waited = self._scheduler.remove(handle._work)
        if waited:
            handle._work.give_up()

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

    def _work(self) -> None:
        """The worker: turns as long as there is something to do."""
        while True:
            with self._ready:
                self._ready.wait_for(lambda: len(self._scheduler) or self._loop.running or self._closing)
                if self._closing and not len(self._scheduler) and not self._loop.running:
                    return
            try:
                self._loop.turn()
            except BaseException:  # the worker outlives whatever happens to it
                logger.exception("a turn failed")
