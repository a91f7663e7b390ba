"""The images of a folder or a pattern."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from server.jobs.sources import ImageSource, SourceError, SourceImageFault, open_source

WriteFiles = Callable[..., Path]
ReadAll = Callable[[ImageSource], dict[str, bytes | SourceImageFault]]


def test_images_are_sorted_without_hidden_and_other_files(write_files: WriteFiles, read_all: ReadAll) -> None:
    folder = write_files("b/c.JPG", "a.png", "b/notes.txt", ".hidden/x.jpg", "b/.y.jpg", "Thumbs.db", "é/ü.webp")
    source = open_source(str(folder))
    assert source.names == ["a.png", "b/c.JPG", "é/ü.webp"]
    assert read_all(source) == {name: name.encode() for name in source.names}
    assert [source[-1].name, len(source)] == ["é/ü.webp", 3]
    with pytest.raises(IndexError):
        source[3]


def test_unusual_names_are_read(write_files: WriteFiles, read_all: ReadAll) -> None:
    names = [
        "line\nend.jpg",
        "quote'\".jpg",
        "tab\t.jpg",
        "☃ 雪.jpg",
        "back\\slash.jpg",
        " .jpg",
        "$(x);&.jpg",
        "[1].jpg",
    ]
    assert read_all(open_source(str(write_files(*names)))) == {name: name.encode() for name in names}


def test_a_name_that_is_not_unicode_is_read(tmp_path: Path, read_all: ReadAll) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"1")
    (tmp_path / "caf\ufffd.jpg").write_bytes(b"2")
    assert read_all(open_source(str(tmp_path))) == {"caf\ufffd.jpg": b"1", "caf\ufffd~2.jpg": b"2"}


def test_the_output_folder_is_left_out(write_files: WriteFiles) -> None:
    folder = write_files("a.jpg", "out/images/a.jpg", "outer/b.jpg")
    assert open_source(str(folder), exclude=folder / "out").names == ["a.jpg", "outer/b.jpg"]
    assert open_source(str(folder / "*" / "*.jpg"), exclude=folder / "out").names == ["outer/b.jpg"]
    assert open_source(str(folder), exclude=folder / "later").names == ["a.jpg", "out/images/a.jpg", "outer/b.jpg"]
    with pytest.raises(SourceError, match="choose another"):
        open_source(str(folder), exclude=folder / "out" / "..")


def test_links_are_followed_and_loops_end(write_files: WriteFiles, read_all: ReadAll) -> None:
    folder, elsewhere = write_files("a/b.jpg", "z/c.jpg"), write_files("d.jpg", "sub/e.jpg", below="elsewhere")
    (folder / "a" / "up").symlink_to("..")
    (folder / "a" / "self").symlink_to(".")
    (folder / "root").symlink_to("/")
    (folder / "m").symlink_to("z")
    (folder / "far").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(folder)
    (folder / "twice").symlink_to(elsewhere)
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "link.jpg").symlink_to("a/b.jpg")
    assert read_all(open_source(str(folder))) == {
        "a/b.jpg": b"a/b.jpg",
        "far/d.jpg": b"d.jpg",
        "far/sub/e.jpg": b"sub/e.jpg",
        "gone.jpg": SourceImageFault.MISSING,
        "link.jpg": b"a/b.jpg",
        "loop.jpg": SourceImageFault.MISSING,
        "z/c.jpg": b"z/c.jpg",
    }


def test_pipes_do_not_block(write_files: WriteFiles, read_all: ReadAll) -> None:
    folder = write_files("a.jpg", "b.jpg")
    source = open_source(str(folder))
    (folder / "b.jpg").unlink()
    os.mkfifo(folder / "b.jpg")
    assert read_all(source) == {"a.jpg": b"a.jpg", "b.jpg": SourceImageFault.BROKEN}
    assert open_source(str(folder)).names == ["a.jpg"]


def test_a_file_that_is_too_large_is_not_read(write_files: WriteFiles, read_all: ReadAll) -> None:
    folder = write_files("a.jpg", "huge.jpg")
    os.truncate(folder / "huge.jpg", 1 << 40)
    assert read_all(open_source(str(folder))) == {"a.jpg": b"a.jpg", "huge.jpg": SourceImageFault.TOO_LARGE}


def test_the_fingerprint_changes_with_the_images(write_files: WriteFiles) -> None:
    folder = write_files("a.jpg", "b.jpg")
    first = open_source(str(folder)).fingerprint
    (folder / "notes.txt").write_text("no image")
    assert open_source(str(folder)).fingerprint == first
    (folder / "b.jpg").write_bytes(b"longer than before")
    second = open_source(str(folder)).fingerprint
    (folder / "b.jpg").rename(folder / "c.jpg")
    assert len({first, second, open_source(str(folder)).fingerprint}) == 3


@pytest.mark.parametrize("names", [(), ("notes.txt", "x.pdf", ".a.jpg")], ids=["empty", "junk"])
def test_a_folder_without_images_is_reported(tmp_path: Path, write_files: WriteFiles, names: tuple[str, ...]) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(SourceError, match=r"there are no images in .*\.jpeg"):
        open_source(str(write_files(*names)))


def test_patterns_match_within_and_across_folders(write_files: WriteFiles) -> None:
    folder = write_files("a1.jpg", "a2.png", "b1.jpg", "d/a3.jpg", "d/e/a4.jpg", "a5.txt", "[x].jpg")
    found = {
        pattern: open_source(str(folder / pattern)).names
        for pattern in ["*.jpg", "a?.*", "**/a*", "[ab]1.jpg", "d/*.jpg", "d/**/*.jpg", "*/*", "[x].jpg"]
    }
    assert found == {
        "*.jpg": ["[x].jpg", "a1.jpg", "b1.jpg"],
        "a?.*": ["a1.jpg", "a2.png"],
        "**/a*": ["a1.jpg", "a2.png", "d/a3.jpg", "d/e/a4.jpg"],
        "[ab]1.jpg": ["a1.jpg", "b1.jpg"],
        "d/*.jpg": ["a3.jpg"],
        "d/**/*.jpg": ["a3.jpg", "e/a4.jpg"],
        "*/*": ["d/a3.jpg"],
        "[x].jpg": ["[x].jpg"],  # a file has this name
    }
    for pattern, message in {
        "*.gif": "matches no image",
        "none/*.jpg": "no folder",
        "**x/*.jpg": "is not valid",
    }.items():
        with pytest.raises(SourceError, match=message):
            open_source(str(folder / pattern))


def test_images_outside_of_the_allowed_folder_are_refused(write_files: WriteFiles, read_all: ReadAll) -> None:
    folder, secret = write_files("a.jpg"), write_files("key.jpg", below="secret")
    (folder / "link.jpg").symlink_to(secret / "key.jpg")
    (folder / "more").symlink_to(secret)

    def is_allowed(path: str) -> bool:
        return path == str(folder.resolve()) or path.startswith(f"{folder.resolve()}/")

    refused = {"a.jpg": b"a.jpg", "link.jpg": SourceImageFault.REFUSED, "more": SourceImageFault.REFUSED}
    assert read_all(open_source(str(folder), is_allowed=is_allowed)) == refused
    for other in [str(secret), str(folder / ".." / "secret" / "key.jpg"), str(secret / "*.jpg"), "s3://bucket", ""]:
        with pytest.raises(SourceError):
            open_source(other, is_allowed=is_allowed)


@pytest.mark.skipif(os.geteuid() == 0, reason="root can list every folder")
def test_a_folder_that_cannot_be_listed_is_a_fault(write_files: WriteFiles, read_all: ReadAll) -> None:
    folder = write_files("a.jpg", "closed/b.jpg")
    (folder / "closed").chmod(0)
    try:
        assert read_all(open_source(str(folder))) == {"a.jpg": b"a.jpg", "closed": SourceImageFault.DENIED}
    finally:
        (folder / "closed").chmod(0o700)


def test_exports_of_florist_in_the_folder_are_left_out_and_named(write_files: WriteFiles) -> None:
    folder = write_files("a.png", "labels/yolo-detect/images/train/a.png", "labels/yolo-detect/.florist")
    source = open_source(str(folder))
    assert source.names == ["a.png"]
    assert source.notes[0] == ("1 folder is an export of florist, and left out with its images: labels/yolo-detect")
    assert open_source(str(folder / "labels/yolo-detect")).names == ["images/train/a.png"]
