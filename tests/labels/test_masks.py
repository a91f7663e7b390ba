"""Masks as run lengths, written by other tools, are read as the outlines of what they cover."""

import tracemalloc
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_studio_sdk.converter.brush import encode_rle
from pycocotools import mask as coco_mask

from finetune.evaluation.matching import rasterize as drawn
from labels import masks
from labels.dataset import Dataset
from labels.geometry import bounding_box, bounds, signed_area
from labels.label_kind import LabelKind
from labels.opening import open_dataset
from prompts.annotations import Box, Polygon, Quad

Save = Callable[..., Path]
WIDTH, HEIGHT = 100, 80
LEFT, TOP, RIGHT, BOTTOM = 12, 9, 84, 69  # of MASK
Y, X = np.mgrid[:HEIGHT, :WIDTH]


def fill_ellipse(x: float, y: float, a: float, b: float) -> np.ndarray:
    return np.asarray(((X + 0.5 - x) / a) ** 2 + ((Y + 0.5 - y) / b) ** 2 <= 1)


HOLE = fill_ellipse(32, 34, 6, 8)
MASK = (fill_ellipse(32, 34, 20, 25) & ~HOLE) | fill_ellipse(74, 59, 10, 10)


def count_runs(values: np.ndarray) -> list[int]:
    """Returns the lengths of alternating runs; the first run is not covered."""
    found = [len(list(run)) for _, run in groupby(values.tolist())]
    return [0, *found] if values[0] else found


def write_coco(save: Save, counts: Any, size: Any = (HEIGHT, WIDTH), **more: Any) -> Dataset:
    """Writes a valid box first, so that the dataset is never empty."""
    save("a.png")
    whole = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 1, 5, 5]}
    masked = {**whole, "id": 2, "bbox": [0, 0, 50, 50], "segmentation": {"size": list(size), "counts": counts}, **more}
    document = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [whole, masked],
                "categories": [{"id": 3, "name": "cat"}]}  # fmt: skip
    return open_dataset(save("labels.json", document))


def write_cvat(save: Save, rle: str, position: str) -> Dataset:
    save("a.png")
    inner = f'<box label="cat" xtl="1" ytl="1" xbr="6" ybr="6"/>\n<mask label="cat" rle="{rle}" {position}/>'
    image = f'<image id="0" name="a.png" width="{WIDTH}" height="{HEIGHT}">{inner}</image>'
    return open_dataset(save("annotations.xml", f"<annotations><version>1.1</version>{image}</annotations>"))


def write_label_studio(save: Save, rle: Any, *others: dict[str, Any]) -> Dataset:
    save("a.png")
    box = {"id": "1", "type": "rectanglelabels",
           "value": {"x": 1, "y": 1, "width": 5, "height": 5, "rectanglelabels": ["cat"]}}  # fmt: skip
    brush = {"id": "2", "type": "brushlabels", "original_width": WIDTH, "original_height": HEIGHT,
             "value": {"format": "rle", "rle": rle, "brushlabels": ["cat"]}}  # fmt: skip
    task = {"id": 7, "data": {"image": "a.png"}, "annotations": [{"result": [box, brush, *others]}]}
    return open_dataset(save("export.json", [task]))


def encode_brush(mask: np.ndarray) -> list[int]:
    """Returns a mask as Label Studio stores it: red, green, blue and alpha of each pixel."""
    pixels = np.stack([mask * 200, mask * 100, mask * 50, mask * 255], -1).astype(np.uint8)
    made: list[int] = encode_rle(pixels.ravel())
    return made


CROP = MASK[TOP:BOTTOM, LEFT:RIGHT]
POSITION = f'left="{LEFT}" top="{TOP}" width="{RIGHT - LEFT}" height="{BOTTOM - TOP}"'
WRITERS: dict[str, Callable[[Save], Dataset]] = {
    "COCO, compressed": lambda save: write_coco(
        save, coco_mask.encode(np.asfortranarray(MASK.astype(np.uint8)))["counts"].decode()
    ),
    "COCO": lambda save: write_coco(save, count_runs(MASK.ravel(order="F"))),
    "CVAT": lambda save: write_cvat(save, ", ".join(map(str, count_runs(CROP.ravel()))), POSITION),
    "Label Studio": lambda save: write_label_studio(save, encode_brush(MASK)),
}


