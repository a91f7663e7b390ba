"""The content of the summary page, and the escaping of hostile names."""

import base64
import io
import re
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from bs4 import BeautifulSoup, Tag
from PIL import Image

from labels.image_files import DeferredImage, ImageBytes
from labels.labeled_image import LabeledImage, TracedAnnotation
from prompts.annotations import Box, Polygon, Text
from server.jobs.recipes.parsing import parse_recipe
from server.jobs.recipes.recipe import Recipe
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
HOSTILE = "<script>alert(1)</script>\"'>&amp;<img src=x onerror=alert(1)>\n../\u202egnp.\x00\udcff日本"


def encode_png(color: str = "navy", size: tuple[int, int] = (64, 48)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


PNG = encode_png()


def make_trace(label: str, score: float | None, review: str = "", step: str = "things") -> TracedAnnotation:
    return TracedAnnotation(Box(label=label, score=score, box=(8, 8, 40, 40)), step, model="a" * 64, review=review)


def make_image(number: int, *traces: TracedAnnotation, data: bytes = PNG) -> LabeledImage:
    return LabeledImage.from_traces(f"images/{number:03}.png", 64, 48, traces, lambda: data, sha256=f"{number:064x}")


def make_info(recipe: Recipe = RECIPE, **changes: object) -> SummaryInfo:
    return replace(SummaryInfo("Things", recipe, "my/images", "seedling", JobProgress(done=3)), **changes)  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "summary.html"


def parse_page(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def get_text(tag: Tag | None) -> str:
    assert tag is not None
    return " ".join(tag.get_text(" ").split())


def load_images(part: Tag | None) -> list[Image.Image]:
    assert part is not None
    urls = [str(image["src"]) for image in part.find_all("img")]
    assert all(url.startswith("data:image/webp;base64,") for url in urls)
    opened = [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]
    for image in opened:
        image.load()
    return opened


def read_rows(page: BeautifulSoup, step: str) -> dict[str, list[str]]:
    """Returns the count, the mean score and the number to review of each class of a step."""
    table = page.select(f"article[data-step={step}] tbody tr")
    return {get_text(row.th): [get_text(cell) for cell in row.select("td.number")] for row in table}


def test_the_page_counts_images_annotations_and_reviews(path: Path) -> None:
    images = [
        make_image(
            1, make_trace("cat", 0.9), make_trace("cat", 0.2, "score 0.20 is below 0.3"), make_trace("dog", 0.5)
        ),
        make_image(2, make_trace("cat", 0.7), TracedAnnotation(Text(label="A cat."), "caption")),
        make_image(3),
    ]
    write_summary(path, images, make_info(seconds=3700, progress=JobProgress(waiting=2, leased=1, done=3, failed=4)))
    page = parse_page(path)
    assert [get_text(tile) for tile in page.select(".tile")] == [
        "3 images labeled", "5 annotations, 1.7 per image", "1 to review, in 1 image", "4 failed",
        "1 without annotations",
    ]  # fmt: skip
    assert read_rows(page, "things") == {"cat": ["3", "0.60", "1"], "dog": ["1", "0.50", ""]}
    assert get_text(page.select_one("article[data-step=things] .whole")).startswith("4 annotations in 2 images")
    assert "1 annotation in 1 image" in get_text(page.select_one("article[data-step=caption]"))
    assert get_text(page.select_one(".progress")) == "3 of 10 images done, 4 failed, 1 in progress, 2 waiting."
    facts = get_text(page.select_one(".facts"))
    for fact in ("my/images", "things", RECIPE.hash[:12], "seedling", "a" * 12, "1 h 1 min"):
        assert fact in facts
    assert parse_recipe(get_recipe_text(page)).hash == RECIPE.hash


def get_recipe_text(page: BeautifulSoup) -> str:
    recipe = page.select_one("#recipe pre")
    assert recipe is not None
    return recipe.get_text()


def test_the_histogram_of_a_class_shows_its_scores(path: Path) -> None:
    scores = [0.01, 0.12, 0.12, 0.31, 0.999]
    write_summary(
        path,
        [make_image(1, *(make_trace("cat", score, "uncertain" if score < 0.3 else "") for score in scores))],
        make_info(),
    )
    (row,) = parse_page(path).select("article[data-step=things] tbody tr")
    assert [title.get_text() for title in row.select("svg title")] == [
        "0.00–0.05: 1 annotation, 1 to review",
        "0.10–0.15: 2 annotations, 2 to review",
        "0.30–0.35: 1 annotation",
        "0.95–1.00: 1 annotation",
    ]
    line = row.select_one("svg line")
    assert line is not None
    assert float(str(line["x1"])) == pytest.approx(60)  # of 200: the review threshold


def test_rare_classes_share_one_row(path: Path) -> None:
    traces = [make_trace(f"thing {i:02}", 0.5) for i in range(30) for _ in range(31 - i)]
    write_summary(path, [make_image(1, *traces)], make_info())
    table = read_rows(parse_page(path), "things")
    assert next(iter(table)) == "thing 00"
    assert list(table.values())[-1][0] == str(sum(31 - i for i in range(12, 30)))
    assert list(table)[-1] == "18 more classes"


def test_the_lowest_score_to_review_comes_first_with_its_reason(path: Path) -> None:
    reason = "the check returned 'dog'"
    images = [make_image(i, make_trace("cat", 0.9)) for i in range(20)]
    images += [
        make_image(30, make_trace("cat", 0.8, reason)),
        make_image(31, make_trace("cat", 0.4, reason), make_trace("hat", 0.1, "score 0.10")),
    ]
    images += [make_image(32, make_trace("sure", 0.05))]
    write_summary(path, images, make_info(), reviews=3)
    page = parse_page(path)
    cards = page.select("#review .card")
    assert [get_text(card.select_one(".name")) for card in cards] == [
        "images/031.png", "images/030.png", "images/032.png",
    ]  # fmt: skip
    assert [get_text(line) for line in cards[0].select("li")] == [
        "hat things · 10% score 0.10", f"cat things · 40% {reason}",
    ]  # fmt: skip
    assert "2 the check returned …" in get_text(page.select_one(".reasons"))


def test_without_reviews_the_lowest_scores_are_shown(path: Path) -> None:
    write_summary(path, [make_image(i, make_trace("cat", i / 10)) for i in range(1, 10)], make_info(), reviews=2)
    part = parse_page(path).select_one("#review")
    assert part is not None
    assert "No annotation is marked for review" in get_text(part)
    assert [get_text(name) for name in part.select(".name")] == ["images/001.png", "images/002.png"]


def test_samples_are_drawn_for_each_step_with_shapes(path: Path) -> None:
    outline = TracedAnnotation(Polygon(label="cat", score=0.8, polygons=[[8, 8, 40, 8, 40, 40]]), "outlines", parent=0)
    caption = TracedAnnotation(Text(label="A cat in the dark.", score=0.9), "caption")
    child = TracedAnnotation(Text(label="It sleeps.", score=0.9), "caption", parent=0)
    write_summary(path, [make_image(1, make_trace("cat", 0.9), outline, caption, child)], make_info())
    part = parse_page(path).select_one("#samples")
    assert part is not None
    plain, drawn = Image.open(io.BytesIO(PNG)).convert("RGB").getpixel((0, 0)), load_images(part)
    assert len(drawn) == 2
    assert [get_text(label) for label in part.select(".views label")] == ["things", "outlines"]
    for image in drawn:
        assert max(image.size) == 320
        assert image.convert("RGB").getpixel((319, 239)) == pytest.approx(plain, abs=12)
        assert len(image.convert("RGB").getcolors(100_000) or []) > 50
    assert drawn[0].tobytes() != drawn[1].tobytes()
    assert "A cat in the dark." in get_text(part)
    assert "cat : It sleeps." in get_text(part)


def test_samples_are_random_and_the_same_each_time(path: Path) -> None:
    images = [make_image(i, make_trace("cat", 0.9)) for i in range(200)]

    def get_sample_names(given: list[LabeledImage]) -> list[str]:
        write_summary(path, given, make_info(), samples=8, reviews=0)
        return [get_text(name) for name in parse_page(path).select("#samples .name")]

    names = get_sample_names(images)
    assert len(set(names)) == 8
    assert get_sample_names(images[::-1]) == names
    assert max(names) > "images/100.png" > min(names)
    assert get_sample_names([replace(one, name="again.png") for one in images[:3]] + images[:3]) == ["again.png"] * 3
    before = path.read_bytes()
    get_sample_names([replace(one, name="again.png") for one in images[:3]] + images[:3])
    assert path.read_bytes() == before


def test_failures_are_grouped_by_similar_reasons(path: Path) -> None:
    failures = [
        FailedImage(i, "too_large", f"the image has {i + 9000}×{i} pixels", name=f"big/{i}.tif") for i in range(25)
    ]
    failures += [FailedImage(30, "empty", "the image is empty: 0 bytes", name="none.png", attempts=1)]
    failures += [FailedImage(40 + i, f"odd {'x' * i}", "as if", name="odd.png") for i in range(80)]
    write_summary(path, [], make_info(progress=JobProgress(failed=106), failures=iter(failures)))
    part = parse_page(path).select_one("#failures")
    assert part is not None
    groups = part.select("details")
    assert len(groups) <= 51
    assert get_text(groups[0].summary) == "25 too_large the image has …×… pixels"
    assert "big/0.tif the image has 9000×0 pixels" in get_text(groups[0])
    assert get_text(groups[0]).endswith("and 15 more")
    assert "1 empty the image is empty: 0 bytes none.png" in [get_text(group) for group in groups]
    assert get_text(groups[-1].summary) == "32 other other reasons"


def test_hostile_names_are_escaped(path: Path) -> None:
    trace = TracedAnnotation(
        Box(label=HOSTILE, score=0.2, box=(8, 8, 40, 40)), "things", review=HOSTILE, model=HOSTILE, adapter=HOSTILE
    )
    text = TracedAnnotation(Text(label=HOSTILE, score=0.2), HOSTILE, review=HOSTILE, parent=0)
    recipe = RECIPE.model_copy(update={"name": HOSTILE})
    broken = replace(make_image(2, trace), name=HOSTILE, open=ImageBytes(HOSTILE.encode("utf-8", "replace")))
    write_summary(
        path,
        [replace(make_image(1, trace, text), name=HOSTILE), broken],
        make_info(
            recipe, title=HOSTILE, source=HOSTILE, model=HOSTILE, progress=JobProgress(failed=1),
            failures=[FailedImage(1, HOSTILE, HOSTILE, name=HOSTILE)],
        ),
    )  # fmt: skip
    page = parse_page(path)
    assert not page.find_all(["script", "iframe", "object", "link"], src=True)
    assert not page.find_all("script")
    assert all(str(image["src"]).startswith("data:image/webp;") for image in page.find_all("img"))
    assert not [name for tag in page.find_all(True) for name in tag.attrs if name.startswith("on")]
    shown = "<script>alert(1)</script>\"'>&amp;<img src=x onerror=alert(1)>"
    for place in ("h1", ".facts", "#annotations tbody", "#review .name", "#review .why", "#samples .name", "#failures"):
        assert shown in get_text(page.select_one(place)), place
    assert not re.search("[\x00-\x08\x0e-\x1f]", path.read_text(encoding="utf-8"))


def test_an_image_that_cannot_be_read_shows_why(path: Path) -> None:
    def fail_to_read() -> bytes:
        raise FileNotFoundError(2, "No such file or directory")

    images = [
        replace(make_image(1, make_trace("cat", 0.9)), open=DeferredImage(fail_to_read)),
        make_image(2, data=b""),
        make_image(3, data=PNG[:50]),
    ]
    write_summary(path, images, make_info())
    part = parse_page(path).select_one("#samples")
    assert part is not None
    messages = sorted(get_text(message) for message in part.select(".error"))
    assert len(messages) == 3
    for message, reason in zip(messages, ("No such file", "cut short", "empty"), strict=True):
        assert reason in message


def test_a_job_without_labeled_images_has_a_page(path: Path) -> None:
    write_summary(path, [], make_info(progress=JobProgress(waiting=5)))
    text = get_text(parse_page(path).main)
    for message in ("No image is labeled.", "Nothing to review.", "No image failed.", "0 of 5 images done"):
        assert message in text


def test_the_page_is_complete_or_unchanged(path: Path) -> None:
    def fail_midway() -> Iterator[FailedImage]:
        yield FailedImage(1, "empty", "empty", name="a.png")
        raise RuntimeError("the database went away")

    write_summary(path, [make_image(1)], make_info())
    before = path.read_bytes()
    with pytest.raises(RuntimeError):
        write_summary(path, [make_image(2)], make_info(failures=fail_midway()))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(FileNotFoundError):
        write_summary(path.parent / "missing" / "summary.html", [], make_info())


def test_unusual_shapes_are_drawn_or_left_out(path: Path) -> None:
    unusual = [
        TracedAnnotation(Polygon(label="none", score=0.1, polygons=[]), "things", review="empty"),
        TracedAnnotation(
            Box(label="outside", score=0.2, box=(-500, -500, 5000, 9000)), "things", review="outside", parent=99
        ),
        TracedAnnotation(Box(label="", score=None, box=(8, 8, 8, 8)), "unknown", review="thin"),
    ]
    write_summary(path, [make_image(1, *unusual)], make_info())
    page = parse_page(path)
    assert len(load_images(page.select_one("#review"))) == 1
    assert "not in the recipe" in get_text(page.select_one("article[data-step=unknown]"))
    assert list(read_rows(page, "unknown")) == ["no label"]


def test_memory_does_not_grow_with_the_images(path: Path) -> None:
    def generate_images(count: int) -> Iterator[LabeledImage]:
        for i in range(count):  # each is less certain than the last, and has its own labels
            yield make_image(
                i, make_trace(f"thing {i}", 0.9 - i / count / 2, f"reason {'x' * (i % 300)}"), make_trace("cat", 0.9)
            )

    def measure_peak(count: int) -> int:
        failures = (FailedImage(i, "odd", f"reason {'y' * i}", name=f"{i}.png") for i in range(count // 10))
        tracemalloc.start()
        write_summary(path, generate_images(count), make_info(failures=failures), samples=4, reviews=4)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    measure_peak(100)
    few, many = measure_peak(2500), measure_peak(5000)
    assert many < few + 1_000_000
