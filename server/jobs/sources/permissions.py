"""Where strangers may name pictures: in folders and below URLs that an operator lists, and nowhere else."""

import os
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

from server.jobs.sources import addresses
from server.jobs.sources.source import Allowed

_Parts = tuple[str, str, tuple[str, ...]]


def check(place: str) -> None:
    """Raises ValueError unless `place` is an absolute folder, or a URL with a host or bucket."""
    if addresses.is_url(place):
        if _parts(place) is None:
            raise ValueError(f"{addresses.shown(place)} must name a host or bucket, such as s3://pictures/2024")
    elif not Path(place).is_absolute():
        raise ValueError(f"{place} is no absolute path, such as /data/pictures, and no URL, such as s3://pictures")


def within(places: Sequence[str]) -> Allowed:
    """Whether a path or URL is one of these places or below one. A path's links are followed first."""
    folders = [os.path.realpath(place) for place in places if not addresses.is_url(place)]
    urls = [_parts(place) for place in places if addresses.is_url(place)]

    def allowed(address: str) -> bool:
        if not addresses.is_url(address):
            try:
                path = Path(os.path.realpath(address))
            except (OSError, ValueError):  # such as a zero byte
                return False
            return any(path.is_relative_to(folder) for folder in folders)
        given = _parts(address)
        return given is not None and any(
            root is not None and given[:2] == root[:2] and given[2][: len(root[2])] == root[2] for root in urls
        )

    return allowed


def _parts(url: str) -> _Parts | None:
    """Scheme, host and the path's parts; None for what could lead elsewhere than it says: a path that climbs, and
    fsspec's chains (`a::b`), which open one file through another."""
    try:
        split = urllib.parse.urlsplit(url)
    except ValueError:
        return None
    path = urllib.parse.unquote(urllib.parse.unquote(split.path))  # twice: servers differ
    parts = tuple(part for part in path.split("/") if part not in ("", "."))
    if not split.netloc or "::" in url or "\\" in url or "\\" in path or ".." in parts:
        return None
    return split.scheme.lower(), split.netloc.lower(), parts
