"""Names of images that are written differently on other systems, or whose images have been moved."""

import os
import unicodedata
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from labels.opening import open_dataset
from tests.field.layouts import (
    make_coco,
    make_row,
    read_colors,
    read_reasons,
    read_source,
    write,
)  # fmt: skip


@pytest.mark.situation("R4", "names with %, in both normal forms of Unicode, without a suffix, or with another one")
@pytest.mark.parametrize(
    ("stated", "image"),
    [
        ("a%20b.jpg", "a b.jpg"),
        ("a b.jpg", "a%20b.jpg"),
        ("100%.jpg", "100%.jpg"),
        ("100%25.jpg", "100%.jpg"),
        ("%E4%BD%A0.jpg", "你.jpg"),
        (unicodedata.normalize("NFC", "Füße.jpg"), unicodedata.normalize("NFD", "Füße.jpg")),
        (unicodedata.normalize("NFD", "Füße.jpg"), unicodedata.normalize("NFC", "Füße.jpg")),
        ("a", "a.jpg"),
        ("v1.2", "v1.2.jpg"),
        ("a.png", "a.jpg"),
        ("a.jpg", "A.JPG"),
        ("file:///C:/old/a.jpg", "a.jpg"),
        ("0a1b2c3d-a.jpg", "a.jpg"),
    ],
)
@pytest.mark.parametrize("folder", ["", "images/", "images/deep/"])
def test_names_of_other_systems(tmp_path: Path, stated: str, image: str, folder: str) -> None:
    write(tmp_path / folder / image, color=10), write(tmp_path / folder / "other.jpg")
    coco = write(tmp_path / "coco.json", make_coco(stated))
    assert list(read_colors(coco).values()) == [1]
    rows = write(tmp_path / "rows.jsonl", make_row(stated))
    assert list(read_colors(rows).values()) == [1]
    for path in (coco, rows.rename(tmp_path / "list.txt")):
        if path.suffix == ".txt":
            path.write_text(stated + "\n", encoding="utf-8")
        assert [type(content) for content in read_source(path).values()] == [bytes]


@pytest.mark.situation("R4", "two files fit a name, or two names fit a file: nothing is guessed")
def test_nothing_is_guessed(tmp_path: Path) -> None:
    for name, color in (("b/a.jpg", 10), ("c/a.jpg", 20), ("x.jpg", 30), ("y.png", 40), ("u.jpg", 50), ("v.jpg", 60)):
        write(tmp_path / "images" / name, color=color)
    names = ["a.jpg", "x.png", "x.jpg", "y.jpg", "1234abcd-u.jpg", "abcd1234-u.jpg", "left-v.jpg", "b/q.jpg", "b/x.jpg"]
    coco = write(tmp_path / "coco.json", make_coco(*names))
    assert read_colors(coco) == {"x.jpg": 3, "y.png": 4}
    reasons = read_reasons(coco)
    assert "several images fit 'a.jpg': images/b/a.jpg, images/c/a.jpg" in reasons["coco.json: image 1"]
    assert "x.jpg, is also the image of coco.json: image 3" in reasons["coco.json: image 2"]
    assert "u.jpg, is also" in reasons["coco.json: image 5"]
    assert "u.jpg, is also" in reasons["coco.json: image 6"]
    assert sorted(reasons) == [f"coco.json: image {n}" for n in (1, 2, 5, 6, 7, 8, 9)]
    source = read_source(coco)
    assert {name for name, content in source.items() if isinstance(content, bytes)} == {"x.jpg", "y.jpg"}
    assert "also the image" in str(source["x.png"])


@pytest.mark.situation("R4", "two names that differ in spelling alone, and one of their two files")
@pytest.mark.parametrize(("first", "second"), [("a b.jpg", "a%20b.jpg"), ("caf\u00e9.jpg", "cafe\u0301.jpg")])
def test_spellings_of_two_images(tmp_path: Path, first: str, second: str) -> None:
    coco = write(tmp_path / "coco.json", make_coco(second, first))
    write(tmp_path / "images" / first, color=10)
    assert read_colors(coco) == {first: 1}
    assert {name: isinstance(content, bytes) for name, content in read_source(coco).items()}[second] is False
    write(tmp_path / "images" / second, color=20)
    assert read_colors(coco) == {second: 2, first: 1}
    assert all(isinstance(content, bytes) for content in read_source(coco).values())


