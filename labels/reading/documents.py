"""Reads untrusted JSON, JSON lines, CSV, YAML and XML. Errors name the line; no other file or URL is loaded.

JSON and XML files are read as a whole, and take up to 25 times their size in memory. Depth and the digits of numbers
are limited here; who reads files of strangers limits the memory of the process (`ulimit -v`).
"""

import codecs
import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import yaml
from lxml import etree
from lxml.etree import _Element as Element

from labels.dataset import DatasetError
from labels.regular_files import open_regular_file

__all__ = [
    "Element", "decode_text", "find_text", "load_json", "load_xml", "parse_yaml", "read_csv", "read_json_lines",
    "read_lines",
]  # fmt: skip

_DOCTYPE = b"<!DOCTYPE"
_MAX_LINE = 256 * 1024 * 1024  # bytes of a line of a JSON Lines file: more than an image and its annotations
_MAX_CELL = 1 << 24  # characters
# All scalars are text as it is written. Other loaders turn the class names yes, 007 and null into values.
_YamlLoader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


def decode_text(data: bytes, errors: str = "strict") -> str:
    """Returns the text of a file: UTF-8, or UTF-16 if it begins so, as files of Windows PowerShell do.

    Raises UnicodeDecodeError, unless `errors` is `replace`.
    """
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if is_utf16 else "utf-8-sig", errors)


def read_lines(path: Path, errors: str = "strict") -> list[str]:
    """Returns the lines of a text file, stripped. Raises OSError, and UnicodeDecodeError as `decode_text` does."""
    with open_regular_file(path) as file:
        return [line.strip() for line in io.StringIO(decode_text(file.read(), errors), newline=None)]


def load_json(path: Path) -> Any:
    """Returns the content of a JSON file. Raises DatasetError, with the line, if it cannot be read."""
    try:
        with open_regular_file(path) as file:
            return json.loads(decode_text(file.read()))
    except json.JSONDecodeError as error:
        raise DatasetError(f"{path}:{error.lineno} is not JSON: {error.msg} at column {error.colno}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    except RecursionError as error:
        raise DatasetError(f"{path} is JSON nested too deeply for a dataset") from error
    except ValueError as error:  # a number of more than 4300 digits
        raise DatasetError(f"{path} is JSON that cannot be read: {error}") from error
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error


def read_json_lines(path: Path) -> Iterator[tuple[int, Any, str]]:
    """Yields the number (from 1), the value and the error (empty if there is none) of each line that is not blank.

    Raises DatasetError if the file cannot be read.
    """
    try:
        with open_regular_file(path) as file:
            for number, line in enumerate(_iter_lines(file), 1):
                if len(line) > _MAX_LINE:
                    yield number, None, f"it has more than {_MAX_LINE:,} bytes"
                    continue
                if not line.strip():
                    continue
                try:
                    yield number, json.loads(line.decode("utf-8-sig")), ""
                except json.JSONDecodeError as error:
                    yield number, None, f"it is not JSON: {error.msg} at column {error.colno}"
                except UnicodeDecodeError as error:
                    yield number, None, f"it is not UTF-8 text: {error.reason} at byte {error.start}"
                except (RecursionError, ValueError) as error:
                    yield number, None, f"it is JSON that cannot be read: {str(error)[:100]}"
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error


def read_csv(path: Path) -> Iterator[tuple[int, dict[str, str], str]]:
    """Yields the number of the first line (from 1), the cells by column and the error of each row of a CSV file.

    The first row names the columns. Raises DatasetError if the file cannot be read.
    """
    before = csv.field_size_limit(_MAX_CELL)
    try:
        with io.TextIOWrapper(open_regular_file(path), encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, strict=True)
            columns, first = [name.strip() for name in next(rows, [])], rows.line_num + 1
            for cells in rows:
                number, first = first, rows.line_num + 1
                if len(cells) == len(columns):
                    yield number, dict(zip(columns, cells, strict=True)), ""
                elif cells:
                    reason = f"it has {len(cells)} cells for {len(columns)} columns; a text with a comma needs quotes"
                    yield number, {}, reason
    except csv.Error as error:
        raise DatasetError(f"{path}:{rows.line_num} is not CSV: {error}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    finally:
        csv.field_size_limit(before)


def parse_yaml(text: str) -> Any:
    """Returns the lists, mappings and texts of a YAML document. Numbers, booleans and null are text, as written.

    Raises yaml.YAMLError, and RecursionError or ValueError for documents that no dataset has.
    """
    return yaml.load(text, Loader=_YamlLoader)


def _iter_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yields the lines of a file. Those that are too long are cut off after _MAX_LINE + 1 bytes."""
    while line := file.readline(_MAX_LINE + 1):
        yield line
        while len(line) > _MAX_LINE and not line.endswith(b"\n"):
            line = file.readline(_MAX_LINE + 1)


def load_xml(path: Path) -> Element:
    """Returns the root of an XML file.

    Elements have their line in `sourceline`; past line 65535 it may be off by one (libxml2). Entities are not expanded,
    and nothing is loaded from the network or another file. Raises DatasetError, with the line, if the file cannot be
    read, or if it declares a document type, whose entities could expand without limit.
    """
    try:
        with open_regular_file(path) as file:
            data = file.read()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, dtd_validation=False, remove_comments=True,
        remove_pis=True, huge_tree=False,
    )  # fmt: skip
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        _refuse_document_type(path, data, declared=_DOCTYPE in data)
        raise DatasetError(f"{path}:{error.lineno} is not XML: {error.msg}") from error
    except (ValueError, LookupError) as error:
        raise DatasetError(f"{path} is XML that cannot be read: {error}") from error
    _refuse_document_type(path, data, declared=root.getroottree().docinfo.internalDTD is not None)
    return root


def _refuse_document_type(path: Path, data: bytes, *, declared: bool) -> None:
    if declared:
        line = data[: max(data.find(_DOCTYPE), 0)].count(b"\n") + 1
        raise DatasetError(f"{path}:{line} declares a document type, which no dataset needs: delete it")


def find_text(element: Element, tag: str) -> str | None:
    """Returns the text of the first child with a tag, stripped; None if there is no such child."""
    text = element.findtext(tag)
    return None if text is None else text.strip()
