"""Pages that are sent in chunks: complete, in order, and read only as fast as the client reads."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from pydantic import BaseModel

from server.api.pages import create_page_response
from server.api.threads import ThreadCalls
from server.lifecycle import Lifecycle
from server.settings import Settings
from server.store.pages import Page


class Row(BaseModel):
    id: int


@contextmanager
def pass_errors() -> Iterator[None]:
    yield


def create_calls() -> ThreadCalls:
    return ThreadCalls(Lifecycle(Settings()), pass_errors)


@pytest.mark.parametrize("chunks", [(), ((1,),), ((1, 2), (3,), (4, 5))])
async def test_a_page_is_one_object(chunks: tuple[tuple[int, ...], ...]) -> None:
    page = Page(chunks, 5 if chunks else None)
    response = await create_page_response(
        create_calls(), "rows", lambda: page, lambda keys: (Row(id=key) for key in keys)
    )
    body = b"".join([bytes(chunk) async for chunk in response.body_iterator])  # type: ignore[arg-type]
    assert json.loads(body) == {"rows": [{"id": key} for keys in chunks for key in keys], "next": page.next}


@pytest.mark.parametrize("deleted", [1, 2])
async def test_a_chunk_is_read_when_the_client_asks_for_it(deleted: int) -> None:
    read: list[int] = []

    def read_rows(keys: Sequence[int]) -> Iterator[Row]:
        read.extend(keys)
        return (Row(id=key) for key in keys if key != deleted)

    page = Page(((1,), (2,), (3,)), None)
    response = await create_page_response(create_calls(), "rows", lambda: page, read_rows, lambda _: {"more": 1})
    chunks = response.body_iterator.__aiter__()
    body = bytes(await chunks.__anext__())  # type: ignore[arg-type]
    assert read == [1]
    body += b"".join([bytes(chunk) async for chunk in chunks])  # type: ignore[arg-type]
    assert json.loads(body) == {"rows": [{"id": key} for key in (1, 2, 3) if key != deleted], "more": 1}


async def test_an_error_of_the_first_chunk_comes_before_the_response() -> None:
    def fail(_: Sequence[int]) -> Iterator[Row]:
        raise KeyError

    with pytest.raises(KeyError):
        await create_page_response(create_calls(), "rows", lambda: Page(((1,),), None), fail)
