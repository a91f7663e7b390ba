"""Adapters: token for token what PEFT says with each alone, in one batch with others; and loaded while requests run."""

import hashlib
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from prompts.tasks import TASKS
from server.engine.adapters.errors import AdapterError, UnknownAdapterError
from server.engine.adapters.registry import AdapterRegistry
from server.engine.checkpoints.conversion import to_microsoft_key
from server.engine.checkpoints.loading import Checkpoint
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.errors import (
    DeadlineExceededError,
    EngineClosedError,
    InvalidRequestError,
    OverloadedError,
    RequestCancelledError,
)
from server.engine.model.linear import LoraLinear
from server.engine.request import Request
from server.engine.runner import ModelRunner
from tests.server.engine import reference
from tests.server.engine.tiny import create_image, create_tiny_model

WAIT = 60.0
TEXT = r"model\.language_model\..*(q_proj|v_proj|fc1|fc2)"
EVERYTHING = r".*(q_proj|k_proj|v_proj|out_proj|fc1|fc2|qkv|proj|image_projection)"
RANKS = {"rank_pattern": {"fc1": 6, r"encoder\.layers\.0\..*q_proj": 2}, "alpha_pattern": {"fc2": 24, "qkv": 3}}
CONFIGS: dict[str, dict[str, Any]] = {
    "text": {"target_modules": TEXT},
    "all": {"target_modules": EVERYTHING, **RANKS},
    "stabilised": {"target_modules": ["k_proj", "out_proj", "qkv"], "r": 8, "use_rslora": True},
}


def save(folder: Path, seed: int = 1, std: float = 0.05, **config: Any) -> Path:
    """An adapter of the tiny model, trained by chance, as PEFT saves it."""
    torch.manual_seed(seed)
    network = get_peft_model(create_tiny_model(), LoraConfig(**({"r": 4, "lora_alpha": 8} | config)))
    with torch.no_grad():
        for name, value in network.named_parameters():
            if "lora_B" in name:
                value.normal_(std=std)
    network.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {name: save(root / name, seed, **config) for seed, (name, config) in enumerate(CONFIGS.items())}


@pytest.fixture
def engine(tiny: Checkpoint) -> Iterator[Engine]:
    with Engine(tiny, EngineConfig(max_batch=32, max_waiting=64)) as made:
        yield made
    assert not left(tiny, besides={a.key for a in made.adapters()})
    for adapter in made.adapters():
        made.unload_adapter(adapter.name)
    assert not left(tiny)


def left(checkpoint: Checkpoint, besides: set[str] | frozenset[str] = frozenset()) -> set[str]:
    """The adapters in the layers."""
    layers = [module for module in checkpoint.model.modules() if isinstance(module, LoraLinear)]
    return {key for layer in layers for key in layer.deltas} - besides


def ask(adapter: str | None, token: str = "<OD>", seed: int = 0, *, beams: int = 1, limit: int = 20) -> Request:
    return replace(reference.create_request(token, create_image(seed), beams=beams, limit=limit), adapter=adapter)


