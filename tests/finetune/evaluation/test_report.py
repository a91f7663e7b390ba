"""Evaluation on drawn scenes: the samples, the metrics, and the page."""

import base64
import io
import json
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bs4 import BeautifulSoup
from PIL import Image

from finetune.evaluation.bootstrap import compare_corrections
from finetune.evaluation.corrections import CorrectionCounts
from finetune.evaluation.page import write_page
from finetune.evaluation.report import (
    EvaluationReport,
    TaskReport,
    evaluate_samples,
    make_evaluation_samples,
)
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage
from prompts.annotations import Box, Text
from prompts.tasks import FLORENCE_TASKS, TASKS
from seedling.scenes.drawing import draw_scene
from seedling.scenes.samples import make_sample
from server.engine.config import EngineConfig
from server.engine.engine import Engine


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    config = EngineConfig("seedling", device="cpu", max_waiting=8)  # small, so that the queue is often full
    with Engine.load(config) as engine:
        yield engine


def make_image(seed: int) -> LabeledImage:
    """A scene with the boxes of its objects, and a caption that no model predicts."""
    scene = draw_scene(seed, objects=(1, 3), words=(0, 0))
    sample = make_sample(scene, "<OD>", np.random.default_rng(seed))
    assert sample is not None
    annotations = (*sample.answer, Text(label="<b>nothing & nobody</b>"))
    return LabeledImage(
        f"<i>scene {seed}</i>", f"scenes:{seed}", *scene.image.size, annotations, lambda: scene.image,
        complete=frozenset((LabelKind.OBJECTS,)),
    )  # fmt: skip


def fail_to_open() -> Image.Image:
    raise OSError("no disk")


@pytest.fixture(scope="module")
def images() -> list[LabeledImage]:
    return [make_image(3000 + i) for i in range(6)]


@pytest.fixture(scope="module")
def report(engine: Engine, images: list[LabeledImage]) -> EvaluationReport:
    tasks = ["<OD>", "<CAPTION>", "<REGION_TO_CATEGORY>", "<OPEN_VOCABULARY_DETECTION>"]
    return evaluate_samples(engine, make_evaluation_samples(images, tasks))


def test_every_image_has_a_prediction_for_each_task(report: EvaluationReport, engine: Engine) -> None:
    assert list(report.tasks) == ["<CAPTION>", "<OD>", "<OPEN_VOCABULARY_DETECTION>", "<REGION_TO_CATEGORY>"]
    assert all(len(task.predictions) == 6 for task in report.tasks.values())
    assert (report.model, report.sha256, report.adapter) == ("seedling", engine.checkpoint.sha256, None)
    assert report.failures == []


def test_the_samples_depend_only_on_the_seed(images: list[LabeledImage]) -> None:
    assert make_evaluation_samples(images, seed=3) == make_evaluation_samples(images, seed=3)
    assert make_evaluation_samples(images, seed=3) != make_evaluation_samples(images, seed=4)


def test_corrections_add_up_over_images_and_classes(report: EvaluationReport) -> None:
    task = report.tasks["<OD>"]
    by_image, by_class = task.counts_by_image.values(), task.counts_by_class.values()
    assert len(by_image) == 6
    assert sum(by_image, CorrectionCounts()) == task.corrections == sum(by_class, CorrectionCounts())
    assert task.corrections.labels == sum(len(prediction.truth) for prediction in task.predictions)
    assert 0 <= task.corrections.per_hundred < 100
    assert report.tasks["<CAPTION>"].corrections == CorrectionCounts(misread=6, labels=6)
    assert report.tasks["<CAPTION>"].counts_by_class == {}
    same = list(by_image)
    assert compare_corrections(same, same).better == 0.5


def test_each_task_has_its_metrics(report: EvaluationReport) -> None:
    metrics = {token: task.metrics for token, task in report.tasks.items()}
    assert 0.3 < metrics["<OD>"]["AP50"] <= 1
    assert {"mAP", "precision", "recall", "F1", "score ECE"} <= set(metrics["<OD>"])
    assert {"CIDEr", "BLEU-4", "ROUGE-L"} <= set(metrics["<CAPTION>"])
    assert 0 < metrics["<REGION_TO_CATEGORY>"]["accuracy"] <= 1
    assert not any(math.isnan(value) for own in metrics.values() for value in own.values())


def test_the_report_is_saved_as_json(report: EvaluationReport, tmp_path: Path) -> None:
    report.save(tmp_path / "report.json")
    content = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    counts = content["tasks"]["<OD>"]["corrections"]
    kinds = ("missed", "wrong_class", "localization_error", "misread", "false_positive")
    assert counts["total"] == sum(counts[kind] for kind in kinds)
    assert content["images"] == 6


