"""The intermediate results of a step."""

from dataclasses import dataclass, replace

from labels.geometry import Rectangle, bounding_box_or_none
from prompts.annotations import Annotation


@dataclass(frozen=True, slots=True, eq=False)
class Finding:
    """An annotation with its label from the ontology, in pixels of the image, before it is stored.

    `words` are the model's words for it, `prompt` the text of the prompt, and `raw` the whole answer. `parent` is the
    finding whose region the prompt was about. `review_reasons` are the reasons why a person should check it. `is_cut`
    is whether it ends at the edge of a tile, so that it may be a part of an object. Findings are compared by identity.
    """

    annotation: Annotation
    words: str = ""
    prompt: str = ""
    raw: str = ""
    parent: "Finding | None" = None
    review_reasons: tuple[str, ...] = ()
    is_cut: bool = False

    @property
    def label(self) -> str:
        return self.annotation.label

    @property
    def score(self) -> float:
        """The model's score; 1 if it gave none."""
        return 1.0 if self.annotation.score is None else self.annotation.score

    @property
    def box(self) -> Rectangle | None:
        return bounding_box_or_none(self.annotation)

    def with_review_reason(self, reason: str) -> "Finding":
        """Returns the finding with one more reason for review."""
        return replace(self, review_reasons=(*self.review_reasons, reason))
