"""Finding the files that datasets name."""

import unicodedata
from pathlib import Path

import pytest

from labels.image_folders import ImageFolders
from labels.image_index import ImageNotFoundError
from labels.image_resolver import ImageResolver


def write(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def find(root: Path, name: str, file: str = "labels.json", split: str = "") -> tuple[str, str, bool]:
    """Returns path, name, and whether the image has been moved."""
    resolver = ImageResolver(root)
    found = resolver.find(name, resolver.layout.list_folders(root / file, split))
    return found.path.resolve().relative_to(root).as_posix(), found.name, bool(found.moved_from)


@pytest.mark.parametrize(
    ("image", "file", "split", "name"),
    [
        ("a.jpg", "labels.json", "", "a.jpg"),
        ("images/d/a.jpg", "labels.json", "", "d/a.jpg"),
        ("data/a.jpg", "labels.json", "", "a.jpg"),
        ("images/Train/Data/a.jpg", "annotations/instances_Train.json", "Train", "Data/a.jpg"),
        ("val2017/a.jpg", "annotations/instances_val2017.json", "val2017", "a.jpg"),
        ("images/val/a.jpg", "annotations/instances_val2017.json", "val2017", "a.jpg"),
        ("images/val2017/a.jpg", "annotations/instances_val.json", "val", "val2017/a.jpg"),
        ("valid/a.jpg", "annotations/val.json", "val", "a.jpg"),
        ("Images/a.jpg", "annotations/x.json", "x", "a.jpg"),
        ("a.jpg", "annotations/x.json", "x", "a.jpg"),
        ("images/d/a.jpg", "labels/d/a.json", "", "a.jpg"),
        ("JPEGImages/d/a.jpg", "Annotations/d/a.xml", "", "a.jpg"),
        ("obj_train_data/a.jpg", "train.txt", "", "obj_train_data/a.jpg"),
    ],
)
def test_known_layouts(tmp_path: Path, image: str, file: str, split: str, name: str) -> None:
    write(tmp_path, image)
    assert find(tmp_path, name, file, split) == (image, name, False)


@pytest.mark.parametrize(
    ("image", "name", "expected"),
    [
        ("images/a.jpg", "..\\images\\a.jpg", "images/a.jpg"),
        ("images/a.jpg", ".\\images\\a.jpg", "images/a.jpg"),
        ("d/a b.jpg", "d/a%20b.jpg", "d/a%20b.jpg"),
        ("d/100%25.jpg", "d/100%25.jpg", "d/100%25.jpg"),
        ("50%.jpg", "50%.jpg", "50%.jpg"),
        (unicodedata.normalize("NFD", "é.jpg"), unicodedata.normalize("NFC", "é.jpg"), "é.jpg"),
        (unicodedata.normalize("NFC", "é.jpg"), unicodedata.normalize("NFD", "é.jpg"), "é.jpg"),
    ],
)
def test_other_spellings(tmp_path: Path, image: str, name: str, expected: str) -> None:
    write(tmp_path, image)
    found = find(tmp_path, name, "labels/a.json" if ".." in name else "labels.json")
    is_respelled = name not in image and "\\" not in name  # an image with that very name may also exist
    assert (found[0], unicodedata.normalize("NFC", found[1]), found[2]) == (image, expected, is_respelled)


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("images/a.jpg", "C:\\data\\images\\a.jpg"),
        ("images/a.jpg", "/content/project/images/a.jpg"),
        ("images/a.jpg", "data/images/a.jpg"),
        ("images/Train/a.jpg", "images/train/a.jpg"),
        ("images/a.JPG", "images/a.jpg"),
        ("images/a.jpg", "a"),
        ("images/a.jpg", "images/a.png"),
        ("images/v1.5.jpg", "v1.5"),
        ("images/deep/er/a.jpg", "a.jpg"),
        ("images/a%20b.jpg", "a b.jpg"),
        ("images/cat.jpg", "images/0a1b2c3d-cat.jpg"),
        ("images/cat.jpg", "/data/upload/1/0a1b2c3d-cat.jpg"),
    ],
)
def test_the_only_file_that_fits(tmp_path: Path, image: str, name: str) -> None:
    write(tmp_path, image, "images/other.jpg", "a.txt", "labels/a.jpg")
    path, found, moved = find(tmp_path, name)
    assert (path, moved) == (image, True)
    assert f"images/{found}" == image


