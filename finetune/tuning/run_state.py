"""The state of a run, from which it continues after a stop or a crash: `state.pt`."""

import errno
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import torch

from finetune.tuning.sample_tokens import LongSample

STATE_FILE = "state.pt"
_EXAMPLES = 20


@dataclass(slots=True)
class RunState:
    """The progress of a run.

    `step`: completed steps; `seconds`: training time; `before`, `best`: the validation metric of the start and of the
    best trained checkpoint, which is of `best_step`; `without_improvement`: validations since the metric was better
    than all before; `pending`: the log line of a validation that was interrupted; `recent`: the parts of the loss since
    the last log line; `left_out`: samples that were too long for the model so far; `left_out_examples`: the first of
    them; `validations`, `validation_seconds`: how many, and their time; `errors`: those of each holdout image by step;
    `weights`: the labels of each; `found`: the objects that the start found, by class.
    """

    step: int = 0
    seconds: float = 0.0
    before: float | None = None
    best: float | None = None
    best_step: int = 0
    without_improvement: int = 0
    pending: dict[str, float] | None = None
    recent: dict[str, list[float]] = field(default_factory=dict)
    left_out: int = 0
    left_out_examples: list[str] = field(default_factory=list)
    validations: int = 0
    validation_seconds: float = 0.0
    errors: dict[int, list[float]] = field(default_factory=dict)
    weights: list[float] = field(default_factory=list)
    found: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add_losses(self, parts: dict[str, float]) -> None:
        """Adds the parts of a step's loss."""
        for name, value in parts.items():
            self.recent.setdefault(name, []).append(value)

    def add_left_out(self, samples: Iterable[LongSample]) -> None:
        """Counts samples that are too long for the model. The first ones are named."""
        for sample in samples:
            self.left_out += 1
            example = f"{sample.image}: {sample}"
            if len(self.left_out_examples) < _EXAMPLES and example not in self.left_out_examples:
                self.left_out_examples.append(example)

    def take_averages(self) -> dict[str, float]:
        """Returns the mean parts of the loss since the last log line, and clears them."""
        averages = {name: sum(values) / len(values) for name, values in self.recent.items()}
        self.recent.clear()
        return averages

    def to_record(self) -> dict[str, Any]:
        """Returns its part of `run.json`."""
        return {
            "before": self.before,
            "best": None if self.best is None else {"validation": self.best, "step": self.best_step},
            "seconds": round(self.seconds, 1),
            "validation_seconds": round(self.validation_seconds, 1),
        }

    def save(self, folder: Path, trainer: dict[str, Any]) -> None:
        """Writes the state and the trainer's: completely, or the old file stays. Raises OSError."""
        partial = folder / "state.partial"
        try:
            torch.save({**asdict(self), "trainer": trainer}, partial)
        except (OSError, RuntimeError) as error:
            partial.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise
            # torch reports a full disk by RuntimeError.
            raise OSError(errno.EIO, f"it cannot be written, the disk may be full ({error})", partial) from error
        partial.replace(folder / STATE_FILE)

    @classmethod
    def load(cls, folder: Path) -> tuple[Self, dict[str, Any]] | None:
        """Returns the saved state and the trainer's; None if there is none."""
        if not (folder / STATE_FILE).exists():
            return None
        content = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
        trainer = content.pop("trainer")
        if not content["best_step"]:  # in older versions, the start could be the best
            content["best"] = None
        return cls(**content), trainer
