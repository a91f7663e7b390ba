"""A run that was stopped continues exactly, and its log is correct."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from typer.testing import CliRunner

from seedling import architecture, resizing
from seedling import pretrain as training
from seedling.initialization import InitScheme
from seedling.pretrain import StageDataset, train
from seedling.pretrainer import Pretrainer
from seedling.scenes.batches import TRAINING_SEEDS
from seedling.stages import STAGES, Stage

SIDE = 96
DENSE = Stage("dense", 2, images=1, side=SIDE)
ANSWERS = Stage("answers", 3, images=1, prompts=2, sigma=(10.0, 2.5), dense_weight=0.3, cooldown=0.3, side=SIDE)

pytestmark = pytest.mark.usefixtures("one_thread")


class KilledError(BaseException):
    """Ends a run like a signal: nothing catches it."""


def kill_at(function: Callable[..., Any], call: int) -> Callable[..., Any]:
    """Returns `function` so that call number `call` ends the run after the work is done."""
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        result = function(*args, **kwargs)
        if calls == call:
            raise KilledError
        return result

    return wrapped


def flatten(state: Any, path: str = "") -> dict[str, Any]:
    if isinstance(state, dict | list):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {k: v for name, value in items for k, v in flatten(value, f"{path}/{name}").items()}
    return {path: state}


@pytest.fixture(scope="module")
def complete_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("complete_run")
    train(out, [DENSE, ANSWERS], save_every=2, workers=0)
    return out


def test_steps_are_mapped_to_stages(tokenizer: PreTrainedTokenizerBase) -> None:
    dataset = StageDataset([DENSE, ANSWERS], tokenizer, 0)
    assert len(dataset) == 5
    assert [dataset.locate(s) for s in range(5)] == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    with pytest.raises(IndexError):
        dataset.locate(5)
    assert len(dataset[1].owner) == 0
    assert len(dataset[2].owner) == 2
    assert not torch.equal(dataset[0].pixels, dataset[2].pixels)  # stages never share images


def test_stages_and_seeds_never_share_scenes(tokenizer: PreTrainedTokenizerBase) -> None:
    batches = [
        stage_batches for seed in range(12) for stage_batches in StageDataset(list(STAGES), tokenizer, seed).batches
    ]
    seeds = sorted(stage_batches.seed for stage_batches in batches)
    assert len(set(seeds)) == len(seeds)
    assert max(stage.steps * stage.images for stage in STAGES) < TRAINING_SEEDS


def test_unordered_positions_are_interpolated_directly(tmp_path: Path) -> None:
    stages = [replace(ANSWERS, steps=1, learning_rate=0.0, side=64), replace(ANSWERS, steps=1, learning_rate=0.0)]
    train(tmp_path, stages, ordered=False, save_every=1, workers=0)
    name = "model.multi_modal_projector.image_position_embed.row_embeddings.weight"
    start = architecture.build_model(0, ordered=False, image_side=64)[0].state_dict()[name]
    interpolation = resizing.compute_interpolation_weights(
        architecture.compute_cell_centers(4), architecture.compute_cell_centers(6)
    )
    state = torch.load(tmp_path / "state.pt", weights_only=True)["trainer"]
    for weights in (state["model"], state["average"]):
        torch.testing.assert_close(weights[name], interpolation @ start)


def test_a_killed_run_continues_bit_for_bit(
    complete_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills: list[tuple[Any, str, int]] = [
        (Pretrainer, "train_step", 3),  # between saves
        (Pretrainer, "save_average", 1),  # at the save of step 4: new checkpoint, old state
        (torch, "save", 2),  # at the last save, before the state is in place
    ]
    for owner, name, call in kills:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, kill_at(getattr(owner, name), call))
            with pytest.raises(KilledError):
                train(tmp_path, [DENSE, ANSWERS], save_every=2, workers=0)
    train(tmp_path, [DENSE, ANSWERS], save_every=2, workers=0)
    one, two = (flatten(torch.load(out / "state.pt", weights_only=True)) for out in (complete_run, tmp_path))
    assert one.keys() == two.keys()
    assert one["/step"] == 5
    for key, value in one.items():
        assert torch.equal(value, two[key]) if isinstance(value, Tensor) else value == two[key], key
    weights, again = (load_file(out / "checkpoint" / "model.safetensors") for out in (complete_run, tmp_path))
    assert all(torch.equal(weights[key], again[key]) for key in weights)


@pytest.mark.slow
def test_a_run_killed_at_a_change_of_image_size_continues_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = [replace(ANSWERS, steps=1, side=64), ANSWERS]
    train(tmp_path / "whole", stages, save_every=1, workers=0)
    for _ in range(2):  # at the first step with larger images, then at the next one
        with monkeypatch.context() as patch:
            patch.setattr(Pretrainer, "train_step", kill_at(Pretrainer.train_step, 2))
            with pytest.raises(KilledError):
                train(tmp_path / "parts", stages, save_every=1, workers=0)
    train(tmp_path / "parts", stages, save_every=1, workers=0)
    one, two = (flatten(torch.load(tmp_path / out / "state.pt", weights_only=True)) for out in ("whole", "parts"))
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert torch.equal(value, two[key]) if isinstance(value, Tensor) else value == two[key], key
    config = json.loads((tmp_path / "parts" / "checkpoint" / "config.json").read_text())
    assert config["vision_config"]["max_position_embeddings"] == 6


def test_a_run_starts_from_a_checkpoint_of_smaller_images(complete_run: Path, tmp_path: Path) -> None:
    train(
        tmp_path,
        [replace(ANSWERS, steps=1, learning_rate=0.0, side=128)],
        init=complete_run / "checkpoint",
        save_every=1,
        workers=0,
    )
    start, result = (load_file(out / "checkpoint" / "model.safetensors") for out in (complete_run, tmp_path))
    positions = {name for name in start if "position" in name and not torch.equal(start[name], result[name])}
    assert {name for name in start if not torch.equal(start[name], result[name])} == positions
    assert len(positions) == 3  # of rows, columns and the encoder
    config = json.loads((tmp_path / "checkpoint" / "config.json").read_text())
    assert config["vision_config"]["max_position_embeddings"] == 8


def test_the_state_has_the_expected_content(complete_run: Path) -> None:
    state = torch.load(complete_run / "state.pt", weights_only=True)
    assert state.keys() == {"step", "trainer"}
    assert state["trainer"].keys() == {"model", "heads", "optimizers", "average"}
    changed = [
        not torch.equal(state["trainer"]["model"][k], v)
        for k, v in architecture.build_model(0, image_side=SIDE)[0].state_dict().items()
    ]
    assert sum(changed) > 0.9 * len(changed)
    assert [s["name"] for s in json.loads((complete_run / "run.json").read_text())["stages"]] == ["dense", "answers"]


def test_the_log_holds_means_since_its_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train_step(_: Pretrainer, batch: int, stage: Stage, step: int) -> dict[str, float]:
        return {"total": float(batch)} | ({"text": float(step)} if stage.prompts else {})

    monkeypatch.setattr(StageDataset, "__getitem__", lambda self, number: number)
    monkeypatch.setattr(Pretrainer, "train_step", kill_at(train_step, 35))
    stages = [replace(DENSE, steps=40), replace(ANSWERS, steps=60)]
    with pytest.raises(KilledError):
        train(tmp_path, stages, save_every=30, workers=0)
    monkeypatch.setattr(Pretrainer, "train_step", train_step)
    train(tmp_path, stages, save_every=1000, workers=0)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["step"], line["stage"]) for line in lines] == [(50, "answers"), (100, "answers")]
    assert [line["total"] for line in lines] == [
        39.5,
        74.5,
    ]  # the first line covers the steps since 30, where the run continued
    assert [line["text"] for line in lines] == [4.5, 34.5]


def test_another_run_in_the_folder_is_rejected(tmp_path: Path) -> None:
    train(tmp_path, [replace(DENSE, steps=1)], save_every=1, workers=0)
    with pytest.raises(SystemExit, match="holds another run"):
        train(tmp_path, [replace(DENSE, steps=2)], save_every=1, workers=0)
    (tmp_path / "run.json").unlink()  # as the message suggests
    train(tmp_path, [replace(DENSE, steps=2)], save_every=1, workers=0)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 2


def test_a_run_is_identified_by_its_initial_weights_too(tmp_path: Path) -> None:
    stages = [replace(DENSE, steps=1)]
    train(tmp_path, stages, init=InitScheme.HE, ordered=False, save_every=1, workers=0)
    run = json.loads((tmp_path / "run.json").read_text())
    assert (run["init"], run["ordered"]) == ("he", False)
    for other in ({}, {"init": InitScheme.HE}, {"ordered": False}):
        with pytest.raises(SystemExit, match="holds another run"):
            train(tmp_path, stages, **other, save_every=1, workers=0)


def test_a_run_without_a_record_of_initial_weights_continues(complete_run: Path, tmp_path: Path) -> None:
    shutil.copytree(complete_run, tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    before = json.loads(path.read_text())
    path.write_text(json.dumps({name: before[name] for name in ("seed", "stages")} | {"init": None}))
    train(tmp_path / "run", [DENSE, ANSWERS], save_every=2, workers=0)
    assert json.loads(path.read_text()) == before


def test_a_missing_folder_is_rejected(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(training.main)
    ended = CliRunner().invoke(app, ["--out", str(tmp_path / "run"), "--init", "orthogonalize"], env={"COLUMNS": "200"})
    assert ended.exit_code == 2
    assert "orthogonalize is neither xavier nor he nor a folder" in ended.output
    options = ["--out", str(tmp_path / "run"), "--init", str(tmp_path), "--no-ordered"]
    ended = CliRunner().invoke(app, options, env={"COLUMNS": "200"})
    assert ended.exit_code == 2
    assert "a folder has its own" in ended.output
