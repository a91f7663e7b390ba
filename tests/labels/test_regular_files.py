"""Datasets with pipes, devices and folders where files should be."""

import os
from pathlib import Path

import pytest

from labels.dataset import DatasetError
from labels.image_files import ImageFile
from labels.image_index import is_image_file
from labels.images import ImageError
from labels.reading.documents import load_json, load_xml, read_csv, read_json_lines
from labels.regular_files import open_regular_file


def test_a_file_is_opened(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    with open_regular_file(tmp_path / "a") as file:
        assert file.read() == b"1"


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match=r"it is (not a file|a folder)"):
            open_regular_file(path)
        for read in (load_json, load_xml, lambda path: list(read_json_lines(path)), lambda path: list(read_csv(path))):
            with pytest.raises(DatasetError, match="cannot be read: it is"):
                read(path)
    assert not is_image_file(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="it is not a file"):
            ImageFile(path)()


def test_a_huge_image_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ImageError, match="more than the limit"):
        ImageFile(tmp_path / "a.jpg")()
