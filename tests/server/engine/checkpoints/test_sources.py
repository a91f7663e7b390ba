"""Names of checkpoints."""

from pathlib import Path

import pytest

from server.engine.checkpoints.sources import SEEDLING, SEEDLING_FOLDER, locate_checkpoint, make_absolute


def test_the_seedling_is_that_of_the_package_wherever_the_process_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkout has a folder with the same name."""
    (tmp_path / SEEDLING).mkdir()
    monkeypatch.chdir(tmp_path)
    assert make_absolute(SEEDLING) == SEEDLING
    assert locate_checkpoint(SEEDLING) == SEEDLING_FOLDER


def test_local_folders_become_absolute_and_hub_ids_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert make_absolute("models/mine") == str(tmp_path / "models" / "mine")
    assert make_absolute("microsoft/Florence-2-base") == "microsoft/Florence-2-base"
