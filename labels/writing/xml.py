"""Writes XML that every reader accepts."""

import re
import xml.etree.ElementTree as ET

# Characters that XML 1.0 cannot represent, and the carriage return, which parsers convert to a newline.
_ILLEGAL = re.compile("[^\t\n\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_legal_text(value: object) -> str:
    """Returns the value as text. Characters that XML cannot represent become U+FFFD."""
    return _ILLEGAL.sub("\ufffd", str(value))


def add_texts(parent: ET.Element, **children: object) -> None:
    """Adds a child element with a text for each keyword."""
    for tag, value in children.items():
        ET.SubElement(parent, tag).text = to_legal_text(value)


def to_attributes(**values: object) -> dict[str, str]:
    """Returns the attributes of an element."""
    return {name: to_legal_text(value) for name, value in values.items()}


def to_fragment(element: ET.Element, level: int = 0) -> str:
    """Returns the indented element, with a newline at the end."""
    ET.indent(element, level=level)
    return "  " * level + ET.tostring(element, encoding="unicode") + "\n"


def to_document(root: ET.Element) -> str:
    """Returns a complete XML file."""
    return '<?xml version="1.0" encoding="utf-8"?>\n' + to_fragment(root)
