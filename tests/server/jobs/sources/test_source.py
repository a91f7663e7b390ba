import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.jobs.sources import SourceImageError, SourceImageFault
from server.jobs.sources.source import ImageListing, is_image_name, to_safe_name


@given(
    st.text() | st.lists(st.sampled_from(["..", ".", "", "a", "C:", "\0", "\udce9", "x" * 300, "é.jpg"])).map("/".join)
)
def test_safe_names_lie_below_any_folder(name: str) -> None:
    made = to_safe_name(name)
    assert made
    assert len(made.encode()) <= 1024
    assert not made.startswith("/")
    assert "\0" not in made
    assert all(part not in ("", ".", "..") and len(part.encode()) <= 255 for part in made.split("/"))
    assert to_safe_name(made) == made or made.split("/")[0][1:2] == ":"


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("a/b.jpg", "a/b.jpg"),
        ("../../etc/x.jpg", "etc/x.jpg"),
        ("/abs/x.jpg", "abs/x.jpg"),
        ("C:/pics/x.jpg", "pics/x.jpg"),
        ("a//./b.jpg", "a/b.jpg"),
        ("quote\"\n'ünïcode ☃.jpg", "quote\"\n'ünïcode ☃.jpg"),
        ("..", "unnamed"),
        ("caf\udce9.jpg", "caf\ufffd.jpg"),
        ("x" * 300 + ".jpeg", "x" * 215 + ".jpeg"),
    ],
)
def test_safe(name: str, made: str) -> None:
    assert to_safe_name(name) == made


@given(st.lists(st.sampled_from(["a.jpg", "../a.jpg", "a~2.jpg", "a~3.jpg", "b", "b~2"])))
def test_names_are_unique(names: list[str]) -> None:
    listing = ImageListing()
    for name in names:
        listing.add(name)
    assert len(set(listing.names)) == len(names)


def test_the_fingerprint_is_of_names_sizes_and_order() -> None:
    def fingerprint(*rows: tuple[str, int]) -> str:
        listing = ImageListing()
        for name, size in rows:
            listing.add(name, size)
        return listing.fingerprint

    same = fingerprint(("a", 1), ("b", 2))
    assert same == fingerprint(("a", 1), ("b", 2))
    others = [(("a", 1),), (("a", 1), ("b", 3)), (("b", 2), ("a", 1)), (("a", 1), ("c", 2))]
    assert len({same, *(fingerprint(*rows) for rows in others)}) == 5


@pytest.mark.parametrize(
    ("name", "picture"),
    [
        ("a.JPG", True),
        ("d/a.webp", True),
        ("../a.jpg", True),
        ("./a.jpg", True),
        (".jpg", False),
        ("d/.a.jpg", False),
        (".d/a.jpg", False),
        ("__MACOSX/d/._a.jpg", False),
        ("a.jpg/b", False),
        ("a.txt", False),
        ("jpg", False),
    ],
)
def test_what_a_picture_is_called(name: str, picture: bool) -> None:
    assert is_image_name(name) == picture


def test_errors_go_from_process_to_process() -> None:
    error = pickle.loads(pickle.dumps(SourceImageError("gone", SourceImageFault.MISSING)))
    assert (str(error), error.fault) == ("gone", SourceImageFault.MISSING)
