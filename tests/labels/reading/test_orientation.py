import io

import pytest
from PIL import Image

from labels.image_files import ImageBytes
from labels.reading.orientation import describe_wrong_size, read_orientation


def make_image(orientation: int | None, format: str = "JPEG") -> ImageBytes:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10)).save(buffer, format, exif=exif)
    return ImageBytes(buffer.getvalue())


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(("stored", "expected"), [(None, 1), (0, 1), (1, 1), (3, 3), (6, 6), (8, 8), (9, 1)])
def test_the_orientation_is_read(stored: int | None, expected: int, format: str) -> None:
    assert read_orientation(make_image(stored, format)) == expected


def test_an_unreadable_image_is_upright() -> None:
    assert read_orientation(ImageBytes(b"no image")) == 1


@pytest.mark.parametrize(
    ("orientation", "stated", "advice"),
    [
        (6, (20, 10), "for the stored pixels, and the EXIF orientation turns them; remove the orientation"),
        (3, (10, 20), "width and height are exchanged, and the image has no EXIF orientation"),
        (None, (10, 20), "width and height are exchanged, and the image has no EXIF orientation"),
    ],
)
def test_the_advice_fits_the_image(orientation: int | None, stated: tuple[int, int], advice: str) -> None:
    assert advice in describe_wrong_size(make_image(orientation), stated, stated[::-1])


def test_another_size_has_nothing_to_do_with_exif() -> None:
    reason = describe_wrong_size(make_image(6), (40, 20), (10, 20))
    assert reason == "its labels are for 40×20 pixels, its image has 10×20"
