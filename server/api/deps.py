"""Dependencies that routes declare as parameters, such as `engine: EngineDep`.

They raise the errors of `server.lifecycle`, which `error_handlers` turns into problems. They are coroutines although
they do not wait: FastAPI runs plain functions in a thread.
"""

from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request

from server.api.metrics.metrics import Metrics
from server.lifecycle import Lifecycle
from server.settings import Settings

if TYPE_CHECKING:
    from server.engine.adapters.store import AdapterStore
    from server.engine.engine import Engine
    from server.jobs.queue import JobQueue
    from server.projects.projects import Projects


async def get_lifecycle(request: Request) -> Lifecycle:
    """Returns the lifecycle of the server."""
    lifecycle: Lifecycle = request.app.state.lifecycle
    return lifecycle


LifecycleDep = Annotated[Lifecycle, Depends(get_lifecycle)]


async def get_settings(lifecycle: LifecycleDep) -> Settings:
    """Returns the settings of the server."""
    return lifecycle.settings


async def get_metrics(request: Request) -> Metrics:
    """Returns the metrics of the server."""
    metrics: Metrics = request.app.state.metrics
    return metrics


SettingsDep = Annotated[Settings, Depends(get_settings)]
MetricsDep = Annotated[Metrics, Depends(get_metrics)]


async def get_engine(lifecycle: LifecycleDep) -> "Engine":
    """Returns the engine. Raises UnavailableError while it loads, and while the server shuts down."""
    return lifecycle.require_engine()


async def get_adapter_store(lifecycle: LifecycleDep) -> "AdapterStore":
    """Returns the store of adapters. Raises UnavailableError."""
    return lifecycle.require_adapters()


async def get_job_queue(lifecycle: LifecycleDep) -> "JobQueue":
    """Returns the job queue. Raises JobsDisabledError and UnavailableError."""
    return lifecycle.require_jobs()


async def get_projects(lifecycle: LifecycleDep) -> "Projects":
    """Returns the projects. Raises ProjectsDisabledError and UnavailableError."""
    return lifecycle.require_projects()


EngineDep = Annotated["Engine", Depends(get_engine)]
AdapterStoreDep = Annotated["AdapterStore", Depends(get_adapter_store)]
JobQueueDep = Annotated["JobQueue", Depends(get_job_queue)]
ProjectsDep = Annotated["Projects", Depends(get_projects)]


async def get_request_stack(lifecycle: LifecycleDep) -> AsyncIterator[ExitStack]:
    """Yields a stack that closes when the response has been sent or the client has gone.

    Until then the request counts as running: a server that shuts down waits for it.
    """
    with lifecycle.track_request(), ExitStack() as stack:
        yield stack


RequestStackDep = Annotated[ExitStack, Depends(get_request_stack)]
