"""Scores made to be as high as the answers are often right, as `finetune.calibration` found out on held-out labels.

A scale maps a score to another, rising and within 0 to 1, so that the order of a task's answers stays. One for each
task lies beside the weights, a checkpoint's or an adapter's, and is for those weights alone.
"""

import bisect
import json
import math
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from prompts.annotations import Annotation
from prompts.tasks import Task

CALIBRATION_FILE = "calibration.json"
_MOST = 16 << 20  # bytes of its file: a curve of a hundred thousand knots for each task
_LOWEST = 1e-6  # as the grammar's scores have it
Probability = Annotated[float, Field(gt=0, lt=1)]


class CalibrationError(ValueError):
    """A calibration that cannot be used; the message says what to do."""


class StaleCalibrationError(CalibrationError):
    """One of other weights."""


class _Scale(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TemperatureScale(_Scale):
    """σ(logit(score) / `temperature` + `shift`): temperature scaling (Guo et al. 2017), with Platt's shift (1999)."""

    kind: Literal["temperature"] = "temperature"
    temperature: float = Field(gt=0)
    shift: float = 0.0

    def __call__(self, score: float) -> float:
        logit = math.log(score) - math.log1p(-score)
        return _within(1 / (1 + math.exp(-max(-40.0, min(logit / self.temperature + self.shift, 40.0)))))


class IsotonicScale(_Scale):
    """Straight lines between `scores` and what they become, `shares`, and from there to the corners 0 and 1."""

    kind: Literal["isotonic"] = "isotonic"
    scores: tuple[Probability, ...] = Field(min_length=1)
    shares: tuple[Probability, ...]

    @model_validator(mode="after")
    def _rising(self) -> Self:
        rise = all(a < b for values in (self.scores, self.shares) for a, b in pairwise(values))
        if len(self.scores) != len(self.shares) or not rise:
            raise ValueError("scores and shares must be as many, and rise")
        return self

    def __call__(self, score: float) -> float:
        xs, ys = (0.0, *self.scores, 1.0), (0.0, *self.shares, 1.0)
        i = bisect.bisect_right(xs, score, 1, len(xs) - 1)
        along = (score - xs[i - 1]) / (xs[i] - xs[i - 1])
        return _within(ys[i - 1] + along * (ys[i] - ys[i - 1]))


Scale = Annotated[TemperatureScale | IsotonicScale, Field(discriminator="kind")]


class Calibration(_Scale):
    """Scales by task token, and `sha256`, the hash of the weights they are for, as the engine tells it. A version that
    knew adapters alone wrote `adapter_sha256`."""

    sha256: str = Field(validation_alias=AliasChoices("sha256", "adapter_sha256"))
    tasks: dict[str, Scale]

    def scale(self, task: Task) -> "TemperatureScale | IsotonicScale | None":
        """That of a task, None where its scores stay as they are."""
        return self.tasks.get(task.token)


def read_calibration(folder: Path, sha256: str) -> Calibration | None:
    """The calibration in the folder of weights, None where there is none. `sha256`: of the weights. Raises
    CalibrationError for one that is broken or of other weights."""
    try:
        if (folder / CALIBRATION_FILE).stat().st_size > _MOST:
            raise CalibrationError(
                f"its {CALIBRATION_FILE} has more than {_MOST:,} bytes; calibrate it again, or remove the file"
            )
        text = (folder / CALIBRATION_FILE).read_text(encoding="utf-8")
        found = Calibration.model_validate_json(text)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise CalibrationError(
            f"its {CALIBRATION_FILE} cannot be used: {what}; calibrate it again, or remove the file"
        ) from error
    if found.sha256 != sha256:
        raise StaleCalibrationError(
            f"its {CALIBRATION_FILE} is of the weights {found.sha256}, and these are {sha256}; calibrate it again, or "
            "remove the file"
        )
    return found


def write_calibration(folder: Path, calibration: Calibration) -> None:
    """Beside the weights. Raises OSError."""
    text = json.dumps(calibration.model_dump(), indent=2)
    part = folder / f".{CALIBRATION_FILE}"
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(folder / CALIBRATION_FILE)


def apply_scale(annotations: Iterable[Annotation], scale: TemperatureScale | IsotonicScale | None) -> list[Annotation]:
    """The annotations with their scores on a scale."""
    if scale is None:
        return list(annotations)
    return [
        note if note.score is None else note.model_copy(update={"score": scale(note.score)}) for note in annotations
    ]


def _within(score: float) -> float:
    return min(max(score, _LOWEST), 1 - _LOWEST)
