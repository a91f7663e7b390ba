"""Schemas of corrections."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

from fastapi import Path
from pydantic import BaseModel, Field

from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage
from prompts.annotations import Annotation
from server.api.jobs.schemas import LabeledImageResponse, create_image_response
from server.api.parameters import MAX_ID
from server.api.projects.schemas import EntryId, StrictRequest
from server.api.timestamps import to_datetime
from server.projects.annotation_validation import MAX_ANNOTATIONS

if TYPE_CHECKING:
    from server.projects.review_queue import ReviewCandidate
    from server.store.projects.records import Correction

_AUTHOR = "The person who made the correction. Empty: the hash of the API key, or the address of the client."
CorrectionId = Annotated[int, Path(ge=1, le=MAX_ID, description="The ID of the correction.")]


class CorrectionRequest(StrictRequest):
    """An image, and all its annotations of one kind. Sending an image again creates its next version."""

    image: str | None = Field(None, description="The image: base64, or a data URL.")
    annotations: list[Annotation] = Field(
        max_length=MAX_ANNOTATIONS, description="In pixels of the image, with EXIF orientation applied."
    )
    kind: LabelKind | None = Field(
        None,
        description="objects: boxes and polygons; words: quads; captions: texts. null: the kind of the annotations.",
    )
    complete: bool = Field(True, description="Whether every object of this kind in the image is annotated.")
    name: str = Field("", max_length=1000, description="The name of the image.")
    author: str = Field("", max_length=200, description=_AUTHOR)


class JobCorrectionsRequest(StrictRequest):
    """The job to import annotations from."""

    job: EntryId = Field(description="The ID of the job.")
    author: str = Field("", max_length=200, description=_AUTHOR)


class CorrectionResponse(BaseModel):
    """A correction."""

    id: int
    image_sha256: str = Field(description="SHA-256 of the image file.")
    kind: LabelKind
    version: int = Field(description="Of an image and kind. The highest version is the current one.")
    holdout: bool = Field(description="Whether the image belongs to the holdout, which is never used for training.")
    name: str
    width: int
    height: int
    complete: bool
    annotations: list[Annotation]
    withdrawn: bool = Field(
        description="Whether this version takes back the one before: the image counts as not corrected for this kind."
    )
    author: str
    created: datetime


class CorrectionListResponse(BaseModel):
    """A page of corrections."""

    corrections: list[CorrectionResponse]
    next: int | None = Field(description="`after` of the next page; null on the last page.")


class ImportResponse(BaseModel):
    """The result of an import."""

    images: int = Field(description="The number of images with new corrections.")


class NextImageResponse(LabeledImageResponse):
    """An image to correct, with the annotations of the job."""

    uncertainty: float = Field(description="The expected number of wrong annotations, from their scores.")
    holdout: bool = Field(description="Whether the image would belong to the holdout.")


class NextImagesResponse(BaseModel):
    """The images to correct next."""

    images: list[NextImageResponse] = Field(description="The most useful images first.")
    uncorrected: int = Field(description="The number of labeled images without a correction, including these.")
    waiting: int = Field(description="The number of images that the job has not labeled yet.")


def create_correction_response(correction: "Correction", *, holdout: bool) -> CorrectionResponse:
    """Returns the response for a correction."""
    content = correction.content
    return CorrectionResponse(
        id=correction.id,
        image_sha256=content.image_sha256,
        kind=content.label_kind,
        version=correction.version,
        holdout=holdout,
        name=content.image_name,
        width=content.width,
        height=content.height,
        complete=content.complete,
        annotations=list(content.annotations),
        withdrawn=correction.withdrawn,
        author=content.author,
        created=to_datetime(correction.created),
    )


def create_next_image_response(
    candidate: "ReviewCandidate", image: LabeledImage, *, holdout: bool
) -> NextImageResponse:
    """Returns the response for an image to correct."""
    fields = dict(create_image_response(candidate.position, image))
    return NextImageResponse(**fields, uncertainty=candidate.uncertainty, holdout=holdout)
