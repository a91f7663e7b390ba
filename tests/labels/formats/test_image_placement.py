"""Copies of images and links to them, as the tools of each format open them, and what a later export does with them."""

import errno
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from labels.dataset import DatasetError
from labels.formats import FORMATS
from labels.image_files import ImageFile
from labels.labeled_image import LabeledImage, TracedAnnotation
from labels.opening import open_dataset
from labels.writing.image_options import ImagePlacement
from prompts.annotations import Box
from tests.labels.formats.own_tools import TOOLS
from tests.labels.samples import read_tree

WIDTH, HEIGHT = 120, 90
# Those of splits, of folders that formats have too, and of letters that addresses and lists need to escape.
NAMES = ["a.png", "images/b.png", "train/c.png", "val/d.png", "default/e.png", "f g/#1,2.png", "é/犬 %41.png", "A.jpg"]
folders = pytest.mark.parametrize("name", [name for name, format in FORMATS.items() if format.suffix is None])
included = pytest.mark.parametrize("placement", [ImagePlacement.COPY, ImagePlacement.LINK])


@pytest.fixture
def images(tmp_path: Path) -> list[LabeledImage]:
    """Images whose color is their position, with as many boxes."""
    made = []
    for number, name in enumerate(NAMES):
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), (number * 20, 0, 0)).save(path, "PNG")
        boxes = [Box(label=f"kind {i}", score=0.5, box=(5 * i, 4, 5 * i + 30, 40)) for i in range(number + 1)]
        traces = tuple(TracedAnnotation(box, "detect") for box in boxes)
        annotations = tuple(boxes)
        made.append(LabeledImage(name, "", WIDTH, HEIGHT, annotations, ImageFile(path), traces=traces))
    return made


def get_number(path: Path) -> int:
    with Image.open(path) as image:
        return round(image.convert("RGB").getpixel((0, 0))[0] / 20)  # type: ignore[index]


REFUSE_SYMBOLIC = ("COCO, Datumaro", "COCO, supervision", "VOC, Datumaro")
FLAT = ("YOLO, Datumaro",)  # takes folders below images/train for subsets


def be_another_disk(*_: object, **__: object) -> None:
    raise OSError(errno.EXDEV, "Invalid cross-device link")


@included
@pytest.mark.parametrize("tool", TOOLS)
def test_each_tool_opens_each_image_with_its_own_labels(
    tool: str, placement: ImagePlacement, images: list[LabeledImage], tmp_path: Path
) -> None:
    name, read = TOOLS[tool]
    given = [image for image in images if "/" not in image.name or tool not in FLAT]
    FORMATS[name].write(given, tmp_path / "out", placement)
    found = {get_number(path): classes for path, classes in read(tmp_path / "out")}
    assert found == {
        number: Counter(annotation.label for annotation in image.annotations)
        for number, image in enumerate(images)
        if image in given
    }


