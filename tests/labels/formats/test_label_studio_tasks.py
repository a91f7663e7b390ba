from pathlib import Path
from typing import Any

import pytest

from labels.dataset import DatasetError
from labels.formats.label_studio_tasks import TaskImages, choose_annotation, list_paths, to_path
from labels.reading.checks import LabelError


def make_names(folder: Path, *names: Any, config: str | None = None) -> TaskImages:
    """Returns the names of an export whose one task has a box on each of `names`."""
    if config is not None:
        (folder / "label_config.xml").write_text(config)
    results = [{"to_name": name, "type": "rectanglelabels", "value": {"x": 1}} for name in names]
    return TaskImages(folder / "export.json", [{"annotations": [{"result": results}]}, 5, {"annotations": 3}])


def test_images_are_told_from_other_values(tmp_path: Path) -> None:
    names = make_names(tmp_path, "photo")
    data = {"photo": "/data/upload/1/a.jpg", "title": "b.jpg", "id": 7, "tags": ["c.jpg"]}
    assert names.list_images(data) == {("photo", 0): "/data/upload/1/a.jpg"}
    assert names.list_images({"other": "a.jpg"}) == {("other", 0): "a.jpg"}
    assert names.list_images({"other": "http://host/image?id=5"}) == {("other", 0): "http://host/image?id=5"}
    with pytest.raises(LabelError, match=r"several images \(one, two\)"):
        names.list_images({"one": "a.jpg", "two": "b.jpg"})
    for data in ({}, {"image": None}, {"image": ""}, {"image": ["a.jpg", 5]}):
        with pytest.raises(LabelError, match="names no image"):
            names.list_images(data)


def test_values_without_a_suffix_are_images_if_something_was_drawn_on_them(tmp_path: Path) -> None:
    names = make_names(tmp_path, "photo")
    data = {"photo": "http://host/image?id=5", "thumbnail": "a.jpg"}
    assert names.list_images(data) == {("photo", 0): "http://host/image?id=5"}


def test_the_configuration_names_images(tmp_path: Path) -> None:
    config = '<View><Image name="i" valueList="$pages"/><Text name="t" value="$a"/></View>'
    names = make_names(tmp_path, "i", "t", config=config)
    images = names.list_images({"pages": ["a.jpg", "b.jpg"], "a": "c.jpg"})
    assert images == {("pages", 0): "a.jpg", ("pages", 1): "b.jpg"}
    assert names.find_image({"to_name": "i", "item_index": 1}, images) == ("pages", 1)
    for result in ({"to_name": "t", "item_index": 0}, {"to_name": "i"}, {"to_name": "i", "item_index": [1]}):
        with pytest.raises(LabelError):
            names.find_image(result, images)


def test_a_broken_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"label_config.xml:1 is not XML"):
        make_names(tmp_path, config="<View>")


@pytest.mark.parametrize(
    "task",
    [{}, {"annotations": None}, {"annotations": [5]}, {"annotations": [], "predictions": [{"was_cancelled": 1}]}],
)
def test_a_task_without_annotations_is_refused(task: dict[str, Any]) -> None:
    with pytest.raises(LabelError, match="nobody has annotated it"):
        choose_annotation(task)


def test_an_annotation_without_a_result_is_not_an_empty_one() -> None:
    assert choose_annotation({"annotations": [{"result": None}]}).results == ""
    assert choose_annotation({"annotations": [{"result": []}]}).results == []


@pytest.mark.parametrize(
    ("address", "paths"),
    [
        ("/data/upload/1/a%20b.jpg", ["/data/upload/1/a b.jpg", "/data/upload/1/a%20b.jpg"]),
        ("/data/local-files/?d=deep/a.jpg", ["deep/a.jpg"]),
        ("/data/local-files/?d=a%20b%231.jpg", ["a b#1.jpg"]),
        ("/data/local-files/?x=1&d=a+b#1.jpg", ["a b", "a+b#1.jpg"]),
        ("s3://bucket/deep/a%20b#1?.jpg", ["/deep/a%20b#1?.jpg"]),
        ("https://host/a%20b.jpg?d=&sig=b.jpg#x", ["/a b.jpg"]),
        ("https://host/a#1.jpg", ["a#1.jpg"]),
        ("a#1.jpg", ["a#1.jpg"]),
        ("http://[broken", ["http://[broken"]),
    ],
)
def test_paths_of_addresses(address: str, paths: list[str]) -> None:
    assert list_paths(address) == paths
    assert to_path(address) == paths[0]
