"""The content of the summary page, and the escaping of hostile names."""

import base64
import hashlib
import io
import json
import re
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup, Tag
from PIL import Image

from labels.dropped_labels import DroppedLabel, DropReason
from labels.image_files import DeferredImage, ImageBytes
from labels.labeled_image import LabeledImage, TracedAnnotation
from prompts.annotations import Box, Polygon, Text
from server.jobs.recipes.parsing import parse_recipe
from server.jobs.recipes.recipe import Recipe
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


def read_data(path: Path) -> dict[str, Any]:
    """Returns what the script of the page filters."""
    data = parse_page(path).select_one("#data")
    assert data is not None
    return json.loads(data.get_text())  # type: ignore[no-any-return]


def decode_file(image: dict[str, Any]) -> Image.Image:
    assert image["file"].startswith("data:image/webp;base64,")
    opened = Image.open(io.BytesIO(base64.b64decode(image["file"].partition(",")[2])))
    opened.load()
    return opened


def read_rows(page: BeautifulSoup) -> dict[str, list[str]]:
    """Returns the cells of each class: labels by step, mean score, labels to review."""
    rows = page.select("#class-table tbody tr")
    return {get_text(row.th): [get_text(cell) for cell in row.select("td")] for row in rows}


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
        "3 images labeled", "5 labels, 1.7 per image", "1 to review, in 1 image", "4 failed", "1 without labels",
    ]  # fmt: skip
    assert read_rows(page) == {"cat": ["3", "0.60", "1"], "dog": ["1", "0.50", ""]}
    things = get_text(page.select_one("article[data-step=things]"))
    assert "4 answers in 2 images · mean score 0.57 1 to review · to review below 0.3" in things
    caption = get_text(page.select_one("article[data-step=caption]"))
    assert "1 answer in 1 image not reviewed by score" in caption
    assert get_text(page.select_one(".progress")) == "3 of 10 images done, 4 failed, 1 in progress, 2 waiting."
    facts = get_text(page.select_one(".facts"))
    for fact in ("my/images", "things", RECIPE.hash[:12], "seedling", "a" * 12, "1 h 1 min"):
        assert fact in facts
    assert parse_recipe(get_recipe_text(page)).hash == RECIPE.hash


def get_recipe_text(page: BeautifulSoup) -> str:
    recipe = page.select_one("#recipe pre")
    assert recipe is not None
    return recipe.get_text()


def test_the_histogram_of_a_step_shows_its_scores(path: Path) -> None:
    scores = [0.01, 0.12, 0.12, 0.31, 0.999]
    write_summary(
        path,
        [make_image(1, *(make_trace("cat", score, "uncertain" if score < 0.3 else "") for score in scores))],
        make_info(),
    )
    step = parse_page(path).select_one("article[data-step=things]")
    assert step is not None
    assert [title.get_text() for title in step.select("svg title")] == [
        "0.00–0.05: 1 answer, 1 to review",
        "0.10–0.15: 2 answers, 2 to review",
        "0.30–0.35: 1 answer",
        "0.95–1.00: 1 answer",
    ]
    line = step.select_one("svg line")
    assert line is not None
    assert float(str(line["x1"])) == pytest.approx(60)  # of 200: the review threshold


def test_all_classes_are_shown_with_their_counts_by_step(path: Path) -> None:
    traces = [make_trace(f"thing {i:03}", 0.5) for i in range(200) for _ in range(3 if i == 0 else 1)]
    outline = TracedAnnotation(
        Polygon(label="thing 199", score=0.7, polygons=[[8, 8, 40, 8, 40, 40]]), "outlines", parent=len(traces) - 1
    )
    caption = TracedAnnotation(Text(label="A caption is no class."), "caption")
    write_summary(path, [make_image(1, *traces, outline, caption)], make_info())
    rows = read_rows(parse_page(path))
    assert list(rows) == [f"thing {i:03}" for i in range(200)]
    assert rows["thing 000"] == ["3", "3", "0", "0.50", ""]
    assert rows["thing 199"] == ["1", "1", "1", "0.50", ""]


def test_classes_that_never_appeared_and_dropped_labels_are_shown(path: Path) -> None:
    recipe = parse_recipe("name: x\nontology: {cat: [cat, kitten], dog: , cow: }\nsteps: [{id: things, task: <OD>}]")
    dropped = (
        DroppedLabel("things", HOSTILE, DropReason.NO_CLASS, 12),
        DroppedLabel("things", "fox", DropReason.CONTRADICTED, 3),
    )
    write_summary(path, [make_image(1, make_trace("dog", 0.9))], make_info(recipe, dropped=dropped, uncounted=7))
    page = parse_page(path)
    assert "1 class has labels. 2 classes never appeared: cat , cow ." in get_text(page.select_one("#classes"))
    assert list(read_rows(page).items())[1:] == [("cat", ["0", "–", ""]), ("cow", ["0", "–", ""])]
    section = get_text(page.select_one("#dropped"))
    assert "The model named 15 objects that the recipe did not keep. Those of 7 images were not counted" in section
    assert "fox 3 things contradicted by a check" in section


