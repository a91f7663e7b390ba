"""JSON, lines of JSON, and XML, as strangers write them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.parsers import expat

from labels.dataset import DatasetError


def load(path: Path) -> Any:
    """A JSON file. Raises DatasetError where it cannot be read, with the line."""
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DatasetError(f"{path}:{error.lineno} is no JSON: {error.msg} at column {error.colno}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not text in UTF-8: {error.reason} at byte {error.start}") from error
    except RecursionError as error:
        raise DatasetError(f"{path} is JSON nested too deep to be a dataset") from error
    except ValueError as error:  # a number of more than 4300 digits
        raise DatasetError(f"{path} is JSON that cannot be read: {error}") from error
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error


def lines(path: Path) -> Iterator[tuple[int, Any, str]]:
    """Number from 1, value and what is wrong (else empty) of each line of JSON lines that is not blank. Raises
    DatasetError where the file cannot be read."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    yield number, json.loads(line.decode("utf-8-sig")), ""
                except json.JSONDecodeError as error:
                    yield number, None, f"it is no JSON: {error.msg} at column {error.colno}"
                except UnicodeDecodeError as error:
                    yield number, None, f"it is not text in UTF-8: {error.reason} at byte {error.start}"
                except (RecursionError, ValueError) as error:
                    yield number, None, f"it is JSON that cannot be read: {str(error)[:100]}"
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error


@dataclass(slots=True)
class Element:
    """An element of XML, and the line on which it begins."""

    tag: str
    attributes: dict[str, str]
    line: int
    text: str = ""
    children: list["Element"] = field(default_factory=list)

    def all(self, *tags: str) -> list["Element"]:
        """The children of these tags, in order."""
        return [child for child in self.children if child.tag in tags]

    def first(self, tag: str) -> "Element | None":
        """The first child of a tag."""
        return next(iter(self.all(tag)), None)

    def value(self, tag: str) -> str | None:
        """The text of the first child of a tag."""
        child = self.first(tag)
        return None if child is None else child.text.strip()


def load_xml(path: Path) -> Element:
    """The root of an XML file. Raises DatasetError where it cannot be read, with the line, and for one with a document
    type, whose entities could grow without end."""
    parser = expat.ParserCreate()
    parser.buffer_text = True
    root = Element("", {}, 0)
    stack = [root]

    def start(tag: str, attributes: dict[str, str]) -> None:
        element = Element(tag, attributes, parser.CurrentLineNumber)
        stack[-1].children.append(element)
        stack.append(element)

    def text(data: str) -> None:
        stack[-1].text += data

    def doctype(*_: object) -> None:
        raise DatasetError(
            f"{path}:{parser.CurrentLineNumber} declares a document type, which no dataset needs: delete it"
        )

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: stack.pop()
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(path.read_bytes(), True)
    except expat.ExpatError as error:
        raise DatasetError(f"{path}:{error.lineno} is no XML: {expat.ErrorString(error.code)}") from error
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, LookupError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{path} is XML that cannot be read: {error}") from error
    return root.children[0]
