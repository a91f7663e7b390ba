"""Paths and URLs outside of the allowed locations, in all spellings."""

from pathlib import Path

import pytest

from server.jobs.sources import permissions


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        *((f"s3://bucket/own{rest}", True) for rest in ("", "/", "/a.jpg", "/b/c.jpg", "//a.jpg", "/./a.jpg")),
        ("S3://bucket/own/a.jpg", True),
        ("https://images.example/a.jpg", True),
        ("https://images.example/a.jpg?size=1", True),
        ("s3://bucket/owner/a.jpg", False),
        ("s3://bucket/a.jpg", False),
        ("s3://other/own/a.jpg", False),
        ("s3://bucket/own/../a.jpg", False),
        ("s3://bucket/own/%2e%2e/a.jpg", False),
        ("s3://bucket/own/%252e%252e/a.jpg", False),
        ("s3://bucket/own\\..\\a.jpg", False),
        ("http://images.example/a.jpg", False),
        ("https://images.example:8080/a.jpg", False),
        ("https://user@images.example/a.jpg", False),
        ("https://images.example@evil.example/a.jpg", False),
        ("https://images.example.evil.example/a.jpg", False),
        ("https://images.example/a.zip::file:///etc/passwd", False),
        ("file:///etc/passwd", False),
        ("memory://bucket/own/a.jpg", False),
        ("https://[::1/a.jpg", False),
        ("https://images.example\n/a.jpg", False),
        ("https://images.example/.\t./a.jpg", False),
        ("https://images.example#@evil.example/a.jpg", True),  # a fragment: it requests images.example
        ("https://images.example?@evil.example/a.jpg", True),
        ("https://images.example/a.jpg#/../../b", True),
        ("zip://a.jpg::https://images.example/a.zip", False),
        ("local:///etc/passwd", False),
        ("http://[2001:db8::1]:80/own/a.jpg", True),
        ("http://[2001:db8::2]:80/own/a.jpg", False),
        ("http://[2001:db8::1]:80/own/a.zip::file:///etc/passwd", False),
    ],
)
def test_urls_below_an_allowed_location(url: str, expected: bool) -> None:
    is_allowed = permissions.allow_within(["s3://bucket/own", "https://images.example/", "http://[2001:db8::1]:80/own"])
    assert is_allowed(url) is expected


def test_paths_below_an_allowed_location(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "own" / "out").symlink_to(tmp_path / "other")
    (tmp_path / "alias").symlink_to(tmp_path / "own")
    is_allowed = permissions.allow_within([str(tmp_path / "alias")])
    assert is_allowed(str(tmp_path / "own"))
    assert is_allowed(str(tmp_path / "own" / "a.jpg"))
    assert is_allowed(str(tmp_path / "alias" / "a.jpg"))
    assert not is_allowed(str(tmp_path))
    assert not is_allowed(str(tmp_path / "own" / ".." / "other"))
    assert not is_allowed(str(tmp_path / "own" / "out" / "a.jpg"))
    assert not is_allowed(str(tmp_path / "owner"))
    assert not is_allowed("a\0b")
    assert not permissions.allow_within([])(str(tmp_path))


@pytest.mark.parametrize("location", ["images", "s3://", "file:///data", "https:///x", "s3://bucket/../other"])
def test_invalid_locations_are_rejected(location: str) -> None:
    with pytest.raises(ValueError, match="such as"):
        permissions.validate_location(location)


@pytest.mark.parametrize("location", ["/data", "/data/a b", "s3://bucket", "https://images.example/a"])
def test_valid_locations_are_accepted(location: str) -> None:
    permissions.validate_location(location)
