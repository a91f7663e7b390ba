"""`florist tune` from the outside: a dataset in, an adapter out; and each fault in one line."""

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
from server.cli.tune import tune as command
from server.engine.engine import Engine
from tests.server.engine.tiny import save, tiny_model

QUICK = "steps: 2\npictures: 2\nprompts: 1\nframe: 1\nreplay: 0.5\nevaluate: 2\nmetric: loss\nfrozen_stages: 4\n"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six drawn scenes with their boxes, as COCO; one box more is turned inside out, and one picture is cut short."""
    folder = tmp_path_factory.mktemp("data")
    images, notes, names = [], [], {}
    for number in range(6):
        scene = draw_scene(number, objects=(1, 2), words=(0, 0))
        scene.image.save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": scene.width, "height": scene.height})
        for thing in scene.objects:
            x1, y1, x2, y2 = thing.box
            category = names.setdefault(thing.category, len(names) + 1)
            notes.append({"id": len(notes) + 1, "image_id": number, "category_id": category,
                          "bbox": [x1, y1, x2 - x1, y2 - y1]})  # fmt: skip
    whole = (folder / "0.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    images.append({**images[0], "id": 6, "file_name": "cut.png"})
    notes.append({"id": 998, "image_id": 6, "category_id": 1, "bbox": [5, 5, 20, 10]})
    notes.append({"id": 999, "image_id": 0, "category_id": 1, "bbox": [50, 50, -20, 10]})
    categories = [{"id": number, "name": name} for name, number in names.items()]
    (folder / "labels.json").write_text(json.dumps({"images": images, "annotations": notes, "categories": categories}))
    return folder


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal in which a fault is one line; a processor of which others need the other cores."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    torch.set_num_threads(1)


def tune(*arguments: str | Path) -> Result:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_an_adapter_in_minutes(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "tune.yaml").write_text(QUICK.replace("frame: 1\n", ""))
    done = tune(
        dataset, "--out", tmp_path / "run", "--config", tmp_path / "tune.yaml", "--held-share", "0.3", "--no-price"
    )
    assert done.exit_code == 0, done.stderr
    assert "4 pictures taught, 2 held out" in done.stdout
    assert "held-out loss: " in done.stdout
    assert "999" in done.stderr  # what was left out
    assert "image 6: " in done.stderr
    with Engine.load() as engine:
        assert engine.load_adapter("mine", tmp_path / "run" / "adapter").vision is False
    assert (tmp_path / "run" / "curves.png").exists()


def test_two_processes_learn_what_one_does_from_the_same_pictures(dataset: Path, tmp_path: Path) -> None:
    settings = "steps: 3\npictures: 2\nprompts: 2\nreplay: 0\nfrozen_stages: 4\naccumulation: {}\n"
    given = (dataset, "--held-share", "0", "--no-price")
    for name, lessons in (("two", 1), ("one", 2)):  # a process and step: both see two lessons at each step
        (tmp_path / f"{name}.yaml").write_text(settings.format(lessons))
    module = ("-m", "server.cli.tune", *given, "--out", tmp_path / "two", "--config", tmp_path / "two.yaml")
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    both = subprocess.run([*map(str, (*torchrun, *module))], capture_output=True, text=True, timeout=400)
    assert both.returncode == 0, both.stderr
    assert both.stdout.count("curves.png") == 2  # each process came to its end
    alone = tune(*given, "--out", tmp_path / "one", "--config", tmp_path / "one.yaml")
    assert alone.exit_code == 0, alone.stderr
    one, two = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    learned = [name for name in one if "lora_B" in name]  # they begin as zeros
    assert any(one[name].abs().max() > 1e-4 for name in learned)
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-5)
    assert not list(tmp_path.glob("two/.*"))  # nothing half done


@pytest.mark.parametrize(
    ("tasks", "told"), [([], True), (["<OD>", "<OPEN_VOCABULARY_DETECTION>"], True), (["<OD>", "<OCR>"], False)]
)
def test_that_nothing_is_looked_for_in_vain_is_told_where_something_is_looked_for(
    one_class: Path, tmp_path: Path, tasks: list[str], told: bool
) -> None:
    asked = [part for task in tasks for part in ("--task", task)]
    done = tune(one_class, "--out", tmp_path / "run", "--base", "nowhere", *asked)
    assert "there is no folder nowhere" in done.stderr
    assert ("what is looked for is always there" in done.stderr) == told


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "there is no dataset 'nowhere'"),
        (["DATA", "--task", "<OOD>"], "no such task: '<OOD>'. Did you mean <OD>?"),
        (["DATA", "--held", "DATA", "--task", "<OCR>"], "6 of the held-out pictures are taught too"),
        (["DATA", "--base", "nowhere"], "there is no folder nowhere"),
        (["DATA", "--task", "<OCR>"], "the labels teach none of <OCR>"),
        (["DATA", "--config", "CONFIG"], "frame: Extra inputs are not permitted; there are base, tasks"),
    ],
)
def test_a_fault_is_one_line(dataset: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "bad.yaml").write_text(QUICK)
    given = [{"DATA": dataset, "CONFIG": tmp_path / "bad.yaml"}.get(a, a) for a in arguments]
    done = tune(*given, "--out", tmp_path / "run")
    assert done.exit_code == 2
    assert said in done.stderr
    assert isinstance(done.exception, SystemExit)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_another_base_replays_a_dataset_and_tells_by_it_what_it_forgets(
    dataset: Path, tmp_path: Path, method: str
) -> None:
    base = save(tmp_path / "base", tiny_model())
    (tmp_path / "tune.yaml").write_text(QUICK.replace("frame: 1", "anchor: kl"))
    done = tune(
        dataset, "--out", tmp_path / "run", "--config", tmp_path / "tune.yaml", "--base", base, "--replay", dataset,
        "--method", method,
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert "nothing is replayed" not in done.stderr
    assert f"corrections per 100 labels more on 1 pictures of {dataset}: " in done.stdout
    forgotten = json.loads((tmp_path / "run" / "forgetting.json").read_text())
    assert forgotten["before"].keys() == forgotten["after"].keys() == {"<OD>"}
    run = json.loads((tmp_path / "run" / "run.json").read_text())["run"]
    assert run["replayed"]
    assert run["config"]["replay_from"] == str(dataset)

    refused = tune(dataset, "--out", tmp_path / "other", "--config", tmp_path / "tune.yaml", "--base", base)
    assert refused.exit_code == 2
    assert "nothing is at hand to replay for this base: name a dataset" in refused.stderr


@pytest.mark.slow
def test_a_signal_ends_it_when_the_step_is_kept_and_the_same_command_goes_on(dataset: Path, tmp_path: Path) -> None:
    base = save(tmp_path / "base", tiny_model())
    settings = (
        QUICK.replace("frame: 1\n", "").replace("steps: 2", "steps: 4000").replace("evaluate: 2", "evaluate: 4000")
    )
    (tmp_path / "tune.yaml").write_text(settings.replace("metric: loss", "metric: loss\nema: 0"))
    log = tmp_path / "run" / "log.jsonl"
    command = [dataset, "--out", tmp_path / "run", "--config", tmp_path / "tune.yaml", "--base", base]

    def lines() -> int:
        return len(log.read_text().splitlines()) if log.exists() else 0

    def signalled(number: signal.Signals, after: int) -> None:
        while lines() <= after:
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    for number in (signal.SIGTERM, signal.SIGINT):
        threading.Thread(target=signalled, args=[number, lines() + 1], daemon=True).start()
        done = tune(*command)
        assert done.exit_code == 128 + number
        said = re.search(r"stopped after step (\d+), and kept; the same command goes on", done.stderr)
        assert said is not None
        assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == int(said[1]) >= 10
        assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "stopped"
        steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
        assert steps == sorted(set(steps))  # no step is done again


@pytest.fixture(scope="module")
def one_class(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve drawn scenes whose things are all called `thing`, as COCO, but for one that every other picture lacks, so
    that who finds it is wrong; eleven boxes more have no area."""
    folder = tmp_path_factory.mktemp("one")
    images, notes = [], []
    for number in range(12):
        scene = draw_scene(100 + number, objects=(3, 4), words=(0, 0))
        scene.image.save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png"})
        for x1, y1, x2, y2 in (thing.box for thing in scene.objects[number % 2 :]):
            notes.append({"image_id": number, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1]})
    notes += [{"image_id": 0, "category_id": 1, "bbox": [5, 5, 0, 5]}] * 11
    content = {"images": images, "annotations": notes, "categories": [{"id": 1, "name": "thing"}]}
    (folder / "labels.json").write_text(json.dumps(content))
    return folder


