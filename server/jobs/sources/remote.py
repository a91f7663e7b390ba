"""The images of a folder behind an fsspec URL: a bucket, the index page of a web server, another machine."""

import urllib.parse
from array import array
from collections.abc import Iterator
from typing import Any, cast

from server.jobs.sources import addresses
from server.jobs.sources.failures import raise_source_error, to_image_error
from server.jobs.sources.listing import ImageListing
from server.jobs.sources.names import is_image_name
from server.jobs.sources.reading import read_image
from server.jobs.sources.source import MAX_FILE_BYTES, AccessCheck, ImageSource, SourceImageError, make_size_error
from server.jobs.sources.tables import to_table_name

_MAX_DEPTH = 64  # nested folders; a loop of links on another machine would not end


class RemoteSource(ImageSource):
    """The images below a URL, sorted by name. `tables` has the Parquet files there, as TableSource takes them."""

    def __init__(self, url: str, is_allowed: AccessCheck | None = None) -> None:
        self._is_http, self._is_allowed = addresses.is_http(url), is_allowed
        self._fs, self._root = addresses.open_filesystem(url.rstrip("/"))
        self._root = self._root.rstrip("/")
        self._sizes = array("q")
        self._paths: dict[int, str] = {}  # by position, if they differ from the names
        self.tables: list[tuple[str, str, int]] = []
        try:
            files = sorted(self._iter_files())
        except Exception as error:
            raise_source_error(url, error)
        listing = ImageListing()
        for path, size in files:
            if not is_image_name(path):
                self.tables.append((to_table_name(path), f"{url.rstrip('/')}/{path}", size))
                continue
            listing.add(urllib.parse.unquote(path) if self._is_http else path, size)
            if listing.names[-1] != path:
                self._paths[len(self._sizes)] = path
            self._sizes.append(size)
        super().__init__(listing)

    def _iter_files(self) -> Iterator[tuple[str, int]]:
        """Yields paths below the root, with sizes in bytes; -1 if the server does not report the size."""
        start = len(self._root) + 1
        files = _iter_s3_objects(self._fs, self._root) if hasattr(self._fs, "call_s3") else self._walk()
        for path, size in files:
            if path.startswith(f"{self._root}/") and (is_image_name(path[start:]) or path.endswith(".parquet")):
                yield path[start:], size

    def _walk(self) -> Iterator[tuple[str, int]]:
        root = self._root + "/" * self._is_http
        for _, _, files in self._fs.walk(root, _MAX_DEPTH, on_error="raise", detail=True):
            for info in files.values():
                yield info["name"], -1 if info.get("size") is None else info["size"]

    def _read(self, position: int) -> bytes:
        path = f"{self._root}/{self._paths.get(position, self.names[position])}"
        if self._is_http:
            return read_image(path, self._is_allowed)  # checks redirects
        try:
            if self._sizes[position] > MAX_FILE_BYTES:
                raise make_size_error(self._sizes[position])
            return cast(bytes, self._fs.cat_file(path))
        except SourceImageError:
            raise
        except Exception as error:
            raise to_image_error(error) from error


def _iter_s3_objects(fs: Any, root: str) -> Iterator[tuple[str, int]]:
    """Yields an S3 bucket's objects below a path. Reads page by page: s3fs's own listing takes 6 kB for each object."""
    bucket, _, prefix = root.partition("/")
    continuation: dict[str, str] = {}
    while True:
        page = fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix and f"{prefix}/", **continuation)
        for entry in page.get("Contents", ()):
            yield f"{bucket}/{entry['Key']}", entry["Size"]
        if not page.get("IsTruncated"):
            return
        continuation = {"ContinuationToken": page["NextContinuationToken"]}
