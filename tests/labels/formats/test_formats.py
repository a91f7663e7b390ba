"""Every format: complete or not at all, the same bytes each time, bounded memory, any names."""

import io
import json
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from labels.formats import FORMATS
from labels.image_files import DeferredImage
from labels.labeled_image import LabeledImage, TracedAnnotation
from labels.writing.image_options import ImagePlacement
from prompts.annotations import Box, Polygon, Quad, Text
from tests.labels.samples import PNG, export, make_example_images, read_tree

FOLDERS = [name for name, row in FORMATS.items() if row.suffix is None]
every = pytest.mark.parametrize("name", FORMATS)
every_folder = pytest.mark.parametrize("name", FOLDERS)


def choose_path(name: str, folder: Path) -> Path:
    return folder / f"out{FORMATS[name].suffix or ''}"


def choose_placement(name: str) -> ImagePlacement:
    return ImagePlacement.COPY if name in FOLDERS else ImagePlacement.NONE


def read_content(path: Path) -> object:
    return read_tree(path) if path.is_dir() else path.read_bytes()


@every
def test_the_same_images_produce_the_same_bytes(name: str, tmp_path: Path) -> None:
    first, second = choose_path(name, tmp_path / "one"), choose_path(name, tmp_path / "two")
    for out in (first, second):
        export(name, make_example_images(), out, choose_placement(name))
    assert read_content(first) == read_content(second)


@every
def test_a_failed_export_leaves_nothing(name: str, tmp_path: Path) -> None:
    def yield_and_fail() -> Iterator[LabeledImage]:
        yield from make_example_images()
        raise RuntimeError("the database went away")

    with pytest.raises(RuntimeError, match="went away"):
        export(name, yield_and_fail(), choose_path(name, tmp_path), choose_placement(name))
    assert list(tmp_path.iterdir()) == []


@every
def test_an_export_replaces_the_last_one_completely_or_not_at_all(name: str, tmp_path: Path) -> None:
    def yield_and_fail() -> Iterator[LabeledImage]:
        yield make_example_images()[1]
        raise RuntimeError("stop")

    out = choose_path(name, tmp_path)
    export(name, make_example_images(), out, ImagePlacement.NONE)
    before = read_content(out)
    with pytest.raises(RuntimeError, match="stop"):
        export(name, yield_and_fail(), out, ImagePlacement.NONE)
    assert read_content(out) == before
    export(name, make_example_images()[1:], out, ImagePlacement.NONE)
    assert read_content(out) != before
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


@every_folder
def test_other_files_are_never_replaced(name: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="choose an empty or new folder"):
        export(name, make_example_images(), tmp_path / "out")
    assert read_tree(tmp_path) == {"out/thesis.txt": b"years of work"}
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="choose a new folder"):
        export(name, make_example_images(), tmp_path / "file")


@pytest.mark.parametrize("change", ["add", "edit"])
def test_an_export_that_was_changed_is_never_replaced(change: str, tmp_path: Path) -> None:
    """Images that a person put into an export, and labels that a person edited, stay."""
    out = tmp_path / "out"
    export("coco", make_example_images(), out, ImagePlacement.NONE)
    time.sleep(0.05)  # file systems keep times in steps of a few milliseconds
    if change == "add":
        (out / "images").mkdir()
        (out / "images" / "a.jpg").write_bytes(b"an image")
    else:
        (out / "annotations" / "instances_default.json").write_text("{}")
    before = read_tree(out)
    with pytest.raises(FileExistsError, match=r"changed since, for example (images/a\.jpg|annotations/instances)"):
        export("coco", make_example_images()[1:], out, ImagePlacement.NONE)
    assert read_tree(out) == before


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "out")
    for images in (make_example_images(), make_example_images()[1:]):
        export("coco", images, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert {path.name for path in (tmp_path / "disk").iterdir()} == {"out"}
    assert len(list((tmp_path / "link" / "images").iterdir())) == 1


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="choose a file"):
        export("jsonl", make_example_images(), tmp_path, ImagePlacement.NONE)


def test_a_format_of_one_file_has_no_place_for_images(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="export without them"):
        export("jsonl", make_example_images(), tmp_path / "out.jsonl", ImagePlacement.COPY)
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_killed_export_are_removed(tmp_path: Path) -> None:
    left = tmp_path / ".out.0123abcd.part"
    left.mkdir()
    (left / "half").write_text("")
    other = tmp_path / ".other.0123abcd.part"
    other.mkdir()
    export("coco", make_example_images(), tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"out", other.name}


