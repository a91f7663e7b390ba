"""Pictures that a list names by paths and URLs: text, CSV, JSON lines."""

import csv
import io
import json
import posixpath
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from server.jobs.sources import addresses
from server.jobs.sources.source import Allowed, ImageErrorKind, SourceImageError, ImageListing, ImageSource, SourceError

COLUMNS = ("file_name", "file", "path", "filename", "filepath", "image", "image_path", "url", "image_url")
_MOST_LINE = 64 * 1024  # characters


class ListSource(ImageSource):
    """Pictures by what `rows` say, each a number, by which a nameless one is called, and a path or URL. Paths are
    looked for in one of `folders` after the other. Its fingerprint is of names alone: a missing file may come back."""

    def __init__(
        self, address: str, rows: Iterable[tuple[int, str]], folders: Sequence[str], allowed: Allowed | None
    ) -> None:
        self._folders, self._allowed = tuple(folders), allowed
        self._targets: list[str] = []
        listing, seen, repeated = ImageListing(), set[str](), 0
        for number, target in rows:
            if target and not addresses.is_url(target):
                target = posixpath.normpath(target)
            if target in seen:
                repeated += 1
                continue
            fault = None if target else SourceImageError(f"row {number} names no picture", ImageErrorKind.MISSING)
            listing.add(_name(target) if target else f"row {number}", fault=fault)
            if target:
                seen.add(target)
            # One string where both are alike: of a million they are most of the memory.
            self._targets.append(listing.names[-1] if listing.names[-1] == target else target)
        if repeated:
            listing.notes.append(f"{repeated:,} rows name a picture that an earlier one names: it is taken once")
        shown = addresses.shown(address)
        if not seen:
            raise SourceError(f"{shown} names no picture: it has no rows, or none with a path or URL")
        if not any(self._may_be_there(target) for target in self._targets if target):
            first = next(target for target in self._targets if target)
            raise SourceError(
                f"{shown} is no list of pictures that are there: none of what its {len(seen):,} rows name is a file in "
                f"{' or '.join(dict.fromkeys(self._folders))}; the first is {_cut(first)!r}. A list has a path or URL "
                f"in each line, or is a CSV file with one of the columns {', '.join(COLUMNS)}"
            )
        super().__init__(listing)

    def _places(self, target: str) -> list[str]:
        # A list from Windows has its separators.
        spellings = dict.fromkeys([target, target.replace("\\", "/")])
        places = (addresses.join(folder, spelling) for spelling in spellings for folder in self._folders)
        return list(dict.fromkeys(places))

    def _may_be_there(self, target: str) -> bool:
        return any(addresses.is_url(place) or _exists(place) for place in self._places(target))

    def _read(self, position: int) -> bytes:
        *others, last = self._places(self._targets[position])
        for place in others:
            try:
                return addresses.read(place, self._allowed)
            except SourceImageError as error:
                if error.fault is not ImageErrorKind.MISSING:
                    raise
        return addresses.read(last, self._allowed)


def open_list(address: str, allowed: Allowed | None = None) -> ListSource:
    """A list by its suffix: .csv and .tsv, .jsonl, or a path or URL in each line. Raises SourceError."""
    suffix = posixpath.splitext(addresses.basename(address))[1].lower()
    rows = {".csv": _csv, ".tsv": _csv, ".jsonl": _jsonl, ".ndjson": _jsonl}.get(suffix, _text)
    try:
        with addresses.open_file(address) as file:
            # csv needs line ends as they are: a name in quotes may hold one.
            text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="" if rows is _csv else None)
            return ListSource(address, rows(_lines(text)), [addresses.parent(address)], allowed)
    except UnicodeDecodeError:
        raise SourceError(f"{addresses.shown(address)} is not text in UTF-8; save it as that") from None
    except _RowError as error:
        raise SourceError(f"{addresses.shown(address)}: {error}") from None
    except OSError as error:
        addresses.fail(address, error)


class _RowError(ValueError):
    """What is wrong in a list."""


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    while line := text.readline(_MOST_LINE + 1):
        if len(line) > _MOST_LINE:
            raise _RowError(f"this is no list: one of its lines has more than {_MOST_LINE:,} characters")
        yield line


def _text(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    return ((number, line.strip()) for number, line in enumerate(lines, 1) if line.strip())


def _jsonl(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    for number, line in _text(lines):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _RowError(f"line {number} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise _RowError(f"line {number} is no JSON object")
        column = _column(list(row))
        value = row[column]
        yield number, value.strip() if isinstance(value, str) else ""


def _csv(lines: Iterator[str]) -> Iterator[tuple[int, str]]:
    first = next(lines, "")
    delimiter = max(",;\t", key=first.count)
    try:
        header = next(csv.reader([first], delimiter=delimiter), [])
        at = header.index(_column(header))
        for number, row in enumerate(csv.reader(lines, delimiter=delimiter, strict=True), 2):
            if row:
                yield number, row[at].strip() if at < len(row) else ""
    except csv.Error as error:
        raise _RowError(f"this CSV file cannot be read: {error}") from error


def _column(columns: list[str]) -> str:
    """The column that names pictures."""
    by_name = {column.strip().lower(): column for column in reversed(columns)}
    for name in COLUMNS:
        if name in by_name:
            return by_name[name]
    raise _RowError(
        f"no column names the pictures: it has {', '.join(map(repr, map(_cut, columns[:20]))) or 'none'}; call one of "
        f"them {', '.join(COLUMNS[:3])}, image or url"
    )


def _name(target: str) -> str:
    """What a picture is called: its path, or its URL's host and path."""
    if not addresses.is_url(target):
        return target.replace("\\", "/")
    try:
        parts = urllib.parse.urlsplit(target)
        return f"{parts.hostname or ''}/{urllib.parse.unquote(parts.path)}"
    except ValueError:  # half an IPv6 address; reading it will say so
        return target


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def _cut(text: str) -> str:
    return text if len(text) <= 80 else text[:79] + "…"
