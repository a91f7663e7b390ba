"""The page in a real Chromium: no word in its console, every picture there, nothing fetched, and quickly."""

import io
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from labels.labeled_image import LabeledImage, TracedAnnotation
from prompts.annotations import Box, Polygon, Text
from server.jobs.recipes.parsing import parse_recipe
from server.jobs.summary import SummaryInfo, write
from server.store import FailedImage, JobProgress

RECIPE = parse_recipe("""
name: things
review_below: 0.3
steps:
  - {id: things, task: <OD>}
  - {id: outlines, task: <REGION_TO_SEGMENTATION>, for_each: things}
  - {id: caption, task: <CAPTION>}
""")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SLOW = 60_000  # milliseconds that a busy machine may take


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not here (Debian's package: chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, timeout=SLOW)
        yield browser
        browser.close()


def written(path: Path, pictures: int) -> Path:
    """A page with hostile names. Of three pictures two are samples, drawn twice each, and one is doubtful."""
    hostile = "<script>document.title='taken'</script><img src=http://127.0.0.1:9/x onerror=alert(1)>\"'"

    def labelled(number: int) -> LabeledImage:
        score = (number % 17 + 1) / 18
        labels = (
            TracedAnnotation(
                Box(label="cat", score=score, box=(40, 40, 200, 200)), "things", review=hostile if score < 0.3 else ""
            ),
            TracedAnnotation(
                Polygon(label="cat", score=0.8, polygons=[[40, 40, 200, 40, 200, 200]]), "outlines", parent=0
            ),
            TracedAnnotation(Text(label=f"A cat {hostile}", score=0.9), "caption"),
        )
        name = f"{hostile}/{number}.png"
        return LabeledImage.from_traces(name, 320, 240, labels, lambda: noise(number), sha256=f"{number:064x}")

    def noise(number: int) -> bytes:
        file = io.BytesIO()
        Image.effect_noise((320, 240), 20 + number % 60).convert("RGB").save(file, "PNG")
        return file.getvalue()

    failures = [FailedImage(i, "broken", hostile, name=hostile) for i in range(30)]
    about = SummaryInfo(hostile, RECIPE, hostile, "seedling", JobProgress(done=pictures, failed=30), failures, 100)
    write(path, map(labelled, range(pictures)), about, samples=2 * pictures // 3, doubtful=pictures // 3)
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("summary") / "summary.html", 12)


def opened(browser: Browser, width: int = 1280, scheme: str = "light") -> Page:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.set_default_timeout(SLOW)
    return page


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (360, "light")])
def test_it_opens_without_a_word_and_with_every_picture(browser: Browser, path: Path, width: int, scheme: str) -> None:
    said: list[str] = []
    fetched: list[str] = []
    with closing(opened(browser, width, scheme)) as page:
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.on("request", lambda request: fetched.append(request.url))
        page.goto(path.as_uri())
        assert all_there(page) == 20
        assert page.title().startswith("<script>")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "no wider than the screen"
    assert said == []
    assert [url for url in fetched if not url.startswith("data:image/webp;")] == [path.as_uri()]


def all_there(page: Page) -> int:
    """How many pictures the page shows; each must have been decoded."""
    page.evaluate("Promise.all([...document.images].map(image => image.decode()))")
    widths = page.evaluate("[...document.images].map(image => image.complete && image.naturalWidth)")
    assert set(widths) == {320}
    return len(widths)


@pytest.mark.slow
def test_two_hundred_pictures_are_there_within_a_second(browser: Browser, tmp_path: Path) -> None:
    path = written(tmp_path / "summary.html", 120)
    with closing(opened(browser)) as page:
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        page.goto(path.as_uri())
        measured = {each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]}
        assert all_there(page) == 200
    assert measured["TaskDuration"] < 1.0  # seconds of a core: what a clock says hangs on who else is at work


def test_one_chooses_whose_labels_are_drawn(browser: Browser, path: Path) -> None:
    with closing(opened(browser)) as page:
        page.goto(path.as_uri())
        card = page.locator("#samples .card").first

        def drawn() -> list[bool]:
            return [card.locator(f"img.of-{i}").is_visible() for i in range(2)]

        assert drawn() == [True, False]
        page.locator(".views").get_by_text("outlines").click()
        assert drawn() == [False, True]
