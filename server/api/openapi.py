"""The OpenAPI document: FastAPI's own, and the schemas that routes refer to by name."""

from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from server.api import jobs, project_models, project_runs, projects, prompt
from server.api.job_schemas import JobRequest
from server.api.schemas import PromptRequest

_PROJECTS = (*projects.SCHEMAS, *project_runs.SCHEMAS, *project_models.SCHEMAS)
_TAKEN: tuple[type[BaseModel], ...] = (PromptRequest, JobRequest, *_PROJECTS)
_ABOUT = """The labeling server for Florence-2: a picture and a prompt in; boxes, polygons, words and captions out.

Every error is an RFC 9457 problem (`application/problem+json`) that says what to do."""


def describe(app: FastAPI) -> None:
    """Completes the document that `app` serves at /openapi.json."""
    app.description = _ABOUT
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = plain()
            models: tuple[type[BaseModel], ...] = (*prompt.SCHEMAS, *jobs.SCHEMAS, *_PROJECTS)
            modes: list[tuple[type[BaseModel], Literal["validation", "serialization"]]] = [
                (model, "validation" if model in _TAKEN else "serialization") for model in models
            ]
            _, named = models_json_schema(modes, ref_template="#/components/schemas/{model}")
            document.setdefault("components", {}).setdefault("schemas", {}).update(named["$defs"])
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
