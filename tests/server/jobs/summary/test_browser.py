"""The summary page in Chromium: no console messages, all images decoded, no requests, fast."""

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
from server.jobs.summary import SummaryInfo, write_summary
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
TIMEOUT = 60_000  # milliseconds, for a busy machine


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed (Debian package: chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, timeout=TIMEOUT)
        yield browser
        browser.close()


def write_page(path: Path, images: int) -> Path:
    """Writes a page with hostile names. Two thirds of the images are samples, each drawn twice; one third is to
    review."""
    hostile = "<script>document.title='taken'</script><img src=http://127.0.0.1:9/x onerror=alert(1)>\"'"

    def make_image(number: int) -> LabeledImage:
        score = (number % 17 + 1) / 18
        traces = (
            TracedAnnotation(
                Box(label="cat", score=score, box=(40, 40, 200, 200)), "things", review=hostile if score < 0.3 else ""
            ),
            TracedAnnotation(
                Polygon(label="cat", score=0.8, polygons=[[40, 40, 200, 40, 200, 200]]), "outlines", parent=0
            ),
            TracedAnnotation(Text(label=f"A cat {hostile}", score=0.9), "caption"),
        )
        name = f"{hostile}/{number}.png"
        return LabeledImage.from_traces(name, 320, 240, traces, lambda: make_noise(number), sha256=f"{number:064x}")

    def make_noise(number: int) -> bytes:
        file = io.BytesIO()
        Image.effect_noise((320, 240), 20 + number % 60).convert("RGB").save(file, "PNG")
        return file.getvalue()

    failures = [FailedImage(i, "broken", hostile, name=hostile) for i in range(30)]
    info = SummaryInfo(hostile, RECIPE, hostile, "seedling", JobProgress(done=images, failed=30), failures, 100)
    write_summary(path, map(make_image, range(images)), info, samples=2 * images // 3, reviews=images // 3)
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(tmp_path_factory.mktemp("summary") / "summary.html", 12)


def open_page(browser: Browser, width: int = 1280, scheme: str = "light") -> Page:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.set_default_timeout(TIMEOUT)
    return page


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (360, "light")])
def test_the_page_opens_without_messages_and_with_all_images(
    browser: Browser, path: Path, width: int, scheme: str
) -> None:
    messages: list[str] = []
    urls: list[str] = []
    with closing(open_page(browser, width, scheme)) as page:
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("dialog", lambda dialog: messages.append(dialog.message))
        page.on("request", lambda request: urls.append(request.url))
        page.goto(path.as_uri())
        assert count_images(page) == 20
        assert page.title().startswith("<script>")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "no horizontal scrolling"
    assert messages == []
    assert [url for url in urls if not url.startswith("data:image/webp;")] == [path.as_uri()]


def count_images(page: Page) -> int:
    """Returns the number of images on the page. Asserts that each is decoded."""
    page.evaluate("Promise.all([...document.images].map(image => image.decode()))")
    widths = page.evaluate("[...document.images].map(image => image.complete && image.naturalWidth)")
    assert set(widths) == {320}
    return len(widths)


@pytest.mark.slow
def test_two_hundred_images_load_within_a_second(browser: Browser, tmp_path: Path) -> None:
    path = write_page(tmp_path / "summary.html", 120)
    with closing(open_page(browser)) as page:
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        page.goto(path.as_uri())
        measured = {each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]}
        assert count_images(page) == 200
    assert measured["TaskDuration"] < 1.0  # seconds of CPU time, which does not depend on other processes


def test_a_step_can_be_selected_for_the_samples(browser: Browser, path: Path) -> None:
    with closing(open_page(browser)) as page:
        page.goto(path.as_uri())
        card = page.locator("#samples .card").first

        def get_visible() -> list[bool]:
            return [card.locator(f"img.of-{i}").is_visible() for i in range(2)]

        assert get_visible() == [True, False]
        page.locator(".views").get_by_text("outlines").click()
        assert get_visible() == [False, True]
