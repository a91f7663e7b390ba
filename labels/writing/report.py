"""What came of an export."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

_NAMED = 10


@dataclass(slots=True)
class Report:
    """How many pictures and annotations were written, and of what the format cannot say how many were left out
    (`left_out`: "captions" → 12). `unread`: the first ten pictures that were to be copied and could not be read; they
    are left out with their labels."""

    pictures: int = 0
    annotations: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    unread: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """As JSON says it."""
        return {
            "pictures": self.pictures,
            "annotations": self.annotations,
            "left_out": dict(self.left_out),
            "unread": self.unread,
        }

    def unreadable(self, name: str) -> None:
        """Counts a picture that was to be copied and could not be read."""
        self.left_out["pictures that cannot be read"] += 1
        if len(self.unread) < _NAMED:
            self.unread.append(name)
