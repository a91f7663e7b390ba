"""A request's body, JSON or multipart form, as a PromptRequest and the picture's bytes."""

from typing import Any

import pydantic_core
from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from server.api.problems import BAD_BODY, INVALID_REQUEST, UNSUPPORTED_TYPE, Problem, invalid
from server.api.schemas import PromptRequest

FORM = "multipart/form-data"
_FIELDS = 32  # more than there are, so that a wrong one is named rather than counted


async def read(request: Request, most: int) -> tuple[PromptRequest, bytes | None]:
    """The request, and the file of a form where it came with one. `most`: bytes of a form's field.

    Raises Problem.
    """
    content_type = type_of(request)
    file: bytes | None = None
    if content_type == FORM:
        fields, file = await _form(request, most)
    elif content_type in ("application/json", "") or content_type.endswith("+json"):
        fields = _json(await _all(request))
    else:
        raise unsupported(content_type, "application/json", FORM)
    try:
        asked = PromptRequest.model_validate(fields)
    except ValidationError as error:
        raise invalid(error.errors(include_url=False, include_context=False)) from None
    given = [source for source in (asked.image, file, asked.image_url) if source]
    if len(given) != 1:
        detail = "send `image` or `image_url`, not both" if given else "send the picture as `image`"
        raise Problem(INVALID_REQUEST, detail, "image")
    return asked, file


async def json_object(request: Request, example: str) -> dict[str, Any]:
    """A body that is one JSON object; `example`: what one looks like. Raises Problem."""
    content_type = type_of(request)
    if content_type not in ("application/json", "") and not content_type.endswith("+json"):
        raise unsupported(content_type, "application/json")
    return _json(await _all(request), example)


def type_of(request: Request) -> str:
    """The body's media type, without parameters."""
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


def unsupported(content_type: str, *wanted: str) -> Problem:
    """A body of another type than those that are read."""
    detail = f"send {' or '.join(wanted)}, not {content_type[:80]!r}"
    return Problem(UNSUPPORTED_TYPE, detail, headers={"Accept": ", ".join(wanted)})


async def _all(request: Request) -> bytes:
    try:
        return await request.body()
    except ClientDisconnect:
        raise _cut_short() from None


def _json(body: bytes, example: str = '{"image": …, "task": "<OD>"}') -> dict[str, Any]:
    try:
        # Refuses what is no JSON though some parsers read it: NaN, Infinity, lone surrogates, endless nesting.
        read = pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise Problem(BAD_BODY, f"the body is not JSON: {error}; send an object in UTF-8") from None
    if not isinstance(read, dict):
        raise Problem(BAD_BODY, f"the body must be a JSON object, such as {example}")
    return read


async def form(request: Request, files: int, most: int) -> FormData:
    """A multipart form with at most so many files; `most`: bytes of a field that is no file. Its files lie on the disk
    until it is closed. Raises Problem."""
    try:
        return await request.form(max_files=files, max_fields=_FIELDS, max_part_size=most)
    except ClientDisconnect:
        raise _cut_short() from None
    except HTTPException as error:
        raise Problem(BAD_BODY, f"the form cannot be read: {error.detail}") from None
    except (ValueError, KeyError, LookupError) as error:  # the parser's own, on a boundary or charset gone wrong
        raise Problem(BAD_BODY, f"the form cannot be read: {error}") from None


async def _form(request: Request, most: int) -> tuple[dict[str, Any], bytes | None]:
    read = await form(request, 1, most)
    try:
        return await _fields(read)
    finally:
        await read.close()


async def _fields(form: FormData) -> tuple[dict[str, Any], bytes | None]:
    fields: dict[str, Any] = {}
    file: bytes | None = None
    for name, value in form.multi_items():
        if name in fields or (name == "image" and file is not None):
            raise Problem(INVALID_REQUEST, f"{name[:80]} is there twice; send it once", name[:80])
        if isinstance(value, UploadFile):
            if name != "image":
                raise Problem(INVALID_REQUEST, f"only `image` is a file; {name[:80]} is a field", name[:80])
            file = await value.read()
            if not file:
                raise Problem(INVALID_REQUEST, "the picture's file is empty", "image")
        elif name == "region":
            fields[name] = _numbers(value)
        elif name in ("prompts", "constrain") and value:
            fields[name] = _field(name, value)
        elif value != "" or name == "task":
            # A form sends its empty fields too.
            fields[name] = value
    return fields, file


def _numbers(value: str) -> Any:
    """`1,2,3,4` or `[1, 2, 3, 4]`."""
    return [part.strip() for part in value.strip().removeprefix("[").removesuffix("]").split(",")] if value else None


def _field(name: str, value: str) -> Any:
    try:
        return pydantic_core.from_json(value, allow_inf_nan=False)
    except ValueError as error:
        what = "a list of objects" if name == "prompts" else "an object"
        raise Problem(INVALID_REQUEST, f"{name} is not JSON: {error}; send {what}", name) from None


def _cut_short() -> Problem:
    return Problem(BAD_BODY, "the body ended before its declared length")
