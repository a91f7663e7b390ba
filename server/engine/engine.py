"""The engine: `submit` a request, get a handle. Behind that one seam a worker thread batches and decodes.

First come, first served: the oldest waiting request is always in the next batch, joined by those behind it that ask
for as many beams, so a long answer holds up others no longer than its own batch.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence as Many
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch

from server.engine import checkpoint as checkpoints
from server.engine import vision
from server.engine.checkpoint import Checkpoint
from server.engine.decoder import Batch, encode
from server.engine.handle import Handle
from server.engine.request import Closed, Overloaded, Request
from server.engine.sequence import Sequence, plan

_PICTURES = 4  # to the vision tower at once: DaViT's first stage holds a fat activation a picture
logger = logging.getLogger(__name__)


@dataclass
class Stats:
    """Counters since the start, seconds of the worker's time by phase, and how many requests wait and run now.

    `submitted` counts those accepted, `refused` those turned away as too many; `batched` is the sum of batch sizes;
    `pictures` went through the vision tower, fewer than requests where they share one.
    """

    submitted: int = 0
    refused: int = 0
    finished: int = 0
    failed: int = 0
    cancelled: int = 0
    tokens: int = 0
    batches: int = 0
    batched: int = 0
    pictures: int = 0
    preprocess_seconds: float = 0.0
    vision_seconds: float = 0.0
    encode_seconds: float = 0.0
    decode_seconds: float = 0.0
    waiting: int = 0
    running: int = 0


class Engine:
    """One model on one device. Safe to use from any thread."""

    def __init__(self, checkpoint: Checkpoint, *, max_batch: int = 16, max_waiting: int = 256) -> None:
        """`max_batch`: requests decoded together; `max_waiting`: requests that may wait for a batch."""
        self.checkpoint, self.max_batch, self.max_waiting = checkpoint, max_batch, max_waiting
        self.device = checkpoint.model.device
        self._queue: deque[Sequence] = deque()
        self._ready = threading.Condition()
        self._closing = False
        self._abandon = False
        self._stats = Stats()
        self._batch_seconds = 1.0  # a running mean, for how long an overloaded caller should stay away
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
        return cls(checkpoints.load(name, device=place, dtype=kind), max_batch=max_batch, max_waiting=max_waiting)

    def submit(self, request: Request) -> Handle:
        """Takes a request in. Raises InvalidRequest, Overloaded or Closed; what goes wrong later, the handle raises."""
        planned = plan(request, self.checkpoint)
        with self._ready:
            if self._closing:
                raise Closed("the engine is shutting down")
            if len(self._queue) >= self.max_waiting:
                self._stats.refused += 1
                batches = 1 + len(self._queue) / self.max_batch
                raise Overloaded(len(self._queue), max(1.0, batches * self._batch_seconds))
            handle = Handle(self._cancel)
            self._queue.append(Sequence(planned, self.checkpoint, handle))
            self._stats.submitted += 1
            self._ready.notify()
        return handle

    def stats(self) -> Stats:
        """A snapshot."""
        with self._ready:
            return replace(self._stats, waiting=len(self._queue))

    def close(self, *, drain: bool = True) -> None:
        """Takes no more requests and returns when the worker has ended: after all answers, or without `drain` at once,
        the rest failing with Closed."""
        with self._ready:
            self._closing = True
            self._abandon = self._abandon or not drain
            self._ready.notify_all()
        self._worker.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close(drain=False)

    def _cancel(self, handle: Handle) -> None:
        """A waiting request ends here and now; a running one at the worker's next step."""
        with self._ready:
            waiting = next((s for s in self._queue if s.handle is handle), None)
            if waiting is None:
                return
            self._queue.remove(waiting)
            self._stats.cancelled += handle._cancel()

    # What follows runs in the worker.

    def _work(self) -> None:
        while batch := self._next():
            began = time.monotonic()
            try:
                self._run(batch)
            except BaseException as error:
                # The worker outlives whatever a request does to it.
                logger.exception("a batch failed")
                for sequence in batch:
                    self._fail(sequence, error)
            with self._ready:
                self._stats.running = 0
                self._batch_seconds += 0.2 * (time.monotonic() - began - self._batch_seconds)

    def _next(self) -> list[Sequence]:
        """The next batch, once there is one; nothing when the engine is closed."""
        with self._ready:
            self._ready.wait_for(lambda: self._queue or self._closing)
            if self._abandon:
                for sequence in self._queue:
                    self._fail(sequence, Closed("the engine was shut down"))
                self._queue.clear()
            if not self._queue:
                return []
            beams = self._queue[0].plan.num_beams
            batch = [s for s in self._queue if s.plan.num_beams == beams][: self.max_batch]
            taken = set(map(id, batch))
            self._queue = deque(s for s in self._queue if id(s) not in taken)
            self._stats.running = len(batch)
            self._stats.batches += 1
            self._stats.batched += len(batch)
            return batch

    def _run(self, batch: Many[Sequence]) -> None:
        """Answers a batch. Should it fail as a whole, each request is tried alone, so that none sinks the others."""
        squashed, now = dict[Sequence, np.ndarray](), time.monotonic()
        for sequence in batch:
            sequence.started = now
            if sequence.handle.cancelled:
                self._give_up(sequence)
                continue
            try:
                squashed[sequence] = self.checkpoint.preprocessing.squash(sequence.plan.request.image)
            except Exception as error:
                self._fail(sequence, error)
        with self._ready:
            self._stats.preprocess_seconds += time.monotonic() - now
        if not squashed:
            return
        try:
            with torch.inference_mode():
                self._answer(squashed)
            return
        except Exception as error:
            if len(squashed) == 1:
                self._fail(next(iter(squashed)), error)
                return
            logger.warning("a batch of %d failed (%r); trying its requests one by one", len(squashed), error)
        for sequence in squashed:
            if not sequence.handle.done():
                sequence.restart()
                self._run([sequence])

    def _answer(self, squashed: dict[Sequence, np.ndarray]) -> None:
        """Vision, encoder, decoder."""
        began = time.monotonic()
        model, sequences = self.checkpoint.model, list(squashed)
        # Requests on the same picture share one vision pass.
        keys = [vision.digest(pixels) for pixels in squashed.values()]
        pictures = dict(zip(keys, squashed.values(), strict=True))
        order = {key: i for i, key in enumerate(pictures)}
        features = self._look(list(pictures.values()))[[order[key] for key in keys]]
        seen = self._now()
        states, mask = encode(model, features, [s.plan.prompt for s in sequences])
        encoded = self._now()
        for sequence in sequences:
            sequence.encoded = encoded
        with self._ready:
            self._stats.pictures += len(pictures)
            self._stats.vision_seconds += seen - began
            self._stats.encode_seconds += encoded - seen
        try:
            searches = [s.search for s in sequences]
            checkpoint = self.checkpoint
            self._decode(sequences, Batch(model, states, mask, searches, checkpoint.unused, checkpoint.locations))
        finally:
            with self._ready:
                self._stats.decode_seconds += self._now() - encoded

    def _look(self, pictures: list[np.ndarray]) -> torch.Tensor:
        """Squashed pictures → image features [n, image tokens, d]."""
        parts = [pictures[i : i + _PICTURES] for i in range(0, len(pictures), _PICTURES)]
        normalise = self.checkpoint.preprocessing.normalise
        return torch.cat([vision.image_features(self.checkpoint.model, normalise(part, self.device)) for part in parts])

    def _decode(self, sequences: list[Sequence], batch: Batch) -> None:
        """Steps until every answer is done, cancelled or has failed."""
        live = sequences
        while True:
            leaving = [s for s in live if self._leaves(s)]
            batch.drop([s.search for s in leaving if not s.search.done])
            live = [s for s in live if not s.handle.done()]
            with self._ready:
                self._stats.running = len(live)
            if not live:
                return
            batch.step()
            with self._ready:
                self._stats.tokens += len(live)

    def _leaves(self, sequence: Sequence) -> bool:
        """Reads a request's new tokens; whether it is over, one way or another."""
        if self._abandon:
            return self._fail(sequence, Closed("the engine was shut down"))
        if sequence.handle.cancelled:
            return self._give_up(sequence)
        try:
            sequence.read()
            if not sequence.search.done:
                return False
            result = sequence.result()
        except Exception as error:
            return self._fail(sequence, error)
        if sequence.handle._finish(result):
            with self._ready:
                self._stats.finished += 1
        return True

    def _give_up(self, sequence: Sequence) -> bool:
        if sequence.handle._cancel():
            with self._ready:
                self._stats.cancelled += 1
        return True

    def _fail(self, sequence: Sequence, error: BaseException) -> bool:
        if sequence.handle._fail(error):
            with self._ready:  # a Condition's lock may be taken twice by its thread
                self._stats.failed += 1
        return True

    def _now(self) -> float:
        """The time, when the device has done what it was asked."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.monotonic()
