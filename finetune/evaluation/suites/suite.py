"""What a suite is: questions, and how their answers make the figures of a published table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.evaluation.report import Report
from labels.dataset import DatasetError, Example, Unusable
from labels.image_files import PictureFile, found, size_of
from labels.images import PictureError
from labels.sample import Question

COLUMNS = ("base", "large", "base-ft", "large-ft")
"""The checkpoints that Florence-2's authors report (arXiv:2311.06242, and the model's card)."""


@dataclass(frozen=True, slots=True)
class Row:
    """A figure of the table, times a hundred where the table has it so; `published`: by checkpoint, what is known."""

    task: str
    figure: str
    here: float
    published: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Suite:
    """`rows` are made of the report of `questions`; `trouble`: what is missing or broken."""

    questions: Sequence[tuple[Example, Sequence[Question]]]
    rows: Callable[[Report], list[Row]]
    trouble: Sequence[Unusable] = ()


class Gathering:
    """The pictures of a suite, each with its questions, as they come."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """`folders`: where pictures may lie, the likeliest first."""
        self._folders = list(folders)
        self._kept: dict[str, tuple[Example, list[Question]] | None] = {}
        self.trouble: list[Unusable] = []

    def add(self, picture: str, source: str, questions: Sequence[Question]) -> None:
        """Questions about a picture of that file name; trouble, told once, where it cannot be read."""
        if picture not in self._kept:
            self._kept[picture] = self._picture(picture, source)
        if (kept := self._kept[picture]) is not None:
            kept[1].extend(questions)

    def suite(self, rows: Callable[[Report], list[Row]]) -> Suite:
        """All of it. Raises DatasetError where no picture is there."""
        questions = [kept for kept in self._kept.values() if kept]
        if not questions:
            why = f": {self.trouble[0]}" if self.trouble else ""
            raise DatasetError(f"no picture of the suite was found{why}")
        return Suite(questions, rows, self.trouble)

    def _picture(self, name: str, source: str) -> tuple[Example, list[Question]] | None:
        try:
            picture = PictureFile(found(name, self._folders))
            return Example(name, source, *size_of(picture), (), picture), []
        except (OSError, PictureError) as error:
            self.trouble.append(Unusable(source, str(error)))
            return None


def only(folder: Path, *patterns: str, needs: str) -> Path:
    """The file of the first pattern that any has; the first by name. Raises DatasetError."""
    for pattern in patterns:
        if files := sorted(folder.glob(pattern)):
            return files[0]
    raise DatasetError(f"{folder} holds no {' or '.join(patterns)}: {needs}")
