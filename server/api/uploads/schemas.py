"""Schemas and parameters of the uploads resource."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field

from server.api.timestamps import to_datetime

if TYPE_CHECKING:
    from server.jobs.uploads import Upload
    from server.store import Job

_EXAMPLE: dict[str, Any] = {
    "id": "5f3a9c0e7b1d2846",
    "source": "upload:5f3a9c0e7b1d2846",
    "images": 60,
    "bytes": 18503221,
    "notes": [],
    "created": "2026-03-02T09:30:00Z",
    "expires": "2026-03-09T09:30:00Z",
    "jobs": [],
}
UploadId = Annotated[
    str, Path(alias="id", max_length=100, description="The ID of the upload.", examples=[_EXAMPLE["id"]])
]


class UploadResponse(BaseModel):
    """Images that a client has sent."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    id: str
    source: str = Field(description="The `source` of a job with these images.")
    images: int = Field(description="The number of images, also of those in archives.")
    bytes: int = Field(description="The size of all files.")
    notes: list[str] = Field(description="What was set aside, and which names were changed.")
    created: datetime
    expires: datetime | None = Field(description="When it is deleted, as no job uses it; null if one does.")
    jobs: list[int] = Field(description="The IDs of the jobs that use it.")


class UploadListResponse(BaseModel):
    """The uploads of the server."""

    uploads: list[UploadResponse]
    bytes: int = Field(description="The size of all of them.")
    max_bytes: int = Field(description="The limit for all of them together, and for a single one.")


def create_upload_response(upload: "Upload", jobs: "Sequence[Job]", expires: float) -> UploadResponse:
    """Returns the response for an upload. `jobs` use it; if there are none, it expires at a Unix timestamp."""
    return UploadResponse(
        id=upload.id,
        source=upload.source,
        images=upload.images,
        bytes=upload.bytes,
        notes=list(upload.notes),
        created=to_datetime(upload.created),
        expires=None if jobs else to_datetime(expires),
        jobs=[job.id for job in jobs],
    )
