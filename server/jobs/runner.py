"""A job at work: pictures are leased, asked about as the recipe says, many at a time, and written soon after they end.

One thread leases and writes; a thread for each picture under way reads it and follows its recipe, so that the engine's
batches fill from all of them. Whatever ends the process, what is not written is not done, and is leased again.
"""

import hashlib
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import TypeVar

from labels.images import ImageError
from server.engine.engine import Engine
from server.engine.errors import EngineClosedError, InvalidRequestError
from server.jobs.image_annotator import Annotate, Asker, Stopped
from server.jobs.pinned_models import Seat
from server.jobs.sources.source import Fault, ItemError, Source
from server.store import Answer, Done, Failure, Item, Job, JobState, Store, StoreAway, StoreError

LEASE = 60.0  # seconds until an owner that says nothing is taken for dead
_TURN = 0.5  # seconds after which the loop writes what has ended, and looks about
_AWAY = 2.0  # seconds between two tries to reach a database that is away
_MODEL = "model"  # the kind of failure that may not be the picture's fault
_HOPELESS = 100  # such failures in a row, and no success: the next million pictures would fare no better
T = TypeVar("T")
logger = logging.getLogger(__name__)


def answerer(engine: Engine, adapters: Iterable[str] = (), models: Mapping[str, str] | None = None) -> str:
    """The hash of all that answers: the model's weights, and those of the adapters that a recipe names; `models`: the
    SHA-256 of projects' models by their names. Raises StoreError for an adapter that is not loaded."""
    loaded = {adapter.name: adapter.sha256 for adapter in engine.adapters()}
    names = sorted(set(adapters))
    if missing := [name for name in names if name not in loaded]:
        raise StoreError(f"the recipe needs the adapter {missing[0]}, which is not loaded")
    others = {**{name: loaded[name] for name in names}, **dict(sorted((models or {}).items()))}
    if not others:
        return engine.checkpoint.sha256
    parts = [engine.checkpoint.sha256, *(f"{name}\0{sha256}" for name, sha256 in others.items())]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def run(
    store: Store,
    job: Job,
    engine: Engine,
    source: Source,
    annotate: Annotate,
    *,
    sole: bool = False,
    seats: Mapping[str, Seat] | None = None,
    lease: float = LEASE,
    told: Callable[[Done | Failure], None] = lambda ended: None,
    stop: threading.Event | None = None,
) -> Job:
    """Works on the job until no picture is open, or somebody pauses or cancels it: the job as it then stands.

    `sole`: nobody else works on it, so that what a dead process held is free at once; `seats`: the projects' models
    that the recipe asks, by its names for them. `told` hears of each picture that
    was labelled or set aside, once that is written. `stop`, once set, ends the work, not the job: what is in hand is
    given back. A database that is away is waited for. Raises StoreError where nothing can be written, JobFailed where
    the model fails on everything, and EngineClosedError when the engine is.
    """
    try:
        runner = _Runner(store, job, engine, source, annotate, seats or {}, lease, told, stop or threading.Event())
        return runner.run(sole)
    except Stopped:
        return store.job(job.id)


class JobFailed(Exception):  # noqa: N818
    """The job cannot go on, for a reason that is no picture's; it can be resumed once that is mended."""


