"""The progress of a run, for people who watch it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from finetune.tuning.time_estimate import TimeEstimate


@dataclass(frozen=True, slots=True)
class TuneProgress:
    """Where a run is.

    `validated`: the share of the current validation that is done, None while it trains; `losses`: the newest parts of
    the training loss; `before`, `validation`: the validation metric of the start and the newest one; `seconds_left`: at
    `time`, None if not known yet; `step_seconds`, `validation_seconds`: measured so far; `validations_left`: after this
    one.
    """

    step: int
    steps: int
    validated: float | None
    losses: Mapping[str, float]
    before: float | None
    validation: float | None
    seconds_left: float | None
    step_seconds: float
    validation_seconds: float
    validations_left: int
    time: float = field(default_factory=time.monotonic)

    @property
    def is_complete(self) -> bool:
        """Whether the last step is trained and validated."""
        return self.step >= self.steps and self.validated is None

    def count_down(self) -> float | None:
        """Returns the seconds that are left now."""
        return None if self.seconds_left is None else max(0.0, self.seconds_left - (time.monotonic() - self.time))


def create_progress(
    step: int, steps: int, estimate: TimeEstimate, losses: Mapping[str, float], before: float | None,
    validation: float | None, validated: float | None = None,
) -> TuneProgress:  # fmt: skip
    """Returns the progress at a step."""
    left = estimate.compute_left(step)
    if left is not None and validated is not None:
        left += (1 - validated) * estimate.validation_seconds
    return TuneProgress(
        step, steps, validated, losses, before, validation, left, estimate.step_seconds, estimate.validation_seconds,
        estimate.count_validations(step),
    )  # fmt: skip
