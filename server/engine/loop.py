"""The one loop: who leaves, who enters, one step for all.

A turn first lets go of what is done with, then takes in what waits, as far as slots and the budget for encoding go,
so that a burst of new pictures does not stall the answers under way, and then decodes one token of every answer.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Generic, Protocol, TypeVar

from server.engine.errors import DeadlineExceededError, EngineClosedError
from server.engine.scheduler import Scheduler, Waiting

LOOKING = 4  # a picture that the tower has not seen costs this many times what reading its places does
JOBS_PART = 0.5  # of the slots that jobs may take while people are about
AT_ONCE = 4  # new pictures that are taken in together when nothing else runs; beside others, one
logger = logging.getLogger(__name__)


class Work(Waiting, Protocol):
    """A request under way. `cost`: the encoder's places it takes; `picture`: the key of its picture's features."""

    cost: int
    picture: bytes
    solo: bool
    started: float

    @property
    def cancelled(self) -> bool: ...
    def read(self) -> bool:
        """Takes in what the step said; whether the answer is whole."""

    def finish(self) -> None: ...
    def give_up(self) -> None: ...
    def fail(self, error: BaseException) -> None: ...
    def restart(self) -> None: ...


W = TypeVar("W", bound=Work)
C = TypeVar("C", bound=Work, contravariant=True)


class Runs(Protocol[C]):
    """The model at work. Whatever `enter` and `step` raise, nothing of it has happened that `leave` does not undo."""

    def seen(self, work: C, /) -> bool: ...
    def claim(self, work: C, /) -> bool: ...
    def enter(self, works: Sequence[C], /) -> None: ...
    def step(self) -> None: ...
    def leave(self, work: C, /) -> None: ...


class Loop(Generic[W]):
    """Turns, one after the other, in one thread. `lock` guards the scheduler alone, which other threads fill."""

    def __init__(
        self, runner: Runs[W], scheduler: Scheduler[W], lock: AbstractContextManager[object], *, slots: int,
        clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self.runner, self.scheduler, self.lock, self.clock = runner, scheduler, lock, clock
        self.slots = self.room = slots  # `room` shrinks when memory runs out, and grows back with each answer
        self.running: list[W] = []
        self.abandon = False
        self.out_of_memory = self.steps = self.rows = 0

    def turn(self) -> None:
        """One round. Never raises for what a request or the model does."""
        self._sweep()
        self._admit()
        if self.running:
            self._step()

    def _sweep(self) -> None:
        """Lets go of what is cancelled, too late, or abandoned."""
        with self.lock:
            late = self.scheduler.expired()
            gone = self.scheduler.clear() if self.abandon else []
        for work in late:
            work.fail(DeadlineExceededError("its deadline passed before an answer was there"))
        for work in gone:
            work.fail(EngineClosedError("the engine was shut down"))
        for work in list(self.running):
            if self.abandon:
                self._drop(work)
                work.fail(EngineClosedError("the engine was shut down"))
            elif work.cancelled:
                self._drop(work)
                work.give_up()
            elif work.deadline is not None and work.deadline <= self.clock():
                self._drop(work)
                work.fail(DeadlineExceededError("its deadline passed before the answer was whole"))

    def _admit(self) -> None:
        chosen, now = self._chosen(), self.clock()
        for work in chosen:
            work.started = now
        if chosen:
            self._enter(chosen)

    def _chosen(self) -> list[W]:
        """Those that enter in this turn: at least one where there is room, more as far as the budget goes."""
        chosen: list[W] = []
        new, spent, budget = set[bytes](), 0, 0
        while len(self.running) + len(chosen) < self.room and not any(w.solo for w in (*self.running, *chosen)):
            with self.lock:
                work = self.scheduler.next(jobs_too=self._jobs_too(chosen))
            if work is None:
                break
            if work.cancelled:
                work.give_up()
                continue
            cost = work.cost
            if work.picture not in new and not self.runner.seen(work):
                cost += LOOKING * work.cost
            budget = budget or (1 + LOOKING) * work.cost * (1 if self.running else AT_ONCE)
            alone = work.solo and (self.running or chosen)
            if alone or (chosen and spent + cost > budget) or not self.runner.claim(work):
                self._give_back([work])
                break
            new.add(work.picture)
            spent += cost
            chosen.append(work)
        return chosen

    def _jobs_too(self, chosen: Sequence[W]) -> bool:
        """Whether jobs have not yet their part of the slots; that is all of them when nobody else is about."""
        if not self.scheduler.people_about():
            return True
        jobs = sum(not work.interactive for works in (self.running, chosen) for work in works)
        return jobs < max(1, int(self.room * JOBS_PART))

    def _enter(self, works: list[W]) -> None:
        """Takes them in; what fails together is tried apart, so that none sinks the others."""
        try:
            self.runner.enter(works)
        except Exception as error:
            short = is_out_of_memory(error)
            self.out_of_memory += short
            for work in works:
                self.runner.leave(work)
                work.restart()
            if len(works) > 1:
                logger.warning("%d requests failed together (%r); trying them apart", len(works), error)
                half = len(works) // 2 if short else 1
                for i in range(0, len(works), half):
                    self._enter(works[i : i + half])
            elif short and self.running:
                self._shrink()
                self._give_back(works)
            else:
                works[0].fail(error)
            return
        self.running += works
        # The forced first tokens are there already, and some answers are whole with them.
        for work in works:
            self._read(work)

    def _step(self) -> None:
        try:
            self.runner.step()
        except Exception as error:
            self._recover(error)
            return
        self.steps += 1
        self.rows += len(self.running)
        for work in list(self.running):
            self._read(work)

    def _read(self, work: W) -> None:
        try:
            if not work.read():
                return
            self._drop(work)
            work.finish()
        except Exception as error:
            if work in self.running:
                self._drop(work)
            work.fail(error)
        self.room = min(self.slots, self.room + 1)

    def _recover(self, error: Exception) -> None:
        """A step failed. Out of memory: the newer half waits. Otherwise nobody knows whose fault it was: each alone."""
        short = is_out_of_memory(error)
        self.out_of_memory += short
        if len(self.running) == 1:
            (work,) = self.running
            self._drop(work)
            work.fail(error)
            return
        logger.warning("a step of %d requests failed (%r); trying again with fewer", len(self.running), error)
        back = self.running[(len(self.running) + 1) // 2 :] if short else list(self.running)
        if short:
            self._shrink()
        for work in back:
            self._drop(work)
            work.restart()
            work.solo = work.solo or not short
        self._give_back(back)

    def _give_back(self, works: list[W]) -> None:
        """They wait again. Not those cancelled since they were taken: who cancelled has looked for them in vain."""
        with self.lock:
            self.scheduler.give_back([work for work in works if not work.cancelled])
        for work in works:
            if work.cancelled:
                work.give_up()

    def _shrink(self) -> None:
        self.room = max(1, len(self.running) // 2)

    def _drop(self, work: W) -> None:
        self.running.remove(work)
        self.runner.leave(work)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: on a GPU torch has a class for it, on a CPU only words."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)