@pytest.mark.parametrize("tool", [tool for tool in TOOLS if tool not in REFUSE_SYMBOLIC])
def test_most_tools_follow_symbolic_links_to_another_disk(
    tool: str, images: list[LabeledImage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", be_another_disk)
    test_each_tool_opens_each_image_with_its_own_labels(tool, ImagePlacement.LINK, images, tmp_path)


@folders
@pytest.mark.parametrize("are_hard", [True, False])
def test_links_are_read_as_copies_are(
    name: str, are_hard: bool, images: list[LabeledImage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not are_hard:
        monkeypatch.setattr(os, "link", be_another_disk)
    read = {}
    for placement in (ImagePlacement.COPY, ImagePlacement.LINK):
        report = FORMATS[name].write(images, out := tmp_path / placement, placement)
        dataset = open_dataset(out)
        assert dataset.unusable == ()
        read[placement] = [(image.name, image.annotations, image.read()) for image in dataset.images]
    assert read["copy"] == read["link"]
    files = [path for path in (tmp_path / "link").rglob("*") if path.suffix in (".png", ".jpg")]
    sources = {path.stat().st_ino for path in (tmp_path / "source").rglob("*.*")}
    assert {path.stat().st_ino for path in files} == sources
    assert {path.is_symlink() for path in files} == {not are_hard}
    warned = [count for what, count in report.warnings.items() if "symbolic links, which Datumaro" in what]
    assert warned == ([] if are_hard else [len(images)])


def test_links_hold_when_images_and_dataset_are_moved(
    images: list[LabeledImage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FORMATS["coco"].write(images, tmp_path / "hard", ImagePlacement.LINK)
    monkeypatch.setattr(os, "link", be_another_disk)
    FORMATS["coco"].write(images, tmp_path / "symbolic", ImagePlacement.LINK)
    (tmp_path / "new").mkdir()
    for name in ("source", "hard", "symbolic"):
        (tmp_path / name).rename(tmp_path / "new" / name)
    assert len(open_dataset(tmp_path / "new/symbolic").images) == len(images)
    (tmp_path / "new/source").rename(tmp_path / "elsewhere")
    assert len(open_dataset(tmp_path / "new/hard").images) == len(images)
    with pytest.raises(DatasetError, match=r"a link to .*, which does not exist"):
        open_dataset(tmp_path / "new/symbolic")


@pytest.mark.parametrize("are_hard", [True, False])
def test_a_later_export_replaces_links_and_touches_no_image(
    are_hard: bool, images: list[LabeledImage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not are_hard:
        monkeypatch.setattr(os, "link", be_another_disk)
    before = read_tree(tmp_path / "source")
    for other in ("one", "two"):
        FORMATS["yolo-detect"].write(images, tmp_path / "out", ImagePlacement.LINK)
        FORMATS["coco"].write(images, tmp_path / other, ImagePlacement.LINK)  # more links to the same files
        for image in (tmp_path / "source").rglob("*.png"):
            image.touch()  # a changed image is no change of the export
        (tmp_path / "out/labels/train.cache").touch()  # of Ultralytics
        (tmp_path / "out/images/.DS_Store").touch()
    FORMATS["yolo-detect"].write(images[:2], tmp_path / "out", ImagePlacement.NONE)
    assert not list((tmp_path / "out").rglob("*.png"))
    assert read_tree(tmp_path / "source") == before
    FORMATS["yolo-detect"].write(images, tmp_path / "out", ImagePlacement.LINK)
    shutil.copy(tmp_path / "source/a.png", tmp_path / "out/images/mine.png")
    with pytest.raises(FileExistsError, match=r"changed since, for example images/mine\.png"):
        FORMATS["yolo-detect"].write(images, tmp_path / "out", ImagePlacement.LINK)


def test_a_symbolic_link_names_the_file_itself_whatever_leads_to_it(
    images: list[LabeledImage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", be_another_disk)
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "folder").symlink_to("deep/er")
    (tmp_path / "blob").symlink_to("source")
    (tmp_path / "a").symlink_to("blob/a.png")
    image = LabeledImage("a", "", WIDTH, HEIGHT, images[0].annotations, ImageFile(tmp_path / "a"))
    FORMATS["yolo-detect"].write([image], tmp_path / "folder/out", ImagePlacement.LINK)
    link = tmp_path / "deep/er/out/images/train/a.png"  # with the suffix of its content
    assert str(link.readlink()) == "../../../../../source/a.png"
    assert get_number(link) == 0


def test_images_that_are_no_files_are_copied_and_counted(images: list[LabeledImage], tmp_path: Path) -> None:
    data = images[0].read()
    given = [*images[:2], LabeledImage.from_traces("z.png", WIDTH, HEIGHT, images[0].traces, lambda: data)]
    report = FORMATS["coco"].write(given, tmp_path / "out", ImagePlacement.LINK)
    assert list(report.warning_examples.values()) == [["z.png"]]
    assert "images that are copies" in next(iter(report.warnings))
    assert not (tmp_path / "out/images/z.png").is_symlink()
    assert len(open_dataset(tmp_path / "out").images) == 3


def test_images_that_are_gone_are_left_out(images: list[LabeledImage], tmp_path: Path) -> None:
    (tmp_path / "source/a.png").unlink()
    report = FORMATS["coco"].write(images, tmp_path / "out", ImagePlacement.LINK)
    assert (report.images, report.unreadable) == (len(images) - 1, ["a.png"])


def test_a_disk_without_links_is_an_error_that_says_what_to_do(
    images: list[LabeledImage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(Path, "symlink_to", refuse)
    with pytest.raises(OSError, match=r"the disk cannot hold links .*: copy the images"):
        FORMATS["coco"].write(images, tmp_path / "out", ImagePlacement.LINK)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_images_are_in_a_dataset_if_its_tools_need_them() -> None:
    placements = {name: format.choose_placement(None) for name, format in FORMATS.items()}
    copied = {"yolo-detect", "yolo-segment", "voc", "labelme", "huggingface", "label-studio"}
    assert {name for name, placement in placements.items() if placement is ImagePlacement.COPY} == copied
    assert {placements[name] for name in FORMATS.keys() - copied} == {ImagePlacement.NONE}
    assert FORMATS["label-studio"].choose_placement(None, "https://example.org/") is ImagePlacement.NONE
    assert FORMATS["yolo-detect"].choose_placement(None, "https://example.org/") is ImagePlacement.COPY
    assert FORMATS["coco"].choose_placement(ImagePlacement.LINK) is ImagePlacement.LINK


def test_a_dataset_without_images_says_so_when_it_is_read(images: list[LabeledImage], tmp_path: Path) -> None:
    FORMATS["coco"].write(images, tmp_path / "out", ImagePlacement.NONE)
    with pytest.raises(DatasetError, match="written without its images: write it again with `--images copy`"):
        open_dataset(tmp_path / "out")


@pytest.mark.parametrize("name", ["jsonl", "cvat", "label-studio", "huggingface", "coco"])
def test_images_of_one_name_are_not_taken_for_each_other_when_they_are_put_in_later(name: str, tmp_path: Path) -> None:
    images = []
    for number, image in enumerate(["a.png", "images/a.png", "images/b.png", "c.png"]):
        path = tmp_path / "source" / image
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), (number * 20, 0, 0)).save(path, "PNG")
        box = Box(label=str(number), box=(1, 1, 40, 40))
        images.append(LabeledImage(image, "", WIDTH, HEIGHT, (box,), ImageFile(path)))
    for place in (".", "images"):
        out = tmp_path / place.replace(".", "beside")
        FORMATS[name].write(images, out, as_folder=True)
        shutil.copytree(tmp_path / "source", out / place, dirs_exist_ok=True)
        dataset = open_dataset(out)
        found = [(get_number_of(image), image.annotations[0].label) for image in dataset.images]
        assert all(str(number) == label for number, label in found)
        if len(found) < len(images):  # put elsewhere than the reference says, they cannot be told apart, which is said
            assert (place, len(found)) == ("." if name == "coco" else "images", 2)
            reasons = [entry.reason for entry in dataset.unusable]
            assert sum("it may be about a.png or about images/a.png" in reason for reason in reasons) == 2


def get_number_of(image: LabeledImage) -> int:
    return round(image.open().getpixel((0, 0))[0] / 20)  # type: ignore[index]
