"""Text in messages, and names for comparisons."""

import re

_ARTICLES = frozenset(("a", "an", "the"))
_PUNCTUATION = re.compile(r"^\W+|\W+$")


def truncate(text: str, limit: int = 60) -> str:
    """Returns the text with at most `limit` characters; a longer text ends with an ellipsis."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def normalize_words(words: str) -> str:
    """Returns words for comparison: lower case, single spaces, without leading articles and surrounding punctuation."""
    parts = [part for part in (_PUNCTUATION.sub("", part) for part in words.casefold().split()) if part]
    while len(parts) > 1 and parts[0] in _ARTICLES:
        parts.pop(0)
    return " ".join(parts)
