"""The listing of a source."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.jobs.sources import SourceError
from server.jobs.sources import listing as listing_module
from server.jobs.sources.listing import ImageListing


def test_images_with_another_name_are_named() -> None:
    listing = ImageListing()
    for name in ("/data/a.jpg", "../b/a.jpg", "b/a.jpg", "b/\udcff.jpg"):
        listing.add(name)
    assert listing.names == ["data/a.jpg", "b/a.jpg", "b/a~2.jpg", "b/\ufffd.jpg"]
    assert listing.notes == [
        "2 images have another name in the job, because theirs is taken, too long or cannot be written: "
        "'b/a.jpg' is 'b/a~2.jpg', 'b/\\udcff.jpg' is 'b/\ufffd.jpg'"
    ]


@given(st.lists(st.sampled_from(["a.jpg", "../a.jpg", "a~2.jpg", "a~3.jpg", "b", "b~2"])))
def test_names_are_unique(names: list[str]) -> None:
    listing = ImageListing()
    for name in names:
        listing.add(name)
    assert len(set(listing.names)) == len(names)


def test_the_fingerprint_depends_on_names_sizes_and_order() -> None:
    def fingerprint(*rows: tuple[str, int]) -> str:
        listing = ImageListing()
        for name, size in rows:
            listing.add(name, size)
        return listing.fingerprint

    same = fingerprint(("a", 1), ("b", 2))
    assert same == fingerprint(("a", 1), ("b", 2))
    others = [(("a", 1),), (("a", 1), ("b", 3)), (("b", 2), ("a", 1)), (("a", 1), ("c", 2))]
    assert len({same, *(fingerprint(*rows) for rows in others)}) == 5


def test_the_memory_of_names_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing_module, "MAX_LISTING_BYTES", 10_000)
    listing = ImageListing()
    for number in range(45):
        listing.add(f"{number}.jpg")
    with pytest.raises(SourceError, match=r"the first 46 names take 10,000 bytes of memory, which is the limit; split"):
        listing.add("a" * 2000)
    with pytest.raises(SourceError, match="the limit"):
        ImageListing().add("a.jpg", extra=20_000)


def test_what_is_set_aside_is_counted_and_named() -> None:
    listing = ImageListing()
    assert listing.notes == []
    listing.add_note("first")
    listing.set_aside("notes.txt")
    assert listing.notes == ["first", "1 file is set aside as not images (1 .txt): notes.txt"]
    for number in range(2000):
        listing.set_aside(f"d/{number}.x{number}")
    listing.set_aside("x" * 500)
    assert not listing.check_start("scan", b"%PDF-1.4")
    assert listing.check_start("photo", b"\xff\xd8\xff\xe0")
    (_, note) = listing.notes
    assert note.startswith("2,003 files are set aside as not images (1,00")
    assert note.endswith("): notes.txt, d/0.x0, d/1.x1, d/2.x2, d/3.x3, …")


def test_a_set_aside_file_is_named_by_what_it_is() -> None:
    listing = ImageListing()
    assert not listing.check_start("scan", b"%PDF-1.4")
    assert listing.notes == ["1 file is set aside as not images (1 without a suffix): scan (a PDF)"]
