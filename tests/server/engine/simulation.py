"""Runs an `EngineLoop` on a simulated clock, with a runner that counts calls and raises errors on demand."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.engine.loop import EngineLoop
from server.engine.scheduler import Scheduler

OUT_OF_MEMORY = RuntimeError("DefaultCPUAllocator: can't allocate memory")
ENCODER_TOKENS = 100  # of one sequence


@dataclass(eq=False)
class FakeSequence:
    """What the loop sees of a sequence. It generates `length` tokens and ends. `fails_in`: the call that always fails
    with this sequence: "add", "step" or "process_output"."""

    client: str = ""
    interactive: bool = True
    length: int = 3
    image_key: bytes = b""
    encoder_tokens: int = ENCODER_TOKENS
    deadline: float | None = None
    fails_in: str = ""
    run_alone: bool = False
    started_at: float = 0.0
    cancelled: bool = False
    generated: int = 0
    outcomes: list[str | BaseException] = field(default_factory=list)

    def process_output(self) -> bool:
        if self.fails_in == "process_output":
            raise ValueError("the output cannot be parsed")
        return self.generated >= self.length

    def finish(self) -> None:
        assert self.generated >= self.length
        self.outcomes.append("finished")

    def abort(self) -> None:
        assert self.cancelled
        self.outcomes.append("cancelled")

    def fail(self, error: BaseException) -> None:
        self.outcomes.append(error)

    def restart(self) -> None:
        self.generated = 0


class FakeRunner:
    """`memory`: how many sequences fit into memory. `failing_calls`: numbers of the calls that fail in any case."""

    def __init__(self, max_batch: int, memory: int = 1000, failing_calls: Sequence[int] = ()) -> None:
        self.max_batch, self.memory, self.failing_calls = max_batch, memory, set(failing_calls)
        self.running: list[FakeSequence] = []
        self.encoded_images = set[bytes]()
        self.claimed_elsewhere = set[bytes]()  # images that another runner encodes
        self.batches: list[list[FakeSequence]] = []
        self.calls = 0
        self.during_call: Callable[[], None] = lambda: None  # what another thread does at the same time

    def has_features(self, sequence: FakeSequence) -> bool:
        return sequence.image_key in self.encoded_images

    def claim_image(self, sequence: FakeSequence) -> bool:
        return sequence.image_key not in self.claimed_elsewhere

    def add(self, sequences: Sequence[FakeSequence]) -> None:
        assert not set(sequences) & set(self.running)
        self.running += sequences
        assert len(self.running) <= self.max_batch
        self._call("add", sequences)
        self.encoded_images |= {sequence.image_key for sequence in sequences}
        self.batches.append(list(sequences))

    def step(self) -> None:
        self._call("step", self.running)
        for sequence in self.running:
            sequence.generated += 1

    def remove(self, sequence: FakeSequence) -> None:
        if sequence in self.running:
            self.running.remove(sequence)

    def _call(self, name: str, sequences: Sequence[FakeSequence]) -> None:
        self.during_call()
        self.calls += 1
        if self.calls in self.failing_calls:
            raise RuntimeError("a temporary fault")
        if any(sequence.fails_in == name for sequence in sequences):
            raise RuntimeError("a permanent fault")
        if len(self.running) > self.memory:
            raise OUT_OF_MEMORY


class Simulation:
    """A loop, its scheduler and runner, and the engine's side of them. One iteration takes a second."""

    def __init__(self, max_batch: int, **runner: Any) -> None:
        self.now, self.sequences = 0.0, list[FakeSequence]()
        self.runner = FakeRunner(max_batch, **runner)
        self.scheduler: Any = Scheduler(1000, lambda: self.now)
        self.lock = threading.RLock()
        fake_runner: Any = self.runner
        self.loop: Any = EngineLoop(fake_runner, self.scheduler, self.lock, max_batch=max_batch, clock=lambda: self.now)

    def submit(self, *sequences: FakeSequence) -> None:
        for sequence in sequences:
            self.scheduler.add(sequence)
            self.sequences.append(sequence)

    def cancel(self, sequence: FakeSequence) -> None:
        """Cancels as the engine does, from any thread."""
        sequence.cancelled = True
        with self.lock:
            was_waiting = self.scheduler.remove(sequence)
        if was_waiting:
            sequence.abort()

    def run_once(self) -> None:
        """Runs one iteration and checks what holds after each of them."""
        cancelled = [s for s in self.sequences if s.cancelled]
        expired = [s for s in self.sequences if s.deadline is not None and s.deadline <= self.now]
        self.loop.run_once()
        for sequence in cancelled + expired:
            assert sequence.outcomes
        assert set(self.runner.running) == set(self.loop.running)
        assert not any(sequence.outcomes for sequence in self.runner.running)
        assert len(self.loop.running) + len(self.scheduler) == sum(not s.outcomes for s in self.sequences)
        assert 1 <= self.loop.capacity <= self.loop.max_batch
        self.now += 1

    def run(self, limit: int) -> int:
        """Runs until all sequences have ended. Returns the number of iterations, which must not exceed `limit`."""
        for iteration in range(limit):
            if all(sequence.outcomes for sequence in self.sequences):
                return iteration
            self.run_once()
        unfinished = sum(not sequence.outcomes for sequence in self.sequences)
        raise AssertionError(f"{unfinished} sequences have not ended after {limit} iterations")
