"""The images that a list names by paths and URLs: a text, CSV or JSON Lines file."""

import csv
import io
import json
import posixpath
import urllib.parse
from collections.abc import Iterable, Iterator
from pathlib import Path

from labels.image_resolver import list_spellings
from prompts.text import truncate
from server.jobs.sources import addresses
from server.jobs.sources.failures import raise_source_error
from server.jobs.sources.listed_files import ListedFiles
from server.jobs.sources.listing import ImageListing
from server.jobs.sources.reading import read_image
from server.jobs.sources.remote_folders import get_split, list_remote_folders
from server.jobs.sources.source import (
    AccessCheck,
    ImageSource,
    Reserve,
    SourceError,
    SourceImageError,
    SourceImageFault,
)
from server.store.text import is_url, redact_address

COLUMNS = ("file_name", "file", "path", "filename", "filepath", "image", "image_path", "url", "image_url")
_MAX_LINE = 64 * 1024  # characters of a line of a text file
_MAX_ROW = 1024 * 1024  # characters of a row of other lists, which may also have annotations
_TARGET_BYTES = 100  # memory of a path or URL besides its characters
_MAX_SHOWN = 80  # characters of a path or column in a message


class ListSource(ImageSource):
    """The images that the rows of a list name.

    The fingerprint depends on names alone, since a missing file may come back.
    """

    def __init__(
        self,
        address: str,
        rows: Iterable[tuple[int, str]],
        is_allowed: AccessCheck | None,
        exclude: Path | None = None,
        split: str = "",
    ) -> None:
        """`rows` are numbers, which name images without a path, and paths or URLs. `split` is what the list describes.
        `exclude` is a folder in which no image is looked for."""
        self._is_allowed = is_allowed
        self._targets: list[str] = []
        local = None if is_url(address) else Path(address)
        self._files = None if local is None else ListedFiles(local, self._targets, split, is_allowed, exclude)
        self._folders = () if local is not None else list_remote_folders(address, split)
        listing, seen, repeated = ImageListing(), set[str](), 0
        for number, target in rows:
            target = addresses.strip_file_scheme(target)
            if target and not is_url(target):
                target = posixpath.normpath(target)
            if target in seen:
                repeated += 1
                continue
            fault = None if target else SourceImageError(f"row {number} names no image", SourceImageFault.MISSING)
            listing.add(_to_name(target) if target else f"row {number}", fault=fault, extra=len(target) + _TARGET_BYTES)
            if target:
                seen.add(target)
            # Most of the memory of a million rows are these strings, so equal ones are shared.
            self._targets.append(listing.names[-1] if listing.names[-1] == target else target)
        if repeated:
            listing.add_note(f"{repeated:,} rows name an image that an earlier row names; they are skipped")
        if not seen:
            raise SourceError(f"{redact_address(address)} names no image: it has no rows, or no row has a path or URL")
        if not self._has_images():
            folders = self._files.folders if self._files is not None else self._folders
            first = truncate(next(target for target in self._targets if target), _MAX_SHOWN)
            raise SourceError(
                f"{redact_address(address)} is not a list of existing images: none of its {len(seen):,} rows names a "
                f"file in {' or '.join(map(str, folders))}; the first is {first!r}. A list has a "
                f"path or URL in each line, or is a CSV file with one of the columns {', '.join(COLUMNS)}"
            )
        super().__init__(listing)

    def get_stamp(self, position: int) -> str:
        target = self._targets[position]
        if not target or is_url(target) or self._files is None:
            return ""
        try:
            return addresses.get_path_stamp(self._files.find(target))
        except SourceImageError:
            return ""

    def _has_images(self) -> bool:
        targets = [target for target in self._targets if target]
        if self._files is None or any(is_url(target) for target in targets):
            return True
        return any(map(self._may_exist, targets)) or any(map(self._can_be_found, targets))

    def _may_exist(self, target: str) -> bool:
        """Returns whether there is a file. Says yes where a job may not read: the row then says that it is refused."""
        files = self._files
        try:
            return files is not None and (files.is_refused(target) or files.find_exact(target) is not None)
        except SourceImageError:
            return True

    def _can_be_found(self, target: str) -> bool:
        try:
            return self._files is not None and bool(self._files.find(target))
        except SourceImageError:
            return False

    def find_file(self, position: int) -> Path | None:
        target = self._targets[position]
        if self._files is None or is_url(target):
            return None
        try:
            return Path(self._files.find(target))
        except SourceImageError:
            return None

    def _read(self, position: int, reserve: Reserve) -> bytes:
        target = self._targets[position]
        if is_url(target):
            return read_image(target, self._is_allowed, reserve)
        if self._files is not None:
            return read_image(self._files.find(target), self._is_allowed, reserve)
        spellings = list_spellings(target)
        candidates = [addresses.resolve_target(folder, each) for each in spellings for folder in self._folders]
        *others, last = dict.fromkeys(candidates)
        for candidate in others:
            try:
                return read_image(candidate, self._is_allowed, reserve)
            except SourceImageError as error:
                if error.fault is not SourceImageFault.MISSING:
                    raise
        return read_image(last, self._is_allowed, reserve)


