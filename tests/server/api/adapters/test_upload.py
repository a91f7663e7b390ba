"""The upload of adapters, also of malformed and malicious ones."""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load, load_file
from safetensors.torch import save as to_bytes

from server.engine.checkpoints.loading import Checkpoint
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from tests.server.api.adapters.adapter_client import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    ask,
    check_detail,
    connect_server,
    generate_expected,
    list_names,
    put_adapter,
    read_files,
)


async def test_weights_can_be_a_pickle_and_their_hash_is_checked(
    client: httpx.AsyncClient, tiny: Checkpoint, folders: dict[str, Path]
) -> None:
    saved = io.BytesIO()
    torch.save(load_file(folders["text"] / WEIGHTS_FILE), saved)
    files = read_files(folders["text"]) | {"weights": ("adapter_model.bin", saved.getvalue())}
    right = hashlib.sha256(saved.getvalue()).hexdigest()
    for sha256, status in (("0" * 64, 422), (right.upper(), 201)):
        response = await client.put("/v1/adapters/a", files=files, data={"sha256": sha256})
        assert response.status_code == status, response.text
    assert await ask(client, "a") == generate_expected(tiny, folders["text"])


def change_config(**more: Any) -> Callable[[dict[str, Any]], None]:
    def change(files: dict[str, Any]) -> None:
        files["config"] = (CONFIG_FILE, json.dumps(json.loads(files["config"][1]) | more).encode())

    return change


def replace_weights(created: Callable[[bytes], bytes], name: str = WEIGHTS_FILE) -> Callable[[dict[str, Any]], None]:
    def change(files: dict[str, Any]) -> None:
        files["weights"] = (name, created(files["weights"][1]))

    return change


def replace_with_pickle(value: object) -> Callable[[dict[str, Any]], None]:
    def created(_: bytes) -> bytes:
        file = io.BytesIO()
        torch.save(value, file)
        return file.getvalue()

    return replace_weights(created, "adapter_model.bin")


