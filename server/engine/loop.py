"""The scheduling loop: remove sequences that ended, admit waiting ones, decode one token for all.

Admission is limited by the KV cache slots and by a budget for encoding, so that a burst of new images does not stall
the answers in progress.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager

from server.engine.errors import DeadlineExceededError, EngineClosedError
from server.engine.runner import ModelRunner
from server.engine.scheduler import Scheduler
from server.engine.sequence import Sequence

NEW_IMAGE_COST = 4  # cost of the vision encoder for an image, relative to that of the text encoder for its tokens
JOB_BATCH_SHARE = 0.5  # largest share of the batch for jobs while interactive requests are expected
IDLE_BUDGET = 4  # new images admitted in one iteration when nothing else runs; otherwise one
logger = logging.getLogger(__name__)


class EngineLoop:
    """Runs sequences in one thread. `lock` guards only the scheduler, which other threads fill.

    If `ModelRunner.add` or `step` raises, `ModelRunner.remove` must undo whatever it did.
    """

    def __init__(
        self,
        runner: ModelRunner,
        scheduler: Scheduler,
        lock: AbstractContextManager[object],
        *,
        max_batch: int,
        clock: Callable[[], float],
    ) -> None:
        self.runner, self.scheduler, self.lock, self.clock = runner, scheduler, lock, clock
        self.max_batch = max_batch
        self.capacity = max_batch  # shrinks when memory runs out, and grows by one with each answer
        self.running: list[Sequence] = []
        self.abort_all = False  # set by `Worker.close` to end all requests with EngineClosedError
        self.out_of_memory = self.steps = self.rows = 0

    def run_once(self) -> None:
        """Runs one iteration. Never raises for an error of a request or of the model."""
        self._remove_ended()
        self._admit()
        if self.running:
            self._decode()

    def _remove_ended(self) -> None:
        """Removes sequences that were cancelled or exceeded their deadline, or all of them."""
        with self.lock:
            expired = self.scheduler.remove_expired()
            waiting = self.scheduler.remove_all() if self.abort_all else []
        for sequence in expired:
            sequence.fail(DeadlineExceededError("deadline exceeded while the request was waiting"))
        for sequence in waiting:
            sequence.fail(EngineClosedError("the engine was shut down"))
        for sequence in list(self.running):
            if self.abort_all:
                self._remove(sequence)
                sequence.fail(EngineClosedError("the engine was shut down"))
            elif sequence.cancelled:
                self._remove(sequence)
                sequence.abort()
            elif sequence.deadline is not None and sequence.deadline <= self.clock():
                self._remove(sequence)
                sequence.fail(DeadlineExceededError("deadline exceeded before the answer was complete"))

    def _admit(self) -> None:
        admitted, now = self._schedule(), self.clock()
        for sequence in admitted:
            sequence.started_at = now
        if admitted:
            self._add(admitted)

    def _schedule(self) -> list[Sequence]:
        """Takes the sequences to admit: at least one if there is capacity, more within the budget for encoding."""
        admitted: list[Sequence] = []
        new_images, spent, budget = set[bytes](), 0, 0
        while len(self.running) + len(admitted) < self.capacity:
            if any(sequence.run_alone for sequence in (*self.running, *admitted)):
                break
            with self.lock:
                sequence = self.scheduler.schedule(include_jobs=self._may_admit_job(admitted))
            if sequence is None:
                break
            if sequence.cancelled:
                sequence.abort()
                continue
            cost = sequence.encoder_tokens
            if sequence.image_key not in new_images and not self.runner.has_features(sequence):
                cost += NEW_IMAGE_COST * sequence.encoder_tokens
            # The first sequence sets the budget: its own cost as if its image were new.
            budget = budget or (1 + NEW_IMAGE_COST) * sequence.encoder_tokens * (1 if self.running else IDLE_BUDGET)
            must_wait = sequence.run_alone and (self.running or admitted)
            over_budget = admitted and spent + cost > budget
            if must_wait or over_budget or not self.runner.claim_image(sequence):
                self._requeue([sequence])
                break
            new_images.add(sequence.image_key)
            spent += cost
            admitted.append(sequence)
        return admitted

    def _may_admit_job(self, admitted: list[Sequence]) -> bool:
        """Returns whether jobs may use more of the batch: all of it, unless interactive requests are expected."""
        if not self.scheduler.expects_interactive():
            return True
        jobs = sum(not sequence.interactive for sequences in (self.running, admitted) for sequence in sequences)
        return jobs < max(1, int(self.capacity * JOB_BATCH_SHARE))

    def _add(self, sequences: list[Sequence]) -> None:
        """Adds sequences to the batch. If they fail together, retries them in smaller groups, so that one that always
        fails does not fail the others."""
        try:
            self.runner.add(sequences)
        except Exception as error:
            memory = is_out_of_memory(error)
            self.out_of_memory += memory
            for sequence in sequences:
                self.runner.remove(sequence)
                sequence.restart()
            if len(sequences) > 1:
                logger.warning("%d requests failed together (%r); retrying in smaller groups", len(sequences), error)
                size = len(sequences) // 2 if memory else 1
                for i in range(0, len(sequences), size):
                    self._add(sequences[i : i + size])
            elif memory and self.running:
                self._reduce_capacity()
                self._requeue(sequences)
            else:
                sequences[0].fail(error)
            return
        self.running += sequences
        # The forced first tokens are generated already, and may complete an answer.
        for sequence in sequences:
            self._process_output(sequence)

    def _decode(self) -> None:
        try:
            self.runner.step()
        except Exception as error:
            self._preempt(error)
            return
        self.steps += 1
        self.rows += len(self.running)
        for sequence in list(self.running):
            self._process_output(sequence)

    def _process_output(self, sequence: Sequence) -> None:
        try:
            if not sequence.process_output():
                return
            self._remove(sequence)
            sequence.finish()
        except Exception as error:
            if sequence in self.running:
                self._remove(sequence)
            sequence.fail(error)
        self.capacity = min(self.max_batch, self.capacity + 1)

    def _preempt(self, error: Exception) -> None:
        """Requeues sequences after a failed step: the newer half when out of memory, otherwise all, to run alone, since
        any of them may have caused the error. A single sequence fails."""
        memory = is_out_of_memory(error)
        self.out_of_memory += memory
        if len(self.running) == 1:
            (sequence,) = self.running
            self._remove(sequence)
            sequence.fail(error)
            return
        logger.warning("a step of %d requests failed (%r); retrying with fewer", len(self.running), error)
        preempted = self.running[(len(self.running) + 1) // 2 :] if memory else list(self.running)
        if memory:
            self._reduce_capacity()
        for sequence in preempted:
            self._remove(sequence)
            sequence.restart()
            sequence.run_alone = sequence.run_alone or not memory
        self._requeue(preempted)

    def _requeue(self, sequences: list[Sequence]) -> None:
        """Puts sequences back into the queue, except cancelled ones: `Engine` did not find those in the queue when they
        were cancelled, so they end here."""
        with self.lock:
            self.scheduler.requeue([sequence for sequence in sequences if not sequence.cancelled])
        for sequence in sequences:
            if sequence.cancelled:
                sequence.abort()

    def _reduce_capacity(self) -> None:
        self.capacity = max(1, len(self.running) // 2)

    def _remove(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.runner.remove(sequence)


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether memory ran out. torch has an exception class for this on a GPU, but only a message on a CPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)
