"""The page in a real Chromium: no word in its console, nothing fetched, every picture there, and no line too wide."""

import shutil
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

from finetune.evaluation import page
from finetune.evaluation.predictions import Answered
from finetune.evaluation.report import Marks, Report
from finetune.evaluation.suites import Row
from labels.labeled_image import LabeledImage
from labels.sample import Sample
from prompts.annotations import Annotation, Box, Text
from prompts.tasks import TASKS

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SLOW = 60_000  # milliseconds that a busy machine may take
HOSTILE = "<script>document.title='taken'</script><img src=http://127.0.0.1:9/x onerror=alert(1)>\"'"


def gone() -> Image.Image:
    raise OSError(HOSTILE)


def report() -> Report:
    """Answers that are right, wrong in each way, and of a picture that is gone."""
    true = (Box(label="cat", box=(10, 10, 60, 60)), Box(label=HOSTILE, box=(80, 10, 140, 90)))
    wrong: list[tuple[Annotation, ...]] = [
        (Box(label="dog", box=(10, 10, 60, 60), score=0.4), Box(label=HOSTILE, box=(80, 10, 140, 50), score=0.3)),
        (*(note.model_copy(update={"score": 0.9}) for note in true), Box(label="bus", box=(0, 0, 9, 9), score=0.1)),
        (),
    ]
    blank = Image.new("RGB", (160, 120), "white")
    examples = [LabeledImage(f"{HOSTILE} {i}", "s", 160, 120, (), gone if i == 2 else lambda: blank) for i in range(3)]
    found = [Answered(e, Sample(TASKS["<OD>"], true), said) for e, said in zip(examples, wrong, strict=True)]
    asked = Sample(TASKS["<REGION_TO_OCR>"], (Text(label=f"STOP {HOSTILE}"),), region=(1, 1, 50, 50))
    read = [Answered(examples[0], asked, (Text(label="SHOP", score=0.5),))]
    tasks = {task.token: Marks(task, own) for task, own in ((TASKS["<OD>"], found), (asked.task, read))}
    return Report("seedling", "0" * 64, HOSTILE, "1" * 64, 3, tasks)


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not here (Debian's package: chromium)")
def test_it_opens_without_a_word_and_fits(tmp_path: Path) -> None:
    page.write(tmp_path / "page.html", report(), HOSTILE, [Row("<OD>", "mAP", 12.3, {"base": 34.7})])
    said: list[str] = []
    fetched: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, timeout=SLOW)
        for width, scheme in ((1280, "light"), (360, "dark")):
            view = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            view.set_default_timeout(SLOW)
            view.on("console", lambda message: said.append(message.text))
            view.on("pageerror", lambda error: said.append(str(error)))
            view.on("dialog", lambda dialog: said.append(dialog.message))
            view.on("request", lambda request: fetched.append(request.url))
            view.goto((tmp_path / "page.html").as_uri())
            pictures = view.evaluate("[...document.images].map(image => [image.complete, image.naturalWidth > 200])")
            assert pictures == [[True, True]] * 6
            assert view.title().startswith("<script>")
            assert view.evaluate("document.documentElement.scrollWidth") <= width
            assert "This picture cannot be shown" in view.inner_text("#task-1")
            view.close()
        browser.close()
    assert said == []
    assert all(url.startswith(("file:", "data:")) for url in fetched)
