"""Opens a source by its address. Detects the kind of source."""

import codecs
import os
import posixpath
from pathlib import Path

from labels.file_kinds import is_image
from server.jobs.sources import addresses
from server.jobs.sources.coco import open_coco
from server.jobs.sources.failures import raise_source_error
from server.jobs.sources.folders import FolderSource, open_pattern
from server.jobs.sources.lists import ListSource, open_list
from server.jobs.sources.names import SUFFIX_LIST, is_image_name
from server.jobs.sources.path_patterns import is_pattern
from server.jobs.sources.remote import RemoteSource
from server.jobs.sources.source import AccessCheck, ImageSource, SourceError
from server.jobs.sources.tables import TableSource, to_table_name
from server.jobs.sources.tars import TarSource
from server.jobs.sources.zips import ZipSource
from server.store.text import is_url, redact_address

# The first bytes of files that are not supported but deserve their own message.
_UNSUPPORTED = (
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"BZh", "compressed with bzip2"),
    (b"\xfd7zXZ", "compressed with xz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
)


def open_source(address: str, *, exclude: Path | None = None, is_allowed: AccessCheck | None = None) -> ImageSource:
    """Opens the images at an address: a folder, a pattern, a zip or tar archive, a list, a COCO file, a Hugging Face
    dataset, one image, or an fsspec URL of any of these.

    `exclude` is an output folder that is left out. `is_allowed` is called for every path, with links resolved, and
    every URL before it is opened; None allows all. Raises SourceError.
    """
    address = addresses.strip_file_scheme(address)
    if not address or "\0" in address:
        raise SourceError("the source is empty: give a folder, an archive, a list, a COCO file or a URL")
    path = Path(address)
    if is_allowed is not None and not is_allowed(address if is_url(address) else os.path.realpath(path)):
        raise SourceError(f"this server is not configured to read from {redact_address(address)}")
    if is_url(address):
        return _check_not_empty(_open_url(address, is_allowed), address)
    try:
        if path.is_dir():
            folder = FolderSource(path, exclude, is_allowed)
            if folder.tables and not len(folder):
                return _check_not_empty(TableSource(folder.tables, is_allowed), address)
            return _check_not_empty(folder, address)
        if path.is_file():
            return _check_not_empty(_open_file(address, is_allowed, exclude), address)
        if is_pattern(address):
            return open_pattern(address, exclude, is_allowed)
    except OSError as error:
        raise_source_error(address, error)
    raise SourceError(f"there is no {address}; give a folder, an archive, a list, a COCO file or a URL of images")


def _open_url(url: str, is_allowed: AccessCheck | None) -> ImageSource:
    try:
        if url.endswith("/") or (not addresses.is_http(url) and _is_remote_folder(url)):
            folder = RemoteSource(url, is_allowed)
            return TableSource(folder.tables, is_allowed) if folder.tables and not len(folder) else folder
    except SourceError:
        raise
    except Exception as error:
        raise_source_error(url, error)
    return _open_file(url, is_allowed)


def _is_remote_folder(url: str) -> bool:
    fs, path = addresses.open_filesystem(url)
    return "/" not in path or fs.isdir(path)  # a path without a slash is a whole bucket


def _open_file(address: str, is_allowed: AccessCheck | None, exclude: Path | None = None) -> ImageSource:
    """Opens a file by its first bytes, since suffixes can be wrong."""
    name = addresses.get_name(address)
    suffix = posixpath.splitext(name)[1].lower()
    try:
        with addresses.open_file(address, is_allowed) as file:
            head = file.read(512)
    except OSError as error:
        raise_source_error(address, error)
    if not head:
        raise SourceError(f"{redact_address(address)} is empty: 0 bytes")
    if is_image_name(name) or is_image(head):
        return ListSource(address, [(1, address if is_url(address) else name)], is_allowed)
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return ZipSource(address, is_allowed)
    if head.startswith(b"\x1f\x8b") or head[257:262] == b"ustar" or suffix == ".tar":
        return TarSource(address, gzipped=head.startswith(b"\x1f\x8b"), is_allowed=is_allowed)
    if addresses.is_http(address) and head.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        return RemoteSource(address, is_allowed)
    if head.startswith(b"PAR1") or suffix == ".arrow":
        return TableSource([(to_table_name(name), address, _get_length(address, is_allowed))], is_allowed)
    for magic, kind in _UNSUPPORTED:
        if head.startswith(magic):
            raise SourceError(f"{redact_address(address)} is {kind}, which is not supported; use .zip, .tar or .tar.gz")
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise SourceError(f"{redact_address(address)} is text in UTF-16, as PowerShell writes it; save it as UTF-8")
    if b"\0" in head:
        raise SourceError(f"{redact_address(address)} is neither an image, an archive, a list nor a COCO file")
    if suffix == ".json":
        return open_coco(address, is_allowed, exclude)
    return open_list(address, is_allowed, exclude)


def _get_length(address: str, is_allowed: AccessCheck | None) -> int:
    with addresses.open_file(address, is_allowed) as file:
        return file.seek(0, 2)


def _check_not_empty(source: ImageSource, address: str) -> ImageSource:
    if not len(source):
        aside = "".join(f". {note}" for note in source.notes)
        raise SourceError(f"there are no images in {redact_address(address)}; images end in {SUFFIX_LIST}{aside}")
    return source