@pytest.mark.parametrize("form", WRITERS)
def test_a_mask_becomes_the_outlines_of_its_parts(form: str, save: Save) -> None:
    dataset = WRITERS[form](save)
    assert dataset.unusable == ()
    (example,) = dataset.images
    box, polygon = example.annotations
    assert isinstance(box, Box)
    assert isinstance(polygon, Polygon)
    assert polygon.label == "cat"
    assert len(polygon.polygons) == 2
    assert bounding_box(polygon) == pytest.approx((LEFT, TOP, RIGHT, BOTTOM), abs=0.31)
    back, filled = drawn(polygon.polygons, (WIDTH, HEIGHT)), MASK | HOLE
    assert (back & filled).sum() / (back | filled).sum() > 0.93  # Pillow also draws the edge
    assert sum(map(signed_area, polygon.polygons)) == pytest.approx(filled.sum(), rel=0.01)
    assert example.complete == {LabelKind.OBJECTS}


def test_a_straight_edge_has_no_points_between_its_ends_and_a_thin_object_keeps_its_area(save: Save) -> None:
    for mask in ((X >= 10) & (X < 90) & (Y >= 20) & (Y < 60), (X >= 10) & (X < 90) & (Y == 20)):
        (example,) = write_coco(save, count_runs(mask.ravel(order="F"))).images
        polygon = example.annotations[-1]
        assert isinstance(polygon, Polygon)
        (ring,) = polygon.polygons
        assert len(ring) <= 16  # half a pixel is cut off each corner
        assert signed_area(ring) == pytest.approx(mask.sum(), abs=0.51)


def make_wavy_mask(width: int, height: int) -> np.ndarray:
    """Returns a mask as large as the image whose edge goes in and out forty times."""
    y, x = np.ogrid[:height, :width]
    across, down = (x + 0.5) / width - 0.5, (y + 0.5) / height - 0.5
    return np.asarray(np.hypot(across, down) <= 0.4 + 0.05 * np.sin(40 * np.arctan2(down, across)))


@pytest.mark.parametrize("size", [(4000, 3000), (2999, 4001)])
def test_the_outline_of_a_large_mask_is_as_exact_as_location_bins(size: tuple[int, int]) -> None:
    mask, bin_ = make_wavy_mask(*size), max(size) / 1000
    (ring,) = masks.trace_mask(mask, 7, 5)
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    box = (columns[0] + 7, rows[0] + 5, columns[-1] + 8, rows[-1] + 6)
    assert bounds([ring]) == pytest.approx(box, abs=bin_ / 2)
    assert signed_area(ring) == pytest.approx(mask.sum(), rel=0.005)
    moved = [value - (7, 5)[i % 2] for i, value in enumerate(ring)]
    wrong = int((drawn([moved], size) ^ mask).sum())
    edge = int((mask[1:] ^ mask[:-1]).sum() + (mask[:, 1:] ^ mask[:, :-1]).sum())  # length of the edge in pixels
    assert wrong < bin_ / 2 * edge


def test_parts_thinner_than_a_location_bin_are_kept() -> None:
    mask = np.zeros((3000, 6000), bool)
    mask[1500, 20:5900] = True
    (ring,) = masks.trace_mask(mask)
    assert bounds([ring]) == pytest.approx((20, 1500, 5900, 1501), abs=0.31)


def test_large_and_noisy_masks_need_little_time_and_memory() -> None:
    """Time and memory do not depend on numbers, points and parts that an answer cannot hold."""
    large = make_wavy_mask(4000, 3000)
    tracemalloc.start()
    found = masks.trace_mask(large)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 7 * large.nbytes  # one byte a pixel; floats alone would take eight
    assert sum(map(len, found)) // 2 < 4000

    rng = np.random.default_rng(0)
    for share in (0.02, 0.5):
        noisy = rng.random((1000, 1000)) < share
        assert len(masks.trace_mask(noisy)) <= 100
        noisy |= make_wavy_mask(1000, 1000)
        largest = max(masks.trace_mask(noisy), key=signed_area)
        assert signed_area(largest) > 0.98 * make_wavy_mask(1000, 1000).sum()


