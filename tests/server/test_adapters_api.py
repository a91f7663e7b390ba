"""Adapters over HTTP: what PEFT saved is what answers, however it came, went and came back."""

import asyncio
import hashlib
import io
import json
import logging
import shutil
import threading
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load, load_file
from safetensors.torch import save as to_bytes

from prompts.grammar import AnswerParser
from prompts.tasks import TASKS
from server.api.auth import new_key
from server.api.problems import ProblemDetails
from server.app import create_app
from server.engine import checkpoint as checkpoints
from server.engine.checkpoint import Checkpoint
from server.engine.engine import Engine
from server.engine.linear import Linear
from server.settings import Settings
from tests.server.engine import reference
from tests.server.engine.tiny import picture, save, save_adapter, tiny_model
from tests.server.helpers import connected

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TARGETS = {"text": r"model\.language_model\..*(q_proj|v_proj|fc1)", "tower": ["q_proj", "fc2", "qkv"]}
ASK = {"task": "<OD>", "num_beams": 1, "max_new_tokens": 20}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    torch.set_num_threads(1)
    return checkpoints.load(str(save(tmp_path_factory.mktemp("tiny"), tiny_model())))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {
        name: save_adapter(root / name, seed, target_modules=modules)
        for seed, (name, modules) in enumerate(TARGETS.items())
    }


@pytest.fixture
def engine(tiny: Checkpoint) -> Iterator[Engine]:
    with Engine(tiny, adapter_bytes=1 << 24) as made:
        yield made
    for adapter in made.adapters():
        made.unload_adapter(adapter.name)
    assert not layers(tiny)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "kept"


