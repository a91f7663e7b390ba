"""The pictures of a folder behind an fsspec URL: a bucket, a web server's listing, another machine's files."""

import urllib.parse
from array import array
from collections.abc import Iterator
from typing import Any, cast

from server.jobs.sources import addresses
from server.jobs.sources.source import MOST_BYTES, Allowed, SourceImageError, ImageListing, ImageSource, is_picture, too_large
from server.jobs.sources.tables import table_name

_DEPTH = 64  # folders below folders; a loop of links on another machine would have no end


class Remote(ImageSource):
    """The pictures below a URL, sorted by name. `tables`: Parquet files there, as Tables takes them."""

    def __init__(self, url: str, allowed: Allowed | None = None) -> None:
        self._http, self._allowed = addresses.is_http(url), allowed
        self._fs, self._root = addresses.filesystem(url.rstrip("/"))
        self._root = self._root.rstrip("/")
        self._sizes = array("q")
        self._paths: dict[int, str] = {}  # where they are other than the names
        self.tables: list[tuple[str, str, int]] = []
        try:
            found = sorted(self._files())
        except Exception as error:
            addresses.fail(url, error)
        listing = ImageListing()
        for path, size in found:
            if not is_picture(path):
                self.tables.append((table_name(path), f"{url.rstrip('/')}/{path}", size))
                continue
            listing.add(urllib.parse.unquote(path) if self._http else path, size)
            if listing.names[-1] != path:
                self._paths[len(self._sizes)] = path
            self._sizes.append(size)
        super().__init__(listing)

    def _files(self) -> Iterator[tuple[str, int]]:
        """Paths below the root, with sizes in bytes; -1 where the server does not say."""
        start = len(self._root) + 1
        for path, size in _objects(self._fs, self._root) if hasattr(self._fs, "call_s3") else self._walked():
            if path.startswith(f"{self._root}/") and (is_picture(path[start:]) or path.endswith(".parquet")):
                yield path[start:], size

    def _walked(self) -> Iterator[tuple[str, int]]:
        for _, _, files in self._fs.walk(self._root + "/" * self._http, _DEPTH, on_error="raise", detail=True):
            for info in files.values():
                yield info["name"], -1 if info.get("size") is None else info["size"]

    def _read(self, position: int) -> bytes:
        path = f"{self._root}/{self._paths.get(position, self.names[position])}"
        if self._http:
            return addresses.read(path, self._allowed)  # asked where it redirects
        try:
            if self._sizes[position] > MOST_BYTES:
                raise too_large(self._sizes[position])
            return cast(bytes, self._fs.cat_file(path))
        except SourceImageError:
            raise
        except Exception as error:
            reason, fault = addresses.explained(error)
            raise SourceImageError(reason, fault) from error


def _objects(fs: Any, root: str) -> Iterator[tuple[str, int]]:
    """An S3 bucket's objects below a path. Page by page, for s3fs' own listing holds 6 kB for each."""
    bucket, _, prefix = root.partition("/")
    going_on: dict[str, str] = {}
    while True:
        page = fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix and f"{prefix}/", **going_on)
        for entry in page.get("Contents", ()):
            yield f"{bucket}/{entry['Key']}", entry["Size"]
        if not page.get("IsTruncated"):
            return
        going_on = {"ContinuationToken": page["NextContinuationToken"]}
