"""Reads the bodies of requests: JSON objects and multipart forms.

Routes read their body through the dependencies in this module instead of declaring it to FastAPI. FastAPI parses a
declared body before it solves any dependency of the route, so it cannot

- check the API key, and whether the model is loaded, before it reads a body of many megabytes;
- give up on a body that does not arrive within `request_timeout`;
- accept either JSON or a multipart form on one route (POST /v1/prompt, and corrections);
- reject JSON with NaN, Infinity, lone surrogates, endless nesting or millions of values, repeated form fields, and
  overlong form fields;
- answer 415 for another content type, and 400 for a body that is malformed.

The OpenAPI document describes these bodies through `openapi_extra`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

import pydantic_core
from fastapi import Request
from pydantic import BaseModel, RootModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from server.api.deps import RequestStackDep, SettingsDep
from server.api.problems import (
    BAD_BODY,
    BODY_TIMEOUT,
    INVALID_REQUEST,
    TOO_LARGE,
    UNSUPPORTED_TYPE,
    ProblemError,
    create_validation_problem,
)

FORM = "multipart/form-data"
JSON = "application/json"
_MAX_FIELDS = 32  # more than any route has, so that the error names an unknown field
_MAX_VALUES = 500_000  # of JSON: each takes up to 100 bytes of memory, and the event loop waits until all are parsed
_MAX_ERRORS = 1000  # invalid fields that are described
M = TypeVar("M", bound=BaseModel)


class JsonBody(Generic[M]):
    """A dependency that returns the body, a JSON object, as a `model`.

    `example` is a JSON object that error messages show.
    """

    def __init__(self, model: type[M], example: str) -> None:
        self.model, self.example = model, example

    async def __call__(self, request: Request, settings: SettingsDep, _: RequestStackDep) -> M:
        async with limit_body_time(settings.request_timeout):
            fields = await read_json(request, self.example)
        return validate_body(self.model, fields)


def document_json_body(model: type[BaseModel], examples: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns the `openapi_extra` of a route with a JSON body. `examples`: name → an example object of OpenAPI."""
    content = {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}
    if examples:
        content["examples"] = dict(examples)
    return {"requestBody": {"required": True, "content": {JSON: content}}}


def get_content_type(request: Request) -> str:
    """Returns the media type of the body, without parameters."""
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


def is_json(content_type: str) -> bool:
    """Returns whether a body of this media type is read as JSON. A body without a type is too."""
    return content_type in (JSON, "") or content_type.endswith("+json")


def create_type_problem(content_type: str, *accepted: str) -> ProblemError:
    """Returns the problem of a body with another media type than the accepted ones."""
    detail = f"send {' or '.join(accepted)}, not {content_type[:80]!r}"
    return ProblemError(UNSUPPORTED_TYPE, detail, headers={"Accept": ", ".join(accepted)})


def validate_body(model: type[M], fields: Mapping[str, Any]) -> M:
    """Returns the fields as a model. Raises ProblemError."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        if error.error_count() > _MAX_ERRORS:
            raise ProblemError(INVALID_REQUEST, f"{error.error_count():,} fields are invalid") from None
        skip = 1 if issubclass(model, RootModel) else 0  # skips the name of the union's member
        raise create_validation_problem(error.errors(include_url=False), skip=skip) from None


@asynccontextmanager
async def limit_body_time(seconds: float) -> AsyncIterator[None]:
    """Raises ProblemError if the body is not read within so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        detail = f"the body did not arrive within {seconds:g} s; send a smaller one or use a faster connection"
        raise ProblemError(BODY_TIMEOUT, detail, headers={"Connection": "close"}) from None


async def read_json(request: Request, example: str) -> dict[str, Any]:
    """Returns a body that is one JSON object. Raises ProblemError."""
    if not is_json(content_type := get_content_type(request)):
        raise create_type_problem(content_type, JSON)
    try:
        body = await request.body()
    except ClientDisconnect:
        raise _create_disconnect_problem() from None
    try:
        value = _parse_json(body)
    except ValueError as error:
        raise ProblemError(BAD_BODY, f"the body is not JSON: {error}; send an object in UTF-8") from None
    if not isinstance(value, dict):
        raise ProblemError(BAD_BODY, f"the body must be a JSON object, such as {example}")
    return value


