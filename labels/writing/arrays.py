"""JSON arrays that are written one element after the other."""

import json
from typing import IO, Any


def line(value: Any) -> str:
    """JSON on one line, letters of all alphabets as they are."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class Array:
    """The elements of an array, one a line, with commas between them; the brackets are the caller's."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._between = "\n"

    def append(self, value: Any) -> None:
        """Writes one element."""
        self._file.write(self._between + line(value))
        self._between = ",\n"