def test_rle_pack_with_literal_bytes_and_runs_across_rows(save: Save) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
    pixels[..., 3] = np.where(MASK, 255, 0)
    bits = f"{pixels.size:032b}{7:05b}{2:04b}{3:04b}{7:04b}{15:04b}" + "0" + "11" + f"{pixels.size - 1:016b}"
    bits += "".join(f"{value:08b}" for value in pixels.ravel())
    bits += "0" * (-len(bits) % 8)
    packed = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    assert write_label_studio(save, packed).images == write_label_studio(save, encode_brush(MASK)).images


def test_words_in_a_mask_get_its_bounding_box(save: Save) -> None:
    (example,) = write_coco(save, count_runs(MASK.ravel(order="F")), text="STOP").images
    quad = example.annotations[-1]
    assert isinstance(quad, Quad)
    x1, y1, x2, y2 = LEFT, TOP, RIGHT, BOTTOM
    assert quad.quad == pytest.approx((x1, y1, x2, y1, x2, y2, x1, y2), abs=0.31)
    written = {"id": "2", "type": "textarea", "value": {"rle": [], "text": ["STOP"]}}
    (example,) = write_label_studio(save, encode_brush(MASK), written).images
    assert example.annotations[-1].label == "STOP"
    assert example.annotations[-1].kind == "quad"


@pytest.mark.parametrize(
    ("counts", "size", "message"),
    [
        ("abc", (HEIGHT, WIDTH), "its mask cannot be read"),
        ([10, 20], (HEIGHT, WIDTH), "its mask cannot be read"),
        ([WIDTH * HEIGHT + 5, -5], (HEIGHT, WIDTH), "its mask cannot be read"),
        ([2**40, WIDTH * HEIGHT - 2**40], (HEIGHT, WIDTH), "its mask cannot be read"),
        (None, (HEIGHT, WIDTH), "its mask cannot be read"),
        ([["x"]], (HEIGHT, WIDTH), "its mask cannot be read"),
        ([WIDTH * HEIGHT], (HEIGHT, WIDTH), "its mask covers nothing"),
        ([0, WIDTH * HEIGHT], (WIDTH, HEIGHT), r"its mask's size is [100, 80], not the height and width of its image"),
    ],
)
def test_an_unreadable_coco_mask_is_listed_and_not_replaced_by_its_box(
    save: Save, counts: Any, size: Any, message: str
) -> None:
    dataset = write_coco(save, counts, size)
    assert [each.source for each in dataset.unusable] == ["labels.json: annotation 2"]
    assert dataset.unusable[0].reason.startswith(message)
    (example,) = dataset.images
    assert len(example.annotations) == 1
    assert example.complete == set()


@pytest.mark.parametrize(
    ("rle", "position", "message"),
    [
        ("1, 2", POSITION, "its mask cannot be read"),
        ("1, two", POSITION, "its mask cannot be read"),
        ("0, 4", 'left="99" top="1" width="2" height="2"', "its mask lies outside the image of 100×80"),
        ("0, 4", 'left="1" top="1" width="2"', "its position contains None, which is not a number"),
    ],
)
def test_an_unreadable_cvat_mask_is_listed(save: Save, rle: str, position: str, message: str) -> None:
    dataset = write_cvat(save, rle, position)
    assert [each.source for each in dataset.unusable] == ["annotations.xml:2"]
    assert dataset.unusable[0].reason.startswith(message)


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        (encode_brush(MASK)[:-9], "it is cut short"),
        (encode_brush(MASK[:50]), "it has 20000 values of 8 bits, not 32000 of 8"),
        ([1], "it is cut short"),
        ([300], "its mask cannot be read"),
        (None, "its mask cannot be read"),
        (encode_brush(MASK & False), "its mask covers nothing"),
    ],
)
def test_an_unreadable_label_studio_brush_is_listed(save: Save, rle: Any, message: str) -> None:
    dataset = write_label_studio(save, rle)
    assert [each.source for each in dataset.unusable] == ["export.json: task 7, result 2"]
    assert message in dataset.unusable[0].reason
