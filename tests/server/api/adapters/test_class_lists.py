"""Adapters that carry a class list: uploaded, shown, and held in their answers."""

import json
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

from prompts.label_lists import MAX_LABELS
from server.engine.adapters.class_list import CLASS_LIST_FILE, read_class_list
from server.engine.engine import Engine
from tests.server.api.adapters.adapter_client import PROMPT, check_detail, connect_server, create_png, read_files

CLASSES = ["cactus", "octopus"]


async def put(client: httpx.AsyncClient, name: str, folder: Path, content: Any = None) -> httpx.Response:
    files = read_files(folder)
    if content is not None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        files["classes"] = (CLASS_LIST_FILE, data)
    return await client.put(f"/v1/adapters/{name}", files=files)


async def ask(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    response = await client.post("/v1/prompt", files={"image": create_png()}, data=PROMPT | fields)
    assert response.status_code == 200, response.text
    return dict(response.json())


def list_labels(answer: dict[str, Any]) -> set[str]:
    return {annotation["label"] for annotation in answer["annotations"]}


async def test_an_adapter_is_held_to_the_classes_that_it_was_uploaded_with(
    client: httpx.AsyncClient, engine: Engine, folders: dict[str, Path], saved_folder: Path
) -> None:
    created = await put(client, "plants", folders["text"], {"classes": CLASSES})
    assert (created.status_code, created.json()["classes"]) == (201, CLASSES)
    assert (await client.get("/v1/adapters/plants")).json()["classes"] == CLASSES
    assert read_class_list(saved_folder / "plants") == tuple(CLASSES)
    await put(client, "free", folders["text"])

    free = await ask(client, adapter="free")
    held = await ask(client, adapter="plants", max_new_tokens=40)
    assert (free["class_list"], free["warnings"]) == (None, [])
    assert held["class_list"] == {"origin": "adapter plants", "classes": 2}
    assert list_labels(held) <= set(CLASSES)
    switched_off = await ask(client, adapter="plants", any_class="true")
    assert (switched_off["text"], switched_off["class_list"]) == (free["text"], None)
    base = await ask(client)
    assert base["class_list"] is None

    replaced = await put(client, "plants", folders["text"])
    assert replaced.json()["classes"] == []
    assert (await ask(client, adapter="plants"))["text"] == free["text"]


async def test_the_switch_of_a_prompt_overrides_that_of_the_request(
    client: httpx.AsyncClient, folders: dict[str, Path]
) -> None:
    await put(client, "plants", folders["text"], {"classes": CLASSES})
    prompts = [
        {"task": "<OD>"},
        {"task": "<OD>", "any_class": False},
        {"task": "<CAPTION>"},
        {"task": "<OD>", "adapter": "plants"},
    ]
    fields = {"prompts": json.dumps(prompts), "any_class": "true", "adapter": "plants"}
    response = await client.post("/v1/prompt", files={"image": create_png()}, data=fields)
    held = [answer["class_list"] for answer in response.json()["results"]]
    assert held == [None, {"origin": "adapter plants", "classes": 2}, None, None]


async def test_a_list_beyond_the_limits_is_not_held_and_the_answer_says_so(
    client: httpx.AsyncClient, folders: dict[str, Path]
) -> None:
    await put(client, "free", folders["text"])
    created = await put(client, "many", folders["text"], {"classes": list(map(str, range(MAX_LABELS + 1)))})
    assert len(created.json()["classes"]) == MAX_LABELS + 1
    answer, free = await ask(client, adapter="many"), await ask(client, adapter="free")
    assert (answer["text"], answer["class_list"]["classes"]) == (free["text"], MAX_LABELS + 1)
    warning, *left_out = answer["warnings"]
    assert warning.startswith("the model is not held to the classes of adapter many: there are 2,001 classes")
    assert list_labels(answer) <= set(map(str, range(MAX_LABELS + 1)))
    assert len(left_out) == (len(answer["annotations"]) < len(free["annotations"]))
    assert (await ask(client, adapter="many", any_class="true"))["warnings"] == []
    assert (await ask(client, adapter="many", task="<CAPTION>"))["warnings"] == []
    labels = json.dumps({"labels": ["cat"]})
    assert (await ask(client, adapter="many", constrain=labels))["warnings"] == []


async def test_a_saved_adapter_keeps_its_classes(engine: Engine, folders: dict[str, Path], saved_folder: Path) -> None:
    async with connect_server(engine, saved_folder) as client:
        await put(client, "plants", folders["text"], {"classes": CLASSES})
    engine.unload_adapter("plants")
    async with connect_server(engine, saved_folder) as client:
        assert (await client.get("/v1/adapters/plants")).json()["classes"] == CLASSES


@pytest.mark.parametrize("content", [b"cactus", b"[", {"labels": ["cat"]}, {"classes": [1]}, ["cat"]], ids=repr)
async def test_a_broken_list_is_refused(client: httpx.AsyncClient, folders: dict[str, Path], content: Any) -> None:
    assert CLASS_LIST_FILE in check_detail(await put(client, "a", folders["text"], content), 422, "invalid-adapter")
    assert (await client.get("/v1/adapters")).json()["adapters"] == []


async def test_a_token_that_only_the_files_of_an_adapter_name_is_a_task(
    client: httpx.AsyncClient, folders: dict[str, Path]
) -> None:
    await put(client, "counter", folders["text"], {"classes": [], "tasks": ["<COUNT>"]})
    named = await ask(client, adapter="counter", task="<COUNT>", text="cats")
    assert named["warnings"] == []
    for fields in ({"task": "<COUNT>"}, {"task": "<DETECT>", "adapter": "counter"}):
        (warning,) = (await ask(client, **fields))["warnings"]
        assert warning.startswith(f"{fields['task']} is no task of this model")


def test_the_folders_have_no_list(folders: dict[str, Path], tmp_path: Path) -> None:
    assert read_class_list(shutil.copytree(folders["text"], tmp_path / "copy")) == ()
