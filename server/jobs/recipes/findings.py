"""What a step found, on its way to becoming labels."""

from dataclasses import dataclass, replace

from labels.geometry import Rectangle, bounding_box_or_none
from prompts.annotations import Annotation


@dataclass(frozen=True, slots=True, eq=False)
class Finding:
    """An annotation in the picture's pixels, under the project's label; `words`: what the model called it.

    `prompt`, `raw`, `review` of a label: what was asked, the whole answer, why a person should look. `parent`: the
    finding whose region was asked about. `cut`: it ends where a tile does, so it may be part of a thing. Two findings
    are the same only where they are one object.
    """

    annotation: Annotation
    words: str = ""
    prompt: str = ""
    raw: str = ""
    parent: "Finding | None" = None
    doubts: tuple[str, ...] = ()
    cut: bool = False

    @property
    def label(self) -> str:
        return self.annotation.label

    @property
    def score(self) -> float:
        """1 where the model did not say."""
        return 1.0 if self.annotation.score is None else self.annotation.score

    @property
    def box(self) -> Rectangle | None:
        return bounding_box_or_none(self.annotation)

    def doubted(self, doubt: str) -> "Finding":
        return replace(self, doubts=(*self.doubts, doubt))
