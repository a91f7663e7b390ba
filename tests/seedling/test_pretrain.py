"""A run that was stopped goes on as if it had not been, and its log tells what it saw."""

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

from seedling import architecture
from seedling import pretrain as training
from seedling.initialization import Initial
from seedling.pretrain import Steps, train
from seedling.pretrainer import Teacher
from seedling.scenes.batches import TRAINING_SEEDS
from seedling.stages import STAGES, Stage

SIDE = 96
LOOK = Stage("look", 2, pictures=1, side=SIDE)
SPEAK = Stage("speak", 3, pictures=1, prompts=2, sigma=(10.0, 2.5), dense=0.3, cooldown=0.3, side=SIDE)

pytestmark = pytest.mark.usefixtures("one_thread")


class Killed(BaseException):
    """As a signal would: nothing catches it."""


def killed_at(function: Callable[..., Any], call: int) -> Callable[..., Any]:
    """`function`, but its `call`th call ends the run, after the work is done."""
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        result = function(*args, **kwargs)
        if calls == call:
            raise Killed
        return result

    return wrapped


def flat(state: Any, path: str = "") -> dict[str, Any]:
    if isinstance(state, dict | list):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {k: v for name, value in items for k, v in flat(value, f"{path}/{name}").items()}
    return {path: state}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("undisturbed")
    train(out, [LOOK, SPEAK], every=2, workers=0)
    return out


def test_stages_follow_each_other(words: PreTrainedTokenizerBase) -> None:
    steps = Steps([LOOK, SPEAK], words, 0)
    assert len(steps) == 5
    assert [steps.locate(s) for s in range(5)] == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    with pytest.raises(IndexError):
        steps.locate(5)
    assert len(steps[1].owner) == 0
    assert len(steps[2].owner) == 2
    assert not torch.equal(steps[0].pixels, steps[2].pixels)  # a stage never draws the other's pictures


def test_no_stage_of_any_seed_draws_anothers_scenes(words: PreTrainedTokenizerBase) -> None:
    stages = [stage for seed in range(12) for stage in Steps(list(STAGES), words, seed).batches]
    seeds = sorted(stage.seed for stage in stages)
    assert len(set(seeds)) == len(seeds)
    assert max(stage.steps * stage.pictures for stage in STAGES) < TRAINING_SEEDS


def test_places_without_order_grow_as_they_are(tmp_path: Path) -> None:
    stages = [replace(SPEAK, steps=1, rate=0.0, side=64), replace(SPEAK, steps=1, rate=0.0)]
    train(tmp_path, stages, ordered=False, every=1, workers=0)
    place = "model.multi_modal_projector.image_position_embed.row_embeddings.weight"
    begun = architecture.build(0, ordered=False, picture=64)[0].state_dict()[place]
    share = architecture.interpolation(architecture.middles(4), architecture.middles(6))
    made = torch.load(tmp_path / "state.pt", weights_only=True)["teacher"]
    for weights in (made["model"], made["average"]):
        torch.testing.assert_close(weights[place], share @ begun)


def test_a_killed_run_goes_on_bit_for_bit(undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kills: list[tuple[Any, str, int]] = [
        (Teacher, "step", 3),  # between saves
        (training, "snapshot", 1),  # at the save of step 4, the checkpoint new and the state old
        (torch, "save", 2),  # at the last save, the state not yet in its place
    ]
    for owner, name, call in kills:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, killed_at(getattr(owner, name), call))
            with pytest.raises(Killed):
                train(tmp_path, [LOOK, SPEAK], every=2, workers=0)
    train(tmp_path, [LOOK, SPEAK], every=2, workers=0)
    one, two = (flat(torch.load(out / "state.pt", weights_only=True)) for out in (undisturbed, tmp_path))
    assert one.keys() == two.keys()
    assert one["/step"] == 5
    for key, value in one.items():
        assert torch.equal(value, two[key]) if isinstance(value, Tensor) else value == two[key], key
    weights, again = (load_file(out / "checkpoint" / "model.safetensors") for out in (undisturbed, tmp_path))
    assert all(torch.equal(weights[key], again[key]) for key in weights)


def test_a_run_killed_where_pictures_grow_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = [replace(SPEAK, steps=1, side=64), SPEAK]
    train(tmp_path / "whole", stages, every=1, workers=0)
    for _ in range(2):  # at the first step of larger pictures, then at the one after that
        with monkeypatch.context() as patch:
            patch.setattr(Teacher, "step", killed_at(Teacher.step, 2))
            with pytest.raises(Killed):
                train(tmp_path / "parts", stages, every=1, workers=0)
    train(tmp_path / "parts", stages, every=1, workers=0)
    one, two = (flat(torch.load(tmp_path / out / "state.pt", weights_only=True)) for out in ("whole", "parts"))
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert torch.equal(value, two[key]) if isinstance(value, Tensor) else value == two[key], key
    config = json.loads((tmp_path / "parts" / "checkpoint" / "config.json").read_text())
    assert config["vision_config"]["max_position_embeddings"] == 6