def test_a_page_without_classes_has_no_table_of_them(path: Path) -> None:
    recipe = parse_recipe("name: x\nsteps: [{id: caption, task: <CAPTION>}]")
    caption = TracedAnnotation(Text(label="A cat.", score=0.4), "caption")
    write_summary(path, [make_image(1, caption)], make_info(recipe))
    page = parse_page(path)
    assert page.select("#classes, #dropped") == []
    assert "not reviewed by score" in get_text(page.select_one("article[data-step=caption]"))


def test_uncalibrated_scores_are_named(path: Path) -> None:
    write_summary(path, [make_image(1, make_trace("cat", 0.9))], make_info(uncalibrated=["things"]))
    assert "scores are not calibrated" in get_text(parse_page(path).select_one("article[data-step=things]"))
    assert [step["calibrated"] for step in read_data(path)["steps"]] == [False, True, True]


def test_images_have_their_labels_in_pixels_of_their_file(path: Path) -> None:
    traces = [
        TracedAnnotation(
            Box(label="cat", score=0.25, box=(80, 80, 400, 400)), "things", review="score 0.25 is below 0.3"
        ),
        TracedAnnotation(
            Polygon(label="cat", score=0.8, polygons=[[80, 80, 400, 80, 400, 400, 80, 80]]), "outlines", parent=0
        ),
        TracedAnnotation(Text(label="A cat.", score=None), "caption"),
    ]
    data = encode_png(size=(1440, 960))
    image = LabeledImage.from_traces("big.png", 1440, 960, traces, lambda: data, sha256="a" * 64)
    write_summary(path, [image], make_info())
    (shown,) = read_data(path)["images"]
    assert decode_file(shown).size == (shown["width"], shown["height"]) == (720, 480)
    assert (shown["name"], shown["size"], shown["hidden"], shown["error"]) == ("big.png", [1440, 960], 0, "")
    box = {"rings": [[40, 40, 200, 40, 200, 200, 40, 200]], "about": -1}
    outline = {"rings": [[40, 40, 200, 40, 200, 200, 40, 40]]}
    cat = {"step": 0, "class": 0, "text": "cat", "score": 0.25, "review": "score 0.25 is below 0.3", "attributes": []}
    caption = {"step": 2, "class": -1, "text": "A cat.", "score": None, "review": "", "rings": [], "attributes": []}
    assert shown["labels"] == [{**cat, **outline, "about": -1}, {**caption, "about": -1}]
    assert shown["answers"] == [
        {**cat, **box},
        {**cat, **outline, "step": 1, "score": 0.8, "review": "", "about": 0},
        {**caption, "about": -1},
    ]


def test_the_scores_of_the_whole_job_can_be_filtered(path: Path) -> None:
    images = [make_image(i, make_trace("cat", 0.12, "low"), make_trace("dog", 0.9)) for i in range(50)]
    images += [make_image(50, TracedAnnotation(Text(label="No score."), "caption"))]
    write_summary(path, images, make_info(), max_images=3)
    data = read_data(path)
    assert data["classes"] == ["cat", "dog"]
    counts = [[0, 50, 50, [[2, 50, 50]]], [1, 50, 0, [[18, 50, 0]]], [-1, 1, 0, []]]
    assert [row for row in data["counts"] if row[0] < 0] == [[-1, *row] for row in counts]
    assert [row for row in data["counts"] if row[0] >= 0] == [[0, *counts[0]], [0, *counts[1]], [2, *counts[2]]]
    assert len(data["images"]) == 3


def get_names(path: Path) -> list[str]:
    return [image["name"] for image in read_data(path)["images"]]


def test_a_large_job_shows_the_least_certain_images_all_classes_and_random_ones(path: Path) -> None:
    reason = "the check returned 'dog'"
    images = [make_image(i, make_trace("cat", 0.9)) for i in range(200)]
    images += [make_image(200 + i, make_trace(f"rare {i}", 0.95)) for i in range(3)]
    images += [make_image(300, make_trace("cat", 0.8, reason)), make_image(301, make_trace("cat", 0.05))]
    images += [make_image(302, make_trace("cat", 0.4, reason), make_trace("hat", 0.1, "score 0.10"))]
    write_summary(path, images, make_info(), max_images=9)
    names = get_names(path)
    assert names[:3] == ["images/302.png", "images/300.png", "images/301.png"]
    assert sorted(names[3:6]) == ["images/200.png", "images/201.png", "images/202.png"]
    assert len(set(names)) == 9
    assert (
        "9 of 206 images: the 3 least certain ones, 3 with classes that those lack, and 3 chosen at random."
        in get_text(parse_page(path).select_one("#images"))
    )
    assert "2 the check returned …" in get_text(parse_page(path).select_one(".reasons"))


