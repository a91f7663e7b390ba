"""The listing of a source."""

from hypothesis import given
from hypothesis import strategies as st

from server.jobs.sources.listing import ImageListing


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
