"""The summary page in Chromium: no console messages, no requests, all images decoded, filters, the enlarged view."""

import io
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from labels.dropped_labels import DroppedLabel, DropReason
from labels.labeled_image import LabeledImage, TracedAnnotation
from prompts.annotations import Box, Polygon, Text
from server.jobs.recipes.parsing import parse_recipe
from server.jobs.summary import SummaryInfo, write_summary
from server.jobs.summary.summary import get_page_policy
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
HOSTILE = "<script>document.title='taken'</script><img src=http://127.0.0.1:9/x onerror=alert(1)>\"'"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed (Debian package: chromium)")
    expect.set_options(timeout=TIMEOUT)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=TIMEOUT)
        yield browser
        browser.close()


def write_page(path: Path, images: int) -> Path:
    """Writes a page with hostile names.

    Image n has an object with an outline, of the class `thing n % 10`, with the score (n % 17 + 1) / 18, to review
    below 0.3; and a caption.
    """

    def make_image(number: int) -> LabeledImage:
        score, label = (number % 17 + 1) / 18, f"thing {number % 10}"
        review = f"{HOSTILE} is to review" if score < 0.3 else ""
        ring = [40.0, 40, 200, 40, 200, 200]
        traces = (
            TracedAnnotation(Box(label=label, score=score, box=(40, 40, 200, 200)), "things", review=review),
            TracedAnnotation(Polygon(label=label, score=0.8, polygons=[ring]), "outlines", parent=0),
            TracedAnnotation(Text(label=f"A thing {HOSTILE}", score=0.9), "caption"),
        )
        name = f"{HOSTILE}/{number}.png"
        return LabeledImage.from_traces(name, 320, 240, traces, lambda: make_noise(number), sha256=f"{number:064x}")

    def make_noise(number: int) -> bytes:
        file = io.BytesIO()
        Image.effect_noise((320, 240), 20 + number % 60).convert("RGB").save(file, "PNG")
        return file.getvalue()

    failures = [FailedImage(i, "broken", HOSTILE, name=HOSTILE) for i in range(30)]
    dropped = [DroppedLabel("things", HOSTILE, DropReason.NO_CLASS, 7)]
    progress = JobProgress(done=images, failed=30)
    info = SummaryInfo(HOSTILE, RECIPE, HOSTILE, "seedling", progress, failures, 100, dropped=dropped)
    write_summary(path, map(make_image, range(images)), info)
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(tmp_path_factory.mktemp("summary") / "summary.html", 12)


def open_page(browser: Browser, width: int = 1280, scheme: str = "light") -> Page:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.set_default_timeout(TIMEOUT)
    return page


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
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
        assert count_images(page) == 12
        assert page.title().startswith("<script>")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "no horizontal scrolling"
        page.locator("#gallery .image").first.click()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "no horizontal scrolling"
    assert messages == []
    assert [url for url in urls if not url.startswith("data:image/webp;")] == [path.as_uri()]


def count_images(page: Page) -> int:
    """Returns the number of images on the page. Asserts that each is decoded."""
    page.evaluate("[...document.images].forEach(image => (image.loading = 'eager'))")
    page.evaluate("Promise.all([...document.images].map(image => image.decode()))")
    widths = page.evaluate("[...document.images].map(image => image.complete && image.naturalWidth)")
    assert set(widths) == {320}
    return len(widths)


@pytest.mark.slow
def test_two_hundred_images_load_within_a_second(browser: Browser, tmp_path: Path) -> None:
    path = write_page(tmp_path / "summary.html", 192)
    with closing(open_page(browser)) as page:
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        page.goto(path.as_uri())
        measured = {each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]}
        assert count_images(page) == 192
    assert measured["TaskDuration"] < 1.0  # seconds of CPU time, which does not depend on other processes


@pytest.fixture(scope="module")
def page(browser: Browser, path: Path) -> Iterator[Page]:
    with closing(open_page(browser)) as page:
        page.goto(path.as_uri())
        yield page


def get_visible(page: Page) -> list[int]:
    """Returns the numbers of the images in the gallery, in order."""
    names = page.locator("#gallery .card .name").all_text_contents()
    return [int(name.rpartition("/")[2].removesuffix(".png")) for name in names]


def clear(page: Page) -> None:
    page.get_by_role("button", name="Clear", exact=True).click()
    expect(page.locator("#gallery .card")).to_have_count(12)


