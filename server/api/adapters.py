"""The adapters that prompts can name: listed, loaded, replaced and removed while the model runs."""

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Annotated, Any, BinaryIO, TypeVar

import anyio
from fastapi import APIRouter, Path, Request, Response
from pydantic import AfterValidator, BaseModel, Field
from starlette.datastructures import FormData, UploadFile
from starlette.types import Scope

from server.adapters import NAME, NAMING
from server.api import bodies, problems
from server.api.auth import Authorised
from server.api.problems import Problem, documented
from server.engine import calibration, lora
from server.engine.adapters import Adapter, AdapterError, NoRoom, UnknownAdapter
from server.serving import Serving
from server.settings import Settings

CONFIG_BYTES = 1 << 20  # of adapter_config.json and calibration.json, which have one or two thousand
_FORM_BYTES = 1 << 16  # around the files
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_UNREADY = (problems.LOADING, problems.NO_MODEL, problems.SHUTTING_DOWN)
router = APIRouter(tags=["adapters"], dependencies=[Authorised], responses=documented(problems.UNAUTHORIZED))
logger = logging.getLogger(__name__)
T = TypeVar("T")


def _named(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError(NAMING)
    return name


Name = Annotated[
    str,
    AfterValidator(_named),
    Path(description="The adapter's name.", json_schema_extra={"pattern": f"^{NAME.pattern}$", "example": "project-7"}),
]


class AdapterRow(BaseModel):
    """A LoRA adapter on the model's weights."""

    name: str = Field(description="What prompts send as `adapter`.")
    sha256: str = Field(description="Of its file of weights.")
    bytes: int = Field(description="What it takes of the memory for adapters.")
    rank: int = Field(description="The largest of its modules.")
    modules: int = Field(description="How many modules it adapts.")
    vision: bool = Field(description="Whether it changes what the model sees; if not, it shares pictures' features.")
    base: str = Field(description="SHA-256 of the model's weights that it stands on.")
    calibrated: list[str] = Field(description="The tasks whose scores are put on the scale of its calibration.")
    ready: bool = Field(description="Whether prompts that name it are taken now.")


class AdapterList(BaseModel):
    adapters: list[AdapterRow]
    bytes: int = Field(description="What they take.")
    max_bytes: int = Field(description="What all of them may take, and the largest file of weights.")


_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        bodies.FORM: {
            "schema": {
                "type": "object",
                "required": ["config", "weights"],
                "properties": {
                    "config": {"type": "string", "format": "binary", "description": f"PEFT's {lora.CONFIG}."},
                    "weights": {
                        "type": "string",
                        "format": "binary",
                        "description": f"PEFT's {' or '.join(lora.WEIGHTS)}; its file name's end tells which.",
                    },
                    "calibration": {
                        "type": "string",
                        "format": "binary",
                        "description": f"Its {calibration.FILE}, where fine-tuning left one.",
                    },
                    "sha256": {"type": "string", "description": "What the weights must have, checked before loading."},
                },
            }
        }
    },
}


def body_limit(scope: Scope, settings: Settings) -> int | None:
    """Bytes that an upload of an adapter may have; None for other requests."""
    upload = scope["method"] == "PUT" and scope["path"].startswith("/v1/adapters/")
    return settings.max_adapter_bytes + 2 * CONFIG_BYTES + _FORM_BYTES if upload else None


@router.get("/v1/adapters", responses=documented(*_UNREADY))
async def adapters(request: Request) -> AdapterList:
    """The adapters that prompts can name."""
    serving: Serving = request.app.state.serving
    rows = _rows(serving)
    return AdapterList(
        adapters=rows, bytes=sum(row.bytes for row in rows), max_bytes=serving.settings.max_adapter_bytes
    )


@router.get("/v1/adapters/{name}", responses=documented(problems.NOT_FOUND, problems.INVALID_REQUEST, *_UNREADY))
async def adapter(request: Request, name: Name) -> AdapterRow:
    """One adapter."""
    rows = _rows(request.app.state.serving)
    for row in rows:
        if row.name == name:
            return row
    there = ", ".join(row.name for row in rows) or "none"
    raise Problem(problems.NOT_FOUND, f"no adapter {name!r} is loaded; there are: {there}")


