"""Adapters over HTTP: prompts that name an adapter get the answers that PEFT generates with it."""

import asyncio
import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from safetensors.torch import load_file

from server.api.auth import create_key
from server.app import create_app
from server.engine.checkpoints.loading import Checkpoint
from server.engine.engine import Engine
from server.settings import Settings
from tests.server.api.adapters.adapter_client import (
    PROMPT,
    WEIGHTS_FILE,
    ask,
    check_detail,
    connect_server,
    create_png,
    find_loaded,
    generate_expected,
    list_names,
    put_adapter,
    read_files,
)
from tests.server.helpers import connect


async def test_an_adapter_is_loaded_replaced_and_removed(
    client: httpx.AsyncClient, tiny: Checkpoint, folders: dict[str, Path], saved_folder: Path
) -> None:
    base, *others = (generate_expected(tiny, folder) for folder in (None, *folders.values()))
    assert len({base, *others}) == 3  # otherwise this would test nothing
    assert (await client.get("/v1/adapters")).json() == {"adapters": [], "bytes": 0, "max_bytes": 1 << 30}

    created = await put_adapter(client, "project", folders["text"])
    assert created.status_code == 201, created.text
    state = load_file(folders["text"] / WEIGHTS_FILE)
    row = {
        "name": "project",
        "sha256": hashlib.sha256((folders["text"] / WEIGHTS_FILE).read_bytes()).hexdigest(),
        "bytes": sum(value.nbytes for value in state.values()),
        "rank": 4,
        "modules": len(state) // 2,
        "adapts_vision": False,
        "base": tiny.sha256,
        "calibrated": [],
        "classes": [],
        "ready": True,
    }
    assert created.json() == row == (await client.get("/v1/adapters/project")).json()
    assert (await client.get("/v1/adapters")).json()["adapters"] == [row]
    assert await ask(client, "project") == others[0]

    replaced = await put_adapter(client, "project", folders["vision"], sha256="")
    assert (replaced.status_code, replaced.json()["adapts_vision"]) == (200, True)
    assert [await ask(client, "project"), await ask(client)] == [others[1], base]
    assert (saved_folder / "project" / WEIGHTS_FILE).read_bytes() == (folders["vision"] / WEIGHTS_FILE).read_bytes()

    gone = await client.delete("/v1/adapters/project")
    assert (gone.status_code, gone.content) == (204, b"")
    assert list(saved_folder.iterdir()) == []
    for again in (await client.get("/v1/adapters/project"), await client.delete("/v1/adapters/project")):
        assert "loaded adapters: none" in check_detail(again, 404, "not-found")
    refused = await client.post("/v1/prompt", files={"image": create_png()}, data=PROMPT | {"adapter": "project"})
    assert "loaded adapters: none" in check_detail(refused, 422, "invalid-prompt", "adapter")


async def test_prompts_of_one_request_use_different_adapters(
    client: httpx.AsyncClient, tiny: Checkpoint, folders: dict[str, Path]
) -> None:
    for name, folder in folders.items():
        await put_adapter(client, name, folder)
    prompts = [
        {"task": task, "num_beams": beams, **({"adapter": name} if name != "text" else {})}
        for name in folders
        for task in ("<OD>", "<CAPTION>")
        for beams in (1, 3)
    ]
    prompts.append({"task": "<OD>", "adapter": "nobody"})
    options = {"adapter": "text", "max_new_tokens": 20}  # `adapter` is the default of the prompts without one
    form = {"prompts": json.dumps(prompts), **options}
    plain = await client.post("/v1/prompt", files={"image": create_png()}, data=form)
    *results, unknown = plain.json()["results"]
    for prompt, result in zip(prompts, results, strict=False):
        name = str(prompt.get("adapter", "text"))
        assert result["adapter"] == name
        assert result["text"] == generate_expected(
            tiny, folders[name], str(prompt["task"]), int(str(prompt["num_beams"]))
        )
    assert (unknown["status"], unknown["field"]) == (422, "adapter")
    assert unknown["detail"].endswith("loaded adapters: text, vision")
    streamed = await client.post("/v1/prompt?stream=true", files={"image": create_png()}, data=form)
    last = json.loads(streamed.text.strip().split("data: ")[-1])["results"]
    assert [r["text"] for r in last[:-1]] == [r["text"] for r in results]


async def test_a_calibration_is_loaded_with_its_adapter(
    client: httpx.AsyncClient, folders: dict[str, Path], saved_folder: Path
) -> None:
    plain = (await put_adapter(client, "project", folders["text"])).json()
    content = {"adapter_sha256": plain["sha256"], "tasks": {"<OD>": {"kind": "temperature", "temperature": 2.0}}}
    files = read_files(folders["text"]) | {"calibration": ("calibration.json", json.dumps(content).encode())}
    response = await client.put("/v1/adapters/project", files=files)
    assert response.json() == plain | {"calibrated": ["<OD>"]}
    assert json.loads((saved_folder / "project/calibration.json").read_text()) == content
    assert (await put_adapter(client, "project", folders["text"])).json() == plain  # without a calibration
    assert not (saved_folder / "project/calibration.json").exists()


