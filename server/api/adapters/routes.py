"""Routes of the LoRA adapters that prompts can name. They are loaded, replaced and removed while the model runs."""

import logging

import anyio
from fastapi import APIRouter, Response

from server.api.adapters.errors import translate_adapter_errors
from server.api.adapters.schemas import AdapterListResponse, AdapterName, AdapterResponse, create_adapter_response
from server.api.adapters.upload import UPLOAD_BODY, AdapterUploadDep
from server.api.auth import KeyRequired
from server.api.deps import AdapterStoreDep, LifecycleDep, RequestStackDep
from server.api.problems import (
    BODY_PROBLEMS,
    INSUFFICIENT_STORAGE,
    INVALID_ADAPTER,
    INVALID_REQUEST,
    NOT_FOUND,
    NOT_READY,
    UNAUTHORIZED,
    ProblemError,
    document_problems,
)
from server.lifecycle import Lifecycle

router = APIRouter(tags=["adapters"], dependencies=[KeyRequired], responses=document_problems(UNAUTHORIZED, *NOT_READY))
logger = logging.getLogger(__name__)


@router.get("/v1/adapters", summary="List the adapters")
async def list_adapters(lifecycle: LifecycleDep) -> AdapterListResponse:
    """Returns the adapters that prompts can name."""
    adapters = _list_loaded(lifecycle)
    return AdapterListResponse(
        adapters=adapters,
        bytes=sum(adapter.bytes for adapter in adapters),
        max_bytes=lifecycle.settings.max_adapter_bytes,
    )


@router.get("/v1/adapters/{name}", summary="Get an adapter", responses=document_problems(NOT_FOUND, INVALID_REQUEST))
async def get_adapter(name: AdapterName, lifecycle: LifecycleDep) -> AdapterResponse:
    """Returns one adapter."""
    adapters = _list_loaded(lifecycle)
    for adapter in adapters:
        if adapter.name == name:
            return adapter
    loaded = ", ".join(adapter.name for adapter in adapters) or "none"
    raise ProblemError(NOT_FOUND, f"no adapter {name!r} is loaded; loaded adapters: {loaded}")


@router.put(
    "/v1/adapters/{name}",
    summary="Load an adapter",
    openapi_extra={"requestBody": UPLOAD_BODY},
    responses={
        200: {"description": "It replaced an adapter. Running prompts finish with the one they started with."},
        201: {"description": "It is new.", "model": AdapterResponse},
        **document_problems(*BODY_PROBLEMS, INVALID_ADAPTER, INSUFFICIENT_STORAGE),
    },
)
async def put_adapter(
    response: Response, name: AdapterName, lifecycle: LifecycleDep, store: AdapterStoreDep, upload: AdapterUploadDep
) -> AdapterResponse:
    """Loads a LoRA adapter as PEFT saves it, or replaces the adapter with this name. If the server has a folder for
    adapters, the adapter is stored there.

    `curl -X PUT …/v1/adapters/project-7 -F config=@adapter_config.json -F weights=@adapter_model.safetensors`
    """
    with translate_adapter_errors():
        adapter, is_new = await anyio.to_thread.run_sync(
            store.save, name, upload.files, upload.sha256, limiter=lifecycle.adapter_limiter
        )
    response.status_code = 201 if is_new else 200
    logger.info("%s the adapter %s: %s", "loaded" if is_new else "replaced", name, adapter.sha256)
    base = store.engine.checkpoint.sha256
    return create_adapter_response(adapter, base, ready=not lifecycle.draining)


@router.delete(
    "/v1/adapters/{name}",
    summary="Remove an adapter",
    status_code=204,
    response_class=Response,
    responses=document_problems(NOT_FOUND, INVALID_REQUEST, INSUFFICIENT_STORAGE),
)
async def delete_adapter(
    name: AdapterName, lifecycle: LifecycleDep, store: AdapterStoreDep, _: RequestStackDep
) -> None:
    """Unloads an adapter and removes it from the server's folder. Running prompts finish with it."""
    with translate_adapter_errors():
        await anyio.to_thread.run_sync(store.delete, name, limiter=lifecycle.adapter_limiter)
    logger.info("removed the adapter %s", name)


def _list_loaded(lifecycle: Lifecycle) -> list[AdapterResponse]:
    engine = lifecycle.engine or lifecycle.require_engine()  # also lists them while the server shuts down
    return [
        create_adapter_response(adapter, engine.checkpoint.sha256, ready=not lifecycle.draining)
        for adapter in engine.list_adapters()
    ]
