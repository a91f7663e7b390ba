"""The command that installs an extra: it works wherever florist came from, and for this environment."""

import sys
from pathlib import Path

import pytest

from labels.extras import describe_install, find_missing

ROOT = Path(__file__).parents[2]


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment in `env/` of the working folder, which is not activated."""
    folder = tmp_path / "env" / "bin"
    folder.mkdir(parents=True)
    for name in ("python", "pip"):
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setattr(sys, "prefix", str(folder.parent))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    return folder


def test_nothing_is_missing_where_everything_is_installed() -> None:
    assert find_missing("heic") == []


def test_the_command_names_packages_of_the_index_and_not_florist(environment: Path) -> None:
    assert describe_install("heic") == "env/bin/python -m pip install 'pillow-heif>=1'"
    for extra in ("train", "captions", "jobs-remote", "jobs-datasets", "ray"):
        assert "florist" not in describe_install(extra)


def test_an_activated_environment_has_its_own_pip(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{environment}:/usr/bin:/bin")
    assert describe_install("heic") == "pip install 'pillow-heif>=1'"


def test_no_folder_of_the_machine_is_named(
    environment: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert describe_install("heic") == "in florist's environment, pip install 'pillow-heif>=1'"


def test_only_what_is_missing_or_too_old_is_installed(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "labels.extras.requires", lambda _: ["numpy>=2", "a-b>=1; extra == 'x'", "pillow>999; extra == 'x'"]
    )
    assert find_missing("x") == ["a-b>=1", "pillow>999"]
    assert describe_install("x") == "env/bin/python -m pip install 'a-b>=1' 'pillow>999'"
    monkeypatch.setattr("labels.extras.requires", lambda _: ["pillow>1; extra == 'x'"])
    assert find_missing("x") == []


def test_messages_do_not_look_for_florist_in_an_index() -> None:
    sources = [
        path for room in ("labels", "server", "finetune", "prompts", "seedling") for path in (ROOT / room).rglob("*.py")
    ]
    assert [str(path) for path in sources if "'florist[" in path.read_text(encoding="utf-8")] == []
