"""The models of projects: adapters that runs have trained, and ensembles."""

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter

from server.store.database import Database
from server.store.pages import Page
from server.store.projects.ensembles import EnsembleDefinition
from server.store.projects.queries import has_id, insert_row, plan_project_page, require_one
from server.store.projects.records import ModelVersion, Project
from server.store.tables import ModelRow, RunRow

RUN_ADAPTER = "training/adapter"
"""The folder of a run's adapter, relative to the run's folder."""

_ENSEMBLE: TypeAdapter[EnsembleDefinition | None] = TypeAdapter(EnsembleDefinition | None)


class ModelStore:
    """Stores models. Raises what ProjectStore raises."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def plan_page(self, project: Project, after: int, limit: int) -> Page:
        """Returns a page of the models with an ID above `after`, oldest first."""
        return plan_project_page(self._database, ModelRow, project, after, limit, ModelRow.ensemble)

    def list_models(self, project: Project, ids: Sequence[int] | None = None) -> list[ModelVersion]:
        """Returns the models with these IDs, or all, oldest first."""
        return self._select(project, has_id(ModelRow, ids))

    def get_model(self, project: Project, model_id: int) -> ModelVersion:
        """Returns a model by its ID. Raises NotFoundError."""
        models = self._select(project, ModelRow.id == model_id)
        return require_one(models, f"project {project.name} has no model {model_id}")

    def add_ensemble(
        self, project: Project, task: str, ensemble: EnsembleDefinition, sha256: str, folder: str
    ) -> ModelVersion:
        """Stores a model that is built from others. `folder`: of its own adapter; empty if it has none."""
        definition = _ENSEMBLE.dump_json(ensemble).decode()
        model_id = insert_row(
            self._database, ModelRow, project, task=task, sha256=sha256, folder=folder, ensemble=definition
        )
        return self.get_model(project, model_id)

    def _select(self, project: Project, where: sa.ColumnElement[bool]) -> list[ModelVersion]:
        of_run = RunRow.folder.label("run_folder"), RunRow.initial_model_id, RunRow.dataset_hash, RunRow.metrics
        joined = sa.select(ModelRow.__table__, *of_run).outerjoin(RunRow, RunRow.id == ModelRow.run_id)
        statement = joined.where(ModelRow.project_id == project.id, where).order_by(ModelRow.id)
        with self._database.begin_read() as connection:
            return list(map(_to_model, connection.execute(statement)))


def _to_model(row: sa.Row[Any]) -> ModelVersion:
    folder = row.folder if row.run_id is None else f"{row.run_folder}/{RUN_ADAPTER}"
    return ModelVersion(
        row.id, row.run_id, row.task, row.sha256, folder, row.dataset_hash or "", json.loads(row.metrics or "{}"),
        row.created, _ENSEMBLE.validate_json(row.ensemble), row.initial_model_id,
    )  # fmt: skip
