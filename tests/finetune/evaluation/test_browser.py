"""The page in a real Chromium: an empty console, no requests, every image shown, and no line too wide."""

import shutil
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

from finetune.evaluation.page import write_page
from finetune.evaluation.predictions import Prediction
from finetune.evaluation.report import EvaluationReport, TaskReport
from finetune.evaluation.suites import SuiteMetric
from labels.labeled_image import LabeledImage
from labels.sample import Sample
from prompts.annotations import Annotation, Box, Text
from prompts.tasks import TASKS

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SLOW = 60_000  # milliseconds that a busy machine may take
HOSTILE = "<script>document.title='taken'</script><img src=http://127.0.0.1:9/x onerror=alert(1)>\"'"


def fail_to_open() -> Image.Image:
    raise OSError(HOSTILE)


def make_report() -> EvaluationReport:
    """Predictions that are correct and wrong in each way, and one of an image that is gone."""
    truth = (Box(label="cat", box=(10, 10, 60, 60)), Box(label=HOSTILE, box=(80, 10, 140, 90)))
    wrong: list[tuple[Annotation, ...]] = [
        (Box(label="dog", box=(10, 10, 60, 60), score=0.4), Box(label=HOSTILE, box=(80, 10, 140, 50), score=0.3)),
        (
            *(annotation.model_copy(update={"score": 0.9}) for annotation in truth),
            Box(label="bus", box=(0, 0, 9, 9), score=0.1),
        ),
        (),
    ]
    blank = Image.new("RGB", (160, 120), "white")
    images = [
        LabeledImage(f"{HOSTILE} {i}", "s", 160, 120, (), fail_to_open if i == 2 else lambda: blank) for i in range(3)
    ]
    found = [Prediction(image, Sample(TASKS["<OD>"], truth), own) for image, own in zip(images, wrong, strict=True)]
    sample = Sample(TASKS["<REGION_TO_OCR>"], (Text(label=f"STOP {HOSTILE}"),), region=(1, 1, 50, 50))
    read = [Prediction(images[0], sample, (Text(label="SHOP", score=0.5),))]
    tasks = {task.token: TaskReport(task, own) for task, own in ((TASKS["<OD>"], found), (sample.task, read))}
    return EvaluationReport("seedling", "0" * 64, HOSTILE, "1" * 64, 3, tasks)


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not here (Debian's package: chromium)")
def test_the_page_opens_without_messages_and_fits(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", make_report(), HOSTILE, [SuiteMetric("<OD>", "mAP", 12.3, {"base": 34.7})])
    messages: list[str] = []
    requests: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, timeout=SLOW)
        for width, scheme in ((1280, "light"), (360, "dark")):
            view = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            view.set_default_timeout(SLOW)
            view.on("console", lambda message: messages.append(message.text))
            view.on("pageerror", lambda error: messages.append(str(error)))
            view.on("dialog", lambda dialog: messages.append(dialog.message))
            view.on("request", lambda request: requests.append(request.url))
            view.goto((tmp_path / "page.html").as_uri())
            images_shown = view.evaluate(
                "[...document.images].map(image => [image.complete, image.naturalWidth > 200])"
            )
            assert images_shown == [[True, True]] * 6
            assert view.title().startswith("<script>")
            assert view.evaluate("document.documentElement.scrollWidth") <= width
            assert "This image cannot be shown" in view.inner_text("#task-1")
            view.close()
        browser.close()
    assert messages == []
    assert all(url.startswith(("file:", "data:")) for url in requests)
