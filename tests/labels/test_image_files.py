"""Sizes of image files, from their headers."""

import io
from pathlib import Path
from typing import IO

import pytest
from PIL import Image

from labels.image_files import ImageBytes, ImageFile, read_size
from labels.images import ImageError
from tests.labels.attack_images import make_comments, make_padding

_ORIENTATION = 0x0112


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 8])
def test_the_size_is_that_of_the_decoded_image(kind: str, orientation: int) -> None:
    out, exif = io.BytesIO(), Image.Exif()
    exif[_ORIENTATION] = orientation
    options = {"tiffinfo": {_ORIENTATION: orientation}} if kind == "TIFF" else {"exif": exif}
    Image.new("RGB", (40, 20)).save(out, kind, **options)
    image = ImageBytes(out.getvalue())
    assert read_size(image) == image().size == ((40, 20) if orientation < 5 else (20, 40))


@pytest.mark.parametrize("data", [make_comments(100_000), make_padding(1_000_000)], ids=["comments", "padding"])
def test_headers_are_read_in_bounded_time(data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = 0

    class CountingFile(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            nonlocal reads
            reads += 1
            return super().read(size)

    def stream(image: ImageFile) -> IO[bytes]:
        return CountingFile(image.path.read_bytes())

    (tmp_path / "a.jpg").write_bytes(data)
    monkeypatch.setattr(ImageFile, "stream", stream)
    with pytest.raises(ImageError, match="the JPEG has more than"):
        read_size(ImageFile(tmp_path / "a.jpg"))
    assert reads < 30_000
