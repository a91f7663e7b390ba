"""One thread per worker: runs the loop of one model on one device, on the queue that all workers share."""

import logging
import os
import threading
import time

import torch

from server.engine.checkpoints.loading import Checkpoint
from server.engine.loop import EngineLoop
from server.engine.model.feature_cache import FeatureCache
from server.engine.runner import ModelRunner
from server.engine.scheduler import Scheduler

RETRY_SECONDS = 0.002  # pause before a worker retries sequences whose image another worker is encoding
logger = logging.getLogger(__name__)


class Worker:
    """Runs an `EngineLoop` in a thread while there are sequences."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        cache: FeatureCache,
        scheduler: Scheduler,
        ready: threading.Condition,
        max_batch: int,
        cores: list[int],
    ) -> None:
        """`ready` guards the scheduler and is notified of new sequences. `cores`: the cores to run on when several
        workers share a CPU, otherwise empty."""
        self.runner = ModelRunner(checkpoint, max_batch, cache)
        self.loop = EngineLoop(self.runner, scheduler, ready, max_batch=max_batch, clock=time.monotonic)
        self._scheduler, self._ready, self._cores = scheduler, ready, cores
        self._closing = False
        pinned, threads = threading.Event(), torch.get_num_threads()
        name = f"florist-{self.runner.model.device}"
        self._thread = threading.Thread(target=self._run, args=[pinned], name=name, daemon=True)
        self._thread.start()
        if cores:
            pinned.wait()
            torch.set_num_threads(threads)  # the worker has changed the default for threads that start later

    def close(self, *, drain: bool) -> None:
        """Ends the thread after all answers, or without `drain` at once. The caller holds `ready`."""
        self._closing = True
        self.loop.abort_all = self.loop.abort_all or not drain
        self._ready.notify_all()

    def join(self) -> None:
        """Waits until the thread has ended."""
        self._thread.join()

    def _run(self, pinned: threading.Event) -> None:
        try:
            if self._cores:
                # For this thread and the helper threads that OpenMP starts for it.
                os.sched_setaffinity(0, self._cores)
                torch.get_num_threads()  # otherwise the first operation would undo the next call
                torch.set_num_threads(len(self._cores))
        finally:
            pinned.set()  # otherwise __init__ would wait forever
        while True:
            with self._ready:
                self._ready.wait_for(lambda: len(self._scheduler) or self.loop.running or self._closing)
                if self._closing and not len(self._scheduler) and not self.loop.running:
                    return
            try:
                self.loop.run_once()
            except BaseException:  # no error may end the thread
                logger.exception("an iteration of the engine loop failed")
            if not self.loop.running:
                with self._ready:
                    if len(self._scheduler):  # sequences that another worker should run, or that must wait
                        self._ready.wait(RETRY_SECONDS)
