"""The database of jobs and projects, in SQLite or PostgreSQL.

The package exports the records and errors. It does not import SQLAlchemy, which takes half a second: import `JobStore`
from `server.store.jobs.job_store`.
"""

from server.store.errors import StoreError, StoreUnavailableError
from server.store.jobs.records import (
    CompletedImage,
    FailedImage,
    ImageAnnotations,
    ImageState,
    InvalidStateError,
    Job,
    JobChangedError,
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
    "JobChangedError",
    "JobMismatchError",
    "JobProgress",
    "JobSpec",
    "JobState",
    "LeasedImage",
    "StoreError",
    "StoreUnavailableError",
    "UnknownJobError",
]
