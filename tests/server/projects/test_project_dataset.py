"""Corrections as datasets: a picture's side is its content's, for good."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from finetune.tuning.run_record import fingerprint
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage
from prompts.annotations import Text
from server.projects import fine_tune_process, project_dataset, tuner
from server.projects.image_store import ImageStore
from server.store.projects.records import Correction, CorrectionContent, NoTrainingDataError, Project
from tests.server.projects.scenes import scenes

PROJECT = Project(1, "birds", "b" * 64, ("<OD>",), 0.25, "folder", 0.0)


def corrections(pictures: ImageStore, count: int) -> list[Correction]:
    return [
        Correction(i + 1, 1, 0.0, CorrectionContent(pictures.keep(s.data), LabelKind.OBJECTS, 120, 100, s.boxes))
        for i, s in enumerate(scenes(count))
    ]


def named(folder: Path, count: int) -> tuple[LabeledImage, ...]:
    """So many examples, by chance, of one picture."""
    shown = (project_dataset.of(PROJECT, corrections(ImageStore(folder), 5), ImageStore(folder)).train)[0]
    return tuple(replace(shown, name=hashlib.sha256(str(i).encode()).hexdigest()) for i in range(count))


def test_a_picture_stays_on_its_side(tmp_path: Path) -> None:
    pictures = ImageStore(tmp_path)
    all_of_them = corrections(pictures, 12)
    sides: dict[str, bool] = {}
    for count in range(1, 13):
        known = project_dataset.of(PROJECT, all_of_them[:count], pictures)
        assert len(known.train) + len(known.held) == count
        for held, side in ((False, known.train), (True, known.held)):
            for example in side:
                assert sides.setdefault(example.name, held) is held
    assert project_dataset.of(PROJECT, all_of_them[::-1], pictures).held == known.held[::-1]


def test_the_share_is_kept() -> None:
    names = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(4000)]
    for share in (0.05, 0.25, 0.8):
        assert sum(project_dataset.is_held(name, share) for name in names) / 4000 == pytest.approx(share, abs=0.03)


def test_kinds_of_one_picture_are_one_example(tmp_path: Path) -> None:
    pictures = ImageStore(tmp_path)
    (objects,) = corrections(pictures, 1)
    caption = replace(objects.said, kind=LabelKind.CAPTIONS, annotations=(Text(label="Two things."),))
    partly = replace(objects, said=replace(objects.said, complete=False))
    known = project_dataset.of(PROJECT, [objects, Correction(2, 1, 0.0, caption)], pictures)
    (example,) = known.train + known.held
    assert example.annotations == (*objects.said.annotations, Text(label="Two things."))
    assert example.complete == {LabelKind.OBJECTS}
    assert example.open().size == (120, 100)
    again = project_dataset.of(PROJECT, [partly], pictures)
    assert (again.train + again.held)[0].complete == set()


def test_it_is_written_and_read_again(tmp_path: Path) -> None:
    pictures = ImageStore(tmp_path)
    known = project_dataset.of(PROJECT, corrections(pictures, 5), pictures)
    again = project_dataset.read(json.loads(json.dumps(project_dataset.written(known))), pictures)
    assert again == known
    assert fingerprint(again.train) == fingerprint(known.train)
    assert again.labels == known.labels


def test_too_little_is_told(tmp_path: Path) -> None:
    pictures = ImageStore(tmp_path)
    all_of_them = corrections(pictures, 12)
    known = project_dataset.of(PROJECT, all_of_them, pictures)
    known.check(["<OD>"], 0.25)
    assert known.tasks(["<OCR>", "<OD>"]) == ["<OD>"]
    with pytest.raises(NoTrainingDataError, match="of 12 corrected pictures none that is taught teaches <OCR>"):
        known.check(["<OCR>"], 0.25)
    with pytest.raises(NoTrainingDataError, match=r"none is held out \(a share of 25%\)"):
        project_dataset.ProjectDataset(known.train, ()).check(["<OD>"], 0.25)


def test_of_many_pictures_some_are_set_apart_to_choose_by(tmp_path: Path) -> None:
    many = named(tmp_path, 400)
    taught, choosing = project_dataset.ProjectDataset(many, ()).apart(["<OD>"])
    assert len(choosing) / 400 == pytest.approx(0.15, abs=0.05)
    assert sorted(example.name for example in (*taught, *choosing)) == sorted(example.name for example in many)
    fewer = project_dataset.ProjectDataset(many[:200], ()).apart(["<OD>"])[1]
    assert set(fewer) == set(choosing) & set(many[:200])  # each stays on its side
    assert project_dataset.ProjectDataset(many[:20], ()).apart(["<OD>"]) == (many[:20], ())
    assert project_dataset.ProjectDataset(many, ()).apart(["<CAPTION>"]) == (many, ())  # by which no caption is chosen


def test_no_picture_chooses_that_a_model_before_was_taught(tmp_path: Path) -> None:
    many = named(tmp_path, 400)
    choosing = project_dataset.ProjectDataset(many, ()).apart(["<OD>"])[1]
    known = {example.name for example in (*many[:100], *choosing[-5:])}
    taught, fewer = project_dataset.ProjectDataset(many, ()).apart(["<OD>"], known)
    assert fewer == tuple(example for example in choosing if example.name not in known)
    assert len(fewer) >= 10
    assert {*taught, *fewer} == {*many}
    known = {example.name for example in choosing[9:]}
    assert project_dataset.ProjectDataset(many, ()).apart(["<OD>"], known) == (many, ())  # too few are left


def test_what_was_taught_to_all_models_that_a_run_goes_back_to_is_known(tmp_path: Path) -> None:
    pictures, many = ImageStore(tmp_path), named(tmp_path, 400)

    def begun(name: str, taught: tuple[LabeledImage, ...], start: str = "") -> Path:
        folder = tmp_path / "runs" / name
        adapter = f"runs/{start}/{fine_tune_process.ADAPTER}" if start else ""
        written = project_dataset.written(project_dataset.ProjectDataset(taught, ()))
        tuner.prepare(folder, {"config": {"tasks": ["<OD>"]}, "start": adapter, **written})
        return folder

    first, second, third = begun("1", many[:20]), begun("2", many[:200], "1"), begun("3", many, "2")
    assert fine_tune_process.known(first, pictures) == set()
    known = fine_tune_process.known(second, pictures)
    assert known == {example.name for example in many[:20]}  # of so few none was set apart
    taught, chose = project_dataset.ProjectDataset(many[:200], ()).apart(["<OD>"], known)
    assert chose
    assert fine_tune_process.known(third, pictures) == {example.name for example in taught} | known


def test_a_picture_is_kept_once_and_by_its_content(tmp_path: Path) -> None:
    pictures = ImageStore(tmp_path / "new")
    sha256 = pictures.keep(b"picture")
    assert sha256 == hashlib.sha256(b"picture").hexdigest()
    assert pictures.keep(b"picture") == sha256
    assert [path.name for path in (tmp_path / "new").rglob("*") if path.is_file()] == [sha256]
    assert pictures.path(sha256).read_bytes() == b"picture"