class _Runner:
    def __init__(
        self, store: Store, job: Job, engine: Engine, source: Source, annotate: Annotate,
        seats: Mapping[str, Seat], lease: float, told: Callable[[Done | Failure], None], stop: threading.Event,
    ) -> None:  # fmt: skip
        self.store, self.job, self.source, self.told = store, job, source, told
        owner = f"{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(4)}"
        self.leases = store.leases(job, owner, lease)
        self.window = min(2 * engine.max_batch, engine.max_waiting)
        self.stop = stop
        self.asker = Asker(engine, annotate, seats, f"job {job.id}", stop)
        self.broken = 0
        self.lock = threading.Lock()
        self.asked: dict[str, Future[Answer | None]] = {}  # by picture: under way, or answered and not yet written

    def run(self, sole: bool) -> Job:
        job = self._patiently(lambda: self.store.start(self.job))
        if sole:
            self._patiently(lambda: self.store.reclaim(job))
        flying: dict[Future[Done | Failure], Item] = {}
        looked = renewed = time.monotonic()
        with ThreadPoolExecutor(self.window, "florist-job") as pool:
            try:
                while not self.stop.is_set() and (
                    job.state is JobState.RUNNING or (flying and job.state is not JobState.CANCELLED)
                ):
                    if job.state is JobState.RUNNING and len(flying) <= 3 * self.window // 4:
                        for item in self._patiently(lambda: self._take(len(flying))):
                            flying[pool.submit(self._work, item)] = item
                        if not flying and (job := self._patiently(lambda: self.store.finish(self.job))).state is (
                            JobState.RUNNING
                        ):
                            # Nothing is in hand: what is still ours was leased by a call whose answer got lost.
                            self._patiently(self.leases.release)
                            self.stop.wait(_TURN)  # others hold the rest, or a failure waits for its next try
                    ended = self._ended(flying)
                    self._write([future.result() for future in ended if not future.exception()])
                    for future in ended:
                        del flying[future]
                        future.result()  # raises what no picture is to blame for
                    now = time.monotonic()
                    if now - renewed > self.leases.seconds / 4:
                        self._patiently(self.leases.renew)
                        renewed = now
                    if now - looked > _TURN:
                        job = self._patiently(lambda: self.store.job(self.job.id))
                        looked = now
            finally:
                self.asker.drop()
                pool.shutdown(cancel_futures=True)
                with suppress(StoreError):
                    self.leases.release()
        return self.store.job(self.job.id)

    def _ended(self, flying: Iterable[Future[Done | Failure]]) -> set[Future[Done | Failure]]:
        """Those that have ended. Waits for as many as are leased at a time, for a turn at most: to write several costs
        little more than to write one."""
        ended: set[Future[Done | Failure]] = set()
        rest, until = set(flying), time.monotonic() + _TURN
        while rest and len(ended) < max(1, self.window // 4) and (left := until - time.monotonic()) > 0:
            some, rest = wait(rest, left, FIRST_COMPLETED)
            ended |= some
        return ended

    def _take(self, flying: int) -> list[Item]:
        """More pictures. One with which a process died is taken when nothing else is in hand, and alone."""
        if items := self.leases.take(self.window - flying):
            return items
        suspect = None if flying else self.leases.take_suspect()
        return [suspect] if suspect else []

    def _write(self, ended: Sequence[Done | Failure]) -> None:
        done = [one for one in ended if isinstance(one, Done)]
        failed = [one for one in ended if isinstance(one, Failure)]
        told: list[Done | Failure] = []
        if done:
            kept = self._patiently(lambda: self.leases.complete(done))
            told += [one for one in done if one.position in kept]
            with self.lock:
                for one in done:
                    self.asked.pop(one.answer.sha256, None)
        if failed:
            told += self._patiently(lambda: self.leases.fail(failed))
        for ending in told:
            self.told(ending)
        if ended:
            broken = [failure.reason for failure in failed if failure.kind == _MODEL]
            self.broken = self.broken + len(broken) if len(broken) == len(ended) else 0
            if self.broken >= _HOPELESS:
                reason = f"the model failed {self.broken} times in a row, the last time so: {broken[-1]}"
                self._patiently(lambda: self.store.give_up(self.job, reason))
                raise JobFailed(reason)

    def _patiently(self, call: Callable[[], T]) -> T:
        """A call of the store, made again until the database is there."""
        warned = False
        while True:
            try:
                return call()
            except StoreAway as away:
                if not warned:
                    logger.warning("%s; waiting for it", away)
                warned = True
                if self.stop.wait(_AWAY):
                    raise

    # In the thread of a picture

    def _work(self, item: Item) -> Done | Failure:
        """What came of one picture."""

        def failed(kind: str, error: Exception, *, final: bool) -> Failure:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
            return Failure(item.position, kind, reason, final, item.name, item.tries)

        try:
            return Done(item.position, self._answer(self.source[item.position].read()))
        except (Stopped, EngineClosedError, StoreError):
            raise
        except ItemError as error:
            return failed(error.fault, error, final=error.fault is not Fault.UNREACHABLE)
        except OSError as error:
            return failed("unreadable", error, final=False)
        except ImageError as error:
            return failed(error.reason, error, final=True)
        except InvalidRequestError as error:
            return failed("request", error, final=True)
        except Exception as error:
            logger.exception("%s failed", item.name)
            return failed(_MODEL, error, final=False)

    def _answer(self, data: bytes) -> Answer:
        """What is said about a picture: asked once, however often it is in the source."""
        sha256 = hashlib.sha256(data).hexdigest()
        if known := self._patiently(lambda: self.store.answer(self.job, sha256)):
            return known
        while True:
            with self.lock:
                other = self.asked.get(sha256)
                if other is None:
                    own = self.asked[sha256] = Future()
                    break
            if said := other.result():
                return said
        answer = None
        try:
            answer = self.asker.ask(sha256, data)
            return answer
        finally:
            if answer is None:
                with self.lock:
                    del self.asked[sha256]
            own.set_result(answer)
