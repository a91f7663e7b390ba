"""Errors of the API as RFC 9457 problem details: what went wrong, and what to do about it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asgi_correlation_id import correlation_id
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from prompts.validation import describe_error

MEDIA_TYPE = "application/problem+json"
_MAX_INVALID_FIELDS = 20


@dataclass(frozen=True, slots=True)
class ProblemKind:
    """A kind of problem. Its type URI ends in `name`."""

    name: str
    status: int
    title: str


BAD_REQUEST = ProblemKind("bad-request", 400, "The request is not HTTP")
BAD_BODY = ProblemKind("bad-body", 400, "The body cannot be parsed")
UNAUTHORIZED = ProblemKind("unauthorized", 401, "An API key is required")
JOBS_DISABLED = ProblemKind("jobs-disabled", 403, "This server runs no jobs")
PROJECTS_DISABLED = ProblemKind("projects-disabled", 403, "This server has no projects")
TRAINING_NOT_INSTALLED = ProblemKind("training-not-installed", 403, "This server cannot tune")
SOURCE_NOT_ALLOWED = ProblemKind("source-not-allowed", 403, "Jobs may not read from this source")
NOT_FOUND = ProblemKind("not-found", 404, "Not found")
METHOD_NOT_ALLOWED = ProblemKind("method-not-allowed", 405, "Method not allowed")
HEAD_TIMEOUT = ProblemKind("head-timeout", 408, "The headers took too long to arrive")
BODY_TIMEOUT = ProblemKind("body-timeout", 408, "The body took too long to arrive")
INVALID_STATE = ProblemKind("invalid-state", 409, "Not allowed in the current state")
OUTPUT_TAKEN = ProblemKind("output-taken", 409, "Another job writes to this output")
NAME_TAKEN = ProblemKind("name-taken", 409, "A project with this name exists")
BASE_MISMATCH = ProblemKind("base-mismatch", 409, "The project belongs to another model")
NO_TRAINING_DATA = ProblemKind("no-training-data", 409, "Too few corrected images to train on")
PROMOTION_NOT_EARNED = ProblemKind("promotion-not-earned", 409, "The model has not won against the champion")
TOO_LARGE = ProblemKind("too-large", 413, "The body is too large")
UNSUPPORTED_TYPE = ProblemKind("unsupported-media-type", 415, "Unsupported content type")
INVALID_REQUEST = ProblemKind("invalid-request", 422, "The request is invalid")
INVALID_PROMPT = ProblemKind("invalid-prompt", 422, "The prompt is invalid")
INVALID_IMAGE = ProblemKind("invalid-image", 422, "The image cannot be used")
INVALID_ADAPTER = ProblemKind("invalid-adapter", 422, "The adapter cannot be used")
INVALID_SOURCE = ProblemKind("invalid-source", 422, "The source cannot be used")
INVALID_ANNOTATIONS = ProblemKind("invalid-annotations", 422, "The annotations cannot be used for training")
INVALID_RECIPE = ProblemKind("invalid-recipe", 422, "The recipe is invalid")
HEAD_TOO_LARGE = ProblemKind("head-too-large", 431, "The headers are too large")
INTERNAL_ERROR = ProblemKind("internal-error", 500, "Internal server error")
ADAPTER_SUSPENDED = ProblemKind("adapter-suspended", 503, "The adapter failed on its last prompts")
OVERLOADED = ProblemKind("overloaded", 503, "Too many prompts are waiting")
TOO_MANY_CONNECTIONS = ProblemKind("too-many-connections", 503, "Too many connections are open")
MODEL_FAILED = ProblemKind("model-failed", 503, "The model could not be loaded")
LOADING = ProblemKind("loading", 503, "The model is still loading")
SHUTTING_DOWN = ProblemKind("shutting-down", 503, "The server is shutting down")
BUSY = ProblemKind("busy", 503, "Others do the same kind of work")
DATABASE_UNAVAILABLE = ProblemKind("database-unavailable", 503, "The database does not respond")
TIMED_OUT = ProblemKind("timed-out", 504, "The answer took too long")
INSUFFICIENT_STORAGE = ProblemKind("insufficient-storage", 507, "The server cannot store it")

# Groups that many routes share.
NOT_READY = (LOADING, MODEL_FAILED, SHUTTING_DOWN)
BODY_PROBLEMS = (BAD_BODY, BODY_TIMEOUT, TOO_LARGE, UNSUPPORTED_TYPE, INVALID_REQUEST)
STORE_PROBLEMS = (DATABASE_UNAVAILABLE, BUSY, INSUFFICIENT_STORAGE)


class InvalidField(BaseModel):
    """An invalid field of a request."""

    field: str = Field(description="A path such as `prompts.1.region`.")
    detail: str


class ProblemDetails(BaseModel):
    """An error, as RFC 9457 defines it."""

    model_config = ConfigDict(json_schema_extra={"additionalProperties": False})

    type: str = Field(description="The kind of problem, as a stable URI.")
    title: str = Field(description="The kind of problem in words.")
    status: int = Field(description="The HTTP status.", ge=400, le=599)
    detail: str = Field(description="What went wrong in this request, and what to do.")
    instance: str = Field(description="This occurrence, as a URI.")
    request_id: str = Field(description="Search the server's log for this ID.")
    field: str | None = Field(None, description="The part of the request that is invalid.")
    errors: list[InvalidField] | None = Field(None, description="All invalid fields.")


class ProblemError(Exception):
    """An error that the API answers as problem details. Routes raise it, and so do the functions that they call."""

    def __init__(
        self,
        kind: ProblemKind,
        detail: str,
        field: str | None = None,
        errors: Sequence[InvalidField] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind, self.detail, self.field, self.errors, self.headers = kind, detail, field, errors, headers

    def to_details(self) -> ProblemDetails:
        """Returns the problem details, with the ID of the current request."""
        request_id = correlation_id.get() or "none"
        return ProblemDetails(
            type=f"urn:florist:problem:{self.kind.name}",
            title=self.kind.title,
            status=self.kind.status,
            detail=self.detail,
            instance=f"urn:florist:request:{request_id}",
            request_id=request_id,
            field=self.field,
            errors=list(self.errors) if self.errors else None,
        )

    def to_response(self) -> Response:
        """Returns the response with the problem details as its body."""
        body = self.to_details().model_dump_json(exclude_none=True)
        return Response(body, self.kind.status, dict(self.headers or {}), MEDIA_TYPE)


def create_retry_problem(kind: ProblemKind, detail: str, retry_after: float) -> ProblemError:
    """Returns a temporary problem with a Retry-After header. `retry_after`: seconds."""
    return ProblemError(kind, detail, headers={"Retry-After": str(math.ceil(retry_after))})


def create_validation_problem(errors: Sequence[Mapping[str, Any]], *, skip: int = 0) -> ProblemError:
    """Returns one problem for the errors of pydantic. `skip`: number of leading parts of each path to leave out."""
    fields = [
        InvalidField(field=_format_path(error["loc"][skip:]), detail=_format_message(error))
        for error in errors[:_MAX_INVALID_FIELDS]
    ]
    detail = summarize([f"{each.field}: {each.detail}" if each.field else each.detail for each in fields], len(errors))
    return ProblemError(INVALID_REQUEST, detail, fields[0].field or None, fields)


def summarize(details: Sequence[str], total: int) -> str:
    """Returns the first three details as one sentence, with the number of those left out."""
    more = f"; and {total - 3} more" if total > 3 else ""
    return "; ".join(details[:3]) + more


def _format_path(parts: Sequence[Any]) -> str:
    return ".".join(str(part)[:80] for part in parts)


def _format_message(error: Mapping[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return "there is no such field; leave it out"
    return describe_error(error)


_RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}}


def document_problems(*kinds: ProblemKind) -> dict[int | str, dict[str, Any]]:
    """Returns FastAPI's `responses` for the kinds of problem that a route can answer."""
    by_status: dict[int | str, list[ProblemKind]] = {}
    for kind in kinds:
        if kind not in (group := by_status.setdefault(kind.status, [])):
            group.append(kind)
    schema = {"$ref": "#/components/schemas/ProblemDetails"}
    return {
        status: {
            "description": "; ".join(f"{kind.title} (`{kind.name}`)" for kind in group),
            "content": {MEDIA_TYPE: {"schema": schema}},
            **({"headers": _RETRY_AFTER} if status == 503 else {}),
        }
        for status, group in by_status.items()
    }
