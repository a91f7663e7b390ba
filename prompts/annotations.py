"""The shapes a label can have, in pixels of the picture it belongs to.

All coordinates are finite floats; x runs right from 0 to the width, y down from 0 to the height.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Score = Annotated[float, Field(gt=0.0, lt=1.0)]


class _Annotation(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    label: str = Field("", description="What it is: a category, a phrase, or the words that were read.")
    score: Score | None = Field(None, description="The model's confidence, strictly between 0 and 1.")


class Box(_Annotation):
    """An upright rectangle: `box` is x1, y1 (top left), x2, y2 (bottom right)."""

    kind: Literal["box"] = "box"
    box: tuple[float, float, float, float]


class Quad(_Annotation):
    """Four corners x1, y1 … x4, y4, clockwise from the text's top left; `label` holds the words."""

    kind: Literal["quad"] = "quad"
    quad: tuple[float, float, float, float, float, float, float, float]


class Polygon(_Annotation):
    """One instance as one or more rings, each a flat list x1, y1, x2, y2 …"""

    kind: Literal["polygon"] = "polygon"
    polygons: list[list[float]]


class Text(_Annotation):
    """A text answer; `label` is the text itself."""

    kind: Literal["text"] = "text"


Annotation = Annotated[Box | Quad | Polygon | Text, Field(discriminator="kind")]
