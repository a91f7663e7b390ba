"""Handlers that answer every error as problem details."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from labels.decoder_pool import DecoderClosedError
from server.api.problems import (
    BAD_BODY,
    BUSY,
    DATABASE_UNAVAILABLE,
    INTERNAL_ERROR,
    JOBS_DISABLED,
    LOADING,
    METHOD_NOT_ALLOWED,
    MODEL_FAILED,
    NOT_FOUND,
    PROJECTS_DISABLED,
    SHUTTING_DOWN,
    ProblemError,
    ProblemKind,
    create_retry_problem,
    create_validation_problem,
)
from server.lifecycle import (
    DatabaseUnavailableError,
    DecodersStuckError,
    JobsDisabledError,
    ModelFailedError,
    ModelLoadingError,
    ProjectsDisabledError,
    ShuttingDownError,
    UnavailableError,
)

_UNAVAILABLE: dict[type[UnavailableError], ProblemKind] = {
    ModelLoadingError: LOADING,
    ModelFailedError: MODEL_FAILED,
    DecodersStuckError: BUSY,
    DatabaseUnavailableError: DATABASE_UNAVAILABLE,
    ShuttingDownError: SHUTTING_DOWN,
}
INTERNAL_DETAIL = "an unexpected error; give the request_id to the operator of the server"


def add_error_handlers(app: FastAPI) -> None:
    """Registers the handlers of all errors that routes and dependencies raise."""

    @app.exception_handler(ProblemError)
    async def handle_problem(_: Request, error: ProblemError) -> Response:
        return error.to_response()

    @app.exception_handler(UnavailableError)
    async def handle_unavailable(_: Request, error: UnavailableError) -> Response:
        return create_unavailable_problem(error).to_response()

    @app.exception_handler(JobsDisabledError)
    async def handle_jobs_disabled(_: Request, error: JobsDisabledError) -> Response:
        return ProblemError(JOBS_DISABLED, str(error)).to_response()

    @app.exception_handler(ProjectsDisabledError)
    async def handle_projects_disabled(_: Request, error: ProjectsDisabledError) -> Response:
        return ProblemError(PROJECTS_DISABLED, str(error)).to_response()

    @app.exception_handler(DecoderClosedError)
    async def handle_closed_decoder(_: Request, error: DecoderClosedError) -> Response:
        return create_retry_problem(SHUTTING_DOWN, str(error), 5).to_response()

    @app.exception_handler(RequestValidationError)
    async def handle_invalid_request(_: Request, error: RequestValidationError) -> Response:
        return create_validation_problem(error.errors(), skip=1).to_response()  # skips "query", "path" or "header"

    @app.exception_handler(HTTPException)
    async def handle_http_error(request: Request, error: HTTPException) -> Response:
        return _create_http_problem(request, error).to_response()


def create_unavailable_problem(error: UnavailableError) -> ProblemError:
    """Returns the problem of a server that is not ready."""
    return create_retry_problem(_UNAVAILABLE[type(error)], str(error), error.retry_after)


def _create_http_problem(request: Request, error: HTTPException) -> ProblemError:
    headers = error.headers or {}
    match error.status_code:
        case 404:
            path = request.url.path[:200]
            return ProblemError(NOT_FOUND, f"there is no resource at {path}; /openapi.json lists all paths")
        case 405:
            allowed = headers.get("Allow", "another method")
            return ProblemError(METHOD_NOT_ALLOWED, f"use {allowed}, not {request.method[:20]}", headers=headers)
        case status if 400 <= status < 500:
            kind = ProblemKind(BAD_BODY.name, status, BAD_BODY.title)
            return ProblemError(kind, str(error.detail), headers=headers)
    return ProblemError(INTERNAL_ERROR, INTERNAL_DETAIL)
