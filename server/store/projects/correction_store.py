"""The corrections of projects: rows are added and never changed."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter

from labels.label_kind import LabelKind
from prompts.annotations import Annotation
from server.store import InvalidStateError
from server.store.database import Database
from server.store.pages import Page
from server.store.projects.errors import NotFoundError
from server.store.projects.queries import has_id, plan_project_page, require_one, select_rows
from server.store.projects.records import Correction, CorrectionContent, Project
from server.store.tables import CorrectionRow, ProjectRow
from server.store.text import clean_text

_ANNOTATIONS = TypeAdapter(tuple[Annotation, ...])


class CorrectionStore:
    """Stores corrections. Raises what ProjectStore raises."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_corrections(self, project: Project, contents: Iterable[CorrectionContent]) -> list[Correction]:
        """Stores each as the next version of its image and kind, all or none. Raises NotFoundError."""
        with self._database.begin_write() as connection:
            _lock_project(connection, project)
            ids = [
                _insert(connection, project, content, _find_latest_version(connection, project, content) + 1)
                for content in contents
            ]
        return [self._get_correction(project, each) for each in ids]  # NotFoundError: deleted in between

    def withdraw_correction(self, project: Project, correction_id: int, author: str) -> Correction:
        """Takes back the current version of an image and kind: stores a version without annotations, and returns it.

        Raises NotFoundError, and InvalidStateError if it is withdrawn already, or not the current version.
        """
        found = self._get_correction(project, correction_id)
        with self._database.begin_write() as connection:
            _lock_project(connection, project)
            latest = _find_latest_version(connection, project, found.content)
            if found.withdrawn:
                raise InvalidStateError(f"correction {found.id} is a withdrawal; the image counts as not corrected")
            if found.version != latest:
                raise InvalidStateError(
                    f"correction {found.id} is version {found.version}, and version {latest} of this image is the "
                    "current one; only the current one can be withdrawn"
                )
            content = replace(found.content, annotations=(), complete=False, author=author)
            row_id = _insert(connection, project, content, latest + 1, withdrawn=True)
        return self._get_correction(project, row_id)

    def plan_page(self, project: Project, after: int, limit: int) -> Page:
        """Returns a page of all versions with an ID above `after`, oldest first."""
        return plan_project_page(self._database, CorrectionRow, project, after, limit, CorrectionRow.annotations)

    def list_corrections(self, project: Project, ids: Sequence[int] | None = None) -> list[Correction]:
        """Returns all versions with these IDs, or all, oldest first."""
        return self._select(project, has_id(CorrectionRow, ids))

    def list_current(self, project: Project) -> list[Correction]:
        """Returns the highest version of each image and kind that is not withdrawn, ordered by when the image was first
        corrected."""
        newest, oldest = sa.func.max(CorrectionRow.id).label("newest"), sa.func.min(CorrectionRow.id).label("oldest")
        groups = sa.select(newest, oldest).where(CorrectionRow.project_id == project.id)
        ids = groups.group_by(CorrectionRow.image_sha256, CorrectionRow.label_kind).subquery()
        current = sa.select(CorrectionRow.__table__).join(ids, CorrectionRow.id == ids.c.newest)
        current = current.where(CorrectionRow.withdrawn.is_(False))
        with self._database.begin_read() as connection:
            return list(map(_to_correction, connection.execute(current.order_by(ids.c.oldest))))

    def count_images(self, project: Project) -> int:
        """Returns the number of corrected images: with a version of some kind that is not withdrawn."""
        newest = sa.select(sa.func.max(CorrectionRow.id)).where(CorrectionRow.project_id == project.id)
        newest = newest.group_by(CorrectionRow.image_sha256, CorrectionRow.label_kind)
        images = sa.select(sa.func.count(sa.distinct(CorrectionRow.image_sha256)))
        images = images.where(CorrectionRow.id.in_(newest), CorrectionRow.withdrawn.is_(False))
        with self._database.begin_read() as connection:
            return connection.scalar(images) or 0

    def _get_correction(self, project: Project, correction_id: int) -> Correction:
        """Returns a version by its ID. Raises NotFoundError."""
        found = self._select(project, CorrectionRow.id == correction_id)
        return require_one(found, f"project {project.name} has no correction {correction_id}")

    def _select(self, project: Project, where: sa.ColumnElement[bool]) -> list[Correction]:
        return list(map(_to_correction, select_rows(self._database, CorrectionRow, project, where)))


def _lock_project(connection: sa.Connection, project: Project) -> None:
    """Two corrections of the same image must not get the same version. SQLite has one writer anyway."""
    lock = sa.select(ProjectRow.id).where(ProjectRow.id == project.id).with_for_update()
    if connection.scalar(lock) is None:
        raise NotFoundError(f"there is no project {project.id}")


def _insert(
    connection: sa.Connection, project: Project, content: CorrectionContent, version: int, *, withdrawn: bool = False
) -> int:
    """Inserts a row and returns its ID."""
    row = sa.insert(CorrectionRow).values(
        project_id=project.id, image_sha256=content.image_sha256, label_kind=content.label_kind, version=version,
        width=content.width, height=content.height, complete=content.complete, withdrawn=withdrawn,
        annotations=_ANNOTATIONS.dump_json(content.annotations).decode(), image_name=clean_text(content.image_name),
        author=clean_text(content.author), created=time.time(),
    )  # fmt: skip
    return connection.scalar(row.returning(CorrectionRow.id)) or 0


def _find_latest_version(connection: sa.Connection, project: Project, content: CorrectionContent) -> int:
    statement = sa.select(sa.func.max(CorrectionRow.version)).where(
        CorrectionRow.project_id == project.id,
        CorrectionRow.image_sha256 == content.image_sha256,
        CorrectionRow.label_kind == content.label_kind.value,
    )
    return connection.scalar(statement) or 0


def _to_correction(row: sa.Row[Any]) -> Correction:
    content = CorrectionContent(
        row.image_sha256, LabelKind(row.label_kind), row.width, row.height,
        _ANNOTATIONS.validate_json(row.annotations), row.complete, row.image_name, row.author,
    )  # fmt: skip
    return Correction(row.id, row.version, row.created, content, bool(row.withdrawn))
