"""The result of a fine-tune run, and its errors."""

from dataclasses import dataclass
from pathlib import Path

from finetune.tuning.gain import TuneGain


@dataclass(frozen=True, slots=True)
class TuneResult:
    """The result of a run.

    `folder`: the best adapter or checkpoint; `steps`: completed steps; `before`, `best`: the validation metric of the
    start (the base, or `start_adapter`) and of the best trained step, None without a holdout; `best_step`: the step of
    `best`, 0 if none was validated; `seconds`: training time; `validation_seconds`: the time of all validations;
    `stopped`: why the run ended before its last step; `left_out`: how often a sample was too long for the model, and
    `left_out_examples`: the first of these samples, by image and task; `gain`: whether `best` is better than `before`,
    None if that was not measured.
    """

    folder: Path
    steps: int
    before: float | None
    best: float | None
    best_step: int
    seconds: float
    validation_seconds: float = 0.0
    stopped: str = ""
    left_out: int = 0
    left_out_examples: tuple[str, ...] = ()
    gain: TuneGain | None = None


class TuneError(RuntimeError):
    """A run cannot start or continue. The message says what to do. Saved checkpoints stay valid."""


class DivergenceError(TuneError):
    """The loss or its gradient became NaN or Inf.

    `cause` says at which step. `result` is the run up to the best checkpoint before it, which its folder contains; the
    `best_step` is 0 if no step was better than the start.
    """

    def __init__(self, cause: str, result: TuneResult) -> None:
        super().__init__(
            f"{cause} and use another folder. The best checkpoint, of step {result.best_step}, is in {result.folder}"
        )
        self.cause, self.result = cause, result
