"""A project's corrections as datasets: what is taught, and what is held out to judge by.

The side of a picture follows from its content alone, so that it stays there for good, whatever is added: the first 32
bits of its file's SHA-256, as a number from 0 to 1, are below the project's share for those that are held out.
(`labels.split` spreads labels evenly, but deals anew with every picture that comes.)
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from finetune.datasets import samples
from labels.dataset import Dataset
from labels.image_files import ImageFile
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage
from prompts.annotations import Annotation
from server.projects.image_store import ImageStore
from server.store.projects.records import ENOUGH, Correction, NoTrainingDataError, Project

_CHOOSING = 0.15  # of the pictures that are not held out
_ANNOTATIONS = TypeAdapter(tuple[Annotation, ...])


@dataclass(frozen=True, slots=True)
class ProjectDataset:
    """Examples are named by their pictures' SHA-256; `labels`: of all of them."""

    train: tuple[LabeledImage, ...]
    held: tuple[LabeledImage, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        return Dataset((*self.train, *self.held)).labels

    def check(self, tasks: Sequence[str], share: float) -> None:
        """Raises NothingToLearn where they teach none of `tasks`, or none judges one of them."""
        count = len(self.train) + len(self.held)
        if not (taught := _teachable(self.train) & set(tasks)):
            raise NoTrainingDataError(
                f"of {count} corrected pictures none that is taught teaches {' or '.join(tasks)}: correct pictures by "
                "labels of its kind"
            )
        if missing := sorted(taught - _teachable(self.held)):
            raise NoTrainingDataError(
                f"of {count} corrected pictures none is held out (a share of {share:.0%}) that could tell how good the "
                f"answers to {missing[0]} are: correct more pictures"
            )

    def apart(
        self, tasks: Sequence[str], known: Collection[str] = ()
    ) -> tuple[tuple[LabeledImage, ...], tuple[LabeledImage, ...]]:
        """Those that are taught, and a share of them, told by content too, by which a run's best step is chosen and its
        scores are calibrated: by those that are held out it would be chosen for the backtest that judges it. None of
        `known`, by SHA-256, chooses: pictures that the model that it starts from was taught, on which that is better
        and surer than on others. Where too few are left none is set apart."""
        chooses = [
            e.name not in known and bool(_teachable([e]) & set(tasks) and e.annotations) and _chooses(e.name)
            for e in self.train
        ]
        if sum(chooses) < ENOUGH:
            return self.train, ()
        taught, choosing = (
            tuple(e for e, apart in zip(self.train, chooses, strict=True) if apart is side) for side in (False, True)
        )
        return taught, choosing

    def tasks(self, wanted: Sequence[str]) -> list[str]:
        """Those of the wanted ones that are taught."""
        can = _teachable(self.train)
        return [task for task in wanted if task in can]


def is_held(sha256: str, share: float) -> bool:
    """Whether a picture is held out."""
    return _falls(sha256[:8], share)


def _chooses(sha256: str) -> bool:
    return _falls(sha256[8:16], _CHOOSING)


def _falls(digits: str, share: float) -> bool:
    """Whether 32 bits, as a number from 0 to 1, are below a share."""
    return int(digits, 16) < share * 2**32


def of(project: Project, corrections: Sequence[Correction], pictures: ImageStore) -> ProjectDataset:
    """What a project's newest corrections teach."""
    by_picture: dict[str, list[Correction]] = {}
    for correction in corrections:
        by_picture.setdefault(correction.said.picture, []).append(correction)
    examples = []
    for picture, own in by_picture.items():
        said = [correction.said for correction in own]
        notes = tuple(note for each in said for note in each.annotations)
        # Of captions there is no all.
        complete = frozenset(each.kind for each in said if each.complete and each.kind is not LabelKind.CAPTIONS)
        size = said[0].width, said[0].height
        source = f"{said[0].name or 'picture'} ({picture[:12]})"
        examples.append(LabeledImage(picture, source, *size, notes, ImageFile(pictures.path(picture)), complete))
    held = [is_held(example.name, project.held_share) for example in examples]
    sides = [tuple(e for e, out in zip(examples, held, strict=True) if out is side) for side in (False, True)]
    return ProjectDataset(sides[0], sides[1])


def written(lessons: ProjectDataset) -> dict[str, Any]:
    """As JSON; the pictures stay where they are."""
    return {"train": list(map(_written, lessons.train)), "held": list(map(_written, lessons.held))}


def read(kept: dict[str, Any], pictures: ImageStore) -> ProjectDataset:
    """What `written` gave."""
    return ProjectDataset(*(tuple(_read(each, pictures) for each in kept[side]) for side in ("train", "held")))


def _teachable(examples: Sequence[LabeledImage]) -> set[str]:
    return {token for example in examples for token in samples.teachable(example)}


def _written(example: LabeledImage) -> dict[str, Any]:
    return {
        "picture": example.name, "source": example.source, "size": example.size,
        "annotations": json.loads(_ANNOTATIONS.dump_json(example.annotations)), "complete": sorted(example.complete),
    }  # fmt: skip


def _read(kept: dict[str, Any], pictures: ImageStore) -> LabeledImage:
    width, height = kept["size"]
    return LabeledImage(
        kept["picture"], kept["source"], width, height, _ANNOTATIONS.validate_python(kept["annotations"]),
        ImageFile(pictures.path(kept["picture"])), frozenset(map(LabelKind, kept["complete"])),
    )  # fmt: skip
