"""Reasons that differ only in a number or a quoted name are alike."""

import re

_PARTICULAR = re.compile(r"""'[^']*'|"[^"]*"|“[^”]*”|\d+(?:[.,]\d+)*""")


def like(reason: str) -> str:
    """A reason without its particulars, as in `score … is below …`."""
    return _PARTICULAR.sub("…", reason)[:500]