@router.put(
    "/v1/adapters/{name}",
    openapi_extra={"requestBody": _BODY},
    responses={
        200: {"description": "It replaces one of this name; prompts under way end on the one that they began with."},
        201: {"description": "It is new.", "model": AdapterRow},
        **documented(
            problems.BAD_BODY,
            problems.TOO_SLOW,
            problems.TOO_LARGE,
            problems.UNSUPPORTED_TYPE,
            problems.INVALID_REQUEST,
            problems.INVALID_ADAPTER,
            problems.NO_ROOM,
            *_UNREADY,
        ),
    },
)
async def put(request: Request, response: Response, name: Name) -> AdapterRow:
    """Loads a LoRA adapter as PEFT saves it, and keeps it where the server has a folder for adapters.

    `curl -X PUT …/v1/adapters/project-7 -F config=@adapter_config.json -F weights=@adapter_model.safetensors`
    """
    serving: Serving = request.app.state.serving
    settings, store = serving.settings, serving.adapters()
    if (content_type := bodies.type_of(request)) != bodies.FORM:
        raise bodies.unsupported(content_type, bodies.FORM)
    with serving.work():
        try:
            async with asyncio.timeout(settings.timeout):
                form = await bodies.form(request, 3, CONFIG_BYTES)
        except TimeoutError:
            detail = f"the body was not there within {settings.timeout:g} s; send it over a faster line"
            raise Problem(problems.TOO_SLOW, detail, headers={"Connection": "close"}) from None
        try:
            files, sha256 = _parts(form, settings.max_adapter_bytes)
            loaded, new = await _stored(serving, lambda: store.put(name, files, sha256))
        finally:
            await form.close()
    response.status_code = 201 if new else 200
    logger.info("the adapter %s is %s: %s", name, "loaded" if new else "replaced", loaded.sha256)
    return _row(serving, loaded)


@router.delete(
    "/v1/adapters/{name}",
    status_code=204,
    response_class=Response,
    responses=documented(problems.NOT_FOUND, problems.INVALID_REQUEST, problems.NO_ROOM, *_UNREADY),
)
async def delete(request: Request, name: Name) -> None:
    """Unloads an adapter, and removes it from the server's folder. Prompts under way end on it."""
    serving: Serving = request.app.state.serving
    store = serving.adapters()
    with serving.work():
        await _stored(serving, lambda: store.delete(name))
    logger.info("the adapter %s is removed", name)


async def _stored(serving: Serving, call: Callable[[], T]) -> T:
    """What a call of the store gives, made beside the event loop. Raises Problem."""
    try:
        return await anyio.to_thread.run_sync(call, limiter=serving.storing)
    except UnknownAdapter as error:
        raise Problem(problems.NOT_FOUND, str(error)) from None
    except NoRoom as error:
        raise Problem(problems.NO_ROOM, str(error)) from None
    except AdapterError as error:
        raise Problem(problems.INVALID_ADAPTER, str(error)[:1000]) from None
    except OSError as error:
        logger.error("the folder of adapters cannot be written", exc_info=error)
        detail = f"the folder of adapters cannot be written: {error.strerror or error}; its operator can mend that"
        raise Problem(problems.NO_ROOM, detail) from None


def _parts(form: FormData, most: int) -> tuple[dict[str, BinaryIO], str | None]:
    """The files by their names in the adapter's folder, and the hash where there is one. Raises Problem."""
    fields: dict[str, UploadFile | str] = {}
    for key, value in form.multi_items():
        if key in fields:
            raise Problem(problems.INVALID_REQUEST, f"{key[:80]} is there twice; send it once", key[:80])
        if key not in ("config", "weights", "calibration", "sha256"):
            raise Problem(problems.INVALID_REQUEST, "there is no such field; leave it out", key[:80])
        fields[key] = value
    files: dict[str, BinaryIO] = {}
    named = {"config": lora.CONFIG, "weights": lora.WEIGHTS[0], "calibration": calibration.FILE}
    for key, name in named.items():
        file = fields.get(key)
        if key == "calibration" and key not in fields:
            continue
        if not isinstance(file, UploadFile) or not file.size:
            raise Problem(problems.INVALID_REQUEST, f"send it as a file, such as -F {key}=@{name}", key)
        limit = most if key == "weights" else CONFIG_BYTES
        if file.size > limit:
            detail = f"{key} has {file.size:,} bytes; at most {limit:,} are read"
            raise Problem(problems.TOO_LARGE, detail, key)
        pickled = key == "weights" and (file.filename or "").endswith(".bin")
        files[lora.WEIGHTS[1] if pickled else name] = file.file
    sha256 = fields.get("sha256") or None
    if sha256 is not None and not (isinstance(sha256, str) and _SHA256.fullmatch(sha256)):
        raise Problem(problems.INVALID_REQUEST, "it is not 64 hex digits, as sha256sum prints them", "sha256")
    return files, sha256


def _rows(serving: Serving) -> list[AdapterRow]:
    engine = serving.loaded or serving.engine()  # those that are loaded are told while the server stops, too
    return [_row(serving, loaded) for loaded in engine.adapters()]


def _row(serving: Serving, loaded: Adapter) -> AdapterRow:
    engine = serving.loaded or serving.engine()
    return AdapterRow(
        name=loaded.name,
        sha256=loaded.sha256,
        bytes=loaded.bytes,
        rank=loaded.rank,
        modules=loaded.modules,
        vision=loaded.vision,
        base=engine.checkpoint.sha256,
        calibrated=sorted(loaded.calibration.tasks) if loaded.calibration else [],
        ready=not serving.draining,
    )
