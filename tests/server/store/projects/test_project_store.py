"""Projects in both databases."""

from dataclasses import replace

import pytest

from server.store.projects.errors import NameTakenError, NotFoundError
from server.store.projects.project_store import ProjectStore
from server.store.projects.records import Project
from tests.server.store.projects.stored_records import CONTENT, WON, add_backtest, add_model


def test_a_name_is_unique_within_a_folder_and_other_folders_are_not_visible(
    store: ProjectStore, project: Project
) -> None:
    assert store.list_projects() == [project] == [store.get_project(project.id)]
    with pytest.raises(NameTakenError):
        store.create_project(replace(project, tasks=("<OCR>",)))
    elsewhere = ProjectStore(store.database, "elsewhere")
    assert elsewhere.list_projects() == []
    assert elsewhere.create_project(project).id != project.id
    with pytest.raises(NotFoundError):
        elsewhere.get_project(project.id)


def test_deleting_a_project_deletes_everything_that_belongs_to_it(store: ProjectStore, project: Project) -> None:
    store.corrections.add_corrections(project, [CONTENT])
    model = add_model(store, project)
    add_backtest(store, project, model, WON)
    store.promotions.promote(project, model, "Ada", forced=False, reason="")
    store.delete_project(project)
    assert store.list_projects() == []
    assert store.find_open_run() is store.find_open_backtest() is None
    with pytest.raises(NotFoundError):
        store.corrections.add_corrections(project, [CONTENT])
    with store.database.begin_read() as connection:
        for table in ("runs", "models", "backtests", "promotions"):
            assert connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() == 0
