"""The intermediate results of a step."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from labels.dropped_labels import DropReason
from labels.geometry import Rectangle, bounding_box_or_none
from prompts.annotations import Annotation


@dataclass(frozen=True, slots=True, eq=False)
class Finding:
    """An annotation with its label from the ontology, in pixels of the image, before it is stored.

    `words` are the model's words for it, `prompt` the text of the prompt, and `raw` the whole answer. `parent` is the
    finding whose region the prompt was about. `review_reasons` are the reasons why a person should check it. `is_cut`
    is whether it ends at the edge of a tile, so that it may be a part of an object. `dropped` is why it is not kept;
    None if it is. Findings are compared by identity.
    """

    annotation: Annotation
    words: str = ""
    prompt: str = ""
    raw: str = ""
    parent: "Finding | None" = None
    review_reasons: tuple[str, ...] = ()
    is_cut: bool = False
    dropped: DropReason | None = None

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


def split_dropped(findings: Iterable[Finding]) -> tuple[list[Finding], list[Finding]]:
    """Returns the findings that are kept, and those that are dropped."""
    kept: list[Finding] = []
    dropped: list[Finding] = []
    for finding in findings:
        (kept if finding.dropped is None else dropped).append(finding)
    return kept, dropped