def test_images_are_filtered_by_class_step_score_and_review(page: Page) -> None:
    clear(page)
    matches = page.locator("#matches")
    expect(matches).to_have_text("24 labels in the job, 24 labels in the 12 images here.")
    assert get_visible(page)[:5] == [0, 1, 2, 3, 4], "least certain first"
    page.locator("select[name=class]").select_option("thing 1 (2)")
    expect(matches).to_have_text("2 labels in the job. Shown here: 2 labels in 2 images.")
    assert get_visible(page) == [1, 11]
    assert page.locator("#gallery path").count() == 2
    page.get_by_label("To review").check()
    expect(matches).to_have_text("1 label in the job. Shown here: 1 label in 1 image.")
    assert get_visible(page) == [1]

    clear(page)
    page.get_by_label("Lowest score").fill("0.5")
    expect(matches).to_have_text("16 labels in the job. Shown here: 16 labels in 12 images.")
    page.get_by_label("Show").select_option("answers of things")
    expect(matches).to_have_text("4 labels in the job. Shown here: 4 labels in 4 images.")
    assert sorted(get_visible(page)) == [8, 9, 10, 11]
    page.get_by_label("Highest score").fill("0.55")
    expect(matches).to_have_text("1 label in the job. Shown here: 1 label in 1 image.")
    page.get_by_label("Show").select_option("answers of outlines")
    expect(page.locator("#no-match")).to_be_visible()
    page.get_by_role("button", name="Clear the filters").click()
    expect(page.locator("#gallery .card")).to_have_count(12)


def test_the_tile_and_the_table_lead_to_their_images(page: Page) -> None:
    clear(page)
    page.locator(".tile.amber").click()
    expect(page.locator("#gallery .card")).to_have_count(5)
    page.locator("#class-table").get_by_role("button", name="thing 7").click()
    expect(page.locator("#gallery .card")).to_have_count(1)
    assert get_visible(page) == [7]
    page.get_by_label("Find").fill("thing 3")
    expect(page.locator("#class-table tbody tr:visible")).to_have_count(1)
    page.get_by_label("Find").fill("")
    for _ in range(2):
        page.locator("#class-table thead").get_by_role("button", name="class").click()
    expect(page.locator("#class-table tbody th").first).to_have_text("thing 9")


def test_an_image_is_enlarged_by_the_keyboard(page: Page) -> None:
    clear(page)
    page.locator("#gallery .image").first.focus()
    page.keyboard.press("Enter")
    viewer, facts = page.locator("#viewer"), page.locator("#viewer-facts")
    expect(viewer).to_be_visible()
    expect(facts).to_have_text("1 of 12 · 320×240 · 2 labels")
    assert viewer.locator("path").count() == 1
    assert viewer.locator(".labels button").count() == 2
    page.keyboard.press("ArrowRight")
    expect(facts).to_contain_text("2 of 12")
    for _ in range(2):
        page.keyboard.press("ArrowLeft")
    expect(facts).to_contain_text("12 of 12")
    viewer.locator(".labels button").first.hover()
    expect(viewer.locator("path.active")).to_have_count(1)
    box = viewer.locator(".frame").bounding_box()
    assert box is not None
    assert box["width"] > 600
    assert box["width"] / box["height"] == pytest.approx(320 / 240, rel=0.01)
    page.keyboard.press("Escape")
    expect(viewer).to_be_hidden()
    last = page.locator("#gallery .image").last
    expect(last).to_be_focused()


def test_the_enlarged_view_shows_what_the_filter_selects_or_all(page: Page) -> None:
    clear(page)
    page.get_by_label("Show").select_option("answers of things")
    expect(page.locator("#matches")).to_contain_text("12 labels in the job. Shown here")
    page.locator("#gallery .image").first.click()
    labels = page.locator("#viewer .labels button")
    expect(labels).to_have_count(1)
    page.get_by_label("All labels").check()
    expect(labels).to_have_count(2)
    page.get_by_label("All labels").uncheck()
    page.get_by_role("button", name="Close").click()
    expect(page.locator("#viewer")).to_be_hidden()


def test_the_page_works_with_the_headers_of_the_server(browser: Browser, path: Path) -> None:
    messages: list[str] = []
    policy = f"{get_page_policy()}; frame-ancestors 'none'; sandbox allow-scripts"
    with closing(open_page(browser)) as page:
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.route(
            "http://127.0.0.1/summary",
            lambda route: route.fulfill(
                body=path.read_bytes(), content_type="text/html", headers={"Content-Security-Policy": policy}
            ),
        )
        page.goto("http://127.0.0.1/summary")
        page.get_by_label("To review").check()
        expect(page.locator("#gallery .card")).to_have_count(5)
        page.locator("#gallery .image").first.click()
        expect(page.locator("#viewer path")).to_have_count(1)
    assert messages == []
