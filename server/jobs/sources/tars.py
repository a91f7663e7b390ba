"""The images of a tar archive, plain or gzipped. They are read from the archive without unpacking it."""

import tarfile
import threading
from array import array
from typing import BinaryIO, cast

import indexed_gzip

from labels.file_kinds import START_BYTES
from server.jobs.sources import addresses
from server.jobs.sources.failures import raise_source_error, to_image_error
from server.jobs.sources.listing import ImageListing
from server.jobs.sources.names import is_hidden, is_image_name, may_be_image
from server.jobs.sources.source import (
    ALWAYS_UNPACKED_BYTES,
    MAX_ENTRIES,
    MAX_FILE_BYTES,
    MAX_RATIO,
    AccessCheck,
    ImageSource,
    Reserve,
    SourceError,
    SourceImageError,
    SourceImageFault,
    make_size_error,
)
from server.store.text import redact_address

_MAX_HEADER = 1024 * 1024  # bytes of the headers of one entry, which tarfile keeps: a long name, a map of holes
_MAX_GLOBAL = 100  # global headers, which tarfile keeps to the end
_SPACING = 16 * 1024 * 1024  # bytes between the points where unpacking can start; each point needs 32 kB of memory
_ENTRY_BYTES = 16  # memory of what is kept of an entry besides its name
_BUFFER = 256 * 1024  # bytes; the default is four times the spacing


class TarSource(ImageSource):
    """The images of a tar archive, in its order.

    A gzipped archive is read once to list it. Points where unpacking can start are kept in memory, so that the images
    can then be read in any order.
    """

    def __init__(self, address: str, gzipped: bool, is_allowed: AccessCheck | None = None) -> None:
        self._raw = addresses.open_file(address, is_allowed)
        self._stamp = addresses.get_file_stamp(self._raw)
        self._lock = threading.Lock()
        self._offsets, self._sizes = array("Q"), array("Q")
        listing = ImageListing()
        try:
            self._file = self._raw
            if gzipped:
                unpacked = indexed_gzip.IndexedGzipFile(fileobj=self._raw, spacing=_SPACING, buffer_size=_BUFFER)
                self._file = cast(BinaryIO, unpacked)
            self._list(listing, self._raw.seek(0, 2))
        except SourceError as error:
            self.close()
            raise SourceError(f"{redact_address(address)} {error}") from None
        except (tarfile.TarError, EOFError, indexed_gzip.ZranError) as error:
            self.close()
            raise SourceError(
                f"{redact_address(address)} is broken or truncated after {len(listing.names):,} images: {error}. "
                "Copy it again"
            ) from error
        except Exception as error:
            self.close()
            raise_source_error(address, error)
        super().__init__(listing)

    def close(self) -> None:
        self._file.close()
        self._raw.close()

    def get_stamp(self, position: int) -> str:
        return self._stamp  # a tar archive has no checksums

    def _list(self, listing: ImageListing, length: int) -> None:
        headers = _HeaderReader(self._file, length)
        links: dict[int, str] = {}
        count, end = 0, -1
        self._file.seek(0)
        with tarfile.open(fileobj=cast(BinaryIO, headers), mode="r:") as tar:
            while (entry := tar.next()) is not None:
                # Otherwise tarfile keeps all entries, about a kilobyte each.
                tar.members = []  # type: ignore[attr-defined]
                headers.start_entry()
                count += 1
                if count > MAX_ENTRIES:
                    raise SourceError(f"has more than {MAX_ENTRIES:,} entries; split it")
                if entry.size < 0 or tar.offset <= end:  # a negative size leads back to the same entry
                    raise SourceError(f"is broken after {len(listing.names):,} images: an entry has no valid size")
                if len(tar.pax_headers) > _MAX_GLOBAL:
                    raise SourceError(f"has more than {_MAX_GLOBAL} global headers, unlike archives of images")
                end = tar.offset
                name = entry.name.replace("\\", "/")
                if entry.isdir() or is_hidden(name):
                    continue
                if not is_image_name(name) and not self._is_image(listing, entry, name):
                    continue
                if entry.islnk():
                    links[len(listing.names)] = entry.linkname
                listing.add(name, entry.size, _find_fault(entry, name), _ENTRY_BYTES)
                self._offsets.append(entry.offset_data)
                self._sizes.append(entry.size)
            # tarfile stops without an error at a broken header, and indexed_gzip at a missing end.
            headers.seek(tar.offset)
            if headers.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise SourceError(f"is broken or truncated after {len(listing.names):,} images. Copy it again")
        self._resolve_links(links, listing)

    def _is_image(self, listing: ImageListing, entry: tarfile.TarInfo, name: str) -> bool:
        """Returns whether an entry without an image's suffix is an image. Otherwise sets it aside."""
        if not may_be_image(name) or not entry.isreg() or entry.issparse():
            listing.set_aside(name)
            return False
        self._file.seek(entry.offset_data)
        # Without the last byte: tarfile goes back to it, and unpacking would start again.
        return listing.check_start(name, self._file.read(max(0, min(START_BYTES, entry.size - 1))))

    def _resolve_links(self, links: dict[int, str], listing: ImageListing) -> None:
        """Gives each hard link the offset of its target. Tar stores the second name of a file as a hard link."""
        targets = set(links.values())
        positions = {name: i for i, name in enumerate(listing.names) if name in targets and i not in links}
        for link, name in links.items():
            if name in positions and link not in listing.faults:
                self._offsets[link], self._sizes[link] = self._offsets[positions[name]], self._sizes[positions[name]]
            else:
                listing.faults[link] = SourceImageError(
                    f"it is a link to {name!r}, which does not exist", SourceImageFault.BROKEN
                )

    def _read(self, position: int, reserve: Reserve) -> bytes:
        size = self._sizes[position]
        try:
            reserve(size)
            with self._lock:
                self._file.seek(self._offsets[position])
                data = self._file.read(size)
        except Exception as error:
            raise to_image_error(error) from error
        if len(data) < size:
            raise SourceImageError("the archive is truncated here", SourceImageFault.BROKEN)
        return data


def _find_fault(entry: tarfile.TarInfo, name: str) -> SourceImageError | None:
    if ".." in name.split("/") or name.startswith("/") or name[1:2] == ":":
        return SourceImageError(f"its path is outside of the archive: {name!r}", SourceImageFault.REFUSED)
    if entry.issym():
        return SourceImageError("it is a link; links in archives are not followed", SourceImageFault.REFUSED)
    if entry.issparse() or not (entry.isreg() or entry.islnk()):
        return SourceImageError("it is not a regular file", SourceImageFault.REFUSED)
    return make_size_error(entry.size) if entry.size > MAX_FILE_BYTES else None


class _HeaderReader:
    """The file from which tarfile lists. Refuses archives that expand too much."""

    def __init__(self, file: BinaryIO, length: int) -> None:
        self._file, self._limit = file, max(ALWAYS_UNPACKED_BYTES, MAX_RATIO * length)
        self._read = 0

    def start_entry(self) -> None:
        """Begins to count the bytes of the next headers."""
        self._read = 0

    def read(self, size: int) -> bytes:
        self._read += size
        if self._read > _MAX_HEADER:
            raise SourceError(f"has an entry with headers of more than {_MAX_HEADER:,} bytes, which is too long")
        return self._file.read(size)

    def seek(self, offset: int) -> int:
        if offset > self._limit:
            raise SourceError(f"expands to more than {MAX_RATIO} times its size, which archives of images do not")
        return self._file.seek(offset)

    def tell(self) -> int:
        return self._file.tell()
