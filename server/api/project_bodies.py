"""Requests of projects: JSON objects, and corrections that come as forms."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pydantic_core
from fastapi import Request
from pydantic import BaseModel, RootModel, ValidationError
from starlette.datastructures import UploadFile

from server.api import bodies, pictures, problems
from server.api.problems import Problem
from server.api.project_schemas import CorrectionRequest
from server.serving import Serving

M = TypeVar("M", bound=BaseModel)
_EXAMPLE = '{"image": …, "annotations": [{"kind": "box", "label": "bird", "box": [8, 22, 27, 41]}]}'


async def read(request: Request, model: type[M], example: str) -> M:
    """A JSON object as a `model`; `example`: what one looks like. Raises Problem."""
    async with _in_time(request):
        fields = await bodies.json_object(request, example)
    return _valid(model, fields)


async def correction(request: Request) -> tuple[CorrectionRequest, bytes]:
    """A correction and its picture's bytes, from JSON or a form. Raises Problem."""
    if bodies.type_of(request) != bodies.FORM:
        asked = await read(request, CorrectionRequest, _EXAMPLE)
        if not asked.image:
            raise Problem(problems.INVALID_REQUEST, "send the picture as `image`", "image")
        return asked, pictures.from_text(asked.image)
    settings = request.app.state.settings
    async with _in_time(request):
        form = await bodies.form(request, 1, settings.max_body_bytes)
    fields: dict[str, Any] = {}
    data = b""
    try:
        for name, value in form.multi_items():
            if name in fields or (name == "image" and data):
                raise Problem(problems.INVALID_REQUEST, f"{name[:80]} is there twice; send it once", name[:80])
            if isinstance(value, UploadFile):
                if name != "image":
                    raise Problem(
                        problems.INVALID_REQUEST, f"only `image` is a file; {name[:80]} is a field", name[:80]
                    )
                data = await value.read()
            elif name == "annotations":
                fields[name] = _json(value)
            elif value != "":
                fields[name] = value
    finally:
        await form.close()
    asked = _valid(CorrectionRequest, fields)
    if bool(data) == bool(asked.image):
        raise Problem(problems.INVALID_REQUEST, "send the picture's file as `image`", "image")
    return asked, data or pictures.from_text(asked.image or "")


@asynccontextmanager
async def _in_time(request: Request) -> AsyncIterator[None]:
    """The body arrives within the settings' timeout. Raises Problem."""
    serving: Serving = request.app.state.serving
    seconds = serving.settings.timeout
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        detail = f"the body was not there within {seconds:g} s; send it over a faster line"
        raise Problem(problems.TOO_SLOW, detail, headers={"Connection": "close"}) from None


def _valid(model: type[M], fields: dict[str, Any]) -> M:
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        skip = 1 if issubclass(model, RootModel) else 0  # the first part says which one of several was meant
        raise problems.invalid(error.errors(include_url=False, include_context=False), skip=skip) from None


def _json(value: str) -> Any:
    try:
        return pydantic_core.from_json(value, allow_inf_nan=False)
    except ValueError as error:
        detail = f"it is not JSON: {error}; send a list of annotations"
        raise Problem(problems.INVALID_REQUEST, detail, "annotations") from None
