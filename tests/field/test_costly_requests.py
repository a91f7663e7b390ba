"""Requests that cost the engine much more than they cost their sender."""

import base64
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from server.app import create_app
from server.engine.adapters import registry
from server.engine.config import EngineConfig
from server.engine.decoding.constraint import CompiledConstraint
from server.engine.engine import Engine
from server.settings import Settings
from tests.server.helpers import connect

LAYER = "model.language_model.encoder.layers.0.fc1"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    torch.set_num_threads(1)
    with Engine.load(EngineConfig("seedling", device="cpu", max_batch=4)) as engine:
        yield engine


def create_prompt(**fields: Any) -> dict[str, Any]:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), "white").save(file, "PNG")
    image = base64.b64encode(file.getvalue()).decode()
    return {"image": image, "task": "<OD>", "max_new_tokens": 2, "num_beams": 1, **fields}


async def refuse(engine: Engine, body: dict[str, Any], status: int = 422) -> str:
    """Sends a prompt that is refused. Returns the detail."""
    async with connect(create_app(Settings(), engine)) as client:
        response = await client.post("/v1/prompt", json=body)
    assert response.status_code == status, response.text
    return str(response.json()["detail"])


LABELS = {
    "labels as long as books": (["word " * 3000 + f"{i}" for i in range(200)], "bytes; the limit of one of the labels"),
    "a million labels": ([f"{i}" for i in range(400_000)], ""),
    "labels of many characters together": (["x" * 500 + f"{i}" for i in range(2000)], "the limit is 65,536"),
    "labels of characters of three bytes": (["犬" * 160 + f"{i}" for i in range(200)], "the limit is 65,536"),
}


@pytest.mark.situation("C1", "lists of labels that fill the memory, or keep a core busy")
@pytest.mark.parametrize("case", LABELS)
async def test_lists_of_labels_have_limits(engine: Engine, case: str) -> None:
    labels, message = LABELS[case]
    assert message in await refuse(engine, create_prompt(constrain={"labels": labels}))


@pytest.mark.situation("C2", "large lists of labels in each prompt of a request")
async def test_the_labels_of_all_prompts_have_a_limit_together(engine: Engine) -> None:
    lists = [[f"{'x' * 50} {i} {j}" for i in range(900)] for j in range(3)]
    prompts = [{"task": "<OD>", "constrain": {"labels": labels}} for labels in lists]
    body = {"image": create_prompt()["image"], "prompts": prompts}
    assert "the labels of all prompts together have" in await refuse(engine, body)


@pytest.mark.situation("C8", "long texts in each prompt of a request")
async def test_the_texts_of_all_prompts_have_a_limit_together(engine: Engine) -> None:
    prompts = [{"task": "<CAPTION_TO_PHRASE_GROUNDING>", "text": "word " * 1600}] * 30
    assert "the limit is 32,768" in await refuse(engine, {"image": create_prompt()["image"], "prompts": prompts})


