"""The ASGI application."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

from fastapi import FastAPI

from server.api.documentation.routes import add_documentation
from server.api.error_handlers import add_error_handlers
from server.api.metrics.metrics import Metrics
from server.api.middleware import add_middleware
from server.api.openapi import customize_openapi
from server.api.router import api_router
from server.lifecycle import Lifecycle
from server.settings import Settings

if TYPE_CHECKING:
    from server.engine.engine import Engine


def create_app(settings: Settings | None = None, engine: "Engine | None" = None) -> FastAPI:
    """Returns the server. It loads the model of the settings in the background, unless an engine is passed in."""
    settings = settings or Settings()
    lifecycle = Lifecycle(settings, engine)
    metrics = Metrics(lifecycle)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        lifecycle.start()
        yield
        await lifecycle.stop()

    app = FastAPI(
        title="florist",
        version=version("florist"),
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,  # FastAPI's pages load their scripts from the internet
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.lifecycle, app.state.metrics = lifecycle, metrics
    app.include_router(api_router)
    add_documentation(app)
    add_error_handlers(app)
    add_middleware(app, settings, metrics)
    customize_openapi(app)
    return app
