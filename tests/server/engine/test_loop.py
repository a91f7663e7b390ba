"""The scheduling loop on a simulated clock, see `simulation`."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.errors import DeadlineExceededError, EngineClosedError
from server.engine.loop import IDLE_BUDGET, NEW_IMAGE_COST
from server.engine.scheduler import INTERACTIVE_WINDOW, MAX_INTERACTIVE_BEFORE_JOB
from tests.server.engine.simulation import ENCODER_TOKENS, OUT_OF_MEMORY, FakeSequence, Simulation

sequences = st.builds(
    FakeSequence,
    client=st.sampled_from("abc"),
    interactive=st.booleans(),
    length=st.integers(0, 6),
    image_key=st.sampled_from([b"1", b"2", b"3", b"4"]),
    encoder_tokens=st.sampled_from([ENCODER_TOKENS, 3 * ENCODER_TOKENS]),
    deadline=st.none() | st.none() | st.integers(0, 40),
    fails_in=st.sampled_from(["", "", "", "", "", "add", "step", "process_output"]),
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    max_batch=st.integers(1, 6),
    memory=st.integers(1, 8),
    failing_calls=st.lists(st.integers(1, 60), max_size=3, unique=True),
    arrivals=st.lists(st.tuples(sequences, st.integers(0, 12), st.none() | st.integers(0, 20)), max_size=24),
    cancelled_in=st.lists(st.integers(1, 40), max_size=4, unique=True),
    doomed=st.none() | st.none() | st.none() | st.integers(1, 30),
)
def test_every_request_ends_exactly_once(
    max_batch: int,
    memory: int,
    failing_calls: list[int],
    arrivals: list[tuple[FakeSequence, int, int | None]],
    cancelled_in: list[int],
    doomed: int | None,
) -> None:
    """Sequences arrive, are cancelled between iterations or during one, exceed their deadline, and fail once or always.

    `arrivals`: sequence, iteration, and iteration in which it is cancelled. `cancelled_in`: calls of the model during
    which a running sequence is cancelled. `doomed`: all calls from this one on fail.
    """
    # Hypothesis may draw the same object twice.
    arrivals = [(replace(sequence, outcomes=[]), at, until) for sequence, at, until in arrivals]
    if doomed is not None:
        failing_calls = [*failing_calls, *range(doomed, 5000)]
    simulation = Simulation(max_batch, memory=memory, failing_calls=failing_calls)

    def during() -> None:
        if simulation.runner.calls + 1 in cancelled_in:
            simulation.cancel(simulation.runner.running[-1])

    simulation.runner.during_call = during
    for iteration in range(21):
        simulation.submit(*(sequence for sequence, at, _ in arrivals if at == iteration))
        for sequence, at, until in arrivals:
            if until == iteration and at <= iteration:
                simulation.cancel(sequence)
        simulation.run_once()
    # Enough to run each sequence alone, twice, plus retries after out of memory and failures.
    simulation.run(21 + 4 * sum(sequence.length + 2 for sequence, *_ in arrivals))
    for sequence, *_ in arrivals:
        (outcome,) = sequence.outcomes
        if isinstance(outcome, DeadlineExceededError):
            assert sequence.deadline is not None
        elif isinstance(outcome, BaseException):
            assert outcome is not OUT_OF_MEMORY  # out of memory is never reported to the client
            assert sequence.fails_in or failing_calls
        else:
            assert outcome == "finished" or sequence.cancelled  # cancelled in its last step, it may finish
            assert sequence.fails_in in ("", "step") or outcome == "cancelled"
    assert not simulation.runner.running
    assert len(simulation.scheduler) == 0


def test_failing_request_does_not_fail_others() -> None:
    for call in ("add", "step", "process_output"):
        simulation = Simulation(4)
        bad = FakeSequence(fails_in=call)
        simulation.submit(FakeSequence(), FakeSequence(length=9), bad, *(FakeSequence() for _ in range(4)))
        simulation.run(60)
        assert isinstance(bad.outcomes[0], RuntimeError | ValueError)
        assert all(sequence.outcomes == ["finished"] for sequence in simulation.sequences if sequence is not bad)


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_temporary_fault_fails_no_request_of_a_batch(call: int) -> None:
    simulation = Simulation(4, failing_calls=[call])
    simulation.submit(*(FakeSequence() for _ in range(4)))
    simulation.run(40)
    assert all(sequence.outcomes == ["finished"] for sequence in simulation.sequences)


def test_out_of_memory_reduces_the_capacity_temporarily() -> None:
    simulation = Simulation(8, memory=3)
    simulation.submit(*(FakeSequence(length=4) for _ in range(20)))
    simulation.run_once()
    assert 0 < len(simulation.loop.running) <= 3
    assert simulation.loop.capacity < 8
    assert simulation.loop.out_of_memory > 0
    for _ in range(10):
        simulation.run_once()
        assert len(simulation.loop.running) <= 3
    simulation.runner.memory = 100  # memory is available again
    simulation.run(40)
    assert simulation.loop.capacity == 8
    assert all(sequence.outcomes == ["finished"] for sequence in simulation.sequences)
    before = simulation.loop.out_of_memory
    simulation.submit(*(FakeSequence() for _ in range(8)))
    simulation.run_once()
    assert len(simulation.loop.running) == 8
    assert simulation.loop.out_of_memory == before


def test_oldest_sequence_keeps_running_when_memory_runs_out() -> None:
    """So that there is progress however little memory there is."""
    simulation = Simulation(4)
    simulation.submit(*(FakeSequence(length=9) for _ in range(4)))
    for _ in range(5):
        simulation.run_once()
    simulation.runner.memory = 1
    simulation.run(60)
    started = [simulation.sequences.index(sequence) for batch in simulation.runner.batches for sequence in batch]
    assert all(sequence.outcomes == ["finished"] for sequence in simulation.sequences)
    assert Counter(started)[0] == 1  # never restarted


def test_request_that_does_not_fit_alone_fails_with_out_of_memory() -> None:
    simulation = Simulation(2, memory=0)
    simulation.submit(FakeSequence(), FakeSequence())
    simulation.run(10)
    assert all(sequence.outcomes == [OUT_OF_MEMORY] for sequence in simulation.sequences)


def test_new_images_do_not_stall_running_sequences() -> None:
    """In a burst, one new image is admitted per iteration, and the running sequence advances in each."""
    simulation = Simulation(16)
    running = FakeSequence(length=100, image_key=b"old")
    simulation.submit(running)
    simulation.run_once()
    simulation.submit(*(FakeSequence(image_key=b"%d" % i, length=20) for i in range(12)))
    for iteration in range(12):
        before = len(simulation.runner.encoded_images)
        simulation.run_once()
        assert len(simulation.runner.encoded_images) == before + 1
        assert running.generated == iteration + 2


def test_idle_engine_admits_several_images_at_once() -> None:
    simulation = Simulation(16)
    simulation.submit(*(FakeSequence(image_key=b"%d" % i) for i in range(12)))
    simulation.run_once()
    assert [len(batch) for batch in simulation.runner.batches] == [IDLE_BUDGET]


def test_prompts_on_cached_images_are_cheap() -> None:
    simulation = Simulation(16)
    simulation.submit(FakeSequence(length=100, image_key=b"old"))
    simulation.run_once()
    simulation.submit(*(FakeSequence(image_key=b"old", length=20) for _ in range(12)))
    simulation.run_once()
    assert len(simulation.runner.batches[-1]) == 1 + NEW_IMAGE_COST
    # Several sequences with one new image encode it once.
    simulation = Simulation(16)
    simulation.submit(FakeSequence(length=100))
    simulation.run_once()
    simulation.submit(
        FakeSequence(image_key=b"new"), *(FakeSequence(image_key=b"new", encoder_tokens=10) for _ in range(3))
    )
    simulation.run_once()
    assert simulation.runner.encoded_images == {b"", b"new"}
    assert len(simulation.loop.running) == 2  # the image used up the budget
    simulation.run_once()
    assert len(simulation.loop.running) == 5


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(1, 9), st.sampled_from([50, 100, 400])), min_size=1, max_size=30))
def test_no_iteration_exceeds_the_encoding_budget(burst: list[tuple[int, int]]) -> None:
    """While others run: one prompt with a new image, or as many as cost the same."""
    simulation = Simulation(32)
    simulation.submit(FakeSequence(length=1000, image_key=b"old", encoder_tokens=50))
    simulation.run_once()
    simulation.submit(*(FakeSequence(image_key=b"%d" % i, encoder_tokens=cost, length=50) for i, cost in burst))
    while len(simulation.scheduler):
        seen, before = set(simulation.runner.encoded_images), len(simulation.runner.batches)
        simulation.run_once()
        (batch,) = simulation.runner.batches[before:]
        cost = sum(sequence.encoder_tokens for sequence in batch)
        new = {sequence.image_key for sequence in batch} - seen
        cost += NEW_IMAGE_COST * sum(next(s.encoder_tokens for s in batch if s.image_key == key) for key in new)
        assert cost <= (1 + NEW_IMAGE_COST) * batch[0].encoder_tokens


def test_cancelling_frees_the_slot_within_one_iteration() -> None:
    simulation = Simulation(1)
    running, waiting = FakeSequence(length=1000), FakeSequence(length=1)
    simulation.submit(running, waiting)
    simulation.run_once()
    simulation.cancel(running)
    simulation.run_once()
    assert running.outcomes == ["cancelled"]
    assert waiting.outcomes == ["finished"]


def test_waiting_sequence_is_cancelled_at_once() -> None:
    simulation = Simulation(1)
    simulation.submit(FakeSequence(length=1000), waiting := FakeSequence())
    simulation.run_once()
    simulation.cancel(waiting)
    assert waiting.outcomes == ["cancelled"]


@pytest.mark.parametrize("error", ["memory", "fault"])
def test_sequence_cancelled_while_its_step_fails_is_not_requeued(error: str) -> None:
    simulation = Simulation(2, failing_calls=[3] if error == "fault" else [])
    simulation.submit(FakeSequence(length=50), last := FakeSequence(length=50))
    simulation.run_once()

    def during() -> None:
        simulation.runner.memory = 1 if error == "memory" else 1000
        simulation.cancel(last)

    simulation.runner.during_call = during
    simulation.loop.run_once()
    assert last.outcomes == ["cancelled"]


def test_deadlines_of_waiting_and_running_sequences() -> None:
    simulation = Simulation(1)
    running, waiting, after = FakeSequence(length=50, deadline=5), FakeSequence(deadline=3), FakeSequence(length=1)
    simulation.submit(running, waiting, after)
    ends: dict[FakeSequence, int] = {}
    for iteration in range(8):
        simulation.run_once()
        ends |= {sequence: iteration for sequence in simulation.sequences if sequence.outcomes and sequence not in ends}
    assert ends == {waiting: 3, running: 5, after: 5}
    assert [type(sequence.outcomes[0]) for sequence in (running, waiting)] == [DeadlineExceededError] * 2


def test_job_is_served_during_a_flood_of_interactive_requests() -> None:
    """Each iteration brings more interactive requests than it can finish, each from a new client."""
    simulation = Simulation(2)
    job = FakeSequence("jobs", interactive=False, length=2)
    simulation.submit(*(FakeSequence(f"first {i}", length=2) for i in range(4)), job)
    for iteration in range(3 * MAX_INTERACTIVE_BEFORE_JOB):
        simulation.submit(*(FakeSequence(f"{iteration} {i}", length=2) for i in range(2)))
        simulation.run_once()
        if job.outcomes:
            break
    assert job.outcomes == ["finished"]
    assert len(simulation.scheduler) > 0


def test_clients_get_equal_shares_of_the_batch() -> None:
    simulation = Simulation(4)
    simulation.submit(
        *(FakeSequence("greedy", length=3) for _ in range(200)),
        *(FakeSequence("moderate", length=3) for _ in range(30)),
    )
    for _ in range(40):
        simulation.run_once()
    done = Counter(sequence.client for sequence in simulation.sequences if sequence.outcomes)
    assert done["moderate"] > 15
    assert abs(done["greedy"] - done["moderate"]) <= 2


def test_interactive_requests_go_before_jobs() -> None:
    simulation = Simulation(2)
    simulation.submit(*(FakeSequence("jobs", interactive=False, length=4) for _ in range(30)))
    for _ in range(6):
        simulation.run_once()
    interactive = FakeSequence("person", length=1)
    simulation.submit(interactive)
    simulation.run(400)
    order = [sequence for batch in simulation.runner.batches for sequence in batch]
    ahead = [sequence for sequence in order[: order.index(interactive)] if sequence.client == "jobs"]
    assert len(ahead) <= 6  # those that ran already, and at most one more


def test_jobs_leave_slots_free_while_interactive_requests_are_expected() -> None:
    simulation = Simulation(4)
    simulation.submit(*(FakeSequence(interactive=False, length=3 + i % 4, image_key=b"seen") for i in range(60)))

    def count_running_jobs() -> int:
        simulation.run_once()
        return sum(not sequence.interactive for sequence in simulation.loop.running)

    assert max(count_running_jobs() for _ in range(8)) == 4  # no interactive requests
    counts = []
    for iteration in range(24):
        if iteration % 3 == 0:
            simulation.submit(FakeSequence(length=1, image_key=b"seen"))
        counts.append(count_running_jobs())
        if iteration > 6:
            # Each ended in the iteration in which it arrived, since a slot was free.
            assert all(sequence.outcomes for sequence in simulation.sequences if sequence.interactive)
    assert max(counts[6:]) == 2
    assert max(count_running_jobs() for _ in range(int(INTERACTIVE_WINDOW) + 8)) == 4
    simulation.run(200)


def test_shutdown_ends_all_sequences() -> None:
    simulation = Simulation(2)
    simulation.submit(*(FakeSequence(length=50) for _ in range(6)))
    simulation.run_once()
    simulation.loop.abort_all = True
    simulation.run_once()
    assert [type(sequence.outcomes[0]) for sequence in simulation.sequences] == [EngineClosedError] * 6


def test_sequence_waits_while_another_runner_encodes_its_image() -> None:
    simulation = Simulation(4)
    sequence, other = FakeSequence(image_key=b"1", length=2), FakeSequence(image_key=b"2", length=2)
    simulation.runner.claimed_elsewhere.add(b"1")
    simulation.submit(sequence, other)
    for _ in range(3):
        simulation.run_once()
    assert sequence not in simulation.loop.running
    simulation.runner.claimed_elsewhere.clear()
    assert simulation.run(10) < 10
    assert (sequence.outcomes, other.outcomes) == (["finished"], ["finished"])
