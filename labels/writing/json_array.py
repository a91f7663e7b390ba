"""JSON arrays that are written one element at a time, so that memory does not grow with them."""

import json
from typing import IO, Any


def to_json_line(value: Any) -> str:
    """Returns JSON on one line, with letters of all alphabets unescaped."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class JsonArray:
    """Writes the elements of an array, one per line, with commas between them. The caller writes the brackets."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._separator = "\n"

    def append(self, value: Any) -> None:
        """Writes one element."""
        self._file.write(self._separator + to_json_line(value))
        self._separator = ",\n"
