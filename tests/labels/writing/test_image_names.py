from pathlib import Path

import pytest

from labels.formats.voc import VocWriter
from labels.formats.yolo import YoloDetectWriter
from labels.writing import image_names
from labels.writing.image_names import DIFFER_IN_CASE, NOT_ON_WINDOWS, ImageNames, add_suffix, replace_suffix
from tests.labels.samples import PNG


def make_names(folder: Path, suffix: str | None = ".txt") -> ImageNames:
    return ImageNames(folder, lambda name: suffix and f"labels/{replace_suffix(name, suffix)}", lambda name: name)


def test_names_stay_as_they_are_where_the_disk_can_hold_them(tmp_path: Path) -> None:
    names = make_names(tmp_path)
    for name in ("a b/ü.png", "2024-05-01T12:30:05.png", "what?.png", "dot./x .png", "x" * 251 + ".png", "犬.jpeg"):
        assert names.choose(name)[0] == name
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("../../etc/passwd.png", "etc/passwd.png"),
        ("/root/./x.png", "root/x.png"),
        ("a\nb.png", "a_b.png"),
        ("half \udcff.png", "half _.png"),
        ("C:\\x.png", "C:_x.png"),
        (".hidden/.x.png", "_.hidden/_.x.png"),
        ("..", "_"),
        ("y" * 300 + ".png", "y" * 251 + ".png"),
        ("ü" * 200 + "/a.png", "ü" * 127 + "/a.png"),
        ("/".join(["z" * 200] * 9) + "/a.png", "a.png"),
    ],
)
def test_other_names_are_changed(tmp_path: Path, name: str, chosen: str) -> None:
    assert make_names(tmp_path).choose(name)[0] == chosen


def test_room_is_left_for_a_longer_suffix_of_the_labels_file_and_for_a_number(tmp_path: Path) -> None:
    names = make_names(tmp_path, ".json")
    first, second = (names.choose("x" * 251 + suffix)[0] for suffix in (".png", ".jpg"))
    assert (len(first), len(second) <= 255, second.endswith("-2.jpg")) == (254, True, True)
    (tmp_path / replace_suffix(second, ".json")).touch()  # the disk can hold it


def test_images_with_the_same_labels_file_get_numbers(tmp_path: Path) -> None:
    names = make_names(tmp_path)
    assert [names.choose(name)[0] for name in ("a.jpg", "a.png", "a.webp", "b.png")] == [
        "a.jpg", "a-2.png", "a-3.webp", "b.png",
    ]  # fmt: skip
    both = make_names(tmp_path, None)
    assert [both.choose(name)[0] for name in ("a.jpg", "a.png", "a.png", "a-2.png")] == [
        "a.jpg", "a.png", "a-2.png", "a-2-2.png",
    ]  # fmt: skip


def test_names_that_other_systems_cannot_hold_or_tell_apart_are_named(tmp_path: Path) -> None:
    names = make_names(tmp_path)
    assert names.choose("A.png") == ("A.png", [])
    assert names.choose("a.png") == ("a.png", [DIFFER_IN_CASE])
    assert names.choose("é.png") == ("é.png", [])
    assert names.choose("e\u0301.png") == ("e\u0301.png", [DIFFER_IN_CASE])
    assert names.choose("t:1.png") == ("t:1.png", [NOT_ON_WINDOWS])
    assert names.choose("t./b.png") == ("t./b.png", [NOT_ON_WINDOWS])


def test_a_disk_that_cannot_hold_them_changes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch = Path.touch

    def refuse_special(path: Path, *arguments: object) -> None:
        if set(path.name) & set(':*?"<>|'):
            raise OSError(22, "Invalid argument")
        touch(path)

    monkeypatch.setattr(Path, "touch", refuse_special)
    monkeypatch.setattr(image_names, "_is_same_file", lambda *names: True)
    names = make_names(tmp_path)
    assert names.choose("2024-05-01T12:30:05.png") == ("2024-05-01T12_30_05.png", [])
    assert names.choose("t./b .png") == ("t/b .png", [])
    assert [names.choose(name)[0] for name in ("A.png", "a.PNG", "a.jpg")] == ["A.png", "a-2.PNG", "a-3.jpg"]


def test_yolo_labels_are_where_the_last_images_folder_becomes_labels() -> None:
    assert YoloDetectWriter.get_label_path("a.b.png") == "labels/train/a.b.txt"
    assert YoloDetectWriter.get_label_path("x/images/y/a.png") == "images/train/x/labels/y/a.txt"
    assert YoloDetectWriter.get_label_path("images/images/a.png") == "images/train/images/labels/a.txt"
    assert YoloDetectWriter.get_label_path("images.png") == "labels/train/images.txt"


def test_a_line_of_voc_holds_the_name() -> None:
    assert VocWriter.to_holdable(" #a b /c .png") == "__a b /c_.png"


def test_an_image_without_a_suffix_gets_that_of_its_content() -> None:
    assert add_suffix("train/000001", PNG) == "train/000001.png"
    assert add_suffix("photo.v2", PNG) == "photo.v2.png"
    assert add_suffix("photo.jpg", PNG) == "photo.jpg"
    assert add_suffix("page", b"<html>") == "page"
