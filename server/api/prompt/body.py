"""The body of POST /v1/prompt: a JSON object or a multipart form."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request

from server.api.bodies import (
    FORM,
    JSON,
    create_type_problem,
    get_content_type,
    is_json,
    limit_body_time,
    parse_json_field,
    read_form,
    read_image_form,
    read_json,
    validate_body,
)
from server.api.deps import EngineDep, LifecycleDep, MetricsDep, RequestStackDep, SettingsDep
from server.api.problems import INVALID_REQUEST, ProblemError
from server.api.prompt.admission import check_capacity
from server.api.prompt.examples import create_prompt_examples
from server.api.prompt.schemas import PromptRequest, count_characters, count_requests
from server.settings import Settings

_MAX_LONGEST_TEXTS = 4  # in one request; splitting a text into tokens keeps the event loop busy for milliseconds
PROMPT_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        JSON: {"schema": {"$ref": "#/components/schemas/PromptRequest"}, "examples": create_prompt_examples()},
        FORM: {
            "schema": {
                "type": "object",
                "required": ["image"],
                "properties": {
                    "image": {"type": "string", "format": "binary", "description": "The image file."},
                    "task": {"type": "string", "description": "A task token such as `<OD>`.", "examples": ["<OD>"]},
                    "text": {
                        "type": "string",
                        "description": 'Several classes with commas, or as a JSON list: ["hat", "book"].',
                    },
                    "region": {"type": "string", "description": "x1,y1,x2,y2 in pixels.", "examples": ["8,22,27,41"]},
                    "prompts": {"type": "string", "description": "Several prompts, as a JSON list."},
                    "min_score": {"type": "number", "minimum": 0, "maximum": 1},
                    "max_new_tokens": {"type": "integer", "minimum": 1},
                    "num_beams": {"type": "integer", "minimum": 1},
                    "constrain": {"type": "string", "description": 'A JSON object: {"labels": ["cat", "dog"]}.'},
                    "any_class": {"type": "boolean"},
                    "adapter": {"type": "string", "description": "A name of GET /v1/adapters."},
                    "project": {"type": "string", "description": "A name of GET /v1/projects."},
                    "priority": {"type": "string", "enum": ["interactive", "job"]},
                },
            }
        },
    },
}


@dataclass(frozen=True, slots=True)
class PromptBody:
    """The parsed body, and the bytes of the image file if a form contains one."""

    prompt_request: PromptRequest
    file: bytes | None


async def read_prompt_body(
    engine: EngineDep,
    lifecycle: LifecycleDep,
    metrics: MetricsDep,
    _stack: RequestStackDep,
    request: Request,
    settings: SettingsDep,
) -> PromptBody:
    """Returns the body of a prompt. Raises ProblemError; also before reading, if the engine is not ready or has no
    place for a prompt."""
    check_capacity(lifecycle, engine, metrics)
    async with limit_body_time(settings.request_timeout):
        fields, file = await _read_fields(request, settings)
    prompt_request = validate_body(PromptRequest, fields)
    images = [image for image in (prompt_request.image, file, prompt_request.image_url) if image]
    if len(images) != 1:
        detail = "send `image` or `image_url`, not both" if images else "send the image as `image`"
        raise ProblemError(INVALID_REQUEST, detail, "image")
    prompts = prompt_request.prompts or []
    if (count := sum(map(count_requests, prompt_request.list_prompts()))) > settings.max_prompts:
        counted = ", as each class of a text counts" if count > max(len(prompts), 1) else ""
        detail = f"{count} prompts in one request{counted}; the limit is {settings.max_prompts}"
        raise ProblemError(INVALID_REQUEST, detail, "prompts" if prompts else "text")
    length = sum(count_characters(prompt.text) for prompt in prompts)
    limit = _MAX_LONGEST_TEXTS * settings.max_text_length
    if length > limit:
        detail = f"the texts of all prompts together have {length:,} characters; the limit is {limit:,}"
        raise ProblemError(INVALID_REQUEST, detail, "prompts")
    return PromptBody(prompt_request, file)


PromptBodyDep = Annotated[PromptBody, Depends(read_prompt_body)]


async def _read_fields(request: Request, settings: Settings) -> tuple[dict[str, Any], bytes | None]:
    content_type = get_content_type(request)
    if content_type == FORM:
        form = await read_form(request, max_files=1, max_field_bytes=settings.max_body_bytes)
        try:
            return await read_image_form(form, _PARSERS, keep_empty=("task",))
        finally:
            await form.close()
    if is_json(content_type):
        return await read_json(request, '{"image": …, "task": "<OD>"}'), None
    raise create_type_problem(content_type, JSON, FORM)


def _parse_region(value: str) -> list[str]:
    """Splits `1,2,3,4` or `[1, 2, 3, 4]`."""
    return [part.strip() for part in value.strip().removeprefix("[").removesuffix("]").split(",")]


_PARSERS = {
    "region": _parse_region,
    "prompts": parse_json_field("prompts", "a list of objects"),
    "constrain": parse_json_field("constrain", "an object"),
}
