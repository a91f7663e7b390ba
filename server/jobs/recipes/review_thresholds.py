"""Thresholds of scores below which labels are to review."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator

from labels.label_kind import LabelKind

Share = Annotated[float, Field(ge=0, le=1)]
DEFAULT_THRESHOLDS = {LabelKind.OBJECTS: 0.9, LabelKind.WORDS: 0.9, LabelKind.CAPTIONS: 0.0}
"""Measured: docs/measurements/review.md."""


class ReviewThresholds(BaseModel):
    """The threshold of each kind of label; 0: its scores are not reviewed. A number is one threshold for objects and
    words."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    objects: Share = Field(0.0, description="Of labels with a class.")
    words: Share = Field(0.0, description="Of text that is read.")
    captions: Share = Field(0.0, description="Of free text about an image or a region.")

    @model_validator(mode="before")
    @classmethod
    def _read_number(cls, value: Any) -> Any:
        if isinstance(value, dict | cls):
            return value
        try:
            threshold = float(value)
        except (TypeError, ValueError):
            threshold = -1.0
        if not 0 <= threshold <= 1:
            raise ValueError(
                "`review_below` is a score from 0 to 1, such as 0.5, or one for each kind of label, such as "
                "{objects: 0.5, words: 0.3, captions: 0}"
            )
        return {"objects": threshold, "words": threshold}

    @model_serializer
    def _write_shortest(self) -> float | dict[str, float]:
        # A number stays a number, so that the hash of a recipe is the one that it had before there were kinds.
        if self.objects == self.words and not self.captions:
            return self.objects
        return {str(kind): threshold for kind in LabelKind if (threshold := self.get(kind))}

    def get(self, kind: LabelKind) -> float:
        """Returns the threshold of a kind."""
        return {LabelKind.OBJECTS: self.objects, LabelKind.WORDS: self.words, LabelKind.CAPTIONS: self.captions}[kind]
