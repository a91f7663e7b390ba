"""Suffixes of files."""

import pytest

from labels.image_suffixes import OTHER_FILE_SUFFIXES, SUFFIXES, UNREADABLE_SUFFIXES, is_image_suffix


def test_a_suffix_is_in_one_list() -> None:
    lists = (SUFFIXES, UNREADABLE_SUFFIXES, OTHER_FILE_SUFFIXES)
    assert len({suffix for each in lists for suffix in each}) == sum(map(len, lists))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.JFIF", True),
        ("a.mpo", True),
        ("a.dng", True),
        ("a.txt", False),
        ("a", None),
        ("a.b/c", None),
        (".jpg", None),
    ],
)
def test_suffixes_tell_images_from_other_files(name: str, expected: bool | None) -> None:
    assert is_image_suffix(name) is expected