class Gate:
    """Holds the decoder before a step until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.open = threading.Event(), threading.Event()
        step = ModelRunner.step

        def gated(runner: ModelRunner) -> None:
            self.reached.set()
            assert self.open.wait(WAIT)
            step(runner)

        monkeypatch.setattr(ModelRunner, "step", gated)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


def test_one_batch_of_all_is_each_alone(engine: Engine, tiny: Checkpoint, folders: dict[str, Path], gate: Gate) -> None:
    for name, folder in folders.items():
        engine.load_adapter(name, folder)
    tokens = list(TASKS)
    # One waits in the decoder until all the others are there.
    first = engine.submit(ask(None, limit=3))
    assert gate.reached.wait(WAIT)
    asked = [
        ask(name, tokens[(3 * i + j) % len(tokens)], j % 2, beams=beams, limit=12 + 5 * j)
        for i, name in enumerate((None, *folders))
        for j, beams in enumerate((1, 3, 1, 3))
    ]
    handles = [engine.submit(request) for request in asked]
    gate.open.set()
    first.wait(WAIT)
    differ = set()
    for request, handle in zip(asked, handles, strict=True):
        result, folder = handle.wait(WAIT), folders.get(request.adapter or "")
        assert result.tokens == reference.generate(tiny, request, adapter=folder), (request.adapter, request.num_beams)
        forced = reference.compute_logprobs(tiny, request, result.tokens, folder)
        assert result.logprobs == pytest.approx(forced, abs=1e-4)
        if folder and result.tokens != reference.generate(tiny, request):
            differ.add(request.adapter)
    assert differ == set(folders)  # or this would test nothing
    assert engine.stats().rows > 3 * engine.stats().steps


def test_features_are_kept_by_tower(engine: Engine, folders: dict[str, Path]) -> None:
    loaded = {name: engine.load_adapter(name, folder) for name, folder in folders.items()}
    assert {name: adapter.vision for name, adapter in loaded.items()} == {
        "text": False,
        "all": True,
        "stabilised": True,
    }
    for name in (None, *folders) * 2:
        engine.submit(ask(name, limit=3)).wait(WAIT)
    assert (engine.stats().images, engine.stats().cache.hits) == (3, 5)  # base and text share theirs
    engine.load_adapter("all", folders["text"])
    engine.submit(ask("all", limit=3)).wait(WAIT)
    assert engine.stats().images == 3


def test_what_is_told_of_an_adapter(engine: Engine, folders: dict[str, Path]) -> None:
    told = engine.load_adapter("b", folders["all"])
    weights = folders["all"] / "adapter_model.safetensors"
    assert told.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    state = load_file(weights)
    assert told.bytes == sum(value.nbytes for value in state.values())
    assert (told.modules, told.rank, told.vision) == (len(state) // 2, 6, True)
    with pytest.raises(AdapterError, match="SHA-256"):
        engine.load_adapter("a", folders["text"], told.sha256)
    engine.load_adapter("a", folders["all"], told.sha256.upper())
    assert [adapter.name for adapter in engine.adapters()] == ["a", "b"]


def test_pickled_weights_and_microsofts_names(
    engine: Engine, tiny: Checkpoint, folders: dict[str, Path], tmp_path: Path
) -> None:
    """Both say the same as the file that PEFT saves by default."""
    folder = folders["all"]
    state = load_file(folder / "adapter_model.safetensors")
    for name in ("pickled", "microsoft"):
        (tmp_path / name).mkdir()
        shutil.copy(folder / "adapter_config.json", tmp_path / name)
    torch.save(state, tmp_path / "pickled" / "adapter_model.bin")

    def renamed(key: str) -> str:
        path, half, end = key.removeprefix("base_model.model.").rpartition(".lora_")
        if "image_projection" in path:  # no module there
            return key
        return "base_model.model." + to_microsoft_key(path + ".weight").removesuffix(".weight") + half + end

    theirs = {renamed(key): value for key, value in state.items()}
    assert theirs.keys() != state.keys()
    save_file(theirs, tmp_path / "microsoft" / "adapter_model.safetensors")
    request = ask("all", limit=20)
    expected = reference.generate(tiny, request, adapter=folder)
    for name in ("pickled", "microsoft"):
        engine.load_adapter("all", tmp_path / name)
        assert engine.submit(request).wait(WAIT).tokens == expected


def test_unloaded_while_it_runs(engine: Engine, tiny: Checkpoint, folders: dict[str, Path], gate: Gate) -> None:
    engine.load_adapter("all", folders["all"])
    running = engine.submit(ask("all"))
    assert gate.reached.wait(WAIT)
    waiting = engine.submit(ask("all", seed=1))
    engine.unload_adapter("all")
    assert engine.adapters() == []
    with pytest.raises(InvalidRequestError, match="there are: none") as refused:
        engine.submit(ask("all"))
    assert refused.value.field == "adapter"
    assert len(left(tiny)) == 1
    gate.open.set()
    for handle, request in ((running, ask("all")), (waiting, ask("all", seed=1))):
        assert handle.wait(WAIT).tokens == reference.generate(tiny, request, adapter=folders["all"])
    gone(tiny)
    with pytest.raises(UnknownAdapterError):
        engine.unload_adapter("all")


def gone(checkpoint: Checkpoint, kept: int = 0) -> None:
    """The worker lets go of an adapter just after it hands the answer over."""
    waited = threading.Event()
    for _ in range(1000):
        if len(left(checkpoint)) == kept:
            return
        waited.wait(0.01)
    raise AssertionError(left(checkpoint))


def test_replaced_while_it_runs(engine: Engine, tiny: Checkpoint, folders: dict[str, Path], gate: Gate) -> None:
    engine.load_adapter("project", folders["all"])
    old = engine.submit(ask("project"))
    assert gate.reached.wait(WAIT)
    engine.load_adapter("project", folders["stabilised"])
    new = engine.submit(ask("project"))
    assert len(engine.adapters()) == 1
    assert len(left(tiny)) == 2
    gate.open.set()
    for handle, name in ((old, "all"), (new, "stabilised")):
        assert handle.wait(WAIT).tokens == reference.generate(tiny, ask(name), adapter=folders[name])
    gone(tiny, kept=1)


def test_however_it_ends_an_adapter_is_let_go(
    tiny: Checkpoint, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    engine = Engine(tiny, EngineConfig(max_batch=2, max_waiting=4))
    engine.load_adapter("text", folders["text"])
    late = engine.submit(replace(ask("text"), timeout=0.01))
    assert gate.reached.wait(WAIT)
    cancelled = [engine.submit(ask("text")) for _ in range(4)]
    with pytest.raises(OverloadedError):
        engine.submit(ask("text"))
    with pytest.raises(InvalidRequestError):
        engine.submit(ask("text", limit=1000))
    for handle in cancelled:
        handle.cancel()
    closed = engine.submit(ask("text", limit=90))
    engine.unload_adapter("text")
    closing = threading.Thread(target=engine.close, kwargs={"drain": False})
    closing.start()
    while not engine.workers[0].loop.abort_all:
        threading.Event().wait(0.001)
    gate.open.set()
    closing.join(WAIT)
    for handle, error in (
        (late, (DeadlineExceededError, EngineClosedError)),
        (cancelled[0], RequestCancelledError),
        (closed, EngineClosedError),
    ):
        with pytest.raises(error):
            handle.wait(0)
    assert not left(tiny)
    with pytest.raises(InvalidRequestError):
        engine.submit(ask("text"))


def test_loading_beside_requests(engine: Engine, tiny: Checkpoint, folders: dict[str, Path]) -> None:
    """Adapters come and go under one name while others are asked: each answer is one of them, whole."""
    engine.load_adapter("project", folders["all"])
    request = ask("project", limit=10)
    either = [reference.generate(tiny, request, adapter=folders[name]) for name in ("all", "stabilised")]
    assert either[0] != either[1]
    over = threading.Event()

    def replacing() -> None:
        while not over.is_set():
            for name in ("stabilised", "all"):
                engine.load_adapter("project", folders[name])

    loader = threading.Thread(target=replacing)
    loader.start()
    try:
        for _ in range(5):
            for handle in [engine.submit(request) for _ in range(6)]:
                assert handle.wait(WAIT).tokens in either
    finally:
        over.set()
        loader.join(WAIT)
    gone(tiny, kept=1)


def test_room_is_for_what_is_in_the_layers(tiny: Checkpoint, folders: dict[str, Path]) -> None:
    adapters = AdapterRegistry([tiny.model], tiny.sha256, 1 << 20)
    adapters.capacity = 2 * adapters.load("a", folders["all"]).bytes - 1
    with pytest.raises(AdapterError, match=r"unload another"):
        adapters.load("b", folders["all"])
    adapters.load("a", folders["all"])  # one that nobody uses makes room for its successor
    held = adapters.acquire("a")
    with pytest.raises(AdapterError, match=r"unload another"):
        adapters.load("a", folders["all"])
    adapters.release(held.key)
    adapters.load("a", folders["text"])
    adapters.capacity = (folders["all"] / "adapter_model.safetensors").stat().st_size - 1
    with pytest.raises(AdapterError, match="--max-adapter-bytes"):
        adapters.load("a", folders["all"])
    adapters.unload("a")
    assert not left(tiny)


def state_with(**more: torch.Tensor) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        save_file(load_file(path) | {name.replace("__", "."): value for name, value in more.items()}, path)

    return change


def config_with(**more: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | more))

    return change


def weights_are(write: Callable[[Path], object]) -> Callable[[Path], None]:
    return lambda folder: write(folder / "adapter_model.safetensors") and None


def pickled(value: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "adapter_model.safetensors").unlink()
        torch.save(value, folder / "adapter_model.bin")

    return change


def one(value: torch.Tensor) -> Callable[[Path], None]:
    """Another value for one half of a pair."""
    return state_with(base_model__model__model__language_model__encoder__layers__0__fc1__lora_A__weight=value)


class Trap:
    """What a pickle may hold."""

    def __reduce__(self) -> Any:
        return (print, ("the trap is sprung",))


ROOT = "base_model__model__model__language_model__"
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "there is no adapter_config.json"),
    "no weights": (lambda f: (f / "adapter_model.safetensors").unlink(), "neither adapter_model.safetensors nor"),
    "no json": (lambda f: (f / "adapter_config.json").write_text("{"), "adapter_config.json cannot be read"),
    "not lora": (config_with(peft_type="IA3"), "the only kind of adapter"),
    "dora": (config_with(use_dora=True), "it sets use_dora"),
    "bias": (config_with(bias="all"), "it sets bias"),
    "lora bias": (config_with(lora_bias=True), "it sets lora_bias"),
    "modules to save": (config_with(modules_to_save=["norm1"]), "it sets modules_to_save"),
    "tokens": (config_with(trainable_token_indices=[5]), "it sets trainable_token_indices"),
    "parameters": (config_with(target_parameters=["a"]), "it sets target_parameters"),
    "something new": (config_with(use_tomorrow=True), "it sets use_tomorrow"),
    "pissa": (config_with(init_lora_weights="pissa_niter_4"), "changed its base too"),
    "other base": (config_with(florist_base_sha256="0" * 64), "serve its own base"),
    "rank": (config_with(r=5), r"of the shapes .* not \{'A': \(5.0, 32\)"),
    "alpha": (config_with(lora_alpha=float("nan")), "nan for the lora_alpha"),
    "alphas": (config_with(alpha_pattern={"(": 1}), "lora_alpha"),
    "ranks": (config_with(rank_pattern={"fc1": "x"}), "'x' for the r"),
    "dora's weights": (state_with(**{f"{ROOT}a__lora_magnitude_vector": torch.ones(3)}), "it is DoRA"),
    "bias's weights": (state_with(**{f"{ROOT}a__base_layer__bias": torch.ones(3)}), "it trains biases"),
    "a module's weights": (state_with(**{f"{ROOT}a__weight": torch.ones(3)}), "without modules_to_save"),
    "unknown": (state_with(**{f"{ROOT}encoder__layers__9__fc1__lora_A__weight": torch.ones(4, 32)}), "no matrix layer"),
    "shape": (one(torch.ones(4, 33)), "fc1 has LoRA weights of the shapes"),
    "not finite": (one(torch.full((4, 32), torch.inf)), "not finite"),
    "half": (pickled({"base_model.model.model.language_model.encoder.layers.0.fc1.lora_A.weight": torch.ones(4, 32)}),
             r"shapes \{'A': \(4, 32\)\}, not"),
    "nothing": (pickled({}), "it adapts nothing"),
    "no tensors": (pickled({"a": 1}), "something other than weights"),
    "integers": (pickled({"a": torch.ones(3, dtype=torch.int64)}), "something other than weights"),
    "trap": (pickled({"a": Trap()}), "cannot be read"),
    "cut short": (weights_are(lambda p: p.write_bytes(p.read_bytes()[:-9])), "it may be cut short"),
    "no file": (weights_are(lambda p: (p.unlink(), p.mkdir())), "neither"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(
    tiny: Checkpoint, folders: dict[str, Path], tmp_path: Path, case: str, capfd: pytest.CaptureFixture[str]
) -> None:
    change, said = REFUSED[case]
    folder = Path(shutil.copytree(folders["text"], tmp_path / "adapter"))
    adapters = AdapterRegistry([tiny.model], tiny.sha256, 1 << 20)
    adapters.load("before", folder)
    before = left(tiny)
    change(folder)
    with pytest.raises(AdapterError, match=said):
        adapters.load("before", folder)
    assert left(tiny) == before
    assert len(adapters.loaded()) == 1
    adapters.unload("before")
    assert "sprung" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"target_modules": ["q_proj", "lm_head"]}, "it adapts lm_head"),
        ({"target_modules": ["q_proj", "shared"]}, "it adapts embeddings"),
        ({"target_modules": ["q_proj", "conv"]}, "it adapts the convolution model.vision_tower"),
        ({"target_modules": ["q_proj"], "use_dora": True}, "it sets use_dora"),
        ({"target_modules": ["q_proj"], "bias": "lora_only"}, "it sets bias"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["row_embeddings"]}, "it sets modules_to_save"),
        ({"target_modules": ["q_proj"], "init_lora_weights": "olora"}, "changed its base too"),
    ],
    ids=str,
)
def test_what_peft_can_do_and_we_do_not(tiny: Checkpoint, tmp_path: Path, config: dict[str, Any], said: str) -> None:
    with pytest.raises(AdapterError, match=re.escape(said)):
        AdapterRegistry([tiny.model], tiny.sha256, 1 << 20).load("a", save(tmp_path / "a", **config))
    assert not left(tiny)


def test_the_base_that_it_names_is_enough(tiny: Checkpoint, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["text"], tmp_path / "adapter"))
    config_with(florist_base_sha256=tiny.sha256)(folder)
    adapters = AdapterRegistry([tiny.model], tiny.sha256, 1 << 20)
    adapters.load("a", folder)
    adapters.unload("a")
    assert reference.generate(tiny, ask("a"), adapter=folder)  # PEFT does not mind
