"""Files and folders that somebody replaces while a job reads them, and files that are none."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from server.jobs.sources import ImageSource, SourceError, SourceImageFault, open_source, permissions
from server.jobs.sources.local_files import open_local_file, open_local_folder
from server.jobs.sources.source import SourceImageError

WriteFiles = Callable[..., Path]
ReadAll = Callable[[ImageSource], dict[str, bytes | SourceImageFault]]


@pytest.mark.parametrize("swapped", ["images", "images/d", "images/d/a.jpg"])
def test_a_path_that_becomes_a_link_after_the_check(write_files: WriteFiles, swapped: str) -> None:
    """The worst moment: between the check of a path and its opening."""
    folder, secret = write_files("d/a.jpg"), write_files("d/a.jpg", below="secret")
    (secret / "d" / "a.jpg").write_bytes(b"secret")
    target = {"images": secret, "images/d": secret / "d", "images/d/a.jpg": secret / "d" / "a.jpg"}[swapped]
    place = folder.parent / swapped

    def allow_and_swap(path: str) -> bool:
        allowed = Path(path).is_relative_to(folder)
        if not place.is_symlink():
            place.rename(folder.parent / "away")
            place.symlink_to(target)
        return allowed

    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        open_local_file(str(folder / "d" / "a.jpg"), allow_and_swap)
    if swapped != "images/d/a.jpg":
        place.unlink()
        (folder.parent / "away").rename(place)
        with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
            open_local_folder(str(folder / "d"), allow_and_swap)


def test_a_folder_that_becomes_a_link_after_it_was_listed(write_files: WriteFiles, read_all: ReadAll) -> None:
    folder, secret = write_files("a.jpg", "d/b.jpg"), write_files("b.jpg", below="secret")
    (folder / "list.txt").write_text("a.jpg\nd/b.jpg\n")
    (folder / "coco.json").write_text('{"images": [{"file_name": "d/b.jpg"}, {"file_name": "a.jpg"}]}')
    is_allowed = permissions.allow_within([str(folder)])
    addresses = ("", "list.txt", "coco.json", "**/*.jpg")
    sources = [open_source(str(folder / address), is_allowed=is_allowed) for address in addresses]
    for source in sources:
        assert read_all(source) == {"a.jpg": b"a.jpg", "d/b.jpg": b"d/b.jpg"}
    (folder / "d").rename(folder.parent / "away")
    (folder / "d").symlink_to(secret)
    for source in sources:
        assert read_all(source)["d/b.jpg"] is SourceImageFault.REFUSED
    (folder / "d").unlink()
    (folder.parent / "away").rename(folder / "real")
    (folder / "d").symlink_to(folder / "real")  # links within the allowed folder work
    for source in sources:
        assert read_all(source)["d/b.jpg"] == b"d/b.jpg"


def test_an_archive_that_becomes_a_link(write_files: WriteFiles) -> None:
    folder, secret = write_files("a.zip"), write_files("a.zip", below="secret")
    (folder / "a.zip").unlink()
    (folder / "a.zip").symlink_to(secret / "a.zip")
    checks = iter([True])  # the first check came too early

    def is_allowed(path: str) -> bool:
        return next(checks, False) or Path(path).is_relative_to(folder)

    with pytest.raises(SourceError, match="not configured to read"):
        open_source(str(folder / "a.zip"), is_allowed=is_allowed)


def test_only_regular_files_are_read(write_files: WriteFiles, read_all: ReadAll) -> None:
    folder = write_files("z.jpg")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "folder.jpg").mkdir()
    for name, target in {"zero.jpg": "/dev/zero", "memory.jpg": "/proc/self/mem", "here.jpg": "folder.jpg"}.items():
        (folder / name).symlink_to(target)
    names = ["pipe.jpg", "folder.jpg", "zero.jpg", "memory.jpg", "here.jpg", "z.jpg"]
    (folder / "list.txt").write_text("\n".join(names))
    found = read_all(open_source(str(folder / "list.txt")))
    assert found.pop("memory.jpg") in (b"", SourceImageFault.BROKEN, SourceImageFault.UNREACHABLE)
    assert found == dict.fromkeys([*names[:3], "here.jpg"], SourceImageFault.BROKEN) | {"z.jpg": b"z.jpg"}
    allowed = read_all(open_source(str(folder / "list.txt"), is_allowed=permissions.allow_within([str(folder)])))
    assert allowed["zero.jpg"] is allowed["memory.jpg"] is SourceImageFault.REFUSED


def test_folders_on_the_way_need_not_be_readable(write_files: WriteFiles) -> None:
    folder = write_files("closed/open/a.jpg")
    (folder / "closed").chmod(0o111)
    with open_local_file(str(folder / "closed" / "open" / "a.jpg"), lambda path: True) as file:
        assert file.read() == b"closed/open/a.jpg"
    (folder / "closed").chmod(0o755)


def test_a_zero_byte_is_no_path() -> None:
    with pytest.raises(SourceImageError, match="zero byte"):
        open_local_file("a\0b", None)
