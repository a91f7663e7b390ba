"""The upload of an adapter: a multipart form with the files that PEFT saves."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any, BinaryIO

from fastapi import Depends, Request
from starlette.datastructures import FormData, UploadFile
from starlette.types import Scope

from server.api.adapters.schemas import AdapterName
from server.api.bodies import FORM, create_type_problem, get_content_type, limit_body_time, read_form
from server.api.deps import RequestStackDep, SettingsDep
from server.api.problems import INVALID_REQUEST, TOO_LARGE, ProblemError
from server.engine.adapters.class_list import CLASS_LIST_FILE, MAX_CLASS_LIST_BYTES
from server.engine.adapters.names import CONFIG_FILE, WEIGHT_FILES
from server.engine.calibration import CALIBRATION_FILE
from server.settings import Settings

_MAX_CONFIG_BYTES = MAX_CLASS_LIST_BYTES  # of the JSON files, which have a few kilobytes
_FORM_OVERHEAD = 1 << 16  # bytes of the form around its files
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_WEIGHTS_FILE, _PICKLE_FILE = WEIGHT_FILES
_FILE_NAMES = {
    "config": CONFIG_FILE,
    "weights": _WEIGHTS_FILE,
    "calibration": CALIBRATION_FILE,
    "classes": CLASS_LIST_FILE,
}
_OPTIONAL = ("calibration", "classes")

UPLOAD_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        FORM: {
            "schema": {
                "type": "object",
                "required": ["config", "weights"],
                "properties": {
                    "config": {"type": "string", "format": "binary", "description": f"The file {CONFIG_FILE} of PEFT."},
                    "weights": {
                        "type": "string",
                        "format": "binary",
                        "description": f"The file {_WEIGHTS_FILE} or {_PICKLE_FILE} of PEFT. A file name that ends in "
                        ".bin is read as a pickle, without running code from it.",
                    },
                    "calibration": {
                        "type": "string",
                        "format": "binary",
                        "description": f"The file {CALIBRATION_FILE}, if fine-tuning wrote one.",
                    },
                    "classes": {
                        "type": "string",
                        "format": "binary",
                        "description": f"The file {CLASS_LIST_FILE}, if fine-tuning wrote one: the classes that "
                        "answers are held to.",
                    },
                    "sha256": {
                        "type": "string",
                        "description": "The SHA-256 of the weights. If it is given, it is checked before loading.",
                    },
                },
            }
        }
    },
}


@dataclass(frozen=True, slots=True)
class AdapterUpload:
    """An uploaded adapter: its files by their names in PEFT's folder, and the expected SHA-256 of the weights."""

    files: dict[str, BinaryIO]
    sha256: str | None


def get_upload_limit(scope: Scope, settings: Settings) -> int | None:
    """Returns the maximum size in bytes of an upload's body; None for other requests."""
    if scope["method"] == "PUT" and scope["path"].startswith("/v1/adapters/"):
        return settings.max_adapter_bytes + 3 * _MAX_CONFIG_BYTES + _FORM_OVERHEAD
    return None


async def read_upload(
    name: AdapterName, request: Request, settings: SettingsDep, _: RequestStackDep
) -> AsyncIterator[AdapterUpload]:
    """Yields the upload. Its files are on disk until the request ends. Raises ProblemError.

    Declares `name` so that the body is not read if the name is invalid.
    """
    if (content_type := get_content_type(request)) != FORM:
        raise create_type_problem(content_type, FORM)
    async with limit_body_time(settings.request_timeout):
        form = await read_form(request, max_files=len(_FILE_NAMES), max_field_bytes=_MAX_CONFIG_BYTES)
    try:
        yield _parse_form(form, settings.max_adapter_bytes)
    finally:
        await form.close()


AdapterUploadDep = Annotated[AdapterUpload, Depends(read_upload)]


def _parse_form(form: FormData, max_weights_bytes: int) -> AdapterUpload:
    fields: dict[str, UploadFile | str] = {}
    for key, value in form.multi_items():
        if key in fields:
            raise ProblemError(INVALID_REQUEST, f"the field {key[:80]} is repeated; send it once", key[:80])
        if key not in _FILE_NAMES and key != "sha256":
            raise ProblemError(INVALID_REQUEST, "there is no such field; leave it out", key[:80])
        fields[key] = value
    files: dict[str, BinaryIO] = {}
    for key, name in _FILE_NAMES.items():
        if key in _OPTIONAL and key not in fields:
            continue
        file = fields.get(key)
        if not isinstance(file, UploadFile) or not file.size:
            raise ProblemError(INVALID_REQUEST, f"send it as a file, such as -F {key}=@{name}", key)
        limit = max_weights_bytes if key == "weights" else _MAX_CONFIG_BYTES
        if file.size > limit:
            raise ProblemError(TOO_LARGE, f"{key} has {file.size:,} bytes; the limit is {limit:,}", key)
        is_pickle = key == "weights" and (file.filename or "").endswith(".bin")
        files[_PICKLE_FILE if is_pickle else name] = file.file
    sha256 = fields.get("sha256") or None
    if sha256 is not None and not (isinstance(sha256, str) and _SHA256.fullmatch(sha256)):
        raise ProblemError(INVALID_REQUEST, "it does not have 64 hex digits, as sha256sum prints them", "sha256")
    return AdapterUpload(files, sha256)
