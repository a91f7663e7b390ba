"""`florist tune` as a command: an adapter from a dataset, and an error message of one line for each mistake."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import typer
from click.testing import Result
from safetensors.torch import load_file
from typer.testing import CliRunner

from seedling.scenes.drawing import draw_scene
from server.cli.main import app
from server.cli.tune import NO_GAIN_STATUS
from server.cli.tune import tune as tune_command
from server.engine.engine import Engine
from tests.server.engine.tiny import create_tiny_model, save_checkpoint

QUICK = (
    "steps: 2\nbatch_size: 2\nprompts_per_image: 1\nframe: 1\nreplay_share: 0.5\nevaluate_every: 2\nmetric: loss\n"
    "frozen_stages: 4\n"
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six drawn scenes with their boxes, as COCO, with one inverted box and one truncated image."""
    folder = tmp_path_factory.mktemp("data")
    images, annotations, names = [], [], {}
    for number in range(6):
        scene = draw_scene(number, objects=(1, 2), words=(0, 0))
        scene.image.save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": scene.width, "height": scene.height})
        for item in scene.objects:
            x1, y1, x2, y2 = item.box
            category = names.setdefault(item.category, len(names) + 1)
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": category,
                                "bbox": [x1, y1, x2 - x1, y2 - y1]})  # fmt: skip
    file = (folder / "0.png").read_bytes()
    (folder / "truncated.png").write_bytes(file[: len(file) // 2])
    images.append({**images[0], "id": 6, "file_name": "truncated.png"})
    annotations.append({"id": 998, "image_id": 6, "category_id": 1, "bbox": [5, 5, 20, 10]})
    annotations.append({"id": 999, "image_id": 0, "category_id": 1, "bbox": [50, 50, -20, 10]})
    categories = [{"id": number, "name": name} for name, number in names.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "labels.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that shows a message in one line, and one CPU thread."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    torch.set_num_threads(1)


def tune(*arguments: str | Path) -> Result:
    app = typer.Typer()
    app.command()(tune_command)
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_an_adapter_is_trained(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "tune.yaml").write_text(QUICK.replace("frame: 1\n", ""))
    done = tune(
        dataset,
        "--out",
        tmp_path / "run",
        "--config",
        tmp_path / "tune.yaml",
        "--holdout-share",
        "0.3",
        "--no-forgetting",
    )
    assert done.exit_code == 0, done.stderr
    assert "4 training images, 2 in the holdout" in done.stdout
    assert "holdout loss: " in done.stdout
    assert "999" in done.stderr  # an unusable annotation
    assert "image 6: " in done.stderr
    with Engine.load() as engine:
        adapter = engine.load_adapter("mine", tmp_path / "run" / "adapter")
    assert adapter.adapts_vision is False
    labels = json.loads((dataset / "labels.json").read_text())
    assert set(adapter.class_list) == {category["name"] for category in labels["categories"]}
    assert (tmp_path / "run" / "curves.png").exists()
    assert re.search(r"classes \(training images\): \w+ \(\d\)", done.stdout)
    assert "classes are known to seedling" in done.stderr
    assert "fewer than 10" in done.stderr
    assert "total time: " in done.stdout
    assert "Warning" not in done.stderr


def test_a_run_that_gains_nothing_says_so_and_keeps_nothing(dataset: Path, tmp_path: Path) -> None:
    base, out = save_checkpoint(tmp_path / "base", create_tiny_model()), tmp_path / "run"
    settings = QUICK.replace("frame: 1\n", "").replace("metric: loss\n", "learning_rate: 1.0e-12\n")
    (tmp_path / "tune.yaml").write_text(settings)
    command = [dataset, "--out", out, "--config", tmp_path / "tune.yaml", "--base", base, "--holdout-share", "0.5"]
    done = tune(*command)
    assert done.exit_code == NO_GAIN_STATUS
    assert "no gain: holdout corrections per 100 labels: " in done.stdout
    assert "what to try:\n  - more st" in done.stdout
    assert "more images of " in done.stdout
    assert "no adapter is kept; the same command with --keep keeps that of step 2" in done.stdout
    assert not (out / "adapter").exists()
    record = json.loads((out / "run.json").read_text())
    assert record["gain"]["gained"] is False
    assert record["gain"]["advice"]

    kept = tune(*command, "--keep")  # without training again
    assert kept.exit_code == NO_GAIN_STATUS
    assert "no gain: " in kept.stdout
    assert (out / "adapter" / "adapter_model.safetensors").exists()
    assert json.loads((out / "adapter" / "class_list.json").read_text())["classes"]


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_same_images(dataset: Path, tmp_path: Path) -> None:
    settings = (
        "steps: 3\nbatch_size: 2\nprompts_per_image: 2\nreplay_share: 0\nfrozen_stages: 4\naccumulation_steps: {}\n"
    )
    options = (dataset, "--holdout-share", "0", "--no-forgetting")
    for name, batches in (("two", 1), ("one", 2)):  # in each process and step: both use two batches in a step
        (tmp_path / f"{name}.yaml").write_text(settings.format(batches))
    module = ("-m", "server.cli.tune", *options, "--out", tmp_path / "two", "--config", tmp_path / "two.yaml")
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    both = subprocess.run([*map(str, (*torchrun, *module))], capture_output=True, text=True, timeout=400)
    assert both.returncode == 0, both.stderr
    assert both.stdout.count("curves.png") == 2  # from each process
    alone = tune(*options, "--out", tmp_path / "one", "--config", tmp_path / "one.yaml")
    assert alone.exit_code == 0, alone.stderr
    one, two = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    trained = [name for name in one if "lora_B" in name]  # they are zero at first
    assert any(one[name].abs().max() > 1e-4 for name in trained)
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-5)
    assert not list(tmp_path.glob("two/.*"))  # nothing temporary


@pytest.mark.parametrize(
    ("tasks", "warned"), [([], True), (["<OD>", "<OPEN_VOCABULARY_DETECTION>"], True), (["<OD>", "<OCR>"], False)]
)
def test_missing_negatives_are_reported_for_search_tasks(
    one_class: Path, tmp_path: Path, tasks: list[str], warned: bool
) -> None:
    options = [part for task in tasks for part in ("--task", task)]
    done = tune(one_class, "--out", tmp_path / "run", "--base", "nowhere", *options)
    assert "there is no folder nowhere" in done.stderr
    assert ("every search finds something" in done.stderr) == warned


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no dataset 'nowhere'"),
        (["DATA", "--task", "<OOD>"], "no such task: '<OOD>'. Did you mean <OD>?"),
        (["DATA", "--holdout", "DATA", "--task", "<OCR>"], "6 images of the holdout are training images too"),
        (["DATA", "--base", "nowhere"], "there is no folder nowhere"),
        (["DATA", "--task", "<OCR>"], "the labels allow no training of <OCR>"),
        (["DATA", "--config", "CONFIG"], "frame: there is no such setting; the settings are base, tasks"),
    ],
)
def test_an_error_is_one_line(dataset: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "bad.yaml").write_text(QUICK)
    resolved = [{"DATA": dataset, "CONFIG": tmp_path / "bad.yaml"}.get(a, a) for a in arguments]
    done = tune(*resolved, "--out", tmp_path / "run")
    assert done.exit_code == 2
    assert message in done.stderr
    assert isinstance(done.exception, SystemExit)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_another_base_replays_a_dataset_and_measures_forgetting_on_it(
    dataset: Path, tmp_path: Path, method: str
) -> None:
    base = save_checkpoint(tmp_path / "base", create_tiny_model())
    (tmp_path / "tune.yaml").write_text(QUICK.replace("frame: 1", "anchor: kl"))
    done = tune(
        dataset, "--out", tmp_path / "run", "--config", tmp_path / "tune.yaml", "--base", base,
        "--replay-dataset", dataset, "--method", method,
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert "nothing is replayed" not in done.stderr
    assert f"added corrections per 100 labels on 1 images of {dataset}: " in done.stdout
    forgetting = json.loads((tmp_path / "run" / "forgetting.json").read_text())
    assert forgetting["before"].keys() == forgetting["after"].keys() == {"<OD>"}
    run = json.loads((tmp_path / "run" / "run.json").read_text())["run"]
    assert run["replayed"]
    assert run["config"]["replay_dataset"] == str(dataset)

    refused = tune(dataset, "--out", tmp_path / "other", "--config", tmp_path / "tune.yaml", "--base", base)
    assert refused.exit_code == 2
    assert "there is nothing to replay for this base: set replay_dataset" in refused.stderr


@pytest.mark.slow
def test_a_signal_stops_the_run_and_the_same_command_continues_it(dataset: Path, tmp_path: Path) -> None:
    base = save_checkpoint(tmp_path / "base", create_tiny_model())
    settings = (
        QUICK.replace("frame: 1\n", "")
        .replace("steps: 2", "steps: 4000")
        .replace("evaluate_every: 2", "evaluate_every: 4000")
    )
    (tmp_path / "tune.yaml").write_text(settings.replace("metric: loss", "metric: loss\nema_decay: 0"))
    log = tmp_path / "run" / "log.jsonl"
    command = [dataset, "--out", tmp_path / "run", "--config", tmp_path / "tune.yaml", "--base", base]

    def count_lines() -> int:
        return len(log.read_text().splitlines()) if log.exists() else 0

    def send_signal(number: signal.Signals, after: int) -> None:
        while count_lines() <= after:
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    for number in (signal.SIGTERM, signal.SIGINT):
        threading.Thread(target=send_signal, args=[number, count_lines() + 1], daemon=True).start()
        done = tune(*command)
        assert done.exit_code == 128 + number
        match = re.search(r"stopped after step (\d+); run the same command to continue", done.stderr)
        assert match is not None
        assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == int(match[1]) >= 10
        assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "stopped"
        steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
        assert steps == sorted(set(steps))  # no step is repeated


@pytest.fixture(scope="module")
def one_class(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve drawn scenes with the only class `thing`, as COCO.

    Every other image lacks the label of one object, so that some predictions are wrong. Eleven more boxes have no area.
    """
    folder = tmp_path_factory.mktemp("one")
    images, annotations = [], []
    for number in range(12):
        scene = draw_scene(100 + number, objects=(3, 4), words=(0, 0))
        scene.image.save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png"})
        for x1, y1, x2, y2 in (item.box for item in scene.objects[number % 2 :]):
            annotations.append({"image_id": number, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1]})
    annotations += [{"image_id": 0, "category_id": 1, "bbox": [5, 5, 0, 5]}] * 11
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (folder / "labels.json").write_text(json.dumps(content))
    return folder


def test_one_class_is_trained_calibrated_and_evaluated(one_class: Path, tmp_path: Path) -> None:
    settings = "steps: 2\nbatch_size: 1\nprompts_per_image: 2\nreplay_share: 0\nmetric: loss\nfrozen_stages: 4\n"
    (tmp_path / "tune.yaml").write_text(settings)
    tasks = ("--task", "<REGION_PROPOSAL>", "--task", "<OPEN_VOCABULARY_DETECTION>")
    run = tmp_path / "run"
    done = tune(
        one_class, "--out", run, "--config", tmp_path / "tune.yaml", "--holdout-share", "0.7", *tasks, "--no-forgetting"
    )
    assert done.exit_code == 0, done.stderr
    assert "no training image is known to lack 'thing'" in done.stderr
    assert done.stderr.count("left out: ") == 10
    assert f"… and 1 more: {run / 'unusable.txt'} will list all of them" in done.stderr
    assert len((run / "unusable.txt").read_text().splitlines()) == 11
    source = json.loads((run / "run.json").read_text())["source"]
    assert source == {"dataset": str(one_class), "holdout": None, "unusable": 11, "start_adapter": ""}

    with Engine.load() as engine:  # the calibration has the hash of the adapter
        loaded = engine.load_adapter("mine", run / "adapter")
    calibration = json.loads((run / "adapter" / "calibration.json").read_text())
    assert calibration["sha256"] == loaded.sha256
    assert calibration["tasks"].keys() == set(re.findall(r"scores of (<\w+>) calibrated: ", done.stdout))
    assert "<REGION_PROPOSAL>" in calibration["tasks"]

    adapter = str(run / "adapter")
    evaluated = CliRunner().invoke(app, ["evaluate", "seedling", str(one_class), *tasks, "--adapter", adapter])
    assert evaluated.exit_code == 0, evaluated.stderr
    assert "<OPEN_VOCABULARY_DETECTION> was only prompted for labels that are in the image" in evaluated.stderr
