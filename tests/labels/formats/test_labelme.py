import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

from labels.opening import open_dataset
from prompts.annotations import Box, Polygon, Quad

Save = Callable[..., Path]


def shape(label: str, *points: list[float], kind: str = "rectangle", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": list(points), "shape_type": kind, "group_id": None, **more}


def document(*shapes: Any, name: str = "a.png", **more: Any) -> dict[str, Any]:
    return {"shapes": list(shapes), "imagePath": name, "imageWidth": 100, "imageHeight": 80, **more}


def test_shapes_in_any_direction_groups_and_words(save: Save) -> None:
    save("deep/a.png")
    triangle: list[list[float]] = [[1, 1], [9, 1], [9, 9]]
    path = save(
        "deep/a.json",
        document(
            shape("cat", [30, 40], [10, 20]),
            shape("dog", *triangle, kind="polygon", group_id=3),
            shape("dog", [20, 1], [29, 1], [29, 9], kind="polygon", group_id=3),
            shape("text", [0, 0], [20, 0], [20, 9], [0, 9], kind="polygon", description="STOP\nsmall"),
        ),
    )
    for opened in (path.parent.parent, path.parent, path):
        (example,) = open_dataset(opened).images
        assert example.annotations == (
            Box(label="cat", box=(10, 20, 30, 40)),
            Polygon(label="dog", polygons=[[1, 1, 9, 1, 9, 9], [20, 1, 29, 1, 29, 9]]),
            Quad(label="STOP", quad=(0, 0, 20, 0, 20, 9, 0, 9)),
        )


def test_an_embedded_picture_is_taken_where_there_is_no_file(save: Save, tmp_path: Path) -> None:
    data = base64.b64encode(save("elsewhere/b.png").read_bytes()).decode()
    path = save("a.json", document(shape("cat", [1, 1], [9, 9]), imageData=data))
    (example,) = open_dataset(path).images
    assert example.open().size == (100, 80)


def test_what_cannot_be_used_is_listed(save: Save) -> None:
    save("a.png")
    shapes = [
        shape("cat", [1, 1], [9, 9]),
        shape("cat", [1, 1], kind="point"),
        shape("cat", [1, 1]),
        shape("", [1, 1], [9, 9]),
        5,
        {"label": "cat", "points": 3},
    ]
    save("a.json", document(*shapes))
    save("b.json", document(name="missing.png"))
    save("c.json", "{")
    path = save("d.json", document(name="d.png", imageData="!!"))
    dataset = open_dataset(path.parent)
    assert len(dataset.images) == 1
    assert [each.source for each in dataset.unusable] == [
        *(f"a.json: shape {n}" for n in range(1, 6)), "b.json", "c.json", "d.json",
    ]  # fmt: skip
