"""Image files as cameras, phones, thermal cameras and tools write them."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from labels.images import ImageError, ImageErrorReason, decode_image
from server.app import create_app
from server.cli.main import app as florist
from server.settings import Settings
from tests.labels.attack_images import draw_noise, encode, make_chunk, make_deep_png, make_png
from tests.server.helpers import AnsweringEngine, connect

GRAY = Image.new("RGB", (200, 100), (128, 128, 128))
HEIC = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(60)
DNG = b"II*\0\x08\0\0\0\x01\0" + (50706).to_bytes(2, "little") + b"\x01\0\x04\0\0\0\x01\x04\0\0" + bytes(60)
VIDEO = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(60)
PHOTOSHOP = b"8BPS\0\x01" + bytes(60)
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
OTHERS = {
    "IMG_0001.HEIC": (HEIC, "a HEIC image"),
    "photo.jpg": (HEIC, "a HEIC image"),
    "IMG_0002.dng": (DNG, "a raw camera image"),
    "raw.tif": (DNG, "a raw camera image"),
    "clip.jpeg": (VIDEO, "a video"),
    "layers.png": (PHOTOSHOP, "a Photoshop file"),
    "logo.png": (SVG, "an SVG drawing"),
}


@pytest.fixture(scope="module")
def ask() -> Iterator[Callable[..., httpx.Response]]:
    """Sends a prompt about an image file."""
    import asyncio

    server = create_app(Settings(), AnsweringEngine())  # type: ignore[arg-type]

    async def send(data: bytes, fields: dict[str, str]) -> httpx.Response:
        async with connect(server) as client:
            return await client.post("/v1/prompt", files={"image": data}, data=fields)

    yield lambda data, **fields: asyncio.run(send(data, {"task": "<OD>"} | fields))
    server.state.lifecycle.decoding.close()


def set_exif_orientation(image: Image.Image, kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(image, kind, exif=exif)


@pytest.mark.situation("S9", "JPEG files called .jfif and .mpo, MPO files of stereo cameras, and HEIC beside them")
def test_florist_label_recognizes_images_by_content(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    images = {
        "a.jpg": encode(GRAY, "JPEG"),
        "b.jfif": encode(GRAY, "JPEG"),
        "c.mpo": encode(GRAY, "MPO", save_all=True, append_images=[Image.new("RGB", (50, 40))]),
        "d.jpg": encode(GRAY, "PNG"),
    }
    for name, data in images.items() | {(name, data) for name, (data, _) in OTHERS.items()}:
        (folder / name).write_bytes(data)
    command = ["label", str(folder), "--task", "<OD>", "--out", str(tmp_path / "out"), "--format", "coco"]
    result = CliRunner().invoke(florist, command, env={"COLUMNS": "300", "FLORIST_DEVICE": "cpu"})
    coco = json.loads((tmp_path / "out/coco/annotations/instances_default.json").read_text())
    assert {(each["file_name"], each["width"], each["height"]) for each in coco["images"]} == {
        (name, 200, 100) for name in images
    }
    for name, (_, description) in OTHERS.items():
        assert f"{name}: this is {description}" in result.output, result.output


@pytest.mark.situation("S9", "Files that are not images that florist reads, over HTTP")
@pytest.mark.parametrize("name", OTHERS)
def test_a_prompt_names_what_the_file_is(ask: Callable[..., httpx.Response], name: str) -> None:
    data, description = OTHERS[name]
    response = ask(data)
    assert response.status_code == 422
    assert f"this is {description}" in response.json()["detail"]


@pytest.mark.situation("S9", "The first image of an MPO file counts, also turned by its EXIF")
def test_the_first_image_of_an_mpo_counts() -> None:
    noise = draw_noise(64, 48)
    data = encode(noise, "MPO", save_all=True, append_images=[GRAY])
    assert np.array_equal(np.asarray(decode_image(data)), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_image(encode(noise, "MPO", save_all=True, append_images=[GRAY], exif=exif)).size == (48, 64)


@pytest.mark.situation("S9", "HEIC is read with the extra heic")
def test_heic_is_read_with_the_extra() -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    got = decode_image(encode(Image.new("RGB", (64, 48), "red"), "HEIF"))
    assert got.size == (64, 48)
    assert got.getpixel((30, 20))[0] > 240


@pytest.mark.situation("S10", "12-bit and thermal images in 16 bits")
@pytest.mark.parametrize(("low", "high"), [(0, 4095), (28_000, 31_000), (30_000, 30_200)])
def test_a_narrow_range_of_16_bits_is_stretched(low: int, high: int) -> None:
    scene = np.asarray(Image.radial_gradient("L")).astype(float) / 255
    got = np.asarray(decode_image(make_deep_png(np.rint(low + scene * (high - low)).astype(np.uint16))))
    assert np.abs(got[..., 0] - scene * 255).max() <= 2


@pytest.mark.situation("S10", "A 16-bit image of the whole range is as it was")
def test_the_whole_range_of_16_bits_is_kept() -> None:
    values = np.linspace(0, 65_535, 600).astype(np.uint16).reshape(20, 30)
    got = np.asarray(decode_image(make_deep_png(values)))[..., 0]
    assert np.abs(got - values / 257).max() <= 0.5


def make_text(size: int, kind: bytes = b"zTXt") -> bytes:
    import zlib

    head = b"Comment\0\0" if kind == b"zTXt" else b"Comment\0\x01\0\0\0" if kind == b"iTXt" else b"Profile\0\0"
    return make_chunk(kind, head + zlib.compress(bytes(size)))


@pytest.mark.situation("P1", "A PNG with large text or profile chunks")
@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_large_chunks_beside_the_pixels_are_skipped(ask: Callable[..., httpx.Response], kind: bytes) -> None:
    rows = (b"\0" + b"\x80" * 200) * 100
    data = make_png(200, 100, 8, 0, rows, make_text(3_000_000, kind))
    assert ask(data).json()["width"] == 200
    assert decode_image(data).getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.situation("P1", "A PNG with many text chunks that expand to gigabytes")
def test_text_chunks_are_not_expanded(ask: Callable[..., httpx.Response]) -> None:
    text = make_text(900_000)
    data = make_png(200, 100, 8, 0, (b"\0" + b"\x80" * 200) * 100, *[text] * 2000)
    assert ask(data).json()["height"] == 100


@pytest.mark.situation("P1", "A JPEG without its end marker decodes; one without its last pixels does not")
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}, {"restart_marker_rows": 1}])
def test_only_the_end_marker_may_be_missing(options: dict[str, bool]) -> None:
    for image in (draw_noise(200, 100), GRAY, draw_noise(64, 48, 1)):
        data = encode(image, "JPEG", **options)
        whole = np.asarray(decode_image(data))
        for end in (data[:-1], data[:-2], data[:-2] + bytes(20)):
            assert np.array_equal(np.asarray(decode_image(end)), whole)
    data = encode(draw_noise(200, 100), "JPEG", **options)
    for cut in (40, 200, len(data) // 2):
        with pytest.raises(ImageError) as raised:
            decode_image(data[:-cut])
        assert raised.value.reason is ImageErrorReason.TRUNCATED


@pytest.mark.situation("P1", "CMYK and YCCK JPEG, palettes, one bit, interlaced PNG, broken EXIF")
def test_unusual_images_have_the_right_colors() -> None:
    red = Image.new("RGB", (16, 16), (200, 40, 30))
    close = {
        "CMYK": encode(red.convert("CMYK"), "JPEG", quality=95),
        "palette": encode(red.quantize(4)),
        "GIF": encode(red, "GIF", save_all=True, append_images=[GRAY.resize((16, 16))]),
        "broken EXIF": encode(red, "JPEG", quality=95, exif=b"Exif\0\0II*\0\xff\xff\xff\xff"),
        "interlaced": make_interlaced_png(),
    }
    for name, data in close.items():
        assert np.abs(np.asarray(decode_image(data)).astype(int) - (200, 40, 30)).max() < 6, name
    bits = np.asarray(decode_image(encode(Image.fromarray(np.eye(8, dtype=bool)))))
    assert np.array_equal(bits[..., 0] == 255, np.eye(8, dtype=bool))
    assert decode_image(set_exif_orientation(draw_noise(20, 10), "TIFF")).size == (10, 20)


def make_interlaced_png() -> bytes:
    """Returns a PNG of one color in Adam7 order."""
    rows = b""
    for x, y, dx, dy in (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):
        width, height = len(range(x, 16, dx)), len(range(y, 16, dy))
        rows += (b"\0" + bytes((200, 40, 30)) * width) * height
    return make_png(16, 16, 8, 2, rows, interlaced=1)


@pytest.mark.situation("S11", "A region in fractions of the image instead of pixels")
@pytest.mark.parametrize("region", ["0.2,0.3,0.9,0.95", "0,0,0.5,1", "10,10,10.4,60"])
def test_a_region_smaller_than_a_pixel_is_refused(ask: Callable[..., httpx.Response], region: str) -> None:
    response = ask(encode(GRAY), task="<REGION_TO_CATEGORY>", region=region)
    assert response.status_code == 422
    assert response.json()["field"] == "region"
    assert "regions are pixels, not fractions" in response.json()["detail"]


@pytest.mark.situation("M2", "A region beyond the border by a rounding error")
@pytest.mark.parametrize("region", ["20,8,200.0000001,100", "-1e-7,-0.001,200.0005,100.000001", "199,99,200,100"])
def test_a_rounding_error_is_clipped(ask: Callable[..., httpx.Response], region: str) -> None:
    assert ask(encode(GRAY), task="<REGION_TO_CATEGORY>", region=region).status_code == 200


@pytest.mark.situation("M2", "A region outside the image")
@pytest.mark.parametrize("region", ["20,8,201,100", "-0.5,0,20,20", "0,0,20,100.1", "300,0,400,20"])
def test_a_region_outside_is_refused(ask: Callable[..., httpx.Response], region: str) -> None:
    response = ask(encode(GRAY), task="<REGION_TO_CATEGORY>", region=region)
    assert response.status_code == 422
    assert "outside the image" in response.json()["detail"]
