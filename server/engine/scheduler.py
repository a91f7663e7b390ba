"""Who is next: people before jobs, clients in turn, nobody for ever last.

Interactive requests go first, but after so many of them a job that waits has its turn, and no flood starves it. While
people are about, jobs keep to their part of the slots, so that whoever comes finds one free. Among
interactive requests, and among jobs, clients take turns (round robin), each with its oldest. A client that comes anew
comes last, so that a stream of strangers does not push back those who wait.
"""

import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

JOB_AFTER = 16  # interactive requests that may go before a job that waits
JOBS_SHARE = 0.75  # of the waiting room; the rest is kept for people
ABOUT = 5.0  # seconds that people are taken to be about after one of them asked


class Waiting(Protocol):
    """What waits. `deadline`: on the scheduler's clock, None for ever."""

    client: str
    interactive: bool
    deadline: float | None

    def __hash__(self) -> int: ...


T = TypeVar("T", bound=Waiting)


class Scheduler(Generic[T]):
    """Not thread safe: its owner holds a lock. `clock` gives seconds."""

    def __init__(self, capacity: int, clock: Callable[[], float]) -> None:
        self.capacity, self.clock = capacity, clock
        # Clients in the order of their turns, each with what it waits for, in the order of arrival.
        self._people: OrderedDict[str, OrderedDict[T, None]] = OrderedDict()
        self._jobs: OrderedDict[str, OrderedDict[T, None]] = OrderedDict()
        self._passed = 0  # interactive requests that went before the jobs that wait
        self._returned: OrderedDict[T, None] = OrderedDict()
        self._soonest = math.inf  # no deadline of what waits is earlier
        self._size = 0
        self._asked = -math.inf  # when somebody last did

    def __len__(self) -> int:
        return self._size

    def full(self, *, interactive: bool) -> bool:
        """Whether one more would be too many."""
        return self._size >= (self.capacity if interactive else max(1, int(self.capacity * JOBS_SHARE)))

    def people_about(self) -> bool:
        """Whether somebody asked lately, and may again."""
        return self.clock() - self._asked < ABOUT

    def add(self, item: T) -> None:
        """To the end of what its client waits for."""
        if item.interactive:
            self._asked = self.clock()
        self._queue(item).setdefault(item.client, OrderedDict())[item] = None
        self._keep(item)

    def give_back(self, items: Sequence[T]) -> None:
        """Those that were taken and could not run are first of all, in their order."""
        for item in reversed(items):
            self._returned[item] = None
            self._returned.move_to_end(item, last=False)
            self._keep(item)

    def _keep(self, item: T) -> None:
        self._size += 1
        if item.deadline is not None:
            self._soonest = min(self._soonest, item.deadline)

    def next(self, *, jobs_too: bool = True) -> T | None:
        """Takes the next one out, of those that were not given back a job only if `jobs_too`; None when none waits."""
        if not (self._returned or self._people or (self._jobs and jobs_too)):
            return None
        self._size -= 1
        if self._returned:
            return self._returned.popitem(last=False)[0]
        jobs = jobs_too and bool(self._jobs) and (not self._people or self._passed >= JOB_AFTER)
        self._passed = 0 if jobs or not self._jobs else self._passed + 1
        queue = self._jobs if jobs else self._people
        client, items = queue.popitem(last=False)
        item, _ = items.popitem(last=False)
        if items:
            queue[client] = items
        return item

    def remove(self, item: T) -> bool:
        """Takes this one out; False when it does not wait."""
        queue = self._queue(item)
        if item in self._returned:
            del self._returned[item]
        elif item in (items := queue.get(item.client, OrderedDict())):
            del items[item]
            if not items:
                del queue[item.client]
        else:
            return False
        self._size -= 1
        return True

    def expired(self) -> list[T]:
        """Takes out those whose deadline has passed."""
        if (now := self.clock()) < self._soonest:
            return []
        found = [item for item in self._waiting() if item.deadline is not None and item.deadline <= now]
        for item in found:
            self.remove(item)
        self._soonest = min((d for item in self._waiting() if (d := item.deadline) is not None), default=math.inf)
        return found

    def clear(self) -> list[T]:
        """Takes out everything."""
        found: list[T] = []
        while (item := self.next()) is not None:
            found.append(item)
        return found

    def _queue(self, item: T) -> OrderedDict[str, OrderedDict[T, None]]:
        return self._people if item.interactive else self._jobs

    def _waiting(self) -> Iterator[T]:
        return itertools.chain(self._returned, *self._people.values(), *self._jobs.values())
