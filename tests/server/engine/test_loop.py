"""The loop under a clock of its own, with a runner that only keeps count and fails as it is told."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.errors import DeadlineExceededError, EngineClosedError
from server.engine.loop import AT_ONCE, LOOKING, Loop
from server.engine.scheduler import ABOUT, JOB_AFTER, Scheduler

OUT_OF_MEMORY = RuntimeError("DefaultCPUAllocator: can't allocate memory")
PLACES = 100  # of the encoder, for a prompt


@dataclass(eq=False)
class Ask:
    """A request as the loop sees it: it says `length` tokens and ends. `poison`: where it fails, always."""

    client: str = ""
    interactive: bool = True
    length: int = 3
    picture: bytes = b""
    cost: int = PLACES
    deadline: float | None = None
    poison: str = ""
    solo: bool = False
    started: float = 0.0
    cancelled: bool = False
    said: int = 0
    ended: list[str | BaseException] = field(default_factory=list)

    def read(self) -> bool:
        if self.poison == "read":
            raise ValueError("what it said makes no sense")
        return self.said >= self.length

    def finish(self) -> None:
        assert self.said >= self.length
        self.ended.append("finished")

    def give_up(self) -> None:
        assert self.cancelled
        self.ended.append("cancelled")

    def fail(self, error: BaseException) -> None:
        self.ended.append(error)

    def restart(self) -> None:
        self.said = 0


class Runner:
    """`memory`: how many it can hold before memory runs out; `faults`: calls that fail whatever they do."""

    def __init__(self, slots: int, memory: int = 1000, faults: Sequence[int] = ()) -> None:
        self.slots, self.memory, self.faults = slots, memory, set(faults)
        self.inside: list[Ask] = []
        self.looked_at = set[bytes]()
        self.elsewhere = set[bytes]()  # pictures that another runner is looking at
        self.entered: list[list[Ask]] = []
        self.calls = 0
        self.during: Callable[[], None] = lambda: None  # what another thread does meanwhile

    def seen(self, ask: Ask) -> bool:
        return ask.picture in self.looked_at

    def claim(self, ask: Ask) -> bool:
        return ask.picture not in self.elsewhere

    def enter(self, asks: Sequence[Ask]) -> None:
        assert not set(asks) & set(self.inside)
        self.inside += asks
        assert len(self.inside) <= self.slots
        self._work("enter", asks)
        self.looked_at |= {ask.picture for ask in asks}
        self.entered.append(list(asks))

    def step(self) -> None:
        self._work("step", self.inside)
        for ask in self.inside:
            ask.said += 1

    def leave(self, ask: Ask) -> None:
        if ask in self.inside:
            self.inside.remove(ask)

    def _work(self, what: str, asks: Sequence[Ask]) -> None:
        self.during()
        self.calls += 1
        if self.calls in self.faults:
            raise RuntimeError("a fault that passes")
        if any(ask.poison == what for ask in asks):
            raise RuntimeError("a fault that stays")
        if len(self.inside) > self.memory:
            raise OUT_OF_MEMORY


class World:
    """A loop and all that is around it. A turn takes a second."""

    def __init__(self, slots: int, **runner: int | Sequence[int]) -> None:
        self.now, self.asked = 0.0, list[Ask]()
        self.runner = Runner(slots, **runner)  # type: ignore[arg-type]
        self.scheduler: Scheduler[Ask] = Scheduler(1000, lambda: self.now)
        self.lock = threading.RLock()
        self.loop = Loop(self.runner, self.scheduler, self.lock, slots=slots, clock=lambda: self.now)

    def ask(self, *asks: Ask) -> None:
        for ask in asks:
            self.scheduler.add(ask)
            self.asked.append(ask)

    def cancel(self, ask: Ask) -> None:
        """As the engine does it, from any thread."""
        ask.cancelled = True
        with self.lock:
            waited = self.scheduler.remove(ask)
        if waited:
            ask.give_up()

    def turn(self) -> None:
        """One turn, and what holds after each."""
        gone = [ask for ask in self.asked if ask.cancelled]
        late = [ask for ask in self.asked if ask.deadline is not None and ask.deadline <= self.now]
        self.loop.turn()
        for ask in gone + late:
            assert ask.ended
        assert set(self.runner.inside) == set(self.loop.running)
        assert not any(ask.ended for ask in self.runner.inside)
        assert len(self.loop.running) + len(self.scheduler) == sum(not ask.ended for ask in self.asked)
        assert 1 <= self.loop.room <= self.loop.slots
        self.now += 1

    def run(self, most: int) -> int:
        """Turns until everything has ended, which takes at most so many."""
        for turn in range(most):
            if all(ask.ended for ask in self.asked):
                return turn
            self.turn()
        raise AssertionError(f"{sum(not ask.ended for ask in self.asked)} still wait after {most} turns")


asks = st.builds(
    Ask,
    client=st.sampled_from("abc"),
    interactive=st.booleans(),
    length=st.integers(0, 6),
    picture=st.sampled_from([b"1", b"2", b"3", b"4"]),
    cost=st.sampled_from([PLACES, 3 * PLACES]),
    deadline=st.none() | st.none() | st.integers(0, 40),
    poison=st.sampled_from(["", "", "", "", "", "enter", "step", "read"]),
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    slots=st.integers(1, 6),
    memory=st.integers(1, 8),
    faults=st.lists(st.integers(1, 60), max_size=3, unique=True),
    arrivals=st.lists(st.tuples(asks, st.integers(0, 12), st.none() | st.integers(0, 20)), max_size=24),
    inside=st.lists(st.integers(1, 40), max_size=4, unique=True),
    doomed=st.none() | st.none() | st.none() | st.integers(1, 30),
)
def test_every_request_ends_exactly_once(
    slots: int, memory: int, faults: list[int], arrivals: list[tuple[Ask, int, int | None]], inside: list[int],
    doomed: int | None,
) -> None:  # fmt: skip
    """Whatever arrives, is cancelled between turns or within one, is late, fails once or always.

    `arrivals`: request, turn, turn of its cancellation; `inside`: calls of the model during which one of those in it is
    cancelled; `doomed`: the call from which on everything fails.
    """
    arrivals = [(replace(ask, ended=[]), at, until) for ask, at, until in arrivals]  # hypothesis may draw one again
    world = World(slots, memory=memory, faults=faults if doomed is None else [*faults, *range(doomed, 5000)])

    def during() -> None:
        if world.runner.calls + 1 in inside:
            world.cancel(world.runner.inside[-1])

    world.runner.during = during
    for turn in range(21):
        world.ask(*(ask for ask, at, _ in arrivals if at == turn))
        for ask, at, until in arrivals:
            if until == turn and at <= turn:
                world.cancel(ask)
        world.turn()
    # Every one alone, twice over, and what memory and faults threw back.
    world.run(21 + 4 * sum(ask.length + 2 for ask, *_ in arrivals))
    for ask, *_ in arrivals:
        (how,) = ask.ended
        if isinstance(how, DeadlineExceededError):
            assert ask.deadline is not None
        elif isinstance(how, BaseException):
            assert how is not OUT_OF_MEMORY  # never seen by a client
            assert ask.poison or faults or doomed is not None
        else:
            assert how == "finished" or ask.cancelled  # cancelled in its last step, it may have finished
            assert ask.poison in ("", "step") or how == "cancelled"
    assert not world.runner.inside
    assert len(world.scheduler) == 0


def test_a_poisonous_request_fails_alone() -> None:
    for where in ("enter", "step", "read"):
        world = World(4)
        bad = Ask(poison=where)
        world.ask(Ask(), Ask(length=9), bad, *(Ask() for _ in range(4)))
        world.run(60)
        assert isinstance(bad.ended[0], RuntimeError | ValueError)
        assert all(ask.ended == ["finished"] for ask in world.asked if ask is not bad)


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_a_fault_that_passes_fails_none_of_several(call: int) -> None:
    world = World(4, faults=[call])
    world.ask(*(Ask() for _ in range(4)))
    world.run(40)
    assert all(ask.ended == ["finished"] for ask in world.asked)


def test_out_of_memory_shrinks_the_batch_and_it_grows_back() -> None:
    world = World(8, memory=3)
    world.ask(*(Ask(length=4) for _ in range(20)))
    world.turn()
    assert 0 < len(world.loop.running) <= 3
    assert world.loop.room < 8
    assert world.loop.out_of_memory > 0
    for _ in range(10):
        world.turn()
        assert len(world.loop.running) <= 3
    world.runner.memory = 100  # whoever had it gave it back
    world.run(40)
    assert world.loop.room == 8
    assert all(ask.ended == ["finished"] for ask in world.asked)
    before = world.loop.out_of_memory
    world.ask(*(Ask() for _ in range(8)))
    world.turn()
    assert len(world.loop.running) == 8
    assert world.loop.out_of_memory == before


def test_the_oldest_goes_on_when_memory_runs_out() -> None:
    """So that something always gets done, however short memory is."""
    world = World(4)
    world.ask(*(Ask(length=9) for _ in range(4)))
    for _ in range(5):
        world.turn()
    world.runner.memory = 1
    world.run(60)
    ends = [world.asked.index(ask) for batch in world.runner.entered for ask in batch]
    assert all(ask.ended == ["finished"] for ask in world.asked)
    assert Counter(ends)[0] == 1  # never started again


def test_more_than_memory_holds_alone_is_told() -> None:
    world = World(2, memory=0)
    world.ask(Ask(), Ask())
    world.run(10)
    assert all(ask.ended == [OUT_OF_MEMORY] for ask in world.asked)


def test_new_pictures_do_not_stall_what_runs() -> None:
    """A burst of them comes in one at a time beside an answer under way, and that one goes on at every turn."""
    world = World(16)
    running = Ask(length=100, picture=b"old")
    world.ask(running)
    world.turn()
    world.ask(*(Ask(picture=b"%d" % i, length=20) for i in range(12)))
    for turn in range(12):
        before = len(world.runner.looked_at)
        world.turn()
        assert len(world.runner.looked_at) == before + 1
        assert running.said == turn + 2


def test_at_an_idle_engine_pictures_are_taken_in_together() -> None:
    world = World(16)
    world.ask(*(Ask(picture=b"%d" % i) for i in range(12)))
    world.turn()
    assert [len(batch) for batch in world.runner.entered] == [AT_ONCE]


def test_prompts_on_pictures_seen_are_cheap() -> None:
    world = World(16)
    world.ask(Ask(length=100, picture=b"old"))
    world.turn()
    world.ask(*(Ask(picture=b"old", length=20) for _ in range(12)))
    world.turn()
    assert len(world.runner.entered[-1]) == 1 + LOOKING
    # Several on one new picture look at it once.
    world = World(16)
    world.ask(Ask(length=100))
    world.turn()
    world.ask(Ask(picture=b"new", cost=PLACES), *(Ask(picture=b"new", cost=10) for _ in range(3)))
    world.turn()
    assert world.runner.looked_at == {b"", b"new"}
    assert len(world.loop.running) == 2  # the budget is spent by the picture
    world.turn()
    assert len(world.loop.running) == 5


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(1, 9), st.sampled_from([50, 100, 400])), min_size=1, max_size=30))
def test_no_turn_reads_more_than_its_budget(burst: list[tuple[int, int]]) -> None:
    """Beside answers under way: one prompt on a new picture, or as many as cost no more."""
    world = World(32)
    world.ask(Ask(length=1000, picture=b"old", cost=50))
    world.turn()
    world.ask(*(Ask(picture=b"%d" % i, cost=cost, length=50) for i, cost in burst))
    while len(world.scheduler):
        seen, before = set(world.runner.looked_at), len(world.runner.entered)
        world.turn()
        (batch,) = world.runner.entered[before:]
        cost = sum(ask.cost for ask in batch)
        cost += LOOKING * sum(
            next(ask.cost for ask in batch if ask.picture == new) for new in {a.picture for a in batch} - seen
        )
        assert cost <= (1 + LOOKING) * batch[0].cost


def test_cancelling_frees_the_slot_within_a_turn() -> None:
    world = World(1)
    running, waiting = Ask(length=1000), Ask(length=1)
    world.ask(running, waiting)
    world.turn()
    world.cancel(running)
    world.turn()
    assert running.ended == ["cancelled"]
    assert waiting.ended == ["finished"]


def test_a_waiting_one_is_cancelled_at_once() -> None:
    world = World(1)
    world.ask(Ask(length=1000), waiting := Ask())
    world.turn()
    world.cancel(waiting)
    assert waiting.ended == ["cancelled"]


@pytest.mark.parametrize("error", ["memory", "fault"])
def test_one_cancelled_while_its_step_fails_does_not_wait_again(error: str) -> None:
    world = World(2, faults=[3] if error == "fault" else [])
    world.ask(Ask(length=50), last := Ask(length=50))
    world.turn()

    def during() -> None:
        world.runner.memory = 1 if error == "memory" else 1000
        world.cancel(last)

    world.runner.during = during
    world.loop.turn()
    assert last.ended == ["cancelled"]


def test_deadlines_hold_waiting_and_running() -> None:
    world = World(1)
    running, waiting, after = Ask(length=50, deadline=5), Ask(deadline=3), Ask(length=1)
    world.ask(running, waiting, after)
    ends: dict[Ask, int] = {}
    for turn in range(8):
        world.turn()
        ends |= {ask: turn for ask in world.asked if ask.ended and ask not in ends}
    assert ends == {waiting: 3, running: 5, after: 5}
    assert [type(ask.ended[0]) for ask in (running, waiting)] == [DeadlineExceededError] * 2


def test_a_job_is_served_beside_a_flood() -> None:
    """Two more interactive requests than a turn can end, each from a stranger; the job ends all the same."""
    world = World(2)
    job = Ask("jobs", interactive=False, length=2)
    world.ask(*(Ask(f"first {i}", length=2) for i in range(4)), job)
    for turn in range(3 * JOB_AFTER):
        world.ask(*(Ask(f"{turn} {i}", length=2) for i in range(2)))
        world.turn()
        if job.ended:
            break
    assert job.ended == ["finished"]
    assert len(world.scheduler) > 0


def test_clients_have_equal_shares_of_the_slots() -> None:
    world = World(4)
    world.ask(*(Ask("greedy", length=3) for _ in range(200)), *(Ask("modest", length=3) for _ in range(30)))
    for _ in range(40):
        world.turn()
    done = Counter(ask.client for ask in world.asked if ask.ended)
    assert done["modest"] > 15
    assert abs(done["greedy"] - done["modest"]) <= 2


def test_interactive_requests_go_before_jobs() -> None:
    world = World(2)
    world.ask(*(Ask("jobs", interactive=False, length=4) for _ in range(30)))
    for _ in range(6):
        world.turn()
    asked = Ask("person", length=1)
    world.ask(asked)
    world.run(400)
    order = [ask for batch in world.runner.entered for ask in batch]
    ahead = [ask for ask in order[: order.index(asked)] if ask.client == "jobs"]
    assert len(ahead) <= 6  # those that ran, and one more at most


def test_while_people_are_about_jobs_leave_slots_free() -> None:
    world = World(4)
    world.ask(*(Ask(interactive=False, length=3 + i % 4, picture=b"seen") for i in range(60)))

    def jobs() -> int:
        world.turn()
        return sum(not ask.interactive for ask in world.loop.running)

    assert max(jobs() for _ in range(8)) == 4  # nobody else is there
    counts = []
    for turn in range(24):
        if turn % 3 == 0:
            world.ask(Ask(length=1, picture=b"seen"))
        counts.append(jobs())
        if turn > 6:
            assert all(ask.ended for ask in world.asked if ask.interactive)  # within the turn: a slot was free
    assert max(counts[6:]) == 2
    assert max(jobs() for _ in range(int(ABOUT) + 8)) == 4
    world.run(200)


def test_shutting_down_ends_all() -> None:
    world = World(2)
    world.ask(*(Ask(length=50) for _ in range(6)))
    world.turn()
    world.loop.abandon = True
    world.turn()
    assert [type(ask.ended[0]) for ask in world.asked] == [EngineClosedError] * 6


def test_a_picture_that_another_runner_looks_at_is_waited_for() -> None:
    world = World(4)
    ask, other = Ask(picture=b"1", length=2), Ask(picture=b"2", length=2)
    world.runner.elsewhere.add(b"1")
    world.ask(ask, other)
    for _ in range(3):
        world.turn()
    assert ask not in world.loop.running
    world.runner.elsewhere.clear()
    assert world.run(10) < 10
    assert (ask.ended, other.ended) == (["finished"], ["finished"])
