"""The body of an upload: a form with files, or one zip or tar archive. It is written to disk while it arrives."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from fastapi import Request
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from server.api.bodies import FORM, create_type_problem, get_content_type
from server.api.problems import BAD_BODY, BODY_TIMEOUT, INVALID_REQUEST, ProblemError
from server.api.uploads.errors import translate_upload_errors
from server.jobs.upload_parts import UploadPart
from server.settings import Settings

ARCHIVES = (
    *("application/zip", "application/x-zip-compressed", "application/x-tar", "application/gzip"),
    *("application/x-gzip", "application/octet-stream"),
)
_FIELD = "files"
_OVERHEAD = 1 << 10  # bytes of a form around each file
_BUFFER = 1 << 20  # bytes that are written at a time
_MIN_RATE = 100_000  # bytes per second, after the time that any request may take
_EXAMPLE = "such as -F files=@cat.jpg, or a zip or tar archive as the body"

UPLOAD_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        FORM: {
            "schema": {
                "type": "object",
                "required": [_FIELD],
                "properties": {
                    _FIELD: {
                        "type": "array",
                        "minItems": 1,
                        "items": {"type": "string", "format": "binary"},
                        "description": "Images, and zip and tar archives of images. The name of a file may have "
                        "folders.",
                    }
                },
            },
            "encoding": {_FIELD: {"contentType": "application/octet-stream"}},
        },
        **{kind: {"schema": {"type": "string", "format": "binary"}} for kind in ARCHIVES},
    },
}


def get_image_upload_limit(scope: Scope, settings: Settings) -> int | None:
    """Returns the maximum size in bytes of an upload's body; None for other requests."""
    if scope["method"] == "POST" and (scope["path"] == "/v1/uploads" or scope["path"].startswith("/v1/uploads/")):
        return settings.max_upload_bytes + _OVERHEAD * (settings.max_upload_images + 1)
    return None


async def write_body(request: Request, part: UploadPart, settings: Settings) -> None:
    """Writes the files of the body to `part`. Raises ProblemError."""
    content_type = get_content_type(request)
    if content_type == FORM:
        async with _translate_body_errors():
            form = _Form(request.headers["content-type"], part)
            await _feed(request, form.feed, settings)
            form.finish()
    elif content_type in ARCHIVES:
        with translate_upload_errors():
            part.start_file("archive")
        await _feed(request, part.write, settings)
        part.end_file()
        if not part.archives:
            raise ProblemError(BAD_BODY, f"the body is neither a zip nor a tar archive; send a form, {_EXAMPLE}")
    else:
        raise create_type_problem(content_type, FORM, *ARCHIVES)


async def _feed(request: Request, feed: Callable[[bytes], None], settings: Settings) -> None:
    """Passes the body on while it arrives, in another thread. Raises ProblemError, also if it is too slow."""
    started, received, buffer, chunks = time.monotonic(), 0, bytearray(), request.stream()

    async def receive() -> bytes | None:
        """Returns the next bytes; None at the end. A client that sends nothing more must not keep others out."""
        left = started + settings.request_timeout + received / _MIN_RATE - time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, left)):
                return await anext(chunks, None)
        except TimeoutError:
            detail = f"less than {_MIN_RATE:,} bytes per second arrive; send a smaller body, or several"
            raise ProblemError(BODY_TIMEOUT, detail, headers={"Connection": "close"}) from None

    async def flush() -> None:
        data = bytes(buffer)
        buffer.clear()
        with translate_upload_errors():
            await anyio.to_thread.run_sync(feed, data)

    try:
        while (chunk := await receive()) is not None:
            received += len(chunk)
            buffer += chunk
            if len(buffer) >= _BUFFER:
                await flush()
    except ClientDisconnect:
        raise ProblemError(BAD_BODY, "the body ended before its declared length") from None
    await flush()


@asynccontextmanager
async def _translate_body_errors() -> AsyncIterator[None]:
    try:
        yield
    except MultipartParseError as error:
        raise ProblemError(BAD_BODY, f"the form cannot be parsed: {error}") from None


class _Form:
    """Writes the files of a form to a part, while it arrives in pieces."""

    def __init__(self, content_type: str, part: UploadPart) -> None:
        self._part, self._headers = part, dict[bytes, bytes]()
        self._name, self._value = b"", b""
        self._is_file = self._has_ended = False
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if not boundary:
            raise ProblemError(BAD_BODY, "the form cannot be parsed: its content type has no boundary")
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._headers.clear,
                "on_header_begin": self._begin_header,
                "on_header_field": self._add_name,
                "on_header_value": self._add_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._begin_file,
                "on_part_data": self._write,
                "on_part_end": self._end_file,
                "on_end": self._end,
            },
        )

    def feed(self, data: bytes) -> None:
        """Parses the next bytes. Raises ProblemError, and the errors of the parser and of the part."""
        self._parser.write(data)

    def finish(self) -> None:
        """Raises ProblemError if the form is not complete, or has no files."""
        if not self._has_ended:
            raise ProblemError(BAD_BODY, "the form cannot be parsed: it ends in the middle")
        if not self._part.files:
            raise ProblemError(INVALID_REQUEST, f"send at least one file, {_EXAMPLE}", _FIELD)

    def _begin_header(self) -> None:
        self._name = self._value = b""

    def _add_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._name.lower()] = self._value

    def _begin_file(self) -> None:
        options = parse_options_header(self._headers.get(b"content-disposition", b""))[1]
        field = options.get(b"name", b"").decode(errors="replace")
        if field != _FIELD:
            raise ProblemError(INVALID_REQUEST, f"there is no such field; send files, {_EXAMPLE}", field[:80])
        if (name := options.get(b"filename")) is None:
            raise ProblemError(INVALID_REQUEST, f"send it as a file, {_EXAMPLE}", _FIELD)
        self._is_file = bool(name)  # browsers send an empty name if no file was chosen
        if self._is_file:
            self._part.start_file(name.decode(errors="replace"))

    def _write(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._part.write(memoryview(data)[start:end])

    def _end_file(self) -> None:
        if self._is_file:
            self._part.end_file()

    def _end(self) -> None:
        self._has_ended = True