def test_a_run_takes_up_weights_of_smaller_pictures(undisturbed: Path, tmp_path: Path) -> None:
    train(tmp_path, [replace(SPEAK, steps=1, rate=0.0, side=128)], init=undisturbed / "checkpoint", every=1, workers=0)
    begun, made = (load_file(out / "checkpoint" / "model.safetensors") for out in (undisturbed, tmp_path))
    places = {name for name in begun if "position" in name and not torch.equal(begun[name], made[name])}
    assert {name for name in begun if not torch.equal(begun[name], made[name])} == places
    assert len(places) == 3  # of rows, of columns, of the encoder
    config = json.loads((tmp_path / "checkpoint" / "config.json").read_text())
    assert config["vision_config"]["max_position_embeddings"] == 8


def test_state_holds_what_a_run_in_progress_will_look_for(undisturbed: Path) -> None:
    state = torch.load(undisturbed / "state.pt", weights_only=True)
    assert state.keys() == {"step", "teacher"}
    assert state["teacher"].keys() == {"model", "heads", "optimizers", "average"}
    changed = [
        not torch.equal(state["teacher"]["model"][k], v)
        for k, v in architecture.build(0, picture=SIDE)[0].state_dict().items()
    ]
    assert sum(changed) > 0.9 * len(changed)
    assert [s["name"] for s in json.loads((undisturbed / "run.json").read_text())["stages"]] == ["look", "speak"]


def test_the_log_tells_means_since_its_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(_: Teacher, batch: int, stage: Stage, within: int) -> dict[str, float]:
        return {"total": float(batch)} | ({"text": float(within)} if stage.prompts else {})

    monkeypatch.setattr(Steps, "__getitem__", lambda self, number: number)
    monkeypatch.setattr(Teacher, "step", killed_at(step, 35))
    stages = [replace(LOOK, steps=40), replace(SPEAK, steps=60)]
    with pytest.raises(Killed):
        train(tmp_path, stages, every=30, workers=0)
    monkeypatch.setattr(Teacher, "step", step)
    train(tmp_path, stages, every=1000, workers=0)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["step"], line["stage"]) for line in lines] == [(50, "speak"), (100, "speak")]
    assert [line["total"] for line in lines] == [39.5, 74.5]  # the first since step 30, where the run went on
    assert [line["text"] for line in lines] == [4.5, 34.5]


def test_another_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    train(tmp_path, [replace(LOOK, steps=1)], every=1, workers=0)
    with pytest.raises(SystemExit, match="holds another run"):
        train(tmp_path, [replace(LOOK, steps=2)], every=1, workers=0)
    (tmp_path / "run.json").unlink()  # as the message says
    train(tmp_path, [replace(LOOK, steps=2)], every=1, workers=0)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 2


def test_first_values_are_part_of_what_a_run_is(tmp_path: Path) -> None:
    stages = [replace(LOOK, steps=1)]
    train(tmp_path, stages, init=Initial.HE, ordered=False, every=1, workers=0)
    run = json.loads((tmp_path / "run.json").read_text())
    assert (run["init"], run["ordered"]) == ("he", False)
    for other in ({}, {"init": Initial.HE}, {"ordered": False}):
        with pytest.raises(SystemExit, match="holds another run"):
            train(tmp_path, stages, **other, every=1, workers=0)


def test_a_run_that_said_nothing_of_first_values_goes_on(undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    before = json.loads(path.read_text())
    path.write_text(json.dumps({name: before[name] for name in ("seed", "stages")} | {"init": None}))
    train(tmp_path / "run", [LOOK, SPEAK], every=2, workers=0)
    assert json.loads(path.read_text()) == before


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(training.main)
    ended = CliRunner().invoke(app, ["--out", str(tmp_path / "run"), "--init", "orthogonal"], env={"COLUMNS": "200"})
    assert ended.exit_code == 2
    assert "orthogonal is neither xavier nor he nor a folder" in ended.output
    options = ["--out", str(tmp_path / "run"), "--init", str(tmp_path), "--no-ordered"]
    ended = CliRunner().invoke(app, options, env={"COLUMNS": "200"})
    assert ended.exit_code == 2
    assert "a folder has its own" in ended.output
