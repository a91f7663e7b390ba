"""A model examined on drawn scenes: what it is asked, its figures, and the page."""

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

from finetune.evaluation import page
from finetune.evaluation.bootstrap import corrections
from finetune.evaluation.corrections import Tally
from finetune.evaluation.report import Marks, Report, evaluate, examine, questions
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage
from prompts.annotations import Box, Text
from prompts.tasks import TASKS
from seedling.scenes.drawing import draw_scene
from seedling.scenes.samples import make_sample
from server.engine.config import EngineConfig
from server.engine.engine import Engine


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load(
        EngineConfig("seedling", device="cpu", max_waiting=8)
    ) as engine:  # few: the queue is full again and again
        yield engine


def example(seed: int) -> LabeledImage:
    """A scene with the boxes of its objects, and a caption that no model says."""
    scene = draw_scene(seed, objects=(1, 3), words=(0, 0))
    found = make_sample(scene, "<OD>", np.random.default_rng(seed))
    assert found is not None
    notes = (*found.answer, Text(label="<b>nothing & nobody</b>"))
    return LabeledImage(
        f"<i>scene {seed}</i>", f"scenes:{seed}", *scene.image.size, notes, lambda: scene.image,
        complete=frozenset((LabelKind.OBJECTS,)),
    )  # fmt: skip


def broken() -> Image.Image:
    raise OSError("no disk")


@pytest.fixture(scope="module")
def examples() -> list[LabeledImage]:
    return [example(3000 + i) for i in range(6)]


@pytest.fixture(scope="module")
def report(engine: Engine, examples: list[LabeledImage]) -> Report:
    return evaluate(engine, examples, ["<OD>", "<CAPTION>", "<REGION_TO_CATEGORY>", "<OPEN_VOCABULARY_DETECTION>"])


def test_every_picture_is_asked_each_task(report: Report, engine: Engine) -> None:
    assert list(report.tasks) == ["<CAPTION>", "<OD>", "<OPEN_VOCABULARY_DETECTION>", "<REGION_TO_CATEGORY>"]
    assert all(len(marks.answers) == 6 for marks in report.tasks.values())
    assert (report.model, report.sha256, report.adapter) == ("seedling", engine.checkpoint.sha256, None)
    assert report.trouble == []


def test_the_same_is_asked_each_time(examples: list[LabeledImage]) -> None:
    assert questions(examples, seed=3) == questions(examples, seed=3)
    assert questions(examples, seed=3) != questions(examples, seed=4)


def test_corrections_add_up_over_pictures_and_classes(report: Report) -> None:
    marks = report.tasks["<OD>"]
    assert len(marks.tallies) == 6
    assert sum(marks.tallies.values(), Tally()) == marks.corrections == sum(marks.classes.values(), Tally())
    assert marks.corrections.labels == sum(len(one.question.answer) for one in marks.answers)
    assert 0 <= marks.corrections.per_hundred < 100
    assert report.tasks["<CAPTION>"].corrections == Tally(misread=6, labels=6)
    assert report.tasks["<CAPTION>"].classes == {}
    same = list(marks.tallies.values())
    assert corrections(same, same).better == 0.5


def test_figures_by_task(report: Report) -> None:
    figures = {token: marks.figures for token, marks in report.tasks.items()}
    assert 0.3 < figures["<OD>"]["AP50"] <= 1
    assert {"mAP", "precision", "recall", "F1", "score ECE"} <= set(figures["<OD>"])
    assert {"CIDEr", "BLEU-4", "ROUGE-L"} <= set(figures["<CAPTION>"])
    assert 0 < figures["<REGION_TO_CATEGORY>"]["accuracy"] <= 1
    assert not any(math.isnan(value) for own in figures.values() for value in own.values())


def test_it_is_json(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path / "report.json")
    read = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    todo = read["tasks"]["<OD>"]["corrections"]
    assert todo["all"] == todo["missed"] + todo["wrong_class"] + todo["wrong_box"] + todo["misread"] + todo["made_up"]
    assert read["pictures"] == 6


