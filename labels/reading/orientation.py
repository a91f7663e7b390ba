"""Compares the size that labels were made for with the size of their image, and says what EXIF has to do with it."""

from contextlib import suppress

from PIL import Image

from labels.image_files import EncodedImage
from labels.images import IMAGE_FORMATS
from labels.reading.checks import Size

UPRIGHT = 1
TRANSPOSED = (5, 6, 7, 8)
_TAG = 0x0112


def read_orientation(image: EncodedImage) -> int:
    """Returns the EXIF orientation: 1 is upright, 2 to 4 keep width and height, 5 to 8 exchange them."""
    with suppress(Exception), image.stream() as stream, Image.open(stream, formats=IMAGE_FORMATS) as opened:
        orientation = opened.getexif().get(_TAG, UPRIGHT)
        return orientation if orientation in range(2, 9) else UPRIGHT
    return UPRIGHT


def describe_wrong_size(image: EncodedImage, stated: Size, actual: Size) -> str:
    """Returns why labels for an image of the size `stated` cannot be used, and what to do.

    `actual` is the size of the image as viewers show it. Both are width, height.
    """
    reason = f"its labels are for {stated[0]}×{stated[1]} pixels, its image has {actual[0]}×{actual[1]}"
    if stated != actual[::-1]:
        return reason
    if read_orientation(image) in TRANSPOSED:
        return (
            f"{reason}: the labels are for the stored pixels, and the EXIF orientation turns them; remove the "
            "orientation, for example by `exiftool -Orientation= FILE`, and keep the pixels as they are"
        )
    return (
        f"{reason}: width and height are exchanged, and the image has no EXIF orientation; correct the size in the "
        "labels, or turn the image back as it was when it was labeled"
    )
