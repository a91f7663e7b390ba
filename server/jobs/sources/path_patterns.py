"""Glob patterns of paths. Matching takes time in proportion to the pattern and the path, whatever the pattern."""

import fnmatch
import re
from collections.abc import Sequence

_WILDCARD = re.compile(r"[*?\[]")
_MAX_PARTS = 100
_MAX_LENGTH = 1024  # characters of one part


def is_pattern(text: str) -> bool:
    """Returns whether a path contains a wildcard."""
    return _WILDCARD.search(text) is not None


class PathPattern:
    """A pattern with `*`, `?` and `[]` within one part of a path, and `**` for any number of parts.

    `depth` is the maximum number of parts of a matching path; None: any number.
    """

    def __init__(self, parts: Sequence[str]) -> None:
        """Raises ValueError for an invalid pattern."""
        if len(parts) > _MAX_PARTS or max(map(len, parts)) > _MAX_LENGTH:
            raise ValueError(f"it has more than {_MAX_PARTS} parts, or one of more than {_MAX_LENGTH:,} characters")
        if any("**" in part and part != "**" for part in parts):
            raise ValueError("** must be a whole part of the path, as in folder/**/*.jpg")
        self.depth = None if "**" in parts else len(parts)
        # fnmatch's expressions never go back behind a `*`, unlike those of glob libraries.
        self._parts = [None if part == "**" else re.compile(fnmatch.translate(part)) for part in parts]

    def match(self, path: str) -> bool:
        """Returns whether the pattern matches a whole path with forward slashes."""
        states = self._skip({0})  # how many parts of the pattern the path so far may have used
        for name in path.split("/"):
            states = self._skip({after for state in states if (after := self._advance(state, name)) is not None})
            if not states:
                return False
        return len(self._parts) in states

    def _advance(self, state: int, name: str) -> int | None:
        if state == len(self._parts):
            return None
        part = self._parts[state]
        if part is None:
            return state
        return state + 1 if part.match(name) else None

    def _skip(self, states: set[int]) -> set[int]:
        """Adds the states after each `**`, which also matches no part."""
        for state in sorted(states):
            while state < len(self._parts) and self._parts[state] is None:
                state += 1
                states.add(state)
        return states
