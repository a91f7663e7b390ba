"""Text that every database can store, and addresses and messages without secrets."""

import re

# An absolute path with at least two parts, also in quotes.
_PATH = re.compile(r"""(?<![\w./:~-])/(?:[^\s/'":;,()]+/)+([^\s/'":;,()]*)""")
_QUOTED_PATH = re.compile(r"""(["'])/(?:(?!\1)[^/\n]+/)+((?:(?!\1)[^/\n])*)\1""")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # at least two letters: C:// is a drive


def clean_text(text: str) -> str:
    """Returns the text in a form that every database can store: escapes lone surrogates (bytes of a file name that are
    not UTF-8) and NUL characters."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def is_url(address: str) -> bool:
    """Returns whether an address is a URL, not a path."""
    return _URL.match(address) is not None


def redact_address(address: str) -> str:
    """Returns an address without passwords and signatures, for messages."""
    if not is_url(address):
        return address
    return re.sub(r"//[^/@]*@", "//", address.partition("?")[0])


def hide_folders(message: str, keep: str = "") -> str:
    """Returns a message in which absolute paths are only names: clients must not see the folders of a server.

    `keep`: a path that the client knows, and that stays.
    """
    parts = message.split(keep) if keep else [message]
    return keep.join(_PATH.sub(r"\1", _QUOTED_PATH.sub(r"\1\2\1", part)) for part in parts)