def test_what_cannot_be_read_or_asked_is_told_and_the_rest_goes_on(
    engine: Engine, examples: list[LabeledImage]
) -> None:
    lost = LabeledImage("lost", "list:7", 10, 10, (Box(label="cat", box=(0, 0, 5, 5)),), broken)
    long = examples[0].with_annotations(Box(label="cat " * 3000, box=(0, 0, 50, 50)))
    asked = questions([lost, long, examples[1]], ["<OPEN_VOCABULARY_DETECTION>"])
    heard: list[None] = []
    report = examine(engine, asked, told=lambda: heard.append(None))
    assert len(heard) == report.pictures == 3
    assert [str(one).split(": ")[0] for one in report.trouble] == ["list:7", examples[0].source]
    assert "no disk" in str(report.trouble[0])
    assert len(report.tasks["<OPEN_VOCABULARY_DETECTION>"].answers) == 1


def test_an_adapter_must_be_loaded(engine: Engine, examples: list[LabeledImage]) -> None:
    report = evaluate(engine, examples[:1], ["<OD>"], adapter="nobody")
    assert "no adapter 'nobody' is loaded" in str(report.trouble[0])


def test_the_page_shows_the_worst_beside_the_truth(report: Report, tmp_path: Path) -> None:
    page.write(tmp_path / "page.html", report, "<u>scenes</u>")
    html = (tmp_path / "page.html").read_text()
    read = BeautifulSoup(html, "html.parser")
    assert not read.find_all(["script", "u", "b"])  # names are words
    assert "<u>scenes</u>" in read.h1.get_text()
    captions = read.find(id="task-1")
    assert captions is not None
    cards = captions.find_all("article")
    assert len(cards) == 6
    for image in captions.find_all("img"):
        data = base64.b64decode(re.sub("^data:image/webp;base64,", "", image["src"]))
        assert max(Image.open(io.BytesIO(data)).size) >= 300
    assert "misread" in cards[0].get_text()


def test_a_page_of_nothing(engine: Engine, tmp_path: Path) -> None:
    page.write(tmp_path / "page.html", examine(engine, []), "nothing")
    assert "0" in (tmp_path / "page.html").read_text()


def test_questions_of_scenes_of_every_task(engine: Engine) -> None:
    scene = draw_scene(1234, objects=(2, 2), words=(1, 1))
    rng = np.random.default_rng(0)
    asked = [found for token in TASKS if (found := make_sample(scene, token, rng))]
    one = LabeledImage("scene", "scene", *scene.image.size, (), lambda: scene.image)
    report = examine(engine, [(one, asked)])
    assert {len(marks.answers) for marks in report.tasks.values()} == {1}
    assert all(marks.figures for marks in report.tasks.values())
    assert "mIoU" in report.tasks["<REGION_TO_SEGMENTATION>"].figures
    assert "CER" in report.tasks["<OCR_WITH_REGION>"].figures


def test_captions_that_cannot_be_scored_are_said_so(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = replace(report, tasks={token: report.tasks[token] for token in ("<CAPTION>", "<OD>")})
    assert report.notes == []
    monkeypatch.setitem(sys.modules, "pycocoevalcap.cider.cider", None)  # as if it were not installed
    answers = {token: marks.answers for token, marks in report.tasks.items()}
    lacking = replace(report, tasks={token: Marks(TASKS[token], own) for token, own in answers.items()})
    (note,) = lacking.notes
    assert "CIDEr" in note
    assert "pip install 'florist[captions]'" in note
    assert "CIDEr" not in lacking.tasks["<CAPTION>"].figures
    assert lacking.as_json()["notes"] == [note]
    page.write(tmp_path / "page.html", lacking, "scenes")
    assert note in BeautifulSoup((tmp_path / "page.html").read_text(), "html.parser").get_text()
    assert replace(lacking, tasks={"<OD>": lacking.tasks["<OD>"]}).notes == []


def test_what_was_never_asked_in_vain_is_said_so(engine: Engine, examples: list[LabeledImage]) -> None:
    token = "<OPEN_VOCABULARY_DETECTION>"
    (note,) = evaluate(engine, examples[:2], [token]).notes
    assert note.startswith(f"{token} was asked for nothing that is absent")
    empty = replace(examples[0].with_annotations(), name="empty")  # known to show none of the labels
    told = evaluate(engine, [*examples[:1], empty], [token], labels=["dinosaur"])
    assert told.notes == []
    assert "absent: nothing found" in told.tasks[token].figures
