"""The folder of adapters: a restarted server has the same adapters."""

import asyncio
import logging
import shutil
from pathlib import Path

import httpx
import pytest

from server.app import create_app
from server.engine.checkpoints.loading import Checkpoint
from server.engine.engine import Engine
from server.settings import Settings
from tests.server.api.adapters.adapter_client import (
    WEIGHTS_FILE,
    ask,
    check_detail,
    connect_server,
    generate_expected,
    list_names,
    put_adapter,
)
from tests.server.helpers import connect


async def test_adapters_survive_a_restart(
    tiny: Checkpoint, folders: dict[str, Path], saved_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Engine(tiny) as first:
        async with connect_server(first, saved_folder) as client:
            for name, folder in (("a", "text"), ("b", "vision"), ("c", "text"), ("b", "text"), ("a", "vision")):
                await put_adapter(client, name, folders[folder])
            await client.delete("/v1/adapters/c")
            before = (await client.get("/v1/adapters")).json()
    for adapter in first.list_adapters():
        first.unload_adapter(adapter.name)
    # Folders that a crash leaves: between the two steps of a replacement, and during an upload.
    (saved_folder / "a").rename(saved_folder / ".old-a")
    shutil.copytree(saved_folder / "b", saved_folder / ".old-b")
    shutil.copytree(saved_folder / "b", saved_folder / ".part-x")
    # Other entries that people create.
    (saved_folder / "empty").mkdir()
    shutil.copytree(saved_folder / "b", saved_folder / "with spaces")
    shutil.copytree(saved_folder / "b", saved_folder / "cut")
    (saved_folder / "cut" / WEIGHTS_FILE).write_bytes((saved_folder / "cut" / WEIGHTS_FILE).read_bytes()[:-9])
    (saved_folder / "notes.txt").write_text("mine")
    (saved_folder / "linked").symlink_to(folders["text"])
    with Engine(tiny) as second, caplog.at_level(logging.INFO):
        async with connect_server(second, saved_folder) as client:
            now = (await client.get("/v1/adapters")).json()["adapters"]
            assert [row for row in now if row["name"] != "linked"] == before["adapters"]
            for name, folder in (("a", "vision"), ("b", "text"), ("linked", "text")):
                assert await ask(client, name) == generate_expected(tiny, folders[folder])
            errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
            assert all(message.startswith("cannot load the adapter ") for message in errors)
            names = [message.split(": ")[0].split("/")[-1] for message in errors]
            assert names == ["cut", "empty", "with spaces"]
            assert not [path for path in saved_folder.iterdir() if path.name.startswith(".")]
            # A broken adapter is not loaded, so it cannot be removed. It can be replaced.
            check_detail(await client.delete("/v1/adapters/cut"), 404, "not-found")
            assert (await put_adapter(client, "cut", folders["text"])).status_code == 201
            await client.delete("/v1/adapters/linked")
            assert not (saved_folder / "linked").exists()
            assert (folders["text"] / WEIGHTS_FILE).exists()
    for adapter in second.list_adapters():
        second.unload_adapter(adapter.name)


async def test_without_a_folder_adapters_are_only_in_memory(
    engine: Engine, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    async with connect_server(engine) as client:
        assert (await put_adapter(client, "a", folders["text"])).status_code == 201
        assert await ask(client, "a")
        assert (await client.delete("/v1/adapters/a")).status_code == 204
        assert await list_names(client) == []
    assert list(tmp_path.iterdir()) == []


async def test_a_read_only_folder_is_reported(
    client: httpx.AsyncClient,
    tiny: Checkpoint,
    folders: dict[str, Path],
    saved_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await put_adapter(client, "a", folders["text"])

    def refuse(self: Path, target: Path) -> Path:
        if target.name in ("a", "b"):
            raise OSError(30, "Read-only file system", str(self))
        return original(self, target)

    original = Path.rename
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        for response in (await put_adapter(client, "b", folders["vision"]), await client.delete("/v1/adapters/a")):
            assert "Read-only file system" in check_detail(response, 507, "insufficient-storage")
    assert await list_names(client) == ["a"]
    shutil.rmtree(saved_folder)
    check_detail(await put_adapter(client, "a", folders["vision"]), 507, "insufficient-storage")
    assert await ask(client, "a") == generate_expected(tiny, folders["text"])


async def test_a_replacement_that_cannot_be_saved_changes_nothing(
    client: httpx.AsyncClient,
    tiny: Checkpoint,
    folders: dict[str, Path],
    saved_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await put_adapter(client, "a", folders["text"])
    original = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name.startswith(".part-"):
            raise OSError(28, "No space left on device", str(self))
        return original(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        check_detail(await put_adapter(client, "a", folders["vision"]), 507, "insufficient-storage")
    assert await ask(client, "a") == generate_expected(tiny, folders["text"])
    assert [path.name for path in saved_folder.iterdir()] == ["a"]
    assert (saved_folder / "a" / WEIGHTS_FILE).read_bytes() == (folders["text"] / WEIGHTS_FILE).read_bytes()


async def start_server(model: Path, saved_folder: Path) -> tuple[str | None, list[str]]:
    """Starts a server that loads its model. Returns why it failed, or the adapters that it has."""
    app = create_app(Settings(model=str(model), device="cpu", adapters_folder=saved_folder))
    async with app.router.lifespan_context(app), connect(app) as client:
        while (await client.get("/readyz")).json().get("type") == "urn:florist:problem:loading":
            await asyncio.sleep(0.01)
        failure = app.state.lifecycle.failure
        return failure, [] if failure else await list_names(client)


async def test_saved_adapters_are_loaded_before_the_server_is_ready(
    tiny: Checkpoint, folders: dict[str, Path], saved_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folders["text"], saved_folder / "a")
    assert await start_server(tiny.folder, saved_folder) == (None, ["a"])
    (tmp_path / "file").write_text("no folder")
    failure, _ = await start_server(tiny.folder, tmp_path / "file")
    assert failure is not None
    assert failure.startswith("FLORIST_ADAPTERS_FOLDER ")
    assert failure.endswith("file: File exists")