@pytest.mark.parametrize(
    ("images", "name", "listed"),
    [
        (("images/b/a.jpg", "images/c/a.jpg"), "a.jpg", "images/b/a.jpg, images/c/a.jpg"),
        (("images/a.jpg", "images/a.png"), "a", "images/a.jpg, images/a.png"),
        (("images/a.jpg", "images/a.png"), "a.gif", "images/a.jpg, images/a.png"),
        (("images/b/A.jpg", "images/c/a.JPG"), "a.jpg", "images/b/A.jpg, images/c/a.JPG"),
        (("images/a.jpg", "img/a.jpg"), "a.jpg", "images/a.jpg, img/a.jpg"),
        ([f"images/{n}/a.jpg" for n in range(9)], "a.jpg", "images/0/a.jpg, images/1/a.jpg, images/2/a.jpg and 6 more"),
    ],
)
def test_several_files_that_fit_are_named(tmp_path: Path, images: tuple[str, ...], name: str, listed: str) -> None:
    write(tmp_path, *images)
    with pytest.raises(ImageNotFoundError) as error:
        find(tmp_path, name)
    assert str(error.value) == f"several images fit {name!r}: {listed}"


@pytest.mark.parametrize(
    ("images", "name"),
    [
        (("images/left-cat.jpg",), "cat.jpg"),
        (("images/cat.jpg",), "left-cat.jpg"),
        (("images/cat.jpg",), "0A1B2C3-cat.jpg"),
        (("images/cam1/b.jpg", "images/cam2/a.jpg"), "cam1/a.jpg"),  # cam1 is where it was
        (("masks/a.png", "images/b.jpg"), "a.jpg"),
        (("images/a.json",), "a"),
        (("images/a.jpg",), ""),
        (("images/a.jpg",), "."),
        (("images/a.jpg",), "\0"),
        (("images/a.jpg",), "x" * 5000),
    ],
)
def test_another_image_is_never_taken(tmp_path: Path, images: tuple[str, ...], name: str) -> None:
    write(tmp_path, *images)
    with pytest.raises(ImageNotFoundError, match="there is no image"):
        find(tmp_path, name)


def test_the_images_of_another_split_are_not_taken(tmp_path: Path) -> None:
    write(tmp_path, "images/train/a.jpg", "images/val/b.jpg", "images/a.jpg")
    with pytest.raises(ImageNotFoundError):
        find(tmp_path, "a.jpg", "annotations/instances_val.json", "val")
    assert find(tmp_path, "a.jpg", "annotations/instances_train.json", "train")[0] == "images/train/a.jpg"


def test_the_folder_with_the_most_folders_in_common_fits(tmp_path: Path) -> None:
    write(tmp_path, "images/x/cam1/a.jpg", "images/x/cam2/a.jpg", "images/cam3/b.jpg")
    assert find(tmp_path, "/old/cam2/a.jpg")[0] == "images/x/cam2/a.jpg"
    assert find(tmp_path, "/old/CAM1/a.png")[0] == "images/x/cam1/a.jpg"
    write(tmp_path, "images/b.jpg")
    assert find(tmp_path, "/images/b.jpg")[0] == "images/b.jpg"


def test_links_are_followed_and_are_not_other_images(tmp_path: Path) -> None:
    write(tmp_path, "store/d/a.jpg")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "images").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "loop").symlink_to(tmp_path / "set")
    (tmp_path / "store" / "b").mkdir()
    (tmp_path / "store" / "b" / "a.jpg").symlink_to(tmp_path / "store" / "d" / "a.jpg")
    resolver = ImageResolver(tmp_path / "set")
    found = resolver.find("old/a.jpg", resolver.layout.list_folders(tmp_path / "set" / "labels.json"))
    assert found.path.read_bytes() == b"store/d/a.jpg"


def test_only_allowed_files_are_candidates(tmp_path: Path) -> None:
    write(tmp_path, "set/b/a.jpg", "secret/a.jpg")
    (tmp_path / "set" / "link").symlink_to(tmp_path / "secret")
    resolver = ImageResolver(tmp_path / "set", is_allowed=lambda path: "secret" not in path)
    folders = ImageFolders.from_folders(tmp_path / "set")
    assert resolver.find("old/a.jpg", folders).name == "b/a.jpg"


def test_exports_and_the_output_are_not_searched(tmp_path: Path) -> None:
    write(tmp_path, "set/x/a.jpg", "set/export/.florist", "set/export/images/a.jpg", "set/out/a.jpg")
    resolver = ImageResolver(tmp_path / "set", exclude=tmp_path / "set" / "out")
    assert resolver.find("old/a.jpg", ImageFolders.from_folders(tmp_path / "set")).name == "x/a.jpg"


def test_images_beside_their_labels(tmp_path: Path) -> None:
    write(tmp_path, "d/a.JPG", "d/a.xml", "d/b.jpg", "d/b.png", "e/c.jfif")
    resolver = ImageResolver(tmp_path)
    folders = ImageFolders.from_folders(tmp_path / "d", tmp_path / "e")
    found = [resolver.find_beside(Path(stem), folders, name) for stem, name in (("a", ""), ("b", "x/b.png"), ("c", ""))]
    assert [each and each.name for each in found] == ["a.JPG", "b.png", "c.jfif"]
    assert resolver.find_beside(Path("x"), folders) is None
    with pytest.raises(ImageNotFoundError, match="several images fit 'b'"):
        resolver.find_beside(Path("b"), folders)
