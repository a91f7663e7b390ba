"""Helpers of the adapter tests: a client of a server with adapters, and what PEFT generates by itself."""

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from prompts.parsing import AnswerParser
from prompts.tasks import TASKS
from server.app import create_app
from server.engine.checkpoints.loading import Checkpoint
from server.engine.engine import Engine
from server.engine.model.linear import LoraLinear
from server.settings import Settings
from tests.server.api.problem_checks import check_field
from tests.server.engine import reference
from tests.server.engine.tiny import create_image
from tests.server.helpers import connect

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
TARGETS = {"text": r"model\.language_model\..*(q_proj|v_proj|fc1)", "vision": ["q_proj", "fc2", "qkv"]}
PROMPT = {"task": "<OD>", "num_beams": 1, "max_new_tokens": 20}


@asynccontextmanager
async def connect_server(
    engine: Engine, folder: Path | None = None, **settings: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """Yields a client of a running app."""
    app = create_app(Settings(adapters_folder=folder, **settings), engine)
    async with app.router.lifespan_context(app), connect(app) as client:
        yield client


def find_loaded(checkpoint: Checkpoint) -> set[str]:
    """Returns the keys of the adapters in the layers of the model."""
    return {key for layer in checkpoint.model.modules() if isinstance(layer, LoraLinear) for key in layer.deltas}


def read_files(folder: Path) -> dict[str, tuple[str, bytes]]:
    return {
        "config": (CONFIG_FILE, (folder / CONFIG_FILE).read_bytes()),
        "weights": (WEIGHTS_FILE, (folder / WEIGHTS_FILE).read_bytes()),
    }


async def put_adapter(client: httpx.AsyncClient, name: str, folder: Path, **fields: str) -> httpx.Response:
    return await client.put(f"/v1/adapters/{name}", files=read_files(folder), data=fields)


def create_png(seed: int = 0) -> bytes:
    file = io.BytesIO()
    create_image(seed).save(file, "PNG")
    return file.getvalue()


async def ask(client: httpx.AsyncClient, adapter: str | None = None) -> str:
    """Returns the text of the answer to PROMPT about image 0."""
    fields = PROMPT | ({"adapter": adapter} if adapter else {})
    response = await client.post("/v1/prompt", files={"image": create_png()}, data=fields)
    assert response.status_code == 200, response.text
    assert response.json()["adapter"] == adapter
    return str(response.json()["text"])


def generate_expected(checkpoint: Checkpoint, folder: Path | None, task: str = "<OD>", beams: int = 1) -> str:
    """Returns the text that transformers and PEFT generate by themselves."""
    request = reference.create_request(task, create_image(0), beams=beams, limit=20)
    parser = AnswerParser(TASKS[task], request.image.size)
    for token in reference.generate(checkpoint, request, adapter=folder):
        parser.feed(checkpoint.vocabulary[token])
    parser.finish()
    return parser.text


def check_detail(response: httpx.Response, status: int, kind: str, field: str | None = None) -> str:
    """Checks that a response has problem details of this kind and field. Returns their detail."""
    return check_field(response, status, kind, field).detail


async def list_names(client: httpx.AsyncClient) -> list[str]:
    return [row["name"] for row in (await client.get("/v1/adapters")).json()["adapters"]]