async def read_form(request: Request, max_files: int, max_field_bytes: int) -> FormData:
    """Returns a multipart form. Its files are on disk until it is closed.

    `max_field_bytes` is the limit of a field that is not a file. Raises ProblemError.
    """
    try:
        return await request.form(max_files=max_files, max_fields=_MAX_FIELDS, max_part_size=max_field_bytes)
    except ClientDisconnect:
        raise _create_disconnect_problem() from None
    except HTTPException as error:
        raise ProblemError(BAD_BODY, _describe_form_error(error.detail, max_files, max_field_bytes)) from None
    except (ValueError, LookupError) as error:  # from the parser, for a malformed boundary or charset
        raise ProblemError(BAD_BODY, f"the form cannot be parsed: {error}") from None


def _describe_form_error(detail: str, max_files: int, max_field_bytes: int) -> str:
    """Returns what is wrong with a form, in place of starlette's own words."""
    if detail.startswith("Too many files"):
        return f"the form has too many files; send {'one file' if max_files == 1 else f'at most {max_files} files'}"
    if detail.startswith("Too many fields"):
        return f"the form has too many fields; send at most {_MAX_FIELDS}"
    if detail.startswith("Part exceeded maximum size"):
        return f"a field of the form has more than {max_field_bytes:,} bytes; send a shorter one"
    if detail.startswith("Missing boundary"):
        return "the form has no boundary: leave the content type to your HTTP client"
    if "Content-Disposition" in detail:
        return "a part of the form has no name: each needs a Content-Disposition header with a name"
    return f"the form cannot be parsed: {detail}"


async def read_image_form(
    form: FormData, parsers: Mapping[str, Callable[[str], Any]], keep_empty: Collection[str] = ()
) -> tuple[dict[str, Any], bytes | None]:
    """Returns the fields of a form, and the bytes of its file `image` if it has one.

    `parsers` convert the text of single fields. Empty fields are left out, as browsers send them too, except for those
    in `keep_empty`. Raises ProblemError.
    """
    fields: dict[str, Any] = {}
    file: bytes | None = None
    for name, value in form.multi_items():
        if name in fields or (name == "image" and file is not None):
            raise ProblemError(INVALID_REQUEST, f"the field {name[:80]} is repeated; send it once", name[:80])
        if isinstance(value, UploadFile):
            if name != "image":
                detail = f"only `image` can be a file; send {name[:80]} as a field"
                raise ProblemError(INVALID_REQUEST, detail, name[:80])
            file = await value.read()
            if not file:
                raise ProblemError(INVALID_REQUEST, "the image file is empty", "image")
        elif value and name in parsers:
            fields[name] = parsers[name](value)
        elif value or name in keep_empty:
            fields[name] = value
    return fields, file


def parse_json_field(name: str, expected: str) -> Callable[[str], Any]:
    """Returns a parser for a form field that contains JSON. `expected`: what the JSON must be, for error messages."""

    def parse(value: str) -> Any:
        try:
            return _parse_json(value.encode())
        except ValueError as error:
            raise ProblemError(INVALID_REQUEST, f"{name} is not JSON: {error}; send {expected}", name) from None

    return parse


def _parse_json(data: bytes) -> Any:
    """Returns JSON as a value. Raises ValueError, and ProblemError for too many values."""
    if sum(map(data.count, (b",", b"[", b"{"))) > _MAX_VALUES:
        raise ProblemError(TOO_LARGE, f"the limit is {_MAX_VALUES:,} values; send fewer in one request")
    # Stricter than the standard library: see the docstring of this module.
    return pydantic_core.from_json(data, allow_inf_nan=False)


def _create_disconnect_problem() -> ProblemError:
    return ProblemError(BAD_BODY, "the body ended before its declared length")
