"""Decides which waiting sequence runs next: interactive ones before jobs, clients in turn, and no starvation.

Interactive sequences go first. After MAX_INTERACTIVE_BEFORE_JOB of them, a waiting sequence of a job gets a turn.
Clients take turns (round robin) among interactive sequences and among jobs, each with its oldest sequence. A new client
goes to the end, so that a stream of new clients does not delay those that wait.
"""

import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

from server.engine.sequence import Sequence

MAX_INTERACTIVE_BEFORE_JOB = 16
JOB_QUEUE_SHARE = 0.75  # of the queue's capacity; the rest is reserved for interactive sequences
INTERACTIVE_WINDOW = 5.0  # seconds after an interactive request in which another one is expected

Queue = OrderedDict[str, OrderedDict[Sequence, None]]


class Scheduler:
    """The queue of waiting sequences. Not thread-safe: callers hold a lock."""

    def __init__(self, capacity: int, clock: Callable[[], float]) -> None:
        """`capacity`: the largest number of waiting sequences. `clock` returns seconds, as do the deadlines."""
        self.capacity, self.clock = capacity, clock
        # Clients in the order of their turns, each with its sequences in the order of arrival.
        self._interactive: Queue = OrderedDict()
        self._jobs: Queue = OrderedDict()
        self._requeued: OrderedDict[Sequence, None] = OrderedDict()
        self._interactive_since_job = 0  # interactive sequences scheduled while a job waits
        self._earliest_deadline = math.inf  # at most the earliest deadline of the waiting sequences
        self._size = 0
        self._last_interactive = -math.inf  # when the last interactive sequence was added

    def __len__(self) -> int:
        return self._size

    def is_full(self, count: int = 1, *, interactive: bool) -> bool:
        """Returns whether the queue has no capacity for so many more sequences of this kind."""
        return self._size + count > (self.capacity if interactive else max(1, int(self.capacity * JOB_QUEUE_SHARE)))

    def expects_interactive(self) -> bool:
        """Returns whether an interactive request arrived recently, so that more are likely."""
        return self.clock() - self._last_interactive < INTERACTIVE_WINDOW

    def add(self, sequence: Sequence) -> None:
        """Adds a sequence behind those of the same client."""
        if sequence.interactive:
            self._last_interactive = self.clock()
        self._get_queue(sequence).setdefault(sequence.client, OrderedDict())[sequence] = None
        self._record_added(sequence)

    def requeue(self, sequences: list[Sequence]) -> None:
        """Returns scheduled sequences to the front of the queue, in their order."""
        for sequence in reversed(sequences):
            self._requeued[sequence] = None
            self._requeued.move_to_end(sequence, last=False)
            self._record_added(sequence)

    def _record_added(self, sequence: Sequence) -> None:
        self._size += 1
        if sequence.deadline is not None:
            self._earliest_deadline = min(self._earliest_deadline, sequence.deadline)

    def schedule(self, *, include_jobs: bool = True) -> Sequence | None:
        """Takes the next sequence, or returns None. Without `include_jobs`, takes sequences of jobs only if they were
        requeued."""
        if not (self._requeued or self._interactive or (self._jobs and include_jobs)):
            return None
        self._size -= 1
        if self._requeued:
            return self._requeued.popitem(last=False)[0]
        job_turn = not self._interactive or self._interactive_since_job >= MAX_INTERACTIVE_BEFORE_JOB
        take_job = include_jobs and bool(self._jobs) and job_turn
        self._interactive_since_job = 0 if take_job or not self._jobs else self._interactive_since_job + 1
        queue = self._jobs if take_job else self._interactive
        client, sequences = queue.popitem(last=False)
        sequence, _ = sequences.popitem(last=False)
        if sequences:
            queue[client] = sequences
        return sequence

    def remove(self, sequence: Sequence) -> bool:
        """Removes a sequence. Returns False when it is not waiting."""
        queue = self._get_queue(sequence)
        if sequence in self._requeued:
            del self._requeued[sequence]
        elif sequence in (sequences := queue.get(sequence.client, OrderedDict())):
            del sequences[sequence]
            if not sequences:
                del queue[sequence.client]
        else:
            return False
        self._size -= 1
        return True

    def remove_expired(self) -> list[Sequence]:
        """Removes and returns the sequences whose deadline has passed."""
        if (now := self.clock()) < self._earliest_deadline:
            return []
        expired = [s for s in self._iter_waiting() if s.deadline is not None and s.deadline <= now]
        for sequence in expired:
            self.remove(sequence)
        deadlines: Iterable[float] = (s.deadline for s in self._iter_waiting() if s.deadline is not None)
        self._earliest_deadline = min(deadlines, default=math.inf)
        return expired

    def remove_all(self) -> list[Sequence]:
        """Removes and returns all sequences."""
        removed: list[Sequence] = []
        while (sequence := self.schedule()) is not None:
            removed.append(sequence)
        return removed

    def _get_queue(self, sequence: Sequence) -> Queue:
        return self._interactive if sequence.interactive else self._jobs

    def _iter_waiting(self) -> Iterator[Sequence]:
        return itertools.chain(self._requeued, *self._interactive.values(), *self._jobs.values())
