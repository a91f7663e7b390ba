"""The route of prompts: an image and one prompt or several, answered at once or as a stream."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from sse_starlette import EventSourceResponse

from server.api.auth import ClientIdDep, KeyRequired
from server.api.bodies import JSON
from server.api.deps import EngineDep, LifecycleDep, MetricsDep, RequestStackDep
from server.api.problems import (
    ADAPTER_SUSPENDED,
    BODY_PROBLEMS,
    BUSY,
    INVALID_IMAGE,
    INVALID_PROMPT,
    NOT_READY,
    OVERLOADED,
    TIMED_OUT,
    UNAUTHORIZED,
    ProblemError,
    document_problems,
)
from server.api.progress_events import document_event
from server.api.prompt.admission import reserve_places
from server.api.prompt.body import PROMPT_BODY, PromptBodyDep
from server.api.prompt.examples import RESPONSE_EXAMPLE
from server.api.prompt.image_source import load_image
from server.api.prompt.prompt_batch import PromptBatch
from server.api.prompt.schemas import PromptBatchResponse, PromptResponse
from server.api.prompt.streaming import create_batch_response, generate_prompt_events

router = APIRouter(tags=["prompt"], dependencies=[KeyRequired])

_CLIENT_CLOSED_REQUEST = 499  # nginx's status for a client that disconnected; only the log shows it
_RESPONSE: dict[str, Any] = {
    "description": "The answer to the prompt, or `results` with one entry for each prompt. With `stream`, events: "
    "`annotation` as soon as one is complete, `result` with the whole answer, or `error` with problem details.",
    "content": {
        JSON: {
            "schema": {
                "anyOf": [
                    {"$ref": f"#/components/schemas/{model.__name__}"}
                    for model in (PromptResponse, PromptBatchResponse)
                ]
            },
            "example": RESPONSE_EXAMPLE,
        },
        "text/event-stream": {"itemSchema": document_event("annotation", "result", "error")},
    },
}


@router.post(
    "/v1/prompt",
    summary="Send a prompt",
    response_class=Response,
    openapi_extra={"requestBody": PROMPT_BODY},
    responses={
        200: _RESPONSE,
        **document_problems(
            UNAUTHORIZED,
            *BODY_PROBLEMS,
            INVALID_PROMPT,
            INVALID_IMAGE,
            ADAPTER_SUSPENDED,
            OVERLOADED,
            BUSY,
            *NOT_READY,
            TIMED_OUT,
        ),
    },
)
async def send_prompt(
    request: Request,
    lifecycle: LifecycleDep,
    engine: EngineDep,
    metrics: MetricsDep,
    client_id: ClientIdDep,
    stack: RequestStackDep,
    body: PromptBodyDep,
    stream: Annotated[bool, Query(description="Answer with server-sent events.")] = False,
) -> Response:
    """Asks the model about an image.

    Send `image` with `task` for one prompt, or with `prompts` for several. In JSON the image is base64 or a data URL;
    in a multipart form it is a file: `curl -F image=@cat.jpg --form-string "task=<OD>"` (plain `-F` reads `<` as "from
    a file").
    """
    prompts = body.prompt_request.list_prompts()
    with reserve_places(lifecycle, engine, metrics, prompts):
        image = await load_image(body, lifecycle, engine, client_id)
        batch = PromptBatch(prompts, image, engine, lifecycle, metrics, client_id)
        stack.callback(batch.cancel)
        await batch.submit()
    several = body.prompt_request.prompts is not None
    if not several:
        batch.raise_first_problem()
    if stream:
        return EventSourceResponse(generate_prompt_events(batch, several=several))
    answers = await batch.wait_for_all(request.receive)
    if answers is None:
        return Response(status_code=_CLIENT_CLOSED_REQUEST)
    if several:
        return Response(create_batch_response(answers).model_dump_json(), media_type=JSON)
    (answer,) = answers
    if isinstance(answer, ProblemError):
        raise answer
    return Response(answer.model_dump_json(), media_type=JSON)
