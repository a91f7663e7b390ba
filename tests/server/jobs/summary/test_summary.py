"""The page by what it says: parsed as a browser would, and nothing of a stranger's name taken for markup."""

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

from labels.labeled_image import LabeledImage, TracedAnnotation
from prompts.annotations import Box, Polygon, Text
from server.jobs.recipes.parsing import parse_recipe
from server.jobs.recipes.recipe import Recipe
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
HOSTILE = "<script>alert(1)</script>\"'>&amp;<img src=x onerror=alert(1)>\n../\u202egnp.\x00\udcff日本"


def png(color: str = "navy", size: tuple[int, int] = (64, 48)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


PNG = png()


def box(label: str, score: float | None, review: str = "", step: str = "things") -> TracedAnnotation:
    return TracedAnnotation(Box(label=label, score=score, box=(8, 8, 40, 40)), step, model="a" * 64, review=review)


def picture(number: int, *labels: TracedAnnotation, data: bytes = PNG) -> LabeledImage:
    return LabeledImage.from_traces(f"pictures/{number:03}.png", 64, 48, labels, lambda: data, sha256=f"{number:064x}")


def about(recipe: Recipe = RECIPE, **changes: object) -> SummaryInfo:
    return replace(SummaryInfo("Things", recipe, "my/pictures", "seedling", JobProgress(done=3)), **changes)  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "summary.html"


def parsed(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def words(tag: Tag | None) -> str:
    assert tag is not None
    return " ".join(tag.get_text(" ").split())


def images(part: Tag | None) -> list[Image.Image]:
    assert part is not None
    urls = [str(image["src"]) for image in part.find_all("img")]
    assert all(url.startswith("data:image/webp;base64,") for url in urls)
    opened = [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]
    for image in opened:
        image.load()
    return opened


def rows(page: BeautifulSoup, step: str) -> dict[str, list[str]]:
    """A step's classes: labels, mean score, to review."""
    table = page.select(f"article[data-step={step}] tbody tr")
    return {words(row.th): [words(cell) for cell in row.select("td.number")] for row in table}


def test_it_counts_pictures_labels_and_what_is_to_review(path: Path) -> None:
    pictures = [
        picture(1, box("cat", 0.9), box("cat", 0.2, "score 0.20 is below 0.3"), box("dog", 0.5)),
        picture(2, box("cat", 0.7), TracedAnnotation(Text(label="A cat."), "caption")),
        picture(3),
    ]
    write(path, pictures, about(seconds=3700, progress=JobProgress(waiting=2, leased=1, done=3, failed=4)))
    page = parsed(path)
    assert [words(tile) for tile in page.select(".tile")] == [
        "3 pictures labelled", "5 labels, 1.7 a picture", "1 to review, in 1 picture", "4 failed", "1 without a label",
    ]  # fmt: skip
    assert rows(page, "things") == {"cat": ["3", "0.60", "1"], "dog": ["1", "0.50", ""]}
    assert words(page.select_one("article[data-step=things] .whole")).startswith("4 labels in 2 pictures")
    assert "1 label in 1 picture" in words(page.select_one("article[data-step=caption]"))
    assert words(page.select_one(".progress")) == "3 of 10 pictures done, 4 failed, 1 under way, 2 waiting."
    facts = words(page.select_one(".facts"))
    for fact in ("my/pictures", "things", RECIPE.hash[:12], "seedling", "a" * 12, "1 h 1 min"):
        assert fact in facts
    assert parse_recipe(words_of_recipe(page)).hash == RECIPE.hash


def words_of_recipe(page: BeautifulSoup) -> str:
    recipe = page.select_one("#recipe pre")
    assert recipe is not None
    return recipe.get_text()


def test_the_histogram_of_a_class_has_its_scores(path: Path) -> None:
    scores = [0.01, 0.12, 0.12, 0.31, 0.999]
    write(path, [picture(1, *(box("cat", score, "doubtful" if score < 0.3 else "") for score in scores))], about())
    (row,) = parsed(path).select("article[data-step=things] tbody tr")
    assert [title.get_text() for title in row.select("svg title")] == [
        "0.00–0.05: 1 label, 1 to review",
        "0.10–0.15: 2 labels, 2 to review",
        "0.30–0.35: 1 label",
        "0.95–1.00: 1 label",
    ]
    line = row.select_one("svg line")
    assert line is not None
    assert float(str(line["x1"])) == pytest.approx(60)  # of 200: what the recipe reviews below


def test_the_rarer_classes_are_one_line(path: Path) -> None:
    labels = [box(f"thing {i:02}", 0.5) for i in range(30) for _ in range(31 - i)]
    write(path, [picture(1, *labels)], about())
    table = rows(parsed(path), "things")
    assert next(iter(table)) == "thing 00"
    assert list(table.values())[-1][0] == str(sum(31 - i for i in range(12, 30)))
    assert list(table)[-1] == "18 more classes"


def test_the_least_sure_to_review_comes_first_with_its_reason(path: Path) -> None:
    told = "its region, asked back, is 'dog'"
    pictures = [picture(i, box("cat", 0.9)) for i in range(20)]
    pictures += [picture(30, box("cat", 0.8, told)), picture(31, box("cat", 0.4, told), box("hat", 0.1, "score 0.10"))]
    pictures += [picture(32, box("sure", 0.05))]
    write(path, pictures, about(), doubtful=3)
    page = parsed(path)
    cards = page.select("#doubtful .card")
    assert [words(card.select_one(".name")) for card in cards] == [
        "pictures/031.png", "pictures/030.png", "pictures/032.png",
    ]  # fmt: skip
    assert [words(line) for line in cards[0].select("li")] == [
        "hat things · 10% score 0.10", f"cat things · 40% {told}",
    ]  # fmt: skip
    assert "2 its region, asked back, is …" in words(page.select_one(".reasons"))


def test_without_reviews_the_least_sure_are_shown_as_such(path: Path) -> None:
    write(path, [picture(i, box("cat", i / 10)) for i in range(1, 10)], about(), doubtful=2)
    part = parsed(path).select_one("#doubtful")
    assert part is not None
    assert "No label was marked for review" in words(part)
    assert [words(name) for name in part.select(".name")] == ["pictures/001.png", "pictures/002.png"]


def test_samples_are_drawn_for_each_step_that_finds_places(path: Path) -> None:
    outline = TracedAnnotation(Polygon(label="cat", score=0.8, polygons=[[8, 8, 40, 8, 40, 40]]), "outlines", parent=0)
    said = TracedAnnotation(Text(label="A cat in the dark.", score=0.9), "caption")
    about_it = TracedAnnotation(Text(label="It sleeps.", score=0.9), "caption", parent=0)
    write(path, [picture(1, box("cat", 0.9), outline, said, about_it)], about())
    part = parsed(path).select_one("#samples")
    assert part is not None
    plain, drawn = Image.open(io.BytesIO(PNG)).convert("RGB").getpixel((0, 0)), images(part)
    assert len(drawn) == 2
    assert [words(label) for label in part.select(".views label")] == ["things", "outlines"]
    for image in drawn:
        assert max(image.size) == 320
        assert image.convert("RGB").getpixel((319, 239)) == pytest.approx(plain, abs=12)
        assert len(image.convert("RGB").getcolors(100_000) or []) > 50
    assert drawn[0].tobytes() != drawn[1].tobytes()
    assert "A cat in the dark." in words(part)
    assert "cat : It sleeps." in words(part)


def test_samples_are_chosen_by_chance_and_the_same_each_time(path: Path) -> None:
    pictures = [picture(i, box("cat", 0.9)) for i in range(200)]

    def chosen(given: list[LabeledImage]) -> list[str]:
        write(path, given, about(), samples=8, doubtful=0)
        return [words(name) for name in parsed(path).select("#samples .name")]

    names = chosen(pictures)
    assert len(set(names)) == 8
    assert chosen(pictures[::-1]) == names
    assert max(names) > "pictures/100.png" > min(names)
    assert chosen([replace(one, name="again.png") for one in pictures[:3]] + pictures[:3]) == ["again.png"] * 3
    before = path.read_bytes()
    chosen([replace(one, name="again.png") for one in pictures[:3]] + pictures[:3])
    assert path.read_bytes() == before


def test_failures_are_grouped_by_like_reasons(path: Path) -> None:
    failures = [
        FailedImage(i, "too_large", f"the picture has {i + 9000}×{i} pixels", name=f"big/{i}.tif") for i in range(25)
    ]
    failures += [FailedImage(30, "empty", "the picture is empty: 0 bytes", name="none.png", tries=1)]
    failures += [FailedImage(40 + i, f"odd {'x' * i}", "as if", name="odd.png") for i in range(80)]
    write(path, [], about(progress=JobProgress(failed=106), failures=iter(failures)))
    part = parsed(path).select_one("#failures")
    assert part is not None
    groups = part.select("details")
    assert len(groups) <= 51
    assert words(groups[0].summary) == "25 too_large the picture has …×… pixels"
    assert "big/0.tif the picture has 9000×0 pixels" in words(groups[0])
    assert words(groups[0]).endswith("and 15 more")
    assert "1 empty the picture is empty: 0 bytes none.png" in [words(group) for group in groups]
    assert words(groups[-1].summary) == "32 other other reasons"


def test_hostile_names_stay_words(path: Path) -> None:
    label = TracedAnnotation(
        Box(label=HOSTILE, score=0.2, box=(8, 8, 40, 40)), "things", review=HOSTILE, model=HOSTILE, adapter=HOSTILE
    )
    text = TracedAnnotation(Text(label=HOSTILE, score=0.2), HOSTILE, review=HOSTILE, parent=0)
    recipe = RECIPE.model_copy(update={"name": HOSTILE})
    broken = replace(picture(2, label), name=HOSTILE, read=lambda: HOSTILE.encode("utf-8", "replace"))
    write(
        path,
        [replace(picture(1, label, text), name=HOSTILE), broken],
        about(
            recipe, title=HOSTILE, source=HOSTILE, model=HOSTILE, failures=[FailedImage(1, HOSTILE, HOSTILE, name=HOSTILE)],
            progress=JobProgress(failed=1),
        ),
    )  # fmt: skip
    page = parsed(path)
    assert not page.find_all(["script", "iframe", "object", "link"], src=True)
    assert not page.find_all("script")
    assert all(str(image["src"]).startswith("data:image/webp;") for image in page.find_all("img"))
    assert not [name for tag in page.find_all(True) for name in tag.attrs if name.startswith("on")]
    shown = "<script>alert(1)</script>\"'>&amp;<img src=x onerror=alert(1)>"
    for place in ("h1", ".facts", "#labels tbody", "#doubtful .name", "#doubtful .why", "#samples .name", "#failures"):
        assert shown in words(page.select_one(place)), place
    assert not re.search("[\x00-\x08\x0e-\x1f]", path.read_text(encoding="utf-8"))


def test_a_picture_that_cannot_be_read_says_why(path: Path) -> None:
    def gone() -> bytes:
        raise FileNotFoundError(2, "No such file or directory")

    pictures = [replace(picture(1, box("cat", 0.9)), read=gone), picture(2, data=b""), picture(3, data=PNG[:50])]
    write(path, pictures, about())
    part = parsed(path).select_one("#samples")
    assert part is not None
    troubles = sorted(words(trouble) for trouble in part.select(".trouble"))
    assert len(troubles) == 3
    for trouble, why in zip(troubles, ("No such file", "cut short", "empty"), strict=True):
        assert why in trouble


def test_nothing_labelled_is_a_page_too(path: Path) -> None:
    write(path, [], about(progress=JobProgress(waiting=5)))
    text = words(parsed(path).main)
    for said in ("No picture is labelled.", "Nothing is doubtful.", "Nothing failed.", "0 of 5 pictures done"):
        assert said in text


def test_it_is_whole_or_not_there(path: Path) -> None:
    def breaks() -> Iterator[FailedImage]:
        yield FailedImage(1, "empty", "empty", name="a.png")
        raise RuntimeError("the database went away")

    write(path, [picture(1)], about())
    before = path.read_bytes()
    with pytest.raises(RuntimeError):
        write(path, [picture(2)], about(failures=breaks()))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(FileNotFoundError):
        write(path.parent / "missing" / "summary.html", [], about())


def test_shapes_beside_the_picture_and_strange_ones_are_drawn_or_left_out(path: Path) -> None:
    strange = [
        TracedAnnotation(Polygon(label="none", score=0.1, polygons=[]), "things", review="empty"),
        TracedAnnotation(
            Box(label="outside", score=0.2, box=(-500, -500, 5000, 9000)), "things", review="outside", parent=99
        ),
        TracedAnnotation(Box(label="", score=None, box=(8, 8, 8, 8)), "unknown", review="thin"),
    ]
    write(path, [picture(1, *strange)], about())
    page = parsed(path)
    assert len(images(page.select_one("#doubtful"))) == 1
    assert "not in the recipe" in words(page.select_one("article[data-step=unknown]"))
    assert list(rows(page, "unknown")) == ["no name"]


def test_memory_does_not_grow_with_the_pictures(path: Path) -> None:
    def pictures(count: int) -> Iterator[LabeledImage]:
        for i in range(count):  # each a little more doubtful than the last, of names of its own
            yield picture(i, box(f"thing {i}", 0.9 - i / count / 2, f"reason {'x' * (i % 300)}"), box("cat", 0.9))

    def peak(count: int) -> int:
        failures = (FailedImage(i, "odd", f"reason {'y' * i}", name=f"{i}.png") for i in range(count // 10))
        tracemalloc.start()
        write(path, pictures(count), about(failures=failures), samples=4, doubtful=4)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(100)
    few, many = peak(2500), peak(5000)
    assert many < few + 1_000_000
