"""Who is next: fair between clients, interactive before jobs, nobody for ever last.

Start-time fair queueing (Goyal, Vin, Cheng 1996): each client's interactive requests, and each one's jobs, are a flow.
A flow's next request starts when its last one would have ended, were it served at its weight alone; the earliest start
is next. A flow that waits keeps its start while those of others grow past it, so none starves; a flow that was idle
does not save up.
"""

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

INTERACTIVE_WEIGHT = 16.0  # interactive requests for each job's, of the same client or another
JOBS_SHARE = 0.75  # of the waiting room; the rest is kept for people


class Waiting(Protocol):
    """What waits. `deadline`: on the scheduler's clock, None for ever."""

    client: str
    interactive: bool
    deadline: float | None

    def __hash__(self) -> int: ...


T = TypeVar("T", bound=Waiting)
Flow = tuple[str, bool]


class Scheduler(Generic[T]):
    """Not thread safe: its owner holds a lock. `clock` gives seconds."""

    def __init__(self, capacity: int, clock: Callable[[], float]) -> None:
        self.capacity, self.clock = capacity, clock
        self._flows: dict[Flow, OrderedDict[T, None]] = {}
        self._ends: dict[Flow, float] = {}  # when each flow's last request would have ended, in virtual time
        self._virtual = 0.0
        self._returned: OrderedDict[T, None] = OrderedDict()
        self._deadlines: list[tuple[float, int, T]] = []
        self._count = itertools.count()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __contains__(self, item: Hashable) -> bool:
        return item in self._returned or any(item in flow for flow in self._flows.values())

    def full(self, *, interactive: bool) -> bool:
        """Whether one more would be too many."""
        return self._size >= (self.capacity if interactive else max(1, int(self.capacity * JOBS_SHARE)))

    def add(self, item: T) -> None:
        """To the end of its flow."""
        self._flows.setdefault((item.client, item.interactive), OrderedDict())[item] = None
        self._keep(item)

    def give_back(self, item: T) -> None:
        """One that was taken and could not run: first of all, after others given back before."""
        self._returned[item] = None
        self._keep(item)

    def _keep(self, item: T) -> None:
        self._size += 1
        if item.deadline is not None:
            heapq.heappush(self._deadlines, (item.deadline, next(self._count), item))

    def next(self) -> T | None:
        """Takes the next one out; None when none waits."""
        if self._returned:
            self._size -= 1
            return self._returned.popitem(last=False)[0]
        if not self._flows:
            return None
        flow = min(self._flows, key=self._start)
        self._virtual = self._start(flow)
        self._ends[flow] = self._virtual + (1.0 if not flow[1] else 1.0 / INTERACTIVE_WEIGHT)
        item, _ = self._flows[flow].popitem(last=False)
        self._size -= 1
        self._forget(flow)
        return item

    def remove(self, item: T) -> bool:
        """Takes this one out; False when it does not wait."""
        if item in self._returned:
            del self._returned[item]
        else:
            flow = (item.client, item.interactive)
            if item not in self._flows.get(flow, ()):
                return False
            del self._flows[flow][item]
            self._forget(flow)
        self._size -= 1
        return True

    def expired(self) -> list[T]:
        """Takes out those whose deadline has passed."""
        found: list[T] = []
        while self._deadlines and self._deadlines[0][0] <= self.clock():
            item = heapq.heappop(self._deadlines)[2]
            if self.remove(item):
                found.append(item)
        return found

    def clear(self) -> list[T]:
        """Takes out everything."""
        found: list[T] = []
        while (item := self.next()) is not None:
            found.append(item)
        return found

    def _start(self, flow: Flow) -> float:
        return max(self._virtual, self._ends.get(flow, 0.0))

    def _forget(self, flow: Flow) -> None:
        """Drops an empty flow, and the ends that virtual time has passed: strangers must not pile up."""
        if not self._flows[flow]:
            del self._flows[flow]
        if len(self._ends) > 64 + 2 * len(self._flows):
            self._ends = {f: end for f, end in self._ends.items() if end > self._virtual or f in self._flows}
