"""The pictures of a tar archive, plain or gzipped, read in place."""

import tarfile
import threading
from array import array
from typing import BinaryIO, cast

import indexed_gzip

from server.jobs.sources import addresses
from server.jobs.sources.source import MOST_BYTES, ImageErrorKind, SourceImageError, ImageListing, ImageSource, SourceError, is_picture, too_large

MOST_ENTRIES = 20_000_000
_MOST_HEADER = 1024 * 1024  # of one entry: long names stand in bodies that tarfile reads whole
_MOST_RATIO = 100  # pictures hardly shrink, so what unpacks to more than this is no archive of pictures
_UNCOUNTED = 1024 * 1024 * 1024  # bytes that may be unpacked before the ratio counts
_SPACING = 16 * 1024 * 1024  # between the points at which unpacking can begin, 32 kB of memory each
_BUFFER = 256 * 1024  # or it would be four times the spacing


class TarSource(ImageSource):
    """The pictures of a tar archive, in its order. A gzipped one is unpacked once to list it, remembering points from
    which to unpack on, so that its pictures can be read in any order."""

    def __init__(self, address: str, gzipped: bool) -> None:
        self._raw = addresses.open_file(address)
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
            raise SourceError(f"{addresses.shown(address)} {error}") from None
        except (tarfile.TarError, EOFError, indexed_gzip.ZranError) as error:
            self.close()
            raise SourceError(
                f"{addresses.shown(address)} is broken or cut short after {len(listing.names):,} pictures: {error}. "
                "Copy it again"
            ) from error
        except Exception as error:
            self.close()
            addresses.fail(address, error)
        super().__init__(listing)

    def close(self) -> None:
        self._file.close()
        self._raw.close()

    def _list(self, listing: ImageListing, length: int) -> None:
        headers = _Headers(self._file, length)
        links: dict[int, str] = {}
        count = 0
        self._file.seek(0)
        with tarfile.open(fileobj=cast(BinaryIO, headers), mode="r:") as tar:
            while (entry := tar.next()) is not None:
                # Or all entries would be kept, about a kilobyte each.
                tar.members = []  # type: ignore[attr-defined]
                count += 1
                if count > MOST_ENTRIES:
                    raise SourceError(f"has more than {MOST_ENTRIES:,} entries; split it")
                name = entry.name.replace("\\", "/")
                if entry.isdir() or not is_picture(name):
                    continue
                if entry.islnk():
                    links[len(listing.names)] = entry.linkname
                listing.add(name, entry.size, _fault(entry, name))
                self._offsets.append(entry.offset_data)
                self._sizes.append(entry.size)
            # tarfile takes a broken header for the end, and indexed_gzip a missing end for one.
            headers.seek(tar.offset)
            if headers.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise SourceError(f"is broken or cut short after {len(listing.names):,} pictures. Copy it again")
        self._follow(links, listing)

    def _follow(self, links: dict[int, str], listing: ImageListing) -> None:
        """Gives hard links, by which tar writes a file's second name, the place of what they link to."""
        wanted = set(links.values())
        places = {name: i for i, name in enumerate(listing.names) if name in wanted and i not in links}
        for link, name in links.items():
            if name in places and link not in listing.faults:
                self._offsets[link], self._sizes[link] = self._offsets[places[name]], self._sizes[places[name]]
            else:
                listing.faults[link] = SourceImageError(f"it is a link to {name!r}, which is not there", ImageErrorKind.BROKEN)

    def _read(self, position: int) -> bytes:
        size = self._sizes[position]
        try:
            with self._lock:
                self._file.seek(self._offsets[position])
                data = self._file.read(size)
        except Exception as error:
            reason, fault = addresses.explained(error)
            raise SourceImageError(reason, fault) from error
        if len(data) < size:
            raise SourceImageError("the archive is cut short there", ImageErrorKind.BROKEN)
        return data


def _fault(entry: tarfile.TarInfo, name: str) -> SourceImageError | None:
    if ".." in name.split("/") or name.startswith("/") or name[1:2] == ":":
        return SourceImageError(f"the archive says that it lies outside: {name!r}", ImageErrorKind.REFUSED)
    if entry.issym():
        return SourceImageError("it is a link, which is not followed in an archive", ImageErrorKind.REFUSED)
    if entry.issparse() or not (entry.isreg() or entry.islnk()):
        return SourceImageError("it is no plain file", ImageErrorKind.REFUSED)
    return too_large(entry.size) if entry.size > MOST_BYTES else None


class _Headers:
    """What tarfile lists from: refuses what would unpack without end."""

    def __init__(self, file: BinaryIO, length: int) -> None:
        self._file, self._most = file, max(_UNCOUNTED, _MOST_RATIO * length)

    def read(self, size: int) -> bytes:
        if size > _MOST_HEADER:
            raise SourceError(f"has an entry whose name alone would be {size:,} bytes: it is not read")
        return self._file.read(size)

    def seek(self, offset: int) -> int:
        if offset > self._most:
            raise SourceError(f"unpacks to more than {_MOST_RATIO} times its size, as no pictures do: it is not read")
        return self._file.seek(offset)

    def tell(self) -> int:
        return self._file.tell()
