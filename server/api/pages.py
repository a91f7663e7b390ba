"""Pages of lists. They are limited in bytes and sent in chunks, so that a page of large entries needs little memory.

No transaction is open and no thread is busy while a client reads slowly.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pydantic_core
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from server.api.threads import ThreadCalls

if TYPE_CHECKING:
    from server.store.pages import Page

JSON_TYPE = "application/json"


def _get_next(page: "Page") -> dict[str, Any]:
    return {"next": page.next}


async def create_page_response(
    calls: ThreadCalls,
    name: str,
    plan: "Callable[[], Page]",
    read: Callable[[Sequence[int]], Iterable[BaseModel]],
    get_members: "Callable[[Page], Mapping[str, Any]]" = _get_next,
) -> StreamingResponse:
    """Returns a response with a JSON object that has the entries as a list under `name`, and `next`.

    `plan` returns the page, `read` the entries of one of its chunks, `get_members` what the object has in place of
    `next`. Raises ProblemError, before anything is sent.
    """

    def read_chunk(keys: Sequence[int]) -> bytes:
        return b",".join(entry.model_dump_json().encode() for entry in read(keys))

    def start() -> "tuple[Page, bytes]":
        page = plan()
        return page, read_chunk(page.chunks[0]) if page.chunks else b""

    page, first = await calls.read(start)

    async def generate() -> AsyncIterator[bytes]:
        yield b'{"%s":[' % name.encode() + first
        is_empty = not first
        for keys in page.chunks[1:]:
            if chunk := await calls.read(lambda keys=keys: read_chunk(keys)):  # type: ignore[misc]
                yield chunk if is_empty else b"," + chunk
                is_empty = False
        yield b"]," + pydantic_core.to_json(get_members(page))[1:]

    return StreamingResponse(generate(), media_type=JSON_TYPE)