@asynccontextmanager
async def running(engine: Engine, folder: Path | None = None, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the app, from its start to its end."""
    app = create_app(Settings(adapters_folder=folder, **settings), engine)
    async with app.router.lifespan_context(app), connected(app) as client:
        yield client


@pytest.fixture
async def client(engine: Engine, kept: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with running(engine, kept) as connection:
        yield connection


def layers(checkpoint: Checkpoint) -> set[str]:
    """The adapters in the model's layers."""
    return {key for layer in checkpoint.model.modules() if isinstance(layer, Linear) for key in layer.adapters}


def files_of(folder: Path) -> dict[str, tuple[str, bytes]]:
    return {
        "config": (CONFIG, (folder / CONFIG).read_bytes()),
        "weights": (WEIGHTS, (folder / WEIGHTS).read_bytes()),
    }


async def put(client: httpx.AsyncClient, name: str, folder: Path, **fields: str) -> httpx.Response:
    return await client.put(f"/v1/adapters/{name}", files=files_of(folder), data=fields)


def png(seed: int = 0) -> bytes:
    file = io.BytesIO()
    picture(seed).save(file, "PNG")
    return file.getvalue()


async def said(client: httpx.AsyncClient, adapter: str | None = None) -> str:
    """What is answered to ASK about picture 0."""
    fields = ASK | ({"adapter": adapter} if adapter else {})
    answered = await client.post("/v1/prompt", files={"image": png()}, data=fields)
    assert answered.status_code == 200, answered.text
    assert answered.json()["adapter"] == adapter
    return str(answered.json()["text"])


def expected(checkpoint: Checkpoint, folder: Path | None, task: str = "<OD>", beams: int = 1) -> str:
    """The text of what PEFT says alone."""
    asked = reference.request(task, picture(0), beams=beams, limit=20)
    parser = AnswerParser(TASKS[task], asked.image.size)
    for token in reference.generate(checkpoint, asked, adapter=folder):
        parser.feed(checkpoint.vocabulary[token])
    parser.finish()
    return parser.text


def problem(answered: httpx.Response, status: int, kind: str, field: str | None = None) -> str:
    """Checks the problem's form; what it says."""
    assert answered.status_code == status, answered.text
    assert answered.headers["content-type"] == "application/problem+json"
    read = ProblemDetails.model_validate(answered.json())
    assert (read.type, read.field) == (f"urn:florist:problem:{kind}", field)
    return read.detail


async def names(client: httpx.AsyncClient) -> list[str]:
    return [row["name"] for row in (await client.get("/v1/adapters")).json()["adapters"]]


async def test_put_ask_replace_delete(
    client: httpx.AsyncClient, tiny: Checkpoint, folders: dict[str, Path], kept: Path
) -> None:
    base, *others = (expected(tiny, folder) for folder in (None, *folders.values()))
    assert len({base, *others}) == 3  # or this would test nothing
    assert (await client.get("/v1/adapters")).json() == {"adapters": [], "bytes": 0, "max_bytes": 1 << 30}

    made = await put(client, "project", folders["text"])
    assert made.status_code == 201, made.text
    state = load_file(folders["text"] / WEIGHTS)
    row = {
        "name": "project",
        "sha256": hashlib.sha256((folders["text"] / WEIGHTS).read_bytes()).hexdigest(),
        "bytes": sum(value.nbytes for value in state.values()),
        "rank": 4,
        "modules": len(state) // 2,
        "vision": False,
        "base": tiny.sha256,
        "calibrated": [],
        "ready": True,
    }
    assert made.json() == row == (await client.get("/v1/adapters/project")).json()
    assert (await client.get("/v1/adapters")).json()["adapters"] == [row]
    assert await said(client, "project") == others[0]

    replaced = await put(client, "project", folders["tower"], sha256="")
    assert (replaced.status_code, replaced.json()["vision"]) == (200, True)
    assert [await said(client, "project"), await said(client)] == [others[1], base]
    assert (kept / "project" / WEIGHTS).read_bytes() == (folders["tower"] / WEIGHTS).read_bytes()

    gone = await client.delete("/v1/adapters/project")
    assert (gone.status_code, gone.content) == (204, b"")
    assert list(kept.iterdir()) == []
    for again in (await client.get("/v1/adapters/project"), await client.delete("/v1/adapters/project")):
        assert "there are: none" in problem(again, 404, "not-found")
    refused = await client.post("/v1/prompt", files={"image": png()}, data=ASK | {"adapter": "project"})
    assert "there are: none" in problem(refused, 422, "invalid-prompt", "adapter")


async def test_adapters_mixed_in_one_request(
    client: httpx.AsyncClient, tiny: Checkpoint, folders: dict[str, Path]
) -> None:
    for name, folder in folders.items():
        await put(client, name, folder)
    prompts = [
        {"task": task, "num_beams": beams, **({"adapter": name} if name != "text" else {})}
        for name in folders
        for task in ("<OD>", "<CAPTION>")
        for beams in (1, 3)
    ]
    prompts.append({"task": "<OD>", "adapter": "nobody"})
    options = {"adapter": "text", "max_new_tokens": 20}  # `adapter` is for those that name none
    form = {"prompts": json.dumps(prompts), **options}
    plain = await client.post("/v1/prompt", files={"image": png()}, data=form)
    *results, unknown = plain.json()["results"]
    for prompt, result in zip(prompts, results, strict=False):
        name = str(prompt.get("adapter", "text"))
        assert result["adapter"] == name
        assert result["text"] == expected(tiny, folders[name], str(prompt["task"]), int(str(prompt["num_beams"])))
    assert (unknown["status"], unknown["field"]) == (422, "adapter")
    assert unknown["detail"].endswith("there are: text, tower")
    streamed = await client.post("/v1/prompt?stream=true", files={"image": png()}, data=form)
    last = json.loads(streamed.text.strip().split("data: ")[-1])["results"]
    assert [r["text"] for r in last[:-1]] == [r["text"] for r in results]


async def test_a_pickle_of_weights_and_the_hash(
    client: httpx.AsyncClient, tiny: Checkpoint, folders: dict[str, Path]
) -> None:
    saved = io.BytesIO()
    torch.save(load_file(folders["text"] / WEIGHTS), saved)
    files = files_of(folders["text"]) | {"weights": ("adapter_model.bin", saved.getvalue())}
    right = hashlib.sha256(saved.getvalue()).hexdigest()
    for sha256, status in (("0" * 64, 422), (right.upper(), 201)):
        answered = await client.put("/v1/adapters/a", files=files, data={"sha256": sha256})
        assert answered.status_code == status, answered.text
    assert await said(client, "a") == expected(tiny, folders["text"])


async def test_a_calibration_comes_with_its_adapter(
    client: httpx.AsyncClient, folders: dict[str, Path], kept: Path
) -> None:
    plain = (await put(client, "project", folders["text"])).json()
    content = {"adapter_sha256": plain["sha256"], "tasks": {"<OD>": {"kind": "temperature", "temperature": 2.0}}}
    files = files_of(folders["text"]) | {"calibration": ("calibration.json", json.dumps(content).encode())}
    answered = await client.put("/v1/adapters/project", files=files)
    assert answered.json() == plain | {"calibrated": ["<OD>"]}
    assert json.loads((kept / "project/calibration.json").read_text()) == content
    assert (await put(client, "project", folders["text"])).json() == plain  # without one it has none
    assert not (kept / "project/calibration.json").exists()


async def test_a_restart_has_the_same_adapters(
    tiny: Checkpoint, folders: dict[str, Path], kept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Engine(tiny) as first:
        async with running(first, kept) as client:
            for name, folder in (("a", "text"), ("b", "tower"), ("c", "text"), ("b", "text"), ("a", "tower")):
                await put(client, name, folders[folder])
            await client.delete("/v1/adapters/c")
            before = (await client.get("/v1/adapters")).json()
    for adapter in first.adapters():
        first.unload_adapter(adapter.name)
    # What a crash between the two steps of a replacement leaves, and in the middle of an upload.
    (kept / "a").rename(kept / ".old-a")
    shutil.copytree(kept / "b", kept / ".old-b")
    shutil.copytree(kept / "b", kept / ".part-x")
    # And what people leave.
    (kept / "empty").mkdir()
    shutil.copytree(kept / "b", kept / "with spaces")
    shutil.copytree(kept / "b", kept / "cut")
    (kept / "cut" / WEIGHTS).write_bytes((kept / "cut" / WEIGHTS).read_bytes()[:-9])
    (kept / "notes.txt").write_text("mine")
    (kept / "linked").symlink_to(folders["text"])
    with Engine(tiny) as second, caplog.at_level(logging.INFO):
        async with running(second, kept) as client:
            now = (await client.get("/v1/adapters")).json()["adapters"]
            assert [row for row in now if row["name"] != "linked"] == before["adapters"]
            for name, folder in (("a", "tower"), ("b", "text"), ("linked", "text")):
                assert await said(client, name) == expected(tiny, folders[folder])
            errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
            assert [message.split(": ")[0].split("/")[-1] for message in errors] == [
                f"{name} is not served" for name in ("cut", "empty", "with spaces")
            ]
            assert not [path for path in kept.iterdir() if path.name.startswith(".")]
            # A broken one is not to be removed as if it were served, and can be replaced.
            problem(await client.delete("/v1/adapters/cut"), 404, "not-found")
            assert (await put(client, "cut", folders["text"])).status_code == 201
            await client.delete("/v1/adapters/linked")
            assert not (kept / "linked").exists()
            assert (folders["text"] / WEIGHTS).exists()
    for adapter in second.adapters():
        second.unload_adapter(adapter.name)


async def test_without_a_folder_they_are_in_memory(
    engine: Engine, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    async with running(engine) as client:
        assert (await put(client, "a", folders["text"])).status_code == 201
        assert await said(client, "a")
        assert (await client.delete("/v1/adapters/a")).status_code == 204
        assert await names(client) == []
    assert list(tmp_path.iterdir()) == []


async def test_they_come_and_go_while_prompts_run(
    client: httpx.AsyncClient, tiny: Checkpoint, folders: dict[str, Path]
) -> None:
    """Each prompt is answered by one of them, whole, or told that there is none."""
    either = {expected(tiny, folder) for folder in folders.values()}
    over, seen = asyncio.Event(), set[str]()

    async def change(folder: Path, seconds: float) -> None:
        while not over.is_set():
            assert (await put(client, "project", folder)).status_code in (200, 201)
            await asyncio.sleep(seconds)

    async def remove() -> None:
        while not over.is_set():
            await asyncio.sleep(0.05)
            assert (await client.delete("/v1/adapters/project")).status_code in (204, 404)

    async def ask() -> None:
        for _ in range(8):
            answered = await client.post("/v1/prompt", files={"image": png()}, data=ASK | {"adapter": "project"})
            if answered.status_code == 200:
                seen.add(answered.json()["text"])
            else:
                problem(answered, 422, "invalid-prompt", "adapter")
                seen.add("")

    async with asyncio.TaskGroup() as group:
        for folder, seconds in zip(folders.values(), (0.01, 0.017), strict=True):
            group.create_task(change(folder, seconds))
        group.create_task(remove())
        asking = [group.create_task(ask()) for _ in range(6)]
        await asyncio.wait(asking)
        over.set()
    assert seen & either
    assert seen <= either | {""}
    await client.delete("/v1/adapters/project")
    while layers(tiny):
        await asyncio.sleep(0.01)


async def test_a_prompt_under_way_ends_on_the_adapter_it_began_with(
    client: httpx.AsyncClient, tiny: Checkpoint, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from server.engine.runner import Runner

    reached, opened, step = threading.Event(), threading.Event(), Runner.step

    def gated(runner: Runner) -> None:
        reached.set()
        assert opened.wait(60)
        step(runner)

    await put(client, "project", folders["tower"])
    monkeypatch.setattr(Runner, "step", gated)
    first = asyncio.create_task(said(client, "project"))
    assert await asyncio.to_thread(reached.wait, 60)
    assert (await put(client, "project", folders["text"])).status_code == 200
    second = asyncio.create_task(said(client, "project"))
    while len(layers(tiny)) != 2 or (await client.get("/metrics")).text.count("florist_queue_depth 1.0") != 1:
        await asyncio.sleep(0.01)
    assert (await client.delete("/v1/adapters/project")).status_code == 204
    opened.set()
    assert [await first, await second] == [expected(tiny, folders[name]) for name in ("tower", "text")]


async def test_the_server_answers_while_an_adapter_loads(
    client: httpx.AsyncClient, engine: Engine, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, really = threading.Event(), engine.load_adapter

    def slow(*arguments: Any) -> Any:
        assert opened.wait(60)
        return really(*arguments)

    monkeypatch.setattr(engine, "load_adapter", slow)
    loading = asyncio.create_task(put(client, "a", folders["text"]))
    await asyncio.sleep(0.05)
    assert await said(client)
    assert await names(client) == []
    assert not loading.done()
    opened.set()
    assert (await loading).status_code == 201


def config_with(**more: Any) -> Callable[[dict[str, Any]], None]:
    def change(files: dict[str, Any]) -> None:
        files["config"] = (CONFIG, json.dumps(json.loads(files["config"][1]) | more).encode())

    return change


def weights_are(made: Callable[[bytes], bytes], name: str = WEIGHTS) -> Callable[[dict[str, Any]], None]:
    def change(files: dict[str, Any]) -> None:
        files["weights"] = (name, made(files["weights"][1]))

    return change


def pickled(value: object) -> Callable[[dict[str, Any]], None]:
    def made(_: bytes) -> bytes:
        file = io.BytesIO()
        torch.save(value, file)
        return file.getvalue()

    return weights_are(made, "adapter_model.bin")


def bomb(data: bytes) -> bytes:
    """The same weights, and a part more that unpacks to a thousand times its size."""
    saved = io.BytesIO()
    torch.save(load(data), saved)
    with zipfile.ZipFile(saved, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/99", bytes(1 << 25))
    return saved.getvalue()


class Trap:
    """What a pickle may hold."""

    def __reduce__(self) -> Any:
        return (print, ("the trap is sprung",))


LAYER = "base_model.model.model.language_model.encoder.layers.0.fc1.lora_A.weight"
HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], Any], str, str | None, str]] = {
    "no config": (lambda f: f.pop("config"), "invalid-request", "config", "-F config=@adapter_config.json"),
    "no weights": (lambda f: f.pop("weights"), "invalid-request", "weights", "-F weights=@adapter_model.safetensors"),
    "an empty file": (weights_are(lambda _: b""), "invalid-request", "weights", "send it as a file"),
    "another file": (lambda f: f.update(readme=f.pop("config")), "invalid-request", "readme", "no such field"),
    "a field": (lambda f: f.update(config=(None, "{}")), "invalid-request", "config", "send it as a file"),
    "a hash": (lambda f: f.update(sha256=(None, "abc")), "invalid-request", "sha256", "64 hex digits"),
    "a file as hash": (lambda f: (f.pop("config"), f.update(sha256=("a", b"x"))), "invalid-request", "config", ""),
    "another hash": (lambda f: f.update(sha256=(None, "0" * 64)), "invalid-adapter", None, "SHA-256"),
    "no json": (lambda f: f.update(config=(CONFIG, b"\xff{")), "invalid-adapter", None, "cannot be read"),
    "deep json": (lambda f: f.update(config=(CONFIG, b"[" * 100_000)), "invalid-adapter", None, "cannot be read"),
    "not lora": (config_with(peft_type="IA3"), "invalid-adapter", None, "the only kind of adapter"),
    "other base": (config_with(florist_base_sha256="0" * 64), "invalid-adapter", None, "serve its own base"),
    "modules to save": (config_with(modules_to_save=["lm_head"]), "invalid-adapter", None, "modules_to_save"),
    "a long word": (config_with(**{"x" * 100_000: 1}), "invalid-adapter", None, "it sets xxx"),
    "rank": (config_with(r=5), "invalid-adapter", None, "of the shapes"),
    "a rank past floats": (config_with(r=10**400), "invalid-adapter", None, "for the r"),
    "a pattern without end": (
        config_with(rank_pattern={r"(.|..)*[^\w.]": 4}), "invalid-adapter", None, "rank_pattern",
    ),
    "cut short": (weights_are(lambda data: data[:-9]), "invalid-adapter", None, "it may be cut short"),
    "no tensors": (weights_are(lambda _: b"\x89PNG" * 99), "invalid-adapter", None, "it may be cut short"),
    "a huge header": (weights_are(lambda data: b"\xff" * 8 + data), "invalid-adapter", None, "it may be cut short"),
    "lm_head": (
        weights_are(lambda _: to_bytes({"base_model.model.lm_head.lora_A.weight": torch.ones(4, 32)})),
        "invalid-adapter", None, "lm_head, which shares its weights",
    ),
    "other shapes": (
        weights_are(lambda _: to_bytes({LAYER: torch.ones(4, 33)})), "invalid-adapter", None, "of the shapes",
    ),
    "a calibration of other weights": (
        lambda f: f.update(calibration=("c.json", b'{"adapter_sha256": "0", "tasks": {}}')),
        "invalid-adapter", None, "calibrate it again",
    ),
    "no calibration": (
        lambda f: f.update(calibration=("c.json", b"[" * 100_000)), "invalid-adapter", None, "calibrate it again",
    ),
    "a calibration of nothing": (
        lambda f: f.update(calibration=("c.json", b"")), "invalid-request", "calibration", "-F calibration=@",
    ),
    "a trap": (pickled({"a": Trap()}), "invalid-adapter", None, "cannot be read"),
    "a trap in disguise": (
        lambda f: (pickled({"a": Trap()})(f), f.update(weights=(WEIGHTS, f["weights"][1]))),
        "invalid-adapter", None, "cannot be read",
    ),
    "a bomb": (weights_are(bomb, "adapter_model.bin"), "invalid-adapter", None, "it unpacks to 33,"),
    "no pickle": (weights_are(lambda data: data, "adapter_model.bin"), "invalid-adapter", None, "cannot be read"),
    "a sparse tensor": (pickled({LAYER: torch.ones(4, 32).to_sparse()}), "invalid-adapter", None, "something other"),
    "a tensor of nothing": (pickled({LAYER: torch.ones(4, 32, device="meta")}), "invalid-adapter", None, "something"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
async def test_what_is_refused_changes_nothing(
    client: httpx.AsyncClient, folders: dict[str, Path], kept: Path, case: str, capfd: pytest.CaptureFixture[str]
) -> None:
    await put(client, "project", folders["text"])
    before, files = await said(client, "project"), files_of(folders["tower"])
    change, kind, field, words = HOSTILE[case]
    change(files)
    for name in ("project", "new"):
        detail = problem(await client.put(f"/v1/adapters/{name}", files=files), 422, kind, field)
        assert words in detail
        assert len(detail) <= 1000
    assert await names(client) == ["project"]
    assert await said(client, "project") == before
    assert [path.name for path in kept.iterdir()] == ["project"]
    assert "sprung" not in capfd.readouterr().out


@pytest.mark.parametrize("name", [".hidden", "-f", "a b", "ä", "a.", "x" * 65, "%2e%2e", "CON:", "a%00b", "a%0a"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_names_that_are_no_folder_s(
    client: httpx.AsyncClient, folders: dict[str, Path], kept: Path, method: str, name: str
) -> None:
    files = files_of(folders["text"]) if method == "PUT" else None
    answered = await client.request(method, f"/v1/adapters/{name}", files=files)
    assert "begins with a letter or digit" in problem(answered, 422, "invalid-request", "name")
    assert list(kept.iterdir()) == []


@pytest.mark.parametrize("name", ["a%2fb", "..%2f..%2fetc", "a/b", ""])
async def test_addresses_beyond(client: httpx.AsyncClient, folders: dict[str, Path], kept: Path, name: str) -> None:
    problem(await put(client, name, folders["text"]), 404, "not-found")
    assert list(kept.iterdir()) == []


async def test_sizes(tiny: Checkpoint, folders: dict[str, Path], kept: Path) -> None:
    size = (folders["text"] / WEIGHTS).stat().st_size
    files = files_of(folders["text"])
    with Engine(tiny, adapter_bytes=size) as engine:
        async with running(engine, kept, max_adapter_bytes=size, max_body_bytes=2048) as client:
            # Its body is larger than those of other routes may be.
            assert (await put(client, "a", folders["text"])).status_code == 201
            full = await put(client, "b", folders["text"])
            assert "unload another" in problem(full, 507, "no-room")
            assert (await put(client, "a", folders["text"])).status_code == 200
            long = files | {"weights": (WEIGHTS, files["weights"][1] + b"x")}
            problem(await client.put("/v1/adapters/a", files=long), 413, "too-large", "weights")
            long = files | {"config": (CONFIG, files["config"][1] + b" " * (1 << 20))}
            problem(await client.put("/v1/adapters/a", files=long), 413, "too-large", "config")
            body = b"x" * (size + (3 << 20))
            form = {"Content-Type": "multipart/form-data; boundary=x"}
            problem(await client.put("/v1/adapters/a", content=body, headers=form), 413, "too-large")
            for method, path in (("POST", "/v1/prompt"), ("POST", "/v1/adapters/a"), ("DELETE", "/v1/adapters/a")):
                problem(await client.request(method, path, content=b"x" * 2049), 413, "too-large")
            assert await names(client) == ["a"]
    engine.unload_adapter("a")


async def test_bodies_that_are_no_form(client: httpx.AsyncClient) -> None:
    problem(await client.put("/v1/adapters/a", json={}), 415, "unsupported-media-type")
    broken = {"Content-Type": "multipart/form-data; boundary=x"}
    problem(await client.put("/v1/adapters/a", content=b"nothing", headers=broken), 400, "bad-body")


async def test_a_folder_that_cannot_be_written(
    client: httpx.AsyncClient, tiny: Checkpoint, folders: dict[str, Path], kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(client, "a", folders["text"])

    def refuse(self: Path, target: Path) -> Path:
        if target.name in ("a", "b"):
            raise OSError(30, "Read-only file system", str(self))
        return original(self, target)

    original = Path.rename
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        for answered in (await put(client, "b", folders["tower"]), await client.delete("/v1/adapters/a")):
            assert "Read-only file system" in problem(answered, 507, "no-room")
    assert await names(client) == ["a"]
    shutil.rmtree(kept)
    problem(await put(client, "a", folders["tower"]), 507, "no-room")
    assert await said(client, "a") == expected(tiny, folders["text"])


async def test_a_replacement_that_cannot_be_kept(
    client: httpx.AsyncClient, tiny: Checkpoint, folders: dict[str, Path], kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(client, "a", folders["text"])
    original = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name.startswith(".part-"):
            raise OSError(28, "No space left on device", str(self))
        return original(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        problem(await put(client, "a", folders["tower"]), 507, "no-room")
    assert await said(client, "a") == expected(tiny, folders["text"])
    assert [path.name for path in kept.iterdir()] == ["a"]
    assert (kept / "a" / WEIGHTS).read_bytes() == (folders["text"] / WEIGHTS).read_bytes()


async def test_metrics(client: httpx.AsyncClient, folders: dict[str, Path]) -> None:
    made = [(await put(client, name, folder)).json() for name, folder in folders.items()]
    text = (await client.get("/metrics")).text
    assert "florist_adapters 2.0" in text
    assert f"florist_adapter_bytes {float(sum(row['bytes'] for row in made))}" in text
    assert 'route="/v1/adapters/{name}"' in text


async def test_a_key_is_needed(engine: Engine, folders: dict[str, Path]) -> None:
    key, hashed = new_key()
    async with running(engine, api_keys=(hashed,)) as client:
        for answered in (
            await put(client, "a", folders["text"]),
            await client.get("/v1/adapters"),
            await client.get("/v1/adapters/a"),
            await client.delete("/v1/adapters/a"),
        ):
            problem(answered, 401, "unauthorized")
        client.headers["X-API-Key"] = key
        assert (await put(client, "a", folders["text"])).status_code == 201


async def test_before_the_model_is_there(folders: dict[str, Path]) -> None:
    async with connected(create_app(Settings())) as client:  # it never starts
        for answered in (
            await put(client, "a", folders["text"]),
            await client.get("/v1/adapters"),
            await client.delete("/v1/adapters/a"),
        ):
            problem(answered, 503, "loading")


async def started(model: Path, kept: Path) -> tuple[str | None, list[str]]:
    """A server that loads its own model: what it failed for, or the adapters that it has."""
    app = create_app(Settings(model=str(model), device="cpu", adapters_folder=kept))
    async with app.router.lifespan_context(app), connected(app) as client:
        while (await client.get("/readyz")).json().get("type") == "urn:florist:problem:loading":
            await asyncio.sleep(0.01)
        failure = app.state.serving.failure
        return failure, [] if failure else await names(client)


async def test_a_server_loads_its_folder_before_it_is_ready(
    tiny: Checkpoint, folders: dict[str, Path], kept: Path, tmp_path: Path
) -> None:
    shutil.copytree(folders["text"], kept / "a")
    assert await started(tiny.folder, kept) == (None, ["a"])
    (tmp_path / "file").write_text("no folder")
    failure, _ = await started(tiny.folder, tmp_path / "file")
    assert failure is not None
    assert failure.startswith("FLORIST_ADAPTERS_FOLDER ")
    assert failure.endswith("file: File exists")
