"""The result of an export: what was written, what has another name, and what the format cannot hold."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

SHOWN = 10
RENAMED_FILE = "renamed.csv"


@dataclass(slots=True)
class ExportReport:
    """Counts of an export.

    Attributes:
        images: Number of written images.
        annotations: Number of written annotations.
        left_out: Numbers of things that were left out, by their plural: "captions" → 12.
        unreadable: The first ten images that should have been copied, but could not be read. They are left out with
            their annotations.
        renamed: Number of images whose name in the export differs. `renamed.csv` in the export lists all of them.
        renamed_examples: The first ten of them: old name, new name.
        renamed_classes: New names of the classes that the format cannot hold as they are.
        warnings: Numbers of images that other tools or systems may not find or tell apart, by reason.
        warning_examples: The first ten of these images, by reason.
        on_left_out: Called with the image's name and the reason, for everything that is left out.
    """

    images: int = 0
    annotations: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)
    renamed: int = 0
    renamed_examples: list[tuple[str, str]] = field(default_factory=list)
    renamed_classes: dict[str, str] = field(default_factory=dict)
    warnings: Counter[str] = field(default_factory=Counter)
    warning_examples: dict[str, list[str]] = field(default_factory=dict)
    on_left_out: Callable[[str, str], None] | None = field(default=None, repr=False)

    def leave_out(self, what: str, image: str, label: str = "", count: int = 1) -> None:
        """Counts `count` things that the format cannot hold. `what` is their plural, `label` that of the annotation."""
        self.left_out[what] += count
        if self.on_left_out is not None:
            self.on_left_out(image, f"{what} have no place in this format" + (f": {label!r}" if label else ""))

    def leave_out_unreadable(self, image: str, error: Exception) -> None:
        """Counts an image that should be copied, but cannot be read."""
        self.left_out["images that cannot be read"] += 1
        if len(self.unreadable) < SHOWN:
            self.unreadable.append(image)
        if self.on_left_out is not None:
            self.on_left_out(image, f"the image cannot be read: {error}")

    def rename(self, image: str, new_name: str) -> None:
        """Counts an image that has another name in the export."""
        self.renamed += 1
        if len(self.renamed_examples) < SHOWN:
            self.renamed_examples.append((image, new_name))

    def rename_class(self, label: str, new_name: str) -> str:
        """Records the name of a class in the export, if it differs, and returns it."""
        if label != new_name:
            self.renamed_classes[label] = new_name
        return new_name

    def warn(self, what: str, image: str) -> None:
        """Counts an image that other tools or systems may not find or tell apart."""
        self.warnings[what] += 1
        examples = self.warning_examples.setdefault(what, [])
        if len(examples) < SHOWN:
            examples.append(image)

    def count(self) -> dict[str, Any]:
        """Returns the numbers alone as a JSON object."""
        return {
            "images": self.images,
            "annotations": self.annotations,
            "left_out": dict(self.left_out),
            "renamed": self.renamed,
            "renamed_classes": len(self.renamed_classes),
            "warnings": dict(self.warnings),
        }

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as a JSON object."""
        return self.count() | {
            "unreadable": self.unreadable,
            "renamed_examples": self.renamed_examples,
            "renamed_classes": self.renamed_classes,
            "warning_examples": self.warning_examples,
        }

    def iter_remarks(self) -> Iterator[str]:
        """Yields a line for each new name of an image or class, up to ten, and for each warning."""
        for old, new in self.renamed_examples:
            yield f"renamed: {_show(old)} is called {_show(new)} in this dataset"
        if self.renamed > len(self.renamed_examples):
            yield f"renamed: {self.renamed} images; {RENAMED_FILE} in the dataset lists all of them"
        for old, new in list(self.renamed_classes.items())[:SHOWN]:
            yield f"renamed: the class {_show(old)} is called {_show(new)} in this dataset"
        if (more := len(self.renamed_classes) - SHOWN) > 0:
            yield f"renamed: {more} more classes"
        for what, count in self.warnings.items():
            examples = ", ".join(map(_show, self.warning_examples[what]))
            yield f"warning: {count} {what}: {examples}{', …' * (count > SHOWN)}"


def _show(name: str) -> str:
    """Returns a name as one word on a terminal: names may contain spaces and control characters."""
    return name if name.isprintable() and " " not in name else repr(name)
