"""Opening a source by its address."""

from collections.abc import Callable
from pathlib import Path

import pytest

from server.jobs.sources import ImageSource, SourceError, SourceImageFault, open_source

WriteFiles = Callable[..., Path]
ReadAll = Callable[[ImageSource], dict[str, bytes | SourceImageFault]]


def test_a_single_image_is_a_source(
    write_files: WriteFiles, read_all: ReadAll, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_files("d/a.jpg")
    assert read_all(open_source(str(folder / "d" / "a.jpg"))) == {"a.jpg": b"d/a.jpg"}
    assert read_all(open_source((folder / "d" / "a.jpg").as_uri())) == {"a.jpg": b"d/a.jpg"}
    monkeypatch.chdir(folder)
    assert open_source("d").names == open_source("./d/").names == open_source("d/*.jpg").names == ["a.jpg"]


@pytest.mark.parametrize("address", ["", "nowhere", "nul\0", "nowhere/a.jpg", "~~", "x" * 5000])
def test_a_missing_source_is_reported(address: str) -> None:
    with pytest.raises(SourceError, match=r"give a folder|cannot be read"):
        open_source(address)


def test_a_source_is_a_context_manager(write_files: WriteFiles) -> None:
    with open_source(str(write_files("a.jpg"))) as source:
        assert [image.name for image in source] == ["a.jpg"]
