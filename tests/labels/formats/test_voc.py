from collections.abc import Callable
from pathlib import Path

import pytest

from labels.dataset import DatasetError
from labels.opening import open_dataset
from prompts.annotations import Box, Polygon

Save = Callable[..., Path]


def thing(name: str, *corners: object) -> str:
    sides = "".join(f"<{t}>{v}</{t}>" for t, v in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
    return f"<object><name>{name}</name><bndbox>{sides}</bndbox></object>"


def document(*things: str, filename: str = "a.png", size: str = "<width>100</width><height>80</height>") -> str:
    lines = "\n".join(things)
    return f"<annotation>\n<filename>{filename}</filename><size>{size}</size>\n{lines}\n</annotation>"


def test_pixels_count_from_one_and_the_last_is_inside(save: Save) -> None:
    save("JPEGImages/a.png")
    path = save("Annotations/a.xml", document(thing("cat", 1, 1, 100, 80), thing("dog", 11, 21, 11, 21)))
    (example,) = open_dataset(path.parent.parent).images
    assert example.annotations == (Box(label="cat", box=(0, 0, 100, 80)), Box(label="dog", box=(10, 20, 11, 21)))
    assert example.source == "Annotations/a.xml:1"


def test_pictures_beside_their_files_and_polygons(save: Save) -> None:
    save("train/a.png")
    polygon = "".join(f"<{a}{n}>{v}</{a}{n}>" for n, (x, y) in enumerate(((1, 1), (50, 1), (50, 40)), 1) for a, v in
                      (("x", x), ("y", y)))  # fmt: skip
    path = save("train/a.xml", document(f"<object><name>cat</name><polygon>{polygon}</polygon></object>"))
    for opened in (path.parent, path):
        (example,) = open_dataset(opened).images
        assert example.annotations == (Polygon(label="cat", polygons=[[1, 1, 50, 1, 50, 40]]),)


def test_the_file_name_is_taken_where_no_picture_is_called_like_the_file(save: Save) -> None:
    save("JPEGImages/other.png")
    path = save("Annotations/a.xml", document(thing("cat", 1, 1, 9, 9), filename="somewhere/other.png", size=""))
    assert open_dataset(path.parent.parent).images[0].name == "other.png"


def test_what_cannot_be_used_is_listed_by_file_and_line(save: Save) -> None:
    save("JPEGImages/a.png"), save("JPEGImages/c.png"), save("JPEGImages/d.png")
    things = [
        thing("cat", 1, 1, 9, 9),
        thing("cat", 9, 1, 1, 9),
        thing("", 1, 1, 9, 9),
        thing("cat", "x", 1, 9, 9),
        thing("cat", 201, 1, 209, 9),
        "<object><name>cat</name></object>",
    ]
    root = save("Annotations/a.xml", document(*things)).parent.parent
    save("Annotations/b.xml", document(filename="b.png"))
    save("Annotations/c.xml", "<annotation>\n<object>")
    save("Annotations/d.xml", document(filename="d.png", size="<width>9</width><height>9</height>"))
    dataset = open_dataset(root)
    assert len(dataset.images) == 1
    assert [each.source for each in dataset.unusable] == [
        *(f"Annotations/a.xml:{line}" for line in range(4, 9)),
        "Annotations/b.xml:1",
        "Annotations/c.xml",
        "Annotations/d.xml:1",
    ]
    assert "c.xml:2 is not XML" in dataset.unusable[-2].reason
    assert "9×9" in dataset.unusable[-1].reason


def test_a_document_type_is_refused_before_its_entities_grow(save: Save) -> None:
    save("a.png")
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    declared = f'<?xml version="1.0"?>\n<!DOCTYPE a [<!ENTITY e0 "ha">{entities}]>\n'
    with pytest.raises(DatasetError, match=r"a\.xml:2 declares a document type"):
        open_dataset(save("a.xml", f"{declared}<annotation><filename>&e9;</filename></annotation>"))
