"""The database of jobs and projects, in SQLite or PostgreSQL."""

from server.store.database import file_url
from server.store.errors import StoreError, StoreUnavailableError
from server.store.jobs.job_store import JobStore
from server.store.jobs.records import (
    CompletedImage,
    FailedImage,
    ImageAnnotations,
    ImageState,
    InvalidStateError,
    Job,
    JobMismatchError,
    JobProgress,
    JobSpec,
    JobState,
    LeasedImage,
    UnknownJobError,
)

__all__ = [
    "CompletedImage",
    "FailedImage",
    "ImageAnnotations",
    "ImageState",
    "InvalidStateError",
    "Job",
    "JobMismatchError",
    "JobProgress",
    "JobSpec",
    "JobState",
    "JobStore",
    "LeasedImage",
    "StoreError",
    "StoreUnavailableError",
    "UnknownJobError",
    "file_url",
]