@pytest.mark.situation("R4", "Label Studio's buckets and local files, and Parquet: two names that one file fits")
def test_names_of_other_formats(tmp_path: Path) -> None:
    result = {"type": "rectanglelabels", "original_width": 200, "original_height": 100,
              "value": {"x": 10, "y": 10, "width": 30, "height": 50, "rectanglelabels": ["cat"]}}  # fmt: skip
    names = ("s3://b/x%20y.jpg", "s3://b/x y.jpg", "/data/local-files/?d=a#1.jpg", "gs://b/b#1.jpg")
    tasks = [{"data": {"image": name}, "annotations": [{"result": [result]}]} for name in names]
    path = write(tmp_path / "tasks.json", tasks)
    for color, name in enumerate(("x y.jpg", "a#1.jpg", "b#1.jpg", "a.jpg", "b.jpg"), 1):
        write(tmp_path / "images" / name, color=10 * color)
    assert read_colors(path) == {"images/x y.jpg": 1, "images/a#1.jpg": 2, "images/b#1.jpg": 3}
    assert "also the image of" in read_reasons(path)["tasks.json: task 1"]
    write(tmp_path / "images/x%20y.jpg", color=60)
    assert read_colors(path)["images/x%20y.jpg"] == 6
    rows = {"file_name": ["old/a.jpg", "new/a.jpg", "b.jpg"], "caption": ["one", "two", "three"]}
    (tmp_path / "rows").mkdir()
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "rows/metadata.parquet")
    for name in ("a", "b"):
        write(tmp_path / f"rows/images/{name}.jpg")
    assert [image.name for image in open_dataset(tmp_path / "rows").images] == ["images/b.jpg"]
    assert len(read_reasons(tmp_path / "rows")) == 2


@pytest.mark.situation("R4", "a job may read one folder: links and .. out of it, and moved images in it")
def test_moved_images_of_a_job_are_in_allowed_folders(tmp_path: Path) -> None:
    write(tmp_path / "secret/a.jpg", color=10), write(tmp_path / "own/images/b.jpg", color=20)
    (tmp_path / "own/images/link").symlink_to(tmp_path / "secret")
    (tmp_path / "own/c.jpg").symlink_to(tmp_path / "secret/a.jpg")
    names = ["../secret/a.jpg", "../secret/gone.jpg", "a.jpg", "images/link/a.jpg", "c.jpg", "/old/b.jpg", "../x/b.png"]
    path = write(tmp_path / "own/list.txt", "\n".join(names))

    def is_allowed(address: str) -> bool:
        return Path(os.path.realpath(address)).is_relative_to(tmp_path / "own")

    source = read_source(path, is_allowed=is_allowed)
    assert {name for name, content in source.items() if isinstance(content, bytes)} == set()
    path.write_text("\n".join(names[:-1]))
    source = read_source(path, is_allowed=is_allowed)
    assert {name for name, content in source.items() if isinstance(content, bytes)} == {"old/b.jpg"}
    refused = [name for name, content in source.items() if "not configured to read" in str(content)]
    assert refused == ["secret/a.jpg", "secret/gone.jpg", "images/link/a.jpg", "c.jpg"]


@pytest.mark.situation("R4", "100,000 names whose folders have moved, in one pass over the folder")
def test_moved_images_are_found_fast(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    names = [f"{number:05}.jpg" for number in range(2000)]
    for name in names:
        (tmp_path / "images" / name).touch()
    listing = write(tmp_path / "list.txt", "\n".join(f"C:\\old\\{name}" for name in names))
    calls = 0
    scandir = os.scandir

    def count(path: object = ".") -> object:
        nonlocal calls
        calls += 1
        return scandir(path)  # type: ignore[call-overload]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "scandir", count)
        assert list(read_source(listing).values()) == [b""] * len(names)
    assert calls < 20
