"""The application: routes, middleware, and the engine's life."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from server.api import (
    adapters,
    health,
    jobs,
    metrics,
    middleware,
    models,
    openapi,
    problems,
    project_models,
    project_runs,
    projects,
    prompt,
    tasks,
)
from server.serving import Serving
from server.settings import Settings

if TYPE_CHECKING:
    from server.engine.engine import Engine


def create_app(settings: Settings | None = None, engine: "Engine | None" = None) -> FastAPI:
    """The server. Loads the settings' model as it starts, beside answering /healthz, unless it is given an `engine`."""
    settings = settings or Settings()
    serving = Serving(settings, engine)
    measured = metrics.Metrics(
        lambda: serving.loaded and serving.loaded.stats(), lambda: serving.loaded.adapters() if serving.loaded else []
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        serving.start()
        yield
        await serving.stop()

    app = FastAPI(title="florist", version=version("florist"), lifespan=lifespan, redirect_slashes=False)
    app.state.settings, app.state.serving, app.state.metrics = settings, serving, measured
    resources = (prompt, tasks, models, adapters, jobs, projects, project_runs, project_models, health, metrics)
    for resource in resources:
        app.include_router(resource.router)
    problems.handle(app)
    openapi.describe(app)
    # The last one added is the outermost: whatever refuses a request, its answer has an id and lets pages read it.
    app.add_middleware(
        middleware.BodyLimit,
        most=lambda scope: adapters.body_limit(scope, settings) or jobs.body_limit(scope) or settings.max_body_bytes,
    )
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("Authorization", "Content-Type", "X-API-Key", "X-Request-ID"),
            expose_headers=("X-Request-ID", "Retry-After"),
        )
    app.add_middleware(middleware.RequestContext, observe=measured.request)
    return app
