"""Names of images."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.jobs.sources.names import is_image_name, to_safe_name


@given(
    st.text() | st.lists(st.sampled_from(["..", ".", "", "a", "C:", "\0", "\udce9", "x" * 300, "é.jpg"])).map("/".join)
)
def test_safe_names_stay_inside_any_folder(name: str) -> None:
    safe = to_safe_name(name)
    assert safe
    assert len(safe.encode()) <= 1024
    assert not safe.startswith("/")
    assert "\0" not in safe
    assert all(part not in ("", ".", "..") and len(part.encode()) <= 255 for part in safe.split("/"))
    assert to_safe_name(safe) == safe or safe.split("/")[0][1:2] == ":"


@pytest.mark.parametrize(
    ("name", "safe"),
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
def test_unsafe_parts_of_a_name_are_replaced(name: str, safe: str) -> None:
    assert to_safe_name(name) == safe


@pytest.mark.parametrize(
    ("name", "expected"),
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
def test_images_have_a_known_suffix_and_no_hidden_part(name: str, expected: bool) -> None:
    assert is_image_name(name) == expected
