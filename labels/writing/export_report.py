"""The result of an export: what was written, and what the format cannot hold."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

_SHOWN = 10


@dataclass(slots=True)
class ExportReport:
    """Counts of an export.

    Attributes:
        images: Number of written images.
        annotations: Number of written annotations.
        left_out: Numbers of things that were left out, by their plural: "captions" → 12.
        unreadable: The first ten images that should have been copied, but could not be read. They are left out with
            their annotations.
        on_left_out: Called with the image's name and the reason, for everything that is left out.
    """

    images: int = 0
    annotations: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)
    on_left_out: Callable[[str, str], None] | None = field(default=None, repr=False)

    def leave_out(self, what: str, image: str, label: str = "", count: int = 1) -> None:
        """Counts `count` things that the format cannot hold. `what` is their plural, `label` that of the annotation."""
        self.left_out[what] += count
        if self.on_left_out is not None:
            self.on_left_out(image, f"{what} have no place in this format" + (f": {label!r}" if label else ""))

    def leave_out_unreadable(self, image: str, error: Exception) -> None:
        """Counts an image that should be copied, but cannot be read."""
        self.left_out["images that cannot be read"] += 1
        if len(self.unreadable) < _SHOWN:
            self.unreadable.append(image)
        if self.on_left_out is not None:
            self.on_left_out(image, f"the image cannot be read: {error}")

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as a JSON object."""
        return {
            "images": self.images,
            "annotations": self.annotations,
            "left_out": dict(self.left_out),
            "unreadable": self.unreadable,
        }