@pytest.mark.situation("C3", "the longest allowed list of labels stalls no other request")
async def test_a_list_of_labels_is_compiled_once_and_not_in_the_event_loop(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    build = CompiledConstraint.__init__

    def record(self: CompiledConstraint, *arguments: Any) -> None:
        threads.append(threading.get_ident())
        build(self, *arguments)

    monkeypatch.setattr(CompiledConstraint, "__init__", record)
    body = create_prompt(constrain={"labels": [f"label number {i} {'x' * 15}" for i in range(2000)]})
    async with connect(create_app(Settings(), engine)) as client:
        for _ in range(2):
            response = await client.post("/v1/prompt", json=body)
            assert response.status_code == 200, response.text
    assert len(threads) == 1
    assert threads != [threading.get_ident()]


@pytest.mark.situation("C4", "many different lists of labels, one after the other")
async def test_compiled_lists_are_kept_within_a_limit_of_bytes(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = engine._constraints
    cache.clear()
    monkeypatch.setattr(cache, "_Cache__maxsize", 3 << 20)
    async with connect(create_app(Settings(), engine)) as client:
        for number in range(4):
            labels = [f"{number} {i}" for i in range(1000)]
            response = await client.post("/v1/prompt", json=create_prompt(constrain={"labels": labels}))
            assert response.status_code == 200, response.text
            assert cache.currsize <= 3 << 20
    assert 1 <= len(cache) < 4


def write_chain(steps: int) -> dict[str, Any]:
    """Returns a recipe whose steps wait for each other in reverse."""
    chain = [{"id": f"s{i}", "task": "<REGION_TO_CATEGORY>", "for_each": f"s{i + 1}"} for i in range(steps)]
    return {"name": "x", "steps": [*chain, {"id": f"s{steps}", "task": "<OD>"}]}


RECIPES: dict[str, tuple[Any, str]] = {
    "steps that wait in reverse": (write_chain(10_000), "steps has 10,001 entries; the limit is 200"),
    "a megabyte of flow": ("name: x\nsteps: [" + "[a], " * 180_000 + "]", "the limit is 262,144"),
    "flow that is not too long": ("name: x\nsteps: [" + "[a], " * 50_000 + "]", "more than 20,000 values"),
    "aliases of aliases": (
        "a: &a [x, x]\n" + "\n".join(f"{b}: &{b} [*{a}, *{a}]" for a, b in zip("abcdefghi", "bcdefghij", strict=True)),
        "line 2:8: aliases such as *a are not supported",
    ),
    "nested blocks": ("name: x\nsteps:\n" + "- " * 100_000, "line 3:41: it is nested more than 20 levels deep"),
    "an ontology of a megabyte": (
        {"name": "x", "ontology": {f"label {i}": ["x" * 400 + f"{i}"] for i in range(1900)}, "steps": [{}]},
        "all phrases together have",
    ),
    "a text of a megabyte": (
        {"name": "x", "steps": [{"id": "a", "task": "<OPEN_VOCABULARY_DETECTION>", "text": "x" * 900_000}]},
        "text has 900,000 characters; the limit is 2,000",
    ),
    "unknown keys": ({"name": "x", "steps": [], **{f"k{i}": 0 for i in range(20_000)}}, "there is no key 'k0' here"),
}


@pytest.mark.situation("C5", "recipes that take minutes to check")
@pytest.mark.parametrize("case", RECIPES)
async def test_recipes_have_limits(engine: Engine, tmp_path: Path, case: str) -> None:
    recipe, message = RECIPES[case]
    app = create_app(Settings(jobs_folder=tmp_path, jobs_sources=(str(tmp_path),)), engine)
    async with app.router.lifespan_context(app), connect(app) as client:
        response = await client.post("/v1/jobs", json={"source": str(tmp_path), "recipe": recipe})
    assert response.status_code == 422, response.text
    assert response.json()["type"] == "urn:florist:problem:invalid-recipe"
    assert message in response.text
    assert len(response.content) < 20_000


def create_adapter(engine: Engine, scale: float) -> dict[str, tuple[str, bytes]]:
    """Returns the files of an adapter whose weights are all `scale`."""
    outputs, inputs = engine.checkpoint.model.get_lora_targets()[LAYER].layer.weight.shape
    name = f"base_model.model.{LAYER}"
    weights = {
        f"{name}.lora_A.weight": torch.full((2, inputs), scale),
        f"{name}.lora_B.weight": torch.full((outputs, 2), scale),
    }
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["fc1"]}
    return {"config": ("adapter_config.json", json.dumps(config).encode()), "weights": ("a.safetensors", save(weights))}


@pytest.mark.situation("C6", "adapters whose weights are finite, but overflow")
@pytest.mark.parametrize("scale", [1e6, 1e20, 3e38])
async def test_an_adapter_that_would_overflow_is_refused(engine: Engine, scale: float) -> None:
    app = create_app(Settings(), engine)
    async with app.router.lifespan_context(app), connect(app) as client:
        response = await client.put("/v1/adapters/a", files=create_adapter(engine, scale))
    assert response.status_code == 422, response.text
    assert "changes its weights, whose norm is" in response.json()["detail"]


@pytest.mark.situation("C7", "an adapter that fails at every prompt, beside prompts without it")
async def test_an_adapter_that_overflows_fails_its_own_prompts_and_is_suspended(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "MAX_NORM", float("inf"))
    monkeypatch.setattr(registry, "MAX_RELATIVE_NORM", float("inf"))
    app = create_app(Settings(), engine)
    async with app.router.lifespan_context(app), connect(app) as client:

        async def ask(**fields: Any) -> httpx.Response:
            return await client.post("/v1/prompt", json=create_prompt(**fields))

        loaded = await client.put("/v1/adapters/a", files=create_adapter(engine, 1e18))
        assert loaded.status_code == 201, loaded.text
        for _ in range(registry.MAX_FAILURES):
            failed = await ask(adapter="a")
            assert (failed.status_code, failed.json()["type"]) == (422, "urn:florist:problem:invalid-prompt")
            assert "the adapter a overflows" in failed.json()["detail"]
        suspended = await ask(adapter="a")
        assert (suspended.status_code, suspended.json()["type"]) == (503, "urn:florist:problem:adapter-suspended")
        assert 0 < int(suspended.headers["Retry-After"]) <= registry.SUSPENSION
        assert (await ask()).status_code == 200
        assert (await client.delete("/v1/adapters/a")).status_code == 204
