"""The scheduler against a model of plain lists under any order of calls, and its guarantees to each kind of client."""

import gc
import random
import weakref
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from server.engine.scheduler import MAX_INTERACTIVE_BEFORE_JOB, Scheduler


@dataclass(eq=False)
class FakeSequence:
    client: str = "a"
    interactive: bool = True
    deadline: float | None = None


def create_interactive(client: str, count: int) -> list[FakeSequence]:
    return [FakeSequence(client) for _ in range(count)]


def create_jobs(client: str, count: int) -> list[FakeSequence]:
    return [FakeSequence(client, interactive=False) for _ in range(count)]


def create_scheduler(*sequences: FakeSequence, capacity: int = 1000) -> Any:
    scheduler: Any = Scheduler(capacity, lambda: 0.0)
    for sequence in sequences:
        scheduler.add(sequence)
    return scheduler


def schedule_sequences(scheduler: Any, count: int) -> list[FakeSequence]:
    found = [scheduler.schedule() for _ in range(count)]
    return [sequence for sequence in found if sequence]


class SchedulerMachine(RuleBasedStateMachine):
    """No sequence is lost, duplicated or scheduled twice, and those of one client and kind keep their order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.scheduler: Any = Scheduler(8, lambda: self.now)
        self.waiting: list[FakeSequence] = []  # in order of arrival
        self.requeued: list[FakeSequence] = []
        self.taken: list[FakeSequence] = []
        self.interactive_since_job = 0  # interactive sequences scheduled while a job waits

    @rule(
        client=st.sampled_from("abc"),
        interactive=st.booleans(),
        wait=st.none() | st.floats(0, 9),
    )
    def add(self, client: str, interactive: bool, wait: float | None) -> None:
        sequence = FakeSequence(client, interactive, None if wait is None else self.now + wait)
        self.scheduler.add(sequence)
        self.waiting.append(sequence)

    @rule()
    def schedule(self) -> None:
        sequence = self.scheduler.schedule()
        if self.requeued:
            assert sequence is self.requeued.pop(0)
        elif self.waiting:
            assert sequence
            assert sequence is next(
                i for i in self.waiting if (i.client, i.interactive) == (sequence.client, sequence.interactive)
            )
            assert (
                sequence.interactive
                or self.interactive_since_job >= MAX_INTERACTIVE_BEFORE_JOB
                or not any(i.interactive for i in self.waiting)
            )
            self.interactive_since_job = (
                self.interactive_since_job + 1
                if sequence.interactive and any(not i.interactive for i in self.waiting)
                else 0
            )
            assert self.interactive_since_job <= MAX_INTERACTIVE_BEFORE_JOB
            self.waiting.remove(sequence)
        else:
            assert sequence is None
        if sequence:
            self.taken.append(sequence)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def requeue(self, data: st.DataObject) -> None:
        sequences = data.draw(st.lists(st.sampled_from(self.taken), unique_by=id))
        self.scheduler.requeue(sequences)
        self.requeued = sequences + self.requeued
        self.taken = [sequence for sequence in self.taken if sequence not in sequences]

    @precondition(lambda self: self.waiting or self.requeued or self.taken)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from([*self.waiting, *self.requeued, *self.taken]))
        assert self.scheduler.remove(sequence) == (sequence not in self.taken)
        self._discard(sequence)

    @rule(seconds=st.floats(0, 5))
    def remove_expired(self, seconds: float) -> None:
        self.now += seconds
        late = [i for i in (*self.waiting, *self.requeued) if i.deadline is not None and i.deadline <= self.now]
        found = self.scheduler.remove_expired()
        assert len(found) == len(late)
        assert set(found) == set(late)
        for sequence in late:
            self._discard(sequence)

    @rule()
    def remove_all(self) -> None:
        found = self.scheduler.remove_all()
        assert len(found) == len(self.waiting) + len(self.requeued)
        assert set(found) == {*self.waiting, *self.requeued}
        self.waiting, self.requeued, self.interactive_since_job = [], [], 0

    @invariant()
    def sizes_match(self) -> None:
        size = len(self.waiting) + len(self.requeued)
        assert len(self.scheduler) == size
        assert self.scheduler.is_full(interactive=True) == (size >= 8)
        assert self.scheduler.is_full(interactive=False) == (size >= 6)

    def _discard(self, sequence: FakeSequence) -> None:
        for queue in (self.waiting, self.requeued):
            if sequence in queue:
                queue.remove(sequence)
        if not any(not i.interactive for i in self.waiting):
            self.interactive_since_job = 0


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None, derandomize=True)


def test_clients_take_turns() -> None:
    """The numbers of sequences served for any two waiting clients differ by at most one."""
    scheduler = create_scheduler(
        *create_interactive("greedy", 60), *create_interactive("moderate", 10), *create_interactive("third", 30)
    )
    served = Counter[str]()
    for _ in range(30):
        (sequence,) = schedule_sequences(scheduler, 1)
        served[sequence.client] += 1
        assert max(served.values()) - min(served[c] for c in ("greedy", "moderate", "third")) <= 1
    assert [sequence.client for sequence in schedule_sequences(scheduler, 6)] == ["greedy", "third"] * 3


def test_shares_are_fair_while_clients_come_and_go() -> None:
    draw = random.Random(3)
    scheduler, served = create_scheduler(*create_interactive("always", 400)), Counter[str]()
    others = "bcd"
    for _ in range(400):
        if draw.random() < 0.9:
            scheduler.add(FakeSequence(draw.choice(others)))
        (sequence,) = schedule_sequences(scheduler, 1)
        served[sequence.client] += 1
    assert served["always"] >= 100  # a quarter: there are never more than four clients


def test_interactive_requests_go_before_jobs_without_starving_them() -> None:
    scheduler = create_scheduler(*create_jobs("a", 5), *create_jobs("b", 5), *create_interactive("c", 100))
    order = [sequence.interactive for sequence in schedule_sequences(scheduler, 110)]
    assert order[: 2 * (MAX_INTERACTIVE_BEFORE_JOB + 1)] == [*[True] * MAX_INTERACTIVE_BEFORE_JOB, False] * 2
    assert order.count(False) == 10


def test_interactive_request_waits_for_at_most_one_job() -> None:
    """However many clients have jobs, and however long they have waited."""
    scheduler = create_scheduler(*(job for i in range(50) for job in create_jobs(f"client {i}", 3)))
    schedule_sequences(scheduler, 20)
    interactive_sequence = FakeSequence("person")
    scheduler.add(interactive_sequence)
    assert scheduler.schedule() is interactive_sequence


@pytest.mark.parametrize("interactive", [True, False], ids=["interactive", "job"])
def test_flood_from_new_clients_starves_nobody(interactive: bool) -> None:
    """Each request of the flood is interactive and comes from a new client."""
    scheduler = create_scheduler(*(FakeSequence(f"early {i}") for i in range(10)))
    # Being served once must not put a client behind all new ones.
    patient = [FakeSequence("patient", interactive) for _ in range(2)]
    for sequence in patient:
        scheduler.add(sequence)
    waits = []
    for turn in range(200):
        scheduler.add(FakeSequence(f"new {turn}"))
        if scheduler.schedule() in patient:
            waits.append(turn)
    assert len(waits) == 2
    assert waits[-1] <= 2 * (MAX_INTERACTIVE_BEFORE_JOB + 10)


def test_jobs_take_turns_too() -> None:
    scheduler = create_scheduler(*create_jobs("big", 1000), *create_jobs("small", 3))
    assert [sequence.client for sequence in schedule_sequences(scheduler, 7)] == ["big", "small"] * 3 + ["big"]


def test_requeued_sequences_go_first_and_in_order() -> None:
    scheduler = create_scheduler(*create_interactive("a", 6))
    taken = schedule_sequences(scheduler, 4)
    scheduler.requeue(taken[2:])
    scheduler.requeue(taken[:2])
    assert schedule_sequences(scheduler, 4) == taken


def test_jobs_leave_capacity_for_interactive_requests() -> None:
    scheduler = create_scheduler(*create_jobs("a", 3), capacity=4)
    assert scheduler.is_full(interactive=False)
    assert not scheduler.is_full(interactive=True)
    scheduler.add(FakeSequence())
    assert scheduler.is_full(interactive=True)
    assert not create_scheduler(capacity=1).is_full(interactive=False)


def test_scheduler_keeps_no_reference_to_scheduled_sequences() -> None:
    """Sequences hold images: the scheduler must not keep one until a deadline that no longer matters."""

    scheduler = create_scheduler(*(FakeSequence(f"client {i}", i % 2 == 0, 1e9) for i in range(50)))
    scheduled = [weakref.ref(sequence) for sequence in schedule_sequences(scheduler, 50)]
    gc.collect()
    assert not any(ref() for ref in scheduled)
