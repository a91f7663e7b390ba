"""What an operator did not list is not read, however it is spelt."""

from pathlib import Path

import pytest

from server.jobs.sources import permissions


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        *((f"s3://bucket/own{rest}", True) for rest in ("", "/", "/a.jpg", "/b/c.jpg", "//a.jpg", "/./a.jpg")),
        ("S3://bucket/own/a.jpg", True),
        ("https://pictures.example/a.jpg", True),
        ("https://pictures.example/a.jpg?size=1", True),
        ("s3://bucket/owner/a.jpg", False),
        ("s3://bucket/a.jpg", False),
        ("s3://other/own/a.jpg", False),
        ("s3://bucket/own/../a.jpg", False),
        ("s3://bucket/own/%2e%2e/a.jpg", False),
        ("s3://bucket/own/%252e%252e/a.jpg", False),
        ("s3://bucket/own\\..\\a.jpg", False),
        ("http://pictures.example/a.jpg", False),
        ("https://pictures.example:8080/a.jpg", False),
        ("https://user@pictures.example/a.jpg", False),
        ("https://pictures.example@evil.example/a.jpg", False),
        ("https://pictures.example.evil.example/a.jpg", False),
        ("https://pictures.example/a.zip::file:///etc/passwd", False),
        ("file:///etc/passwd", False),
        ("memory://bucket/own/a.jpg", False),
        ("https://[::1/a.jpg", False),
    ],
)
def test_urls(url: str, expected: bool) -> None:
    allowed = permissions.allow_within(["s3://bucket/own", "https://pictures.example/"])
    assert allowed(url) is expected


def test_paths(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "own" / "out").symlink_to(tmp_path / "other")
    (tmp_path / "alias").symlink_to(tmp_path / "own")
    allowed = permissions.allow_within([str(tmp_path / "alias")])
    assert allowed(str(tmp_path / "own"))
    assert allowed(str(tmp_path / "own" / "a.jpg"))
    assert allowed(str(tmp_path / "alias" / "a.jpg"))
    assert not allowed(str(tmp_path))
    assert not allowed(str(tmp_path / "own" / ".." / "other"))
    assert not allowed(str(tmp_path / "own" / "out" / "a.jpg"))
    assert not allowed(str(tmp_path / "owner"))
    assert not allowed("a\0b")
    assert not permissions.allow_within([])(str(tmp_path))


@pytest.mark.parametrize("place", ["pictures", "s3://", "file:///data", "https:///x", "s3://bucket/../other"])
def test_places_that_are_none(place: str) -> None:
    with pytest.raises(ValueError, match="such as"):
        permissions.validate_location(place)


@pytest.mark.parametrize("place", ["/data", "/data/a b", "s3://bucket", "https://pictures.example/a"])
def test_places(place: str) -> None:
    permissions.validate_location(place)
