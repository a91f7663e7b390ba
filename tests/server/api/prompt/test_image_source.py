"""Invalid images are refused, and unusual ones are answered."""

import io
import struct
import zipfile
import zlib
from typing import Any

import httpx
import pytest
from PIL import Image

from server.api.sample_image import draw_sample_image
from tests.server.api.problem_checks import check_field


def save_image(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def create_bomb() -> bytes:
    """Returns a PNG whose header says 60000×60000 pixels, without pixels."""
    parts = [b"\x89PNG\r\n\x1a\n"]
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")):
        parts += [struct.pack(">I", len(content)), kind, content, struct.pack(">I", zlib.crc32(kind + content))]
    return b"".join(parts)


def create_zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", draw_sample_image())
    return file.getvalue()


INVALID_IMAGES = {
    "truncated": save_image(Image.effect_noise((64, 64), 50))[:900],
    "header only": draw_sample_image()[:20],
    "bomb": create_bomb(),
    "zip": create_zip(),
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "html": b"<!doctype html><script>alert(1)</script>",
    "pdf": b"%PDF-1.7\n",
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    "noise": bytes(range(256)) * 4,
    "too many pixels": save_image(Image.new("1", (9000, 9000))),
}


@pytest.mark.parametrize("name", INVALID_IMAGES)
async def test_invalid_images_are_refused(client: httpx.AsyncClient, name: str) -> None:
    response = await client.post("/v1/prompt", files={"image": INVALID_IMAGES[name]}, data={"task": "<OD>"})
    check_field(response, 422, "invalid-image", "image")


def create_unusual_images() -> dict[str, bytes]:
    palette = Image.open(io.BytesIO(draw_sample_image()))
    gray16 = Image.frombytes("I;16", (20, 10), bytes(range(200)) * 2)
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "blue")]
    return {
        "1×1": save_image(Image.new("RGB", (1, 1), "red")),
        "30000×1": save_image(Image.new("RGB", (30_000, 1))),
        "1×30000": save_image(Image.new("L", (1, 30_000))),
        "16 bit": save_image(gray16),
        "CMYK": save_image(Image.new("CMYK", (20, 20)), "JPEG"),
        "palette with alpha": save_image(palette, transparency=0),
        "alpha": save_image(Image.new("RGBA", (20, 20), (1, 2, 3, 0))),
        "bits": save_image(Image.new("1", (20, 20))),
        "animated": save_image(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "webp": save_image(frames[0], "WEBP"),
        "tiff": save_image(frames[0], "TIFF"),
        "bmp": save_image(frames[0], "BMP"),
    }


@pytest.mark.parametrize("name", create_unusual_images())
async def test_unusual_images_are_answered(client: httpx.AsyncClient, name: str) -> None:
    data = {"task": "<OD>", "max_new_tokens": 8}
    response = await client.post("/v1/prompt", files={"image": create_unusual_images()[name]}, data=data)
    assert response.status_code == 200, response.text
