"""A device at work: a runner, the loop that turns it, and their thread, on the queue that all devices share."""

import logging
import os
import threading
import time
from collections.abc import Sequence as Many

import torch

from server.engine.checkpoint import Checkpoint
from server.engine.features import FeatureCache
from server.engine.loop import Loop
from server.engine.model import Florence2
from server.engine.runner import Runner
from server.engine.scheduler import Scheduler
from server.engine.sequence import Sequence

SMALL = 50_000_000  # parameters: the seedling has 7 million, Florence-2 base 230
MOST = 4  # workers of a small model; they share Python's lock
IDLE = 0.002  # seconds until a worker looks again for a picture that another one is looking at
logger = logging.getLogger(__name__)


class Worker:
    """Turns its loop as long as there is something to do."""

    def __init__(
        self, checkpoint: Checkpoint, cache: FeatureCache, scheduler: Scheduler[Sequence], ready: threading.Condition,
        slots: int, cores: Many[int] = (),
    ) -> None:  # fmt: skip
        """`ready` guards the scheduler and is notified of what comes; `cores`: the only ones to run on, where several
        workers share a CPU."""
        self.runner = Runner(checkpoint, slots, cache)
        self.loop = Loop(self.runner, scheduler, ready, slots=slots, clock=time.monotonic)
        self._scheduler, self._ready, self._cores = scheduler, ready, cores
        self._closing = False
        placed, threads = threading.Event(), torch.get_num_threads()
        name = f"florist-{self.runner.model.device}"
        self._thread = threading.Thread(target=self._work, args=[placed], name=name, daemon=True)
        self._thread.start()
        if cores:
            placed.wait()
            torch.set_num_threads(threads)  # the number is also what threads that begin later take

    def close(self, *, drain: bool) -> None:
        """Ends after all answers, or without `drain` at once. The caller holds `ready`."""
        self._closing = True
        self.loop.abandon = self.loop.abandon or not drain
        self._ready.notify_all()

    def join(self) -> None:
        """Returns when the thread has ended."""
        self._thread.join()

    def _work(self, placed: threading.Event) -> None:
        try:
            if self._cores:
                # For this thread and the helpers that OpenMP starts for it.
                os.sched_setaffinity(0, self._cores)
                torch.get_num_threads()  # else the first operation would undo what comes next
                torch.set_num_threads(len(self._cores))
        finally:
            placed.set()  # else whoever makes a worker would wait for ever
        while True:
            with self._ready:
                self._ready.wait_for(lambda: len(self._scheduler) or self.loop.running or self._closing)
                if self._closing and not len(self._scheduler) and not self.loop.running:
                    return
            try:
                self.loop.turn()
            except BaseException:  # the worker outlives whatever happens to it
                logger.exception("a turn failed")
            if not self.loop.running:
                with self._ready:
                    if len(self._scheduler):  # not for this one, or not yet
                        self._ready.wait(IDLE)


def workers_for(model: Florence2) -> int:
    """How many workers a model gets where nobody says: one, but on a CPU several for a small one.

    A second core hardly speeds up the small matrix products of one request's step; beside them it takes another's.
    """
    if model.device.type != "cpu" or sum(p.numel() for p in model.parameters()) > SMALL:
        return 1
    return min(MOST, len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else 1


def shares_of_cores(count: int) -> list[list[int]]:
    """The cores of this process in `count` neighbouring parts. Raises ValueError when there are fewer."""
    cores = sorted(os.sched_getaffinity(0))
    if count > len(cores):
        raise ValueError(f"{count} engines on a CPU with {len(cores)} cores; name cpu at most that often")
    return [cores[i * len(cores) // count : (i + 1) * len(cores) // count] for i in range(count)]
