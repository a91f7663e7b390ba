"""Pages of rows, limited in bytes: which rows a page has is known before the rows are read.

Nothing is read between two chunks of a page: a client that reads slowly keeps no transaction open.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from server.store.database import Database

MAX_PAGE_BYTES = 8 << 20
_CHUNK_BYTES = 1 << 19


@dataclass(frozen=True, slots=True)
class Page:
    """A page of rows.

    Attributes:
        chunks: The keys of rows to read together, about 512 KiB.
        next: The key after which the next page starts; None on the last page.
    """

    chunks: tuple[tuple[int, ...], ...]
    next: int | None


def plan_page(database: Database, key: Any, where: sa.ColumnElement[bool], after: int, limit: int, *texts: Any) -> Page:
    """Returns a page of the rows that match and have a `key` above `after`, in the order of the key.

    It ends after `limit` rows, or when the rows have MAX_PAGE_BYTES in their columns `texts`; it has at least one row.
    """
    query = _select_sizes(database, key, sa.and_(where, key > after), texts).order_by(key).limit(limit + 1)
    with database.begin_read() as connection:
        return _split_page(((row.key, row.size) for row in connection.execute(query)), limit)


def plan_selection(
    database: Database, key: Any, where: sa.ColumnElement[bool], keys: Sequence[int], *texts: Any
) -> Page:
    """Returns a page of the rows that match and have one of the `keys`, in the order of `keys`. It ends as that of
    `plan_page`."""
    query = _select_sizes(database, key, sa.and_(where, key.in_(keys)), texts)
    with database.begin_read() as connection:
        sizes = {row.key: row.size for row in connection.execute(query)}
    return _split_page(((each, sizes[each]) for each in keys if each in sizes), len(keys))


def _select_sizes(database: Database, key: Any, where: sa.ColumnElement[bool], texts: Sequence[Any]) -> Any:
    size = sum((sa.func.coalesce(database.count_bytes(text), 0) for text in texts), sa.literal(0))
    return sa.select(key.label("key"), size.label("size")).where(where)


def _split_page(sizes: Iterable[tuple[int, int]], limit: int) -> Page:
    """Returns the page of rows, of which `sizes` has the keys and the bytes."""
    chunks: list[list[int]] = []
    total = chunk_bytes = 0
    for count, (key, size) in enumerate(sizes):
        if count and (count == limit or total + size > MAX_PAGE_BYTES):
            return Page(tuple(map(tuple, chunks)), chunks[-1][-1])
        if not chunks or chunk_bytes + size > _CHUNK_BYTES:
            chunks.append([])
            chunk_bytes = 0
        chunks[-1].append(key)
        total, chunk_bytes = total + size, chunk_bytes + size
    return Page(tuple(map(tuple, chunks)), None)
