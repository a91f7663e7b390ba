"""Corrections as datasets: whether an image is in the holdout depends only on its content."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from finetune.tuning.run_record import hash_images
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage
from prompts.annotations import Text
from server.projects.errors import NoTrainingDataError
from server.projects.fine_tune_process import find_trained_images
from server.projects.image_store import ImageStore
from server.projects.project_dataset import ProjectDataset, build_dataset, from_json, is_holdout, to_json
from server.projects.project_files import RunFolder
from server.store.projects.model_store import RUN_ADAPTER
from server.store.projects.records import Correction, CorrectionContent, Project
from tests.server.projects.scenes import draw_scenes

PROJECT = Project(1, "birds", "b" * 64, ("<OD>",), 0.25, "folder", 0.0)


def create_corrections(images: ImageStore, count: int) -> list[Correction]:
    return [
        Correction(
            i + 1, 1, 0.0, CorrectionContent(images.add_image(s.data), LabelKind.OBJECTS, 120, 100, s.boxes)
        )
        for i, s in enumerate(draw_scenes(count))
    ]  # fmt: skip


def create_images(folder: Path, count: int) -> tuple[LabeledImage, ...]:
    """Returns images with the same content and different hashes."""
    images = ImageStore(folder)
    first = build_dataset(PROJECT, create_corrections(images, 5), images).train[0]
    return tuple(replace(first, name=hashlib.sha256(str(i).encode()).hexdigest()) for i in range(count))


def test_an_image_stays_on_its_side_of_the_split(tmp_path: Path) -> None:
    images = ImageStore(tmp_path)
    corrections = create_corrections(images, 12)
    sides: dict[str, bool] = {}
    for count in range(1, 13):
        dataset = build_dataset(PROJECT, corrections[:count], images)
        assert len(dataset.train) + len(dataset.holdout) == count
        for in_holdout, side in ((False, dataset.train), (True, dataset.holdout)):
            for image in side:
                assert sides.setdefault(image.name, in_holdout) is in_holdout
    assert build_dataset(PROJECT, corrections[::-1], images).holdout == dataset.holdout[::-1]


def test_the_holdout_has_its_share_of_the_images() -> None:
    names = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(4000)]
    for share in (0.05, 0.25, 0.8):
        assert sum(is_holdout(name, share) for name in names) / 4000 == pytest.approx(share, abs=0.03)


def test_corrections_of_all_kinds_become_one_image(tmp_path: Path) -> None:
    images = ImageStore(tmp_path)
    (objects,) = create_corrections(images, 1)
    caption = replace(objects.content, label_kind=LabelKind.CAPTIONS, annotations=(Text(label="Two things."),))
    incomplete = replace(objects, content=replace(objects.content, complete=False))
    dataset = build_dataset(PROJECT, [objects, Correction(2, 1, 0.0, caption)], images)
    (image,) = dataset.train + dataset.holdout
    assert image.annotations == (*objects.content.annotations, Text(label="Two things."))
    assert image.complete == {LabelKind.OBJECTS}
    assert image.open().size == (120, 100)
    dataset = build_dataset(PROJECT, [incomplete], images)
    assert (dataset.train + dataset.holdout)[0].complete == set()


def test_it_round_trips_through_json(tmp_path: Path) -> None:
    images = ImageStore(tmp_path)
    dataset = build_dataset(PROJECT, create_corrections(images, 5), images)
    again = from_json(json.loads(json.dumps(to_json(dataset))), images)
    assert again == dataset
    assert hash_images(again.train) == hash_images(dataset.train)
    assert again.classes == dataset.classes


def test_too_few_corrections_are_refused(tmp_path: Path) -> None:
    images = ImageStore(tmp_path)
    dataset = build_dataset(PROJECT, create_corrections(images, 12), images)
    dataset.check_tasks(["<OD>"], 0.25)
    assert dataset.select_trainable(["<OCR>", "<OD>"]) == ["<OD>"]
    with pytest.raises(NoTrainingDataError, match="of 12 corrected images, no training image has labels for <OCR>"):
        dataset.check_tasks(["<OCR>"], 0.25)
    with pytest.raises(NoTrainingDataError, match=r"no holdout image \(a share of 25%\)"):
        ProjectDataset(dataset.train, ()).check_tasks(["<OD>"], 0.25)


def test_of_many_training_images_some_are_for_validation(tmp_path: Path) -> None:
    many = create_images(tmp_path, 400)
    train, validation = ProjectDataset(many, ()).split_validation(["<OD>"])
    assert len(validation) / 400 == pytest.approx(0.15, abs=0.05)
    assert sorted(image.name for image in (*train, *validation)) == sorted(image.name for image in many)
    fewer = ProjectDataset(many[:200], ()).split_validation(["<OD>"])[1]
    assert set(fewer) == set(validation) & set(many[:200])  # each stays on its side
    assert ProjectDataset(many[:20], ()).split_validation(["<OD>"]) == (many[:20], ())
    assert ProjectDataset(many, ()).split_validation(["<CAPTION>"]) == (many, ())  # they have no captions


def test_validation_leaves_out_images_that_an_earlier_model_was_trained_on(tmp_path: Path) -> None:
    many = create_images(tmp_path, 400)
    dataset = ProjectDataset(many, ())
    validation = dataset.split_validation(["<OD>"])[1]
    trained_before = {image.name for image in (*many[:100], *validation[-5:])}
    train, fewer = dataset.split_validation(["<OD>"], trained_before)
    assert fewer == tuple(image for image in validation if image.name not in trained_before)
    assert len(fewer) >= 10
    assert {*train, *fewer} == {*many}
    trained_before = {image.name for image in validation[9:]}
    assert dataset.split_validation(["<OD>"], trained_before) == (many, ())  # too few are left


def test_images_of_all_earlier_models_count_as_trained_on(tmp_path: Path) -> None:
    many = create_images(tmp_path, 400)

    def create_run(name: str, train: tuple[LabeledImage, ...], initial_run: str = "") -> RunFolder:
        folder = RunFolder(tmp_path / "runs" / name)
        initial_adapter = f"runs/{initial_run}/{RUN_ADAPTER}" if initial_run else ""
        folder.create(
            {"config": {"tasks": ["<OD>"]}, "initial_adapter": initial_adapter, **to_json(ProjectDataset(train, ()))}
        )
        return folder

    first, second, third = create_run("1", many[:20]), create_run("2", many[:200], "1"), create_run("3", many, "2")
    assert find_trained_images(first) == set()
    trained_before = find_trained_images(second)
    assert trained_before == {image.name for image in many[:20]}  # too few for any validation images
    train, validation = ProjectDataset(many[:200], ()).split_validation(["<OD>"], trained_before)
    assert validation
    assert find_trained_images(third) == {image.name for image in train} | trained_before
