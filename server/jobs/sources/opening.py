"""From what a person names to the source that reads it."""

import os
import posixpath
from pathlib import Path

from server.jobs.sources import addresses
from server.jobs.sources.coco import open_coco
from server.jobs.sources.folders import ENDINGS, Folder, is_pattern, open_pattern
from server.jobs.sources.lists import Listed, open_list
from server.jobs.sources.remote import Remote
from server.jobs.sources.source import Allowed, Source, SourceError, is_picture
from server.jobs.sources.tables import Tables, local_tables, table_name
from server.jobs.sources.tars import Tar
from server.jobs.sources.zips import Zip

# What a file begins with after so many bytes, and what it is, of those that are refused with a word of their own.
_OTHERS = (
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"BZh", "packed by bzip2"),
    (b"\xfd7zXZ", "packed by xz"),
    (b"\x28\xb5\x2f\xfd", "packed by zstd"),
)


def open_source(text: str, *, besides: Path | None = None, allowed: Allowed | None = None) -> Source:
    """The pictures that `text` names: a folder, a pattern, a zip or tar archive, a list, a COCO file, a Hugging Face
    dataset, one picture, or an fsspec URL of any of them.

    `besides`: an output folder that is left out. `allowed` is asked about every path, links resolved, and every URL
    before it is opened; None: all are. Raises SourceError.
    """
    text = addresses.local(text)
    if not text or "\0" in text:
        raise SourceError("no pictures are named: give a folder, an archive, a list, a COCO file or a URL")
    path = Path(text)
    if allowed is not None and not allowed(text if addresses.is_url(text) else os.path.realpath(path)):
        raise SourceError(f"this server is not set to read from {addresses.shown(text)}")
    if addresses.is_url(text):
        return _filled(_remote(text, allowed), text)
    try:
        if path.is_dir():
            folder = Folder(path, besides, allowed)
            if folder.tables and not len(folder):
                return _filled(Tables(local_tables(path, folder.tables), allowed), text)
            return _filled(folder, text)
        if path.is_file():
            return _filled(_file(text, allowed), text)
        if is_pattern(text):
            return open_pattern(text, besides, allowed)
    except OSError as error:
        addresses.fail(text, error)
    raise SourceError(f"there is no {text}; name a folder, an archive, a list, a COCO file or a URL of pictures")


def _remote(url: str, allowed: Allowed | None) -> Source:
    fs, path = addresses.filesystem(url)
    try:
        # A path without a slash is a whole bucket.
        if url.endswith("/") or (not addresses.is_http(url) and ("/" not in path or fs.isdir(path))):
            folder = Remote(url, allowed)
            return Tables(folder.tables, allowed) if folder.tables and not len(folder) else folder
    except SourceError:
        raise
    except Exception as error:
        addresses.fail(url, error)
    return _file(url, allowed)


def _file(address: str, allowed: Allowed | None) -> Source:
    """A file by what it begins with, for names lie."""
    name = addresses.basename(address)
    suffix = posixpath.splitext(name)[1].lower()
    try:
        with addresses.open_file(address) as file:
            head = file.read(512)
    except OSError as error:
        addresses.fail(address, error)
    if not head:
        raise SourceError(f"{addresses.shown(address)} is empty: 0 bytes")
    if is_picture(name):
        return Listed(
            address, [(1, address if addresses.is_url(address) else name)], [addresses.parent(address)], allowed
        )
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return Zip(address)
    if head.startswith(b"\x1f\x8b") or head[257:262] == b"ustar" or suffix == ".tar":
        return Tar(address, gzipped=head.startswith(b"\x1f\x8b"))
    if addresses.is_http(address) and head.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        return Remote(address, allowed)
    if head.startswith(b"PAR1") or suffix == ".arrow":
        return Tables([(table_name(name), address, _length(address))], allowed)
    for magic, kind in _OTHERS:
        if head.startswith(magic):
            raise SourceError(
                f"{addresses.shown(address)} is {kind}, which is not read; pack it as .zip, .tar or .tar.gz"
            )
    if b"\0" in head:
        raise SourceError(f"{addresses.shown(address)} is neither a picture nor an archive, a list or a COCO file")
    if suffix == ".json":
        return open_coco(address, allowed)
    return open_list(address, allowed)


def _length(address: str) -> int:
    with addresses.open_file(address) as file:
        return file.seek(0, 2)


def _filled(source: Source, text: str) -> Source:
    if not len(source):
        raise SourceError(f"there are no pictures in {addresses.shown(text)}; their names end in {ENDINGS}")
    return source
