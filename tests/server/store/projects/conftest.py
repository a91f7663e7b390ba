"""A store of projects in each database."""

from collections.abc import Iterator

import pytest

from server.store.jobs.job_store import JobStore
from server.store.projects.project_store import ProjectStore
from server.store.projects.records import Project


@pytest.fixture
def store(url: str) -> Iterator[ProjectStore]:
    with JobStore(url) as job_store:
        yield ProjectStore(job_store.database, "here")


@pytest.fixture
def project(store: ProjectStore) -> Project:
    return store.create_project(Project(0, "birds", "b" * 64, ("<OD>", "<CAPTION>"), 0.25, "folder", 0.0))
