"""Annotations: shapes and texts with a label and a score, in pixels of their image.

All coordinates are finite floats. x runs right from 0 to the width, y runs down from 0 to the height.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Score = Annotated[float, Field(gt=0.0, lt=1.0)]
MIN_SCORE = 1e-6
"""The lowest score that florist computes; the highest is 1 - MIN_SCORE."""


def clamp_score(score: float) -> float:
    """Returns the score, at least MIN_SCORE and at most 1 - MIN_SCORE. NaN becomes MIN_SCORE."""
    return min(score, 1 - MIN_SCORE) if score > MIN_SCORE else MIN_SCORE


class _BaseAnnotation(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    label: str = Field("", description="A class, a phrase, or the recognized text.")
    score: Score | None = Field(None, description="The model's confidence, strictly between 0 and 1.")


class Box(_BaseAnnotation):
    """An axis-aligned rectangle: `box` is x1, y1 (top left), x2, y2 (bottom right)."""

    kind: Literal["box"] = "box"
    box: tuple[float, float, float, float]


class Quad(_BaseAnnotation):
    """Four corners x1, y1 … x4, y4, clockwise from the top left of the text; `label` is the text."""

    kind: Literal["quad"] = "quad"
    quad: tuple[float, float, float, float, float, float, float, float]


class Polygon(_BaseAnnotation):
    """One instance as one or more rings, each a flat list x1, y1, x2, y2 …"""

    kind: Literal["polygon"] = "polygon"
    polygons: list[list[float]]


class Text(_BaseAnnotation):
    """A text answer; `label` is the text itself."""

    kind: Literal["text"] = "text"


Annotation = Annotated[Box | Quad | Polygon | Text, Field(discriminator="kind")]
