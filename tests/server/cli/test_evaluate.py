"""`florist evaluate` as a command."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from labels.extras import describe_install
from seedling.scenes.drawing import draw_scene
from server.cli.main import app
from server.engine.adapters.class_list import write_class_list


def evaluate(*arguments: object) -> Result:
    result = CliRunner().invoke(
        app, ["evaluate", *map(str, arguments)], env={"COLUMNS": "200", "FLORIST_DEVICE": "cpu"}
    )
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three drawn scenes, as COCO, and an image that is missing."""
    folder = tmp_path_factory.mktemp("coco")
    names: list[str] = []
    images, annotations = [], []
    for i in range(3):
        scene = draw_scene(7000 + i, objects=(2, 3), words=(0, 0))
        scene.image.save(folder / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": scene.width, "height": scene.height})
        for item in scene.objects:
            label = item.category
            names += [label] if label not in names else []
            x1, y1, x2, y2 = map(float, item.box)
            row = {"image_id": i, "category_id": names.index(label), "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0}
            annotations.append({**row, "id": len(annotations), "area": row["bbox"][2] * row["bbox"][3]})
    images.append({"id": 9, "file_name": "gone.png", "width": 10, "height": 10})
    categories = [{"id": i, "name": name} for i, name in enumerate(names)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "labels.json").write_text(json.dumps(content))
    return folder


def test_the_metrics_of_a_dataset_are_written(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = evaluate("seedling", dataset, "--task", "<OD>", "--task", "<REGION_TO_CATEGORY>", "--out", out)
    assert result.exit_code == 0, result.output
    assert "corrections per 100 labels" in result.stdout
    assert "gone.png" in result.stderr
    report = json.loads((out / "evaluation.json").read_text())
    assert list(report["tasks"]) == ["<OD>", "<REGION_TO_CATEGORY>"]
    assert report["tasks"]["<OD>"]["metrics"]["AP50"] > 0.3
    page = (out / "evaluation.html").read_text()
    assert "Object detection" in page
    assert (out / "reliability.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "<ODD>"], "no such task"),
        (["--task", "<OCR>"], "has no labels for <OCR>; it has labels for <OD>"),
        (["--task", "<FOO>"], "<FOO> is no task (`florist tasks` lists them)"),
        (["--task", "<OD>", "--task", "<FOO>"], "<FOO> is no task"),
        (["--adapter", "nowhere"], "cannot be used"),
    ],
)
def test_invalid_options_are_refused(dataset: Path, arguments: list[str], message: str) -> None:
    result = evaluate("seedling", dataset, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_missing_dataset_is_refused(tmp_path: Path) -> None:
    result = evaluate("seedling", tmp_path / "nowhere")
    assert result.exit_code == 2
    assert "nowhere" in result.stderr


def test_a_suite_is_printed_with_the_published_values(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_val2017.json").write_text((dataset / "labels.json").read_text())
    shutil.copytree(dataset, tmp_path / "val2017")
    result = evaluate("seedling", tmp_path, "--suite", "coco", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "gone.png" in result.stderr
    (row,) = [line for line in result.stdout.splitlines() if "34.7" in line]
    assert "mAP" in row
    assert "Published values" in (tmp_path / "out/evaluation.html").read_text()
    assert evaluate("seedling", tmp_path, "--suite", "coco", "--task", "<OD>").exit_code == 2
    assert evaluate("seedling", tmp_path, "--suite", "textvqa").exit_code == 2


def test_metrics_that_need_an_extra_are_reported(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycocoevalcap.bleu.bleu", None)  # as if it were not installed
    row = {"image": str(dataset / "0.png"), "prefix": "<CAPTION>", "suffix": "a cat"}
    (tmp_path / "captions.jsonl").write_text(json.dumps(row))
    result = evaluate("seedling", tmp_path / "captions.jsonl", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert f"CIDEr, BLEU and ROUGE-L are left out: they need the extra `captions`, {describe_install('captions')}" in (
        result.stderr.splitlines()
    )
    (remark,) = json.loads((tmp_path / "out/evaluation.json").read_text())["remarks"]
    assert "pip install 'nltk" in remark


def test_all_unusable_entries_are_in_a_file(dataset: Path, tmp_path: Path) -> None:
    content = json.loads((dataset / "labels.json").read_text())
    content["annotations"] += [
        {"id": 900 + i, "image_id": 0, "category_id": 0, "bbox": [5, 5, 0, 5]} for i in range(12)
    ]
    shutil.copytree(dataset, tmp_path / "data")
    (tmp_path / "data/labels.json").write_text(json.dumps(content))
    result = evaluate("seedling", tmp_path / "data", "--task", "<OD>", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("left out: ") == 10
    assert f"… and 3 more: {tmp_path / 'out/unusable.txt'} will list all of them" in result.stderr
    lines = (tmp_path / "out/unusable.txt").read_text().splitlines()
    assert len(lines) == 13
    assert lines[0].startswith("labels.json: image 9: there is no image 'gone.png'")
    assert [line.split(": ")[1] for line in lines[1:]] == [f"annotation {900 + i}" for i in range(12)]
    refused = evaluate("seedling", tmp_path / "data", "--task", "<OCR>")
    assert "… and 3 more: --out FOLDER lists all in unusable.txt" in refused.stderr


def test_answers_are_held_to_the_class_list_of_the_adapter(dataset: Path, tmp_path: Path) -> None:
    name = "base_model.model.model.language_model.decoder.layers.0.self_attn.q_proj"
    folder = tmp_path / "birds"
    folder.mkdir()
    weights = {f"{name}.lora_A.weight": torch.ones(2, 192), f"{name}.lora_B.weight": torch.zeros(192, 2)}
    save_file(weights, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    write_class_list(folder, ["wren", "robin"])
    reports = []
    for options in ([], ["--any-class"]):
        command = "seedling", dataset, "--adapter", folder, "--task", "<OD>", "--task", "<OCR>"
        result = evaluate(*command, "--out", tmp_path / "out", *options)
        assert result.exit_code == 0, result.output
        assert "has no labels for <OCR>" in result.stderr
        assert ("were held to the 2 classes of adapter birds" in result.stderr) == (not options)
        reports.append(json.loads((tmp_path / "out/evaluation.json").read_text()))
    assert [report["class_list"] for report in reports] == [["wren", "robin"], None]
    held, free = (report["tasks"]["<OD>"]["metrics"]["AP50"] for report in reports)
    assert held == 0 < free
