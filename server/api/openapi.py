"""The OpenAPI document: FastAPI's own, with tags, and with the schemas of bodies that routes read themselves."""

from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from server.api.jobs.schemas import JobRequest
from server.api.problems import ProblemDetails
from server.api.projects.backtest_schemas import BacktestRequest
from server.api.projects.correction_schemas import CorrectionRequest, JobCorrectionsRequest
from server.api.projects.model_schemas import EnsembleRequest, PromoteRequest, RollbackRequest
from server.api.projects.run_schemas import RunRequest
from server.api.projects.schemas import ProjectRequest
from server.api.prompt.schemas import PromptBatchResponse, PromptRequest, PromptResponse

_REQUESTS: tuple[type[BaseModel], ...] = (
    PromptRequest,
    JobRequest,
    ProjectRequest,
    CorrectionRequest,
    JobCorrectionsRequest,
    RunRequest,
    EnsembleRequest,
    BacktestRequest,
    PromoteRequest,
    RollbackRequest,
)
_RESPONSES: tuple[type[BaseModel], ...] = (PromptResponse, PromptBatchResponse, ProblemDetails)
_DESCRIPTION = """The labeling server for Florence-2: an image and a prompt in; boxes, polygons, words and captions out.

Every error is an RFC 9457 problem (`application/problem+json`). Its `detail` says what to do.

If the server has API keys, everyone with a key can call every route."""
_TAGS = [
    {"name": "prompt", "description": "Ask the model about an image."},
    {"name": "tasks", "description": "The tasks of Florence-2: what each takes and returns."},
    {"name": "models", "description": "The model that the server runs."},
    {"name": "adapters", "description": "LoRA adapters that prompts can name. They change while the model runs."},
    {"name": "uploads", "description": "Images that clients send to the server, as sources of jobs."},
    {"name": "jobs", "description": "Label many images by a recipe, and download the dataset."},
    {"name": "projects", "description": "Projects: a model that improves as people correct its labels."},
    {"name": "corrections", "description": "Corrected images of a project, and the images to correct next."},
    {"name": "runs", "description": "Fine-tune runs of a project."},
    {"name": "project models", "description": "The models of a project: ensembles, promotion and rollback."},
    {"name": "backtests", "description": "A project's model against the champion, on the holdout images."},
    {"name": "overview", "description": "What the server can do."},
    {"name": "health", "description": "Liveness, readiness and metrics."},
]


def customize_openapi(app: FastAPI) -> None:
    """Adds description, tags and schemas to the document that `app` serves at /openapi.json."""
    app.description = _DESCRIPTION
    app.openapi_tags = _TAGS
    create_document = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = create_document()
            modes: list[tuple[type[BaseModel], Literal["validation", "serialization"]]] = [
                *((model, "validation") for model in _REQUESTS),
                *((model, "serialization") for model in _RESPONSES),
            ]
            _, definitions = models_json_schema(modes, ref_template="#/components/schemas/{model}")
            document.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