async def test_adapters_change_while_prompts_run(
    client: httpx.AsyncClient, tiny: Checkpoint, folders: dict[str, Path]
) -> None:
    """Each prompt is answered completely by one of the adapters, or gets the error that there is none."""
    either = {generate_expected(tiny, folder) for folder in folders.values()}
    over, seen = asyncio.Event(), set[str]()

    async def change(folder: Path, seconds: float) -> None:
        while not over.is_set():
            assert (await put_adapter(client, "project", folder)).status_code in (200, 201)
            await asyncio.sleep(seconds)

    async def remove() -> None:
        while not over.is_set():
            await asyncio.sleep(0.05)
            assert (await client.delete("/v1/adapters/project")).status_code in (204, 404)

    async def send_prompts() -> None:
        for _ in range(8):
            response = await client.post(
                "/v1/prompt", files={"image": create_png()}, data=PROMPT | {"adapter": "project"}
            )
            if response.status_code == 200:
                seen.add(response.json()["text"])
            else:
                check_detail(response, 422, "invalid-prompt", "adapter")
                seen.add("")

    async with asyncio.TaskGroup() as group:
        for folder, seconds in zip(folders.values(), (0.01, 0.017), strict=True):
            group.create_task(change(folder, seconds))
        group.create_task(remove())
        tasks = [group.create_task(send_prompts()) for _ in range(6)]
        await asyncio.wait(tasks)
        over.set()
    assert seen & either
    assert seen <= either | {""}
    await client.delete("/v1/adapters/project")
    while find_loaded(tiny):
        await asyncio.sleep(0.01)


async def test_a_running_prompt_keeps_its_adapter(
    client: httpx.AsyncClient, tiny: Checkpoint, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from server.engine.runner import ModelRunner

    reached, opened, step = threading.Event(), threading.Event(), ModelRunner.step

    def wait_and_step(runner: ModelRunner) -> None:
        reached.set()
        assert opened.wait(60)
        step(runner)

    await put_adapter(client, "project", folders["vision"])
    monkeypatch.setattr(ModelRunner, "step", wait_and_step)
    first = asyncio.create_task(ask(client, "project"))
    assert await asyncio.to_thread(reached.wait, 60)
    assert (await put_adapter(client, "project", folders["text"])).status_code == 200
    second = asyncio.create_task(ask(client, "project"))
    while len(find_loaded(tiny)) != 2 or (await client.get("/metrics")).text.count("florist_queue_depth 1.0") != 1:
        await asyncio.sleep(0.01)
    assert (await client.delete("/v1/adapters/project")).status_code == 204
    opened.set()
    assert [await first, await second] == [generate_expected(tiny, folders[name]) for name in ("vision", "text")]


async def test_the_server_answers_while_an_adapter_loads(
    client: httpx.AsyncClient, engine: Engine, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, load = threading.Event(), engine.load_adapter

    def slow(*arguments: Any) -> Any:
        assert opened.wait(60)
        return load(*arguments)

    monkeypatch.setattr(engine, "load_adapter", slow)
    loading = asyncio.create_task(put_adapter(client, "a", folders["text"]))
    await asyncio.sleep(0.05)
    assert await ask(client)
    assert await list_names(client) == []
    assert not loading.done()
    opened.set()
    assert (await loading).status_code == 201


async def test_metrics_count_adapters(client: httpx.AsyncClient, folders: dict[str, Path]) -> None:
    created = [(await put_adapter(client, name, folder)).json() for name, folder in folders.items()]
    text = (await client.get("/metrics")).text
    assert "florist_adapters 2.0" in text
    assert f"florist_adapter_bytes {float(sum(row['bytes'] for row in created))}" in text
    assert 'route="/v1/adapters/{name}"' in text


async def test_all_routes_require_a_key(engine: Engine, folders: dict[str, Path]) -> None:
    key, hashed = create_key()
    async with connect_server(engine, api_keys=(hashed,)) as client:
        for response in (
            await put_adapter(client, "a", folders["text"]),
            await client.get("/v1/adapters"),
            await client.get("/v1/adapters/a"),
            await client.delete("/v1/adapters/a"),
        ):
            check_detail(response, 401, "unauthorized")
        client.headers["X-API-Key"] = key
        assert (await put_adapter(client, "a", folders["text"])).status_code == 201


async def test_all_routes_answer_503_while_the_model_loads(folders: dict[str, Path]) -> None:
    async with connect(create_app(Settings())) as client:  # its lifespan does not start
        for response in (
            await put_adapter(client, "a", folders["text"]),
            await client.get("/v1/adapters"),
            await client.delete("/v1/adapters/a"),
        ):
            check_detail(response, 503, "loading")
