"""The state of a run, from which it continues after a stop or a crash: `state.pt`."""

import errno
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import torch

STATE_FILE = "state.pt"


@dataclass(slots=True)
class RunState:
    """The progress of a run.

    `step`: completed steps; `seconds`: training time; `before`, `best`: the validation metric of the start and of the
    best checkpoint, which is of `best_step`; `without_improvement`: validations since then; `pending`: the log line of
    a validation that was interrupted; `recent`: the parts of the loss since the last log line.
    """

    step: int = 0
    seconds: float = 0.0
    before: float | None = None
    best: float | None = None
    best_step: int = 0
    without_improvement: int = 0
    pending: dict[str, float] | None = None
    recent: dict[str, list[float]] = field(default_factory=dict)

    def add_losses(self, parts: dict[str, float]) -> None:
        """Adds the parts of a step's loss."""
        for name, value in parts.items():
            self.recent.setdefault(name, []).append(value)

    def take_averages(self) -> dict[str, float]:
        """Returns the mean parts of the loss since the last log line, and clears them."""
        averages = {name: sum(values) / len(values) for name, values in self.recent.items()}
        self.recent.clear()
        return averages

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
        return cls(**content), trainer
