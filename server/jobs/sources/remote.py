"""The images of a folder behind an fsspec URL: a bucket, the index page of a web server, another machine."""

import hashlib
import urllib.parse
from array import array
from collections.abc import Iterator, Mapping
from typing import Any

from server.jobs.sources import addresses
from server.jobs.sources.failures import raise_source_error, to_image_error
from server.jobs.sources.listing import ImageListing, NameBudget
from server.jobs.sources.names import is_hidden, is_image_name
from server.jobs.sources.reading import read_from_filesystem, read_image
from server.jobs.sources.source import (
    MAX_ENTRIES,
    AccessCheck,
    ImageSource,
    Reserve,
    SourceError,
    SourceImageError,
)
from server.jobs.sources.tables import to_table_name
from server.jobs.sources.web import iter_web_files
from server.store.text import redact_address

_MAX_DEPTH = 64  # nested folders; a loop of links on another machine would not end
_VERSION_KEYS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated")  # of fsspec's file systems


class RemoteSource(ImageSource):
    """The images below a URL, sorted by name. `tables` has the Parquet files there, as TableSource takes them."""

    def __init__(self, url: str, is_allowed: AccessCheck | None = None) -> None:
        self._is_http, self._is_allowed = addresses.is_http(url), is_allowed
        self._fs: Any = None
        self._fs, self._root = (None, url) if self._is_http else addresses.open_filesystem(url.rstrip("/"))
        self._root = self._root.rstrip("/")
        self._sizes, self._versions = array("q"), array("Q")
        self._paths: dict[int, str] = {}  # by position, if they differ from the names
        self.tables: list[tuple[str, str, int]] = []
        listing = ImageListing()
        try:
            files = sorted(self._iter_files(listing))
        except SourceError as error:
            raise SourceError(f"{redact_address(url)} {error}") from None
        except Exception as error:
            raise_source_error(url, error)
        for path, size, version in files:
            if not is_image_name(path):
                self.tables.append((to_table_name(path), f"{url.rstrip('/')}/{path}", size))
                continue
            listing.add(urllib.parse.unquote(path) if self._is_http else path, size)
            if listing.names[-1] != path:
                self._paths[len(self._sizes)] = path
            self._sizes.append(size)
            self._versions.append(version)
        super().__init__(listing)

    def get_stamp(self, position: int) -> str:
        size, version = self._sizes[position], self._versions[position]
        return f"{size}-{version:016x}" if version else ""

    def _iter_files(self, listing: ImageListing) -> Iterator[tuple[str, int, int]]:
        """Yields paths below the root, with sizes in bytes (-1: unknown) and versions (0: unknown). Sets aside files
        that are no images."""
        start, budget = len(self._root) + 1, NameBudget()
        for count, (path, size, version) in enumerate(self._walk(), 1):
            if count > MAX_ENTRIES:
                raise SourceError(f"has more than {MAX_ENTRIES:,} files; name a folder in it")
            name = path[start:]
            if not path.startswith(f"{self._root}/") or is_hidden(name):
                continue
            if is_image_name(name) or name.endswith(".parquet"):
                budget.add(name)
                yield name, size, version
            elif name and not name.endswith("/"):  # the objects of buckets that stand for folders
                listing.set_aside(name)

    def _walk(self) -> Iterator[tuple[str, int, int]]:
        if self._is_http:
            for path in iter_web_files(self._root, self._is_allowed):
                yield path, -1, 0
        elif hasattr(self._fs, "call_s3"):
            yield from _iter_s3_objects(self._fs, self._root)
        else:
            for _, _, files in self._fs.walk(self._root, _MAX_DEPTH, on_error="raise", detail=True):
                for info in files.values():
                    size = -1 if info.get("size") is None else info["size"]
                    yield info["name"], size, _hash_version(info)

    def _read(self, position: int, reserve: Reserve) -> bytes:
        path = f"{self._root}/{self._paths.get(position, self.names[position])}"
        if self._is_http:
            return read_image(path, self._is_allowed, reserve)
        size = self._sizes[position]
        try:
            return read_from_filesystem(self._fs, path, size if size >= 0 else None, reserve)
        except SourceImageError:
            raise
        except Exception as error:
            raise to_image_error(error) from error


def _hash_version(info: Mapping[str, Any]) -> int:
    """Returns a hash of what tells a version of a file from others; 0 if the file system reports nothing of it."""
    version = next((info[key] for key in _VERSION_KEYS if info.get(key)), None)
    return 0 if version is None else int.from_bytes(hashlib.blake2b(str(version).encode(), digest_size=8).digest())


def _iter_s3_objects(fs: Any, root: str) -> Iterator[tuple[str, int, int]]:
    """Yields an S3 bucket's objects below a path, as `_walk` does. Reads page by page: s3fs's own listing takes 6 kB
    for each object."""
    bucket, _, prefix = root.partition("/")
    continuation: dict[str, str] = {}
    while True:
        page = fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix and f"{prefix}/", **continuation)
        for entry in page.get("Contents", ()):
            yield f"{bucket}/{entry['Key']}", entry["Size"], _hash_version(entry)
        if not page.get("IsTruncated"):
            return
        continuation = {"ContinuationToken": page["NextContinuationToken"]}