def test_random_images_are_the_same_each_time(path: Path) -> None:
    images = [make_image(i) for i in range(200)]

    def write_names(given: list[LabeledImage]) -> list[str]:
        write_summary(path, given, make_info(), max_images=8)
        return get_names(path)

    names = write_names(images)
    assert len(set(names)) == 8
    assert write_names(images[::-1]) == names
    assert max(names) > "images/100.png" > min(names)
    assert write_names([replace(one, name="again.png") for one in images[:3]] + images[:3]) == ["again.png"] * 3
    before = path.read_bytes()
    write_names([replace(one, name="again.png") for one in images[:3]] + images[:3])
    assert path.read_bytes() == before


def test_the_page_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    traces = [make_trace("cat", 0.9) for _ in range(250)]
    traces.insert(240, make_trace("dog", 0.1, "score 0.10"))
    write_summary(path, [make_image(1, *traces)], make_info())
    (shown,) = read_data(path)["images"]
    assert (len(shown["labels"]), shown["hidden"]) == (200, 51)
    assert shown["labels"][-1]["text"] == "dog", "labels to review are not left out"

    monkeypatch.setattr("server.jobs.summary.shown_images.MAX_BYTES", 3000)
    write_summary(path, [make_image(i, make_trace("cat", 0.9)) for i in range(20)], make_info())
    shown = get_names(path)
    assert 1 <= len(shown) < 20
    assert f"{len(shown)} of 20 images" in get_text(parse_page(path).select_one("#images"))


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
    assert [script["type"] for script in page.find_all("script")] == ["application/json", "module"]
    assert not page.find_all("img")
    assert not [name for tag in page.find_all(True) for name in tag.attrs if name.startswith("on") or name == "style"]
    shown = "<script>alert(1)</script>\"'>&amp;<img src=x onerror=alert(1)>"
    for place in ("h1", ".facts", "#class-table tbody", "#failures"):
        assert shown in get_text(page.select_one(place)), place
    first = read_data(path)["images"][0]
    for text in (first["name"], first["labels"][0]["text"], first["labels"][0]["review"]):
        assert shown in text
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
    messages = sorted(image["error"] for image in read_data(path)["images"])
    assert len(messages) == 3
    for message, reason in zip(messages, ("No such file", "cut short", "empty"), strict=True):
        assert reason in message


def test_a_job_without_labeled_images_has_a_page(path: Path) -> None:
    write_summary(path, [], make_info(progress=JobProgress(waiting=5)))
    text = get_text(parse_page(path).main)
    for message in ("No image is labeled.", "No image failed.", "0 of 5 images done"):
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
    (shown,) = read_data(path)["images"]
    assert [label["rings"] for label in shown["labels"]][::2] == [[], [[8, 8, 8, 8, 8, 8, 8, 8]]]
    assert shown["labels"][1]["about"] == -1
    page = parse_page(path)
    assert "not in the recipe" in get_text(page.select_one("article[data-step=unknown]"))
    assert "no label" in read_rows(page)


def test_the_policy_allows_only_the_script_and_the_style_of_the_page(path: Path) -> None:
    write_summary(path, [make_image(1, make_trace("cat", 0.9))], make_info())
    page = parse_page(path)
    policy = page.find("meta", {"http-equiv": "Content-Security-Policy"})
    assert isinstance(policy, Tag)
    assert policy["content"] == get_page_policy()
    script, style = page.select_one("script[type=module]"), page.style
    assert script is not None
    assert style is not None
    for name, tag in (("script-src", script), ("style-src", style)):
        digest = base64.b64encode(hashlib.sha256(str(tag.string).encode()).digest()).decode()
        assert f"{name} 'sha256-{digest}';" in get_page_policy()
    assert "unsafe" not in get_page_policy()


def test_memory_does_not_grow_with_the_images(path: Path) -> None:
    def generate_images(count: int) -> Iterator[LabeledImage]:
        for i in range(count):  # each is less certain than the last, and has its own labels
            labels = [make_trace(f"thing {i} {j}", 0.9 - i / count / 2, f"reason {'x' * (i % 300)}") for j in range(10)]
            yield make_image(i, *labels, make_trace("cat", 0.9))

    def measure_peak(count: int) -> int:
        failures = (FailedImage(i, "odd", f"reason {'y' * i}", name=f"{i}.png") for i in range(count))
        tracemalloc.start()
        write_summary(path, generate_images(count), make_info(failures=failures), max_images=8)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    write_summary(path, [], make_info())  # loads the template
    few, many = measure_peak(210), measure_peak(420)
    assert many < few + 1_000_000
