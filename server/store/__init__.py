"""What jobs keep, in SQLite or PostgreSQL: their pictures, how far they are, and every label that was ever given."""

from server.store.database import StoreAway, StoreError, file_url
from server.store.jobs.job_store.job_store import Store
from server.store.jobs.job_store.records import (
    Answer,
    Done,
    Failure,
    Item,
    Job,
    JobChanged,
    JobState,
    NotNow,
    Progress,
    UnknownJob,
    Wanted,
)

__all__ = [
    "Answer",
    "Done",
    "Failure",
    "Item",
    "Job",
    "JobChanged",
    "JobState",
    "NotNow",
    "Progress",
    "Store",
    "StoreAway",
    "StoreError",
    "UnknownJob",
    "Wanted",
    "file_url",
]