def open_list(address: str, is_allowed: AccessCheck | None = None, exclude: Path | None = None) -> ListSource:
    """Opens a list: .csv, .tsv, .jsonl, or a text file with a path or URL in each line. Raises SourceError."""
    suffix = posixpath.splitext(addresses.get_name(address))[1].lower()
    parsers = {".csv": _parse_csv, ".tsv": _parse_csv, ".jsonl": _parse_jsonl, ".ndjson": _parse_jsonl}
    parse = parsers.get(suffix, _parse_text)
    try:
        with addresses.open_file(address, is_allowed) as file:
            # The csv module needs the original line ends: a quoted name may contain one.
            text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="" if parse is _parse_csv else None)
            return ListSource(
                address,
                parse(_read_lines(text, _MAX_LINE if parse is _parse_text else _MAX_ROW)),
                is_allowed,
                exclude,
                get_split(address),
            )
    except UnicodeDecodeError:
        raise SourceError(f"{redact_address(address)} is not UTF-8 text; save it as UTF-8") from None
    except _ListError as error:
        raise SourceError(f"{redact_address(address)}: {error}") from None
    except OSError as error:
        raise_source_error(address, error)


class _ListError(ValueError):
    """A list with a syntax error."""


def _read_lines(text: io.TextIOWrapper, limit: int) -> Iterator[str]:
    number = 0
    while line := text.readline(limit + 1):
        number += 1
        if len(line) > limit:
            raise _ListError(f"this is not a list: line {number:,} has more than {limit:,} characters")
        yield line


def _parse_text(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    return ((number, line.strip()) for number, line in enumerate(lines, 1) if line.strip())


def _parse_jsonl(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    for number, line in _parse_text(lines):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _ListError(f"line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise _ListError(f"line {number} is not a JSON object")
        try:
            value = row[_find_column(list(row))]
        except _ListError as error:
            raise _ListError(f"line {number}: {error}") from None
        yield number, value.strip() if isinstance(value, str) else ""


def _parse_csv(lines: Iterator[str]) -> Iterator[tuple[int, str]]:
    first = next(lines, "")
    delimiter = max(",;\t", key=first.count)
    length = 0  # of the lines of the current row: quoted line ends could continue it without limit

    def iter_bounded() -> Iterator[str]:
        nonlocal length
        for line in lines:
            length += len(line)
            if length > _MAX_ROW:
                raise _ListError(f"row {number + 1} has more than {_MAX_ROW:,} characters; is a quote missing?")
            yield line

    number = 1
    try:
        header = next(csv.reader([first], delimiter=delimiter), [])
        column = header.index(_find_column(header))
        for number, row in enumerate(csv.reader(iter_bounded(), delimiter=delimiter, strict=True), 2):
            length = 0
            if row:
                yield number, row[column].strip() if column < len(row) else ""
    except csv.Error as error:
        raise _ListError(f"this CSV file cannot be read: {error}") from error


def _find_column(columns: list[str]) -> str:
    """Returns the column that names the images."""
    by_name = {column.strip().lower(): column for column in reversed(columns)}
    for name in COLUMNS:
        if name in by_name:
            return by_name[name]
    found = ", ".join(repr(truncate(column, _MAX_SHOWN)) for column in columns[:20]) or "missing"
    raise _ListError(
        f"no column names the images: the columns are {found}; "
        f"rename one of them to {', '.join(COLUMNS[:3])}, image or url"
    )


def _to_name(target: str) -> str:
    """Returns the name of an image: its path, or the host and path of its URL."""
    if not is_url(target):
        return target.replace("\\", "/")
    try:
        parts = urllib.parse.urlsplit(target)
        return f"{parts.hostname or ''}/{urllib.parse.unquote(parts.path)}"
    except ValueError:  # an invalid IPv6 address; reading it fails with a better message
        return target
