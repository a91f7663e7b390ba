"""The projects of a server, in the database of its jobs."""

import json
import time
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from server.store.database import Database
from server.store.projects.backtest_store import BacktestStore
from server.store.projects.correction_store import CorrectionStore
from server.store.projects.errors import NameTakenError
from server.store.projects.model_store import ModelStore
from server.store.projects.promotion_store import PromotionStore
from server.store.projects.queries import require_one
from server.store.projects.records import Backtest, Project, Run
from server.store.projects.run_store import RunStore
from server.store.tables import ProjectRow


class ProjectStore:
    """Stores projects and everything that belongs to them.

    Servers can share a database: a store sees the projects of one `storage_id`, the ID of a projects folder. All
    methods, also those of the parts, raise StoreError, and StoreUnavailableError if the same call can be retried.
    """

    def __init__(self, database: Database, storage_id: str) -> None:
        self.database, self.storage_id = database, storage_id
        self.corrections = CorrectionStore(database)
        self.runs = RunStore(database)
        self.models = ModelStore(database)
        self.backtests = BacktestStore(database)
        self.promotions = PromotionStore(database)

    def create_project(self, project: Project) -> Project:
        """Stores a new project and returns it with its ID. Raises NameTakenError."""
        try:
            with self.database.begin_write() as connection:
                project_id = connection.scalar(
                    sa.insert(ProjectRow)
                    .values(
                        storage_id=self.storage_id, name=project.name, base_sha256=project.base_sha256,
                        tasks=json.dumps(project.tasks), holdout_share=project.holdout_share, folder=project.folder,
                        created=time.time(), classes=json.dumps(project.classes),
                    )
                    .returning(ProjectRow.id)
                )  # fmt: skip
        except IntegrityError:
            raise NameTakenError(f"there is already a project {project.name!r}; choose another name") from None
        return self.get_project(project_id or 0)

    def list_projects(self, after: int = 0, limit: int | None = None) -> list[Project]:
        """Returns the projects with an ID above `after`, oldest first."""
        return self._select(ProjectRow.id > after, limit)

    def get_project(self, project_id: int) -> Project:
        """Returns a project by its ID. Raises NotFoundError."""
        projects = self._select(ProjectRow.id == project_id)
        return require_one(projects, f"there is no project {project_id}")

    def set_classes(self, project: Project, classes: Sequence[str]) -> Project:
        """Stores the classes that a project declares, and returns it. Raises NotFoundError."""
        with self.database.begin_write() as connection:
            update = sa.update(ProjectRow).where(ProjectRow.id == project.id).values(classes=json.dumps(list(classes)))
            connection.execute(update)
        return self.get_project(project.id)

    def delete_project(self, project: Project) -> None:
        """Deletes a project with everything that belongs to it."""
        with self.database.begin_write() as connection:
            connection.execute(sa.delete(ProjectRow).where(ProjectRow.id == project.id))

    def find_open_run(self) -> tuple[Project, Run] | None:
        """Returns the oldest queued or running run, and its project; None if there is none."""
        if (found := self.runs.find_open_run(self.storage_id)) is None:
            return None
        project_id, run = found
        return self.get_project(project_id), run

    def find_open_backtest(self) -> tuple[Project, Backtest] | None:
        """Returns the oldest queued or running backtest, and its project; None if there is none."""
        if (found := self.backtests.find_open_backtest(self.storage_id)) is None:
            return None
        project_id, backtest = found
        return self.get_project(project_id), backtest

    def _select(self, where: sa.ColumnElement[bool], limit: int | None = None) -> list[Project]:
        statement = sa.select(ProjectRow.__table__).where(ProjectRow.storage_id == self.storage_id, where)
        with self.database.begin_read() as connection:
            rows = connection.execute(statement.order_by(ProjectRow.id).limit(limit)).all()
        return [
            Project(
                row.id, row.name, row.base_sha256, tuple(json.loads(row.tasks)), row.holdout_share, row.folder,
                row.created, tuple(json.loads(row.classes)),
            )
            for row in rows
        ]  # fmt: skip