def create_bomb(data: bytes) -> bytes:
    """Returns a pickle of the same weights, with an additional part that unpacks to a thousand times its size."""
    saved = io.BytesIO()
    torch.save(load(data), saved)
    with zipfile.ZipFile(saved, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/99", bytes(1 << 25))
    return saved.getvalue()


class Trap:
    """An object whose unpickling runs code."""

    def __reduce__(self) -> Any:
        return (print, ("the trap has sprung",))


def create_header(tensors: dict[str, tuple[str, list[int], list[int]]] | None, text: str = "", size: int = 0) -> bytes:
    """Returns a safetensors file with this header, from tensors or from the text of a JSON object, and `size` bytes."""
    if tensors is not None:
        entries = {k: {"dtype": d, "shape": s, "data_offsets": o} for k, (d, s, o) in tensors.items()}
        text = json.dumps(entries)[1:-1]
    header = f"{{{text}}}".encode()
    return len(header).to_bytes(8, "little") + header + bytes(size)


def save_without_zip(data: bytes) -> bytes:
    file = io.BytesIO()
    torch.save(load(data), file, _use_new_zipfile_serialization=False)
    return file.getvalue()


ENTRY = '{"dtype": "F32", "shape": [4, 32], "data_offsets": [%d, %d]}'
LAYER = "base_model.model.model.language_model.encoder.layers.0.fc1.lora_A.weight"


INVALID_UPLOADS: dict[str, tuple[Callable[[dict[str, Any]], Any], str, str | None, str]] = {
    "no config": (lambda f: f.pop("config"), "invalid-request", "config", "-F config=@adapter_config.json"),
    "no weights": (lambda f: f.pop("weights"), "invalid-request", "weights", "-F weights=@adapter_model.safetensors"),
    "an empty file": (replace_weights(lambda _: b""), "invalid-request", "weights", "send it as a file"),
    "an unknown field": (lambda f: f.update(readme=f.pop("config")), "invalid-request", "readme", "no such field"),
    "a field instead of a file": (
        lambda f: f.update(config=(None, "{}")),
        "invalid-request", "config", "send it as a file",
    ),
    "a malformed hash": (lambda f: f.update(sha256=(None, "abc")), "invalid-request", "sha256", "64 hex digits"),
    "a file instead of a hash": (
        lambda f: (f.pop("config"), f.update(sha256=("a", b"x"))),
        "invalid-request", "config", "",
    ),
    "a wrong hash": (lambda f: f.update(sha256=(None, "0" * 64)), "invalid-adapter", None, "SHA-256"),
    "malformed JSON": (lambda f: f.update(config=(CONFIG_FILE, b"\xff{")), "invalid-adapter", None, "cannot be read"),
    "deeply nested JSON": (
        lambda f: f.update(config=(CONFIG_FILE, b"[" * 100_000)),
        "invalid-adapter", None, "cannot be read",
    ),
    "not lora": (change_config(peft_type="IA3"), "invalid-adapter", None, "the only kind of adapter"),
    "other base": (change_config(florist_base_sha256="0" * 64), "invalid-adapter", None, "serve its own base"),
    "modules to save": (change_config(modules_to_save=["lm_head"]), "invalid-adapter", None, "modules_to_save"),
    "a long name": (change_config(**{"x" * 100_000: 1}), "invalid-adapter", None, "it sets xxx"),
    "a wrong rank": (change_config(r=5), "invalid-adapter", None, "of shapes"),
    "a huge rank": (change_config(r=10**400), "invalid-adapter", None, "invalid r"),
    "a pattern that never ends": (
        change_config(rank_pattern={r"(.|..)*[^\w.]": 4}), "invalid-adapter", None, "rank_pattern",
    ),
    "truncated weights": (replace_weights(lambda data: data[:-9]), "invalid-adapter", None, "it may be truncated"),
    "no tensors": (replace_weights(lambda _: b"\x89PNG" * 99), "invalid-adapter", None, "it may be truncated"),
    "a huge header": (replace_weights(lambda data: b"\xff" * 8 + data), "invalid-adapter", None, "it may be truncated"),
    "lm_head": (
        replace_weights(lambda _: to_bytes({"base_model.model.lm_head.lora_A.weight": torch.ones(4, 32)})),
        "invalid-adapter", None, "lm_head, which shares its weights",
    ),
    "other shapes": (
        replace_weights(lambda _: to_bytes({LAYER: torch.ones(4, 33)})), "invalid-adapter", None, "of shapes",
    ),
    "a calibration of other weights": (
        lambda f: f.update(calibration=("c.json", b'{"adapter_sha256": "0", "tasks": {}}')),
        "invalid-adapter", None, "calibrate it again",
    ),
    "a malformed calibration": (
        lambda f: f.update(calibration=("c.json", b"[" * 100_000)), "invalid-adapter", None, "calibrate it again",
    ),
    "an empty calibration": (
        lambda f: f.update(calibration=("c.json", b"")), "invalid-request", "calibration", "-F calibration=@",
    ),
    "a pickle that runs code": (replace_with_pickle({"a": Trap()}), "invalid-adapter", None, "cannot be read"),
    "a pickle named safetensors": (
        lambda f: (replace_with_pickle({"a": Trap()})(f), f.update(weights=(WEIGHTS_FILE, f["weights"][1]))),
        "invalid-adapter", None, "cannot be read",
    ),
    "a decompression bomb": (
        replace_weights(create_bomb, "adapter_model.bin"),
        "invalid-adapter", None, "it unpacks to 33,",
    ),
    "a malformed pickle": (
        replace_weights(lambda data: data, "adapter_model.bin"),
        "invalid-adapter", None, "cannot be read",
    ),
    "a sparse tensor": (
        replace_with_pickle({LAYER: torch.ones(4, 32).to_sparse()}), "invalid-adapter", None,
        "must contain only weights",
    ),
    "weights that overflow": (
        replace_weights(lambda data: to_bytes({key: value * 1e20 for key, value in load(data).items()})),
        "invalid-adapter", None, "changes its weights, whose norm is",
    ),
    "one half that overflows": (
        replace_weights(lambda data: to_bytes({k: v * (1e30 if "_A" in k else 1e-30) for k, v in load(data).items()})),
        "invalid-adapter", None, "the training diverged, or the alpha is too large",
    ),
    "an alpha that overflows": (
        change_config(lora_alpha=1e300), "invalid-adapter", None, "the alpha is too large, so train it again",
    ),
    "an alpha that overflows with weights of zero": (
        lambda f: (
            change_config(lora_alpha=1e300)(f),
            replace_weights(lambda data: to_bytes({k: v * ("_A" in k) for k, v in load(data).items()}))(f),
        ),
        "invalid-adapter", None, "the alpha is too large",
    ),
    "weights that are not a number": (
        replace_weights(lambda data: to_bytes({key: value * float("nan") for key, value in load(data).items()})),
        "invalid-adapter", None, "weights that are not finite",
    ),
    "half a character in the config": (
        lambda f: f.update(config=(CONFIG_FILE, b'{"peft_type": "LORA", "\\ud800": 1}')),
        "invalid-adapter", None, "cannot be read",
    ),
    "half a character in a key": (
        replace_with_pickle({"\ud800": torch.ones(4, 32)}), "invalid-adapter", None, "must contain only weights",
    ),
    "a million tensors": (
        replace_weights(lambda _: create_header({f"t{i}": ("F32", [0], [0, 0]) for i in range(10_000)})),
        "invalid-adapter", None, "its header has",
    ),
    "a million tensors in a pickle": (
        replace_with_pickle({f"t{i}": torch.ones(0) for i in range(600)}), "invalid-adapter", None, "parts; the limit",
    ),
    "a long pickle": (replace_with_pickle({"a": "x" * 1_000_000}), "invalid-adapter", None, "its header has"),
    "an old pickle": (
        replace_weights(save_without_zip, "adapter_model.bin"), "invalid-adapter", None, "not a zip file",
    ),
    "a tensor that is larger than its storage": (
        replace_with_pickle({LAYER: torch.ones(1).expand(1 << 40, 32)}), "invalid-adapter", None, "of shapes",
    ),
    "a key twice": (
        replace_weights(
            lambda _: create_header(None, f'"{LAYER}": {ENTRY % (0, 512)}, "{LAYER}": {ENTRY % (512, 1024)}', 1024)
        ),
        "invalid-adapter", None, "cannot be read",
    ),
    "overlapping tensors": (
        replace_weights(lambda _: create_header(None, f'"{LAYER}": {ENTRY % (0, 512)}, "b": {ENTRY % (0, 512)}', 512)),
        "invalid-adapter", None, "cannot be read",
    ),
    "a tensor of declared terabytes": (
        replace_weights(lambda _: create_header({LAYER: ("F32", [1 << 40, 32], [0, 1 << 47])})),
        "invalid-adapter", None, "cannot be read",
    ),
    "many slow patterns": (
        change_config(rank_pattern={rf"(.|..){{{i}}}[^\w.]": 4 for i in range(900)}), "invalid-adapter", None,
        "takes too long to match",
    ),
    "a long pattern": (
        change_config(alpha_pattern={"a" * 100_000: 4}), "invalid-adapter", None, "takes too long to match",
    ),
    "a tensor without data": (
        replace_with_pickle({LAYER: torch.ones(4, 32, device="meta")}), "invalid-adapter", None, "must contain only",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", INVALID_UPLOADS)
async def test_an_invalid_upload_changes_nothing(
    client: httpx.AsyncClient,
    folders: dict[str, Path],
    saved_folder: Path,
    case: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    await put_adapter(client, "project", folders["text"])
    before, files = await ask(client, "project"), read_files(folders["vision"])
    change, kind, field, words = INVALID_UPLOADS[case]
    change(files)
    for name in ("project", "new"):
        detail = check_detail(await client.put(f"/v1/adapters/{name}", files=files), 422, kind, field)
        assert words in detail
        assert len(detail) <= 1000
    assert await list_names(client) == ["project"]
    assert await ask(client, "project") == before
    assert [path.name for path in saved_folder.iterdir()] == ["project"]
    assert "sprung" not in capfd.readouterr().out


@pytest.mark.parametrize("name", [".hidden", "-f", "a b", "ä", "a.", "x" * 65, "%2e%2e", "CON:", "a%00b", "a%0a"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_invalid_names_are_refused(
    client: httpx.AsyncClient, folders: dict[str, Path], saved_folder: Path, method: str, name: str
) -> None:
    files = read_files(folders["text"]) if method == "PUT" else None
    response = await client.request(method, f"/v1/adapters/{name}", files=files)
    assert "begins with a letter or digit" in check_detail(response, 422, "invalid-request", "name")
    assert list(saved_folder.iterdir()) == []


@pytest.mark.parametrize("name", ["a%2fb", "..%2f..%2fetc", "a/b", ""])
async def test_paths_outside_of_the_resource_are_not_found(
    client: httpx.AsyncClient, folders: dict[str, Path], saved_folder: Path, name: str
) -> None:
    check_detail(await put_adapter(client, name, folders["text"]), 404, "not-found")
    assert list(saved_folder.iterdir()) == []


async def test_sizes_are_limited(tiny: Checkpoint, folders: dict[str, Path], saved_folder: Path) -> None:
    size = (folders["text"] / WEIGHTS_FILE).stat().st_size
    files = read_files(folders["text"])
    with Engine(tiny, EngineConfig(max_adapter_bytes=size)) as engine:
        async with connect_server(engine, saved_folder, max_adapter_bytes=size, max_body_bytes=2048) as client:
            # Its body may be larger than the bodies of other routes.
            assert (await put_adapter(client, "a", folders["text"])).status_code == 201
            full = await put_adapter(client, "b", folders["text"])
            assert "unload another" in check_detail(full, 507, "insufficient-storage")
            assert (await put_adapter(client, "a", folders["text"])).status_code == 200
            long = files | {"weights": (WEIGHTS_FILE, files["weights"][1] + b"x")}
            check_detail(await client.put("/v1/adapters/a", files=long), 413, "too-large", "weights")
            long = files | {"config": (CONFIG_FILE, files["config"][1] + b" " * (1 << 20))}
            check_detail(await client.put("/v1/adapters/a", files=long), 413, "too-large", "config")
            body = b"x" * (size + (4 << 20))
            form = {"Content-Type": "multipart/form-data; boundary=x"}
            check_detail(await client.put("/v1/adapters/a", content=body, headers=form), 413, "too-large")
            for method, path in (("POST", "/v1/prompt"), ("POST", "/v1/adapters/a"), ("DELETE", "/v1/adapters/a")):
                check_detail(await client.request(method, path, content=b"x" * 2049), 413, "too-large")
            assert await list_names(client) == ["a"]
    engine.unload_adapter("a")


async def test_bodies_that_are_not_forms_are_refused(client: httpx.AsyncClient) -> None:
    check_detail(await client.put("/v1/adapters/a", json={}), 415, "unsupported-media-type")
    broken = {"Content-Type": "multipart/form-data; boundary=x"}
    check_detail(await client.put("/v1/adapters/a", content=b"nothing", headers=broken), 400, "bad-body")