def test_labels_of_one_class_are_tuned_calibrated_and_evaluated(one_class: Path, tmp_path: Path) -> None:
    settings = "steps: 2\npictures: 1\nprompts: 2\nreplay: 0\nmetric: loss\nfrozen_stages: 4\n"
    (tmp_path / "tune.yaml").write_text(settings)
    tasks = ("--task", "<REGION_PROPOSAL>", "--task", "<OPEN_VOCABULARY_DETECTION>")
    run = tmp_path / "run"
    done = tune(
        one_class, "--out", run, "--config", tmp_path / "tune.yaml", "--held-share", "0.7", *tasks, "--no-price"
    )
    assert done.exit_code == 0, done.stderr
    assert "no picture that is taught is known to lack 'thing'" in done.stderr
    assert done.stderr.count("left out: ") == 10
    assert f"… and 1 more: {run / 'unusable.txt'} lists all" in done.stderr
    assert len((run / "unusable.txt").read_text().splitlines()) == 11
    source = json.loads((run / "run.json").read_text())["source"]
    assert source == {"dataset": str(one_class), "held": None, "unusable": 11, "start": ""}

    with Engine.load() as engine:  # beside the adapter, by whose weights it is told apart, and the server applies it
        loaded = engine.load_adapter("mine", run / "adapter")
    kept = json.loads((run / "adapter" / "calibration.json").read_text())
    assert kept["sha256"] == loaded.sha256
    assert kept["tasks"].keys() == set(re.findall(r"scores of (<\w+>) calibrated: ", done.stdout))
    assert "<REGION_PROPOSAL>" in kept["tasks"]

    adapter = str(run / "adapter")
    judged = CliRunner().invoke(app, ["evaluate", "seedling", str(one_class), *tasks, "--adapter", adapter])
    assert judged.exit_code == 0, judged.stderr
    assert "<OPEN_VOCABULARY_DETECTION> was asked for nothing that is absent" in judged.stderr
