"""Who is next: any sequence of calls against a plain list, and what each kind of asker may count on."""

import gc
import random
import weakref
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from server.engine.scheduler import JOB_AFTER, Scheduler


@dataclass(eq=False)
class Item:
    client: str = "a"
    interactive: bool = True
    deadline: float | None = None


def people(client: str, count: int) -> list[Item]:
    return [Item(client) for _ in range(count)]


def jobs(client: str, count: int) -> list[Item]:
    return [Item(client, interactive=False) for _ in range(count)]


def filled(*items: Item, capacity: int = 1000) -> Scheduler[Item]:
    scheduler: Scheduler[Item] = Scheduler(capacity, lambda: 0.0)
    for item in items:
        scheduler.add(item)
    return scheduler


def take(scheduler: Scheduler[Item], count: int) -> list[Item]:
    found = [scheduler.next() for _ in range(count)]
    return [item for item in found if item]


class AnyCalls(RuleBasedStateMachine):
    """Nothing is lost, doubled or taken out twice; each client's requests of one kind keep their order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.scheduler: Scheduler[Item] = Scheduler(8, lambda: self.now)
        self.waiting: list[Item] = []  # in the order of arrival
        self.returned: list[Item] = []
        self.taken: list[Item] = []
        self.passed = 0  # interactive requests taken since a job was, while one waits

    @rule(
        client=st.sampled_from("abc"),
        interactive=st.booleans(),
        wait=st.none() | st.floats(0, 9),
    )
    def add(self, client: str, interactive: bool, wait: float | None) -> None:
        item = Item(client, interactive, None if wait is None else self.now + wait)
        self.scheduler.add(item)
        self.waiting.append(item)

    @rule()
    def next(self) -> None:
        item = self.scheduler.next()
        if self.returned:
            assert item is self.returned.pop(0)
        elif self.waiting:
            assert item
            assert item is next(i for i in self.waiting if (i.client, i.interactive) == (item.client, item.interactive))
            assert item.interactive or self.passed >= JOB_AFTER or not any(i.interactive for i in self.waiting)
            self.passed = self.passed + 1 if item.interactive and any(not i.interactive for i in self.waiting) else 0
            assert self.passed <= JOB_AFTER
            self.waiting.remove(item)
        else:
            assert item is None
        if item:
            self.taken.append(item)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        items = data.draw(st.lists(st.sampled_from(self.taken), unique_by=id))
        self.scheduler.give_back(items)
        self.returned = items + self.returned
        self.taken = [item for item in self.taken if item not in items]

    @precondition(lambda self: self.waiting or self.returned or self.taken)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from([*self.waiting, *self.returned, *self.taken]))
        assert self.scheduler.remove(item) == (item not in self.taken)
        self._forget(item)

    @rule(seconds=st.floats(0, 5))
    def expired(self, seconds: float) -> None:
        self.now += seconds
        late = [i for i in (*self.waiting, *self.returned) if i.deadline is not None and i.deadline <= self.now]
        found = self.scheduler.expired()
        assert len(found) == len(late)
        assert set(found) == set(late)
        for item in late:
            self._forget(item)

    @rule()
    def clear(self) -> None:
        found = self.scheduler.clear()
        assert len(found) == len(self.waiting) + len(self.returned)
        assert set(found) == {*self.waiting, *self.returned}
        self.waiting, self.returned, self.passed = [], [], 0

    @invariant()
    def counts(self) -> None:
        size = len(self.waiting) + len(self.returned)
        assert len(self.scheduler) == size
        assert self.scheduler.full(interactive=True) == (size >= 8)
        assert self.scheduler.full(interactive=False) == (size >= 6)

    def _forget(self, item: Item) -> None:
        for kept in (self.waiting, self.returned):
            if item in kept:
                kept.remove(item)
        if not any(not i.interactive for i in self.waiting):
            self.passed = 0


TestAnyCalls = AnyCalls.TestCase
TestAnyCalls.settings = settings(max_examples=100, stateful_step_count=40, deadline=None, derandomize=True)


def test_clients_take_turns() -> None:
    """Whoever asks more waits longer: between any two that wait, shares differ by one at most."""
    scheduler = filled(*people("greedy", 60), *people("modest", 10), *people("third", 30))
    served = Counter[str]()
    for _ in range(30):
        (item,) = take(scheduler, 1)
        served[item.client] += 1
        assert max(served.values()) - min(served[c] for c in ("greedy", "modest", "third")) <= 1
    assert [item.client for item in take(scheduler, 6)] == ["greedy", "third"] * 3


def test_shares_are_fair_whatever_comes_and_goes() -> None:
    draw = random.Random(3)
    scheduler, served = filled(*people("always", 400)), Counter[str]()
    others = "bcd"
    for _ in range(400):
        if draw.random() < 0.9:
            scheduler.add(Item(draw.choice(others)))
        (item,) = take(scheduler, 1)
        served[item.client] += 1
    assert served["always"] >= 100  # a fourth: there are never more than four clients


def test_people_go_before_jobs_and_do_not_starve_them() -> None:
    scheduler = filled(*jobs("a", 5), *jobs("b", 5), *people("c", 100))
    order = [item.interactive for item in take(scheduler, 110)]
    assert order[: 2 * (JOB_AFTER + 1)] == [*[True] * JOB_AFTER, False] * 2
    assert order.count(False) == 10


def test_a_person_waits_for_one_job_at_most() -> None:
    """However many clients have jobs, and however long those have waited."""
    scheduler = filled(*(job for i in range(50) for job in jobs(f"client {i}", 3)))
    take(scheduler, 20)
    asked = Item("person")
    scheduler.add(asked)
    assert scheduler.next() is asked


@pytest.mark.parametrize("interactive", [True, False], ids=["person", "job"])
def test_a_flood_of_strangers_starves_nobody(interactive: bool) -> None:
    """Each request of the flood comes from a client that was never seen before, and is interactive."""
    scheduler = filled(*(Item(f"early {i}") for i in range(10)))
    # One has been served already: that is no reason to wait behind everyone who has not.
    patient = [Item("patient", interactive) for _ in range(2)]
    for item in patient:
        scheduler.add(item)
    waits = []
    for turn in range(200):
        scheduler.add(Item(f"stranger {turn}"))
        if scheduler.next() in patient:
            waits.append(turn)
    assert len(waits) == 2
    assert waits[-1] <= 2 * (JOB_AFTER + 10)


def test_jobs_take_turns_too() -> None:
    scheduler = filled(*jobs("big", 1000), *jobs("small", 3))
    assert [item.client for item in take(scheduler, 7)] == ["big", "small"] * 3 + ["big"]


def test_what_is_given_back_goes_first_and_in_order() -> None:
    scheduler = filled(*people("a", 6))
    taken = take(scheduler, 4)
    scheduler.give_back(taken[2:])
    scheduler.give_back(taken[:2])
    assert take(scheduler, 4) == taken


def test_jobs_leave_room_for_people() -> None:
    scheduler = filled(*jobs("a", 3), capacity=4)
    assert scheduler.full(interactive=False)
    assert not scheduler.full(interactive=True)
    scheduler.add(Item())
    assert scheduler.full(interactive=True)
    assert not filled(capacity=1).full(interactive=False)


def test_what_has_left_is_not_held() -> None:
    """Requests hold pictures: the scheduler must not keep one until a deadline that no longer matters."""

    scheduler = filled(*(Item(f"client {i}", i % 2 == 0, 1e9) for i in range(50)))
    left = [weakref.ref(item) for item in take(scheduler, 50)]
    gc.collect()
    assert not any(ref() for ref in left)
