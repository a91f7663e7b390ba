"""Groups of similar reasons: those that differ only in numbers or quoted names."""

import re

_VARIABLE_PART = re.compile(r"""'[^']*'|"[^"]*"|“[^”]*”|\d+(?:[.,]\d+)*""")


def generalize_reason(reason: str) -> str:
    """Returns a reason without numbers and quoted names, such as `score … is below …`."""
    return _VARIABLE_PART.sub("…", reason)[:500]
