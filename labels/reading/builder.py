"""What a reader finds in a source, gathered into a dataset: examples, and what of it cannot be used."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ParamSpec

from labels.dataset import Dataset, DatasetError, Example, Labels, Unusable
from labels.image_files import Encoded, PictureFile, size_of
from labels.images import PictureError
from labels.reading.checks import LabelError
from labels.sample import Question
from prompts.annotations import Annotation

_TOLD = 5  # reasons why nothing can be used
_KINDS = {"box": Labels.OBJECTS, "polygon": Labels.OBJECTS, "quad": Labels.WORDS, "text": Labels.CAPTIONS}

P = ParamSpec("P")
Size = tuple[int, int]


@dataclass
class Draft:
    """A picture whose labels are being read."""

    gathering: "Gathering"
    name: str
    source: str
    size: Size
    open: Encoded
    notes: list[Annotation] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    lacking: set[Labels] = field(default_factory=set)
    """Kinds of which some label could not be used, so that not all is known."""
    complete: set[Labels] | None = None
    """Kinds of which all is labelled, where the source says so; None: those that occur in the dataset."""
    refused: bool = False

    @property
    def place(self) -> Path:
        """Where the picture lies. Raises TypeError where that is no file of its own."""
        if not isinstance(self.open, PictureFile):
            raise TypeError(f"{self.name} is no file")
        return self.open.path

    def add(
        self,
        kind: Labels,
        source: str,
        make: Callable[P, Annotation],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Annotation | None:
        """Takes what `make` gives for the arguments; where it raises LabelError, that is noted, and the picture is no
        longer known to have all labels of its kind."""
        try:
            note = make(*args, **kwargs)
        except LabelError as error:
            self.refuse(kind, source, str(error))
            return None
        self.notes.append(note)
        return note

    def refuse(self, kind: Labels, source: str, reason: str) -> None:
        """Notes a label that cannot be used."""
        self.lacking.add(kind)
        self.refused = True
        self.gathering.refuse(source, reason)


class Gathering:
    """The pictures and labels of the dataset at `path`. `partial`: what is labelled is not all that pictures show."""

    def __init__(self, path: Path, *, partial: bool = False) -> None:
        self.path, self.partial = path, partial
        self._drafts: dict[str, Draft] = {}  # by the pictures' names
        self._unusable: list[Unusable] = []

    def refuse(self, source: str, reason: str) -> None:
        """Notes a picture or label that cannot be used."""
        self._unusable.append(Unusable(source, reason))

    def picture(self, name: str, source: str, opened: Encoded, size: Size | None = None) -> Draft | None:
        """A picture to read labels for; None where it is missing, broken, of another `size` (width, height) than its
        labels were made for, or called like an earlier one, which is noted."""
        if (earlier := self._drafts.get(name)) is not None:
            self.refuse(source, f"its picture {name!r} has been described already: {earlier.source}")
            return None
        try:
            true = size_of(opened)
        except (OSError, PictureError) as error:
            self.refuse(source, _said(error))
            return None
        if size is not None and size != true:
            turned = "; its EXIF turns it: save it upright" if size == true[::-1] else ""
            self.refuse(
                source, f"its labels are for {size[0]}×{size[1]} pixels, its picture has {true[0]}×{true[1]}{turned}"
            )
            return None
        draft = self._drafts[name] = Draft(self, name, source, true, opened)
        return draft

    def dataset(self) -> Dataset:
        """All of it. A kind of label that occurs at all is complete in every picture of which no label was refused;
        a picture that says nothing is left out. Raises DatasetError where nothing is left."""
        kinds = {_KINDS[note.kind] for draft in self._drafts.values() for note in draft.notes} - {Labels.CAPTIONS}
        if self.partial:
            kinds = set()
        examples = []
        for draft in self._drafts.values():
            complete = frozenset((kinds if draft.complete is None else draft.complete) - draft.lacking)
            if not (draft.notes or draft.questions or complete):
                if not draft.refused:
                    self.refuse(draft.source, "it has no labels")
                continue
            examples.append(
                Example(
                    draft.name, draft.source, *draft.size, tuple(draft.notes), draft.open, complete,
                    tuple(draft.questions),
                )
            )  # fmt: skip
        if not examples:
            raise DatasetError(nothing_in(self.path, self._unusable))
        return Dataset(tuple(examples), tuple(self._unusable))


def nothing_in(path: Path, unusable: list[Unusable]) -> str:
    """Says that a dataset has nothing that can be used, and the first reasons."""
    if not unusable:
        return f"{path} has no labelled pictures"
    reasons = "\n".join(f"  {each}" for each in unusable[:_TOLD])
    more = f"\n  and {len(unusable) - _TOLD} more" if len(unusable) > _TOLD else ""
    return f"{path} has nothing that can be used:\n{reasons}{more}"


def verified(dataset: Dataset) -> Dataset:
    """The dataset without the pictures that cannot be decoded, which are noted: each is decoded once. Raises
    DatasetError where none is left."""
    examples, broken = readable(dataset.examples)
    unusable = (*dataset.unusable, *broken)
    if not examples:
        raise DatasetError("no picture of the dataset can be opened:\n" + "\n".join(f"  {u}" for u in unusable[:_TOLD]))
    return replace(dataset, examples=examples, unusable=unusable)


def readable(examples: Sequence[Example]) -> tuple[tuple[Example, ...], tuple[Unusable, ...]]:
    """Those whose picture can be decoded, and the others with their reasons: each is decoded once."""
    whole, broken = [], []
    for example in examples:
        try:
            example.open()
            whole.append(example)
        except (OSError, PictureError) as error:
            broken.append(Unusable(example.source, _said(error)))
    return tuple(whole), tuple(broken)


def _said(error: Exception) -> str:
    """Without the number that the system gives an error."""
    with suppress(AttributeError):
        if isinstance(error, OSError) and error.strerror:
            return f"{error.strerror}: {error.filename}"
    return str(error)
