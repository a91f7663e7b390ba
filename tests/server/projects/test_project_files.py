"""The layout of the folder of projects."""

from pathlib import Path

import pytest

from server.projects.project_files import ProjectFiles, RunFolder


def test_the_storage_id_stays_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    with pytest.raises(FileNotFoundError):
        ProjectFiles(folder).read_storage_id()
    storage_id = ProjectFiles(folder).create_storage_id()
    assert ProjectFiles(folder).create_storage_id() == storage_id
    folder.rename(tmp_path / "there")
    assert ProjectFiles(tmp_path / "there").read_storage_id() == storage_id


def test_a_run_folder_has_its_request_or_does_not_exist(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "project" / "runs" / "1")
    folder.create({"config": {"steps": 2}})
    assert folder.read_request() == {"config": {"steps": 2}}
    assert folder.project == tmp_path / "project"
    other = RunFolder(tmp_path / "project" / "runs" / "2")
    with pytest.raises(TypeError):
        other.create({"config": object()})
    assert not other.path.exists()
