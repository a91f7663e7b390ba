"""Projects and what is corrected in them, in the database of jobs."""

import json
import time
from collections.abc import Iterable, Sequence

import sqlalchemy as sa
from pydantic import TypeAdapter
from sqlalchemy.exc import IntegrityError

from labels.label_kind import LabelKind
from prompts.annotations import Annotation
from server.store import Store
from server.store.jobs.job_store.leases import clean
from server.store.projects.records import Correction, CorrectionContent, NameTakenError, NotFoundError, Project
from server.store.tables import CorrectionRow, ProjectRow

_ANNOTATIONS = TypeAdapter(tuple[Annotation, ...])


class ProjectStore:
    """Those of one `home`, the id of a folder: several servers may share a database. Methods raise StoreError, and
    StoreAway where the same call may be made again."""

    def __init__(self, store: Store, home: str) -> None:
        self.store, self.home = store, home

    def create(self, project: Project) -> Project:
        """Kept, with an id. Raises NameTaken."""
        try:
            with self.store.writing() as connection:
                number = connection.scalar(
                    sa.insert(ProjectRow)
                    .values(
                        storage_id=self.home, name=project.name, base_sha256=project.base,
                        tasks=json.dumps(project.tasks), holdout_share=project.held_share, folder=project.folder,
                        created=time.time(),
                    )
                    .returning(ProjectRow.id)
                )  # fmt: skip
        except IntegrityError:
            raise NameTakenError(f"there is a project {project.name!r} already; take another name") from None
        return self.project(number or 0)

    def projects(self, after: int = 0, limit: int | None = None) -> list[Project]:
        """Those after an id, the oldest first."""
        return self._projects(ProjectRow.id > after, limit)

    def project(self, number: int) -> Project:
        """Raises Missing."""
        if not (found := self._projects(ProjectRow.id == number)):
            raise NotFoundError(f"there is no project {number}; GET /v1/projects lists them")
        return found[0]

    def delete(self, project: Project) -> None:
        """With all that belongs to it."""
        with self.store.writing() as connection:
            connection.execute(sa.delete(ProjectRow).where(ProjectRow.id == project.id))

    def _projects(self, where: sa.ColumnElement[bool], limit: int | None = None) -> list[Project]:
        found = sa.select(ProjectRow.__table__).where(ProjectRow.storage_id == self.home, where)
        with self.store.reading() as connection:
            rows = connection.execute(found.order_by(ProjectRow.id).limit(limit)).all()
        return [
            Project(r.id, r.name, r.base_sha256, tuple(json.loads(r.tasks)), r.holdout_share, r.folder, r.created)
            for r in rows
        ]

    # Corrections

    def correct(self, project: Project, corrected: Iterable[CorrectionContent]) -> list[Correction]:
        """Kept, each as the next version of its picture and kind."""
        numbers = []
        with self.store.writing() as connection:
            # Two that correct the same picture take turns: SQLite does so anyhow.
            lock = sa.select(ProjectRow.id).where(ProjectRow.id == project.id).with_for_update()
            if connection.scalar(lock) is None:
                raise NotFoundError(f"there is no project {project.id}; GET /v1/projects lists them")
            for each in corrected:
                same = _about(project, each.picture, each.kind)
                version = connection.scalar(sa.select(sa.func.max(CorrectionRow.version)).where(*same)) or 0
                number = connection.scalar(
                    sa.insert(CorrectionRow)
                    .values(
                        project_id=project.id, image_sha256=each.picture, label_kind=each.kind, version=version + 1,
                        width=each.width, height=each.height, complete=each.complete, image_name=clean(each.name),
                        annotations=_ANNOTATIONS.dump_json(each.annotations).decode(), author=clean(each.author),
                        created=time.time(),
                    )
                    .returning(CorrectionRow.id)
                )  # fmt: skip
                numbers.append(number or 0)
        return [one for number in numbers for one in self._corrections(project, CorrectionRow.id == number)]

    def corrections(self, project: Project, after: int = 0, limit: int | None = None) -> list[Correction]:
        """All versions after an id, the oldest first."""
        return self._corrections(project, CorrectionRow.id > after, limit)

    def newest(self, project: Project) -> list[Correction]:
        """What counts: of each picture and kind the highest version, in the order in which pictures first came."""
        newest: dict[tuple[str, LabelKind], Correction] = {}
        for each in self.corrections(project):
            newest[each.said.picture, each.said.kind] = each  # a key keeps its first place
        return list(newest.values())

    def count(self, project: Project) -> int:
        """How many pictures are corrected."""
        pictures = sa.select(sa.func.count(sa.distinct(CorrectionRow.image_sha256)))
        with self.store.reading() as connection:
            return connection.scalar(pictures.where(CorrectionRow.project_id == project.id)) or 0

    def _corrections(
        self, project: Project, where: sa.ColumnElement[bool], limit: int | None = None
    ) -> list[Correction]:
        found = sa.select(CorrectionRow.__table__).where(CorrectionRow.project_id == project.id, where)
        with self.store.reading() as connection:
            rows = connection.execute(found.order_by(CorrectionRow.id).limit(limit)).all()
        return [
            Correction(
                r.id, r.version, r.created,
                CorrectionContent(
                    r.image_sha256, LabelKind(r.label_kind), r.width, r.height,
                    _ANNOTATIONS.validate_json(r.annotations), r.complete, r.image_name, r.author,
                ),
            )
            for r in rows
        ]  # fmt: skip


def _about(project: Project, picture: str, kind: LabelKind) -> Sequence[sa.ColumnElement[bool]]:
    return (
        CorrectionRow.project_id == project.id,
        CorrectionRow.image_sha256 == picture,
        CorrectionRow.label_kind == kind.value,
    )
