"""The folders and URLs that clients of a server may name as sources."""

import os
import re
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

from server.jobs.sources.source import AccessCheck
from server.store.text import is_url, redact_address

_IPV6_HOST = re.compile(r"//\[[0-9A-Fa-f:.]*\]")
_UrlParts = tuple[str, str, tuple[str, ...]]


def validate_location(location: str) -> None:
    """Raises ValueError unless `location` is an absolute folder, or a URL with a host or bucket."""
    if is_url(location):
        if _split_url(location) is None:
            raise ValueError(f"{redact_address(location)} must name a host or bucket, such as s3://images/2024")
    elif not Path(location).is_absolute():
        raise ValueError(
            f"{location} is neither an absolute path, such as /data/images, nor a URL, such as s3://images"
        )


def allow_within(locations: Sequence[str]) -> AccessCheck:
    """Returns a check that allows these paths and URLs, and everything below them. It resolves a path's links first."""
    folders = [os.path.realpath(location) for location in locations if not is_url(location)]
    urls = [_split_url(location) for location in locations if is_url(location)]

    def is_allowed(address: str) -> bool:
        if not is_url(address):
            try:
                path = Path(os.path.realpath(address))
            except (OSError, ValueError):  # such as a zero byte
                return False
            return any(path.is_relative_to(folder) for folder in folders)
        parts = _split_url(address)
        return parts is not None and any(
            root is not None and parts[:2] == root[:2] and parts[2][: len(root[2])] == root[2] for root in urls
        )

    return is_allowed


def _split_url(url: str) -> _UrlParts | None:
    """Returns the scheme, the host and the parts of the path.

    Returns None for a URL that may lead elsewhere: with `..` in its path, or a chained URL of fsspec (`a::b`), which
    opens one file through another.
    """
    try:
        split = urllib.parse.urlsplit(url)
    except ValueError:
        return None
    path = urllib.parse.unquote(urllib.parse.unquote(split.path))  # twice, since some servers decode twice
    parts = tuple(part for part in path.split("/") if part not in ("", "."))
    is_chained = "::" in _IPV6_HOST.sub("//", url, count=1)
    # URL parsers remove control characters, each in its own way.
    if not split.netloc or is_chained or "\\" in url or "\\" in path or ".." in parts or not url.isprintable():
        return None
    return split.scheme.lower(), split.netloc.lower(), parts
