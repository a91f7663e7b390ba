"""POST /v1/prompt: a picture and one question or several, answered at once or as they come."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from server.api import bodies, examples, pictures, problems
from server.api.auth import Authorised, client_of
from server.api.questions import Questions
from server.api.schemas import Answer, Answers, PromptRequest
from server.api.streaming import AnswerStream
from server.serving import Serving
from server.settings import Settings

router = APIRouter(tags=["prompt"], dependencies=[Authorised])

_SCHEMA = {"$ref": "#/components/schemas/PromptRequest"}
_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {"schema": _SCHEMA, "examples": examples.body()},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["image"],
                "properties": {
                    "image": {"type": "string", "format": "binary", "description": "The picture's file."},
                    "task": {"type": "string", "description": "A task token such as `<OD>`.", "examples": ["<OD>"]},
                    "text": {"type": "string"},
                    "region": {"type": "string", "description": "x1,y1,x2,y2 in pixels.", "examples": ["8,22,27,41"]},
                    "prompts": {"type": "string", "description": "Several questions: a JSON list of prompts."},
                    "min_score": {"type": "number", "minimum": 0, "maximum": 1},
                    "max_new_tokens": {"type": "integer", "minimum": 1},
                    "num_beams": {"type": "integer", "minimum": 1},
                    "constrain": {"type": "string", "description": 'A JSON object: {"labels": ["cat", "dog"]}.'},
                    "adapter": {"type": "string", "description": "A name of GET /v1/adapters."},
                    "project": {"type": "string", "description": "A name of GET /v1/projects."},
                    "priority": {"type": "string", "enum": ["interactive", "job"]},
                },
            }
        },
    },
}
_ONE, _MANY = ({"$ref": f"#/components/schemas/{model.__name__}"} for model in (Answer, Answers))
_EVENT = {  # OpenAPI 3.2's way to describe a stream, which readers of 3.1 pass over
    "type": "object",
    "properties": {
        "event": {"type": "string", "enum": ["annotation", "result", "error"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["event", "data"],
}
_ANSWERED: dict[str, Any] = {
    "description": "The answer to the one question, or `results`, one entry a prompt. With `stream`, events:"
    " `annotation` each the moment it closes, `result` with the whole at the end, or `error` with a problem.",
    "content": {
        "application/json": {"schema": {"anyOf": [_ONE, _MANY]}, "example": examples.ANSWER},
        "text/event-stream": {"itemSchema": _EVENT},
    },
}
SCHEMAS = (PromptRequest, Answer, Answers, problems.ProblemDetails)  # for the OpenAPI, which refers to them above


@router.post(
    "/v1/prompt",
    response_class=Response,
    openapi_extra={"requestBody": _BODY},
    responses={
        200: _ANSWERED,
        **problems.documented(
            problems.BAD_BODY,
            problems.UNAUTHORIZED,
            problems.TOO_SLOW,
            problems.TOO_LARGE,
            problems.UNSUPPORTED_TYPE,
            problems.INVALID_REQUEST,
            problems.INVALID_PROMPT,
            problems.INVALID_PICTURE,
            problems.OVERLOADED,
            problems.LOADING,
            problems.NO_MODEL,
            problems.SHUTTING_DOWN,
            problems.TIMED_OUT,
        ),
    },
)
async def prompt(
    request: Request,
    stream: Annotated[bool, Query(description="Answer with server-sent events.")] = False,
) -> Response:
    """Asks the model about a picture.

    Send `image` with `task` for one question, or with `prompts` for several. As JSON the picture is base64 or a data
    URL; as a multipart form it is a file: `curl -F image=@cat.jpg --form-string "task=<OD>"` (plain `-F` reads `<` as
    "from a file").
    """
    settings: Settings = request.app.state.settings
    serving: Serving = request.app.state.serving
    engine = serving.engine()
    with serving.work() as work:
        try:
            async with asyncio.timeout(settings.timeout):
                asked, file = await bodies.read(request, settings.max_body_bytes)
        except TimeoutError:
            detail = f"the body was not there within {settings.timeout:g} s; send a smaller picture"
            raise problems.Problem(problems.TOO_SLOW, detail, headers={"Connection": "close"}) from None
        asks = asked.questions()
        _check(asked, settings)
        image = await pictures.picture(asked, file, settings, serving.decoding, engine.prepare)
        several = asked.prompts is not None
        questions = Questions(engine, image, asks, request.app.state.metrics, serving, client_of(request))
        if not several:
            questions.raise_first()
        if stream:
            return AnswerStream(questions, several=several, until=work.pop_all())
        entries = await questions.answers(request.receive)
        if entries is None:
            return Response(status_code=499)  # nobody is there to read it
        if several:
            body = Answers(results=[e.details() if isinstance(e, problems.Problem) else e for e in entries])
            return Response(body.model_dump_json(exclude_unset=False), media_type="application/json")
        (entry,) = entries
        if isinstance(entry, problems.Problem):
            raise entry
        return Response(entry.model_dump_json(), media_type="application/json")


def _check(asked: PromptRequest, settings: Settings) -> None:
    """The limit on prompts. Raises Problem."""
    prompts = asked.prompts or []
    if len(prompts) > settings.max_prompts:
        detail = f"{len(prompts)} prompts; at most {settings.max_prompts} go in one request"
        raise problems.Problem(problems.INVALID_REQUEST, detail, "prompts")
