"""XML that every reader takes."""

import re
import xml.etree.ElementTree as ET

# What XML 1.0 cannot say at all, and the carriage return, which readers turn into something else.
_ILLEGAL = re.compile("[^\t\n\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def legal(value: object) -> str:
    """As text of which XML can say every letter; the others become U+FFFD."""
    return _ILLEGAL.sub("\ufffd", str(value))


def texts(parent: ET.Element, **children: object) -> None:
    """Adds a child with a text for each."""
    for tag, value in children.items():
        ET.SubElement(parent, tag).text = legal(value)


def attributes(**values: object) -> dict[str, str]:
    """Attributes of an element."""
    return {name: legal(value) for name, value in values.items()}


def fragment(element: ET.Element, level: int = 0) -> str:
    """The element indented, with a line's end."""
    ET.indent(element, level=level)
    return "  " * level + ET.tostring(element, encoding="unicode") + "\n"


def document(root: ET.Element) -> str:
    """A whole file."""
    return '<?xml version="1.0" encoding="utf-8"?>\n' + fragment(root)
