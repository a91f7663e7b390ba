"""Images with more objects than an answer of the model can name."""

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from finetune.tuning.batches import TrainingBatches
from finetune.tuning.config import TuneConfig
from labels.opening import open_dataset
from server.cli.main import app
from server.engine.checkpoints.loading import read_checkpoint
from tests.server.engine.tiny import create_tiny_model, save_checkpoint

QUICK = "batch_size: 2\nprompts_per_image: 1\nmetric: loss\nlora_rank: 2\nreplay_share: 0\naugmentation: 0\n"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_checkpoint(tmp_path_factory.mktemp("tiny") / "base", create_tiny_model()))


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A COCO dataset: one image with 100 screws, and three with one."""
    images, annotations = [], []
    for number, count in enumerate((100, 1, 1, 1)):
        Image.new("RGB", (200, 200), (number, 0, 0)).save(tmp_path / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 200, "height": 200})
        for i in range(count):
            box = [i % 10 * 20, i // 10 * 20, 15, 15]
            annotations.append({"id": len(annotations), "image_id": number, "category_id": 1, "bbox": box})
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "screw"}]}
    (tmp_path / "coco.json").write_text(json.dumps(document))
    return tmp_path / "coco.json"


@pytest.mark.situation(
    "S8", "an answer that does not fit the model is never cut: every answer of a batch has its end token"
)
def test_a_training_answer_is_whole_or_left_out(base: str, dataset: Path) -> None:
    config = TuneConfig(base=base, tasks=("<OD>",), batch_size=4, augmentation=0.0, replay_share=0.0)
    batches = TrainingBatches(read_checkpoint(base), open_dataset(dataset).images, ("screw",), config)
    batch = batches[0]
    assert len(batch.owner) == 3
    end = batches.files.config.text_config.eos_token_id
    assert all(row[row >= 0][-1] == end for row in batch.labels)
    assert [(sample.image, sample.task) for sample in batch.left_out] == [("0.png", "<OD>")]


@pytest.mark.situation(
    "S8", "florist tune names images whose answers do not fit: on the terminal, in unusable.txt, log and run.json"
)
def test_a_run_names_what_it_left_out(base: str, dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "tune.yaml").write_text(QUICK)
    options = ["--base", base, "--config", str(tmp_path / "tune.yaml"), "--task", "<OD>", "--steps", "2"]
    variables = {"COLUMNS": "400", "FLORIST_DEVICE": "cpu", "ACCELERATE_USE_CPU": "true"}
    command = [
        "tune",
        str(dataset),
        "--out",
        str(tmp_path / "run"),
        "--holdout-share",
        "0",
        "--no-forgetting",
        *options,
    ]
    result = CliRunner().invoke(app, command, env=variables)
    assert result.exit_code == 0, result.output
    reason = "0.png: the answer of its <OD> sample has"
    assert f"left out: coco.json: image 0: {reason}" in result.stderr
    assert "left out 1 times: samples that are too long for the model" in result.stdout
    assert reason in (tmp_path / "run/unusable.txt").read_text()
    assert json.loads((tmp_path / "run/log.jsonl").read_text().splitlines()[-1])["left_out"] == 1
    record = json.loads((tmp_path / "run/run.json").read_text())["left_out"]
    assert (record["too_long"], record["in_training"]) == (1, 1)
    assert record["examples"][0].startswith(reason)


@pytest.mark.situation("S8", "a dataset of which no answer fits the model is refused with the reason")
def test_a_dataset_that_does_not_fit_is_refused(base: str, dataset: Path) -> None:
    config = TuneConfig(base=base, tasks=("<OD>",), augmentation=0.0, replay_share=0.0)
    with pytest.raises(
        ValueError, match=r"no sample fits the model, for example 0\.png: the answer of its <OD> sample"
    ):
        TrainingBatches(read_checkpoint(base), open_dataset(dataset).images[:1], ("screw",), config)
