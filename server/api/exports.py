"""A job's labels as a file to download, in any format."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from zipfile import ZIP_DEFLATED

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send
from zipstream import ZipStream

from labels.formats import FORMATS
from labels.labeled_image import LabeledImage

_CHUNK = 1 << 18
ZIP, LINES = "application/zip", "application/x-ndjson"


class Download(StreamingResponse):
    """A dataset, sent while it is read: a folder as a zip archive, a file as it is. `until` is closed when the download
    is over, however it ends."""

    def __init__(self, dataset: Path, until: ExitStack) -> None:
        if dataset.is_dir():
            archive = ZipStream.from_path(dataset, compress_type=ZIP_DEFLATED, compress_level=1, sized=False)
            chunks, name, kind = iter(archive), f"{dataset.name}.zip", ZIP
        else:
            chunks, name, kind = _read(dataset), dataset.name, LINES
        super().__init__(chunks, media_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})
        self.until = until

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.until:
            await super().__call__(scope, receive, send)


def write(format: str, pictures: Iterable[LabeledImage], folder: Path, name: str, *, pictures_too: bool) -> Path:
    """The dataset, in `folder` and called after `name`. Raises ValueError where the format has no place for pictures,
    OSError where there is no room, and what `pictures` does."""
    chosen = FORMATS[format]
    out = folder / f"{name}-{format}{chosen.suffix or ''}"
    chosen.write(pictures, out, pictures_too=pictures_too)
    return out


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
