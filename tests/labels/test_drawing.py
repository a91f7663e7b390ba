import numpy as np
import pytest
from PIL import Image, ImageChops

from labels import drawing
from prompts.annotations import Annotation, Box, Polygon, Quad, Text

SQUARE = [20.0, 20.0, 80.0, 20.0, 80.0, 80.0, 20.0, 80.0]
SHAPES: list[Annotation] = [
    Box(label="cat", score=0.9, box=(20, 20, 80, 80)),
    Quad(label="STOP", score=0.9, quad=(20, 20, 80, 30, 80, 80, 20, 70)),
    Polygon(label="cat", score=0.9, polygons=[SQUARE, [90, 90, 99, 90, 99, 99]]),
]


@pytest.fixture
def image() -> Image.Image:
    return Image.new("RGB", (400, 300), "white")


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.kind)
def test_a_shape_is_drawn_where_it_is(image: Image.Image, shape: Annotation) -> None:
    drawn = drawing.draw_annotations(image, [shape])
    assert drawn.size == image.size
    left, top, right, bottom = ImageChops.difference(drawn, image).getbbox() or (0, 0, 0, 0)
    assert left == pytest.approx(20, abs=4)
    assert top < 20, "the label is above the shape"
    assert right >= 79
    assert bottom >= 79
    assert ImageChops.difference(image, Image.new("RGB", (400, 300), "white")).getbbox() is None, (
        "the image itself is unchanged"
    )


def test_each_shape_has_its_label_above_it(image: Image.Image) -> None:
    far = Box(label="dog", score=0.5, box=(250, 200, 350, 280))
    drawn = np.asarray(drawing.draw_annotations(image, [SHAPES[0], far]))
    assert (drawn[180:198, 250:300] != 255).any()
    assert (drawn[0:18, 20:60] != 255).any()


def test_a_caption_is_drawn_below_the_image(image: Image.Image) -> None:
    drawn = drawing.draw_annotations(image, [Text(label="A cat.\nIt sleeps on a sofa. " * 5, score=0.9)])
    assert drawn.width == 400
    assert drawn.height > 400
    assert (np.asarray(drawn)[310:] < 100).any()


@pytest.mark.parametrize(("size", "longer"), [((1, 1), 320), ((64, 48), 320), ((5000, 1), 2048), ((3000, 2000), 2048)])
def test_very_small_and_large_images_are_scaled(size: tuple[int, int], longer: int) -> None:
    box = Box(label="x", score=0.5, box=(0, 0, float(size[0]), float(size[1])))
    ring = Polygon(label="y", polygons=[[0, 0, size[0], 0, size[0], size[1]]])
    assert max(drawing.draw_annotations(Image.new("RGB", size), [box, ring]).size) == longer


@pytest.mark.parametrize("label", ["", "Größe", "Привет Ελλάδα", "日本語 🐈", "a\nb", "x" * 500, "\0"])
def test_labels_in_any_script_are_drawn(image: Image.Image, label: str) -> None:
    annotations: list[Annotation] = [Box(label=label, box=(0, 0, 400, 300)), Text(label=label)]
    drawing.draw_annotations(image, annotations)


def test_a_font_with_the_letters_is_found() -> None:
    assert drawing.find_font("Größe Привет Ελλάδα").name == "DejaVuSans.ttf"


def test_a_contact_sheet_has_rows_and_columns(image: Image.Image) -> None:
    tall, gap = Image.new("RGB", (10, 300)), 10
    sheet = drawing.draw_contact_sheet([image, tall, image, image], columns=3, width=100, gap=gap)
    assert sheet.size == (3 * 100 + 4 * gap, 150 + 75 + 3 * gap)
    assert drawing.draw_contact_sheet([image], columns=4, width=100, gap=gap).width == 100 + 2 * gap
