"""Timestamps of the API."""

from datetime import UTC, datetime
from typing import overload


@overload
def to_datetime(seconds: float) -> datetime: ...
@overload
def to_datetime(seconds: None) -> None: ...
def to_datetime(seconds: float | None) -> datetime | None:
    """Returns Unix seconds as a datetime in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
