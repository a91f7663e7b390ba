from collections.abc import Callable
from pathlib import Path

import pytest

from server.jobs.sources import ImageSource, SourceError, SourceImageFault, open_source

Fill = Callable[..., Path]
Read = Callable[[ImageSource], dict[str, bytes | SourceImageFault]]


def test_one_picture_is_a_source(fill: Fill, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fill("d/a.jpg")
    assert read(open_source(str(folder / "d" / "a.jpg"))) == {"a.jpg": b"d/a.jpg"}
    assert read(open_source((folder / "d" / "a.jpg").as_uri())) == {"a.jpg": b"d/a.jpg"}
    monkeypatch.chdir(folder)
    assert open_source("d").names == open_source("./d/").names == open_source("d/*.jpg").names == ["a.jpg"]


@pytest.mark.parametrize("text", ["", "nowhere", "nul\0", "nowhere/a.jpg", "~~", "x" * 5000])
def test_what_is_not_there(text: str) -> None:
    with pytest.raises(SourceError, match=r"name a folder|give a folder|cannot be read"):
        open_source(text)


def test_a_source_is_closed_at_the_end(fill: Fill) -> None:
    with open_source(str(fill("a.jpg"))) as source:
        assert [item.name for item in source] == ["a.jpg"]
