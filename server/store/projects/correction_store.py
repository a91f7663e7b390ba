"""The corrections of projects: rows are added and never changed."""

import time
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter

from labels.label_kind import LabelKind
from prompts.annotations import Annotation
from server.store.database import Database
from server.store.pages import Page
from server.store.projects.errors import NotFoundError
from server.store.projects.queries import has_id, plan_project_page, select_rows
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
        ids = []
        with self._database.begin_write() as connection:
            # Two corrections of the same image must not get the same version. SQLite has one writer anyway.
            lock = sa.select(ProjectRow.id).where(ProjectRow.id == project.id).with_for_update()
            if connection.scalar(lock) is None:
                raise NotFoundError(f"there is no project {project.id}")
            for content in contents:
                correction_id = connection.scalar(
                    sa.insert(CorrectionRow)
                    .values(
                        project_id=project.id, image_sha256=content.image_sha256, label_kind=content.label_kind,
                        version=_find_latest_version(connection, project, content) + 1,
                        width=content.width, height=content.height, complete=content.complete,
                        annotations=_ANNOTATIONS.dump_json(content.annotations).decode(),
                        image_name=clean_text(content.image_name), author=clean_text(content.author),
                        created=time.time(),
                    )
                    .returning(CorrectionRow.id)
                )  # fmt: skip
                ids.append(correction_id or 0)
        return [found for each in ids for found in self._select(project, CorrectionRow.id == each)]

    def plan_page(self, project: Project, after: int, limit: int) -> Page:
        """Returns a page of all versions with an ID above `after`, oldest first."""
        return plan_project_page(self._database, CorrectionRow, project, after, limit, CorrectionRow.annotations)

    def list_corrections(self, project: Project, ids: Sequence[int] | None = None) -> list[Correction]:
        """Returns all versions with these IDs, or all, oldest first."""
        return self._select(project, has_id(CorrectionRow, ids))

    def list_current(self, project: Project) -> list[Correction]:
        """Returns the highest version of each image and kind, ordered by when the image was first corrected."""
        newest, oldest = sa.func.max(CorrectionRow.id).label("newest"), sa.func.min(CorrectionRow.id).label("oldest")
        groups = sa.select(newest, oldest).where(CorrectionRow.project_id == project.id)
        ids = groups.group_by(CorrectionRow.image_sha256, CorrectionRow.label_kind).subquery()
        current = sa.select(CorrectionRow.__table__).join(ids, CorrectionRow.id == ids.c.newest)
        with self._database.begin_read() as connection:
            return list(map(_to_correction, connection.execute(current.order_by(ids.c.oldest))))

    def count_images(self, project: Project) -> int:
        """Returns the number of corrected images."""
        images = sa.select(sa.func.count(sa.distinct(CorrectionRow.image_sha256)))
        with self._database.begin_read() as connection:
            return connection.scalar(images.where(CorrectionRow.project_id == project.id)) or 0

    def _select(self, project: Project, where: sa.ColumnElement[bool]) -> list[Correction]:
        return list(map(_to_correction, select_rows(self._database, CorrectionRow, project, where)))


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
    return Correction(row.id, row.version, row.created, content)
