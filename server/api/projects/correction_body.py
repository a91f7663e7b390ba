"""The body of a correction: a JSON object, or a multipart form with the image file."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request

from server.api.base64_images import decode_base64_image
from server.api.bodies import (
    FORM,
    document_json_body,
    get_content_type,
    limit_body_time,
    parse_json_field,
    read_form,
    read_image_form,
    read_json,
    validate_body,
)
from server.api.deps import RequestStackDep, SettingsDep
from server.api.problems import INVALID_REQUEST, ProblemError
from server.api.projects.correction_schemas import CorrectionRequest
from server.api.projects.examples import create_correction_example
from server.settings import Settings

_EXAMPLE = '{"image": …, "annotations": [{"kind": "box", "label": "bird", "box": [8, 22, 27, 41]}]}'
_PARSERS = {"annotations": parse_json_field("annotations", "a list of annotations")}

CORRECTION_BODY: dict[str, Any] = document_json_body(CorrectionRequest, {"box": {"value": create_correction_example()}})
CORRECTION_BODY["requestBody"]["content"][FORM] = {
    "schema": {
        "type": "object",
        "required": ["image", "annotations"],
        "properties": {
            "image": {"type": "string", "format": "binary", "description": "The image file."},
            "annotations": {"type": "string", "description": "A JSON list."},
            "kind": {"type": "string", "enum": ["objects", "words", "captions"]},
            "complete": {"type": "boolean"},
            "name": {"type": "string"},
            "author": {"type": "string"},
        },
    }
}


@dataclass(frozen=True, slots=True)
class CorrectionBody:
    """The parsed body, and the bytes of the image file."""

    correction: CorrectionRequest
    image: bytes


async def read_correction_body(request: Request, settings: SettingsDep, _: RequestStackDep) -> CorrectionBody:
    """Returns the body of a correction. Raises ProblemError."""
    async with limit_body_time(settings.request_timeout):
        fields, file = await _read_fields(request, settings)
    correction = validate_body(CorrectionRequest, fields)
    if bool(file) == bool(correction.image):
        raise ProblemError(INVALID_REQUEST, "send the image as `image`", "image")
    return CorrectionBody(correction, file or decode_base64_image(correction.image or ""))


CorrectionBodyDep = Annotated[CorrectionBody, Depends(read_correction_body)]


async def _read_fields(request: Request, settings: Settings) -> tuple[dict[str, Any], bytes | None]:
    if get_content_type(request) != FORM:
        return await read_json(request, _EXAMPLE), None
    form = await read_form(request, max_files=1, max_field_bytes=settings.max_body_bytes)
    try:
        return await read_image_form(form, _PARSERS)
    finally:
        await form.close()