def test_unreadable_images_and_invalid_prompts_are_failures(engine: Engine, images: list[LabeledImage]) -> None:
    lost = LabeledImage("lost", "list:7", 10, 10, (Box(label="cat", box=(0, 0, 5, 5)),), fail_to_open)
    too_long = images[0].with_annotations(Box(label="cat " * 3000, box=(0, 0, 50, 50)))
    samples = make_evaluation_samples([lost, too_long, images[1]], ["<OPEN_VOCABULARY_DETECTION>"])
    calls: list[None] = []
    report = evaluate_samples(engine, samples, on_image=lambda: calls.append(None))
    assert len(calls) == report.images == 3
    assert [str(failure).split(": ")[0] for failure in report.failures] == ["list:7", images[0].source]
    assert "no disk" in str(report.failures[0])
    assert len(report.tasks["<OPEN_VOCABULARY_DETECTION>"].predictions) == 1


def test_an_adapter_must_be_loaded(engine: Engine, images: list[LabeledImage]) -> None:
    report = evaluate_samples(engine, make_evaluation_samples(images[:1], ["<OD>"]), adapter="nobody")
    assert "no adapter 'nobody' is loaded" in str(report.failures[0])


def test_the_page_shows_the_worst_predictions_beside_the_truth(report: EvaluationReport, tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", report, "<u>scenes</u>")
    html = BeautifulSoup((tmp_path / "page.html").read_text(), "html.parser")
    assert not html.find_all(["script", "u", "b"])  # names are escaped
    assert "<u>scenes</u>" in html.h1.get_text()
    captions = html.find(id="task-1")
    assert captions is not None
    cards = captions.find_all("article")
    assert len(cards) == 6
    for image in captions.find_all("img"):
        data = base64.b64decode(re.sub("^data:image/webp;base64,", "", image["src"]))
        assert max(Image.open(io.BytesIO(data)).size) >= 300
    assert "misread" in cards[0].get_text()


def test_a_page_without_images(engine: Engine, tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", evaluate_samples(engine, []), "nothing")
    assert "0" in (tmp_path / "page.html").read_text()


def test_samples_of_every_task_have_metrics(engine: Engine) -> None:
    scene = draw_scene(1234, objects=(2, 2), words=(1, 1))
    rng = np.random.default_rng(0)
    samples = [sample for token in FLORENCE_TASKS if (sample := make_sample(scene, token, rng))]
    image = LabeledImage("scene", "scene", *scene.image.size, (), lambda: scene.image)
    report = evaluate_samples(engine, [(image, samples)])
    assert {len(task.predictions) for task in report.tasks.values()} == {1}
    assert all(task.metrics for task in report.tasks.values())
    assert "mIoU" in report.tasks["<REGION_TO_SEGMENTATION>"].metrics
    assert "CER" in report.tasks["<OCR_WITH_REGION>"].metrics


def test_missing_caption_metrics_are_reported(
    report: EvaluationReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = replace(report, tasks={token: report.tasks[token] for token in ("<CAPTION>", "<OD>")})
    assert report.remarks == []
    monkeypatch.setitem(sys.modules, "pycocoevalcap.cider.cider", None)  # as if it were not installed
    tasks = {token: TaskReport(TASKS[token], task.predictions) for token, task in report.tasks.items()}
    lacking = replace(report, tasks=tasks)
    (remark,) = lacking.remarks
    assert "CIDEr" in remark
    assert "pip install 'nltk" in remark
    assert "CIDEr" not in lacking.tasks["<CAPTION>"].metrics
    assert lacking.to_json()["remarks"] == [remark]
    write_page(tmp_path / "page.html", lacking, "scenes")
    assert remark in BeautifulSoup((tmp_path / "page.html").read_text(), "html.parser").get_text()
    assert replace(lacking, tasks={"<OD>": lacking.tasks["<OD>"]}).remarks == []


def test_missing_negatives_are_reported(engine: Engine, images: list[LabeledImage]) -> None:
    token = "<OPEN_VOCABULARY_DETECTION>"
    (remark,) = evaluate_samples(engine, make_evaluation_samples(images[:2], [token])).remarks
    assert remark.startswith(f"{token} was only prompted for labels that are in the image")
    empty = replace(images[0].with_annotations(), name="empty")  # known to show none of the classes
    samples = make_evaluation_samples([*images[:1], empty], [token], classes=["dinosaur"])
    report = evaluate_samples(engine, samples)
    assert report.remarks == []
    assert "absent: nothing found" in report.tasks[token].metrics
