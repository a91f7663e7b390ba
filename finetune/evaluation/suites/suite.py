"""The parts of a suite: its samples, and the metrics that are compared with published ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.evaluation.report import EvaluationReport
from labels.dataset import DatasetError, UnusableEntry
from labels.image_files import ImageFile, read_size
from labels.image_folders import ImageFolders
from labels.image_resolver import ImageResolver
from labels.images import ImageError
from labels.labeled_image import LabeledImage
from labels.sample import Sample

CHECKPOINTS = ("base", "large", "base-ft", "large-ft")
"""The checkpoints that Florence-2's authors report (arXiv:2311.06242, and the model cards)."""


@dataclass(frozen=True, slots=True)
class SuiteMetric:
    """A metric of a published table, in percent if the table uses percent.

    `value`: of the evaluated model; `published`: by checkpoint.
    """

    task: str
    metric: str
    value: float
    published: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Suite:
    """A test set. `compute_metrics` takes the evaluation of `samples`; `unusable`: missing and broken entries."""

    samples: Sequence[tuple[LabeledImage, Sequence[Sample]]]
    compute_metrics: Callable[[EvaluationReport], list[SuiteMetric]]
    unusable: Sequence[UnusableEntry] = ()


class SuiteBuilder:
    """Collects the images of a suite and their samples."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """`folders`: where to look for images, in this order."""
        self._resolver, self._folders = ImageResolver(folders[0]), ImageFolders.from_folders(*folders)
        self._images: dict[str, tuple[LabeledImage, list[Sample]] | None] = {}
        self.unusable: list[UnusableEntry] = []

    def add(self, name: str, source: str, samples: Sequence[Sample]) -> None:
        """Adds samples of the image file `name`; if it cannot be read, it is reported once."""
        if name not in self._images:
            self._images[name] = self._open(name, source)
        if (entry := self._images[name]) is not None:
            entry[1].extend(samples)

    def build(self, compute_metrics: Callable[[EvaluationReport], list[SuiteMetric]]) -> Suite:
        """Returns the suite. Raises DatasetError if no image was found."""
        samples = [entry for entry in self._images.values() if entry]
        if not samples:
            reason = f": {self.unusable[0]}" if self.unusable else ""
            raise DatasetError(f"no image of the suite was found{reason}")
        return Suite(samples, compute_metrics, self.unusable)

    def _open(self, name: str, source: str) -> tuple[LabeledImage, list[Sample]] | None:
        try:
            file = ImageFile(self._resolver.find(name, self._folders).path)
            return LabeledImage(name, source, *read_size(file), (), file), []
        except (OSError, ImageError) as error:
            self.unusable.append(UnusableEntry(source, str(error)))
            return None


def find_file(folder: Path, *patterns: str, needs: str) -> Path:
    """Returns the first file, by name, of the first pattern that matches. Raises DatasetError."""
    for pattern in patterns:
        if files := sorted(folder.glob(pattern)):
            return files[0]
    raise DatasetError(f"{folder} has no {' or '.join(patterns)}: {needs}")
