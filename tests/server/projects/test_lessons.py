"""Corrections as datasets: a picture's side is its content's, for good."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from scenes import scenes

from finetune.datasets.example import Labels
from finetune.tuning.run import fingerprint
from prompts.annotations import Text
from server.projects import lessons
from server.projects.pictures import Pictures
from server.projects.records import Corrected, Correction, NothingToLearn, Project

PROJECT = Project(1, "birds", "b" * 64, ("<OD>",), 0.25, "folder", 0.0)


def corrections(pictures: Pictures, count: int) -> list[Correction]:
    return [
        Correction(i + 1, 1, 0.0, Corrected(pictures.keep(s.data), Labels.OBJECTS, 120, 100, s.boxes))
        for i, s in enumerate(scenes(count))
    ]


def test_a_picture_stays_on_its_side(tmp_path: Path) -> None:
    pictures = Pictures(tmp_path)
    all_of_them = corrections(pictures, 12)
    sides: dict[str, bool] = {}
    for count in range(1, 13):
        known = lessons.of(PROJECT, all_of_them[:count], pictures)
        assert len(known.train) + len(known.held) == count
        for held, side in ((False, known.train), (True, known.held)):
            for example in side:
                assert sides.setdefault(example.name, held) is held
    assert lessons.of(PROJECT, all_of_them[::-1], pictures).held == known.held[::-1]


def test_the_share_is_kept() -> None:
    names = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(4000)]
    for share in (0.05, 0.25, 0.8):
        assert sum(lessons.is_held(name, share) for name in names) / 4000 == pytest.approx(share, abs=0.03)


def test_kinds_of_one_picture_are_one_example(tmp_path: Path) -> None:
    pictures = Pictures(tmp_path)
    (objects,) = corrections(pictures, 1)
    caption = replace(objects.said, kind=Labels.CAPTIONS, annotations=(Text(label="Two things."),))
    partly = replace(objects, said=replace(objects.said, complete=False))
    known = lessons.of(PROJECT, [objects, Correction(2, 1, 0.0, caption)], pictures)
    (example,) = known.train + known.held
    assert example.annotations == (*objects.said.annotations, Text(label="Two things."))
    assert example.complete == {Labels.OBJECTS}
    assert example.open().size == (120, 100)
    again = lessons.of(PROJECT, [partly], pictures)
    assert (again.train + again.held)[0].complete == set()


def test_it_is_written_and_read_again(tmp_path: Path) -> None:
    pictures = Pictures(tmp_path)
    known = lessons.of(PROJECT, corrections(pictures, 5), pictures)
    again = lessons.read(json.loads(json.dumps(lessons.written(known))), pictures)
    assert again == known
    assert fingerprint(again.train) == fingerprint(known.train)
    assert again.labels == known.labels


def test_too_little_is_told(tmp_path: Path) -> None:
    pictures = Pictures(tmp_path)
    all_of_them = corrections(pictures, 12)
    known = lessons.of(PROJECT, all_of_them, pictures)
    known.check(["<OD>"], 0.25)
    assert known.tasks(["<OCR>", "<OD>"]) == ["<OD>"]
    with pytest.raises(NothingToLearn, match="of 12 corrected pictures none that is taught teaches <OCR>"):
        known.check(["<OCR>"], 0.25)
    with pytest.raises(NothingToLearn, match=r"none is held out \(a share of 25%\)"):
        lessons.Lessons(known.train, ()).check(["<OD>"], 0.25)


def test_of_many_pictures_some_are_set_apart_to_choose_by(tmp_path: Path) -> None:
    shown = (lessons.of(PROJECT, corrections(Pictures(tmp_path), 5), Pictures(tmp_path)).train)[0]
    names = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(400)]
    many = tuple(replace(shown, name=name) for name in names)
    taught, choosing = lessons.Lessons(many, ()).apart(["<OD>"])
    assert len(choosing) / 400 == pytest.approx(0.15, abs=0.05)
    assert sorted(example.name for example in (*taught, *choosing)) == sorted(names)
    fewer = lessons.Lessons(many[:200], ()).apart(["<OD>"])[1]
    assert set(fewer) == set(choosing) & set(many[:200])  # each stays on its side
    assert lessons.Lessons(many[:20], ()).apart(["<OD>"]) == (many[:20], ())
    assert lessons.Lessons(many, ()).apart(["<CAPTION>"]) == (many, ())  # by which no caption is chosen


def test_a_picture_is_kept_once_and_by_its_content(tmp_path: Path) -> None:
    pictures = Pictures(tmp_path / "new")
    sha256 = pictures.keep(b"picture")
    assert sha256 == hashlib.sha256(b"picture").hexdigest()
    assert pictures.keep(b"picture") == sha256
    assert [path.name for path in (tmp_path / "new").rglob("*") if path.is_file()] == [sha256]
    assert pictures.path(sha256).read_bytes() == b"picture"
