"""The page in a real Chromium: no word in its console, every picture there, nothing fetched, and quickly."""

import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from prompts.annotations import Box, Polygon, Text
from server.jobs.labels import Label, Labelled
from server.jobs.recipes.reading import read
from server.jobs.store import Failure, Progress
from server.jobs.summary import About, write

RECIPE = read("""
name: things
review_below: 0.3
steps:
  - {id: things, task: <OD>}
  - {id: outlines, task: <REGION_TO_SEGMENTATION>, each: things}
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


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of 200 pictures, drawn 250 times, and hostile names."""
    hostile = "<script>document.title='taken'</script><img src=http://127.0.0.1:9/x onerror=alert(1)>\"'"

    def labelled(number: int) -> Labelled:
        score = (number % 17 + 1) / 18
        labels = (
            Label(
                Box(label="cat", score=score, box=(40, 40, 200, 200)), "things", review=hostile if score < 0.3 else ""
            ),
            Label(Polygon(label="cat", score=0.8, polygons=[[40, 40, 200, 40, 200, 200]]), "outlines", parent=0),
            Label(Text(label=f"A cat {hostile}", score=0.9), "caption"),
        )
        name = f"{hostile}/{number}.png"
        return Labelled(name, f"{number:064x}", 320, 240, labels, lambda: noise(number))

    def noise(number: int) -> bytes:
        file = io.BytesIO()
        Image.effect_noise((320, 240), 20 + number % 60).convert("RGB").save(file, "PNG")
        return file.getvalue()

    path = tmp_path_factory.mktemp("summary") / "summary.html"
    failures = [Failure(i, "broken", hostile, name=hostile) for i in range(30)]
    about = About(hostile, RECIPE, hostile, "seedling", Progress(done=150, failed=30), failures, 100)
    write(path, map(labelled, range(150)), about, samples=100, doubtful=50)
    return path


@pytest.fixture(params=["light", "dark", "phone"])
def page(request: pytest.FixtureRequest, browser: Browser, path: Path) -> Iterator[Callable[[], Page]]:
    width, scheme = (390, "light") if request.param == "phone" else (1280, request.param)
    opened = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened.set_default_timeout(SLOW)
    yield lambda: opened
    opened.close()


def test_it_opens_without_a_word_and_with_every_picture(page: Callable[[], Page], path: Path) -> None:
    opened, said, fetched = page(), [], []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("dialog", lambda dialog: said.append(dialog.message))
    opened.on("request", lambda request: fetched.append(request.url))
    session = opened.context.new_cdp_session(opened)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    opened.goto(path.as_uri())
    measured = {each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]}
    opened.evaluate("Promise.all([...document.images].map(image => image.decode()))")
    pictures = opened.evaluate("[...document.images].map(image => image.complete && image.naturalWidth)")
    assert len(pictures) == 250
    assert set(pictures) == {320}
    assert said == []
    assert [url for url in fetched if not url.startswith("data:image/webp;")] == [path.as_uri()]
    assert opened.title().startswith("<script>")
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it is as wide as the screen"
    assert measured["TaskDuration"] < 1.0  # seconds of one core: what a clock says hangs on who else is at work


def test_one_chooses_whose_labels_are_drawn(browser: Browser, path: Path) -> None:
    opened = browser.new_page()
    opened.set_default_timeout(SLOW)
    opened.goto(path.as_uri())

    def drawn() -> list[bool]:
        card = opened.locator("#samples .card").first
        return [card.locator(f"img.of-{i}").is_visible() for i in range(2)]

    assert drawn() == [True, False]
    opened.get_by_text("outlines", exact=True).last.click()
    assert drawn() == [False, True]
    opened.close()
