import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from labels.opening import open_dataset

Save = Callable[..., Path]


def make_mask(size: tuple[int, int] = (20, 10), value: int = 1) -> str:
    buffer = io.BytesIO()
    Image.new("L", size, value).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def read(save: Save, *shapes: dict[str, Any]) -> tuple[list[tuple[str, str]], list[str]]:
    """Returns kind and label of each annotation but the last, and the reasons."""
    save("a.png")
    last = {"label": "last", "points": [[1, 1], [9, 9]], "shape_type": "rectangle"}
    dataset = open_dataset(save("a.json", {"shapes": [*shapes, last], "imagePath": "a.png"}))
    return [(each.kind, each.label) for each in dataset.images[0].annotations[:-1]], [
        entry.reason for entry in dataset.unusable
    ]


@pytest.mark.parametrize(
    ("data", "points", "reason"),
    [
        (make_mask(), [[30, 20], [49, 29]], ""),
        (make_mask(), [[90, 20], [109, 29]], "its mask lies outside the image of 100×80 pixels"),
        (make_mask((101, 10)), [[0, 0], [100, 9]], "its mask lies outside the image"),
        (make_mask(value=0), [[30, 20], [49, 29]], "its mask covers nothing"),
        ("AAAA", [[30, 20], [49, 29]], "its mask cannot be read"),
        ("no base64!", [[30, 20], [49, 29]], "it is not Base64"),
        (None, [[30, 20], [49, 29]], "it is not Base64"),
        (make_mask(), [[30, 20]], "its mask has 1 points, not two"),
        (make_mask(), None, "its points are not a list of x and y"),
    ],
)
def test_masks(save: Save, data: Any, points: Any, reason: str) -> None:
    found, reasons = read(save, {"label": "cat", "shape_type": "mask", "mask": data, "points": points})
    assert found == ([] if reason else [("polygon", "cat")])
    assert reason in "".join(reasons)
    assert bool(reasons) == bool(reason)


def test_words_have_the_corners_of_any_shape(save: Save) -> None:
    corners = [[10, 10], [50, 10], [50, 30], [10, 30]]
    word = {"label": "text", "description": "STOP", "group_id": 1}
    found, reasons = read(
        save,
        {**word, "shape_type": "rotation", "points": corners},
        {**word, "shape_type": "rectangle", "points": [[1, 1], [9, 9]]},
        {**word, "shape_type": "polygon", "points": [[60, 10], [70, 10], [70, 30]], "description": "GO"},
    )
    assert found == [("quad", "STOP"), ("quad", "STOP"), ("quad", "GO")]  # words are no rings of one object
    assert reasons == []


def test_a_bad_ring_leaves_the_others_of_its_group(save: Save) -> None:
    polygon = {"label": "cat", "shape_type": "polygon", "group_id": 3}
    found, reasons = read(
        save,
        {**polygon, "points": [[10, 10], [50, 10], [50, 30]]},
        {**polygon, "points": [[1, 1], [2, 2]]},
        {**polygon, "points": "x"},
    )
    assert found == [("polygon", "cat")]
    assert [reason.rpartition("; ")[2] for reason in reasons] == ["only its other rings are used"] * 2
