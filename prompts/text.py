"""Text in messages."""


def truncate(text: str, limit: int = 60) -> str:
    """Returns the text with at most `limit` characters; a longer text ends with an ellipsis."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
