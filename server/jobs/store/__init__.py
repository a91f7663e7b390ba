"""What jobs keep, in SQLite or PostgreSQL: their pictures, how far they are, and every label that was ever given."""

from server.jobs.store.database import StoreAway, StoreError, file_url
from server.jobs.store.records import (
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
from server.jobs.store.store import Store

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
