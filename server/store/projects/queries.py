"""Shared statements on the tables of projects."""

import time
from collections.abc import Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from server.store.database import Database
from server.store.pages import Page, plan_page
from server.store.projects.errors import NotFoundError
from server.store.projects.records import OPEN_STATES, Project
from server.store.tables import ProjectRow

T = TypeVar("T")


def insert_row(database: Database, table: Any, project: Project, **values: Any) -> int:
    """Inserts a row and returns its ID. Sets `project_id` and `created`. Raises NotFoundError if the project, or what
    else the row refers to, was deleted in the meantime."""
    row = {"project_id": project.id, "created": time.time(), **values}
    try:
        with database.begin_write() as connection:
            return connection.scalar(sa.insert(table).values(**row).returning(table.id)) or 0
    except IntegrityError:
        raise NotFoundError(f"project {project.name} was deleted") from None


def select_rows(
    database: Database, table: Any, project: Project, where: sa.ColumnElement[bool], limit: int | None = None
) -> list[sa.Row[Any]]:
    """Returns a project's rows that match, in the order of their IDs."""
    statement = sa.select(table.__table__).where(table.project_id == project.id, where)
    with database.begin_read() as connection:
        return list(connection.execute(statement.order_by(table.id).limit(limit)))


def plan_project_page(database: Database, table: Any, project: Project, after: int, limit: int, *texts: Any) -> Page:
    """Returns a page of a project's rows, in the order of their IDs. `texts`: the columns that may be large."""
    return plan_page(database, table.id, table.project_id == project.id, after, limit, *texts)


def has_id(table: Any, ids: Sequence[int] | None) -> sa.ColumnElement[bool]:
    """Returns the condition for rows with one of the IDs; None: for all rows."""
    return sa.true() if ids is None else table.id.in_(ids)


def find_open_row(database: Database, table: Any, storage_id: str) -> sa.Row[Any] | None:
    """Returns the oldest queued or running row of all projects of a storage; None if there is none."""
    joined = sa.select(table.__table__).join(ProjectRow, ProjectRow.id == table.project_id)
    statement = joined.where(ProjectRow.storage_id == storage_id, table.state.in_(OPEN_STATES))
    with database.begin_read() as connection:
        return connection.execute(statement.order_by(table.id).limit(1)).first()


def require_one(rows: Sequence[T], message: str) -> T:
    """Returns the first of the rows. Raises NotFoundError if there is none."""
    if not rows:
        raise NotFoundError(message)
    return rows[0]