def test_a_running_export_is_left_alone(tmp_path: Path) -> None:
    def export_meanwhile() -> Iterator[LabeledImage]:
        yield make_example_images()[0]
        export("coco", make_example_images()[1:], tmp_path / "out")
        yield make_example_images()[1]

    assert export("coco", export_meanwhile(), tmp_path / "out").images == 2
    document = json.loads((tmp_path / "out/annotations/instances_default.json").read_text())
    assert [image["file_name"] for image in document["images"]] == ["a/1.png", "b.png"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@every_folder
def test_unreadable_images_are_left_out_with_their_annotations(name: str, tmp_path: Path) -> None:
    def fail_to_read() -> bytes:
        raise OSError("stale file handle")

    first, second = make_example_images()
    report = export(name, [replace(first, open=DeferredImage(fail_to_read)), second], tmp_path / "out")
    assert report.unreadable == ["a/1.png"]
    assert (report.images, report.annotations) == (1, 0)
    assert report.left_out == {"images that cannot be read": 1}
    assert not any("1.png" in path for path in read_tree(tmp_path / "out"))


@every_folder
def test_a_full_disk_is_an_error(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_to_write(path: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail_to_write)
    with pytest.raises(OSError, match="No space left"):
        export(name, make_example_images(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


HOSTILE = [
    "../../etc/passwd.png",
    "/root/x.png",
    'a\n"b".png',
    "half \udcff.png",
    ".hidden.png",
    "con?.png",
    "a/b/../c.png",
]
HOSTILE += [
    "ü" * 127 + ".png",
    "x." + "y" * 250,
    "no suffix",
    "a/./b.png",
    "dot./x.png",
    "🐈\u2028.png",
    "\\\\server\\x.png",
]


@every_folder
@pytest.mark.parametrize("placement", [ImagePlacement.COPY, ImagePlacement.NONE])
def test_hostile_names_never_leave_the_folder(name: str, placement: ImagePlacement, tmp_path: Path) -> None:
    labels = (TracedAnnotation(Box(label="</name>\x00\udcff\r\n: \"'", score=0.5, box=(1, 2, 3, 4)), "step"),)
    images = [LabeledImage.from_traces(n, 64, 64, labels, lambda: PNG, sha256="0" * 64) for n in HOSTILE]
    assert export(name, images, tmp_path / "in" / "out", placement).images == len(HOSTILE)
    assert {path.name for path in tmp_path.iterdir()} == {"in"}
    assert {path.name for path in (tmp_path / "in").iterdir()} == {"out"}
    files = read_tree(tmp_path / "in" / "out")
    assert sum(data == PNG for data in files.values()) == (placement is ImagePlacement.COPY) * len(HOSTILE)
    for data in files.values():
        if data != PNG:
            data.decode()
    assert not any(set(path) & set("\n\\\udcff") for path in files)


@pytest.mark.parametrize("name", ["yolo-detect", "voc", "labelme"])
def test_images_that_differ_only_in_suffix_keep_their_own_labels(name: str, tmp_path: Path) -> None:
    def encode_png(n: int) -> bytes:
        buffer = io.BytesIO()
        Image.new("L", (8, 8), n).save(buffer, "PNG")
        return buffer.getvalue()

    images = [
        LabeledImage.from_traces(
            f"x.{s}",
            8,
            8,
            (TracedAnnotation(Box(label=s, box=(0, 0, 4, 4)), "s"),),
            lambda n=n: encode_png(n),
            sha256="0" * 64,
        )
        for n, s in enumerate(["png", "jpg", "webp"])
    ]
    export(name, images, tmp_path / "out")
    files = read_tree(tmp_path / "out")
    copies = {data: Path(path).stem for path, data in files.items() if Path(path).suffix in (".png", ".jpg", ".webp")}
    assert [copies[encode_png(n)] for n in range(3)] == ["x", "x-2", "x-3"]
    assert sum(Path(path).stem in copies.values() for path in files) == 6


@every
def test_what_the_format_cannot_hold_is_counted(name: str, tmp_path: Path) -> None:
    flat = TracedAnnotation(Polygon(label="line", polygons=[[0, 0, 5, 5]]), "cut")
    first = make_example_images()[0].with_traces(*make_example_images()[0].traces, flat)
    report = export(name, [first], choose_path(name, tmp_path), ImagePlacement.NONE)
    lost = {"polygons of fewer than three corners": 1}
    assert report.left_out == ({} if name == "jsonl" else lost)
    details = {
        "yolo-detect": {"outlines": 1, "words": 1, "captions": 1, "scores": 1, "reasons for review": 1},
        "voc": {"outlines": 1, "words": 1, "captions": 1},
        "yolo-segment": {"boxes": 2, "words": 1, "captions": 1},
        "labelme": {"scores": 1},
    }
    other_files: dict[str, dict[str, int]] = {"details.jsonl": details[name]} if name in details else {}
    if name == "coco":
        other_files = {
            "annotations/captions_default.json": {"captions": 1},
            "annotations/words_default.json": {"words": 1},
        }
    assert report.other_files == other_files
    assert report.annotations == {"yolo-detect": 3, "voc": 3, "yolo-segment": 1, "jsonl": 6}.get(name, 5)
    for file, counts in other_files.items():
        assert (tmp_path / "out" / file).exists()
        remark = f"{file} has {', '.join(f'{count} {what}' for what, count in counts.items())}"
        assert remark in [" ".join(line.split()) for line in report.iter_remarks()] or len(counts) > 1


def yield_images(count: int) -> Iterator[LabeledImage]:
    """Yields images with ten annotations each, made one at a time."""
    for n in range(count):
        boxes = [
            TracedAnnotation(Box(label=f"kind {i}", score=0.5, box=(i, 0, 20, 30)), "d", "p", "r" * 50)
            for i in range(6)
        ]
        ring = [float(v) for v in range(24)]
        others = [
            Polygon(label="cat", polygons=[ring]),
            Quad(label="word", quad=(0, 0, 9, 0, 9, 9, 0, 9)),
            Text(label="x"),
        ]
        labels = (
            *boxes,
            *(TracedAnnotation(annotation, "s") for annotation in others),
            TracedAnnotation(Box(label="", box=(0, 0, 1, 1)), "d"),
        )
        yield LabeledImage.from_traces(f"{n % 10}/{n}.jpg", 64, 64, labels, sha256=f"{n:064x}")


@every
def test_memory_does_not_grow_with_the_dataset(name: str, tmp_path: Path) -> None:
    def measure_peak(count: int) -> int:
        tracemalloc.start()
        try:
            FORMATS[name].write(yield_images(count), tmp_path / f"out-{count}")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    measure_peak(10)  # fills caches
    small, large = measure_peak(50), measure_peak(500)  # 5,000 annotations are about 3 MB as objects
    assert large < small + 300_000
