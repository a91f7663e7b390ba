"""Errors as RFC 9457 problems: what went wrong, and what to do about it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from server.api.context import request_id

MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of problem; `name` ends its type URI."""

    name: str
    status: int
    title: str


BAD_BODY = Kind("bad-body", 400, "The body cannot be read")
UNAUTHORIZED = Kind("unauthorized", 401, "An API key is needed")
NO_JOBS = Kind("no-jobs", 403, "This server runs no jobs")
NO_PROJECTS = Kind("no-projects", 403, "This server has no projects")
SOURCE_REFUSED = Kind("source-refused", 403, "Jobs may not read from there")
NOT_FOUND = Kind("not-found", 404, "There is nothing here")
METHOD_NOT_ALLOWED = Kind("method-not-allowed", 405, "This method is not for this address")
WRONG_STATE = Kind("wrong-state", 409, "It is in no state for this")
JOB_CHANGED = Kind("job-changed", 409, "The output belongs to another job")
NAME_TAKEN = Kind("name-taken", 409, "A project of this name is there")
OTHER_BASE = Kind("other-base", 409, "The project stands on another model")
NOTHING_TO_LEARN = Kind("nothing-to-learn", 409, "Too little is corrected")
NOT_EARNED = Kind("not-earned", 409, "The model has not won against the one that answers")
TOO_LARGE = Kind("too-large", 413, "The body is too large")
TOO_SLOW = Kind("too-slow", 408, "The body took too long to arrive")
UNSUPPORTED_TYPE = Kind("unsupported-media-type", 415, "This content type is not read here")
INVALID_REQUEST = Kind("invalid-request", 422, "The request has a fault")
INVALID_PROMPT = Kind("invalid-prompt", 422, "The prompt cannot be asked")
INVALID_PICTURE = Kind("invalid-picture", 422, "The picture cannot be used")
INVALID_ADAPTER = Kind("invalid-adapter", 422, "The adapter cannot be used")
INVALID_SOURCE = Kind("invalid-source", 422, "The source cannot be used")
INVALID_LABELS = Kind("invalid-labels", 422, "The labels cannot be taught")
INVALID_RECIPE = Kind("invalid-recipe", 422, "The recipe has a fault")
FAILED = Kind("failed", 500, "The server failed")
OVERLOADED = Kind("overloaded", 503, "Too many prompts are waiting")
NO_MODEL = Kind("no-model", 503, "The model could not be loaded")
LOADING = Kind("loading", 503, "The model is not loaded yet")
SHUTTING_DOWN = Kind("shutting-down", 503, "The server is shutting down")
DATABASE_AWAY = Kind("database-away", 503, "The database does not answer")
TIMED_OUT = Kind("timed-out", 504, "The answer took too long")
NO_ROOM = Kind("no-room", 507, "The server cannot store it")


class Fault(BaseModel):
    """One fault of a request. `field` is a path such as `prompts.1.region`."""

    field: str
    detail: str


class ProblemDetails(BaseModel):
    """An error, as RFC 9457 has it."""

    model_config = ConfigDict(json_schema_extra={"additionalProperties": False})

    type: str = Field(description="The kind of problem, a URI that stays the same.")
    title: str = Field(description="The kind of problem in words.")
    status: int = Field(description="The HTTP status.", ge=400, le=599)
    detail: str = Field(description="What went wrong this time, and what to do.")
    instance: str = Field(description="This occurrence, as a URI.")
    request_id: str = Field(description="Find the request in the server's log by this.")
    field: str | None = Field(None, description="The part of the request at fault.")
    errors: list[Fault] | None = Field(None, description="Every fault, where there are several fields to blame.")


class Problem(Exception):  # noqa: N818
    """Raised anywhere in a request, answered as a problem."""

    def __init__(
        self,
        kind: Kind,
        detail: str,
        field: str | None = None,
        errors: Sequence[Fault] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind, self.detail, self.field, self.errors, self.headers = kind, detail, field, errors, headers

    def details(self) -> ProblemDetails:
        identity = request_id()
        return ProblemDetails(
            type=f"urn:florist:problem:{self.kind.name}",
            title=self.kind.title,
            status=self.kind.status,
            detail=self.detail,
            instance=f"urn:florist:request:{identity}",
            request_id=identity,
            field=self.field,
            errors=list(self.errors) if self.errors else None,
        )

    def response(self) -> Response:
        body = self.details().model_dump_json(exclude_none=True)
        return Response(body, self.kind.status, dict(self.headers or {}), MEDIA_TYPE)


def busy(kind: Kind, detail: str, retry_after: float) -> Problem:
    """A refusal that passes; `retry_after` in seconds."""
    return Problem(kind, detail, headers={"Retry-After": str(math.ceil(retry_after))})


def invalid(errors: Sequence[Mapping[str, Any]], *, skip: int = 0) -> Problem:
    """Pydantic's errors as one problem; `skip` leading parts of each path are left out."""
    faults = [Fault(field=_path(e["loc"][skip:]), detail=_words(e)) for e in errors[:20]]
    detail = "; ".join(f"{f.field}: {f.detail}" if f.field else f.detail for f in faults[:3])
    more = f"; and {len(errors) - 3} more" if len(errors) > 3 else ""
    return Problem(INVALID_REQUEST, detail + more, faults[0].field or None, faults)


def _path(parts: Sequence[Any]) -> str:
    return ".".join(str(part)[:80] for part in parts)


def _words(error: Mapping[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return "there is no such field; leave it out"
    return str(error["msg"]).removeprefix("Value error, ")


def documented(*kinds: Kind) -> dict[int | str, dict[str, Any]]:
    """FastAPI's `responses` for the kinds of problem that a route can answer."""
    by_status: dict[int | str, list[Kind]] = {}
    for kind in kinds:
        by_status.setdefault(kind.status, []).append(kind)
    schema = {"$ref": "#/components/schemas/ProblemDetails"}
    return {
        status: {
            "description": "; ".join(f"{k.title} (`{k.name}`)" for k in group),
            "content": {MEDIA_TYPE: {"schema": schema}},
            **({"headers": _RETRY_AFTER} if status == 503 else {}),
        }
        for status, group in by_status.items()
    }


_RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}}


def handle(app: FastAPI) -> None:
    """Makes every error of `app` a problem."""

    @app.exception_handler(Problem)
    async def problem(_: Request, error: Problem) -> Response:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def unfit(_: Request, error: RequestValidationError) -> Response:
        return invalid(error.errors(), skip=1).response()  # the first part says query, path or header

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return _of_http(request, error).response()


def _of_http(request: Request, error: HTTPException) -> Problem:
    headers = error.headers or {}
    match error.status_code:
        case 404:
            return Problem(NOT_FOUND, f"nothing is at {request.url.path[:200]}; /openapi.json lists what there is")
        case 405:
            allowed = headers.get("Allow", "another")
            return Problem(METHOD_NOT_ALLOWED, f"use {allowed}, not {request.method[:20]}", headers=headers)
        case status if 400 <= status < 500:
            return Problem(Kind(BAD_BODY.name, status, BAD_BODY.title), str(error.detail), headers=headers)
    return Problem(FAILED, "the fault is the server's; tell its operator the request_id")
