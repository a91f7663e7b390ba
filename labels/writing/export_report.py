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
        other_files: What is not in the main files of the format, by the file that has it, in numbers by their plural:
            "details.jsonl" → "captions" → 12.
        unreadable: The first ten images that should have been copied, but could not be read. They are left out with
            their annotations.
        shortened: Number of images whose name in the export is that of the source without folders called `images`.
        shortened_example: The first of them: old name, new name; None without any.
        renamed: Number of images whose name in the export differs otherwise. `renamed.csv` in the export lists these
            and the shortened ones.
        renamed_examples: The first ten of them: old name, new name.
        renamed_classes: New names of the classes that the format cannot hold as they are.
        warnings: Numbers of images that other tools or systems may not find or tell apart, by reason.
        warning_examples: The first ten of these images, by reason.
        on_left_out: Called with the image's name and the reason, for everything that is left out.
    """

    images: int = 0
    annotations: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    other_files: dict[str, Counter[str]] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    shortened: int = 0
    shortened_example: tuple[str, str] | None = None
    renamed: int = 0
    renamed_examples: list[tuple[str, str]] = field(default_factory=list)
    renamed_classes: dict[str, str] = field(default_factory=dict)
    warnings: Counter[str] = field(default_factory=Counter)
    warning_examples: dict[str, list[str]] = field(default_factory=dict)
    on_left_out: Callable[[str, str], None] | None = field(default=None, repr=False)

    def leave_out(self, what: str, image: str, label: str = "", count: int = 1) -> None:
        """Counts `count` things that are in no file. `what` is their plural, `label` that of the annotation."""
        self.left_out[what] += count
        if self.on_left_out is not None:
            self.on_left_out(image, f"{what} are left out" + (f": {label!r}" if label else ""))

    def place(self, file: str, what: str, count: int = 1) -> None:
        """Counts things that another file than the main ones of the format has. `what` is their plural."""
        self.other_files.setdefault(file, Counter())[what] += count

    def leave_out_unreadable(self, image: str, error: Exception) -> None:
        """Counts an image that should be copied, but cannot be read."""
        self.left_out["images that cannot be read"] += 1
        if len(self.unreadable) < SHOWN:
            self.unreadable.append(image)
        if self.on_left_out is not None:
            self.on_left_out(image, f"the image cannot be read: {error}")

    def shorten(self, image: str, new_name: str) -> None:
        """Counts an image whose name in the export only lacks folders called `images`."""
        self.shortened += 1
        if self.shortened_example is None:
            self.shortened_example = (image, new_name)

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
            "other_files": {file: dict(counts) for file, counts in self.other_files.items()},
            "renamed": self.renamed,
            "shortened": self.shortened,
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
        """Yields a line for each other file, for each new name of an image or class, up to ten, and for each
        warning."""
        for file, counts in self.other_files.items():
            yield f"{file} has {', '.join(f'{count} {what}' for what, count in counts.items())}"
        if self.shortened_example is not None:
            old, new = map(_show, self.shortened_example)
            yield f"names: {self.shortened} without folders called images, such as {new} for {old}"
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
