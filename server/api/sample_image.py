"""A small image for the examples of the OpenAPI document, so that they can be sent as they are."""

import base64
import io
from functools import cache

from PIL import Image, ImageDraw


@cache
def draw_sample_image() -> bytes:
    """Returns a PNG of 64×48 pixels: a red ball and a blue house on a meadow."""

    image = Image.new("RGB", (64, 48), (206, 229, 245))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 34, 64, 48), fill=(122, 178, 92))
    draw.ellipse((8, 22, 26, 40), fill=(214, 52, 46))
    draw.rectangle((38, 20, 56, 38), fill=(62, 104, 178))
    draw.polygon([(35, 21), (47, 9), (59, 21)], fill=(150, 76, 48))
    file = io.BytesIO()
    image.quantize(8).save(file, "PNG", optimize=True)
    return file.getvalue()


def encode_sample_image() -> str:
    """Returns the sample image in base64."""
    return base64.b64encode(draw_sample_image()).decode()
