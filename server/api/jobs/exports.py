"""The annotations of a job as a dataset to download, in any format."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from zipfile import ZIP_DEFLATED

from starlette.responses import StreamingResponse
from zipstream import ZipStream

from labels.formats import FORMATS
from labels.labeled_image import LabeledImage

_CHUNK_BYTES = 1 << 18
ZIP, JSON_LINES = "application/zip", "application/x-ndjson"


def write_dataset(format: str, images: Iterable[LabeledImage], folder: Path, name: str, *, copy_images: bool) -> Path:
    """Writes a dataset into `folder` and returns its path, which starts with `name`.

    Raises ValueError if the format cannot contain images, OSError if the disk is full, and whatever `images` raises.
    """
    chosen = FORMATS[format]
    path = folder / f"{name}-{format}{chosen.suffix or ''}"
    chosen.write(images, path, copy_images=copy_images)
    return path


def create_download(dataset: Path) -> StreamingResponse:
    """Returns a response that streams a dataset: a folder as a ZIP archive, a file as it is."""
    if dataset.is_dir():
        archive = ZipStream.from_path(dataset, compress_type=ZIP_DEFLATED, compress_level=1, sized=False)
        chunks, name, media_type = iter(archive), f"{dataset.name}.zip", ZIP
    else:
        chunks, name, media_type = _read_chunks(dataset), dataset.name, JSON_LINES
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(chunks, media_type=media_type, headers=headers)


def _read_chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
