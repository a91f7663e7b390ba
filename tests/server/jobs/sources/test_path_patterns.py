"""Glob patterns of paths."""

import time

import pytest

from server.jobs.sources.path_patterns import PathPattern, is_pattern


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("*.jpg", ["a.jpg", ".jpg"], ["a/b.jpg", "a.jpg.txt", "ajpg"]),
        ("**/*.jpg", ["a.jpg", "a/b.jpg", "a/b/c.jpg"], ["a/b.png"]),
        ("a/**/b/*", ["a/b/c", "a/x/b/c", "a/b/b/b/c"], ["b/c", "a/b", "a/c/d"]),
        ("**/**/a", ["a", "b/a", "b/c/a"], ["a/b"]),
        ("a/**", ["a/b", "a/b/c"], ["b/a"]),
        ("[ab]?.*", ["ax.jpg", "b1.png"], ["c1.jpg", "a.jpg"]),
        ("[!a]", ["b"], ["a", "bb"]),
        ("a+(b).j", ["a+(b).j"], ["aab.j"]),
    ],
)
def test_patterns(pattern: str, matching: list[str], others: list[str]) -> None:
    compiled = PathPattern(pattern.split("/"))
    assert [path for path in matching + others if compiled.match(path)] == matching


def test_the_depth_is_the_number_of_parts() -> None:
    assert PathPattern(["*", "a"]).depth == 2
    assert PathPattern(["**", "a"]).depth is None


@pytest.mark.parametrize("parts", [["**x"], ["a"] * 101, ["a" * 1025]])
def test_invalid_patterns(parts: list[str]) -> None:
    with pytest.raises(ValueError, match=r"it has more than|whole part"):
        PathPattern(parts)


@pytest.mark.parametrize("pattern", ["*a" * 500 + "b", "/".join(["**", "*a*"] * 50), "?*" * 500])
def test_no_pattern_takes_long(pattern: str) -> None:
    """A library's expressions need more than the age of the universe for these."""
    compiled = PathPattern(pattern.split("/"))
    start = time.process_time()
    compiled.match("/".join(["a" * 250] * 20))
    assert time.process_time() - start < 5


def test_what_a_pattern_is() -> None:
    assert [text for text in ("a", "a*", "a?", "[a]", "a/b") if is_pattern(text)] == ["a*", "a?", "[a]"]
